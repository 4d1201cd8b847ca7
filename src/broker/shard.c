/* Shards: the turn of the core, and the post between shards.
 *
 * An inbox is a stack of batches that any shard pushes to with one compare-and-swap, and its owner
 * takes as a whole: the one place where shards touch the same cache line. Who finds the inbox empty
 * when it pushes wakes the owner. */
#include "broker/shard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "broker/departure.h"
#include "broker/policy_internal.h"
#include "broker/queue.h"

enum {
    BATCH_MAILS = 64,
    TIMERS_PER_TURN = 1024,
    DEPARTURES_PER_TURN = 2048,
    DROPS_PER_TURN = 4096,
    OWN_MAIL_MS = 10,
    READ_COST = 1024, /* of any message, in bytes that could be read meanwhile */
    /* Messages that all queues together send or let go, at about 0.2 us each; the last may do its
     * own budget beyond that. */
    QUEUE_WORK_PER_TURN = 8192,
};

struct mail_batch {
    struct mail_batch *next;
    uint32_t count;
    struct mail mails[BATCH_MAILS];
};

/* --- Life ------------------------------------------------------------------------------------- */

static struct shard *
shard_new(struct broker *broker, uint32_t index)
{
    struct shard *shard = calloc(1, sizeof(*shard));
    if (shard == NULL)
        return NULL;
    shard->broker = broker;
    shard->index = index;
    shard->memory_share = shard->memory_most = UINT64_MAX;
    shard->may_read = QUEUE_READ_PER_TURN;
    wheel_init(&shard->wheel, 0);
    ref_table_init(&shard->queues, index);
    ref_table_init(&shard->subscriptions, index);
    ref_table_init(&shard->clients, index);
    ref_table_init(&shard->refusable, index);
    list_init(&shard->runnable);
    list_init(&shard->stalled);
    list_init(&shard->dying);
    list_init(&shard->graveyard);
    list_init(&shard->late_settles);
    list_init(&shard->departures);
    list_init(&shard->departures_asking);
    map_init(&shard->departure_lines, departure_line_key);
    list_init(&shard->announcements);
    shard->outboxes = calloc(broker->shard_count, sizeof(*shard->outboxes));
    if (shard->outboxes == NULL) {
        free(shard);
        return NULL;
    }
    return shard;
}

struct broker *
broker_new(uint32_t shard_count)
{
    struct broker *broker = calloc(1, sizeof(*broker));
    if (broker == NULL)
        return NULL;
    broker->catalogue = catalogue_new();
    broker->shards = calloc(shard_count, sizeof(struct shard *));
    if (broker->catalogue == NULL || broker->shards == NULL)
        goto failed;
    broker->shard_count = shard_count; /* the outboxes of each are as many */
    for (uint32_t i = 0; i < shard_count; i++)
        if ((broker->shards[i] = shard_new(broker, i)) == NULL)
            goto failed;
    return broker;
failed:
    broker_free(broker);
    return NULL;
}

static void
batches_free(struct mail_batch *batch)
{
    while (batch != NULL) {
        struct mail_batch *next = batch->next;
        for (uint32_t i = 0; i < batch->count; i++) {
            const struct mail *mail = &batch->mails[i];
            if (mail->type == MAIL_PUBLISH)
                message_unref(mail->publish.message);
            else if (mail->type == MAIL_DELIVER)
                message_unref(mail->deliver.message);
        }
        free(batch);
        batch = next;
    }
}

struct late_settle {
    struct list link;
    uint64_t deletion, queue_id, message_id;
};

/* Deletions that are on disk by now. */
static void
let_die(struct shard *shard)
{
    const struct journal *journal = shard->journal;
    uint64_t written =
        journal == NULL ? UINT64_MAX : journal->definitions_written(journal->context);
    struct list *node;
    while ((node = list_first(&shard->dying)) != NULL
           && LIST_ENTRY(node, struct queue, run_link)->deletion <= written)
        list_move_back(&shard->graveyard, node);
    while ((node = list_first(&shard->late_settles)) != NULL) {
        struct late_settle *late = LIST_ENTRY(node, struct late_settle, link);
        if (late->deletion > written)
            break;
        shard_settle(shard, late->queue_id, late->message_id);
        list_remove(node);
        free(late);
    }
}

void
shard_settle_late(struct shard *shard, uint64_t queue_id, uint64_t message_id)
{
    if (queue_id == 0 || message_id == 0 || shard->journal == NULL)
        return;
    struct late_settle *late = malloc(sizeof(*late));
    if (late == NULL) {
        /* It stays in the journal until the next start, which finds that its queue is gone. */
        log_error("out of memory to settle a message of a deleted queue",
                  LOG_UINT("message", message_id));
        return;
    }
    *late = (struct late_settle){
        .deletion = shard_definitions_made(shard), .queue_id = queue_id, .message_id = message_id};
    list_init(&late->link);
    list_push_back(&shard->late_settles, &late->link);
}

/* A million messages take a while to drop: true when there is more to do. */
static bool
bury(struct shard *shard, uint32_t budget)
{
    struct list *node;
    if (UNLIKELY(!list_is_empty(&shard->dying) || !list_is_empty(&shard->late_settles)))
        let_die(shard);
    while ((node = list_first(&shard->graveyard)) != NULL) {
        struct queue *queue = LIST_ENTRY(node, struct queue, run_link);
        if (!queue_drop_some(queue, &budget))
            return true;
        list_remove(node);
        queue_free(queue);
    }
    return false;
}

void
shard_bury(struct shard *shard)
{
    while (bury(shard, UINT32_MAX))
        continue;
}

static void
shard_free(struct shard *shard)
{
    shard->journal = NULL; /* nothing is on its way to the disk any more that one could wait for */
    shard_bury(shard);
    departures_clear(shard);
    policy_tell_end(shard);
    for (uint32_t i = 0; i < shard->queues.size; i++) {
        struct queue *queue = shard->queues.slots[i].object;
        if (queue == NULL)
            continue;
        /* The others are freed with the catalogue. */
        if (queue->record->is_internal || vhost_is_deleted(queue->record->vhost))
            queue_record_free(queue->record);
        queue_free(queue);
    }
    for (uint32_t i = 0; i < shard->subscriptions.size; i++)
        free(shard->subscriptions.slots[i].object);
    batches_free(atomic_load(&shard->inbox));
    for (uint32_t i = 0; i < shard->broker->shard_count; i++)
        batches_free(shard->outboxes[i].newest);
    ref_table_fini(&shard->queues);
    ref_table_fini(&shard->subscriptions);
    ref_table_fini(&shard->clients);
    ref_table_fini(&shard->refusable);
    map_fini(&shard->departure_lines);
    free(shard->outboxes);
    free(shard);
}

void
broker_free(struct broker *broker)
{
    if (broker->shards != NULL)
        for (uint32_t i = 0; i < broker->shard_count; i++)
            if (broker->shards[i] != NULL)
                shard_free(broker->shards[i]);
    if (broker->catalogue != NULL)
        catalogue_free(broker->catalogue);
    free(broker->shards);
    free(broker);
}

void
shard_set_host(struct shard *shard, struct client_ops ops, void (*wake)(void *context),
               void *context)
{
    shard->client_ops = ops;
    shard->wake = wake;
    shard->wake_context = context;
}

void
shard_set_time(struct shard *shard, int64_t monotonic_ms, int64_t wall_ms)
{
    shard->now_ms = monotonic_ms;
    shard->wall_ms = wall_ms;
    wall_clock_note(&shard->wall_clock, monotonic_ms, wall_ms);
}

/* --- Receiving -------------------------------------------------------------------------------- */

/* A delivery whose client has gone comes back to its queue. */
static void
bounce(struct shard *shard, const struct delivery *delivery)
{
    if (delivery->no_ack)
        return;
    struct mail mail = {
        .type = MAIL_SETTLE,
        .result = SETTLE_REQUEUED,
        .to = delivery->queue,
        .settle = {.tag = delivery->tag, .count = 1, .subscription = delivery->subscription},
    };
    shard_send(shard, &mail);
}

/* A subscription whose client went while it was being made. */
static void
withdraw(struct shard *shard, struct ref subscription)
{
    struct mail mail = {.type = MAIL_UNSUBSCRIBE, .to = subscription};
    shard_send(shard, &mail);
}

static void
dispatch(struct shard *shard, const struct mail *mail)
{
    if (mail->type < MAIL_DELIVER) {
        queue_receive(shard, mail);
        return;
    }
    if (mail->type == MAIL_CONFIRM && mail->number == DEPARTURE_NUMBER) {
        departure_answered(shard, mail);
        return;
    }
    void *client = ref_table_find(&shard->clients, mail->to);
    if (client != NULL)
        shard->client_ops.receive(client, mail);
    else if (mail->type == MAIL_DELIVER)
        bounce(shard, &mail->deliver);
    else if (mail->type == MAIL_REPLY && mail->flag == MAIL_SUBSCRIBE && mail->result == QUEUE_OK)
        withdraw(shard, mail->reply.subscription);
}

bool
shard_has_mail(const struct shard *shard)
{
    return atomic_load_explicit(&shard->inbox, memory_order_acquire) != NULL;
}

/* Takes everything out of the inbox, oldest first. */
static struct mail_batch *
take_mail(struct shard *shard)
{
    struct mail_batch *stack = atomic_exchange_explicit(&shard->inbox, NULL, memory_order_acquire);
    struct mail_batch *oldest = NULL;
    while (stack != NULL) {
        struct mail_batch *next = stack->next;
        stack->next = oldest;
        oldest = stack;
        stack = next;
    }
    return oldest;
}

void
shard_receive(struct shard *shard)
{
    struct mail_batch *batch = take_mail(shard);
    while (batch != NULL) {
        struct mail_batch *next = batch->next;
        for (uint32_t i = 0; i < batch->count; i++) {
            const struct mail *mail = &batch->mails[i];
            dispatch(shard, mail);
            if (mail->type == MAIL_DELIVER)
                message_unref(mail->deliver.message);
        }
        free(batch);
        batch = next;
    }
}

/* --- Sending ---------------------------------------------------------------------------------- */

static struct mail_batch *
new_batch(struct outbox *outbox)
{
    struct mail_batch *batch = malloc(sizeof(*batch));
    if (batch == NULL) {
        /* Mail cannot be lost: queues and sessions would disagree for ever about who has what. */
        log_error("out of memory for the post between threads; ending");
        abort();
    }
    batch->count = 0;
    batch->next = outbox->newest;
    outbox->newest = batch;
    if (outbox->oldest == NULL)
        outbox->oldest = batch;
    return batch;
}

void
shard_send(struct shard *shard, const struct mail *mail)
{
    if (mail->to.shard == shard->index)
        dispatch(shard, mail);
    else
        shard_send_later(shard, mail);
}

void
shard_send_later(struct shard *shard, const struct mail *mail)
{
    struct outbox *outbox = &shard->outboxes[mail->to.shard];
    struct mail_batch *batch = outbox->newest;
    if (batch == NULL || batch->count == BATCH_MAILS)
        batch = new_batch(outbox);
    batch->mails[batch->count++] = *mail;
}

void
shard_answer_settle(struct shard *shard, struct ref queue, struct ref settler, bool is_done,
                    bool is_in_journal)
{
    if (ref_is_none(settler))
        return;
    struct mail answer = {.type = MAIL_CONFIRM,
                          .flag = is_done,
                          .result = is_in_journal && shard->journal != NULL,
                          .to = settler,
                          .from = queue};
    shard_send(shard, &answer);
}

/* What it has sent to itself could not go on, and perhaps still cannot while the journal is short:
 * it is looked at now and then. */
static bool
own_mail_is_due(struct shard *shard)
{
    if (shard->journal_is_short && shard->now_ms < shard->own_mail_ms)
        return false;
    shard->own_mail_ms = shard->now_ms + OWN_MAIL_MS;
    return true;
}

void
shard_flush(struct shard *shard)
{
    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        struct outbox *outbox = &shard->outboxes[i];
        if (outbox->newest == NULL || (i == shard->index && !own_mail_is_due(shard)))
            continue;
        struct shard *other = shard->broker->shards[i];
        struct mail_batch *top = atomic_load_explicit(&other->inbox, memory_order_relaxed);
        do {
            outbox->oldest->next = top;
        } while (!atomic_compare_exchange_weak_explicit(
            &other->inbox, &top, outbox->newest, memory_order_release, memory_order_relaxed));
        *outbox = (struct outbox){0};
        if (top == NULL)
            other->wake(other->wake_context);
    }
}

/* What the targets hold the message back for: the delay, if there is one, is the message's. */
static uint32_t
longest_delay(const struct route *route)
{
    uint32_t delay_ms = 0;
    for (uint32_t i = 0; i < route->count; i++)
        if (route->targets[i].delay_ms > delay_ms)
            delay_ms = route->targets[i].delay_ms;
    return delay_ms;
}

static bool
has_target_without_delay(const struct route *route)
{
    for (uint32_t i = 0; i < route->count; i++)
        if (route->targets[i].delay_ms == 0)
            return true;
    return false;
}

/* The targets that hold messages back, or the others; of the durable ones those that keep all come
 * first, as in every route. -ENOMEM. */
static int
take_part(const struct route *route, bool is_delayed, struct route *part)
{
    route_init(part);
    part->targets = malloc(route->count * sizeof(*part->targets));
    part->durable_ids = malloc(route->count * sizeof(*part->durable_ids));
    if (part->targets == NULL || part->durable_ids == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < route->count; i++)
        if ((route->targets[i].delay_ms > 0) == is_delayed)
            part->targets[part->count++] = route->targets[i];
    for (uint32_t i = 0; i < part->count; i++)
        if (part->targets[i].keeps_all)
            part->durable_ids[part->keeps_all_count++] = part->targets[i].queue_id;
    part->durable_count = part->keeps_all_count;
    for (uint32_t i = 0; i < part->count; i++)
        if (part->targets[i].queue_id != 0 && !part->targets[i].keeps_all)
            part->durable_ids[part->durable_count++] = part->targets[i].queue_id;
    return 0;
}

/* The journal holds a message back for all its queues or for none, so one that goes to some at once
 * and to others later is two messages. */
static int
publish_apart(struct shard *shard, const struct route *route, struct message *message,
              struct ref from, uint64_t number, enum publish_origin origin)
{
    struct route now, later;
    struct message *copy = message_copy(message);
    int status = take_part(route, false, &now);
    if (take_part(route, true, &later) != 0 || copy == NULL)
        status = -ENOMEM;
    if (status == 0)
        status = shard_publish(shard, &now, message, from, number, origin);
    else
        message_unref(message);
    if (status == 0)
        status = shard_publish(shard, &later, copy, from, number, origin);
    else if (copy != NULL)
        message_unref(copy);
    route_fini(&now);
    route_fini(&later);
    return status;
}

struct message *
shard_read(struct shard *shard, uint64_t message_id)
{
    struct message *message = shard->journal->read(shard->journal->context, message_id);
    shard->may_read -= READ_COST + (message == NULL ? 0 : (int64_t)message->body_size);
    return message;
}

int
shard_publish(struct shard *shard, const struct route *route, struct message *message,
              struct ref from, uint64_t number, enum publish_origin origin)
{
    const struct journal *journal = shard->journal;
    if (route->count == 0) {
        message_unref(message);
        return 0;
    }
    message_set_published(message, shard->now_ms);
    if (shard_keeps(shard, route, message)) {
        uint32_t delay_ms = longest_delay(route);
        if (UNLIKELY(delay_ms > 0) && has_target_without_delay(route))
            return publish_apart(shard, route, message, from, number, origin);
        int status = journal->publish(journal->context, message, route->durable_ids,
                                      route_keepers(route, message), shard->wall_ms, delay_ms);
        if (status != 0) {
            message_unref(message);
            return status;
        }
    }
    bool is_persistent = (message->flags & MESSAGE_PERSISTENT) != 0;
    message_ref_many(message, route->count - 1);
    struct mail mail = {
        .type = MAIL_PUBLISH,
        .from = from,
        .publish = {.message = message,
                    .number = number,
                    .is_dead_letter = origin == PUBLISHED_BY_DEATH},
    };
    for (uint32_t i = 0; i < route->count; i++) {
        const struct route_target *target = &route->targets[i];
        mail.to = target->queue;
        mail.flag = target->may_reject && !ref_is_none(from);
        mail.publish.queue_id = is_persistent || target->keeps_all ? target->queue_id : 0;
        mail.publish.delay_ms = target->delay_ms;
        mail.publish.may_refuse = target->may_reject;
        shard_send(shard, &mail);
    }
    return 0;
}

/* --- Vhosts ----------------------------------------------------------------------------------- */

int
shard_remove_vhost(struct shard *shard, struct slice name)
{
    struct ref *queues;
    size_t count;
    int status = catalogue_vhost_remove(shard->broker->catalogue, name, &queues, &count);
    for (size_t i = 0; status == 0 && i < count; i++) {
        struct mail mail = {.type = MAIL_DELETE, .to = queues[i]};
        shard_send(shard, &mail);
    }
    free(queues);
    return status;
}

/* --- The turn --------------------------------------------------------------------------------- */

static void
delete_orphans(struct shard *shard)
{
    struct mail mail = {.type = MAIL_DELETE};
    while (catalogue_next_orphan(shard->broker->catalogue, &mail.to))
        shard_send(shard, &mail);
}

/* Lets every queue that has work do some; those that are not done stay in line, behind the others.
 * The one that reads the last of what may be read goes behind those that therefore cannot. */
static bool
run_queues(struct shard *shard)
{
    struct list round;
    list_init(&round);
    list_splice(&round, &shard->runnable);
    struct list *node;
    struct queue *reader = NULL;
    shard->work = 0;
    if (!shard->journal_is_short)
        list_splice(&shard->runnable, &shard->stalled);
    while (shard->work < QUEUE_WORK_PER_TURN && (node = list_pop_front(&round)) != NULL) {
        struct queue *queue = LIST_ENTRY(node, struct queue, run_link);
        bool could_read = shard->may_read > 0;
        uint32_t before = shard->work;
        queue->is_stalled = false;
        bool has_more = queue_take_turn(queue) || list_is_linked(&queue->run_link);
        if (UNLIKELY(could_read && shard->may_read <= 0))
            reader = queue;
        if (!has_more || queue->is_deleted)
            continue;
        queue->is_stalled = shard->journal_is_short && shard->work == before;
        list_move_back(queue->is_stalled ? &shard->stalled : &shard->runnable, &queue->run_link);
    }
    if (UNLIKELY(reader != NULL) && !reader->is_deleted && !reader->is_stalled
        && list_is_linked(&reader->run_link))
        list_move_back(&shard->runnable, &reader->run_link);
    list_splice(&round, &shard->runnable); /* who had no turn is first in the next */
    list_splice(&shard->runnable, &round);
    return !list_is_empty(&shard->runnable);
}

bool
shard_run(struct shard *shard)
{
    /* Queues read no more of what leaves them while there is some left that has not gone on. */
    bool is_behind = shard->is_behind;
    shard->may_read = is_behind ? 0 : QUEUE_READ_PER_TURN;
    shard_receive(shard);
    bool has_more = wheel_advance(&shard->wheel, shard->now_ms, TIMERS_PER_TURN) == TIMERS_PER_TURN;
    has_more |= run_queues(shard);
    if (is_behind)
        shard->may_read = QUEUE_READ_PER_TURN;
    shard->is_behind = departures_run(shard, DEPARTURES_PER_TURN);
    delete_orphans(shard);
    policy_tell_more(shard);
    has_more |= bury(shard, DROPS_PER_TURN);
    return has_more || shard_has_work(shard);
}
