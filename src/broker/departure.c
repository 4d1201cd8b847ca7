/* Departures: see the header. */
#include "broker/departure.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"

/* What was refused everywhere, or found no memory, is tried again after so long: so many of a line,
 * and as long as they are taken, twice as many each time. If there are many lines, fewer of each;
 * and if there are very many, each line after the longer, so that trying is not all that is done.
 */
enum { RETRY_MS = 1000, TRIED_AGAIN = 16, FOLLOW = 2, TRIED_AGAIN_OF_ALL = 2048 };

/* Bytes of bodies that go on in a turn: each is copied, and perhaps written. */
enum { WRITTEN_PER_TURN = 1024 * 1024 };

enum departure_state {
    DEPARTURE_WAITS, /* for its turn */
    DEPARTURE_ASKS,  /* is sent; what the targets say is awaited */
    DEPARTURE_HELD,  /* until it is tried again */
    DEPARTURE_DONE,
};

/* Very many are held when the dead-letter queue is full and stays so, hence they are small: their
 * messages are in the journal, and what is the same for all of a queue is in its line. */
struct departure {
    struct list link;            /* in departures, departures_asking, or the line's held */
    struct departure_line *line; /* referenced */
    struct message *message;     /* owned; NULL while it is in the journal only */
    uint64_t id;                 /* what to settle in the journal when it has gone on */
    struct ref settler;          /* whom to tell of it; or REF_NONE */
    struct ref ref;              /* while it waits for answers; else REF_NONE */
    uint32_t answers_due;        /* of targets that may refuse */
    bool is_taken;               /* by one of them */
    bool was_held;
    bool is_written; /* in the journal, as it goes on */
    bool is_sending; /* the answers come before that is over */
    uint8_t state, reason;
};

/* The departures of one queue by one route. */
struct departure_line {
    struct shard *shard;
    uint32_t references; /* of departures, and of the queue */
    bool has_routing_key;
    struct vhost *vhost; /* referenced */
    struct ref queue;
    uint64_t queue_id;
    struct list held;
    struct timer retry_timer; /* set while any is held, and till its next time */
    /* Point into data. `exchange` is where to: the dead-letter exchange, or the delayed one. */
    struct slice queue_name, exchange, routing_key;
    struct slice key; /* in the shard's departure_lines: see line_key */
    char data[];
};

/* --- Being held ------------------------------------------------------------------------------- */

/* A message that is in the journal anyhow leaves memory, and is read when it is tried again;
 * another one when memory is scarce. */
static void
put_away(struct departure *departure)
{
    const struct departure_line *line = departure->line;
    struct shard *shard = line->shard;
    const struct journal *journal = shard->journal;
    struct message *message = departure->message;
    if (message == NULL)
        return;
    if (journal != NULL
        && (departure->id != 0
            || (shard_memory_is_scarce(shard)
                && journal->page(journal->context, message, line->queue_id, &departure->id)
                       == 0))) {
        message_unref(message);
        departure->message = NULL;
        return;
    }
    shard_count_queued(shard, message);
}

static void
retry_later(struct departure_line *line)
{
    struct shard *shard = line->shard;
    int64_t rounds = 1 + (int64_t)(shard->lines_held / TRIED_AGAIN_OF_ALL);
    wheel_set(&shard->wheel, &line->retry_timer, shard->now_ms + rounds * RETRY_MS);
}

/* It tries again later. */
static void
hold(struct departure *departure)
{
    struct departure_line *line = departure->line;
    departure->state = DEPARTURE_HELD;
    departure->was_held = true;
    put_away(departure);
    list_move_back(&line->held, &departure->link);
    line->shard->held++;
    if (timer_is_set(&line->retry_timer))
        return;
    line->shard->lines_held++;
    retry_later(line);
}

static void
stop_holding(struct departure *departure)
{
    struct shard *shard = departure->line->shard;
    if (departure->message != NULL)
        shard_uncount_queued(shard, departure->message);
    shard->held--;
}

/* --- Lines ------------------------------------------------------------------------------------ */

/* Takes the first of those that are held, at most so many, out to be tried again. */
static void
let_go(struct departure_line *line, unsigned count)
{
    struct list *node;
    for (; count > 0 && (node = list_pop_front(&line->held)) != NULL; count--) {
        struct departure *departure = LIST_ENTRY(node, struct departure, link);
        stop_holding(departure);
        departure->state = DEPARTURE_WAITS;
        list_push_back(&line->shard->departures, &departure->link);
    }
}

static void
try_again(struct timer *timer, int64_t now_ms)
{
    (void)now_ms;
    struct departure_line *line = CONTAINER_OF(timer, struct departure_line, retry_timer);
    size_t share = TRIED_AGAIN_OF_ALL / line->shard->lines_held;
    if (list_is_empty(&line->held)) {
        line->shard->lines_held--;
        return;
    }
    let_go(line, share > TRIED_AGAIN ? TRIED_AGAIN : share < 1 ? 1 : (unsigned)share);
    retry_later(line); /* also when none is left: those that go now may come back */
}

static void
no_more_retries(struct departure_line *line)
{
    if (!timer_is_set(&line->retry_timer))
        return;
    wheel_cancel(&line->shard->wheel, &line->retry_timer);
    line->shard->lines_held--;
}

/* What tells a line from others: the queue, and the route. Room for the longest names. */
struct line_key {
    char data[sizeof(struct ref) + sizeof(uint16_t) + 2 * UINT8_MAX];
    size_t size;
};

static struct line_key
line_key(struct ref queue, struct slice exchange, const struct slice *routing_key)
{
    struct line_key key;
    /* The size of the exchange's name, and whether a routing key follows it. */
    uint16_t shape = (uint16_t)(exchange.size << 1 | (routing_key != NULL));
    char *at = key.data;
    assert(exchange.size <= UINT8_MAX && (routing_key == NULL || routing_key->size <= UINT8_MAX));
    (void)slice_keep(&at, (struct slice){(const char *)&queue, sizeof(queue)});
    (void)slice_keep(&at, (struct slice){(const char *)&shape, sizeof(shape)});
    (void)slice_keep(&at, exchange);
    if (routing_key != NULL)
        (void)slice_keep(&at, *routing_key);
    key.size = (size_t)(at - key.data);
    return key;
}

struct slice
departure_line_key(const void *value)
{
    return ((const struct departure_line *)value)->key;
}

/* NULL: out of memory. The reference is the caller's. */
static struct departure_line *
line_new(const struct queue *queue, struct slice exchange, const struct slice *routing_key,
         const struct line_key *key)
{
    const struct queue_record *record = queue->record;
    struct departure_line *line = malloc(sizeof(*line) + key->size + record->name.size);
    if (line == NULL)
        return NULL;
    char *at = line->data;
    *line = (struct departure_line){
        .shard = queue->shard,
        .references = 1,
        .has_routing_key = routing_key != NULL,
        .queue = queue->ref,
        .queue_id = queue->journal_id,
        .queue_name = slice_keep(&at, record->name),
        .key = slice_keep(&at, (struct slice){key->data, key->size}),
    };
    /* The names are the key's end. */
    size_t key_size = routing_key == NULL ? 0 : routing_key->size;
    const char *end = line->key.data + line->key.size;
    line->routing_key = (struct slice){end - key_size, key_size};
    line->exchange = (struct slice){line->routing_key.data - exchange.size, exchange.size};
    list_init(&line->held);
    timer_init(&line->retry_timer, try_again);
    if (map_insert(&queue->shard->departure_lines, line) != 0) {
        free(line);
        return NULL;
    }
    line->vhost = vhost_ref(record->vhost);
    return line;
}

static void
line_unref(struct departure_line *line)
{
    if (--line->references > 0)
        return;
    map_remove(&line->shard->departure_lines, line->key);
    no_more_retries(line);
    vhost_unref(line->vhost);
    free(line);
}

void
queue_forget_line(struct queue *queue)
{
    if (queue->line != NULL)
        line_unref(queue->line);
    queue->line = NULL;
}

/* The queue's line for that route: mostly the one of the last departure. A reference is the
 * caller's. */
static struct departure_line *
line_of(struct queue *queue, struct slice exchange, const struct slice *routing_key)
{
    struct line_key key = line_key(queue->ref, exchange, routing_key);
    struct slice wanted = {key.data, key.size};
    if (queue->line == NULL || !slice_equal(queue->line->key, wanted)) {
        struct departure_line *line = map_find(&queue->shard->departure_lines, wanted);
        if (line != NULL)
            line->references++;
        else
            line = line_new(queue, exchange, routing_key, &key);
        queue_forget_line(queue);
        queue->line = line;
    }
    if (queue->line != NULL)
        queue->line->references++;
    return queue->line;
}

/* --- Deciding where to ------------------------------------------------------------------------ */

static int
depart(struct queue *queue, struct message *message, uint64_t id, enum departure_reason reason,
       struct ref settler, struct slice exchange, const struct slice *routing_key)
{
    struct departure_line *line = line_of(queue, exchange, routing_key);
    struct departure *departure = line == NULL ? NULL : malloc(sizeof(*departure));
    if (departure == NULL) {
        /* It is not settled: the journal gives it back to the queue at the next start. */
        log_error("out of memory: a message cannot go on from its queue",
                  LOG_SLICE("queue", queue->record->name), LOG_UINT("message", id));
        if (line != NULL)
            line_unref(line);
        message_unref(message);
        shard_answer_settle(queue->shard, queue->ref, settler, false, false);
        return -ENOMEM;
    }
    memory_count(sizeof(*departure));
    *departure = (struct departure){
        .line = line,
        .message = message,
        .id = id,
        .settler = settler,
        .state = DEPARTURE_WAITS,
        .reason = (uint8_t)reason,
    };
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
    struct departure_line *line = departure->line;
    list_remove(&departure->link);
    if (departure->state == DEPARTURE_HELD)
        stop_holding(departure);
    if (!ref_is_none(departure->ref))
        ref_table_remove(&line->shard->refusable, departure->ref);
    if (departure->message != NULL)
        message_unref(departure->message);
    free(departure);
    memory_count(-(int64_t)sizeof(*departure));
    line_unref(line);
}

/* Publishes what is made of the message. If targets may refuse it, their answers are awaited. */
static int
publish(struct departure *departure, const struct route *route, struct message *message)
{
    struct shard *shard = departure->line->shard;
    bool died_by_itself =
        departure->reason != DEPARTS_DELAY_OVER && departure->reason != DEPARTS_REJECTED;
    enum publish_origin origin = died_by_itself ? PUBLISHED_BY_DEATH : PUBLISHED_BY_CLIENT;
    departure->is_written = shard_keeps(shard, route, message);
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
    list_move_back(&shard->departures_asking, &departure->link);
    departure->is_sending = true;
    int status = shard_publish(shard, route, message, departure->ref, DEPARTURE_NUMBER, origin);
    departure->is_sending = false;
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
    const struct departure_line *line = departure->line;
    struct amqp_properties properties;
    const struct death death = {
        .message = departure->message,
        .reason = departure->reason,
        .queue_name = line->queue_name,
        .exchange = line->exchange,
        .has_routing_key = line->has_routing_key,
        .routing_key = line->routing_key,
    };
    struct message *message = dead_letter_new(&death, shard->wall_ms, &properties);
    if (message == NULL)
        return false;
    struct slice keys[MESSAGE_KEYS_MAX];
    size_t count = message_more_keys(properties.headers, "CC", keys, MESSAGE_KEYS_MAX);
    count += message_more_keys(properties.headers, "BCC", keys + count, MESSAGE_KEYS_MAX - count);
    struct route_request request = {
        .exchange = line->exchange,
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
    int status =
        catalogue_route(shard->broker->catalogue, line->vhost, &request, shard->now_ms, &route);
    if (status == 0)
        status = publish(departure, &route, message);
    else
        message_unref(message);
    route_fini(&route);
    return status == 0;
}

static void
tell_settler(struct departure *departure, bool is_in_journal)
{
    struct ref settler = departure->settler;
    departure->settler = REF_NONE;
    shard_answer_settle(departure->line->shard, departure->line->queue, settler, true,
                        is_in_journal);
}

/* It has gone on, and perhaps others that were held can follow. The settling is in the same group
 * of the journal as the copy, or a later one: it is in one queue or in the other, or after a crash
 * in both. */
static void
end(struct departure *departure)
{
    struct departure_line *line = departure->line;
    shard_settle(line->shard, line->queue_id, departure->id);
    tell_settler(departure, departure->is_written || (line->queue_id != 0 && departure->id != 0));
    if (departure->was_held)
        let_go(line, FOLLOW);
    departure_free(departure);
}

/* Reads the message again of one that was held. False: it cannot be read, and the journal keeps
 * what there is of it until the next start. */
static bool
fetch(struct departure *departure)
{
    const struct departure_line *line = departure->line;
    if (departure->message == NULL)
        departure->message = shard_read(line->shard, departure->id);
    if (departure->message != NULL)
        return true;
    log_error("a dead letter cannot be read and is left out", LOG_SLICE("queue", line->queue_name),
              LOG_UINT("message", departure->id));
    departure_free(departure);
    return false;
}

bool
departures_run(struct shard *shard, unsigned budget)
{
    int64_t may_write = WRITTEN_PER_TURN;
    struct list *node;
    while ((node = list_first(&shard->departures)) != NULL) {
        struct departure *departure = LIST_ENTRY(node, struct departure, link);
        if (shard->journal_is_short || may_write <= 0 || budget-- == 0
            || (departure->message == NULL && shard->may_read <= 0))
            return true;
        if (!fetch(departure))
            continue;
        may_write -= departure->message->body_size;
        if (!send_on(shard, departure)) {
            static _Thread_local struct log_rate rate = LOG_RATE(5, 60 * 1000);
            if (log_rate_allows(&rate, shard->now_ms))
                log_error("out of memory: dead letters wait",
                          LOG_SLICE("queue", departure->line->queue_name),
                          LOG_UINT("suppressed", log_rate_suppressed(&rate)));
            hold(departure);
        }
        if (departure->state == DEPARTURE_DONE)
            end(departure);
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
        if (!departure->is_sending)
            end(departure);
        return;
    }
    static _Thread_local struct log_rate rate = LOG_RATE(5, 60 * 1000);
    if (log_rate_allows(&rate, shard->now_ms))
        log_warn("a dead letter is refused by every queue, and waits",
                 LOG_SLICE("queue", departure->line->queue_name),
                 LOG_SLICE("exchange", departure->line->exchange),
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
    clear(&shard->departures_asking);
    size_t cursor = 0;
    struct departure_line *line;
    while ((line = map_next(&shard->departure_lines, &cursor)) != NULL) {
        line->references++;
        clear(&line->held);
        /* Its queue may keep the line until other queues' timers are no more. */
        no_more_retries(line);
        line_unref(line);
    }
}
