/* Holding connections open: what a broker spends on clients that do nothing.
 *
 * Some threads open the connections, each with a channel, for the handshake is the broker's work
 * and one after the other would take long. Then the main thread alone holds them: it sends
 * heartbeats if any were agreed, and notices what the broker closes. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/connection.h"
#include "perf/modes.h"

enum {
    OPENERS = 8,
    EVENTS_MAX = 64,
    SPARE_DESCRIPTORS = 64,
};

struct idle {
    const struct options *options;
    struct connection *connections;
    _Atomic uint64_t next; /* to be opened */
    _Atomic uint64_t open;
    _Atomic bool has_failed;
    pthread_mutex_t mutex; /* of error */
    char error[CONNECTION_ERROR_SIZE];
    int epoll_fd, signal_fd;
};

static void
idle_fail(struct idle *idle, const char *text)
{
    pthread_mutex_lock(&idle->mutex);
    if (idle->error[0] == '\0')
        snprintf(idle->error, sizeof(idle->error), "%s", text);
    pthread_mutex_unlock(&idle->mutex);
    atomic_store(&idle->has_failed, true);
}

static void *
opener_main(void *argument)
{
    struct idle *idle = argument;
    const struct options *options = idle->options;
    uint64_t i;
    while (!atomic_load(&idle->has_failed)
           && (i = atomic_fetch_add(&idle->next, 1)) < options->connections) {
        struct connection *connection = &idle->connections[i];
        if (connection_open(connection, &options->uri, (uint16_t)options->heartbeat) < 0
            || connection_open_channel(connection, 1) < 0) {
            idle_fail(idle, connection->error);
            break;
        }
        connection_release(connection);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(idle->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) < 0) {
            idle_fail(idle, strerror(errno));
            break;
        }
        atomic_fetch_add(&idle->open, 1);
    }
    return NULL;
}

static int
idle_open(struct idle *idle)
{
    pthread_t threads[OPENERS];
    size_t count = 0;
    while (count < OPENERS && count < idle->options->connections
           && pthread_create(&threads[count], NULL, opener_main, idle) == 0)
        count++;
    if (count == 0)
        idle_fail(idle, "cannot start a thread");
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return atomic_load(&idle->has_failed) ? -1 : 0;
}

/* A connection that was to be silent has something to say: heartbeats are fine, the rest is not. */
static void
idle_input(struct idle *idle, struct connection *connection)
{
    struct frame frame;
    ssize_t n = connection_receive(connection, false);
    int status = n < 0 ? -1 : 0;
    while (status == 0 && n > 0 && (status = connection_next_frame(connection, &frame)) == 1) {
        struct wire_reader reader = {.at = frame.payload, .end = frame.payload + frame.size};
        status = frame.type == FRAME_HEARTBEAT ? 0
                                               : connection_control(connection, frame.channel,
                                                                    wire_read_u32(&reader), reader);
    }
    if (status == 0) {
        connection_flush(connection);
        connection_release(connection);
        return;
    }
    (void)connection_flush(connection); /* close-ok */
    idle_fail(idle, connection->error);
    epoll_ctl(idle->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    atomic_fetch_sub(&idle->open, 1);
}

static void
idle_heartbeats(struct idle *idle)
{
    for (uint64_t i = 0; i < idle->options->connections; i++) {
        struct connection *connection = &idle->connections[i];
        if (connection->error[0] != '\0')
            continue;
        wire_frame_begin(&connection->out, FRAME_HEARTBEAT, 0);
        wire_frame_end(&connection->out);
        connection_flush(connection);
        connection_release(connection);
    }
}

static void
idle_hold(struct idle *idle)
{
    const struct options *options = idle->options;
    uint64_t interval = options->heartbeat * NS_PER_SECOND / 2;
    uint64_t now = clock_now(), end = now + (uint64_t)(options->duration * 1e9);
    uint64_t next_heartbeat = interval ? now + interval : UINT64_MAX;
    struct epoll_event signal_event = {.events = EPOLLIN};
    epoll_ctl(idle->epoll_fd, EPOLL_CTL_ADD, idle->signal_fd, &signal_event);
    for (; now < end; now = clock_now()) {
        if (now >= next_heartbeat) {
            idle_heartbeats(idle);
            next_heartbeat += interval;
        }
        uint64_t until = next_heartbeat < end ? next_heartbeat : end;
        struct epoll_event events[EVENTS_MAX];
        int n =
            epoll_wait(idle->epoll_fd, events, EVENTS_MAX, (int)((until - now) / NS_PER_MS) + 1);
        for (int i = 0; i < n; i++) {
            if (!events[i].data.ptr)
                return; /* interrupted */
            idle_input(idle, events[i].data.ptr);
        }
    }
}

static void
idle_print(const struct idle *idle, const char *when, double seconds)
{
    const char *format = idle->options->json
                             ? "{\"state\":\"%s\",\"connections\":%llu,\"seconds\":%.3f}\n"
                             : "%s: %llu connections, %.3f s\n";
    printf(format, when, (unsigned long long)atomic_load(&idle->open), seconds);
    fflush(stdout);
}

static void
raise_descriptor_limit(uint64_t connections)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= connections + SPARE_DESCRIPTORS)
        return;
    rlim_t wanted = connections + SPARE_DESCRIPTORS;
    struct rlimit raised = {.rlim_cur = wanted,
                            .rlim_max = wanted > limit.rlim_max ? wanted : limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
        return;
    /* Only the superuser passes the hard limit; if it is too low, opening will say so. */
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int
mode_idle(const struct options *options)
{
    struct idle idle = {.options = options, .mutex = PTHREAD_MUTEX_INITIALIZER};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    raise_descriptor_limit(options->connections);
    idle.signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    idle.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    idle.connections = calloc(options->connections, sizeof(*idle.connections));
    if (!idle.connections || idle.epoll_fd < 0 || idle.signal_fd < 0) {
        fprintf(stderr, "whippet-perf: %s\n", strerror(errno));
        return 1;
    }
    for (uint64_t i = 0; i < options->connections; i++)
        idle.connections[i].fd = -1;

    uint64_t start = clock_now();
    if (idle_open(&idle) == 0) {
        idle_print(&idle, "open", (double)(clock_now() - start) / 1e9);
        start = clock_now();
        idle_hold(&idle);
        idle_print(&idle, "held", (double)(clock_now() - start) / 1e9);
    }
    if (idle.error[0] != '\0')
        fprintf(stderr, "whippet-perf: %s (%llu of %llu connections are open)\n", idle.error,
                (unsigned long long)atomic_load(&idle.open),
                (unsigned long long)options->connections);
    /* Not one connection.close after the other: that would be load, and this is about its absence.
     */
    for (uint64_t i = 0; i < options->connections; i++)
        connection_fini(&idle.connections[i]);
    free(idle.connections);
    close(idle.epoll_fd);
    close(idle.signal_fd);
    return idle.error[0] != '\0' ? 1 : 0;
}
