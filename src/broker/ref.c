/* The slot table behind references. */
#include "broker/ref.h"

#include <assert.h>
#include <stdlib.h>

enum { NO_SLOT = UINT32_MAX, FIRST_SIZE = 16 };

#define GENERATION_MASK ((1U << (32 - REF_SHARD_BITS)) - 1)

void
ref_table_init(struct ref_table *table, uint32_t shard)
{
    assert(shard < SHARDS_MAX);
    *table = (struct ref_table){.first_free = NO_SLOT, .shard = shard};
}

void
ref_table_fini(struct ref_table *table)
{
    free(table->slots);
    *table = (struct ref_table){.first_free = NO_SLOT};
}

static bool
grow(struct ref_table *table)
{
    uint32_t size = table->size == 0 ? FIRST_SIZE : table->size * 2;
    if (size <= table->size)
        return false;
    struct ref_slot *slots = realloc(table->slots, size * sizeof(*slots));
    if (slots == NULL)
        return false;
    table->slots = slots;
    for (uint32_t i = size; i-- > table->size;) {
        slots[i] = (struct ref_slot){.generation = 1, .next_free = table->first_free};
        table->first_free = i;
    }
    table->size = size;
    return true;
}

struct ref
ref_table_add(struct ref_table *table, void *object)
{
    assert(object != NULL);
    if (table->first_free == NO_SLOT && !grow(table))
        return REF_NONE;
    uint32_t index = table->first_free;
    struct ref_slot *slot = &table->slots[index];
    table->first_free = slot->next_free;
    slot->object = object;
    table->in_use++;
    return (struct ref){.slot = index,
                        .shard = table->shard & (SHARDS_MAX - 1),
                        .generation = slot->generation & GENERATION_MASK};
}

void
ref_table_remove(struct ref_table *table, struct ref ref)
{
    assert(ref_table_find(table, ref) != NULL);
    struct ref_slot *slot = &table->slots[ref.slot];
    slot->object = NULL;
    slot->generation = (slot->generation + 1) & GENERATION_MASK;
    if (slot->generation == 0) /* wrapped: zero means "no reference" */
        slot->generation = 1;
    slot->next_free = table->first_free;
    table->first_free = ref.slot;
    table->in_use--;
}
