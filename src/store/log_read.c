/* Reading one message back, from any thread.
 *
 * A message is looked up under the index lock, which also pins its segment: one with readers is not
 * used again. One that is not written yet is copied from the batch it waits in. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "store/log_internal.h"

int
log_read_record(struct log *log, const struct segment *segment, uint32_t offset, uint32_t size,
                char **record, struct record_header *header)
{
    *record = malloc(size);
    if (*record == NULL)
        return -ENOMEM;
    size_t got;
    int error = file_read_all(log->files, segment->file, *record, size, offset, &got);
    if (error == 0 && got < size)
        error = -EBADMSG;
    if (error == 0)
        error = record_open(*record, size, segment->salt, header);
    if (error == -ENODATA
        || (error == 0 && (header->type != RECORD_PUBLISH || header->length != size)))
        error = -EBADMSG;
    if (error != 0) {
        free(*record);
        *record = NULL;
    }
    return error;
}

/* Hands the payload over in the memory the record is in. */
static void
take_content(char *record, const struct record_publish *publish, struct log_content *content)
{
    *content = (struct log_content){.piece_count = publish->piece_count,
                                    .published_wall_ms = publish->published_wall_ms,
                                    .data = record};
    for (uint32_t i = 0; i < publish->piece_count; i++) {
        content->piece_sizes[i] = publish->piece_sizes[i];
        content->size += publish->piece_sizes[i];
    }
    memmove(record, publish->payload, content->size);
}

PRINTF_LIKE(2, 3) static void say(char error[LOG_TEXT_SIZE], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, LOG_TEXT_SIZE, format, arguments);
    va_end(arguments);
}

/* 1: found and read; 0: it is not on the disk; negative: an error. */
static int
read_from_segment(struct log *log, uint64_t id, struct log_content *content,
                  char error[LOG_TEXT_SIZE])
{
    struct place place;
    pthread_mutex_lock(&log->index_mutex);
    if (!log_index_peek(&log->index, id, &place) || place.is_pending) {
        pthread_mutex_unlock(&log->index_mutex);
        return 0;
    }
    struct segment *segment = log->segments[place.slot];
    struct segment_record where = segment->records[place.ordinal];
    segment->readers++;
    pthread_mutex_unlock(&log->index_mutex);

    char *record;
    struct record_header header;
    struct record_publish publish;
    int result = log_read_record(log, segment, where.offset, where.size, &record, &header);
    if (result == 0)
        result = record_publish_get(record, &header, &publish);
    if (result == 0 && publish.id != id)
        result = -EBADMSG;
    char name[SEGMENT_NAME_MAX];
    segment_name(name, segment->slot);
    pthread_mutex_lock(&log->index_mutex);
    segment->readers--;
    pthread_mutex_unlock(&log->index_mutex);
    if (result != 0) {
        free(record);
        say(error, "%s/%s, offset %" PRIu32 ": message %" PRIu64 " of %" PRIu32 " bytes: %s",
            log->directory, name, where.offset, id, where.size,
            result == -EBADMSG ? "damaged: its checksum does not match" : strerror(-result));
        return result;
    }
    take_content(record, &publish, content);
    return 1;
}

static const struct staged_publish *
find_staged(const struct batch *batch, uint64_t id)
{
    size_t low = 0, high = batch->publish_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (batch->publishes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < batch->publish_count && batch->publishes[low].id == id ? &batch->publishes[low]
                                                                        : NULL;
}

/* 1: copied out of the batch; 0: it is not in there; -ENOMEM. */
static int
read_from_batch(const struct batch *batch, uint64_t id, struct log_content *content)
{
    const struct staged_publish *staged = find_staged(batch, id);
    if (staged == NULL)
        return 0;
    const char *bytes = batch->bytes + staged->offset;
    struct record_header header = {
        .length = staged->length,
        .pieces = (uint8_t)bytes[10],
        .flags = (uint8_t)bytes[11],
        .count = get_u32(bytes + 12),
    };
    char *record = malloc(staged->length);
    struct record_publish publish;
    if (record == NULL)
        return -ENOMEM;
    memcpy(record + 4, bytes + 4, staged->length - 4); /* the check is being salted */
    int result = record_publish_get(record, &header, &publish);
    if (result != 0) {
        free(record);
        return result;
    }
    take_content(record, &publish, content);
    return 1;
}

/* The same for what waits to be written. */
static int
read_from_batches(struct log *log, uint64_t id, struct log_content *content)
{
    int result = 0;
    pthread_mutex_lock(&log->mutex);
    const struct batch *lists[] = {log->current, log->pending};
    for (size_t i = 0; i < 2 && result == 0; i++)
        for (const struct batch *batch = lists[i]; batch != NULL && result == 0;
             batch = batch->next)
            result = read_from_batch(batch, id, content);
    pthread_mutex_unlock(&log->mutex);
    return result;
}

int
log_read_staged(const struct log_writer *writer, uint64_t id, struct log_content *content)
{
    int result = writer->staged == NULL ? 0 : read_from_batch(writer->staged, id, content);
    return result > 0 ? 0 : result == 0 ? -ENOENT : result;
}

int
log_read(struct log *log, uint64_t id, struct log_content *content, char error[LOG_TEXT_SIZE])
{
    /* Between the two look-ups a message may pass from memory to disk: so the disk twice. */
    for (int attempt = 0; attempt < 2; attempt++) {
        int result = read_from_segment(log, id, content, error);
        if (result == 0)
            result = read_from_batches(log, id, content);
        if (result != 0)
            return result > 0 ? 0 : result;
    }
    say(error, "message %" PRIu64 " is not in the log", id);
    return -ENOENT;
}
