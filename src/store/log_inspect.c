/* What is in a log's directory, for people and for scripts. Changes nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "amqp/wire.h"
#include "base/map.h"
#include "store/log_recover.h"

/* What is alive in one queue. */
struct queue_sum {
    uint64_t id, messages, bytes;
};

struct inspection {
    FILE *out;
    bool json;
    uint64_t notes;
    struct map queues; /* of struct queue_sum */
};

static struct slice
id_of_sum(const void *value)
{
    const struct queue_sum *sum = value;
    return (struct slice){(const char *)&sum->id, sizeof(sum->id)};
}

/* A text as a JSON string. One that is not UTF-8, as a name may be that was cut, is shown byte by
 * byte. */
static void
put_string(FILE *out, const char *text)
{
    bool is_utf8 = amqp_is_utf8((struct slice){text, strlen(text)});
    fputc('"', out);
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            fprintf(out, "\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !is_utf8))
            fprintf(out, "\\u%04x", byte);
        else
            fputc(byte, out);
    }
    fputc('"', out);
}

static void
note(void *context, const char *text)
{
    struct inspection *inspection = context;
    if (inspection->json) {
        if (inspection->notes > 0)
            fputs(", ", inspection->out);
        put_string(inspection->out, text);
    } else {
        fprintf(inspection->out, "note: %s\n", text);
    }
    inspection->notes++;
}

/* ---- queues ---- */

/* What is in queues that nobody knows any more is shown as well. */
static bool
queue_exists(void *context, uint64_t queue_id)
{
    (void)context;
    (void)queue_id;
    return true;
}

static int
count_in_queue(struct inspection *inspection, uint64_t queue_id, uint64_t bytes)
{
    struct slice key = {(const char *)&queue_id, sizeof(queue_id)};
    struct queue_sum *sum = map_find(&inspection->queues, key);
    if (sum == NULL) {
        sum = calloc(1, sizeof(*sum));
        if (sum == NULL)
            return -ENOMEM;
        sum->id = queue_id;
        if (map_insert(&inspection->queues, sum) != 0) {
            free(sum);
            return -ENOMEM;
        }
    }
    sum->messages++;
    sum->bytes += bytes;
    return 0;
}

static int
count_message(void *context, const struct log_message *message)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < message->piece_count; i++)
        bytes += message->piece_sizes[i];
    int error = 0;
    for (uint32_t i = 0; i < message->queue_count && error == 0; i++)
        error = count_in_queue(context, message->queues[i].queue_id, bytes);
    return error;
}

static int
compare_sums(const void *a, const void *b)
{
    const struct queue_sum *const *x = a, *const *y = b;
    return ((*x)->id > (*y)->id) - ((*x)->id < (*y)->id);
}

static void
put_queue(const struct log *log, const struct inspection *inspection, const struct queue_sum *sum)
{
    char name[LOG_QUEUE_NAME_SIZE];
    log_name_queue(log, sum->id, name);
    if (!inspection->json) {
        fprintf(inspection->out, "queue %s: %" PRIu64 " messages, %" PRIu64 " bytes\n", name,
                sum->messages, sum->bytes);
        return;
    }
    fprintf(inspection->out, "{\"id\": %" PRIu64 ", \"name\": ", sum->id);
    put_string(inspection->out, name);
    fprintf(inspection->out, ", \"messages\": %" PRIu64 ", \"bytes\": %" PRIu64 "}", sum->messages,
            sum->bytes);
}

/* In the order of their ids. */
static int
put_queues(const struct log *log, const struct inspection *inspection)
{
    size_t count = map_count(&inspection->queues), at = 0, n = 0;
    const struct queue_sum **sums = calloc(count + 1, sizeof(*sums));
    if (sums == NULL)
        return -ENOMEM;
    while (n < count && (sums[n] = map_next(&inspection->queues, &at)) != NULL)
        n++;
    qsort(sums, n, sizeof(*sums), compare_sums);
    for (size_t i = 0; i < n; i++) {
        if (inspection->json && i > 0)
            fputs(", ", inspection->out);
        put_queue(log, inspection, sums[i]);
    }
    free(sums);
    return 0;
}

static void
free_sums(struct inspection *inspection)
{
    struct queue_sum *sum;
    size_t at = 0;
    while ((sum = map_next(&inspection->queues, &at)) != NULL)
        free(sum);
    map_fini(&inspection->queues);
}

/* ---- segments ---- */

static void
put_segment(FILE *out, bool json, const struct segment *segment)
{
    bool is_used = segment->state == SEGMENT_SEALED;
    if (json) {
        fprintf(out,
                "{\"file\": \"%06" PRIu32 ".segment\", \"state\": \"%s\", \"number\": %" PRIu64
                ", \"size\": %" PRIu32 ", \"end\": %" PRIu32 ", \"messages\": %" PRIu32
                ", \"live_messages\": %" PRIu32 ", \"live_bytes\": %" PRIu64 "}",
                segment->slot, is_used ? "used" : "spare", segment->number, segment->size,
                segment->end, segment->count, segment->live_count, segment->live_bytes);
        return;
    }
    fprintf(out, "%06" PRIu32 ".segment  %-5s  %" PRIu32 " bytes", segment->slot,
            is_used ? "used" : "spare", segment->size);
    if (is_used)
        fprintf(out,
                ", number %" PRIu64 ", filled to %" PRIu32 ", live %" PRIu32 " of %" PRIu32
                " messages, %" PRIu64 " bytes",
                segment->number, segment->end, segment->live_count, segment->count,
                segment->live_bytes);
    fputc('\n', out);
}

static struct log_statistics
put_segments(const struct log *log, FILE *out, bool json)
{
    struct log_statistics sum = {0};
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        const struct segment *segment = log->segments[slot];
        if (segment == NULL)
            continue;
        if (json && sum.segments > 0)
            fputs(", ", out);
        put_segment(out, json, segment);
        sum.segments++;
        sum.disk_bytes += segment->size;
        sum.live_bytes += segment->live_bytes;
        sum.live_messages += segment->live_count;
    }
    return sum;
}

static int
put_all(const struct log *log, const struct inspection *inspection)
{
    FILE *out = inspection->out;
    fputs(inspection->json ? "], \"segments\": [" : "", out);
    struct log_statistics sum = put_segments(log, out, inspection->json);
    fputs(inspection->json ? "], \"queues\": [" : "", out);
    int error = put_queues(log, inspection);
    fprintf(out,
            inspection->json ? "], \"files\": %" PRIu64 ", \"disk_bytes\": %" PRIu64
                               ", \"live_messages\": %" PRIu64 ", \"live_bytes\": %" PRIu64 "}\n"
                             : "%" PRIu64 " files, %" PRIu64 " bytes on disk, %" PRIu64
                               " live messages, %" PRIu64 " live bytes\n",
            sum.segments, sum.disk_bytes, sum.live_messages, sum.live_bytes);
    return error;
}

int
log_inspect(const struct log_options *options, FILE *out, bool json, char error[LOG_TEXT_SIZE])
{
    struct log *log = log_make(options);
    if (log == NULL) {
        snprintf(error, LOG_TEXT_SIZE, "out of memory");
        return -ENOMEM;
    }
    struct inspection inspection = {.out = out, .json = json};
    map_init(&inspection.queues, id_of_sum);
    const struct repair repair = {.note = note, .context = &inspection};
    const struct log_recovery sink = {
        .context = &inspection, .queue_exists = queue_exists, .message = count_message};
    fputs(json ? "{\"notes\": [" : "", out);
    int result = log_recover(log, &sink, RECOVER_LOOK, options->verify, &repair, error);
    if (result == 0) {
        result = put_all(log, &inspection);
        if (result != 0)
            snprintf(error, LOG_TEXT_SIZE, "out of memory");
    } else if (json) {
        fputs("], \"error\": ", out);
        put_string(out, error);
        fputs("}\n", out);
    }
    free_sums(&inspection);
    log_free(log);
    if (result == 0 && ferror(out)) {
        snprintf(error, LOG_TEXT_SIZE, "writing the result failed");
        result = -EIO;
    }
    return result;
}
