/* Adding up histograms and reading quantiles from them. See histogram.h. */
#include "perf/histogram.h"

void
histogram_add(struct histogram *total, const struct histogram *part)
{
    if (part->count == 0)
        return;
    if (total->count == 0 || part->min < total->min)
        total->min = part->min;
    if (part->max > total->max)
        total->max = part->max;
    total->count += part->count;
    total->sum += part->sum;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        total->buckets[i] += part->buckets[i];
}

/* The greatest value that falls into the bucket. */
static uint64_t
bucket_upper_edge(uint32_t bucket)
{
    if (bucket < 2 * HISTOGRAM_STEPS)
        return bucket;
    uint32_t shift = bucket / HISTOGRAM_STEPS - 1;
    uint64_t step = bucket - shift * HISTOGRAM_STEPS;
    return ((step + 1) << shift) - 1;
}

uint64_t
histogram_quantile(const struct histogram *histogram, double share)
{
    if (histogram->count == 0)
        return 0;
    /* Of n values, the quantile is the ceil(share * n)-th smallest. */
    double exact = share * (double)histogram->count;
    uint64_t rank = (uint64_t)exact;
    if ((double)rank < exact || rank == 0)
        rank++;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank) {
            uint64_t edge = bucket_upper_edge(i);
            return edge < histogram->max && i < HISTOGRAM_BUCKETS - 1 ? edge : histogram->max;
        }
    }
    return histogram->max;
}
