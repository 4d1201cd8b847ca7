/* Who may connect: how many connections there are at a time, in all, of one user, to one vhost and
 * from one address, and how many that have not come in yet.
 *
 * One for all threads. Its mutex is taken when a connection is opened and when it ends, never in
 * between. */
#ifndef SESSION_ADMISSION_H
#define SESSION_ADMISSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "amqp/reply.h"
#include "base/compiler.h"
#include "base/map.h"

struct connection;

/* The most at a time; 0: any number. */
struct admission_limits {
    uint32_t connections; /* that are open, as the next three */
    uint32_t per_user, per_vhost, per_address;
    uint32_t handshakes; /* accepted and not open yet */
};

struct admission {
    pthread_mutex_t mutex;
    struct map counts; /* open connections of each user, vhost and address that has any */
    uint32_t connections;
    _Atomic uint32_t handshakes;
};

void admission_init(struct admission *admission);

/* After the last connection. */
void admission_fini(struct admission *admission);

/* A connection has been accepted and begins its handshake. When that makes too many, the oldest of
 * this thread gives way, unless it is the only one: who is slow loses, and who is quick gets in,
 * however many are slow. */
void admission_begin(struct connection *connection);

/* connection.open, by a user to a vhost that it may use: counts the connection in. -1 with the
 * error, 530, when there are too many; or 506 without memory. */
MUST_CHECK int admission_open(struct connection *connection, struct amqp_error *error);

/* The connection is open no more, or is about to end: it does not count among those that are. Once
 * more does nothing. */
void admission_end(struct connection *connection);

/* Its socket is closed: only now it makes room for another handshake, if it was never open. One
 * that was refused and does not go holds a descriptor as well. */
void admission_forget(struct connection *connection);

#endif
