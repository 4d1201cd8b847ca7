/* The exchange types that look at the routing key or at nothing: direct, fanout, and the default
 * exchange. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/exchange.h"

/* --- direct: bindings grouped by their key ---------------------------------------------------- */

struct key_group {
    struct list bindings;
    size_t size;
    char key[];
};

static struct slice
key_of_group(const void *value)
{
    const struct key_group *group = value;
    return (struct slice){group->key, group->size};
}

static int
direct_add(struct exchange *exchange, struct binding *binding)
{
    if (exchange->keys.key_of == NULL)
        map_init(&exchange->keys, key_of_group);
    struct key_group *group = map_find(&exchange->keys, binding->routing_key);
    if (group == NULL) {
        group = malloc(sizeof(*group) + binding->routing_key.size);
        if (group == NULL)
            return -ENOMEM;
        list_init(&group->bindings);
        group->size = binding->routing_key.size;
        memcpy(group->key, binding->routing_key.data, group->size);
        if (map_insert(&exchange->keys, group) != 0) {
            free(group);
            return -ENOMEM;
        }
    }
    binding->match_group = group;
    list_push_back(&group->bindings, &binding->match_link);
    return 0;
}

static void
direct_remove(struct exchange *exchange, struct binding *binding)
{
    struct key_group *group = binding->match_group;
    list_remove(&binding->match_link);
    if (list_is_empty(&group->bindings)) {
        map_remove(&exchange->keys, key_of_group(group));
        free(group);
    }
}

static void
direct_route(struct exchange *exchange, struct router *router)
{
    if (exchange->keys.key_of == NULL)
        return;
    struct key_group *group = map_find(&exchange->keys, router->routing_key);
    if (group == NULL)
        return;
    LIST_FOR_EACH (node, &group->bindings)
        router_add(router, LIST_ENTRY(node, struct binding, match_link));
}

static void
direct_free(struct exchange *exchange)
{
    if (exchange->keys.key_of != NULL)
        map_fini(&exchange->keys);
}

const struct exchange_type exchange_type_direct = {
    .name = "direct",
    .add = direct_add,
    .remove = direct_remove,
    .route = direct_route,
    .free = direct_free,
};

/* --- fanout ----------------------------------------------------------------------------------- */

static void
fanout_route(struct exchange *exchange, struct router *router)
{
    LIST_FOR_EACH (node, &exchange->bindings)
        router_add(router, LIST_ENTRY(node, struct binding, source_link));
}

const struct exchange_type exchange_type_fanout = {
    .name = "fanout",
    .route = fanout_route,
    .matches_all_keys = true,
};

/* --- the default exchange: every queue is bound to it by its name ----------------------------- */

void
route_default(struct vhost *vhost, struct router *router)
{
    struct queue_record *record = vhost_queue(vhost, router->routing_key);
    if (record != NULL)
        router_add_queue(router, record, 0);
}
