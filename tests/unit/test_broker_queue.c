/* What queues promise, each in a scene of its own. What they do with everything at once is the
 * model's business (test_broker_model_queue.c). */
#include <stdio.h>

#include "test_broker_support.h"

static struct shard *shard;
static struct test_client client;

static void
set_up(void)
{
    broker_up(1, client_receive);
    shard = test_broker->shards[0];
    client_init(&client, shard);
}

static void
tear_down(void)
{
    client_fini(&client);
    broker_down();
}

static struct queue_record *
declare(const char *name)
{
    return declare_queue(shard, &(struct queue_wish){.name = name});
}

/* A queue with one or two numbers among its arguments, and perhaps an overflow. */
static struct queue_record *
declare_with(const char *name, const char *argument, int64_t value, const char *overflow)
{
    struct queue_wish wish = {.name = name, .has_arguments = true};
    amqp_table_builder_init(&wish.arguments);
    amqp_table_builder_put_int64(&wish.arguments, slice_from(argument), value);
    if (overflow != NULL)
        amqp_table_builder_put_string(&wish.arguments, SLICE("x-overflow"), slice_from(overflow));
    return declare_queue(shard, &wish);
}

static void
send_to(const char *queue, uint64_t uid, int64_t expiration_ms)
{
    uint32_t answers;
    struct message_wish wish = {.uid = uid,
                                .exchange = "",
                                .routing_key = queue,
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = expiration_ms};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
    settle_down();
}

static void
pass(int64_t ms)
{
    set_clock(clock_now() + ms);
    settle_down();
}

static void
get(const struct queue_record *queue)
{
    client.replies = 0;
    send_plain(shard, MAIL_GET, queue->queue, client.ref, 0);
}

/* The uids of what the client has seen, in order. */
static void
check_seen(const uint64_t *uids, size_t count)
{
    ck_assert_uint_eq(client.count, count);
    for (size_t i = 0; i < count; i++)
        ck_assert_uint_eq(client.seen[i].uid, uids[i]);
}

#define SEEN(...)                                                                                  \
    check_seen((const uint64_t[]){__VA_ARGS__},                                                    \
               sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

START_TEST(a_message_expires_behind_one_that_came_back)
{
    struct queue_record *queue = declare("q");
    send_to("q", 1, -1);
    get(queue); /* nothing is ready now */
    send_to("q", 2, 50);
    client_settle(&client, &client.seen[0], SETTLE_REQUEUED);
    ck_assert_uint_eq(queue->ready, 2);
    pass(50);
    ck_assert_uint_eq(queue->ready, 1);
    get(queue);
    SEEN(1, 1);
}
END_TEST

START_TEST(a_message_expires_behind_one_with_more_time_that_came_back)
{
    struct queue_record *queue = declare("q");
    send_to("q", 1, 1000);
    get(queue);
    send_to("q", 2, 50);
    client_settle(&client, &client.seen[0], SETTLE_REQUEUED);
    pass(50);
    ck_assert_uint_eq(queue->ready, 1);
    pass(950);
    ck_assert_uint_eq(queue->ready, 0);
}
END_TEST

/* However many there are, others do not wait for them: the answer comes in a later turn. */
START_TEST(get_finds_none_of_many_that_have_expired)
{
    enum { MANY = 20 * QUEUE_RUN_BUDGET, IN_A_TURN = 4 * QUEUE_RUN_BUDGET };
    struct queue_record *queue = declare("q");
    for (uint64_t i = 1; i <= MANY; i++)
        send_to("q", i, 50);
    send_to("q", 9999, -1);
    set_clock(clock_now() + 51); /* and the timer has not fired yet */
    uint64_t before = queue_of(queue)->ready;
    get(queue);
    ck_assert_uint_gt(queue_of(queue)->ready, before - IN_A_TURN);
    for (int turns = 0; client.count == 0; turns++) {
        before = queue_of(queue)->ready;
        shard_flush(shard);
        (void)shard_run(shard);
        ck_assert_uint_lt(queue_of(queue)->ready, before);
        ck_assert_uint_ge(queue_of(queue)->ready + IN_A_TURN, before);
    }
    SEEN(9999);
    ck_assert_uint_eq(queue_of(queue)->ready, 0);
}
END_TEST

/* After a crash the queue may be there again. */
START_TEST(what_a_deleted_queue_had_is_settled_when_the_deletion_is_on_disk)
{
    struct queue_record *queue = declare("q"), *other = declare("other");
    uint64_t id = queue->id, other_id = other->id;
    for (uint64_t uid = 1; uid <= 3; uid++) {
        send_to("q", uid, -1);
        send_to("other", uid + 10, -1);
    }
    test_journal.definitions_made = 2;
    test_journal.definitions_written = 1;
    queue_delete(queue_of(queue));
    test_journal.definitions_made = 3;
    queue_delete(queue_of(other));
    settle_down();
    ck_assert_uint_eq(journal_holds(&test_journal, id), 3);
    test_journal.definitions_written = 2;
    settle_down();
    ck_assert_uint_eq(journal_holds(&test_journal, id), 0);
    ck_assert_uint_eq(journal_holds(&test_journal, other_id), 3);
    if (_i == 0)
        return; /* the broker may end before */
    test_journal.definitions_written = 3;
    settle_down();
    ck_assert_uint_eq(journal_holds(&test_journal, other_id), 0);
}
END_TEST

START_TEST(what_comes_to_a_deleted_queue_is_settled_then_too)
{
    struct queue_record *queue = declare("q");
    uint64_t id = queue->id;
    struct message_wish wish = {.uid = 1,
                                .exchange = "",
                                .routing_key = "q",
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = -1};
    struct message *message = make_message(&wish);
    ck_assert_int_eq(test_journal.table.publish(&test_journal, message, &id, 1, 0, 0), 0);
    struct mail mail = {.type = MAIL_PUBLISH,
                        .to = queue->queue,
                        .from = client.ref,
                        .publish = {.message = message, .queue_id = id, .number = 1}};
    test_journal.definitions_made = 1;
    queue_delete(queue_of(queue));
    shard_send(shard, &mail);
    settle_down();
    ck_assert_uint_eq(journal_holds(&test_journal, id), 1);
    test_journal.definitions_written = (uint64_t)_i;
    settle_down();
    ck_assert_uint_eq(journal_holds(&test_journal, id), _i == 0 ? 1 : 0);
}
END_TEST

START_TEST(a_get_that_has_not_been_answered_hears_that_the_queue_goes)
{
    struct queue_record *queue = declare("q");
    for (uint64_t i = 1; i <= 3 * QUEUE_RUN_BUDGET; i++)
        send_to("q", i, 50);
    set_clock(clock_now() + 51);
    get(queue);
    ck_assert_uint_eq(client.replies, 0);
    queue_delete(queue_of(queue));
    settle_down();
    ck_assert_uint_eq(client.replies, 1);
    ck_assert_uint_eq(client.reply.result, QUEUE_GONE);
}
END_TEST

START_TEST(a_queue_that_refuses_messages_drops_none_that_comes_back)
{
    static const char *const overflows[] = {"reject-publish", "reject-publish-dlx"};
    struct queue_record *queue = declare_with("q", "x-max-length", 1, overflows[_i]);
    send_to("q", 1, -1);
    get(queue);
    send_to("q", 2, -1);
    client_settle(&client, &client.seen[0], SETTLE_REQUEUED);
    ck_assert_uint_eq(queue->ready, 2);
    send_to("q", 3, -1);
    ck_assert_uint_eq(client.refused, 1);
    get(queue);
    get(queue);
    SEEN(1, 1, 2);
}
END_TEST

START_TEST(a_queue_that_drops_its_oldest_drops_one_that_comes_back)
{
    struct queue_record *queue = declare_with("q", "x-max-length", 1, NULL);
    send_to("q", 1, -1);
    get(queue);
    send_to("q", 2, -1);
    client_settle(&client, &client.seen[0], SETTLE_REQUEUED);
    ck_assert_uint_eq(queue->ready, 1);
    get(queue);
    SEEN(1, 2);
}
END_TEST

START_TEST(a_consumer_that_acknowledges_keeps_its_turn)
{
    struct queue_record *queue = declare("q");
    for (uint32_t i = 0; i < 2; i++)
        client_subscribe(&client, queue,
                         &(struct subscription_request){.consumer = i, .prefetch = 10});
    send_to("q", 1, -1);
    send_to("q", 2, -1);
    client_settle(&client, &client.seen[0], SETTLE_ACKNOWLEDGED);
    send_to("q", 3, -1);
    SEEN(1, 2, 3);
    ck_assert_uint_eq(client.seen[1].consumer, 1);
    ck_assert_uint_eq(client.seen[2].consumer, 0);
}
END_TEST

START_TEST(a_queue_expires_that_nobody_uses)
{
    declare_with("q", "x-expires", 100, NULL);
    send_to("q", 1, -1);
    pass(99);
    ck_assert_ptr_nonnull(find_queue("q"));
    get(find_queue("q")); /* use: publishing was none */
    pass(99);
    ck_assert_ptr_nonnull(find_queue("q"));
    pass(1);
    ck_assert_ptr_null(find_queue("q"));
}
END_TEST

START_TEST(a_queue_with_a_consumer_does_not_expire)
{
    struct queue_record *queue = declare_with("q", "x-expires", 100, NULL);
    struct ref subscription =
        client_subscribe(&client, queue, &(struct subscription_request){.consumer = 1});
    pass(1000);
    ck_assert_ptr_nonnull(find_queue("q"));
    send_plain(shard, MAIL_UNSUBSCRIBE, subscription, client.ref, 0);
    pass(99);
    ck_assert_ptr_nonnull(find_queue("q"));
    pass(101);
    ck_assert_ptr_null(find_queue("q"));
}
END_TEST

START_TEST(what_many_queues_have_to_deliver_at_once_takes_several_turns)
{
    enum { QUEUES = 20000, TURN_MAX = 10000 };
    uint32_t answers;
    char name[16];
    for (int i = 0; i < QUEUES; i++) {
        snprintf(name, sizeof(name), "q%d", i);
        struct queue_record *queue = declare(name);
        bind_queue("amq.fanout", name, "", (struct slice){"", 0});
        send_subscribe(shard, queue->queue, client.ref,
                       &(struct subscription_request){.no_ack = true});
    }
    settle_down();
    struct message_wish wish = {
        .uid = 1, .exchange = "amq.fanout", .routing_key = "", .priority = -1, .expiration_ms = -1};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, 1, &answers), QUEUES);
    size_t before = 0, turns = 0;
    while (shard_run(shard)) {
        ck_assert_uint_lt(client.count - before, TURN_MAX);
        before = client.count;
        turns++;
    }
    ck_assert_uint_eq(client.count, QUEUES);
    ck_assert_uint_ge(turns, QUEUES / TURN_MAX);
}
END_TEST

/* And all of them have their turn before the first has its second. */
START_TEST(what_expires_in_many_queues_at_once_takes_several_turns)
{
    enum { QUEUES = 32, EACH = 2 * QUEUE_RUN_BUDGET, IN_A_TURN = 10 * QUEUE_RUN_BUDGET };
    const struct queue *queues[QUEUES];
    char name[16];
    for (int i = 0; i < QUEUES; i++) {
        snprintf(name, sizeof(name), "q%d", i);
        queues[i] = queue_of(declare(name));
        for (uint64_t uid = 1; uid <= EACH; uid++)
            send_to(name, uid, 50);
    }
    set_clock(clock_now() + 51);
    uint64_t before = (uint64_t)QUEUES * EACH, left;
    for (int turns = 0; before > 0; turns++, before = left) {
        (void)shard_run(shard);
        set_clock(clock_now() + 1);
        uint64_t most = 0;
        left = 0;
        for (int i = 0; i < QUEUES; i++) {
            left += queues[i]->ready;
            most = queues[i]->ready > most ? queues[i]->ready : most;
        }
        ck_assert_uint_ge(left + IN_A_TURN, before);
        ck_assert(turns < QUEUES / 4 || most < EACH);
        ck_assert_int_lt(turns, 4 * QUEUES);
    }
}
END_TEST

START_TEST(a_delivery_whose_client_has_gone_comes_back)
{
    struct queue_record *queue = declare("q");
    struct test_client other;
    client_init(&other, shard);
    client_subscribe(&other, queue, &(struct subscription_request){.consumer = 1, .prefetch = 1});
    client_fini(&other);
    uint32_t answers;
    struct message_wish wish = {
        .uid = 1, .exchange = "", .routing_key = "q", .priority = -1, .expiration_ms = -1};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, 1, &answers), 1);
    shard_run(shard);
    ck_assert_uint_eq(queue->ready + queue->unacknowledged, 1);
}
END_TEST

static void
give_leave(struct ref subscription, uint32_t messages)
{
    struct mail mail = {.type = MAIL_CREDIT, .to = subscription, .credit = {.messages = messages}};
    shard_send(shard, &mail);
    settle_down();
}

START_TEST(a_metered_consumer_asks_once_and_gets_what_it_has_leave_for)
{
    struct queue_record *queue = declare("q");
    struct ref subscription = client_subscribe(
        &client, queue, &(struct subscription_request){.consumer = 1, .is_metered = true});
    ck_assert_uint_eq(client.wants, 0);
    for (uint64_t i = 1; i <= 5; i++)
        send_to("q", i, -1);
    ck_assert_uint_eq(client.wants, 1);
    ck_assert_uint_eq(client.count, 0);
    give_leave(subscription, 2);
    SEEN(1, 2);
    ck_assert_uint_eq(client.wants, 2); /* there is more */
    ck_assert_uint_eq(client.unused, 0);
}
END_TEST

START_TEST(a_metered_consumer_gives_back_the_leave_that_it_does_not_need)
{
    struct queue_record *queue = declare("q");
    struct ref subscription = client_subscribe(
        &client, queue,
        &(struct subscription_request){.consumer = 1, .is_metered = true, .prefetch = 2});
    for (uint64_t i = 1; i <= 3; i++)
        send_to("q", i, -1);
    give_leave(subscription, 10); /* its own prefetch is less */
    SEEN(1, 2);
    ck_assert_uint_eq(client.unused, 8);
    for (int i = 0; i < 2; i++)
        client_settle(&client, &client.seen[i], SETTLE_ACKNOWLEDGED);
    give_leave(subscription, 10); /* only one message is left */
    SEEN(1, 2, 3);
    ck_assert_uint_eq(client.unused, 8 + 9);
}
END_TEST

START_TEST(a_consumer_gets_no_more_than_its_connection_takes)
{
    struct queue_record *queue = declare("q");
    enum { BODY = SUBSCRIPTION_WINDOW / 4 };
    struct ref subscription =
        client_subscribe(&client, queue, &(struct subscription_request){.consumer = 1});
    for (uint64_t i = 1; i <= 8; i++) {
        uint32_t answers;
        struct message_wish wish = {.uid = i,
                                    .exchange = "",
                                    .routing_key = "q",
                                    .body_size = BODY,
                                    .priority = -1,
                                    .expiration_ms = -1};
        ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, i, &answers), 1);
    }
    settle_down();
    ck_assert_uint_eq(client.count, 4);
    struct mail mail = {.type = MAIL_CREDIT,
                        .to = subscription,
                        .credit = {.bytes = 2 * (BODY + DELIVERY_OVERHEAD)}};
    shard_send(shard, &mail);
    settle_down();
    ck_assert_uint_eq(client.count, 6);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_message_expires_behind_one_that_came_back);
    tcase_add_test(tests, a_message_expires_behind_one_with_more_time_that_came_back);
    tcase_add_test(tests, get_finds_none_of_many_that_have_expired);
    tcase_add_loop_test(tests, what_a_deleted_queue_had_is_settled_when_the_deletion_is_on_disk, 0,
                        2);
    tcase_add_loop_test(tests, what_comes_to_a_deleted_queue_is_settled_then_too, 0, 2);
    tcase_add_test(tests, a_get_that_has_not_been_answered_hears_that_the_queue_goes);
    tcase_add_loop_test(tests, a_queue_that_refuses_messages_drops_none_that_comes_back, 0, 2);
    tcase_add_test(tests, a_queue_that_drops_its_oldest_drops_one_that_comes_back);
    tcase_add_test(tests, a_consumer_that_acknowledges_keeps_its_turn);
    tcase_add_test(tests, a_queue_expires_that_nobody_uses);
    tcase_add_test(tests, a_queue_with_a_consumer_does_not_expire);
    tcase_add_test(tests, a_metered_consumer_asks_once_and_gets_what_it_has_leave_for);
    tcase_add_test(tests, a_metered_consumer_gives_back_the_leave_that_it_does_not_need);
    tcase_add_test(tests, a_consumer_gets_no_more_than_its_connection_takes);
    tcase_add_test(tests, what_many_queues_have_to_deliver_at_once_takes_several_turns);
    tcase_add_test(tests, what_expires_in_many_queues_at_once_takes_several_turns);
    tcase_add_test(tests, a_delivery_whose_client_has_gone_comes_back);
}

int
main(void)
{
    return run_suite("broker/queue", add);
}
