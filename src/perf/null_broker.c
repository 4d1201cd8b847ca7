/* The broker that does nothing. See null_broker.h. A thread for each connection, blocking. */
#include "perf/null_broker.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/connection.h"
#include "perf/options.h"

enum {
    NULL_INPUT_CAPACITY = 256 << 10,
    NULL_BATCH_SIZE = 65536,
};

struct null_session {
    struct connection connection;
    size_t body_size;
    bool confirms, delivers, is_over;
    uint64_t published, confirmed;
    struct wire_buffer batch; /* canned deliveries */
    size_t batch_sent, message_size, first_body;
};

/* Which answer goes with which method, when it is an empty one. */
static const struct {
    enum method_id method, answer;
} EMPTY_ANSWERS[] = {
    {EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK},
    {EXCHANGE_DELETE, EXCHANGE_DELETE_OK},
    {QUEUE_BIND, QUEUE_BIND_OK},
    {BASIC_QOS, BASIC_QOS_OK},
    {CONFIRM_SELECT, CONFIRM_SELECT_OK},
    {CONNECTION_CLOSE, CONNECTION_CLOSE_OK},
    {CHANNEL_CLOSE, CHANNEL_CLOSE_OK},
};

static void
put_delivery(struct wire_buffer *out, size_t body_size)
{
    wire_method_begin(out, 1, BASIC_DELIVER);
    wire_short_string(out, "null");
    wire_u64(out, 1);
    wire_u8(out, 0);
    wire_short_string(out, "");
    wire_short_string(out, "whippet-perf-1");
    wire_frame_end(out);
    wire_frame_begin(out, FRAME_HEADER, 1);
    wire_u32(out, 60 << 16);
    wire_u64(out, body_size);
    wire_u16(out, 0);
    wire_frame_end(out);
    size_t chunk_max = CONNECTION_FRAME_MAX - FRAME_OVERHEAD;
    for (size_t done = 0; done < body_size;) {
        size_t chunk = body_size - done < chunk_max ? body_size - done : chunk_max;
        wire_frame_begin(out, FRAME_BODY, 1);
        memset(wire_extend(out, chunk), 0, chunk);
        wire_frame_end(out);
        done += chunk;
    }
}

static void
prepare_batch(struct null_session *session)
{
    put_delivery(&session->batch, session->body_size);
    session->message_size = session->batch.size;
    session->first_body = 0;
    for (size_t at = 0; at < session->message_size;) {
        if (session->batch.data[at] == FRAME_BODY && session->first_body == 0)
            session->first_body = at + FRAME_HEAD_SIZE;
        at += wire_get_u32(session->batch.data + at + 3) + FRAME_OVERHEAD;
    }
    while (session->batch.size + session->message_size <= NULL_BATCH_SIZE)
        put_delivery(&session->batch, session->body_size);
    session->batch_sent = session->batch.size;
    session->delivers = true;
}

static void
answer_method(struct null_session *session, uint16_t channel, uint32_t method)
{
    struct wire_buffer *out = &session->connection.out;
    for (size_t i = 0; i < sizeof(EMPTY_ANSWERS) / sizeof(EMPTY_ANSWERS[0]); i++) {
        if (method == (uint32_t)EMPTY_ANSWERS[i].method) {
            wire_method_begin(out, channel, EMPTY_ANSWERS[i].answer);
            wire_frame_end(out);
        }
    }
    switch (method) {
    case CONNECTION_START_OK:
        wire_method_begin(out, 0, CONNECTION_TUNE);
        wire_u16(out, 2047);
        wire_u32(out, CONNECTION_FRAME_MAX);
        wire_u16(out, 0);
        wire_frame_end(out);
        break;
    case CONNECTION_OPEN:
        wire_method_begin(out, 0, CONNECTION_OPEN_OK);
        wire_short_string(out, "");
        wire_frame_end(out);
        break;
    case CHANNEL_OPEN:
        wire_method_begin(out, channel, CHANNEL_OPEN_OK);
        wire_u32(out, 0);
        wire_frame_end(out);
        break;
    case QUEUE_DECLARE:
        wire_method_begin(out, channel, QUEUE_DECLARE_OK);
        wire_short_string(out, "");
        wire_u32(out, 0);
        wire_u32(out, 0);
        wire_frame_end(out);
        break;
    case QUEUE_DELETE:
        wire_method_begin(out, channel, QUEUE_DELETE_OK);
        wire_u32(out, 0);
        wire_frame_end(out);
        break;
    case BASIC_CONSUME:
        wire_method_begin(out, channel, BASIC_CONSUME_OK);
        wire_short_string(out, "null");
        wire_frame_end(out);
        if (!session->delivers)
            prepare_batch(session);
        break;
    case CONFIRM_SELECT:
        session->confirms = true;
        break;
    case CONNECTION_CLOSE:
        session->is_over = true;
        break;
    default:
        break; /* acknowledgements and the like */
    }
}

static int
handle_input(struct null_session *session)
{
    struct frame frame;
    int status;
    while ((status = connection_next_frame(&session->connection, &frame)) == 1) {
        if (frame.type != FRAME_METHOD || frame.size < 4)
            continue;
        uint32_t method = wire_get_u32(frame.payload);
        if (method == BASIC_PUBLISH)
            session->published++;
        else
            answer_method(session, frame.channel, method);
    }
    /* A message whose last frame is still to come is confirmed a little early: nobody minds. */
    if (session->confirms && session->published > session->confirmed) {
        struct wire_buffer *out = &session->connection.out;
        wire_method_begin(out, 1, BASIC_ACK);
        wire_u64(out, session->published);
        wire_u8(out, 1);
        wire_frame_end(out);
        session->confirmed = session->published;
    }
    return status;
}

/* Sends the next part of the endless stream, or waits until that is possible. A client that has
 * gone is noticed by whoever reads. */
static void
send_deliveries(struct null_session *session)
{
    if (session->batch_sent == session->batch.size) {
        uint64_t now = clock_now();
        if (session->body_size >= STAMP_SIZE) {
            for (size_t at = session->first_body; at < session->batch.size;
                 at += session->message_size)
                memcpy(session->batch.data + at + STAMP_NUMBER_SIZE, &now, sizeof(now));
        }
        session->batch_sent = 0;
    }
    ssize_t n = send(session->connection.fd, session->batch.data + session->batch_sent,
                     session->batch.size - session->batch_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        session->batch_sent += (size_t)n;
    else
        poll(&(struct pollfd){.fd = session->connection.fd, .events = POLLIN | POLLOUT}, 1, -1);
}

static void *
session_main(void *argument)
{
    struct null_session *session = argument;
    struct connection *connection = &session->connection;
    struct wire_buffer *out = &connection->out;
    uint8_t header[8];
    if (recv(connection->fd, header, sizeof(header), MSG_WAITALL) == (ssize_t)sizeof(header)) {
        connection_reserve(connection, NULL_INPUT_CAPACITY);
        wire_method_begin(out, 0, CONNECTION_START);
        wire_u16(out, 9);
        wire_table_end(out, wire_table_begin(out));
        wire_long_string(out, "PLAIN", 5);
        wire_long_string(out, "en_US", 5);
        wire_frame_end(out);
        while (!session->is_over) {
            /* Between two messages of the stream only: a frame is not to be torn apart. */
            bool may_answer = !session->delivers || session->batch_sent == session->batch.size;
            if (may_answer && connection_flush(connection) < 0)
                break;
            bool wait = !session->delivers && out->size == connection->out_sent;
            if (connection_receive(connection, wait) < 0 || handle_input(session) < 0)
                break;
            bool in_batch = session->batch_sent < session->batch.size;
            if (session->delivers && (in_batch || out->size == 0))
                send_deliveries(session);
        }
        while (session->delivers && session->batch_sent < session->batch.size
               && connection_receive(connection, false) >= 0)
            send_deliveries(session);
        connection_flush(connection);
    }
    connection_fini(connection);
    wire_buffer_fini(&session->batch);
    free(session);
    return NULL;
}

struct null_listener {
    int fd;
    size_t body_size;
};

static void *
listener_main(void *argument)
{
    struct null_listener *listener = argument;
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        struct null_session *session = calloc(1, sizeof(*session));
        pthread_t thread;
        if (session) {
            session->connection.fd = fd;
            session->connection.frame_max = CONNECTION_FRAME_MAX;
            session->body_size = listener->body_size;
        }
        if (!session || pthread_create(&thread, NULL, session_main, session) != 0) {
            free(session);
            close(fd);
            continue;
        }
        pthread_detach(thread);
    }
    return NULL;
}

int
null_broker_start(size_t body_size, uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    struct null_listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return -1;
    listener->body_size = body_size;
    listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_t thread;
    if (listener->fd < 0 || bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) < 0
        || listen(listener->fd, 4096) < 0
        || getsockname(listener->fd, (struct sockaddr *)&address, &size) < 0
        || pthread_create(&thread, NULL, listener_main, listener) != 0) {
        if (listener->fd >= 0)
            close(listener->fd);
        free(listener);
        return -1;
    }
    pthread_detach(thread);
    *port = ntohs(address.sin_port);
    return 0;
}
