/* The messages that recovery finds. A long backlog has millions of them at once, beside the index
 * and the queues that are being filled, so they are kept packed: about 16 bytes each. */
#ifndef STORE_LOG_FOUND_H
#define STORE_LOG_FOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "store/log.h"

/* A message that was alive when its record or summary was read. It still is if the index has it at
 * this place when all is read. */
struct found {
    uint64_t id;
    uint64_t published_wall_ms;
    uint64_t expires_wall_ms;
    uint64_t queue_id; /* its first queue: the one, when it has no detail */
    uint32_t flags;
    uint32_t slot;
    uint32_t ordinal;
    uint32_t piece_count;
    uint32_t piece_sizes[LOG_PIECES_MAX];
};

struct found_chunk;
struct found_place;

/* A zeroed one is an empty list. */
struct found_list {
    struct found_chunk **chunks;
    size_t chunk_count, chunk_capacity;
    size_t count;
    uint64_t last_id;
    bool is_unordered;         /* the ids did not ascend as they were added */
    struct found_place *order; /* by id; only of a list that is unordered, after found_sort */
};

/* -ENOMEM leaves the list as it was. */
MUST_CHECK int found_add(struct found_list *list, const struct found *found);

/* Afterwards found_next goes by ids. Nothing may be added any more. -ENOMEM. */
MUST_CHECK int found_sort(struct found_list *list);

/* Where a walk through the list is; a zeroed one is at its beginning. */
struct found_cursor {
    size_t chunk, offset, index;
    bool is_last; /* set by the caller: nobody walks again, and what was passed may be freed */
};

/* The next message; false at the end. */
bool found_next(struct found_list *list, struct found_cursor *cursor, struct found *found);

/* The bytes that the messages take, without those that only sorting needs. */
size_t found_memory(const struct found_list *list);

void found_free(struct found_list *list);

#endif
