/* Exchange types that send each message to one of their bindings: by a consistent hash with
 * weights, by the hash modulo their number, or at random. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/hash.h"
#include "broker/exchange.h"

/* The sum of the weights of one exchange; what a weight may be. */
enum { RING_MAX = 1 << 20, WEIGHT_MAX = 1 << 16 };

enum { RING_SEED = 0x77687070 };

struct hash_bucket {
    struct binding *binding;
    uint32_t number; /* its place is binding->places[number] */
};

/* The buckets of a consistent-hash exchange: a binding owns as many as its weight says. When one
 * goes, the last buckets take the places of its own: so no more keys move than have to, and it
 * costs its weight, not the ring's size. */
struct hash_ring {
    struct slice header;   /* hash this header, ... */
    struct slice property; /* ... or this property, else the routing key */
    size_t count, capacity;
    struct hash_bucket *buckets;
};

/* Lamping and Veach's jump hash: when a bucket is added to n, only 1/(n+1) of the keys move. */
static size_t
jump_hash(uint64_t key, size_t buckets)
{
    int64_t chosen = -1, next = 0;
    while (next < (int64_t)buckets) {
        chosen = next;
        key = key * 2862933555777941757ULL + 1;
        next = (int64_t)((double)(chosen + 1) * ((double)(1LL << 31) / (double)((key >> 33) + 1)));
    }
    return (size_t)chosen;
}

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
    exchange->ring = calloc(1, sizeof(*exchange->ring));
    if (exchange->ring == NULL) {
        amqp_error_set(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
        return -1;
    }
    if (has_header)
        exchange->ring->header = header.bytes;
    if (has_property)
        exchange->ring->property = property.bytes;
    return 0;
}

static void
hash_free(struct exchange *exchange)
{
    if (exchange->ring != NULL)
        free(exchange->ring->buckets);
    free(exchange->ring);
}

static int
hash_check(struct exchange *exchange, struct binding *binding, struct amqp_error *error)
{
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
    if (weight > WEIGHT_MAX || exchange->ring->count + weight > RING_MAX) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED, "The binding key must not exceed %d",
                       (int)WEIGHT_MAX);
        return -1;
    }
    binding->weight = (uint32_t)weight;
    return 0;
}

static int
hash_add(struct exchange *exchange, struct binding *binding)
{
    struct hash_ring *ring = exchange->ring;
    if (ring->count + binding->weight > ring->capacity) {
        size_t capacity = 2 * (ring->count + binding->weight);
        struct hash_bucket *grown = realloc(ring->buckets, capacity * sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        ring->buckets = grown;
        ring->capacity = capacity;
    }
    binding->places = malloc(binding->weight * sizeof(*binding->places));
    if (binding->places == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < binding->weight; i++) {
        binding->places[i] = (uint32_t)ring->count;
        ring->buckets[ring->count++] = (struct hash_bucket){binding, i};
    }
    return 0;
}

static void
hash_remove(struct exchange *exchange, struct binding *binding)
{
    struct hash_ring *ring = exchange->ring;
    for (uint32_t i = 0; i < binding->weight; i++) {
        uint32_t place = binding->places[i]; /* perhaps that of a bucket which moved just now */
        struct hash_bucket last = ring->buckets[--ring->count];
        ring->buckets[place] = last;
        last.binding->places[last.number] = place;
    }
    free(binding->places);
    binding->places = NULL;
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
        return hash_bytes(value->bytes.data, value->bytes.size, RING_SEED);
    case 't':
        return hash_bytes(&value->boolean, sizeof(value->boolean), RING_SEED);
    case 'V':
        return hash_bytes("", 0, RING_SEED);
    case 'f':
    case 'd':
        return hash_bytes(&value->real, sizeof(value->real), RING_SEED);
    case 'D':
        return hash_bytes(&value->decimal.value, sizeof(value->decimal.value), RING_SEED);
    case 'T':
        return hash_bytes(&value->timestamp, sizeof(value->timestamp), RING_SEED);
    default:
        return hash_bytes(&value->integer, sizeof(value->integer), RING_SEED);
    }
}

static uint64_t
hash_of_message(const struct hash_ring *ring, const struct router *router)
{
    static const struct amqp_properties none = {.headers = {"", 0}};
    const struct amqp_properties *properties = router->request->properties;
    if (properties == NULL)
        properties = &none;
    struct amqp_value value = {.type = 'V'};
    if (ring->header.data != NULL) {
        if (!amqp_table_find(properties->headers, ring->header, &value))
            value.type = 'V';
        return hash_of_value(&value);
    }
    if (ring->property.data == NULL)
        return hash_bytes(router->routing_key.data, router->routing_key.size, RING_SEED);
    if (slice_is(ring->property, "timestamp")) {
        if ((properties->flags & AMQP_HAS_TIMESTAMP) != 0)
            value = (struct amqp_value){.type = 'T', .timestamp = properties->timestamp};
    } else {
        value.type = 'S';
        value.bytes = slice_is(ring->property, "message_id") ? properties->message_id
                                                             : properties->correlation_id;
    }
    return hash_of_value(&value);
}

static void
hash_route(struct exchange *exchange, struct router *router)
{
    struct hash_ring *ring = exchange->ring;
    if (ring->count > 0)
        router_add(router,
                   ring->buckets[jump_hash(hash_of_message(ring, router), ring->count)].binding);
}

const struct exchange_type exchange_type_consistent_hash = {
    .name = "x-consistent-hash",
    .declare = hash_declare,
    .free = hash_free,
    .check = hash_check,
    .add = hash_add,
    .remove = hash_remove,
    .route = hash_route,
    .looks_at_message = true,
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
                     hash_bytes(key.data, key.size, RING_SEED) % exchange->binding_count);
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
