/* Connecting, the handshake, and blocking questions. See connection.h. */
#include "perf/connection.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/transport.h"

enum {
    ANSWER_TIMEOUT_MS = 30000, /* generous: a broker that opens 10,000 connections is busy */
    CONNECT_TIMEOUT_S = 10,
    CLOSE_TIMEOUT_MS = 2000,
    INITIAL_CAPACITY = 4096,
};

int
connection_fail(struct connection *connection, const char *format, ...)
{
    if (connection->error[0] == '\0') {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(connection->error, sizeof(connection->error), format, arguments);
        va_end(arguments);
    }
    return -1;
}

/* --- Bytes ------------------------------------------------------------------------------------ */

void
connection_reserve(struct connection *connection, size_t capacity)
{
    if (connection->in_capacity >= capacity)
        return;
    uint8_t *in = realloc(connection->in, capacity);
    if (!in) {
        fprintf(stderr, "whippet-perf: out of memory\n");
        exit(1);
    }
    connection->in = in;
    connection->in_capacity = capacity;
}

void
connection_release(struct connection *connection)
{
    if (connection->in_start == connection->in_end) {
        free(connection->in);
        connection->in = NULL;
        connection->in_start = connection->in_end = connection->in_capacity = 0;
    }
    if (connection->out_sent == connection->out.size) {
        wire_buffer_fini(&connection->out);
        connection->out_sent = 0;
    }
}

ssize_t
connection_receive(struct connection *connection, bool wait)
{
    if (connection->in_start > 0) {
        size_t left = connection->in_end - connection->in_start;
        memmove(connection->in, connection->in + connection->in_start, left);
        connection->in_start = 0;
        connection->in_end = left;
    }
    if (connection->in_end == connection->in_capacity) {
        size_t more = connection->in_capacity ? connection->in_capacity * 2 : INITIAL_CAPACITY;
        connection_reserve(connection, more);
    }
    ssize_t n = transport_receive(connection, wait);
    if (n > 0) {
        connection->in_end += (size_t)n;
        return n;
    }
    if (n == 0)
        return connection_fail(connection, "the server closed the connection without a word");
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    return connection_fail(connection, "receiving: %s", strerror(errno));
}

int
connection_flush(struct connection *connection)
{
    struct wire_buffer *out = &connection->out;
    while (connection->out_sent < out->size) {
        ssize_t n = transport_send(connection, out->data + connection->out_sent,
                                   out->size - connection->out_sent);
        if (n < 0) {
            if (errno == EAGAIN)
                return 0;
            if (errno == EINTR)
                continue;
            return connection_fail(connection, "sending: %s", strerror(errno));
        }
        connection->out_sent += (size_t)n;
    }
    out->size = connection->out_sent = 0;
    return 1;
}

/* Waits for the socket until the deadline (ns). 1: ready, 0: time is up, -1: error. */
static int
connection_wait(struct connection *connection, short events, uint64_t deadline)
{
    for (;;) {
        uint64_t now = clock_now();
        if (now >= deadline)
            return 0;
        struct pollfd entry = {.fd = connection->fd, .events = events};
        int n = poll(&entry, 1, (int)((deadline - now) / NS_PER_MS) + 1);
        if (n > 0)
            return 1;
        if (n < 0 && errno != EINTR)
            return connection_fail(connection, "poll: %s", strerror(errno));
    }
}

static int
connection_flush_blocking(struct connection *connection, uint64_t deadline)
{
    for (;;) {
        int status = connection_flush(connection);
        if (status != 0)
            return status;
        status = connection_wait(connection, POLLOUT, deadline);
        if (status < 0)
            return -1;
        if (status == 0)
            return connection_fail(connection, "the server does not read what is sent to it");
    }
}

/* --- Frames ----------------------------------------------------------------------------------- */

int
connection_next_frame(struct connection *connection, struct frame *frame)
{
    size_t available = connection->in_end - connection->in_start;
    const uint8_t *at = connection->in + connection->in_start;
    /* A server that does not like the protocol header answers with its own: "AMQP", version. */
    if (available >= 8 && memcmp(at, "AMQP", 4) == 0)
        return connection_fail(connection,
                               "the server does not speak AMQP 0-9-1 (it offers "
                               "%u.%u.%u.%u)",
                               at[4], at[5], at[6], at[7]);
    if (available < FRAME_OVERHEAD)
        return 0;
    uint32_t size = wire_get_u32(at + 3);
    if (size > connection->frame_max - FRAME_OVERHEAD)
        return connection_fail(connection,
                               "the server sent a frame of %u bytes: more than the "
                               "agreed %u, or this is no AMQP server",
                               size, connection->frame_max);
    if (available < (size_t)size + FRAME_OVERHEAD)
        return 0;
    if (at[FRAME_HEAD_SIZE + size] != FRAME_END)
        return connection_fail(connection, "the server sent a malformed frame");
    *frame = (struct frame){.type = at[0],
                            .channel = wire_get_u16(at + 1),
                            .payload = at + FRAME_HEAD_SIZE,
                            .size = size};
    connection->in_start += (size_t)size + FRAME_OVERHEAD;
    return 1;
}

/* The next frame, waited for. 1, or -1; 0 when time is up. */
static int
connection_await_frame(struct connection *connection, struct frame *frame, uint64_t deadline)
{
    for (;;) {
        int status = connection->in ? connection_next_frame(connection, frame) : 0;
        if (status != 0)
            return status;
        status = connection_wait(connection, POLLIN, deadline);
        if (status <= 0)
            return status;
        if (connection_receive(connection, false) < 0)
            return -1;
    }
}

/* connection.close and channel.close from the server: says what it said. */
static int
server_closed(struct connection *connection, const char *what, struct wire_reader arguments)
{
    size_t size;
    uint16_t code = wire_read_u16(&arguments);
    const uint8_t *text = wire_read_short_string(&arguments, &size);
    connection->close_code = code;
    connection->error[0] = '\0'; /* what the server says explains any error we had ourselves */
    return connection_fail(connection, "the server closed the %s: %u %.*s", what, code, (int)size,
                           text ? (const char *)text : "");
}

int
connection_control(struct connection *connection, uint16_t channel, uint32_t method,
                   struct wire_reader arguments)
{
    struct wire_buffer *out = &connection->out;
    switch (method) {
    case CONNECTION_CLOSE:
        wire_method_begin(out, 0, CONNECTION_CLOSE_OK);
        wire_frame_end(out);
        return server_closed(connection, "connection", arguments);
    case CHANNEL_CLOSE:
        wire_method_begin(out, channel, CHANNEL_CLOSE_OK);
        wire_frame_end(out);
        return server_closed(connection, "channel", arguments);
    case CONNECTION_BLOCKED:
        connection->is_blocked = true;
        return 0;
    case CONNECTION_UNBLOCKED:
        connection->is_blocked = false;
        return 0;
    case CHANNEL_FLOW: {
        uint8_t active = wire_read_u8(&arguments) & 1;
        connection->is_paused = !active;
        wire_method_begin(out, channel, CHANNEL_FLOW_OK);
        wire_u8(out, active);
        wire_frame_end(out);
        return 0;
    }
    case BASIC_CANCEL:
        return connection_fail(connection, "the server cancelled the consumer: its queue is gone");
    default:
        return connection_fail(connection, "the server sent an unexpected method %u.%u",
                               method >> 16, method & UINT16_MAX);
    }
}

int
connection_call(struct connection *connection, enum method_id answer, struct wire_reader *reply)
{
    uint64_t deadline = clock_now() + ANSWER_TIMEOUT_MS * NS_PER_MS;
    /* If the server hung up while we were sending, it may have said why: read on. */
    (void)connection_flush_blocking(connection, deadline);
    for (;;) {
        struct frame frame;
        int status = connection_await_frame(connection, &frame, deadline);
        if (status < 0)
            return -1;
        if (status == 0)
            return connection_fail(connection, "no answer from the server in %d seconds",
                                   ANSWER_TIMEOUT_MS / 1000);
        if (frame.type == FRAME_HEARTBEAT)
            continue;
        struct wire_reader reader = {.at = frame.payload, .end = frame.payload + frame.size};
        uint32_t method = wire_read_u32(&reader);
        if (frame.type != FRAME_METHOD || reader.failed)
            return connection_fail(connection, "the server sent an unexpected frame");
        if (method == (uint32_t)answer) {
            *reply = reader;
            return 0;
        }
        if (connection_control(connection, frame.channel, method, reader) < 0) {
            (void)connection_flush(connection); /* close-ok: a courtesy, it is over either way */
            return -1;
        }
    }
}

/* --- The handshake ---------------------------------------------------------------------------- */

static int
connection_connect(struct connection *connection, const struct uri *uri)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *addresses;
    int status = getaddrinfo(uri->host, uri->port, &hints, &addresses);
    if (status != 0)
        return connection_fail(connection, "%s: %s", uri->host, gai_strerror(status));
    int saved = 0;
    for (struct addrinfo *a = addresses; a && connection->fd < 0; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) {
            saved = errno;
            continue;
        }
        /* On Linux the send time-out limits connect too. */
        struct timeval limit = {.tv_sec = CONNECT_TIMEOUT_S};
        struct timeval none = {0};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
            connection->fd = fd;
        } else {
            saved = errno == EINPROGRESS ? ETIMEDOUT : errno;
            close(fd);
        }
    }
    freeaddrinfo(addresses);
    if (connection->fd < 0)
        return connection_fail(connection, "cannot connect to %s port %s: %s", uri->host, uri->port,
                               strerror(saved));
    int on = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return transport_open(connection, uri);
}

static void
table_string(struct wire_buffer *out, const char *key, const char *value)
{
    wire_short_string(out, key);
    wire_u8(out, 'S');
    wire_long_string(out, value, strlen(value));
}

static void
table_true(struct wire_buffer *out, const char *key)
{
    wire_short_string(out, key);
    wire_u8(out, 't');
    wire_u8(out, 1);
}

static void
put_start_ok(struct wire_buffer *out, const struct uri *uri)
{
    wire_method_begin(out, 0, CONNECTION_START_OK);
    size_t properties = wire_table_begin(out);
    table_string(out, "product", "whippet-perf");
    table_string(out, "connection_name", "whippet-perf");
    wire_short_string(out, "capabilities");
    wire_u8(out, 'F');
    size_t capabilities = wire_table_begin(out);
    /* Without this one, a server reports a wrong password by hanging up. */
    table_true(out, "authentication_failure_close");
    table_true(out, "connection.blocked");
    table_true(out, "consumer_cancel_notify");
    table_true(out, "basic.nack");
    table_true(out, "publisher_confirms");
    wire_table_end(out, capabilities);
    wire_table_end(out, properties);
    wire_short_string(out, "PLAIN");
    char response[2 * URI_PART_SIZE + 2];
    int size = snprintf(response, sizeof(response), "%c%s%c%s", 0, uri->user, 0, uri->password);
    wire_long_string(out, response, (size_t)size);
    wire_short_string(out, "en_US");
    wire_frame_end(out);
}

/* connection.tune: the lesser of what both want, where 0 means no limit (4.2.3). */
static int
tune(struct connection *connection, struct wire_reader reply, uint16_t heartbeat)
{
    uint16_t channel_max = wire_read_u16(&reply);
    uint32_t frame_max = wire_read_u32(&reply);
    wire_read_u16(&reply); /* the heartbeat it proposes; ours to decide (RabbitMQ takes any) */
    if (reply.failed || (frame_max != 0 && frame_max < FRAME_MIN_SIZE))
        return connection_fail(connection, "the server sent a malformed connection.tune");
    if (frame_max != 0 && frame_max < connection->frame_max)
        connection->frame_max = frame_max;
    connection->heartbeat = heartbeat;

    struct wire_buffer *out = &connection->out;
    wire_method_begin(out, 0, CONNECTION_TUNE_OK);
    wire_u16(out, channel_max);
    wire_u32(out, connection->frame_max);
    wire_u16(out, heartbeat);
    wire_frame_end(out);
    return 0;
}

int
connection_open(struct connection *connection, const struct uri *uri, uint16_t heartbeat)
{
    *connection = (struct connection){.fd = -1, .frame_max = CONNECTION_FRAME_MAX};
    if (connection_connect(connection, uri) < 0)
        return -1;

    struct wire_buffer *out = &connection->out;
    struct wire_reader reply;
    wire_bytes(out, "AMQP\0\0\x09\x01", 8);
    if (connection_call(connection, CONNECTION_START, &reply) < 0)
        return -1;
    put_start_ok(out, uri);
    if (connection_call(connection, CONNECTION_TUNE, &reply) < 0)
        return -1;
    if (tune(connection, reply, heartbeat) < 0)
        return -1;
    wire_method_begin(out, 0, CONNECTION_OPEN);
    wire_short_string(out, uri->vhost);
    wire_short_string(out, "");
    wire_u8(out, 0);
    wire_frame_end(out);
    return connection_call(connection, CONNECTION_OPEN_OK, &reply);
}

int
connection_open_channel(struct connection *connection, uint16_t channel)
{
    struct wire_reader reply;
    connection->close_code = 0;
    wire_method_begin(&connection->out, channel, CHANNEL_OPEN);
    wire_short_string(&connection->out, "");
    wire_frame_end(&connection->out);
    return connection_call(connection, CHANNEL_OPEN_OK, &reply);
}

void
connection_close(struct connection *connection)
{
    if (connection->fd < 0 || connection->error[0] != '\0')
        return;
    uint64_t deadline = clock_now() + CLOSE_TIMEOUT_MS * NS_PER_MS;
    wire_method_begin(&connection->out, 0, CONNECTION_CLOSE);
    wire_u16(&connection->out, 200);
    wire_short_string(&connection->out, "done");
    wire_u16(&connection->out, 0);
    wire_u16(&connection->out, 0);
    wire_frame_end(&connection->out);

    /* The server may be stuck in deliveries to us: read, or it never comes to our close. */
    for (;;) {
        int flushed = connection_flush(connection);
        struct frame frame;
        int status;
        while ((status = connection->in ? connection_next_frame(connection, &frame) : 0) == 1) {
            if (frame.type == FRAME_METHOD && frame.size >= 4
                && wire_get_u32(frame.payload) == CONNECTION_CLOSE_OK)
                return;
        }
        if (status < 0 || flushed < 0)
            return;
        short events = flushed == 1 ? POLLIN : POLLIN | POLLOUT;
        if (connection_wait(connection, events, deadline) <= 0
            || connection_receive(connection, false) < 0)
            return;
    }
}

void
connection_fini(struct connection *connection)
{
    transport_close(connection);
    if (connection->fd >= 0)
        close(connection->fd);
    connection->fd = -1;
    free(connection->in);
    connection->in = NULL;
    wire_buffer_fini(&connection->out);
}
