/* A log on a simulated disk with a model beside it that knows what must be in it.
 *
 * Work is done in turns, as a shard does it: publishes, settles and deliveries are staged and
 * submitted together, and get a ticket. After a crash the log must hold what the model held after
 * some ticket between the last that was reported durable and the last that was submitted: nothing
 * that was confirmed is missing, nothing that was settled for good is back, and no turn is there by
 * halves. */
#ifndef TEST_STORE_SUPPORT_H
#define TEST_STORE_SUPPORT_H

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/file_simulated.h"
#include "store/log.h"

/* ck_assert without the note that Check writes to a file for each that passes: these are millions.
 */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("required: %s", #condition);                                              \
    } while (0)

/* A test that makes many worlds defines a smaller one. */
#ifndef WORLD_MESSAGES_MAX
#define WORLD_MESSAGES_MAX 20000
#endif

enum {
    WORLD_QUEUES = 6,
    WORLD_SEGMENT = 16 * 1024,
    EVENTS_MAX = 3,
};

#define NO_TICKET UINT64_MAX

struct model_message {
    uint64_t id;
    uint32_t size; /* of the body */
    bool is_transient;
    bool is_gone; /* settled by all, for good: left out of the search */
    uint8_t queues;
    uint64_t published; /* ticket */
    uint64_t settled[WORLD_QUEUES];
    /* Delivery counts in the order in which they were noted. */
    struct {
        uint64_t ticket;
        uint32_t queue, count;
    } events[EVENTS_MAX];
    uint32_t event_count;
};

struct recovered_message {
    uint64_t id;
    uint8_t queues;
    uint32_t counts[WORLD_QUEUES];
    uint32_t size;
};

struct world {
    struct simulated_disk *disk;
    struct log *log;
    struct log_writer *writer;
    uint64_t random;
    uint32_t segment_size;
    struct model_message *messages;
    size_t count, first_alive;
    struct recovered_message *recovered;
    size_t recovered_count;
    uint64_t next_ticket; /* of the turn being staged */
    uint64_t durable;
    unsigned notes;
    char note[LOG_TEXT_SIZE], error[LOG_TEXT_SIZE];
    uint32_t body_max;
    bool knows_disk_low; /* as the writer could see when it was told last */
};

static inline uint64_t
world_random(struct world *world, uint64_t below)
{
    uint64_t x = world->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    world->random = x;
    return (x >> 11) % below;
}

static inline uint64_t
queue_id_of(uint32_t queue)
{
    return 1000 - 7 * (uint64_t)queue; /* descending: the log must put them in order */
}

static inline uint32_t
queue_of(uint64_t queue_id)
{
    REQUIRE(queue_id <= 1000);
    return (uint32_t)((1000 - queue_id) / 7);
}

static inline void
fill_body(char *body, size_t size, uint64_t id)
{
    for (size_t i = 0; i < size; i++)
        body[i] = (char)(id * 31 + i * 7 + (i >> 8));
}

static inline bool
world_queue_exists(void *context, uint64_t queue_id)
{
    (void)context;
    return queue_of(queue_id) < WORLD_QUEUES;
}

static inline int
world_message(void *context, const struct log_message *message)
{
    struct world *world = context;
    REQUIRE(world->recovered_count < WORLD_MESSAGES_MAX);
    struct recovered_message *recovered = &world->recovered[world->recovered_count];
    *recovered = (struct recovered_message){.id = message->id};
    if (world->recovered_count > 0)
        REQUIRE(message->id > recovered[-1].id);
    world->recovered_count++;
    REQUIRE(message->queue_count > 0);
    for (uint32_t i = 0; i < message->queue_count; i++) {
        uint32_t queue = queue_of(message->queues[i].queue_id);
        recovered->queues |= (uint8_t)(1 << queue);
        recovered->counts[queue] = message->queues[i].delivery_count;
    }
    REQUIRE(message->piece_count == 2);
    REQUIRE(message->piece_sizes[0] == 8);
    REQUIRE(message->flags == 0xabcd);
    REQUIRE(message->published_wall_ms == 1700000000000);
    recovered->size = message->piece_sizes[1];
    REQUIRE(message->expires_wall_ms == (recovered->size % 3 == 0 ? 1700000009999 : 0));
    return 0;
}

static inline void
world_note(void *context, const char *text)
{
    struct world *world = context;
    world->notes++;
    snprintf(world->note, sizeof(world->note), "%s", text);
}

static inline void
world_durable(void *context)
{
    struct world *world = context;
    if (world != NULL)
        world->knows_disk_low = log_disk_low(world->log);
}

static inline void
world_init(struct world *world, uint64_t seed)
{
    *world = (struct world){
        .disk = simulated_disk_new(seed),
        .random = seed * 0x9e3779b97f4a7c15U + 1,
        .segment_size = WORLD_SEGMENT,
        .body_max = 900,
    };
    world->messages = calloc(WORLD_MESSAGES_MAX, sizeof(*world->messages));
    world->recovered = calloc(WORLD_MESSAGES_MAX, sizeof(*world->recovered));
    REQUIRE(world->disk != NULL);
    REQUIRE(world->messages != NULL);
    REQUIRE(world->recovered != NULL);
}

static inline struct log_options
world_options(struct world *world)
{
    return (struct log_options){
        .directory = "/log",
        .files = simulated_disk_files(world->disk),
        .segment_size = world->segment_size,
        .without_thread = true,
    };
}

/* Opens the log; what it recovers is in world->recovered. */
static inline int
world_open(struct world *world)
{
    struct log_options options = world_options(world);
    struct log_recovery sink = {world, world_queue_exists, world_message, world_note};
    world->recovered_count = 0;
    world->notes = 0;
    int result = log_open(&world->log, &options, &sink, world->error);
    if (result != 0)
        return result;
    world->writer = log_writer_new(world->log, world_durable, world);
    REQUIRE(world->writer != NULL);
    world->next_ticket = 1;
    world->durable = 0;
    return 0;
}

/* Lets the log work until it has nothing to do. */
static inline void
world_work(struct world *world)
{
    for (int rounds = 0; log_turn(world->log); rounds++)
        REQUIRE(rounds < 10000);
    world->durable = log_durable(world->writer);
}

static inline void
world_close(struct world *world)
{
    if (world->log == NULL)
        return;
    log_writer_free(world->writer);
    log_close(world->log);
    world->log = NULL;
    world->writer = NULL;
}

static inline void
world_fini(struct world *world)
{
    world_close(world);
    simulated_disk_free(world->disk);
    free(world->messages);
    free(world->recovered);
}

/* Publishes to the queues of the mask. */
static inline struct model_message *
world_publish_to(struct world *world, uint8_t queues, uint32_t size, bool is_transient)
{
    REQUIRE(world->count < WORLD_MESSAGES_MAX);
    uint64_t ids[WORLD_QUEUES];
    uint32_t count = 0;
    for (uint32_t queue = 0; queue < WORLD_QUEUES; queue++)
        if ((queues >> queue & 1) != 0)
            ids[count++] = queue_id_of(queue);
    char *body = malloc(size + 1);
    uint64_t mark = world->count + 77;
    fill_body(body, size, mark);
    struct iovec pieces[] = {{.iov_base = &mark, .iov_len = 8},
                             {.iov_base = body, .iov_len = size}};
    struct log_publish publish = {
        .pieces = pieces,
        .piece_count = 2,
        .queue_count = count,
        .queue_ids = ids,
        .published_wall_ms = 1700000000000,
        .expires_wall_ms = size % 3 == 0 ? 1700000009999 : 0,
        .flags = 0xabcd,
        .kind = is_transient ? LOG_TRANSIENT : LOG_PERSISTENT,
    };
    struct model_message *message = &world->messages[world->count++];
    *message = (struct model_message){
        .size = size,
        .is_transient = is_transient,
        .queues = queues,
        .published = world->next_ticket,
    };
    for (uint32_t queue = 0; queue < WORLD_QUEUES; queue++)
        message->settled[queue] = NO_TICKET;
    REQUIRE(log_publish(world->writer, &publish, &message->id) == 0);
    free(body);
    return message;
}

static inline bool
is_in(const struct model_message *message, uint32_t queue, uint64_t ticket)
{
    return (message->queues >> queue & 1) != 0 && message->published <= ticket
           && message->settled[queue] > ticket;
}

static inline void
world_settle(struct world *world, struct model_message *message, uint32_t queue)
{
    REQUIRE(is_in(message, queue, NO_TICKET - 1));
    REQUIRE(log_settle(world->writer, queue_id_of(queue), message->id) == 0);
    message->settled[queue] = world->next_ticket;
}

static inline void
world_deliver(struct world *world, struct model_message *message, uint32_t queue, uint32_t count)
{
    if (message->event_count == EVENTS_MAX)
        return;
    REQUIRE(log_redelivered(world->writer, queue_id_of(queue), message->id, count) == 0);
    message->events[message->event_count].ticket = world->next_ticket;
    message->events[message->event_count].queue = queue;
    message->events[message->event_count++].count = count;
}

static inline void
world_submit(struct world *world)
{
    uint64_t ticket = log_submit(world->writer);
    if (ticket == world->next_ticket)
        world->next_ticket++;
}

/* What the model held after a ticket, for one message. */
static inline struct recovered_message
model_at(const struct model_message *message, uint64_t ticket)
{
    struct recovered_message state = {.id = message->id, .size = message->size};
    if (message->is_transient)
        return state;
    for (uint32_t queue = 0; queue < WORLD_QUEUES; queue++)
        if (is_in(message, queue, ticket))
            state.queues |= (uint8_t)(1 << queue);
    for (uint32_t i = 0; i < message->event_count; i++)
        if (message->events[i].ticket <= ticket
            && (state.queues >> message->events[i].queue & 1) != 0)
            state.counts[message->events[i].queue] = message->events[i].count;
    return state;
}

static inline bool
is_state(const struct world *world, uint64_t ticket)
{
    size_t next = 0;
    for (size_t i = world->first_alive; i < world->count; i++) {
        if (world->messages[i].is_gone)
            continue;
        struct recovered_message state = model_at(&world->messages[i], ticket);
        if (state.queues == 0)
            continue;
        if (next == world->recovered_count)
            return false;
        const struct recovered_message *found = &world->recovered[next++];
        if (found->id != state.id || found->queues != state.queues || found->size != state.size
            || memcmp(found->counts, state.counts, sizeof(state.counts)) != 0)
            return false;
    }
    return next == world->recovered_count;
}

/* The model goes back to what it was after a ticket, which is now the beginning. */
static inline void
rewind_model(struct world *world, uint64_t ticket)
{
    size_t kept = 0;
    for (size_t i = 0; i < world->count; i++) {
        struct model_message message = world->messages[i];
        if (message.published > ticket || message.is_transient)
            message.is_gone = true;
        message.published = 0;
        bool is_alive = false;
        for (uint32_t queue = 0; queue < WORLD_QUEUES; queue++) {
            message.settled[queue] = message.settled[queue] <= ticket ? 0 : NO_TICKET;
            is_alive = is_alive || is_in(&message, queue, 0);
        }
        uint32_t events = 0;
        for (uint32_t e = 0; e < message.event_count; e++)
            if (message.events[e].ticket <= ticket) {
                message.events[events] = message.events[e];
                message.events[events++].ticket = 0;
            }
        message.event_count = events;
        message.is_gone = message.is_gone || !is_alive;
        world->messages[kept++] = message; /* keeps its place: the body is made from it */
    }
    world->count = kept;
}

/* Is that what was published? Frees it. */
static inline void
check_content(const struct world *world, const struct model_message *message,
              const struct log_content *content)
{
    uint64_t mark = (uint64_t)(message - world->messages) + 77;
    char *body = malloc(message->size + 1);
    fill_body(body, message->size, mark);
    REQUIRE(content->piece_count == 2);
    REQUIRE(content->size == 8 + (size_t)message->size);
    REQUIRE(memcmp(content->data, &mark, 8) == 0);
    REQUIRE(memcmp(content->data + 8, body, message->size) == 0);
    free(body);
    free(content->data);
}

static inline void
check_body(struct world *world, const struct model_message *message)
{
    struct log_content content;
    char error[LOG_TEXT_SIZE] = "";
    int result = log_read(world->log, message->id, &content, error);
    if (result != 0)
        ck_abort_msg("message %" PRIu64 " cannot be read: %s", message->id, error);
    check_content(world, message, &content);
}

static inline void
world_check_bodies(struct world *world)
{
    for (size_t i = 0; i < world->count; i++) {
        const struct model_message *message = &world->messages[i];
        bool is_alive = false;
        for (uint32_t queue = 0; queue < WORLD_QUEUES; queue++)
            is_alive = is_alive || is_in(message, queue, NO_TICKET - 1);
        if (is_alive && !message->is_gone)
            check_body(world, message);
    }
}

/* After opening again: finds the ticket whose state was recovered. */
static inline void
world_check(struct world *world, uint64_t durable, uint64_t submitted)
{
    uint64_t ticket = durable;
    while (ticket <= submitted && !is_state(world, ticket))
        ticket++;
    if (ticket > submitted)
        ck_abort_msg("%zu messages recovered: that is the state after no ticket from %" PRIu64
                     " to %" PRIu64,
                     world->recovered_count, durable, submitted);
    rewind_model(world, ticket);
    simulated_disk_pause(world->disk, true); /* the calls of the check are not those to fail */
    world_check_bodies(world);
    simulated_disk_pause(world->disk, false);
}

/* A random living (message, queue); NULL: none was found. One message in 16 is seldom picked: so
 * segments are left with a few survivors, and compaction has work. */
static inline struct model_message *
pick(struct world *world, uint32_t *queue, bool oldest)
{
    if (world->count == 0)
        return NULL;
    size_t start = oldest ? 0 : world_random(world, world->count);
    for (size_t n = 0; n < world->count; n++) {
        struct model_message *message = &world->messages[(start + n) % world->count];
        if (message->is_gone || ((message - world->messages) % 16 == 0 && world_random(world, 40)))
            continue;
        uint32_t first = (uint32_t)world_random(world, WORLD_QUEUES);
        for (uint32_t i = 0; i < WORLD_QUEUES; i++) {
            *queue = (first + i) % WORLD_QUEUES;
            if (is_in(message, *queue, NO_TICKET - 1))
                return message;
        }
    }
    return NULL;
}

static inline void
random_publish(struct world *world)
{
    uint8_t queues = (uint8_t)(1 << world_random(world, WORLD_QUEUES));
    if (world_random(world, 8) == 0)
        queues |= (uint8_t)(1 + world_random(world, (1 << WORLD_QUEUES) - 1));
    uint32_t size = (uint32_t)world_random(world, world->body_max);
    if (world_random(world, 60) == 0)
        size = world->segment_size + 5000; /* a segment of its own */
    world_publish_to(world, queues, size, world_random(world, 12) == 0);
}

/* One operation at random; `publishing` of 100 are publishes. */
static inline void
random_operation(struct world *world, unsigned publishing)
{
    uint32_t queue;
    if (world_random(world, 100) < publishing) {
        random_publish(world);
        return;
    }
    struct model_message *message = pick(world, &queue, world_random(world, 3) != 0);
    if (message == NULL)
        return;
    switch (world_random(world, 8)) {
    case 0:
        world_deliver(world, message, queue, 1 + (uint32_t)world_random(world, 300));
        break;
    case 1: /* dead-lettering: the copy, then the source is done with */
        world_publish_to(world, 1, message->size % 1000, false);
        message = pick(world, &queue, false);
        if (message != NULL)
            world_settle(world, message, queue);
        break;
    default:
        world_settle(world, message, queue);
    }
}

/* A turn: some operations, submitted; then perhaps the log works. */
static inline void
random_turn(struct world *world, unsigned publishing)
{
    unsigned operations = 1 + (unsigned)world_random(world, 6);
    for (unsigned i = 0; i < operations; i++)
        random_operation(world, publishing);
    world_submit(world);
    if (world_random(world, 3) != 0)
        world_work(world);
}

#endif
