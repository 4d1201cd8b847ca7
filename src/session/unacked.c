/* The ring of unsettled deliveries: see the header. */
#include "session/unacked.h"

#include <assert.h>
#include <stdlib.h>

#include "base/memory.h"

enum { FIRST_CAPACITY = 16, KEPT_CAPACITY = 64 };

void
unacked_init(struct unacked *unacked)
{
    *unacked = (struct unacked){.next = 1};
}

/* So many entries more; fewer, when negative. */
static void
count_memory(int64_t entries)
{
    memory_count(entries * (int64_t)sizeof(struct unacked_entry));
}

void
unacked_fini(struct unacked *unacked)
{
    count_memory(-(int64_t)unacked->capacity);
    free(unacked->entries);
    unacked->entries = NULL;
    unacked->capacity = unacked->first = unacked->count = 0;
}

/* Entry number i of the ring, holes included. */
static struct unacked_entry *
entry_at(const struct unacked *unacked, uint32_t i)
{
    return &unacked->entries[(unacked->first + i) & (unacked->capacity - 1)];
}

/* How many entries have tags before this one. */
static uint32_t
count_before(const struct unacked *unacked, uint64_t delivery_tag)
{
    if (unacked->count == 0 || delivery_tag <= entry_at(unacked, 0)->delivery_tag)
        return 0;
    uint64_t distance = delivery_tag - entry_at(unacked, 0)->delivery_tag;
    uint32_t low = 0, high = unacked->count;
    if (distance < unacked->count) {
        high = (uint32_t)distance; /* where it is if no tag is missing, else before */
        if (LIKELY(entry_at(unacked, high)->delivery_tag == delivery_tag))
            return high;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (entry_at(unacked, middle)->delivery_tag < delivery_tag)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Sweeps the holes out. */
static void
sweep(struct unacked *unacked)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < unacked->count; i++)
        if (entry_at(unacked, i)->state != UNACKED_HOLE)
            *entry_at(unacked, kept++) = *entry_at(unacked, i);
    unacked->count = kept;
}

static int
grow(struct unacked *unacked)
{
    uint32_t capacity = unacked->capacity == 0 ? FIRST_CAPACITY : 2 * unacked->capacity;
    struct unacked_entry *entries =
        capacity == 0 ? NULL : malloc((size_t)capacity * sizeof(*entries));
    if (entries == NULL)
        return -1;
    for (uint32_t i = 0; i < unacked->count; i++)
        entries[i] = *entry_at(unacked, i);
    count_memory((int64_t)capacity - unacked->capacity);
    free(unacked->entries);
    unacked->entries = entries;
    unacked->capacity = capacity;
    unacked->first = 0;
    return 0;
}

struct unacked_entry *
unacked_add(struct unacked *unacked, uint64_t *delivery_tag)
{
    if (unacked->count == unacked->capacity) {
        if (unacked->capacity > 0 && unacked->outstanding <= unacked->capacity / 2)
            sweep(unacked); /* as much work as growing, and as seldom */
        else if (grow(unacked) != 0)
            return NULL;
    }
    struct unacked_entry *entry = entry_at(unacked, unacked->count++);
    *delivery_tag = unacked->next++;
    unacked->outstanding++;
    entry->delivery_tag = *delivery_tag;
    entry->state = UNACKED_OUTSTANDING;
    entry->deadline_s = UNACKED_FOREVER;
    return entry;
}

uint64_t
unacked_skip(struct unacked *unacked)
{
    return unacked->next++;
}

struct unacked_entry *
unacked_at(const struct unacked *unacked, uint64_t delivery_tag)
{
    uint32_t i = count_before(unacked, delivery_tag);
    assert(i < unacked->count && entry_at(unacked, i)->delivery_tag == delivery_tag);
    return entry_at(unacked, i);
}

struct unacked_entry *
unacked_find(struct unacked *unacked, uint64_t delivery_tag)
{
    uint32_t i = count_before(unacked, delivery_tag);
    if (i == unacked->count)
        return NULL;
    struct unacked_entry *entry = entry_at(unacked, i);
    return entry->delivery_tag == delivery_tag && entry->state == UNACKED_OUTSTANDING ? entry
                                                                                      : NULL;
}

struct unacked_entry *
unacked_from(const struct unacked *unacked, uint64_t *delivery_tag)
{
    for (uint32_t i = count_before(unacked, *delivery_tag); i < unacked->count; i++) {
        struct unacked_entry *entry = entry_at(unacked, i);
        if (entry->state == UNACKED_HOLE)
            continue;
        *delivery_tag = entry->delivery_tag;
        return entry;
    }
    return NULL;
}

const struct unacked_entry *
unacked_most_urgent(const struct unacked *unacked)
{
    const struct unacked_entry *urgent = NULL;
    for (uint32_t i = 0; i < unacked->count; i++) {
        const struct unacked_entry *entry = entry_at(unacked, i);
        if (entry->state == UNACKED_OUTSTANDING
            && entry->deadline_s < (urgent == NULL ? UNACKED_FOREVER : urgent->deadline_s))
            urgent = entry;
    }
    return urgent;
}

void
unacked_remove(struct unacked *unacked, struct unacked_entry *entry)
{
    entry->state = UNACKED_HOLE;
    unacked->outstanding--;
}

void
unacked_trim(struct unacked *unacked)
{
    while (unacked->count > 0 && entry_at(unacked, 0)->state == UNACKED_HOLE) {
        unacked->first = (unacked->first + 1) & (unacked->capacity - 1);
        unacked->count--;
    }
    if (unacked->count == 0 && unacked->capacity > KEPT_CAPACITY)
        unacked_fini(unacked);
}
