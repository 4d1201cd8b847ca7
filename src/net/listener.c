/* Opening listening sockets, and accepting: see net/listener.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* With port 0 the port that the kernel chose for one address may be taken at another: how often to
 * let it choose again. */
enum { PORT_TRIES = 16 };

static int
open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int
set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0 ? 0 : -errno;
}

static int
set_non_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return -errno;
    return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? 0 : -errno;
}

/* What an accepted socket lacks. A Unix socket knows neither option, and needs none. */
static int
set_up_connection(int fd)
{
    int result = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);

    if (result == -EOPNOTSUPP || result == -ENOPROTOOPT)
        return 0;
    return result == 0 ? set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1) : result;
}

/* A socket that listens at the address, or -errno. */
MUST_CHECK static int
open_socket(const struct address *address)
{
    int family = address->storage.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int result;

    if (fd < 0)
        return -errno;
    result = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (result == 0 && family == AF_INET6)
        result = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    if (result == 0 && bind(fd, (const struct sockaddr *)&address->storage, address->size) != 0)
        result = -errno;
    if (result == 0 && listen(fd, LISTENER_BACKLOG) != 0)
        result = -errno;
    if (result != 0) {
        close(fd);
        return result;
    }
    return fd;
}

static void on_events(struct io *io, uint32_t events);
static void on_pause_over(struct timer *timer, int64_t now_ms);

static void
add_socket(struct listener *listener, int fd)
{
    struct listener_socket *socket = &listener->sockets[listener->count++];

    io_init(&socket->io, fd, on_events);
    socket->listener = listener;
}

static void
close_sockets(struct listener *listener)
{
    for (size_t i = 0; i < listener->count; i++)
        close(listener->sockets[i].io.fd);
    listener->count = 0;
}

/* The machine lacks this family or this address of a name; another of its addresses may do. */
static bool
is_absent(int error)
{
    return error == -EAFNOSUPPORT || error == -EPROTONOSUPPORT || error == -EADDRNOTAVAIL;
}

/* Opens all addresses, those after the first at its port. -errno with the address that failed, and
 * nothing open. */
MUST_CHECK static int
open_sockets(struct listener *listener, struct address *addresses, size_t count,
             struct address *failed)
{
    int absent = -EADDRNOTAVAIL;

    for (size_t i = 0; i < count; i++) {
        struct address address = addresses[i];
        int fd;

        if (address_port(&address) == 0 && listener->count > 0)
            address_set_port(&address, address_port(&listener->address));
        fd = open_socket(&address);
        if (fd < 0) {
            *failed = address;
            absent = fd;
            if (is_absent(fd))
                continue;
            close_sockets(listener);
            return fd;
        }
        add_socket(listener, fd);
        if (listener->count == 1) {
            int result = address_of_socket(fd, &listener->address);

            if (result != 0) {
                *failed = address;
                close_sockets(listener);
                return result;
            }
        }
    }
    return listener->count > 0 ? 0 : absent;
}

static void
init(struct listener *listener,
     void (*on_accept)(struct listener *listener, int fd, const struct address *peer))
{
    *listener = (struct listener){
        .reserve_fd = -1,
        .rate = LOG_RATE(1, 10000),
        .on_accept = on_accept,
    };
    timer_init(&listener->pause, on_pause_over);
}

int
listener_open(struct listener *listener, const char *address,
              void (*on_accept)(struct listener *listener, int fd, const struct address *peer),
              char error[ADDRESS_ERROR_MAX])
{
    struct address addresses[LISTENER_SOCKETS_MAX], failed;
    char text[ADDRESS_TEXT_MAX];
    size_t count;
    int result;

    init(listener, on_accept);
    if (address_resolve_listen(address, addresses, LISTENER_SOCKETS_MAX, &count, error) != 0)
        return -1;
    for (int tries = 0;; tries++) {
        result = open_sockets(listener, addresses, count, &failed);
        if (result != -EADDRINUSE || address_port(&addresses[0]) != 0 || tries == PORT_TRIES)
            break;
    }
    if (result != 0) {
        snprintf(error, ADDRESS_ERROR_MAX, "cannot listen on %s: %s", address_text(&failed, text),
                 strerror(-result));
        return -1;
    }
    listener->reserve_fd = open_reserve();
    return 0;
}

int
listener_adopt(struct listener *listener, int fd,
               void (*on_accept)(struct listener *listener, int fd, const struct address *peer),
               char error[ADDRESS_ERROR_MAX])
{
    int listens = 0, result;
    socklen_t size = sizeof(listens);

    init(listener, on_accept);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) {
        snprintf(error, ADDRESS_ERROR_MAX, "file descriptor %d is not a listening socket", fd);
        return -1;
    }
    result = set_non_blocking(fd);
    if (result == 0)
        result = address_of_socket(fd, &listener->address);
    if (result != 0) {
        snprintf(error, ADDRESS_ERROR_MAX, "cannot use the socket handed over as %d: %s", fd,
                 strerror(-result));
        return -1;
    }
    add_socket(listener, fd);
    listener->reserve_fd = open_reserve();
    return 0;
}

static void
unwatch(struct listener *listener)
{
    for (size_t i = 0; i < listener->count; i++)
        loop_remove(listener->loop, &listener->sockets[i].io);
}

MUST_CHECK static int
watch(struct listener *listener)
{
    for (size_t i = 0; i < listener->count; i++) {
        int result = loop_add(listener->loop, &listener->sockets[i].io, EPOLLIN);

        if (result != 0) {
            unwatch(listener);
            return result;
        }
    }
    return 0;
}

int
listener_start(struct listener *listener, struct loop *loop, struct wheel *wheel)
{
    int result;

    listener_stop(listener);
    listener->loop = loop;
    listener->wheel = wheel;
    result = watch(listener);
    if (result != 0)
        listener->loop = NULL;
    return result;
}

void
listener_stop(struct listener *listener)
{
    if (listener->loop == NULL)
        return;
    unwatch(listener);
    wheel_cancel(listener->wheel, &listener->pause);
    listener->is_pausing = false;
    listener->loop = NULL;
}

void
listener_close(struct listener *listener)
{
    if (listener->count == 0)
        return;
    listener_stop(listener);
    close_sockets(listener);
    if (listener->reserve_fd >= 0)
        close(listener->reserve_fd);
    listener->reserve_fd = -1;
}

uint16_t
listener_port(const struct listener *listener)
{
    return address_port(&listener->address);
}

/* Takes all sockets out of the loop. The wheel's time may be old, since it was told before the loop
 * slept; so the timer fires at once and only then, being told the time, counts. */
static void
pause_accepting(struct listener *listener)
{
    unwatch(listener);
    listener->is_pausing = false;
    wheel_set(listener->wheel, &listener->pause, listener->wheel->now_ms);
}

static void
on_pause_over(struct timer *timer, int64_t now_ms)
{
    struct listener *listener = CONTAINER_OF(timer, struct listener, pause);

    if (!listener->is_pausing) {
        listener->is_pausing = true;
        wheel_set(listener->wheel, timer, now_ms + LISTENER_PAUSE_MS);
        return;
    }
    if (listener->reserve_fd < 0)
        listener->reserve_fd = open_reserve();
    if (watch(listener) == 0)
        listener->is_pausing = false;
    else
        wheel_set(listener->wheel, timer, now_ms + LISTENER_PAUSE_MS);
}

/* Accepting failed for want of something. Frees the client that waits longest of its uncertainty,
 * and pauses. */
static void
on_exhausted(struct listener *listener, int listening_fd, int error)
{
    char text[ADDRESS_TEXT_MAX];

    if ((error == EMFILE || error == ENFILE) && listener->reserve_fd >= 0) {
        int fd;

        close(listener->reserve_fd);
        fd = accept4(listening_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            close(fd);
            listener->refused++;
        }
        listener->reserve_fd = open_reserve();
    }
    if (log_rate_allows(&listener->rate, listener->wheel->now_ms))
        log_warn("connections cannot be accepted",
                 LOG_STR("address", address_text(&listener->address, text)),
                 LOG_ERRNO("reason", error), LOG_UINT("refused", listener->refused),
                 LOG_UINT("suppressed", log_rate_suppressed(&listener->rate)));
    pause_accepting(listener);
}

/* Errors of the connection that was to be accepted, not of the listener (accept(2)). */
static bool
is_of_connection(int error)
{
    switch (error) {
    case EINTR:
    case ECONNABORTED:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
    case ETIMEDOUT:
    case EPERM:
        return true;
    default:
        return false;
    }
}

/* Takes one waiting connection. false: no more for now. */
static bool
accept_one(struct listener *listener, int listening_fd)
{
    struct address peer = {.size = sizeof(peer.storage)};
    int fd = accept4(listening_fd, (struct sockaddr *)&peer.storage, &peer.size,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return false;
        if (is_of_connection(errno))
            return true;
        on_exhausted(listener, listening_fd, errno);
        return false;
    }
    if (set_up_connection(fd) != 0) {
        close(fd); /* gone again already */
        return true;
    }
    listener->accepted++;
    listener->on_accept(listener, fd, &peer);
    return listener->loop != NULL;
}

static void
on_events(struct io *io, uint32_t events)
{
    struct listener_socket *socket = CONTAINER_OF(io, struct listener_socket, io);

    (void)events;
    for (int i = 0; i < LISTENER_ACCEPT_BATCH; i++) {
        if (!accept_one(socket->listener, io->fd))
            break;
    }
}
