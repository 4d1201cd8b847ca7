/* Connections: what is queued for them, their timers, their beginning and their end. */
#include "session/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/hash.h"
#include "base/log.h"
#include "session/channel.h"
#include "session/login.h"
#include "session/permission.h"
#include "store/definitions.h"

enum {
    SILENT_TICKS_MAX = 4, /* half heartbeat intervals */
    /* Probes of a closed window that the other machine has not answered, until it is given up. */
    UNANSWERED_PROBES = 2,
    /* So much unread input, and the window may be too small for another heartbeat. */
    UNREAD_INPUT_MAX = 32 * 1024,
};

/* As what its end is logged: who has never come in must not use up the lines of those who have. */
static enum event_kind
kind_of_end(const struct connection *connection, enum event_kind of_open)
{
    return connection->was_open ? of_open : EVENT_UNOPENED;
}

void
connection_break(struct connection *connection, const char *reason)
{
    if (connection->is_broken || connection->state == CONNECTION_ENDED)
        return;
    EVENT_LOG(connection->host, kind_of_end(connection, EVENT_ENDED), LOG_LEVEL_INFO,
              "connection lost", CONNECTION_WHO(connection), LOG_STR("reason", reason),
              CONNECTION_LIFE(connection));
    connection->is_broken = true;
    connection_dirty(connection);
}

void
connection_gate(struct connection *connection)
{
    if (connection->host->definitions != NULL)
        connection->gate = definitions_submitted(connection->host->definitions);
}

uint8_t *
connection_reserve(struct connection *connection, size_t size)
{
    uint8_t *room = output_reserve(&connection->output, size);
    if (room == NULL)
        connection_break(connection, "out of memory");
    else
        connection_dirty(connection);
    return room;
}

/* Is the client gone whose input is not read? The kernel knows more. Of one that is held, which may
 * itself be stuck in writing: whether the other machine still acknowledges. Of one that does not
 * take its output: whether anything came, unless so much has that more may not fit. */
static bool
is_gone_unread(struct connection *connection)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    int unread = 0;
    uint32_t interval_ms = connection->heartbeat_s * 1000U;
    if (getsockopt(connection->io.fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return false; /* no TCP: the other end is on this machine, and the socket would break */
    if (info.tcpi_last_ack_recv > 2 * interval_ms
        && (info.tcpi_unacked > 0 || info.tcpi_probes >= UNANSWERED_PROBES))
        return true;
    if (connection_is_held(connection) || info.tcpi_last_data_recv <= 2 * interval_ms)
        return false;
    return ioctl(connection->io.fd, FIONREAD, &unread) == 0 && unread < UNREAD_INPUT_MAX;
}

/* Half a heartbeat interval is over. Two intervals without a byte from the client: it is gone. */
static void
on_heartbeat_tick(struct connection *connection, int64_t now_ms)
{
    bool is_looked_at = connection_may_read(connection);
    if (!is_looked_at)
        connection->silent_ticks = 0;
    if (is_looked_at ? ++connection->silent_ticks > SILENT_TICKS_MAX : is_gone_unread(connection)) {
        EVENT_LOG(connection->host, EVENT_ENDED, LOG_LEVEL_WARN, "missed heartbeats from client",
                  CONNECTION_WHO(connection), LOG_UINT("timeout_s", connection->heartbeat_s),
                  CONNECTION_LIFE(connection));
        connection->is_broken = true;
        connection_dirty(connection);
        return;
    }
    if (!connection->has_sent && output_pending(&connection->output) == 0) {
        uint8_t *room = connection_reserve(connection, sizeof(amqp_heartbeat_frame));
        if (room != NULL) {
            memcpy(room, amqp_heartbeat_frame, sizeof(amqp_heartbeat_frame));
            output_commit(&connection->output, sizeof(amqp_heartbeat_frame));
        }
    }
    connection->has_sent = false;
    wheel_set(&connection->host->shard->wheel, &connection->timer,
              now_ms + connection->heartbeat_s * 500LL);
}

static void
on_timer(struct timer *timer, int64_t now_ms)
{
    struct connection *connection = CONTAINER_OF(timer, struct connection, timer);
    switch ((enum connection_state)connection->state) {
    case CONNECTION_OPEN:
        on_heartbeat_tick(connection, now_ms);
        break;
    case CONNECTION_REFUSED:
        login_refused(connection);
        break;
    case CONNECTION_ENDING:
    case CONNECTION_CLOSING:
        EVENT_LOG(connection->host, kind_of_end(connection, EVENT_ENDED), LOG_LEVEL_INFO,
                  "client did not close its connection in time", CONNECTION_WHO(connection));
        connection->is_broken = true;
        connection_dirty(connection);
        break;
    case CONNECTION_ENDED:
        break;
    default:
        if (connection->login != NULL) { /* it is the broker that takes its time */
            wheel_set(&connection->host->shard->wheel, &connection->timer,
                      now_ms + connection->host->limits.handshake_ms);
            break;
        }
        EVENT_LOG(connection->host, EVENT_HANDSHAKE_TIMEOUT, LOG_LEVEL_WARN, "handshake timed out",
                  CONNECTION_WHO(connection),
                  LOG_STR("protocol", connection->stream.is_handshaking ? "tls" : "amqp"),
                  CONNECTION_LIFE(connection));
        connection->is_broken = true;
        connection_dirty(connection);
        break;
    }
}

void
connection_free(struct connection *connection)
{
    list_remove(&connection->link);
    list_remove(&connection->dirty_link);
    wheel_cancel(&connection->host->shard->wheel, &connection->timer);
    output_clear(&connection->output);
    if (!connection->was_open)
        secret_wipe(connection->input.data, connection->input.size);
    buffer_free(&connection->input);
    if (connection->vhost != NULL)
        vhost_unref(connection->vhost);
    free(connection->channels);
    free(connection->exclusive_queues);
    permission_forget(connection);
    free(connection->user);
    free(connection->peer);
    free(connection);
}

/* A number that stands for the address a client comes from; of IPv6 it is the network's part, of
 * which one customer has all the rest. */
static uint64_t
address_key(const struct address *peer)
{
    enum { NETWORK_SIZE = 8 };
    const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)&peer->storage;
    if (peer->storage.ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&ip6->sin6_addr))
        return hash_slice((struct slice){(const char *)&ip6->sin6_addr, NETWORK_SIZE});
    char text[ADDRESS_TEXT_MAX];
    return hash_slice(slice_from(address_host_text(peer, text)));
}

void
session_accept(struct session_host *host, int fd, const struct address *peer,
               struct tls_context *tls)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    char text[ADDRESS_TEXT_MAX];
    struct stream stream;
    stream_init_tcp(&stream, fd);
    if (connection == NULL || (connection->peer = strdup(address_text(peer, text))) == NULL
        || (tls != NULL && stream_init_tls(&stream, fd, tls) != 0)) {
        log_error("out of memory: connection refused", LOG_STR("peer", address_text(peer, text)));
        stream_close(&stream);
        if (connection != NULL)
            free(connection->peer);
        free(connection);
        return;
    }
    connection->host = host;
    connection->accepted_ms = host->shard->now_ms;
    connection->stream = stream;
    connection->is_loopback = address_is_loopback(peer);
    connection->address_key = address_key(peer);
    connection->frame_max = AMQP_FRAME_MIN_SIZE * 2; /* until it is negotiated */
    list_init(&connection->link);
    list_init(&connection->dirty_link);
    list_init(&connection->handshake_link);
    list_init(&connection->owing);
    list_init(&connection->confirming);
    list_init(&connection->half_published);
    output_init(&connection->output, &host->pool);
    io_init(&connection->io, fd, connection_on_events);
    timer_init(&connection->timer, on_timer);
    list_push_back(&host->connections, &connection->link);
    atomic_fetch_add_explicit(&host->connection_count, 1, memory_order_relaxed);
    if (loop_add(host->loop, &connection->io, EPOLLIN) != 0)
        connection_break(connection, "cannot watch the socket");
    wheel_set(&host->shard->wheel, &connection->timer,
              host->shard->now_ms + host->limits.handshake_ms);
    admission_begin(connection);
    log_debug("connection accepted", LOG_STR("peer", connection->peer),
              LOG_BOOL("tls", tls != NULL));
}

void
connection_release(struct connection *connection)
{
    struct shard *shard = connection->host->shard;
    for (uint32_t i = 0; i < connection->channel_capacity; i++)
        if (connection->channels[i] != NULL)
            channel_free(connection->channels[i]);
    connection->is_waiting = false;
    login_forget(connection);
    for (uint32_t i = 0; i < connection->exclusive_count; i++) {
        struct mail mail = {.type = MAIL_DELETE, .to = connection->exclusive_queues[i]};
        shard_send(shard, &mail);
    }
    connection->exclusive_count = 0;
    admission_end(connection);
    if (!ref_is_none(connection->ref)) {
        ref_table_remove(&shard->clients, connection->ref);
        connection->ref = REF_NONE;
    }
}

void
connection_fail(struct connection *connection, const struct amqp_error *error)
{
    if (connection->state >= CONNECTION_CLOSING)
        return;
    EVENT_LOG(connection->host, kind_of_end(connection, EVENT_CONNECTION_ERROR), LOG_LEVEL_WARN,
              "closing connection", CONNECTION_WHO(connection), LOG_STR("reason", error->text),
              CONNECTION_LIFE(connection));
    connection_release(connection);
    if (connection->state < CONNECTION_AWAITS_TUNE_OK
        || (connection->state < CONNECTION_OPEN && error->code != AMQP_REPLY_NOT_ALLOWED)) {
        /* Who has not come in is told no more than that. */
        connection_end(connection);
        return;
    }
    connection->state = CONNECTION_CLOSING;
    CONNECTION_SEND(connection, 0, connection_close, 512,
                    {.reply_code = error->code,
                     .reply_text = slice_from(error->text),
                     .class_id = error->class_id,
                     .method_id = error->method_id});
    wheel_set(&connection->host->shard->wheel, &connection->timer,
              connection->host->shard->now_ms + SESSION_CLOSE_TIMEOUT_MS);
}

void
connection_end(struct connection *connection)
{
    if (connection->state >= CONNECTION_ENDING)
        return;
    connection->state = CONNECTION_ENDING;
    wheel_set(&connection->host->shard->wheel, &connection->timer,
              connection->host->shard->now_ms + SESSION_CLOSE_TIMEOUT_MS);
    connection_dirty(connection);
}

void
connection_finish(struct connection *connection)
{
    struct session_host *host = connection->host;
    connection_release(connection);
    admission_forget(connection);
    connection->state = CONNECTION_ENDED;
    loop_remove(host->loop, &connection->io);
    stream_close(&connection->stream);
    list_remove(&connection->dirty_link);
    list_move_back(&host->finished, &connection->link);
    atomic_fetch_sub_explicit(&host->connection_count, 1, memory_order_relaxed);
}
