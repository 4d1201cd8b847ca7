/* What a policy does to queues that are in use: when it comes, changes and goes. */
#include "broker/policy_internal.h"
#include "test_broker_policy.h"

static struct shard *shard;
static struct test_client client;

static void
set_up(void)
{
    broker_up(2, client_receive);
    shard = test_broker->shards[0];
    client_init(&client, shard);
}

static void
tear_down(void)
{
    client_fini(&client);
    broker_down();
}

static void
send_expiring(const char *exchange, const char *key, uint64_t uid, int64_t expiration_ms)
{
    uint32_t answers;
    struct message_wish wish = {.uid = uid,
                                .exchange = exchange,
                                .routing_key = key,
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = expiration_ms};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
}

/* To a queue. */
static void
send(const char *queue, uint64_t uid)
{
    send_expiring("", queue, uid, -1);
    settle_down();
}

static void
pass(int64_t ms)
{
    set_clock(clock_now() + ms);
    settle_down();
}

static const struct seen_delivery *
get(const struct queue_record *queue)
{
    size_t before = client.count;
    send_plain(shard, MAIL_GET, queue->queue, client.ref, 0);
    settle_down();
    ck_assert_uint_eq(client.count, before + 1);
    return &client.seen[before];
}

/* --- message-ttl ------------------------------------------------------------------------------ */

START_TEST(a_message_ttl_that_comes_counts_from_when_each_message_was_published)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    send("q", 1);
    pass(40);
    send("q", 2);
    pass(40);
    POLICY("p", {"message-ttl", .number = 100});
    ck_assert_uint_eq(queue->ready, 2);
    pass(19);
    ck_assert_uint_eq(queue->ready, 2);
    pass(1);
    ck_assert_uint_eq(queue->ready, 1);
    send("q", 3);
    pass(39);
    ck_assert_uint_eq(queue->ready, 2);
    pass(1);
    ck_assert_uint_eq(queue->ready, 1);
    pass(60);
    ck_assert_uint_eq(queue->ready, 0);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
}
END_TEST

START_TEST(what_is_too_old_for_it_goes_at_once_to_where_the_expired_go)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    struct queue_record *dead = declare_saying(shard, "dead", NULL);
    send("q", 1);
    pass(40);
    send("q", 2);
    set_policy(&(struct policy_wish){.name = "p",
                                     .pattern = "^q",
                                     .says = SAY({"message-ttl", .number = 30},
                                                 {"dead-letter-exchange", .text = ""},
                                                 {"dead-letter-routing-key", .text = "dead"})});
    ck_assert_uint_eq(queue->ready, 1);
    ck_assert_uint_eq(get(dead)->uid, 1);
}
END_TEST

START_TEST(a_message_ttl_that_changes_or_goes_holds_for_what_is_there)
{
    POLICY("p", {"message-ttl", .number = 100});
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    send("q", 1);
    pass(10);
    POLICY("p", {"message-ttl", .number = 200});
    pass(189);
    ck_assert_uint_eq(queue->ready, 1);
    clear_policy("p");
    pass(100000);
    ck_assert_uint_eq(queue->ready, 1);
    POLICY("p", {"message-ttl", .number = 100200});
    ck_assert_uint_eq(queue->ready, 1);
    pass(1);
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

/* Wherever it stands: the policy puts other deadlines around it, and takes them away again. */
START_TEST(a_messages_own_expiration_stays_exact_through_all_changes)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    if (_i == 0)
        POLICY("p", {"message-ttl", .number = 100});
    send("q", 1);
    send_expiring("", "q", 2, 1000);
    pass(95);
    send_expiring("", "q", 3, 20); /* behind what would go before it, for now */
    if (_i == 1)
        POLICY("p", {"message-ttl", .number = 100});
    POLICY("p", {"message-ttl", .number = 5000});
    ck_assert_uint_eq(queue->ready, 3);
    pass(19);
    ck_assert_uint_eq(queue->ready, 3);
    pass(1);
    ck_assert_uint_eq(queue->ready, 2);
    clear_policy("p");
    pass(884);
    ck_assert_uint_eq(queue->ready, 2);
    pass(1);
    ck_assert_uint_eq(queue->ready, 1);
    ck_assert_uint_eq(get(queue)->uid, 1);
}
END_TEST

START_TEST(an_expiration_that_came_after_the_policy_went_is_exact_too)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    POLICY("p", {"message-ttl", .number = 10});
    send("q", 1);
    clear_policy("p");
    send_expiring("", "q", 2, 50);
    pass(49);
    ck_assert_uint_eq(queue->ready, 2);
    pass(1);
    ck_assert_uint_eq(queue->ready, 1);
    ck_assert_uint_eq(get(queue)->uid, 1);
}
END_TEST

/* Expirations of messages that have left are swept out when they are the most, with those of
 * messages that may come back. */
START_TEST(an_expiration_is_exact_also_when_it_was_noted_anew)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    POLICY("p", {"message-ttl", .number = 100});
    send("q", 1);
    send_expiring("", "q", 2, 300);
    const struct seen_delivery first = *get(queue), second = *get(queue);
    for (uint64_t uid = 3; uid < 1200; uid++) {
        send_expiring("", "q", uid, 5000);
        send_plain(shard, MAIL_GET, queue->queue, client.ref, 1);
    }
    ck_assert_uint_lt(queue_of(queue)->expiry_count, 500);
    client_settle(&client, &second, SETTLE_REQUEUED);
    client_settle(&client, &first, SETTLE_REQUEUED);
    clear_policy("p");
    pass(299);
    ck_assert_uint_eq(queue->ready, 2);
    pass(1);
    ck_assert_uint_eq(queue->ready, 1);
    ck_assert_uint_eq(get(queue)->uid, 1);
}
END_TEST

START_TEST(a_message_that_comes_back_expires_as_it_should_now)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    send("q", 1);
    send("q", 2);
    const struct seen_delivery first = *get(queue), second = *get(queue);
    POLICY("p", {"message-ttl", .number = 100});
    pass(50);
    client_settle(&client, &second, SETTLE_REQUEUED);
    client_settle(&client, &first, SETTLE_REQUEUED);
    ck_assert_uint_eq(queue->ready, 2);
    pass(49);
    ck_assert_uint_eq(queue->ready, 2);
    pass(1);
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

START_TEST(a_message_that_came_back_is_given_the_time_of_a_policy_that_goes)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    POLICY("p", {"message-ttl", .number = 100});
    send("q", 1);
    send("q", 2);
    (void)get(queue);
    client_settle(&client, get(queue), SETTLE_REQUEUED);
    POLICY("p", {"message-ttl", .number = 150});
    pass(149);
    ck_assert_uint_eq(queue->ready, 1);
    clear_policy("p");
    pass(1000);
    ck_assert_uint_eq(queue->ready, 1);
    POLICY("p", {"message-ttl", .number = 1150});
    ck_assert_uint_eq(queue->ready, 1);
    pass(1);
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

/* Of those the queue has only the places; what is at the head is read. */
START_TEST(messages_that_are_in_the_journal_only_expire_too)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    shard->memory_share = shard->memory_most = 0;
    uint32_t answers;
    for (uint64_t uid = 1; uid <= 300; uid++) {
        struct message_wish wish = {.uid = uid,
                                    .exchange = "",
                                    .routing_key = "q",
                                    .body_size = 1024,
                                    .persistent = true,
                                    .priority = -1,
                                    .expiration_ms = -1};
        ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
        pass(1);
    }
    ck_assert_uint_eq(queue_of(queue)->memory, 0);
    POLICY("p", {"message-ttl", .number = 100});
    ck_assert_uint_eq(queue->ready, 99);
    pass(50);
    ck_assert_uint_eq(queue->ready, 49);
    ck_assert_uint_eq(get(queue)->uid, 252);
    clear_policy("p");
    pass(1000);
    ck_assert_uint_eq(queue->ready, 48);
}
END_TEST

enum { LARGE = 100 * 1024 };

/* Of so many large messages the queue has only the places. */
static struct queue_record *
queue_on_disk(const struct said *arguments, int64_t expiration_ms, uint64_t count)
{
    struct queue_record *queue = declare_saying(shard, "q", arguments);
    shard->memory_share = shard->memory_most = 0;
    uint32_t answers;
    for (uint64_t uid = 1; uid <= count; uid++) {
        struct message_wish wish = {.uid = uid,
                                    .exchange = "",
                                    .routing_key = "q",
                                    .body_size = LARGE,
                                    .persistent = true,
                                    .priority = -1,
                                    .expiration_ms = expiration_ms};
        ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
    }
    settle_down();
    ck_assert_uint_eq(queue_of(queue)->memory, 0);
    return queue;
}

/* Expired, or too many; also when the same policy gives them another time to live, for which the
 * head is looked at. */
START_TEST(what_is_dropped_is_not_read)
{
    struct queue_record *queue = queue_on_disk(NULL, _i == 0 ? 100 : -1, 300);
    if (_i == 0)
        pass(100);
    else if (_i == 1)
        POLICY("p", {"max-length", .number = 0});
    else
        POLICY("p", {"max-length", .number = 0}, {"message-ttl", .number = 100000});
    ck_assert_uint_eq(queue->ready, 0);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert_uint_le(test_journal.reads, _i == 2 ? 1 : 0);
}
END_TEST

START_TEST(what_was_read_for_its_time_only_does_not_stay_in_memory)
{
    struct queue_record *queue = queue_on_disk(NULL, _i == 0 ? -1 : 1000, 2);
    POLICY("p", {"message-ttl", .number = 10000});
    ck_assert_uint_eq(test_journal.reads, 1);
    ck_assert_uint_eq(queue_of(queue)->memory, 0);
    pass(999);
    ck_assert_uint_eq(queue->ready, 2);
    ck_assert_uint_eq(get(queue)->uid, 1);
    pass(_i == 0 ? 9001 : 1);
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

/* Each priority has a head, which is looked at. Together they are more than may be read in a turn.
 */
START_TEST(what_was_read_for_its_time_is_not_read_for_it_again)
{
    enum { PRIORITIES = 8, SIZE = QUEUE_READ_PER_TURN / PRIORITIES * 2 };
    struct queue_record *queue =
        declare_saying(shard, "q", SAY({"x-max-priority", .number = PRIORITIES}));
    shard->memory_share = shard->memory_most = 0;
    for (int i = 0; i < PRIORITIES; i++) {
        uint32_t answers;
        struct message_wish wish = {.uid = (uint64_t)i + 1,
                                    .exchange = "",
                                    .routing_key = "q",
                                    .body_size = SIZE,
                                    .persistent = true,
                                    .priority = i,
                                    .expiration_ms = -1};
        ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, 1, &answers), 1);
    }
    settle_down();
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = SAY({"message-ttl", .number = 1000})};
    ck_assert_int_eq(try_policy_from(shard, &wish, error), 0);
    for (int turns = 0; shard_run(shard); turns++)
        ck_assert_int_lt(turns, 100);
    ck_assert_uint_eq(test_journal.reads, PRIORITIES);
    pass(999);
    ck_assert_uint_eq(queue->ready, PRIORITIES);
    pass(1);
    ck_assert_uint_eq(queue->ready, 0);
    ck_assert_uint_eq(test_journal.reads, PRIORITIES);
}
END_TEST

static const struct {
    const struct said *says; /* of a policy */
    int64_t expiration_ms;
    size_t left;
} ways_to_die[] = {
    {SAY({"dead-letter-exchange", .text = ""}, {"dead-letter-routing-key", .text = "none"},
         {"max-length", .number = 1}),
     -1, 1},
    {SAY({"dead-letter-exchange", .text = ""}, {"dead-letter-routing-key", .text = "none"}), 100,
     0},
    {SAY({"dead-letter-exchange", .text = ""}, {"dead-letter-routing-key", .text = "none"},
         {"message-ttl", .number = 100}),
     -1, 0},
};

/* Whatever they die of: others wait while they are read. */
START_TEST(no_more_dead_letters_are_read_in_a_turn_than_it_may_take)
{
    enum { COUNT = 1000, READ_IN_A_TURN = QUEUE_READ_PER_TURN / LARGE + 2 };
    struct queue_record *queue = queue_on_disk(SAY({"x-queue-type", .text = "classic"}),
                                               ways_to_die[_i].expiration_ms, COUNT);
    set_clock(clock_now() + 100);
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = ways_to_die[_i].says};
    shard->may_read = QUEUE_READ_PER_TURN;
    ck_assert_int_eq(try_policy_from(shard, &wish, error), 0);
    size_t reads = test_journal.reads;
    ck_assert_uint_le(reads, READ_IN_A_TURN);
    for (int turns = 0; queue->ready > ways_to_die[_i].left; turns++) {
        ck_assert_int_lt(turns, COUNT);
        set_clock(clock_now() + 1);
        (void)shard_run(shard);
        ck_assert_uint_le(test_journal.reads - reads, READ_IN_A_TURN);
        reads = test_journal.reads;
    }
    ck_assert_uint_ge(reads, COUNT - 1);
}
END_TEST

/* Also not where the time to live is another one, so that each has to be read to see it, and
 * somebody asks for the first that is left: a consumer, or a basic.get. */
START_TEST(no_more_are_read_to_find_one_that_lives_than_a_turn_may_take)
{
    enum { COUNT = 400, READ_IN_A_TURN = QUEUE_READ_PER_TURN / LARGE + 2 };
    struct queue_record *queue = queue_on_disk(
        SAY({"x-dead-letter-exchange", .text = ""}, {"x-dead-letter-routing-key", .text = "none"}),
        -1, COUNT);
    if (_i == 0)
        (void)client_subscribe(&client, queue, &(struct subscription_request){.prefetch = 1});
    ck_assert_uint_eq(client.count, _i == 0 ? 1 : 0);
    set_clock(clock_now() + 100);
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = SAY({"message-ttl", .number = 50})};
    shard->may_read = QUEUE_READ_PER_TURN;
    size_t reads = test_journal.reads;
    ck_assert_int_eq(try_policy_from(shard, &wish, error), 0);
    if (_i == 0)
        send_settle(shard, client.seen[0].queue, client.seen[0].subscription, client.seen[0].tag, 1,
                    SETTLE_ACKNOWLEDGED);
    else
        send_plain(shard, MAIL_GET, queue->queue, client.ref, 0);
    for (int turns = 0; queue->ready > 0; turns++) {
        ck_assert_int_lt(turns, COUNT);
        shard_flush(shard);
        (void)shard_run(shard);
        ck_assert_uint_le(test_journal.reads - reads, 2 * READ_IN_A_TURN); /* and after its end */
        reads = test_journal.reads;
    }
    settle_down();
    ck_assert_uint_eq(client.count, _i == 0 ? 1 : 0);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
}
END_TEST

/* One that has much to read does not keep others from theirs, nor does a basic.get of it. */
START_TEST(queues_take_turns_in_reading_what_leaves_them)
{
    enum { COUNT = 1000, TURNS = 20 };
    static const char *const names[] = {"b", "c"};
    const struct said *arguments =
        SAY({"x-dead-letter-exchange", .text = ""}, {"x-dead-letter-routing-key", .text = "none"});
    struct queue_record *queue = queue_on_disk(arguments, 100, COUNT), *others[2];
    for (int i = 0; i < 2; i++) {
        others[i] = declare_saying(shard, names[i], arguments);
        send_expiring("", names[i], COUNT + 1, 100);
    }
    settle_down();
    set_clock(clock_now() + 100);
    if (_i == 1)
        send_plain(shard, MAIL_GET, queue->queue, client.ref, 0);
    for (int turns = 0; others[0]->ready + others[1]->ready > 0; turns++) {
        ck_assert_int_lt(turns, TURNS);
        (void)shard_run(shard);
        shard_flush(shard);
    }
    ck_assert_uint_gt(queue_of(queue)->ready, COUNT / 2);
    settle_down();
    ck_assert_uint_eq(queue->ready, 0);
    ck_assert_uint_eq(client.replies, _i);
}
END_TEST

/* What has more priority leaves first, so that a consumer gets what stands behind it. */
START_TEST(many_that_expire_do_not_keep_what_has_more_priority)
{
    enum { COUNT = 1000, TURNS = 20 };
    struct queue_record *queue = queue_on_disk(SAY({"x-dead-letter-exchange", .text = ""},
                                                   {"x-dead-letter-routing-key", .text = "none"},
                                                   {"x-max-priority", .number = 1}),
                                               100, COUNT);
    for (uint64_t uid = COUNT + 1; uid <= COUNT + 2; uid++) {
        uint32_t answers;
        struct message_wish wish = {.uid = uid,
                                    .exchange = "",
                                    .routing_key = "q",
                                    .persistent = true,
                                    .priority = 1,
                                    .expiration_ms = uid == COUNT + 1 ? 100 : -1};
        ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
    }
    settle_down();
    set_clock(clock_now() + 101);
    if (_i == 1)
        send_plain(shard, MAIL_GET, queue->queue, client.ref, 0);
    else
        send_subscribe(shard, queue->queue, client.ref,
                       &(struct subscription_request){.prefetch = 1});
    for (int turns = 0; client.count == 0; turns++) {
        ck_assert_int_lt(turns, TURNS);
        (void)shard_run(shard);
        shard_flush(shard);
    }
    ck_assert_uint_eq(client.seen[0].uid, COUNT + 2);
    ck_assert_uint_gt(queue_of(queue)->ready, COUNT / 2);
    settle_down();
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

/* While dead letters wait for a disk to have room, perhaps, it is consumers who make it. */
START_TEST(dead_letters_that_wait_for_the_journal_keep_nobody_from_what_lives)
{
    enum { COUNT = 100, TURNS = 1000 };
    struct queue_record *queue = queue_on_disk(NULL, -1, COUNT);
    (void)declare_saying(
        shard, "other",
        SAY({"x-dead-letter-exchange", .text = ""}, {"x-dead-letter-routing-key", .text = "none"}));
    send_expiring("", "other", COUNT + 1, 10);
    set_clock(clock_now() + 10);
    shard->journal_is_short = true;
    for (int turns = 0; turns < 3; turns++)
        (void)shard_run(shard);
    ck_assert(shard->is_behind);
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = SAY({"message-ttl", .number = 100000})};
    ck_assert_int_eq(try_policy_from(shard, &wish, error), 0);
    struct subscription_request request = {.no_ack = true, .window = COUNT * 2 * LARGE};
    if (_i == 0)
        send_subscribe(shard, queue->queue, client.ref, &request);
    for (int turns = 0; client.count < COUNT; turns++) {
        ck_assert_int_lt(turns, TURNS);
        if (_i == 1)
            send_plain(shard, MAIL_GET, queue->queue, client.ref, 1);
        (void)shard_run(shard);
        shard_flush(shard);
    }
    ck_assert(shard->is_behind);
    shard->journal_is_short = false;
    settle_down();
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

/* Of a queue that has messages 1 and 2, what comes back at the next start; message 2 has 10 ms to
 * live by itself. */
static struct queue *
restart(const struct queue_record *queue)
{
    struct queue *restored = queue_of(declare_saying(shard, "restored", NULL));
    restored->journal_id = queue->id;
    queue_of(queue)->journal_id = 0; /* the one before has ended, and tells the journal no more */
    for (uint64_t id = 1; id <= 2; id++) {
        const struct restored_message message = {
            .id = id,
            .published_wall_ms = shard->wall_ms - 60,
            .expires_wall_ms = id == 2 ? shard->wall_ms + 10 : 0,
        };
        ck_assert_int_eq(queue_restore(restored, &message), 0);
        ck_assert_uint_eq(restored->record->ready, restored->ready); /* for who looks already */
    }
    return restored;
}

/* Both count from the publication: a restart changes nothing, whatever holds before and after. */
START_TEST(a_restart_makes_no_difference_to_when_messages_expire)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    send("q", 1);
    send_expiring("", "q", 2, 70);
    pass(60);
    if (_i == 0)
        POLICY("p", {"message-ttl", .number = 100});
    struct queue *restored = restart(queue);
    if (_i == 1)
        POLICY("p", {"message-ttl", .number = 100});
    if (_i == 2)
        POLICY("p", {"message-ttl", .number = 61});
    if (_i == 2)
        clear_policy("p");
    pass(9);
    ck_assert_uint_eq(restored->ready, 2);
    pass(1);
    ck_assert_uint_eq(restored->ready, 1);
    pass(29);
    ck_assert_uint_eq(restored->ready, 1);
    pass(1);
    ck_assert_uint_eq(restored->ready, _i == 2);
}
END_TEST

/* --- expires ---------------------------------------------------------------------------------- */

START_TEST(an_unused_queue_has_its_time_from_when_the_policy_comes)
{
    declare_saying(test_broker->shards[_i], "q", NULL);
    pass(100000);
    POLICY("p", {"expires", .number = 1000});
    pass(999);
    ck_assert_ptr_nonnull(find_queue("q"));
    POLICY("p", {"expires", .number = 500}); /* and when it changes */
    pass(499);
    ck_assert_ptr_nonnull(find_queue("q"));
    POLICY("p", {"expires", .number = 500}, {"max-length", .number = 1}); /* in this it does not */
    pass(1);
    ck_assert_ptr_null(find_queue("q"));
}
END_TEST

START_TEST(a_queue_does_not_expire_when_the_policy_has_gone)
{
    declare_saying(shard, "q", NULL);
    declare_saying(shard, "own", SAY({"x-expires", .number = 5000}));
    POLICY("p", {"expires", .number = 1000});
    pass(999);
    clear_policy("p");
    pass(4999);
    ck_assert_ptr_nonnull(find_queue("own"));
    pass(1);
    ck_assert_ptr_null(find_queue("own"));
    pass(1000000);
    ck_assert_ptr_nonnull(find_queue("q"));
}
END_TEST

/* --- max-length and overflow ------------------------------------------------------------------ */

START_TEST(a_queue_that_is_too_long_loses_its_oldest_messages_at_once)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    struct queue_record *dead = declare_saying(shard, "dead", NULL);
    for (uint64_t uid = 1; uid <= 5; uid++)
        send("q", uid);
    set_policy(&(struct policy_wish){.name = "p",
                                     .pattern = "^q",
                                     .says = SAY({"max-length", .number = 2},
                                                 {"dead-letter-exchange", .text = ""},
                                                 {"dead-letter-routing-key", .text = "dead"})});
    ck_assert_uint_eq(queue->ready, 2);
    const struct seen_delivery *first_dead = get(dead);
    struct amqp_value reason;
    ck_assert_uint_eq(first_dead->uid, 1);
    ck_assert(amqp_table_find(message_headers(first_dead->message), SLICE("x-first-death-reason"),
                              &reason));
    ck_assert(slice_is(reason.bytes, "maxlen"));
    ck_assert_uint_eq(get(queue)->uid, 4);
    clear_policy("p");
    for (uint64_t uid = 6; uid <= 10; uid++)
        send("q", uid);
    ck_assert_uint_eq(queue->ready, 6);
}
END_TEST

START_TEST(a_very_long_queue_is_shortened_turn_by_turn_while_messages_come)
{
    enum { LONG = 20000 };
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    for (uint64_t uid = 1; uid <= LONG; uid++)
        send_expiring("", "q", uid, -1);
    settle_down();
    struct amqp_table_builder definition;
    amqp_table_builder_init(&definition);
    put_said(&definition, SAY({"max-length", .number = 1}));
    const struct policy_declaration declaration = {.name = SLICE("p"),
                                                   .pattern = SLICE("q"),
                                                   .definition =
                                                       amqp_table_builder_finish(&definition)};
    struct policy_change change;
    char error[POLICY_ERROR_MAX];
    ck_assert_int_eq(policy_set(test_broker->catalogue, test_vhost, &declaration, &change, error),
                     0);
    amqp_table_builder_free(&definition);
    policy_tell(shard, &change);
    ck_assert_uint_ge(queue->ready, LONG - QUEUE_PUSH_OUT_AT_ONCE);
    /* Each message that comes pushes out more than itself, so there is an end to it. */
    uint64_t before = queue->ready;
    for (uint64_t uid = LONG + 1; uid <= LONG + 100; uid++)
        send_expiring("", "q", uid, -1);
    ck_assert_uint_eq(queue_of(queue)->ready, before - 100);
    unsigned turns = 0;
    while (shard_run(shard)) {
        ck_assert_uint_ge(queue->ready + QUEUE_RUN_BUDGET, before - 100);
        before = queue->ready + 100;
        turns++;
    }
    ck_assert_uint_ge(turns, (LONG - 300) / QUEUE_RUN_BUDGET);
    ck_assert_uint_eq(queue->ready, 1);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 1);
    ck_assert_uint_eq(get(queue)->uid, LONG + 100);
}
END_TEST

START_TEST(a_queue_that_refuses_loses_nothing_by_a_limit_that_comes)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    for (uint64_t uid = 1; uid <= 3; uid++)
        send("q", uid);
    POLICY("p", {"max-length", .number = 2}, {"overflow", .text = "reject-publish"});
    ck_assert_uint_eq(queue->ready, 3);
    send("q", 4);
    ck_assert_uint_eq(queue->ready, 3);
    ck_assert_uint_eq(client.refused, 1);
    clear_policy("p");
    send("q", 5);
    ck_assert_uint_eq(queue->ready, 4);
    ck_assert_uint_eq(client.refused, 1);
    ck_assert_uint_eq(client.accepted, 0); /* and nobody waits for an answer any more */
}
END_TEST

static const char *const overflows_that_refuse[] = {"reject-publish", "reject-publish-dlx"};

/* Its publisher does not wait for an answer of the queue, and has perhaps been told already that
 * the message is safe. */
START_TEST(a_message_that_was_routed_before_the_queue_refused_any_is_not_refused)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    struct route_request request = {.exchange = SLICE(""), .routing_key = SLICE("q")};
    struct route route;
    route_init(&route);
    ck_assert_int_eq(
        catalogue_route(test_broker->catalogue, test_vhost, &request, shard->now_ms, &route), 0);
    ck_assert_uint_eq(route.may_reject_count, 0);
    POLICY("p", {"max-length", .number = 0}, {"overflow", .text = overflows_that_refuse[_i]});
    struct message_wish wish = {.uid = 1,
                                .exchange = "",
                                .routing_key = "q",
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = -1};
    ck_assert_int_eq(
        shard_publish(shard, &route, make_message(&wish), client.ref, 1, PUBLISHED_BY_CLIENT), 0);
    settle_down();
    route_fini(&route);
    ck_assert_uint_eq(queue->ready, 1);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 1);
    ck_assert_uint_eq(client.accepted + client.refused, 0);
    send("q", 2);
    ck_assert_uint_eq(client.refused, 1);
}
END_TEST

/* --- delivery-limit, dead letters, consumer-timeout ------------------------------------------- */

START_TEST(a_delivery_limit_holds_from_the_next_return_on)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    send("q", 1);
    for (int i = 0; i < 5; i++)
        client_settle(&client, get(queue), SETTLE_REQUEUED);
    POLICY("p", {"delivery-limit", .number = 3});
    ck_assert_uint_eq(queue->ready, 1);
    const struct seen_delivery *delivery = get(queue);
    ck_assert_uint_eq(delivery->delivery_count, 5);
    client_settle(&client, delivery, SETTLE_REQUEUED);
    ck_assert_uint_eq(queue->ready, 0);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
}
END_TEST

/* The argument, else the policy, else what the exchange says through which it came. */
START_TEST(a_dead_letter_goes_where_the_nearest_says)
{
    static const char *const expected[] = {"by-exchange", "by-policy", "by-argument"};
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    put_said(&arguments, SAY({"x-dead-letter-exchange", .text = ""},
                             {"x-dead-letter-routing-key", .text = "by-exchange"}));
    declare_exchange("e", "fanout", amqp_table_builder_finish(&arguments));
    amqp_table_builder_free(&arguments);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        declare_saying(shard, expected[i], NULL);
    struct queue_record *queue =
        declare_saying(test_broker->shards[1], "q",
                       _i == 2 ? SAY({"x-dead-letter-exchange", .text = ""},
                                     {"x-dead-letter-routing-key", .text = "by-argument"})
                               : NULL);
    bind_queue("e", "q", "", (struct slice){"", 0});
    if (_i > 0)
        set_policy(
            &(struct policy_wish){.name = "p",
                                  .pattern = "^q$",
                                  .says = SAY({"dead-letter-exchange", .text = ""},
                                              {"dead-letter-routing-key", .text = "by-policy"})});
    send_expiring("e", "", 7, -1);
    settle_down();
    client_settle(&client, get(queue), SETTLE_REJECTED);
    ck_assert_uint_eq(get(find_queue(expected[_i]))->uid, 7);
}
END_TEST

START_TEST(a_dead_letter_route_outlives_the_policy_for_those_on_their_way)
{
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    struct queue_record *dead = declare_saying(shard, "dead", NULL);
    set_policy(&(struct policy_wish){.name = "p",
                                     .pattern = "^q$",
                                     .says = SAY({"dead-letter-exchange", .text = ""},
                                                 {"dead-letter-routing-key", .text = "dead"})});
    send("q", 7);
    const struct seen_delivery *delivery = get(queue);
    send_settle(shard, queue->queue, delivery->subscription, delivery->tag, 1, SETTLE_REJECTED);
    clear_policy("p");
    ck_assert_uint_eq(get(dead)->uid, 7);
}
END_TEST

START_TEST(a_consumer_timeout_can_be_looked_up_with_the_queue)
{
    struct queue_record *queue =
        declare_saying(shard, "q", SAY({"x-consumer-timeout", .number = 5000}));
    POLICY("p", {"consumer-timeout", .number = 3000});
    ck_assert_int_eq(queue->consumer_timeout_ms, 3000);
    POLICY("p", {"consumer-timeout", .number = 7000});
    ck_assert_int_eq(queue->consumer_timeout_ms, 5000);
}
END_TEST

START_TEST(a_queue_that_is_deleted_meanwhile_does_not_mind)
{
    struct queue_record *queue = declare_saying(test_broker->shards[1], "q", NULL);
    send_plain(shard, MAIL_DELETE, queue->queue, REF_NONE, 0);
    POLICY("p", {"max-length", .number = 1}, {"dead-letter-exchange", .text = "x"});
    ck_assert_ptr_null(find_queue("q"));
    declare_saying(shard, "r", NULL);
    queue_delete(queue_of(find_queue("r")));
    clear_policy("p");
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, a_message_ttl_that_comes_counts_from_when_each_message_was_published,
                        0, 2);
    tcase_add_test(tests, what_is_too_old_for_it_goes_at_once_to_where_the_expired_go);
    tcase_add_test(tests, a_message_ttl_that_changes_or_goes_holds_for_what_is_there);
    tcase_add_loop_test(tests, a_messages_own_expiration_stays_exact_through_all_changes, 0, 2);
    tcase_add_test(tests, an_expiration_that_came_after_the_policy_went_is_exact_too);
    tcase_add_test(tests, an_expiration_is_exact_also_when_it_was_noted_anew);
    tcase_add_loop_test(tests, a_message_that_comes_back_expires_as_it_should_now, 0, 2);
    tcase_add_loop_test(tests, a_message_that_came_back_is_given_the_time_of_a_policy_that_goes, 0,
                        2);
    tcase_add_test(tests, messages_that_are_in_the_journal_only_expire_too);
    tcase_add_loop_test(tests, what_is_dropped_is_not_read, 0, 3);
    tcase_add_test(tests, what_was_read_for_its_time_is_not_read_for_it_again);
    tcase_add_loop_test(tests, no_more_are_read_to_find_one_that_lives_than_a_turn_may_take, 0, 2);
    tcase_add_loop_test(tests, queues_take_turns_in_reading_what_leaves_them, 0, 2);
    tcase_add_loop_test(tests, many_that_expire_do_not_keep_what_has_more_priority, 0, 2);
    tcase_add_loop_test(tests, dead_letters_that_wait_for_the_journal_keep_nobody_from_what_lives,
                        0, 2);
    tcase_add_loop_test(tests, what_was_read_for_its_time_only_does_not_stay_in_memory, 0, 2);
    tcase_add_loop_test(tests, no_more_dead_letters_are_read_in_a_turn_than_it_may_take, 0,
                        ARRAY_SIZE(ways_to_die));
    tcase_add_loop_test(tests, a_restart_makes_no_difference_to_when_messages_expire, 0, 3);
    tcase_add_loop_test(tests, an_unused_queue_has_its_time_from_when_the_policy_comes, 0, 2);
    tcase_add_test(tests, a_queue_does_not_expire_when_the_policy_has_gone);
    tcase_add_loop_test(tests, a_queue_that_is_too_long_loses_its_oldest_messages_at_once, 0, 2);
    tcase_add_test(tests, a_very_long_queue_is_shortened_turn_by_turn_while_messages_come);
    tcase_add_loop_test(tests, a_queue_that_refuses_loses_nothing_by_a_limit_that_comes, 0, 2);
    tcase_add_loop_test(
        tests, a_message_that_was_routed_before_the_queue_refused_any_is_not_refused, 0, 2);
    tcase_add_loop_test(tests, a_delivery_limit_holds_from_the_next_return_on, 0, 2);
    tcase_add_loop_test(tests, a_dead_letter_goes_where_the_nearest_says, 0, 3);
    tcase_add_test(tests, a_dead_letter_route_outlives_the_policy_for_those_on_their_way);
    tcase_add_test(tests, a_consumer_timeout_can_be_looked_up_with_the_queue);
    tcase_add_test(tests, a_queue_that_is_deleted_meanwhile_does_not_mind);
}

int
main(void)
{
    return run_suite("effects of policies", add);
}
