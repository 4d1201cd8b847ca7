/* The steps about what a queue is declared with: priorities, and whose it is. */
#include "steps.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void
priority(struct client *client)
{
    static const char *const bodies[] = {"1", "5", "0", "9", "5"};
    amqp_table_entry_t highest = number_entry("x-max-priority", 9);
    const char *queue = client_queue(client, (amqp_table_t){1, &highest});

    for (size_t i = 0; i < COUNT(bodies); i++) {
        amqp_basic_properties_t properties = {._flags = AMQP_BASIC_PRIORITY_FLAG,
                                              .priority = (uint8_t)atoi(bodies[i])};
        client_publish(client, "", queue, bodies[i], &properties);
    }
    expect_bodies(client, queue, (const char *[]){"9", "5", "5", "1", "0", NULL});
}

static struct client
connect_again(const struct client *client)
{
    struct client second = *client;

    client_connect(&second);
    return second;
}

void
exclusive(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);
    struct client second = connect_again(client);

    refused_passive_declare(&second, queue, 405, "RESOURCE_LOCKED");
    client_close(&second);
}

void
missing_queue(struct client *client)
{
    struct client other = client_open_channel(client);

    refused_passive_declare(&other, "clients.librabbitmq.missing", 404, "NOT_FOUND - no queue '");
    hello(client);
}

void
redeclare(struct client *client)
{
    amqp_table_entry_t limit = number_entry("x-max-length", 5);
    char name[64];

    snprintf(name, sizeof name, "clients.librabbitmq.%d.redeclared", (int)getpid());
    amqp_queue_declare(client->connection, client->channel, amqp_cstring_bytes(name), 0, 0, 1, 0,
                       amqp_empty_table);
    client_check(client, "queue.declare");
    amqp_queue_declare(client->connection, client->channel, amqp_cstring_bytes(name), 0, 0, 1, 0,
                       (amqp_table_t){1, &limit});
    client_refused(client, 406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'");
}
