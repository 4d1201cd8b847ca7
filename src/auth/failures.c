/* Failed logins by address: see the header. */
#include "auth/failures.h"

#include <string.h>

void
failures_init(struct failures *failures)
{
    memset(failures->records, 0, sizeof(failures->records));
    pthread_mutex_init(&failures->mutex, NULL);
}

void
failures_fini(struct failures *failures)
{
    pthread_mutex_destroy(&failures->mutex);
}

/* The record of the address, which may have to be made. */
static struct failure_record *
record_of(struct failures *failures, uint64_t address)
{
    struct failure_record *set = failures->records[address % FAILURES_SETS];
    struct failure_record *oldest = &set[0];
    for (int i = 0; i < FAILURES_WAYS; i++) {
        if (set[i].address == address)
            return &set[i];
        if (oldest->address != 0 && (set[i].address == 0 || set[i].last_ms < oldest->last_ms))
            oldest = &set[i];
    }
    *oldest = (struct failure_record){.address = address};
    return oldest;
}

/* 1 s after the free ones, then twice as long each time. */
static uint32_t
delay_of(uint32_t count)
{
    uint32_t delay_ms = 1000;
    if (count <= FAILURES_FREE)
        return 0;
    for (uint32_t i = FAILURES_FREE + 1; i < count && delay_ms < FAILURES_DELAY_MAX_MS; i++)
        delay_ms *= 2;
    return delay_ms < FAILURES_DELAY_MAX_MS ? delay_ms : FAILURES_DELAY_MAX_MS;
}

uint32_t
failures_add(struct failures *failures, uint64_t address, int64_t now_ms, uint32_t *count)
{
    if (address == 0)
        address = 1; /* 0 marks what is free */
    pthread_mutex_lock(&failures->mutex);
    struct failure_record *record = record_of(failures, address);
    if (now_ms - record->last_ms > FAILURES_MEMORY_MS)
        record->count = 0;
    if (record->count < UINT32_MAX)
        record->count++;
    record->last_ms = now_ms;
    *count = record->count;
    pthread_mutex_unlock(&failures->mutex);
    return delay_of(*count);
}
