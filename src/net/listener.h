/* A listening address: its sockets (a name can have several), and the accepting.
 *
 * Connections are accepted in bounded batches. When the process or the system is out of file
 * descriptors, the oldest waiting connection is closed by means of a descriptor kept in reserve
 * (its client learns of it at once, rather than by its time-out), and accepting pauses for
 * LISTENER_PAUSE_MS, so that the loop does not spin on a socket that stays readable. */
#ifndef NET_LISTENER_H
#define NET_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/log.h"
#include "base/wheel.h"
#include "net/address.h"
#include "net/loop.h"

enum {
    LISTENER_SOCKETS_MAX = 16,
    LISTENER_BACKLOG = 4096,
    LISTENER_ACCEPT_BATCH = 64, /* per socket and turn */
    LISTENER_PAUSE_MS = 100,
};

struct listener;

struct listener_socket {
    struct io io;
    struct listener *listener;
};

struct listener {
    struct listener_socket sockets[LISTENER_SOCKETS_MAX];
    size_t count;
    struct address address; /* of the first socket, as bound */
    struct loop *loop;      /* NULL: not accepting */
    struct wheel *wheel;
    struct timer pause;
    bool is_pausing; /* the timer counts the pause down */
    int reserve_fd;  /* given up to accept and close when there are no more */
    struct log_rate rate;
    uint64_t accepted, refused; /* since the start; refused for want of descriptors or memory */
    void (*on_accept)(struct listener *listener, int fd, const struct address *peer);
    void *context; /* the owner's */
};

/* Opens and binds the sockets of an address (as in net/address.h) and listens; accepts nothing yet.
 * The listener must not be moved in memory. With port 0 all sockets get the same port. on_accept is
 * given each new connection, set up (no delay for small writes, keepalive, non-blocking): it owns
 * fd; `peer` is lent for the call. It may stop or close the listener. -1 with a text for people in
 * error ("address already in use" and the like); nothing is held then. */
MUST_CHECK int listener_open(struct listener *listener, const char *address,
                             void (*on_accept)(struct listener *listener, int fd,
                                               const struct address *peer),
                             char error[ADDRESS_ERROR_MAX]);

/* The same for a socket that listens already, as systemd hands it over; the listener owns it on
 * success. */
MUST_CHECK int listener_adopt(struct listener *listener, int fd,
                              void (*on_accept)(struct listener *listener, int fd,
                                                const struct address *peer),
                              char error[ADDRESS_ERROR_MAX]);

/* Begins, or begins again, to accept on this loop. The wheel is that of the same thread. -errno. */
MUST_CHECK int listener_start(struct listener *listener, struct loop *loop, struct wheel *wheel);

/* Accepts no more; new connections wait in the kernel. */
void listener_stop(struct listener *listener);

/* Stops and closes the sockets; does nothing to one that is closed. */
void listener_close(struct listener *listener);

/* The port it got. 0 for a Unix socket. */
uint16_t listener_port(const struct listener *listener);

#endif
