/* What the log says about clients: who they are in each line, and not more lines than a disk has
 * room for, whatever they do. Belongs to the worker's thread. */
#ifndef SESSION_EVENTS_H
#define SESSION_EVENTS_H

#include "base/log.h"
#include "base/wheel.h"

#define EVENT(kind, ...) EVENT_##kind,
enum event_kind {
#include "session/events.def"
    EVENT_KINDS,
};
#undef EVENT

struct events {
    struct wheel *wheel;
    struct timer timer; /* while something is held back: when that is told */
    struct log_rate rates[EVENT_KINDS];
};

void events_init(struct events *events, struct wheel *wheel);

/* Tells what was held back. */
void events_fini(struct events *events);

/* May one more line of this kind be written? If not, it is counted. */
MUST_CHECK bool events_allow(struct events *events, enum event_kind kind);

/* One line about a client, if the level is on and there were not too many of its kind. */
#define EVENT_LOG(host, kind, level, event, ...)                                                   \
    do {                                                                                           \
        if (log_is_on(level) && events_allow(&(host)->events, (kind)))                             \
            LOG_EVENT(level, event, __VA_ARGS__);                                                  \
    } while (0)

/* Fields: which connection it is. Empty while it is not known. */
#define CONNECTION_WHO(connection)                                                                 \
    LOG_STR("peer", (connection)->peer), LOG_STR("user", (connection)->user),                      \
        LOG_SLICE("vhost", connection_vhost_name(connection))

/* Fields: what became of it since it was accepted. */
#define CONNECTION_LIFE(connection)                                                                \
    LOG_INT("duration_ms", (connection)->host->shard->now_ms - (connection)->accepted_ms),         \
        LOG_UINT("received_bytes", (connection)->received_bytes),                                  \
        LOG_UINT("sent_bytes", (connection)->sent_bytes)

#endif
