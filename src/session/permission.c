/* Permissions: see the header. The order of the questions, and what is asked at all, is RabbitMQ's.
 */
#include "session/permission.h"

#include <stdlib.h>

#include "amqp/table.h"

/* --- What is remembered ----------------------------------------------------------------------- */

static void
forget_grants(struct permission_cache *cache)
{
    for (uint32_t i = 0; i < cache->count; i++)
        free(cache->grants[i]);
    cache->count = cache->next = 0;
    cache->has_published = false;
}

void
permission_forget(struct connection *connection)
{
    struct permission_cache *cache = connection->permissions;
    if (cache == NULL)
        return;
    forget_grants(cache);
    access_user_unref(cache->user);
    free(cache);
    connection->permissions = NULL;
}

/* What is known of the user in the present generation. NULL: out of memory. */
static struct permission_cache *
current(struct connection *connection)
{
    struct access *access = connection->host->access;
    struct permission_cache *cache = connection->permissions;
    uint64_t generation = access_generation(access);
    if (LIKELY(cache != NULL && cache->generation == generation))
        return cache;
    if (cache == NULL) {
        cache = connection->permissions = calloc(1, sizeof(*cache));
        if (cache == NULL)
            return NULL;
    }
    forget_grants(cache);
    access_user_unref(cache->user);
    /* What is found may be newer than the generation: then it is looked for once more. */
    cache->generation = generation;
    cache->user = access_user_find(access, slice_from(connection->user));
    if (cache->user != NULL && access_user_id(cache->user) != connection->user_id) {
        access_user_unref(cache->user); /* of the same name, and another one */
        cache->user = NULL;
    }
    return cache;
}

static bool
grant_is(const struct grant *grant, enum permission_resource resource,
         enum access_permission permission, struct slice name, struct slice key)
{
    return grant->resource == resource && grant->permission == permission
           && grant->name_size == name.size && grant->key_size == key.size
           && memcmp(grant->bytes, name.data, name.size) == 0
           && (key.size == 0 || memcmp(grant->bytes + name.size, key.data, key.size) == 0);
}

static bool
is_granted(const struct permission_cache *cache, enum permission_resource resource,
           enum access_permission permission, struct slice name, struct slice key)
{
    for (uint32_t i = 0; i < cache->count; i++)
        if (grant_is(cache->grants[i], resource, permission, name, key))
            return true;
    return false;
}

/* Remembers it, in the place of the oldest if there is no room. Without memory it is asked again.
 */
static void
grant(struct permission_cache *cache, enum permission_resource resource,
      enum access_permission permission, struct slice name, struct slice key)
{
    struct grant *grant = malloc(sizeof(*grant) + name.size + key.size);
    if (grant == NULL)
        return;
    grant->resource = (uint8_t)resource;
    grant->permission = (uint8_t)permission;
    grant->name_size = (uint8_t)name.size;
    grant->key_size = (uint8_t)key.size;
    memcpy(grant->bytes, name.data, name.size);
    if (key.size > 0)
        memcpy(grant->bytes + name.size, key.data, key.size);
    if (cache->count < PERMISSION_CACHE_MAX) {
        cache->grants[cache->count++] = grant;
        return;
    }
    free(cache->grants[cache->next]);
    cache->grants[cache->next] = grant;
    cache->next = (cache->next + 1) % PERMISSION_CACHE_MAX;
}

/* --- Queues and exchanges --------------------------------------------------------------------- */

static int
no_memory(struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
}

int
permission_check(struct channel *channel, enum permission_resource resource,
                 enum access_permission permission, struct slice name, struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct slice vhost = vhost_name(connection->vhost);
    struct permission_cache *cache = current(connection);
    if (cache == NULL)
        return no_memory(error);
    if (resource == PERMISSION_EXCHANGE)
        name = access_exchange_name(name);
    if (LIKELY(is_granted(cache, resource, permission, name, SLICE(""))))
        return 0;
    if (cache->user == NULL || !access_permits(cache->user, vhost, permission, name))
        return channel_error(error, AMQP_REPLY_ACCESS_REFUSED,
                             "access to %s '%.*s' in vhost '%.*s' refused for user '%s'",
                             resource == PERMISSION_QUEUE ? "queue" : "exchange", SLICE_ARGS(name),
                             SLICE_ARGS(vhost), connection->user);
    grant(cache, resource, permission, name, SLICE(""));
    return 0;
}

/* --- Topics ----------------------------------------------------------------------------------- */

/* Permissions are for topic exchanges only, and before that for those that there are and to which
 * clients may publish: what else is wrong is said by others. */
static bool
is_topic_exchange(struct connection *connection, enum access_permission permission,
                  struct slice name)
{
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    catalogue_lock(catalogue);
    struct exchange *exchange = exchange_find(catalogue, connection->vhost, name);
    bool is_topic = exchange != NULL && slice_is(exchange_type_name(exchange), "topic")
                    && (permission == ACCESS_READ || !exchange_is_internal(exchange));
    catalogue_unlock(catalogue);
    return is_topic;
}

int
permission_check_topic(struct channel *channel, enum access_permission permission,
                       struct slice exchange, struct slice routing_key, struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct slice vhost = vhost_name(connection->vhost);
    struct permission_cache *cache = current(connection);
    if (cache == NULL)
        return no_memory(error);
    if (LIKELY(cache->user == NULL || !access_has_topic_permission(cache->user, vhost, exchange)))
        return 0;
    if (is_granted(cache, PERMISSION_TOPIC, permission, exchange, routing_key))
        return 0;
    if (access_permits_topic(cache->user, vhost, exchange, permission, routing_key)) {
        grant(cache, PERMISSION_TOPIC, permission, exchange, routing_key);
        return 0;
    }
    if (!is_topic_exchange(connection, permission, exchange))
        return 0;
    return channel_error(error, AMQP_REPLY_ACCESS_REFUSED,
                         "access to topic '%.*s' in exchange '%.*s' in vhost '%.*s' refused for "
                         "user '%s'",
                         SLICE_ARGS(routing_key), SLICE_ARGS(exchange), SLICE_ARGS(vhost),
                         connection->user);
}

int
permission_check_publish(struct channel *channel, struct slice exchange, struct slice routing_key,
                         struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    if (permission_check(channel, PERMISSION_EXCHANGE, ACCESS_WRITE, exchange, error) != 0)
        return -1;
    struct permission_cache *cache = connection->permissions;
    if (cache->user != NULL
        && !access_has_topic_permission(cache->user, vhost_name(connection->vhost), exchange)) {
        memcpy(cache->published, exchange.data, exchange.size);
        cache->published_size = (uint8_t)exchange.size;
        cache->has_published = true;
        return 0;
    }
    return permission_check_topic(channel, ACCESS_WRITE, exchange, routing_key, error);
}

bool
permission_user_exists(struct connection *connection)
{
    const struct permission_cache *cache = current(connection);
    return cache == NULL || cache->user != NULL; /* without memory nobody is thrown out */
}

bool
permission_to_enter(struct connection *connection, struct slice vhost)
{
    const struct permission_cache *cache = current(connection);
    return cache != NULL && cache->user != NULL && access_may_enter(cache->user, vhost);
}

bool
permission_to_impersonate(struct connection *connection)
{
    const struct permission_cache *cache = current(connection);
    return cache != NULL && cache->user != NULL && access_user_has_tag(cache->user, "impersonator");
}

/* --- Bindings and forwarding ------------------------------------------------------------------ */

int
permission_check_binding(struct channel *channel, const struct binding_request *request,
                         struct amqp_error *error)
{
    enum permission_resource destination =
        request->destination_is_exchange ? PERMISSION_EXCHANGE : PERMISSION_QUEUE;
    if (permission_check(channel, destination, ACCESS_WRITE, request->destination, error) != 0)
        return -1;
    /* The default exchange, at either end, is refused by the catalogue. */
    if (request->source.size == 0 || request->destination.size == 0)
        return 0;
    if (permission_check(channel, PERMISSION_EXCHANGE, ACCESS_READ, request->source, error) != 0)
        return -1;
    return permission_check_topic(channel, ACCESS_READ, request->source, request->routing_key,
                                  error);
}

int
permission_check_forwarding(struct channel *channel, enum permission_resource resource,
                            struct slice name, struct slice arguments, const char *argument,
                            struct amqp_error *error)
{
    struct amqp_value value;
    if (!amqp_table_find(arguments, slice_from(argument), &value) || value.type != 'S'
        || value.bytes.size > UINT8_MAX)
        return 0;
    if (permission_check(channel, resource, ACCESS_READ, name, error) != 0)
        return -1;
    return permission_check(channel, PERMISSION_EXCHANGE, ACCESS_WRITE, value.bytes, error);
}
