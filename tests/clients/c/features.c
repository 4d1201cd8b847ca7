/* The feature steps with librabbitmq, which leaves every wait to its caller.
 *
 * Each step runs in a process of its own with a connection of its own, so that one which fails or
 * hangs does not end the others. */
#include "client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    STEP_LIMIT_S = 30,
    RECOVERY_LIMIT_S = 90,
    CONNECT_ATTEMPTS = 100,
    CONFIRMED_MESSAGES = 1000,
    LARGE_BODY_BYTES = 1 << 20,
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

const char *step_name;

static const char *
take_one(struct client *client, const char *queue)
{
    const char *tag = client_consume(client, queue, true);
    struct received received = client_next(client);

    client_cancel(client, tag);
    return received.body;
}

/* Demands that exactly these bodies are in the queue, in this order; wanted ends with NULL. */
static void
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

static void
ack(struct client *client, uint64_t delivery_tag)
{
    int status = amqp_basic_ack(client->connection, client->channel, delivery_tag, 0);

    expect(status == AMQP_STATUS_OK, "basic.ack is sent");
}

static void
refused_passive_declare(struct client *client, const char *queue, int code, const char *text)
{
    amqp_queue_declare(client->connection, client->channel, amqp_cstring_bytes(queue), 1, 0, 0, 0,
                       amqp_empty_table);
    client_refused(client, code, text);
}

static struct client
connect_again(const struct client *client)
{
    struct client second = *client;

    client_connect(&second);
    return second;
}

static void
hello(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);

    client_publish(client, "", queue, "Hello World!", NULL);
    expect_text(take_one(client, queue), "Hello World!", "body");
}

static void
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

static void
publish_subscribe(struct client *client)
{
    const char *exchange = client_exchange(client, "fanout");
    const char *queues[3];

    for (size_t i = 0; i < COUNT(queues); i++) {
        queues[i] = client_queue(client, amqp_empty_table);
        expect(strncmp(queues[i], "amq.gen-", 8) == 0, "the broker names the queue amq.gen-");
        client_bind(client, queues[i], exchange, "", amqp_empty_table);
    }
    client_publish(client, exchange, "ignored", "to all", NULL);
    for (size_t i = 0; i < COUNT(queues); i++) {
        expect_bodies(client, queues[i], (const char *[]){"to all", NULL});
    }
}

/* Binds one queue, publishes each key as its own body, and demands those that should arrive. */
static void
route(struct client *client, const char *type, const char *const *bindings, const char *const *keys,
      const char *const *wanted)
{
    const char *exchange = client_exchange(client, type);
    const char *queue = client_queue(client, amqp_empty_table);

    for (; *bindings != NULL; bindings++) {
        client_bind(client, queue, exchange, *bindings, amqp_empty_table);
    }
    for (; *keys != NULL; keys++) {
        client_publish(client, exchange, *keys, *keys, NULL);
    }
    expect_bodies(client, queue, wanted);
}

static void
routing(struct client *client)
{
    static const char *const bindings[] = {"error", "warning", NULL};
    static const char *const keys[] = {"info", "error", "warning", "debug", NULL};

    route(client, "direct", bindings, keys, bindings);
}

static void
topics(struct client *client)
{
    static const char *const bindings[] = {"*.*.rabbit", "lazy.#", NULL};
    static const char *const keys[] = {
        "quick.orange.rabbit",      "lazy.orange.elephant",
        "quick.orange.fox",         "lazy",
        "lazy.pink.rabbit.x",       "orange",
        "quick.orange.male.rabbit", NULL,
    };
    static const char *const wanted[] = {"quick.orange.rabbit", "lazy.orange.elephant", "lazy",
                                         "lazy.pink.rabbit.x", NULL};

    route(client, "topic", bindings, keys, wanted);
}

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

static void
rpc(struct client *client)
{
    call(client, client_queue(client, amqp_empty_table));
}

static void
direct_reply_to(struct client *client)
{
    call(client, "amq.rabbitmq.reply-to");
}

static void
select_confirms(struct client *client)
{
    amqp_confirm_select(client->connection, client->channel);
    client_check(client, "confirm.select");
}

static void
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

static void
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

static void
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

static void
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

/* A queue whose dead messages go to graveyard. */
static const char *
queue_with_graveyard(struct client *client, const char *graveyard, int ttl_ms)
{
    amqp_table_entry_t arguments[] = {
        text_entry("x-dead-letter-exchange", ""),
        text_entry("x-dead-letter-routing-key", graveyard),
        number_entry("x-message-ttl", ttl_ms),
    };
    amqp_table_t table = {ttl_ms > 0 ? 3 : 2, arguments};

    return client_queue(client, table);
}

static const amqp_field_value_t *
field(const amqp_table_t *table, const char *key, int kind)
{
    const amqp_field_value_t *value = table_find(table, key);

    if (value == NULL) {
        fail("the field %s is missing", key);
    }
    if (value->kind != kind) {
        fail("%s: got type %c, wanted %c", key, value->kind, kind);
    }
    return value;
}

static void
expect_field(const amqp_table_t *table, const char *key, const char *wanted)
{
    expect_bytes(field(table, key, AMQP_FIELD_KIND_UTF8)->value.bytes, wanted, key);
}

/* The one entry of the x-death header. */
static const amqp_table_t *
only_death(const struct received *dead)
{
    const amqp_array_t *deaths;

    expect(dead->properties._flags & AMQP_BASIC_HEADERS_FLAG, "the dead message has headers");
    deaths = &field(&dead->properties.headers, "x-death", AMQP_FIELD_KIND_ARRAY)->value.array;
    expect_number(deaths->num_entries, 1, "entries of x-death");
    expect_number(deaths->entries[0].kind, AMQP_FIELD_KIND_TABLE, "type of the entry");
    return &deaths->entries[0].value.table;
}

static struct received
exhume(struct client *client, const char *graveyard)
{
    const char *tag = client_consume(client, graveyard, true);
    struct received dead = client_next(client);

    client_cancel(client, tag);
    return dead;
}

static void
dead_letter(struct client *client)
{
    amqp_table_entry_t mine = number_entry("mine", 1);
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_HEADERS_FLAG, .headers = {1, &mine}};
    const char *graveyard = client_queue(client, amqp_empty_table);
    const char *queue = queue_with_graveyard(client, graveyard, 0);
    struct received received;
    struct received dead;
    const amqp_table_t *headers = &dead.properties.headers;
    const amqp_table_t *death;
    const amqp_array_t *keys;
    uint64_t now_s;
    uint64_t death_s;

    client_publish(client, "", queue, "dead", &properties);
    expect(client_get(client, queue, false, &received), "the message is there");
    amqp_basic_nack(client->connection, client->channel, received.delivery_tag, 0, 0);
    dead = exhume(client, graveyard);
    expect_text(dead.body, "dead", "body");
    death = only_death(&dead);
    expect_number(field(headers, "mine", AMQP_FIELD_KIND_I32)->value.i32, 1, "mine");
    expect_field(headers, "x-first-death-reason", "rejected");
    expect_number(death->num_entries, 6, "fields of the death");
    expect_field(death, "queue", queue);
    expect_field(death, "reason", "rejected");
    expect_field(death, "exchange", "");
    expect_number(field(death, "count", AMQP_FIELD_KIND_I64)->value.i64, 1, "count");
    keys = &field(death, "routing-keys", AMQP_FIELD_KIND_ARRAY)->value.array;
    expect_number(keys->num_entries, 1, "routing keys");
    expect_number(keys->entries[0].kind, AMQP_FIELD_KIND_UTF8, "type of the routing key");
    expect_bytes(keys->entries[0].value.bytes, queue, "routing key");
    now_s = (uint64_t)time(NULL);
    death_s = field(death, "time", AMQP_FIELD_KIND_TIMESTAMP)->value.u64;
    expect(death_s + 60 > now_s && death_s < now_s + 60, "the time of death is now");
}

static void
ttl(struct client *client)
{
    amqp_basic_properties_t expiring = {._flags = AMQP_BASIC_EXPIRATION_FLAG,
                                        .expiration = amqp_cstring_bytes("60")};
    const char *graveyard = client_queue(client, amqp_empty_table);
    const struct {
        const char *queue;
        const amqp_basic_properties_t *properties;
    } ways[] = {
        {queue_with_graveyard(client, graveyard, 50), NULL},
        {queue_with_graveyard(client, graveyard, 0), &expiring},
    };

    for (size_t i = 0; i < COUNT(ways); i++) {
        struct received dead;
        const amqp_table_t *death;

        client_publish(client, "", ways[i].queue, ways[i].queue, ways[i].properties);
        dead = exhume(client, graveyard);
        death = only_death(&dead);
        expect_text(dead.body, ways[i].queue, "body");
        expect_field(death, "queue", ways[i].queue);
        expect_field(death, "reason", "expired");
        expect(!(dead.properties._flags & AMQP_BASIC_EXPIRATION_FLAG),
               "a dead message does not expire again");
    }
}

static void
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

static void
publish_with_headers(struct client *client, const char *exchange, const char *body,
                     amqp_table_entry_t *entries, int count)
{
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_HEADERS_FLAG,
                                          .headers = {count, entries}};

    client_publish(client, exchange, "", body, &properties);
}

static void
headers(struct client *client)
{
    const char *exchange = client_exchange(client, "headers");
    const char *both = client_queue(client, amqp_empty_table);
    const char *either = client_queue(client, amqp_empty_table);
    amqp_table_entry_t fields[] = {text_entry("format", "pdf"), number_entry("pages", 3)};
    amqp_table_entry_t other = number_entry("pages", 4);
    const struct {
        const char *queue;
        const char *match;
    } bindings[] = {{both, "all"}, {either, "any"}};

    for (size_t i = 0; i < COUNT(bindings); i++) {
        amqp_table_entry_t arguments[] = {text_entry("x-match", bindings[i].match), fields[0],
                                          fields[1]};
        client_bind(client, bindings[i].queue, exchange, "", (amqp_table_t){3, arguments});
    }
    publish_with_headers(client, exchange, "0", fields, 2);
    publish_with_headers(client, exchange, "1", fields, 1);
    publish_with_headers(client, exchange, "2", &other, 1);
    expect_bodies(client, either, (const char *[]){"0", "1", NULL});
    expect_bodies(client, both, (const char *[]){"0", NULL});
}

static void
requeue_unacknowledged(struct client *client)
{
    amqp_basic_recover(client->connection, client->channel, 1);
    client_check(client, "basic.recover");
}

static void
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

static void
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

static void
exclusive(struct client *client)
{
    const char *queue = client_queue(client, amqp_empty_table);
    struct client second = connect_again(client);

    refused_passive_declare(&second, queue, 405, "RESOURCE_LOCKED");
    client_close(&second);
}

static void
missing_queue(struct client *client)
{
    struct client other = client_open_channel(client);

    refused_passive_declare(&other, "clients.librabbitmq.missing", 404, "NOT_FOUND - no queue '");
    hello(client);
}

static void
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

static void
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

static void
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

static void
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

static void
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

static const struct step {
    const char *name;
    void (*run)(struct client *client);
} steps[] = {
    {"hello", hello},
    {"work-queue", work_queue},
    {"publish-subscribe", publish_subscribe},
    {"routing", routing},
    {"topics", topics},
    {"rpc", rpc},
    {"direct-reply-to", direct_reply_to},
    {"confirms", confirms},
    {"mandatory-return", mandatory_return},
    {"get", get},
    {"requeue", requeue},
    {"dead-letter", dead_letter},
    {"ttl", ttl},
    {"priority", priority},
    {"headers", headers},
    {"transaction", transaction},
    {"recover", recover},
    {"exclusive", exclusive},
    {"missing-queue", missing_queue},
    {"redeclare", redeclare},
    {"cancel-notify", cancel_notify},
    {"large-body", large_body},
    {"close", close_connection},
    {"recovery", recovery},
};

static _Noreturn void
run_in_child(const struct step *step, struct client client)
{
    alarm(step->run == recovery ? RECOVERY_LIMIT_S : STEP_LIMIT_S);
    client_connect(&client);
    step->run(&client);
    client_close(&client);
    printf("ok %s\n", step->name);
    fflush(stdout);
    _exit(0);
}

static void
run_step(const struct step *step, const struct client *client)
{
    pid_t child;
    int status;

    step_name = step->name;
    child = fork();
    if (child == 0) {
        run_in_child(step, *client);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("a process for the step");
        exit(1);
    }
    if (WIFSIGNALED(status)) {
        printf("not ok %s: %s\n", step->name,
               WTERMSIG(status) == SIGALRM ? "the step took too long"
                                           : strsignal(WTERMSIG(status)));
        fflush(stdout);
    }
}

/* Runs the named steps, or all but recovery if there are no names. */
int
main(int argc, char **argv)
{
    struct client client = {0};

    if (argc < 3) {
        fprintf(stderr, "usage: %s HOST PORT [STEP...]\n", argv[0]);
        return 2;
    }
    client.host = argv[1];
    client.port = atoi(argv[2]);
    for (size_t i = 0; i < COUNT(steps); i++) {
        bool is_wanted = argc == 3 && steps[i].run != recovery;

        for (int j = 3; j < argc; j++) {
            is_wanted = is_wanted || strcmp(argv[j], steps[i].name) == 0;
        }
        if (is_wanted) {
            run_step(&steps[i], &client);
        }
    }
    return 0;
}
