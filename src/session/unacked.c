/* The ring of unsettled deliveries: see the header. */
#include "session/unacked.h"

#include <stdlib.h>

#include "base/memory.h"

enum { FIRST_CAPACITY = 16, KEPT_CAPACITY = 64 };

void
unacked_init(struct unacked *unacked)
{
    *unacked = (struct unacked){.base = 1, .next = 1};
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
    unacked->capacity = 0;
}

static int
grow(struct unacked *unacked)
{
    uint32_t capacity = unacked->capacity == 0 ? FIRST_CAPACITY : 2 * unacked->capacity;
    struct unacked_entry *entries =
        capacity == 0 ? NULL : malloc((size_t)capacity * sizeof(*entries));
    if (entries == NULL)
        return -1;
    for (uint64_t tag = unacked->base; tag < unacked->next; tag++)
        entries[tag & (capacity - 1)] = *unacked_at(unacked, tag);
    count_memory((int64_t)capacity - unacked->capacity);
    free(unacked->entries);
    unacked->entries = entries;
    unacked->capacity = capacity;
    return 0;
}

struct unacked_entry *
unacked_add(struct unacked *unacked, uint64_t *delivery_tag)
{
    if (unacked->next - unacked->base == unacked->capacity && grow(unacked) != 0)
        return NULL;
    *delivery_tag = unacked->next++;
    unacked->outstanding++;
    struct unacked_entry *entry = unacked_at(unacked, *delivery_tag);
    entry->state = UNACKED_OUTSTANDING;
    entry->deadline_s = UNACKED_FOREVER;
    return entry;
}

uint64_t
unacked_skip(struct unacked *unacked)
{
    uint64_t delivery_tag = unacked->next;
    if (unacked->base == unacked->next) {
        unacked->base = ++unacked->next;
        return delivery_tag;
    }
    struct unacked_entry *entry = unacked_add(unacked, &delivery_tag);
    if (entry == NULL)
        return 0;
    unacked_remove(unacked, entry);
    return delivery_tag;
}

struct unacked_entry *
unacked_find(struct unacked *unacked, uint64_t delivery_tag)
{
    if (delivery_tag < unacked->base || delivery_tag >= unacked->next)
        return NULL;
    struct unacked_entry *entry = unacked_at(unacked, delivery_tag);
    return entry->state == UNACKED_OUTSTANDING ? entry : NULL;
}

struct unacked_entry *
unacked_first(struct unacked *unacked, uint64_t *delivery_tag)
{
    for (uint64_t tag = unacked->base; tag < unacked->next; tag++) {
        if (unacked_at(unacked, tag)->state == UNACKED_OUTSTANDING) {
            *delivery_tag = tag;
            return unacked_at(unacked, tag);
        }
    }
    return NULL;
}

const struct unacked_entry *
unacked_most_urgent(const struct unacked *unacked)
{
    const struct unacked_entry *urgent = NULL;
    for (uint64_t tag = unacked->base; tag < unacked->next; tag++) {
        const struct unacked_entry *entry = unacked_at(unacked, tag);
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
    while (unacked->base < unacked->next
           && unacked_at(unacked, unacked->base)->state == UNACKED_HOLE)
        unacked->base++;
    if (unacked->base == unacked->next && unacked->capacity > KEPT_CAPACITY)
        unacked_fini(unacked);
}
