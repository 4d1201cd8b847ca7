/* The thread that serves some of a run's connections.
 *
 * With several connections it waits in epoll for whichever is ready. With a single one that has
 * nothing to send and no schedule, it waits in recv itself, which is what an ordinary client does
 * and costs one system call instead of two. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/run.h"

enum {
    INPUT_CAPACITY = 512 << 10, /* read at once: several frames of the greatest size */
    OUTPUT_LIMIT = 1 << 20,     /* acknowledgements the broker does not take: stop reading */
    EVENTS_MAX = 64,
    RECEIVE_TIMEOUT_US = 100000, /* how late a thread in recv notices the end of the run */
};

static void
worker_interest(struct worker *worker, struct client *client)
{
    size_t unsent = client->connection.out.size - client->connection.out_sent;
    uint32_t events =
        (client->wants_output ? EPOLLOUT : 0u) | (unsent < OUTPUT_LIMIT ? EPOLLIN : 0u);
    if (events == client->interest)
        return;
    struct epoll_event event = {.events = events, .data.ptr = client};
    int operation = client->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(worker->epoll_fd, operation, client->connection.fd, &event) < 0) {
        connection_fail(&client->connection, "epoll_ctl: %s", strerror(errno));
        run_fail(worker->run, client);
    }
    client->interest = events;
}

void
client_flush(struct client *client)
{
    struct connection *connection = &client->connection;
    if (connection->out.size == connection->out_sent)
        return;
    int status = client->is_producer ? producer_finish_batch(client) : 1;
    if (status > 0)
        status = connection_flush(connection);
    if (status < 0)
        run_fail(client->run, client);
    client->wants_output = status == 0;
}

/* Reads once and handles it. */
static void
client_input(struct client *client, bool wait)
{
    ssize_t n = connection_receive(&client->connection, wait);
    if (n == 0)
        return;
    uint64_t now = clock_now();
    int status = n < 0 ? -1 : 0;
    if (status == 0)
        status = client->is_producer ? producer_input(client, now) : consumer_input(client, now);
    if (status < 0)
        run_fail(client->run, client);
    client_flush(client);
}

/* Lets the producers send. Returns when the next of them wants to (0: at once). */
static uint64_t
worker_produce(struct worker *worker)
{
    uint64_t earliest = UINT64_MAX;
    if (atomic_load_explicit(&worker->run->start_ns, memory_order_acquire) == 0)
        return earliest;
    for (size_t i = 0; i < worker->client_count; i++) {
        struct client *client = worker->clients[i];
        if (!client->is_producer || client->wants_output || client->is_finished)
            continue;
        uint64_t again = producer_step(client, clock_now());
        if (client->connection.error[0] != '\0')
            run_fail(worker->run, client);
        earliest = again < earliest ? again : earliest;
    }
    return earliest;
}

/* epoll_wait with a time-out in nanoseconds; NULL: none. musl has no epoll_pwait2. */
static int
wait_for_events(int epoll_fd, struct epoll_event *events, const struct timespec *timeout)
{
#ifdef HAVE_EPOLL_PWAIT2
    return epoll_pwait2(epoll_fd, events, EVENTS_MAX, timeout, NULL);
#else
    struct pollfd ready = {.fd = epoll_fd, .events = POLLIN};
    int n = ppoll(&ready, 1, timeout, NULL);
    return n <= 0 ? n : epoll_wait(epoll_fd, events, EVENTS_MAX, 0);
#endif
}

/* Waits for events until the given time. */
static void
worker_wait(struct worker *worker, uint64_t until)
{
    struct epoll_event events[EVENTS_MAX];
    struct timespec timeout = {0};
    if (until != 0 && until != UINT64_MAX) {
        uint64_t now = clock_now();
        uint64_t left = until > now ? until - now : 0;
        timeout.tv_sec = (time_t)(left / NS_PER_SECOND);
        timeout.tv_nsec = (long)(left % NS_PER_SECOND);
    }
    int n = wait_for_events(worker->epoll_fd, events, until == UINT64_MAX ? NULL : &timeout);
    for (int i = 0; i < n; i++) {
        struct client *client = events[i].data.ptr;
        if (!client) {
            uint64_t count;
            if (read(worker->wake_fd, &count, sizeof(count)) < 0)
                continue; /* nothing to learn from it: it only wakes */
            continue;
        }
        if (events[i].events & EPOLLOUT) {
            client->wants_output = false;
            client_flush(client);
        }
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            client_input(client, false);
    }
}

/* Whether the only connection can only go on when something arrives. */
static bool
may_wait_in_recv(const struct worker *worker, uint64_t again)
{
    return worker->client_count == 1 && again == UINT64_MAX && !worker->clients[0]->wants_output
           && !worker->clients[0]->is_finished
           && atomic_load_explicit(&worker->run->start_ns, memory_order_relaxed) != 0;
}

static void
worker_start(struct worker *worker)
{
    prctl(PR_SET_TIMERSLACK, 1UL); /* schedules to the nanosecond, not to 50 us */
    struct timeval timeout = {.tv_usec = RECEIVE_TIMEOUT_US};
    for (size_t i = 0; i < worker->client_count; i++) {
        struct client *client = worker->clients[i];
        setsockopt(client->connection.fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
        connection_reserve(&client->connection, INPUT_CAPACITY);
        if (!client->is_producer) {
            consumer_subscribe(client);
            client_flush(client);
        }
        worker_interest(worker, client);
    }
}

void *
worker_main(void *argument)
{
    struct worker *worker = argument;
    struct run *run = worker->run;
    uint64_t cpu_before = clock_thread_cpu();
    worker_start(worker);
    while (!atomic_load_explicit(&run->is_stopping, memory_order_relaxed)) {
        uint64_t again = worker_produce(worker);
        if (may_wait_in_recv(worker, again)) {
            client_input(worker->clients[0], true);
        } else {
            for (size_t i = 0; i < worker->client_count; i++)
                worker_interest(worker, worker->clients[i]);
            worker_wait(worker, again);
        }
    }
    worker->cpu_ns = clock_thread_cpu() - cpu_before;
    return NULL;
}
