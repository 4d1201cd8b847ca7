/* Workers: see the header. */
#include "server/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/supervisor.h"
#include "session/channel.h"

/* --- Handing connections over ----------------------------------------------------------------- */

static void
hand_over(struct worker *worker, int fd, const struct address *peer, struct tls_context *tls)
{
    struct handover *handover = malloc(sizeof(*handover));
    if (handover == NULL) {
        close(fd);
        return;
    }
    handover->fd = fd;
    handover->peer = *peer;
    handover->tls = tls != NULL ? tls_context_ref(tls) : NULL;
    handover->next = atomic_load_explicit(&worker->handovers, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&worker->handovers, &handover->next, handover,
                                                  memory_order_release, memory_order_relaxed))
        continue;
    loop_wake(&worker->loop);
}

/* Takes what was handed over, the oldest first. */
static struct handover *
pop_handovers(struct worker *worker)
{
    struct handover *stack =
        atomic_exchange_explicit(&worker->handovers, NULL, memory_order_acquire);
    struct handover *oldest = NULL;
    while (stack != NULL) {
        struct handover *next = stack->next;
        stack->next = oldest;
        oldest = stack;
        stack = next;
    }
    return oldest;
}

static void
take_handovers(struct worker *worker)
{
    if (atomic_load_explicit(&worker->handovers, memory_order_relaxed) == NULL)
        return;
    struct handover *handover = pop_handovers(worker);
    while (handover != NULL) {
        struct handover *next = handover->next;
        if (worker->is_stopping)
            close(handover->fd);
        else
            session_accept(&worker->host, handover->fd, &handover->peer, handover->tls);
        tls_context_unref(handover->tls);
        free(handover);
        handover = next;
    }
}

/* Those that came when their worker had stopped already. */
static void
drop_handovers(struct worker *worker)
{
    worker->is_stopping = true;
    take_handovers(worker);
}

static void
accept_with(void *context, int fd, const struct address *peer, struct tls_context *tls)
{
    struct server *server = context;
    struct worker *fewest = &server->workers[0];
    for (uint32_t i = 1; i < server->worker_count; i++) {
        struct worker *worker = &server->workers[i];
        if (atomic_load_explicit(&worker->host.connection_count, memory_order_relaxed)
            < atomic_load_explicit(&fewest->host.connection_count, memory_order_relaxed))
            fewest = worker;
    }
    if (fewest == &server->workers[0])
        session_accept(&fewest->host, fd, peer, tls);
    else
        hand_over(fewest, fd, peer, tls);
}

static void
on_accept(struct listener *listener, int fd, const struct address *peer)
{
    struct server *server = listener->context;
    proxy_gate_accept(&server->proxies, fd, peer, NULL,
                      server->workers[0].host.limits.handshake_ms);
}

static void
on_accept_tls(struct listener *listener, int fd, const struct address *peer)
{
    struct server *server = listener->context;
    proxy_gate_accept(&server->proxies, fd, peer, server->tls,
                      server->workers[0].host.limits.handshake_ms);
}

/* --- Pressure --------------------------------------------------------------------------------- */

static void
wake_all(struct server *server)
{
    for (uint32_t i = 0; i < server->worker_count; i++)
        loop_wake(&server->workers[i].loop);
}

/* While something is short, somebody has to look whether it still is, even if nothing happens. */
static void
on_pressure_timer(struct timer *timer, int64_t now_ms)
{
    struct server *server = CONTAINER_OF(timer, struct server, pressure_timer);
    (void)now_ms;
    if (pressure_look(&server->pressure))
        wake_all(server);
}

/* The turn that it makes looks again whether the log is still busy. */
static void
on_journal_timer(struct timer *timer, int64_t now_ms)
{
    (void)timer;
    (void)now_ms;
}

/* The pressure of now, for the worker's connections and queues. Whether what waited for the log can
 * go on. */
static bool
feel_pressure(struct worker *worker)
{
    struct server *server = worker->server;
    pressure_share(&server->pressure, worker->shard, server->worker_count);
    if (pressure_look(&server->pressure))
        wake_all(server);
    uint32_t reasons = atomic_load_explicit(&server->pressure.reasons, memory_order_acquire);
    if (UNLIKELY(reasons != worker->host.pressure))
        session_host_press(&worker->host, reasons);
    if (UNLIKELY(reasons != 0) && worker == &server->workers[0]
        && !timer_is_set(&server->pressure_timer))
        wheel_set(&worker->shard->wheel, &server->pressure_timer,
                  worker->shard->now_ms + PRESSURE_LOOK_MS);
    bool was_short = worker->shard->journal_is_short;
    worker->shard->journal_is_short = pressure_is_log_busy(&server->pressure);
    if (UNLIKELY(worker->shard->journal_is_short) && shard_waits_for_journal(worker->shard)
        && !timer_is_set(&worker->journal_timer))
        wheel_set(&worker->shard->wheel, &worker->journal_timer,
                  worker->shard->now_ms + PRESSURE_LOG_LOOK_MS);
    return was_short && !worker->shard->journal_is_short;
}

/* --- Reading the configuration again ---------------------------------------------------------- */

void
server_ask_reload(struct server *server)
{
    atomic_store_explicit(&server->is_reload_asked, true, memory_order_release);
    loop_wake(&server->workers[0].loop);
}

static bool
is_reload_due(const struct worker *worker)
{
    return atomic_load_explicit(&worker->server->is_reload_asked, memory_order_acquire)
           && worker == &worker->server->workers[0];
}

static void
reload(struct worker *worker)
{
    struct server *server = worker->server;
    atomic_store_explicit(&server->is_reload_asked, false, memory_order_relaxed);
    if (server->on_reload != NULL)
        server->on_reload(server->reload_context);
}

void
server_set_limits(struct server *server, const struct session_limits *limits)
{
    pthread_mutex_lock(&server->limits_lock);
    server->limits = *limits;
    atomic_fetch_add_explicit(&server->limits_version, 1, memory_order_release);
    pthread_mutex_unlock(&server->limits_lock);
    wake_all(server);
}

static bool
has_new_limits(const struct worker *worker)
{
    return atomic_load_explicit(&worker->server->limits_version, memory_order_acquire)
           != worker->limits_version;
}

static void
take_limits(struct worker *worker)
{
    struct server *server = worker->server;
    pthread_mutex_lock(&server->limits_lock);
    struct session_limits limits = server->limits;
    worker->limits_version = atomic_load_explicit(&server->limits_version, memory_order_relaxed);
    pthread_mutex_unlock(&server->limits_lock);
    int status = session_host_set_limits(&worker->host, &limits);
    if (status != 0)
        log_error("limits cannot be changed", LOG_ERRNO("reason", status));
}

/* --- Work for other threads ------------------------------------------------------------------- */

static bool
has_tasks(const struct worker *worker)
{
    return tasks_has_any(&worker->server->tasks) && worker == &worker->server->workers[0];
}

static void
wake(void *context)
{
    struct worker *worker = context;
    loop_wake(&worker->loop);
}

int
server_call(struct server *server, void (*run)(void *context), void *context)
{
    return tasks_call(&server->tasks, run, context, wake, &server->workers[0]);
}

/* --- The turn --------------------------------------------------------------------------------- */

static bool
has_mail(void *context)
{
    struct worker *worker = context;
    return shard_has_mail(worker->shard)
           || atomic_load_explicit(&worker->handovers, memory_order_acquire) != NULL
           || session_host_has_durable(&worker->host) || session_host_has_logins(&worker->host)
           || session_host_has_evictions(&worker->host)
           || atomic_load_explicit(&worker->server->pressure.reasons, memory_order_acquire)
                  != worker->host.pressure
           || pressure_is_stale(&worker->server->pressure) || has_new_limits(worker)
           || is_reload_due(worker) || has_tasks(worker)
           || (!worker->is_stopping
               && atomic_load_explicit(&worker->server->is_stopping, memory_order_acquire));
}

static void
read_clock(struct worker *worker)
{
    shard_set_time(worker->shard, clock_monotonic_ms(), clock_wall_ms());
}

/* Before sockets are read. */
static void
woke(void *context)
{
    struct worker *worker = context;
    read_clock(worker);
    shard_receive(worker->shard);
}

/* What this turn did goes to the log, and after it to other shards, so that nobody settles a
 * message of which the log has not heard. */
static void
hand_on(struct worker *worker)
{
    session_host_submit(&worker->host);
    shard_flush(worker->shard);
}

static int
sleep_ms(const struct worker *worker, bool has_more)
{
    if (has_more)
        return 0;
    int64_t due_ms = wheel_next_due(&worker->shard->wheel);
    if (worker->is_stopping && worker->stop_by_ms < due_ms)
        due_ms = worker->stop_by_ms;
    if (due_ms == INT64_MAX)
        return -1;
    int64_t left_ms = due_ms - clock_monotonic_ms();
    return left_ms <= 0 ? 0 : left_ms > 60 * 60 * 1000 ? 60 * 60 * 1000 : (int)left_ms;
}

static void
begin_stop(struct worker *worker)
{
    struct server *server = worker->server;
    worker->is_stopping = true;
    worker->stop_by_ms = worker->shard->now_ms + STOP_TIMEOUT_MS;
    if (worker == &server->workers[0]) {
        supervisor_tell("STOPPING=1");
        for (uint32_t i = 0; i < server->listener_count; i++)
            listener_close(&server->listeners[i]);
        proxy_gate_fini(&server->proxies);
    }
    session_host_shutdown(&worker->host);
}

static bool
is_finished(const struct worker *worker)
{
    return worker->is_stopping
           && (atomic_load_explicit(&worker->host.connection_count, memory_order_relaxed) == 0
               || worker->shard->now_ms >= worker->stop_by_ms);
}

static void
run(struct worker *worker)
{
    for (;;) {
        uint32_t turns = atomic_load_explicit(&worker->turns, memory_order_relaxed);
        atomic_store_explicit(&worker->turns, turns + 1, memory_order_relaxed);
        if (!worker->is_stopping
            && atomic_load_explicit(&worker->server->is_stopping, memory_order_acquire))
            begin_stop(worker);
        if (UNLIKELY(is_reload_due(worker)))
            reload(worker);
        if (UNLIKELY(has_tasks(worker)))
            tasks_run(&worker->server->tasks);
        if (UNLIKELY(has_new_limits(worker)))
            take_limits(worker);
        session_host_durable(&worker->host);
        take_handovers(worker);
        session_host_login(&worker->host);
        session_host_evict(&worker->host);
        bool has_more = shard_run(worker->shard);
        has_more |= feel_pressure(worker);
        hand_on(worker); /* first, as clients are about to be told that it is done */
        has_more |= session_host_flush(&worker->host);
        hand_on(worker);
        if (is_finished(worker))
            return;
        int status = loop_wait(&worker->loop, sleep_ms(worker, has_more));
        if (status < 0 && status != -EINTR) {
            log_error("waiting for sockets failed", LOG_ERRNO("reason", status));
            abort();
        }
    }
}

static void *
run_thread(void *context)
{
    const struct worker *worker = context;
    char name[16];
    snprintf(name, sizeof(name), "worker-%u", (unsigned)(worker - worker->server->workers));
    (void)pthread_setname_np(pthread_self(), name); /* for top(1) and the like */
    run(context);
    return NULL;
}

/* --- Vhosts and users that go ----------------------------------------------------------------- */

static void
wake_for_deletion(void *context)
{
    wake_all(context);
}

int
server_remove_vhost(struct server *server, struct slice name)
{
    int status = shard_remove_vhost(server->workers[0].shard, name);
    if (status == 0)
        status = access_vhost_deleted(server->access, name);
    wake_all(server);
    return status;
}

/* --- The server ------------------------------------------------------------------------------- */

int
server_init(struct server *server, uint32_t threads, uint64_t memory_max,
            const struct session_limits *limits)
{
    *server = (struct server){0};
    pressure_init(&server->pressure, memory_max);
    admission_init(&server->admission);
    timer_init(&server->pressure_timer, on_pressure_timer);
    pthread_mutex_init(&server->limits_lock, NULL);
    tasks_init(&server->tasks);
    server->limits = *limits;
    server->broker = broker_new(threads);
    server->workers = calloc(threads, sizeof(*server->workers));
    server->access = access_new();
    server->logins = server->access == NULL ? NULL : login_service_new(server->access);
    if (server->broker == NULL || server->workers == NULL || server->logins == NULL)
        return -ENOMEM;
    access_on_deletion(server->access, wake_for_deletion, server);
    for (uint32_t i = 0; i < threads; i++) {
        struct worker *worker = &server->workers[i];
        worker->server = server;
        worker->shard = server->broker->shards[i];
        timer_init(&worker->journal_timer, on_journal_timer);
        int status = loop_init(&worker->loop, has_mail, worker);
        if (status != 0)
            return status;
        server->worker_count++;
        worker->loop.woke = woke;
        if (session_host_init(&worker->host, worker->shard, &worker->loop, limits,
                              &server->admission, server->access, server->logins)
            != 0)
            return -ENOMEM;
        worker->has_host = true;
        read_clock(worker);
        shard_set_host(worker->shard, (struct client_ops){.receive = channel_receive}, wake,
                       worker);
    }
    proxy_gate_init(&server->proxies, &server->workers[0].loop, &server->workers[0].shard->wheel,
                    accept_with, server);
    return 0;
}

/* The place for one more listener; NULL with the text when there are too many. */
static struct listener *
next_listener(struct server *server, char error[ADDRESS_ERROR_MAX])
{
    if (server->listener_count < WORKER_LISTENERS_MAX)
        return &server->listeners[server->listener_count];
    snprintf(error, ADDRESS_ERROR_MAX, "more than %d listening sockets", WORKER_LISTENERS_MAX);
    return NULL;
}

int
server_listen(struct server *server, const char *address, bool is_tls,
              char error[ADDRESS_ERROR_MAX])
{
    struct listener *listener = next_listener(server, error);
    if (listener == NULL
        || listener_open(listener, address, is_tls ? on_accept_tls : on_accept, error) != 0)
        return -1;
    listener->context = server;
    server->listener_count++;
    return 0;
}

int
server_adopt(struct server *server, int fd, bool is_tls, char error[ADDRESS_ERROR_MAX])
{
    if (is_tls && server->tls == NULL) {
        snprintf(error, ADDRESS_ERROR_MAX,
                 "a socket for TLS was handed over, but no certificate "
                 "is configured");
        return -1;
    }
    struct listener *listener = next_listener(server, error);
    if (listener == NULL
        || listener_adopt(listener, fd, is_tls ? on_accept_tls : on_accept, error) != 0)
        return -1;
    listener->context = server;
    server->listener_count++;
    return 0;
}

bool
server_listener_is_tls(const struct listener *listener)
{
    return listener->on_accept == on_accept_tls;
}

int
server_tls_reload(struct server *server, const struct tls_options *options,
                  char error[TLS_ERROR_MAX])
{
    struct tls_context *context;
    if (tls_context_new(&context, options, error) != 0)
        return -1;
    tls_context_unref(server->tls);
    server->tls = context;
    return 0;
}

int
server_run(struct server *server)
{
    int status = 0;
    sigset_t none;
    sigemptyset(&none);
    status = login_service_start(server->logins);
    for (uint32_t i = 1; i < server->worker_count && status == 0; i++) {
        status = -pthread_create(&server->workers[i].thread, NULL, run_thread, &server->workers[i]);
        server->workers[i].is_started = status == 0;
    }
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    for (uint32_t i = 0; i < server->listener_count && status == 0; i++)
        status = listener_start(&server->listeners[i], &server->workers[0].loop,
                                &server->workers[0].shard->wheel);
    if (status == 0)
        run(&server->workers[0]);
    else
        server_stop(server);
    tasks_close(&server->tasks);
    for (uint32_t i = 1; i < server->worker_count; i++)
        if (server->workers[i].is_started)
            pthread_join(server->workers[i].thread, NULL);
    return status;
}

void
server_stop(struct server *server)
{
    atomic_store_explicit(&server->is_stopping, true, memory_order_release);
    wake_all(server);
}

void
server_end_sessions(struct server *server)
{
    for (uint32_t i = 0; i < server->listener_count; i++)
        listener_close(&server->listeners[i]);
    server->listener_count = 0;
    if (server->worker_count > 0)
        proxy_gate_fini(&server->proxies);
    for (uint32_t i = 0; i < server->worker_count; i++) {
        if (server->workers[i].has_host)
            session_host_end(&server->workers[i].host);
        shard_flush(server->workers[i].shard);
    }
    /* What the sessions gave back is for queues of other shards, too: mail goes to and fro until
     * all is where it belongs. */
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < server->worker_count; i++) {
            (void)shard_run(server->workers[i].shard);
            shard_bury(server->workers[i].shard);
            session_host_submit(&server->workers[i].host);
            shard_flush(server->workers[i].shard);
        }
    }
}

void
server_fini(struct server *server)
{
    server_end_sessions(server);
    login_service_free(server->logins); /* before the hosts, to whom it answers */
    for (uint32_t i = 0; i < server->worker_count; i++)
        if (server->workers[i].has_host)
            session_host_fini(&server->workers[i].host);
    if (server->broker != NULL)
        broker_free(server->broker);
    for (uint32_t i = 0; i < server->worker_count; i++)
        loop_fini(&server->workers[i].loop);
    for (uint32_t i = 0; i < server->worker_count; i++)
        drop_handovers(&server->workers[i]);
    tls_context_unref(server->tls);
    if (server->access != NULL)
        access_free(server->access);
    admission_fini(&server->admission);
    free(server->workers);
    tasks_fini(&server->tasks);
    pthread_mutex_destroy(&server->limits_lock);
}
