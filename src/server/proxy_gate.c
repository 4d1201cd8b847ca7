/* Reading PROXY headers: see the header. Bytes are looked at before they are taken (MSG_PEEK), so
 * that none of those after the header is: they may be the beginning of TLS. */
#include "server/proxy_gate.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/wheel.h"
#include "net/loop.h"
#include "net/proxy.h"

struct newcomer {
    struct list link;
    struct proxy_gate *gate;
    struct io io;
    struct timer timer;
    struct address peer;     /* the proxy */
    struct tls_context *tls; /* a reference, or NULL */
    size_t size;             /* of the header, so far */
    uint8_t bytes[PROXY_HEADER_MAX];
};

/* Takes it out of the loop and frees it; its descriptor stays as it is. */
static void
forget(struct newcomer *newcomer)
{
    loop_remove(newcomer->gate->loop, &newcomer->io);
    wheel_cancel(newcomer->gate->wheel, &newcomer->timer);
    list_remove(&newcomer->link);
    tls_context_unref(newcomer->tls);
    free(newcomer);
}

static void
refuse(struct newcomer *newcomer, const char *reason)
{
    struct proxy_gate *gate = newcomer->gate;
    char text[ADDRESS_TEXT_MAX];

    if (log_rate_allows(&gate->rate, gate->wheel->now_ms))
        log_warn("no good PROXY header from a trusted address",
                 LOG_STR("peer", address_text(&newcomer->peer, text)), LOG_STR("reason", reason),
                 LOG_UINT("suppressed", log_rate_suppressed(&gate->rate)));
    close(newcomer->io.fd);
    forget(newcomer);
}

/* The header is whole, and taken from the socket. */
static void
pass(struct newcomer *newcomer, const struct proxy_header *header)
{
    struct proxy_gate *gate = newcomer->gate;
    struct address peer = header->has_source ? header->source : newcomer->peer;
    struct tls_context *tls = newcomer->tls;
    int fd = newcomer->io.fd;

    /* What is local to the proxy is local to us only if the proxy is; whoever is not named may be
     * anywhere. */
    peer.is_elsewhere =
        header->is_unknown || (header->has_source && !address_is_loopback(&newcomer->peer));
    newcomer->tls = NULL;
    forget(newcomer);
    gate->pass(gate->context, fd, &peer, tls);
    tls_context_unref(tls);
}

/* Takes so many bytes, which have been looked at, from the socket. */
static bool
take(struct newcomer *newcomer, size_t size)
{
    return recv(newcomer->io.fd, newcomer->bytes + newcomer->size, size, MSG_DONTWAIT)
           == (ssize_t)size;
}

static void
on_events(struct io *io, uint32_t events)
{
    struct newcomer *newcomer = CONTAINER_OF(io, struct newcomer, io);
    struct proxy_header header;
    const char *reason = "";
    ssize_t got = recv(io->fd, newcomer->bytes + newcomer->size,
                       sizeof(newcomer->bytes) - newcomer->size, MSG_PEEK | MSG_DONTWAIT);

    (void)events;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        refuse(newcomer, got == 0 ? "closed without one" : "the socket broke");
        return;
    }
    switch (proxy_parse(newcomer->bytes, newcomer->size + (size_t)got, &header, &reason)) {
    case PROXY_OK:
        if (take(newcomer, header.size - newcomer->size))
            pass(newcomer, &header);
        else
            refuse(newcomer, "the socket broke");
        break;
    case PROXY_INCOMPLETE:
        if (take(newcomer, (size_t)got))
            newcomer->size += (size_t)got;
        else
            refuse(newcomer, "the socket broke");
        break;
    case PROXY_BAD:
        refuse(newcomer, reason);
        break;
    }
}

static void
on_timeout(struct timer *timer, int64_t now_ms)
{
    (void)now_ms;
    refuse(CONTAINER_OF(timer, struct newcomer, timer), "it did not come in time");
}

void
proxy_gate_init(struct proxy_gate *gate, struct loop *loop, struct wheel *wheel,
                void (*pass_on)(void *context, int fd, const struct address *peer,
                                struct tls_context *tls),
                void *context)
{
    *gate = (struct proxy_gate){.loop = loop,
                                .wheel = wheel,
                                .rate = LOG_RATE(5, 1000),
                                .pass = pass_on,
                                .context = context};
    list_init(&gate->waiting);
}

void
proxy_gate_fini(struct proxy_gate *gate)
{
    struct list *node;

    while ((node = list_first(&gate->waiting)) != NULL) {
        struct newcomer *newcomer = LIST_ENTRY(node, struct newcomer, link);

        close(newcomer->io.fd);
        forget(newcomer);
    }
}

void
proxy_gate_accept(struct proxy_gate *gate, int fd, const struct address *peer,
                  struct tls_context *tls, uint32_t timeout_ms)
{
    struct newcomer *newcomer;

    if (LIKELY(!networks_contain(&gate->trusted, peer))) {
        gate->pass(gate->context, fd, peer, tls);
        return;
    }
    newcomer = malloc(sizeof(*newcomer));
    if (newcomer == NULL) {
        log_error("out of memory: connection refused");
        close(fd);
        return;
    }
    *newcomer = (struct newcomer){.gate = gate, .peer = *peer};
    newcomer->tls = tls != NULL ? tls_context_ref(tls) : NULL;
    io_init(&newcomer->io, fd, on_events);
    timer_init(&newcomer->timer, on_timeout);
    list_init(&newcomer->link);
    list_push_back(&gate->waiting, &newcomer->link);
    wheel_set(gate->wheel, &newcomer->timer, gate->wheel->now_ms + timeout_ms);
    if (loop_add(gate->loop, &newcomer->io, EPOLLIN) != 0)
        refuse(newcomer, "cannot watch the socket");
}
