/* Queues: what happens to a message between routing and a consumer.
 *
 * Publishing only puts the message into its lane and marks the queue runnable; deliveries are made
 * from queue_run, once per turn of the shard, so they come in batches and never from inside another
 * operation. The one exception is a queue with a length limit, which delivers before it decides
 * that it is too long. */
#include "broker/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "broker/deduplication.h"
#include "broker/departure.h"

enum { QUEUE_MAGIC = 0x51554555 };

#define TAG_SEQUENCE_MASK ((1ULL << TAG_SEQUENCE_BITS) - 1)

static uint64_t
tag_of(uint16_t lane, uint64_t sequence)
{
    return (uint64_t)lane << TAG_SEQUENCE_BITS | sequence;
}

static struct entry *
entry_of(const struct queue *queue, uint64_t tag, struct lane **lane)
{
    uint64_t number = tag >> TAG_SEQUENCE_BITS;
    if (number >= queue->lane_count || queue->lanes[number] == NULL)
        return NULL;
    *lane = queue->lanes[number];
    return lane_at(*lane, tag & TAG_SEQUENCE_MASK);
}

static void
make_runnable(struct queue *queue)
{
    if (!list_is_linked(&queue->run_link) && !queue->is_deleted)
        list_push_back(&queue->shard->runnable, &queue->run_link);
}

static void
publish_statistics(const struct queue *queue)
{
    struct queue_record *record = queue->record;
    atomic_store_explicit(&record->ready, queue->ready, memory_order_relaxed);
    atomic_store_explicit(&record->unacknowledged, queue->unacknowledged, memory_order_relaxed);
    atomic_store_explicit(&record->consumers, queue->consumer_count, memory_order_relaxed);
}

/* --- Expiry: a heap of those deadlines that are not in the order of places -------------------- */

static void
expiry_sift_down(struct queue *queue, size_t i)
{
    struct expiry *heap = queue->expiries;
    for (;;) {
        size_t smallest = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2; child++)
            if (child < queue->expiry_count && heap[child].deadline_ms < heap[smallest].deadline_ms)
                smallest = child;
        if (smallest == i)
            return;
        struct expiry kept = heap[i];
        heap[i] = heap[smallest];
        heap[smallest] = kept;
        i = smallest;
    }
}

static void
expiry_pop(struct queue *queue)
{
    queue->expiries[0] = queue->expiries[--queue->expiry_count];
    expiry_sift_down(queue, 0);
    if (queue->expiry_count == 0) {
        free(queue->expiries);
        queue->expiries = NULL;
        queue->expiry_capacity = 0;
    }
}

/* Items of messages that have left stay in the heap until their time. When they are the most, they
 * are swept out, so the heap is never much larger than the queue. */
static void
expiry_sweep(struct queue *queue)
{
    size_t kept = 0;
    for (size_t i = 0; i < queue->expiry_count; i++) {
        struct lane *lane;
        struct entry *entry = entry_of(queue, queue->expiries[i].tag, &lane);
        if (entry == NULL)
            continue;
        if (entry->state == ENTRY_READY)
            queue->expiries[kept++] = queue->expiries[i];
        else
            entry->flags &= (uint8_t)~ENTRY_IN_EXPIRY_HEAP;
    }
    queue->expiry_count = kept;
    for (size_t i = kept / 2; i-- > 0;)
        expiry_sift_down(queue, i);
}

static void
arm_expiry(struct queue *queue, int64_t deadline_ms)
{
    if (!timer_is_set(&queue->expiry_timer) || deadline_ms < queue->expiry_timer.due_ms)
        wheel_set(&queue->shard->wheel, &queue->expiry_timer, deadline_ms);
}

/* An entry that cannot be noted for lack of memory expires when it reaches the head. */
static void
expiry_push(struct queue *queue, uint64_t tag, struct entry *entry)
{
    if (queue->expiry_count > 2 * queue->ready + 1024)
        expiry_sweep(queue);
    if (queue->expiry_count == queue->expiry_capacity) {
        size_t capacity = queue->expiry_capacity == 0 ? 16 : queue->expiry_capacity * 2;
        struct expiry *heap = realloc(queue->expiries, capacity * sizeof(*heap));
        if (heap == NULL)
            return;
        queue->expiries = heap;
        queue->expiry_capacity = capacity;
    }
    size_t i = queue->expiry_count++;
    struct expiry *heap = queue->expiries;
    struct expiry item = {entry->deadline_ms, tag};
    for (; i > 0 && heap[(i - 1) / 2].deadline_ms > item.deadline_ms; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = item;
    entry->flags |= ENTRY_IN_EXPIRY_HEAP;
}

static void
note_deadline(struct queue *queue, struct lane *lane, uint64_t tag, struct entry *entry)
{
    if (entry->deadline_ms >= lane->latest_deadline_ms)
        lane->latest_deadline_ms = entry->deadline_ms;
    else
        expiry_push(queue, tag, entry);
    if (entry->deadline_ms != NEVER)
        arm_expiry(queue, entry->deadline_ms);
}

/* --- Deduplication: of messages with the same identifier the queue holds one ------------------ */

static struct slice
identifier_of(const void *value)
{
    struct slice key = {"", 0};
    (void)deduplication_key(message_headers(value), &key);
    return key;
}

/* False: the queue holds a message with the same identifier. */
static bool
note_identifier(struct queue *queue, struct message *message)
{
    struct slice key;
    if (queue->identifiers == NULL || !deduplication_key(message_headers(message), &key))
        return true;
    if (map_find(queue->identifiers, key) != NULL)
        return false;
    /* Without memory to note it a duplicate may pass, which is better than losing a message. */
    return map_insert(queue->identifiers, message) != -EEXIST;
}

static void
forget_identifier(struct queue *queue, struct message *message)
{
    struct slice key;
    if (queue->identifiers != NULL && deduplication_key(message_headers(message), &key)
        && map_find(queue->identifiers, key) == message)
        map_remove(queue->identifiers, key);
}

/* --- Entering and leaving --------------------------------------------------------------------- */

static struct lane *
lane_for(struct queue *queue, uint16_t number)
{
    if (queue->lanes[number] == NULL) {
        struct lane *lane = malloc(sizeof(*lane));
        if (lane == NULL)
            return NULL;
        lane_init(lane);
        queue->lanes[number] = lane;
    }
    return queue->lanes[number];
}

static uint16_t
lane_number(const struct queue *queue, const struct message *message)
{
    return message->priority < queue->lane_count ? message->priority
                                                 : (uint16_t)(queue->lane_count - 1);
}

static void
more_memory(struct queue *queue, const struct message *message)
{
    queue->memory += message_memory(message);
    atomic_fetch_add_explicit(&queue->shard->queued_bytes, message_memory(message),
                              memory_order_relaxed);
}

static void
less_memory(struct queue *queue, const struct message *message)
{
    queue->memory -= message_memory(message);
    atomic_fetch_sub_explicit(&queue->shard->queued_bytes, message_memory(message),
                              memory_order_relaxed);
}

/* A new ready entry without content. NULL: out of memory. */
static struct entry *
add_entry(struct queue *queue, uint16_t number, uint64_t *tag, struct lane **lane)
{
    uint64_t sequence;
    *lane = lane_for(queue, number);
    struct entry *entry = *lane == NULL ? NULL : lane_push(*lane, &sequence);
    if (entry == NULL)
        return NULL;
    *tag = tag_of(number, sequence);
    queue->ready++;
    if (number > queue->highest_lane)
        queue->highest_lane = number;
    make_runnable(queue);
    return entry;
}

/* A queue that is long while memory is scarce keeps the places of what comes, and not the messages:
 * these are read again when it is their turn. */
static void
page_out(struct queue *queue, struct entry *entry)
{
    struct shard *shard = queue->shard;
    if (LIKELY(queue->memory < QUEUE_MEMORY_KEPT) || shard->journal == NULL
        || queue->identifiers != NULL
        || atomic_load_explicit(&shard->queued_bytes, memory_order_relaxed) < shard->memory_share)
        return;
    if (entry->id == 0
        && shard->journal->page(shard->journal->context, entry->message, queue->journal_id,
                                &entry->id)
               != 0)
        return; /* it stays in memory */
    less_memory(queue, entry->message);
    message_unref(entry->message);
    entry->message = NULL;
}

uint64_t
queue_kept_id(const struct queue *queue, const struct message *message)
{
    bool keeps = (message->flags & MESSAGE_PERSISTENT) != 0 ? queue->record->durable
                                                            : queue_record_keeps_all(queue->record);
    return keeps ? message->id : 0;
}

/* Gives the message a place; takes the reference. */
static int
enter(struct queue *queue, struct message *message, int64_t deadline_ms)
{
    uint64_t tag;
    struct lane *lane;
    struct entry *entry = add_entry(queue, lane_number(queue, message), &tag, &lane);
    if (entry == NULL)
        return -ENOMEM;
    entry->message = message;
    entry->id = queue_kept_id(queue, message);
    entry->deadline_ms = deadline_ms;
    entry->body_size = message->body_size;
    queue->ready_bytes += message->body_size;
    more_memory(queue, message);
    note_deadline(queue, lane, tag, entry);
    page_out(queue, entry);
    return 0;
}

/* Takes the entry out for good; the caller has the reference to its message now, and tells the
 * journal. */
static struct message *
take_out(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    struct message *message = entry->message; /* perhaps NULL */
    if (entry->state == ENTRY_READY) {
        queue->ready--;
        queue->ready_bytes -= entry->body_size;
    } else {
        queue->unacknowledged--;
    }
    lane_remove(lane, tag & TAG_SEQUENCE_MASK, entry);
    if (message != NULL) {
        forget_identifier(queue, message);
        less_memory(queue, message);
    }
    return message;
}

/* The queue will not have a message that was sent to it. */
static void
settle_message(struct queue *queue, const struct message *message)
{
    shard_settle(queue->shard, queue->journal_id, queue_kept_id(queue, message));
}

/* Takes the entry out, and the queue is done with the message. */
static struct message *
leave(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    uint64_t id = entry->id;
    struct message *message = take_out(queue, tag, lane, entry);
    shard_settle(queue->shard, queue->journal_id, id);
    return message;
}

static void
leave_and_forget(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    struct message *message = leave(queue, tag, lane, entry);
    if (message != NULL)
        message_unref(message);
}

/* Reads the message of an entry from the journal if it is only there. False: it cannot be read; the
 * entry is taken out (the journal still has what there is of it). */
static bool
fetch(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    if (LIKELY(entry->message != NULL))
        return true;
    const struct journal *journal = queue->shard->journal;
    struct message *message = journal->read(journal->context, entry->id);
    if (message == NULL) {
        log_error("a message cannot be read and is left out",
                  LOG_SLICE("queue", queue->record->name), LOG_UINT("message", entry->id));
        (void)take_out(queue, tag, lane, entry);
        return false;
    }
    entry->message = message;
    more_memory(queue, message);
    return true;
}

static void
depart(struct queue *queue, uint64_t tag, struct entry *entry, enum departure_reason reason,
       struct ref settler)
{
    struct lane *lane = queue->lanes[tag >> TAG_SEQUENCE_BITS];
    assert(lane_at(lane, tag & TAG_SEQUENCE_MASK) == entry);
    uint64_t id = entry->id;
    queue->shard->work++;
    if (fetch(queue, tag, lane, entry))
        (void)departure_add(queue, take_out(queue, tag, lane, entry), id, reason, settler);
    else
        shard_answer_settle(queue->shard, queue->ref, settler, false, false);
}

void
queue_depart(struct queue *queue, uint64_t tag, struct entry *entry, enum departure_reason reason)
{
    depart(queue, tag, entry, reason, REF_NONE);
}

void
queue_depart_rejected(struct queue *queue, uint64_t tag, struct entry *entry, struct ref settler)
{
    depart(queue, tag, entry, DEPARTS_REJECTED, settler);
}

/* The first ready message of the highest priority. */
static struct entry *
first_ready(struct queue *queue, uint64_t *tag, struct lane **lane)
{
    if (queue->ready == 0)
        return NULL;
    for (uint16_t i = queue->highest_lane;; i--) {
        struct lane *candidate = queue->lanes[i];
        uint64_t sequence;
        struct entry *entry = candidate == NULL ? NULL : lane_first_ready(candidate, &sequence);
        if (entry != NULL) {
            queue->highest_lane = i;
            *lane = candidate;
            *tag = tag_of(i, sequence);
            return entry;
        }
        if (i == 0)
            return NULL;
    }
}

/* The deadline of the first in the heap, which may have left meanwhile; NEVER: it is empty. */
static int64_t
first_in_heap_ms(const struct queue *queue)
{
    return queue->expiry_count == 0 ? NEVER : queue->expiries[0].deadline_ms;
}

/* Expires what is due at the heads of the lanes; the deadline of the first that is left. A store of
 * delayed messages, which may have been due for long when the broker was down, gives them out in
 * the order of their times: it stops where the heap's turn is. */
static int64_t
expire_heads(struct queue *queue, enum departure_reason reason, unsigned *budget)
{
    int64_t now_ms = queue->shard->now_ms, next_ms = NEVER;
    for (uint16_t i = 0; i < queue->lane_count; i++) {
        struct lane *lane = queue->lanes[i];
        uint64_t sequence;
        struct entry *entry;
        while (lane != NULL && (entry = lane_first_ready(lane, &sequence)) != NULL) {
            if (entry->deadline_ms > now_ms || *budget == 0
                || (reason == DEPARTS_DELAY_OVER && first_in_heap_ms(queue) < entry->deadline_ms)) {
                if (entry->deadline_ms < next_ms)
                    next_ms = entry->deadline_ms;
                break;
            }
            --*budget;
            queue_depart(queue, tag_of(i, sequence), entry, reason);
        }
    }
    return next_ms;
}

/* Takes the first item of the heap off; its message expires if it is still there. */
static void
expire_first_in_heap(struct queue *queue, enum departure_reason reason)
{
    uint64_t tag = queue->expiries[0].tag;
    expiry_pop(queue);
    struct lane *lane;
    struct entry *entry = entry_of(queue, tag, &lane);
    if (entry == NULL)
        return;
    entry->flags &= (uint8_t)~ENTRY_IN_EXPIRY_HEAP;
    if (entry->state == ENTRY_READY)
        queue_depart(queue, tag, entry, reason);
}

/* Expires what is due, at most `budget`; arms the timer for the rest. */
static void
expire(struct queue *queue, unsigned budget)
{
    int64_t now_ms = queue->shard->now_ms;
    enum departure_reason reason =
        queue->record->is_internal ? DEPARTS_DELAY_OVER : DEPARTS_EXPIRED;
    int64_t next_ms = expire_heads(queue, reason, &budget);
    while (first_in_heap_ms(queue) <= now_ms && budget > 0) {
        expire_first_in_heap(queue, reason);
        budget--; /* also for one that has left before: there may be as many as messages */
        if (reason == DEPARTS_DELAY_OVER)
            next_ms = expire_heads(queue, reason, &budget);
    }
    if (first_in_heap_ms(queue) < next_ms)
        next_ms = first_in_heap_ms(queue);
    /* What is due and over the budget waits a moment: a timer of the past would fire in this turn.
     */
    wheel_set(&queue->shard->wheel, &queue->expiry_timer, next_ms <= now_ms ? now_ms + 1 : next_ms);
}

static void
on_expiry(struct timer *timer, int64_t now_ms)
{
    (void)now_ms;
    struct queue *queue = CONTAINER_OF(timer, struct queue, expiry_timer);
    expire(queue, QUEUE_RUN_BUDGET);
    publish_statistics(queue);
}

/* --- Publishing ------------------------------------------------------------------------------- */

static bool
is_over(const struct queue *queue, uint64_t messages, uint64_t bytes)
{
    const struct queue_options *options = &queue->record->options;
    return (options->max_length >= 0 && messages > (uint64_t)options->max_length)
           || (options->max_length_bytes >= 0 && bytes > (uint64_t)options->max_length_bytes);
}

static bool
refuses(struct queue *queue, const struct message *message)
{
    const struct queue_options *options = &queue->record->options;
    return options->overflow != OVERFLOW_DROP_HEAD
           && is_over(queue, queue->ready + 1, queue->ready_bytes + message->body_size);
}

/* A queue that is too long loses its oldest messages; deliveries come first. One that refuses
 * messages rather than lose any keeps what comes back to it, even above its limit. */
static void
keep_limit(struct queue *queue)
{
    struct entry *entry;
    struct lane *lane;
    uint64_t tag;
    if (queue->record->options.overflow != OVERFLOW_DROP_HEAD)
        return;
    if (is_over(queue, queue->ready, queue->ready_bytes))
        queue_run(queue);
    while (is_over(queue, queue->ready, queue->ready_bytes)
           && (entry = first_ready(queue, &tag, &lane)) != NULL)
        queue_depart(queue, tag, entry, DEPARTS_MAXLEN);
}

static int64_t
deadline_for(const struct queue *queue, const struct message *message, uint32_t delay_ms)
{
    int64_t now_ms = queue->shard->now_ms;
    if (delay_ms > 0)
        return now_ms + delay_ms;
    int64_t ttl_ms = queue->record->options.message_ttl_ms;
    if (message->expiration_ms != MESSAGE_NO_EXPIRATION
        && (ttl_ms == OPTION_NONE || message->expiration_ms < ttl_ms))
        ttl_ms = message->expiration_ms;
    return ttl_ms == OPTION_NONE ? NEVER : now_ms + ttl_ms;
}

int
queue_publish(struct queue *queue, struct message *message, uint32_t delay_ms, bool is_dead_letter)
{
    const struct queue_options *options = &queue->record->options;
    bool is_limited = options->max_length >= 0 || options->max_length_bytes >= 0;
    if (is_dead_letter && !dead_letter_may_enter(message, queue->record->name)) {
        settle_message(queue, message);
        message_unref(message);
        return 0;
    }
    if (is_limited && refuses(queue, message)) {
        queue_run(queue);
        if (refuses(queue, message)) {
            bool goes_on = false;
            if (options->overflow == OVERFLOW_REJECT_PUBLISH_DLX)
                goes_on = queue_depart_refused(queue, message); /* which settles it */
            else
                settle_message(queue, message);
            message_unref(message);
            return goes_on ? 1 : -EBUSY;
        }
    }
    if (!note_identifier(queue, message)) {
        settle_message(queue, message);
        message_unref(message);
        return 0;
    }
    int64_t deadline_ms = deadline_for(queue, message, delay_ms);
    if (enter(queue, message, deadline_ms) != 0) {
        forget_identifier(queue, message);
        message_unref(message);
        return -ENOMEM;
    }
    if (is_limited)
        keep_limit(queue);
    if (deadline_ms == queue->shard->now_ms) /* a time to live of 0: to a ready consumer, or gone */
        queue_run(queue);
    return 0;
}

/* --- Subscriptions ---------------------------------------------------------------------------- */

static bool
can_receive(const struct subscription *subscription)
{
    const struct queue *queue = subscription->queue;
    if (queue->record->options.single_active_consumer && queue->active != subscription)
        return false;
    return subscription->window > 0
           && (subscription->prefetch == 0 || subscription->unsettled < subscription->prefetch)
           && (!subscription->is_metered || subscription->leave > 0);
}

/* Puts the subscription where it belongs: behind the last able one of its priority, or among the
 * blocked. */
static void
take_turn(struct subscription *subscription)
{
    struct queue *queue = subscription->queue;
    list_remove(&subscription->turn_link);
    subscription->is_able = can_receive(subscription);
    if (!subscription->is_able) {
        list_push_back(&queue->blocked, &subscription->turn_link);
        return;
    }
    struct list *place = queue->able.previous;
    while (place != &queue->able
           && LIST_ENTRY(place, struct subscription, turn_link)->priority < subscription->priority)
        place = place->previous;
    list_insert_before(place->next, &subscription->turn_link);
}

/* Something changed that may let the subscription receive. If it could before, it keeps its turn:
 * who acknowledges often must not wait longer for that. */
static void
reconsider(struct subscription *subscription)
{
    struct queue *queue = subscription->queue;
    if (!subscription->is_able || !can_receive(subscription))
        take_turn(subscription);
    if (queue->ready > 0)
        make_runnable(queue);
}

static void
use(struct queue *queue)
{
    queue->used_ms = queue->shard->now_ms;
}

static void
on_unused(struct timer *timer, int64_t now_ms)
{
    struct queue *queue = CONTAINER_OF(timer, struct queue, unused_timer);
    int64_t expires_ms = queue->record->options.expires_ms;
    if (queue->consumer_count > 0)
        queue->used_ms = now_ms;
    if (now_ms - queue->used_ms >= expires_ms)
        queue_delete(queue);
    else
        wheel_set(&queue->shard->wheel, timer, queue->used_ms + expires_ms);
}

static void
reply(struct queue *queue, const struct mail *to, enum queue_result result, struct mail *answer)
{
    answer->type = MAIL_REPLY;
    answer->flag = to->type;
    answer->result = (uint8_t)result;
    answer->to = to->from;
    answer->from = queue->ref;
    shard_send(queue->shard, answer);
}

static void
reply_counts(struct queue *queue, const struct mail *to, enum queue_result result,
             uint64_t messages)
{
    struct mail answer = {.reply = {.messages = messages, .consumers = queue->consumer_count}};
    reply(queue, to, result, &answer);
}

static void
subscribe(struct queue *queue, const struct mail *mail)
{
    struct mail answer = {.reply = {.consumer = mail->subscribe.consumer}};
    if (queue->exclusive != NULL
        || (mail->subscribe.exclusive
            && (queue->consumer_count > 0 || queue->record->options.single_active_consumer))) {
        reply(queue, mail, QUEUE_EXCLUSIVE_USE, &answer);
        return;
    }
    struct subscription *subscription = calloc(1, sizeof(*subscription));
    struct ref ref =
        subscription == NULL ? REF_NONE : ref_table_add(&queue->shard->subscriptions, subscription);
    if (ref_is_none(ref)) {
        free(subscription);
        reply(queue, mail, QUEUE_NO_MEMORY, &answer);
        return;
    }
    *subscription = (struct subscription){
        .queue = queue,
        .ref = ref,
        .client = mail->from,
        .consumer = mail->subscribe.consumer,
        .priority = mail->subscribe.priority,
        .prefetch = mail->subscribe.no_ack ? 0 : mail->subscribe.prefetch,
        .window = mail->subscribe.window > 0 ? mail->subscribe.window : SUBSCRIPTION_WINDOW,
        .no_ack = mail->subscribe.no_ack,
        .is_exclusive = mail->subscribe.exclusive,
        .is_metered = mail->subscribe.is_metered && !mail->subscribe.no_ack,
    };
    list_init(&subscription->turn_link);
    list_push_back(&queue->all, &subscription->all_link);
    queue->consumer_count++;
    queue->had_consumer = true;
    if (subscription->is_exclusive)
        queue->exclusive = subscription;
    if (queue->active == NULL)
        queue->active = subscription;
    use(queue);
    answer.reply.subscription = ref;
    answer.reply.consumers = queue->consumer_count;
    reply(queue, mail, QUEUE_OK, &answer);
    reconsider(subscription);
    publish_statistics(queue);
}

static void
subscription_free(struct subscription *subscription)
{
    struct queue *queue = subscription->queue;
    list_remove(&subscription->turn_link);
    list_remove(&subscription->all_link);
    ref_table_remove(&queue->shard->subscriptions, subscription->ref);
    queue->consumer_count--;
    if (queue->exclusive == subscription)
        queue->exclusive = NULL;
    if (queue->active == subscription) {
        struct list *next = list_first(&queue->all);
        queue->active = next == NULL ? NULL : LIST_ENTRY(next, struct subscription, all_link);
        if (queue->active != NULL)
            reconsider(queue->active);
    }
    free(subscription);
}

static void
unsubscribe(struct subscription *subscription, const struct mail *mail)
{
    struct queue *queue = subscription->queue;
    struct mail answer = {.reply = {.consumer = subscription->consumer}};
    use(queue);
    subscription_free(subscription);
    publish_statistics(queue);
    if (!ref_is_none(mail->from))
        reply(queue, mail, QUEUE_OK, &answer);
    if (queue->record->auto_delete && queue->consumer_count == 0 && !queue->is_deleted)
        queue_delete(queue);
}

static void
give_credit(struct subscription *subscription, const struct mail *mail)
{
    if (mail->flag != CREDIT_PLAIN && !subscription->no_ack) {
        subscription->is_metered = mail->flag == CREDIT_METERED;
        subscription->leave = 0;
        subscription->has_asked = false;
    }
    subscription->window += mail->credit.bytes;
    subscription->leave += mail->credit.messages;
    if (mail->credit.messages > 0)
        subscription->has_asked = false;
    reconsider(subscription);
    if (subscription->is_metered)
        make_runnable(subscription->queue); /* to give leave back that is not needed */
}

/* --- Deliveries ------------------------------------------------------------------------------- */

/* Hands one message out: as mail to the client, or in place when it is of this shard. The message
 * stays in the queue, unacknowledged, or has left it (no_ack). */
static void
hand_out(struct queue *queue, struct mail *mail, uint64_t tag, struct lane *lane,
         struct entry *entry)
{
    struct shard *shard = queue->shard;
    struct message *message = entry->message;
    mail->type = MAIL_DELIVER;
    mail->from = queue->ref;
    mail->deliver.message = message;
    mail->deliver.tag = tag;
    mail->deliver.queue = queue->ref;
    mail->deliver.delivery_count =
        queue->record->options.delivery_limit >= 0 ? entry->delivery_count : 0;
    mail->deliver.is_redelivered = (entry->flags & ENTRY_REDELIVERED) != 0;
    bool is_remote = mail->to.shard != shard->index;
    shard->work++;
    if (mail->deliver.no_ack) {
        leave(queue, tag, lane, entry);
    } else {
        lane_take(lane, tag & TAG_SEQUENCE_MASK, entry);
        queue->ready--;
        queue->ready_bytes -= entry->body_size;
        queue->unacknowledged++;
        if (is_remote)
            message_ref(message);
    }
    mail->deliver.left = queue->ready;
    shard_send(shard, mail);
    if (mail->deliver.no_ack && !is_remote)
        message_unref(message);
}

static void
deliver(struct subscription *subscription, uint64_t tag, struct lane *lane, struct entry *entry)
{
    struct mail mail = {
        .to = subscription->client,
        .deliver = {.consumer = subscription->consumer,
                    .no_ack = subscription->no_ack,
                    .subscription = subscription->ref},
    };
    subscription->window -= entry->body_size + DELIVERY_OVERHEAD;
    if (!subscription->no_ack)
        subscription->unsettled++;
    if (subscription->is_metered)
        subscription->leave--;
    if (!can_receive(subscription)
        || subscription->queue->able.next->next != &subscription->queue->able)
        take_turn(subscription);
    hand_out(subscription->queue, &mail, tag, lane, entry);
}

/* Metered subscriptions ask for leave while there is something for them, and return it when not. */
static void
settle_leave(struct queue *queue)
{
    LIST_FOR_EACH (node, &queue->all) {
        struct subscription *subscription = LIST_ENTRY(node, struct subscription, all_link);
        if (!subscription->is_metered)
            continue;
        struct mail mail = {.to = subscription->client, .from = subscription->ref};
        if (queue->ready > 0 && subscription->leave == 0 && !subscription->has_asked) {
            subscription->has_asked = true;
            mail.type = MAIL_WANT;
            mail.consumer = subscription->consumer;
            shard_send(queue->shard, &mail);
        } else if (subscription->leave > 0 && (queue->ready == 0 || !can_receive(subscription))) {
            mail.type = MAIL_UNUSED;
            mail.credit.consumer = subscription->consumer;
            mail.credit.messages = subscription->leave;
            subscription->leave = 0;
            take_turn(subscription);
            shard_send(queue->shard, &mail);
        }
    }
}

static bool
has_metered(const struct queue *queue)
{
    LIST_FOR_EACH (node, &queue->all)
        if (LIST_ENTRY(node, struct subscription, all_link)->is_metered)
            return true;
    return false;
}

bool
queue_run(struct queue *queue)
{
    unsigned budget = QUEUE_RUN_BUDGET;
    uint64_t tag;
    struct lane *lane;
    struct entry *entry;
    while (!queue->is_deleted && !list_is_empty(&queue->able)
           && (entry = first_ready(queue, &tag, &lane)) != NULL) {
        if (budget-- == 0) {
            publish_statistics(queue);
            return true;
        }
        /* What is past its deadline is not delivered; a time to live of 0 may be, at once. */
        if (entry->deadline_ms < queue->shard->now_ms) {
            queue_depart(queue, tag, entry,
                         queue->record->is_internal ? DEPARTS_DELAY_OVER : DEPARTS_EXPIRED);
            continue;
        }
        if (fetch(queue, tag, lane, entry))
            deliver(LIST_ENTRY(queue->able.next, struct subscription, turn_link), tag, lane, entry);
    }
    if (queue->is_deleted)
        return false;
    if (timer_is_set(&queue->expiry_timer) && queue->expiry_timer.due_ms <= queue->shard->now_ms)
        expire(queue, QUEUE_RUN_BUDGET);
    if (has_metered(queue))
        settle_leave(queue);
    publish_statistics(queue);
    return false;
}

static void
get(struct queue *queue, const struct mail *mail)
{
    use(queue);
    queue_run(queue);
    if (queue->record->options.single_active_consumer) {
        reply_counts(queue, mail, QUEUE_SINGLE_ACTIVE, 0);
        return;
    }
    uint64_t tag;
    struct lane *lane;
    struct entry *entry;
    while ((entry = first_ready(queue, &tag, &lane)) != NULL) {
        /* More have expired than queue_run takes out in one go. */
        if (entry->deadline_ms <= queue->shard->now_ms)
            queue_depart(queue, tag, entry, DEPARTS_EXPIRED);
        else if (fetch(queue, tag, lane, entry))
            break;
    }
    if (entry == NULL) {
        reply_counts(queue, mail, QUEUE_EMPTY, 0);
        return;
    }
    struct mail answer = {
        .to = mail->from,
        .deliver = {.consumer = GET_CONSUMER, .no_ack = mail->flag != 0},
    };
    hand_out(queue, &answer, tag, lane, entry);
    publish_statistics(queue);
}

/* --- Settling --------------------------------------------------------------------------------- */

static void
requeue(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    int64_t limit = queue->record->options.delivery_limit;
    if (entry->delivery_count < UINT16_MAX)
        entry->delivery_count++;
    if (queue->record->durable && entry->id != 0)
        queue->shard->journal->returned(queue->shard->journal->context, queue->journal_id,
                                        entry->id, entry->delivery_count);
    if (limit >= 0 && entry->delivery_count > limit) {
        queue_depart(queue, tag, entry, DEPARTS_DELIVERY_LIMIT);
        return;
    }
    lane_return(lane, tag & TAG_SEQUENCE_MASK, entry);
    queue->unacknowledged--;
    queue->ready++;
    queue->ready_bytes += entry->body_size;
    entry->flags |= ENTRY_REDELIVERED;
    uint16_t priority = (uint16_t)(tag >> TAG_SEQUENCE_BITS);
    if (priority > queue->highest_lane)
        queue->highest_lane = priority;
    if (entry->deadline_ms != NEVER) {
        if ((entry->flags & ENTRY_IN_EXPIRY_HEAP) == 0)
            expiry_push(queue, tag, entry);
        arm_expiry(queue, entry->deadline_ms);
    }
}

static void
settle(struct queue *queue, const struct mail *mail)
{
    struct subscription *subscription =
        ref_table_find(&queue->shard->subscriptions, mail->settle.subscription);
    struct ref settler = mail->flag != 0 ? mail->from : REF_NONE;
    for (uint32_t i = 0; i < mail->settle.count; i++) {
        uint64_t tag = mail->settle.tag + i;
        struct lane *lane;
        struct entry *entry = entry_of(queue, tag, &lane);
        if (entry == NULL || entry->state != ENTRY_UNACKNOWLEDGED) {
            shard_answer_settle(queue->shard, queue->ref, settler, true, false);
            continue;
        }
        if (subscription != NULL && subscription->unsettled > 0)
            subscription->unsettled--;
        bool is_in_journal = queue->journal_id != 0 && entry->id != 0;
        switch ((enum settle_outcome)mail->result) {
        case SETTLE_ACKNOWLEDGED:
            leave_and_forget(queue, tag, lane, entry);
            shard_answer_settle(queue->shard, queue->ref, settler, true, is_in_journal);
            break;
        case SETTLE_REQUEUED:
            requeue(queue, tag, lane, entry);
            shard_answer_settle(queue->shard, queue->ref, settler, true, is_in_journal);
            break;
        case SETTLE_REJECTED:
            queue_depart_rejected(queue, tag, entry, settler);
            break;
        }
    }
    if (subscription != NULL)
        reconsider(subscription);
    if (queue->ready > 0)
        make_runnable(queue);
    if (mail->result == SETTLE_REQUEUED)
        keep_limit(queue);
    publish_statistics(queue);
}

/* What a purge puts aside, as a deleted queue of which only the messages are left. NULL: no memory,
 * or the messages must go one by one, since a duplicate may come next. */
static struct queue *
remains_new(struct queue *queue)
{
    struct queue *remains = queue->identifiers != NULL ? NULL : calloc(1, sizeof(*remains));
    if (remains == NULL)
        return NULL;
    remains->lanes = calloc(queue->lane_count, sizeof(*remains->lanes));
    if (remains->lanes == NULL) {
        free(remains);
        return NULL;
    }
    remains->magic = QUEUE_MAGIC;
    remains->shard = queue->shard;
    remains->journal_id = queue->journal_id;
    remains->lane_count = queue->lane_count;
    remains->is_deleted = true;
    remains->origin = queue->ref;
    list_init(&remains->run_link);
    list_push_back(&queue->shard->graveyard, &remains->run_link);
    return remains;
}

/* Puts the lane's messages from there on aside. They stay where they are for lack of memory. */
static void
set_aside(struct queue *queue, uint16_t number, uint64_t from, struct queue *remains)
{
    struct lane *aside = malloc(sizeof(*aside));
    if (aside == NULL || lane_split(queue->lanes[number], from, aside) != 0) {
        free(aside);
        return;
    }
    queue->ready -= aside->ready;
    remains->lanes[number] = aside;
}

static void
purge_lane(struct queue *queue, uint16_t number, struct queue *remains)
{
    struct lane *lane = queue->lanes[number];
    uint64_t sequence;
    struct entry *entry;
    /* Behind the chunk of the cursor nothing was ever handed out: there is only what has to go. */
    uint64_t untouched = (lane->cursor / LANE_CHUNK_ENTRIES + 1) * LANE_CHUNK_ENTRIES;
    while ((entry = lane_first_ready(lane, &sequence)) != NULL) {
        if (remains != NULL && sequence >= untouched) {
            set_aside(queue, number, untouched, remains);
            remains = NULL;
            continue;
        }
        leave_and_forget(queue, tag_of(number, sequence), lane, entry);
    }
}

static void
purge(struct queue *queue, const struct mail *mail)
{
    queue_run(queue);
    uint64_t count = queue->ready;
    struct queue *remains = count > QUEUE_PURGE_AT_ONCE ? remains_new(queue) : NULL;
    for (uint16_t i = 0; i < queue->lane_count; i++)
        if (queue->lanes[i] != NULL)
            purge_lane(queue, i, remains);
    count -= queue->ready; /* a message whose place cannot be unpacked for lack of memory stays */
    if (queue->ready == 0)
        queue->ready_bytes = 0; /* what was set aside is not looked at one by one */
    publish_statistics(queue);
    reply_counts(queue, mail, QUEUE_OK, count);
}

/* --- Life ------------------------------------------------------------------------------------- */

struct queue *
queue_new(struct shard *shard, struct queue_record *record)
{
    struct queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return NULL;
    queue->magic = QUEUE_MAGIC;
    queue->shard = shard;
    queue->record = record;
    queue->lane_count =
        record->options.max_priority < 0 ? 1 : (uint16_t)(record->options.max_priority + 1);
    queue->lanes = calloc(queue->lane_count, sizeof(*queue->lanes));
    if (record->options.deduplicates)
        queue->identifiers = calloc(1, sizeof(*queue->identifiers));
    bool is_whole =
        queue->lanes != NULL && (queue->identifiers != NULL || !record->options.deduplicates);
    queue->ref = is_whole ? ref_table_add(&shard->queues, queue) : REF_NONE;
    if (ref_is_none(queue->ref)) {
        free(queue->identifiers);
        free(queue->lanes);
        free(queue);
        return NULL;
    }
    record->queue = queue->ref;
    queue->journal_id = record->id;
    if (queue->identifiers != NULL)
        map_init(queue->identifiers, identifier_of);
    list_init(&queue->run_link);
    list_init(&queue->able);
    list_init(&queue->blocked);
    list_init(&queue->all);
    timer_init(&queue->expiry_timer, on_expiry);
    timer_init(&queue->unused_timer, on_unused);
    use(queue);
    if (record->options.expires_ms >= 0)
        wheel_set(&shard->wheel, &queue->unused_timer, shard->now_ms + record->options.expires_ms);
    return queue;
}

int
queue_restore(struct queue *queue, const struct restored_message *restored)
{
    struct shard *shard = queue->shard;
    int64_t ttl_ms = queue->record->options.message_ttl_ms;
    int64_t expires_ms = restored->expires_wall_ms == 0 ? NEVER : restored->expires_wall_ms;
    if (!queue->record->is_internal && ttl_ms != OPTION_NONE
        && restored->published_wall_ms + ttl_ms < expires_ms)
        expires_ms = restored->published_wall_ms + ttl_ms;
    uint16_t lane_of = restored->priority < queue->lane_count ? restored->priority
                                                              : (uint16_t)(queue->lane_count - 1);
    uint64_t tag;
    struct lane *lane;
    struct entry *entry = add_entry(queue, lane_of, &tag, &lane);
    if (entry == NULL)
        return -ENOMEM;
    entry->id = restored->id;
    entry->body_size = restored->body_size;
    entry->delivery_count = restored->delivery_count;
    entry->flags = restored->is_redelivered ? ENTRY_REDELIVERED : 0;
    entry->deadline_ms =
        expires_ms == NEVER ? NEVER : shard->now_ms + (expires_ms - shard->wall_ms);
    queue->ready_bytes += restored->body_size;
    note_deadline(queue, lane, tag, entry);
    if (queue->identifiers != NULL && fetch(queue, tag, lane, entry))
        (void)note_identifier(queue, entry->message); /* it was checked when it came */
    return 0;
}

/* Forgets one message; `owner` is the queue whose memory it counts as, or NULL. */
static void
drop(struct queue *queue, struct queue *owner, struct lane *lane, uint64_t sequence,
     struct entry *entry)
{
    struct message *message = entry->message;
    uint64_t id = entry->id;
    lane_remove(lane, sequence, entry);
    if (queue->is_deleted) /* not when the broker ends */
        shard_settle(queue->shard, queue->journal_id, id);
    if (message == NULL)
        return;
    atomic_fetch_sub_explicit(&queue->shard->queued_bytes, message_memory(message),
                              memory_order_relaxed);
    if (owner != NULL)
        owner->memory -= message_memory(message);
    message_unref(message);
}

bool
queue_drop_some(struct queue *queue, uint32_t *budget)
{
    struct queue *owner =
        ref_is_none(queue->origin) ? NULL : ref_table_find(&queue->shard->queues, queue->origin);
    for (uint16_t i = 0; i < queue->lane_count; i++) {
        struct lane *lane = queue->lanes[i];
        if (lane == NULL)
            continue;
        uint64_t sequence = 0;
        struct entry *entry;
        while (*budget > 0 && (entry = lane_next(lane, &sequence)) != NULL) {
            drop(queue, owner, lane, sequence - 1, entry);
            --*budget;
        }
        if (*budget == 0)
            return false;
        lane_fini(lane);
        free(lane);
        queue->lanes[i] = NULL;
    }
    return true;
}

static void
drop_everything(struct queue *queue)
{
    uint32_t budget;
    do
        budget = UINT32_MAX;
    while (!queue_drop_some(queue, &budget));
    if (queue->identifiers != NULL)
        map_fini(queue->identifiers);
    free(queue->identifiers);
    free(queue->lanes);
    free(queue->expiries);
}

void
queue_delete(struct queue *queue)
{
    struct shard *shard = queue->shard;
    assert(queue->magic == QUEUE_MAGIC && !queue->is_deleted);
    queue->is_deleted = true;
    catalogue_lock(shard->broker->catalogue);
    queue_record_remove(shard->broker->catalogue, queue->record);
    catalogue_unlock(shard->broker->catalogue);
    queue->record = NULL;
    wheel_cancel(&shard->wheel, &queue->expiry_timer);
    wheel_cancel(&shard->wheel, &queue->unused_timer);
    list_remove(&queue->run_link);
    queue->active = NULL;
    /* None can be reached any more when the first client is told, which may give others credit. */
    LIST_FOR_EACH (node, &queue->all) {
        struct subscription *subscription = LIST_ENTRY(node, struct subscription, all_link);
        list_remove(&subscription->turn_link);
        ref_table_remove(&shard->subscriptions, subscription->ref);
    }
    struct list *node;
    while ((node = list_pop_front(&queue->all)) != NULL) {
        struct subscription *subscription = LIST_ENTRY(node, struct subscription, all_link);
        struct mail mail = {.type = MAIL_CANCELLED,
                            .to = subscription->client,
                            .from = queue->ref,
                            .consumer = subscription->consumer};
        free(subscription);
        shard_send(shard, &mail);
    }
    ref_table_remove(&shard->queues, queue->ref);
    list_push_back(&shard->graveyard, &queue->run_link);
}

int
queue_new_delay_store(struct shard *shard, struct vhost *vhost, struct exchange *exchange,
                      uint64_t id)
{
    struct catalogue *catalogue = shard->broker->catalogue;
    struct queue_declaration declaration = {
        .name = exchange_name(exchange),
        .durable = exchange_is_durable(exchange),
        .arguments = {"", 0},
    };
    struct queue_options options;
    struct amqp_error error;
    if (queue_options_parse(&options, &declaration, vhost_name(vhost), &error) != 0)
        return -EINVAL;
    struct queue_record *record = queue_record_new(catalogue, vhost, &declaration, &options, id);
    if (record == NULL)
        return -ENOMEM;
    record->is_internal = true;
    if (queue_new(shard, record) == NULL) {
        queue_record_free(record);
        return -ENOMEM;
    }
    exchange_set_delay_store(catalogue, exchange, record);
    return 0;
}

void
queue_discard(struct queue *queue)
{
    wheel_cancel(&queue->shard->wheel, &queue->unused_timer);
    ref_table_remove(&queue->shard->queues, queue->ref);
    queue_free(queue);
}

void
queue_free(struct queue *queue)
{
    drop_everything(queue);
    queue->magic = 0;
    free(queue);
}

static void
delete_on_request(struct queue *queue, const struct mail *mail)
{
    queue_run(queue);
    enum queue_result result = QUEUE_OK;
    uint64_t messages = queue->ready;
    if ((mail->flag & 2) != 0 && queue->ready > 0)
        result = QUEUE_NOT_EMPTY;
    else if ((mail->flag & 1) != 0 && queue->consumer_count > 0)
        result = QUEUE_IN_USE;
    if (result == QUEUE_OK)
        queue_delete(queue);
    if (!ref_is_none(mail->from))
        reply_counts(queue, mail, result, messages);
}

/* --- Mail ------------------------------------------------------------------------------------- */

static void
confirm(struct shard *shard, const struct mail *mail, bool is_accepted)
{
    if (!mail->flag)
        return;
    struct mail answer = {.type = MAIL_CONFIRM,
                          .flag = is_accepted,
                          .to = mail->from,
                          .from = mail->to,
                          .number = mail->publish.number};
    shard_send(shard, &answer);
}

/* A publisher on this shard hears of it in time. For one on another it may be too late: to await an
 * answer for every message that is not kept would double the post between threads. */
static void
tell_lost(struct queue *queue, const struct mail *mail)
{
    struct mail lost = {
        .type = MAIL_LOST, .to = mail->from, .from = mail->to, .number = mail->publish.number};
    if (!ref_is_none(mail->from))
        shard_send(queue->shard, &lost);
}

static void
receive_message(struct queue *queue, const struct mail *mail)
{
    uint64_t id = queue_kept_id(queue, mail->publish.message);
    int status = queue_publish(queue, mail->publish.message, mail->publish.delay_ms,
                               mail->publish.is_dead_letter);
    if (UNLIKELY(status == -ENOMEM)) {
        log_error("out of memory: a message finds no place",
                  LOG_SLICE("queue", queue->record->name), LOG_UINT("message", id));
        /* Who is not told must not lose it: the journal gives it back at the next start. */
        if (mail->flag)
            shard_settle(queue->shard, queue->journal_id, id);
        else if (id == 0)
            tell_lost(queue, mail);
    }
    /* A dead letter that was refused and dead-lettered here has gone on: it must not come again. */
    if (status == 1 && mail->publish.number == DEPARTURE_NUMBER)
        status = 0;
    confirm(queue->shard, mail, status == 0);
}

/* Mail for a queue that is no more. A message to it counts as taken: it was routed, then the queue
 * was deleted. */
static void
receive_for_none(struct shard *shard, const struct mail *mail)
{
    struct mail answer = {.type = MAIL_REPLY,
                          .flag = mail->type,
                          .result = QUEUE_GONE,
                          .to = mail->from,
                          .from = mail->to};
    switch ((enum mail_type)mail->type) {
    case MAIL_PUBLISH:
        shard_settle(shard, mail->publish.queue_id, mail->publish.message->id);
        message_unref(mail->publish.message);
        confirm(shard, mail, true);
        break;
    case MAIL_SETTLE:
        /* Its messages are gone when the deletion is on disk. */
        for (uint32_t i = 0; mail->flag != 0 && i < mail->settle.count; i++)
            shard_answer_settle(shard, mail->to, mail->from, true, true);
        break;
    case MAIL_SUBSCRIBE:
        answer.reply.consumer = mail->subscribe.consumer;
        shard_send(shard, &answer);
        break;
    case MAIL_UNSUBSCRIBE:
    case MAIL_GET:
    case MAIL_COUNT:
    case MAIL_PURGE:
    case MAIL_DELETE:
        if (!ref_is_none(mail->from))
            shard_send(shard, &answer);
        break;
    default:
        break;
    }
}

void
queue_receive(struct shard *shard, const struct mail *mail)
{
    if (mail->type == MAIL_UNSUBSCRIBE || mail->type == MAIL_CREDIT) {
        struct subscription *subscription = ref_table_find(&shard->subscriptions, mail->to);
        if (subscription == NULL)
            receive_for_none(shard, mail);
        else if (mail->type == MAIL_UNSUBSCRIBE)
            unsubscribe(subscription, mail);
        else
            give_credit(subscription, mail);
        return;
    }
    struct queue *queue = ref_table_find(&shard->queues, mail->to);
    if (queue == NULL) {
        receive_for_none(shard, mail);
        return;
    }
    switch ((enum mail_type)mail->type) {
    case MAIL_PUBLISH:
        receive_message(queue, mail);
        break;
    case MAIL_SUBSCRIBE:
        subscribe(queue, mail);
        break;
    case MAIL_SETTLE:
        settle(queue, mail);
        break;
    case MAIL_GET:
        get(queue, mail);
        break;
    case MAIL_COUNT:
        use(queue);
        queue_run(queue);
        reply_counts(queue, mail, QUEUE_OK, queue->ready);
        break;
    case MAIL_PURGE:
        purge(queue, mail);
        break;
    case MAIL_DELETE:
        delete_on_request(queue, mail);
        break;
    default:
        abort(); /* mail for clients is not for us, and nobody may miss it */
    }
}
