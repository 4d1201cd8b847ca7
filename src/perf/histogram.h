/* A log-linear histogram of times: every power of two is divided into 128 equal steps, so a value
 * is known to better than 1 % whether it is a microsecond or a minute, in 35 KiB, and recording is
 * a shift and an increment. */
#ifndef PERF_HISTOGRAM_H
#define PERF_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_STEP_BITS = 7,
    HISTOGRAM_STEPS = 1 << HISTOGRAM_STEP_BITS,
    HISTOGRAM_MAX_BITS = 42, /* 2^42 ns is 73 minutes; what is longer counts as that */
    HISTOGRAM_BUCKETS = (HISTOGRAM_MAX_BITS - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS,
};

struct histogram {
    uint64_t count, sum, min, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline uint32_t
histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (uint32_t)value;
    if (value >> HISTOGRAM_MAX_BITS)
        return HISTOGRAM_BUCKETS - 1;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - HISTOGRAM_STEP_BITS;
    /* The leading bit is worth one more group of steps, hence no subtraction. */
    return (uint32_t)(value >> shift) + shift * HISTOGRAM_STEPS;
}

/* Records n times the same value, in nanoseconds. */
static inline void
histogram_record(struct histogram *histogram, uint64_t value, uint64_t n)
{
    if (histogram->count == 0 || value < histogram->min)
        histogram->min = value;
    if (value > histogram->max)
        histogram->max = value;
    histogram->count += n;
    histogram->sum += value * n;
    histogram->buckets[histogram_bucket(value)] += n;
}

void histogram_add(struct histogram *total, const struct histogram *part);

/* The value that the given share (0 to 1) of all values does not exceed: the upper edge of its
 * bucket, never more than the greatest value seen. 0 when nothing was recorded. */
uint64_t histogram_quantile(const struct histogram *histogram, double share);

#endif
