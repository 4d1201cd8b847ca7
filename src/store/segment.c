/* Segments in memory, and the header of their files. */
#include "store/segment.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"

static const char header_magic[8] = "WHIPLOG";

/* Offsets in the header block; the check covers what follows it, up to HEADER_USED. */
enum {
    HEADER_VERSION = 8,
    HEADER_CHECK = 12,
    HEADER_NUMBER = 16,
    HEADER_LOG_ID = 24,
    HEADER_SIZE_FIELD = 32,
    HEADER_USED = 64,
};

struct segment *
segment_new(uint32_t slot)
{
    struct segment *segment = calloc(1, sizeof(*segment));
    if (segment != NULL) {
        segment->slot = slot;
        segment->file = -1;
    }
    return segment;
}

void
segment_summary_drop(struct segment *segment)
{
    free(segment->summary);
    segment->summary = NULL;
    segment->summary_size = segment->summary_capacity = 0;
}

void
segment_clear(struct segment *segment)
{
    free(segment->records);
    free(segment->live);
    segment_summary_drop(segment);
    *segment = (struct segment){
        .slot = segment->slot,
        .file = segment->file,
        .state = SEGMENT_SPARE,
        .size = segment->size,
        .zeroed = segment->zeroed,
    };
}

void
segment_free(const struct file_ops *files, struct segment *segment)
{
    if (segment == NULL)
        return;
    segment_clear(segment);
    if (segment->file >= 0)
        (void)files->close(files->context, segment->file);
    free(segment);
}

void
segment_start(struct segment *segment, uint64_t number, uint64_t log_id)
{
    segment_clear(segment);
    segment->state = SEGMENT_OPEN;
    segment->number = number;
    segment->salt = record_salt(number, log_id);
    segment->end = segment->last_end = SEGMENT_HEADER_SIZE;
}

void
segment_name(char name[SEGMENT_NAME_MAX], uint32_t slot)
{
    snprintf(name, SEGMENT_NAME_MAX, "%06" PRIu32 ".segment", slot);
}

void
segment_summary_name(char name[SEGMENT_NAME_MAX], uint64_t number)
{
    snprintf(name, SEGMENT_NAME_MAX, "%016" PRIx64 ".summary", number);
}

void
segment_header_put(char block[SEGMENT_HEADER_SIZE], const struct segment_header *header)
{
    memset(block, 0, SEGMENT_HEADER_SIZE);
    memcpy(block, header_magic, sizeof(header_magic));
    put_u32(block + HEADER_VERSION, LOG_FORMAT_VERSION);
    put_u64(block + HEADER_NUMBER, header->number);
    put_u64(block + HEADER_LOG_ID, header->log_id);
    put_u32(block + HEADER_SIZE_FIELD, header->size);
    put_u32(block + HEADER_CHECK, crc32c(0, block + HEADER_NUMBER, HEADER_USED - HEADER_NUMBER));
}

int
segment_header_get(const char *block, size_t size, struct segment_header *header)
{
    *header = (struct segment_header){0};
    size_t zeros = 0;
    while (zeros < size && zeros < HEADER_USED && block[zeros] == 0)
        zeros++;
    if (zeros == size || zeros == HEADER_USED)
        return -ENODATA;
    if (size < HEADER_USED || memcmp(block, header_magic, sizeof(header_magic)) != 0)
        return -EBADMSG;
    uint32_t version = get_u32(block + HEADER_VERSION);
    if (version > LOG_FORMAT_VERSION)
        return -ENOTSUP;
    uint32_t check = crc32c(0, block + HEADER_NUMBER, HEADER_USED - HEADER_NUMBER);
    if (version == 0 || get_u32(block + HEADER_CHECK) != check)
        return -EBADMSG;
    header->number = get_u64(block + HEADER_NUMBER);
    header->log_id = get_u64(block + HEADER_LOG_ID);
    header->size = get_u32(block + HEADER_SIZE_FIELD);
    return 0;
}

static int
grow_records(struct segment *segment)
{
    uint32_t capacity = segment->capacity == 0 ? 256 : segment->capacity * 2;
    struct segment_record *records = realloc(segment->records, (size_t)capacity * sizeof(*records));
    if (records == NULL)
        return -ENOMEM;
    segment->records = records;
    uint64_t *live = realloc(segment->live, capacity / 64 * sizeof(*live));
    if (live == NULL)
        return -ENOMEM;
    memset(live + segment->capacity / 64, 0, (capacity - segment->capacity) / 64 * sizeof(*live));
    segment->live = live;
    segment->capacity = capacity;
    return 0;
}

static int summary_add(struct segment *segment, const struct record_publish *publish,
                       uint32_t offset, uint32_t size);

int
segment_note(struct segment *segment, const struct record_publish *publish, uint32_t offset,
             uint32_t size, bool is_live, uint32_t *ordinal)
{
    if (segment->count == segment->capacity && grow_records(segment) != 0)
        return -ENOMEM;
    if (!segment->has_summary && summary_add(segment, publish, offset, size) != 0)
        return -ENOMEM;
    *ordinal = segment->count++;
    segment->records[*ordinal] = (struct segment_record){.offset = offset, .size = size};
    if (is_live) {
        segment->live[*ordinal / 64] |= (uint64_t)1 << (*ordinal % 64);
        segment->live_count++;
        segment->live_bytes += size;
    }
    return 0;
}

void
segment_kill(struct segment *segment, uint32_t ordinal)
{
    assert(ordinal < segment->count && segment_is_live(segment, ordinal));
    segment->live[ordinal / 64] &= ~((uint64_t)1 << (ordinal % 64));
    segment->live_count--;
    segment->live_bytes -= segment->records[ordinal].size;
}

uint32_t
segment_next_live(const struct segment *segment, uint32_t ordinal)
{
    while (ordinal < segment->count) {
        uint64_t word = segment->live[ordinal / 64] >> (ordinal % 64);
        if (word != 0) {
            ordinal += (uint32_t)__builtin_ctzll(word);
            break;
        }
        ordinal = (ordinal / 64 + 1) * 64;
    }
    return ordinal < segment->count ? ordinal : segment->count;
}

/* ---- summaries ---- */

static const char summary_magic[8] = "WHIPSUM";

enum {
    SUMMARY_VERSION = 8,
    SUMMARY_CHECK = 12,
    SUMMARY_NUMBER = 16,
    SUMMARY_LOG_ID = 24,
    SUMMARY_END = 32,
    SUMMARY_COUNT = 36,
    SUMMARY_HEADER_SIZE = 40,
};

/* The first byte of an entry: flags below, the number of pieces above. */
enum {
    ENTRY_TRANSIENT = 1 << 0,
    ENTRY_EXPIRES = 1 << 1,
    ENTRY_COUNTS = 1 << 2,
    ENTRY_PIECES_SHIFT = 4,
    /* An entry without its queues: one byte and at most 7 + LOG_PIECES_MAX numbers. */
    ENTRY_FIXED_MAX = 1 + (7 + LOG_PIECES_MAX) * VARINT_MAX,
};

static int
summary_room(struct segment *segment, size_t more)
{
    if (segment->summary_capacity - segment->summary_size >= more)
        return 0;
    size_t capacity = segment->summary_capacity == 0 ? 4096 : segment->summary_capacity * 2;
    while (capacity - segment->summary_size < more)
        capacity *= 2;
    char *summary = realloc(segment->summary, capacity);
    if (summary == NULL)
        return -ENOMEM;
    segment->summary = summary;
    segment->summary_capacity = capacity;
    return 0;
}

static int
summary_add(struct segment *segment, const struct record_publish *publish, uint32_t offset,
            uint32_t size)
{
    if (summary_room(segment, ENTRY_FIXED_MAX + (size_t)publish->queue_count * 2 * VARINT_MAX) != 0)
        return -ENOMEM;
    char *at = segment->summary + segment->summary_size;
    *at++ = (char)((publish->is_transient ? ENTRY_TRANSIENT : 0)
                   | (publish->expires_wall_ms != 0 ? ENTRY_EXPIRES : 0)
                   | (publish->counts != NULL ? ENTRY_COUNTS : 0)
                   | (int)(publish->piece_count << ENTRY_PIECES_SHIFT));
    at = varint_put(at, varint_fold(publish->id, segment->last_id));
    at = varint_put(at, offset - segment->last_end);
    at = varint_put(at, size);
    for (uint32_t i = 0; i < publish->piece_count; i++)
        at = varint_put(at, publish->piece_sizes[i]);
    at = varint_put(at, varint_fold(publish->published_wall_ms, segment->last_published));
    if (publish->expires_wall_ms != 0)
        at = varint_put(at, varint_fold(publish->expires_wall_ms, publish->published_wall_ms));
    at = varint_put(at, publish->flags);
    at = varint_put(at, publish->queue_count);
    for (uint32_t i = 0; i < publish->queue_count; i++) {
        uint64_t queue_id = get_u64(publish->queue_ids + 8 * (size_t)i);
        at = varint_put(at, varint_fold(queue_id, segment->last_queue_id));
        segment->last_queue_id = queue_id;
        if (publish->counts != NULL)
            at = varint_put(at, get_u32(publish->counts + 4 * (size_t)i));
    }
    segment->summary_size = (size_t)(at - segment->summary);
    segment->last_id = publish->id;
    segment->last_published = publish->published_wall_ms;
    segment->last_end = offset + size;
    return 0;
}

int
segment_summary_make(const struct segment *segment, uint64_t log_id, char **data, size_t *size)
{
    *size = SUMMARY_HEADER_SIZE + segment->summary_size;
    char *file = malloc(*size);
    if (file == NULL)
        return -ENOMEM;
    memcpy(file, summary_magic, sizeof(summary_magic));
    put_u32(file + SUMMARY_VERSION, LOG_FORMAT_VERSION);
    put_u64(file + SUMMARY_NUMBER, segment->number);
    put_u64(file + SUMMARY_LOG_ID, log_id);
    put_u32(file + SUMMARY_END, segment->end);
    put_u32(file + SUMMARY_COUNT, segment->count);
    if (segment->summary_size > 0)
        memcpy(file + SUMMARY_HEADER_SIZE, segment->summary, segment->summary_size);
    put_u32(file + SUMMARY_CHECK, crc32c(0, file + SUMMARY_NUMBER, *size - SUMMARY_NUMBER));
    *data = file;
    return 0;
}

/* Room for the queue ids of one entry in the form of the record. */
struct entry_queues {
    char *ids, *counts;
    uint32_t capacity;
};

static int
entry_queues_room(struct entry_queues *queues, uint32_t count)
{
    if (count <= queues->capacity)
        return 0;
    char *ids = realloc(queues->ids, (size_t)count * 8);
    if (ids == NULL)
        return -ENOMEM;
    queues->ids = ids;
    char *counts = realloc(queues->counts, (size_t)count * 4);
    if (counts == NULL)
        return -ENOMEM;
    queues->counts = counts;
    queues->capacity = count;
    return 0;
}

/* What the differences of the next entry are taken from. */
struct entry_base {
    uint64_t id, queue_id, published;
    uint64_t end;
};

static int
read_entry(struct record_reader *reader, struct entry_base *base, struct entry_queues *queues,
           struct record_publish *publish, uint64_t *offset, uint32_t *size)
{
    *publish = (struct record_publish){0};
    const char *first = read_bytes(reader, 1);
    if (first == NULL)
        return -EBADMSG;
    uint8_t flags = (uint8_t)*first;
    publish->is_transient = (flags & ENTRY_TRANSIENT) != 0;
    publish->piece_count = flags >> ENTRY_PIECES_SHIFT;
    if (publish->piece_count > LOG_PIECES_MAX)
        return -EBADMSG;
    publish->id = base->id = varint_unfold(read_varint(reader), base->id);
    *offset = base->end + read_varint32(reader);
    *size = read_varint32(reader);
    base->end = *offset + *size;
    for (uint32_t i = 0; i < publish->piece_count; i++)
        publish->piece_sizes[i] = read_varint32(reader);
    publish->published_wall_ms = base->published =
        varint_unfold(read_varint(reader), base->published);
    if ((flags & ENTRY_EXPIRES) != 0)
        publish->expires_wall_ms = varint_unfold(read_varint(reader), publish->published_wall_ms);
    publish->flags = read_varint32(reader);
    publish->queue_count = read_varint32(reader);
    /* Each queue takes a byte at least, so no memory is asked for that the file does not cover. */
    if (reader->is_bad || publish->queue_count == 0
        || publish->queue_count > (size_t)(reader->end - reader->at))
        return -EBADMSG;
    if (entry_queues_room(queues, publish->queue_count) != 0)
        return -ENOMEM;
    for (uint32_t i = 0; i < publish->queue_count; i++) {
        base->queue_id = varint_unfold(read_varint(reader), base->queue_id);
        put_u64(queues->ids + 8 * (size_t)i, base->queue_id);
        if ((flags & ENTRY_COUNTS) != 0)
            put_u32(queues->counts + 4 * (size_t)i, read_varint32(reader));
    }
    publish->queue_ids = queues->ids;
    publish->counts = (flags & ENTRY_COUNTS) != 0 ? queues->counts : NULL;
    return reader->is_bad ? -EBADMSG : 0;
}

int
segment_summary_read(const char *data, size_t size, uint64_t number, uint64_t log_id, uint32_t end,
                     uint32_t count, segment_visit *visit, void *context)
{
    if (size < SUMMARY_HEADER_SIZE || memcmp(data, summary_magic, sizeof(summary_magic)) != 0
        || get_u32(data + SUMMARY_VERSION) != LOG_FORMAT_VERSION
        || get_u32(data + SUMMARY_CHECK) != crc32c(0, data + SUMMARY_NUMBER, size - SUMMARY_NUMBER)
        || get_u64(data + SUMMARY_NUMBER) != number || get_u64(data + SUMMARY_LOG_ID) != log_id
        || get_u32(data + SUMMARY_END) != end || get_u32(data + SUMMARY_COUNT) != count)
        return -EBADMSG;
    struct record_reader reader = {.at = data + SUMMARY_HEADER_SIZE, .end = data + size};
    struct entry_base base = {.end = SEGMENT_HEADER_SIZE};
    struct entry_queues queues = {0};
    int result = 0;
    for (; count > 0 && result == 0; count--) {
        struct record_publish publish;
        uint64_t offset;
        uint32_t length;
        result = read_entry(&reader, &base, &queues, &publish, &offset, &length);
        if (result == 0 && (offset > end || length > end - offset))
            result = -EBADMSG;
        if (result == 0)
            result = visit(context, &publish, (uint32_t)offset, length);
    }
    if (result == 0 && reader.at != reader.end)
        result = -EBADMSG;
    free(queues.ids);
    free(queues.counts);
    return result;
}
