/* Where messages go: what the model of routing (test_broker_model_route.c) does not ask. */
#include <stdio.h>

#include "broker/exchange.h"
#include "test_broker_support.h"

static struct route route;

static void
set_up(void)
{
    broker_up(2, client_receive);
    route_init(&route);
}

static void
tear_down(void)
{
    route_fini(&route);
    broker_down();
}

static struct queue_record *
declare(const char *name, uint32_t shard)
{
    return declare_queue(test_broker->shards[shard], &(struct queue_wish){.name = name});
}

static void
ask(const struct route_request *request)
{
    ck_assert_int_eq(
        catalogue_route(test_broker->catalogue, test_vhost, request, clock_now(), &route), 0);
}

static void
ask_for(const char *exchange, const char *key)
{
    ask(&(struct route_request){.exchange = slice_from(exchange), .routing_key = slice_from(key)});
}

/* With one number among the message's headers. */
static void
ask_with(const char *exchange, const char *key, const char *header, int64_t value)
{
    struct amqp_table_builder headers;
    amqp_table_builder_init(&headers);
    amqp_table_builder_put_int64(&headers, slice_from(header), value);
    struct amqp_properties properties = {.flags = AMQP_HAS_HEADERS,
                                         .headers = amqp_table_builder_finish(&headers)};
    ask(&(struct route_request){.exchange = slice_from(exchange),
                                .routing_key = slice_from(key),
                                .properties = &properties});
    amqp_table_builder_free(&headers);
}

static struct slice
one_argument(struct amqp_table_builder *builder, const char *name, const char *value)
{
    amqp_table_builder_init(builder);
    amqp_table_builder_put_string(builder, slice_from(name), slice_from(value));
    return amqp_table_builder_finish(builder);
}

#define NO_ARGUMENTS ((struct slice){"", 0})

START_TEST(the_default_exchange_knows_queues_by_name)
{
    struct queue_record *queue = declare("q", 0);
    ask_for("", "q");
    ck_assert_uint_eq(route.count, 1);
    ck_assert(ref_equal(route.targets[0].queue, queue->queue));
    ck_assert_uint_eq(route.targets[0].queue_id, queue->id);
    ask_for("", "other");
    ck_assert_uint_eq(route.count, 0);
    ck_assert_int_eq(route.status, ROUTE_OK);
}
END_TEST

START_TEST(further_keys_reach_further_queues_each_once)
{
    declare("a", 0);
    declare("b", 0);
    struct slice more[] = {SLICE("b"), SLICE("a"), SLICE("b"), SLICE("nobody")};
    ask(&(struct route_request){
        .exchange = SLICE(""), .routing_key = SLICE("a"), .more_keys = more, .more_key_count = 4});
    ck_assert_uint_eq(route.count, 2);
}
END_TEST

START_TEST(targets_come_shard_by_shard)
{
    declare_exchange("e", "fanout", NO_ARGUMENTS);
    for (int i = 0; i < 10; i++) {
        char name[8];
        snprintf(name, sizeof(name), "q%d", i);
        declare(name, (uint32_t)i % 2);
        bind_queue("e", name, "", NO_ARGUMENTS);
    }
    ask_for("e", "");
    ck_assert_uint_eq(route.count, 10);
    for (uint32_t i = 1; i < 10; i++)
        ck_assert_uint_ge(route.targets[i].queue.shard, route.targets[i - 1].queue.shard);
}
END_TEST

START_TEST(an_exchange_that_is_not_there_is_told_from_one_without_queues)
{
    declare_exchange("e", "fanout", NO_ARGUMENTS);
    ask_for("e", "");
    ck_assert_int_eq(route.status, ROUTE_OK);
    ask_for("nowhere", "");
    ck_assert_int_eq(route.status, ROUTE_NO_EXCHANGE);
}
END_TEST

START_TEST(an_internal_exchange_takes_messages_of_the_broker_and_of_exchanges_only)
{
    struct exchange_declaration declaration = {
        .name = SLICE("i"), .type = SLICE("fanout"), .internal = true, .arguments = NO_ARGUMENTS};
    struct amqp_error error;
    bool created;
    catalogue_lock(test_broker->catalogue);
    ck_assert_int_eq(
        exchange_declare(test_broker->catalogue, test_vhost, &declaration, &created, &error), 0);
    catalogue_unlock(test_broker->catalogue);
    declare("q", 0);
    declare_exchange("e", "fanout", NO_ARGUMENTS);
    bind_queue("i", "q", "", NO_ARGUMENTS);
    bind_exchange("e", "i", "", NO_ARGUMENTS);
    ask_for("i", "");
    ck_assert_int_eq(route.status, ROUTE_INTERNAL_EXCHANGE);
    ask(&(struct route_request){
        .exchange = SLICE("i"), .routing_key = SLICE(""), .is_internal = true});
    ck_assert_uint_eq(route.count, 1);
    ask_for("e", "");
    ck_assert_uint_eq(route.count, 1);
}
END_TEST

START_TEST(only_targets_that_may_refuse_are_asked)
{
    struct queue_wish wish = {.name = "full", .has_arguments = true};
    amqp_table_builder_init(&wish.arguments);
    amqp_table_builder_put_int64(&wish.arguments, SLICE("x-max-length"), 1);
    amqp_table_builder_put_string(&wish.arguments, SLICE("x-overflow"), SLICE("reject-publish"));
    declare_queue(test_broker->shards[0], &wish);
    declare("q", 0);
    declare_exchange("e", "fanout", NO_ARGUMENTS);
    bind_queue("e", "full", "", NO_ARGUMENTS);
    bind_queue("e", "q", "", NO_ARGUMENTS);
    ask_for("e", "");
    ck_assert_uint_eq(route.count, 2);
    ck_assert_uint_eq(route.may_reject_count, 1);
}
END_TEST

START_TEST(what_an_exchange_has_seen_goes_nowhere_and_not_to_the_alternate_one)
{
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_int64(&arguments, SLICE("x-cache-size"), 10);
    amqp_table_builder_put_string(&arguments, SLICE("alternate-exchange"), SLICE("other"));
    declare_exchange("other", "fanout", NO_ARGUMENTS);
    declare_exchange("e", "x-message-deduplication", amqp_table_builder_finish(&arguments));
    amqp_table_builder_free(&arguments);
    declare("q", 0);
    declare("o", 0);
    bind_queue("e", "q", "", NO_ARGUMENTS);
    bind_queue("other", "o", "", NO_ARGUMENTS);
    ask_with("e", "", "x-deduplication-header", 5);
    ck_assert_uint_eq(route.count, 1);
    ck_assert(route.depends_on_message && !route.is_duplicate);
    ask_with("e", "", "x-deduplication-header", 5);
    ck_assert_uint_eq(route.count, 0);
    ck_assert(route.is_duplicate);
}
END_TEST

START_TEST(a_delayed_message_goes_to_the_store_and_others_to_the_queues)
{
    struct amqp_table_builder arguments;
    struct slice table = one_argument(&arguments, "x-delayed-type", "direct");
    declare_exchange("d", "x-delayed-message", table);
    amqp_table_builder_free(&arguments);
    struct queue_record *queue = declare("q", 0);
    bind_queue("d", "q", "k", NO_ARGUMENTS);
    catalogue_lock(test_broker->catalogue);
    struct exchange *exchange = exchange_find(test_broker->catalogue, test_vhost, SLICE("d"));
    ck_assert(exchange_needs_delay_store(exchange));
    ck_assert_int_eq(queue_new_delay_store(test_broker->shards[0], test_vhost, exchange, 0), 0);
    struct ref store = exchange_delay_store(exchange)->queue;
    catalogue_unlock(test_broker->catalogue);
    ask_with("d", "k", "x-delay", 500);
    ck_assert_uint_eq(route.count, 1);
    ck_assert(ref_equal(route.targets[0].queue, store));
    ck_assert_uint_eq(route.targets[0].delay_ms, 500);
    static const int64_t none[] = {0, -500};
    for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
        ask_with("d", "k", "x-delay", none[i]);
        ck_assert_uint_eq(route.count, 1);
        ck_assert(ref_equal(route.targets[0].queue, queue->queue));
        ck_assert_uint_eq(route.targets[0].delay_ms, 0);
    }
}
END_TEST

START_TEST(a_route_is_of_the_generation_that_every_change_ends)
{
    declare_exchange("e", "direct", NO_ARGUMENTS);
    declare("q", 0);
    ask_for("e", "k");
    ck_assert_uint_eq(route.generation, catalogue_generation(test_broker->catalogue));
    ck_assert(!route.depends_on_message);
    bind_queue("e", "q", "k", NO_ARGUMENTS);
    ck_assert_uint_lt(route.generation, catalogue_generation(test_broker->catalogue));
    ask_for("e", "k");
    queue_delete(queue_of(find_queue("q")));
    ck_assert_uint_lt(route.generation, catalogue_generation(test_broker->catalogue));
    settle_down();
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, the_default_exchange_knows_queues_by_name);
    tcase_add_test(tests, further_keys_reach_further_queues_each_once);
    tcase_add_test(tests, targets_come_shard_by_shard);
    tcase_add_test(tests, an_exchange_that_is_not_there_is_told_from_one_without_queues);
    tcase_add_test(tests, an_internal_exchange_takes_messages_of_the_broker_and_of_exchanges_only);
    tcase_add_test(tests, only_targets_that_may_refuse_are_asked);
    tcase_add_test(tests, what_an_exchange_has_seen_goes_nowhere_and_not_to_the_alternate_one);
    tcase_add_test(tests, a_delayed_message_goes_to_the_store_and_others_to_the_queues);
    tcase_add_test(tests, a_route_is_of_the_generation_that_every_change_ends);
}

int
main(void)
{
    return run_suite("broker/route", add);
}
