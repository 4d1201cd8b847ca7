/* The core when memory runs out: any allocation may fail, and then nothing persistent is lost,
 * nothing leaks, and what is tried again works.
 *
 * malloc, calloc and realloc of the core are the test's, by the linker (--wrap). */
#include "test_broker_policy.h"

#include <errno.h>
#include <stdio.h>

#include "broker/exchange.h"

/* --- Memory ----------------------------------------------------------------------------------- */

static int64_t live;       /* allocations that were not freed */
static int64_t fail_after; /* so many succeed, then one fails; negative: none does */
static unsigned fail_percent;
static bool is_armed; /* the core is at work, not the test */
static uint64_t failures;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void __wrap_free(void *memory);

static bool
fails(void)
{
    if (!is_armed)
        return false;
    bool does =
        (fail_after >= 0 && fail_after-- == 0) || (fail_percent > 0 && chance(fail_percent));
    failures += does;
    return does;
}

void *
__wrap_malloc(size_t size)
{
    void *memory = fails() ? NULL : __real_malloc(size);
    live += memory != NULL;
    return memory;
}

void *
__wrap_calloc(size_t count, size_t size)
{
    void *memory = fails() ? NULL : __real_calloc(count, size);
    live += memory != NULL;
    return memory;
}

void *
__wrap_realloc(void *old, size_t size)
{
    void *memory = fails() ? NULL : __real_realloc(old, size);
    live += memory != NULL && old == NULL;
    return memory;
}

void
__wrap_free(void *memory)
{
    live -= memory != NULL;
    __real_free(memory);
}

/* --- What the scene does: each says whether it could ------------------------------------------ */

static struct test_client client;

/* What the client notes is not the core's memory. */
static void
receive(void *context, const struct mail *mail)
{
    bool was_armed = is_armed;
    is_armed = false;
    client_receive(context, mail);
    is_armed = was_armed;
}

static bool is_published[8];
static struct queue_record *queues[4];

static bool
exchange_with(const char *name, const char *type, const char *argument, const char *value)
{
    struct amqp_table_builder arguments;
    is_armed = false;
    amqp_table_builder_init(&arguments);
    if (argument != NULL)
        amqp_table_builder_put_string(&arguments, slice_from(argument), slice_from(value));
    is_armed = true;
    struct exchange_declaration declaration = {.name = slice_from(name),
                                               .type = slice_from(type),
                                               .durable = true,
                                               .arguments = amqp_table_builder_finish(&arguments)};
    struct amqp_error error = {0};
    bool created;
    catalogue_lock(test_broker->catalogue);
    int status =
        exchange_declare(test_broker->catalogue, test_vhost, &declaration, &created, &error);
    struct exchange *exchange = exchange_find(test_broker->catalogue, test_vhost, slice_from(name));
    if (status == 0 && exchange_needs_delay_store(exchange)
        && queue_new_delay_store(test_broker->shards[0], test_vhost, exchange, 0) != 0) {
        status = -1;
        error.code = AMQP_REPLY_RESOURCE_ERROR;
    }
    catalogue_unlock(test_broker->catalogue);
    REQUIRE(status == 0 || error.code == AMQP_REPLY_RESOURCE_ERROR, "%s: %s", name, error.text);
    amqp_table_builder_free(&arguments);
    return status == 0;
}

static bool
declares_topic(void)
{
    return exchange_with("t", "topic", "alternate-exchange", "h");
}

static bool
declares_headers(void)
{
    return exchange_with("h", "headers", NULL, NULL);
}

static bool
declares_hash(void)
{
    return exchange_with("c", "x-consistent-hash", NULL, NULL);
}

static bool
declares_delayed(void)
{
    return exchange_with("d", "x-delayed-message", "x-delayed-type", "direct");
}

static bool
declares_history(void)
{
    return exchange_with("r", "x-recent-history", NULL, NULL);
}

static bool
queue_with(int number, void (*put)(struct amqp_table_builder *arguments))
{
    char name[8];
    snprintf(name, sizeof(name), "q%d", number);
    is_armed = false;
    struct queue_wish wish = {.name = name, .has_arguments = true};
    amqp_table_builder_init(&wish.arguments);
    put(&wish.arguments);
    is_armed = true;
    queues[number] = declare_queue(test_broker->shards[0], &wish);
    return queues[number] != NULL;
}

static void
many_arguments(struct amqp_table_builder *arguments)
{
    amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-exchange"), SLICE(""));
    amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-routing-key"), SLICE("q2"));
    amqp_table_builder_put_int64(arguments, SLICE("x-max-priority"), 3);
    amqp_table_builder_put_bool(arguments, SLICE("x-message-deduplication"), true);
}

static void
refusing_arguments(struct amqp_table_builder *arguments)
{
    amqp_table_builder_put_int64(arguments, SLICE("x-max-length"), 100);
    amqp_table_builder_put_string(arguments, SLICE("x-overflow"), SLICE("reject-publish"));
}

static void
no_arguments(struct amqp_table_builder *arguments)
{
    (void)arguments;
}

static bool
declares_q1(void)
{
    return queue_with(1, many_arguments);
}

static bool
declares_q2(void)
{
    return queue_with(2, refusing_arguments);
}

static bool
declares_q3(void)
{
    return queue_with(3, no_arguments);
}

static bool
call_bind(const char *source, const char *to, bool to_exchange, const char *key, bool binds)
{
    struct amqp_table_builder arguments;
    is_armed = false;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_string(&arguments, SLICE("b"), SLICE("x"));
    amqp_table_builder_put_string(&arguments, SLICE("a"), SLICE("y"));
    is_armed = true;
    struct binding_request request = {.source = slice_from(source),
                                      .destination = slice_from(to),
                                      .destination_is_exchange = to_exchange,
                                      .routing_key = slice_from(key),
                                      .arguments = amqp_table_builder_finish(&arguments)};
    struct binding_history history = {0};
    struct amqp_error error = {0};
    catalogue_lock(test_broker->catalogue);
    int status =
        binds ? catalogue_bind(test_broker->catalogue, test_vhost, &request, &history, &error)
              : catalogue_unbind(test_broker->catalogue, test_vhost, &request, &error);
    catalogue_unlock(test_broker->catalogue);
    REQUIRE(status == 0 || error.code == AMQP_REPLY_RESOURCE_ERROR, "%s", error.text);
    amqp_table_builder_free(&arguments);
    for (size_t i = 0; i < history.count; i++)
        message_unref(history.messages[i]);
    free(history.messages);
    return status == 0;
}

static bool
binds_topic(void)
{
    return call_bind("t", "q1", false, "a.*.#.b", true) && call_bind("t", "q3", false, "a.#", true);
}

static bool
binds_others(void)
{
    return call_bind("h", "q3", false, "", true) && call_bind("c", "q1", false, "7", true)
           && call_bind("d", "q3", false, "k", true) && call_bind("r", "t", true, "", true);
}

static bool
unbinds(void)
{
    return call_bind("t", "q3", false, "a.#", false);
}

static bool
publishes(uint64_t uid, const char *exchange, const char *key, int64_t delay_ms)
{
    if (is_published[uid])
        return true;
    uint32_t answers;
    is_armed = false;
    struct message_wish wish = {.uid = uid,
                                .exchange = exchange,
                                .routing_key = key,
                                .persistent = true,
                                .priority = 2,
                                .expiration_ms = -1,
                                .identifier = uid,
                                .delay_ms = delay_ms};
    struct message *message = make_message(&wish);
    is_armed = true;
    int count = publish(test_broker->shards[0], message, client.ref, uid, &answers);
    is_published[uid] = count > 0;
    REQUIRE(count != 0, "message %" PRIu64 " reaches nobody", uid);
    return count > 0;
}

static bool
publishes_all(void)
{
    return publishes(1, "t", "a.x.y.b", 0) && publishes(2, "", "q1", 0)
           && publishes(3, "d", "k", 50) && publishes(4, "c", "any", 0)
           && publishes(5, "r", "a.x.b", 0);
}

static bool
subscribes(void)
{
    client.replies = 0;
    send_subscribe(test_broker->shards[0], queues[1]->queue, client.ref,
                   &(struct subscription_request){.consumer = 1, .prefetch = 2});
    return client.reply.result == QUEUE_OK;
}

static void
rests(void)
{
    bool was_armed = is_armed;
    for (int i = 0; i < 20; i++) {
        (void)shard_run(test_broker->shards[0]);
        shard_flush(test_broker->shards[0]);
    }
    is_armed = was_armed;
}

/* --- The scene -------------------------------------------------------------------------------- */

static void
run_scene(void)
{
    static bool (*const steps[])(void) = {
        declares_topic, declares_headers, declares_hash, declares_delayed, declares_history,
        declares_q1,    declares_q2,      declares_q3,   binds_topic,      binds_others,
        publishes_all,  subscribes,       unbinds,
    };
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        is_armed = true;
        for (int tries = 0; !steps[i](); tries++)
            REQUIRE(tries < 3, "step %zu never succeeds", i);
        rests();
    }
    /* What the consumer got comes back, then is rejected, and what is behind follows it. */
    size_t first = client.count;
    for (size_t i = 0; i < client.count && i < 100; i++) {
        send_settle(test_broker->shards[0], client.seen[i].queue, client.seen[i].subscription,
                    client.seen[i].tag, 1, i < first ? SETTLE_REQUEUED : SETTLE_REJECTED);
        rests();
    }
    set_clock(clock_now() + 60);
    rests();
    set_clock(clock_now() + 1001); /* what could not go on tries again */
    rests();
    is_armed = false;
}

/* Every message is where it belongs, or will be after a restart. */
static void
check_scene(void)
{
    for (uint64_t uid = 1; uid <= 5; uid++) {
        size_t places = 0;
        for (size_t i = 0; i < test_journal.count; i++)
            for (uint32_t j = 0; j < test_journal.messages[i].place_count; j++)
                places += test_journal.messages[i].uid == uid
                          && !test_journal.messages[i].places[j].is_settled;
        size_t expected = uid == 1 || uid == 5 ? 2 : 1;
        REQUIRE(places >= expected,
                "message %" PRIu64 " is in %zu places, not %zu (failure %" PRIu64 ")", uid, places,
                expected, failures);
        REQUIRE(failures > 0 || places == expected, "message %" PRIu64 " is in %zu places, not %zu",
                uid, places, expected);
    }
    for (int i = 1; i <= 3; i++) {
        const struct queue *queue = queue_of(queues[i]);
        for (uint32_t lane = 0; lane < queue->lane_count; lane++) {
            uint64_t sequence = 0;
            const struct entry *entry;
            while (queue->lanes[lane] != NULL
                   && (entry = lane_next(queue->lanes[lane], &sequence)) != NULL)
                REQUIRE(journal_has(&test_journal, queue->journal_id, entry->id),
                        "a message in a queue is not in the journal");
        }
        REQUIRE(queues[i]->unacknowledged == 0, "q%d: %" PRIu64 " unacknowledged", i,
                queues[i]->unacknowledged);
    }
    REQUIRE(departures_are_over(test_broker->shards[0]), "a message is on its way for ever");
}

/* The whole scene with the n-th allocation failing. False: there is none any more. */
static bool
scene_with(int64_t n)
{
    int64_t before = live;
    memset(is_published, 0, sizeof(is_published));
    failures = 0;
    fail_after = -1;
    broker_up(1, receive);
    client_init(&client, test_broker->shards[0]);
    fail_after = n;
    run_scene();
    bool has_failed = failures > 0;
    fail_after = -1;
    check_scene();
    client_fini(&client);
    broker_down();
    REQUIRE(live == before, "%" PRId64 " allocations are left", live - before);
    return has_failed;
}

START_TEST(any_one_allocation_may_fail)
{
    random_init_with(&test_random, 1);
    REQUIRE(!scene_with(-1), "a failure of itself");
    for (test_operation = 1; scene_with((int64_t)test_operation - 1); test_operation++)
        REQUIRE(test_operation < 10000, "the scene has no end");
    ck_assert_uint_gt(test_operation, 100);
}
END_TEST

/* It is in the queue, or whoever published it hears that it is not. */
START_TEST(a_transient_message_that_finds_no_place_is_lost_and_told)
{
    size_t lost = 0;
    failures = 1;
    for (int64_t n = 0; failures > 0; n++) {
        uint32_t answers;
        fail_after = -1;
        broker_up(1, receive);
        client_init(&client, test_broker->shards[0]);
        ck_assert(declares_q3());
        is_armed = false;
        struct message_wish wish = {
            .uid = 1, .exchange = "", .routing_key = "q3", .priority = -1, .expiration_ms = -1};
        struct message *message = make_message(&wish);
        failures = 0;
        fail_after = n;
        is_armed = true;
        int count = publish(test_broker->shards[0], message, client.ref, 1, &answers);
        is_armed = false;
        fail_after = -1;
        if (count > 0)
            ck_assert_uint_eq(queue_of(queues[3])->ready + client.lost, 1);
        lost += client.lost;
        client_fini(&client);
        broker_down();
    }
    ck_assert_uint_gt(lost, 0);
}
END_TEST

static void
many_fail(void)
{
    for (test_operation = 1; test_operation <= 20; test_operation++) {
        int64_t before = live;
        fail_after = -1;
        failures = 0;
        memset(is_published, 0, sizeof(is_published));
        broker_up(1, receive);
        client_init(&client, test_broker->shards[0]);
        is_armed = true;
        fail_percent = 1 + (unsigned)pick(20);
        for (int i = 0; i < 100; i++) { /* each as often as it takes */
            static bool (*const steps[])(void) = {declares_topic,   declares_headers, declares_hash,
                                                  declares_delayed, declares_history, declares_q1,
                                                  declares_q2,      declares_q3,      binds_topic,
                                                  binds_others,     publishes_all};
            for (size_t j = 0; j < sizeof(steps) / sizeof(steps[0]); j++)
                if ((j >= 5 && j < 8
                     && find_queue((const char *[]){"q1", "q2", "q3"}[j - 5]) != NULL)
                    || (j >= 8 && (queues[1] == NULL || queues[2] == NULL || queues[3] == NULL)))
                    continue;
                else if (!steps[j]() && j < 10)
                    break;
            rests();
        }
        fail_percent = 0;
        is_armed = false;
        set_clock(clock_now() + 2000);
        settle_down();
        client_fini(&client);
        broker_down();
        memset(queues, 0, sizeof(queues));
        REQUIRE(live == before, "%" PRId64 " allocations are left", live - before);
    }
}

START_TEST(many_allocations_may_fail)
{
    run_rounds(20, many_fail);
}
END_TEST

START_TEST(a_broker_is_made_whole_or_not_at_all)
{
    int64_t before = live;
    for (int64_t n = 0;; n++) {
        failures = 0;
        fail_after = n;
        is_armed = true;
        struct broker *broker = broker_new(3);
        int status = broker == NULL ? 0 : catalogue_vhost_add(broker->catalogue, SLICE("/"));
        is_armed = false;
        REQUIRE(status == 0 || status == -ENOMEM, "status %d", status);
        REQUIRE((broker != NULL && status == 0) == (failures == 0), "after %" PRId64, n);
        if (broker != NULL)
            broker_free(broker);
        REQUIRE(live == before, "%" PRId64 " allocations are left after %" PRId64, live - before,
                n);
        if (failures == 0)
            break;
    }
}
END_TEST

START_TEST(a_binding_that_could_not_be_made_leaves_nothing)
{
    for (int64_t n = 0;; n++) {
        int64_t before = live;
        fail_after = -1;
        broker_up(1, receive);
        REQUIRE(declares_topic() && declares_q3(), "no scene");
        fail_after = n;
        bool could = call_bind("t", "q3", false, "x.y.*.z.#", true);
        is_armed = false;
        broker_down();
        REQUIRE(live == before, "%" PRId64 " allocations are left after %" PRId64, live - before,
                n);
        if (could)
            break;
    }
}
END_TEST

START_TEST(a_policy_is_set_whole_or_not_at_all)
{
    const struct policy_wish wish = {.name = "p", .says = SAY({"max-length", .number = 7})};
    int status = -ENOMEM;
    for (int64_t n = 0; status != 0; n++) {
        int64_t before = live;
        char error[POLICY_ERROR_MAX];
        fail_after = -1;
        broker_up(1, receive);
        REQUIRE(declares_topic() && declares_q3(), "no scene");
        /* The definition is the test's own first allocation. */
        fail_after = n + 1;
        status = try_policy_from(test_broker->shards[0], &wish, error);
        is_armed = false;
        REQUIRE(status == 0 || status == -ENOMEM, "%d %s", status, error);
        REQUIRE((queue_record_policy(queues[3], false).size == 0) == (status != 0)
                    && queue_of(queues[3])->options.max_length == (status == 0 ? 7 : OPTION_NONE),
                "%d", status);
        REQUIRE(n > 0 || status != 0, "no failure");
        broker_down();
        REQUIRE(live == before, "%" PRId64 " allocations are left after %" PRId64, live - before,
                n);
    }
}
END_TEST

START_TEST(what_found_no_place_is_no_duplicate_later)
{
    bool has_failed = true;
    for (int64_t n = 0; has_failed; n++) {
        fail_after = -1;
        broker_up(1, receive);
        client_init(&client, test_broker->shards[0]);
        REQUIRE(declares_q1(), "no queue");
        memset(is_published, 0, sizeof(is_published));
        fail_after = n;
        (void)publishes(1, "", "q1", 0);
        has_failed = fail_after < 0;
        int64_t ready = (int64_t)queue_of(queues[1])->ready;
        REQUIRE((int64_t)map_count(queue_of(queues[1])->identifiers) <= ready,
                "it is gone, and its identifier is not");
        REQUIRE(has_failed || ready == 1, "nothing failed, and it is not there");
        fail_after = -1;
        if (ready == 0) {
            memset(is_published, 0, sizeof(is_published));
            (void)publishes(1, "", "q1", 0);
            REQUIRE(queue_of(queues[1])->ready == 1, "it is not taken after %" PRId64, n);
        }
        is_armed = false;
        client_fini(&client);
        broker_down();
    }
}
END_TEST

/* Taken out in order, whatever came back in whichever order while memory came and went. */
static void
lane_without_memory(void)
{
    enum { ENTRIES = 1000 };
    static bool is_taken[ENTRIES];
    struct lane lane;
    uint64_t sequence;
    memset(is_taken, 0, sizeof(is_taken));
    lane_init(&lane);
    for (int i = 0; i < ENTRIES; i++)
        REQUIRE(lane_push(&lane, &sequence) != NULL, "out of memory");
    fail_percent = (unsigned)pick(101);
    for (test_operation = 1; test_operation <= 5 * ENTRIES; test_operation++) {
        if (chance(60) && lane.ready > 0) {
            struct entry *entry = lane_first_ready(&lane, &sequence);
            for (uint64_t i = 0; i < sequence; i++)
                REQUIRE(is_taken[i], "entry %" PRIu64 " before %" PRIu64, sequence, i);
            lane_take(&lane, sequence, entry);
            is_taken[sequence] = true;
        } else {
            sequence = pick(ENTRIES);
            if (!is_taken[sequence])
                continue;
            is_armed = true;
            lane_return(&lane, sequence, lane_at(&lane, sequence));
            is_armed = false;
            is_taken[sequence] = false;
        }
    }
    fail_percent = 0;
    lane_fini(&lane);
}

START_TEST(what_comes_back_has_its_place_also_without_memory)
{
    run_rounds(10, lane_without_memory);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, any_one_allocation_may_fail);
    tcase_add_test(tests, many_allocations_may_fail);
    tcase_add_test(tests, a_binding_that_could_not_be_made_leaves_nothing);
    tcase_add_test(tests, a_policy_is_set_whole_or_not_at_all);
    tcase_add_test(tests, a_transient_message_that_finds_no_place_is_lost_and_told);
    tcase_add_test(tests, what_found_no_place_is_no_duplicate_later);
    tcase_add_test(tests, what_comes_back_has_its_place_also_without_memory);
    tcase_add_test(tests, a_broker_is_made_whole_or_not_at_all);
}

int
main(void)
{
    return run_suite("broker/memory", add);
}
