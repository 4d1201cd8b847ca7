/* Routing: from exchange and routing key to queues.
 *
 * A routing has a number; what it has reached carries that number as its mark, so that each queue
 * is a target once and each exchange is visited once, whatever circles the bindings make. */
#include <errno.h>
#include <stdlib.h>

#include "amqp/table.h"
#include "broker/exchange.h"

void
route_init(struct route *route)
{
    *route = (struct route){0};
}

void
route_fini(struct route *route)
{
    free(route->targets);
    free(route->durable_ids);
    *route = (struct route){0};
}

void
router_add_queue(struct router *router, struct queue_record *record, uint32_t delay_ms)
{
    struct route *route = router->route;
    router->has_matched = true;
    if (record->mark == router->catalogue->mark)
        return;
    record->mark = router->catalogue->mark;
    if (route->count == route->capacity) {
        uint32_t capacity = route->capacity == 0 ? 4 : 2 * route->capacity;
        struct route_target *grown = realloc(route->targets, capacity * sizeof(*grown));
        if (grown == NULL) {
            router->is_out_of_memory = true;
            return;
        }
        route->targets = grown;
        uint64_t *ids = realloc(route->durable_ids, capacity * sizeof(*ids));
        if (ids == NULL) {
            router->is_out_of_memory = true;
            return;
        }
        route->durable_ids = ids;
        route->capacity = capacity;
    }
    bool keeps_all = queue_record_keeps_all(record);
    if (record->durable) {
        uint32_t at = route->durable_count++;
        if (keeps_all) {
            route->durable_ids[at] = route->durable_ids[route->keeps_all_count];
            at = route->keeps_all_count++;
        }
        route->durable_ids[at] = record->id;
    }
    bool may_reject = record->overflow != OVERFLOW_DROP_HEAD;
    route->may_reject_count += may_reject;
    route->targets[route->count++] = (struct route_target){
        .queue = record->queue,
        .queue_id = record->durable ? record->id : 0,
        .delay_ms = delay_ms,
        .may_reject = may_reject,
        .keeps_all = keeps_all,
    };
}

/* The exchange will be visited, if it was not yet. */
static void
visit_later(struct router *router, struct exchange *exchange)
{
    struct catalogue *catalogue = router->catalogue;
    if (exchange->mark == catalogue->mark)
        return;
    exchange->mark = catalogue->mark;
    if (catalogue->worklist_count == catalogue->worklist_capacity) {
        size_t capacity = catalogue->worklist_capacity == 0 ? 16 : 2 * catalogue->worklist_capacity;
        struct exchange **grown =
            realloc(catalogue->worklist, capacity * sizeof(struct exchange *));
        if (grown == NULL) {
            router->is_out_of_memory = true;
            return;
        }
        catalogue->worklist = grown;
        catalogue->worklist_capacity = capacity;
    }
    catalogue->worklist[catalogue->worklist_count++] = exchange;
}

void
router_add(struct router *router, struct binding *binding)
{
    router->has_matched = true;
    if (binding->queue != NULL)
        router_add_queue(router, binding->queue, 0);
    else
        visit_later(router, binding->exchange);
}

/* How long a delayed exchange holds the message back; 0: not at all. */
static uint32_t
delay_of(const struct route_request *request)
{
    struct amqp_value value;
    if (request->properties == NULL
        || !amqp_table_find(request->properties->headers, SLICE("x-delay"), &value)
        || !amqp_value_is_integer(&value) || value.integer <= 0)
        return 0;
    return value.integer > UINT32_MAX ? UINT32_MAX : (uint32_t)value.integer;
}

static void
visit(struct router *router, struct exchange *exchange, bool skips_delay)
{
    const struct route_request *request = router->request;
    struct route *route = router->route;
    router->has_matched = false;
    if (exchange->is_delayed) {
        route->depends_on_message = true;
        uint32_t delay_ms = skips_delay ? 0 : delay_of(request);
        if (delay_ms > 0 && exchange->delay_store != NULL) {
            router_add_queue(router, exchange->delay_store, delay_ms);
            return;
        }
    }
    if (exchange->is_deduplicating) {
        route->depends_on_message = true;
        if (deduplication_has_seen(exchange->deduplication, request->properties, router->now_ms)) {
            route->is_duplicate = true;
            return;
        }
    }
    route->depends_on_message |= exchange->type->looks_at_message;
    size_t keys = exchange->type->matches_all_keys ? 0 : request->more_key_count;
    for (size_t i = 0; i <= keys; i++) {
        router->routing_key = i == 0 ? request->routing_key : request->more_keys[i - 1];
        exchange->type->route(exchange, router);
    }
    if (!router->has_matched && exchange->has_alternate) {
        struct exchange *alternate = vhost_exchange(exchange->vhost, exchange->alternate);
        if (alternate != NULL)
            visit_later(router, alternate);
    }
}

static int
compare_targets(const void *a, const void *b)
{
    unsigned x = ((const struct route_target *)a)->queue.shard;
    unsigned y = ((const struct route_target *)b)->queue.shard;
    return (x > y) - (x < y);
}

int
catalogue_route(struct catalogue *catalogue, struct vhost *vhost,
                const struct route_request *request, int64_t now_ms, struct route *route)
{
    struct router router = {
        .catalogue = catalogue, .request = request, .route = route, .now_ms = now_ms};
    route->count = route->may_reject_count = route->durable_count = route->keeps_all_count = 0;
    route->depends_on_message = route->is_duplicate = false;
    route->status = ROUTE_OK;

    catalogue_lock(catalogue);
    route->generation = catalogue_generation(catalogue);
    catalogue->mark++;
    if (request->exchange.size == 0) {
        for (size_t i = 0; i <= request->more_key_count; i++) {
            router.routing_key = i == 0 ? request->routing_key : request->more_keys[i - 1];
            route_default(vhost, &router);
        }
    } else {
        struct exchange *exchange = vhost_exchange(vhost, request->exchange);
        if (exchange == NULL) {
            route->status = ROUTE_NO_EXCHANGE;
        } else if (exchange->internal && !request->is_internal) {
            route->status = ROUTE_INTERNAL_EXCHANGE;
        } else {
            exchange->mark = catalogue->mark;
            visit(&router, exchange, request->skips_delay);
            while (catalogue->worklist_count > 0)
                visit(&router, catalogue->worklist[--catalogue->worklist_count], false);
        }
    }
    catalogue->worklist_count = 0;
    catalogue_unlock(catalogue);
    if (router.is_out_of_memory)
        return -ENOMEM;
    /* Shard by shard, so that each gets its mail in one piece. */
    if (route->count > 1)
        qsort(route->targets, route->count, sizeof(*route->targets), compare_targets);
    return 0;
}
