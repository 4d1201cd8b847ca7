/* What the model expects to be written on a message: its deaths (x-death and the headers beside
 * it), exchange, key and flags. */
#include "test_broker_model.h"

#include <stdio.h>

/* --- Headers ---------------------------------------------------------------------------------- */

static const char *const reasons[REASONS] = {"rejected", "expired", "maxlen", "delivery_limit", ""};

static struct slice
text_of(struct slice table, const char *name)
{
    struct amqp_value value;
    if (!amqp_table_find(table, slice_from(name), &value) || value.type != 'S')
        return SLICE("(none)");
    return value.bytes;
}

static void
differs(struct difference *difference, const char *what, struct slice is, const char *wanted)
{
    if (difference->is_there || slice_is(is, wanted))
        return;
    difference->is_there = true;
    snprintf(difference->text, sizeof(difference->text), "%s is '%.*s', not '%s'", what,
             SLICE_ARGS(is), wanted);
}

static void
number_differs(struct difference *difference, const char *what, int64_t is, int64_t wanted)
{
    if (difference->is_there || is == wanted)
        return;
    difference->is_there = true;
    snprintf(difference->text, sizeof(difference->text), "%s is %" PRId64 ", not %" PRId64, what,
             is, wanted);
}

static void
deaths_differ(struct difference *difference, const struct story *story, struct slice headers)
{
    struct amqp_value deaths = {.type = 'A', .bytes = {"", 0}}, death, value;
    uint32_t count = 0;
    if (!amqp_table_find(headers, SLICE("x-death"), &deaths))
        deaths.bytes = (struct slice){"", 0};
    struct amqp_table_iterator at = amqp_table_begin(deaths.bytes);
    for (; amqp_array_next(&at, &death) == 1; count++) {
        if (count >= story->death_count)
            continue; /* one too many */
        differs(difference, "queue of a death", text_of(death.bytes, "queue"),
                model.queues[story->deaths[count].queue].name);
        differs(difference, "reason of a death", text_of(death.bytes, "reason"),
                reasons[story->deaths[count].reason]);
        value.integer = 0;
        (void)amqp_table_find(death.bytes, SLICE("count"), &value);
        number_differs(difference, "count of a death", value.integer, story->deaths[count].count);
    }
    number_differs(difference, "number of deaths", count, story->death_count);
    if (story->death_count == 0)
        return;
    differs(difference, "x-last-death-queue", text_of(headers, "x-last-death-queue"),
            model.queues[story->deaths[0].queue].name);
    differs(difference, "x-last-death-reason", text_of(headers, "x-last-death-reason"),
            reasons[story->deaths[0].reason]);
    differs(difference, "x-first-death-queue", text_of(headers, "x-first-death-queue"),
            model.queues[story->first_queue].name);
    differs(difference, "x-first-death-reason", text_of(headers, "x-first-death-reason"),
            reasons[story->first_reason]);
}

struct difference
difference_of(const struct story *story, const struct message *message)
{
    struct difference difference = {0};
    number_differs(&difference, "message", (int64_t)uid_of(message), (int64_t)story->uid);
    differs(&difference, "exchange", message_exchange(message), story->exchange);
    differs(&difference, "routing key", message_routing_key(message), story->routing_key);
    number_differs(&difference, "size", message->body_size, story->size);
    number_differs(&difference, "persistence", (message->flags & MESSAGE_PERSISTENT) != 0,
                   story->persistent);
    number_differs(&difference, "expiration", message->expiration_ms, story->expiration_ms);
    deaths_differ(&difference, story, message_headers(message));
    return difference;
}

void
write_death(struct story *story, int queue, enum departure_reason reason)
{
    uint32_t count = 1, at = story->death_count;
    for (uint32_t i = 0; i < story->death_count; i++)
        if (story->deaths[i].queue == queue && story->deaths[i].reason == reason) {
            count = story->deaths[i].count + 1;
            at = i;
        }
    if (story->death_count == 0) {
        story->first_queue = (uint8_t)queue;
        story->first_reason = (uint8_t)reason;
    }
    if (at == story->death_count)
        story->death_count++;
    REQUIRE(story->death_count < DEATHS_MAX, "too many deaths");
    memmove(&story->deaths[1], &story->deaths[0], at * sizeof(story->deaths[0]));
    story->deaths[0].queue = (uint8_t)queue;
    story->deaths[0].reason = (uint8_t)reason;
    story->deaths[0].count = count;
    story->expiration_ms = MESSAGE_NO_EXPIRATION;
}
