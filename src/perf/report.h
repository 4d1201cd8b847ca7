/* What a run says: a line every second, a summary at the end, for people or as JSON. */
#ifndef PERF_REPORT_H
#define PERF_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "perf/histogram.h"
#include "perf/options.h"

/* Sums over all clients at one moment. */
struct totals {
    uint64_t published, confirmed, nacked, returned, consumed, redelivered, blocked_ns;
};

struct result {
    struct totals counted;                                         /* within the measured time */
    double published_seconds, confirmed_seconds, consumed_seconds; /* that the counts took */
    struct histogram latency, confirm_latency;                     /* ns; empty if not asked for */
    double publish_cpu_ns, consume_cpu_ns; /* of the client, for each message; 0: not known */
    bool knows_lost;                       /* whether the next three mean something */
    uint64_t lost, surplus;
    bool is_verified; /* what arrived is exactly what was sent, by the sums of their numbers */
    bool was_interrupted;
};

/* What happened since the last line. */
void report_progress(const struct options *options, double at_seconds, const struct totals *now,
                     const struct totals *before, double seconds);

void report_result(const struct options *options, const struct result *result);

#endif
