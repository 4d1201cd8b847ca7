/* The conversation on channel 0: versions, login, tuning, opening, and orderly closing. */
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/log.h"
#include "net/proxy.h"
#include "session/channel.h"
#include "session/login.h"
#include "session/permission.h"

/* The texts that a client is told about us. Clients look at product and version to decide what the
 * broker can do, so these are the ones of the broker whose model this one keeps. */
#define SERVER_PRODUCT "RabbitMQ"
#define SERVER_COMPATIBLE_VERSION "3.13.7"

/* --- Version and server properties ------------------------------------------------------------ */

static void
put(struct amqp_table_builder *builder, const char *name, const char *value)
{
    amqp_table_builder_put_string(builder, slice_from(name), slice_from(value));
}

/* EXTERNAL is for those who have shown who they are before the first frame. */
static struct slice
mechanisms(const struct connection *connection)
{
    return stream_has_peer_certificate(&connection->stream) ? SLICE("PLAIN AMQPLAIN EXTERNAL")
                                                            : SLICE("PLAIN AMQPLAIN");
}

static void
send_start(struct connection *connection, uint8_t minor)
{
    static const char *const capabilities[] = {
        "publisher_confirms",           "exchange_exchange_bindings", "basic.nack",
        "consumer_cancel_notify",       "connection.blocked",         "consumer_priorities",
        "authentication_failure_close", "per_consumer_qos",           "direct_reply_to",
    };
    struct amqp_table_builder builder;
    amqp_table_builder_init(&builder);
    amqp_table_builder_begin_table(&builder, SLICE("capabilities"));
    for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
        amqp_table_builder_put_bool(&builder, slice_from(capabilities[i]), true);
    amqp_table_builder_end_table(&builder);
    put(&builder, "cluster_name", "whippet");
    put(&builder, "copyright", "The Whippet authors");
    put(&builder, "information", "Licensed under the Apache License 2.0");
    put(&builder, "platform", "Whippet " PACKAGE_VERSION);
    put(&builder, "product", SERVER_PRODUCT);
    put(&builder, "version", SERVER_COMPATIBLE_VERSION);
    struct slice properties = amqp_table_builder_finish(&builder);
    if (amqp_table_builder_failed(&builder))
        connection_break(connection, "out of memory");
    else
        CONNECTION_SEND(connection, 0, connection_start, 2048,
                        {.version_major = 0,
                         .version_minor = minor,
                         .server_properties = properties,
                         .mechanisms = mechanisms(connection),
                         .locales = SLICE("en_US")});
    amqp_table_builder_free(&builder);
    connection->state = CONNECTION_AWAITS_START_OK;
}

void
connection_protocol_header(struct connection *connection,
                           const uint8_t header[AMQP_PROTOCOL_HEADER_SIZE])
{
    switch (amqp_protocol_header_check(header)) {
    case AMQP_PROTOCOL_OK_0_9_1:
    case AMQP_PROTOCOL_OK_0_9:
        send_start(connection, 9);
        return;
    case AMQP_PROTOCOL_WRONG:
        break;
    }
    const char *what = "no AMQP 0-9-1 header";
    if (header[0] == 0x16 && header[1] == 3)
        what = "a TLS client on a plain port";
    else if (memcmp(header, "GET ", 4) == 0 || memcmp(header, "POST", 4) == 0)
        what = "an HTTP client on the AMQP port";
    else if (proxy_looks_like(header))
        what = "a PROXY header from an address that is not trusted";
    EVENT_LOG(connection->host, EVENT_BAD_HEADER, LOG_LEVEL_WARN, "bad protocol header",
              LOG_STR("peer", connection->peer), LOG_STR("reason", what));
    uint8_t *room = connection_reserve(connection, AMQP_PROTOCOL_HEADER_SIZE);
    if (room != NULL) {
        memcpy(room, amqp_protocol_header_0_9_1, AMQP_PROTOCOL_HEADER_SIZE);
        output_commit(&connection->output, AMQP_PROTOCOL_HEADER_SIZE);
    }
    connection_end(connection);
}

/* --- Login ------------------------------------------------------------------------------------ */

/* PLAIN (RFC 4616): authorization identity, user, password, with NULs between. */
static bool
read_plain(struct slice response, struct slice *user, struct slice *password)
{
    const char *first = response.size == 0 ? NULL : memchr(response.data, 0, response.size);
    if (first == NULL)
        return false;
    const char *end = response.data + response.size;
    const char *second = memchr(first + 1, 0, (size_t)(end - first - 1));
    if (second == NULL)
        return false;
    *user = (struct slice){first + 1, (size_t)(second - first - 1)};
    *password = (struct slice){second + 1, (size_t)(end - second - 1)};
    return memchr(password->data, 0, password->size) == NULL;
}

/* AMQPLAIN: a table with LOGIN and PASSWORD. */
static bool
read_amqplain(struct slice response, struct slice *user, struct slice *password)
{
    struct amqp_value login, secret;
    if (amqp_table_validate(response, 2) != 0 || !amqp_table_find(response, SLICE("LOGIN"), &login)
        || login.type != 'S' || !amqp_table_find(response, SLICE("PASSWORD"), &secret)
        || secret.type != 'S')
        return false;
    *user = login.bytes;
    *password = secret.bytes;
    return true;
}

static void
read_capabilities(struct connection *connection, struct slice client_properties)
{
    static const struct {
        const char *name;
        uint8_t flag;
    } known[] = {
        {"consumer_cancel_notify", CLIENT_CANCEL_NOTIFY},
        {"connection.blocked", CLIENT_BLOCKED},
        {"authentication_failure_close", CLIENT_AUTHENTICATION_FAILURE_CLOSE},
    };
    struct amqp_value capabilities, value;
    if (!amqp_table_find(client_properties, SLICE("capabilities"), &capabilities)
        || capabilities.type != 'F')
        return;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (amqp_table_find(capabilities.bytes, slice_from(known[i].name), &value)
            && value.type == 't' && value.boolean)
            connection->capabilities |= known[i].flag;
}

/* Does the response of EXTERNAL (RFC 4422, appendix A) name a user? Another one than the
 * certificate's is then refused. RabbitMQ does not look at it, and clients send what they like:
 * most nothing, librabbitmq what it is configured with, amqp091-go "\0*\0*". What has a 0 byte is
 * no name. */
static bool
asks_for_user(struct slice response)
{
    return response.size > 0 && memchr(response.data, 0, response.size) == NULL;
}

/* EXTERNAL: the certificate says who it is. */
static void
login_external(struct connection *connection, struct slice response)
{
    struct slice mechanism = SLICE("EXTERNAL");
    const char *reason = "no user may log in with a certificate";
    char name[TLS_NAME_MAX];
    if (stream_peer_name(&connection->stream, name, &reason) != 0) {
        login_refuse(connection, mechanism, SLICE(""), reason);
        return;
    }
    struct slice user = slice_from(name);
    if (asks_for_user(response) && !slice_equal(response, user))
        login_refuse(connection, mechanism, user, "the client asks to be another user");
    else
        login_known(connection, mechanism, user);
}

static int
choose_mechanism(struct connection *connection, const struct amqp_connection_start_ok *method,
                 struct amqp_error *error)
{
    struct slice user = {"", 0}, password = {"", 0};
    read_capabilities(connection, method->client_properties);
    if (slice_is(method->mechanism, "EXTERNAL")
        && stream_has_peer_certificate(&connection->stream)) {
        login_external(connection, method->response);
        return 0;
    }
    bool is_plain = slice_is(method->mechanism, "PLAIN");
    if (!is_plain && !slice_is(method->mechanism, "AMQPLAIN"))
        return channel_error(error, AMQP_REPLY_COMMAND_INVALID,
                             "unknown authentication mechanism '%.*s'",
                             SLICE_ARGS(method->mechanism));
    bool is_readable = is_plain ? read_plain(method->response, &user, &password)
                                : read_amqplain(method->response, &user, &password);
    if (!is_readable)
        return channel_error(error, AMQP_REPLY_SYNTAX_ERROR, "response of mechanism %.*s invalid",
                             SLICE_ARGS(method->mechanism));
    login_with_password(connection, method->mechanism, user, password);
    return 0;
}

static int
start_ok(struct connection *connection, const struct amqp_connection_start_ok *method,
         struct amqp_error *error)
{
    int status = choose_mechanism(connection, method, error);
    /* It stands in the thread's read buffer, which would keep it until others have sent as much. */
    secret_wipe((char *)method->response.data, method->response.size);
    return status;
}

/* --- Tuning and opening ----------------------------------------------------------------------- */

static int
tune_ok(struct connection *connection, const struct amqp_connection_tune_ok *method,
        struct amqp_error *error)
{
    const struct session_limits *limits = &connection->host->limits;
    if (method->frame_max != 0 && method->frame_max < AMQP_FRAME_MIN_SIZE)
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED,
                             "negotiated frame_max = %u is lower than the minimum allowed value "
                             "(%u)",
                             method->frame_max, AMQP_FRAME_MIN_SIZE);
    if (method->frame_max == 0 || method->frame_max > limits->frame_max)
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED,
                             "negotiated frame_max = %u%s is higher than the maximum allowed value "
                             "(%u)",
                             method->frame_max, method->frame_max == 0 ? " (no limit)" : "",
                             limits->frame_max);
    if (method->channel_max == 0 || method->channel_max > limits->channel_max)
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED,
                             "negotiated channel_max = %u%s is higher than the maximum allowed "
                             "value (%u)",
                             method->channel_max, method->channel_max == 0 ? " (no limit)" : "",
                             limits->channel_max);
    connection->frame_max = method->frame_max;
    connection->channel_max = method->channel_max;
    connection->heartbeat_s = method->heartbeat;
    connection->state = CONNECTION_AWAITS_OPEN;
    return 0;
}

static int
open_vhost(struct connection *connection, const struct amqp_connection_open *method,
           struct amqp_error *error)
{
    struct shard *shard = connection->host->shard;
    connection->vhost = catalogue_vhost_find(shard->broker->catalogue, method->virtual_host);
    if (connection->vhost == NULL)
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED, "vhost %.*s not found",
                             SLICE_ARGS(method->virtual_host));
    if (!permission_to_enter(connection, method->virtual_host))
        return channel_error(error, AMQP_REPLY_NOT_ALLOWED,
                             "access to vhost '%.*s' refused for user '%s'",
                             SLICE_ARGS(method->virtual_host), connection->user);
    if (admission_open(connection, error) != 0)
        return -1;
    if (ref_is_none(connection->ref)) /* it has one already if it had to wait for its login */
        connection->ref = ref_table_add(&shard->clients, connection);
    if (ref_is_none(connection->ref)) {
        connection_break(connection, "out of memory");
        return 0;
    }
    connection->state = CONNECTION_OPEN;
    connection->was_open = true;
    wheel_cancel(&shard->wheel, &connection->timer);
    if (connection->heartbeat_s > 0)
        wheel_set(&shard->wheel, &connection->timer,
                  shard->now_ms + connection->heartbeat_s * 500LL);
    CONNECTION_SEND(connection, 0, connection_open_ok, 64, {.known_hosts = {"", 0}});
    EVENT_LOG(connection->host, EVENT_OPENED, LOG_LEVEL_INFO, "connection opened",
              CONNECTION_WHO(connection), LOG_STR("tls", stream_tls_version(&connection->stream)));
    return 0;
}

/* --- Channel 0 -------------------------------------------------------------------------------- */

static int
close_by_client(struct connection *connection)
{
    bool was_open = connection->state == CONNECTION_OPEN;
    connection_release(connection);
    CONNECTION_SEND(connection, 0, connection_close_ok, 16, {.no_fields = 0});
    if (was_open)
        EVENT_LOG(connection->host, EVENT_ENDED, LOG_LEVEL_INFO, "connection closed",
                  CONNECTION_WHO(connection), CONNECTION_LIFE(connection));
    connection_end(connection);
    return 0;
}

int
connection_method(struct connection *connection, const struct amqp_method_info *info,
                  const union amqp_method *method, struct amqp_error *error)
{
    enum connection_state state = connection->state;
    if (state == CONNECTION_CLOSING) {
        if (info->id == AMQP_connection_close_ok)
            connection_end(connection);
        else if (info->id == AMQP_connection_close)
            close_by_client(connection);
        return 0;
    }
    if (info->id == AMQP_connection_start_ok && state == CONNECTION_AWAITS_START_OK)
        return start_ok(connection, &method->connection_start_ok, error);
    if (info->id == AMQP_connection_tune_ok && state == CONNECTION_AWAITS_TUNE_OK)
        return tune_ok(connection, &method->connection_tune_ok, error);
    if (info->id == AMQP_connection_open && state == CONNECTION_AWAITS_OPEN)
        return open_vhost(connection, &method->connection_open, error);
    if (info->id == AMQP_connection_close && state >= CONNECTION_AWAITS_TUNE_OK)
        return close_by_client(connection);
    if (info->id == AMQP_connection_update_secret && state == CONNECTION_OPEN) {
        /* Passwords do not expire here: there is nothing that a new one would change. But it may be
         * one elsewhere. */
        const struct slice secret = method->connection_update_secret.new_secret;
        secret_wipe((char *)secret.data, secret.size);
        CONNECTION_SEND(connection, 0, connection_update_secret_ok, 16, {.no_fields = 0});
        return 0;
    }
    return channel_error(error, AMQP_REPLY_CHANNEL_ERROR,
                         "unexpected method in connection state %s",
                         state == CONNECTION_OPEN ? "running" : "starting");
}
