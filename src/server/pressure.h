/* Pressure: when publishers must wait, because memory, disk or the log's way to the disk is short.
 *
 * Any worker looks, at the end of its turn; what it finds is for all. Short of memory or disk,
 * clients are told (connection.blocked). When only the log is behind, for the blink of a sync,
 * their input just waits. */
#ifndef SERVER_PRESSURE_H
#define SERVER_PRESSURE_H

#include "session/session.h"

struct log;
struct shard;

enum {
    /* Bytes on their way to the disk: what it writes in so many milliseconds, since everybody who
     * waits for a confirm waits for them. But enough for a sync to be worth its while, and no more
     * than a good disk needs to be always busy. */
    PRESSURE_BACKLOG_MS = 200,
    PRESSURE_BACKLOG_MIN = 4 * 1024 * 1024,
    PRESSURE_BACKLOG_MAX = 64 * 1024 * 1024,
    /* Messages in queues, of all shards, that are kept in memory at most: enough to feed any
     * consumer while more is read. */
    PRESSURE_KEPT_MAX = 128 * 1024 * 1024,
    /* While there is pressure, it is looked at least so often, also if nothing happens. */
    PRESSURE_LOOK_MS = 250,
    /* The same for what waits because the log is busy: its disk shall not be idle for long. */
    PRESSURE_LOG_LOOK_MS = 10,
};

struct pressure {
    _Atomic uint32_t reasons;    /* enum session_pressure */
    _Atomic uint64_t memory_max; /* bytes held for clients */
    struct log *log;             /* NULL: nothing is kept */
};

/* memory_max 0: two fifths of what the machine has. */
void pressure_init(struct pressure *pressure, uint64_t memory_max);

/* The same, while it is in use. Any thread; what it means now is found by the next look. */
void pressure_set_memory(struct pressure *pressure, uint64_t memory_max);

/* Tells the shard, which is one of so many, beyond how many bytes of messages in its queues long
 * ones keep places only, and beyond how many all do, the messages being on disk: so early that
 * publishers need not wait for it. On its own thread, or before it starts; cheap. */
void pressure_share(const struct pressure *pressure, struct shard *shard, uint32_t shards);

/* Looks, and says in the log what has changed. Returns whether something has: then all workers are
 * to be woken. */
bool pressure_look(struct pressure *pressure);

/* Whether the log has so much to do, or the disk so little room, that messages on their way from
 * one queue to another are to wait: before publishers have to, so that these are not held up by
 * them. Any thread; cheap. */
bool pressure_is_log_busy(const struct pressure *pressure);

/* Whether the log knows of the disk what the last look did not. Any thread; cheap. */
bool pressure_is_stale(const struct pressure *pressure);

#endif
