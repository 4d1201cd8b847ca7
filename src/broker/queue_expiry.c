/* When messages of a queue expire, wherever they stand.
 *
 * Deadlines that are in the order of the places cost nothing: the heads of the lanes are looked at.
 * Only those out of order are in a heap. There is one timer for all of a queue. */
#include "broker/queue_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "broker/departure.h"

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
        struct entry *entry = queue_entry(queue, queue->expiries[i].tag, &lane);
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

void
queue_arm_expiry(struct queue *queue, int64_t deadline_ms)
{
    if (!timer_is_set(&queue->expiry_timer) || deadline_ms < queue->expiry_timer.due_ms)
        wheel_set(&queue->shard->wheel, &queue->expiry_timer, deadline_ms);
}

/* An entry that cannot be noted for lack of memory expires when it reaches the head. */
void
queue_expiry_push(struct queue *queue, uint64_t tag, struct entry *entry, int64_t deadline_ms)
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
    struct expiry item = {deadline_ms, tag};
    for (; i > 0 && heap[(i - 1) / 2].deadline_ms > item.deadline_ms; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = item;
    entry->flags |= ENTRY_IN_EXPIRY_HEAP;
}

void
queue_note_deadline(struct queue *queue, struct lane *lane, uint64_t tag, struct entry *entry,
                    int64_t own_deadline_ms)
{
    if (entry->deadline_ms >= lane->latest_deadline_ms)
        lane->latest_deadline_ms = entry->deadline_ms;
    else
        queue_expiry_push(queue, tag, entry, entry->deadline_ms);
    /* In the order that a policy's message-ttl makes its own expiration may stand by chance. When
     * the policy goes, that order does. */
    if (UNLIKELY(own_deadline_ms != NEVER
                 && queue->options.message_ttl_ms != queue->record->options.message_ttl_ms)
        && (entry->flags & ENTRY_IN_EXPIRY_HEAP) == 0)
        queue_expiry_push(queue, tag, entry, own_deadline_ms);
    if (entry->deadline_ms != NEVER)
        queue_arm_expiry(queue, entry->deadline_ms);
}

void
queue_be_expiring(struct queue *queue)
{
    queue->is_expiring = true;
    queue_make_runnable(queue);
}

/* --- Another message-ttl ---------------------------------------------------------------------- */

/* All messages of a lane came in the order of their publication, so their deadlines by message-ttl
 * are in that order too, whatever it is. So it is enough to look at the one at the head, when it
 * gets there: then its message is needed soon anyhow, and read if it is in the journal only. */
void
queue_retime(struct queue *queue)
{
    int64_t ttl_ms = queue->options.message_ttl_ms;
    int64_t latest_ms = ttl_ms == OPTION_NONE ? NEVER : queue->shard->now_ms + ttl_ms;
    for (uint16_t i = 0; i < queue->lane_count; i++) {
        struct lane *lane = queue->lanes[i];
        if (lane == NULL || lane->live == 0)
            continue;
        lane->retimed = lane->tail;
        lane->retimed_last = UINT64_MAX;
        lane->latest_deadline_ms = latest_ms;
    }
    queue_be_expiring(queue);
}

bool
queue_retime_entry(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    if (!queue_fetch(queue, tag, lane, entry))
        return false;
    int64_t published_ms = message_published_ms(entry->message);
    int64_t lives_ms = entry->message->expiration_ms; /* MESSAGE_NO_EXPIRATION is OPTION_NONE */
    int64_t ttl_ms = queue->options.message_ttl_ms;
    if (lives_ms < 0 || (ttl_ms >= 0 && ttl_ms < lives_ms))
        lives_ms = ttl_ms;
    entry->deadline_ms = lives_ms < 0 ? NEVER : published_ms + lives_ms;
    lane->retimed_last = tag & TAG_SEQUENCE_MASK;
    return true;
}

/* --- Expiring --------------------------------------------------------------------------------- */

/* The deadline of the first in the heap, which may have left meanwhile; NEVER: it is empty. */
static int64_t
first_in_heap_ms(const struct queue *queue)
{
    return queue->expiry_count == 0 ? NEVER : queue->expiries[0].deadline_ms;
}

/* Expires what is due at the heads of the lanes; the deadline of the first that is left. The
 * highest priority comes first, since a consumer waits for what stands behind. A store of delayed
 * messages, which may have been due for long when the broker was down, gives them out in the order
 * of their times: it stops where the heap's turn is. */
static int64_t
expire_heads(struct queue *queue, enum departure_reason reason, unsigned *budget)
{
    int64_t now_ms = queue->shard->now_ms, next_ms = NEVER;
    for (uint16_t i = queue->lane_count; i-- > 0;) {
        struct lane *lane = queue->lanes[i];
        uint64_t sequence;
        struct entry *entry;
        while (lane != NULL && (entry = lane_first_ready(lane, &sequence)) != NULL) {
            uint64_t tag = queue_tag(i, sequence);
            if (queue_must_wait_to_expire(queue, lane, tag, entry, now_ms)) {
                int64_t due_ms = deadline_is_known(lane, tag) ? entry->deadline_ms : now_ms;
                if (due_ms < next_ms)
                    next_ms = due_ms;
                break;
            }
            bool was_there = entry->message != NULL;
            if (!queue_update_deadline(queue, tag, lane, entry))
                continue;
            if (entry->deadline_ms > now_ms && !was_there) /* one of each of very many queues */
                queue_page_out(queue, entry);
            if (entry->deadline_ms > now_ms || *budget == 0
                || (reason == DEPARTS_DELAY_OVER && first_in_heap_ms(queue) < entry->deadline_ms)) {
                if (entry->deadline_ms < next_ms)
                    next_ms = entry->deadline_ms;
                break;
            }
            --*budget;
            queue_depart(queue, tag, entry, reason);
        }
    }
    return next_ms;
}

/* Whether the first of the heap is not to be taken off yet; next_ms is what expire_heads returned.
 */
static bool
first_in_heap_waits(const struct queue *queue, enum departure_reason reason, int64_t next_ms)
{
    if (reason == DEPARTS_DELAY_OVER && next_ms < first_in_heap_ms(queue))
        return true; /* for a head that comes first */
    struct lane *lane;
    uint64_t tag = queue->expiries[0].tag;
    const struct entry *entry = queue_entry(queue, tag, &lane);
    return entry != NULL
           && queue_must_wait_to_expire(queue, lane, tag, entry, queue->shard->now_ms);
}

/* Takes the first item of the heap off; its message expires if it is still there. Another
 * message-ttl may have given it more time. */
static void
expire_first_in_heap(struct queue *queue, enum departure_reason reason)
{
    uint64_t tag = queue->expiries[0].tag;
    expiry_pop(queue);
    queue->shard->work++;
    struct lane *lane;
    struct entry *entry = queue_entry(queue, tag, &lane);
    if (entry == NULL)
        return;
    entry->flags &= (uint8_t)~ENTRY_IN_EXPIRY_HEAP;
    bool was_there = entry->message != NULL;
    if (entry->state != ENTRY_READY || !queue_update_deadline(queue, tag, lane, entry))
        return;
    if (entry->deadline_ms <= queue->shard->now_ms) {
        queue_depart(queue, tag, entry, reason);
        return;
    }
    if (!was_there)
        queue_page_out(queue, entry);
    if (entry->deadline_ms != NEVER)
        queue_expiry_push(queue, tag, entry, entry->deadline_ms);
}

/* Arms the timer for what is not due yet. */
void
queue_expire(struct queue *queue)
{
    int64_t now_ms = queue->shard->now_ms;
    enum departure_reason reason = queue_expiry_reason(queue);
    unsigned budget = QUEUE_RUN_BUDGET;
    int64_t next_ms = expire_heads(queue, reason, &budget);
    while (first_in_heap_ms(queue) <= now_ms && budget > 0
           && !first_in_heap_waits(queue, reason, next_ms)) {
        expire_first_in_heap(queue, reason);
        budget--; /* also for one that has left before: there may be as many as messages */
        if (reason == DEPARTS_DELAY_OVER)
            next_ms = expire_heads(queue, reason, &budget);
    }
    if (first_in_heap_ms(queue) < next_ms)
        next_ms = first_in_heap_ms(queue);
    queue->is_expiring = false;
    if (next_ms > now_ms) {
        wheel_set(&queue->shard->wheel, &queue->expiry_timer, next_ms);
        return;
    }
    wheel_cancel(&queue->shard->wheel, &queue->expiry_timer);
    queue_be_expiring(queue);
}

void
queue_on_expiry(struct timer *timer, int64_t now_ms)
{
    (void)now_ms;
    queue_be_expiring(CONTAINER_OF(timer, struct queue, expiry_timer));
}
