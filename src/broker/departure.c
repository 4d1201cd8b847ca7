/* Departures: messages that leave a queue for somewhere else, and what is written on them. */
#include "broker/departure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/log.h"

/* Routing keys of one message; more in CC and BCC are not looked at. */
enum { KEYS_MAX = 1024 };

/* After which a departure that was refused everywhere, or found no memory, is tried again. */
enum { RETRY_MS = 1000 };

enum departure_state {
    DEPARTURE_WAITS, /* for its turn, or to try again */
    DEPARTURE_ASKS,  /* is sent; what the targets say is awaited */
    DEPARTURE_DONE,
};

struct departure {
    struct list link; /* in departures, or departures_held */
    struct shard *shard;
    struct ref ref;       /* while it waits for answers; else REF_NONE */
    uint32_t answers_due; /* of targets that may refuse */
    bool is_taken;        /* by one of them */
    enum departure_state state;
    struct timer retry_timer;
    struct message *message; /* owned */
    struct vhost *vhost;     /* referenced */
    enum departure_reason reason;
    bool has_routing_key;
    uint64_t queue_id, id; /* what to settle in the journal when it has gone on */
    struct ref queue;
    struct ref settler; /* whom to tell of it; or REF_NONE */
    /* Point into data. `exchange` is where to: the dead-letter exchange, or the delayed one. */
    struct slice queue_name, exchange, routing_key;
    char data[];
};

static const char *const reason_names[] = {
    [DEPARTS_REJECTED] = "rejected",
    [DEPARTS_EXPIRED] = "expired",
    [DEPARTS_MAXLEN] = "maxlen",
    [DEPARTS_DELIVERY_LIMIT] = "delivery_limit",
};

/* --- Deciding where to ------------------------------------------------------------------------ */

static void
try_again(struct timer *timer, int64_t now_ms)
{
    struct departure *departure = CONTAINER_OF(timer, struct departure, retry_timer);
    (void)now_ms;
    list_move_back(&departure->shard->departures, &departure->link);
}

static int
depart(struct queue *queue, struct message *message, uint64_t id, enum departure_reason reason,
       struct ref settler, struct slice exchange, const struct slice *routing_key)
{
    struct queue_record *record = queue->record;
    size_t key_size = routing_key == NULL ? 0 : routing_key->size;
    struct departure *departure =
        malloc(sizeof(*departure) + record->name.size + exchange.size + key_size);
    if (departure == NULL) {
        /* It is not settled: the journal gives it back to the queue at the next start. */
        log_error("out of memory: a message cannot go on from its queue",
                  LOG_SLICE("queue", record->name), LOG_UINT("message", id));
        message_unref(message);
        shard_answer_settle(queue->shard, queue->ref, settler, false, false);
        return -ENOMEM;
    }
    char *at = departure->data;
    *departure = (struct departure){.shard = queue->shard, .message = message};
    timer_init(&departure->retry_timer, try_again);
    departure->vhost = vhost_ref(record->vhost);
    departure->reason = reason;
    departure->queue_id = queue->journal_id;
    departure->id = id;
    departure->queue = queue->ref;
    departure->settler = settler;
    departure->queue_name = slice_keep(&at, record->name);
    departure->exchange = slice_keep(&at, exchange);
    departure->has_routing_key = routing_key != NULL;
    departure->routing_key =
        routing_key != NULL ? slice_keep(&at, *routing_key) : (struct slice){0};
    list_init(&departure->link);
    list_push_back(&queue->shard->departures, &departure->link);
    return 0;
}

/* The dead-letter route that the exchange gives through which the message came. -ENOENT: none; the
 * message is still the caller's. */
static int
depart_by_exchange(struct queue *queue, struct message *message, uint64_t id,
                   enum departure_reason reason, struct ref settler)
{
    struct catalogue *catalogue = queue->shard->broker->catalogue;
    if (!catalogue_has_dead_letter_exchanges(catalogue))
        return -ENOENT;
    struct slice to, key;
    bool has_key;
    int status = -ENOENT;
    catalogue_lock(catalogue);
    struct exchange *exchange =
        exchange_find(catalogue, queue->record->vhost, message_exchange(message));
    if (exchange != NULL && exchange_dead_letter(exchange, &to, &key, &has_key))
        status = depart(queue, message, id, reason, settler, to, has_key ? &key : NULL);
    catalogue_unlock(catalogue);
    return status;
}

bool
departure_may_go_on(const struct queue *queue, enum departure_reason reason)
{
    return reason == DEPARTS_DELAY_OVER || queue->options.has_dead_letter_exchange
           || catalogue_has_dead_letter_exchanges(queue->shard->broker->catalogue);
}

void
departure_end(struct queue *queue, uint64_t id, enum departure_reason reason, struct ref settler)
{
    (void)reason; /* who watches wants to know */
    shard_settle(queue->shard, queue->journal_id, id);
    shard_answer_settle(queue->shard, queue->ref, settler, true, id != 0 && queue->journal_id != 0);
}

int
departure_add(struct queue *queue, struct message *message, uint64_t id,
              enum departure_reason reason, struct ref settler)
{
    const struct queue_options *options = &queue->options;
    if (reason == DEPARTS_DELAY_OVER)
        return depart(queue, message, id, reason, settler, queue->record->name, NULL);
    if (options->has_dead_letter_exchange)
        return depart(queue, message, id, reason, settler, options->dead_letter_exchange,
                      options->has_dead_letter_routing_key ? &options->dead_letter_routing_key
                                                           : NULL);
    int status = depart_by_exchange(queue, message, id, reason, settler);
    if (status == -ENOENT) {
        departure_end(queue, id, reason, settler);
        message_unref(message);
    }
    return status;
}

bool
queue_depart_refused(struct queue *queue, struct message *message)
{
    uint64_t id = queue_kept_id(queue, message);
    int status = departure_add(queue, message_ref(message), id, DEPARTS_MAXLEN, REF_NONE);
    if (status == -ENOMEM) /* its publisher hears that it was refused */
        shard_settle(queue->shard, queue->journal_id, id);
    return status == 0;
}

/* --- What is written on a dead letter --------------------------------------------------------- */

size_t
message_more_keys(struct slice headers, const char *header, struct slice *keys, size_t capacity)
{
    struct amqp_value value;
    size_t count = 0;
    if (!amqp_table_find(headers, slice_from(header), &value) || value.type != 'A')
        return 0;
    struct amqp_table_iterator at = amqp_table_begin(value.bytes);
    while (count < capacity && amqp_array_next(&at, &value) == 1)
        if (value.type == 'S' && value.bytes.size <= AMQP_SHORTSTR_MAX)
            keys[count++] = value.bytes;
    return count;
}

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
put_new_death(struct amqp_table_builder *builder, const struct departure *departure,
              const struct amqp_properties *properties, int64_t wall_ms)
{
    const struct message *message = departure->message;
    struct slice keys[KEYS_MAX];
    amqp_table_builder_begin_table(builder, SLICE(""));
    amqp_table_builder_put_int64(builder, SLICE("count"), 1);
    put_text(builder, "reason", slice_from(reason_names[departure->reason]));
    put_text(builder, "queue", departure->queue_name);
    amqp_table_builder_put_timestamp(builder, SLICE("time"), (uint64_t)(wall_ms / 1000));
    put_text(builder, "exchange", message_exchange(message));
    amqp_table_builder_begin_array(builder, SLICE("routing-keys"));
    amqp_table_builder_put_string(builder, SLICE(""), message_routing_key(message));
    size_t count = message_more_keys(properties->headers, "CC", keys, KEYS_MAX);
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
put_deaths(struct amqp_table_builder *builder, const struct departure *departure,
           const struct amqp_properties *properties, int64_t wall_ms)
{
    struct slice reason = slice_from(reason_names[departure->reason]);
    struct amqp_value deaths = {.type = 'A', .bytes = {"", 0}}, death;
    if (!amqp_table_find(properties->headers, SLICE("x-death"), &deaths) || deaths.type != 'A')
        deaths.bytes = (struct slice){"", 0};

    const char *same = NULL;
    amqp_table_builder_begin_array(builder, SLICE("x-death"));
    struct amqp_table_iterator at = amqp_table_begin(deaths.bytes);
    while (same == NULL && amqp_array_next(&at, &death) == 1) {
        if (death.type == 'F' && is_text(death.bytes, "queue", departure->queue_name)
            && is_text(death.bytes, "reason", reason)) {
            same = death.bytes.data;
            put_death_again(builder, death.bytes);
        }
    }
    if (same == NULL)
        put_new_death(builder, departure, properties, wall_ms);
    at = amqp_table_begin(deaths.bytes);
    while (amqp_array_next(&at, &death) == 1)
        if (death.type != 'F' || death.bytes.data != same)
            amqp_table_builder_put_value(builder, SLICE(""), &death);
    amqp_table_builder_end_array(builder);
}

static void
put_death_summary(struct amqp_table_builder *builder, const struct departure *departure,
                  const char *which)
{
    const struct {
        const char *what;
        struct slice value;
    } items[] = {
        {"reason", slice_from(reason_names[departure->reason])},
        {"queue", departure->queue_name},
        {"exchange", message_exchange(departure->message)},
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
is_rewritten(const struct departure *departure, struct slice name, bool has_died)
{
    return slice_is(name, "x-death") || slice_starts_with(name, SLICE("x-last-death-"))
           || (!has_died && slice_starts_with(name, SLICE("x-first-death-")))
           || (departure->has_routing_key && (slice_is(name, "CC") || slice_is(name, "BCC")));
}

/* The headers of the dead letter, into the builder. */
static void
put_headers(struct amqp_table_builder *builder, const struct departure *departure,
            const struct amqp_properties *properties, int64_t wall_ms)
{
    struct amqp_table_iterator at = amqp_table_begin(properties->headers);
    struct slice name;
    struct amqp_value value;
    put_deaths(builder, departure, properties, wall_ms);
    put_death_summary(builder, departure, "last");
    bool is_known = has_died(properties);
    if (!is_known)
        put_death_summary(builder, departure, "first");
    while (amqp_table_next(&at, &name, &value) == 1)
        if (!is_rewritten(departure, name, is_known))
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

/* The message as it goes on: with other headers, and for a dead letter with the exchange and key to
 * which it goes now. NULL: out of memory. *properties are those of the new message, and live in it.
 */
static struct message *
rewrite(const struct departure *departure, int64_t wall_ms, struct amqp_properties *properties)
{
    const struct message *message = departure->message;
    struct amqp_table_builder headers;
    struct message *rewritten = NULL;
    uint8_t *wire = NULL;
    bool is_dead_letter = departure->reason != DEPARTS_DELAY_OVER;

    if (!amqp_properties_decode(message_properties(message), properties))
        return NULL; /* cannot be: they were found valid when they came */
    amqp_table_builder_init(&headers);
    if (is_dead_letter)
        put_headers(&headers, departure, properties, wall_ms);
    else
        put_undelayed_headers(&headers, properties);
    properties->headers = amqp_table_builder_finish(&headers);
    properties->flags |= AMQP_HAS_HEADERS;
    if (amqp_table_builder_failed(&headers))
        goto out;
    struct message_parts parts = {
        .exchange = is_dead_letter ? departure->exchange : message_exchange(message),
        .routing_key =
            departure->has_routing_key ? departure->routing_key : message_routing_key(message),
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
        if ((message->flags & MESSAGE_HAS_BCC) != 0 && !departure->has_routing_key)
            rewritten->flags |= MESSAGE_HAS_BCC;
        (void)amqp_properties_decode(message_properties(rewritten), properties);
    }
out:
    free(wire);
    amqp_table_builder_free(&headers);
    return rewritten;
}

/* --- Sending on ------------------------------------------------------------------------------- */

static void
departure_free(struct departure *departure)
{
    list_remove(&departure->link);
    wheel_cancel(&departure->shard->wheel, &departure->retry_timer);
    if (!ref_is_none(departure->ref))
        ref_table_remove(&departure->shard->refusable, departure->ref);
    message_unref(departure->message);
    vhost_unref(departure->vhost);
    free(departure);
}

/* Publishes what is made of the message. If targets may refuse it, their answers are awaited. */
static int
publish(struct departure *departure, const struct route *route, struct message *message)
{
    struct shard *shard = departure->shard;
    bool died_by_itself =
        departure->reason != DEPARTS_DELAY_OVER && departure->reason != DEPARTS_REJECTED;
    enum publish_origin origin = died_by_itself ? PUBLISHED_BY_DEATH : PUBLISHED_BY_CLIENT;
    bool may_all_refuse = route->count > 0 && route->may_reject_count == route->count;
    if (!may_all_refuse) {
        departure->state = DEPARTURE_DONE;
        return shard_publish(shard, route, message, REF_NONE, 0, origin);
    }
    departure->ref = ref_table_add(&shard->refusable, departure);
    if (ref_is_none(departure->ref)) {
        message_unref(message);
        return -ENOMEM;
    }
    departure->answers_due = route->may_reject_count;
    departure->is_taken = false;
    departure->state = DEPARTURE_ASKS;
    list_move_back(&shard->departures_held, &departure->link);
    /* The answers may come before it returns. */
    int status = shard_publish(shard, route, message, departure->ref, DEPARTURE_NUMBER, origin);
    if (status != 0) {
        ref_table_remove(&shard->refusable, departure->ref);
        departure->ref = REF_NONE;
    }
    return status;
}

/* False: there is no memory for it now; the departure waits. */
static bool
send_on(struct shard *shard, struct departure *departure)
{
    struct amqp_properties properties;
    struct message *message = rewrite(departure, shard->wall_ms, &properties);
    if (message == NULL)
        return false;
    struct slice keys[KEYS_MAX];
    size_t count = message_more_keys(properties.headers, "CC", keys, KEYS_MAX);
    count += message_more_keys(properties.headers, "BCC", keys + count, KEYS_MAX - count);
    struct route_request request = {
        .exchange = departure->exchange,
        .routing_key = message_routing_key(message),
        .more_keys = keys,
        .more_key_count = count,
        .properties = &properties,
        .message = message,
        .is_internal = true,
        .skips_delay = departure->reason == DEPARTS_DELAY_OVER,
    };
    struct route route;
    route_init(&route);
    int status = catalogue_route(shard->broker->catalogue, departure->vhost, &request,
                                 shard->now_ms, &route);
    if (status == 0)
        status = publish(departure, &route, message);
    else
        message_unref(message);
    route_fini(&route);
    return status == 0;
}

/* It tries again later. */
static void
hold(struct departure *departure)
{
    struct shard *shard = departure->shard;
    departure->state = DEPARTURE_WAITS;
    list_move_back(&shard->departures_held, &departure->link);
    wheel_set(&shard->wheel, &departure->retry_timer, shard->now_ms + RETRY_MS);
}

static void
tell_settler(struct departure *departure, bool is_in_journal)
{
    struct ref settler = departure->settler;
    departure->settler = REF_NONE;
    shard_answer_settle(departure->shard, departure->queue, settler, true, is_in_journal);
}

bool
departures_run(struct shard *shard, unsigned budget)
{
    struct list *node;
    while ((node = list_first(&shard->departures)) != NULL) {
        if (budget-- == 0)
            return true;
        struct departure *departure = LIST_ENTRY(node, struct departure, link);
        if (departure->state == DEPARTURE_WAITS && !send_on(shard, departure)) {
            static _Thread_local struct log_rate rate = LOG_RATE(5, 60 * 1000);
            if (log_rate_allows(&rate, shard->now_ms))
                log_error("out of memory: dead letters wait",
                          LOG_SLICE("queue", departure->queue_name),
                          LOG_UINT("suppressed", log_rate_suppressed(&rate)));
            hold(departure);
            continue;
        }
        if (departure->state != DEPARTURE_DONE)
            continue; /* it is held, until its targets have answered */
        /* In the same group of the journal as the copy, or a later one: it is in one queue or in
         * the other, or after a crash in both. */
        shard_settle(shard, departure->queue_id, departure->id);
        tell_settler(departure, departure->queue_id != 0 && departure->id != 0);
        departure_free(departure);
    }
    return false;
}

void
departure_answered(struct shard *shard, const struct mail *mail)
{
    struct departure *departure = ref_table_find(&shard->refusable, mail->to);
    if (departure == NULL)
        return; /* the broker ends */
    departure->is_taken |= mail->flag != 0;
    if (--departure->answers_due > 0)
        return;
    ref_table_remove(&shard->refusable, departure->ref);
    departure->ref = REF_NONE;
    if (departure->is_taken) {
        departure->state = DEPARTURE_DONE;
        list_move_back(&shard->departures, &departure->link); /* where it finds its end */
        return;
    }
    static _Thread_local struct log_rate rate = LOG_RATE(5, 60 * 1000);
    if (log_rate_allows(&rate, shard->now_ms))
        log_warn("a dead letter is refused by every queue, and waits",
                 LOG_SLICE("queue", departure->queue_name),
                 LOG_SLICE("exchange", departure->exchange),
                 LOG_UINT("suppressed", log_rate_suppressed(&rate)));
    tell_settler(departure, false);
    hold(departure);
}

static void
clear(struct list *departures)
{
    while (!list_is_empty(departures))
        departure_free(LIST_ENTRY(list_first(departures), struct departure, link));
}

void
departures_clear(struct shard *shard)
{
    clear(&shard->departures);
    clear(&shard->departures_held);
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
