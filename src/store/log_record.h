/* The bytes of the log: what a record looks like on the medium.
 *
 * A segment is a header block followed by records. All numbers are little-endian, every record's
 * length is a multiple of 8, and a record starts with
 *
 *     u32 check   CRC32C of all that follows in this record, xor the segment's salt
 *     u32 length  of the whole record
 *     u8 type, u8 version, u8 pieces, u8 flags
 *     u32 count
 *
 * The salt is made from the segment's number and the log's secret, so what an earlier life of a
 * recycled file left behind is never taken for a record of this one, nor is anything that a
 * publisher wrote into a message body.
 *
 * The stream is a sequence of commits: BEGIN, publishes, settles, deliveries, COMMIT. A commit is
 * all or nothing. BEGIN names the position up to which everything was on the medium when it was
 * written: a bad record before such a position is damage, never a torn tail.
 *
 * Everything here only reads and writes memory. Bytes from the medium are foreign: each decoder
 * takes a length and checks it. */
#ifndef STORE_LOG_RECORD_H
#define STORE_LOG_RECORD_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"
#include "store/log.h"

enum {
    LOG_FORMAT_VERSION = 1,
    RECORD_VERSION = 1,
    RECORD_ALIGNMENT = 8,
    RECORD_HEADER_SIZE = 16,
    RECORD_BEGIN_SIZE = RECORD_HEADER_SIZE + 24,
    RECORD_COMMIT_SIZE = RECORD_HEADER_SIZE + 8,
    RECORD_PUBLISH_FIXED_SIZE = RECORD_HEADER_SIZE + 28,
    RECORD_NOTES_ROOM = 64 * 1024, /* a settle or deliveries record is closed when this large */
    RECORD_NOTES_SLACK = 64,       /* header of a run, one entry and the padding fit in this */
};

enum record_type {
    RECORD_END = 1,    /* the rest of this segment is unused: the stream goes on in the next */
    RECORD_BEGIN,      /* a commit begins: sequence, durable segment, durable offset */
    RECORD_COMMIT,     /* it ends: sequence; count: records in between */
    RECORD_PUBLISH,    /* a message with its queues */
    RECORD_SETTLE,     /* (queue, message) pairs that are done with; count: pairs */
    RECORD_DELIVERIES, /* (queue, message, delivery count); count: triples */
    RECORD_TYPE_END,
};

enum record_flags {
    RECORD_TRANSIENT = 1 << 0,  /* survives no restart: here only because memory was short */
    RECORD_HAS_COUNTS = 1 << 1, /* delivery counts follow the queue ids */
};

struct record_header {
    uint32_t check;
    uint32_t length;
    uint8_t type;
    uint8_t version;
    uint8_t pieces;
    uint8_t flags;
    uint32_t count;
};

/* What is known of a published message, decoded from its record or from a segment's summary. The
 * pointers are borrowed from there. */
struct record_publish {
    uint64_t id;
    uint64_t published_wall_ms;
    uint64_t expires_wall_ms;
    uint32_t flags;
    uint32_t piece_count;
    uint32_t piece_sizes[LOG_PIECES_MAX];
    uint32_t queue_count;
    bool is_transient;
    const char *queue_ids; /* queue_count little-endian u64, ascending */
    const char *counts;    /* queue_count little-endian u32, or NULL: all 0 */
    const char *payload;   /* NULL when decoded from a summary */
};

struct record_begin {
    uint64_t sequence;
    uint64_t durable_segment;
    uint32_t durable_offset;
};

/* An entry of a settle or a deliveries record. */
struct record_note {
    uint64_t queue_id;
    uint64_t id;
    uint32_t count; /* deliveries only */
};

static inline void
put_u32(char *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static inline void
put_u64(char *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

static inline uint32_t
get_u32(const char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static inline uint64_t
get_u64(const char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return le64toh(value);
}

static inline size_t
record_round(size_t size)
{
    return (size + RECORD_ALIGNMENT - 1) & ~(size_t)(RECORD_ALIGNMENT - 1);
}

/* Variable-length numbers: seven bits a byte, lowest first. Signed differences are folded so that
 * small ones of either sign are short. */
char *varint_put(char *at, uint64_t value);
enum { VARINT_MAX = 10 };

static inline uint64_t
varint_fold(uint64_t value, uint64_t previous)
{
    uint64_t difference = value - previous;
    return (difference << 1) ^ (difference >> 63 != 0 ? UINT64_MAX : 0);
}

static inline uint64_t
varint_unfold(uint64_t folded, uint64_t previous)
{
    return previous + ((folded >> 1) ^ (0 - (folded & 1)));
}

/* A bounded reader over foreign bytes; after the first overrun everything reads as 0 and is_bad
 * stays set. */
struct record_reader {
    const char *at, *end;
    bool is_bad;
};

uint64_t read_varint(struct record_reader *reader);
uint32_t read_varint32(struct record_reader *reader);
const char *read_bytes(struct record_reader *reader, size_t size);

/* The salt of a segment's records: different for any two numbers of one log below 2^32. */
uint32_t record_salt(uint64_t segment_number, uint64_t log_id);

/* CRC32C over a record without its check field. */
uint32_t record_check(const char *record, size_t length);

/* Writes the header of a record whose other bytes are in place, with its check unsalted. */
void record_finish(char *record, size_t length, enum record_type type, uint8_t pieces,
                   uint8_t flags, uint32_t count);

/* Puts the salt in: the record now belongs to one segment. */
static inline void
record_seal(char *record, uint32_t salt)
{
    put_u32(record, get_u32(record) ^ salt);
}

/* Reads the header at `at` and checks the whole record. 0; -ENODATA: too short or not even a
 * plausible header; -EBADMSG: the check fails; -ENOTSUP: a sound record of a newer version. The
 * header is filled in as far as it could be read. */
MUST_CHECK int record_open(const char *at, size_t available, uint32_t salt,
                           struct record_header *header);

/* Size of a publish record. 0: too large for the log, whatever the segment size. */
size_t record_publish_size(uint32_t queue_count, bool has_counts, const uint32_t *piece_sizes,
                           uint32_t piece_count);

/* Where the queue ids and the payload of a record to be written are. */
size_t record_queues_offset(uint32_t piece_count);
size_t record_payload_offset(uint32_t piece_count, uint32_t queue_count, bool has_counts);

/* Writes the fixed part of a publish record (all but header, queue ids, counts, payload). */
void record_publish_put(char *record, const struct record_publish *publish);

/* -EBADMSG when lengths do not fit together. Safe on a record that failed its check, too. */
MUST_CHECK int record_publish_get(const char *record, const struct record_header *header,
                                  struct record_publish *publish);

void record_begin_put(char *record, const struct record_begin *begin);
MUST_CHECK int record_begin_get(const char *record, const struct record_header *header,
                                struct record_begin *begin);
void record_commit_put(char *record, uint64_t sequence, uint32_t count);
MUST_CHECK int record_commit_get(const char *record, const struct record_header *header,
                                 uint64_t *sequence);
void record_end_put(char *record);

/* Writes as many notes as fit in `room` bytes (at least 2 * RECORD_NOTES_SLACK); *used says how
 * many. Returns the record's length. */
size_t record_notes_put(char *record, size_t room, enum record_type type,
                        const struct record_note *notes, size_t count, size_t *used);

/* Calls back for each entry. -EBADMSG when the bytes do not fit together, else 0 or what the
 * callback returned. */
typedef int record_note_visit(void *context, const struct record_note *note);
MUST_CHECK int record_notes_get(const char *record, const struct record_header *header,
                                record_note_visit *visit, void *context);

#endif
