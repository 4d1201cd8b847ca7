/* Lanes: see the header for the idea. */
#include "broker/lane.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* The entries of a packed chunk: all ready, only in the journal, without deadline, never given
 * back, and with the same flags. */
struct packed_entries {
    uint64_t first_id;
    uint16_t id_steps[LANE_CHUNK_ENTRIES]; /* from the one before */
    uint32_t body_sizes[LANE_CHUNK_ENTRIES];
    uint8_t flags;
};

struct lane_chunk {
    uint32_t live;
    bool is_packed;
    union {
        struct entry entries[LANE_CHUNK_ENTRIES];
        struct packed_entries packed; /* the chunk is so much shorter then */
    };
};

enum { FIRST_CHUNK_CAPACITY = 4, FIRST_RETURNED_CAPACITY = 16 };

void
lane_init(struct lane *lane)
{
    *lane = (struct lane){.latest_deadline_ms = INT64_MIN};
}

static struct lane_chunk **
chunk_slot(const struct lane *lane, uint64_t chunk)
{
    return &lane->chunks[chunk & (lane->chunk_capacity - 1)];
}

static uint64_t
chunk_of(uint64_t sequence)
{
    return sequence / LANE_CHUNK_ENTRIES;
}

/* One past the newest chunk that may exist. */
static uint64_t
chunk_end(const struct lane *lane)
{
    return chunk_of(lane->tail + LANE_CHUNK_ENTRIES - 1);
}

static size_t
chunk_size(bool is_packed)
{
    return is_packed ? offsetof(struct lane_chunk, packed) + sizeof(struct packed_entries)
                     : sizeof(struct lane_chunk);
}

static struct lane_chunk *
chunk_new(bool is_packed)
{
    struct lane_chunk *chunk = calloc(1, chunk_size(is_packed));
    if (chunk == NULL)
        return NULL;
    chunk->is_packed = is_packed;
    memory_count((int64_t)chunk_size(is_packed));
    return chunk;
}

static void
chunk_free(struct lane_chunk *chunk)
{
    if (chunk != NULL)
        memory_count(-(int64_t)chunk_size(chunk->is_packed));
    free(chunk);
}

/* --- Packing ---------------------------------------------------------------------------------- */

static bool
can_pack(const struct entry *entry, const struct entry *before)
{
    return entry->state == ENTRY_READY && entry->message == NULL && entry->id != 0
           && entry->deadline_ms == NEVER && entry->delivery_count == 0
           && entry->flags == before->flags && entry->id >= before->id
           && entry->id - before->id <= UINT16_MAX;
}

/* Packs a full chunk if it can be: not when memory for it is short. */
static void
pack(struct lane_chunk **slot)
{
    struct lane_chunk *chunk = *slot;
    const struct entry *entries = chunk == NULL ? NULL : chunk->entries;
    if (chunk == NULL || chunk->is_packed || !can_pack(&entries[0], &entries[0]))
        return;
    for (uint32_t i = 1; i < LANE_CHUNK_ENTRIES; i++)
        if (!can_pack(&entries[i], &entries[i - 1]))
            return;
    struct lane_chunk *packed = chunk_new(true);
    if (packed == NULL)
        return;
    packed->live = LANE_CHUNK_ENTRIES;
    packed->packed.first_id = entries[0].id;
    packed->packed.flags = entries[0].flags;
    packed->packed.body_sizes[0] = entries[0].body_size;
    for (uint32_t i = 1; i < LANE_CHUNK_ENTRIES; i++) {
        packed->packed.id_steps[i] = (uint16_t)(entries[i].id - entries[i - 1].id);
        packed->packed.body_sizes[i] = entries[i].body_size;
    }
    chunk_free(chunk);
    *slot = packed;
}

/* The chunk with its entries. NULL: there is none, or no memory to unpack it. */
static struct lane_chunk *
unpacked(struct lane_chunk **slot)
{
    struct lane_chunk *packed = *slot;
    if (packed == NULL || LIKELY(!packed->is_packed))
        return packed;
    struct lane_chunk *chunk = chunk_new(false);
    if (chunk == NULL)
        return NULL;
    chunk->live = packed->live;
    uint64_t id = packed->packed.first_id;
    for (uint32_t i = 0; i < LANE_CHUNK_ENTRIES; i++) {
        id += packed->packed.id_steps[i];
        chunk->entries[i] = (struct entry){.id = id,
                                           .deadline_ms = NEVER,
                                           .body_size = packed->packed.body_sizes[i],
                                           .state = ENTRY_READY,
                                           .flags = packed->packed.flags};
    }
    chunk_free(packed);
    *slot = chunk;
    return chunk;
}

/* --- Chunks ----------------------------------------------------------------------------------- */

void
lane_fini(struct lane *lane)
{
    if (lane->chunks != NULL)
        for (uint64_t c = lane->first_chunk; c < chunk_end(lane); c++)
            chunk_free(*chunk_slot(lane, c));
    free(lane->chunks);
    free(lane->returned);
    lane_init(lane);
}

static int
grow_ring(struct lane *lane)
{
    uint32_t capacity = lane->chunk_capacity == 0 ? FIRST_CHUNK_CAPACITY : lane->chunk_capacity * 2;
    struct lane_chunk **chunks = calloc(capacity, sizeof(struct lane_chunk *));
    if (chunks == NULL)
        return -ENOMEM;
    for (uint64_t c = lane->first_chunk; c < chunk_end(lane); c++)
        chunks[c & (capacity - 1)] = *chunk_slot(lane, c);
    free(lane->chunks);
    lane->chunks = chunks;
    lane->chunk_capacity = capacity;
    return 0;
}

/* Makes the chunk that the next entry begins. */
static int
add_chunk(struct lane *lane)
{
    uint64_t chunk = chunk_of(lane->tail);
    if (chunk - lane->first_chunk >= lane->chunk_capacity && grow_ring(lane) != 0)
        return -ENOMEM;
    struct lane_chunk *fresh = chunk_new(false);
    if (fresh == NULL)
        return -ENOMEM;
    *chunk_slot(lane, chunk) = fresh;
    if (chunk > lane->first_chunk)
        pack(chunk_slot(lane, chunk - 1));
    return 0;
}

struct entry *
lane_push(struct lane *lane, uint64_t *sequence)
{
    uint64_t at = lane->tail;
    if (at % LANE_CHUNK_ENTRIES == 0 && add_chunk(lane) != 0)
        return NULL;
    struct lane_chunk *chunk = *chunk_slot(lane, chunk_of(at));
    struct entry *entry = &chunk->entries[at % LANE_CHUNK_ENTRIES];
    *entry = (struct entry){.state = ENTRY_READY, .deadline_ms = NEVER};
    chunk->live++;
    lane->live++;
    lane->tail++;
    lane->ready++;
    *sequence = at;
    return entry;
}

struct entry *
lane_at(const struct lane *lane, uint64_t sequence)
{
    if (sequence >= lane->tail || chunk_of(sequence) < lane->first_chunk)
        return NULL;
    struct lane_chunk *chunk = unpacked(chunk_slot(lane, chunk_of(sequence)));
    if (chunk == NULL)
        return NULL;
    struct entry *entry = &chunk->entries[sequence % LANE_CHUNK_ENTRIES];
    return entry->state == ENTRY_DEAD ? NULL : entry;
}

/* --- The heap of returned sequence numbers ---------------------------------------------------- */

static void
swap(uint64_t *a, uint64_t *b)
{
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

/* Forgets the returned ones: the cursor goes back to find them again, at the price of looking at
 * all that is behind the first of them. */
static void
returned_give_up(struct lane *lane, uint64_t sequence)
{
    if (lane->returned_count > 0 && lane->returned[0] < sequence)
        sequence = lane->returned[0];
    lane->cursor = sequence;
    free(lane->returned);
    lane->returned = NULL;
    lane->returned_count = lane->returned_capacity = 0;
}

static void
returned_push(struct lane *lane, uint64_t sequence)
{
    if (lane->returned_count == lane->returned_capacity) {
        uint32_t capacity =
            lane->returned_capacity == 0 ? FIRST_RETURNED_CAPACITY : lane->returned_capacity * 2;
        uint64_t *heap = realloc(lane->returned, capacity * sizeof(*heap));
        if (heap == NULL) {
            returned_give_up(lane, sequence);
            return;
        }
        lane->returned = heap;
        lane->returned_capacity = capacity;
    }
    uint32_t i = lane->returned_count++;
    lane->returned[i] = sequence;
    while (i > 0 && lane->returned[(i - 1) / 2] > lane->returned[i]) {
        swap(&lane->returned[(i - 1) / 2], &lane->returned[i]);
        i = (i - 1) / 2;
    }
}

static void
returned_pop(struct lane *lane)
{
    uint64_t *heap = lane->returned;
    uint32_t count = --lane->returned_count;
    heap[0] = heap[count];
    for (uint32_t i = 0;;) {
        uint32_t smallest = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2; child++)
            if (child < count && heap[child] < heap[smallest])
                smallest = child;
        if (smallest == i)
            break;
        swap(&heap[i], &heap[smallest]);
        i = smallest;
    }
    if (count == 0) {
        free(lane->returned);
        lane->returned = NULL;
        lane->returned_capacity = 0;
    }
}

/* --- Ready entries ---------------------------------------------------------------------------- */

/* There is no memory to unpack the entry's chunk: it must wait, and not count as dead. */
static bool
is_out_of_reach(const struct lane *lane, uint64_t sequence)
{
    if (chunk_of(sequence) < lane->first_chunk)
        return false;
    struct lane_chunk **slot = chunk_slot(lane, chunk_of(sequence));
    return *slot != NULL && unpacked(slot) == NULL;
}

struct entry *
lane_first_ready(struct lane *lane, uint64_t *sequence)
{
    if (lane->ready == 0)
        return NULL;
    while (lane->returned_count > 0) {
        if (is_out_of_reach(lane, lane->returned[0]))
            return NULL;
        struct entry *entry = lane_at(lane, lane->returned[0]);
        if (entry != NULL && entry->state == ENTRY_READY) {
            *sequence = lane->returned[0];
            return entry;
        }
        returned_pop(lane); /* it left from the middle meanwhile */
    }
    for (; lane->cursor < lane->tail; lane->cursor++) {
        if (is_out_of_reach(lane, lane->cursor))
            return NULL;
        struct entry *entry = lane_at(lane, lane->cursor);
        if (entry != NULL && entry->state == ENTRY_READY) {
            *sequence = lane->cursor;
            return entry;
        }
    }
    assert(lane->ready == 0); /* it counts ready entries that it does not have */
    return NULL;
}

void
lane_take(struct lane *lane, uint64_t sequence, struct entry *entry)
{
    assert(entry->state == ENTRY_READY && lane->ready > 0);
    entry->state = ENTRY_UNACKNOWLEDGED;
    lane->ready--;
    if (lane->returned_count > 0 && lane->returned[0] == sequence)
        returned_pop(lane);
    else if (sequence == lane->cursor)
        lane->cursor++;
}

void
lane_return(struct lane *lane, uint64_t sequence, struct entry *entry)
{
    assert(entry->state == ENTRY_UNACKNOWLEDGED);
    /* An entry that was taken from ahead of the cursor will be found by it again. */
    if (sequence < lane->cursor)
        returned_push(lane, sequence);
    entry->state = ENTRY_READY;
    lane->ready++;
}

static void
skip_freed_chunks(struct lane *lane)
{
    while (lane->first_chunk < chunk_end(lane) && *chunk_slot(lane, lane->first_chunk) == NULL)
        lane->first_chunk++;
}

static void
free_chunk(struct lane *lane, uint64_t number)
{
    struct lane_chunk **slot = chunk_slot(lane, number);
    /* The chunk that is being filled is kept until it is full: the next push goes there. */
    if (lane->tail < (number + 1) * LANE_CHUNK_ENTRIES)
        return;
    chunk_free(*slot);
    *slot = NULL;
    skip_freed_chunks(lane);
}

void
lane_remove(struct lane *lane, uint64_t sequence, struct entry *entry)
{
    assert(entry->state != ENTRY_DEAD);
    if (entry->state == ENTRY_READY)
        lane_take(lane, sequence, entry);
    uint64_t number = chunk_of(sequence);
    struct lane_chunk *chunk = *chunk_slot(lane, number);
    entry->state = ENTRY_DEAD;
    entry->message = NULL;
    /* Not before: what is unacknowledged may come back before messages with earlier deadlines. */
    if (--lane->live == 0)
        lane->latest_deadline_ms = INT64_MIN;
    if (--chunk->live == 0)
        free_chunk(lane, number);
}

int
lane_split(struct lane *lane, uint64_t from, struct lane *into)
{
    uint64_t first = chunk_of(from), end = chunk_end(lane);
    assert(from % LANE_CHUNK_ENTRIES == 0);
    lane_init(into);
    if (first >= end)
        return 0;
    uint32_t capacity = FIRST_CHUNK_CAPACITY;
    while (capacity < end - first)
        capacity *= 2;
    into->chunks = calloc(capacity, sizeof(struct lane_chunk *));
    if (into->chunks == NULL)
        return -ENOMEM;
    into->chunk_capacity = capacity;
    into->first_chunk = first;
    into->cursor = from;
    into->tail = lane->tail;
    into->ready = lane->ready;
    for (uint64_t c = first; c < end; c++) {
        *chunk_slot(into, c) = *chunk_slot(lane, c);
        *chunk_slot(lane, c) = NULL;
    }
    skip_freed_chunks(into);
    lane->ready = 0;
    lane->latest_deadline_ms = INT64_MIN;
    lane->cursor = lane->tail = end * LANE_CHUNK_ENTRIES;
    skip_freed_chunks(lane);
    return 0;
}

struct entry *
lane_next(const struct lane *lane, uint64_t *sequence)
{
    uint64_t at = *sequence;
    if (chunk_of(at) < lane->first_chunk)
        at = lane->first_chunk * LANE_CHUNK_ENTRIES;
    while (at < lane->tail) {
        if (*chunk_slot(lane, chunk_of(at)) == NULL) {
            at = (chunk_of(at) + 1) * LANE_CHUNK_ENTRIES;
            continue;
        }
        struct entry *entry = lane_at(lane, at++);
        if (entry != NULL) {
            *sequence = at;
            return entry;
        }
    }
    *sequence = lane->tail;
    return NULL;
}
