/* The steps about what a publisher is told, and about what becomes of what he sends. */
#include "steps.h"

#include <string.h>

enum {
    CONFIRMED_MESSAGES = 1000,
    LARGE_BODY_BYTES = 1 << 20,
};

static void
select_confirms(struct client *client)
{
    amqp_confirm_select(client->connection, client->channel);
    client_check(client, "confirm.select");
}

void
confirms(struct client *client)
{
    amqp_basic_properties_t persistent = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                          .delivery_mode = 2};
    const char *queue = client_queue(client, amqp_empty_table);
    struct client many = client_open_channel(client);
    bool is_confirmed[CONFIRMED_MESSAGES + 1] = {false};
    int confirmed = 0;
    amqp_basic_ack_t *single;

    select_confirms(client);
    client_publish(client, "", queue, "single", &persistent);
    single = client_wait_method(client, AMQP_BASIC_ACK_METHOD, "the single confirm");
    expect_number(single->delivery_tag, 1, "delivery tag");

    select_confirms(&many);
    for (int i = 0; i < CONFIRMED_MESSAGES; i++) {
        client_publish(&many, "", queue, "one of many", NULL);
    }
    while (confirmed < CONFIRMED_MESSAGES) {
        amqp_basic_ack_t *acked = client_wait_method(&many, AMQP_BASIC_ACK_METHOD, "a confirm");
        uint64_t last = acked->delivery_tag;

        expect(last >= 1 && last <= CONFIRMED_MESSAGES, "the confirmed message was published");
        for (uint64_t tag = acked->multiple ? 1 : last; tag <= last; tag++) {
            confirmed += !is_confirmed[tag];
            is_confirmed[tag] = true;
        }
    }
    expect_number(client_count(client, queue), CONFIRMED_MESSAGES + 1, "messages");
}

void
mandatory_return(struct client *client)
{
    amqp_basic_return_t *returned;
    amqp_message_t message;
    amqp_basic_ack_t *confirm;
    int status;

    select_confirms(client);
    status = amqp_basic_publish(client->connection, client->channel, amqp_empty_bytes,
                                amqp_cstring_bytes("clients.librabbitmq.nowhere"), 1, 0, NULL,
                                amqp_cstring_bytes("back to me"));
    expect(status == AMQP_STATUS_OK, "basic.publish is sent");
    returned = client_wait_method(client, AMQP_BASIC_RETURN_METHOD, "the return");
    expect_number(returned->reply_code, 312, "reply code");
    expect_bytes(returned->reply_text, "NO_ROUTE", "reply text");
    expect_bytes(returned->routing_key, "clients.librabbitmq.nowhere", "routing key");
    amqp_read_message(client->connection, client->channel, &message, 0);
    client_check(client, "content of the return");
    expect_bytes(message.body, "back to me", "body");
    confirm = client_wait_method(client, AMQP_BASIC_ACK_METHOD, "the confirm");
    expect_number(confirm->delivery_tag, 1, "delivery tag");
}

void
transaction(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);
    struct received received;

    amqp_tx_select(client->connection, client->channel);
    client_check(client, "tx.select");
    client_publish(client, "", queue, "undone", NULL);
    amqp_tx_rollback(client->connection, client->channel);
    client_check(client, "tx.rollback");
    client_publish(client, "", queue, "done", NULL);
    expect_number(client_count(client, queue), 0, "messages before commit");
    amqp_tx_commit(client->connection, client->channel);
    client_check(client, "tx.commit");
    expect(client_get(client, queue, false, &received), "the committed message is there");
    expect_text(received.body, "done", "body");
    ack(client, received.delivery_tag);
    amqp_tx_rollback(client->connection, client->channel);
    client_check(client, "tx.rollback of the ack");
    requeue_unacknowledged(client);
    expect(client_get(client, queue, false, &received), "the rolled back ack left the message");
    expect(received.is_redelivered, "the message is redelivered");
}

void
large_body(struct client *client)
{
    static unsigned char bytes[LARGE_BODY_BYTES];
    amqp_basic_properties_t persistent = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                          .delivery_mode = 2};
    const char *queue = client_queue(client, amqp_empty_table);
    struct received received;
    int status;

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)i;
    }
    status = amqp_basic_publish(client->connection, client->channel, amqp_empty_bytes,
                                amqp_cstring_bytes(queue), 0, 0, &persistent,
                                (amqp_bytes_t){sizeof bytes, bytes});
    expect(status == AMQP_STATUS_OK, "basic.publish is sent");
    client_consume(client, queue, true);
    received = client_next(client);
    expect_number(received.size_bytes, sizeof bytes, "size");
    expect(memcmp(received.body, bytes, sizeof bytes) == 0, "the body is the same");
}
