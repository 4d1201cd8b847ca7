/* A queue's consumers: whose turn it is, and handing messages out.
 *
 * Subscriptions that can take a message are in a list by priority and turn, the others in a second
 * one. Deliveries are made from queue_run, once per turn of the shard, so they come in batches and
 * never from inside another operation. */
#include "broker/queue_internal.h"

#include <stdlib.h>

#include "broker/departure.h"

static bool
can_receive(const struct subscription *subscription)
{
    const struct queue *queue = subscription->queue;
    if (queue->options.single_active_consumer && queue->active != subscription)
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
void
subscription_reconsider(struct subscription *subscription)
{
    struct queue *queue = subscription->queue;
    if (!subscription->is_able || !can_receive(subscription))
        take_turn(subscription);
    if (queue->ready > 0)
        queue_make_runnable(queue);
}

void
queue_subscribe(struct queue *queue, const struct mail *mail)
{
    struct mail answer = {.reply = {.consumer = mail->subscribe.consumer}};
    if (queue->exclusive != NULL
        || (mail->subscribe.exclusive
            && (queue->consumer_count > 0 || queue->options.single_active_consumer))) {
        queue_reply(queue, mail, QUEUE_EXCLUSIVE_USE, &answer);
        return;
    }
    struct subscription *subscription = calloc(1, sizeof(*subscription));
    struct ref ref =
        subscription == NULL ? REF_NONE : ref_table_add(&queue->shard->subscriptions, subscription);
    if (ref_is_none(ref)) {
        free(subscription);
        queue_reply(queue, mail, QUEUE_NO_MEMORY, &answer);
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
    queue_use(queue);
    answer.reply.subscription = ref;
    answer.reply.consumers = queue->consumer_count;
    queue_reply(queue, mail, QUEUE_OK, &answer);
    subscription_reconsider(subscription);
    queue_publish_statistics(queue);
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
            subscription_reconsider(queue->active);
    }
    free(subscription);
}

void
queue_unsubscribe(struct subscription *subscription, const struct mail *mail)
{
    struct queue *queue = subscription->queue;
    struct mail answer = {.reply = {.consumer = subscription->consumer}};
    queue_use(queue);
    subscription_free(subscription);
    queue_publish_statistics(queue);
    if (!ref_is_none(mail->from))
        queue_reply(queue, mail, QUEUE_OK, &answer);
    if (queue->record->auto_delete && queue->consumer_count == 0 && !queue->is_deleted)
        queue_delete(queue);
}

void
subscription_give_credit(struct subscription *subscription, const struct mail *mail)
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
    subscription_reconsider(subscription);
    if (subscription->is_metered)
        queue_make_runnable(subscription->queue); /* to give leave back that is not needed */
}

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
    mail->deliver.delivery_count = queue->options.delivery_limit >= 0 ? entry->delivery_count : 0;
    mail->deliver.is_redelivered = (entry->flags & ENTRY_REDELIVERED) != 0;
    bool is_remote = mail->to.shard != shard->index;
    shard->work++;
    if (mail->deliver.no_ack) {
        queue_leave(queue, tag, lane, entry);
    } else {
        lane_take(lane, tag & TAG_SEQUENCE_MASK, entry);
        queue->ready--;
        queue->ready_bytes -= entry->body_size;
        queue->unacknowledged++;
        queue->unacknowledged_bytes += entry->body_size;
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

/* Whether a message may be read to see how long it lives. Not only while those that leave may be
 * read: as long as departures wait, perhaps for a disk to have room, consumers must go on. */
static bool
may_look(const struct shard *shard)
{
    return shard->may_read > (shard->is_behind ? -(int64_t)QUEUE_READ_PER_TURN : 0);
}

bool
queue_run(struct queue *queue)
{
    unsigned budget = QUEUE_RUN_BUDGET;
    uint64_t tag;
    struct lane *lane;
    struct entry *entry;
    while (!queue->is_deleted && !list_is_empty(&queue->able)
           && (entry = queue_first_ready(queue, &tag, &lane)) != NULL) {
        /* What is past its deadline is not delivered; a time to live of 0 may be, at once. */
        int64_t past_ms = queue->shard->now_ms - 1;
        bool must_look = entry->message == NULL && !deadline_is_known(lane, tag);
        bool waits = must_look ? !may_look(queue->shard)
                               : entry->deadline_ms <= past_ms
                                     && must_wait(queue, entry, queue_expiry_reason(queue));
        if (budget-- == 0 || waits) {
            queue->shard->work += must_look; /* it can go on in the next turn */
            (void)queue_shrink(queue);
            queue_publish_statistics(queue);
            return true;
        }
        if (!queue_update_deadline(queue, tag, lane, entry))
            continue;
        if (entry->deadline_ms <= past_ms && must_look && queue->shard->may_read <= 0)
            queue_page_out(queue, entry); /* to leave in another turn */
        else if (entry->deadline_ms <= past_ms)
            queue_depart(queue, tag, entry, queue_expiry_reason(queue));
        else if (queue_fetch(queue, tag, lane, entry))
            deliver(LIST_ENTRY(queue->able.next, struct subscription, turn_link), tag, lane, entry);
    }
    if (queue->is_deleted)
        return false;
    if (timer_is_set(&queue->expiry_timer) && queue->expiry_timer.due_ms <= queue->shard->now_ms)
        queue_expire(queue);
    bool has_more = queue_shrink(queue);
    if (has_metered(queue))
        settle_leave(queue);
    queue_publish_statistics(queue);
    return has_more;
}

bool
queue_take_turn(struct queue *queue)
{
    if (UNLIKELY(queue->is_expiring))
        queue_expire(queue);
    return queue_run(queue);
}

void
queue_get(struct queue *queue, const struct mail *mail)
{
    queue_use(queue);
    queue_run(queue);
    if (queue->options.single_active_consumer) {
        queue_reply_counts(queue, mail, QUEUE_SINGLE_ACTIVE, 0);
        return;
    }
    unsigned budget = QUEUE_RUN_BUDGET;
    uint64_t tag;
    struct lane *lane;
    struct entry *entry;
    /* More may have expired than queue_run takes out in one go; and what has to be read for that is
     * read in the queue's turn, so that other queues have theirs. */
    while ((entry = queue_first_ready(queue, &tag, &lane)) != NULL) {
        int64_t now_ms = queue->shard->now_ms;
        bool was_there = entry->message != NULL, waits = budget-- == 0;
        if (!waits && !queue_update_deadline(queue, tag, lane, entry))
            continue;
        bool is_expired = entry->deadline_ms <= now_ms;
        waits |= is_expired && !was_there
                 && (entry->message != NULL || departure_may_go_on(queue, DEPARTS_EXPIRED));
        if (waits) {
            if (!was_there)
                queue_page_out(queue, entry);
            queue_be_expiring(queue);
            shard_send_later(queue->shard, mail);
            return;
        }
        if (is_expired)
            queue_depart(queue, tag, entry, DEPARTS_EXPIRED);
        else if (queue_fetch(queue, tag, lane, entry))
            break;
    }
    if (entry == NULL) {
        queue_reply_counts(queue, mail, QUEUE_EMPTY, 0);
        return;
    }
    struct mail answer = {
        .to = mail->from,
        .deliver = {.consumer = GET_CONSUMER, .no_ack = mail->flag != 0},
    };
    hand_out(queue, &answer, tag, lane, entry);
    queue_publish_statistics(queue);
}
