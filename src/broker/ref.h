/* References: how one part of the broker addresses another without holding a pointer to it.
 *
 * A reference names a slot in a shard's table, and the generation of what was in it when the
 * reference was taken. Whoever receives one looks it up on the shard it names; if the object has
 * gone meanwhile the look-up finds nothing, and the answer that was meant for it falls on the floor
 * harmlessly. References may be copied, sent to other shards and kept for as long as one likes. */
#ifndef BROKER_REF_H
#define BROKER_REF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REF_SHARD_BITS = 6,
    SHARDS_MAX = 1 << REF_SHARD_BITS,
};

struct ref {
    uint32_t slot;
    uint32_t shard : REF_SHARD_BITS;
    uint32_t generation : 32 - REF_SHARD_BITS; /* 0 is no generation: an all-zero ref is no ref */
};

#define REF_NONE ((struct ref){0})

static inline bool
ref_is_none(struct ref ref)
{
    return ref.generation == 0;
}

static inline bool
ref_equal(struct ref a, struct ref b)
{
    return a.slot == b.slot && a.shard == b.shard && a.generation == b.generation;
}

/* The slots of one shard: reference to object. Used by its own shard only. */
struct ref_slot {
    void *object;
    uint32_t generation;
    uint32_t next_free;
};

struct ref_table {
    struct ref_slot *slots;
    uint32_t size, first_free, in_use;
    uint32_t shard;
};

void ref_table_init(struct ref_table *table, uint32_t shard);
void ref_table_fini(struct ref_table *table);

/* Gives the object a slot. REF_NONE when memory ran out. */
struct ref ref_table_add(struct ref_table *table, void *object);

/* Takes the object out: every reference to it is dead from now on. */
void ref_table_remove(struct ref_table *table, struct ref ref);

/* The object, or NULL when it has gone. The reference must be one of this shard's. */
static inline void *
ref_table_find(const struct ref_table *table, struct ref ref)
{
    if (ref.slot >= table->size)
        return NULL;
    const struct ref_slot *slot = &table->slots[ref.slot];
    return slot->generation == ref.generation ? slot->object : NULL;
}

#endif
