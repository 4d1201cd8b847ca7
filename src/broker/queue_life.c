/* A queue's beginning and end: making it, filling it after a restart, purging and deleting it.
 *
 * Many messages are never dropped in one go: what a purge or a deletion leaves is put into the
 * shard's graveyard and dropped turn by turn. */
#include "broker/policy_internal.h"
#include "broker/queue_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "broker/departure.h"

static void
on_unused(struct timer *timer, int64_t now_ms)
{
    struct queue *queue = CONTAINER_OF(timer, struct queue, unused_timer);
    int64_t expires_ms = queue->options.expires_ms;
    assert(expires_ms != OPTION_NONE); /* else the timer is not set */
    if (queue->consumer_count > 0)
        queue->used_ms = now_ms;
    if (now_ms - queue->used_ms >= expires_ms)
        queue_delete(queue);
    else
        wheel_set(&queue->shard->wheel, timer, queue->used_ms + expires_ms);
}

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
        map_init(queue->identifiers, queue_identifier_of);
    list_init(&queue->run_link);
    list_init(&queue->able);
    list_init(&queue->blocked);
    list_init(&queue->all);
    timer_init(&queue->expiry_timer, queue_on_expiry);
    timer_init(&queue->unused_timer, on_unused);
    queue_use(queue);
    if (!record->is_internal)
        queue_record_take_policies(record);
    queue_read_policies(queue);
    if (queue->options.expires_ms >= 0)
        wheel_set(&shard->wheel, &queue->unused_timer, shard->now_ms + queue->options.expires_ms);
    return queue;
}

static int64_t
monotonic_of(const struct shard *shard, int64_t wall_ms)
{
    return wall_ms == NEVER ? NEVER : shard->now_ms + (wall_ms - shard->wall_ms);
}

int
queue_restore(struct queue *queue, const struct restored_message *restored)
{
    struct shard *shard = queue->shard;
    int64_t ttl_ms = queue->options.message_ttl_ms;
    int64_t own_wall_ms = restored->expires_wall_ms == 0 ? NEVER : restored->expires_wall_ms;
    int64_t expires_ms = own_wall_ms;
    if (!queue->record->is_internal && ttl_ms != OPTION_NONE
        && restored->published_wall_ms + ttl_ms < expires_ms)
        expires_ms = restored->published_wall_ms + ttl_ms;
    uint16_t lane_of = restored->priority < queue->lane_count ? restored->priority
                                                              : (uint16_t)(queue->lane_count - 1);
    uint64_t tag;
    struct lane *lane;
    struct entry *entry = queue_add_entry(queue, lane_of, &tag, &lane);
    if (entry == NULL)
        return -ENOMEM;
    entry->id = restored->id;
    entry->body_size = restored->body_size;
    entry->delivery_count = restored->delivery_count;
    entry->flags = restored->is_redelivered ? ENTRY_REDELIVERED : 0;
    entry->deadline_ms = monotonic_of(shard, expires_ms);
    queue->ready_bytes += restored->body_size;
    queue_note_deadline(queue, lane, tag, entry, monotonic_of(shard, own_wall_ms));
    if (queue->identifiers != NULL && queue_fetch(queue, tag, lane, entry))
        (void)queue_note_identifier(queue, entry->message); /* it was checked when it came */
    queue_publish_statistics(queue); /* who looks before its first turn sees what is there */
    return 0;
}

void
queue_delete(struct queue *queue)
{
    struct shard *shard = queue->shard;
    assert(queue->magic == QUEUE_MAGIC && !queue->is_deleted);
    queue->is_deleted = true;
    bool is_durable = queue->record->durable;
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
    queue->deletion = shard_definitions_made(shard);
    list_push_back(is_durable ? &shard->dying : &shard->graveyard, &queue->run_link);
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
queue_delete_on_request(struct queue *queue, const struct mail *mail)
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
        queue_reply_counts(queue, mail, result, messages);
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
        queue_leave_and_forget(queue, queue_tag(number, sequence), lane, entry);
    }
}

void
queue_purge(struct queue *queue, const struct mail *mail)
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
    queue_publish_statistics(queue);
    queue_reply_counts(queue, mail, QUEUE_OK, count);
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
    shard_uncount_queued(queue->shard, message);
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
queue_free(struct queue *queue)
{
    drop_everything(queue);
    policies_release(queue->policies);
    queue_forget_line(queue);
    queue->magic = 0;
    free(queue);
}
