/* The steps about requests and their answers. */
#include "steps.h"

#include <stdio.h>
#include <stdlib.h>

/* Serves the one request that waits: answers with twice the number. */
static void
serve(struct client *server)
{
    struct received request = client_next(server);
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CORRELATION_ID_FLAG,
        .correlation_id = request.properties.correlation_id,
    };
    amqp_bytes_t reply_to = request.properties.reply_to;
    char key[128];
    char answer[16];

    expect_number(request.channel, server->channel, "channel of the request");
    expect(request.properties._flags & AMQP_BASIC_REPLY_TO_FLAG, "the request has a reply-to");
    snprintf(key, sizeof key, "%.*s", (int)reply_to.len, (char *)reply_to.bytes);
    snprintf(answer, sizeof answer, "%d", 2 * atoi(request.body));
    client_publish(server, "", key, answer, &properties);
    ack(server, request.delivery_tag);
}

static void
call(struct client *client, const char *reply_to)
{
    const char *requests = client_queue(client, amqp_empty_table);
    struct client server = client_open_channel(client);
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG,
        .reply_to = amqp_cstring_bytes(reply_to),
        .correlation_id = amqp_cstring_bytes("call-7"),
    };
    struct received answer;

    client_consume(&server, requests, false);
    client_consume(client, reply_to, true);
    client_publish(client, "", requests, "21", &properties);
    serve(&server);
    answer = client_next(client);
    expect_number(answer.channel, client->channel, "channel of the answer");
    expect_text(answer.body, "42", "answer");
    expect_bytes(answer.properties.correlation_id, "call-7", "correlation id");
}

void
rpc(struct client *client)
{
    call(client, client_queue(client, amqp_empty_table));
}

void
direct_reply_to(struct client *client)
{
    call(client, "amq.rabbitmq.reply-to");
}
