/* The event loop: see net/loop.h.
 *
 * Sleeping and waking: the sleeper says that it sleeps and then looks at its mail; the waker puts
 * its mail down and then looks whether the other sleeps. With a full fence between the two steps on
 * both sides at least one of them sees the other, so no mail waits for a sleeper. */
#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Empties the eventfd; that it was readable has done its work. */
static void
on_wake(struct io *io, uint32_t events)
{
    uint64_t count;
    ssize_t got = read(io->fd, &count, sizeof(count));

    (void)events;
    (void)got; /* empty already: just as well */
}

int
loop_init(struct loop *loop, bool (*has_mail)(void *context), void *context)
{
    int wake_fd, result;

    loop->has_mail = has_mail;
    loop->woke = NULL;
    loop->context = context;
    loop->batch_next = 0;
    loop->batch_count = 0;
    atomic_init(&loop->is_sleeping, 0);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        return -errno;
    wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_fd < 0) {
        result = -errno;
        close(loop->epoll_fd);
        return result;
    }
    io_init(&loop->wake, wake_fd, on_wake);
    result = loop_add(loop, &loop->wake, EPOLLIN);
    if (result != 0)
        loop_fini(loop);
    return result;
}

void
loop_fini(struct loop *loop)
{
    close(loop->wake.fd);
    close(loop->epoll_fd);
}

int
loop_add(struct loop *loop, struct io *io, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = io};

    assert(!io->is_added);
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, io->fd, &event) != 0)
        return -errno;
    io->events = events;
    io->is_added = true;
    return 0;
}

int
loop_modify(struct loop *loop, struct io *io, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = io};

    assert(io->is_added);
    if (io->events == events)
        return 0;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &event) != 0)
        return -errno;
    io->events = events;
    return 0;
}

void
loop_remove(struct loop *loop, struct io *io)
{
    if (!io->is_added)
        return;
    /* It can only fail for a descriptor that is not in the set, which is what is wanted. */
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
    io->is_added = false;
    io->events = 0;
    for (int i = loop->batch_next; i < loop->batch_count; i++) {
        if (loop->batch[i].data.ptr == io)
            loop->batch[i].data.ptr = NULL;
    }
}

void
loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t written;

#if UNDER_THREAD_SANITIZER
    /* A write that changes nothing orders the two sides in terms that the sanitizer knows. */
    if (!atomic_fetch_or(&loop->is_sleeping, 0))
        return;
#else
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&loop->is_sleeping, memory_order_relaxed))
        return;
#endif
    if (!atomic_exchange(&loop->is_sleeping, 0))
        return; /* another has woken it */
    written = write(loop->wake.fd, &one, sizeof(one));
    (void)written; /* only a full counter refuses, and that one is readable */
}

/* Says that this loop sleeps. false: there is mail after all, so it does not. */
static bool
fall_asleep(struct loop *loop)
{
#if UNDER_THREAD_SANITIZER
    (void)atomic_exchange(&loop->is_sleeping, 1);
#else
    atomic_store_explicit(&loop->is_sleeping, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
#endif
    if (loop->has_mail == NULL || !loop->has_mail(loop->context))
        return true;
    atomic_store_explicit(&loop->is_sleeping, 0, memory_order_relaxed);
    return false;
}

int
loop_wait(struct loop *loop, int timeout_ms)
{
    int count, dispatched = 0;

    if (timeout_ms != 0 && !fall_asleep(loop))
        timeout_ms = 0;
    count = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, timeout_ms);
    if (timeout_ms != 0)
        atomic_store_explicit(&loop->is_sleeping, 0, memory_order_relaxed);
    int error = errno;
    loop->batch_next = 0;
    loop->batch_count = count < 0 ? 0 : count; /* before `woke`, which may remove one of them */
    if (loop->woke != NULL)
        loop->woke(loop->context);
    if (count < 0)
        return error == EINTR ? 0 : -error;
    while (loop->batch_next < loop->batch_count) {
        struct epoll_event event = loop->batch[loop->batch_next++];
        struct io *io = event.data.ptr;

        if (io == NULL)
            continue;
        if (io != &loop->wake)
            dispatched++;
        io->on_events(io, event.events);
    }
    loop->batch_count = 0;
    loop->batch_next = 0;
    return dispatched;
}
