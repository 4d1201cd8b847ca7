/* What routing answered, remembered for one generation of the catalogue.
 *
 * Publishing asks the same questions over and over. The answer for an exchange and a routing key is
 * kept until anything changes that could alter a route; then all answers are forgotten at once.
 * Belongs to one thread. */
#ifndef SESSION_ROUTE_CACHE_H
#define SESSION_ROUTE_CACHE_H

#include "base/map.h"
#include "broker/catalogue.h"

enum { ROUTE_CACHE_MAX = 65536 };

struct cached_route {
    struct route route;
    size_t key_size;
    char key[]; /* vhost id (4 bytes), exchange and routing key as short strings */
};

struct route_cache {
    struct map map;
    uint64_t generation;
    uint64_t epoch;       /* changes whenever entries are freed */
    uint64_t asked;       /* how often the catalogue was, which may take long */
    struct route scratch; /* an answer that is not kept */
};

void route_cache_init(struct route_cache *cache);
void route_cache_fini(struct route_cache *cache);

/* The route for `prefix` (exchange and routing key as short strings) in the vhost, asked of the
 * catalogue if it is not known. The request's exchange and key are those of the prefix. Lent until
 * the next call. NULL: out of memory.
 *
 * *hint remembers the last answer for a caller who tends to ask the same: zeroed at the start. */
struct route_hint {
    uint64_t epoch;
    struct cached_route *entry;
};

const struct route *route_cache_find(struct route_cache *cache, struct catalogue *catalogue,
                                     struct vhost *vhost, struct slice prefix,
                                     const struct route_request *request, int64_t now_ms,
                                     struct route_hint *hint);

#endif
