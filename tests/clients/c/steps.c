/* What steps of several subjects have in common: see the header. */
#include "steps.h"

void
expect_bodies(struct client *client, const char *queue, const char *const *wanted)
{
    struct received received;

    for (; *wanted != NULL; wanted++) {
        if (!client_get(client, queue, true, &received)) {
            fail("%s: empty, wanted '%s'", queue, *wanted);
        }
        expect_text(received.body, *wanted, "body");
    }
    expect(!client_get(client, queue, true, &received), "no more messages are in the queue");
}

void
ack(struct client *client, uint64_t delivery_tag)
{
    int status = amqp_basic_ack(client->connection, client->channel, delivery_tag, 0);

    expect(status == AMQP_STATUS_OK, "basic.ack is sent");
}

void
refused_passive_declare(struct client *client, const char *queue, int code, const char *text)
{
    amqp_queue_declare(client->connection, client->channel, amqp_cstring_bytes(queue), 1, 0, 0, 0,
                       amqp_empty_table);
    client_refused(client, code, text);
}

void
requeue_unacknowledged(struct client *client)
{
    amqp_basic_recover(client->connection, client->channel, 1);
    client_check(client, "basic.recover");
}
