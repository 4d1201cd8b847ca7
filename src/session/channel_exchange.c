/* exchange.declare, delete, bind, unbind. */
#include <errno.h>
#include <stdlib.h>

#include "broker/queue.h"
#include "session/channel.h"
#include "session/permission.h"

/* A new delayed exchange gets what it needs. */
static int
give_delay_store(struct channel *channel, struct slice name)
{
    struct connection *connection = channel->connection;
    struct shard *shard = connection->host->shard;
    struct exchange *exchange = exchange_find(shard->broker->catalogue, connection->vhost, name);
    if (exchange == NULL || !exchange_needs_delay_store(exchange))
        return 0;
    return queue_new_delay_store(shard, connection->vhost, exchange, 0);
}

/* May the user declare it? Nothing is asked for what is refused anyway. Whether it was a new one is
 * said too: more is asked for that. */
static int
check_declare(struct channel *channel, const struct exchange_declaration *declaration, bool *is_new,
              struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    struct slice name = declaration->name;
    *is_new = true;
    if (declaration->passive || name.size == 0 || !exchange_type_is_known(declaration->type))
        return 0;
    if (permission_check(channel, PERMISSION_EXCHANGE, ACCESS_CONFIGURE, name, error) != 0)
        return -1;
    catalogue_lock(catalogue);
    *is_new = exchange_find(catalogue, connection->vhost, name) == NULL;
    catalogue_unlock(catalogue);
    if (!*is_new || slice_starts_with(name, SLICE("amq.")))
        return 0;
    static const char *const arguments[] = {"alternate-exchange", "x-dead-letter-exchange"};
    for (size_t i = 0; i < ARRAY_SIZE(arguments); i++)
        if (permission_check_forwarding(channel, PERMISSION_EXCHANGE, name, declaration->arguments,
                                        arguments[i], error)
            != 0)
            return -1;
    return 0;
}

int
exchange_declare_method(struct channel *channel, const union amqp_method *method,
                        struct amqp_error *error)
{
    const struct amqp_exchange_declare *declare = &method->exchange_declare;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char room[256];
    struct exchange_declaration declaration = {
        .name = channel_strip_name(declare->exchange, room),
        .type = declare->type,
        .passive = declare->passive,
        .durable = declare->durable,
        .auto_delete = declare->auto_delete,
        .internal = declare->internal,
        .arguments = declare->arguments,
    };
    bool created;
    for (bool is_new = false;;) {
        if (check_declare(channel, &declaration, &is_new, error) != 0)
            return -1;
        catalogue_lock(catalogue);
        if (is_new || exchange_find(catalogue, connection->vhost, declaration.name) != NULL)
            break;
        catalogue_unlock(catalogue); /* deleted meanwhile: what a new one needs was not asked */
    }
    int status = exchange_declare(catalogue, connection->vhost, &declaration, &created, error);
    if (status == 0 && created && give_delay_store(channel, declaration.name) != 0) {
        struct amqp_error ignored;
        if (exchange_delete(catalogue, connection->vhost, declaration.name, false, &ignored) != 0)
            connection_break(connection, "out of memory");
        status = channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    }
    catalogue_unlock(catalogue);
    if (status != 0)
        return -1;
    if (!declare->no_wait)
        CONNECTION_SEND(connection, channel->number, exchange_declare_ok, 16, {.no_fields = 0});
    return 0;
}

int
exchange_delete_method(struct channel *channel, const union amqp_method *method,
                       struct amqp_error *error)
{
    const struct amqp_exchange_delete *request = &method->exchange_delete;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char room[256];
    struct slice name = channel_strip_name(request->exchange, room);
    bool is_refused_anyway = name.size == 0 || slice_starts_with(name, SLICE("amq."));
    if (!is_refused_anyway
        && permission_check(channel, PERMISSION_EXCHANGE, ACCESS_CONFIGURE, name, error) != 0)
        return -1;
    catalogue_lock(catalogue);
    int status = exchange_delete(catalogue, connection->vhost, name, request->if_unused, error);
    catalogue_unlock(catalogue);
    if (status == 0 && !request->no_wait)
        CONNECTION_SEND(connection, channel->number, exchange_delete_ok, 16, {.no_fields = 0});
    return status;
}

int
exchange_bind_method(struct channel *channel, const union amqp_method *method,
                     struct amqp_error *error)
{
    const struct amqp_exchange_bind *bind = &method->exchange_bind;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char source_room[256], destination_room[256];
    struct binding_request request = {
        .source = channel_strip_name(bind->source, source_room),
        .destination = channel_strip_name(bind->destination, destination_room),
        .destination_is_exchange = true,
        .routing_key = bind->routing_key,
        .arguments = bind->arguments,
        .connection = connection->ref,
    };
    struct binding_history history;
    if (permission_check_binding(channel, &request, error) != 0)
        return -1;
    catalogue_lock(catalogue);
    int status = catalogue_bind(catalogue, connection->vhost, &request, &history, error);
    catalogue_unlock(catalogue);
    if (status == 0 && !bind->no_wait)
        CONNECTION_SEND(connection, channel->number, exchange_bind_ok, 16, {.no_fields = 0});
    return status;
}

int
exchange_unbind_method(struct channel *channel, const union amqp_method *method,
                       struct amqp_error *error)
{
    const struct amqp_exchange_unbind *unbind = &method->exchange_unbind;
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    char source_room[256], destination_room[256];
    struct binding_request request = {
        .source = channel_strip_name(unbind->source, source_room),
        .destination = channel_strip_name(unbind->destination, destination_room),
        .destination_is_exchange = true,
        .routing_key = unbind->routing_key,
        .arguments = unbind->arguments,
        .connection = connection->ref,
    };
    if (permission_check_binding(channel, &request, error) != 0)
        return -1;
    catalogue_lock(catalogue);
    int status = catalogue_unbind(catalogue, connection->vhost, &request, error);
    catalogue_unlock(catalogue);
    if (status == 0 && !unbind->no_wait)
        CONNECTION_SEND(connection, channel->number, exchange_unbind_ok, 16, {.no_fields = 0});
    return status;
}
