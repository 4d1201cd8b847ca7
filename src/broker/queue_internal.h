/* What the files of a queue share: queue.c (what is asked of it), queue_entries.c (its messages),
 * queue_expiry.c, queue_consumers.c, queue_policy.c, queue_life.c. For nobody else. */
#ifndef BROKER_QUEUE_INTERNAL_H
#define BROKER_QUEUE_INTERNAL_H

#include "broker/departure.h"

enum { QUEUE_MAGIC = 0x51554555 };

#define TAG_SEQUENCE_MASK ((1ULL << TAG_SEQUENCE_BITS) - 1)

static inline uint64_t
queue_tag(uint16_t lane, uint64_t sequence)
{
    return (uint64_t)lane << TAG_SEQUENCE_BITS | sequence;
}

/* It has something to do: queue_run is called at the end of the turn. */
static inline void
queue_make_runnable(struct queue *queue)
{
    if ((list_is_linked(&queue->run_link) && !queue->is_stalled) || queue->is_deleted)
        return;
    queue->is_stalled = false;
    list_move_back(&queue->shard->runnable, &queue->run_link);
}

/* Counts have changed: whoever looks from another thread sees these. */
static inline void
queue_publish_statistics(const struct queue *queue)
{
    struct queue_record *record = queue->record;
    atomic_store_explicit(&record->ready, queue->ready, memory_order_relaxed);
    atomic_store_explicit(&record->unacknowledged, queue->unacknowledged, memory_order_relaxed);
    atomic_store_explicit(&record->consumers, queue->consumer_count, memory_order_relaxed);
    atomic_store_explicit(&record->ready_bytes, queue->ready_bytes, memory_order_relaxed);
    atomic_store_explicit(&record->unacknowledged_bytes, queue->unacknowledged_bytes,
                          memory_order_relaxed);
    atomic_store_explicit(&record->memory, queue->memory, memory_order_relaxed);
}

/* --- Messages (queue_entries.c) --------------------------------------------------------------- */

/* The entry of a tag and its lane, or NULL: it has left. */
struct entry *queue_entry(const struct queue *queue, uint64_t tag, struct lane **lane);

/* The ready message whose turn it is: of the highest priority, the oldest. NULL: there is none. Its
 * deadline may be that of an earlier message-ttl. */
struct entry *queue_first_ready(struct queue *queue, uint64_t *tag, struct lane **lane);

/* A new place at the end of the lane of that number. NULL: out of memory. */
struct entry *queue_add_entry(struct queue *queue, uint16_t number, uint64_t *tag,
                              struct lane **lane);

/* Gives the message a place; takes the reference. Deadlines as for queue_note_deadline. -ENOMEM: it
 * does not. */
MUST_CHECK int queue_enter(struct queue *queue, struct message *message, int64_t deadline_ms,
                           int64_t own_deadline_ms);

/* Sees to it that the entry's message is in memory. False: it cannot be read, which has been
 * logged, and the entry has left. */
bool queue_fetch(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry);

/* The opposite, where memory is scarce: the message of a ready entry is in the journal only. */
void queue_page_out(struct queue *queue, struct entry *entry);

/* The entry leaves and the queue is done with its message, which is returned with its reference. */
struct message *queue_leave(struct queue *queue, uint64_t tag, struct lane *lane,
                            struct entry *entry);

/* The same for a message of which nobody wants to know any more. */
void queue_leave_and_forget(struct queue *queue, uint64_t tag, struct lane *lane,
                            struct entry *entry);

/* Tells the journal that the queue is done with a message that it did not take in. */
void queue_settle_message(struct queue *queue, const struct message *message);

/* Deduplication. False: the queue has a message with the same identifier. */
bool queue_note_identifier(struct queue *queue, struct message *message);
void queue_forget_identifier(struct queue *queue, struct message *message);
struct slice queue_identifier_of(const void *value); /* of a message, for the map */

/* Whether the entry's message would have to be read to leave for this reason, and queues have read
 * as much of what leaves them in this turn as it may take: then it leaves in a later one. */
static inline bool
must_wait(const struct queue *queue, const struct entry *entry, enum departure_reason reason)
{
    return UNLIKELY(entry->message == NULL && queue->shard->may_read <= 0)
           && departure_may_go_on(queue, reason);
}

/* --- Expiry (queue_expiry.c) ------------------------------------------------------------------ */

/* A message has come into the lane with entry->deadline_ms; by its own expiration alone it would
 * have the other deadline. */
void queue_note_deadline(struct queue *queue, struct lane *lane, uint64_t tag, struct entry *entry,
                         int64_t own_deadline_ms);

/* A message that stands out of the order of deadlines: it is looked at then. */
void queue_expiry_push(struct queue *queue, uint64_t tag, struct entry *entry, int64_t deadline_ms);

/* The queue's message-ttl is another one now, also for the messages that are there. */
void queue_retime(struct queue *queue);

/* The same for an entry that may have come under another message-ttl. */
bool queue_retime_entry(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry);

/* Whether the deadline of the entry is that of the present message-ttl. */
static inline bool
deadline_is_known(const struct lane *lane, uint64_t tag)
{
    uint64_t sequence = tag & TAG_SEQUENCE_MASK;
    return LIKELY(sequence >= lane->retimed) || sequence == lane->retimed_last;
}

/* Sees to it that it is. False: for that its message had to be read and cannot be, and the entry
 * has left. */
static inline bool
queue_update_deadline(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    return deadline_is_known(lane, tag) || queue_retime_entry(queue, tag, lane, entry);
}

/* Something expires at that time. */
void queue_arm_expiry(struct queue *queue, int64_t deadline_ms);

/* For what reason messages leave at their deadlines. */
static inline enum departure_reason
queue_expiry_reason(const struct queue *queue)
{
    return queue->record->is_internal ? DEPARTS_DELAY_OVER : DEPARTS_EXPIRED;
}

/* Whether the entry has to be read, to find its deadline or since that is due by then and it has
 * somewhere to go, and must wait for that. */
static inline bool
queue_must_wait_to_expire(const struct queue *queue, const struct lane *lane, uint64_t tag,
                          const struct entry *entry, int64_t due_ms)
{
    if (LIKELY(entry->message != NULL))
        return false;
    if (!deadline_is_known(lane, tag))
        return queue->shard->may_read <= 0;
    return entry->deadline_ms <= due_ms && must_wait(queue, entry, queue_expiry_reason(queue));
}

/* What is due leaves in the queue's turns: very many queues may be at it at the same time. */
void queue_be_expiring(struct queue *queue);

/* Expires what is due, within a turn's budget. */
void queue_expire(struct queue *queue);
void queue_on_expiry(struct timer *timer, int64_t now_ms);

/* --- Consumers (queue_consumers.c) ------------------------------------------------------------ */

/* Something has changed that may let the subscription receive. */
void subscription_reconsider(struct subscription *subscription);

/* What mail asks for. */
void queue_subscribe(struct queue *queue, const struct mail *mail);
void queue_unsubscribe(struct subscription *subscription, const struct mail *mail);
void subscription_give_credit(struct subscription *subscription, const struct mail *mail);
void queue_get(struct queue *queue, const struct mail *mail);

/* --- Policies (queue_policy.c) ---------------------------------------------------------------- */

/* What holds is what the record's policies say now. With the catalogue locked. */
void queue_read_policies(struct queue *queue);

/* Other policies may apply. */
void queue_on_policy(struct queue *queue);

/* --- Limits (queue.c) ------------------------------------------------------------------------- */

/* Drops the oldest messages of a queue that is too long and may drop any: some at once, the rest
 * from queue_run. */
void queue_keep_limit(struct queue *queue);

/* Goes on with that, within a turn's budget; true when there is more to do. */
bool queue_shrink(struct queue *queue);

/* --- Life (queue_life.c) ---------------------------------------------------------------------- */

/* What mail asks for. */
void queue_purge(struct queue *queue, const struct mail *mail);
void queue_delete_on_request(struct queue *queue, const struct mail *mail);

/* --- Answers (queue.c) ------------------------------------------------------------------------ */

/* Somebody uses it: x-expires counts from here. */
void queue_use(struct queue *queue);

/* Answers the mail. */
void queue_reply(struct queue *queue, const struct mail *to, enum queue_result result,
                 struct mail *answer);
void queue_reply_counts(struct queue *queue, const struct mail *to, enum queue_result result,
                        uint64_t messages);

#endif
