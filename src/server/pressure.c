/* Pressure: see the header. */
#include "server/pressure.h"

#include "base/log.h"
#include "base/memory.h"
#include "broker/shard.h"
#include "store/log.h"

void
pressure_init(struct pressure *pressure, uint64_t memory_max)
{
    atomic_init(&pressure->reasons, 0);
    atomic_init(&pressure->memory_max, 0);
    pressure_set_memory(pressure, memory_max);
    pressure->log = NULL;
}

void
pressure_set_memory(struct pressure *pressure, uint64_t memory_max)
{
    atomic_store_explicit(&pressure->memory_max,
                          memory_max > 0 ? memory_max : memory_of_machine() / 5 * 2,
                          memory_order_relaxed);
}

static uint64_t
memory_max_of(const struct pressure *pressure)
{
    return atomic_load_explicit(&pressure->memory_max, memory_order_relaxed);
}

void
pressure_share(const struct pressure *pressure, struct shard *shard, uint32_t shards)
{
    uint64_t quarter = memory_max_of(pressure) / 4;
    uint64_t kept = 2 * quarter < PRESSURE_KEPT_MAX ? 2 * quarter : PRESSURE_KEPT_MAX;
    shard->memory_share = kept / shards;
    shard->memory_most = 3 * quarter / shards;
}

/* Is `now` above the limit? Once it was, it must come down by an eighth, so that publishers are not
 * stopped and started at every message. */
static bool
is_above(uint64_t now, uint64_t limit, bool was_above)
{
    return now > (was_above ? limit - limit / 8 : limit);
}

/* A disk that is not known yet is taken for a slow one until its first large commit. */
static uint64_t
backlog_max(const struct log *log)
{
    uint64_t most = log_rate(log) / 1000 * PRESSURE_BACKLOG_MS;
    if (most < PRESSURE_BACKLOG_MIN)
        return PRESSURE_BACKLOG_MIN;
    return most < PRESSURE_BACKLOG_MAX ? most : PRESSURE_BACKLOG_MAX;
}

static void
report(const struct pressure *pressure, uint32_t before, uint32_t after)
{
    if (((before ^ after) & PRESSURE_MEMORY) != 0)
        log_warn((after & PRESSURE_MEMORY) != 0 ? "memory is short: publishers wait"
                                                : "memory is no longer short",
                 LOG_UINT("held", memory_held()), LOG_UINT("limit", memory_max_of(pressure)));
    if (((before ^ after) & PRESSURE_DISK) != 0)
        log_warn((after & PRESSURE_DISK) != 0 ? "disk space is short: publishers wait"
                                              : "disk space is no longer short");
}

bool
pressure_look(struct pressure *pressure)
{
    uint32_t before = atomic_load_explicit(&pressure->reasons, memory_order_relaxed), after = 0;
    if (is_above(memory_held(), memory_max_of(pressure), (before & PRESSURE_MEMORY) != 0))
        after |= PRESSURE_MEMORY;
    if (pressure->log != NULL) {
        if (log_disk_low(pressure->log))
            after |= PRESSURE_DISK;
        if (is_above(log_backlog(pressure->log), backlog_max(pressure->log),
                     (before & PRESSURE_LOG) != 0))
            after |= PRESSURE_LOG;
    }
    if (after == before
        || !atomic_compare_exchange_strong_explicit(&pressure->reasons, &before, after,
                                                    memory_order_release, memory_order_relaxed))
        return false; /* nothing new, or another worker has just said it */
    report(pressure, before, after);
    return true;
}

bool
pressure_is_log_busy(const struct pressure *pressure)
{
    const struct log *log = pressure->log;
    return log != NULL && (log_disk_low(log) || log_backlog(log) > backlog_max(log) / 4);
}

bool
pressure_is_stale(const struct pressure *pressure)
{
    uint32_t reasons = atomic_load_explicit(&pressure->reasons, memory_order_acquire);
    return pressure->log != NULL && log_disk_low(pressure->log) != ((reasons & PRESSURE_DISK) != 0);
}
