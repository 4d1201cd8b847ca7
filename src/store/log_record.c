/* Encoding and decoding of the log's records; the form is described in the header. */
#include "store/log_record.h"

#include <errno.h>

#include "base/crc32c.h"

char *
varint_put(char *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (char)(value | 0x80);
        value >>= 7;
    }
    *at++ = (char)value;
    return at;
}

uint64_t
read_varint(struct record_reader *reader)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
        uint8_t byte = (uint8_t)*reader->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            if (shift == 63 && byte > 1)
                break;
            return value;
        }
    }
    reader->is_bad = true;
    reader->at = reader->end;
    return 0;
}

uint32_t
read_varint32(struct record_reader *reader)
{
    uint64_t value = read_varint(reader);
    if (value > UINT32_MAX) {
        reader->is_bad = true;
        return 0;
    }
    return (uint32_t)value;
}

const char *
read_bytes(struct record_reader *reader, size_t size)
{
    if ((size_t)(reader->end - reader->at) < size) {
        reader->is_bad = true;
        reader->at = reader->end;
        return NULL;
    }
    const char *bytes = reader->at;
    reader->at += size;
    return bytes;
}

uint32_t
record_salt(uint64_t segment_number, uint64_t log_id)
{
    /* A bijection of 32 bits (the finaliser of MurmurHash3), so two numbers never share a salt. */
    uint32_t x = (uint32_t)segment_number;
    x ^= x >> 16;
    x *= 0x85ebca6bU;
    x ^= x >> 13;
    x *= 0xc2b2ae35U;
    x ^= x >> 16;
    return x ^ (uint32_t)log_id ^ (uint32_t)(log_id >> 32);
}

uint32_t
record_check(const char *record, size_t length)
{
    return crc32c(0, record + 4, length - 4);
}

void
record_finish(char *record, size_t length, enum record_type type, uint8_t pieces, uint8_t flags,
              uint32_t count)
{
    put_u32(record + 4, (uint32_t)length);
    record[8] = (char)type;
    record[9] = RECORD_VERSION;
    record[10] = (char)pieces;
    record[11] = (char)flags;
    put_u32(record + 12, count);
    put_u32(record, record_check(record, length));
}

int
record_open(const char *at, size_t available, uint32_t salt, struct record_header *header)
{
    *header = (struct record_header){0};
    if (available < RECORD_HEADER_SIZE)
        return -ENODATA;
    *header = (struct record_header){
        .check = get_u32(at),
        .length = get_u32(at + 4),
        .type = (uint8_t)at[8],
        .version = (uint8_t)at[9],
        .pieces = (uint8_t)at[10],
        .flags = (uint8_t)at[11],
        .count = get_u32(at + 12),
    };
    if (header->length < RECORD_HEADER_SIZE || header->length > available
        || header->length % RECORD_ALIGNMENT != 0)
        return -ENODATA;
    if ((record_check(at, header->length) ^ salt) != header->check)
        return -EBADMSG;
    if (header->version != RECORD_VERSION || header->type == 0 || header->type >= RECORD_TYPE_END)
        return -ENOTSUP;
    return 0;
}

size_t
record_queues_offset(uint32_t piece_count)
{
    /* The queue ids are kept on their natural boundary. */
    return record_round(RECORD_PUBLISH_FIXED_SIZE + 4 * (size_t)piece_count);
}

size_t
record_payload_offset(uint32_t piece_count, uint32_t queue_count, bool has_counts)
{
    return record_queues_offset(piece_count) + (size_t)queue_count * (has_counts ? 12 : 8);
}

size_t
record_publish_size(uint32_t queue_count, bool has_counts, const uint32_t *piece_sizes,
                    uint32_t piece_count)
{
    uint64_t size = record_payload_offset(piece_count, queue_count, has_counts);
    for (uint32_t i = 0; i < piece_count; i++)
        size += piece_sizes[i];
    return size > LOG_MESSAGE_SIZE_MAX ? 0 : record_round((size_t)size);
}

void
record_publish_put(char *record, const struct record_publish *publish)
{
    char *at = record + RECORD_HEADER_SIZE;
    put_u64(at, publish->id);
    put_u64(at + 8, publish->published_wall_ms);
    put_u64(at + 16, publish->expires_wall_ms);
    put_u32(at + 24, publish->flags);
    for (uint32_t i = 0; i < publish->piece_count; i++)
        put_u32(at + 28 + 4 * (size_t)i, publish->piece_sizes[i]);
    if (publish->piece_count % 2 == 0)
        put_u32(at + 28 + 4 * (size_t)publish->piece_count, 0);
}

int
record_publish_get(const char *record, const struct record_header *header,
                   struct record_publish *publish)
{
    *publish = (struct record_publish){0};
    if (header->pieces > LOG_PIECES_MAX || header->count == 0
        || header->count > LOG_QUEUES_PER_MESSAGE_MAX)
        return -EBADMSG;
    bool has_counts = (header->flags & RECORD_HAS_COUNTS) != 0;
    if (record_payload_offset(header->pieces, header->count, has_counts) > header->length)
        return -EBADMSG;
    const char *at = record + RECORD_HEADER_SIZE;
    publish->id = get_u64(at);
    publish->published_wall_ms = get_u64(at + 8);
    publish->expires_wall_ms = get_u64(at + 16);
    publish->flags = get_u32(at + 24);
    publish->piece_count = header->pieces;
    for (uint32_t i = 0; i < header->pieces; i++)
        publish->piece_sizes[i] = get_u32(at + 28 + 4 * (size_t)i);
    publish->queue_count = header->count;
    publish->is_transient = (header->flags & RECORD_TRANSIENT) != 0;
    publish->queue_ids = record + record_queues_offset(header->pieces);
    publish->counts = has_counts ? publish->queue_ids + 8 * (size_t)header->count : NULL;
    publish->payload = record + record_payload_offset(header->pieces, header->count, has_counts);
    size_t size =
        record_publish_size(header->count, has_counts, publish->piece_sizes, header->pieces);
    return size == header->length && publish->id != 0 ? 0 : -EBADMSG;
}

void
record_begin_put(char *record, const struct record_begin *begin)
{
    put_u64(record + RECORD_HEADER_SIZE, begin->sequence);
    put_u64(record + RECORD_HEADER_SIZE + 8, begin->durable_segment);
    put_u32(record + RECORD_HEADER_SIZE + 16, begin->durable_offset);
    put_u32(record + RECORD_HEADER_SIZE + 20, 0);
    record_finish(record, RECORD_BEGIN_SIZE, RECORD_BEGIN, 0, 0, 0);
}

int
record_begin_get(const char *record, const struct record_header *header, struct record_begin *begin)
{
    if (header->length != RECORD_BEGIN_SIZE)
        return -EBADMSG;
    begin->sequence = get_u64(record + RECORD_HEADER_SIZE);
    begin->durable_segment = get_u64(record + RECORD_HEADER_SIZE + 8);
    begin->durable_offset = get_u32(record + RECORD_HEADER_SIZE + 16);
    return 0;
}

void
record_commit_put(char *record, uint64_t sequence, uint32_t count)
{
    put_u64(record + RECORD_HEADER_SIZE, sequence);
    record_finish(record, RECORD_COMMIT_SIZE, RECORD_COMMIT, 0, 0, count);
}

int
record_commit_get(const char *record, const struct record_header *header, uint64_t *sequence)
{
    if (header->length != RECORD_COMMIT_SIZE)
        return -EBADMSG;
    *sequence = get_u64(record + RECORD_HEADER_SIZE);
    return 0;
}

void
record_end_put(char *record)
{
    record_finish(record, RECORD_HEADER_SIZE, RECORD_END, 0, 0, 0);
}

/* Notes are runs of one queue: difference of the queue id, how many, then for each the difference
 * of the message id (and the delivery count). A queue that is drained in order costs little more
 * than a byte for each message. */
size_t
record_notes_put(char *record, size_t room, enum record_type type, const struct record_note *notes,
                 size_t count, size_t *used)
{
    char *at = record + RECORD_HEADER_SIZE + 4;
    const char *limit = record + room - RECORD_NOTES_SLACK;
    uint64_t queue_id = 0, id = 0;
    size_t n = 0;
    while (n < count && at < limit) {
        size_t run = 1;
        /* The bound keeps a run, whose length is written before it, within the record. */
        size_t run_limit = (size_t)(limit - at) / (2 * VARINT_MAX) + 1;
        while (run < run_limit && n + run < count && notes[n + run].queue_id == notes[n].queue_id)
            run++;
        at = varint_put(at, varint_fold(notes[n].queue_id, queue_id));
        at = varint_put(at, run);
        queue_id = notes[n].queue_id;
        for (; run > 0; run--, n++) {
            at = varint_put(at, varint_fold(notes[n].id, id));
            id = notes[n].id;
            if (type == RECORD_DELIVERIES)
                at = varint_put(at, notes[n].count);
        }
    }
    size_t bytes = (size_t)(at - record);
    put_u32(record + RECORD_HEADER_SIZE, (uint32_t)(bytes - RECORD_HEADER_SIZE - 4));
    size_t length = record_round(bytes);
    memset(at, 0, length - bytes);
    record_finish(record, length, type, 0, 0, (uint32_t)n);
    *used = n;
    return length;
}

int
record_notes_get(const char *record, const struct record_header *header, record_note_visit *visit,
                 void *context)
{
    if (header->length < RECORD_HEADER_SIZE + 4)
        return -EBADMSG;
    size_t bytes = get_u32(record + RECORD_HEADER_SIZE);
    if (bytes > header->length - RECORD_HEADER_SIZE - 4)
        return -EBADMSG;
    const char *start = record + RECORD_HEADER_SIZE + 4;
    struct record_reader reader = {.at = start, .end = start + bytes};
    struct record_note note = {0};
    uint64_t seen = 0;
    while (reader.at < reader.end && !reader.is_bad) {
        note.queue_id = varint_unfold(read_varint(&reader), note.queue_id);
        uint64_t run = read_varint(&reader);
        for (; run > 0; run--, seen++) {
            note.id = varint_unfold(read_varint(&reader), note.id);
            if (header->type == RECORD_DELIVERIES)
                note.count = read_varint32(&reader);
            if (reader.is_bad)
                return -EBADMSG;
            int result = visit(context, &note);
            if (result != 0)
                return result;
        }
    }
    return !reader.is_bad && seen == header->count ? 0 : -EBADMSG;
}
