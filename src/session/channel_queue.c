/* queue.declare, bind, unbind, purge, delete. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/queue.h"
#include "session/channel.h"
#include "session/permission.h"

/* --- Names ------------------------------------------------------------------------------------ */

struct slice
channel_make_name(struct channel *channel, const char *prefix, char name[64])
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[22];
    size_t size = strlen(prefix);
    (void)channel;
    random_bytes(random, sizeof(random)); /* not to be guessed: names of others' reply queues */
    memcpy(name, prefix, size);
    for (size_t i = 0; i < sizeof(random); i++)
        name[size++] = letters[random[i] & 63];
    return (struct slice){name, size};
}

struct slice
channel_strip_name(struct slice name, char room[256])
{
    size_t size = 0;
    for (size_t i = 0; i < name.size; i++)
        if (name.data[i] != '\r' && name.data[i] != '\n')
            room[size++] = name.data[i];
    return (struct slice){room, size};
}

static struct slice
copy(struct slice from)
{
    char *data = malloc(from.size + 1);
    if (data == NULL)
        return (struct slice){0};
    memcpy(data, from.data, from.size);
    return (struct slice){data, from.size};
}

static void
remember_last(struct channel *channel, struct slice name)
{
    struct slice kept = copy(name);
    if (kept.data == NULL) {
        connection_break(channel->connection, "out of memory");
        return;
    }
    free((char *)channel->last_queue.data);
    channel->last_queue = kept;
}

/* --- Finding ---------------------------------------------------------------------------------- */

int
no_queue(struct channel *channel, struct slice name, struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_NOT_FOUND, "no queue '%.*s' in vhost '%.*s'",
                         SLICE_ARGS(name), SLICE_ARGS(vhost_name(channel->connection->vhost)));
}

static int
locked_queue(struct channel *channel, struct slice name, struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_RESOURCE_LOCKED,
                         "cannot obtain exclusive access to locked queue '%.*s' in vhost '%.*s'. "
                         "It could be originally declared on another connection or the exclusive "
                         "property value does not match that of the original declaration.",
                         SLICE_ARGS(name), SLICE_ARGS(vhost_name(channel->connection->vhost)));
}

static int
expand_name(struct channel *channel, struct slice *name, struct amqp_error *error)
{
    if (name->size > 0)
        return 0;
    if (channel->last_queue.data == NULL)
        return channel_error(error, AMQP_REPLY_NOT_FOUND, "no previously declared queue");
    *name = channel->last_queue;
    return 0;
}

int
channel_find_queue(struct channel *channel, struct slice *name, struct found_queue *found,
                   struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    if (expand_name(channel, name, error) != 0)
        return -1;
    bool is_locked = false;
    catalogue_lock(catalogue);
    struct queue_record *record = queue_record_find(catalogue, connection->vhost, *name);
    if (record != NULL) {
        is_locked = !ref_is_none(record->owner) && !ref_equal(record->owner, connection->ref);
        *found = (struct found_queue){
            .ref = record->queue,
            .id = record->id,
            .type = record->options.type,
            .consumer_timeout_ms = record->consumer_timeout_ms,
            .durable = record->durable,
        };
    }
    catalogue_unlock(catalogue);
    if (record == NULL)
        return no_queue(channel, *name, error);
    return is_locked ? locked_queue(channel, *name, error) : 0;
}

int
channel_find_permitted(struct channel *channel, struct slice *name,
                       enum access_permission permission, struct found_queue *found,
                       struct amqp_error *error)
{
    if (expand_name(channel, name, error) != 0
        || permission_check(channel, PERMISSION_QUEUE, permission, *name, error) != 0)
        return -1;
    return channel_find_queue(channel, name, found, error);
}

/* --- queue.declare ---------------------------------------------------------------------------- */

static void
send_declare_ok(struct channel *channel, struct slice name, uint64_t messages, uint64_t consumers)
{
    CONNECTION_SEND(channel->connection, channel->number, queue_declare_ok, 512,
                    {.queue = name,
                     .message_count = messages > UINT32_MAX ? UINT32_MAX : (uint32_t)messages,
                     .consumer_count = (uint32_t)consumers});
}

/* The exclusive queues of a connection go with it, so it must know them. */
static int
add_exclusive(struct connection *connection, struct ref queue)
{
    struct shard *shard = connection->host->shard;
    if (connection->exclusive_count == connection->exclusive_capacity) {
        uint32_t kept = 0; /* forget the deleted ones first */
        for (uint32_t i = 0; i < connection->exclusive_count; i++)
            if (ref_table_find(&shard->queues, connection->exclusive_queues[i]) != NULL)
                connection->exclusive_queues[kept++] = connection->exclusive_queues[i];
        connection->exclusive_count = kept;
    }
    if (connection->exclusive_count == connection->exclusive_capacity) {
        uint32_t capacity =
            connection->exclusive_capacity == 0 ? 4 : 2 * connection->exclusive_capacity;
        struct ref *grown = realloc(connection->exclusive_queues, capacity * sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        connection->exclusive_queues = grown;
        connection->exclusive_capacity = capacity;
    }
    connection->exclusive_queues[connection->exclusive_count++] = queue;
    return 0;
}

/* With the catalogue locked. */
static int
create_queue(struct channel *channel, const struct queue_declaration *declaration,
             const struct queue_options *options, struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct shard *shard = connection->host->shard;
    struct catalogue *catalogue = shard->broker->catalogue;
    struct queue_record *record =
        queue_record_new(catalogue, connection->vhost, declaration, options, 0);
    if (record == NULL)
        return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    if (declaration->exclusive)
        record->owner = connection->ref;
    struct queue *queue = queue_new(shard, record);
    if (queue == NULL) {
        queue_record_free(record);
        return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    }
    int status = declaration->exclusive ? add_exclusive(connection, record->queue) : 0;
    if (status == 0)
        status = queue_record_insert(catalogue, record);
    if (status == 0)
        return 0;
    queue_discard(queue);
    queue_record_free(record);
    if (status == -ENOENT)
        return channel_error(error, AMQP_REPLY_CONNECTION_FORCED, "vhost '%.*s' is deleted",
                             SLICE_ARGS(vhost_name(connection->vhost)));
    return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
}

static int
check_flag(struct channel *channel, struct slice name, const char *flag, bool received,
           bool current, struct amqp_error *error)
{
    if (received == current)
        return 0;
    return channel_error(
        error, AMQP_REPLY_PRECONDITION_FAILED,
        "inequivalent arg '%s' for queue '%.*s' in vhost '%.*s': received '%s' but "
        "current is '%s'",
        flag, SLICE_ARGS(name), SLICE_ARGS(vhost_name(channel->connection->vhost)),
        received ? "true" : "false", current ? "true" : "false");
}

/* With the catalogue locked: may this declaration mean the queue that there is? */
static int
check_same(struct channel *channel, const struct queue_record *record,
           const struct queue_declaration *declaration, struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct ref owner = declaration->exclusive ? connection->ref : REF_NONE;
    if (!ref_equal(record->owner, owner))
        return locked_queue(channel, record->name, error);
    if (check_flag(channel, record->name, "durable",
                   declaration->durable && !declaration->exclusive, record->durable, error)
            != 0
        || check_flag(channel, record->name, "auto_delete", declaration->auto_delete,
                      record->auto_delete, error)
               != 0)
        return -1;
    return queue_arguments_check_equivalent(record->options.type, record->arguments,
                                            declaration->arguments, record->name,
                                            vhost_name(connection->vhost), error);
}

/* The method with all that it points to, under this name, in one allocation. NULL: out of memory.
 */
static struct amqp_queue_declare *
keep_declare(const struct amqp_queue_declare *declare, struct slice name)
{
    struct amqp_queue_declare *kept = malloc(sizeof(*kept) + name.size + declare->arguments.size);
    if (kept == NULL)
        return NULL;
    char *at = (char *)(kept + 1);
    *kept = *declare;
    memcpy(at, name.data, name.size);
    kept->queue = (struct slice){at, name.size};
    at += name.size;
    if (declare->arguments.size > 0)
        memcpy(at, declare->arguments.data, declare->arguments.size);
    kept->arguments = (struct slice){at, declare->arguments.size};
    return kept;
}

/* Asks the queue for its counts, for queue.declare-ok. */
static int
ask_counts(struct channel *channel, struct slice name, struct ref queue,
           const struct amqp_queue_declare *declare)
{
    channel->pending = (struct pending){
        .method_id = AMQP_queue_declare, .no_wait = declare->no_wait, .queue_name = copy(name)};
    if (!declare->passive)
        channel->pending.declare = keep_declare(declare, name);
    if (channel->pending.queue_name.data == NULL
        || (!declare->passive && channel->pending.declare == NULL)) {
        connection_break(channel->connection, "out of memory");
        return 0;
    }
    struct mail mail = {.type = MAIL_COUNT, .to = queue};
    channel_ask(channel, &mail);
    return 0;
}

static int
declare_passive(struct channel *channel, struct slice name,
                const struct amqp_queue_declare *declare, struct amqp_error *error)
{
    struct found_queue found;
    if (name.size > 0 && is_reply_to_name(name)) {
        if (!reply_to_exists(channel, name))
            return no_queue(channel, name, error);
        remember_last(channel, name);
        if (!declare->no_wait)
            send_declare_ok(channel, name, 0, 1);
        return 0;
    }
    if (name.size == 0)
        return no_queue(channel, name, error);
    if (channel_find_queue(channel, &name, &found, error) != 0)
        return -1;
    remember_last(channel, name);
    return ask_counts(channel, name, found.ref, declare);
}

/* May the user declare a queue of this name? Nothing is asked for a name that is refused anyway.
 * Whether it was a new one is said too: more is asked for that. */
static int
check_declare(struct channel *channel, struct slice name, struct slice arguments, bool *is_new,
              struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    catalogue_lock(catalogue);
    *is_new = queue_record_find(catalogue, connection->vhost, name) == NULL;
    catalogue_unlock(catalogue);
    bool is_made = slice_starts_with(name, SLICE("amq.gen-"));
    if (*is_new && slice_starts_with(name, SLICE("amq.")) && !is_made)
        return 0;
    if (permission_check(channel, PERMISSION_QUEUE, ACCESS_CONFIGURE, name, error) != 0)
        return -1;
    if (!*is_new)
        return 0;
    return permission_check_forwarding(channel, PERMISSION_QUEUE, name, arguments,
                                       "x-dead-letter-exchange", error);
}

int
queue_declare_method(struct channel *channel, const union amqp_method *method,
                     struct amqp_error *error)
{
    const struct amqp_queue_declare *declare = &method->queue_declare;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char room[256], made[64];
    struct queue_declaration declaration = {
        .name = channel_strip_name(declare->queue, room),
        .durable = declare->durable,
        .exclusive = declare->exclusive,
        .auto_delete = declare->auto_delete,
        .arguments = declare->arguments,
    };
    if (declare->passive || is_reply_to_name(declaration.name))
        return declare_passive(channel, declaration.name, declare, error);

    declaration.server_named = declaration.name.size == 0;
    if (declaration.server_named)
        declaration.name = channel_make_name(channel, "amq.gen-", made);

    struct queue_options options;
    struct ref existing = REF_NONE;
    struct queue_record *record;
    int status = 0;
    for (bool is_new = false;;) {
        if (check_declare(channel, declaration.name, declaration.arguments, &is_new, error) != 0)
            return -1;
        catalogue_lock(catalogue);
        record = queue_record_find(catalogue, connection->vhost, declaration.name);
        if (record != NULL || is_new)
            break;
        catalogue_unlock(catalogue); /* deleted meanwhile: what a new one needs was not asked */
    }
    if (record != NULL) {
        status = check_same(channel, record, &declaration, error);
        existing = record->queue;
    } else if (!declaration.server_named && slice_starts_with(declaration.name, SLICE("amq."))) {
        status = channel_error(error, AMQP_REPLY_ACCESS_REFUSED,
                               "queue name '%.*s' contains reserved prefix 'amq.*'",
                               SLICE_ARGS(declaration.name));
    } else {
        status = queue_options_parse(&options, &declaration, vhost_name(connection->vhost), error);
        if (status == 0)
            status = queue_check_limit(catalogue, connection->vhost, declaration.name, error);
        if (status == 0)
            status = create_queue(channel, &declaration, &options, error);
    }
    catalogue_unlock(catalogue);
    if (status != 0)
        return -1;
    remember_last(channel, declaration.name);
    if (!ref_is_none(existing))
        return ask_counts(channel, declaration.name, existing, declare);
    if (!declare->no_wait)
        send_declare_ok(channel, declaration.name, 0, 0);
    return 0;
}

/* The queue was there, and has been deleted before the question reached it. */
static void
declare_again(struct channel *channel)
{
    struct connection *connection = channel->connection;
    struct amqp_queue_declare *declare = channel->pending.declare;
    const union amqp_method method = {.queue_declare = *declare};
    struct amqp_error error = {0};
    channel->pending.declare = NULL;
    channel_answered(channel);
    if (queue_declare_method(channel, &method, &error) != 0) {
        channel->pending.method_id = AMQP_queue_declare;
        channel_fail_pending(channel, &error);
    }
    connection_gate(connection); /* a new one may be durable */
    free(declare);
}

/* --- queue.bind and unbind -------------------------------------------------------------------- */

/* A new queue of a recent-history exchange gets what the exchange remembers. */
static void
publish_history(struct channel *channel, const struct binding_history *history)
{
    struct shard *shard = channel->connection->host->shard;
    struct route_target target = {
        .queue = history->queue, .queue_id = history->queue_id, .keeps_all = history->keeps_all};
    uint64_t id = history->queue_id;
    struct route route = {
        .count = 1,
        .targets = &target,
        .durable_count = id != 0,
        .durable_ids = &id,
        .keeps_all_count = history->keeps_all,
    };
    for (size_t i = 0; i < history->count; i++) {
        struct message *copy = message_copy(history->messages[i]);
        message_unref(history->messages[i]);
        if (copy == NULL
            || shard_publish(shard, &route, copy, REF_NONE, 0, PUBLISHED_BY_CLIENT) != 0)
            connection_break(channel->connection, "out of memory");
    }
    free(history->messages);
}

static int
volatile_queue(struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_ACCESS_REFUSED,
                         "cannot bind or unbind to a volatile (direct reply-to) queue");
}

int
queue_bind_method(struct channel *channel, const union amqp_method *method,
                  struct amqp_error *error)
{
    const struct amqp_queue_bind *bind = &method->queue_bind;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char source_room[256], destination_room[256];
    struct binding_request request = {
        .source = channel_strip_name(bind->exchange, source_room),
        .destination = channel_strip_name(bind->queue, destination_room),
        .routing_key = bind->routing_key,
        .arguments = bind->arguments,
        .connection = connection->ref,
    };
    if (expand_name(channel, &request.destination, error) != 0)
        return -1;
    if (is_reply_to_name(request.destination))
        return volatile_queue(error);
    if (bind->queue.size == 0 && bind->routing_key.size == 0)
        request.routing_key = channel->last_queue;
    struct binding_history history;
    if (permission_check_binding(channel, &request, error) != 0)
        return -1;
    catalogue_lock(catalogue);
    int status = catalogue_bind(catalogue, connection->vhost, &request, &history, error);
    catalogue_unlock(catalogue);
    if (status != 0)
        return -1;
    publish_history(channel, &history);
    if (!bind->no_wait)
        CONNECTION_SEND(connection, channel->number, queue_bind_ok, 16, {.no_fields = 0});
    return 0;
}

int
queue_unbind_method(struct channel *channel, const union amqp_method *method,
                    struct amqp_error *error)
{
    const struct amqp_queue_unbind *unbind = &method->queue_unbind;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char source_room[256], destination_room[256];
    struct binding_request request = {
        .source = channel_strip_name(unbind->exchange, source_room),
        .destination = channel_strip_name(unbind->queue, destination_room),
        .routing_key = unbind->routing_key,
        .arguments = unbind->arguments,
        .connection = connection->ref,
    };
    if (expand_name(channel, &request.destination, error) != 0)
        return -1;
    if (is_reply_to_name(request.destination))
        return volatile_queue(error);
    if (unbind->queue.size == 0 && unbind->routing_key.size == 0)
        request.routing_key = channel->last_queue;
    if (permission_check_binding(channel, &request, error) != 0)
        return -1;
    catalogue_lock(catalogue);
    int status = catalogue_unbind(catalogue, connection->vhost, &request, error);
    catalogue_unlock(catalogue);
    if (status != 0)
        return -1;
    CONNECTION_SEND(connection, channel->number, queue_unbind_ok, 16, {.no_fields = 0});
    return 0;
}

/* --- queue.purge and delete ------------------------------------------------------------------- */

/* Asks a queue to do something; the answer comes to queue_replied. */
static int
ask_queue(struct channel *channel, struct mail *mail, uint32_t method_id, struct slice name,
          bool no_wait)
{
    channel->pending =
        (struct pending){.method_id = method_id, .no_wait = no_wait, .queue_name = copy(name)};
    if (channel->pending.queue_name.data == NULL)
        connection_break(channel->connection, "out of memory");
    else
        channel_ask(channel, mail);
    return 0;
}

int
queue_purge_method(struct channel *channel, const union amqp_method *method,
                   struct amqp_error *error)
{
    struct slice name = method->queue_purge.queue;
    struct found_queue found;
    if (channel_find_permitted(channel, &name, ACCESS_READ, &found, error) != 0)
        return -1;
    struct mail mail = {.type = MAIL_PURGE, .to = found.ref};
    return ask_queue(channel, &mail, AMQP_queue_purge, name, method->queue_purge.no_wait);
}

static void
send_delete_ok(struct channel *channel, uint64_t messages)
{
    CONNECTION_SEND(channel->connection, channel->number, queue_delete_ok, 32,
                    {.message_count = (uint32_t)messages});
}

int
queue_delete_method(struct channel *channel, const union amqp_method *method,
                    struct amqp_error *error)
{
    const struct amqp_queue_delete *request = &method->queue_delete;
    char room[256];
    struct slice name = channel_strip_name(request->queue, room);
    struct found_queue found;
    if (channel_find_permitted(channel, &name, ACCESS_CONFIGURE, &found, error) != 0) {
        if (error->code != AMQP_REPLY_NOT_FOUND || name.size == 0)
            return -1;
        error->code = 0; /* deleting what is not there is no error */
        if (!request->no_wait)
            send_delete_ok(channel, 0);
        return 0;
    }
    struct mail mail = {
        .type = MAIL_DELETE,
        .flag = (uint8_t)((request->if_unused ? 1 : 0) | (request->if_empty ? 2 : 0)),
        .to = found.ref,
    };
    return ask_queue(channel, &mail, AMQP_queue_delete, name, request->no_wait);
}

static void
refuse(struct channel *channel, uint16_t code, const char *what)
{
    struct amqp_error error = {0};
    struct slice name = channel->pending.queue_name;
    (void)channel_error(&error, code, "queue '%.*s' in vhost '%.*s' %s", SLICE_ARGS(name),
                        SLICE_ARGS(vhost_name(channel->connection->vhost)), what);
    channel_fail_pending(channel, &error);
}

void
queue_replied(struct channel *channel, const struct mail *mail)
{
    struct amqp_error error = {0};
    struct pending *pending = &channel->pending;
    bool is_delete = pending->method_id == AMQP_queue_delete;
    switch ((enum queue_result)mail->result) {
    case QUEUE_IN_USE:
        refuse(channel, AMQP_REPLY_PRECONDITION_FAILED, "in use");
        return;
    case QUEUE_NOT_EMPTY:
        refuse(channel, AMQP_REPLY_PRECONDITION_FAILED, "not empty");
        return;
    case QUEUE_GONE:
        if (is_delete)
            break;
        if (pending->declare != NULL) {
            declare_again(channel);
            return;
        }
        (void)no_queue(channel, pending->queue_name, &error);
        channel_fail_pending(channel, &error);
        return;
    default:
        break;
    }
    if (!pending->no_wait) {
        if (pending->method_id == AMQP_queue_declare)
            send_declare_ok(channel, pending->queue_name, mail->reply.messages,
                            mail->reply.consumers);
        else if (is_delete)
            send_delete_ok(channel, mail->reply.messages);
        else
            CONNECTION_SEND(channel->connection, channel->number, queue_purge_ok, 32,
                            {.message_count = (uint32_t)mail->reply.messages});
    }
    channel_answered(channel);
}
