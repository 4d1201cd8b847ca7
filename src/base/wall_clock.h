/* How the wall clock went beside the monotonic one, so that what was noted by it can be understood
 * after it has been set. */
#ifndef BASE_WALL_CLOCK_H
#define BASE_WALL_CLOCK_H

#include <stdint.h>

/* Settings of the clock that are remembered. */
enum { WALL_CLOCK_STEPS = 16 };

struct wall_clock {
    uint32_t count;
    struct wall_clock_step {
        int64_t since_ms; /* monotonic */
        int64_t ahead_ms; /* of the monotonic clock */
    } steps[WALL_CLOCK_STEPS];
};

/* What both clocks say now. A zeroed struct is a clock of which nothing is known yet. */
void wall_clock_note(struct wall_clock *clock, int64_t monotonic_ms, int64_t wall_ms);

/* When the wall clock said that, by the monotonic clock, whose time is now_ms; before the first
 * note, and where it never did or several times, the most likely: the last time that it could have
 * been. As exact as a clock that is set by less than a second now and then. */
int64_t wall_clock_monotonic(const struct wall_clock *clock, int64_t wall_ms, int64_t now_ms);

#endif
