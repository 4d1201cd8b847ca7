/* A load test from beginning to end: queues, connections, threads, the measured time, the sums.
 *
 * The main thread only waits: for the clients to be ready, for time to pass, for the last message.
 * All rates are taken over the measured time alone. With --duration that is a window cut out of a
 * stream that is running before and after it; with --messages each kind of event is counted from
 * the start to the last of its kind. */
#include "perf/run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/null_broker.h"
#include "perf/report.h"

enum { READY_TIMEOUT_S = 60 };

/* What the main thread keeps of the course of a run. */
struct course {
    struct run *run;
    int signal_fd;
    bool was_interrupted;
    uint64_t start, measured_from, measured_to;
    struct totals at_start, at_end;
    uint64_t last_line, last_progress; /* of the progress line; of consuming */
    struct totals at_last_line;
};

void
run_notify(struct run *run)
{
    uint64_t one = 1;
    if (write(run->event_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        perror("whippet-perf: eventfd");
}

void
run_fail(struct run *run, const struct client *client)
{
    pthread_mutex_lock(&run->mutex);
    if (run->error[0] == '\0')
        snprintf(run->error, sizeof(run->error), "%s %u: %s",
                 client->is_producer ? "producer" : "consumer", client->index + 1,
                 client->connection.error);
    pthread_mutex_unlock(&run->mutex);
    atomic_store(&run->has_failed, true);
    atomic_store(&run->is_stopping, true);
    run_notify(run);
}

static int
run_error(struct run *run, const char *what, const char *text)
{
    snprintf(run->error, sizeof(run->error), "%s%s%s", what, what[0] ? ": " : "", text);
    return -1;
}

static struct totals
run_totals(const struct run *run)
{
    struct totals totals = {0};
    for (size_t i = 0; i < run->client_count; i++) {
        const struct counters *counters = &run->clients[i].counters;
        totals.published += counter_get(&counters->published);
        totals.confirmed += counter_get(&counters->confirmed);
        totals.nacked += counter_get(&counters->nacked);
        totals.returned += counter_get(&counters->returned);
        totals.consumed += counter_get(&counters->consumed);
        totals.redelivered += counter_get(&counters->redelivered);
        totals.blocked_ns += counter_get(&counters->blocked_ns);
    }
    return totals;
}

/* --- Clients and workers ---------------------------------------------------------------------- */

static int
client_open(struct client *client)
{
    const struct options *options = client->run->options;
    struct connection *connection = &client->connection;
    if (connection_open(connection, &options->uri, 0) < 0
        || connection_open_channel(connection, 1) < 0)
        return -1;
    if (options->latency) {
        client->latency = calloc(1, sizeof(*client->latency));
        if (!client->latency)
            return connection_fail(connection, "out of memory");
    }
    if (client->is_producer)
        return producer_init(client);
    if (options->prefetch) {
        struct wire_reader reply;
        wire_method_begin(&connection->out, 1, BASIC_QOS);
        wire_u32(&connection->out, 0);
        wire_u16(&connection->out, (uint16_t)options->prefetch);
        wire_u8(&connection->out, 0);
        wire_frame_end(&connection->out);
        return connection_call(connection, BASIC_QOS_OK, &reply);
    }
    return 0;
}

static int
clients_open(struct run *run)
{
    const struct options *options = run->options;
    size_t count = options->producers + options->consumers;
    /* The counters want a cache line of their own. */
    run->clients = aligned_alloc(_Alignof(struct client), count * sizeof(*run->clients));
    if (!run->clients)
        return run_error(run, "", "out of memory");
    memset(run->clients, 0, count * sizeof(*run->clients));
    for (size_t i = 0; i < count; i++) {
        struct client *client = &run->clients[i];
        client->run = run;
        client->is_producer = i < options->producers;
        client->index = (uint32_t)(client->is_producer ? i : i - options->producers);
        client->connection.fd = -1;
        run->client_count++;
        if (client_open(client) < 0)
            return run_error(run, client->is_producer ? "producer" : "consumer",
                             client->connection.error);
    }
    return 0;
}

static int
worker_init(struct worker *worker)
{
    worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    if (worker->epoll_fd < 0 || worker->wake_fd < 0
        || epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->wake_fd, &event) < 0)
        return -1;
    errno = pthread_create(&worker->thread, NULL, worker_main, worker);
    return errno ? -1 : 0;
}

/* Producers and consumers are dealt out separately, so that every thread gets its share of both. */
static int
workers_start(struct run *run)
{
    size_t count =
        run->options->threads < run->client_count ? run->options->threads : run->client_count;
    run->workers = calloc(count, sizeof(*run->workers));
    if (!run->workers)
        return run_error(run, "", "out of memory");
    size_t share = run->client_count / count + 1;
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &run->workers[i];
        worker->run = run;
        worker->clients = calloc(share, sizeof(*worker->clients));
        if (!worker->clients)
            return run_error(run, "", "out of memory");
        for (size_t c = i; c < run->client_count; c += count)
            worker->clients[worker->client_count++] = &run->clients[c];
    }
    for (size_t i = 0; i < count; i++) {
        if (worker_init(&run->workers[i]) < 0)
            return run_error(run, "cannot start a thread", strerror(errno));
        run->worker_count++;
    }
    return 0;
}

static void
workers_wake(struct run *run)
{
    for (size_t i = 0; i < run->worker_count; i++) {
        uint64_t one = 1;
        if (write(run->workers[i].wake_fd, &one, sizeof(one)) < 0)
            perror("whippet-perf: eventfd");
    }
}

static void
workers_join(struct run *run)
{
    atomic_store(&run->is_stopping, true);
    workers_wake(run);
    for (size_t i = 0; i < run->worker_count; i++)
        pthread_join(run->workers[i].thread, NULL);
}

static void
clients_close(struct run *run)
{
    for (size_t i = 0; i < run->client_count; i++) {
        struct client *client = &run->clients[i];
        if (client->is_producer)
            producer_stop(client);
        else
            consumer_stop(client);
        connection_close(&client->connection);
    }
}

static void
run_free(struct run *run)
{
    for (size_t i = 0; i < run->client_count; i++) {
        struct client *client = &run->clients[i];
        producer_fini(client);
        connection_fini(&client->connection);
        free(client->latency);
    }
    for (size_t i = 0; i < run->worker_count; i++) {
        close(run->workers[i].epoll_fd);
        close(run->workers[i].wake_fd);
        free(run->workers[i].clients);
    }
    free(run->workers);
    free(run->clients);
}

/* --- The course of a run ---------------------------------------------------------------------- */

/* Waits until something happens or the time has come. */
static void
course_wait(struct course *course, uint64_t until)
{
    struct pollfd entries[2] = {{.fd = course->run->event_fd, .events = POLLIN},
                                {.fd = course->signal_fd, .events = POLLIN}};
    uint64_t now = clock_now();
    uint64_t left = until > now ? until - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / NS_PER_SECOND),
                               .tv_nsec = (long)(left % NS_PER_SECOND)};
    if (ppoll(entries, 2, &timeout, NULL) <= 0)
        return;
    uint64_t count;
    if ((entries[0].revents & POLLIN) && read(course->run->event_fd, &count, sizeof(count)) < 0)
        perror("whippet-perf: eventfd");
    struct signalfd_siginfo info;
    if ((entries[1].revents & POLLIN) && read(course->signal_fd, &info, sizeof(info)) > 0)
        course->was_interrupted = true;
}

/* Waits for the subscriptions. */
static int
course_await_ready(struct course *course)
{
    struct run *run = course->run;
    uint64_t deadline = clock_now() + READY_TIMEOUT_S * NS_PER_SECOND;
    while (atomic_load(&run->ready) < run->options->consumers) {
        if (atomic_load(&run->has_failed) || course->was_interrupted)
            return -1;
        if (clock_now() >= deadline)
            return run_error(run, "", "the broker does not answer basic.consume");
        course_wait(course, deadline);
    }
    return 0;
}

static void
course_progress(struct course *course, uint64_t now)
{
    struct totals totals = run_totals(course->run);
    if (totals.consumed != course->at_last_line.consumed)
        course->last_progress = now;
    report_progress(course->run->options, (double)(now - course->start) / 1e9, &totals,
                    &course->at_last_line, (double)(now - course->last_line) / 1e9);
    course->at_last_line = totals;
    course->last_line = now;
}

/* With --messages: how many deliveries end the run, once that is known. */
static uint64_t
expected_deliveries(const struct run *run)
{
    const struct options *options = run->options;
    struct totals totals = run_totals(run);
    if (options->consumers == 0)
        return 0;
    if (options->producers == 0)
        return options->messages;
    uint64_t copies = run->topology.copies ? run->topology.copies : 1;
    return (options->messages - totals.nacked) * copies + run->topology.messages_before;
}

static bool
course_is_complete(struct course *course, uint64_t now)
{
    struct run *run = course->run;
    const struct options *options = run->options;
    if (atomic_load(&run->has_failed) || course->was_interrupted)
        return true;
    if (options->messages == 0)
        return now >= course->measured_to;
    if (options->duration > 0 && now >= course->measured_to)
        return true;
    if (atomic_load(&run->producers_finished) < options->producers)
        return false;
    uint64_t expected = expected_deliveries(run);
    atomic_store(&run->target, expected);
    if (run_totals(run).consumed >= expected)
        return true;
    return now - course->last_progress >= (uint64_t)(options->drain_timeout * 1e9);
}

static void
course_begin(struct course *course)
{
    struct run *run = course->run;
    const struct options *options = run->options;
    uint64_t now = clock_now();
    course->start = course->last_line = course->last_progress = now;
    course->measured_from = now + (uint64_t)(options->warmup * 1e9);
    course->measured_to = course->measured_from + (uint64_t)(options->duration * 1e9);
    atomic_store(&run->target, options->messages ? expected_deliveries(run) : UINT64_MAX);
    atomic_store(&run->measure_from_ns, course->measured_from);
    atomic_store_explicit(&run->start_ns, now, memory_order_release);
    workers_wake(run);
}

/* From the start to the end of the measured time. */
static void
course_follow(struct course *course)
{
    struct run *run = course->run;
    bool is_measuring = run->options->warmup <= 0;
    for (;;) {
        uint64_t now = clock_now();
        if (!is_measuring && now >= course->measured_from) {
            course->measured_from = now;
            course->at_start = run_totals(run);
            is_measuring = true;
        }
        if (now >= course->last_line + NS_PER_SECOND)
            course_progress(course, now);
        if (course_is_complete(course, now))
            break;
        uint64_t until = course->last_line + NS_PER_SECOND;
        if (!is_measuring && course->measured_from < until)
            until = course->measured_from;
        if (run->options->duration > 0 && course->measured_to < until)
            until = course->measured_to;
        course_wait(course, until);
    }
    course->measured_to = clock_now();
    course->at_end = run_totals(run);
}

/* --- The result ------------------------------------------------------------------------------- */

/* From the start to the last event of a kind, in seconds. */
static double
seconds_until(const struct course *course, uint64_t last_event)
{
    uint64_t end = last_event > course->start ? last_event : course->measured_to;
    return (double)(end - course->start) / 1e9;
}

static void
result_times(const struct course *course, struct result *result)
{
    const struct run *run = course->run;
    double window = (double)(course->measured_to - course->measured_from) / 1e9;
    result->published_seconds = result->confirmed_seconds = result->consumed_seconds = window;
    if (run->options->messages == 0)
        return;
    uint64_t published = 0, confirmed = 0, consumed = 0;
    for (size_t i = 0; i < run->client_count; i++) {
        const struct counters *counters = &run->clients[i].counters;
        uint64_t at[] = {counter_get(&counters->last_published_ns),
                         counter_get(&counters->last_confirmed_ns),
                         counter_get(&counters->last_consumed_ns)};
        published = at[0] > published ? at[0] : published;
        confirmed = at[1] > confirmed ? at[1] : confirmed;
        consumed = at[2] > consumed ? at[2] : consumed;
    }
    result->published_seconds = seconds_until(course, published);
    result->confirmed_seconds = seconds_until(course, confirmed);
    result->consumed_seconds = seconds_until(course, consumed);
}

/* Compares what was consumed with what was published, where both are known. */
static void
result_losses(const struct course *course, struct result *result)
{
    const struct run *run = course->run;
    const struct options *options = run->options;
    const struct topology *topology = &run->topology;
    if (options->messages == 0 || options->producers == 0 || options->consumers == 0
        || topology->copies == 0 || options->null_broker)
        return;
    uint64_t expected = (course->at_end.published - course->at_end.nacked) * topology->copies
                        + topology->messages_before;
    uint64_t consumed = course->at_end.consumed;
    result->knows_lost = true;
    result->lost = expected > consumed ? expected - consumed : 0;
    result->surplus = consumed > expected ? consumed - expected : 0;

    uint64_t sent = 0, received = 0, unstamped = 0;
    for (size_t i = 0; i < run->client_count; i++) {
        const struct counters *counters = &run->clients[i].counters;
        *(run->clients[i].is_producer ? &sent : &received) += counter_get(&counters->checksum);
        unstamped += counter_get(&counters->unstamped);
    }
    result->is_verified = expected == consumed && course->at_end.nacked == 0 && unstamped == 0
                          && topology->messages_before == 0 && sent * topology->copies == received;
}

/* The client's own cost. Threads that serve both kinds cannot tell which of them it was for. */
static void
result_cost(const struct course *course, struct result *result)
{
    const struct run *run = course->run;
    struct totals totals = run_totals(run);
    uint64_t publish = 0, consume = 0;
    for (size_t i = 0; i < run->worker_count; i++) {
        const struct worker *worker = &run->workers[i];
        bool first = worker->clients[0]->is_producer;
        for (size_t c = 1; c < worker->client_count; c++) {
            if (worker->clients[c]->is_producer != first)
                return;
        }
        *(first ? &publish : &consume) += worker->cpu_ns;
    }
    if (totals.published)
        result->publish_cpu_ns = (double)publish / (double)totals.published;
    if (totals.consumed)
        result->consume_cpu_ns = (double)consume / (double)totals.consumed;
}

static void
course_result(const struct course *course, struct result *result)
{
    const struct run *run = course->run;
    const struct totals *end = &course->at_end, *start = &course->at_start;
    result->counted = (struct totals){
        .published = end->published - start->published,
        .confirmed = end->confirmed - start->confirmed,
        .nacked = end->nacked - start->nacked,
        .returned = end->returned - start->returned,
        .consumed = end->consumed - start->consumed,
        .redelivered = end->redelivered - start->redelivered,
        .blocked_ns = run_totals(run).blocked_ns,
    };
    result->was_interrupted = course->was_interrupted;
    result_times(course, result);
    result_losses(course, result);
    result_cost(course, result);
    for (size_t i = 0; i < run->client_count; i++) {
        const struct client *client = &run->clients[i];
        if (client->latency)
            histogram_add(client->is_producer ? &result->confirm_latency : &result->latency,
                          client->latency);
    }
}

/* --- All of it -------------------------------------------------------------------------------- */

/* Opens, runs, closes. 0 with the result, or -1 with run->error. */
static int
run_execute(struct course *course, struct result *result)
{
    struct run *run = course->run;
    int status = -1;
    if (clients_open(run) == 0 && workers_start(run) == 0) {
        if (run->options->producers == 0)
            course_begin(course); /* what is consumed from the first subscription on counts */
        if (course_await_ready(course) == 0) {
            if (run->options->producers != 0)
                course_begin(course);
            course_follow(course);
            status = atomic_load(&run->has_failed) ? -1 : 0;
        }
    }
    workers_join(run);
    clients_close(run);
    if (status == 0)
        course_result(course, result);
    return status;
}

static int
run_with_control(struct course *course, struct connection *control, struct result *result)
{
    struct run *run = course->run;
    if (connection_open(control, &run->options->uri, 0) < 0
        || topology_make(&run->topology, run->options, control) < 0)
        return run_error(run, "", control->error);
    int status = run_execute(course, result);
    run_free(run);
    if (topology_remove(&run->topology, control) < 0 && status == 0)
        status = run_error(run, "cleaning up", control->error);
    connection_close(control);
    return status;
}

/* Interrupts end the measurement, not the program: they are read from a descriptor. */
static int
signals_init(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

int
run_load(const struct options *given)
{
    static struct result result; /* the histograms are large for a stack */
    struct options options = *given;
    if (options.null_broker) {
        uint16_t port;
        if (null_broker_start(options.size, &port) < 0) {
            perror("whippet-perf: null broker");
            return 1;
        }
        snprintf(options.uri.host, sizeof(options.uri.host), "127.0.0.1");
        snprintf(options.uri.port, sizeof(options.uri.port), "%u", port);
    }
    struct run run = {.options = &options, .mutex = PTHREAD_MUTEX_INITIALIZER};
    struct course course = {.run = &run, .signal_fd = signals_init()};
    struct connection control = {.fd = -1};
    run.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run.event_fd < 0 || course.signal_fd < 0) {
        perror("whippet-perf");
        return 1;
    }
    int status = run_with_control(&course, &control, &result);
    connection_fini(&control);
    close(run.event_fd);
    close(course.signal_fd);
    if (status < 0) {
        if (course.was_interrupted && run.error[0] == '\0')
            snprintf(run.error, sizeof(run.error), "interrupted");
        fprintf(stderr, "whippet-perf: %s\n", run.error);
        return 1;
    }
    report_result(&options, &result);
    return result.knows_lost && (result.lost || result.surplus) ? 1 : 0;
}
