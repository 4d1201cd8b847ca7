/* The steps about taking messages from a queue, and giving them back. */
#include "steps.h"

#include <string.h>

static const char *
take_one(struct client *client, const char *queue)
{
    const char *tag = client_consume(client, queue, true);
    struct received received = client_next(client);

    client_cancel(client, tag);
    return received.body;
}

void
hello(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);

    client_publish(client, "", queue, "Hello World!", NULL);
    expect_text(take_one(client, queue), "Hello World!", "body");
}

void
work_queue(struct client *client)
{
    amqp_basic_properties_t persistent = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                          .delivery_mode = 2};
    const char *queue = client_queue(client, amqp_empty_table);
    struct client other = client_open_channel(client);
    struct client *workers[] = {client, &other};
    const char *tasks[] = {"0", "1", "2", "3"};
    int shares[] = {0, 0};
    int taken[COUNT(tasks)] = {0};
    uint64_t unacknowledged = 0;

    for (size_t i = 0; i < COUNT(workers); i++) {
        amqp_basic_qos(client->connection, workers[i]->channel, 0, 1, 0);
        client_check(client, "basic.qos");
        client_consume(workers[i], queue, false);
    }
    for (size_t i = 0; i < COUNT(tasks); i++) {
        client_publish(client, "", queue, tasks[i], &persistent);
    }
    for (size_t seen = 0; seen < COUNT(tasks); seen++) {
        struct received received;

        if (seen >= COUNT(workers)) {
            expect_number(client_count(client, queue), COUNT(tasks) - seen, "messages held back");
            ack(client, unacknowledged);
        }
        received = client_next(client);
        expect(received.size_bytes == 1 && strchr("0123", *received.body), "the body is a task's");
        taken[*received.body - '0']++;
        shares[received.channel == client->channel ? 0 : 1]++;
        if (received.channel == client->channel) {
            unacknowledged = received.delivery_tag;
        }
        if (seen + 1 == COUNT(workers)) {
            expect(shares[0] == 1 && shares[1] == 1, "each worker has one message");
        }
    }
    expect_number(shares[0], 3, "share of the worker that acknowledges");
    for (size_t i = 0; i < COUNT(tasks); i++) {
        expect_number(taken[i], 1, "deliveries of one task");
    }
}

void
get(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);
    struct received received;

    expect(!client_get(client, queue, false, &received), "a new queue is empty");
    client_publish(client, "", queue, "one", NULL);
    client_publish(client, "", queue, "two", NULL);
    expect(client_get(client, queue, true, &received), "a message is there");
    expect_text(received.body, "one", "body");
    expect_number(received.messages_left, 1, "messages left");
    expect(!received.is_redelivered, "the message is new");
}

void
requeue(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);
    struct received received;

    client_publish(client, "", queue, "again", NULL);
    expect(client_get(client, queue, false, &received), "the message is there");
    amqp_basic_nack(client->connection, client->channel, received.delivery_tag, 0, 1);
    expect(client_get(client, queue, false, &received), "the message is there again");
    expect_text(received.body, "again", "body");
    expect(received.is_redelivered, "the second delivery is marked");
    amqp_basic_reject(client->connection, client->channel, received.delivery_tag, 0);
    expect(!client_get(client, queue, false, &received), "the rejected message is gone");
}

void
recover(struct client *client)
{
    static const char *const bodies[] = {"one", "two"};
    const char *queue = client_queue(client, amqp_empty_table);

    for (size_t i = 0; i < COUNT(bodies); i++) {
        client_publish(client, "", queue, bodies[i], NULL);
    }
    for (int time = 0; time < 2; time++) {
        for (size_t i = 0; i < COUNT(bodies); i++) {
            struct received received;

            expect(client_get(client, queue, false, &received), "the message is there");
            expect_text(received.body, bodies[i], "body");
            expect_number(received.is_redelivered, time == 1, "redelivered");
        }
        requeue_unacknowledged(client);
    }
}

void
cancel_notify(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);
    const char *tag = client_consume(client, queue, false);
    struct client other = client_open_channel(client);
    amqp_basic_cancel_t *cancel;

    amqp_queue_delete(other.connection, other.channel, amqp_cstring_bytes(queue), 0, 0);
    client_check(&other, "queue.delete");
    cancel = client_wait_method(client, AMQP_BASIC_CANCEL_METHOD, "the cancel");
    expect_bytes(cancel->consumer_tag, tag, "cancelled consumer");
}
