/* What carries a connection's bytes: the socket as it is, or TLS over it.
 *
 * The socket of a plain connection blocks, and the calls here say each time whether to wait; that
 * of TLS never does. A call that does not wait leaves nothing behind inside TLS: what has come is
 * with the caller, so that poll and epoll tell all there is. */
#ifndef PERF_TRANSPORT_H
#define PERF_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "perf/uri.h"

struct connection;

/* Makes the TLS handshake over connection->fd, if the address asks for it; blocks, with a limit. 0,
 * or -1 with the reason in connection->error. */
int transport_open(struct connection *connection, const struct uri *uri);

/* Frees what TLS holds, after a word of farewell. The socket stays open. */
void transport_close(struct connection *connection);

/* Reads what is there, behind connection->in_end, where there is room; grows the buffer when TLS
 * has more already. As recv: bytes, 0 at the end, -1 with errno: EAGAIN when nothing is there (if
 * asked to wait: for as long as SO_RCVTIMEO says), EPROTO when TLS is broken. */
ssize_t transport_receive(struct connection *connection, bool wait);

/* As send, never waiting. After EAGAIN the same bytes must come first in the next call. */
ssize_t transport_send(struct connection *connection, const uint8_t *data, size_t size);

#endif
