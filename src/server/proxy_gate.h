/* Connections from trusted proxies, from being accepted until the PROXY header has come: then they
 * are passed on, with the address of the client, as if they had just been accepted. So nothing
 * behind knows of it, and TLS begins after the header.
 *
 * Belongs to the thread that accepts, the first worker's. */
#ifndef SERVER_PROXY_GATE_H
#define SERVER_PROXY_GATE_H

#include "base/list.h"
#include "base/log.h"
#include "net/network.h"
#include "net/tls.h"

struct loop;
struct wheel;

struct proxy_gate {
    struct networks trusted;
    struct list waiting;
    struct loop *loop;
    struct wheel *wheel;
    struct log_rate rate;
    /* Owns the descriptor from there on; the address and the TLS context (NULL: plain) are lent. */
    void (*pass)(void *context, int fd, const struct address *peer, struct tls_context *tls);
    void *context;
};

/* Trusts nobody. Loop and wheel are lent for its life; they are of the same thread. */
void proxy_gate_init(struct proxy_gate *gate, struct loop *loop, struct wheel *wheel,
                     void (*pass)(void *context, int fd, const struct address *peer,
                                  struct tls_context *tls),
                     void *context);

/* Closes what still waits. */
void proxy_gate_fini(struct proxy_gate *gate);

/* A new connection, of which the gate owns the descriptor: who is not trusted is passed on at once,
 * who is has so much time for its header. The TLS context is lent for the call. */
void proxy_gate_accept(struct proxy_gate *gate, int fd, const struct address *peer,
                       struct tls_context *tls, uint32_t timeout_ms);

#endif
