/* A queue, as its own shard sees it. Sessions never call these: they send mail. */
#ifndef BROKER_QUEUE_H
#define BROKER_QUEUE_H

#include "base/map.h"
#include "broker/lane.h"
#include "broker/shard.h"

enum {
    LANES_MAX = 256,
    /* Bytes of deliveries that a subscription may have under way to its connection, unless it says.
     */
    SUBSCRIPTION_WINDOW = 512 * 1024,
    /* What a delivery counts for beyond its body: frames, and the memory to hold it. */
    DELIVERY_OVERHEAD = 128,
    /* So much of a queue stays in memory when that gets scarce; beyond it, only the places. */
    QUEUE_MEMORY_KEPT = 4 * 1024 * 1024,
    /* Deliveries of one queue in one go, and expirations: what keeps a turn short. */
    QUEUE_RUN_BUDGET = 1024,
    /* Messages that one more may push out at once; what is left goes in later turns. */
    QUEUE_PUSH_OUT_AT_ONCE = 128,
    /* Bytes of messages that all queues of a shard read again in a turn, for other ends than to
     * deliver them: some milliseconds of a disk that has them in its cache. */
    QUEUE_READ_PER_TURN = 4 * 1024 * 1024,
    /* A purge of more messages than this puts them aside and drops them in later turns. */
    QUEUE_PURGE_AT_ONCE = 1024,
};

/* Messages whose deadlines are not in the order of their places. */
struct expiry {
    int64_t deadline_ms;
    uint64_t tag;
};

struct queue {
    uint32_t magic;
    struct shard *shard;
    struct queue_record *record;
    struct queue_options options; /* what holds; slices point into the record's arguments, */
    struct policy *policies[POLICY_KINDS]; /* or into the definitions of these (references) */
    struct ref ref;
    uint64_t journal_id; /* the record's id, by which the journal knows it */
    uint64_t memory;     /* bytes of messages that it holds in memory */
    struct list run_link;
    struct lane **lanes; /* by priority; NULL where no message was yet */
    uint16_t lane_count;
    uint16_t highest_lane; /* no lane above has ready messages */
    uint64_t ready, unacknowledged;
    uint64_t ready_bytes, unacknowledged_bytes; /* of bodies */
    /* Subscriptions that can take a message now, by priority and turn; and those that cannot. */
    struct list able, blocked;
    struct list all; /* in the order in which they came */
    uint32_t consumer_count;
    struct subscription *exclusive, *active;
    struct expiry *expiries; /* heap by deadline */
    size_t expiry_count, expiry_capacity;
    struct timer expiry_timer;
    struct timer unused_timer; /* x-expires */
    int64_t used_ms;
    struct map *identifiers;     /* of the messages, where the queue deduplicates; else NULL */
    struct departure_line *line; /* by which the last message departed, or NULL */
    bool had_consumer, is_deleted;
    bool is_stalled;   /* what it has to do waits for the journal */
    bool is_expiring;  /* messages are due, and leave turn by turn */
    bool is_shrinking; /* it is longer than it may be, and drops messages turn by turn */
    uint64_t deletion; /* the change of the definitions with which it was deleted */
    struct ref origin; /* of what a purge put aside: the queue whose memory it still counts as */
};

struct subscription {
    struct list turn_link; /* in able or blocked */
    struct list all_link;
    struct queue *queue;
    struct ref ref, client;
    uint32_t consumer;
    int32_t priority;
    uint32_t prefetch, unsettled;
    uint32_t leave; /* metered: messages that may be sent */
    int64_t window; /* bytes that may be sent */
    bool no_ack, is_exclusive, is_metered, has_asked;
    bool is_able; /* in the queue's list of those that can take a message */
};

/* A tag names a message of a queue: its priority above, its number in the lane below. */
enum { TAG_SEQUENCE_BITS = 56 };

/* Makes the queue of a record and gives it record->queue; it is not in the directory yet. The
 * policies of its vhost apply from the start. With the catalogue locked. NULL: out of memory. */
struct queue *queue_new(struct shard *shard, struct queue_record *record);

/* Deals with mail that is for a queue or a subscription; also when it has gone. */
void queue_receive(struct shard *shard, const struct mail *mail);

/* How a message comes to the queue: as in MAIL_PUBLISH. */
struct queue_arrival {
    uint32_t delay_ms;
    bool is_dead_letter;
    /* Where it is false the message has been promised a place: it was routed before the queue began
     * to refuse any. */
    bool may_refuse;
};

/* Takes in a message (one reference is given away): the queue's or the message's time to live, its
 * limits and its rules apply. -EBUSY when it refuses (overflow reject-publish), or 1 when the
 * message goes on as a dead letter then; -ENOMEM when there is no place for it: the journal still
 * has it then, if it had. */
MUST_CHECK int queue_publish(struct queue *queue, struct message *message,
                             const struct queue_arrival *arrival);

/* The message's id in the journal if it is there for this queue, else 0: a classic queue keeps only
 * persistent messages, though a quorum queue may have had the same one written. */
uint64_t queue_kept_id(const struct queue *queue, const struct message *message);

/* Puts a message that survived a restart back at the end of the queue. -ENOMEM. */
struct restored_message {
    uint64_t id;
    int64_t published_wall_ms;
    int64_t expires_wall_ms; /* by its own expiration, or the end of its delay; 0: never */
    uint32_t body_size;
    uint8_t priority;
    uint16_t delivery_count;
    bool is_redelivered;
};
MUST_CHECK int queue_restore(struct queue *queue, const struct restored_message *message);

/* Delivers within the budget; true when it stopped because of that. */
bool queue_run(struct queue *queue);

/* The same, after what is due has expired. */
bool queue_take_turn(struct queue *queue);

/* Deletes it: out of the directory, consumers are told, messages dropped. Freed at the end of the
 * turn. */
void queue_delete(struct queue *queue);

/* Gives a delayed exchange the queue in which it holds messages back; nobody finds it by name. With
 * the catalogue locked. `id` is 0 but when it is restored. -ENOMEM. */
MUST_CHECK int queue_new_delay_store(struct shard *shard, struct vhost *vhost,
                                     struct exchange *exchange, uint64_t id);

/* Undoes queue_new, for a queue that nobody knows yet; the record is the caller's again. */
void queue_discard(struct queue *queue);

/* Drops messages of a deleted queue, at most *budget, which is lessened. True: none is left. */
bool queue_drop_some(struct queue *queue, uint32_t *budget);

/* Frees a queue: at the end of the turn, and when the broker ends. */
void queue_free(struct queue *queue);

#endif
