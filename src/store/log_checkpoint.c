/* Checkpoints: what recovery starts from, so that it need not read the whole log.
 *
 * A checkpoint lists the segments that hold live messages, with a bit for each record of each, and
 * names a position in the stream: all that was settled or delivered before it is reflected. So no
 * settle record before that position is needed any more, however old the message it speaks of, and
 * a segment that the checkpoint does not list can be used again at once. Records themselves are
 * not repeated: they are in the segments and, without bodies, in the summaries, which are written
 * once when a segment has been sealed.
 *
 *     magic, u32 version, u32 check of what follows
 *     u64 log id, next message id, next commit, next segment number
 *     u64 segment, u32 offset: the position; u32 how many segments
 *     each: u32 slot, u64 number, u32 end, records, live, bytes of bits, bytes of details; these
 *
 * The bits are run lengths (dead first) or plain, whichever is shorter. Details are for messages
 * that some but not all of their queues have settled, or that were delivered before. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "store/log_internal.h"

static const char checkpoint_magic[8] = "WHIPCKP";

enum {
    CHECKPOINT_VERSION = 8,
    CHECKPOINT_CHECK = 12,
    CHECKPOINT_LOG_ID = 16,
    CHECKPOINT_NEXT_ID = 24,
    CHECKPOINT_SEQUENCE = 32,
    CHECKPOINT_NUMBER = 40,
    CHECKPOINT_SEGMENT = 48,
    CHECKPOINT_OFFSET = 56,
    CHECKPOINT_COUNT = 60,
    CHECKPOINT_HEADER_SIZE = 64,
    SEGMENT_ENTRY_SIZE = 32,
    CHECKPOINT_SIZE_MAX = 1 << 30,
};

enum bits_form { BITS_RUNS, BITS_PLAIN };

struct output {
    char *bytes;
    size_t size, capacity;
};

static int
output_room(struct output *output, size_t more)
{
    if (output->capacity - output->size >= more)
        return 0;
    size_t capacity = output->capacity == 0 ? 4096 : output->capacity * 2;
    while (capacity - output->size < more)
        capacity *= 2;
    char *bytes = realloc(output->bytes, capacity);
    if (bytes == NULL)
        return -ENOMEM;
    output->bytes = bytes;
    output->capacity = capacity;
    return 0;
}

/* ---- writing ---- */

static int
put_plain(struct output *output, const struct segment *segment)
{
    size_t bytes = (segment->count + 7) / 8;
    if (output_room(output, 1 + bytes) != 0)
        return -ENOMEM;
    output->bytes[output->size++] = BITS_PLAIN;
    for (size_t i = 0; i < bytes; i++)
        output->bytes[output->size++] = (char)(segment->live[i / 8] >> (i % 8 * 8));
    return 0;
}

static int
put_bits(struct output *output, const struct segment *segment)
{
    size_t start = output->size;
    if (output_room(output, 1 + (segment->count + 7) / 8 + 2 * VARINT_MAX) != 0)
        return -ENOMEM;
    output->bytes[output->size++] = BITS_RUNS;
    uint32_t at = 0;
    bool is_live = false;
    while (at < segment->count) {
        uint32_t run = at;
        while (run < segment->count && segment_is_live(segment, run) == is_live)
            run++;
        if (output->size - start > segment->count / 8) {
            output->size = start;
            return put_plain(output, segment);
        }
        output->size = (size_t)(varint_put(output->bytes + output->size, run - at) - output->bytes);
        at = run;
        is_live = !is_live;
    }
    return 0;
}

/* A message whose state is more than a bit. */
struct detail_entry {
    uint32_t slot, ordinal;
    const struct log_detail *detail;
};

static int
compare_details(const void *a, const void *b)
{
    const struct detail_entry *x = a, *y = b;
    if (x->slot != y->slot)
        return x->slot < y->slot ? -1 : 1;
    return (x->ordinal > y->ordinal) - (x->ordinal < y->ordinal);
}

static bool
needs_words(const struct log_detail *detail)
{
    if (detail->live < detail->count)
        return true;
    for (uint32_t i = 0; i < detail->count; i++)
        if (detail->queues[i].delivery_count != 0)
            return true;
    return false;
}

static int
gather_details(struct log *log, struct detail_entry **entries, size_t *count)
{
    const struct id_table *table = &log->index.details;
    *count = 0;
    *entries = malloc((table->count + 1) * sizeof(**entries));
    if (*entries == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < table->capacity; i++) {
        const struct log_detail *detail = table->values[i];
        struct place place;
        if (detail == NULL || !needs_words(detail)
            || !log_index_peek(&log->index, table->keys[i], &place) || place.is_transient)
            continue;
        (*entries)[(*count)++] = (struct detail_entry){
            .slot = place.slot,
            .ordinal = place.ordinal,
            .detail = detail,
        };
    }
    qsort(*entries, *count, sizeof(**entries), compare_details);
    return 0;
}

static int
put_detail(struct output *output, const struct detail_entry *entry, uint32_t previous)
{
    const struct log_detail *detail = entry->detail;
    if (output_room(output, (2 + (size_t)detail->count) * VARINT_MAX) != 0)
        return -ENOMEM;
    char *at = output->bytes + output->size;
    at = varint_put(at, entry->ordinal - previous);
    at = varint_put(at, detail->count);
    for (uint32_t i = 0; i < detail->count; i++)
        at = varint_put(at, (uint64_t)detail->queues[i].delivery_count << 1
                                | (detail->queues[i].is_live ? 1 : 0));
    output->size = (size_t)(at - output->bytes);
    return 0;
}

static int
put_segment(struct output *output, const struct segment *segment,
            const struct detail_entry *details, size_t detail_count)
{
    if (output_room(output, SEGMENT_ENTRY_SIZE) != 0)
        return -ENOMEM;
    size_t entry = output->size;
    output->size += SEGMENT_ENTRY_SIZE;
    int error = put_bits(output, segment);
    size_t bits_end = output->size;
    uint32_t previous = 0;
    for (size_t i = 0; i < detail_count && error == 0; i++) {
        error = put_detail(output, &details[i], previous);
        previous = details[i].ordinal;
    }
    if (error != 0)
        return error;
    char *at = output->bytes + entry;
    put_u32(at, segment->slot);
    put_u64(at + 4, segment->number);
    put_u32(at + 12, segment->end);
    put_u32(at + 16, segment->count);
    put_u32(at + 20, segment->live_count);
    put_u32(at + 24, (uint32_t)(bits_end - entry - SEGMENT_ENTRY_SIZE));
    put_u32(at + 28, (uint32_t)(output->size - bits_end));
    return 0;
}

static int
put_segments(struct log *log, struct output *output, uint32_t *count)
{
    struct detail_entry *details;
    size_t detail_count;
    int error = gather_details(log, &details, &detail_count);
    size_t first = 0;
    for (uint32_t slot = 0; slot < log->segment_slots && error == 0; slot++) {
        size_t last = first;
        while (last < detail_count && details[last].slot == slot)
            last++;
        const struct segment *segment = log->segments[slot];
        if (segment != NULL && segment->state != SEGMENT_SPARE && segment->live_count > 0) {
            error = put_segment(output, segment, details + first, last - first);
            ++*count;
        }
        first = last;
    }
    free(details);
    return error;
}

static int
make_checkpoint(struct log *log, struct output *output)
{
    if (output_room(output, CHECKPOINT_HEADER_SIZE) != 0)
        return -ENOMEM;
    output->size = CHECKPOINT_HEADER_SIZE;
    uint32_t count = 0;
    int error = put_segments(log, output, &count);
    if (error != 0)
        return error;
    char *at = output->bytes;
    memcpy(at, checkpoint_magic, sizeof(checkpoint_magic));
    put_u32(at + CHECKPOINT_VERSION, LOG_FORMAT_VERSION);
    put_u64(at + CHECKPOINT_LOG_ID, log->log_id);
    put_u64(at + CHECKPOINT_NEXT_ID, atomic_load(&log->next_id));
    put_u64(at + CHECKPOINT_SEQUENCE, log->next_sequence);
    put_u64(at + CHECKPOINT_NUMBER, log->next_number);
    put_u64(at + CHECKPOINT_SEGMENT, log->durable.segment);
    put_u32(at + CHECKPOINT_OFFSET, log->durable.offset);
    put_u32(at + CHECKPOINT_COUNT, count);
    put_u32(at + CHECKPOINT_CHECK,
            crc32c(0, at + CHECKPOINT_LOG_ID, output->size - CHECKPOINT_LOG_ID));
    return 0;
}

static int
write_summary(struct log *log, struct segment *segment)
{
    char name[SEGMENT_NAME_MAX], path[PATH_ROOM], *data;
    size_t size;
    segment_summary_name(name, segment->number);
    log_path(log, path, name);
    int error = segment_summary_make(segment, log->log_id, &data, &size);
    if (error != 0)
        return error;
    int file = log->files->open(log->files->context, path, FILE_WRITE | FILE_CREATE | FILE_EMPTY);
    error = file < 0 ? file : 0;
    if (error == 0) {
        struct iovec piece = {.iov_base = data, .iov_len = size};
        error = file_write_all(log->files, file, &piece, 1, 0);
        if (error == 0)
            error = log->files->sync(log->files->context, file);
        int closed = log->files->close(log->files->context, file);
        if (error == 0)
            error = closed;
    }
    free(data);
    if (error == 0) {
        segment->has_summary = true;
        segment_summary_drop(segment);
    }
    return error;
}

static int
write_files(struct log *log)
{
    int error = 0;
    for (uint32_t slot = 0; slot < log->segment_slots && error == 0; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment != NULL && segment->state == SEGMENT_SEALED && segment->live_count > 0
            && !segment->has_summary)
            error = write_summary(log, segment);
    }
    struct output output = {0};
    if (error == 0)
        error = make_checkpoint(log, &output);
    if (error == 0) {
        char path[PATH_ROOM];
        log_path(log, path, "checkpoint");
        error = file_replace(log->files, log->directory, path, output.bytes, output.size);
    }
    free(output.bytes);
    return error;
}

/* The segments that the new checkpoint does not list are spares. */
static void
reclaim(struct log *log)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment == NULL || segment->state != SEGMENT_SEALED || segment->live_count > 0)
            continue;
        bool has_summary = segment->has_summary;
        uint64_t number = segment->number;
        pthread_mutex_lock(&log->index_mutex);
        bool is_free = segment->readers == 0;
        if (is_free) {
            if (segment->end > segment->size / 2) /* as good as written with zeros */
                segment->zeroed = segment->size;
            segment_clear(segment);
        }
        pthread_mutex_unlock(&log->index_mutex);
        if (is_free && log->victim == segment)
            log->victim = NULL;
        if (is_free && has_summary) {
            char name[SEGMENT_NAME_MAX], path[PATH_ROOM];
            segment_summary_name(name, number);
            log_path(log, path, name);
            /* One that stays is removed at the next start. */
            (void)log->files->remove(log->files->context, path);
        }
    }
}

static uint32_t
count_dead(struct log *log)
{
    uint32_t dead = 0;
    pthread_mutex_lock(&log->index_mutex);
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        const struct segment *segment = log->segments[slot];
        if (segment != NULL && segment->state == SEGMENT_SEALED && segment->live_count == 0
            && segment->readers == 0)
            dead++;
    }
    pthread_mutex_unlock(&log->index_mutex);
    return dead;
}

bool
log_checkpoint_is_due(struct log *log)
{
    if (log->is_checkpoint_blocked && log->counts.commits < log->space_retry_at)
        return false;
    if (log->sealed_since_checkpoint >= CHECKPOINT_AFTER_SEGMENTS)
        return true;
    uint32_t dead = count_dead(log);
    /* Each dead one counts while spares are few, or the disk is low on space. */
    bool is_scarce = log_spares(log) < log->spares_wanted
                     || atomic_load_explicit(&log->is_disk_low, memory_order_relaxed);
    return dead >= CHECKPOINT_AFTER_SEGMENTS || (dead > 0 && is_scarce);
}

int
log_checkpoint(struct log *log)
{
    int error = log_sync_all(log);
    if (error != 0)
        return error;
    error = write_files(log);
    while ((error == -ENOSPC || error == -EDQUOT) && log_drop_spare(log))
        error = write_files(log);
    if (error == -ENOSPC || error == -EDQUOT) {
        log->is_checkpoint_blocked = true;
        log->space_retry_at = log->counts.commits + SPACE_RETRY_COMMITS;
        return 0;
    }
    if (error != 0)
        return log_fail(log, error, "writing the checkpoint in", log->directory);
    log->is_checkpoint_blocked = log->is_space_blocked = false; /* it may have made room */
    log->sealed_since_checkpoint = 0;
    log->counts.checkpoints++;
    reclaim(log);
    return 0;
}

/* ---- reading ---- */

static int
read_segments(struct checkpoint *checkpoint, size_t size)
{
    struct record_reader reader = {
        .at = checkpoint->data + CHECKPOINT_HEADER_SIZE,
        .end = checkpoint->data + size,
    };
    if (checkpoint->segment_count > size / SEGMENT_ENTRY_SIZE)
        return -EBADMSG;
    checkpoint->segments = calloc(checkpoint->segment_count + 1, sizeof(*checkpoint->segments));
    if (checkpoint->segments == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < checkpoint->segment_count; i++) {
        const char *at = read_bytes(&reader, SEGMENT_ENTRY_SIZE);
        if (at == NULL)
            return -EBADMSG;
        struct checkpoint_segment *segment = &checkpoint->segments[i];
        *segment = (struct checkpoint_segment){
            .slot = get_u32(at),
            .number = get_u64(at + 4),
            .end = get_u32(at + 12),
            .count = get_u32(at + 16),
            .live_count = get_u32(at + 20),
            .live_size = get_u32(at + 24),
            .details_size = get_u32(at + 28),
        };
        segment->live = read_bytes(&reader, segment->live_size);
        segment->details = read_bytes(&reader, segment->details_size);
        if (reader.is_bad || segment->number == 0 || segment->live_size == 0)
            return -EBADMSG;
    }
    return reader.at == reader.end ? 0 : -EBADMSG;
}

int
checkpoint_load(const struct file_ops *files, const char *path, struct checkpoint *checkpoint)
{
    *checkpoint = (struct checkpoint){0};
    size_t size;
    int error = file_load(files, path, CHECKPOINT_SIZE_MAX, &checkpoint->data, &size);
    if (error != 0)
        return error;
    const char *at = checkpoint->data;
    if (size < CHECKPOINT_HEADER_SIZE
        || memcmp(at, checkpoint_magic, sizeof(checkpoint_magic)) != 0)
        error = -EBADMSG;
    else if (get_u32(at + CHECKPOINT_VERSION) > LOG_FORMAT_VERSION)
        error = -ENOTSUP;
    else if (get_u32(at + CHECKPOINT_VERSION) == 0
             || get_u32(at + CHECKPOINT_CHECK)
                    != crc32c(0, at + CHECKPOINT_LOG_ID, size - CHECKPOINT_LOG_ID))
        error = -EBADMSG;
    if (error == 0) {
        checkpoint->log_id = get_u64(at + CHECKPOINT_LOG_ID);
        checkpoint->next_id = get_u64(at + CHECKPOINT_NEXT_ID);
        checkpoint->next_sequence = get_u64(at + CHECKPOINT_SEQUENCE);
        checkpoint->next_number = get_u64(at + CHECKPOINT_NUMBER);
        checkpoint->position.segment = get_u64(at + CHECKPOINT_SEGMENT);
        checkpoint->position.offset = get_u32(at + CHECKPOINT_OFFSET);
        checkpoint->segment_count = get_u32(at + CHECKPOINT_COUNT);
        error = read_segments(checkpoint, size);
    }
    if (error != 0)
        checkpoint_fini(checkpoint);
    return error;
}

void
checkpoint_fini(struct checkpoint *checkpoint)
{
    free(checkpoint->data);
    free(checkpoint->segments);
    *checkpoint = (struct checkpoint){0};
}

int
checkpoint_bits(const struct checkpoint_segment *segment, uint64_t *words)
{
    struct record_reader reader = {
        .at = segment->live + 1,
        .end = segment->live + segment->live_size,
    };
    memset(words, 0, ((size_t)segment->count + 63) / 64 * sizeof(*words));
    if (segment->live[0] == BITS_PLAIN) {
        size_t bytes = ((size_t)segment->count + 7) / 8;
        const char *bits = read_bytes(&reader, bytes);
        if (bits == NULL || reader.at != reader.end)
            return -EBADMSG;
        for (size_t i = 0; i < bytes; i++)
            words[i / 8] |= (uint64_t)(uint8_t)bits[i] << (i % 8 * 8);
        return 0;
    }
    uint32_t at = 0;
    for (bool is_live = false; reader.at < reader.end; is_live = !is_live) {
        uint32_t run = read_varint32(&reader);
        if (reader.is_bad || run > segment->count - at)
            return -EBADMSG;
        for (; run > 0; run--, at++)
            if (is_live)
                words[at / 64] |= (uint64_t)1 << (at % 64);
    }
    return segment->live[0] == BITS_RUNS && at == segment->count ? 0 : -EBADMSG;
}

int
checkpoint_details(const struct checkpoint_segment *segment, checkpoint_detail_visit *visit,
                   void *context)
{
    struct record_reader reader = {
        .at = segment->details,
        .end = segment->details + segment->details_size,
    };
    uint32_t ordinal = 0;
    while (reader.at < reader.end) {
        ordinal += read_varint32(&reader);
        uint32_t queues = read_varint32(&reader);
        for (uint32_t i = 0; i < queues; i++) {
            uint64_t state = read_varint(&reader);
            if (reader.is_bad || ordinal >= segment->count)
                return -EBADMSG;
            int result = visit(context, ordinal, i, (state & 1) != 0, (uint32_t)(state >> 1));
            if (result != 0)
                return result;
        }
    }
    return reader.is_bad ? -EBADMSG : 0;
}
