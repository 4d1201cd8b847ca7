/* Dead letters: see the header. */
#include "broker/dead_letter.h"

#include <stdio.h>
#include <stdlib.h>

#include "amqp/table.h"
#include "base/compiler.h"

static const char *const reason_names[] = {
    [DEPARTS_REJECTED] = "rejected",
    [DEPARTS_EXPIRED] = "expired",
    [DEPARTS_MAXLEN] = "maxlen",
    [DEPARTS_DELIVERY_LIMIT] = "delivery_limit",
};

static bool
is_text(struct slice table, const char *name, struct slice text)
{
    struct amqp_value value;
    return amqp_table_find(table, slice_from(name), &value) && value.type == 'S'
           && slice_equal(value.bytes, text);
}

static void
put_text(struct amqp_table_builder *builder, const char *name, struct slice text)
{
    amqp_table_builder_put_string(builder, slice_from(name), text);
}

/* The first entry of a death for this queue and reason. */
static void
put_new_death(struct amqp_table_builder *builder, const struct death *death,
              const struct amqp_properties *properties, int64_t wall_ms)
{
    const struct message *message = death->message;
    struct slice keys[MESSAGE_KEYS_MAX];
    amqp_table_builder_begin_table(builder, SLICE(""));
    amqp_table_builder_put_int64(builder, SLICE("count"), 1);
    put_text(builder, "reason", slice_from(reason_names[death->reason]));
    put_text(builder, "queue", death->queue_name);
    amqp_table_builder_put_timestamp(builder, SLICE("time"), (uint64_t)(wall_ms / 1000));
    put_text(builder, "exchange", message_exchange(message));
    amqp_table_builder_begin_array(builder, SLICE("routing-keys"));
    amqp_table_builder_put_string(builder, SLICE(""), message_routing_key(message));
    size_t count = message_more_keys(properties->headers, "CC", keys, MESSAGE_KEYS_MAX);
    for (size_t i = 0; i < count; i++)
        amqp_table_builder_put_string(builder, SLICE(""), keys[i]);
    amqp_table_builder_end_array(builder);
    if ((properties->flags & AMQP_HAS_EXPIRATION) != 0)
        put_text(builder, "original-expiration", properties->expiration);
    amqp_table_builder_end_table(builder);
}

/* The same once more: count + 1, all else as it was. */
static void
put_death_again(struct amqp_table_builder *builder, struct slice death)
{
    struct amqp_table_iterator at = amqp_table_begin(death);
    struct slice name;
    struct amqp_value value;
    amqp_table_builder_begin_table(builder, SLICE(""));
    while (amqp_table_next(&at, &name, &value) == 1) {
        if (slice_is(name, "count") && amqp_value_is_integer(&value) && value.integer < INT64_MAX)
            amqp_table_builder_put_int64(builder, name, value.integer + 1);
        else
            amqp_table_builder_put_value(builder, name, &value);
    }
    amqp_table_builder_end_table(builder);
}

/* x-death: an array of tables, one per queue and reason, the latest first. */
static void
put_deaths(struct amqp_table_builder *builder, const struct death *death,
           const struct amqp_properties *properties, int64_t wall_ms)
{
    struct slice reason = slice_from(reason_names[death->reason]);
    struct amqp_value deaths = {.type = 'A', .bytes = {"", 0}}, earlier;
    if (!amqp_table_find(properties->headers, SLICE("x-death"), &deaths) || deaths.type != 'A')
        deaths.bytes = (struct slice){"", 0};

    const char *same = NULL;
    amqp_table_builder_begin_array(builder, SLICE("x-death"));
    struct amqp_table_iterator at = amqp_table_begin(deaths.bytes);
    while (same == NULL && amqp_array_next(&at, &earlier) == 1) {
        if (earlier.type == 'F' && is_text(earlier.bytes, "queue", death->queue_name)
            && is_text(earlier.bytes, "reason", reason)) {
            same = earlier.bytes.data;
            put_death_again(builder, earlier.bytes);
        }
    }
    if (same == NULL)
        put_new_death(builder, death, properties, wall_ms);
    at = amqp_table_begin(deaths.bytes);
    while (amqp_array_next(&at, &earlier) == 1)
        if (earlier.type != 'F' || earlier.bytes.data != same)
            amqp_table_builder_put_value(builder, SLICE(""), &earlier);
    amqp_table_builder_end_array(builder);
}

static void
put_death_summary(struct amqp_table_builder *builder, const struct death *death, const char *which)
{
    const struct {
        const char *what;
        struct slice value;
    } items[] = {
        {"reason", slice_from(reason_names[death->reason])},
        {"queue", death->queue_name},
        {"exchange", message_exchange(death->message)},
    };
    for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
        char name[32];
        snprintf(name, sizeof(name), "x-%s-death-%s", which, items[i].what);
        put_text(builder, name, items[i].value);
    }
}

/* Whether it has died before: then its first death has been told. What a publisher says of deaths
 * without a history is not believed. */
static bool
has_died(const struct amqp_properties *properties)
{
    struct amqp_value value;
    return amqp_table_find(properties->headers, SLICE("x-death"), &value) && value.type == 'A'
           && amqp_table_find(properties->headers, SLICE("x-first-death-reason"), &value);
}

static bool
is_rewritten(const struct death *death, struct slice name, bool has_died)
{
    return slice_is(name, "x-death") || slice_starts_with(name, SLICE("x-last-death-"))
           || (!has_died && slice_starts_with(name, SLICE("x-first-death-")))
           || (death->has_routing_key && (slice_is(name, "CC") || slice_is(name, "BCC")));
}

/* The headers of the dead letter, into the builder. */
static void
put_headers(struct amqp_table_builder *builder, const struct death *death,
            const struct amqp_properties *properties, int64_t wall_ms)
{
    struct amqp_table_iterator at = amqp_table_begin(properties->headers);
    struct slice name;
    struct amqp_value value;
    put_deaths(builder, death, properties, wall_ms);
    put_death_summary(builder, death, "last");
    bool is_known = has_died(properties);
    if (!is_known)
        put_death_summary(builder, death, "first");
    while (amqp_table_next(&at, &name, &value) == 1)
        if (!is_rewritten(death, name, is_known))
            amqp_table_builder_put_value(builder, name, &value);
}

/* A delayed message says that its delay is over by a negative x-delay. */
static void
put_undelayed_headers(struct amqp_table_builder *builder, const struct amqp_properties *properties)
{
    struct amqp_table_iterator at = amqp_table_begin(properties->headers);
    struct slice name;
    struct amqp_value value;
    while (amqp_table_next(&at, &name, &value) == 1) {
        if (slice_is(name, "x-delay") && amqp_value_is_integer(&value) && value.integer > 0)
            amqp_table_builder_put_int64(builder, name, -value.integer);
        else
            amqp_table_builder_put_value(builder, name, &value);
    }
}

struct message *
dead_letter_new(const struct death *death, int64_t wall_ms, struct amqp_properties *properties)
{
    const struct message *message = death->message;
    struct amqp_table_builder headers;
    struct message *rewritten = NULL;
    uint8_t *wire = NULL;
    bool is_dead_letter = death->reason != DEPARTS_DELAY_OVER;

    if (!amqp_properties_decode(message_properties(message), properties))
        return NULL; /* cannot be: they were found valid when they came */
    amqp_table_builder_init(&headers);
    if (is_dead_letter)
        put_headers(&headers, death, properties, wall_ms);
    else
        put_undelayed_headers(&headers, properties);
    properties->headers = amqp_table_builder_finish(&headers);
    properties->flags |= AMQP_HAS_HEADERS;
    if (amqp_table_builder_failed(&headers))
        goto out;
    struct message_parts parts = {
        .exchange = is_dead_letter ? death->exchange : message_exchange(message),
        .routing_key = death->has_routing_key ? death->routing_key : message_routing_key(message),
        .decoded = properties,
        .expiration_ms = is_dead_letter ? MESSAGE_NO_EXPIRATION : message->expiration_ms,
    };
    if (is_dead_letter) {
        properties->flags &= (uint16_t)~AMQP_HAS_EXPIRATION;
        properties->expiration = (struct slice){0};
    }
    size_t size = amqp_properties_size(properties);
    wire = malloc(size);
    if (wire == NULL)
        goto out;
    struct amqp_writer writer = amqp_writer_of(wire, size);
    amqp_properties_encode(&writer, properties);
    parts.properties = (struct slice){(const char *)wire, size};
    rewritten = message_derive(message, &parts);
    if (rewritten != NULL) {
        if ((message->flags & MESSAGE_HAS_BCC) != 0 && !death->has_routing_key)
            rewritten->flags |= MESSAGE_HAS_BCC;
        (void)amqp_properties_decode(message_properties(rewritten), properties);
    }
out:
    free(wire);
    amqp_table_builder_free(&headers);
    return rewritten;
}

bool
dead_letter_may_enter(const struct message *message, struct slice queue_name)
{
    struct amqp_value deaths, death;
    if (!amqp_table_find(message_headers(message), SLICE("x-death"), &deaths) || deaths.type != 'A')
        return true;
    struct amqp_table_iterator at = amqp_table_begin(deaths.bytes);
    while (amqp_array_next(&at, &death) == 1) {
        if (death.type != 'F')
            continue;
        if (is_text(death.bytes, "reason", SLICE("rejected")))
            return true;
        if (is_text(death.bytes, "queue", queue_name))
            return false;
    }
    return true;
}
