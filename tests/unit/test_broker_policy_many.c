/* Policies where queues are many: they are told turn by turn; and other threads make and delete
 * queues while one goes through all of them. */
#include <pthread.h>
#include <stdio.h>

#include "test_broker_policy.h"

enum { MANY = 3000, ROUNDS = 40, MADE_PER_ROUND = 50 };

static void
set_up(void)
{
    broker_up(2, client_receive);
}

static void
tear_down(void)
{
    broker_down();
}

static void
declare_numbered(struct shard *shard, const char *prefix, int number)
{
    char name[32];
    snprintf(name, sizeof(name), "%s%d", prefix, number);
    declare_saying(shard, name, NULL);
}

/* Of the queues of that shard, so many have this limit. */
static size_t
count_with(const struct shard *shard, int64_t max_length)
{
    size_t count = 0;
    for (uint32_t i = 0; i < shard->queues.size; i++) {
        const struct queue *queue = shard->queues.slots[i].object;
        count += queue != NULL && queue->options.max_length == max_length;
    }
    return count;
}

START_TEST(very_many_queues_are_told_turn_by_turn)
{
    struct shard *first = test_broker->shards[0], *second = test_broker->shards[1];
    for (int i = 0; i < MANY; i++)
        declare_numbered(test_broker->shards[i % 2], "q", i);
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = SAY({"max-length", .number = 7})};
    ck_assert_int_eq(try_policy_from(first, &wish, error), 0);
    size_t told = count_with(first, 7);
    ck_assert_uint_gt(told, 0);
    ck_assert_uint_lt(told, MANY / 4);
    for (int turns = 0; shard_has_work(first); turns++) {
        ck_assert_int_lt(turns, MANY);
        (void)shard_run(first);
        shard_flush(first);
        ck_assert_uint_lt(count_with(first, 7) - told, MANY / 4);
        told = count_with(first, 7);
    }
    ck_assert_uint_eq(told, MANY / 2);
    (void)shard_run(second);
    ck_assert_uint_eq(count_with(second, 7), MANY / 2);
}
END_TEST

START_TEST(nothing_is_kept_of_a_change_whose_queues_are_told_by_who_made_it)
{
    struct shard *first = test_broker->shards[0];
    for (int i = 0; i < MANY; i++)
        declare_numbered(first, "q", i);
    char error[POLICY_ERROR_MAX];
    struct policy_change change;
    const struct policy_wish wish = {.name = "p", .says = SAY({"max-length", .number = 7})};
    ck_assert_int_eq(find_policy_change(&wish, &change, error), 0);
    ck_assert_uint_eq(change.count, MANY);
    size_t told = 0;
    while (policy_tell_some(first, &change)) {
        ck_assert_uint_gt(count_with(first, 7), told);
        ck_assert_uint_lt(count_with(first, 7) - told, MANY / 4);
        told = count_with(first, 7);
        ck_assert_uint_eq(change.count, MANY - told);
        ck_assert(list_is_empty(&first->announcements));
    }
    ck_assert_uint_eq(count_with(first, 7), MANY);
    ck_assert_ptr_null(change.queues);
}
END_TEST

/* As at each reload of a file that has not changed. */
START_TEST(a_policy_that_is_there_already_concerns_no_queue)
{
    declare_numbered(test_broker->shards[0], "q", 1);
    char error[POLICY_ERROR_MAX];
    struct policy_change change;
    struct policy_wish wish = {
        .name = "p", .is_from_file = true, .says = SAY({"max-length", .number = 7})};
    ck_assert_int_eq(try_policy(&wish, error), 0);
    uint64_t generation = catalogue_generation(test_broker->catalogue);
    ck_assert_int_eq(find_policy_change(&wish, &change, error), 0);
    ck_assert_uint_eq(change.count, 0);
    ck_assert_ptr_null(change.queues);
    ck_assert_uint_eq(catalogue_generation(test_broker->catalogue), generation);
    ck_assert_uint_eq(count_with(test_broker->shards[0], 7), 1);
    wish.says = SAY({"max-length", .number = 8});
    ck_assert_int_eq(try_policy(&wish, error), 0);
    ck_assert_uint_eq(count_with(test_broker->shards[0], 8), 1);
}
END_TEST

START_TEST(all_are_told_before_the_first_turn)
{
    struct shard *first = test_broker->shards[0], *second = test_broker->shards[1];
    for (int i = 0; i < MANY; i++)
        declare_numbered(test_broker->shards[i % 2], "q", i);
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = SAY({"max-length", .number = 7})};
    ck_assert_int_eq(try_policy_from(first, &wish, error), 0);
    policy_tell_rest(first);
    ck_assert_uint_eq(count_with(first, 7), MANY / 2);
    shard_receive(second);
    ck_assert_uint_eq(count_with(second, 7), MANY / 2);
}
END_TEST

START_TEST(a_broker_may_end_before_all_are_told)
{
    for (int i = 0; i < MANY; i++)
        declare_numbered(test_broker->shards[0], "q", i);
    char error[POLICY_ERROR_MAX];
    const struct policy_wish wish = {.name = "p", .says = SAY({"max-length", .number = 7})};
    ck_assert_int_eq(try_policy_from(test_broker->shards[0], &wish, error), 0);
    ck_assert_uint_lt(count_with(test_broker->shards[0], 7), MANY);
}
END_TEST

/* On its own thread and shard. */
static void *
make_and_delete(void *context)
{
    struct shard *shard = context;
    for (int i = 0; i < ROUNDS * MADE_PER_ROUND; i++) {
        char name[32];
        declare_numbered(shard, "m", i);
        snprintf(name, sizeof(name), "m%d", i / 2);
        const struct queue_record *record = i % 2 == 0 ? NULL : find_queue(name);
        if (record != NULL)
            queue_delete(queue_of(record));
        (void)shard_run(shard);
        shard_flush(shard);
    }
    return NULL;
}

START_TEST(each_queue_finds_its_policy_whatever_others_do_meanwhile)
{
    pthread_t thread;
    struct shard *shard = test_broker->shards[0];
    char error[POLICY_ERROR_MAX];
    for (int i = 0; i < MANY; i++)
        declare_numbered(shard, "q", i);
    ck_assert_int_eq(pthread_create(&thread, NULL, make_and_delete, test_broker->shards[1]), 0);
    for (int i = 1; i <= ROUNDS; i++) {
        const struct policy_wish high = {.name = "high",
                                         .pattern = "5$",
                                         .priority = 1,
                                         .says = SAY({"max-length", .number = i})};
        const struct policy_wish low = {.name = "low",
                                        .says = SAY({"max-length", .number = 1000 + i})};
        ck_assert_int_eq(try_policy_from(shard, i % 2 == 0 ? &high : &low, error), 0);
        if (i == ROUNDS - 2)
            ck_assert_int_eq(try_clear_from(shard, "low", false, false), 0);
        (void)shard_run(shard);
        shard_flush(shard);
    }
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    settle_down();
    for (uint32_t i = 0; i < 2; i++) {
        const struct shard *each = test_broker->shards[i];
        for (uint32_t j = 0; j < each->queues.size; j++) {
            const struct queue *queue = each->queues.slots[j].object;
            if (queue == NULL)
                continue;
            struct slice name = queue->record->name;
            bool is_high = name.data[name.size - 1] == '5';
            ck_assert_int_eq(queue->options.max_length, is_high ? ROUNDS : 1000 + ROUNDS - 1);
        }
    }
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, very_many_queues_are_told_turn_by_turn);
    tcase_add_test(tests, nothing_is_kept_of_a_change_whose_queues_are_told_by_who_made_it);
    tcase_add_test(tests, a_policy_that_is_there_already_concerns_no_queue);
    tcase_add_test(tests, all_are_told_before_the_first_turn);
    tcase_add_test(tests, a_broker_may_end_before_all_are_told);
    tcase_add_test(tests, each_queue_finds_its_policy_whatever_others_do_meanwhile);
}

int
main(void)
{
    return run_suite("policies of many queues", add);
}
