/* Declaring and deleting what a run needs. See topology.h. */
#include "perf/topology.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_FOUND = 404 };

void
topology_queue_name(const struct topology *topology, uint64_t i, char name[TOPOLOGY_NAME_SIZE])
{
    const struct options *options = topology->options;
    if (options->queue)
        snprintf(name, TOPOLOGY_NAME_SIZE, "%s", options->queue);
    else
        snprintf(name, TOPOLOGY_NAME_SIZE, "%s-%llu", options->queue_prefix,
                 (unsigned long long)i + 1);
}

void
topology_routing_key(const struct topology *topology, uint64_t i, char key[TOPOLOGY_NAME_SIZE])
{
    if (topology->options->routing_key)
        snprintf(key, TOPOLOGY_NAME_SIZE, "%s", topology->options->routing_key);
    else if (strcmp(topology->exchange_type, "fanout") == 0)
        key[0] = '\0';
    else
        topology_queue_name(topology, i, key);
}

/* A fresh channel for each question that may close it. */
static int
topology_channel(struct topology *topology, struct connection *connection)
{
    return connection_open_channel(connection, ++topology->next_channel);
}

/* Whether the last question failed because the thing does not exist; the channel is gone then, a
 * new one is opened. */
static bool
was_not_found(struct topology *topology, struct connection *connection)
{
    if (connection->close_code != NOT_FOUND)
        return false;
    connection->error[0] = '\0';
    return topology_channel(topology, connection) == 0;
}

/* An argument given as NAME=VALUE: a whole number, true, false, or else a string. */
static void
put_argument(struct wire_buffer *out, const char *text)
{
    const char *equals = strchr(text, '=');
    const char *value = equals + 1;
    wire_u8(out, (uint8_t)(equals - text));
    wire_bytes(out, text, (size_t)(equals - text));
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (errno == 0 && end != value && *end == '\0') {
        wire_u8(out, 'l');
        wire_u64(out, (uint64_t)number);
    } else if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0) {
        wire_u8(out, 't');
        wire_u8(out, value[0] == 't');
    } else {
        wire_u8(out, 'S');
        wire_long_string(out, value, strlen(value));
    }
}

static int
queue_declare(struct topology *topology, struct connection *connection, const char *name,
              bool passive)
{
    const struct options *options = topology->options;
    struct wire_buffer *out = &connection->out;
    wire_method_begin(out, topology->next_channel, QUEUE_DECLARE);
    wire_u16(out, 0);
    wire_short_string(out, name);
    wire_u8(out, (uint8_t)((passive ? 1 : 0) | (options->durable ? 2 : 0)));
    size_t arguments = wire_table_begin(out);
    for (uint64_t i = 0; !passive && i < options->queue_argument_count; i++)
        put_argument(out, options->queue_arguments[i]);
    wire_table_end(out, arguments);
    wire_frame_end(out);
    struct wire_reader reply;
    size_t size;
    if (connection_call(connection, QUEUE_DECLARE_OK, &reply) < 0)
        return -1;
    wire_read_short_string(&reply, &size);
    topology->messages_before += wire_read_u32(&reply);
    return reply.failed ? connection_fail(connection, "malformed queue.declare-ok") : 0;
}

static int
queue_delete(struct topology *topology, struct connection *connection, const char *name)
{
    struct wire_buffer *out = &connection->out;
    wire_method_begin(out, topology->next_channel, QUEUE_DELETE);
    wire_u16(out, 0);
    wire_short_string(out, name);
    wire_u8(out, 0);
    wire_frame_end(out);
    struct wire_reader reply;
    if (connection_call(connection, QUEUE_DELETE_OK, &reply) == 0)
        return 0;
    return was_not_found(topology, connection) ? 0 : -1;
}

static int
queue_bind(struct topology *topology, struct connection *connection, const char *name,
           const char *key)
{
    struct wire_buffer *out = &connection->out;
    wire_method_begin(out, topology->next_channel, QUEUE_BIND);
    wire_u16(out, 0);
    wire_short_string(out, name);
    wire_short_string(out, topology->exchange);
    wire_short_string(out, key);
    wire_u8(out, 0);
    wire_table_end(out, wire_table_begin(out));
    wire_frame_end(out);
    struct wire_reader reply;
    return connection_call(connection, QUEUE_BIND_OK, &reply);
}

static int
exchange_declare(struct topology *topology, struct connection *connection, bool passive)
{
    struct wire_buffer *out = &connection->out;
    wire_method_begin(out, topology->next_channel, EXCHANGE_DECLARE);
    wire_u16(out, 0);
    wire_short_string(out, topology->exchange);
    wire_short_string(out, topology->exchange_type);
    wire_u8(out, (uint8_t)((passive ? 1 : 0) | (topology->options->durable ? 2 : 0)));
    wire_table_end(out, wire_table_begin(out));
    wire_frame_end(out);
    struct wire_reader reply;
    return connection_call(connection, EXCHANGE_DECLARE_OK, &reply);
}

static int
exchange_delete(struct topology *topology, struct connection *connection)
{
    struct wire_buffer *out = &connection->out;
    wire_method_begin(out, topology->next_channel, EXCHANGE_DELETE);
    wire_u16(out, 0);
    wire_short_string(out, topology->exchange);
    wire_u8(out, 0);
    wire_frame_end(out);
    struct wire_reader reply;
    if (connection_call(connection, EXCHANGE_DELETE_OK, &reply) == 0)
        return 0;
    return was_not_found(topology, connection) ? 0 : -1;
}

static int
make_exchange(struct topology *topology, struct connection *connection)
{
    if (topology->exchange[0] == '\0')
        return 0;
    if (topology->options->fanout) {
        if (exchange_delete(topology, connection) < 0)
            return -1;
    } else {
        if (exchange_declare(topology, connection, true) == 0)
            return 0;
        if (!was_not_found(topology, connection))
            return -1;
    }
    if (exchange_declare(topology, connection, false) < 0)
        return -1;
    topology->made_exchange = true;
    return 0;
}

static int
make_queue(struct topology *topology, struct connection *connection, uint64_t i)
{
    char name[TOPOLOGY_NAME_SIZE], key[TOPOLOGY_NAME_SIZE];
    topology_queue_name(topology, i, name);
    if (topology->options->queue) {
        if (queue_declare(topology, connection, name, true) == 0) {
            topology->made_queues = false;
        } else if (!was_not_found(topology, connection)
                   || queue_declare(topology, connection, name, false) < 0) {
            return -1;
        } else {
            topology->made_queues = true;
        }
    } else {
        topology->made_queues = true;
        if (queue_delete(topology, connection, name) < 0
            || queue_declare(topology, connection, name, false) < 0)
            return -1;
    }
    if (topology->exchange[0] == '\0')
        return 0;
    topology_routing_key(topology, i, key);
    return queue_bind(topology, connection, name, key);
}

/* How many queues each message reaches, where that follows from the exchange type. */
static uint64_t
copies_expected(const struct topology *topology)
{
    const struct options *options = topology->options;
    if (topology->exchange[0] == '\0')
        return options->routing_key ? 0 : 1;
    if (strcmp(topology->exchange_type, "fanout") == 0)
        return topology->queues;
    if (!topology->made_exchange)
        return 0; /* who knows what else is bound, and what its type is */
    /* A topic binding matches a key that is spelled like it, too. */
    if (strcmp(topology->exchange_type, "direct") == 0
        || strcmp(topology->exchange_type, "topic") == 0)
        return options->routing_key ? topology->queues : 1;
    return 0;
}

int
topology_make(struct topology *topology, const struct options *options,
              struct connection *connection)
{
    *topology = (struct topology){
        .options = options, .queues = options->queues, .exchange_type = options->exchange_type};
    if (options->fanout) {
        topology->exchange_type = "fanout";
        snprintf(topology->exchange, sizeof(topology->exchange), "%s-fanout",
                 options->queue_prefix);
    } else if (options->exchange) {
        snprintf(topology->exchange, sizeof(topology->exchange), "%s", options->exchange);
    }
    if (topology_channel(topology, connection) < 0 || make_exchange(topology, connection) < 0)
        return -1;
    for (uint64_t i = 0; i < topology->queues; i++) {
        if (make_queue(topology, connection, i) < 0)
            return -1;
    }
    topology->copies = copies_expected(topology);
    return 0;
}

int
topology_remove(struct topology *topology, struct connection *connection)
{
    if (topology->options->keep)
        return 0;
    for (uint64_t i = 0; topology->made_queues && i < topology->queues; i++) {
        char name[TOPOLOGY_NAME_SIZE];
        topology_queue_name(topology, i, name);
        if (queue_delete(topology, connection, name) < 0)
            return -1;
    }
    return topology->made_exchange ? exchange_delete(topology, connection) : 0;
}
