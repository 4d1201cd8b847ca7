/* One connection to a broker: socket, buffers, handshake, and questions with one answer.
 *
 * Set-up and tear-down block (with a limit on every wait); the measured part does not go through
 * here but works on the buffers itself (client.c). Whatever goes wrong leaves a sentence in error,
 * with the server's own text if it gave one. */
#ifndef PERF_CONNECTION_H
#define PERF_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "perf/uri.h"
#include "perf/wire.h"

/* Lets the compiler check format strings. */
#define PERF_PRINTF(format_at, arguments_at)                                                       \
    __attribute__((format(printf, format_at, arguments_at)))

enum {
    CONNECTION_FRAME_MAX = 131072, /* what is asked for; RabbitMQ's own default */
    CONNECTION_ERROR_SIZE = 640,   /* the server's 255 bytes, and ours around them */
};

struct ssl_st; /* SSL of OpenSSL */

struct connection {
    int fd;             /* -1: closed */
    struct ssl_st *ssl; /* NULL: plain */
    uint32_t frame_max;
    uint16_t heartbeat;  /* seconds, as negotiated; 0: none */
    bool is_blocked;     /* by connection.blocked: the broker takes no messages */
    bool is_paused;      /* by channel.flow */
    uint16_t close_code; /* of a close from the server; else 0 */
    uint8_t *in;
    size_t in_start, in_end, in_capacity; /* unread bytes: [in_start, in_end) */
    struct wire_buffer out;
    size_t out_sent; /* of out, how much the kernel has taken */
    char error[CONNECTION_ERROR_SIZE];
};

struct frame {
    uint8_t type;
    uint16_t channel;
    const uint8_t *payload; /* in the connection's buffer, until the next receive */
    uint32_t size;
};

/* Connects, authenticates (PLAIN) and opens the vhost. heartbeat: seconds, 0 asks for none. 0, or
 * -1 with the reason in connection->error. connection_fini must be called in either case. */
int connection_open(struct connection *connection, const struct uri *uri, uint16_t heartbeat);

/* Says connection.close and waits a moment for the answer; whatever arrives before it is dropped.
 */
void connection_close(struct connection *connection);

void connection_fini(struct connection *connection);

/* channel.open. 0 or -1. */
int connection_open_channel(struct connection *connection, uint16_t channel);

/* Sends what is in connection->out and waits for the given answer; *reply reads its arguments. 0,
 * or -1 when something else came: the server's close (close_code is set; of a closed channel, the
 * connection remains usable), a time-out, a malformed frame. */
int connection_call(struct connection *connection, enum method_id answer,
                    struct wire_reader *reply);

/* What both phases do with a method that is not theirs: close, blocked, unblocked, flow. Answers
 * are put into connection->out, close-ok too. 0, or -1 when it ends the connection or its channel.
 */
int connection_control(struct connection *connection, uint16_t channel, uint32_t method,
                       struct wire_reader arguments);

/* The next whole frame of what has been received. 1: *frame is one. 0: more bytes are needed.
 * -1: malformed. */
int connection_next_frame(struct connection *connection, struct frame *frame);

/* Reads once what is there; if it is nothing, waits if asked to (as long as SO_RCVTIMEO allows).
 * Number of bytes; 0: nothing there; -1: closed by the peer, or an error. */
ssize_t connection_receive(struct connection *connection, bool wait);

/* Sends of out what the socket takes, without waiting. 1: all; 0: the socket is full; -1: error. */
int connection_flush(struct connection *connection);

/* Makes the input buffer at least that large. */
void connection_reserve(struct connection *connection, size_t capacity);

/* Gives the buffers back if they are empty: an idle connection needs none. */
void connection_release(struct connection *connection);

/* Sets the error unless there is one already; returns -1. */
int connection_fail(struct connection *connection, const char *format, ...) PERF_PRINTF(2, 3);

#endif
