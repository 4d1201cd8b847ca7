/* When two argument values are the same, as RabbitMQ decides it; and that deciding it stays cheap.
 *
 * The file under test is included, so that its memory can be made to run out. */
#include <check.h>
#include <stdlib.h>

#include "amqp/wire.h"

static bool memory_is_out;

static void *
calloc_or_not(size_t count, size_t size)
{
    return memory_is_out ? NULL : calloc(count, size);
}

#define calloc calloc_or_not
#include "amqp/table_compare.c"
#undef calloc

/* Whether two entries, each given as tag and value on the wire, are equal; asked both ways round.
 */
static bool
equal(struct slice a, struct slice b)
{
    struct amqp_table_iterator left = amqp_table_begin(a), right = amqp_table_begin(b);
    struct amqp_value left_value, right_value;
    bool result;

    ck_assert_int_eq(amqp_array_next(&left, &left_value), 1);
    ck_assert_int_eq(amqp_array_next(&right, &right_value), 1);
    result = amqp_value_equal(&left_value, &right_value);
    ck_assert_int_eq(amqp_value_equal(&right_value, &left_value), result);
    return result;
}

START_TEST(integers_of_all_widths_are_compared_by_value)
{
    static const struct slice fives[] = {
        SLICE("b\5"),
        SLICE("B\5"),
        SLICE("s\0\5"),
        SLICE("u\0\5"),
        SLICE("I\0\0\0\5"),
        SLICE("i\0\0\0\5"),
        SLICE("l\0\0\0\0\0\0\0\5"),
        SLICE("L\0\0\0\0\0\0\0\5"),
    };

    for (size_t a = 0; a < 8; a++) {
        for (size_t b = 0; b < 8; b++)
            ck_assert_msg(equal(fives[a], fives[b]), "%zu and %zu", a, b);
        ck_assert(!equal(fives[a], SLICE("I\0\0\0\6")));
        ck_assert(!equal(fives[a], SLICE("d\x40\x14\0\0\0\0\0\0")));
        ck_assert(!equal(fives[a], SLICE("t\5")));
        ck_assert(!equal(fives[a], SLICE("S\0\0\0\1\65")));
    }
    ck_assert(!equal(SLICE("b\xFF"), SLICE("B\xFF")));
    ck_assert(equal(SLICE("b\xFF"), SLICE("l\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")));
}
END_TEST

START_TEST(other_types_are_compared_within_their_class)
{
    ck_assert(equal(SLICE("S\0\0\0\1a"), SLICE("x\0\0\0\1a")));
    ck_assert(!equal(SLICE("S\0\0\0\1a"), SLICE("S\0\0\0\1A")));
    ck_assert(!equal(SLICE("S\0\0\0\1a"), SLICE("S\0\0\0\2aa")));
    ck_assert(equal(SLICE("f\x3F\xC0\0\0"), SLICE("d\x3F\xF8\0\0\0\0\0\0"))); /* 1.5 */
    ck_assert(!equal(SLICE("d\x3F\xF8\0\0\0\0\0\0"), SLICE("d\x3F\xF8\0\0\0\0\0\1")));
    ck_assert(equal(SLICE("d\x7F\xF8\0\0\0\0\0\0"), SLICE("f\x7F\xC0\0\0"))); /* NaN */
    ck_assert(equal(SLICE("t\1"), SLICE("t\2")));
    ck_assert(!equal(SLICE("t\1"), SLICE("t\0")));
    ck_assert(equal(SLICE("D\1\0\0\0\5"), SLICE("D\1\0\0\0\5")));
    ck_assert(!equal(SLICE("D\1\0\0\0\5"), SLICE("D\2\0\0\0\5")));
    ck_assert(!equal(SLICE("D\1\0\0\0\5"), SLICE("D\1\0\0\0\6")));
    ck_assert(equal(SLICE("T\0\0\0\0\0\0\0\5"), SLICE("T\0\0\0\0\0\0\0\5")));
    ck_assert(!equal(SLICE("T\0\0\0\0\0\0\0\5"), SLICE("T\0\0\0\0\0\0\0\6")));
    ck_assert(equal(SLICE("V"), SLICE("V")));
    ck_assert(!equal(SLICE("V"), SLICE("t\0")));
    ck_assert(!equal(SLICE("A\0\0\0\0"), SLICE("F\0\0\0\0")));
    ck_assert(
        !amqp_value_equal(&(struct amqp_value){.type = '?'}, &(struct amqp_value){.type = '?'}));
}
END_TEST

START_TEST(arrays_are_compared_item_by_item)
{
    ck_assert(equal(SLICE("A\0\0\0\7I\0\0\0\1b\2"), SLICE("A\0\0\0\4b\1b\2")));
    ck_assert(!equal(SLICE("A\0\0\0\4b\1b\2"), SLICE("A\0\0\0\4b\2b\1")));
    ck_assert(!equal(SLICE("A\0\0\0\4b\1b\2"), SLICE("A\0\0\0\2b\1")));
    ck_assert(!equal(SLICE("A\0\0\0\0"), SLICE("A\0\0\0\2b\1")));
    ck_assert(!equal(SLICE("A\0\0\0\3b\1?"), SLICE("A\0\0\0\3b\1!")));
}
END_TEST

START_TEST(tables_are_compared_in_any_order)
{
    ck_assert(amqp_table_equivalent((struct slice){0}, SLICE("")));
    ck_assert(amqp_table_equivalent(SLICE("\1at\1\1bt\0"), SLICE("\1bt\0\1at\1")));
    ck_assert(!amqp_table_equivalent(SLICE("\1at\1\1bt\0"), SLICE("\1bt\1\1at\0")));
    ck_assert(!amqp_table_equivalent(SLICE("\1at\1\1bt\0"), SLICE("\1at\1")));
    ck_assert(!amqp_table_equivalent(SLICE("\1at\1"), SLICE("\1at\1\1bt\0")));
    ck_assert(!amqp_table_equivalent(SLICE("\1at\1"), SLICE("")));
    ck_assert(!amqp_table_equivalent(SLICE("\1at\1\2abV"), SLICE("\1at\1\2acV")));
    ck_assert(!amqp_table_equivalent(SLICE("\1aV"), SLICE("\2aaV")));
    ck_assert(equal(SLICE("F\0\0\0\10\1ab\1\1bb\2"), SLICE("F\0\0\0\10\1bB\2\1aB\1")));
}
END_TEST

START_TEST(of_a_name_given_twice_the_first_value_counts)
{
    ck_assert(amqp_table_equivalent(SLICE("\1ab\1\1ab\2"), SLICE("\1ab\1")));
    ck_assert(!amqp_table_equivalent(SLICE("\1ab\1\1ab\2"), SLICE("\1ab\2")));
    ck_assert(amqp_table_equivalent(SLICE("\1ab\1\1cV\1ab\2"), SLICE("\1cV\1ab\1\1ab\3")));
}
END_TEST

START_TEST(malformed_tables_equal_only_the_same_bytes)
{
    ck_assert(!amqp_table_equivalent(SLICE("\1aV\1b"), SLICE("\1aV")));
    ck_assert(!amqp_table_equivalent(SLICE("\1aV"), SLICE("\1aV\1b?")));
    ck_assert(amqp_table_equivalent(SLICE("\1a?"), SLICE("\1a?")));
}
END_TEST

/* ---- cost ---- */

#define MANY 50000u

/* MANY entries named by their number, from first to last or from last to first. */
static struct slice
many_entries(bool is_reversed)
{
    char *bytes = malloc(MANY * 6u);

    ck_assert_ptr_nonnull(bytes);
    for (uint32_t i = 0; i < MANY; i++) {
        uint8_t *entry = (uint8_t *)bytes + i * 6u;

        entry[0] = 4;
        amqp_store_u32(entry + 1, is_reversed ? MANY - 1 - i : i);
        entry[5] = 'V';
    }
    return (struct slice){.data = bytes, .size = MANY * 6u};
}

static void
slice_free(struct slice slice)
{
    free((void *)(uintptr_t)slice.data);
}

/* Comparing each entry with every other would take 2.5 thousand million steps and the time limit.
 */
START_TEST(many_entries_in_another_order_are_compared_quickly)
{
    struct slice forward = many_entries(false), backward = many_entries(true);

    ck_assert(amqp_table_equivalent(forward, backward));
    ((char *)(uintptr_t)backward.data)[5] = 'X';
    ck_assert(!amqp_table_equivalent(forward, backward));
    slice_free(forward);
    slice_free(backward);
}
END_TEST

/* A table nested `levels` deep, at each level a void "n" before or after the nested table "t". */
static struct slice
ladder(unsigned levels, bool is_reversed)
{
    size_t size = levels * 10u;
    char *bytes = malloc(size);
    size_t from = 0, to = size;

    ck_assert_ptr_nonnull(bytes);
    for (unsigned level = 0; level < levels; level++) {
        if (is_reversed) {
            memcpy(bytes + to - 3, "\1nV", 3);
            to -= 3;
        } else {
            memcpy(bytes + from, "\1nV", 3);
            from += 3;
        }
        memcpy(bytes + from, "\1tF", 3);
        amqp_store_u32((uint8_t *)bytes + from + 3, (uint32_t)(to - from - 7));
        from += 7;
    }
    return (struct slice){.data = bytes, .size = size};
}

START_TEST(nested_tables_in_another_order_are_compared_to_the_limit)
{
    for (unsigned levels = 1; levels < AMQP_TABLE_MAX_DEPTH + 4; levels++) {
        struct slice forward = ladder(levels, false), backward = ladder(levels, true);
        bool is_within = amqp_table_validate(forward, AMQP_TABLE_MAX_DEPTH) == 0;

        ck_assert_int_eq(is_within, levels < AMQP_TABLE_MAX_DEPTH);
        /* the empty innermost tables are the same bytes, so one level more than valid is equal */
        ck_assert_int_eq(amqp_table_equivalent(forward, backward), levels <= AMQP_TABLE_MAX_DEPTH);
        slice_free(forward);
        slice_free(backward);
    }
}
END_TEST

START_TEST(without_memory_large_tables_count_as_different)
{
    struct slice forward = many_entries(false), backward = many_entries(true);

    memory_is_out = true;
    ck_assert(!amqp_table_equivalent(forward, backward));
    ck_assert(amqp_table_equivalent(forward, forward));
    ck_assert(amqp_table_equivalent(SLICE("\1at\1\1bt\0"), SLICE("\1bt\0\1at\1")));
    memory_is_out = false;
    slice_free(forward);
    slice_free(backward);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("amqp table compare");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, integers_of_all_widths_are_compared_by_value);
    tcase_add_test(tests, other_types_are_compared_within_their_class);
    tcase_add_test(tests, arrays_are_compared_item_by_item);
    tcase_add_test(tests, tables_are_compared_in_any_order);
    tcase_add_test(tests, of_a_name_given_twice_the_first_value_counts);
    tcase_add_test(tests, malformed_tables_equal_only_the_same_bytes);
    tcase_add_test(tests, many_entries_in_another_order_are_compared_quickly);
    tcase_add_test(tests, nested_tables_in_another_order_are_compared_to_the_limit);
    tcase_add_test(tests, without_memory_large_tables_count_as_different);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
