/* A broker that does nothing, for measuring the client: it agrees to everything, throws away what
 * is published (and confirms it), and delivers one canned message as fast as the socket takes it.
 */
#ifndef PERF_NULL_BROKER_H
#define PERF_NULL_BROKER_H

#include <stddef.h>
#include <stdint.h>

/* Starts it on a free port of 127.0.0.1, in threads that end with the process. Its messages have
 * bodies of that many bytes. 0 with the port, or -1 with errno. */
int null_broker_start(size_t body_size, uint16_t *port);

#endif
