/* Deduplication: see the header. */
#include "broker/deduplication.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/list.h"
#include "base/map.h"
#include "broker/queue_options.h"

enum { SEEN_MAX = 10000000, SEEN_KEY_MAX = 1024 };

struct seen {
    struct list link; /* oldest first */
    int64_t until_ms;
    size_t size;
    char key[];
};

struct deduplication {
    struct map seen;
    struct list order;
    size_t limit;
    int64_t ttl_ms; /* OPTION_NONE: for as long as there is room */
};

static struct slice
key_of_seen(const void *value)
{
    const struct seen *seen = value;
    return (struct slice){seen->key, seen->size};
}

struct deduplication *
deduplication_new(struct slice arguments, struct amqp_error *error)
{
    struct amqp_value value;
    int64_t limit = 0, ttl_ms = OPTION_NONE;
    if (amqp_table_find(arguments, SLICE("x-cache-size"), &value) && amqp_value_is_integer(&value))
        limit = value.integer;
    if (limit <= 0 || limit > SEEN_MAX) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "Missing or invalid argument, 'x-cache-size' must be an integer of 1 to %d",
                       (int)SEEN_MAX);
        return NULL;
    }
    if (amqp_table_find(arguments, SLICE("x-cache-ttl"), &value)) {
        if (!amqp_value_is_integer(&value) || value.integer <= 0) {
            amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                           "Invalid argument, 'x-cache-ttl' must be an integer greater than 0");
            return NULL;
        }
        ttl_ms = value.integer;
    }
    struct deduplication *deduplication = malloc(sizeof(*deduplication));
    if (deduplication == NULL) {
        amqp_error_set(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
        return NULL;
    }
    *deduplication = (struct deduplication){.limit = (size_t)limit, .ttl_ms = ttl_ms};
    map_init(&deduplication->seen, key_of_seen);
    list_init(&deduplication->order);
    return deduplication;
}

static void
forget(struct deduplication *deduplication, struct seen *seen)
{
    map_remove(&deduplication->seen, key_of_seen(seen));
    list_remove(&seen->link);
    free(seen);
}

void
deduplication_free(struct deduplication *deduplication)
{
    if (deduplication == NULL)
        return;
    LIST_FOR_EACH_SAFE (node, &deduplication->order)
        forget(deduplication, LIST_ENTRY(node, struct seen, link));
    map_fini(&deduplication->seen);
    free(deduplication);
}

bool
deduplication_has_seen(struct deduplication *deduplication,
                       const struct amqp_properties *properties, int64_t now_ms)
{
    struct amqp_value value;
    struct slice key;
    if (properties == NULL || !deduplication_key(properties->headers, &key))
        return false;
    struct seen *seen = map_find(&deduplication->seen, key);
    if (seen != NULL && seen->until_ms > now_ms)
        return true;
    if (seen != NULL)
        forget(deduplication, seen);

    int64_t ttl_ms = deduplication->ttl_ms;
    if (amqp_table_find(properties->headers, SLICE("x-cache-ttl"), &value)
        && amqp_value_is_integer(&value) && value.integer > 0)
        ttl_ms = value.integer;
    if (map_count(&deduplication->seen) == deduplication->limit)
        forget(deduplication, LIST_ENTRY(list_first(&deduplication->order), struct seen, link));
    seen = malloc(sizeof(*seen) + key.size);
    if (seen == NULL)
        return false; /* a duplicate may pass: better than losing a message */
    *seen = (struct seen){
        .until_ms =
            ttl_ms == OPTION_NONE || ttl_ms > INT64_MAX - now_ms ? INT64_MAX : now_ms + ttl_ms,
        .size = key.size,
    };
    list_init(&seen->link);
    memcpy(seen->key, key.data, key.size);
    if (map_insert(&deduplication->seen, seen) != 0)
        free(seen);
    else
        list_push_back(&deduplication->order, &seen->link);
    return false;
}

void
deduplication_forget(struct deduplication *deduplication, struct slice headers)
{
    struct slice key;
    struct seen *seen =
        deduplication_key(headers, &key) ? map_find(&deduplication->seen, key) : NULL;
    if (seen != NULL)
        forget(deduplication, seen);
}

bool
deduplication_key(struct slice headers, struct slice *key)
{
    /* Any value is an identifier: the bytes of its wire form are compared, in the type that it has.
     */
    struct amqp_table_iterator at = amqp_table_begin(headers);
    struct slice name;
    struct amqp_value value;
    while (amqp_table_next(&at, &name, &value) == 1) {
        if (!slice_is(name, "x-deduplication-header"))
            continue;
        const char *start = name.data + name.size;
        *key = (struct slice){start, (size_t)((const char *)at.at - start)};
        return key->size <= SEEN_KEY_MAX;
    }
    return false;
}
