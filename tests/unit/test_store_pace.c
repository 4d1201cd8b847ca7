/* The pace of a disk: what the last large commits took, the latest above all. */
#include <check.h>
#include <stdlib.h>

#include "store/pace.h"

enum { MIB = 1024 * 1024 };

#define SECOND 1000000000ULL

static struct pace pace;

static void
set_up(void)
{
    pace = (struct pace){0};
}

static void
ck_assert_near(uint64_t rate, uint64_t wanted)
{
    ck_assert_msg(rate > wanted * 95 / 100 && rate < wanted * 105 / 100,
                  "%llu bytes a second, about %llu wanted", (unsigned long long)rate,
                  (unsigned long long)wanted);
}

START_TEST(nothing_is_known_before_the_first_commit)
{
    ck_assert_uint_eq(pace_rate(&pace), 0);
}
END_TEST

START_TEST(the_first_commit_tells_it)
{
    pace_note(&pace, 10 * MIB, SECOND / 2);
    ck_assert_near(pace_rate(&pace), 20 * MIB);
}
END_TEST

START_TEST(small_commits_tell_nothing)
{
    pace_note(&pace, 100, SECOND);
    ck_assert_uint_eq(pace_rate(&pace), 0);
    pace_note(&pace, 10 * MIB, SECOND / 2);
    for (int i = 0; i < 1000; i++)
        pace_note(&pace, 100, SECOND);
    ck_assert_near(pace_rate(&pace), 20 * MIB);
}
END_TEST

START_TEST(a_disk_that_gets_slow_is_known_soon_and_one_that_gets_fast_again)
{
    for (int i = 0; i < 100; i++)
        pace_note(&pace, 50 * MIB, SECOND / 10);
    ck_assert_near(pace_rate(&pace), 500 * MIB);
    for (int i = 0; i < 4; i++)
        pace_note(&pace, 50 * MIB, 5 * SECOND);
    ck_assert_uint_lt(pace_rate(&pace), 20 * MIB);
    for (int i = 0; i < 20; i++)
        pace_note(&pace, 50 * MIB, SECOND / 10);
    ck_assert_uint_gt(pace_rate(&pace), 400 * MIB);
}
END_TEST

START_TEST(one_commit_that_took_long_counts_for_as_long)
{
    for (int i = 0; i < 100; i++)
        pace_note(&pace, 10 * MIB, SECOND / 10);
    pace_note(&pace, 10 * MIB, 10 * SECOND);
    ck_assert_uint_lt(pace_rate(&pace), 10 * MIB);
}
END_TEST

START_TEST(a_commit_that_took_no_time_is_no_division_by_zero)
{
    pace_note(&pace, 10 * MIB, 0);
    ck_assert_uint_gt(pace_rate(&pace), 1000ULL * MIB);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/pace");
    TCase *tests = tcase_create("pace");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_test(tests, nothing_is_known_before_the_first_commit);
    tcase_add_test(tests, the_first_commit_tells_it);
    tcase_add_test(tests, small_commits_tell_nothing);
    tcase_add_test(tests, a_disk_that_gets_slow_is_known_soon_and_one_that_gets_fast_again);
    tcase_add_test(tests, one_commit_that_took_long_counts_for_as_long);
    tcase_add_test(tests, a_commit_that_took_no_time_is_no_division_by_zero);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
