/* A plain model of queues on one shard, which watches the core at work.
 *
 * The model does not predict the order in which the core does things. Every delivery, death and
 * publishing is checked at the moment at which it happens (may this message leave this queue now,
 * for this reason, to this consumer?) and then done in the model too. It sees deaths and dead
 * letters because the linker puts it between queue.c, departure.c and shard.c (--wrap). */
#ifndef TEST_BROKER_MODEL_H
#define TEST_BROKER_MODEL_H

#include "test_broker_support.h"

enum {
    QUEUES = 6,
    CLIENTS = 3,
    CONSUMERS_MAX = 12,
    ITEMS_MAX = 4000,
    DEATHS_MAX = 32,
    TARGETS_MAX = QUEUES,
    OUTSTANDING_MAX = 4000,
    PENDING_MAX = 4000,
    OPERATIONS = 500,
    REASONS = 5,
    DELIVERED = REASONS, /* no reason to die, but to be where the message is not any more */
    POLICIES = 4,        /* the second half of them the operator's */
    RETRY_MS = 1000,     /* after which dead letters that were refused are tried again, */
    TRIED_AGAIN = 16,    /* so many of a queue */
    TIME_STEP_MAX = 1500,
};

/* Where a message came from and how it died before: what is written on it. */
struct story {
    uint64_t uid, identifier;
    char exchange[16], routing_key[16];
    uint32_t size;
    int priority;
    int64_t expiration_ms;
    bool persistent;
    uint32_t death_count; /* the latest first */
    struct {
        uint8_t queue, reason;
        uint32_t count;
    } deaths[DEATHS_MAX];
    uint8_t first_queue, first_reason;
};

enum place { IN_NONE, IN_READY, IN_UNACKED, IN_ARRIVING };

struct item {
    /* To tell it from others with the same content; not where messages come and go to the journal,
     * and are others then. */
    const struct message *message;
    struct story story;
    enum place place;
    uint16_t returns;
    bool redelivered, must_die;
    enum departure_reason why;
    int64_t published_ms, deadline_ms;
    uint32_t lane;
    struct item *next; /* in the queue, by age */
};

/* What the arguments of a queue say, or a policy; -1: nothing. */
struct model_says {
    int64_t ttl_ms, max_length, max_bytes, limit;
    int overflow; /* enum queue_overflow */
    int dlx;      /* as a queue's */
};

struct model_policy {
    bool exists, is_operator;
    int32_t priority;
    uint8_t pattern;
    struct model_says says;
};

struct model_queue {
    bool exists;
    char name[8];
    bool durable, auto_delete, sac, dedup;
    struct model_says says; /* its arguments; and what holds: */
    int64_t ttl_ms, max_length, max_bytes, limit;
    int lanes;
    enum queue_overflow overflow;
    int dlx; /* -1: none; 0 to QUEUES - 1: that queue; QUEUES: the exchange "spread" */
    uint64_t id;
    struct ref ref;
    struct item *first;
    int last_served; /* consumer */
    bool exclusive;
};

struct consumer {
    bool exists, no_ack, exclusive;
    bool waits; /* another of its priority was served before it */
    uint8_t queue, client;
    uint32_t prefetch, unsettled;
    int32_t priority;
    uint64_t age;
    struct ref ref;
};

/* What a client has not settled. */
struct outstanding {
    uint8_t queue;
    int consumer; /* -1: of basic.get */
    struct ref queue_ref, subscription;
    uint64_t tag;
    struct item *item;
};

/* A dead letter on its way. */
struct pending {
    struct story story; /* as it will be */
    bool targets[QUEUES];
    uint32_t target_count;
    uint32_t answers_due, taken;
    bool is_sent, by_itself;
    int64_t since_ms; /* waiting to try again since */
    uint64_t queue_id, id;
};

struct model {
    struct shard *shard;
    bool pages; /* memory is scarce at times, and messages are in the journal only */
    struct model_queue queues[QUEUES];
    struct model_policy policies[POLICIES];
    struct consumer consumers[CONSUMERS_MAX];
    struct ref clients[CLIENTS];
    struct outstanding outstanding[OUTSTANDING_MAX];
    uint32_t outstanding_count;
    struct pending pending[PENDING_MAX];
    uint32_t pending_count, pending_most;
    struct item *free_items;
    uint64_t next_uid, next_age;
    bool spread[QUEUES];             /* what the fanout exchange "spread" leads to */
    bool all[QUEUES];                /* and "all" */
    int all_dlx;                     /* the dead-letter route that "all" gives: as a queue's dlx */
    struct item *publishing[QUEUES]; /* what the publishing under way put where */
    /* What the operation under way expects. */
    int asked_consumer; /* a subscription was asked for */
    enum queue_result expected;
    bool reply_expected, got_delivery;
    int getting; /* queue of a basic.get */
    bool get_no_ack;
    uint64_t reply_messages;
    uint32_t confirms_due, refused;
    uint64_t deliveries, deaths, dead_letters, refusals, drops;
};

extern struct model model;

/* --- Queues and consumers --- */

uint32_t count_in(const struct model_queue *queue, enum place place);
uint64_t bytes_in(const struct model_queue *queue, enum place place);
bool is_over(const struct model_queue *queue, uint64_t more, uint64_t more_bytes);
struct item *head_of(const struct model_queue *queue);
void remove_item(struct model_queue *queue, struct item *item);
/* The item of the message that leaves the queue: a reason to die, or DELIVERED. */
struct item *find_item(struct model_queue *queue, const struct message *message, int how);
int queue_number(struct ref ref);
bool is_able(int number);
bool has_able(int queue);
int consumer_count(int queue);

/* --- Policies --- */

int64_t deadline_of(const struct model_queue *queue, const struct story *story,
                    int64_t published_ms);
void apply_policies(int number);
void do_policy(void);

/* --- What is written on messages --- */

/* How what is written on the message differs from the story. */
struct difference {
    bool is_there;
    char text[200];
};

void write_death(struct story *story, int queue, enum departure_reason reason);
struct difference difference_of(const struct story *story, const struct message *message);

/* --- What happens --- */

void arrive(int number, const struct story *story, const struct message *message, bool by_itself);
void take_answer(int number, bool is_taken);
void model_receive(void *context, const struct mail *mail);

#endif
