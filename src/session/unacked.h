/* Deliveries of a channel that the client has not settled yet, by delivery tag.
 *
 * Tags are given in order, so the entries lie in a ring in the order of their tags, beginning at
 * the oldest unsettled one. Settled ones in the middle stay as holes, and as long as there is an
 * entry for each tag, finding one is an index. When the ring is full and half of it are holes,
 * these are swept out, and then tags are searched for by halving: so one delivery that is never
 * settled costs no more than itself, however many come and go after it. Empty, it holds no memory.
 */
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
    uint64_t delivery_tag;    /* the channel's */
    uint32_t consumer;        /* the channel's number of it; GET_CONSUMER */
    uint32_t state : 2;       /* enum unacked_state */
    uint32_t deadline_s : 30; /* monotonic: until then it should be settled; UNACKED_FOREVER */
};

struct unacked {
    struct unacked_entry *entries; /* ring, sorted by delivery tag */
    uint32_t capacity;             /* power of two, or 0 */
    uint32_t first, count;         /* the oldest entry's place, and how many with the holes */
    uint64_t next;                 /* the next tag to be given */
    uint32_t outstanding;          /* those that are no holes */
};

void unacked_init(struct unacked *unacked);
void unacked_fini(struct unacked *unacked);

/* Gives a tag to a delivery that needs no settling: that costs no memory. */
uint64_t unacked_skip(struct unacked *unacked);

/* Gives a tag to a delivery; the entry, outstanding and without a deadline, is for the caller to
 * fill. The others may move. NULL: out of memory. */
struct unacked_entry *unacked_add(struct unacked *unacked, uint64_t *delivery_tag);

/* The entry of that tag if it is outstanding, else NULL. */
struct unacked_entry *unacked_find(struct unacked *unacked, uint64_t delivery_tag);

/* The entry of that tag, which is not settled, or by a transaction that is not committed. */
struct unacked_entry *unacked_at(const struct unacked *unacked, uint64_t delivery_tag);

/* The first entry of this tag or a later one that is no hole, and its tag; NULL: there is none. To
 * visit all, begin with 0 and go on with the tag + 1; entries may be removed and added meanwhile.
 */
struct unacked_entry *unacked_from(const struct unacked *unacked, uint64_t *delivery_tag);

/* The outstanding one with the earliest deadline; NULL: none has one. Looks at all. */
const struct unacked_entry *unacked_most_urgent(const struct unacked *unacked);

/* The entry is settled. */
void unacked_remove(struct unacked *unacked, struct unacked_entry *entry);

/* Drops holes at the front, and the memory when it is empty. */
void unacked_trim(struct unacked *unacked);

#endif
