/* A lane: the messages of one queue at one priority, in the order in which they came.
 *
 * Every message that enters gets the next sequence number, and its entry stays in its place until
 * the message leaves for good. Handing a message to a consumer changes the entry's state, taking it
 * back changes it again: so a requeued message is at its original position by construction, and
 * settling a delivery is an index, not a search.
 *
 * Entries lie in chunks of LANE_CHUNK_ENTRIES; a chunk is freed when the last of its entries is
 * dead, wherever it is, so one message that stays unacknowledged for an hour costs one chunk, not
 * all that came after it. An empty lane holds no memory. A full chunk of which every message waits
 * in the journal alone, as those of a long backlog do, is packed to a fifth, until somebody looks
 * at it.
 *
 * Ready entries are found through a cursor and a heap of the sequence numbers that were returned
 * behind it. The cursor moves forward; only when there is no memory for the heap it goes back. */
#ifndef BROKER_LANE_H
#define BROKER_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct message;

enum { LANE_CHUNK_ENTRIES = 128 };

enum entry_state {
    ENTRY_DEAD = 0, /* left, or never was */
    ENTRY_READY,
    ENTRY_UNACKNOWLEDGED,
};

enum entry_flags {
    ENTRY_REDELIVERED = 1 << 0,
    ENTRY_IN_EXPIRY_HEAP = 1 << 1,
};

/* No deadline. */
#define NEVER INT64_MAX

struct entry {
    struct message
        *message;        /* NULL: only in the journal, where it is read again when it is needed */
    uint64_t id;         /* in the journal; 0: it is not there */
    int64_t deadline_ms; /* monotonic; NEVER */
    uint32_t body_size;
    uint16_t delivery_count;
    uint8_t state;
    uint8_t flags;
};

struct lane_chunk;

struct lane {
    struct lane_chunk **chunks; /* ring of pointers; NULL where a chunk was freed */
    uint32_t chunk_capacity;    /* power of two */
    uint64_t first_chunk;       /* number of the oldest chunk that may exist */
    uint64_t cursor;            /* ready entries before it are in `returned` */
    uint64_t tail;              /* sequence number of the next message */
    uint64_t *returned;         /* heap of returned sequence numbers, smallest first */
    uint32_t returned_count, returned_capacity;
    uint64_t ready;
    uint64_t live;              /* ready or unacknowledged */
    int64_t latest_deadline_ms; /* of the messages that came in order of their deadlines */
    uint64_t retimed;           /* deadlines of entries before it are not up to date, but for: */
    uint64_t retimed_last;      /* the one that was brought up to date last */
};

void lane_init(struct lane *lane);

/* Frees the memory; the messages must have been taken out. */
void lane_fini(struct lane *lane);

/* A new READY entry at the end, for the caller to fill; *sequence is its number. NULL: out of
 * memory. */
struct entry *lane_push(struct lane *lane, uint64_t *sequence);

/* The entry, or NULL when it is dead. Valid until the next lane_push. */
struct entry *lane_at(const struct lane *lane, uint64_t sequence);

/* The oldest ready entry, or NULL: there is none, or no memory to unpack it. It stays where it is.
 */
struct entry *lane_first_ready(struct lane *lane, uint64_t *sequence);

/* A ready entry, the first or any other, is handed out: it is ENTRY_UNACKNOWLEDGED now. */
void lane_take(struct lane *lane, uint64_t sequence, struct entry *entry);

/* A taken entry is ready again, at its place. */
void lane_return(struct lane *lane, uint64_t sequence, struct entry *entry);

/* The entry is done with; its message is no longer the lane's business. */
void lane_remove(struct lane *lane, uint64_t sequence, struct entry *entry);

/* Moves everything from this sequence number on, which begins a chunk, to `into` (no lane before),
 * in no time. All ready entries are there, and none that was handed out. The lane goes on with
 * higher numbers. -ENOMEM: both are as before. */
MUST_CHECK int lane_split(struct lane *lane, uint64_t from, struct lane *into);

/* Visits live entries in order from *sequence on: returns the next one and moves *sequence behind
 * it. NULL at the end. */
struct entry *lane_next(const struct lane *lane, uint64_t *sequence);

#endif
