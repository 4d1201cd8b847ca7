/* The growable buffer, the random numbers and the clocks: small things with small tests. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/random.h"

START_TEST(what_is_appended_is_there_and_what_is_consumed_is_not)
{
    struct buffer buffer;
    uint8_t next_in = 0, next_out = 0;
    struct random random;

    random_init_with(&random, 1);
    buffer_init(&buffer);
    for (int step = 0; step < 2000; step++) {
        uint8_t piece[300];
        size_t size = random_below(&random, sizeof(piece)), drop;

        for (size_t i = 0; i < size; i++)
            piece[i] = next_in++;
        ck_assert_int_eq(buffer_append(&buffer, piece, size), 0);
        drop = random_below(&random, buffer.size + 1);
        for (size_t i = 0; i < buffer.size; i++)
            ck_assert_uint_eq(buffer.data[i], (uint8_t)(next_out + i));
        buffer_consume(&buffer, drop);
        next_out = (uint8_t)(next_out + drop);
    }
    buffer_consume(&buffer, SIZE_MAX);
    ck_assert_uint_eq(buffer.size, 0);
    ck_assert_int_eq(buffer_append_slice(&buffer, SLICE("again")), 0);
    ck_assert(slice_is(buffer_slice(&buffer), "again"));
    buffer_clear(&buffer);
    ck_assert_uint_eq(buffer.size, 0);
    buffer_free(&buffer);
    ck_assert_ptr_null(buffer.data);
}
END_TEST

START_TEST(an_impossible_size_is_refused_and_changes_nothing)
{
    struct buffer buffer;

    buffer_init(&buffer);
    ck_assert_int_eq(buffer_append_slice(&buffer, SLICE("kept")), 0);
    ck_assert_int_eq(buffer_reserve(&buffer, SIZE_MAX), -ENOMEM);
    ck_assert_int_eq(buffer_reserve(&buffer, SIZE_MAX / 2), -ENOMEM);
    ck_assert(slice_is(buffer_slice(&buffer), "kept"));
    buffer_free(&buffer);
}
END_TEST

START_TEST(picking_is_even)
{
    struct random random;
    unsigned counts[7] = {0};

    random_init_with(&random, 7);
    for (int i = 0; i < 70000; i++)
        counts[random_below(&random, 7)]++;
    for (int i = 0; i < 7; i++) {
        ck_assert_uint_gt(counts[i], 9500);
        ck_assert_uint_lt(counts[i], 10500);
    }
    for (int i = 0; i < 100; i++)
        ck_assert_uint_eq(random_below(&random, 1), 0);
}
END_TEST

/* First outputs for the state 1, 2, 3, 4, as the authors' program prints them. */
START_TEST(the_generator_is_xoshiro256_star_star)
{
    struct random random = {.state = {1, 2, 3, 4}};
    static const uint64_t expected[] = {11520, 0, 1509978240, 1215971899390074240};

    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(random_next(&random), expected[i]);
}
END_TEST

START_TEST(the_kernels_random_bytes_differ_each_time)
{
    uint8_t one[600] = {0}, two[600] = {0};
    struct random a, b;

    random_bytes(one, sizeof(one));
    random_bytes(two, sizeof(two));
    ck_assert_mem_ne(one, two, sizeof(one));
    ck_assert_mem_ne(one + 568, (uint8_t[32]){0}, 32);
    random_init(&a);
    random_init(&b);
    ck_assert_uint_ne(random_next(&a), random_next(&b));
}
END_TEST

START_TEST(clocks_run_in_their_units)
{
    int64_t ns = clock_monotonic_ns(), ms = clock_monotonic_ms(), later = clock_monotonic_ns();

    ck_assert_int_le(ns / 1000000, ms);
    ck_assert_int_le(ms, later / 1000000);
    ck_assert_int_gt(clock_wall_ms(), INT64_C(1600000000000));  /* 2020 */
    ck_assert_int_lt(clock_wall_ms(), INT64_C(10000000000000)); /* 2286 */
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/buffer");
    TCase *tests = tcase_create("buffer");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, what_is_appended_is_there_and_what_is_consumed_is_not);
    tcase_add_test(tests, an_impossible_size_is_refused_and_changes_nothing);
    tcase_add_test(tests, picking_is_even);
    tcase_add_test(tests, the_generator_is_xoshiro256_star_star);
    tcase_add_test(tests, the_kernels_random_bytes_differ_each_time);
    tcase_add_test(tests, clocks_run_in_their_units);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
