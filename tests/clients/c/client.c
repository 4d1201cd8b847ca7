/* What the librabbitmq steps share; see client.h. */
#include "client.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static const struct timeval patience = {.tv_sec = 20};

void
fail(const char *format, ...)
{
    va_list arguments;

    printf("not ok %s: ", step_name);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

void
expect(bool is_true, const char *what)
{
    if (!is_true) {
        fail("not so: %s", what);
    }
}

void
expect_number(uint64_t got, uint64_t wanted, const char *what)
{
    if (got != wanted) {
        fail("%s: got %llu, wanted %llu", what, (unsigned long long)got,
             (unsigned long long)wanted);
    }
}

void
expect_text(const char *got, const char *wanted, const char *what)
{
    if (strcmp(got, wanted) != 0) {
        fail("%s: got '%s', wanted '%s'", what, got, wanted);
    }
}

static char *
copy_bytes(amqp_bytes_t bytes)
{
    char *copy = malloc(bytes.len + 1);

    if (copy == NULL) {
        fail("out of memory");
    }
    if (bytes.len > 0) {
        memcpy(copy, bytes.bytes, bytes.len);
    }
    copy[bytes.len] = '\0';
    return copy;
}

void
expect_bytes(amqp_bytes_t got, const char *wanted, const char *what)
{
    expect_text(copy_bytes(got), wanted, what);
}

static bool
is_normal(amqp_rpc_reply_t reply)
{
    return reply.reply_type == AMQP_RESPONSE_NORMAL;
}

/* The code and text with which the broker closed a channel or connection; 0 for another trouble. */
static int
exception_of(amqp_rpc_reply_t reply, char **text)
{
    *text = NULL;
    if (reply.reply_type != AMQP_RESPONSE_SERVER_EXCEPTION) {
        return 0;
    }
    if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        amqp_channel_close_t *close = reply.reply.decoded;
        *text = copy_bytes(close->reply_text);
        return close->reply_code;
    }
    if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        amqp_connection_close_t *close = reply.reply.decoded;
        *text = copy_bytes(close->reply_text);
        return close->reply_code;
    }
    return 0;
}

static void
check_reply(amqp_rpc_reply_t reply, const char *what)
{
    char *text;
    int code;

    if (is_normal(reply)) {
        return;
    }
    code = exception_of(reply, &text);
    if (code != 0) {
        fail("%s: %d %s", what, code, text);
    }
    fail("%s: %s", what,
         reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION
             ? amqp_error_string2(reply.library_error)
             : "no reply");
}

void
client_check(struct client *client, const char *what)
{
    check_reply(amqp_get_rpc_reply(client->connection), what);
}

void
client_refused(struct client *client, int code, const char *text)
{
    amqp_rpc_reply_t reply = amqp_get_rpc_reply(client->connection);
    amqp_channel_close_ok_t close_ok = {0};
    char *given;
    int given_code = exception_of(reply, &given);

    if (given_code != code || reply.reply.id != AMQP_CHANNEL_CLOSE_METHOD) {
        fail("wanted the channel closed with %d, got %d %s", code, given_code, given ? given : "");
    }
    if (strncmp(given, text, strlen(text)) != 0) {
        fail("reply text: got '%s', wanted '%s...'", given, text);
    }
    amqp_send_method(client->connection, client->channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok);
}

static void
open_channel(struct client *client)
{
    amqp_channel_open(client->connection, client->channel);
    client_check(client, "channel.open");
}

bool
client_try_connect(struct client *client)
{
    amqp_table_entry_t ability = {
        .key = amqp_cstring_bytes("consumer_cancel_notify"),
        .value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1},
    };
    amqp_table_entry_t property = {
        .key = amqp_cstring_bytes("capabilities"),
        .value = {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {1, &ability}},
    };
    amqp_table_t properties = {1, &property};
    amqp_socket_t *socket;

    client->connection = amqp_new_connection();
    socket = amqp_tcp_socket_new(client->connection);
    if (socket == NULL) {
        fail("out of memory");
    }
    if (amqp_socket_open_noblock(socket, client->host, client->port, &patience) != AMQP_STATUS_OK) {
        amqp_destroy_connection(client->connection);
        return false;
    }
    amqp_set_rpc_timeout(client->connection, &patience);
    if (!is_normal(amqp_login_with_properties(client->connection, "/", 0, 131072, 0, &properties,
                                              AMQP_SASL_METHOD_PLAIN, "guest", "guest"))) {
        amqp_destroy_connection(client->connection);
        return false;
    }
    client->channel = 1;
    open_channel(client);
    return true;
}

void
client_connect(struct client *client)
{
    if (!client_try_connect(client)) {
        fail("cannot connect to %s:%d", client->host, client->port);
    }
}

struct client
client_open_channel(const struct client *client)
{
    struct client opened = *client;

    opened.channel++;
    open_channel(&opened);
    return opened;
}

void
client_close(struct client *client)
{
    check_reply(amqp_connection_close(client->connection, AMQP_REPLY_SUCCESS), "connection.close");
    expect(amqp_destroy_connection(client->connection) == AMQP_STATUS_OK,
           "the connection ends well");
}

const char *
client_queue(struct client *client, amqp_table_t arguments)
{
    amqp_queue_declare_ok_t *ok = amqp_queue_declare(client->connection, client->channel,
                                                     amqp_empty_bytes, 0, 0, 1, 0, arguments);

    client_check(client, "queue.declare");
    return copy_bytes(ok->queue);
}

const char *
client_exchange(struct client *client, const char *type)
{
    char name[64];

    snprintf(name, sizeof name, "clients.librabbitmq.%d.%s", (int)getpid(), type);
    amqp_exchange_declare(client->connection, client->channel, amqp_cstring_bytes(name),
                          amqp_cstring_bytes(type), 0, 0, 1, 0, amqp_empty_table);
    client_check(client, "exchange.declare");
    return copy_bytes(amqp_cstring_bytes(name));
}

void
client_bind(struct client *client, const char *queue, const char *exchange, const char *key,
            amqp_table_t arguments)
{
    amqp_queue_bind(client->connection, client->channel, amqp_cstring_bytes(queue),
                    amqp_cstring_bytes(exchange), amqp_cstring_bytes(key), arguments);
    client_check(client, "queue.bind");
}

uint32_t
client_count(struct client *client, const char *queue)
{
    amqp_queue_declare_ok_t *ok =
        amqp_queue_declare(client->connection, client->channel, amqp_cstring_bytes(queue), 1, 0, 0,
                           0, amqp_empty_table);

    client_check(client, "passive queue.declare");
    return ok->message_count;
}

void
client_publish(struct client *client, const char *exchange, const char *key, const char *body,
               const amqp_basic_properties_t *properties)
{
    int status =
        amqp_basic_publish(client->connection, client->channel, amqp_cstring_bytes(exchange),
                           amqp_cstring_bytes(key), 0, 0, properties, amqp_cstring_bytes(body));

    if (status != AMQP_STATUS_OK) {
        fail("basic.publish: %s", amqp_error_string2(status));
    }
}

const char *
client_consume(struct client *client, const char *queue, bool no_ack)
{
    amqp_basic_consume_ok_t *ok =
        amqp_basic_consume(client->connection, client->channel, amqp_cstring_bytes(queue),
                           amqp_empty_bytes, 0, no_ack, 0, amqp_empty_table);

    client_check(client, "basic.consume");
    return copy_bytes(ok->consumer_tag);
}

void
client_cancel(struct client *client, const char *tag)
{
    amqp_basic_cancel(client->connection, client->channel, amqp_cstring_bytes(tag));
    client_check(client, "basic.cancel");
}

struct received
client_next(struct client *client)
{
    amqp_envelope_t envelope;

    check_reply(amqp_consume_message(client->connection, &envelope, &patience, 0), "next message");
    return (struct received){
        .body = copy_bytes(envelope.message.body),
        .size_bytes = envelope.message.body.len,
        .delivery_tag = envelope.delivery_tag,
        .is_redelivered = envelope.redelivered,
        .channel = envelope.channel,
        .properties = envelope.message.properties,
    };
}

bool
client_get(struct client *client, const char *queue, bool no_ack, struct received *received)
{
    amqp_rpc_reply_t reply =
        amqp_basic_get(client->connection, client->channel, amqp_cstring_bytes(queue), no_ack);
    amqp_basic_get_ok_t *ok;
    amqp_message_t message;

    check_reply(reply, "basic.get");
    if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD) {
        return false;
    }
    ok = reply.reply.decoded;
    *received = (struct received){
        .delivery_tag = ok->delivery_tag,
        .is_redelivered = ok->redelivered,
        .messages_left = ok->message_count,
        .channel = client->channel,
    };
    check_reply(amqp_read_message(client->connection, client->channel, &message, 0),
                "content of get-ok");
    received->body = copy_bytes(message.body);
    received->size_bytes = message.body.len;
    received->properties = message.properties;
    return true;
}

void *
client_wait_method(struct client *client, amqp_method_number_t id, const char *what)
{
    amqp_frame_t frame;
    int status = amqp_simple_wait_frame_noblock(client->connection, &frame, &patience);

    if (status != AMQP_STATUS_OK) {
        fail("%s: %s", what, amqp_error_string2(status));
    }
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != id
        || frame.channel != client->channel) {
        fail("%s: another frame came, of type %d on channel %d", what, frame.frame_type,
             frame.channel);
    }
    return frame.payload.method.decoded;
}

const amqp_field_value_t *
table_find(const amqp_table_t *table, const char *key)
{
    size_t length = strlen(key);

    for (int i = 0; i < table->num_entries; i++) {
        amqp_bytes_t name = table->entries[i].key;
        if (name.len == length && memcmp(name.bytes, key, length) == 0) {
            return &table->entries[i].value;
        }
    }
    return NULL;
}

amqp_table_entry_t
text_entry(const char *key, const char *value)
{
    return (amqp_table_entry_t){
        .key = amqp_cstring_bytes(key),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value)},
    };
}

amqp_table_entry_t
number_entry(const char *key, int value)
{
    return (amqp_table_entry_t){
        .key = amqp_cstring_bytes(key),
        .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = value},
    };
}
