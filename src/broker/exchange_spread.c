/* Exchange types that send each message to one of their bindings: by a consistent hash with
 * weights, by the hash modulo their number, or at random. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/hash.h"
#include "broker/exchange.h"

enum { WEIGHT_MAX = 1 << 16 };

enum { SPREAD_SEED = 0x77687070 };

/* What a consistent-hash exchange hashes. Which binding a hash belongs to is found by rendezvous:
 * each binding draws a number from the hash and its own destination, and the highest, in proportion
 * to the weights, has the message. So there is no state: a binding that comes or goes moves its own
 * share of the keys and no other, whatever the order in which they came, also after a restart. It
 * costs a look at every binding; the route of a key that repeats is cached. */
struct spread_by {
    struct slice header;   /* this header, ... */
    struct slice property; /* ... or this property, else the routing key */
};

static int
hash_declare(struct exchange *exchange, struct amqp_error *error)
{
    struct amqp_value header = {0}, property = {0};
    bool has_header = amqp_table_find(exchange->arguments, SLICE("hash-header"), &header);
    bool has_property = amqp_table_find(exchange->arguments, SLICE("hash-property"), &property);
    if (has_header && has_property) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "hash-header and hash-property are mutually exclusive");
        return -1;
    }
    if ((has_header && header.type != 'S') || (has_property && property.type != 'S')) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "Unsupported type of %s: expected longstr, got %s",
                       has_header ? "hash-header" : "hash-property",
                       amqp_value_type_name(has_header ? header.type : property.type));
        return -1;
    }
    if (has_property && !slice_is(property.bytes, "correlation_id")
        && !slice_is(property.bytes, "message_id") && !slice_is(property.bytes, "timestamp")) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED, "Unsupported property: %.*s",
                       SLICE_ARGS(property.bytes));
        return -1;
    }
    exchange->spread_by = calloc(1, sizeof(*exchange->spread_by));
    if (exchange->spread_by == NULL) {
        amqp_error_set(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
        return -1;
    }
    if (has_header)
        exchange->spread_by->header = header.bytes;
    if (has_property)
        exchange->spread_by->property = property.bytes;
    return 0;
}

static void
hash_free(struct exchange *exchange)
{
    free(exchange->spread_by);
}

static int
hash_check(struct exchange *exchange, struct binding *binding, struct amqp_error *error)
{
    (void)exchange;
    struct slice key = binding->routing_key;
    uint64_t weight = 0;
    bool is_negative = key.size > 1 && key.data[0] == '-';
    bool is_number = key.size > 0 && key.size <= 9;
    for (size_t i = is_negative; i < key.size && is_number; i++) {
        is_number = key.data[i] >= '0' && key.data[i] <= '9';
        weight = weight * 10 + (uint64_t)(key.data[i] - '0');
    }
    if (!is_number) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "The binding key must be an integer: %.*s", SLICE_ARGS(key));
        return -1;
    }
    if (weight == 0 || is_negative) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "The binding key must be greater than 0");
        return -1;
    }
    if (weight > WEIGHT_MAX) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED, "The binding key must not exceed %d",
                       (int)WEIGHT_MAX);
        return -1;
    }
    struct slice destination =
        binding->queue != NULL ? binding->queue->name : binding->exchange->name;
    binding->weight = (uint32_t)weight;
    binding->lot = hash_bytes(destination.data, destination.size, SPREAD_SEED);
    return 0;
}

/* What a header or property contributes: its bytes, or those of the number. */
static uint64_t
hash_of_value(const struct amqp_value *value)
{
    switch (value->type) {
    case 'S':
    case 'x':
    case 'A':
    case 'F':
        return hash_bytes(value->bytes.data, value->bytes.size, SPREAD_SEED);
    case 't':
        return hash_bytes(&value->boolean, sizeof(value->boolean), SPREAD_SEED);
    case 'V':
        return hash_bytes("", 0, SPREAD_SEED);
    case 'f':
    case 'd':
        return hash_bytes(&value->real, sizeof(value->real), SPREAD_SEED);
    case 'D':
        return hash_bytes(&value->decimal.value, sizeof(value->decimal.value), SPREAD_SEED);
    case 'T':
        return hash_bytes(&value->timestamp, sizeof(value->timestamp), SPREAD_SEED);
    default:
        return hash_bytes(&value->integer, sizeof(value->integer), SPREAD_SEED);
    }
}

static uint64_t
hash_of_message(const struct spread_by *by, const struct router *router)
{
    static const struct amqp_properties none = {.headers = {"", 0}};
    const struct amqp_properties *properties = router->request->properties;
    if (properties == NULL)
        properties = &none;
    struct amqp_value value = {.type = 'V'};
    if (by->header.data != NULL) {
        if (!amqp_table_find(properties->headers, by->header, &value))
            value.type = 'V';
        return hash_of_value(&value);
    }
    if (by->property.data == NULL)
        return hash_bytes(router->routing_key.data, router->routing_key.size, SPREAD_SEED);
    if (slice_is(by->property, "timestamp")) {
        if ((properties->flags & AMQP_HAS_TIMESTAMP) != 0)
            value = (struct amqp_value){.type = 'T', .timestamp = properties->timestamp};
    } else {
        value.type = 'S';
        value.bytes = slice_is(by->property, "message_id") ? properties->message_id
                                                           : properties->correlation_id;
    }
    return hash_of_value(&value);
}

/* What the binding draws for this hash: evenly any number. (The finisher of SplitMix64.) */
static uint64_t
draw(const struct binding *binding, uint64_t hash)
{
    uint64_t x = hash ^ binding->lot;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* The draw in proportion to the weight: the one of them all that is the highest belongs to a
 * binding with the likelihood of its part of all weights. */
static double
score(const struct binding *binding, uint64_t drawn)
{
    double even = ((double)(drawn >> 11) + 0.5) / (double)(1ULL << 53); /* between 0 and 1 */
    return (double)binding->weight / -log(even);
}

static void
hash_route(struct exchange *exchange, struct router *router)
{
    const struct spread_by *by = exchange->spread_by;
    uint64_t hash = hash_of_message(by, router), best_drawn = 0;
    struct binding *best = NULL;
    router->route->depends_on_message |= by->header.data != NULL || by->property.data != NULL;
    LIST_FOR_EACH (node, &exchange->bindings) {
        struct binding *binding = LIST_ENTRY(node, struct binding, source_link);
        uint64_t drawn = draw(binding, hash);
        if (best != NULL
            && (binding->weight == best->weight ? drawn <= best_drawn
                                                : score(binding, drawn) <= score(best, best_drawn)))
            continue;
        best = binding;
        best_drawn = drawn;
    }
    if (best != NULL)
        router_add(router, best);
}

const struct exchange_type exchange_type_consistent_hash = {
    .name = "x-consistent-hash",
    .declare = hash_declare,
    .free = hash_free,
    .check = hash_check,
    .route = hash_route,
    .matches_all_keys = true,
};

/* --- One of all bindings ---------------------------------------------------------------------- */

static void
route_to_nth(struct exchange *exchange, struct router *router, uint64_t n)
{
    LIST_FOR_EACH (node, &exchange->bindings) {
        if (n-- == 0) {
            router_add(router, LIST_ENTRY(node, struct binding, source_link));
            return;
        }
    }
}

static void
modulus_route(struct exchange *exchange, struct router *router)
{
    struct slice key = router->routing_key;
    if (exchange->binding_count > 0)
        route_to_nth(exchange, router,
                     hash_bytes(key.data, key.size, SPREAD_SEED) % exchange->binding_count);
}

const struct exchange_type exchange_type_modulus_hash = {
    .name = "x-modulus-hash",
    .route = modulus_route,
    .matches_all_keys = true,
};

static void
random_route(struct exchange *exchange, struct router *router)
{
    if (exchange->binding_count > 0)
        route_to_nth(exchange, router,
                     random_below(&router->catalogue->random, exchange->binding_count));
}

const struct exchange_type exchange_type_random = {
    .name = "x-random",
    .route = random_route,
    .looks_at_message = true, /* no two answers are the same */
    .matches_all_keys = true,
};
