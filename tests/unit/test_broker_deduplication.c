/* Deduplication at an exchange: what it has seen, for how long, and how much of it. */
#include "broker/deduplication.h"

#include "test_broker_support.h"

static struct deduplication *
remember(int64_t size, int64_t ttl_ms)
{
    struct amqp_table_builder arguments;
    struct amqp_error error;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_int64(&arguments, SLICE("x-cache-size"), size);
    if (ttl_ms >= 0)
        amqp_table_builder_put_int64(&arguments, SLICE("x-cache-ttl"), ttl_ms);
    struct deduplication *made = deduplication_new(amqp_table_builder_finish(&arguments), &error);
    amqp_table_builder_free(&arguments);
    if (made == NULL)
        ck_assert_uint_eq(error.code, AMQP_REPLY_PRECONDITION_FAILED);
    return made;
}

/* Whether a message with that identifier (NULL: none) and time to be remembered was seen before. */
static bool
sees_with(struct deduplication *deduplication, const char *identifier, int64_t ttl_ms,
          int64_t now_ms)
{
    struct amqp_table_builder headers;
    amqp_table_builder_init(&headers);
    if (ttl_ms >= 0)
        amqp_table_builder_put_int64(&headers, SLICE("x-cache-ttl"), ttl_ms);
    if (identifier != NULL)
        amqp_table_builder_put_string(&headers, SLICE("x-deduplication-header"),
                                      slice_from(identifier));
    struct amqp_properties properties = {.flags = AMQP_HAS_HEADERS,
                                         .headers = amqp_table_builder_finish(&headers)};
    bool has_seen = deduplication_has_seen(deduplication, &properties, now_ms);
    amqp_table_builder_free(&headers);
    return has_seen;
}

static bool
sees(struct deduplication *deduplication, const char *identifier, int64_t now_ms)
{
    return sees_with(deduplication, identifier, -1, now_ms);
}

START_TEST(the_second_with_an_identifier_is_a_duplicate)
{
    struct deduplication *d = remember(10, -1);
    ck_assert(!sees(d, "a", 0));
    ck_assert(!sees(d, "b", 0));
    ck_assert(sees(d, "a", 0));
    ck_assert(sees(d, "b", INT64_MAX - 1)); /* no time to live: for ever */
    deduplication_free(d);
}
END_TEST

START_TEST(a_message_without_identifier_is_none)
{
    struct deduplication *d = remember(10, -1);
    ck_assert(!sees(d, NULL, 0));
    ck_assert(!sees(d, NULL, 0));
    deduplication_free(d);
}
END_TEST

START_TEST(the_oldest_is_forgotten_for_a_new_one)
{
    struct deduplication *d = remember(2, -1);
    ck_assert(!sees(d, "a", 0));
    ck_assert(!sees(d, "b", 0));
    ck_assert(!sees(d, "c", 0));
    ck_assert(sees(d, "b", 0));
    ck_assert(sees(d, "c", 0));
    ck_assert(!sees(d, "a", 0));
    deduplication_free(d);
}
END_TEST

START_TEST(an_identifier_is_forgotten_after_its_time)
{
    struct deduplication *d = remember(10, 100);
    ck_assert(!sees(d, "a", 1000));
    ck_assert(sees(d, "a", 1099));
    ck_assert(!sees(d, "a", 1100));
    ck_assert(sees(d, "a", 1199)); /* and its time begins anew */
    deduplication_free(d);
}
END_TEST

START_TEST(a_message_may_say_how_long_it_is_remembered)
{
    struct deduplication *d = remember(10, 100);
    ck_assert(!sees_with(d, "a", 500, 0));
    ck_assert(sees(d, "a", 499));
    ck_assert(!sees(d, "a", 500));
    deduplication_free(d);
}
END_TEST

START_TEST(the_cache_needs_a_size_and_no_impossible_time)
{
    ck_assert_ptr_null(remember(0, -1));
    ck_assert_ptr_null(remember(-5, -1));
    ck_assert_ptr_null(remember(10000001, -1));
    ck_assert_ptr_null(remember(10, 0));
    struct amqp_error error;
    ck_assert_ptr_null(deduplication_new((struct slice){"", 0}, &error));
}
END_TEST

static bool
publish_twice(struct queue_record *queue, struct test_client *client)
{
    uint32_t answers;
    struct message_wish wish = {.uid = 1,
                                .exchange = "",
                                .routing_key = "q",
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = -1,
                                .identifier = 77};
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(publish(client->shard, make_message(&wish), client->ref, 1, &answers), 1);
    settle_down();
    return queue->ready == 1;
}

START_TEST(a_queue_holds_one_of_an_identifier_until_it_is_acknowledged)
{
    struct test_client client;
    broker_up(1, client_receive);
    client_init(&client, test_broker->shards[0]);
    struct queue_wish wish = {.name = "q", .has_arguments = true};
    amqp_table_builder_init(&wish.arguments);
    amqp_table_builder_put_bool(&wish.arguments, SLICE("x-message-deduplication"), true);
    struct queue_record *queue = declare_queue(client.shard, &wish);
    ck_assert(publish_twice(queue, &client));
    send_plain(client.shard, MAIL_GET, queue->queue, client.ref, 0);
    ck_assert(!publish_twice(queue, &client)); /* it is unacknowledged, and still there */
    ck_assert_uint_eq(queue->ready, 0);
    client_settle(&client, &client.seen[0], SETTLE_ACKNOWLEDGED);
    ck_assert(publish_twice(queue, &client));
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 1);
    client_fini(&client);
    broker_down();
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, the_second_with_an_identifier_is_a_duplicate);
    tcase_add_test(tests, a_message_without_identifier_is_none);
    tcase_add_test(tests, the_oldest_is_forgotten_for_a_new_one);
    tcase_add_test(tests, an_identifier_is_forgotten_after_its_time);
    tcase_add_test(tests, a_message_may_say_how_long_it_is_remembered);
    tcase_add_test(tests, the_cache_needs_a_size_and_no_impossible_time);
    tcase_add_test(tests, a_queue_holds_one_of_an_identifier_until_it_is_acknowledged);
}

int
main(void)
{
    return run_suite("broker/deduplication", add);
}
