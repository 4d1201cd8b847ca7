/* Printing results. See report.h. */
#include "perf/report.h"

#include <stdio.h>

static double
rate(uint64_t count, double seconds)
{
    return seconds > 0 ? (double)count / seconds : 0;
}

static double
ms(uint64_t nanoseconds)
{
    return (double)nanoseconds / 1e6;
}

void
report_progress(const struct options *options, double at_seconds, const struct totals *now,
                const struct totals *before, double seconds)
{
    if (options->quiet)
        return;
    /* With --json, standard output is for the one object. */
    FILE *out = options->json ? stderr : stdout;
    fprintf(out, "%7.1f s", at_seconds);
    if (options->producers)
        fprintf(out, "  published %10.0f/s", rate(now->published - before->published, seconds));
    if (options->confirm)
        fprintf(out, "  confirmed %10.0f/s", rate(now->confirmed - before->confirmed, seconds));
    if (options->consumers)
        fprintf(out, "  consumed %10.0f/s", rate(now->consumed - before->consumed, seconds));
    if (now->blocked_ns > before->blocked_ns)
        fprintf(out, "  blocked by the broker");
    fputc('\n', out);
    fflush(out);
}

static void
print_rate(const char *what, uint64_t count, double seconds, uint64_t size)
{
    double per_second = rate(count, seconds);
    printf("%-16s %12llu in %8.3f s  %12.0f/s  %10.1f MB/s\n", what, (unsigned long long)count,
           seconds, per_second, per_second * (double)size / 1e6);
}

static void
print_latency(const char *what, const struct histogram *h)
{
    if (h->count == 0)
        return;
    printf("%-16s p50 %.3f  p90 %.3f  p99 %.3f  p99.9 %.3f  max %.3f  mean %.3f ms\n", what,
           ms(histogram_quantile(h, 0.5)), ms(histogram_quantile(h, 0.9)),
           ms(histogram_quantile(h, 0.99)), ms(histogram_quantile(h, 0.999)), ms(h->max),
           (double)h->sum / (double)h->count / 1e6);
}

static void
print_text(const struct options *options, const struct result *result)
{
    const struct totals *counted = &result->counted;
    if (result->was_interrupted)
        printf("interrupted; until then:\n");
    if (options->producers)
        print_rate("published", counted->published, result->published_seconds, options->size);
    if (options->confirm)
        print_rate("confirmed", counted->confirmed, result->confirmed_seconds, options->size);
    if (options->consumers)
        print_rate("consumed", counted->consumed, result->consumed_seconds, options->size);
    print_latency("latency", &result->latency);
    print_latency("confirm latency", &result->confirm_latency);
    if (counted->nacked)
        printf("%-16s %12llu\n", "nacked", (unsigned long long)counted->nacked);
    if (counted->returned)
        printf("%-16s %12llu\n", "returned", (unsigned long long)counted->returned);
    if (counted->redelivered)
        printf("%-16s %12llu\n", "redelivered", (unsigned long long)counted->redelivered);
    if (counted->blocked_ns)
        printf("%-16s %12.3f s, summed over all producers\n", "blocked",
               (double)counted->blocked_ns / 1e9);
    if (result->knows_lost) {
        printf("%-16s %12llu%s\n", "lost", (unsigned long long)result->lost,
               result->is_verified ? "  (every message checked)" : "");
        if (result->surplus)
            printf("%-16s %12llu  (more consumed than published)\n", "surplus",
                   (unsigned long long)result->surplus);
    }
    if (result->publish_cpu_ns > 0)
        printf("%-16s %12.0f ns of processor time for each message published\n", "client",
               result->publish_cpu_ns);
    if (result->consume_cpu_ns > 0)
        printf("%-16s %12.0f ns of processor time for each message consumed\n", "client",
               result->consume_cpu_ns);
}

static void
json_latency(const char *name, const struct histogram *h)
{
    if (h->count == 0)
        return;
    printf(",\"%s\":{\"count\":%llu,\"min\":%.6f,\"mean\":%.6f,\"p50\":%.6f,\"p90\":%.6f,"
           "\"p99\":%.6f,\"p99.9\":%.6f,\"max\":%.6f}",
           name, (unsigned long long)h->count, ms(h->min), (double)h->sum / (double)h->count / 1e6,
           ms(histogram_quantile(h, 0.5)), ms(histogram_quantile(h, 0.9)),
           ms(histogram_quantile(h, 0.99)), ms(histogram_quantile(h, 0.999)), ms(h->max));
}

static void
print_json(const struct options *options, const struct result *result)
{
    const struct totals *counted = &result->counted;
    const struct {
        const char *name;
        uint64_t count;
        double seconds;
    } rates[] = {{"published", counted->published, result->published_seconds},
                 {"confirmed", counted->confirmed, result->confirmed_seconds},
                 {"consumed", counted->consumed, result->consumed_seconds}};
    printf("{\"size\":%llu", (unsigned long long)options->size);
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        printf(",\"%s\":%llu,\"%s_per_second\":%.1f", rates[i].name,
               (unsigned long long)rates[i].count, rates[i].name,
               rate(rates[i].count, rates[i].seconds));
    printf(",\"nacked\":%llu,\"returned\":%llu,\"redelivered\":%llu,\"blocked_seconds\":%.3f",
           (unsigned long long)counted->nacked, (unsigned long long)counted->returned,
           (unsigned long long)counted->redelivered, (double)counted->blocked_ns / 1e9);
    json_latency("latency_ms", &result->latency);
    json_latency("confirm_latency_ms", &result->confirm_latency);
    if (result->knows_lost)
        printf(",\"lost\":%llu,\"surplus\":%llu,\"verified\":%s", (unsigned long long)result->lost,
               (unsigned long long)result->surplus, result->is_verified ? "true" : "false");
    printf(",\"client_ns_per_publish\":%.1f,\"client_ns_per_consume\":%.1f,\"interrupted\":%s}\n",
           result->publish_cpu_ns, result->consume_cpu_ns,
           result->was_interrupted ? "true" : "false");
}

void
report_result(const struct options *options, const struct result *result)
{
    if (options->json)
        print_json(options, result);
    else
        print_text(options, result);
    fflush(stdout);
}
