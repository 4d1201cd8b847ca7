/* Looking up headers: see the header. Open addressing; a slot points at its entry in the table. */
#include "broker/header_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* So many headers are looked at one after the other, in whatever number of questions, before an
 * index is made. */
enum { LOOKED_AT_MAX = 512 };

struct header_slot {
    struct amqp_table_iterator at; /* before the entry; .at is NULL: the slot is free */
    uint64_t hash;
};

void
header_index_begin(struct header_index *index, struct slice headers)
{
    index->headers = headers;
    index->looked_at = 0;
    index->is_built = false;
}

void
header_index_fini(struct header_index *index)
{
    free(index->slots);
    *index = (struct header_index){0};
}

/* At least twice as many slots as entries, all of them free. */
MUST_CHECK static int
clear_slots(struct header_index *index, size_t entries)
{
    size_t count = 64;
    while (count < 2 * entries)
        count *= 2;
    if (count > index->capacity) {
        free(index->slots);
        index->slots = malloc(count * sizeof(*index->slots));
        index->capacity = index->slots != NULL ? count : 0;
        if (index->slots == NULL)
            return -ENOMEM;
    }
    index->slot_count = count;
    memset(index->slots, 0, count * sizeof(*index->slots));
    return 0;
}

/* The slot of the name, with its value; a free one if there is none. */
static struct header_slot *
find_slot(const struct header_index *index, struct slice name, uint64_t hash,
          struct amqp_value *value)
{
    for (size_t i = hash;; i++) {
        struct header_slot *slot = &index->slots[i & (index->slot_count - 1)];
        struct amqp_table_iterator at = slot->at;
        struct slice found;
        if (slot->at.at == NULL
            || (slot->hash == hash && amqp_table_next(&at, &found, value) == 1
                && slice_equal(found, name)))
            return slot;
    }
}

static int
build(struct header_index *index)
{
    struct amqp_table_iterator at = amqp_table_begin(index->headers), before = at;
    struct amqp_value value, other;
    struct slice name;
    size_t count = 0;
    while (amqp_table_next(&at, &name, &value) == 1)
        count++;
    int status = clear_slots(index, count);
    if (status != 0)
        return status;
    for (at = before; amqp_table_next(&at, &name, &value) == 1; before = at) {
        uint64_t hash = hash_slice(name);
        struct header_slot *slot = find_slot(index, name, hash, &other);
        if (slot->at.at == NULL)
            *slot = (struct header_slot){.at = before, .hash = hash};
    }
    index->is_built = true;
    return 0;
}

/* As amqp_table_find, with the count. */
static bool
look(struct header_index *index, struct slice name, struct amqp_value *value)
{
    struct amqp_table_iterator at = amqp_table_begin(index->headers);
    struct slice found;
    while (amqp_table_next(&at, &found, value) == 1) {
        index->looked_at++;
        if (slice_equal(found, name))
            return true;
    }
    return false;
}

int
header_index_find(struct header_index *index, struct slice name, struct amqp_value *value)
{
    if (!index->is_built) {
        if (index->looked_at < LOOKED_AT_MAX)
            return look(index, name, value);
        int status = build(index);
        if (status != 0)
            return status;
    }
    return find_slot(index, name, hash_slice(name), value)->at.at != NULL;
}
