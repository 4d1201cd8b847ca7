/* The hash map: see base/map.h for the idea. */
#include "base/map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"

enum { MAP_CAPACITY_MIN = 8 };

/* Its address marks a slot whose value was removed: a search goes on behind it. */
static char tombstone;

static inline bool
is_value(const void *value)
{
    return value != NULL && value != &tombstone;
}

void
map_init(struct map *map, struct slice (*key_of)(const void *value))
{
    *map = (struct map){.key_of = key_of};
}

void
map_fini(struct map *map)
{
    size_t layout = map->layout + 1;

    free(map->slots);
    map_init(map, map->key_of);
    map->layout = layout;
}

/* The slot of the key, or NULL. *place, if asked for, is where it would be put. The table has a
 * capacity and at least one free slot. */
static struct map_slot *
find_slot(const struct map *map, struct slice key, uint64_t hash, struct map_slot **place)
{
    size_t mask = map->capacity - 1;
    struct map_slot *grave = NULL;

    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct map_slot *slot = &map->slots[i];

        if (slot->value == NULL) {
            if (place != NULL)
                *place = grave != NULL ? grave : slot;
            return NULL;
        }
        if (slot->value == &tombstone) {
            if (grave == NULL)
                grave = slot;
        } else if (slot->hash == hash && slice_equal(map->key_of(slot->value), key)) {
            return slot;
        }
    }
}

void *
map_find(const struct map *map, struct slice key)
{
    struct map_slot *slot;

    if (map->count == 0)
        return NULL;
    slot = find_slot(map, key, hash_slice(key), NULL);
    return slot != NULL ? slot->value : NULL;
}

/* Moves all values to a new table without tombstones. */
MUST_CHECK static int
rebuild(struct map *map, size_t capacity)
{
    struct map_slot *slots = calloc(capacity, sizeof(*slots));
    size_t mask = capacity - 1;

    if (slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < map->capacity; i++) {
        if (!is_value(map->slots[i].value))
            continue;
        size_t to = map->slots[i].hash & mask;

        while (slots[to].value != NULL)
            to = (to + 1) & mask;
        slots[to] = map->slots[i];
    }
    free(map->slots);
    map->slots = slots;
    map->capacity = capacity;
    map->used = map->count;
    map->layout++;
    return 0;
}

/* Sees to it that one more value fits, and that the table is not far too large. The new table is
 * between 1/4 and 1/2 full, so that the next rebuilding is as many operations away. */
MUST_CHECK static int
make_room(struct map *map)
{
    size_t wanted = MAP_CAPACITY_MIN;
    bool is_full = (map->used + 1) > map->capacity / 4 * 3;
    bool is_sparse = map->capacity > MAP_CAPACITY_MIN && map->count + 1 < map->capacity / 8;
    int result;

    if (!is_full && !is_sparse)
        return 0;
    while (wanted / 2 < map->count + 1)
        wanted *= 2;
    result = rebuild(map, wanted);
    return is_full ? result : 0; /* a table that could not be made smaller will do */
}

int
map_insert(struct map *map, void *value)
{
    struct slice key = map->key_of(value);
    uint64_t hash = hash_slice(key);
    struct map_slot *place;
    int result;

    assert(is_value(value));
    if (map->count != 0 && find_slot(map, key, hash, NULL) != NULL)
        return -EEXIST;
    result = make_room(map);
    if (result != 0)
        return result;
    (void)find_slot(map, key, hash, &place);
    if (place->value == NULL)
        map->used++;
    place->hash = hash;
    place->value = value;
    map->count++;
    return 0;
}

void *
map_remove(struct map *map, struct slice key)
{
    size_t mask = map->capacity - 1;
    struct map_slot *slot;
    void *value;

    if (map->count == 0)
        return NULL;
    slot = find_slot(map, key, hash_slice(key), NULL);
    if (slot == NULL)
        return NULL;
    value = slot->value;
    slot->value = &tombstone;
    map->count--;
    if (map->count == 0) {
        map_fini(map);
        return value;
    }
    /* Tombstones before a free slot stop no search: free them. */
    for (size_t i = (size_t)(slot - map->slots);
         map->slots[i].value == &tombstone && map->slots[(i + 1) & mask].value == NULL;
         i = (i - 1) & mask) {
        map->slots[i].value = NULL;
        map->used--;
    }
    return value;
}

void *
map_next(const struct map *map, size_t *cursor)
{
    while (*cursor < map->capacity) {
        void *value = map->slots[(*cursor)++].value;

        if (is_value(value))
            return value;
    }
    return NULL;
}
