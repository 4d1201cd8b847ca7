/* The steps about exchanges: which queues a message comes to. */
#include "steps.h"

#include <string.h>

void
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

void
routing(struct client *client)
{
    static const char *const bindings[] = {"error", "warning", NULL};
    static const char *const keys[] = {"info", "error", "warning", "debug", NULL};

    route(client, "direct", bindings, keys, bindings);
}

void
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

static void
publish_with_headers(struct client *client, const char *exchange, const char *body,
                     amqp_table_entry_t *entries, int count)
{
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_HEADERS_FLAG,
                                          .headers = {count, entries}};

    client_publish(client, exchange, "", body, &properties);
}

void
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
