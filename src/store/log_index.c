/* The index of live messages: an open-addressing table of small chunks. */
#include "store/log_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "store/log_record.h"

enum {
    CHUNK_BITS = 6,
    CHUNK_IDS = 1 << CHUNK_BITS,
    TABLE_CAPACITY_MIN = 64,
};

/* A slot of a chunk is one word: flags in the low byte, then 24 bits of file, 32 of ordinal. */
enum slot_flags {
    SLOT_USED = 1 << 0,
    SLOT_DETAIL = 1 << 1,
    SLOT_TRANSIENT = 1 << 2,
    SLOT_PENDING = 1 << 3,
};

struct index_chunk {
    uint64_t number; /* id >> CHUNK_BITS */
    uint32_t used;
    uint64_t slots[CHUNK_IDS];
};

/* ---- table of id to pointer: linear probing, no tombstones ---- */

static size_t
table_home(const struct id_table *table, uint64_t key)
{
    uint64_t hash = key * 0x9e3779b97f4a7c15U;
    return (size_t)(hash >> 32 ^ hash) & (table->capacity - 1);
}

static size_t
table_seek(const struct id_table *table, uint64_t key)
{
    size_t at = table_home(table, key);
    while (table->values[at] != NULL && table->keys[at] != key)
        at = (at + 1) & (table->capacity - 1);
    return at;
}

static void *
table_find(const struct id_table *table, uint64_t key)
{
    return table->count == 0 ? NULL : table->values[table_seek(table, key)];
}

static int
table_grow(struct id_table *table)
{
    struct id_table larger = {
        .capacity = table->capacity == 0 ? TABLE_CAPACITY_MIN : table->capacity * 2,
        .count = table->count,
    };
    larger.keys = calloc(larger.capacity, sizeof(*larger.keys));
    larger.values = calloc(larger.capacity, sizeof(*larger.values));
    if (larger.keys == NULL || larger.values == NULL) {
        free(larger.keys);
        free(larger.values);
        return -ENOMEM;
    }
    for (size_t i = 0; i < table->capacity; i++) {
        if (table->values[i] == NULL)
            continue;
        size_t at = table_seek(&larger, table->keys[i]);
        larger.keys[at] = table->keys[i];
        larger.values[at] = table->values[i];
    }
    free(table->keys);
    free(table->values);
    *table = larger;
    return 0;
}

static int
table_put(struct id_table *table, uint64_t key, void *value)
{
    if ((table->count + 1) * 3 > table->capacity * 2) {
        int error = table_grow(table);
        if (error != 0)
            return error;
    }
    size_t at = table_seek(table, key);
    if (table->values[at] == NULL)
        table->count++;
    table->keys[at] = key;
    table->values[at] = value;
    return 0;
}

static void
table_remove(struct id_table *table, uint64_t key)
{
    if (table->count == 0)
        return;
    size_t hole = table_seek(table, key);
    if (table->values[hole] == NULL)
        return;
    table->count--;
    size_t mask = table->capacity - 1;
    for (size_t next = (hole + 1) & mask; table->values[next] != NULL; next = (next + 1) & mask) {
        size_t home = table_home(table, table->keys[next]);
        /* It may fill the hole unless its home lies behind the hole. */
        if (((next - home) & mask) >= ((next - hole) & mask)) {
            table->keys[hole] = table->keys[next];
            table->values[hole] = table->values[next];
            hole = next;
        }
    }
    table->values[hole] = NULL;
}

static void
table_fini(struct id_table *table)
{
    for (size_t i = 0; i < table->capacity; i++)
        free(table->values[i]);
    free(table->keys);
    free(table->values);
    *table = (struct id_table){0};
}

/* ---- the index ---- */

void
log_index_init(struct log_index *index)
{
    *index = (struct log_index){0};
}

void
log_index_fini(struct log_index *index)
{
    table_fini(&index->chunks);
    table_fini(&index->details);
    *index = (struct log_index){0};
}

static uint64_t
slot_of(const struct place *place)
{
    return SLOT_USED | (place->is_pending ? SLOT_PENDING : 0U)
           | (place->is_transient ? SLOT_TRANSIENT : 0U) | (place->has_detail ? SLOT_DETAIL : 0U)
           | (uint64_t)place->slot << 8 | (uint64_t)place->ordinal << 32;
}

static struct place
place_of(uint64_t slot)
{
    return (struct place){
        .slot = (uint32_t)(slot >> 8) & (INDEX_SLOTS_MAX - 1),
        .ordinal = (uint32_t)(slot >> 32),
        .is_pending = (slot & SLOT_PENDING) != 0,
        .is_transient = (slot & SLOT_TRANSIENT) != 0,
        .has_detail = (slot & SLOT_DETAIL) != 0,
    };
}

static uint64_t *
slot_find(struct log_index *index, uint64_t id)
{
    if (index->last == NULL || index->last->number != id >> CHUNK_BITS) {
        struct index_chunk *chunk = table_find(&index->chunks, id >> CHUNK_BITS);
        if (chunk == NULL)
            return NULL;
        index->last = chunk;
    }
    uint64_t *slot = &index->last->slots[id & (CHUNK_IDS - 1)];
    return (*slot & SLOT_USED) != 0 ? slot : NULL;
}

static uint64_t *
slot_make(struct log_index *index, uint64_t id)
{
    uint64_t *slot = slot_find(index, id);
    if (slot != NULL)
        return slot;
    struct index_chunk *chunk = table_find(&index->chunks, id >> CHUNK_BITS);
    if (chunk == NULL) {
        chunk = calloc(1, sizeof(*chunk));
        if (chunk == NULL)
            return NULL;
        chunk->number = id >> CHUNK_BITS;
        if (table_put(&index->chunks, chunk->number, chunk) != 0) {
            free(chunk);
            return NULL;
        }
        memory_count(sizeof(*chunk));
    }
    index->last = chunk;
    chunk->used++;
    index->messages++;
    slot = &chunk->slots[id & (CHUNK_IDS - 1)];
    *slot = SLOT_USED;
    return slot;
}

static void
detail_drop(struct log_index *index, uint64_t id)
{
    struct log_detail *detail = table_find(&index->details, id);
    table_remove(&index->details, id);
    free(detail);
}

static struct log_detail *
detail_make(struct log_index *index, uint64_t id, uint32_t count)
{
    struct log_detail *detail =
        calloc(1, sizeof(*detail) + (size_t)count * sizeof(detail->queues[0]));
    if (detail == NULL)
        return NULL;
    detail->count = detail->live = count;
    if (table_put(&index->details, id, detail) != 0) {
        free(detail);
        return NULL;
    }
    return detail;
}

static void
slot_clear(struct log_index *index, uint64_t id, uint64_t *slot)
{
    if ((*slot & SLOT_DETAIL) != 0)
        detail_drop(index, id);
    *slot = 0;
    index->messages--;
    struct index_chunk *chunk = index->last;
    assert(chunk->number == id >> CHUNK_BITS);
    if (--chunk->used == 0) {
        table_remove(&index->chunks, chunk->number);
        free(chunk);
        memory_count(-(int64_t)sizeof(*chunk));
        index->last = NULL;
    }
}

int
log_index_put(struct log_index *index, const struct record_publish *publish,
              const struct place *place)
{
    uint64_t *slot = slot_make(index, publish->id);
    if (slot == NULL)
        return -ENOMEM;
    if ((*slot & SLOT_DETAIL) != 0)
        detail_drop(index, publish->id);
    struct place entry = *place;
    entry.has_detail = publish->queue_count > 1 || publish->counts != NULL;
    *slot = slot_of(&entry) & ~(uint64_t)SLOT_DETAIL;
    if (!entry.has_detail)
        return 0;
    struct log_detail *detail = detail_make(index, publish->id, publish->queue_count);
    if (detail == NULL) {
        slot_clear(index, publish->id, slot);
        return -ENOMEM;
    }
    *slot |= SLOT_DETAIL;
    for (uint32_t i = 0; i < publish->queue_count; i++)
        detail->queues[i] = (struct detail_queue){
            .queue_id = get_u64(publish->queue_ids + 8 * (size_t)i),
            .delivery_count =
                publish->counts == NULL ? 0 : get_u32(publish->counts + 4 * (size_t)i),
            .is_live = true,
        };
    return 0;
}

void
log_index_move(struct log_index *index, uint64_t id, const struct place *place)
{
    uint64_t *slot = slot_find(index, id);
    assert(slot != NULL);
    uint64_t detail = *slot & SLOT_DETAIL;
    *slot = (slot_of(place) & ~(uint64_t)SLOT_DETAIL) | detail;
}

bool
log_index_find(struct log_index *index, uint64_t id, struct place *place)
{
    const uint64_t *slot = slot_find(index, id);
    if (slot == NULL)
        return false;
    *place = place_of(*slot);
    return true;
}

bool
log_index_peek(const struct log_index *index, uint64_t id, struct place *place)
{
    const struct index_chunk *chunk = table_find(&index->chunks, id >> CHUNK_BITS);
    if (chunk == NULL || (chunk->slots[id & (CHUNK_IDS - 1)] & SLOT_USED) == 0)
        return false;
    *place = place_of(chunk->slots[id & (CHUNK_IDS - 1)]);
    return true;
}

struct log_detail *
log_index_detail(const struct log_index *index, uint64_t id)
{
    return table_find(&index->details, id);
}

static struct detail_queue *
detail_find(struct log_detail *detail, uint64_t queue_id)
{
    uint32_t low = 0, high = detail->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (detail->queues[middle].queue_id < queue_id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == detail->count || detail->queues[low].queue_id != queue_id
        || !detail->queues[low].is_live)
        return NULL;
    return &detail->queues[low];
}

enum settle_result
log_index_settle(struct log_index *index, uint64_t queue_id, uint64_t id, struct place *place)
{
    uint64_t *slot = slot_find(index, id);
    if (slot == NULL)
        return SETTLE_UNKNOWN;
    *place = place_of(*slot);
    if (place->has_detail) {
        struct log_detail *detail = log_index_detail(index, id);
        struct detail_queue *queue = detail_find(detail, queue_id);
        if (queue == NULL)
            return SETTLE_UNKNOWN;
        queue->is_live = false;
        if (--detail->live > 0)
            return SETTLE_PART;
    }
    slot_clear(index, id, slot);
    return SETTLE_LAST;
}

void
log_index_remove(struct log_index *index, uint64_t id)
{
    uint64_t *slot = slot_find(index, id);
    if (slot != NULL)
        slot_clear(index, id, slot);
}

int
log_index_redelivered(struct log_index *index, uint64_t queue_id, uint64_t id,
                      uint32_t delivery_count)
{
    uint64_t *slot = slot_find(index, id);
    if (slot == NULL)
        return 0;
    struct log_detail *detail;
    if ((*slot & SLOT_DETAIL) == 0) {
        detail = detail_make(index, id, 1);
        if (detail == NULL)
            return -ENOMEM;
        *slot |= SLOT_DETAIL;
        detail->queues[0] = (struct detail_queue){.queue_id = queue_id, .is_live = true};
    } else {
        detail = log_index_detail(index, id);
    }
    struct detail_queue *queue = detail_find(detail, queue_id);
    if (queue == NULL)
        return 0;
    queue->delivery_count = delivery_count;
    return 1;
}
