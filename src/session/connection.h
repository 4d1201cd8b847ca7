/* A client's connection, from the first byte to the last. */
#ifndef SESSION_CONNECTION_H
#define SESSION_CONNECTION_H

#include "amqp/frame.h"
#include "amqp/method.h"
#include "amqp/reply.h"
#include "base/buffer.h"
#include "net/output.h"
#include "session/session.h"

struct channel;
struct permission_cache;

enum connection_state {
    CONNECTION_AWAITS_HEADER,
    CONNECTION_AWAITS_START_OK,
    CONNECTION_AWAITS_SECURE_OK,
    CONNECTION_AWAITS_TUNE_OK,
    CONNECTION_AWAITS_OPEN,
    CONNECTION_OPEN,
    CONNECTION_CLOSING, /* connection.close is sent; its answer is awaited, all else ignored */
    CONNECTION_REFUSED, /* the login failed: after a pause the client is told; no input */
    CONNECTION_ENDING,  /* what is queued is sent, then the socket is closed; no input */
    CONNECTION_ENDED,
};

/* What the client said that it can. */
enum client_capability {
    CLIENT_CANCEL_NOTIFY = 1 << 0,
    CLIENT_BLOCKED = 1 << 1,
    CLIENT_AUTHENTICATION_FAILURE_CLOSE = 1 << 2,
};

struct connection {
    struct io io;
    struct stream stream;
    struct session_host *host;
    struct list link;           /* in host->connections or ->finished */
    struct list dirty_link;     /* in host->dirty */
    struct list handshake_link; /* in host->newcomers, until it is open */
    struct list owing;          /* consumers whose queue is owed credit */
    struct list confirming;     /* channels with confirms to send */
    struct list half_published; /* channels that have a basic.publish and no header yet */
    struct output output;
    struct buffer input; /* the start of a frame, or input that waits with the connection */
    struct ref ref;      /* as the owner of exclusive queues */
    struct vhost *vhost;
    struct channel **channels; /* by number */
    uint32_t channel_capacity, channel_count;
    uint32_t consumer_count;
    struct ref *exclusive_queues;
    uint32_t exclusive_count, exclusive_capacity;
    uint32_t frame_max;
    uint16_t channel_max, heartbeat_s;
    uint8_t state; /* enum connection_state */
    uint8_t capabilities;
    uint8_t silent_ticks; /* half heartbeat intervals without input */
    uint8_t slice_work;   /* frames since the clock was looked at */
    bool is_waiting;      /* for another shard's answer: no input is looked at meanwhile */
    bool is_broken;       /* to be given up at the end of the turn: out of memory, socket error */
    bool has_sent;        /* since the last tick */
    bool is_loopback;
    bool was_open;        /* it has come in, whatever it is now */
    bool is_counted;      /* among the open connections (session/admission.h) */
    bool has_input_left;  /* input that was read waits in `input`: no more is read before it */
    bool is_sliced;       /* its share of this turn is used up */
    bool has_published;   /* so it waits under pressure */
    bool is_told_blocked; /* connection.blocked was sent, unblocked not yet */
    uint32_t unfinished;  /* contents of which body is still to come */
    uint64_t finish_left; /* under pressure: bytes that it may still send to finish them */
    uint64_t gate;        /* output waits until the definitions are durable up to this change */
    uint32_t body_left;   /* of a body frame of which a part has come; with its end octet */
    uint16_t body_channel;
    struct timer timer; /* handshake, heartbeats, closing: what there is in the state */
    int64_t accepted_ms;
    uint64_t received_bytes, sent_bytes; /* of frames: inside of TLS */
    char *user, *peer;
    uint64_t user_id;              /* of the user as the users know it */
    uint64_t address_key;          /* stands for the peer's address, without its port */
    const char *refused_mechanism; /* what the refusal will say; NULL: the client is not told */
    struct session_login *login;   /* on its way to the login thread or back, or NULL */
    struct permission_cache *permissions; /* what the user was found to have; NULL: nothing yet */
};

/* What it just asked for took as long as so many more frames. */
static inline void
connection_worked(struct connection *connection, uint32_t frames)
{
    uint32_t left = SESSION_FRAMES_PER_LOOK - connection->slice_work;
    connection->slice_work = (uint8_t)(connection->slice_work + (frames < left ? frames : left));
}

/* --- Sending: all of them only queue; failure to do so breaks the connection ------------------ */

/* Sends a method whose encoding needs at most `size` bytes. */
#define CONNECTION_SEND(connection, channel, class_method, size, ...)                              \
    do {                                                                                           \
        const struct amqp_##class_method send_method = __VA_ARGS__;                                \
        uint8_t *send_room = connection_reserve((connection), (size));                             \
        if (send_room != NULL)                                                                     \
            output_commit(&(connection)->output,                                                   \
                          amqp_frame_##class_method(send_room, (size), (channel), &send_method));  \
    } while (0)

/* Room for so many bytes of output, after which output_commit is due; NULL: the connection is
 * broken now. */
uint8_t *connection_reserve(struct connection *connection, size_t size);

/* There is something to do for it at the end of the turn. One that is behind its gate comes out
 * from among the gated, since its input goes on. */
static inline void
connection_dirty(struct connection *connection)
{
    if (!list_is_linked(&connection->dirty_link) || connection->gate != 0)
        list_move_back(&connection->host->dirty, &connection->dirty_link);
}

/* What is answered from here on says that the definitions are changed: it must not go out before
 * that is on disk. */
void connection_gate(struct connection *connection);

/* Gives the connection up at the end of the turn, without a word to the client. */
void connection_break(struct connection *connection, const char *reason);

/* It publishes: under pressure, the connection is not read on. */
void connection_publishes(struct connection *connection);

/* The name of its vhost; empty while it has none. */
static inline struct slice
connection_vhost_name(const struct connection *connection)
{
    return connection->vhost != NULL ? vhost_name(connection->vhost) : SLICE("");
}

/* --- Ending ----------------------------------------------------------------------------------- */

/* A connection error: tells the client, frees its channels and awaits connection.close-ok. */
void connection_fail(struct connection *connection, const struct amqp_error *error);

/* Frees channels and exclusive queues. The session has ended for the core. */
void connection_release(struct connection *connection);

/* What is queued is sent, then the socket is closed. */
void connection_end(struct connection *connection);

/* --- Inside ----------------------------------------------------------------------------------- */

/* A method on channel 0; -1 with the error. */
int connection_method(struct connection *connection, const struct amqp_method_info *info,
                      const union amqp_method *method, struct amqp_error *error);

/* Answers the eight octets of the protocol header. */
void connection_protocol_header(struct connection *connection,
                                const uint8_t header[AMQP_PROTOCOL_HEADER_SIZE]);

/* The socket's events. */
void connection_on_events(struct io *io, uint32_t events);

/* Reads once and deals with what came. */
void connection_read(struct connection *connection);

/* Goes on with input that waited for an answer; at the end of the turn. */
void connection_resume(struct connection *connection);

/* Reads and drops: what a client still sends to a connection that only has its last words to say.
 * The socket is closed when the peer has closed its side, so that those words are not lost to a
 * reset. */
void connection_drain(struct connection *connection);

/* Its input waits, because it publishes and something is short. Contents that have begun are still
 * taken to their end: they hold memory that nobody can consume before. So is the answer to a close.
 */
bool connection_is_held(const struct connection *connection);

/* Whether frames are looked at; and whether more may be read for them. */
bool connection_takes_input(const struct connection *connection);
bool connection_may_read(const struct connection *connection);

/* The socket is closed; the struct lives until the end of the turn, when it is freed. */
void connection_finish(struct connection *connection);
void connection_free(struct connection *connection);

/* The channel of that number, or NULL. */
static inline struct channel *
connection_channel(const struct connection *connection, uint16_t number)
{
    return number < connection->channel_capacity ? connection->channels[number] : NULL;
}

#endif
