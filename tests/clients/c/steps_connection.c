/* The steps about connections: one that is closed, and one that the broker's death ends. */
#include "steps.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { CONNECT_ATTEMPTS = 100 };

void
close_connection(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);

    client_close(client);
    client_connect(client);
    refused_passive_declare(client, queue, 404, "NOT_FOUND - no queue '");
}

/* Tells the harness that the broker may die now; returns when it is back. */
static void
wait_for_restart(void)
{
    char line[32];

    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL || strcmp(line, "restarted\n") != 0) {
        fail("the harness did not say that the broker is back");
    }
}

void
recovery(struct client *client)
{
    const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    amqp_rpc_reply_t reply;

    hello(client);
    wait_for_restart();
    amqp_queue_declare(client->connection, client->channel, amqp_empty_bytes, 0, 0, 1, 0,
                       amqp_empty_table);
    reply = amqp_get_rpc_reply(client->connection);
    expect(reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION, "the lost connection is noticed");
    amqp_destroy_connection(client->connection);
    for (int attempt = 1; !client_try_connect(client); attempt++) {
        expect(attempt < CONNECT_ATTEMPTS, "the broker is back");
        nanosleep(&pause, NULL);
    }
    hello(client);
    publish_subscribe(client);
}
