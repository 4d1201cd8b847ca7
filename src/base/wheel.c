/* The timing wheel: see base/wheel.h.
 *
 * Invariant: a timer in slot s of level l has the digits of now above l, and s as digit l, in its
 * due time; s is greater than digit l of now, except that a slot which has begun (s equal to it)
 * may still be on its way down when its turn was cut short. So the first time at which something is
 * to be done is the smallest begin of an occupied slot, and each level's first is the lowest bit
 * set in its bitmap. */
#include "base/wheel.h"

#include <assert.h>

/* Marks a timer in the list of those that are due. */
enum { SLOT_DUE = UINT16_MAX };

/* Timers moved down a level are paid for at this rate, so that a slot with a million of them does
 * not make one turn long. */
enum { MOVES_PER_FIRE = 16 };

void
wheel_init(struct wheel *wheel, int64_t now_ms)
{
    assert(now_ms >= 0);
    wheel->now_ms = now_ms;
    wheel->count = 0;
    list_init(&wheel->due);
    for (int level = 0; level < WHEEL_LEVELS; level++) {
        wheel->occupied[level] = 0;
        for (int slot = 0; slot < WHEEL_SLOTS; slot++)
            list_init(&wheel->slots[level][slot]);
    }
}

void
timer_init(struct timer *timer, void (*fire)(struct timer *timer, int64_t now_ms))
{
    *timer = (struct timer){.fire = fire};
    list_init(&timer->link);
}

/* Puts a timer that is in no list where it belongs. */
static void
place(struct wheel *wheel, struct timer *timer)
{
    uint64_t differing = (uint64_t)timer->due_ms ^ (uint64_t)wheel->now_ms;
    unsigned level, slot;

    if (timer->due_ms <= wheel->now_ms) {
        timer->slot = SLOT_DUE;
        list_push_back(&wheel->due, &timer->link);
        return;
    }
    level = (63 - (unsigned)__builtin_clzll(differing)) / WHEEL_DIGIT_BITS;
    slot = (unsigned)((uint64_t)timer->due_ms >> (level * WHEEL_DIGIT_BITS)) % WHEEL_SLOTS;
    timer->slot = (uint16_t)(level * WHEEL_SLOTS + slot);
    list_push_back(&wheel->slots[level][slot], &timer->link);
    wheel->occupied[level] |= (uint64_t)1 << slot;
}

/* Takes a timer that is set out of its list. */
static void
unplace(struct wheel *wheel, struct timer *timer)
{
    unsigned level = timer->slot / WHEEL_SLOTS, slot = timer->slot % WHEEL_SLOTS;

    list_remove(&timer->link);
    if (timer->slot != SLOT_DUE && list_is_empty(&wheel->slots[level][slot]))
        wheel->occupied[level] &= ~((uint64_t)1 << slot);
}

void
wheel_cancel(struct wheel *wheel, struct timer *timer)
{
    if (!timer_is_set(timer))
        return;
    unplace(wheel, timer);
    wheel->count--;
}

void
wheel_set(struct wheel *wheel, struct timer *timer, int64_t due_ms)
{
    wheel_cancel(wheel, timer);
    timer->due_ms = due_ms;
    if (due_ms == INT64_MAX)
        return;
    place(wheel, timer);
    wheel->count++;
}

/* The occupied slot that begins first, and when. It is in the lowest occupied level, but for a slot
 * that has begun and is not empty yet; no two begin at the same time. false: there is none. */
static bool
find_first(const struct wheel *wheel, unsigned *first_level, unsigned *first_slot, int64_t *begin)
{
    bool found = false;

    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        unsigned shift = level * WHEEL_DIGIT_BITS;
        unsigned slot;
        uint64_t above, at;

        if (wheel->occupied[level] == 0)
            continue;
        slot = (unsigned)__builtin_ctzll(wheel->occupied[level]);
        above = shift + WHEEL_DIGIT_BITS < 64
                    ? (uint64_t)wheel->now_ms >> (shift + WHEEL_DIGIT_BITS)
                                                     << (shift + WHEEL_DIGIT_BITS)
                    : 0;
        at = above | (uint64_t)slot << shift;
        if (found && (int64_t)at >= *begin)
            continue;
        found = true;
        *first_level = level;
        *first_slot = slot;
        *begin = (int64_t)at;
    }
    return found;
}

/* Fires due timers while the budget lasts. */
static size_t
fire_due(struct wheel *wheel, int64_t now_ms, size_t budget)
{
    size_t fired = 0;

    while (fired < budget && !list_is_empty(&wheel->due)) {
        struct timer *timer = LIST_ENTRY(list_first(&wheel->due), struct timer, link);

        list_remove(&timer->link);
        wheel->count--;
        fired++;
        timer->fire(timer, now_ms);
    }
    return fired;
}

/* Moves the timers of a slot that begins now to where they belong now: down, or to the due ones.
 * At most `budget`; what is left stays in the slot. Returns how many were moved. */
static size_t
bring_down(struct wheel *wheel, unsigned level, unsigned slot, size_t budget)
{
    struct list *list = &wheel->slots[level][slot];
    size_t moved = 0;

    while (moved < budget && !list_is_empty(list)) {
        struct timer *timer = LIST_ENTRY(list_first(list), struct timer, link);

        unplace(wheel, timer);
        place(wheel, timer);
        moved++;
    }
    return moved;
}

size_t
wheel_advance(struct wheel *wheel, int64_t now_ms, size_t max_fired)
{
    size_t fired = 0;
    size_t moves = max_fired <= SIZE_MAX / MOVES_PER_FIRE ? max_fired * MOVES_PER_FIRE : SIZE_MAX;

    if (now_ms < wheel->now_ms)
        now_ms = wheel->now_ms;
    for (;;) {
        unsigned level, slot;
        int64_t begin;

        fired += fire_due(wheel, now_ms, max_fired - fired);
        if (fired == max_fired || moves == 0)
            return fired;
        if (!find_first(wheel, &level, &slot, &begin) || begin > now_ms) {
            wheel->now_ms = now_ms;
            return fired;
        }
        wheel->now_ms = begin;
        moves -= bring_down(wheel, level, slot, moves);
    }
}

int64_t
wheel_next_due(const struct wheel *wheel)
{
    unsigned level, slot;
    int64_t begin;

    if (!list_is_empty(&wheel->due))
        return wheel->now_ms;
    return find_first(wheel, &level, &slot, &begin) ? begin : INT64_MAX;
}
