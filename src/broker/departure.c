/* Departures: see the header. */
#include "broker/departure.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

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
    const struct death death = {
        .message = departure->message,
        .reason = departure->reason,
        .queue_name = departure->queue_name,
        .exchange = departure->exchange,
        .has_routing_key = departure->has_routing_key,
        .routing_key = departure->routing_key,
    };
    struct message *message = dead_letter_new(&death, shard->wall_ms, &properties);
    if (message == NULL)
        return false;
    struct slice keys[MESSAGE_KEYS_MAX];
    size_t count = message_more_keys(properties.headers, "CC", keys, MESSAGE_KEYS_MAX);
    count += message_more_keys(properties.headers, "BCC", keys + count, MESSAGE_KEYS_MAX - count);
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
