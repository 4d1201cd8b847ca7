/* Channels: opening, closing, and which function deals with which method. */
#include "session/channel.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* Classes whose methods change the definitions. */
enum { CLASS_EXCHANGE = 40, CLASS_QUEUE = 50 };

int
channel_error(struct amqp_error *error, uint16_t code, const char *format, ...)
{
    char text[sizeof(error->text)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    amqp_error_set(error, code, "%s", text);
    return -1;
}

/* --- Life ------------------------------------------------------------------------------------- */

static bool
make_room(struct connection *connection, uint16_t number)
{
    if (number < connection->channel_capacity)
        return true;
    uint32_t capacity = connection->channel_capacity == 0 ? 4 : connection->channel_capacity;
    while (capacity <= number)
        capacity *= 2;
    struct channel **channels = realloc(connection->channels, capacity * sizeof(struct channel *));
    if (channels == NULL)
        return false;
    memset(channels + connection->channel_capacity, 0,
           (capacity - connection->channel_capacity) * sizeof(struct channel *));
    connection->channels = channels;
    connection->channel_capacity = capacity;
    return true;
}

struct channel *
channel_new(struct connection *connection, uint16_t number)
{
    struct channel *channel = make_room(connection, number) ? calloc(1, sizeof(*channel)) : NULL;
    if (channel == NULL)
        return NULL;
    channel->ref = ref_table_add(&connection->host->shard->clients, channel);
    if (ref_is_none(channel->ref)) {
        free(channel);
        return NULL;
    }
    channel->connection = connection;
    channel->number = number;
    list_init(&channel->confirm_link);
    list_init(&channel->publish_link);
    list_init(&channel->written_link);
    list_init(&channel->wanting);
    unacked_init(&channel->unacked);
    timer_init(&channel->settle_timer, on_settle_timer);
    connection->channels[number] = channel;
    connection->channel_count++;
    return channel;
}

static void
forget_pending(struct channel *channel)
{
    free((char *)channel->pending.queue_name.data);
    free(channel->pending.declare);
    channel->pending = (struct pending){0};
}

/* What the channel holds of the core goes back: consumers, unsettled messages, what is half
 * published. */
static void
channel_release(struct channel *channel)
{
    struct connection *connection = channel->connection;
    struct shard *shard = connection->host->shard;
    if (ref_is_none(channel->ref))
        return;
    reply_to_end(channel);
    consumers_free(channel);
    transaction_free(channel);
    /* From here on deliveries that are on their way return to their queues by themselves. */
    ref_table_remove(&shard->clients, channel->ref);
    channel->ref = REF_NONE;
    struct unacked_entry *entry;
    for (uint64_t tag = 0; (entry = unacked_from(&channel->unacked, &tag)) != NULL; tag++)
        channel_settle(channel, entry, SETTLE_REQUEUED);
    unacked_fini(&channel->unacked);
    unacked_init(&channel->unacked);
    wheel_cancel(&shard->wheel, &channel->settle_timer);
    publish_drop(channel);
    confirms_fini(&channel->confirms);
    list_remove(&channel->confirm_link);
    list_remove(&channel->written_link);
    forget_pending(channel);
    free((char *)channel->last_queue.data);
    channel->last_queue = (struct slice){0};
    free(channel->consumers);
    channel->consumers = NULL;
}

void
channel_free(struct channel *channel)
{
    struct connection *connection = channel->connection;
    channel_release(channel);
    connection->channels[channel->number] = NULL;
    connection->channel_count--;
    free(channel);
}

void
channel_fail(struct channel *channel, const struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    if (channel->is_closing)
        return;
    EVENT_LOG(connection->host, EVENT_CHANNEL_ERROR, LOG_LEVEL_WARN, "closing channel",
              CONNECTION_WHO(connection), LOG_UINT("channel", channel->number),
              LOG_STR("reason", error->text));
    channel_flush_confirms(channel);
    /* Its own answer will not be heard any more. Another channel's is still awaited: this one may
     * fail at any time, by its timer. */
    if (channel->pending.method_id != 0 || transaction_is_committing(channel))
        connection->is_waiting = false;
    channel_release(channel);
    channel->is_closing = true;
    CONNECTION_SEND(connection, channel->number, channel_close, 512,
                    {.reply_code = error->code,
                     .reply_text = slice_from(error->text),
                     .class_id = error->class_id,
                     .method_id = error->method_id});
}

/* --- Methods ---------------------------------------------------------------------------------- */

static int
channel_open_again(struct channel *channel, const union amqp_method *method,
                   struct amqp_error *error)
{
    (void)channel;
    (void)method;
    return channel_error(error, AMQP_REPLY_CHANNEL_ERROR, "second 'channel.open' seen");
}

static int
channel_flow_method(struct channel *channel, const union amqp_method *method,
                    struct amqp_error *error)
{
    if (!method->channel_flow.active)
        return channel_error(error, AMQP_REPLY_NOT_IMPLEMENTED, "active=false");
    CONNECTION_SEND(channel->connection, channel->number, channel_flow_ok, 32, {.active = true});
    return 0;
}

static int
ignore_method(struct channel *channel, const union amqp_method *method, struct amqp_error *error)
{
    (void)channel;
    (void)method;
    (void)error;
    return 0;
}

static int
channel_close_method(struct channel *channel, const union amqp_method *method,
                     struct amqp_error *error)
{
    (void)method;
    (void)error;
    struct connection *connection = channel->connection;
    uint16_t number = channel->number;
    channel_free(channel);
    CONNECTION_SEND(connection, number, channel_close_ok, 16, {.no_fields = 0});
    return 0;
}

static int
access_request_method(struct channel *channel, const union amqp_method *method,
                      struct amqp_error *error)
{
    (void)method;
    (void)error;
    CONNECTION_SEND(channel->connection, channel->number, access_request_ok, 32, {.ticket = 1});
    return 0;
}

static int
basic_publish_method(struct channel *channel, const union amqp_method *method,
                     struct amqp_error *error)
{
    return publish_begin(channel, &method->basic_publish, error);
}

/* Who deals with a method; a method of the server's side, or of channel 0, has nobody. */
static channel_handler *const handlers[AMQP_METHOD_COUNT] = {
    [AMQP_INDEX_channel_open] = channel_open_again,
    [AMQP_INDEX_channel_flow] = channel_flow_method,
    [AMQP_INDEX_channel_flow_ok] = ignore_method,
    [AMQP_INDEX_channel_close] = channel_close_method,
    [AMQP_INDEX_access_request] = access_request_method,
    [AMQP_INDEX_exchange_declare] = exchange_declare_method,
    [AMQP_INDEX_exchange_delete] = exchange_delete_method,
    [AMQP_INDEX_exchange_bind] = exchange_bind_method,
    [AMQP_INDEX_exchange_unbind] = exchange_unbind_method,
    [AMQP_INDEX_queue_declare] = queue_declare_method,
    [AMQP_INDEX_queue_bind] = queue_bind_method,
    [AMQP_INDEX_queue_unbind] = queue_unbind_method,
    [AMQP_INDEX_queue_purge] = queue_purge_method,
    [AMQP_INDEX_queue_delete] = queue_delete_method,
    [AMQP_INDEX_basic_qos] = basic_qos_method,
    [AMQP_INDEX_basic_consume] = basic_consume_method,
    [AMQP_INDEX_basic_cancel] = basic_cancel_method,
    [AMQP_INDEX_basic_cancel_ok] = ignore_method,
    [AMQP_INDEX_basic_publish] = basic_publish_method,
    [AMQP_INDEX_basic_get] = basic_get_method,
    [AMQP_INDEX_basic_ack] = basic_ack_method,
    [AMQP_INDEX_basic_reject] = basic_reject_method,
    [AMQP_INDEX_basic_recover_async] = basic_recover_async_method,
    [AMQP_INDEX_basic_recover] = basic_recover_method,
    [AMQP_INDEX_basic_nack] = basic_nack_method,
    [AMQP_INDEX_confirm_select] = confirm_select_method,
    [AMQP_INDEX_tx_select] = tx_select_method,
    [AMQP_INDEX_tx_commit] = tx_commit_method,
    [AMQP_INDEX_tx_rollback] = tx_rollback_method,
};

int
channel_method(struct channel *channel, const struct amqp_method_info *info,
               const union amqp_method *method, struct amqp_error *error)
{
    if (channel->is_closing) {
        /* Everything before the answer was sent before the client knew. */
        struct connection *connection = channel->connection;
        uint16_t number = channel->number;
        if (info->id == AMQP_channel_close_ok) {
            channel_free(channel);
        } else if (info->id == AMQP_channel_close) {
            CONNECTION_SEND(connection, number, channel_close_ok, 16, {.no_fields = 0});
        }
        return 0;
    }
    if (channel->publish.is_expecting_header || channel->publish.is_expecting_body) {
        error->class_id = AMQP_basic_publish >> 16;
        error->method_id = AMQP_basic_publish & 0xffff;
        return channel_error(error, AMQP_REPLY_UNEXPECTED_FRAME,
                             channel->publish.is_expecting_header
                                 ? "expected content header for class 60, got non content header "
                                   "frame instead"
                                 : "expected content body, got non content body frame instead");
    }
    struct connection *connection = channel->connection;
    channel_handler *handler = handlers[info->index];
    if (handler == NULL)
        return channel_error(error, AMQP_REPLY_COMMAND_INVALID, "unimplemented method");
    int status = handler(channel, method, error);
    if (info->id >> 16 == CLASS_EXCHANGE || info->id >> 16 == CLASS_QUEUE)
        connection_gate(connection);
    return status;
}

/* --- Requests to queues ----------------------------------------------------------------------- */

void
channel_ask(struct channel *channel, struct mail *mail)
{
    channel->connection->is_waiting = true;
    mail->from = channel->ref;
    shard_send(channel->connection->host->shard, mail);
}

void
channel_fail_pending(struct channel *channel, struct amqp_error *error)
{
    error->class_id = (uint16_t)(channel->pending.method_id >> 16);
    error->method_id = (uint16_t)channel->pending.method_id;
    channel_answered(channel);
    if (amqp_reply_is_hard(error->code))
        connection_fail(channel->connection, error);
    else
        channel_fail(channel, error);
}

void
channel_answered(struct channel *channel)
{
    forget_pending(channel);
    channel->connection->is_waiting = false;
    connection_gate(channel->connection);
    connection_dirty(channel->connection);
}

static void
report_confirms(struct channel *channel)
{
    if (!list_is_linked(&channel->confirm_link))
        list_push_back(&channel->connection->confirming, &channel->confirm_link);
    connection_dirty(channel->connection);
}

static void
confirmed(struct channel *channel, const struct mail *mail)
{
    if (channel->mode == CHANNEL_TRANSACTIONAL) {
        transaction_confirmed(channel, mail);
        return;
    }
    if (mail->number == 0)
        return;
    if (confirms_answer(&channel->confirms, mail->number, mail->flag != 0) != 0)
        connection_break(channel->connection, "out of memory");
    report_confirms(channel);
}

/* A message of the channel found no memory in a queue. */
static void
lost(struct channel *channel, const struct mail *mail)
{
    if (channel->mode == CHANNEL_TRANSACTIONAL)
        transaction_lost(channel);
    if (channel->mode != CHANNEL_CONFIRMS)
        return;
    if (confirms_lost(&channel->confirms, mail->number) != 0)
        connection_break(channel->connection, "out of memory");
    report_confirms(channel);
}

static void
replied(struct channel *channel, const struct mail *mail)
{
    switch ((enum mail_type)mail->flag) {
    case MAIL_SUBSCRIBE:
    case MAIL_UNSUBSCRIBE:
        consumer_replied(channel, mail);
        break;
    case MAIL_GET:
        get_replied(channel, mail);
        break;
    default:
        queue_replied(channel, mail);
        break;
    }
}

void
channel_receive(void *client, const struct mail *mail)
{
    struct channel *channel = client;
    struct consumer *consumer;
    switch ((enum mail_type)mail->type) {
    case MAIL_DELIVER:
        deliver_message(channel, mail);
        break;
    case MAIL_REPLY:
        replied(channel, mail);
        break;
    case MAIL_CONFIRM:
        confirmed(channel, mail);
        break;
    case MAIL_LOST:
        lost(channel, mail);
        break;
    case MAIL_CANCELLED:
        consumer_cancelled(channel, mail);
        break;
    case MAIL_WANT:
        consumer = channel_consumer(channel, mail->consumer);
        if (consumer != NULL && !list_is_linked(&consumer->want_link))
            list_push_back(&channel->wanting, &consumer->want_link);
        channel_grant(channel);
        break;
    case MAIL_UNUSED:
        consumer = channel_consumer(channel, mail->credit.consumer);
        if (consumer != NULL)
            consumer_ungrant(consumer, mail->credit.messages);
        channel_grant(channel);
        break;
    default:
        break;
    }
}

void
channel_flush_confirms(struct channel *channel)
{
    struct connection *connection = channel->connection;
    struct confirm_report report;
    while (channel->mode == CHANNEL_CONFIRMS && confirms_report(&channel->confirms, &report)) {
        if (report.is_refused)
            CONNECTION_SEND(connection, channel->number, basic_nack, 32,
                            {.delivery_tag = report.number, .multiple = report.multiple});
        else
            CONNECTION_SEND(connection, channel->number, basic_ack, 32,
                            {.delivery_tag = report.number, .multiple = report.multiple});
    }
}

int
confirm_select_method(struct channel *channel, const union amqp_method *method,
                      struct amqp_error *error)
{
    if (channel->mode == CHANNEL_TRANSACTIONAL)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "cannot switch from tx to confirm mode");
    if (channel->mode != CHANNEL_CONFIRMS)
        confirms_init(&channel->confirms);
    channel->mode = CHANNEL_CONFIRMS;
    if (!method->confirm_select.no_wait)
        CONNECTION_SEND(channel->connection, channel->number, confirm_select_ok, 16,
                        {.no_fields = 0});
    return 0;
}
