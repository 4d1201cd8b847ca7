/* Sessions: what a client's connection is to the broker. This header is what the program that runs
 * the threads needs; the inside is in connection.h and channel.h.
 *
 * Each thread has one host: its shard of the core, its loop, its connections and what these share.
 * Everything here belongs to that thread, except what session_host_has_... asks. */
#ifndef SESSION_SESSION_H
#define SESSION_SESSION_H

#include "auth/login.h"
#include "base/log.h"
#include "base/random.h"
#include "broker/shard.h"
#include "net/address.h"
#include "net/block_pool.h"
#include "net/loop.h"
#include "net/tls.h"
#include "session/admission.h"
#include "session/events.h"
#include "session/route_cache.h"

enum {
    /* Bytes read from one connection in one turn. */
    SESSION_READ_MAX = 128 * 1024,
    /* The same before connection.open: strangers whose password is still to be verified, of whom
     * there may be thousands, have no more of their input kept than that and a frame's beginning.
     */
    SESSION_READ_EARLY_MAX = 8 * 1024,
    /* How long one connection's input is worked on in one turn, when others wait: what is left
     * comes in the next. The clock is looked at after so many frames; those that change the
     * catalogue or search a queue count as several, a message that had to be routed anew as all of
     * them, and one for many queues as one for each few. */
    SESSION_SLICE_US = 300,
    SESSION_FRAMES_PER_LOOK = 16,
    SESSION_COSTLY_FRAMES = 8,
    SESSION_TARGETS_PER_FRAME = 4,
    /* More output than this waiting for a socket: the connection's queues get no credit. */
    SESSION_OUTPUT_HIGH = 1024 * 1024,
    /* And more than this: its input is not read, since every request would be answered into memory.
     */
    SESSION_OUTPUT_MAX = 4 * 1024 * 1024,
    /* Direct replies come without being asked for and have no queue to wait in: a client that lets
     * so much of them lie is given up. */
    SESSION_REPLIES_MAX = 64 * 1024 * 1024,
    /* How long a client has to answer connection.close. */
    SESSION_CLOSE_TIMEOUT_MS = 30 * 1000,
    /* A pause before the socket of a refused login is closed, where the client cannot be told why;
     * who keeps failing waits longer (auth/failures.h). */
    SESSION_LOGIN_PENALTY_MS = 3 * 1000,
    /* Steps of TLS handshakes in one turn. Signing takes up to a millisecond (RSA), for which
     * everybody else waits; a flood of handshakes waits for the others instead. */
    SESSION_HANDSHAKES_MAX = 4,
};

struct session_limits {
    uint32_t frame_max; /* 4096 or more */
    uint16_t channel_max;
    uint16_t heartbeat_s; /* proposed; 0: none */
    uint32_t handshake_ms;
    uint64_t message_size_max;         /* of a body */
    uint32_t header_size_max;          /* of a message's properties and headers, bytes */
    uint32_t header_depth_max;         /* of the tables in a message's headers */
    int64_t consumer_timeout_ms;       /* for settling a delivery; 0: none */
    uint32_t consumers_per_channel;    /* up to CHANNEL_CONSUMERS_MAX */
    uint32_t consumers_per_connection; /* 0: any number, as the next */
    uint32_t unsettled_per_channel;    /* deliveries; a few more may be under way */
    struct admission_limits admission;
};

/* Why publishers have to wait. */
enum session_pressure {
    PRESSURE_MEMORY = 1 << 0,
    PRESSURE_DISK = 1 << 1,
    PRESSURE_LOG = 1 << 2, /* the log is behind: so short a time that clients are not told */
    PRESSURE_TOLD = PRESSURE_MEMORY | PRESSURE_DISK,
};

struct durable_wait;
struct session_login;

struct session_host {
    struct shard *shard;
    struct loop *loop;
    struct block_pool pool;
    struct route_cache routes;
    struct random random;
    struct session_limits limits;
    struct events events;
    uint32_t handshakes; /* steps of TLS handshakes in this turn */
    struct access *access;
    const _Atomic uint64_t *access_generation; /* in there */
    struct login_service *logins;
    _Atomic(struct session_login *) logged_in; /* answers of the login thread */
    uint64_t user_deletions, vhost_deletions;  /* up to which connections were looked through */
    struct list connections;
    struct admission *admission;    /* of all hosts; lent */
    struct list newcomers;          /* connections that are not open yet, the oldest first */
    struct log_rate handshake_rate; /* what is logged of them: anybody can cause it */
    uint32_t pressure; /* enum session_pressure: connections that publish are not read */
    /* What keeps things on disk; NULL: nothing is kept, and nothing waited for. */
    struct log_writer *log_writer;
    struct definitions *definitions;
    struct list written;        /* channels that wrote to the log in this turn */
    struct list gated;          /* connections whose output waits for the definitions */
    struct durable_wait *waits; /* ring: what waits for the log, oldest first */
    uint32_t wait_first, wait_count, wait_capacity;
    struct list dirty;    /* connections with output, confirms or input to go on with */
    struct list finished; /* closed ones, to be freed at the end of the turn */
    _Atomic uint32_t connection_count;
    uint8_t *read_buffer; /* of all connections: SESSION_READ_MAX and a partial frame before that */
    size_t read_buffer_size;
};

/* -ENOMEM. The shard, the loop, the admission and the users are lent for the host's life; the login
 * service ends before the host does. */
MUST_CHECK int session_host_init(struct session_host *host, struct shard *shard, struct loop *loop,
                                 const struct session_limits *limits, struct admission *admission,
                                 struct access *access, struct login_service *logins);

/* Other limits from now on: those of the handshake for clients that come, the others at once. What
 * a connection has negotiated stays. -ENOMEM, and the limits as before, when greater frames find no
 * room. Not while a connection's input is being looked at. */
MUST_CHECK int session_host_set_limits(struct session_host *host,
                                       const struct session_limits *limits);

/* Closes what is still open. */
void session_host_end(struct session_host *host);

/* Closes what is still open and frees everything. */
void session_host_fini(struct session_host *host);

/* A new connection: the host owns the descriptor from here on, whatever happens. tls: what it is to
 * be encrypted with (the connection takes a reference); NULL: it is plain. */
void session_accept(struct session_host *host, int fd, const struct address *peer,
                    struct tls_context *tls);

/* End of the turn: confirms and output go out, connections that ended are freed. Returns whether
 * there is more to do at once. */
bool session_host_flush(struct session_host *host);

/* After session_host_flush and before shard_flush: hands what the turn wrote to the log over. */
void session_host_submit(struct session_host *host);

/* At the beginning of the turn: what has become durable is confirmed. */
void session_host_durable(struct session_host *host);

/* Whether there is something to do for session_host_durable. Any thread. */
bool session_host_has_durable(const struct session_host *host);

/* At the beginning of the turn: whose password was verified comes in, or does not. */
void session_host_login(struct session_host *host);

/* Whether there is something to do for session_host_login. Any thread. */
bool session_host_has_logins(const struct session_host *host);

/* At the beginning of the turn: connections of users and to vhosts that are no more are closed. */
void session_host_evict(struct session_host *host);

/* Whether there is something to do for session_host_evict. Any thread. */
bool session_host_has_evictions(const struct session_host *host);

/* Pressure has come, changed or gone: publishers wait or go on, and are told if they want to know.
 */
void session_host_press(struct session_host *host, uint32_t pressure);

/* Tells every client that the broker shuts down (connection.close 320). */
void session_host_shutdown(struct session_host *host);

#endif
