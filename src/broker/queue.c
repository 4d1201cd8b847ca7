/* Queues: what is asked of them, by mail. Publishing, with the limits of the queue; settling.
 *
 * Publishing only puts the message into its lane and marks the queue runnable. The one exception is
 * a queue with a length limit, which delivers before it decides that it is too long. */
#include "broker/queue_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "broker/dead_letter.h"
#include "broker/departure.h"

static bool
is_over(const struct queue *queue, uint64_t messages, uint64_t bytes)
{
    const struct queue_options *options = &queue->options;
    return (options->max_length >= 0 && messages > (uint64_t)options->max_length)
           || (options->max_length_bytes >= 0 && bytes > (uint64_t)options->max_length_bytes);
}

static bool
refuses(struct queue *queue, const struct message *message)
{
    const struct queue_options *options = &queue->options;
    return options->overflow != OVERFLOW_DROP_HEAD
           && is_over(queue, queue->ready + 1, queue->ready_bytes + message->body_size);
}

/* One that refuses messages rather than lose any keeps what comes back to it, and what was there
 * before its limit, even above that. */
static bool
is_too_long(const struct queue *queue)
{
    return queue->options.overflow == OVERFLOW_DROP_HEAD
           && is_over(queue, queue->ready, queue->ready_bytes);
}

/* Drops the oldest messages, at most so many; and `least`, also those that would have to wait. */
static void
drop_oldest(struct queue *queue, unsigned least, unsigned budget)
{
    struct entry *entry = NULL;
    struct lane *lane;
    uint64_t tag;
    for (unsigned dropped = 0; is_too_long(queue) && dropped < budget; dropped++) {
        if ((entry = queue_first_ready(queue, &tag, &lane)) == NULL
            || (dropped >= least && must_wait(queue, entry, DEPARTS_MAXLEN)))
            break;
        queue_depart(queue, tag, entry, DEPARTS_MAXLEN);
    }
    /* Without memory to reach any the next message tries again. */
    queue->is_shrinking = is_too_long(queue) && entry != NULL;
    if (queue->is_shrinking)
        queue_make_runnable(queue);
}

/* Deliveries come first. */
void
queue_keep_limit(struct queue *queue)
{
    /* It is at it already, and loses one more than it gets. */
    if (UNLIKELY(queue->is_shrinking)) {
        drop_oldest(queue, 2, 2);
        return;
    }
    if (!is_too_long(queue))
        return;
    queue_run(queue);
    drop_oldest(queue, 2, QUEUE_PUSH_OUT_AT_ONCE);
}

bool
queue_shrink(struct queue *queue)
{
    if (LIKELY(!queue->is_shrinking))
        return false;
    drop_oldest(queue, 0, QUEUE_RUN_BUDGET);
    return queue->is_shrinking;
}

/* When it expires by its own expiration, or leaves the store of a delayed exchange. */
static int64_t
own_deadline(const struct queue *queue, const struct message *message, uint32_t delay_ms)
{
    int64_t now_ms = queue->shard->now_ms;
    if (delay_ms > 0)
        return now_ms + delay_ms;
    return message->expiration_ms == MESSAGE_NO_EXPIRATION ? NEVER
                                                           : now_ms + message->expiration_ms;
}

static int64_t
deadline_for(const struct queue *queue, int64_t own_deadline_ms, uint32_t delay_ms)
{
    int64_t ttl_ms = queue->options.message_ttl_ms;
    if (ttl_ms == OPTION_NONE || delay_ms > 0 || queue->shard->now_ms + ttl_ms >= own_deadline_ms)
        return own_deadline_ms;
    return queue->shard->now_ms + ttl_ms;
}

int
queue_publish(struct queue *queue, struct message *message, const struct queue_arrival *arrival)
{
    const struct queue_options *options = &queue->options;
    bool is_limited = options->max_length >= 0 || options->max_length_bytes >= 0;
    if (arrival->is_dead_letter && !dead_letter_may_enter(message, queue->record->name)) {
        queue_settle_message(queue, message);
        message_unref(message);
        return 0;
    }
    if (is_limited && arrival->may_refuse && refuses(queue, message)) {
        queue_run(queue);
        if (refuses(queue, message)) {
            bool goes_on = false;
            if (options->overflow == OVERFLOW_REJECT_PUBLISH_DLX)
                goes_on = queue_depart_refused(queue, message); /* which settles it */
            else
                queue_settle_message(queue, message);
            if (!goes_on)
                catalogue_forget_refused(queue->shard->broker->catalogue, queue->record->vhost,
                                         message);
            message_unref(message);
            return goes_on ? 1 : -EBUSY;
        }
    }
    if (!queue_note_identifier(queue, message)) {
        queue_settle_message(queue, message);
        message_unref(message);
        return 0;
    }
    int64_t own_deadline_ms = own_deadline(queue, message, arrival->delay_ms);
    int64_t deadline_ms = deadline_for(queue, own_deadline_ms, arrival->delay_ms);
    if (queue_enter(queue, message, deadline_ms, own_deadline_ms) != 0) {
        queue_forget_identifier(queue, message);
        message_unref(message);
        return -ENOMEM;
    }
    if (is_limited)
        queue_keep_limit(queue);
    if (deadline_ms == queue->shard->now_ms) /* a time to live of 0: to a ready consumer, or gone */
        queue_run(queue);
    return 0;
}

static void
requeue(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    int64_t limit = queue->options.delivery_limit;
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
    queue->unacknowledged_bytes -= entry->body_size;
    queue->ready++;
    queue->ready_bytes += entry->body_size;
    entry->flags |= ENTRY_REDELIVERED;
    uint16_t priority = (uint16_t)(tag >> TAG_SEQUENCE_BITS);
    if (priority > queue->highest_lane)
        queue->highest_lane = priority;
    if (queue_update_deadline(queue, tag, lane, entry) && entry->deadline_ms != NEVER) {
        if ((entry->flags & ENTRY_IN_EXPIRY_HEAP) == 0)
            queue_expiry_push(queue, tag, entry, entry->deadline_ms);
        queue_arm_expiry(queue, entry->deadline_ms);
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
        struct entry *entry = queue_entry(queue, tag, &lane);
        if (entry == NULL || entry->state != ENTRY_UNACKNOWLEDGED) {
            shard_answer_settle(queue->shard, queue->ref, settler, true, false);
            continue;
        }
        if (subscription != NULL && subscription->unsettled > 0)
            subscription->unsettled--;
        bool is_in_journal = queue->journal_id != 0 && entry->id != 0;
        switch ((enum settle_outcome)mail->result) {
        case SETTLE_ACKNOWLEDGED:
            queue_leave_and_forget(queue, tag, lane, entry);
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
        subscription_reconsider(subscription);
    if (queue->ready > 0)
        queue_make_runnable(queue);
    if (mail->result == SETTLE_REQUEUED)
        queue_keep_limit(queue);
    queue_publish_statistics(queue);
}

void
queue_use(struct queue *queue)
{
    queue->used_ms = queue->shard->now_ms;
}

void
queue_reply(struct queue *queue, const struct mail *to, enum queue_result result,
            struct mail *answer)
{
    answer->type = MAIL_REPLY;
    answer->flag = to->type;
    answer->result = (uint8_t)result;
    answer->to = to->from;
    answer->from = queue->ref;
    shard_send(queue->shard, answer);
}

void
queue_reply_counts(struct queue *queue, const struct mail *to, enum queue_result result,
                   uint64_t messages)
{
    struct mail answer = {.reply = {.messages = messages, .consumers = queue->consumer_count}};
    queue_reply(queue, to, result, &answer);
}

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
    const struct queue_arrival arrival = {.delay_ms = mail->publish.delay_ms,
                                          .is_dead_letter = mail->publish.is_dead_letter,
                                          .may_refuse = mail->publish.may_refuse};
    int status = queue_publish(queue, mail->publish.message, &arrival);
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
        shard_settle_late(shard, mail->publish.queue_id, mail->publish.message->id);
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
            queue_unsubscribe(subscription, mail);
        else
            subscription_give_credit(subscription, mail);
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
        queue_subscribe(queue, mail);
        break;
    case MAIL_SETTLE:
        settle(queue, mail);
        break;
    case MAIL_GET:
        queue_get(queue, mail);
        break;
    case MAIL_COUNT:
        queue_use(queue);
        queue_run(queue);
        queue_reply_counts(queue, mail, QUEUE_OK, queue->ready);
        break;
    case MAIL_PURGE:
        queue_purge(queue, mail);
        break;
    case MAIL_DELETE:
        queue_delete_on_request(queue, mail);
        break;
    case MAIL_POLICY:
        queue_on_policy(queue);
        break;
    default:
        abort(); /* mail for clients is not for us, and nobody may miss it */
    }
}
