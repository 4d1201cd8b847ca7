/* A segment: one preallocated file of the log, and what the log knows of it in memory.
 *
 * Files are numbered slots (000007.segment) that are used again and again; the segment in a slot
 * has a number that is never used twice and stands in the file's header. So recycling is writing a
 * new header, and needs no rename. What a former life left in the file is told apart by the salt
 * of its records, which comes from the number.
 *
 * In memory a segment has the place and size of each publish record in it (its ordinal is its
 * position in that list) and one bit for each that is alive. A sealed segment has a summary beside
 * it (NUMBER.summary): what recovery must know of each record, without the bodies. */
#ifndef STORE_SEGMENT_H
#define STORE_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "store/file.h"
#include "store/log_record.h"

enum {
    SEGMENT_HEADER_SIZE = 4096, /* so that the records start on a page */
    SEGMENT_SIZE_MIN = 16 * 1024,
    SEGMENT_NAME_MAX = 48,
};

enum segment_state {
    SEGMENT_SPARE,  /* preallocated, may be started at any time */
    SEGMENT_OPEN,   /* the head of the log */
    SEGMENT_SEALED, /* full; only read */
};

struct segment_record {
    uint32_t offset;
    uint32_t size;
};

struct segment {
    uint32_t slot;
    int file;
    enum segment_state state;
    uint32_t salt;
    uint64_t number; /* 0: spare */
    uint32_t size;   /* of the file */
    uint32_t zeroed; /* spare: written with zeros up to here */
    uint32_t end;    /* records end here */
    uint32_t count;  /* publish records */
    uint32_t capacity;
    struct segment_record *records;
    uint64_t *live; /* a bit for each record */
    uint32_t live_count;
    uint32_t readers; /* other threads that read it now: not to be recycled */
    uint64_t live_bytes;
    bool has_summary; /* on the medium */
    bool is_damaged;  /* a record in it cannot be read: it is left alone */
    bool needs_sync;  /* written to since the last sync */
    /* The summary as far as it is made, and the values the next differences start from. */
    char *summary;
    size_t summary_size, summary_capacity;
    uint64_t last_id, last_queue_id, last_published;
    uint32_t last_end;
};

struct segment_header {
    uint64_t number;
    uint64_t log_id;
    uint32_t size;
};

struct segment *segment_new(uint32_t slot);

/* Closes the file, too. */
void segment_free(const struct file_ops *files, struct segment *segment);

/* Forgets all that is known of its contents: it is a spare from now on. */
void segment_clear(struct segment *segment);

/* It becomes the open segment with this number. */
void segment_start(struct segment *segment, uint64_t number, uint64_t log_id);

/* The names of the files, without directory. */
void segment_name(char name[SEGMENT_NAME_MAX], uint32_t slot);
void segment_summary_name(char name[SEGMENT_NAME_MAX], uint64_t number);

/* Writes the header block. */
void segment_header_put(char block[SEGMENT_HEADER_SIZE], const struct segment_header *header);

/* Number 0 is a spare that has been written with zeros. -ENODATA: nothing but zeros; -EBADMSG:
 * damaged; -ENOTSUP: of a newer format. */
MUST_CHECK int segment_header_get(const char *block, size_t size, struct segment_header *header);

/* Notes a publish record of this segment, the next in order. *ordinal is its number. -ENOMEM. */
MUST_CHECK int segment_note(struct segment *segment, const struct record_publish *publish,
                            uint32_t offset, uint32_t size, bool is_live, uint32_t *ordinal);

static inline bool
segment_is_live(const struct segment *segment, uint32_t ordinal)
{
    return (segment->live[ordinal / 64] >> (ordinal % 64) & 1) != 0;
}

/* The record is dead: settled, or moved elsewhere. */
void segment_kill(struct segment *segment, uint32_t ordinal);

/* The first live record from this ordinal on; segment->count when there is none. */
uint32_t segment_next_live(const struct segment *segment, uint32_t ordinal);

/* Makes the bytes of the summary file; the caller frees them. -ENOMEM. */
MUST_CHECK int segment_summary_make(const struct segment *segment, uint64_t log_id, char **data,
                                    size_t *size);

/* Gives the memory of the summary back, once it is on the medium. */
void segment_summary_drop(struct segment *segment);

/* Calls back for each publish record that a summary names. -EBADMSG when it is damaged, or of
 * another segment or another state of this one: then it did not call back, unless the summary
 * contradicts itself. */
typedef int segment_visit(void *context, const struct record_publish *publish, uint32_t offset,
                          uint32_t size);
MUST_CHECK int segment_summary_read(const char *data, size_t size, uint64_t number, uint64_t log_id,
                                    uint32_t end, uint32_t count, segment_visit *visit,
                                    void *context);

#endif
