/* What is in a log's directory, for people and for scripts. Changes nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "store/log_recover.h"

struct inspection {
    FILE *out;
    bool json;
    uint64_t notes;
};

/* A text as a JSON string. */
static void
put_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            fprintf(out, "\\%c", byte);
        else if (byte < 0x20 || byte >= 0x7f)
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

static const char *
state_name(const struct segment *segment)
{
    return segment->state == SEGMENT_SEALED ? "used" : "spare";
}

static void
put_segment(FILE *out, bool json, const struct segment *segment, bool is_first)
{
    const char *form =
        json ? "%s{\"file\": \"%06" PRIu32 ".segment\", \"state\": \"%s\", \"number\": %" PRIu64
               ", \"size\": %" PRIu32 ", \"end\": %" PRIu32 ", \"messages\": %" PRIu32
               ", \"live_messages\": %" PRIu32 ", \"live_bytes\": %" PRIu64 "}"
             : "%s%06" PRIu32 ".segment  %-5s  number %-8" PRIu64 " size %-10" PRIu32
               " end %-10" PRIu32 " messages %-8" PRIu32 " live %-8" PRIu32 " live bytes %" PRIu64
               "\n";
    const char *separator = json && !is_first ? ", " : "";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    fprintf(out, form, separator, segment->slot, state_name(segment), segment->number,
            segment->size, segment->end, segment->count, segment->live_count, segment->live_bytes);
#pragma GCC diagnostic pop
}

static void
put_all(struct log *log, FILE *out, bool json)
{
    struct log_statistics sum = {0};
    fputs(json ? "], \"segments\": [" : "", out);
    bool is_first = true;
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        const struct segment *segment = log->segments[slot];
        if (segment == NULL)
            continue;
        put_segment(out, json, segment, is_first);
        is_first = false;
        sum.segments++;
        sum.disk_bytes += segment->size;
        sum.live_bytes += segment->live_bytes;
        sum.live_messages += segment->live_count;
    }
    fprintf(out,
            json ? "], \"files\": %" PRIu64 ", \"disk_bytes\": %" PRIu64
                   ", \"live_messages\": %" PRIu64 ", \"live_bytes\": %" PRIu64 "}\n"
                 : "%" PRIu64 " files, %" PRIu64 " bytes on disk, %" PRIu64
                   " live messages, %" PRIu64 " live bytes\n",
            sum.segments, sum.disk_bytes, sum.live_messages, sum.live_bytes);
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
    const struct repair repair = {.note = note, .context = &inspection};
    fputs(json ? "{\"notes\": [" : "", out);
    int result = log_recover(log, NULL, RECOVER_LOOK, options->verify, &repair, error);
    if (result == 0) {
        put_all(log, out, json);
    } else if (json) {
        fputs("], \"error\": ", out);
        put_string(out, error);
        fputs("}\n", out);
    }
    log_free(log);
    if (result == 0 && ferror(out)) {
        snprintf(error, LOG_TEXT_SIZE, "writing the result failed");
        result = -EIO;
    }
    return result;
}
