/* What the tests of the core share: a broker without sockets, files or clock, a journal in memory
 * that checks what it is told, messages with an identity, and random numbers with a seed that a
 * failure prints.
 *
 * WHIPPET_TEST_SEED runs one seed only, WHIPPET_TEST_ROUNDS so many times the usual rounds, and
 * with WHIPPET_TEST_TRACE set a test says what it does. */
#ifndef TEST_BROKER_SUPPORT_H
#define TEST_BROKER_SUPPORT_H

#include <check.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/random.h"
#include "broker/departure.h"
#include "broker/queue.h"
#include "broker/shard.h"

/* --- Randomness ------------------------------------------------------------------------------- */

extern uint64_t test_seed;      /* of the round under way */
extern uint64_t test_operation; /* in it, from 1 */
extern struct random test_random;

/* Calls round() `rounds` times, each with a seed of its own. */
void run_rounds(unsigned rounds, void (*round)(void));

static inline uint64_t
pick(uint64_t below)
{
    return random_below(&test_random, below);
}

static inline bool
chance(unsigned percent)
{
    return pick(100) < percent;
}

/* Like ck_assert_msg, but says the seed and the operation, and costs nothing when it holds. */
#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            test_failed(__FILE__, __LINE__, #condition, __VA_ARGS__);                              \
    } while (0)

/* What happens, for who looks into a failure. */
#define TRACE(...)                                                                                 \
    do {                                                                                           \
        if (test_traces)                                                                           \
            test_trace(__VA_ARGS__);                                                               \
    } while (0)

extern bool test_traces;
void test_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

_Noreturn void test_failed(const char *file, int line, const char *condition, const char *format,
                           ...) __attribute__((format(printf, 4, 5)));

/* --- The journal ------------------------------------------------------------------------------ */

/* Keeps what it is told of in memory. It fails the test when a queue settles a message twice or one
 * that it was not given, and when a dead letter's original is settled before its copy is there. */
enum { JOURNAL_QUEUES_MAX = 16 };

struct journal_place {
    uint64_t queue_id;
    bool is_settled;
    bool awaits_copy; /* died, and goes on to durable queues: the copy must come first */
    uint32_t returns;
};

struct journal_message {
    uint64_t id, uid;
    struct message *copy;
    bool is_transient; /* paged */
    uint32_t place_count;
    struct journal_place places[JOURNAL_QUEUES_MAX];
    uint32_t delay_ms;
};

struct test_journal {
    struct journal table;
    struct journal_message *messages; /* messages[id - 1] */
    size_t count, capacity;
    uint64_t published;                             /* persistent ones */
    size_t reads;                                   /* messages that were read again */
    uint64_t definitions_made, definitions_written; /* changes; the test's own business */
    int fail_publishes;                             /* that many are refused with -ENOMEM */
};

void test_journal_init(struct test_journal *journal);
void test_journal_fini(struct test_journal *journal);

/* How many messages it holds for the queue; and whether this one. */
size_t journal_holds(const struct test_journal *journal, uint64_t queue_id);
bool journal_has(const struct test_journal *journal, uint64_t queue_id, uint64_t id);
struct journal_place *journal_place_of(struct test_journal *journal, uint64_t queue_id,
                                       uint64_t id);

/* --- The broker ------------------------------------------------------------------------------- */

extern struct broker *test_broker;
extern struct vhost *test_vhost;
extern struct test_journal test_journal;

/* Makes a broker with so many shards that all write to the test's journal, and calls `receive` with
 * what is for clients. It starts at 1000 ms. */
void broker_up(uint32_t shards, void (*receive)(void *client, const struct mail *mail));
void broker_down(void);

/* Moves the clock of all shards to this time. */
void set_clock(int64_t now_ms);
int64_t clock_now(void);

/* Runs the shards until none has anything to do. */
void settle_down(void);

/* Whether no message is on its way from a queue of this shard to another. */
static inline bool
departures_are_over(const struct shard *shard)
{
    return list_is_empty(&shard->departures) && list_is_empty(&shard->departures_asking)
           && shard->held == 0;
}

/* Arguments under construction: SLICE names, then declare. */
struct queue_wish {
    const char *name;
    bool transient, auto_delete, exclusive;
    struct amqp_table_builder arguments; /* used, and freed by declare_queue if has_arguments */
    bool has_arguments;
};

/* The record; the queue is on the shard. */
struct queue_record *declare_queue(struct shard *shard, struct queue_wish *wish);
struct queue_record *find_queue(const char *name);

/* The queue itself, which a test may look into. */
struct queue *queue_of(const struct queue_record *record);

void declare_exchange(const char *name, const char *type, struct slice arguments);
void bind_queue(const char *exchange, const char *queue, const char *key, struct slice arguments);
void bind_exchange(const char *exchange, const char *to, const char *key, struct slice arguments);

/* --- Messages --------------------------------------------------------------------------------- */

struct message_wish {
    uint64_t uid; /* the body begins with it */
    const char *exchange, *routing_key;
    uint32_t body_size; /* at least 8 */
    bool persistent;
    int priority;          /* -1: none */
    int64_t expiration_ms; /* -1: none */
    uint64_t identifier;   /* for deduplication; 0: none */
    int64_t delay_ms;      /* x-delay; 0: none */
};

/* NULL: out of memory. */
struct message *make_message(const struct message_wish *wish);
uint64_t uid_of(const struct message *message);

/* Routes and publishes as a session does; takes the message. The number of queues that it went to,
 * or -1: out of memory. */
int publish(struct shard *shard, struct message *message, struct ref client, uint64_t number,
            uint32_t *answers);

/* Sends mail of this kind to a queue. */
void send_subscribe(struct shard *shard, struct ref queue, struct ref client,
                    const struct subscription_request *request);
void send_settle(struct shard *shard, struct ref queue, struct ref subscription, uint64_t tag,
                 uint32_t count, enum settle_outcome outcome);
void send_plain(struct shard *shard, enum mail_type type, struct ref to, struct ref from,
                uint8_t flag);

/* --- A client that notes what it gets --------------------------------------------------------- */

struct seen_delivery {
    uint64_t uid, tag, left;
    uint32_t consumer;
    uint16_t delivery_count;
    bool is_redelivered, no_ack;
    struct ref queue, subscription;
    struct message *message; /* a reference of its own, until client_fini */
};

struct test_client {
    struct shard *shard;
    struct ref ref;
    struct seen_delivery *seen;
    size_t count, capacity;
    struct mail reply; /* the last one */
    size_t replies, accepted, refused, cancelled;
    size_t lost;     /* messages that found no memory */
    size_t written;  /* of the accepted: settlements of which the journal was told */
    size_t wants;    /* how often a metered consumer asked for leave */
    uint64_t unused; /* messages of leave that were given back */
};

/* On a broker that was brought up with client_receive. */
void client_init(struct test_client *client, struct shard *shard);
void client_fini(struct test_client *client);
void client_receive(void *client, const struct mail *mail);

/* Subscribes, and settles down; the subscription. */
struct ref client_subscribe(struct test_client *client, const struct queue_record *queue,
                            const struct subscription_request *request);
/* Settles the delivery, and settles down. */
void client_settle(struct test_client *client, const struct seen_delivery *delivery,
                   enum settle_outcome outcome);

/* Runs the suite's one case in Check; main returns what this does. */
int run_suite(const char *name, void (*add)(TCase *tests));

#endif
