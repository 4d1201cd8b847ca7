/* Deliveries of a channel that the client has not settled yet, by delivery tag.
 *
 * Tags are given in order, so the entries lie in a ring that begins at the oldest unsettled tag:
 * finding one is an index. Settled ones in the middle stay as holes until all before them are
 * settled. Empty, it holds no memory. */
#ifndef SESSION_UNACKED_H
#define SESSION_UNACKED_H

#include "broker/shard.h"

/* A deadline that never comes; also the last that can be noted. */
#define UNACKED_FOREVER ((1U << 30) - 1)

enum unacked_state {
    UNACKED_HOLE = 0,
    UNACKED_OUTSTANDING,
    UNACKED_IN_TRANSACTION, /* settled by a transaction that is not committed */
};

struct unacked_entry {
    struct ref queue, subscription;
    uint64_t tag;             /* the queue's */
    uint32_t consumer;        /* the channel's number of it; GET_CONSUMER */
    uint32_t state : 2;       /* enum unacked_state */
    uint32_t deadline_s : 30; /* monotonic: until then it should be settled; UNACKED_FOREVER */
};

struct unacked {
    struct unacked_entry *entries; /* ring */
    uint32_t capacity;             /* power of two, or 0 */
    uint64_t base;                 /* tag of the first entry */
    uint64_t next;                 /* the next tag to be given */
    uint32_t outstanding;
};

void unacked_init(struct unacked *unacked);
void unacked_fini(struct unacked *unacked);

/* Gives a tag to a delivery that needs no settling. 0: out of memory. */
uint64_t unacked_skip(struct unacked *unacked);

/* Gives a tag to a delivery; the entry, outstanding and without a deadline, is for the caller to
 * fill. NULL: out of memory. */
struct unacked_entry *unacked_add(struct unacked *unacked, uint64_t *delivery_tag);

/* The entry of that tag if it is outstanding, else NULL. */
struct unacked_entry *unacked_find(struct unacked *unacked, uint64_t delivery_tag);

/* The oldest outstanding entry and its tag, or NULL. */
struct unacked_entry *unacked_first(struct unacked *unacked, uint64_t *delivery_tag);

/* The outstanding one with the earliest deadline; NULL: none has one. Looks at all. */
const struct unacked_entry *unacked_most_urgent(const struct unacked *unacked);

/* The entry is settled. */
void unacked_remove(struct unacked *unacked, struct unacked_entry *entry);

/* Drops holes at the front, and the memory when it is empty. */
void unacked_trim(struct unacked *unacked);

/* The entry at a tag between base and next, whatever its state. */
static inline struct unacked_entry *
unacked_at(const struct unacked *unacked, uint64_t delivery_tag)
{
    return &unacked->entries[delivery_tag & (unacked->capacity - 1)];
}

#endif
