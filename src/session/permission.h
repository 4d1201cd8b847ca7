/* Permissions: what the user of a connection may do with queues and exchanges.
 *
 * Answers are remembered per connection, a few of them, and for one generation of the users: so
 * that publishing to the exchange of the last time costs a comparison. */
#ifndef SESSION_PERMISSION_H
#define SESSION_PERMISSION_H

#include "auth/access.h"
#include "session/channel.h"

enum { PERMISSION_CACHE_MAX = 12 };

enum permission_resource { PERMISSION_QUEUE, PERMISSION_EXCHANGE, PERMISSION_TOPIC };

/* What was found to be permitted. */
struct grant {
    uint8_t resource, permission;
    uint8_t name_size, key_size; /* a key: of a topic permission */
    char bytes[];                /* name, key */
};

struct permission_cache {
    uint64_t generation;      /* of the users, in which the answers are right */
    struct access_user *user; /* the snapshot of then; NULL: there is no such user any more */
    uint32_t count, next;     /* the next one to be replaced */
    struct grant *grants[PERMISSION_CACHE_MAX];
    /* The exchange that was published to last, if any key may be. */
    bool has_published;
    uint8_t published_size;
    char published[UINT8_MAX];
};

/* Whether the user may publish to the exchange with any key, as he did the last time. */
static inline bool
permission_is_as_before(const struct connection *connection, struct slice exchange)
{
    const struct permission_cache *cache = connection->permissions;
    return cache != NULL && cache->has_published
           && cache->generation
                  == atomic_load_explicit(connection->host->access_generation, memory_order_acquire)
           && cache->published_size == exchange.size
           && memcmp(cache->published, exchange.data, exchange.size) == 0;
}

/* May the user publish it there with that key? Remembers it if the key is no matter. */
MUST_CHECK int permission_check_publish(struct channel *channel, struct slice exchange,
                                        struct slice routing_key, struct amqp_error *error);

/* Whether the user has the permission. -1 with 403 "access to queue 'q' in vhost 'v' refused for
 * user 'u'". */
MUST_CHECK int permission_check(struct channel *channel, enum permission_resource resource,
                                enum access_permission permission, struct slice name,
                                struct amqp_error *error);

/* Whether the user may bind with (ACCESS_READ) or publish to (ACCESS_WRITE) the key, if the
 * exchange is of type topic; an exchange that is not there is no matter here. */
MUST_CHECK int permission_check_topic(struct channel *channel, enum access_permission permission,
                                      struct slice exchange, struct slice routing_key,
                                      struct amqp_error *error);

/* The rules of queue.bind, exchange.bind and their opposites. */
MUST_CHECK int permission_check_binding(struct channel *channel,
                                        const struct binding_request *request,
                                        struct amqp_error *error);

/* Something that is declared sends messages on to another exchange (as its dead letters, or what it
 * cannot route): the user could read them from it and write them there himself. Looks at the
 * argument of this name; one that is not there, or no text, is no matter here. */
MUST_CHECK int permission_check_forwarding(struct channel *channel,
                                           enum permission_resource resource, struct slice name,
                                           struct slice arguments, const char *argument,
                                           struct amqp_error *error);

/* Whether there still is the user, who may enter the vhost. */
bool permission_user_exists(struct connection *connection);
bool permission_to_enter(struct connection *connection, struct slice vhost);

/* Whether the user may publish in the name of others (has the tag "impersonator"). */
bool permission_to_impersonate(struct connection *connection);

/* Frees what the connection remembers. */
void permission_forget(struct connection *connection);

#endif
