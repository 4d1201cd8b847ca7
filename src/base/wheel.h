/* A hierarchical timing wheel: setting, moving and cancelling a timer costs a few instructions,
 * whatever their number; the tick is a millisecond.
 *
 * Each level has 64 slots, and a slot of one level spans all of the level below. A timer lies at
 * the level of the highest digit (base 64) in which its due time differs from now, and comes down
 * as that time draws near. There are as many levels as an int64_t has digits: no due time is too
 * far.
 *
 * The wheel reads no clock: time is what the caller says it is, in milliseconds of any origin (not
 * negative), and does not run backwards. Belongs to one thread. */
#ifndef BASE_WHEEL_H
#define BASE_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

enum {
    WHEEL_DIGIT_BITS = 6,
    WHEEL_SLOTS = 1 << WHEEL_DIGIT_BITS,
    WHEEL_LEVELS = 11, /* 66 bits */
};

/* Embedded in what it is for; found again with CONTAINER_OF. */
struct timer {
    struct list link;
    int64_t due_ms;
    uint16_t slot; /* where in the wheel, for cancelling */
    void (*fire)(struct timer *timer, int64_t now_ms);
};

struct wheel {
    int64_t now_ms;
    size_t count;    /* timers set */
    struct list due; /* their time has come */
    uint64_t occupied[WHEEL_LEVELS];
    struct list slots[WHEEL_LEVELS][WHEEL_SLOTS];
};

/* An empty wheel at this time. The wheel is some 11 KiB and must not be moved. */
void wheel_init(struct wheel *wheel, int64_t now_ms);

/* A timer that is not set. */
void timer_init(struct timer *timer, void (*fire)(struct timer *timer, int64_t now_ms));

/* Sets the timer, or sets it anew. One whose due time is past fires at the next wheel_advance. A
 * due time of INT64_MAX means never: the timer is cancelled. */
void wheel_set(struct wheel *wheel, struct timer *timer, int64_t due_ms);

/* The timer is not set afterwards; does nothing when it is not. Its memory may then be freed. */
void wheel_cancel(struct wheel *wheel, struct timer *timer);

static inline bool
timer_is_set(const struct timer *timer)
{
    return list_is_linked(&timer->link);
}

/* Moves time on and fires, in order of their due times, what has become due: at most max_fired, so
 * that one turn of the loop is bounded (what is left fires at the next call). A timer is not set
 * any more when its handler is called; handlers may set, cancel and free any timer, their own too.
 * Returns how many fired. */
size_t wheel_advance(struct wheel *wheel, int64_t now_ms, size_t max_fired);

/* When to call wheel_advance next: INT64_MAX when no timer is set; may be too early (something only
 * moves a level down then), never too late. */
int64_t wheel_next_due(const struct wheel *wheel);

#endif
