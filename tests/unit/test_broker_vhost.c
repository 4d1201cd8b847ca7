/* Removing a vhost: at once for everybody, one change for who keeps the definitions, and its queues
 * go where they live. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "broker/queue.h"
#include "broker/shard.h"

static struct broker *broker;
static struct catalogue *catalogue;
static int removed_vhosts, other_changes;

static void
on_change(void *context, const struct catalogue_event *event)
{
    (void)context;
    if (event->type == CATALOGUE_VHOST_REMOVED)
        removed_vhosts++;
    else
        other_changes++;
}

static void
no_client(void *client, const struct mail *mail)
{
    (void)client;
    (void)mail;
}

static void
no_wake(void *context)
{
    (void)context;
}

static void
set_up(void)
{
    broker = broker_new(2);
    ck_assert_ptr_nonnull(broker);
    catalogue = broker->catalogue;
    ck_assert_int_eq(catalogue_vhost_add(catalogue, SLICE("/")), 0);
    ck_assert_int_eq(catalogue_vhost_add(catalogue, SLICE("v")), 0);
    for (int i = 0; i < 2; i++)
        shard_set_host(broker->shards[i], (struct client_ops){no_client}, no_wake, NULL);
}

static void
tear_down(void)
{
    broker_free(broker);
}

/* A durable queue on a shard. */
static struct ref
make_queue(struct vhost *vhost, int shard, struct slice name)
{
    const struct queue_declaration declaration = {
        .name = name, .durable = true, .arguments = {"", 0}};
    struct queue_options options;
    struct amqp_error error;
    ck_assert_int_eq(queue_options_parse(&options, &declaration, vhost_name(vhost), &error), 0);
    catalogue_lock(catalogue);
    struct queue_record *record = queue_record_new(catalogue, vhost, &declaration, &options, 0);
    ck_assert_ptr_nonnull(queue_new(broker->shards[shard], record));
    ck_assert_int_eq(queue_record_insert(catalogue, record), 0);
    struct ref queue = record->queue;
    catalogue_unlock(catalogue);
    return queue;
}

static int
declare_exchange(struct vhost *vhost, const char *name, const char *type, struct amqp_error *error)
{
    const struct exchange_declaration declaration = {
        .name = slice_from(name), .type = slice_from(type), .durable = true, .arguments = {"", 0}};
    bool created;
    catalogue_lock(catalogue);
    int status = exchange_declare(catalogue, vhost, &declaration, &created, error);
    catalogue_unlock(catalogue);
    return status;
}

static void
bind(struct vhost *vhost, const char *source, struct slice destination, bool to_exchange)
{
    const struct binding_request request = {
        .source = slice_from(source),
        .destination = destination,
        .destination_is_exchange = to_exchange,
        .routing_key = SLICE("k"),
        .arguments = {"", 0},
    };
    struct binding_history history;
    struct amqp_error error;
    catalogue_lock(catalogue);
    ck_assert_int_eq(catalogue_bind(catalogue, vhost, &request, &history, &error), 0);
    catalogue_unlock(catalogue);
}

/* Both shards work until there is nothing left to do. */
static void
run(void)
{
    for (int i = 0; i < 8; i++) {
        (void)shard_run(broker->shards[i % 2]);
        shard_flush(broker->shards[i % 2]);
    }
}

START_TEST(a_vhost_goes_with_its_queues_exchanges_and_bindings)
{
    struct amqp_error error;
    struct vhost *vhost = catalogue_vhost_find(catalogue, SLICE("v"));
    struct vhost *other = catalogue_vhost_find(catalogue, SLICE("/"));
    struct ref here = make_queue(vhost, 0, SLICE("here"));
    struct ref there = make_queue(vhost, 1, SLICE("there"));
    struct ref kept = make_queue(other, 1, SLICE("here"));
    ck_assert_int_eq(declare_exchange(vhost, "a", "topic", &error), 0);
    ck_assert_int_eq(declare_exchange(vhost, "b", "direct", &error), 0);
    bind(vhost, "a", SLICE("here"), false);
    bind(vhost, "b", SLICE("there"), false);
    bind(vhost, "a", SLICE("b"), true);
    catalogue_observe(catalogue, (struct catalogue_observer){on_change, NULL});
    removed_vhosts = other_changes = 0;
    uint64_t deletions = catalogue_vhost_deletions(catalogue);

    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("v")), 0);
    ck_assert_ptr_null(catalogue_vhost_find(catalogue, SLICE("v")));
    ck_assert(vhost_is_deleted(vhost));
    ck_assert_uint_eq(catalogue_vhost_deletions(catalogue), deletions + 1);
    shard_flush(broker->shards[0]);
    run();
    ck_assert_ptr_null(ref_table_find(&broker->shards[0]->queues, here));
    ck_assert_ptr_null(ref_table_find(&broker->shards[1]->queues, there));
    ck_assert_ptr_nonnull(ref_table_find(&broker->shards[1]->queues, kept));
    ck_assert_int_eq(removed_vhosts, 1);
    ck_assert_int_eq(other_changes, 0);
    vhost_unref(vhost);
    vhost_unref(other);
}
END_TEST

START_TEST(nothing_can_be_made_in_a_vhost_that_has_gone)
{
    struct amqp_error error = {0};
    struct vhost *vhost = catalogue_vhost_find(catalogue, SLICE("v"));
    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("v")), 0);
    ck_assert_int_eq(declare_exchange(vhost, "a", "topic", &error), -1);
    ck_assert_uint_eq(error.code, AMQP_REPLY_CONNECTION_FORCED);
    ck_assert_str_eq(error.text, "CONNECTION_FORCED - vhost 'v' is deleted");
    const struct queue_declaration declaration = {
        .name = SLICE("q"), .durable = true, .arguments = {"", 0}};
    struct queue_options options;
    ck_assert_int_eq(queue_options_parse(&options, &declaration, vhost_name(vhost), &error), 0);
    struct queue_record *record = queue_record_new(catalogue, vhost, &declaration, &options, 0);
    ck_assert_int_eq(queue_record_insert(catalogue, record), -ENOENT);
    queue_record_free(record);
    vhost_unref(vhost);
}
END_TEST

START_TEST(a_new_vhost_with_the_old_name_is_another_one)
{
    struct vhost *before = catalogue_vhost_find(catalogue, SLICE("v"));
    (void)make_queue(before, 1, SLICE("q"));
    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("v")), 0);
    ck_assert_int_eq(catalogue_vhost_add(catalogue, SLICE("v")), 0);
    struct vhost *after = catalogue_vhost_find(catalogue, SLICE("v"));
    ck_assert_uint_ne(vhost_id(before), vhost_id(after));
    catalogue_observe(catalogue, (struct catalogue_observer){on_change, NULL});
    removed_vhosts = other_changes = 0;
    struct ref queue = make_queue(after, 1, SLICE("q"));
    shard_flush(broker->shards[0]);
    run(); /* the old queue goes now, and neither takes the new one's name nor its definition */
    ck_assert_ptr_nonnull(ref_table_find(&broker->shards[1]->queues, queue));
    ck_assert_int_eq(other_changes, 1); /* that the new one was made */
    catalogue_lock(catalogue);
    ck_assert_ptr_nonnull(queue_record_find(catalogue, after, SLICE("q")));
    catalogue_unlock(catalogue);
    vhost_unref(before);
    vhost_unref(after);
}
END_TEST

START_TEST(a_vhost_that_is_not_there_cannot_be_removed)
{
    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("w")), -ENOENT);
}
END_TEST

START_TEST(all_vhosts_that_are_there_are_listed)
{
    struct vhost **vhosts;
    size_t count;
    bool has_root = false;
    ck_assert_int_eq(catalogue_vhost_add(catalogue, SLICE("w")), 0);
    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("v")), 0);
    ck_assert_int_eq(catalogue_vhost_list(catalogue, &vhosts, &count), 0);
    ck_assert_uint_eq(count, 2);
    for (size_t i = 0; i < count; i++) {
        has_root |= slice_is(vhost_name(vhosts[i]), "/");
        ck_assert(!slice_is(vhost_name(vhosts[i]), "v"));
        vhost_unref(vhosts[i]);
    }
    ck_assert(has_root);
    free(vhosts);
}
END_TEST

START_TEST(a_broker_may_end_before_the_queues_have_gone)
{
    struct vhost *vhost = catalogue_vhost_find(catalogue, SLICE("v"));
    (void)make_queue(vhost, 1, SLICE("q"));
    vhost_unref(vhost);
    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("v")), 0);
}
END_TEST

/* Threads that take places of consumers and give them back as fast as they can. */
enum { TAKERS = 4, PLACES = 2 };

static _Atomic int places_taken, places_most;

static void *
take_places(void *vhost)
{
    for (int i = 0; i < 50000; i++) {
        if (!vhost_take_consumer(vhost, PLACES))
            continue;
        int taken = atomic_fetch_add(&places_taken, 1) + 1, most = atomic_load(&places_most);
        while (taken > most && !atomic_compare_exchange_weak(&places_most, &most, taken))
            continue;
        atomic_fetch_sub(&places_taken, 1);
        vhost_give_consumer_back(vhost);
    }
    return NULL;
}

START_TEST(threads_together_do_not_pass_the_limit_of_consumers)
{
    struct vhost *vhost = catalogue_vhost_find(catalogue, SLICE("v"));
    pthread_t threads[TAKERS];
    for (int i = 0; i < TAKERS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, take_places, vhost), 0);
    for (int i = 0; i < TAKERS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_ge(atomic_load(&places_most), 1);
    ck_assert_int_le(atomic_load(&places_most), PLACES);
    for (int i = 0; i < PLACES; i++)
        ck_assert(vhost_take_consumer(vhost, PLACES)); /* all were given back */
    ck_assert(!vhost_take_consumer(vhost, PLACES));
    ck_assert(vhost_take_consumer(vhost, 0));
    vhost_unref(vhost);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("broker/vhost");
    TCase *tests = tcase_create("vhost");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_vhost_goes_with_its_queues_exchanges_and_bindings);
    tcase_add_test(tests, nothing_can_be_made_in_a_vhost_that_has_gone);
    tcase_add_test(tests, a_new_vhost_with_the_old_name_is_another_one);
    tcase_add_test(tests, a_vhost_that_is_not_there_cannot_be_removed);
    tcase_add_test(tests, all_vhosts_that_are_there_are_listed);
    tcase_add_test(tests, a_broker_may_end_before_the_queues_have_gone);
    tcase_add_test(tests, threads_together_do_not_pass_the_limit_of_consumers);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
