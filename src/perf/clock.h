/* The clock of all measurements: monotonic, the same in all threads and processes of a machine, so
 * that a time stamped into a message by one means something to the other. */
#ifndef PERF_CLOCK_H
#define PERF_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_SECOND UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

static inline uint64_t
clock_nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static inline uint64_t
clock_now(void)
{
    return clock_nanoseconds(CLOCK_MONOTONIC);
}

/* What the calling thread has used of a processor, in user and kernel mode. */
static inline uint64_t
clock_thread_cpu(void)
{
    return clock_nanoseconds(CLOCK_THREAD_CPUTIME_ID);
}

#endif
