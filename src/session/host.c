/* A thread's connections together: the end of its turn, pressure, who may stay.
 *
 * Connections with something to do are in the host's list of dirty ones; the end of the turn goes
 * on with their input, sends their confirms and output, and frees those that have ended. */
#include "session/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "session/channel.h"
#include "session/login.h"
#include "session/permission.h"
#include "store/definitions.h"

/* While publishers wait, so much beyond the contents that a connection has begun is read. */
enum { FINISH_SLACK = 1024 * 1024 };

int
session_host_init(struct session_host *host, struct shard *shard, struct loop *loop,
                  const struct session_limits *limits, struct admission *admission,
                  struct access *access, struct login_service *logins)
{
    *host = (struct session_host){
        .shard = shard,
        .loop = loop,
        .limits = *limits,
        .access = access,
        .access_generation = access_generation_place(access),
        .logins = logins,
        .user_deletions = access_deletions(access),
        .vhost_deletions = catalogue_vhost_deletions(shard->broker->catalogue),
        .admission = admission,
        .handshake_rate = LOG_RATE(5, 1000),
        .read_buffer_size =
            SESSION_READ_MAX
            + (limits->frame_max > SESSION_READ_MAX ? limits->frame_max : SESSION_READ_MAX),
    };
    list_init(&host->connections);
    list_init(&host->newcomers);
    list_init(&host->dirty);
    list_init(&host->finished);
    list_init(&host->written);
    list_init(&host->gated);
    random_init(&host->random);
    events_init(&host->events, &shard->wheel);
    route_cache_init(&host->routes);
    block_pool_init(&host->pool, 4 * 1024 * 1024);
    host->read_buffer = malloc(host->read_buffer_size);
    return host->read_buffer == NULL ? -1 : 0;
}

int
session_host_set_limits(struct session_host *host, const struct session_limits *limits)
{
    size_t size = SESSION_READ_MAX + limits->frame_max;
    /* It never becomes smaller: there are connections with the greater frames of before. */
    if (size > host->read_buffer_size) {
        uint8_t *buffer = realloc(host->read_buffer, size);
        if (buffer == NULL)
            return -ENOMEM;
        host->read_buffer = buffer;
        host->read_buffer_size = size;
    }
    host->limits = *limits;
    return 0;
}

static void
free_finished(struct session_host *host)
{
    struct list *node;
    while ((node = list_first(&host->finished)) != NULL)
        connection_free(LIST_ENTRY(node, struct connection, link));
}

void
session_host_end(struct session_host *host)
{
    struct list *node;
    while ((node = list_first(&host->connections)) != NULL)
        connection_finish(LIST_ENTRY(node, struct connection, link));
    free_finished(host);
}

void
session_host_fini(struct session_host *host)
{
    session_host_end(host);
    events_fini(&host->events);
    session_host_login(host); /* frees the answers that nobody awaits any more */
    free(host->waits);
    route_cache_fini(&host->routes);
    block_pool_fini(&host->pool);
    free(host->read_buffer);
}

void
session_host_shutdown(struct session_host *host)
{
    struct amqp_error error = {0};
    amqp_error_set(&error, AMQP_REPLY_CONNECTION_FORCED,
                   "broker forced connection closure with reason 'shutdown'");
    LIST_FOR_EACH (node, &host->connections)
        connection_fail(LIST_ENTRY(node, struct connection, link), &error);
}

bool
session_host_has_evictions(const struct session_host *host)
{
    return access_deletions(host->access) != host->user_deletions
           || catalogue_vhost_deletions(host->shard->broker->catalogue) != host->vhost_deletions;
}

static void
evict(struct connection *connection)
{
    struct amqp_error error = {0};
    if (connection->state != CONNECTION_OPEN)
        return; /* who is not yet in is asked at connection.open */
    if (vhost_is_deleted(connection->vhost))
        amqp_error_set(&error, AMQP_REPLY_CONNECTION_FORCED, "vhost '%.*s' is deleted",
                       SLICE_ARGS(vhost_name(connection->vhost)));
    else if (!permission_user_exists(connection))
        amqp_error_set(&error, AMQP_REPLY_CONNECTION_FORCED, "user '%s' is deleted",
                       connection->user);
    if (error.code != 0)
        connection_fail(connection, &error);
}

void
session_host_evict(struct session_host *host)
{
    if (LIKELY(!session_host_has_evictions(host)))
        return;
    host->user_deletions = access_deletions(host->access);
    host->vhost_deletions = catalogue_vhost_deletions(host->shard->broker->catalogue);
    LIST_FOR_EACH (node, &host->connections)
        evict(LIST_ENTRY(node, struct connection, link));
}

/* Tells the client that its publishing is held back, or no longer, if that is news to it. */
static void
tell_pressure(struct connection *connection)
{
    uint32_t told = connection->host->pressure & PRESSURE_TOLD;
    bool is_blocked = told != 0 && connection->has_published;
    if (connection->state != CONNECTION_OPEN || is_blocked == connection->is_told_blocked
        || (connection->capabilities & CLIENT_BLOCKED) == 0)
        return;
    connection->is_told_blocked = is_blocked;
    if (is_blocked)
        CONNECTION_SEND(connection, 0, connection_blocked, 64,
                        {.reason = slice_from(told == PRESSURE_MEMORY ? "low on memory"
                                              : told == PRESSURE_DISK ? "low on disk"
                                                                      : "low on memory & disk")});
    else
        CONNECTION_SEND(connection, 0, connection_unblocked, 16, {.no_fields = 0});
}

void
connection_publishes(struct connection *connection)
{
    connection->has_published = true;
    tell_pressure(connection);
}

/* What a connection may still send to finish the contents that it has begun: those of several
 * channels are mixed with new ones, hence twice. */
static uint64_t
finish_allowance(const struct connection *connection)
{
    uint64_t left = 0;
    if (connection->unfinished == 0)
        return 0;
    for (uint32_t i = 0; i < connection->channel_capacity; i++)
        if (connection->channels[i] != NULL)
            left += publish_left(connection->channels[i]);
    return 2 * left + FINISH_SLACK;
}

void
session_host_press(struct session_host *host, uint32_t pressure)
{
    bool is_new = host->pressure == 0;
    host->pressure = pressure;
    LIST_FOR_EACH (node, &host->connections) {
        struct connection *connection = LIST_ENTRY(node, struct connection, link);
        if (!connection->has_published)
            continue;
        if (is_new)
            connection->finish_left = finish_allowance(connection);
        tell_pressure(connection);
        connection_dirty(connection); /* to be watched for other events, or to go on */
    }
}

/* Must its output wait? Then it does, and is flushed when the definitions are durable. */
static bool
is_gated(struct connection *connection)
{
    struct session_host *host = connection->host;
    if (connection->gate == 0)
        return false;
    if (connection->gate <= definitions_durable(host->definitions)) {
        connection->gate = 0;
        return false;
    }
    list_move_back(&host->gated, &connection->dirty_link);
    return true;
}

/* Reports to queues what consumers have been sent, unless too much still waits for the socket. */
static void
report_credit(struct connection *connection)
{
    if (output_pending(&connection->output) >= SESSION_OUTPUT_HIGH)
        return;
    LIST_FOR_EACH_SAFE (node, &connection->owing) {
        struct consumer *consumer = LIST_ENTRY(node, struct consumer, owing_link);
        if (channel_is_full(consumer->channel))
            continue;
        list_remove(node);
        consumer_report(consumer);
    }
}

static void
watch(struct connection *connection)
{
    uint32_t events = 0;
    /* What has come meanwhile, while reading waits for room to write, would wake us for nothing. */
    if ((connection_may_read(connection) || connection->state == CONNECTION_ENDING)
        && !stream_wants_write(&connection->stream))
        events |= EPOLLIN;
    if ((output_pending(&connection->output) > 0 && connection->gate == 0
         && !stream_wants_read(&connection->stream))
        || stream_wants_write(&connection->stream))
        events |= EPOLLOUT;
    if (connection->login != NULL) /* for who has gone no password is verified */
        events |= EPOLLRDHUP;
    if (connection->state != CONNECTION_ENDED
        && loop_modify(connection->host->loop, &connection->io, events) != 0)
        connection_break(connection, "cannot watch the socket");
}

/* It goes on at once, or is watched for what lets it go on. */
static void
watch_or_go_on(struct connection *connection)
{
    if ((connection->has_input_left && connection_takes_input(connection))
        || (stream_has_buffered(&connection->stream) && connection_may_read(connection)))
        connection_dirty(connection);
    watch(connection);
}

static void
flush_connection(struct connection *connection)
{
    if (connection->has_input_left && !connection->is_sliced && connection_takes_input(connection))
        connection_resume(connection);
    else if (stream_has_buffered(&connection->stream) && !connection->is_sliced
             && connection_may_read(connection))
        connection_read(connection); /* epoll knows nothing of it */
    connection->is_sliced = false;
    struct list *node;
    while ((node = list_pop_front(&connection->confirming)) != NULL)
        channel_flush_confirms(LIST_ENTRY(node, struct channel, confirm_link));
    if (!connection->is_broken && is_gated(connection)) {
        watch_or_go_on(connection);
        return;
    }
    if (!connection->is_broken && output_pending(&connection->output) > 0) {
        size_t before = output_pending(&connection->output);
        connection->has_sent = true;
        if (output_flush(&connection->output, &connection->stream) == OUTPUT_ERROR)
            connection_break(connection, stream_error_text(&connection->stream));
        connection->sent_bytes += before - output_pending(&connection->output);
    }
    if (connection->state == CONNECTION_ENDING && output_pending(&connection->output) == 0) {
        int status = stream_shutdown_write(&connection->stream);
        if (status == STREAM_ERROR)
            connection->is_broken = true;
        else if (status == 0 && stream_has_buffered(&connection->stream))
            connection_drain(connection);
    }
    if (connection->is_broken) {
        connection_finish(connection);
        return;
    }
    report_credit(connection);
    watch_or_go_on(connection);
}

bool
session_host_flush(struct session_host *host)
{
    struct list round;
    list_init(&round);
    list_splice(&round, &host->dirty);
    host->handshakes = 0;
    struct list *node;
    while ((node = list_pop_front(&round)) != NULL)
        flush_connection(LIST_ENTRY(node, struct connection, dirty_link));
    free_finished(host);
    return !list_is_empty(&host->dirty) || shard_has_work(host->shard);
}
