/* The wall clock's past: when it said what. */
#include <check.h>
#include <stdlib.h>

#include "base/wall_clock.h"

#define HOUR (3600 * INT64_C(1000)) /* in milliseconds */

static struct wall_clock wall;

/* The monotonic clock says 0, 1000, ... and the wall clock is so much ahead. */
static void
run_from(int64_t from_ms, int64_t to_ms, int64_t ahead_ms)
{
    for (int64_t now_ms = from_ms; now_ms < to_ms; now_ms += 1000)
        wall_clock_note(&wall, now_ms, now_ms + ahead_ms);
}

START_TEST(a_clock_that_goes_right_is_ahead_by_the_same_all_the_time)
{
    run_from(0, HOUR, 500 * HOUR);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 500 * HOUR + 7, HOUR), 7);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 490 * HOUR, HOUR),
                     -10 * HOUR); /* before it began */
    ck_assert_uint_eq(wall.count, 1);
}
END_TEST

START_TEST(what_was_noted_before_the_clock_was_set_forward_is_not_older_for_that)
{
    run_from(0, HOUR, 500 * HOUR);
    run_from(HOUR, 2 * HOUR, 506 * HOUR);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 500 * HOUR + 7, 2 * HOUR), 7);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 499 * HOUR, 2 * HOUR), -HOUR);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 507 * HOUR + 7, 2 * HOUR), HOUR + 7);
}
END_TEST

START_TEST(what_was_noted_before_the_clock_was_set_back_is_not_of_the_future)
{
    run_from(0, HOUR, 500 * HOUR);
    run_from(HOUR, 2 * HOUR, 494 * HOUR);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 500 * HOUR + 7, 2 * HOUR), 7);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 495 * HOUR + 7, 2 * HOUR), HOUR + 7);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 600 * HOUR, 2 * HOUR),
                     2 * HOUR); /* it never was */
}
END_TEST

/* Of two moments in which the clock said the same, the later one: who lives for a time from then
 * does not die early. */
START_TEST(a_time_that_came_twice_was_the_second_time)
{
    run_from(0, HOUR, 500 * HOUR);
    run_from(HOUR, 2 * HOUR, 500 * HOUR - HOUR / 2);
    ck_assert_int_eq(wall_clock_monotonic(&wall, 500 * HOUR + HOUR * 3 / 4, 2 * HOUR),
                     HOUR + HOUR / 4);
}
END_TEST

START_TEST(a_clock_that_wanders_is_known_to_the_second)
{
    int64_t ahead_ms = 0;
    for (int64_t now_ms = 0; now_ms < 10 * HOUR; now_ms += 1000)
        wall_clock_note(&wall, now_ms, now_ms + (ahead_ms = now_ms / 5000));
    ck_assert_uint_lt(wall.count, WALL_CLOCK_STEPS);
    int64_t then_ms = 5 * HOUR;
    int64_t found_ms = wall_clock_monotonic(&wall, then_ms + then_ms / 5000, 10 * HOUR);
    ck_assert_int_lt(llabs(found_ms - then_ms), 1000);
    ck_assert_int_gt(ahead_ms, 5000);
}
END_TEST

START_TEST(a_clock_that_is_set_very_often_is_known_for_the_last_times)
{
    enum { TIMES = 3 * WALL_CLOCK_STEPS };
    for (int i = 0; i < TIMES; i++)
        run_from(i * HOUR, (i + 1) * HOUR, i * 10 * HOUR);
    int64_t then_ms = (TIMES - 5) * HOUR + 7;
    ck_assert_int_eq(wall_clock_monotonic(&wall, then_ms + (TIMES - 5) * 10 * HOUR, TIMES * HOUR),
                     then_ms);
}
END_TEST

static void
begin(void)
{
    wall = (struct wall_clock){0};
}

int
main(void)
{
    Suite *suite = suite_create("base/wall_clock");
    TCase *tests = tcase_create("wall_clock");
    tcase_add_checked_fixture(tests, begin, NULL);
    tcase_add_test(tests, a_clock_that_goes_right_is_ahead_by_the_same_all_the_time);
    tcase_add_test(tests, what_was_noted_before_the_clock_was_set_forward_is_not_older_for_that);
    tcase_add_test(tests, what_was_noted_before_the_clock_was_set_back_is_not_of_the_future);
    tcase_add_test(tests, a_time_that_came_twice_was_the_second_time);
    tcase_add_test(tests, a_clock_that_wanders_is_known_to_the_second);
    tcase_add_test(tests, a_clock_that_is_set_very_often_is_known_for_the_last_times);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
