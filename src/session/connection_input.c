/* A connection's input: reading frames and handing them to their channels.
 *
 * Frames are parsed where they were read, in the thread's read buffer. Only the rest of a frame
 * that has not come whole is kept with the connection; the payload of a body frame goes into its
 * message as it comes. So an idle connection holds no buffer. */
#include "session/connection.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "session/channel.h"
#include "session/login.h"

static void
fail(struct connection *connection, uint16_t code, const char *text)
{
    struct amqp_error error = {0};
    amqp_error_set(&error, code, "%s", text);
    connection_fail(connection, &error);
}

static void
method_error(struct connection *connection, struct channel *channel, struct amqp_error *error,
             const struct amqp_method_info *info)
{
    if (info != NULL && error->class_id == 0) {
        error->class_id = (uint16_t)(info->id >> 16);
        error->method_id = (uint16_t)info->id;
    }
    if (channel == NULL || amqp_reply_is_hard(error->code))
        connection_fail(connection, error);
    else
        channel_fail(channel, error);
}

/* The method of a frame. False: the connection has failed. */
static const struct amqp_method_info *
decode_method(struct connection *connection, struct slice payload, union amqp_method *method)
{
    struct amqp_reader reader = amqp_reader_of(payload);
    uint16_t class_id = amqp_read_u16(&reader);
    uint16_t method_id = amqp_read_u16(&reader);
    const struct amqp_method_info *info =
        reader.failed ? NULL : amqp_method_find(class_id, method_id);
    struct amqp_error error = {.class_id = class_id, .method_id = method_id};
    if (reader.failed || info == NULL || (info->flags & AMQP_FROM_CLIENT) == 0) {
        if (reader.failed)
            amqp_error_set(&error, AMQP_REPLY_FRAME_ERROR, "method frame without class and method");
        else
            amqp_error_set(&error, AMQP_REPLY_COMMAND_INVALID, "unimplemented method");
        connection_fail(connection, &error);
        return NULL;
    }
    if (!info->decode(&reader, method) || !amqp_reader_done(&reader)) {
        amqp_error_set(&error, AMQP_REPLY_FRAME_ERROR, "cannot decode the arguments of %s",
                       info->name);
        connection_fail(connection, &error);
        return NULL;
    }
    return info;
}

/* Does the method change the catalogue, or make a queue work for it? */
static bool
is_costly(uint32_t method_id)
{
    switch (method_id) {
    case AMQP_basic_publish:
    case AMQP_basic_ack:
    case AMQP_basic_nack:
    case AMQP_basic_reject:
        return false;
    default:
        return true;
    }
}

static void
on_method(struct connection *connection, uint16_t number, struct slice payload)
{
    union amqp_method method;
    const struct amqp_method_info *info = decode_method(connection, payload, &method);
    if (info == NULL)
        return;
    struct amqp_error error = {0};
    if (number == 0) {
        if (connection_method(connection, info, &method, &error) != 0)
            method_error(connection, NULL, &error, info);
        return;
    }
    if (connection->state == CONNECTION_CLOSING)
        return;
    if (connection->state != CONNECTION_OPEN) {
        /* Channels are for who has logged in, and belong to a vhost. */
        amqp_error_set(&error, AMQP_REPLY_UNEXPECTED_FRAME,
                       "a method on channel %u before the connection is open", number);
        method_error(connection, NULL, &error, info);
        return;
    }
    struct channel *channel = connection_channel(connection, number);
    if (channel == NULL) {
        if (info->id != AMQP_channel_open) {
            amqp_error_set(&error, AMQP_REPLY_CHANNEL_ERROR, "expected 'channel.open'");
            method_error(connection, NULL, &error, info);
        } else if (number > connection->channel_max && connection->channel_max != 0) {
            amqp_error_set(&error, AMQP_REPLY_NOT_ALLOWED,
                           "number of channels opened (%u) has reached the negotiated channel_max "
                           "(%u)",
                           connection->channel_count, connection->channel_max);
            connection_fail(connection, &error);
        } else if (channel_new(connection, number) == NULL) {
            connection_break(connection, "out of memory");
        } else {
            CONNECTION_SEND(connection, number, channel_open_ok, 64, {.channel_id = {"", 0}});
        }
        return;
    }
    if (is_costly(info->id))
        connection_worked(connection, SESSION_COSTLY_FRAMES);
    if (channel_method(channel, info, &method, &error) != 0)
        method_error(connection, channel, &error, info);
}

static void
content_error(struct channel *channel, struct amqp_error *error)
{
    error->class_id = AMQP_basic_publish >> 16;
    error->method_id = AMQP_basic_publish & 0xffff;
    if (amqp_reply_is_hard(error->code))
        connection_fail(channel->connection, error);
    else
        channel_fail(channel, error);
}

/* A content header or a piece of a body for a channel that expects it, or not. */
static void
on_content(struct connection *connection, const struct amqp_frame *frame)
{
    struct channel *channel = connection_channel(connection, frame->channel);
    struct amqp_error error = {0};
    if (connection->state == CONNECTION_CLOSING || (channel != NULL && channel->is_closing))
        return;
    if (channel == NULL) {
        amqp_error_set(&error, AMQP_REPLY_UNEXPECTED_FRAME,
                       "expected method frame, got non method frame instead");
        connection_fail(connection, &error);
        return;
    }
    const struct publish *publish = &channel->publish;
    if (frame->type == AMQP_FRAME_HEADER && publish->is_expecting_header) {
        if (publish_header(channel, frame->payload, &error) != 0)
            content_error(channel, &error);
    } else if (frame->type == AMQP_FRAME_BODY && publish->is_expecting_body) {
        if (publish_body(channel, frame->payload, &error) != 0)
            content_error(channel, &error);
    } else {
        const char *text = "expected method frame, got non method frame instead";
        if (publish->is_expecting_header)
            text = "expected content header for class 60, got non content header frame instead";
        else if (publish->is_expecting_body)
            text = "expected content body, got non content body frame instead";
        amqp_error_set(&error, AMQP_REPLY_UNEXPECTED_FRAME, "%s", text);
        if (publish->is_expecting_header || publish->is_expecting_body)
            content_error(channel, &error);
        else
            connection_fail(connection, &error);
    }
}

static void
on_frame(struct connection *connection, const struct amqp_frame *frame)
{
    switch (frame->type) {
    case AMQP_FRAME_METHOD:
        on_method(connection, frame->channel, frame->payload);
        break;
    case AMQP_FRAME_HEARTBEAT:
        if (frame->payload.size != 0)
            fail(connection, AMQP_REPLY_FRAME_ERROR, "type 8: a heartbeat has no content");
        else if (frame->channel != 0)
            fail(connection, AMQP_REPLY_UNEXPECTED_FRAME, "a heartbeat belongs on channel 0");
        break;
    default:
        if (frame->channel == 0)
            fail(connection, AMQP_REPLY_UNEXPECTED_FRAME, "content on channel 0");
        else
            on_content(connection, frame);
        break;
    }
}

/* The start of a body frame that has not come whole: its payload is taken as it comes. Returns how
 * many bytes were taken. */
static size_t
begin_partial_body(struct connection *connection, const uint8_t *data, size_t size, size_t whole)
{
    uint16_t number = amqp_load_u16(data + 1);
    struct channel *channel = connection_channel(connection, number);
    if (data[0] != AMQP_FRAME_BODY || channel == NULL || channel->is_closing
        || !channel->publish.is_expecting_body || connection->state != CONNECTION_OPEN)
        return 0;
    connection->body_channel = number;
    connection->body_left = (uint32_t)(whole - size);
    struct amqp_frame piece = {
        .type = AMQP_FRAME_BODY,
        .channel = number,
        .payload = {(const char *)data + AMQP_FRAME_HEADER_SIZE, size - AMQP_FRAME_HEADER_SIZE},
    };
    if (connection->body_left == 0)
        return 0; /* cannot be: it would be complete */
    if (piece.payload.size > 0)
        on_content(connection, &piece);
    return size;
}

/* More of that body frame. Returns how many bytes were taken. */
static size_t
continue_partial_body(struct connection *connection, const uint8_t *data, size_t size)
{
    size_t taken = size < connection->body_left ? size : connection->body_left;
    bool is_end = taken == connection->body_left;
    size_t payload = is_end ? taken - 1 : taken;
    connection->body_left -= (uint32_t)taken;
    if (is_end && data[taken - 1] != AMQP_FRAME_END) {
        fail(connection, AMQP_REPLY_FRAME_ERROR, "a body frame does not end with octet 206");
    } else if (payload > 0) {
        struct amqp_frame piece = {
            .type = AMQP_FRAME_BODY,
            .channel = connection->body_channel,
            .payload = {(const char *)data, payload},
        };
        on_content(connection, &piece);
    }
    return taken;
}

static void
bad_frame(struct connection *connection, enum amqp_frame_result result, const uint8_t *data,
          size_t size)
{
    struct amqp_error error = {0};
    uint32_t payload = amqp_load_u32(data + 3);
    (void)size;
    switch (result) {
    case AMQP_FRAME_TOO_LARGE:
        amqp_error_set(&error, AMQP_REPLY_FRAME_ERROR,
                       "type %u, all octets = <<>>: {frame_too_large,%u,%u}", data[0], payload,
                       connection->frame_max - AMQP_FRAME_OVERHEAD);
        break;
    case AMQP_FRAME_BAD_END:
        amqp_error_set(&error, AMQP_REPLY_FRAME_ERROR, "type %u: {invalid_frame_end_marker,%u}",
                       data[0], data[payload + AMQP_FRAME_HEADER_SIZE]);
        break;
    default:
        amqp_error_set(&error, AMQP_REPLY_FRAME_ERROR, "type %u: unknown_frame", data[0]);
        break;
    }
    connection_fail(connection, &error);
}

/* The client does not take its answers: no more are made. */
static bool
is_unread(const struct connection *connection)
{
    return output_pending(&connection->output) >= SESSION_OUTPUT_MAX;
}

bool
connection_is_held(const struct connection *connection)
{
    return connection->host->pressure != 0 && connection->has_published
           && connection->state == CONNECTION_OPEN
           && (connection->unfinished == 0 || connection->finish_left == 0);
}

bool
connection_takes_input(const struct connection *connection)
{
    return !connection->is_waiting && !connection->is_broken
           && connection->state < CONNECTION_REFUSED && !connection_is_held(connection)
           && !is_unread(connection);
}

/* What was read before comes first: so the kept input is never more than one reading and a partial
 * frame, for which the read buffer has room. */
bool
connection_may_read(const struct connection *connection)
{
    return connection_takes_input(connection) && !connection->has_input_left;
}

/* One step of parsing at `data`: returns the bytes that were taken, 0: there is not enough. */
static size_t
parse_step(struct connection *connection, const uint8_t *data, size_t size)
{
    if (connection->state == CONNECTION_AWAITS_HEADER) {
        if (size < AMQP_PROTOCOL_HEADER_SIZE)
            return 0;
        connection_protocol_header(connection, data);
        return AMQP_PROTOCOL_HEADER_SIZE;
    }
    if (connection->body_left > 0)
        return continue_partial_body(connection, data, size);
    struct amqp_frame frame;
    size_t taken;
    enum amqp_frame_result result =
        amqp_frame_parse(data, size, connection->frame_max, &frame, &taken);
    switch (result) {
    case AMQP_FRAME_OK:
        on_frame(connection, &frame);
        return taken;
    case AMQP_FRAME_INCOMPLETE:
        return size < AMQP_FRAME_HEADER_SIZE ? 0
                                             : begin_partial_body(connection, data, size, taken);
    default:
        bad_frame(connection, result, data, size);
        return size;
    }
}

/* Keeps what was not taken, and what points into the buffer that goes away. */
static void
keep_rest(struct connection *connection, uint8_t *data, size_t size)
{
    /* Until the login is through, any of it may be part of a password. */
    bool may_be_secret = connection->state < CONNECTION_AWAITS_TUNE_OK;
    connection->has_input_left = size > 0 && !connection_takes_input(connection);
    if (may_be_secret)
        secret_wipe(connection->input.data, connection->input.size);
    buffer_free(&connection->input);
    if (size > 0 && buffer_append(&connection->input, data, size) != 0)
        connection_break(connection, "out of memory");
    if (may_be_secret)
        secret_wipe(data, size);
    LIST_FOR_EACH (node, &connection->half_published)
        if (publish_keep(LIST_ENTRY(node, struct channel, publish_link)) != 0)
            connection_break(connection, "out of memory");
}

/* Has the connection had its share of the turn? *began_ns is 0 until the clock is looked at first,
 * which a few frames never make it be. */
static bool
is_slice_over(struct connection *connection, int64_t *began_ns)
{
    if (LIKELY(++connection->slice_work < SESSION_FRAMES_PER_LOOK))
        return false;
    connection->slice_work = 0;
    int64_t now_ns = clock_monotonic_ns();
    if (*began_ns == 0)
        *began_ns = now_ns;
    return now_ns - *began_ns >= SESSION_SLICE_US * 1000LL;
}

/* Moves the kept input to the front of the read buffer; its size. */
static size_t
fetch_input(struct connection *connection)
{
    size_t size = connection->input.size;
    assert(size <= connection->host->read_buffer_size);
    if (size > 0)
        memcpy(connection->host->read_buffer, connection->input.data, size);
    return size;
}

/* `data` is not in connection->input. */
static void
parse(struct connection *connection, uint8_t *data, size_t size)
{
    int64_t began_ns = 0;
    bool is_over = false;
    connection->slice_work = 0;
    while (size > 0 && connection_takes_input(connection)
           && !(is_over = is_slice_over(connection, &began_ns))) {
        size_t taken = parse_step(connection, data, size);
        if (taken == 0)
            break;
        data += taken;
        size -= taken;
    }
    if (connection->state >= CONNECTION_REFUSED || connection->is_broken)
        size = 0;
    keep_rest(connection, data, size);
    if (is_over && size > 0) {
        connection->has_input_left = connection->is_sliced = true;
        connection_dirty(connection);
    }
}

void
connection_read(struct connection *connection)
{
    struct session_host *host = connection->host;
    size_t kept = fetch_input(connection);
    bool was_handshaking = connection->stream.is_handshaking;
    assert(kept <= host->read_buffer_size - SESSION_READ_MAX);
    ssize_t count = stream_read(&connection->stream, host->read_buffer + kept,
                                connection->was_open ? SESSION_READ_MAX : SESSION_READ_EARLY_MAX);
    host->handshakes += was_handshaking;
    if (was_handshaking || stream_wants_read(&connection->stream)
        || stream_wants_write(&connection->stream) || stream_has_buffered(&connection->stream))
        connection_dirty(connection); /* to be watched for other events, or read again */
    if (count <= 0 && !connection->was_open)
        secret_wipe(host->read_buffer, kept); /* as in keep_rest */
    if (count == STREAM_AGAIN)
        return;
    if (count <= 0) {
        connection_break(connection, count == 0 ? "closed by the client without a close method"
                                                : stream_error_text(&connection->stream));
        return;
    }
    connection->silent_ticks = 0;
    connection->received_bytes += (uint64_t)count;
    connection->finish_left -=
        (uint64_t)count < connection->finish_left ? (uint64_t)count : connection->finish_left;
    parse(connection, host->read_buffer, kept + (size_t)count);
}

void
connection_resume(struct connection *connection)
{
    connection->has_input_left = false;
    size_t kept = fetch_input(connection);
    if (kept > 0)
        parse(connection, connection->host->read_buffer, kept);
}

void
connection_drain(struct connection *connection)
{
    ssize_t count =
        stream_read(&connection->stream, connection->host->read_buffer, SESSION_READ_MAX);
    if (count == 0 || count == STREAM_ERROR) {
        connection->is_broken = true;
        connection_dirty(connection);
    }
}

void
connection_on_events(struct io *io, uint32_t events)
{
    struct connection *connection = CONTAINER_OF(io, struct connection, io);
    if (connection->state == CONNECTION_ENDED || connection->is_broken)
        return;
    if ((events & EPOLLOUT) != 0)
        connection_dirty(connection);
    if ((events & EPOLLRDHUP) != 0 && connection->login != NULL) {
        connection_break(connection, "closed by the client while its password was verified");
        return;
    }
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) == 0 && !stream_wants_write(&connection->stream))
        return;
    if (connection->stream.is_handshaking && connection->host->handshakes >= SESSION_HANDSHAKES_MAX)
        return; /* the event comes again in the next turn */
    if (connection->state == CONNECTION_ENDING)
        connection_drain(connection);
    else if (connection_may_read(connection))
        connection_read(connection);
    else if ((events & (EPOLLERR | EPOLLHUP)) != 0)
        connection_break(connection, "the socket broke");
}
