/* Purging, deleting and expiring long queues: done at once for whoever looks, and in pieces for the
 * turn. */
#include <check.h>
#include <string.h>

#include "base/memory.h"
#include "broker/queue.h"

enum {
    MESSAGES = 20000,
    /* More than a turn may drop, and far less than all. */
    TURN_MAX = 8192,
};

static struct broker *broker;
static struct shard *shard;
static struct queue *queue;
static struct ref client;
static struct mail reply;                /* the last */
static uint64_t delivered[MESSAGES + 1]; /* tags, in order */
static uint32_t delivered_count;
static uint64_t memory_before;

static void
receive(void *context, const struct mail *mail)
{
    (void)context;
    if (mail->type == MAIL_REPLY)
        reply = *mail;
    else if (mail->type == MAIL_DELIVER)
        delivered[delivered_count++] = mail->deliver.tag;
}

static void
set_up(void)
{
    static int object;
    memory_before = memory_held();
    broker = broker_new(1);
    ck_assert_ptr_nonnull(broker);
    shard = broker->shards[0];
    shard_set_host(shard, (struct client_ops){.receive = receive}, NULL, NULL);
    ck_assert_int_eq(catalogue_vhost_add(broker->catalogue, SLICE("/")), 0);
    struct vhost *vhost = catalogue_vhost_find(broker->catalogue, SLICE("/"));
    struct queue_declaration declaration = {.name = SLICE("q"), .arguments = {"", 0}};
    struct queue_options options;
    struct amqp_error error;
    ck_assert_int_eq(queue_options_parse(&options, &declaration, SLICE("/"), &error), 0);
    struct queue_record *record =
        queue_record_new(broker->catalogue, vhost, &declaration, &options, 0);
    ck_assert_ptr_nonnull(record);
    queue = queue_new(shard, record);
    ck_assert_ptr_nonnull(queue);
    ck_assert_int_eq(queue_record_insert(broker->catalogue, record), 0);
    vhost_unref(vhost);
    client = ref_table_add(&shard->clients, &object);
    delivered_count = 0;
}

static void
tear_down(void)
{
    broker_free(broker);
    ck_assert_uint_eq(memory_held(), memory_before);
}

static void
publish_expiring(uint32_t count, int64_t expiration_ms)
{
    struct amqp_properties none = {0};
    struct message_parts parts = {
        .exchange = SLICE(""),
        .routing_key = SLICE("q"),
        .properties = {"\0\0", 2},
        .decoded = &none,
        .expiration_ms = expiration_ms,
        .body_size = 10,
    };
    for (uint32_t i = 0; i < count; i++) {
        struct message *message = message_new(&parts);
        ck_assert_ptr_nonnull(message);
        memset(message_body_data(message), 'm', 10);
        ck_assert_int_eq(queue_publish(queue, message, &(struct queue_arrival){0}), 0);
    }
}

static void
publish(uint32_t count)
{
    publish_expiring(count, MESSAGE_NO_EXPIRATION);
}

static void
ask(uint8_t type)
{
    struct mail mail = {.type = type, .to = queue->ref, .from = client};
    reply = (struct mail){0};
    shard_send(shard, &mail);
}

/* Runs turns until there is nothing to do; how many messages the greatest of them dropped. */
static uint64_t
run_turns(uint64_t message_memory)
{
    uint64_t most = 0;
    for (bool has_more = true; has_more;) {
        uint64_t before = memory_held();
        has_more = shard_run(shard);
        uint64_t dropped = (before - memory_held()) / message_memory;
        most = dropped > most ? dropped : most;
    }
    return most;
}

START_TEST(a_long_queue_is_purged_at_once_and_dropped_turn_by_turn)
{
    uint64_t empty = memory_held();
    publish(MESSAGES);
    uint64_t each = (memory_held() - empty) / MESSAGES;
    ask(MAIL_PURGE);
    ck_assert_uint_eq(reply.reply.messages, MESSAGES);
    ck_assert_uint_eq(queue->ready, 0);
    ck_assert_uint_gt(memory_held(), empty + each * MESSAGES / 2);
    ck_assert_uint_lt(run_turns(each), TURN_MAX);
    ck_assert_uint_eq(queue->memory, 0);
    ck_assert_uint_eq(queue->ready_bytes, 0);
    ck_assert_uint_eq(shard->queued_bytes, 0);
    ck_assert_uint_lt(memory_held(), empty + (uint64_t)LANE_CHUNK_ENTRIES * 100);
}
END_TEST

START_TEST(a_long_queue_is_deleted_at_once_and_dropped_turn_by_turn)
{
    uint64_t empty = memory_held();
    publish(MESSAGES);
    uint64_t each = (memory_held() - empty) / MESSAGES;
    ask(MAIL_DELETE);
    ck_assert_uint_eq(reply.reply.messages, MESSAGES);
    ck_assert_uint_lt(run_turns(each), TURN_MAX);
    ck_assert_uint_eq(memory_held(), memory_before);
}
END_TEST

START_TEST(messages_published_after_a_purge_stay)
{
    publish(MESSAGES);
    ask(MAIL_PURGE);
    publish(3);
    run_turns(1000);
    ask(MAIL_COUNT);
    ck_assert_uint_eq(reply.reply.messages, 3);
    ask(MAIL_PURGE);
    ck_assert_uint_eq(reply.reply.messages, 3);
}
END_TEST

static void
get(void)
{
    struct mail mail = {.type = MAIL_GET, .to = queue->ref, .from = client};
    shard_send(shard, &mail);
}

static void
requeue(uint64_t tag)
{
    struct mail mail = {.type = MAIL_SETTLE,
                        .result = SETTLE_REQUEUED,
                        .to = queue->ref,
                        .settle = {.tag = tag, .count = 1}};
    shard_send(shard, &mail);
}

START_TEST(messages_that_are_out_survive_a_purge_and_come_back_to_their_places)
{
    publish(MESSAGES);
    for (int i = 0; i < 200; i++)
        get();
    requeue(delivered[5]); /* ready again, so it is purged */
    ask(MAIL_PURGE);
    ck_assert_uint_eq(reply.reply.messages, MESSAGES - 199);
    ck_assert_uint_eq(queue->unacknowledged, 199);
    publish(1);
    requeue(delivered[150]);
    requeue(delivered[20]);
    run_turns(1000);
    delivered_count = 0;
    uint64_t first = delivered[20], second = delivered[150];
    for (int i = 0; i < 3; i++)
        get();
    ck_assert_uint_eq(delivered_count, 3);
    ck_assert_uint_eq(delivered[0], first);
    ck_assert_uint_eq(delivered[1], second);
    ck_assert_uint_gt(delivered[2], MESSAGES - 1);
}
END_TEST

START_TEST(a_queue_may_be_deleted_while_its_purge_is_under_way)
{
    publish(MESSAGES);
    ask(MAIL_PURGE);
    publish(MESSAGES);
    ask(MAIL_DELETE);
    ck_assert_uint_eq(reply.reply.messages, MESSAGES);
    run_turns(1000);
    ck_assert_uint_eq(memory_held(), memory_before);
}
END_TEST

/* Lets the time go on, a millisecond a turn, until the queue is empty; how many messages left it in
 * the greatest turn. */
static uint64_t
expire_all(int64_t now_ms)
{
    uint64_t most = 0;
    for (; queue->ready > 0; now_ms++) {
        uint64_t before = queue->ready;
        shard_set_time(shard, now_ms, now_ms);
        (void)shard_run(shard);
        most = before - queue->ready > most ? before - queue->ready : most;
    }
    return most;
}

START_TEST(messages_that_expire_at_once_leave_turn_by_turn)
{
    publish_expiring(MESSAGES, 10);
    ck_assert_uint_lt(expire_all(1000), TURN_MAX);
}
END_TEST

START_TEST(messages_that_expire_at_once_out_of_order_leave_turn_by_turn)
{
    for (int i = 0; i < MESSAGES; i++)
        publish_expiring(1, 10 + (MESSAGES - i) % 100);
    ck_assert_uint_lt(expire_all(1000), TURN_MAX);
    for (int i = 0; i < MESSAGES / 1000 && queue->expiry_count > 0; i++) { /* of those that left */
        shard_set_time(shard, shard->now_ms + 1, shard->now_ms + 1);
        (void)shard_run(shard);
    }
    ck_assert_uint_eq(queue->expiry_count, 0);
}
END_TEST

START_TEST(basic_get_finds_no_message_whose_time_is_over_however_many_there_are)
{
    publish_expiring(MESSAGES, 10);
    publish(1);
    shard_set_time(shard, 1000, 1000);
    for (int i = 0; i < MESSAGES && delivered_count == 0; i++)
        get();
    ck_assert_uint_eq(delivered_count, 1);
    ck_assert_uint_eq(delivered[0], MESSAGES);
}
END_TEST

START_TEST(the_broker_may_end_while_a_purge_is_under_way)
{
    publish(MESSAGES);
    ask(MAIL_PURGE);
    (void)shard_run(shard);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("broker/purge");
    TCase *tests = tcase_create("purge");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_long_queue_is_purged_at_once_and_dropped_turn_by_turn);
    tcase_add_test(tests, a_long_queue_is_deleted_at_once_and_dropped_turn_by_turn);
    tcase_add_test(tests, messages_published_after_a_purge_stay);
    tcase_add_test(tests, messages_that_are_out_survive_a_purge_and_come_back_to_their_places);
    tcase_add_test(tests, a_queue_may_be_deleted_while_its_purge_is_under_way);
    tcase_add_test(tests, messages_that_expire_at_once_leave_turn_by_turn);
    tcase_add_test(tests, messages_that_expire_at_once_out_of_order_leave_turn_by_turn);
    tcase_add_test(tests, basic_get_finds_no_message_whose_time_is_over_however_many_there_are);
    tcase_add_test(tests, the_broker_may_end_while_a_purge_is_under_way);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
