/* The route cache: see the header. */
#include "session/route_cache.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 4 + 2 * 256 };

static struct slice
key_of_entry(const void *value)
{
    const struct cached_route *entry = value;
    return (struct slice){entry->key, entry->key_size};
}

void
route_cache_init(struct route_cache *cache)
{
    *cache = (struct route_cache){.epoch = 1};
    map_init(&cache->map, key_of_entry);
    route_init(&cache->scratch);
}

static void
forget_all(struct route_cache *cache)
{
    void *value;
    for (size_t cursor = 0; (value = map_next(&cache->map, &cursor)) != NULL;) {
        struct cached_route *entry = value;
        map_remove(&cache->map, key_of_entry(entry));
        route_fini(&entry->route);
        free(entry);
    }
    cache->epoch++;
}

void
route_cache_fini(struct route_cache *cache)
{
    forget_all(cache);
    map_fini(&cache->map);
    route_fini(&cache->scratch);
}

static size_t
make_key(char *key, struct vhost *vhost, struct slice prefix)
{
    uint32_t id = vhost_id(vhost);
    memcpy(key, &id, sizeof(id));
    memcpy(key + sizeof(id), prefix.data, prefix.size);
    return sizeof(id) + prefix.size;
}

/* Keeps the answer in the scratch route under the key. NULL: not kept. */
static struct cached_route *
keep(struct route_cache *cache, const char *key, size_t key_size)
{
    if (map_count(&cache->map) >= ROUTE_CACHE_MAX)
        forget_all(cache);
    struct cached_route *entry = malloc(sizeof(*entry) + key_size);
    if (entry == NULL)
        return NULL;
    entry->key_size = key_size;
    memcpy(entry->key, key, key_size);
    entry->route = cache->scratch;
    if (map_insert(&cache->map, entry) != 0) {
        free(entry);
        return NULL;
    }
    route_init(&cache->scratch);
    return entry;
}

static bool
hint_is_right(const struct route_cache *cache, const struct route_hint *hint, struct vhost *vhost,
              struct slice prefix)
{
    uint32_t id = vhost_id(vhost);
    return hint->epoch == cache->epoch && hint->entry->key_size == prefix.size + sizeof(id)
           && memcmp(hint->entry->key, &id, sizeof(id)) == 0
           && memcmp(hint->entry->key + sizeof(id), prefix.data, prefix.size) == 0;
}

const struct route *
route_cache_find(struct route_cache *cache, struct catalogue *catalogue, struct vhost *vhost,
                 struct slice prefix, const struct route_request *request, int64_t now_ms,
                 struct route_hint *hint)
{
    uint64_t generation = catalogue_generation(catalogue);
    if (generation != cache->generation) {
        forget_all(cache);
        cache->generation = generation;
    }
    bool is_plain = request->more_key_count == 0;
    if (is_plain && hint_is_right(cache, hint, vhost, prefix))
        return &hint->entry->route;
    char key[KEY_MAX];
    size_t key_size = make_key(key, vhost, prefix);
    if (is_plain) {
        struct cached_route *entry = map_find(&cache->map, (struct slice){key, key_size});
        if (entry != NULL) {
            *hint = (struct route_hint){cache->epoch, entry};
            return &entry->route;
        }
    }
    cache->asked++;
    if (catalogue_route(catalogue, vhost, request, now_ms, &cache->scratch) != 0)
        return NULL;
    if (!is_plain || cache->scratch.depends_on_message
        || cache->scratch.generation != cache->generation || cache->scratch.status != ROUTE_OK)
        return &cache->scratch;
    struct cached_route *entry = keep(cache, key, key_size);
    if (entry == NULL)
        return &cache->scratch;
    *hint = (struct route_hint){cache->epoch, entry};
    return &entry->route;
}
