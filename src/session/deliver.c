/* What goes to the client with content: basic.deliver, get-ok, return. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "broker/queue.h"
#include "session/channel.h"

/* Room for the frames of a method and a content header, without properties. */
enum {
    METHOD_ROOM = 1024, /* tag, exchange, key: short strings */
    HEADER_OVERHEAD = AMQP_FRAME_OVERHEAD + 12,
};

/* Ends a method frame that began at `frame`: fills in its size. */
static uint8_t *
end_frame(uint8_t *frame, uint8_t *at)
{
    amqp_store_u32(frame + 3, (uint32_t)(at - frame) - AMQP_FRAME_HEADER_SIZE);
    *at++ = AMQP_FRAME_END;
    return at;
}

static uint8_t *
begin_method(uint8_t *frame, uint16_t channel, uint32_t method_id)
{
    frame[0] = AMQP_FRAME_METHOD;
    amqp_store_u16(frame + 1, channel);
    amqp_store_u32(frame + AMQP_FRAME_HEADER_SIZE, method_id);
    return frame + AMQP_FRAME_HEADER_SIZE + 4;
}

static uint8_t *
put_bytes(uint8_t *at, struct slice bytes)
{
    memcpy(at, bytes.data, bytes.size);
    return at + bytes.size;
}

static uint8_t *
put_header_frame(uint8_t *frame, uint16_t channel, struct slice properties, uint64_t body_size)
{
    frame[0] = AMQP_FRAME_HEADER;
    amqp_store_u16(frame + 1, channel);
    uint8_t *at = frame + AMQP_FRAME_HEADER_SIZE;
    amqp_store_u16(at, AMQP_basic_publish >> 16);
    amqp_store_u16(at + 2, 0);
    amqp_store_u64(at + 4, body_size);
    at = put_bytes(at + 12, properties);
    return end_frame(frame, at);
}

static void
release_message(void *owner)
{
    message_unref(owner);
}

/* Body frames by reference or copy: for bodies that do not fit with the rest. */
static int
send_body(struct connection *connection, uint16_t channel, struct message *message)
{
    struct slice body = message_body(message);
    size_t piece_max = connection->frame_max - AMQP_FRAME_OVERHEAD;
    while (body.size > 0) {
        size_t piece = body.size < piece_max ? body.size : piece_max;
        uint8_t header[AMQP_FRAME_HEADER_SIZE];
        static const uint8_t end = AMQP_FRAME_END;
        amqp_frame_put_header(header, AMQP_FRAME_BODY, channel, (uint32_t)piece);
        if (output_append(&connection->output, header, sizeof(header)) != 0)
            return -1;
        if (piece < OUTPUT_COPY_LIMIT) {
            if (output_append(&connection->output, body.data, piece) != 0)
                return -1;
        } else if (output_append_reference(&connection->output, body.data, piece, release_message,
                                           message_ref(message))
                   != 0) {
            message_unref(message);
            return -1;
        }
        if (output_append(&connection->output, &end, 1) != 0)
            return -1;
        body.data += piece;
        body.size -= piece;
    }
    return 0;
}

/* The content of a message behind a method that lies at frame..at in reserved output; commits both.
 * Everything goes into the reserved room if it fits there. */
static void
send_content(struct connection *connection, uint16_t channel, uint8_t *frame, uint8_t *at,
             size_t room, struct slice properties, struct message *message)
{
    struct slice body = message_body(message);
    size_t used = (size_t)(at - frame);
    size_t header = HEADER_OVERHEAD + properties.size;
    bool is_small = used + header + AMQP_FRAME_OVERHEAD + body.size <= room
                    && body.size <= connection->frame_max - AMQP_FRAME_OVERHEAD;
    if (is_small) {
        at = put_header_frame(at, channel, properties, body.size);
        if (body.size > 0) {
            amqp_frame_put_header(at, AMQP_FRAME_BODY, channel, (uint32_t)body.size);
            at = put_bytes(at + AMQP_FRAME_HEADER_SIZE, body);
            *at++ = AMQP_FRAME_END;
        }
        output_commit(&connection->output, (size_t)(at - frame));
        return;
    }
    output_commit(&connection->output, used);
    if (header <= OUTPUT_RESERVE_MAX) {
        uint8_t *more = connection_reserve(connection, header);
        if (more == NULL)
            return;
        (void)put_header_frame(more, channel, properties, body.size);
        output_commit(&connection->output, header);
    } else { /* a header of that size has a long headers table */
        uint8_t *copy = malloc(header);
        if (copy == NULL || put_header_frame(copy, channel, properties, body.size) == NULL
            || output_append(&connection->output, copy, header) != 0)
            connection_break(connection, "out of memory");
        free(copy);
    }
    if (!connection->is_broken && send_body(connection, channel, message) != 0)
        connection_break(connection, "out of memory");
}

/* Properties as this client is to see them: without BCC, with x-delivery-count. *made is to be
 * freed. A message whose headers need no change is not touched. */
static struct slice
properties_for(const struct message *message, uint32_t delivery_count, uint8_t **made)
{
    struct amqp_properties properties;
    struct slice original = message_properties(message);
    *made = NULL;
    if (LIKELY((message->flags & MESSAGE_HAS_BCC) == 0 && delivery_count == 0))
        return original;
    if (!amqp_properties_decode(original, &properties))
        return original;
    struct amqp_table_builder builder;
    amqp_table_builder_init(&builder);
    struct amqp_table_iterator at = amqp_table_begin(properties.headers);
    struct slice name, result = original;
    struct amqp_value value;
    while (amqp_table_next(&at, &name, &value) == 1)
        if (!slice_is(name, "BCC") && (delivery_count == 0 || !slice_is(name, "x-delivery-count")))
            amqp_table_builder_put_value(&builder, name, &value);
    if (delivery_count > 0)
        amqp_table_builder_put_int64(&builder, SLICE("x-delivery-count"), delivery_count);
    properties.headers = amqp_table_builder_finish(&builder);
    properties.flags |= AMQP_HAS_HEADERS;
    size_t size = amqp_properties_size(&properties);
    if (!amqp_table_builder_failed(&builder) && (*made = malloc(size)) != NULL) {
        struct amqp_writer writer = amqp_writer_of(*made, size);
        amqp_properties_encode(&writer, &properties);
        result = (struct slice){(const char *)*made, size};
    }
    amqp_table_builder_free(&builder);
    return result;
}

static size_t
room_for(const struct message *message, struct slice properties)
{
    size_t size = METHOD_ROOM;
    if (properties.size + message->body_size <= OUTPUT_COPY_LIMIT)
        size += HEADER_OVERHEAD + properties.size + AMQP_FRAME_OVERHEAD + message->body_size;
    return size;
}

/* --- Deliveries ------------------------------------------------------------------------------- */

static void
watch_deadline(struct channel *channel, uint32_t deadline_s)
{
    struct timer *timer = &channel->settle_timer;
    int64_t due_ms = deadline_s * 1000LL;
    if (!timer_is_set(timer) || due_ms < timer->due_ms)
        wheel_set(&channel->connection->host->shard->wheel, timer, due_ms);
}

/* The timer is not moved while the deadlines follow each other: it fires once in a while and looks.
 */
static void
set_deadline(struct channel *channel, struct unacked_entry *entry, int64_t timeout_ms)
{
    int64_t deadline_s = (channel->connection->host->shard->now_ms + timeout_ms + 999) / 1000;
    if (deadline_s >= UNACKED_FOREVER)
        return;
    entry->deadline_s = (uint32_t)deadline_s & UNACKED_FOREVER;
    watch_deadline(channel, entry->deadline_s);
}

int64_t
settle_timeout(const struct channel *channel, const struct found_queue *found,
               int64_t consumer_timeout_ms)
{
    if (consumer_timeout_ms != OPTION_NONE)
        return consumer_timeout_ms;
    if (found->consumer_timeout_ms != OPTION_NONE)
        return found->consumer_timeout_ms;
    return channel->connection->host->limits.consumer_timeout_ms;
}

void
on_settle_timer(struct timer *timer, int64_t now_ms)
{
    struct channel *channel = CONTAINER_OF(timer, struct channel, settle_timer);
    const struct unacked_entry *urgent = unacked_most_urgent(&channel->unacked);
    if (urgent == NULL)
        return;
    if (urgent->deadline_s * 1000LL > now_ms) {
        watch_deadline(channel, urgent->deadline_s);
        return;
    }
    struct amqp_error error = {0};
    const struct consumer *consumer = channel_consumer(channel, urgent->consumer);
    char value[64] = ""; /* that of a get, or of a consumer that has gone, is not known any more */
    if (consumer != NULL)
        snprintf(value, sizeof(value), " Timeout value used: %lld ms.",
                 (long long)consumer->timeout_ms);
    (void)channel_error(&error, AMQP_REPLY_PRECONDITION_FAILED,
                        "delivery acknowledgement on channel %u timed out.%s This timeout value "
                        "can be configured, see consumers doc guide to learn more",
                        channel->number, value);
    channel_fail(channel, &error);
}

/* Gives the delivery its tag and notes what has to be settled. 0: out of memory. */
static uint64_t
note_delivery(struct channel *channel, const struct delivery *delivery, int64_t timeout_ms)
{
    if (delivery->no_ack)
        return unacked_skip(&channel->unacked);
    uint64_t delivery_tag;
    struct unacked_entry *entry = unacked_add(&channel->unacked, &delivery_tag);
    if (entry == NULL)
        return 0;
    entry->queue = delivery->queue;
    entry->subscription = delivery->subscription;
    entry->tag = delivery->tag;
    entry->consumer = delivery->consumer;
    if (delivery->consumer == GET_CONSUMER)
        channel->got++;
    if (timeout_ms > 0)
        set_deadline(channel, entry, timeout_ms);
    return delivery_tag;
}

/* The delivery cannot be made: it goes back. */
static void
give_back(struct channel *channel, const struct delivery *delivery)
{
    struct mail mail = {
        .type = MAIL_SETTLE,
        .result = SETTLE_REQUEUED,
        .to = delivery->queue,
        .settle = {.tag = delivery->tag, .count = 1, .subscription = delivery->subscription},
    };
    if (!delivery->no_ack)
        shard_send(channel->connection->host->shard, &mail);
}

static void
send_delivery(struct channel *channel, struct slice consumer_tag, uint64_t delivery_tag,
              const struct delivery *delivery)
{
    struct connection *connection = channel->connection;
    struct message *message = delivery->message;
    uint8_t *made;
    struct slice properties = properties_for(message, delivery->delivery_count, &made);
    size_t room = room_for(message, properties);
    uint8_t *frame = connection_reserve(connection, room);
    if (frame != NULL) {
        uint8_t *at = begin_method(frame, channel->number, AMQP_basic_deliver);
        *at++ = (uint8_t)consumer_tag.size;
        at = put_bytes(at, consumer_tag);
        amqp_store_u64(at, delivery_tag);
        at[8] = delivery->is_redelivered;
        at = put_bytes(at + 9, message_prefix(message));
        at = end_frame(frame, at);
        send_content(connection, channel->number, frame, at, room, properties, message);
    }
    free(made);
}

static void
send_get_ok(struct channel *channel, uint64_t delivery_tag, const struct delivery *delivery)
{
    struct connection *connection = channel->connection;
    struct message *message = delivery->message;
    uint8_t *made;
    struct slice properties = properties_for(message, delivery->delivery_count, &made);
    size_t room = room_for(message, properties);
    uint8_t *frame = connection_reserve(connection, room);
    if (frame != NULL) {
        uint8_t *at = begin_method(frame, channel->number, AMQP_basic_get_ok);
        amqp_store_u64(at, delivery_tag);
        at[8] = delivery->is_redelivered;
        at = put_bytes(at + 9, message_prefix(message));
        amqp_store_u32(at, delivery->left > UINT32_MAX ? UINT32_MAX : (uint32_t)delivery->left);
        at = end_frame(frame, at + 4);
        send_content(connection, channel->number, frame, at, room, properties, message);
    }
    free(made);
}

void
deliver_message(struct channel *channel, const struct mail *mail)
{
    const struct delivery *delivery = &mail->deliver;
    struct connection *connection = channel->connection;
    struct consumer *consumer = NULL;
    bool is_get = delivery->consumer == GET_CONSUMER;
    if (!is_get) {
        consumer = channel_consumer(channel, delivery->consumer);
        if (consumer == NULL) {
            give_back(channel, delivery);
            return;
        }
        consumer_ungrant(consumer, 1);
    }
    uint64_t delivery_tag = note_delivery(
        channel, delivery, is_get ? channel->pending.timeout_ms : consumer->timeout_ms);
    if (delivery_tag == 0) {
        give_back(channel, delivery);
        connection_break(connection, "out of memory");
        return;
    }
    if (!is_get && consumer->is_reply_to
        && output_pending(&connection->output) > SESSION_REPLIES_MAX) {
        connection_break(connection, "the client does not take its direct replies");
        return;
    }
    if (is_get) {
        send_get_ok(channel, delivery_tag, delivery);
        channel_answered(channel);
        return;
    }
    send_delivery(channel, (struct slice){consumer->tag, consumer->tag_size}, delivery_tag,
                  delivery);
    consumer->owed_bytes += delivery->message->body_size + DELIVERY_OVERHEAD;
    if (consumer->owed_bytes >= consumer->window / 2 && !consumer->is_reply_to
        && !list_is_linked(&consumer->owing_link))
        list_push_back(&connection->owing, &consumer->owing_link);
}

/* --- basic.get -------------------------------------------------------------------------------- */

int
basic_get_method(struct channel *channel, const union amqp_method *method, struct amqp_error *error)
{
    struct slice name = method->basic_get.queue;
    struct found_queue found;
    if (channel_find_permitted(channel, &name, ACCESS_READ, &found, error) != 0)
        return -1;
    if (!method->basic_get.no_ack && channel_is_full(channel))
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "limit of unsettled messages (%u) is reached",
                             channel->connection->host->limits.unsettled_per_channel);
    char *copy = malloc(name.size + 1);
    if (copy == NULL) {
        connection_break(channel->connection, "out of memory");
        return 0;
    }
    memcpy(copy, name.data, name.size);
    channel->pending = (struct pending){
        .method_id = AMQP_basic_get,
        .queue_name = {copy, name.size},
        .timeout_ms = settle_timeout(channel, &found, OPTION_NONE),
    };
    struct mail mail = {.type = MAIL_GET, .flag = method->basic_get.no_ack, .to = found.ref};
    channel_ask(channel, &mail);
    return 0;
}

void
get_replied(struct channel *channel, const struct mail *mail)
{
    struct amqp_error error = {0};
    struct slice name = channel->pending.queue_name;
    struct slice vhost = vhost_name(channel->connection->vhost);
    switch ((enum queue_result)mail->result) {
    case QUEUE_GONE:
        (void)no_queue(channel, name, &error);
        channel_fail_pending(channel, &error);
        return;
    case QUEUE_SINGLE_ACTIVE:
        (void)channel_error(&error, AMQP_REPLY_RESOURCE_LOCKED,
                            "cannot obtain access to locked queue '%.*s' in vhost '%.*s'. "
                            "basic.get operations are not supported by classic queues with single "
                            "active consumer",
                            SLICE_ARGS(name), SLICE_ARGS(vhost));
        channel_fail_pending(channel, &error);
        return;
    default:
        CONNECTION_SEND(channel->connection, channel->number, basic_get_empty, 32,
                        {.cluster_id = {"", 0}});
        channel_answered(channel);
        return;
    }
}

/* --- basic.return ----------------------------------------------------------------------------- */

void
send_return(struct channel *channel, const struct message *message, uint16_t code, const char *text)
{
    struct connection *connection = channel->connection;
    struct slice reply_text = slice_from(text);
    uint8_t *made;
    struct slice properties = properties_for(message, 0, &made);
    size_t room = room_for(message, properties);
    uint8_t *frame = connection_reserve(connection, room);
    if (frame != NULL) {
        uint8_t *at = begin_method(frame, channel->number, AMQP_basic_return);
        amqp_store_u16(at, code);
        at[2] = (uint8_t)reply_text.size;
        at = put_bytes(at + 3, reply_text);
        at = put_bytes(at, message_prefix(message));
        at = end_frame(frame, at);
        send_content(connection, channel->number, frame, at, room, properties,
                     (struct message *)message);
    }
    free(made);
}
