/* basic.consume, cancel and qos: consumers, and how much they may be sent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/log.h"
#include "broker/queue.h"
#include "session/channel.h"

#define SLOT_MASK ((1U << CONSUMER_SLOT_BITS) - 1)

/* --- The channel's consumers ------------------------------------------------------------------ */

struct consumer *
channel_consumer(struct channel *channel, uint32_t number)
{
    uint32_t slot = number & SLOT_MASK;
    if (slot >= channel->consumer_capacity
        || channel->consumers[slot].generation != number >> CONSUMER_SLOT_BITS)
        return NULL;
    return channel->consumers[slot].consumer;
}

static struct consumer *
find_by_tag(struct channel *channel, struct slice tag)
{
    for (uint32_t i = 0; i < channel->consumer_capacity; i++) {
        struct consumer *consumer = channel->consumers[i].consumer;
        if (consumer != NULL && slice_equal((struct slice){consumer->tag, consumer->tag_size}, tag))
            return consumer;
    }
    return NULL;
}

/* A free slot, or NULL: out of memory. */
static struct consumer_slot *
free_slot(struct channel *channel)
{
    if (channel->consumer_count == channel->consumer_capacity) {
        uint32_t capacity = channel->consumer_capacity == 0 ? 2 : 2 * channel->consumer_capacity;
        struct consumer_slot *grown = realloc(channel->consumers, capacity * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        memset(grown + channel->consumer_capacity, 0,
               (capacity - channel->consumer_capacity) * sizeof(*grown));
        channel->consumers = grown;
        channel->next_consumer_slot = channel->consumer_capacity;
        channel->consumer_capacity = capacity;
    }
    while (channel->consumers[channel->next_consumer_slot].consumer != NULL)
        channel->next_consumer_slot =
            (channel->next_consumer_slot + 1) & (channel->consumer_capacity - 1);
    return &channel->consumers[channel->next_consumer_slot];
}

struct consumer *
consumer_new(struct channel *channel, struct slice tag)
{
    struct consumer_slot *slot = free_slot(channel);
    struct consumer *consumer = slot == NULL ? NULL : calloc(1, sizeof(*consumer) + tag.size);
    if (consumer == NULL) {
        vhost_give_consumer_back(channel->connection->vhost);
        return NULL;
    }
    consumer->channel = channel;
    consumer->window = channel->connection->consumer_count < CONSUMERS_FEW
                           ? CONSUMER_WINDOW
                           : CONSUMER_WINDOW_OF_MANY;
    consumer->number =
        (uint32_t)(slot - channel->consumers) | (uint32_t)slot->generation << CONSUMER_SLOT_BITS;
    consumer->tag_size = (uint8_t)tag.size;
    memcpy(consumer->tag, tag.data, tag.size);
    list_init(&consumer->owing_link);
    list_init(&consumer->want_link);
    slot->consumer = consumer;
    channel->consumer_count++;
    channel->connection->consumer_count++;
    return consumer;
}

static void
consumer_free(struct consumer *consumer)
{
    struct channel *channel = consumer->channel;
    struct consumer_slot *slot = &channel->consumers[consumer->number & SLOT_MASK];
    slot->consumer = NULL;
    slot->generation = (slot->generation + 1) & (uint16_t)((1U << (32 - CONSUMER_SLOT_BITS)) - 1);
    channel->consumer_count--;
    channel->connection->consumer_count--;
    vhost_give_consumer_back(channel->connection->vhost);
    consumer_ungrant(consumer, consumer->granted);
    list_remove(&consumer->owing_link);
    list_remove(&consumer->want_link);
    free(consumer);
}

void
consumers_free(struct channel *channel)
{
    struct shard *shard = channel->connection->host->shard;
    for (uint32_t i = 0; i < channel->consumer_capacity; i++) {
        struct consumer *consumer = channel->consumers[i].consumer;
        if (consumer == NULL)
            continue;
        if (!ref_is_none(consumer->subscription)) {
            struct mail mail = {.type = MAIL_UNSUBSCRIBE, .to = consumer->subscription};
            consumer_free(consumer);
            shard_send(shard, &mail);
        } else {
            consumer_free(consumer);
        }
    }
    channel->consumer_capacity = channel->next_consumer_slot = 0;
}

/* --- basic.consume ---------------------------------------------------------------------------- */

static int
bad_argument(const struct channel *channel, const char *name, struct slice queue,
             const char *complaint, struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                         "invalid arg '%s' for queue '%.*s' in vhost '%.*s': \"%s\"", name,
                         SLICE_ARGS(queue), SLICE_ARGS(vhost_name(channel->connection->vhost)),
                         complaint);
}

/* An argument of basic.consume that is an integer: `value` keeps its default when it is not there.
 */
static int
read_integer(const struct channel *channel, struct slice arguments, const char *name,
             struct slice queue, int64_t *value, struct amqp_error *error)
{
    struct amqp_value found;
    char complaint[64];
    if (!amqp_table_find(arguments, slice_from(name), &found))
        return 0;
    if (amqp_value_is_integer(&found)) {
        *value = found.integer;
        return 0;
    }
    snprintf(complaint, sizeof(complaint), "expected integer, got %s",
             amqp_value_type_name(found.type));
    return bad_argument(channel, name, queue, complaint, error);
}

/* RabbitMQ's argument of before 4.0 for mirrored queues: there is nothing to fail over to, but the
 * value has to be what it says. */
static int
check_failover(const struct channel *channel, struct slice arguments, struct slice queue,
               struct amqp_error *error)
{
    struct amqp_value found;
    char complaint[64];
    if (!amqp_table_find(arguments, SLICE("x-cancel-on-ha-failover"), &found) || found.type == 't')
        return 0;
    snprintf(complaint, sizeof(complaint), "expected bool, got %s",
             amqp_value_type_name(found.type));
    return bad_argument(channel, "x-cancel-on-ha-failover", queue, complaint, error);
}

/* Who asks for a place in a stream must not be given a queue's next message instead. */
static int
refuse_stream_arguments(const struct channel *channel, struct slice arguments, struct slice queue,
                        enum queue_type type, struct amqp_error *error)
{
    static const char *const names[] = {"x-stream-offset", "x-stream-filter",
                                        "x-stream-match-unfiltered"};
    struct amqp_value found;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (!amqp_table_find(arguments, slice_from(names[i]), &found))
            continue;
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "invalid arg '%s' for queue '%.*s' in vhost '%.*s' of queue type %s",
                             names[i], SLICE_ARGS(queue),
                             SLICE_ARGS(vhost_name(channel->connection->vhost)),
                             queue_type_module(type));
    }
    return 0;
}

struct consumer_options {
    int64_t priority;
    int64_t timeout_ms; /* OPTION_NONE: not given */
};

static int
read_options(const struct channel *channel, struct slice arguments, struct slice queue,
             enum queue_type type, struct consumer_options *options, struct amqp_error *error)
{
    *options = (struct consumer_options){.timeout_ms = OPTION_NONE};
    if (refuse_stream_arguments(channel, arguments, queue, type, error) != 0
        || read_integer(channel, arguments, "x-priority", queue, &options->priority, error) != 0
        || check_failover(channel, arguments, queue, error) != 0
        || read_integer(channel, arguments, "x-consumer-timeout", queue, &options->timeout_ms,
                        error)
               != 0)
        return -1;
    if (options->timeout_ms < OPTION_NONE)
        return bad_argument(channel, "x-consumer-timeout", queue, "expected non-negative integer",
                            error);
    if (options->priority > INT32_MAX)
        options->priority = INT32_MAX;
    else if (options->priority < INT32_MIN)
        options->priority = INT32_MIN;
    return 0;
}

int
consumer_take_place(struct channel *channel, struct slice queue, struct amqp_error *error)
{
    const struct connection *connection = channel->connection;
    const struct session_limits *limits = &connection->host->limits;
    struct slice vhost = vhost_name(connection->vhost);
    uint32_t vhost_limit = catalogue_limits(connection->host->shard->broker->catalogue)->consumers;
    if (channel->consumer_count >= limits->consumers_per_channel)
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED,
                             "reached maximum (%u) of consumers per channel",
                             limits->consumers_per_channel);
    if (limits->consumers_per_connection > 0
        && connection->consumer_count >= limits->consumers_per_connection)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "cannot consume from queue '%.*s': consumer limit of the connection "
                             "(%u) is reached",
                             SLICE_ARGS(queue), limits->consumers_per_connection);
    if (!vhost_take_consumer(connection->vhost, vhost_limit))
        return channel_error(
            error, AMQP_REPLY_PRECONDITION_FAILED,
            "cannot consume from queue '%.*s': consumer limit in vhost '%.*s' (%u) "
            "is reached",
            SLICE_ARGS(queue), SLICE_ARGS(vhost), vhost_limit);
    return 0;
}

bool
channel_is_full(struct channel *channel)
{
    uint32_t limit = channel->connection->host->limits.unsettled_per_channel;
    if (limit == 0 || channel->unacked.outstanding < limit)
        return false;
    if (!channel->is_full_noted)
        EVENT_LOG(channel->connection->host, EVENT_CHANNEL_FULL, LOG_LEVEL_WARN,
                  "channel gets no more messages before it settles some",
                  LOG_STR("peer", channel->connection->peer), LOG_UINT("channel", channel->number),
                  LOG_UINT("limit", limit));
    channel->is_full_noted = true;
    return true;
}

int
basic_consume_method(struct channel *channel, const union amqp_method *method,
                     struct amqp_error *error)
{
    const struct amqp_basic_consume *consume = &method->basic_consume;
    struct connection *connection = channel->connection;
    struct slice name = consume->queue, tag = consume->consumer_tag;
    struct found_queue found;
    struct consumer_options options;
    char made[64];
    if (tag.size > 0 && find_by_tag(channel, tag) != NULL)
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED, "attempt to reuse consumer tag '%.*s'",
                             SLICE_ARGS(tag));
    if (slice_is(consume->queue, REPLY_TO_NAME))
        return reply_to_consume(channel, consume, error);
    if (channel_find_permitted(channel, &name, ACCESS_READ, &found, error) != 0
        || read_options(channel, consume->arguments, name, found.type, &options, error) != 0)
        return -1;
    if (consumer_take_place(channel, name, error) != 0)
        return -1;
    if (tag.size == 0)
        tag = channel_make_name(channel, "amq.ctag-", made);
    struct consumer *consumer = consumer_new(channel, tag);
    channel->pending = (struct pending){
        .method_id = AMQP_basic_consume, .no_wait = consume->no_wait, .consumer = consumer};
    char *copy = malloc(name.size + 1);
    if (consumer == NULL || copy == NULL) {
        free(copy);
        connection_break(connection, "out of memory");
        return 0;
    }
    memcpy(copy, name.data, name.size);
    channel->pending.queue_name = (struct slice){copy, name.size};
    consumer->queue = found.ref;
    consumer->no_ack = consume->no_ack;
    consumer->timeout_ms = settle_timeout(channel, &found, options.timeout_ms);
    struct mail mail = {
        .type = MAIL_SUBSCRIBE,
        .to = found.ref,
        .subscribe = {.consumer = consumer->number,
                      .prefetch = channel->prefetch,
                      .window = consumer->window,
                      .priority = (int32_t)options.priority,
                      .no_ack = consume->no_ack,
                      .exclusive = consume->exclusive,
                      .is_metered = channel->global_prefetch > 0},
    };
    channel_ask(channel, &mail);
    return 0;
}

static struct slice
tag_of(const struct consumer *consumer)
{
    return (struct slice){consumer->tag, consumer->tag_size};
}

static void
subscribed(struct channel *channel, const struct mail *mail)
{
    struct pending *pending = &channel->pending;
    struct consumer *consumer = pending->consumer;
    struct amqp_error error = {0};
    if (mail->result == QUEUE_OK) {
        consumer->subscription = mail->reply.subscription;
        if (!pending->no_wait)
            CONNECTION_SEND(channel->connection, channel->number, basic_consume_ok, 512,
                            {.consumer_tag = tag_of(consumer)});
        channel_answered(channel);
        return;
    }
    consumer_free(consumer);
    if (mail->result == QUEUE_EXCLUSIVE_USE)
        (void)channel_error(
            &error, AMQP_REPLY_ACCESS_REFUSED, "queue '%.*s' in vhost '%.*s' in exclusive use",
            SLICE_ARGS(pending->queue_name), SLICE_ARGS(vhost_name(channel->connection->vhost)));
    else if (mail->result == QUEUE_GONE)
        (void)no_queue(channel, pending->queue_name, &error);
    else
        (void)channel_error(&error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    channel_fail_pending(channel, &error);
}

/* --- basic.cancel ----------------------------------------------------------------------------- */

int
basic_cancel_method(struct channel *channel, const union amqp_method *method,
                    struct amqp_error *error)
{
    const struct amqp_basic_cancel *cancel = &method->basic_cancel;
    (void)error;
    struct consumer *consumer = find_by_tag(channel, cancel->consumer_tag);
    if (consumer != NULL && !consumer->is_reply_to) {
        channel->pending = (struct pending){
            .method_id = AMQP_basic_cancel, .no_wait = cancel->no_wait, .consumer = consumer};
        struct mail mail = {.type = MAIL_UNSUBSCRIBE, .to = consumer->subscription};
        channel_ask(channel, &mail);
        return 0;
    }
    if (consumer != NULL) {
        reply_to_end(channel);
        consumer_free(consumer);
    }
    if (!cancel->no_wait)
        CONNECTION_SEND(channel->connection, channel->number, basic_cancel_ok, 512,
                        {.consumer_tag = cancel->consumer_tag});
    return 0;
}

static void
unsubscribed(struct channel *channel)
{
    struct consumer *consumer = channel->pending.consumer;
    if (!channel->pending.no_wait)
        CONNECTION_SEND(channel->connection, channel->number, basic_cancel_ok, 512,
                        {.consumer_tag = tag_of(consumer)});
    consumer_free(consumer);
    channel_grant(channel);
    channel_answered(channel);
}

void
consumer_replied(struct channel *channel, const struct mail *mail)
{
    if (mail->flag == MAIL_SUBSCRIBE)
        subscribed(channel, mail);
    else
        unsubscribed(channel);
}

void
consumer_cancelled(struct channel *channel, const struct mail *mail)
{
    struct connection *connection = channel->connection;
    struct consumer *consumer = channel_consumer(channel, mail->consumer);
    if (consumer == NULL || consumer == channel->pending.consumer)
        return; /* the client cancels it itself at this moment, and is answered */
    if ((connection->capabilities & CLIENT_CANCEL_NOTIFY) != 0)
        CONNECTION_SEND(connection, channel->number, basic_cancel, 512,
                        {.consumer_tag = tag_of(consumer), .no_wait = true});
    consumer_free(consumer);
    channel_grant(channel);
}

/* --- basic.qos -------------------------------------------------------------------------------- */

/* The limit of the whole channel begins, or ends, to be: the queues are told to ask before they
 * send, or that they need not any more. */
static void
set_metered(struct channel *channel, bool is_metered)
{
    for (uint32_t i = 0; i < channel->consumer_capacity; i++) {
        struct consumer *consumer = channel->consumers[i].consumer;
        if (consumer == NULL || consumer->no_ack)
            continue;
        consumer_ungrant(consumer, consumer->granted);
        struct mail mail = {
            .type = MAIL_CREDIT,
            .flag = is_metered ? CREDIT_METERED : CREDIT_FREE,
            .to = consumer->subscription,
        };
        shard_send(channel->connection->host->shard, &mail);
    }
}

int
basic_qos_method(struct channel *channel, const union amqp_method *method, struct amqp_error *error)
{
    const struct amqp_basic_qos *qos = &method->basic_qos;
    if (qos->prefetch_size != 0)
        return channel_error(error, AMQP_REPLY_NOT_IMPLEMENTED, "prefetch_size!=0 (%u)",
                             qos->prefetch_size);
    if (!qos->global) {
        channel->prefetch = qos->prefetch_count;
    } else {
        bool was_metered = channel->global_prefetch > 0;
        bool is_metered = qos->prefetch_count > 0;
        channel->global_prefetch = qos->prefetch_count;
        if (was_metered != is_metered) {
            set_metered(channel, is_metered);
        }
        channel_grant(channel);
    }
    CONNECTION_SEND(channel->connection, channel->number, basic_qos_ok, 16, {.no_fields = 0});
    return 0;
}

void
channel_grant(struct channel *channel)
{
    while (!list_is_empty(&channel->wanting)) {
        uint32_t used = channel->unacked.outstanding - channel->got + channel->granted;
        if (channel->global_prefetch > 0 && used >= channel->global_prefetch)
            return;
        struct consumer *consumer =
            LIST_ENTRY(list_pop_front(&channel->wanting), struct consumer, want_link);
        struct mail mail = {
            .type = MAIL_CREDIT, .to = consumer->subscription, .credit = {.messages = 1}};
        channel->granted++;
        consumer->granted++;
        shard_send(channel->connection->host->shard, &mail);
    }
}

void
consumer_ungrant(struct consumer *consumer, uint32_t messages)
{
    /* What was given before the limit changed may come back after it. */
    if (messages > consumer->granted)
        messages = consumer->granted;
    consumer->granted -= messages;
    consumer->channel->granted -= messages;
}

/* Tells the queue that its deliveries have been taken off. */
void
consumer_report(struct consumer *consumer)
{
    struct mail mail = {
        .type = MAIL_CREDIT,
        .to = consumer->subscription,
        .credit = {.bytes = consumer->owed_bytes},
    };
    consumer->owed_bytes = 0;
    shard_send(consumer->channel->connection->host->shard, &mail);
}
