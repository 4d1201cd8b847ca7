/* The packed messages of recovery come out as they went in, in the order of their ids. */
#include <check.h>

#include "store/log_found.h"

enum { MANY = 100000 }; /* some chunks full */

static struct found_list list;

static void
tear_down(void)
{
    found_free(&list);
}

/* What the message of this id is; some have numbers as large as they can be. */
static struct found
message(uint64_t id)
{
    struct found found = {
        .id = id,
        .published_wall_ms = 1700000000000 + id / 100,
        .expires_wall_ms = id % 7 == 0 ? UINT64_MAX : 0,
        .queue_id = id % 11 == 0 ? UINT64_MAX - id : id % 50,
        .flags = id % 13 == 0 ? UINT32_MAX : 5,
        .slot = (uint32_t)(id / 1000),
        .ordinal = (uint32_t)(id % 1000),
        .piece_count = (uint32_t)(id % (LOG_PIECES_MAX + 1)),
    };
    for (uint32_t i = 0; i < found.piece_count; i++)
        found.piece_sizes[i] = id % 17 == 0 ? UINT32_MAX : (uint32_t)id + i;
    return found;
}

static void
add(uint64_t id)
{
    struct found found = message(id);
    ck_assert_int_eq(found_add(&list, &found), 0);
}

static void
next_is(struct found_cursor *cursor, uint64_t id)
{
    struct found got, wanted = message(id);
    ck_assert(found_next(&list, cursor, &got));
    ck_assert_uint_eq(got.id, wanted.id);
    ck_assert_uint_eq(got.published_wall_ms, wanted.published_wall_ms);
    ck_assert_uint_eq(got.expires_wall_ms, wanted.expires_wall_ms);
    ck_assert_uint_eq(got.queue_id, wanted.queue_id);
    ck_assert_uint_eq(got.flags, wanted.flags);
    ck_assert_uint_eq(got.slot, wanted.slot);
    ck_assert_uint_eq(got.ordinal, wanted.ordinal);
    ck_assert_uint_eq(got.piece_count, wanted.piece_count);
    ck_assert_mem_eq(got.piece_sizes, wanted.piece_sizes, sizeof(got.piece_sizes));
}

static void
is_at_end(struct found_cursor *cursor)
{
    struct found found;
    ck_assert(!found_next(&list, cursor, &found));
}

START_TEST(empty_list_has_no_messages)
{
    ck_assert_int_eq(found_sort(&list), 0);
    is_at_end(&(struct found_cursor){0});
}
END_TEST

START_TEST(messages_in_order_come_out_as_they_went_in_and_again)
{
    for (uint64_t id = 1; id <= MANY; id++)
        add(id);
    ck_assert_int_eq(found_sort(&list), 0);
    for (int walk = 0; walk < 2; walk++) {
        struct found_cursor cursor = {.is_last = walk == 1};
        for (uint64_t id = 1; id <= MANY; id++)
            next_is(&cursor, id);
        is_at_end(&cursor);
    }
}
END_TEST

START_TEST(messages_in_any_order_come_out_by_their_ids)
{
    for (uint64_t i = 0; i < MANY; i++)
        add(1 + i * 7919 % MANY); /* each once, since 7919 is prime */
    add(UINT64_MAX);
    add(5); /* that was moved */
    ck_assert_int_eq(found_sort(&list), 0);
    for (int walk = 0; walk < 2; walk++) {
        struct found_cursor cursor = {.is_last = walk == 1};
        for (uint64_t id = 1; id <= MANY; id++) {
            next_is(&cursor, id);
            if (id == 5)
                next_is(&cursor, id);
        }
        next_is(&cursor, UINT64_MAX);
        is_at_end(&cursor);
    }
}
END_TEST

/* Millions of them are in memory at once, when the broker can least afford it. */
START_TEST(ordinary_messages_take_few_bytes_each)
{
    for (uint32_t i = 0; i < MANY; i++) {
        struct found found = {
            .id = 123456789 + i,
            .published_wall_ms = 1700000000000 + i / 100,
            .queue_id = 300,
            .flags = 5,
            .slot = 40,
            .ordinal = i,
            .piece_count = 3,
            .piece_sizes = {20, 60, 1024},
        };
        ck_assert_int_eq(found_add(&list, &found), 0);
    }
    ck_assert_uint_lt(found_memory(&list), 16 * MANY);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/found");
    TCase *tests = tcase_create("found");
    tcase_add_checked_fixture(tests, NULL, tear_down);
    tcase_add_test(tests, empty_list_has_no_messages);
    tcase_add_test(tests, messages_in_order_come_out_as_they_went_in_and_again);
    tcase_add_test(tests, messages_in_any_order_come_out_by_their_ids);
    tcase_add_test(tests, ordinary_messages_take_few_bytes_each);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
