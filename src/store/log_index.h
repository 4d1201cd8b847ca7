/* Which logged messages are alive, and where the newest copy of each lies.
 *
 * Ids ascend, and neighbours live and die at about the same time; so the index is a hash table of
 * chunks of 64 neighbouring ids with 8 bytes for each: dense backlogs cost 8 to 9 bytes a message,
 * a lone survivor about 600. A message in one queue needs no more. One that is in several, or that
 * has been delivered before, has a `detail` besides with its queues.
 *
 * Changed by the log's thread only; others look things up under the log's index lock. */
#ifndef STORE_LOG_INDEX_H
#define STORE_LOG_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "store/log.h"

struct record_publish;

enum { INDEX_SLOTS_MAX = 1 << 24 };

/* Where a message is: the file (its slot) and which of the publish records in it. */
struct place {
    uint32_t slot;
    uint32_t ordinal;
    bool is_pending; /* not in a segment yet: ordinal counts in the group that is being written */
    bool is_transient;
    bool has_detail;
};

struct detail_queue {
    uint64_t queue_id;
    uint32_t delivery_count;
    bool is_live;
};

struct log_detail {
    uint32_t count; /* in the order of the record: ascending ids */
    uint32_t live;
    struct detail_queue queues[];
};

struct id_table {
    uint64_t *keys;
    void **values; /* NULL: free */
    size_t capacity, count;
};

struct log_index {
    struct id_table chunks;
    struct id_table details;
    struct index_chunk *last; /* the chunk used last: most look-ups are near the one before */
    uint64_t messages;
};

enum settle_result {
    SETTLE_UNKNOWN, /* the message or that queue of it was not alive */
    SETTLE_PART,    /* other queues still have it */
    SETTLE_LAST,    /* it is dead and gone from the index */
};

void log_index_init(struct log_index *index);
void log_index_fini(struct log_index *index);

/* Enters a message, or replaces what was known of it. -ENOMEM. */
MUST_CHECK int log_index_put(struct log_index *index, const struct record_publish *publish,
                             const struct place *place);

/* The newest copy of a message that is there lies elsewhere now. Its detail stays. */
void log_index_move(struct log_index *index, uint64_t id, const struct place *place);

bool log_index_find(struct log_index *index, uint64_t id, struct place *place);

/* The same without touching the cache, for other threads under the lock. */
bool log_index_peek(const struct log_index *index, uint64_t id, struct place *place);

/* NULL: the message has no detail; all its queues (the one) are alive. */
struct log_detail *log_index_detail(const struct log_index *index, uint64_t id);

/* *place is where the message was, unless unknown. */
enum settle_result log_index_settle(struct log_index *index, uint64_t queue_id, uint64_t id,
                                    struct place *place);

/* Takes the message out, whoever still has it. */
void log_index_remove(struct log_index *index, uint64_t id);

/* Notes a delivery count. 1: noted; 0: no such live message; -ENOMEM. */
MUST_CHECK int log_index_redelivered(struct log_index *index, uint64_t queue_id, uint64_t id,
                                     uint32_t delivery_count);

#endif
