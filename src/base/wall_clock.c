/* The wall clock's past: see the header. */
#include "base/wall_clock.h"

#include <stdbool.h>
#include <string.h>

/* By how much the clock may wander until that counts as having been set. */
enum { WANDERS_MS = 1000 };

void
wall_clock_note(struct wall_clock *clock, int64_t monotonic_ms, int64_t wall_ms)
{
    int64_t ahead_ms = wall_ms - monotonic_ms;

    if (clock->count > 0) {
        int64_t set_ms = ahead_ms - clock->steps[clock->count - 1].ahead_ms;
        if (set_ms < WANDERS_MS && set_ms > -WANDERS_MS)
            return;
    }
    if (clock->count == WALL_CLOCK_STEPS) /* the oldest is forgotten */
        memmove(clock->steps, clock->steps + 1, --clock->count * sizeof(*clock->steps));
    clock->steps[clock->count++] = (struct wall_clock_step){monotonic_ms, ahead_ms};
}

int64_t
wall_clock_monotonic(const struct wall_clock *clock, int64_t wall_ms, int64_t now_ms)
{
    int64_t until_ms = now_ms;

    for (uint32_t i = clock->count; i-- > 0;) {
        const struct wall_clock_step *step = &clock->steps[i];
        int64_t monotonic_ms = wall_ms - step->ahead_ms;
        bool is_since = i == 0 || monotonic_ms >= step->since_ms - WANDERS_MS;
        if (is_since && monotonic_ms <= until_ms + WANDERS_MS)
            return monotonic_ms < until_ms ? monotonic_ms : until_ms;
        until_ms = step->since_ms;
    }
    return now_ms;
}
