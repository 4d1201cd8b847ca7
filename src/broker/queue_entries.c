/* The messages of a queue, each at its place: entering, being found, leaving.
 *
 * Also what goes with having a message: the memory that it counts as, its being only in the journal
 * while memory is scarce, its identifier where the queue deduplicates, and telling the journal when
 * the queue is done with it. */
#include "broker/queue_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "broker/deduplication.h"
#include "broker/departure.h"

struct entry *
queue_entry(const struct queue *queue, uint64_t tag, struct lane **lane)
{
    uint64_t number = tag >> TAG_SEQUENCE_BITS;
    if (number >= queue->lane_count || queue->lanes[number] == NULL)
        return NULL;
    *lane = queue->lanes[number];
    return lane_at(*lane, tag & TAG_SEQUENCE_MASK);
}

struct slice
queue_identifier_of(const void *value)
{
    struct slice key = {"", 0};
    (void)deduplication_key(message_headers(value), &key);
    return key;
}

/* False: the queue holds a message with the same identifier. */
bool
queue_note_identifier(struct queue *queue, struct message *message)
{
    struct slice key;
    if (queue->identifiers == NULL || !deduplication_key(message_headers(message), &key))
        return true;
    if (map_find(queue->identifiers, key) != NULL)
        return false;
    /* Without memory to note it a duplicate may pass, which is better than losing a message. */
    return map_insert(queue->identifiers, message) != -EEXIST;
}

void
queue_forget_identifier(struct queue *queue, struct message *message)
{
    struct slice key;
    if (queue->identifiers != NULL && deduplication_key(message_headers(message), &key)
        && map_find(queue->identifiers, key) == message)
        map_remove(queue->identifiers, key);
}

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
    shard_count_queued(queue->shard, message);
}

static void
less_memory(struct queue *queue, const struct message *message)
{
    queue->memory -= message_memory(message);
    shard_uncount_queued(queue->shard, message);
}

/* A new ready entry without content. NULL: out of memory. */
struct entry *
queue_add_entry(struct queue *queue, uint16_t number, uint64_t *tag, struct lane **lane)
{
    uint64_t sequence;
    *lane = lane_for(queue, number);
    struct entry *entry = *lane == NULL ? NULL : lane_push(*lane, &sequence);
    if (entry == NULL)
        return NULL;
    *tag = queue_tag(number, sequence);
    queue->ready++;
    if (number > queue->highest_lane)
        queue->highest_lane = number;
    queue_make_runnable(queue);
    return entry;
}

/* When memory gets scarce, what comes stays in queues that are not long; and in none, when there
 * are so many of these that together they hold too much. */
static bool
stays_in_memory(const struct queue *queue)
{
    const struct shard *shard = queue->shard;
    return !shard_memory_is_scarce(shard)
           || (queue->memory < QUEUE_MEMORY_KEPT
               && atomic_load_explicit(&shard->queued_bytes, memory_order_relaxed)
                      < shard->memory_most);
}

/* A message that does not stay leaves its place, and is read again when it is its turn. */
void
queue_page_out(struct queue *queue, struct entry *entry)
{
    struct shard *shard = queue->shard;
    if (entry->message == NULL || stays_in_memory(queue) || shard->journal == NULL
        || queue->identifiers != NULL)
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
int
queue_enter(struct queue *queue, struct message *message, int64_t deadline_ms,
            int64_t own_deadline_ms)
{
    uint64_t tag;
    struct lane *lane;
    struct entry *entry = queue_add_entry(queue, lane_number(queue, message), &tag, &lane);
    if (entry == NULL)
        return -ENOMEM;
    entry->message = message;
    entry->id = queue_kept_id(queue, message);
    entry->deadline_ms = deadline_ms;
    entry->body_size = message->body_size;
    queue->ready_bytes += message->body_size;
    more_memory(queue, message);
    queue_note_deadline(queue, lane, tag, entry, own_deadline_ms);
    queue_page_out(queue, entry);
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
        queue->unacknowledged_bytes -= entry->body_size;
    }
    lane_remove(lane, tag & TAG_SEQUENCE_MASK, entry);
    if (message != NULL) {
        queue_forget_identifier(queue, message);
        less_memory(queue, message);
    }
    return message;
}

/* The queue will not have a message that was sent to it. */
void
queue_settle_message(struct queue *queue, const struct message *message)
{
    shard_settle(queue->shard, queue->journal_id, queue_kept_id(queue, message));
}

/* Takes the entry out, and the queue is done with the message. */
struct message *
queue_leave(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    uint64_t id = entry->id;
    struct message *message = take_out(queue, tag, lane, entry);
    shard_settle(queue->shard, queue->journal_id, id);
    return message;
}

void
queue_leave_and_forget(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    struct message *message = queue_leave(queue, tag, lane, entry);
    if (message != NULL)
        message_unref(message);
}

/* Reads the message of an entry from the journal if it is only there. False: it cannot be read; the
 * entry is taken out (the journal still has what there is of it). */
bool
queue_fetch(struct queue *queue, uint64_t tag, struct lane *lane, struct entry *entry)
{
    if (LIKELY(entry->message != NULL))
        return true;
    struct message *message = shard_read(queue->shard, entry->id);
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
    if (entry->message == NULL && !departure_may_go_on(queue, reason)) {
        (void)take_out(queue, tag, lane, entry); /* there is nothing for which to read it */
        departure_end(queue, id, reason, settler);
    } else if (queue_fetch(queue, tag, lane, entry)) {
        (void)departure_add(queue, take_out(queue, tag, lane, entry), id, reason, settler);
    } else {
        shard_answer_settle(queue->shard, queue->ref, settler, false, false);
    }
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
struct entry *
queue_first_ready(struct queue *queue, uint64_t *tag, struct lane **lane)
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
            *tag = queue_tag(i, sequence);
            return entry;
        }
        if (i == 0)
            return NULL;
    }
}
