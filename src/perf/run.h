/* A run: the connections that put load on the broker, the threads that serve them, and what they
 * count.
 *
 * Every connection is a client, a producer or a consumer; every client belongs to one worker thread
 * and is touched by no other. What others want to know of it stands in its counters, which have one
 * writer and are read by whoever reports. */
#ifndef PERF_RUN_H
#define PERF_RUN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "perf/connection.h"
#include "perf/histogram.h"
#include "perf/options.h"
#include "perf/topology.h"

struct run;

/* One writer each, so no atomic additions; on a cache line that no other client writes. */
struct counters {
    _Alignas(64) _Atomic uint64_t published; /* handed to the kernel */
    _Atomic uint64_t confirmed, nacked, returned;
    _Atomic uint64_t consumed, redelivered;
    _Atomic uint64_t checksum;  /* of the numbers of the messages published or consumed */
    _Atomic uint64_t unstamped; /* consumed messages that carry no number */
    _Atomic uint64_t last_published_ns, last_confirmed_ns, last_consumed_ns;
    _Atomic uint64_t blocked_ns; /* spent under connection.blocked */
};

static inline void
counter_add(_Atomic uint64_t *counter, uint64_t n)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + n, memory_order_relaxed);
}

static inline void
counter_set(_Atomic uint64_t *counter, uint64_t value)
{
    atomic_store_explicit(counter, value, memory_order_relaxed);
}

static inline uint64_t
counter_get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* --- Producers -------------------------------------------------------------------------------- */

/* The messages stand encoded in a ring of slots, one behind the other, so that a batch is one
 * contiguous write; only number and time in the bodies change from round to round. */
struct producer {
    uint8_t *slots;
    size_t *slot_start; /* slot_count + 1 of them */
    size_t *slot_body;  /* where the body begins */
    size_t slot_count, cursor, slots_per_write;
    size_t pending_start, pending_end; /* bytes of the batch the kernel has not taken yet */
    uint64_t pending_messages;

    uint64_t started;             /* messages put into batches */
    uint64_t limit;               /* of messages to publish */
    double interval_ns, phase_ns; /* of the schedule; interval 0: none */
    uint64_t last_tick;           /* when the schedule was last looked at */
    uint64_t blocked_since;       /* connection.blocked; 0: not */

    /* Confirms: the deliveries [oldest, started] in a ring; what is confirmed out of order is
     * marked until the oldest follows. */
    uint64_t oldest, outstanding, ring_mask;
    uint64_t *sent_at;
    bool *is_settled;
};

/* --- Consumers -------------------------------------------------------------------------------- */

struct consumer {
    uint64_t queue_count, subscribed;
    enum { EXPECT_METHOD, EXPECT_HEADER, EXPECT_FIRST_BODY, EXPECT_BODY } expects;
    uint64_t body_left;
    uint64_t delivery_tag; /* of the last delivery */
    uint64_t unacknowledged;
};

/* --- Clients and workers ---------------------------------------------------------------------- */

struct client {
    struct counters counters;
    struct run *run;
    struct connection connection;
    bool is_producer;
    bool wants_output;         /* the socket is full */
    bool is_finished;          /* a producer that has sent, and been confirmed, everything */
    bool is_counted;           /* among run->ready */
    uint32_t index;            /* among its kind */
    uint32_t interest;         /* the epoll events asked for */
    struct histogram *latency; /* NULL: not asked for */
    struct producer producer;
    struct consumer consumer;
};

struct worker {
    struct run *run;
    pthread_t thread;
    struct client **clients;
    size_t client_count;
    int epoll_fd, wake_fd;
    uint64_t cpu_ns; /* used by its loop */
};

struct run {
    const struct options *options;
    struct topology topology;
    struct client *clients;
    size_t client_count;
    struct worker *workers;
    size_t worker_count;

    int event_fd;              /* written when something happens that the main thread waits for */
    _Atomic uint64_t start_ns; /* 0: not yet: producers wait */
    _Atomic uint64_t measure_from_ns;
    _Atomic uint64_t ready, producers_finished;
    _Atomic uint64_t target, consumed; /* with --messages: the run ends when consumed reaches it */
    _Atomic bool is_stopping, has_failed;
    pthread_mutex_t mutex; /* of error */
    char error[CONNECTION_ERROR_SIZE + 64];
};

/* Tells the main thread that something has changed. */
void run_notify(struct run *run);

/* Records what went wrong with a client (the first one is kept) and ends the run. */
void run_fail(struct run *run, const struct client *client);

/* The thread of a worker; its argument is the struct worker. */
void *worker_main(void *worker);

/* Sends what stands in connection.out, as far as the socket takes it: behind the rest of a batch of
 * messages that is half sent, as frames must not mix. No batch is begun before it is out. */
void client_flush(struct client *client);

/* Sends as much as there is to send now. Returns when to come back (monotonic ns): 0: at once,
 * UINT64_MAX: after input or output became possible. On errors connection.error is set. */
uint64_t producer_step(struct client *client, uint64_t now);

/* Encodes the messages. 0, or -1 with connection.error. */
int producer_init(struct client *client);
void producer_fini(struct client *client);

/* Hands the rest of the batch under way to the kernel. 1: there is none left, 0: the socket is
 * full, -1: error. */
int producer_finish_batch(struct client *client);

/* When the run stops in the middle of a batch: puts what is needed to end it in front of what
 * stands in connection.out. */
void producer_stop(struct client *client);

/* Handle what has been received. 0, or -1 with connection.error. */
int producer_input(struct client *client, uint64_t now);
int consumer_input(struct client *client, uint64_t now);

/* Puts the subscriptions to its queues into connection.out. */
void consumer_subscribe(struct client *client);

/* Acknowledges what is not yet acknowledged. */
void consumer_stop(struct client *client);

/* Runs a load test as the options say and reports it. The exit status. */
int run_load(const struct options *options);

/* What a message's number adds to the checksum: spread over all bits, so that the sums of two
 * different sets of messages differ. */
static inline uint64_t
checksum_part(uint64_t number)
{
    number *= UINT64_C(0x9e3779b97f4a7c15);
    number ^= number >> 29;
    return number * UINT64_C(0xbf58476d1ce4e5b9);
}

#endif
