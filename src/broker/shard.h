/* A shard of the core: the queues of one thread, and the post between shards.
 *
 * Sessions speak to a queue, and queues to sessions, only by mail: a small struct with the
 * reference of whom it is for. Mail for this shard is dealt with at once, as a function call; mail
 * for another is gathered and handed over in batches at the end of the turn (shard_flush). Order
 * between two parties is kept. With a single shard nothing is ever handed over.
 *
 * The core knows no socket and no clock: whoever drives the shard tells it the time, runs it once
 * per turn and wakes the thread of the shard that has mail. So a test can drive it alone. */
#ifndef BROKER_SHARD_H
#define BROKER_SHARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/map.h"
#include "base/wall_clock.h"
#include "base/wheel.h"
#include "broker/catalogue.h"
#include "broker/journal.h"
#include "broker/message.h"
#include "broker/ref.h"

struct shard;
struct queue;

/* --- Mail ------------------------------------------------------------------------------------- */

enum mail_type {
    /* To a queue. `from` is the client that asks and is answered. */
    MAIL_PUBLISH,     /* a reference to the message goes with it */
    MAIL_SUBSCRIBE,   /* answered by MAIL_REPLY */
    MAIL_UNSUBSCRIBE, /* to a subscription; answered by MAIL_REPLY */
    MAIL_CREDIT,      /* to a subscription */
    MAIL_SETTLE,      /* with its flag each message is answered by MAIL_CONFIRM */
    MAIL_GET,         /* answered by MAIL_DELIVER or MAIL_REPLY */
    MAIL_COUNT,       /* answered by MAIL_REPLY; counts as use of the queue */
    MAIL_PURGE,       /* answered by MAIL_REPLY */
    MAIL_DELETE,
    MAIL_POLICY, /* other policies apply: it looks at what holds now. Not answered */
    /* To a client. `from` is the queue. */
    MAIL_DELIVER, /* a reference to the message goes with it */
    MAIL_REPLY,
    MAIL_CONFIRM,   /* the queue has taken or refused a message that asked for an answer, or it is
                       done with one whose settlement did */
    MAIL_LOST,      /* a message that is not kept found no memory, and had asked for no answer */
    MAIL_CANCELLED, /* the queue of a consumer has gone */
    MAIL_WANT,      /* a metered subscription has messages and asks for leave to send */
    MAIL_UNUSED,    /* and gives leave back that it did not need */
};

enum settle_outcome {
    SETTLE_ACKNOWLEDGED,
    SETTLE_REQUEUED,
    SETTLE_REJECTED, /* dead-lettered, or dropped */
};

/* How an operation on a queue ended. */
enum queue_result {
    QUEUE_OK,
    QUEUE_GONE,          /* there is no such queue any more */
    QUEUE_EMPTY,         /* basic.get found nothing */
    QUEUE_IN_USE,        /* if-unused, and it has consumers */
    QUEUE_NOT_EMPTY,     /* if-empty, and it has messages */
    QUEUE_EXCLUSIVE_USE, /* an exclusive consumer is there, or one is wanted and others are */
    QUEUE_SINGLE_ACTIVE, /* basic.get on a queue with a single active consumer */
    QUEUE_NO_MEMORY,
};

/* What MAIL_CREDIT does besides giving credit. */
enum credit_flag {
    CREDIT_PLAIN,
    CREDIT_METERED, /* the subscription is metered from now on, and has no leave */
    CREDIT_FREE,    /* it no longer is */
};

struct subscription_request {
    uint32_t consumer; /* the client's own number for it, in every delivery */
    uint32_t prefetch; /* 0: unlimited */
    uint32_t window;   /* bytes of deliveries under way to the connection; 0: SUBSCRIPTION_WINDOW */
    int32_t priority;
    bool no_ack, exclusive;
    bool is_metered; /* sends only what MAIL_CREDIT gave leave for (a channel-wide prefetch) */
};

struct delivery {
    struct message *message; /* lent to the receiver for the call */
    uint64_t tag;            /* what settles it at the queue */
    uint64_t left;           /* to basic.get: messages still ready */
    uint32_t consumer;       /* the subscription's; for basic.get UINT32_MAX */
    uint16_t delivery_count; /* how often it was given back, where the queue limits that */
    bool no_ack, is_redelivered;
    struct ref queue;
    struct ref subscription; /* to be given back with the settlement */
};

enum { GET_CONSUMER = UINT32_MAX };

/* The number of a message that a departure publishes (clients count from 1): its MAIL_CONFIRM goes
 * there. */
#define DEPARTURE_NUMBER UINT64_MAX

struct mail {
    uint8_t type;
    uint8_t flag;   /* PUBLISH, SETTLE: answer wanted; DELETE: if-unused 1, if-empty 2; GET: no-ack;
                       CONFIRM: accepted; CREDIT: enum credit_flag; REPLY: the mail type that it
                       answers */
    uint8_t result; /* REPLY: enum queue_result; SETTLE: enum settle_outcome; CONFIRM of a
                       settlement: the journal of the sender's shard has been told something */
    struct ref to, from;
    union {
        struct {
            struct message *message;
            uint64_t queue_id;   /* of a durable queue, else 0: settles it if the queue has gone */
            uint64_t number;     /* the client's, for MAIL_CONFIRM */
            uint32_t delay_ms;   /* for the store of a delayed exchange */
            bool may_refuse;     /* it was sent off knowing that the queue may */
            bool is_dead_letter; /* died by itself: not to a queue where it died before */
        } publish;
        struct subscription_request subscribe;
        struct {
            uint32_t consumer, messages; /* leave for so many more */
            uint32_t bytes;              /* so many bytes of deliveries were taken off */
        } credit;
        struct {
            uint64_t tag;
            uint32_t count; /* that tag and the count - 1 following ones */
            struct ref subscription;
        } settle;
        struct delivery deliver;
        struct {
            uint64_t messages, consumers;
            struct ref subscription;
            uint32_t consumer;
        } reply;
        uint64_t number; /* CONFIRM, LOST: of the publish; 0: of a settlement */
        uint32_t consumer;
    };
};

/* What the sessions make of mail for them. The message of a delivery is lent for the call. It is
 * called from inside the queue's work: it may settle and give credit, but it must not unsubscribe,
 * delete or publish; a session that has to end does so later in the turn. */
struct client_ops {
    void (*receive)(void *client, const struct mail *mail);
};

/* --- The shards of a broker ------------------------------------------------------------------- */

struct broker {
    struct catalogue *catalogue;
    uint32_t shard_count;
    struct shard **shards;
};

/* Makes the catalogue (with no vhost) and the shards. NULL: out of memory. */
struct broker *broker_new(uint32_t shard_count);

/* Deletes everything. The threads have stopped, the clients are gone. */
void broker_free(struct broker *broker);

struct shard_statistics {
    _Atomic uint64_t published, delivered, acknowledged, redelivered, dropped, dead_lettered;
};

struct mail_batch;

/* Mail for one other shard, gathered until the end of the turn. */
struct outbox {
    struct mail_batch *newest; /* linked from the newest to the oldest */
    struct mail_batch *oldest;
};

struct shard {
    struct broker *broker;
    uint32_t index;
    int64_t now_ms; /* monotonic */
    int64_t wall_ms;
    struct wall_clock wall_clock; /* what it said before */
    struct wheel wheel;           /* also for the sessions of this thread */
    struct ref_table queues, subscriptions, clients;
    struct ref_table refusable; /* departures that wait for their targets' answers */
    struct client_ops client_ops;
    const struct journal *journal; /* NULL: nothing is kept */
    bool journal_is_short;         /* of room, or of time for what it has: what may wait does */
    struct list runnable;          /* queues with messages to deliver or to expire */
    struct list stalled;           /* those that can do nothing while the journal is short */
    struct list dying;     /* deleted queues whose deletion is not on disk yet; the oldest first */
    struct list graveyard; /* the others, dropped and freed turn by turn */
    struct list late_settles; /* for queues that died before: as above */
    uint32_t work;            /* messages that queues sent or let go in this turn */
    int64_t may_read;         /* bytes of messages that they may still read in it */
    struct list departures;   /* messages on their way out of a queue: dead letters, delayed ones */
    struct list departures_asking; /* those that wait for an answer */
    struct map departure_lines;    /* what they have in common, and those that try again later */
    size_t held;                   /* how many these are */
    size_t lines_held;             /* and of how many lines */
    bool is_behind;                /* the last turn ended before the departures did */
    struct list announcements;     /* of policies to queues that do not know of them yet */
    struct shard_statistics statistics;
    /* Post. */
    _Atomic(struct mail_batch *) inbox;
    struct outbox *outboxes; /* one per shard, also for itself */
    int64_t own_mail_ms;     /* when the latter is handed over while the journal is short */
    void (*wake)(void *context);
    void *wake_context;
    /* Memory of messages that wait in queues here. */
    _Atomic uint64_t queued_bytes;
    /* From here on what comes to long queues leaves it, if there is a journal; and from there on,
     * what comes to any. */
    uint64_t memory_share, memory_most;
};

/* Whom to wake when there is mail, and who receives what is for clients. Before the threads start.
 */
void shard_set_host(struct shard *shard, struct client_ops ops, void (*wake)(void *context),
                    void *context);

void shard_set_time(struct shard *shard, int64_t monotonic_ms, int64_t wall_ms);

/* Sends mail: dealt with before it returns when it is for this shard. References to messages are
 * given away with it. */
void shard_send(struct shard *shard, const struct mail *mail);

/* The same, but it is dealt with in a later turn also when it is for this shard: what has begun and
 * would take too long. */
void shard_send_later(struct shard *shard, const struct mail *mail);

/* Removes a vhost with everything in it (see catalogue_vhost_remove); its queues are deleted as the
 * mail reaches them. */
MUST_CHECK int shard_remove_vhost(struct shard *shard, struct slice name);

/* Is there mail from other shards? Any thread. */
bool shard_has_mail(const struct shard *shard);

/* Deals with mail from other shards: after waiting for sockets and before reading any. What another
 * shard's client was told of, a confirm say, may have made this one's client write, and was sent
 * here before it was told. */
void shard_receive(struct shard *shard);

/* One turn of the core, in this order: mail from others is dealt with, due timers fire, queues
 * deliver within their budget. Returns whether there is more to do at once. */
bool shard_run(struct shard *shard);

/* Drops at once what deleted and purged queues had: the journal is told of it. For the end. */
void shard_bury(struct shard *shard);

/* Answers a settlement that asked for it; `settler` may be REF_NONE. is_done: it is in force as
 * soon as what the journal was told (if it was) is on disk. */
void shard_answer_settle(struct shard *shard, struct ref queue, struct ref settler, bool is_done,
                         bool is_in_journal);

/* Hands mail for other shards over and wakes them: before clients are told of what it does, and at
 * the end of the turn. */
void shard_flush(struct shard *shard);

/* Who publishes: a client, or a queue whose message died by itself (not to a queue where it died
 * before). */
enum publish_origin { PUBLISHED_BY_CLIENT, PUBLISHED_BY_DEATH };

/* How many queues of the route keep the message: the first so many of its durable_ids. */
static inline uint32_t
route_keepers(const struct route *route, const struct message *message)
{
    bool is_persistent = (message->flags & MESSAGE_PERSISTENT) != 0;
    return is_persistent ? route->durable_count : route->keeps_all_count;
}

/* Whether there is something that shard_run has to do at once. */
static inline bool
shard_has_work(const struct shard *shard)
{
    return !list_is_empty(&shard->runnable) || !list_is_empty(&shard->announcements)
           || (!list_is_empty(&shard->departures) && !shard->journal_is_short);
}

/* Whether there is something that it will do, or try again, when the journal is no longer short. */
static inline bool
shard_waits_for_journal(const struct shard *shard)
{
    return !list_is_empty(&shard->departures) || !list_is_empty(&shard->stalled)
           || shard->outboxes[shard->index].newest != NULL;
}

/* Whether publishing the message on this route writes it to the journal. */
static inline bool
shard_keeps(const struct shard *shard, const struct route *route, const struct message *message)
{
    return shard->journal != NULL && route_keepers(route, message) > 0;
}

/* A durable queue is done with a message that is in the journal. */
static inline void
shard_settle(struct shard *shard, uint64_t queue_id, uint64_t message_id)
{
    if (queue_id != 0 && message_id != 0 && shard->journal != NULL)
        shard->journal->settle(shard->journal->context, queue_id, message_id);
}

/* Memory of messages that wait here. */
static inline void
shard_count_queued(struct shard *shard, const struct message *message)
{
    atomic_fetch_add_explicit(&shard->queued_bytes, message_memory(message), memory_order_relaxed);
}

static inline void
shard_uncount_queued(struct shard *shard, const struct message *message)
{
    atomic_fetch_sub_explicit(&shard->queued_bytes, message_memory(message), memory_order_relaxed);
}

/* Whether there is so much of it that more had better be in the journal only. */
static inline bool
shard_memory_is_scarce(const struct shard *shard)
{
    return UNLIKELY(atomic_load_explicit(&shard->queued_bytes, memory_order_relaxed)
                    >= shard->memory_share);
}

/* Reads a message from the journal, which there is: shard->may_read is lessened. NULL: it cannot be
 * read, which has been logged. The reference is the caller's. */
struct message *shard_read(struct shard *shard, uint64_t message_id);

/* What has to be on disk until the deletions of up to now are. */
static inline uint64_t
shard_definitions_made(const struct shard *shard)
{
    return shard->journal == NULL ? 0 : shard->journal->definitions_made(shard->journal->context);
}

/* Settles a message of a queue that has been deleted, when that is on disk. */
void shard_settle_late(struct shard *shard, uint64_t queue_id, uint64_t message_id);

/* Publishes: one reference to the message is given away. For each target that may refuse
 * (route->may_reject_count), `from` gets a MAIL_CONFIRM with `number`: perhaps before this returns.
 * Any other that has no memory for a message that the journal does not keep sends MAIL_LOST.
 * A message that shard_keeps is in the journal then; -ENOMEM: it could not be put there and went
 * nowhere. */
MUST_CHECK int shard_publish(struct shard *shard, const struct route *route,
                             struct message *message, struct ref from, uint64_t number,
                             enum publish_origin origin);

#endif
