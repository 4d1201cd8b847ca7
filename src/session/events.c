/* Counting log lines about clients: see the header. */
#include "session/events.h"

enum { EVENTS_INTERVAL_MS = 1000 };

static const struct {
    const char *name;
    uint32_t burst;
} kinds[] = {
#define EVENT(kind_, name_, burst_) [EVENT_##kind_] = {.name = (name_), .burst = (burst_)},
#include "session/events.def"
#undef EVENT
};

static void
tell_suppressed(struct events *events)
{
    for (size_t i = 0; i < EVENT_KINDS; i++) {
        uint64_t count = log_rate_suppressed(&events->rates[i]);
        if (count > 0)
            log_warn("too many events to log them all", LOG_STR("kind", kinds[i].name),
                     LOG_UINT("suppressed", count));
    }
}

static void
on_timer(struct timer *timer, int64_t now_ms)
{
    (void)now_ms;
    tell_suppressed(CONTAINER_OF(timer, struct events, timer));
}

void
events_init(struct events *events, struct wheel *wheel)
{
    *events = (struct events){.wheel = wheel};
    timer_init(&events->timer, on_timer);
    for (size_t i = 0; i < EVENT_KINDS; i++)
        events->rates[i] = (struct log_rate)LOG_RATE(kinds[i].burst, EVENTS_INTERVAL_MS);
}

void
events_fini(struct events *events)
{
    wheel_cancel(events->wheel, &events->timer);
    tell_suppressed(events);
}

bool
events_allow(struct events *events, enum event_kind kind)
{
    int64_t now_ms = events->wheel->now_ms;
    if (log_rate_allows(&events->rates[kind], now_ms))
        return true;
    if (!timer_is_set(&events->timer))
        wheel_set(events->wheel, &events->timer, now_ms + EVENTS_INTERVAL_MS);
    return false;
}
