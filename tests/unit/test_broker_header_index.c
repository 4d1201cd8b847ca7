/* Looking up headers: whatever their number and that of the questions, the answers are those of
 * amqp_table_find. */
#include "broker/header_index.h"

#include <stdio.h>

#include "test_broker_support.h"

enum { NAMES = 3000 };

static struct header_index the_index;

/* Header `i` has the value `i`; every second name is given a second time with another. */
static void
put_headers(struct amqp_table_builder *builder, int count)
{
    char name[32];
    amqp_table_builder_init(builder);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%d", i);
        amqp_table_builder_put_int32(builder, slice_from(name), i);
        snprintf(name, sizeof(name), "%d", i / 2 * 2);
        amqp_table_builder_put_int32(builder, slice_from(name), i);
    }
    ck_assert(!amqp_table_builder_failed(builder));
}

static void
check_answers(struct slice headers, int from, int to)
{
    char text[32];
    for (int i = from; i < to; i++) {
        struct amqp_value value, wanted;
        snprintf(text, sizeof(text), "%d", i);
        bool is_there = amqp_table_find(headers, slice_from(text), &wanted);
        ck_assert_int_eq(header_index_find(&the_index, slice_from(text), &value), is_there);
        if (is_there)
            ck_assert_int_eq(value.integer, wanted.integer);
    }
}

START_TEST(answers_are_those_of_the_table)
{
    static const int counts[] = {0, 1, 20, NAMES, 7, NAMES / 2, 300};
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        struct amqp_table_builder builder;
        put_headers(&builder, counts[i]);
        struct slice headers = amqp_table_builder_finish(&builder);
        header_index_begin(&the_index, headers);
        check_answers(headers, -50, counts[i] + 50);
        amqp_table_builder_free(&builder);
    }
    header_index_fini(&the_index);
}
END_TEST

START_TEST(a_table_is_gone_through_a_few_times_only)
{
    struct amqp_table_builder builder;
    struct amqp_value value;
    put_headers(&builder, NAMES);
    header_index_begin(&the_index, amqp_table_builder_finish(&builder));
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(header_index_find(&the_index, SLICE("none"), &value), 0);
    ck_assert(the_index.is_built);
    ck_assert_uint_eq(the_index.looked_at, 2 * NAMES);
    amqp_table_builder_free(&builder);
    header_index_fini(&the_index);
}
END_TEST

START_TEST(few_headers_need_no_index)
{
    struct amqp_table_builder builder;
    put_headers(&builder, 5);
    header_index_begin(&the_index, amqp_table_builder_finish(&builder));
    check_answers(the_index.headers, 0, 20);
    ck_assert(!the_index.is_built);
    amqp_table_builder_free(&builder);
    header_index_fini(&the_index);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, answers_are_those_of_the_table);
    tcase_add_test(tests, a_table_is_gone_through_a_few_times_only);
    tcase_add_test(tests, few_headers_need_no_index);
}

int
main(void)
{
    return run_suite("broker/header_index", add);
}
