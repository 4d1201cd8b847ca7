/* The event loop of one thread: an epoll set, and a way for other threads to wake it.
 *
 * loop_wait is one batch of socket events and nothing else. Whoever owns the thread composes the
 * turn around it: mailboxes, loop_wait, timers, deferred work, flushing output.
 *
 * Everything but loop_wake belongs to the loop's own thread. */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/compiler.h"

/* Events taken from the kernel at a time: the bound of one loop_wait. */
enum { LOOP_BATCH = 256 };

/* A watched file descriptor; embedded in what it belongs to. */
struct io {
    int fd;
    uint32_t events; /* what is watched for: EPOLLIN, EPOLLOUT, ... */
    bool is_added;
    void (*on_events)(struct io *io, uint32_t events); /* events that came, as epoll says them */
};

struct loop {
    int epoll_fd;
    struct io wake;         /* its eventfd */
    atomic_int is_sleeping; /* 0 or 1 */
    bool (*has_mail)(void *context);
    /* Set by the owner, or NULL: the wait is over, events follow. It may remove watched things. */
    void (*woke)(void *context);
    void *context;
    int batch_next, batch_count; /* of the batch that is being dispatched */
    struct epoll_event batch[LOOP_BATCH];
};

/* has_mail (may be NULL) is asked between "this loop sleeps" and sleeping: it says whether
 * something came in from another thread, so that no wake is lost. -errno; nothing is held then. */
MUST_CHECK int loop_init(struct loop *loop, bool (*has_mail)(void *context), void *context);

/* Closes the loop's own descriptors. Added ones are not touched. */
void loop_fini(struct loop *loop);

static inline void
io_init(struct io *io, int fd, void (*on_events)(struct io *io, uint32_t events))
{
    *io = (struct io){.fd = fd, .on_events = on_events};
}

/* Watches io->fd for these events, level-triggered unless EPOLLET is among them (EPOLLERR and
 * EPOLLHUP always come). The loop borrows io until loop_remove. -errno. */
MUST_CHECK int loop_add(struct loop *loop, struct io *io, uint32_t events);

/* Watches an added io for other events; costs no system call when they are the same. Events of the
 * batch under way that are no longer wanted may still come. -errno. */
MUST_CHECK int loop_modify(struct loop *loop, struct io *io, uint32_t events);

/* Ends the watching; nothing when it was not added. Also inside a handler: no event of the batch
 * under way reaches io any more, so it may be freed and its fd closed at once. Call it before the
 * fd is closed. */
void loop_remove(struct loop *loop, struct io *io);

/* Any thread, after it has put something where has_mail looks: makes the loop come out of its
 * sleep. Costs a fence and a load when the loop is awake. */
void loop_wake(struct loop *loop);

/* loop->woke is where the owner reads the clock: handlers must not reckon from when the wait began.
 *
 * Waits for events up to timeout_ms (0: only looks, -1: for ever) and dispatches one batch. Does
 * not sleep when has_mail says so. Returns how many events were dispatched, 0 also after a wake or
 * a signal, or -errno. */
MUST_CHECK int loop_wait(struct loop *loop, int timeout_ms);

#endif
