/* basic.publish: from the method through header and body to the queues. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/log.h"
#include "base/memory.h"
#include "session/channel.h"
#include "session/permission.h"
#include "store/log.h"

enum {
    CONTENT_MAX = 512 * 1024 * 1024, /* of a body, whatever is configured */
    /* The memory of larger bodies counts as it fills: what is only announced costs the client
     * nothing, and must not make publishers wait. (It costs the machine nothing either: pages that
     * were not written to.) */
    COUNT_WHOLE_MAX = 128 * 1024,
};

/* The longest time to live: a hundred years would be 3153600000000; this is RabbitMQ's limit. */
#define EXPIRATION_MAX_MS 315360000000LL

/* --- The method ------------------------------------------------------------------------------- */

int
publish_begin(struct channel *channel, const struct amqp_basic_publish *method,
              struct amqp_error *error)
{
    struct publish *publish = &channel->publish;
    if (method->immediate)
        return channel_error(error, AMQP_REPLY_NOT_IMPLEMENTED, "immediate=true");
    if (UNLIKELY(!channel->connection->has_published))
        connection_publishes(channel->connection);
    publish->exchange = method->exchange;
    publish->routing_key = method->routing_key;
    publish->mandatory = method->mandatory;
    publish->is_expecting_header = true;
    list_push_back(&channel->connection->half_published, &channel->publish_link);
    return 0;
}

int
publish_keep(struct channel *channel)
{
    struct publish *publish = &channel->publish;
    if (publish->kept != NULL)
        return 0;
    publish->kept = malloc(publish->exchange.size + publish->routing_key.size + 1);
    if (publish->kept == NULL)
        return -ENOMEM;
    memcpy(publish->kept, publish->exchange.data, publish->exchange.size);
    memcpy(publish->kept + publish->exchange.size, publish->routing_key.data,
           publish->routing_key.size);
    publish->exchange.data = publish->kept;
    publish->routing_key.data = publish->kept + publish->exchange.size;
    return 0;
}

/* What was needed until the message was made. */
static void
header_is_here(struct channel *channel)
{
    struct publish *publish = &channel->publish;
    list_remove(&channel->publish_link);
    publish->is_expecting_header = false;
    if (publish->kept != NULL) {
        free(publish->kept);
        publish->kept = NULL;
    }
}

uint64_t
publish_left(const struct channel *channel)
{
    const struct publish *publish = &channel->publish;
    return publish->is_expecting_body ? publish->message->body_size - publish->body_received : 0;
}

void
publish_drop(struct channel *channel)
{
    struct publish *publish = &channel->publish;
    header_is_here(channel);
    if (publish->is_expecting_body)
        channel->connection->unfinished--;
    if (publish->is_counted_as_it_comes)
        memory_count((int64_t)publish_left(channel));
    if (publish->message != NULL)
        message_unref(publish->message);
    *publish = (struct publish){0};
}

/* --- The header ------------------------------------------------------------------------------- */

/* The expiration property: digits, milliseconds. */
static int
read_expiration(const struct amqp_properties *properties, int64_t *expiration_ms,
                struct amqp_error *error)
{
    struct slice text = properties->expiration;
    *expiration_ms = MESSAGE_NO_EXPIRATION;
    if ((properties->flags & AMQP_HAS_EXPIRATION) == 0)
        return 0;
    int64_t value = 0;
    size_t i = 0;
    bool is_negative = text.size > 0 && text.data[0] == '-';
    for (i = is_negative; i < text.size && text.data[i] >= '0' && text.data[i] <= '9'; i++)
        if (value <= EXPIRATION_MAX_MS)
            value = value * 10 + (text.data[i] - '0');
    const uint16_t code = AMQP_REPLY_PRECONDITION_FAILED;
    if (i == (size_t)is_negative)
        return channel_error(error, code, "invalid expiration '%.*s': no_integer",
                             SLICE_ARGS(text));
    if (i < text.size)
        return channel_error(error, code, "invalid expiration '%.*s': {leftover_string,\"%.*s\"}",
                             SLICE_ARGS(text), (int)(text.size - i), text.data + i);
    if (is_negative && value > 0)
        return channel_error(error, code, "invalid expiration '%.*s': {value_negative,-%lld}",
                             SLICE_ARGS(text), (long long)value);
    if (value > EXPIRATION_MAX_MS)
        return channel_error(error, code, "invalid expiration '%.*s': {value_too_large,%.*s}",
                             SLICE_ARGS(text), SLICE_ARGS(text));
    *expiration_ms = value;
    return 0;
}

/* CC and BCC are arrays, or are not there. */
static int
check_more_keys(const struct amqp_properties *properties, bool *has_bcc, struct amqp_error *error)
{
    static const char *const headers[] = {"CC", "BCC"};
    struct amqp_value value;
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
        if (!amqp_table_find(properties->headers, slice_from(headers[i]), &value))
            continue;
        if (value.type != 'A')
            return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                                 "invalid message: {unacceptable_type_in_header,\"%s\",%s}",
                                 headers[i], amqp_value_type_name(value.type));
        if (i == 1)
            *has_bcc = true;
    }
    return 0;
}

/* The rest of what the properties may do wrong; found when the content is complete, as everywhere,
 * so that the client has sent all of it before the channel closes. */
static int
check_properties(struct channel *channel, const struct amqp_properties *properties,
                 struct amqp_error *error)
{
    if ((properties->flags & AMQP_HAS_USER_ID) != 0
        && !slice_is(properties->user_id, channel->connection->user)
        && !permission_to_impersonate(channel->connection))
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "user_id property set to '%.*s' but authenticated user was '%s'",
                             SLICE_ARGS(properties->user_id), channel->connection->user);
    if (slice_is(properties->reply_to, REPLY_TO_NAME) && channel->reply_to == NULL)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "fast reply consumer does not exist");
    return 0;
}

/* Makes the message of what is known by now. NULL: out of memory. */
static struct message *
make_message(struct channel *channel, struct slice wire, struct amqp_properties *properties,
             int64_t expiration_ms, size_t body_size)
{
    struct publish *publish = &channel->publish;
    struct message_parts parts = {
        .exchange = publish->exchange,
        .routing_key = publish->routing_key,
        .properties = wire,
        .decoded = properties,
        .expiration_ms = expiration_ms,
        .body_size = body_size,
    };
    if (!slice_is(properties->reply_to, REPLY_TO_NAME) || channel->reply_to == NULL)
        return message_new(&parts);
    properties->reply_to = slice_from(channel->reply_to);
    size_t size = amqp_properties_size(properties);
    uint8_t *rewritten = malloc(size);
    if (rewritten == NULL)
        return NULL;
    struct amqp_writer writer = amqp_writer_of(rewritten, size);
    amqp_properties_encode(&writer, properties);
    parts.properties = (struct slice){(const char *)rewritten, size};
    struct message *message = message_new(&parts);
    free(rewritten);
    return message;
}

static int publish_complete(struct channel *channel, struct amqp_error *error);

int
publish_header(struct channel *channel, struct slice payload, struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct publish *publish = &channel->publish;
    struct amqp_content_header header;
    struct amqp_properties properties;
    if (!amqp_content_header_decode(payload, &header))
        return channel_error(error, AMQP_REPLY_FRAME_ERROR, "cannot decode the content header");
    if (header.class_id != AMQP_basic_publish >> 16)
        return channel_error(error, AMQP_REPLY_UNEXPECTED_FRAME,
                             "expected content header for class 60, got one for class %u instead",
                             header.class_id);
    if (!amqp_properties_decode(header.properties, &properties)
        || amqp_table_validate(properties.headers, AMQP_TABLE_MAX_DEPTH) != 0)
        return channel_error(error, AMQP_REPLY_FRAME_ERROR,
                             "cannot decode the properties of the content header");
    if (header.body_size > CONTENT_MAX)
        return channel_error(error, AMQP_REPLY_FRAME_ERROR,
                             "content body size %llu exceeds maximum allowed size %u",
                             (unsigned long long)header.body_size, (unsigned)CONTENT_MAX);
    if (header.body_size > connection->host->limits.message_size_max)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "message size %llu is larger than configured max size %llu",
                             (unsigned long long)header.body_size,
                             (unsigned long long)connection->host->limits.message_size_max);
    if (header.properties.size > connection->host->limits.header_size_max)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "message header size %zu is larger than configured max size %u",
                             header.properties.size, connection->host->limits.header_size_max);
    uint32_t depth_max = connection->host->limits.header_depth_max;
    if (UNLIKELY(depth_max < AMQP_TABLE_MAX_DEPTH)
        && amqp_table_validate(properties.headers, depth_max) != 0)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "message headers are nested deeper than configured max depth %u",
                             depth_max);
    int64_t expiration_ms;
    bool has_bcc = false;
    struct amqp_error later = {0};
    bool is_good =
        check_properties(channel, &properties, &later) == 0
        && read_expiration(&properties, &expiration_ms, &later) == 0
        && (properties.headers.size == 0 || check_more_keys(&properties, &has_bcc, &later) == 0);
    if (!is_good)
        expiration_ms = MESSAGE_NO_EXPIRATION;
    publish->is_bad = !is_good;
    publish->message =
        make_message(channel, header.properties, &properties, expiration_ms, header.body_size);
    header_is_here(channel);
    if (publish->message == NULL)
        return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory for a message");
    if (has_bcc)
        publish->message->flags |= MESSAGE_HAS_BCC;
    publish->body_received = 0;
    if (header.body_size == 0)
        return publish_complete(channel, error);
    publish->is_expecting_body = true;
    connection->unfinished++;
    publish->is_counted_as_it_comes = header.body_size > COUNT_WHOLE_MAX;
    if (publish->is_counted_as_it_comes)
        memory_count(-(int64_t)header.body_size);
    return 0;
}

/* --- The body --------------------------------------------------------------------------------- */

int
publish_body(struct channel *channel, struct slice bytes, struct amqp_error *error)
{
    struct publish *publish = &channel->publish;
    struct message *message = publish->message;
    if (bytes.size > message->body_size - publish->body_received)
        return channel_error(error, AMQP_REPLY_FRAME_ERROR,
                             "content body frame exceeds remaining content size");
    memcpy(message_body_data(message) + publish->body_received, bytes.data, bytes.size);
    publish->body_received += (uint32_t)bytes.size;
    if (publish->is_counted_as_it_comes)
        memory_count((int64_t)bytes.size);
    if (publish->body_received < message->body_size)
        return 0;
    publish->is_expecting_body = publish->is_counted_as_it_comes = false;
    channel->connection->unfinished--;
    return publish_complete(channel, error);
}

/* --- Complete --------------------------------------------------------------------------------- */

/* Says again what was wrong with the properties. */
static int
bad_properties(struct channel *channel, const struct amqp_properties *properties,
               struct amqp_error *error)
{
    int64_t expiration_ms;
    bool has_bcc;
    if (check_properties(channel, properties, error) == 0
        && read_expiration(properties, &expiration_ms, error) == 0)
        (void)check_more_keys(properties, &has_bcc, error);
    return -1;
}

static int
no_such_exchange(struct channel *channel, const struct message *message, enum route_status status,
                 struct amqp_error *error)
{
    struct slice name = message_exchange(message);
    struct slice vhost = vhost_name(channel->connection->vhost);
    if (status == ROUTE_INTERNAL_EXCHANGE)
        return channel_error(error, AMQP_REPLY_ACCESS_REFUSED,
                             "cannot publish to internal exchange '%.*s' in vhost '%.*s'",
                             SLICE_ARGS(name), SLICE_ARGS(vhost));
    return channel_error(error, AMQP_REPLY_NOT_FOUND, "no exchange '%.*s' in vhost '%.*s'",
                         SLICE_ARGS(name), SLICE_ARGS(vhost));
}

int
publish_check_exchange(struct channel *channel, const struct message *message,
                       struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    enum route_status status = ROUTE_OK;
    struct slice name = message_exchange(message);
    if (name.size == 0)
        return 0;
    catalogue_lock(catalogue);
    struct exchange *exchange = exchange_find(catalogue, connection->vhost, name);
    if (exchange == NULL)
        status = ROUTE_NO_EXCHANGE;
    else if (exchange_is_internal(exchange))
        status = ROUTE_INTERNAL_EXCHANGE;
    catalogue_unlock(catalogue);
    return status == ROUTE_OK ? 0 : no_such_exchange(channel, message, status, error);
}

/* The route of a message to its own and these further keys. NULL with the error. */
static const struct route *
find_route(struct channel *channel, struct message *message,
           const struct amqp_properties *properties, const struct slice *keys, size_t key_count,
           struct amqp_error *error)
{
    struct session_host *host = channel->connection->host;
    struct route_request request = {
        .exchange = message_exchange(message),
        .routing_key = message_routing_key(message),
        .more_keys = keys,
        .more_key_count = key_count,
        .properties = properties,
        .message = message,
    };
    uint64_t asked = host->routes.asked;
    const struct route *route = route_cache_find(
        &host->routes, host->shard->broker->catalogue, channel->connection->vhost,
        message_prefix(message), &request, host->shard->now_ms, &channel->route_hint);
    if (route == NULL) {
        (void)channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory for routing");
        return NULL;
    }
    if (route->status != ROUTE_OK) {
        (void)no_such_exchange(channel, message, route->status, error);
        return NULL;
    }
    connection_worked(channel->connection, host->routes.asked != asked
                                               ? SESSION_FRAMES_PER_LOOK
                                               : route->count / SESSION_TARGETS_PER_FRAME);
    return route;
}

/* A reply to somebody's request goes to the channel that waits for it, if its key says so. */
static bool
send_reply(struct channel *channel, struct message *message, struct slice key)
{
    if (!slice_starts_with(key, SLICE(REPLY_TO_NAME ".")))
        return false;
    if (reply_to_publish(channel, key, message_ref(message)))
        return true;
    message_unref(message);
    return false;
}

/* The default exchange also reaches channels that wait for replies: how many there were. */
static uint32_t
send_replies(struct channel *channel, struct message *message, const struct slice *keys,
             size_t key_count)
{
    uint32_t sent = send_reply(channel, message, message_routing_key(message));
    for (size_t i = 0; i < key_count; i++)
        sent += send_reply(channel, message, keys[i]);
    return sent;
}

/* A duplicate goes nowhere because the broker has the message already, which is as good as the disk
 * is with that. So its publisher waits for what was handed to the log before, by whichever thread.
 * Returns whether there is something to wait for. */
static bool
awaits_first_copy(struct channel *channel, const struct route *route)
{
    struct log_writer *writer = channel->connection->host->log_writer;
    if (LIKELY(!route->is_duplicate) || writer == NULL || channel->mode == CHANNEL_PLAIN)
        return false;
    if (log_fence(writer) != 0)
        connection_break(channel->connection, "out of memory");
    return true;
}

int
publish_message(struct channel *channel, struct message *message,
                const struct amqp_properties *properties, bool mandatory, struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct shard *shard = connection->host->shard;
    struct slice keys[MESSAGE_KEYS_MAX];
    size_t key_count = 0;
    uint32_t replies = 0;
    if ((message->flags & MESSAGE_HAS_HEADERS) != 0) {
        key_count = message_more_keys(properties->headers, "CC", keys, MESSAGE_KEYS_MAX);
        key_count += message_more_keys(properties->headers, "BCC", keys + key_count,
                                       MESSAGE_KEYS_MAX - key_count);
    }
    if (message_exchange(message).size == 0)
        replies = send_replies(channel, message, keys, key_count);
    const struct route *route = find_route(channel, message, properties, keys, key_count, error);
    if (route == NULL) {
        message_unref(message);
        return -1;
    }
    if (UNLIKELY(mandatory && route->count == 0 && replies == 0 && !route->is_duplicate))
        send_return(channel, message, AMQP_REPLY_NO_ROUTE, "NO_ROUTE");
    bool awaits_disk = shard_keeps(shard, route, message) || awaits_first_copy(channel, route);
    uint64_t number = 0;
    if (channel->mode == CHANNEL_CONFIRMS) {
        number = confirms_add(&channel->confirms, route->may_reject_count, awaits_disk);
        if (number == 0)
            connection_break(connection, "out of memory");
        if (!list_is_linked(&channel->confirm_link))
            list_push_back(&connection->confirming, &channel->confirm_link);
        connection_dirty(connection);
    } else if (channel->mode == CHANNEL_TRANSACTIONAL) {
        transaction_expects(channel, route->may_reject_count);
        if (awaits_disk)
            transaction_writes(channel);
    }
    if (awaits_disk && channel->mode == CHANNEL_CONFIRMS && !list_is_linked(&channel->written_link))
        list_push_back(&connection->host->written, &channel->written_link);
    /* Without confirms nobody asks; and an answer that came during a later transaction would count
     * there. */
    struct ref from = channel->mode == CHANNEL_PLAIN ? REF_NONE : channel->ref;
    if (shard_publish(shard, route, message, from, number, PUBLISHED_BY_CLIENT) != 0)
        return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory for the log");
    return 0;
}

/* The keys in the headers reach queues as the message's own does, so the permissions of topics are
 * for them, too. */
static int
check_more_keys_permitted(struct channel *channel, const struct message *message,
                          const struct amqp_properties *properties, struct amqp_error *error)
{
    static const char *const headers[] = {"CC", "BCC"};
    struct slice keys[MESSAGE_KEYS_MAX];
    if ((message->flags & MESSAGE_HAS_HEADERS) == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
        size_t count = message_more_keys(properties->headers, headers[i], keys, MESSAGE_KEYS_MAX);
        for (size_t j = 0; j < count; j++)
            if (permission_check_topic(channel, ACCESS_WRITE, message_exchange(message), keys[j],
                                       error)
                != 0)
                return -1;
    }
    return 0;
}

/* May the user publish it? */
static int
check_permitted(struct channel *channel, const struct message *message,
                const struct amqp_properties *properties, struct amqp_error *error)
{
    struct slice exchange = message_exchange(message);
    if (LIKELY(permission_is_as_before(channel->connection, exchange)))
        return 0;
    if (permission_check_publish(channel, exchange, message_routing_key(message), error) != 0)
        return -1;
    if (permission_is_as_before(channel->connection, exchange))
        return 0; /* any key may be */
    return check_more_keys_permitted(channel, message, properties, error);
}

static int
publish_complete(struct channel *channel, struct amqp_error *error)
{
    struct publish *publish = &channel->publish;
    struct message *message = publish->message;
    struct amqp_properties properties;
    bool mandatory = publish->mandatory, is_bad = publish->is_bad;
    publish->message = NULL;
    (void)amqp_properties_decode(message_properties(message), &properties); /* found good before */
    if (check_permitted(channel, message, &properties, error) != 0) {
        message_unref(message);
        return -1;
    }
    if (UNLIKELY(is_bad)) {
        /* The exchange comes first among the errors. */
        if (publish_check_exchange(channel, message, error) == 0)
            (void)bad_properties(channel, &properties, error);
        message_unref(message);
        return -1;
    }
    if (channel->mode == CHANNEL_TRANSACTIONAL)
        return transaction_publish(channel, message, mandatory, error);
    return publish_message(channel, message, &properties, mandatory, error);
}
