/* Connections: reading frames, handing them to their channels, sending what is queued, ending.
 *
 * Frames are parsed where they were read, in the thread's read buffer. Only the rest of a frame
 * that has not come whole is kept with the connection; the payload of a body frame goes into its
 * message as it comes. So an idle connection holds no buffer. */
#include "session/connection.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "store/definitions.h"
#include "session/channel.h"
#include "session/login.h"
#include "session/permission.h"

enum {
    SILENT_TICKS_MAX = 4, /* half heartbeat intervals */
    /* Probes of a closed window that the other machine has not answered, until it is given up. */
    UNANSWERED_PROBES = 2,
    /* So much unread input, and the window may be too small for another heartbeat. */
    UNREAD_INPUT_MAX = 32 * 1024,
    /* While publishers wait, so much beyond the contents that a connection has begun is read. */
    FINISH_SLACK = 1024 * 1024,
};

static void on_events(struct io *io, uint32_t events);
static void parse(struct connection *connection, uint8_t *data, size_t size);

/* --- Sending ---------------------------------------------------------------------------------- */

/* As what its end is logged: who has never come in must not use up the lines of those who have. */
static enum event_kind
kind_of_end(const struct connection *connection, enum event_kind of_open)
{
    return connection->was_open ? of_open : EVENT_UNOPENED;
}

void
connection_break(struct connection *connection, const char *reason)
{
    if (connection->is_broken || connection->state == CONNECTION_ENDED)
        return;
    EVENT_LOG(connection->host, kind_of_end(connection, EVENT_ENDED), LOG_LEVEL_INFO,
              "connection lost", CONNECTION_WHO(connection), LOG_STR("reason", reason),
              CONNECTION_LIFE(connection));
    connection->is_broken = true;
    connection_dirty(connection);
}

void
connection_gate(struct connection *connection)
{
    if (connection->host->definitions != NULL)
        connection->gate = definitions_submitted(connection->host->definitions);
}

/* Must its output wait? Then it does, and is flushed when the definitions are durable. */
static bool
is_gated(struct connection *connection)
{
    struct session_host *host = connection->host;
    if (connection->gate == 0)
        return false;
    if (connection->gate <= definitions_durable(host->definitions)) {
        connection->gate = 0;
        return false;
    }
    list_move_back(&host->gated, &connection->dirty_link);
    return true;
}

uint8_t *
connection_reserve(struct connection *connection, size_t size)
{
    uint8_t *room = output_reserve(&connection->output, size);
    if (room == NULL)
        connection_break(connection, "out of memory");
    else
        connection_dirty(connection);
    return room;
}

/* --- Frames ----------------------------------------------------------------------------------- */

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
        connection->slice_work += SESSION_COSTLY_FRAMES;
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

/* Its input waits, because it publishes and something is short. Contents that have begun are still
 * taken to their end: they hold memory that nobody can consume before. So is the answer to a close.
 */
static bool
is_held(const struct connection *connection)
{
    return connection->host->pressure != 0 && connection->has_published
           && connection->state == CONNECTION_OPEN
           && (connection->unfinished == 0 || connection->finish_left == 0);
}

static bool
takes_input(const struct connection *connection)
{
    return !connection->is_waiting && !connection->is_broken
           && connection->state < CONNECTION_REFUSED && !is_held(connection)
           && !is_unread(connection);
}

/* What was read before comes first: so the kept input is never more than one reading and a partial
 * frame, for which the read buffer has room. */
static bool
may_read(const struct connection *connection)
{
    return takes_input(connection) && !connection->has_input_left;
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
    connection->has_input_left = size > 0 && !takes_input(connection);
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

/* `data` is not in connection->input. */
static void
parse(struct connection *connection, uint8_t *data, size_t size)
{
    int64_t began_ns = 0;
    bool is_over = false;
    connection->slice_work = 0;
    while (size > 0 && takes_input(connection)
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

/* --- Input ------------------------------------------------------------------------------------ */

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

static void
watch(struct connection *connection)
{
    uint32_t events = 0;
    /* What has come meanwhile, while reading waits for room to write, would wake us for nothing. */
    if ((may_read(connection) || connection->state == CONNECTION_ENDING)
        && !stream_wants_write(&connection->stream))
        events |= EPOLLIN;
    if ((output_pending(&connection->output) > 0 && connection->gate == 0
         && !stream_wants_read(&connection->stream))
        || stream_wants_write(&connection->stream))
        events |= EPOLLOUT;
    if (connection->state != CONNECTION_ENDED
        && loop_modify(connection->host->loop, &connection->io, events) != 0)
        connection_break(connection, "cannot watch the socket");
}

static void
read_input(struct connection *connection)
{
    struct session_host *host = connection->host;
    size_t kept = fetch_input(connection);
    bool was_handshaking = connection->stream.is_handshaking;
    assert(kept <= host->read_buffer_size - SESSION_READ_MAX);
    ssize_t count = stream_read(&connection->stream, host->read_buffer + kept, SESSION_READ_MAX);
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

/* Reads and drops: what a client still sends to a connection that only has its last words to say.
 * The socket is closed when the peer has closed its side, so that those words are not lost to a
 * reset. */
static void
drain_input(struct connection *connection)
{
    ssize_t count =
        stream_read(&connection->stream, connection->host->read_buffer, SESSION_READ_MAX);
    if (count == 0 || count == STREAM_ERROR) {
        connection->is_broken = true;
        connection_dirty(connection);
    }
}

static void
on_events(struct io *io, uint32_t events)
{
    struct connection *connection = CONTAINER_OF(io, struct connection, io);
    if (connection->state == CONNECTION_ENDED || connection->is_broken)
        return;
    if ((events & EPOLLOUT) != 0)
        connection_dirty(connection);
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) == 0 && !stream_wants_write(&connection->stream))
        return;
    if (connection->stream.is_handshaking && connection->host->handshakes >= SESSION_HANDSHAKES_MAX)
        return; /* the event comes again in the next turn */
    if (connection->state == CONNECTION_ENDING)
        drain_input(connection);
    else if (may_read(connection))
        read_input(connection);
    else if ((events & (EPOLLERR | EPOLLHUP)) != 0)
        connection_break(connection, "the socket broke");
}

/* --- Timers ----------------------------------------------------------------------------------- */

/* Is the client gone whose input is not read? The kernel knows more. Of one that is held, which may
 * itself be stuck in writing: whether the other machine still acknowledges. Of one that does not
 * take its output: whether anything came, unless so much has that more may not fit. */
static bool
is_gone_unread(struct connection *connection)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    int unread = 0;
    uint32_t interval_ms = connection->heartbeat_s * 1000U;
    if (getsockopt(connection->io.fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return false; /* no TCP: the other end is on this machine, and the socket would break */
    if (info.tcpi_last_ack_recv > 2 * interval_ms
        && (info.tcpi_unacked > 0 || info.tcpi_probes >= UNANSWERED_PROBES))
        return true;
    if (is_held(connection) || info.tcpi_last_data_recv <= 2 * interval_ms)
        return false;
    return ioctl(connection->io.fd, FIONREAD, &unread) == 0 && unread < UNREAD_INPUT_MAX;
}

/* Half a heartbeat interval is over. Two intervals without a byte from the client: it is gone. */
static void
on_heartbeat_tick(struct connection *connection, int64_t now_ms)
{
    bool is_looked_at = may_read(connection);
    if (!is_looked_at)
        connection->silent_ticks = 0;
    if (is_looked_at ? ++connection->silent_ticks > SILENT_TICKS_MAX : is_gone_unread(connection)) {
        EVENT_LOG(connection->host, EVENT_ENDED, LOG_LEVEL_WARN, "missed heartbeats from client",
                  CONNECTION_WHO(connection), LOG_UINT("timeout_s", connection->heartbeat_s),
                  CONNECTION_LIFE(connection));
        connection->is_broken = true;
        connection_dirty(connection);
        return;
    }
    if (!connection->has_sent && output_pending(&connection->output) == 0) {
        uint8_t *room = connection_reserve(connection, sizeof(amqp_heartbeat_frame));
        if (room != NULL) {
            memcpy(room, amqp_heartbeat_frame, sizeof(amqp_heartbeat_frame));
            output_commit(&connection->output, sizeof(amqp_heartbeat_frame));
        }
    }
    connection->has_sent = false;
    wheel_set(&connection->host->shard->wheel, &connection->timer,
              now_ms + connection->heartbeat_s * 500LL);
}

static void
on_timer(struct timer *timer, int64_t now_ms)
{
    struct connection *connection = CONTAINER_OF(timer, struct connection, timer);
    switch ((enum connection_state)connection->state) {
    case CONNECTION_OPEN:
        on_heartbeat_tick(connection, now_ms);
        break;
    case CONNECTION_REFUSED:
        login_refused(connection);
        break;
    case CONNECTION_ENDING:
    case CONNECTION_CLOSING:
        EVENT_LOG(connection->host, kind_of_end(connection, EVENT_ENDED), LOG_LEVEL_INFO,
                  "client did not close its connection in time", CONNECTION_WHO(connection));
        connection->is_broken = true;
        connection_dirty(connection);
        break;
    case CONNECTION_ENDED:
        break;
    default:
        EVENT_LOG(connection->host, EVENT_HANDSHAKE_TIMEOUT, LOG_LEVEL_WARN, "handshake timed out",
                  CONNECTION_WHO(connection),
                  LOG_STR("protocol", connection->stream.is_handshaking ? "tls" : "amqp"),
                  CONNECTION_LIFE(connection));
        connection->is_broken = true;
        connection_dirty(connection);
        break;
    }
}

/* --- Beginning and ending --------------------------------------------------------------------- */

static void
connection_free(struct connection *connection)
{
    list_remove(&connection->link);
    list_remove(&connection->dirty_link);
    wheel_cancel(&connection->host->shard->wheel, &connection->timer);
    output_clear(&connection->output);
    if (!connection->was_open)
        secret_wipe(connection->input.data, connection->input.size);
    buffer_free(&connection->input);
    if (connection->vhost != NULL)
        vhost_unref(connection->vhost);
    free(connection->channels);
    free(connection->exclusive_queues);
    permission_forget(connection);
    free(connection->user);
    free(connection->peer);
    free(connection);
}

/* A number that stands for the address a client comes from; of IPv6 it is the network's part, of
 * which one customer has all the rest. */
static uint64_t
address_key(const struct address *peer)
{
    enum { NETWORK_SIZE = 8 };
    const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)&peer->storage;
    if (peer->storage.ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&ip6->sin6_addr))
        return hash_slice((struct slice){(const char *)&ip6->sin6_addr, NETWORK_SIZE});
    char text[ADDRESS_TEXT_MAX];
    return hash_slice(slice_from(address_host_text(peer, text)));
}

void
session_accept(struct session_host *host, int fd, const struct address *peer,
               struct tls_context *tls)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    char text[ADDRESS_TEXT_MAX];
    struct stream stream;
    stream_init_tcp(&stream, fd);
    if (connection == NULL || (connection->peer = strdup(address_text(peer, text))) == NULL
        || (tls != NULL && stream_init_tls(&stream, fd, tls) != 0)) {
        log_error("out of memory: connection refused", LOG_STR("peer", address_text(peer, text)));
        stream_close(&stream);
        if (connection != NULL)
            free(connection->peer);
        free(connection);
        return;
    }
    connection->host = host;
    connection->accepted_ms = host->shard->now_ms;
    connection->stream = stream;
    connection->is_loopback = address_is_loopback(peer);
    connection->address_key = address_key(peer);
    connection->frame_max = AMQP_FRAME_MIN_SIZE * 2; /* until it is negotiated */
    list_init(&connection->link);
    list_init(&connection->dirty_link);
    list_init(&connection->handshake_link);
    list_init(&connection->owing);
    list_init(&connection->confirming);
    list_init(&connection->half_published);
    output_init(&connection->output, &host->pool);
    io_init(&connection->io, fd, on_events);
    timer_init(&connection->timer, on_timer);
    list_push_back(&host->connections, &connection->link);
    atomic_fetch_add_explicit(&host->connection_count, 1, memory_order_relaxed);
    if (loop_add(host->loop, &connection->io, EPOLLIN) != 0)
        connection_break(connection, "cannot watch the socket");
    wheel_set(&host->shard->wheel, &connection->timer,
              host->shard->now_ms + host->limits.handshake_ms);
    admission_begin(connection);
    log_debug("connection accepted", LOG_STR("peer", connection->peer),
              LOG_BOOL("tls", tls != NULL));
}

void
connection_release(struct connection *connection)
{
    struct shard *shard = connection->host->shard;
    for (uint32_t i = 0; i < connection->channel_capacity; i++)
        if (connection->channels[i] != NULL)
            channel_free(connection->channels[i]);
    connection->is_waiting = false;
    login_forget(connection);
    for (uint32_t i = 0; i < connection->exclusive_count; i++) {
        struct mail mail = {.type = MAIL_DELETE, .to = connection->exclusive_queues[i]};
        shard_send(shard, &mail);
    }
    connection->exclusive_count = 0;
    admission_end(connection);
    if (!ref_is_none(connection->ref)) {
        ref_table_remove(&shard->clients, connection->ref);
        connection->ref = REF_NONE;
    }
}

void
connection_fail(struct connection *connection, const struct amqp_error *error)
{
    if (connection->state >= CONNECTION_CLOSING)
        return;
    EVENT_LOG(connection->host, kind_of_end(connection, EVENT_CONNECTION_ERROR), LOG_LEVEL_WARN,
              "closing connection", CONNECTION_WHO(connection), LOG_STR("reason", error->text),
              CONNECTION_LIFE(connection));
    connection_release(connection);
    if (connection->state < CONNECTION_AWAITS_TUNE_OK
        || (connection->state < CONNECTION_OPEN && error->code != AMQP_REPLY_NOT_ALLOWED)) {
        /* Who has not come in is told no more than that. */
        connection_end(connection);
        return;
    }
    connection->state = CONNECTION_CLOSING;
    CONNECTION_SEND(connection, 0, connection_close, 512,
                    {.reply_code = error->code,
                     .reply_text = slice_from(error->text),
                     .class_id = error->class_id,
                     .method_id = error->method_id});
    wheel_set(&connection->host->shard->wheel, &connection->timer,
              connection->host->shard->now_ms + SESSION_CLOSE_TIMEOUT_MS);
}

void
connection_end(struct connection *connection)
{
    if (connection->state >= CONNECTION_ENDING)
        return;
    connection->state = CONNECTION_ENDING;
    wheel_set(&connection->host->shard->wheel, &connection->timer,
              connection->host->shard->now_ms + SESSION_CLOSE_TIMEOUT_MS);
    connection_dirty(connection);
}

/* The socket is closed; the struct lives until the end of the turn. */
static void
finish(struct connection *connection)
{
    struct session_host *host = connection->host;
    connection_release(connection);
    admission_forget(connection);
    connection->state = CONNECTION_ENDED;
    loop_remove(host->loop, &connection->io);
    stream_close(&connection->stream);
    list_remove(&connection->dirty_link);
    list_move_back(&host->finished, &connection->link);
    atomic_fetch_sub_explicit(&host->connection_count, 1, memory_order_relaxed);
}

/* --- The host --------------------------------------------------------------------------------- */

int
session_host_init(struct session_host *host, struct shard *shard, struct loop *loop,
                  const struct session_limits *limits, struct admission *admission,
                  struct access *access, struct login_service *logins)
{
    *host = (struct session_host){
        .shard = shard,
        .loop = loop,
        .limits = *limits,
        .access = access,
        .access_generation = access_generation_place(access),
        .logins = logins,
        .user_deletions = access_deletions(access),
        .vhost_deletions = catalogue_vhost_deletions(shard->broker->catalogue),
        .admission = admission,
        .handshake_rate = LOG_RATE(5, 1000),
        .read_buffer_size =
            SESSION_READ_MAX
            + (limits->frame_max > SESSION_READ_MAX ? limits->frame_max : SESSION_READ_MAX),
    };
    list_init(&host->connections);
    list_init(&host->newcomers);
    list_init(&host->dirty);
    list_init(&host->finished);
    list_init(&host->written);
    list_init(&host->gated);
    random_init(&host->random);
    events_init(&host->events, &shard->wheel);
    route_cache_init(&host->routes);
    block_pool_init(&host->pool, 4 * 1024 * 1024);
    host->read_buffer = malloc(host->read_buffer_size);
    return host->read_buffer == NULL ? -1 : 0;
}

int
session_host_set_limits(struct session_host *host, const struct session_limits *limits)
{
    size_t size = SESSION_READ_MAX + limits->frame_max;
    /* It never becomes smaller: there are connections with the greater frames of before. */
    if (size > host->read_buffer_size) {
        uint8_t *buffer = realloc(host->read_buffer, size);
        if (buffer == NULL)
            return -ENOMEM;
        host->read_buffer = buffer;
        host->read_buffer_size = size;
    }
    host->limits = *limits;
    return 0;
}

static void
free_finished(struct session_host *host)
{
    struct list *node;
    while ((node = list_first(&host->finished)) != NULL)
        connection_free(LIST_ENTRY(node, struct connection, link));
}

void
session_host_end(struct session_host *host)
{
    struct list *node;
    while ((node = list_first(&host->connections)) != NULL)
        finish(LIST_ENTRY(node, struct connection, link));
    free_finished(host);
}

void
session_host_fini(struct session_host *host)
{
    session_host_end(host);
    events_fini(&host->events);
    session_host_login(host); /* frees the answers that nobody awaits any more */
    free(host->waits);
    route_cache_fini(&host->routes);
    block_pool_fini(&host->pool);
    free(host->read_buffer);
}

void
session_host_shutdown(struct session_host *host)
{
    struct amqp_error error = {0};
    amqp_error_set(&error, AMQP_REPLY_CONNECTION_FORCED,
                   "broker forced connection closure with reason 'shutdown'");
    LIST_FOR_EACH (node, &host->connections)
        connection_fail(LIST_ENTRY(node, struct connection, link), &error);
}

/* --- Those who may not be here any more ------------------------------------------------------- */

bool
session_host_has_evictions(const struct session_host *host)
{
    return access_deletions(host->access) != host->user_deletions
           || catalogue_vhost_deletions(host->shard->broker->catalogue) != host->vhost_deletions;
}

static void
evict(struct connection *connection)
{
    struct amqp_error error = {0};
    if (connection->state != CONNECTION_OPEN)
        return; /* who is not yet in is asked at connection.open */
    if (vhost_is_deleted(connection->vhost))
        amqp_error_set(&error, AMQP_REPLY_CONNECTION_FORCED, "vhost '%.*s' is deleted",
                       SLICE_ARGS(vhost_name(connection->vhost)));
    else if (!permission_user_exists(connection))
        amqp_error_set(&error, AMQP_REPLY_CONNECTION_FORCED, "user '%s' is deleted",
                       connection->user);
    if (error.code != 0)
        connection_fail(connection, &error);
}

void
session_host_evict(struct session_host *host)
{
    if (LIKELY(!session_host_has_evictions(host)))
        return;
    host->user_deletions = access_deletions(host->access);
    host->vhost_deletions = catalogue_vhost_deletions(host->shard->broker->catalogue);
    LIST_FOR_EACH (node, &host->connections)
        evict(LIST_ENTRY(node, struct connection, link));
}

/* --- Pressure --------------------------------------------------------------------------------- */

/* Tells the client that its publishing is held back, or no longer, if that is news to it. */
static void
tell_pressure(struct connection *connection)
{
    uint32_t told = connection->host->pressure & PRESSURE_TOLD;
    bool is_blocked = told != 0 && connection->has_published;
    if (connection->state != CONNECTION_OPEN || is_blocked == connection->is_told_blocked
        || (connection->capabilities & CLIENT_BLOCKED) == 0)
        return;
    connection->is_told_blocked = is_blocked;
    if (is_blocked)
        CONNECTION_SEND(connection, 0, connection_blocked, 64,
                        {.reason = slice_from(told == PRESSURE_MEMORY ? "low on memory"
                                              : told == PRESSURE_DISK ? "low on disk"
                                                                      : "low on memory & disk")});
    else
        CONNECTION_SEND(connection, 0, connection_unblocked, 16, {.no_fields = 0});
}

void
connection_publishes(struct connection *connection)
{
    connection->has_published = true;
    tell_pressure(connection);
}

/* What a connection may still send to finish the contents that it has begun: those of several
 * channels are mixed with new ones, hence twice. */
static uint64_t
finish_allowance(const struct connection *connection)
{
    uint64_t left = 0;
    if (connection->unfinished == 0)
        return 0;
    for (uint32_t i = 0; i < connection->channel_capacity; i++)
        if (connection->channels[i] != NULL)
            left += publish_left(connection->channels[i]);
    return 2 * left + FINISH_SLACK;
}

void
session_host_press(struct session_host *host, uint32_t pressure)
{
    bool is_new = host->pressure == 0;
    host->pressure = pressure;
    LIST_FOR_EACH (node, &host->connections) {
        struct connection *connection = LIST_ENTRY(node, struct connection, link);
        if (!connection->has_published)
            continue;
        if (is_new)
            connection->finish_left = finish_allowance(connection);
        tell_pressure(connection);
        connection_dirty(connection); /* to be watched for other events, or to go on */
    }
}

/* Reports to queues what consumers have been sent, unless too much still waits for the socket. */
static void
report_credit(struct connection *connection)
{
    if (output_pending(&connection->output) >= SESSION_OUTPUT_HIGH)
        return;
    LIST_FOR_EACH_SAFE (node, &connection->owing) {
        struct consumer *consumer = LIST_ENTRY(node, struct consumer, owing_link);
        if (channel_is_full(consumer->channel))
            continue;
        list_remove(node);
        consumer_report(consumer);
    }
}

/* It goes on at once, or is watched for what lets it go on. */
static void
watch_or_go_on(struct connection *connection)
{
    if ((connection->has_input_left && takes_input(connection))
        || (stream_has_buffered(&connection->stream) && may_read(connection)))
        connection_dirty(connection);
    watch(connection);
}

static void
flush_connection(struct connection *connection)
{
    if (connection->has_input_left && !connection->is_sliced && takes_input(connection))
        connection_resume(connection);
    else if (stream_has_buffered(&connection->stream) && !connection->is_sliced
             && may_read(connection))
        read_input(connection); /* epoll knows nothing of it */
    connection->is_sliced = false;
    struct list *node;
    while ((node = list_pop_front(&connection->confirming)) != NULL)
        channel_flush_confirms(LIST_ENTRY(node, struct channel, confirm_link));
    if (!connection->is_broken && is_gated(connection)) {
        watch_or_go_on(connection);
        return;
    }
    if (!connection->is_broken && output_pending(&connection->output) > 0) {
        size_t before = output_pending(&connection->output);
        connection->has_sent = true;
        if (output_flush(&connection->output, &connection->stream) == OUTPUT_ERROR)
            connection_break(connection, stream_error_text(&connection->stream));
        connection->sent_bytes += before - output_pending(&connection->output);
    }
    if (connection->state == CONNECTION_ENDING && output_pending(&connection->output) == 0) {
        int status = stream_shutdown_write(&connection->stream);
        if (status == STREAM_ERROR)
            connection->is_broken = true;
        else if (status == 0 && stream_has_buffered(&connection->stream))
            drain_input(connection);
    }
    if (connection->is_broken) {
        finish(connection);
        return;
    }
    report_credit(connection);
    watch_or_go_on(connection);
}

bool
session_host_flush(struct session_host *host)
{
    struct list round;
    list_init(&round);
    list_splice(&round, &host->dirty);
    host->handshakes = 0;
    struct list *node;
    while ((node = list_pop_front(&round)) != NULL)
        flush_connection(LIST_ENTRY(node, struct connection, dirty_link));
    free_finished(host);
    return !list_is_empty(&host->dirty) || shard_has_work(host->shard);
}
