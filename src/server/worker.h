/* Workers: the threads of the broker, one per shard, each with its loop and its connections.
 *
 * A worker's turn: mail from other shards and due timers, deliveries, output, mail to other shards,
 * then sleep until a socket, a timer or another thread has something. The first worker's thread is
 * the one that also accepts connections; it hands each to the worker that has the fewest. */
#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <pthread.h>

#include "net/listener.h"
#include "server/pressure.h"
#include "server/proxy_gate.h"
#include "server/tasks.h"
#include "session/session.h"

enum {
    WORKER_LISTENERS_MAX = 32, /* plain ones and those with TLS */
    /* How long clients have to close their connections when the broker stops. */
    STOP_TIMEOUT_MS = 5000,
};

/* A connection on its way to its worker. */
struct handover {
    struct handover *next;
    int fd;
    struct address peer;
    struct tls_context *tls; /* a reference; NULL: plain */
};

struct server;

struct worker {
    struct server *server;
    pthread_t thread;
    struct loop loop;
    struct shard *shard;
    struct session_host host;
    _Atomic(struct handover *) handovers;
    bool is_started, has_host;
    uint32_t limits_version;    /* of the limits that the host has */
    _Atomic uint32_t turns;     /* counts the rounds of its loop: it is alive */
    struct timer journal_timer; /* while something waits for the log */
    bool is_stopping;
    int64_t stop_by_ms;
};

struct server {
    struct broker *broker;
    struct access *access;
    struct login_service *logins;
    struct worker *workers;
    uint32_t worker_count;
    struct listener listeners[WORKER_LISTENERS_MAX];
    uint32_t listener_count;
    struct proxy_gate proxies; /* the first worker's */
    struct tls_context *tls;   /* of new connections; the first worker's. NULL: none is loaded */
    struct pressure pressure;
    struct admission admission;
    struct timer pressure_timer; /* the first worker's */
    pthread_mutex_t limits_lock;
    struct session_limits limits;    /* under the lock: what the workers are to have */
    _Atomic uint32_t limits_version; /* counts its changes */
    struct tasks tasks;              /* the first worker's, for other threads */
    atomic_bool is_stopping;
    atomic_bool is_reload_asked;
    void (*on_reload)(void *context); /* NULL: there is nothing to be read again */
    void *reload_context;
};

/* Makes the shards, loops and hosts, and the users, of whom there are none. memory_max: bytes held
 * for clients beyond which publishers wait; 0 is two fifths of the machine's. -errno. */
MUST_CHECK int server_init(struct server *server, uint32_t threads, uint64_t memory_max,
                           const struct session_limits *limits);

/* Opens a listening address; -1 with a text for people. Nothing is accepted until server_run, and
 * by then server_tls_reload must have succeeded if any listener is for TLS. */
MUST_CHECK int server_listen(struct server *server, const char *address, bool is_tls,
                             char error[ADDRESS_ERROR_MAX]);

/* Removes the vhost with all that is in it, and its permissions; who is connected to it is told so
 * and closed. On the first worker's thread, or before server_run. -ENOENT, -ENOMEM. */
MUST_CHECK int server_remove_vhost(struct server *server, struct slice name);

/* Has the first worker call run(context) at its next turn, and waits until it has: 0. -ECANCELED:
 * it has not and will not, as the broker stops. Any thread but a worker's. */
MUST_CHECK int server_call(struct server *server, void (*run)(void *context), void *context);

/* Is this one of the listeners that are for TLS? */
bool server_listener_is_tls(const struct listener *listener);

/* Reads certificates and keys anew, for the connections to come; those that exist go on with what
 * they began with. Before server_run, or on the first worker's thread. -1 with one line for the
 * operator: the old ones stay in use. */
MUST_CHECK int server_tls_reload(struct server *server, const struct tls_options *options,
                                 char error[TLS_ERROR_MAX]);

/* server_listen with a socket that listens already, which the server owns on success. */
MUST_CHECK int server_adopt(struct server *server, int fd, bool is_tls,
                            char error[ADDRESS_ERROR_MAX]);

/* Starts the other workers and is the first one itself, until server_stop. Signals are the first
 * worker's: the caller has blocked them, and they are let in once the others run. -errno when a
 * thread cannot be started. */
MUST_CHECK int server_run(struct server *server);

/* Orderly end: listeners close, clients are told, server_run returns when they have gone or after
 * STOP_TIMEOUT_MS. Safe in a signal handler. */
void server_stop(struct server *server);

/* The first worker calls server->on_reload at its next turn. Safe in a signal handler. */
void server_ask_reload(struct server *server);

/* The addresses whose connections begin with a PROXY header. Before server_run, or on the first
 * worker's thread. */
static inline void
server_trust_proxies(struct server *server, const struct networks *trusted)
{
    server->proxies.trusted = *trusted;
}

/* Other limits for every worker, from its next turn on. Any thread. */
void server_set_limits(struct server *server, const struct session_limits *limits);

/* After server_run: ends what sessions are left, so that the queues have all that was not settled.
 * Once more does nothing. */
void server_end_sessions(struct server *server);

/* Frees everything; after server_run, or when it was never called. */
void server_fini(struct server *server);

#endif
