/* A hash map from byte strings to pointers, which copies no keys.
 *
 * Open addressing with linear probing over (hash, pointer) pairs; the key is read out of the value
 * by the function given at the start, so it lives, and stays unchanged, in the value as long as the
 * value is in the map. Hashes are keyed per process (base/hash.h). The map does not own its values.
 *
 * An empty map holds no memory. The table grows at 3/4, and shrinks at an insertion that finds it
 * less than 1/8 full, or when the last value goes. Removing leaves a tombstone and moves nothing,
 * which is what makes removal safe while one iterates. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"

struct map_slot {
    uint64_t hash;
    void *value; /* NULL: free; map_tombstone: removed */
};

struct map {
    struct map_slot *slots;
    size_t capacity; /* 0 or a power of two */
    size_t count;    /* values */
    size_t used;     /* values and tombstones */
    size_t layout;   /* counts how often the values have got other slots */
    struct slice (*key_of)(const void *value);
};

/* An empty map; allocates nothing. */
void map_init(struct map *map, struct slice (*key_of)(const void *value));

/* Frees the table (not the values) and leaves an empty map. */
void map_fini(struct map *map);

/* The value with this key, or NULL. */
void *map_find(const struct map *map, struct slice key);

/* Puts a value, not NULL, in under its key. -EEXIST when there is one with that key (the map is
 * unchanged), -ENOMEM. Not allowed while one iterates. */
MUST_CHECK int map_insert(struct map *map, void *value);

/* Takes the value with this key out and returns it, or NULL. */
void *map_remove(struct map *map, struct slice key);

/* Iterates in no particular order: start with *cursor 0, ends with NULL. Meanwhile any value may be
 * removed with map_remove (and then freed), none inserted; a value that is removed before its turn
 * is not seen. (Where some have been inserted all the same, the others are still seen once each, as
 * long as map->layout is what it was.) */
void *map_next(const struct map *map, size_t *cursor);

static inline size_t
map_count(const struct map *map)
{
    return map->count;
}

#endif
