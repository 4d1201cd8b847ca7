/* Looking through a vhost a piece at a time, while things come and go. */
#include <errno.h>
#include <stdio.h>

#include "broker/catalogue_list.h"
#include "test_broker_support.h"

enum { QUEUES = 300 };

static int seen[2 * QUEUES]; /* by the number in the name */

static void
no_client(void *client, const struct mail *mail)
{
    (void)client;
    (void)mail;
}

static void
set_up(void)
{
    memset(seen, 0, sizeof(seen));
    broker_up(1, no_client);
}

static void
make(int number)
{
    char name[16];
    snprintf(name, sizeof(name), "q%d", number);
    ck_assert_ptr_nonnull(
        declare_queue(test_broker->shards[0], &(struct queue_wish){.name = name}));
}

static void
drop(int number)
{
    char name[16];
    snprintf(name, sizeof(name), "q%d", number);
    struct catalogue *catalogue = test_broker->catalogue;
    catalogue_lock(catalogue);
    struct ref ref = queue_record_find(catalogue, test_vhost, slice_from(name))->queue;
    catalogue_unlock(catalogue);
    queue_delete(ref_table_find(&test_broker->shards[0]->queues, ref));
}

static void
visit(void *context, const struct queue_record *record)
{
    size_t *visits = context;
    char name[16];
    snprintf(name, sizeof(name), "%.*s", SLICE_ARGS(record->name));
    seen[atoi(name + 1)]++;
    (*visits)++;
}

START_TEST(every_queue_is_visited_once_whatever_comes_and_goes)
{
    struct catalogue_cursor cursor = {0};
    size_t visits = 0;
    int status, number = 0;
    for (int i = 0; i < QUEUES; i++)
        make(i);
    do {
        size_t before = visits;
        status =
            catalogue_next_queues(test_broker->catalogue, test_vhost, &cursor, 7, visit, &visits);
        ck_assert_uint_le(visits - before, 7);
        if (status == 1 && number < QUEUES / 4) { /* one goes, another one comes */
            drop(number);
            make(QUEUES + number++);
        }
    } while (status == 1);
    ck_assert_int_eq(status, 0);
    for (int i = 0; i < QUEUES + number; i++) {
        if (i < number || i >= QUEUES)
            ck_assert_int_le(seen[i], 1);
        else
            ck_assert_msg(seen[i] == 1, "queue %d was seen %d times", i, seen[i]);
    }
}
END_TEST

START_TEST(who_looks_at_a_directory_that_is_rearranged_begins_again)
{
    struct catalogue_cursor cursor = {0};
    size_t visits = 0;
    for (int i = 0; i < 10; i++)
        make(i);
    ck_assert_int_eq(
        catalogue_next_queues(test_broker->catalogue, test_vhost, &cursor, 5, visit, &visits), 1);
    for (int i = 10; i < QUEUES; i++)
        make(i);
    ck_assert_int_eq(
        catalogue_next_queues(test_broker->catalogue, test_vhost, &cursor, 5, visit, &visits),
        -EAGAIN);
    ck_assert_uint_eq(visits, 5);
    cursor = (struct catalogue_cursor){0};
    ck_assert_int_eq(catalogue_next_queues(test_broker->catalogue, test_vhost, &cursor, SIZE_MAX,
                                           visit, &visits),
                     0);
    ck_assert_uint_eq(visits, 5 + QUEUES);
}
END_TEST

static void
visit_exchange(void *context, const struct exchange *exchange)
{
    struct exchange_declaration *found = context;
    struct exchange_declaration declaration = exchange_declaration_of(exchange);
    if (slice_is(declaration.name, "amq.topic"))
        *found = declaration;
}

START_TEST(exchanges_are_shown_as_they_were_declared)
{
    struct catalogue_cursor cursor = {0};
    struct exchange_declaration found = {.name = SLICE("")};
    int status;
    do
        status = catalogue_next_exchanges(test_broker->catalogue, test_vhost, &cursor, 1,
                                          visit_exchange, &found);
    while (status == 1);
    ck_assert_int_eq(status, 0);
    ck_assert(slice_is(found.type, "topic"));
    ck_assert(found.durable && !found.auto_delete && !found.internal);
    ck_assert_uint_eq(found.arguments.size, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("broker/catalogue_list");
    TCase *tests = tcase_create("list");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, set_up, broker_down);
    tcase_add_test(tests, every_queue_is_visited_once_whatever_comes_and_goes);
    tcase_add_test(tests, who_looks_at_a_directory_that_is_rearranged_begins_again);
    tcase_add_test(tests, exchanges_are_shown_as_they_were_declared);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
