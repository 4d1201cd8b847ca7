/* While the journal is short, of room or of time, what leaves a queue for another waits, and
 * nothing else does: nothing is read for it, nothing piles up, and no thread turns in vain. */
#include "broker/queue.h"
#include "test_broker_policy.h"
#include "test_broker_support.h"

enum { COUNT = 1000, SIZE = 10 * 1024, LIVES_MS = 100 };

static struct shard *shard;
static struct test_client client;
static struct queue_record *queue, *dead;

static struct queue_record *
declare(const char *name, const char *argument, int64_t value)
{
    struct queue_wish wish = {.name = name, .has_arguments = true};
    amqp_table_builder_init(&wish.arguments);
    amqp_table_builder_put_string(&wish.arguments, SLICE("x-dead-letter-exchange"), SLICE(""));
    amqp_table_builder_put_string(&wish.arguments, SLICE("x-dead-letter-routing-key"),
                                  SLICE("dead"));
    if (argument != NULL)
        amqp_table_builder_put_int64(&wish.arguments, slice_from(argument), value);
    return declare_queue(shard, &wish);
}

static void
set_up(void)
{
    broker_up(1, client_receive);
    shard = test_broker->shards[0];
    client_init(&client, shard);
    dead = declare_queue(shard, &(struct queue_wish){.name = "dead"});
}

static void
tear_down(void)
{
    client_fini(&client);
    broker_down();
}

static void
send(uint64_t uid, int64_t expiration_ms)
{
    uint32_t answers;
    struct message_wish wish = {.uid = uid,
                                .exchange = "",
                                .routing_key = "q",
                                .body_size = SIZE,
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = expiration_ms};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
}

/* Of its messages the queue has only the places. */
static void
fill(int64_t expiration_ms)
{
    shard->memory_share = shard->memory_most = 0;
    for (uint64_t uid = 1; uid <= COUNT; uid++)
        send(uid, expiration_ms);
    settle_down();
    ck_assert_uint_eq(queue_of(queue)->memory, 0);
}

static size_t
on_their_way(void)
{
    size_t count = 0;
    LIST_FOR_EACH (node, &shard->departures)
        count++;
    return count;
}

/* All of the queue's, which die. In the turns before it was found that they cannot go on, some were
 * read. */
static void
check_that_they_wait(void)
{
    settle_down(); /* it comes to rest */
    ck_assert_uint_eq(dead->ready, 0);
    ck_assert_uint_le(test_journal.reads, 2 * QUEUE_READ_PER_TURN / SIZE);
    ck_assert_uint_eq(on_their_way() + queue_of(queue)->ready, COUNT);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), COUNT);
    size_t reads = test_journal.reads;
    for (int i = 0; i < 10; i++) {
        set_clock(clock_now() + 1);
        settle_down();
    }
    ck_assert_uint_eq(test_journal.reads, reads);
    ck_assert(shard_waits_for_journal(shard));
    ck_assert(!shard_has_work(shard));
    shard->journal_is_short = false;
    settle_down();
    ck_assert_uint_eq(dead->ready, COUNT);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert(!shard_waits_for_journal(shard));
}

START_TEST(what_expires_waits)
{
    queue = declare("q", NULL, 0);
    fill(LIVES_MS);
    shard->journal_is_short = true;
    set_clock(clock_now() + LIVES_MS);
    check_that_they_wait();
}
END_TEST

START_TEST(what_expires_before_a_consumer_waits)
{
    queue = declare("q", NULL, 0);
    fill(LIVES_MS);
    shard->journal_is_short = true;
    set_clock(clock_now() + LIVES_MS + 1);
    client_subscribe(&client, queue, &(struct subscription_request){.no_ack = true});
    check_that_they_wait();
    ck_assert_uint_eq(client.count, 0);
}
END_TEST

/* A queue that waits wakes up for what it can do. */
START_TEST(a_queue_that_waits_delivers_what_comes_with_more_priority)
{
    queue = declare("q", "x-max-priority", 1);
    fill(LIVES_MS);
    shard->journal_is_short = true;
    set_clock(clock_now() + LIVES_MS + 1);
    settle_down();
    client_subscribe(&client, queue, &(struct subscription_request){.no_ack = true});
    ck_assert_uint_eq(client.count, 0);
    uint32_t answers;
    struct message_wish wish = {.uid = 9999,
                                .exchange = "",
                                .routing_key = "q",
                                .persistent = true,
                                .priority = 1,
                                .expiration_ms = -1};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, 1, &answers), 1);
    settle_down();
    ck_assert_uint_eq(client.count, 1);
    ck_assert_uint_eq(client.seen[0].uid, 9999);
}
END_TEST

START_TEST(a_queue_whose_limit_is_lowered_waits)
{
    queue = declare("q", NULL, 0);
    fill(-1);
    shard->journal_is_short = true;
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {
        .name = "p", .pattern = "^q$", .says = SAY({"max-length", .number = 0})};
    ck_assert_int_eq(try_policy_from(shard, &wish, error), 0);
    check_that_they_wait();
}
END_TEST

START_TEST(a_get_behind_what_waits_does_too)
{
    queue = declare("q", NULL, 0);
    fill(LIVES_MS);
    send(9999, -1);
    shard->journal_is_short = true;
    set_clock(clock_now() + LIVES_MS + 1);
    settle_down();
    client.replies = 0;
    send_plain(shard, MAIL_GET, queue->queue, client.ref, 1);
    settle_down(); /* it comes to rest */
    for (int i = 0; i < 100; i++) {
        set_clock(clock_now() + 1);
        settle_down();
    }
    ck_assert_uint_eq(client.replies + client.count, 0);
    ck_assert(shard_waits_for_journal(shard));
    shard->journal_is_short = false;
    settle_down();
    ck_assert_uint_eq(client.replies, 0);
    ck_assert_uint_eq(client.count, 1);
    ck_assert_uint_eq(client.seen[0].uid, 9999);
    ck_assert(!shard_waits_for_journal(shard));
}
END_TEST

/* Publishers wait too then, but not at once, and those that do not persist what they send. */
START_TEST(a_queue_at_its_limit_pushes_no_more_out_than_comes)
{
    enum { MORE = 100 };
    queue = declare("q", "x-max-length", COUNT);
    fill(-1);
    shard->journal_is_short = true;
    shard->is_behind = true;
    for (uint64_t uid = 1; uid <= MORE; uid++)
        send(COUNT + uid, -1);
    settle_down();
    ck_assert_uint_eq(queue_of(queue)->ready, COUNT);
    ck_assert_uint_eq(on_their_way(), MORE);
    shard->journal_is_short = false;
    settle_down();
    ck_assert_uint_eq(dead->ready, MORE);
}
END_TEST

START_TEST(a_broker_may_end_while_they_wait)
{
    queue = declare("q", NULL, 0);
    fill(LIVES_MS);
    shard->journal_is_short = true;
    set_clock(clock_now() + LIVES_MS);
    settle_down();
    if (_i == 1)
        queue_delete(queue_of(queue));
    settle_down();
    ck_assert_uint_gt(on_their_way(), 0);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, what_expires_waits);
    tcase_add_test(tests, what_expires_before_a_consumer_waits);
    tcase_add_test(tests, a_queue_that_waits_delivers_what_comes_with_more_priority);
    tcase_add_test(tests, a_queue_whose_limit_is_lowered_waits);
    tcase_add_test(tests, a_get_behind_what_waits_does_too);
    tcase_add_test(tests, a_queue_at_its_limit_pushes_no_more_out_than_comes);
    tcase_add_loop_test(tests, a_broker_may_end_while_they_wait, 0, 2);
}

int
main(void)
{
    return run_suite("broker/journal_short", add);
}
