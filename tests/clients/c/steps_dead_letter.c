/* The steps about messages that die: rejected, or too old. */
#include "steps.h"

#include <time.h>

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

void
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

void
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
