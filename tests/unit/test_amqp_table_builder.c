/* What the builder makes is what the reader reads, and every error sticks.
 *
 * The file under test is included, so that its memory can be made to run out. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

static int allocations_left = -1; /* negative: no limit */

static void *
realloc_or_not(void *memory, size_t size)
{
    if (allocations_left == 0)
        return NULL;
    if (allocations_left > 0)
        allocations_left--;
    return realloc(memory, size);
}

#define realloc realloc_or_not
#include "amqp/table_builder.c"
#undef realloc

static const struct slice no_name = {0};

START_TEST(entries_are_written_as_other_implementations_do)
{
    /* as pika 1.2 encodes {'i': 5, 'big': 2**40, 's': 'str', 'b': True, 't': a date, 'n': None,
     * 'a': [1, 'x', {'y': -1}]} */
    static const char expected[] = "\1iI\0\0\0\5"
                                   "\3bigl\0\0\1\0\0\0\0\0"
                                   "\1sS\0\0\0\3str"
                                   "\1bt\1"
                                   "\1tT\0\0\0\0\x65\x92\0\x80"
                                   "\1nV"
                                   "\1aA\0\0\0\x17I\0\0\0\1S\0\0\0\1xF\0\0\0\7\1yI\xff\xff\xff\xff";
    struct amqp_table_builder builder;
    struct slice table;

    amqp_table_builder_init(&builder);
    amqp_table_builder_put_int32(&builder, SLICE("i"), 5);
    amqp_table_builder_put_int64(&builder, SLICE("big"), INT64_C(1) << 40);
    amqp_table_builder_put_string(&builder, SLICE("s"), SLICE("str"));
    amqp_table_builder_put_bool(&builder, SLICE("b"), true);
    amqp_table_builder_put_timestamp(&builder, SLICE("t"), 0x65920080);
    amqp_table_builder_put_void(&builder, SLICE("n"));
    amqp_table_builder_begin_array(&builder, SLICE("a"));
    amqp_table_builder_put_int32(&builder, no_name, 1);
    amqp_table_builder_put_string(&builder, SLICE("ignored"), SLICE("x"));
    amqp_table_builder_begin_table(&builder, no_name);
    amqp_table_builder_put_int32(&builder, SLICE("y"), -1);
    amqp_table_builder_end_table(&builder);
    amqp_table_builder_end_array(&builder);
    table = amqp_table_builder_finish(&builder);
    ck_assert(!amqp_table_builder_failed(&builder));
    ck_assert_uint_eq(table.size, sizeof(expected) - 1);
    ck_assert_mem_eq(table.data, expected, table.size);
    ck_assert_int_eq(amqp_table_validate(table, AMQP_TABLE_MAX_DEPTH), 0);
    amqp_table_builder_free(&builder);
}
END_TEST

START_TEST(every_value_is_copied_as_it_was_read)
{
    static const char wire[] = "\1tt\1\1bb\x80\1BB\xFF\1ss\x80\0\1uu\xFF\xFF\1II\x80\0\0\0"
                               "\1ii\xFF\xFF\xFF\xFF\1ll\x80\0\0\0\0\0\0\0"
                               "\1LL\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\1ff\xFF\x7F\xFF\xFF"
                               "\1dd\x7F\xEF\xFF\xFF\xFF\xFF\xFF\xFF\1gf\x7F\x80\0\0"
                               "\1DD\xFF\xFF\xFF\xFF\xFF\1TT\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"
                               "\1VV\1SS\0\0\0\0\1xx\0\0\0\1\0\1AA\0\0\0\1V\1FF\0\0\0\2\0V";
    struct amqp_table_iterator iterator =
        amqp_table_begin((struct slice){.data = wire, .size = sizeof(wire) - 1});
    struct amqp_table_builder builder;
    struct slice name, table;
    struct amqp_value value;
    int result;

    amqp_table_builder_init(&builder);
    while ((result = amqp_table_next(&iterator, &name, &value)) == 1)
        amqp_table_builder_put_value(&builder, name, &value);
    ck_assert_int_eq(result, 0);
    table = amqp_table_builder_finish(&builder);
    ck_assert_uint_eq(table.size, sizeof(wire) - 1);
    ck_assert_mem_eq(table.data, wire, table.size);
    amqp_table_builder_free(&builder);
}
END_TEST

/* Whether a value can be put. */
static bool
can_put(struct amqp_value value)
{
    struct amqp_table_builder builder;
    bool can;

    amqp_table_builder_init(&builder);
    amqp_table_builder_put_value(&builder, SLICE("k"), &value);
    can = !builder.invalid;
    ck_assert_int_eq(amqp_table_builder_finish(&builder).size != 0, can);
    amqp_table_builder_free(&builder);
    return can;
}

START_TEST(value_out_of_its_types_range_is_invalid)
{
    static const struct {
        char tag;
        int64_t least, most;
    } ranges[] = {
        {'b', INT8_MIN, INT8_MAX}, {'B', 0, UINT8_MAX},         {'s', INT16_MIN, INT16_MAX},
        {'u', 0, UINT16_MAX},      {'I', INT32_MIN, INT32_MAX}, {'i', 0, UINT32_MAX},
    };

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        uint8_t type = (uint8_t)ranges[i].tag;

        ck_assert(can_put((struct amqp_value){.type = type, .integer = ranges[i].least}));
        ck_assert(can_put((struct amqp_value){.type = type, .integer = ranges[i].most}));
        ck_assert(!can_put((struct amqp_value){.type = type, .integer = ranges[i].least - 1}));
        ck_assert(!can_put((struct amqp_value){.type = type, .integer = ranges[i].most + 1}));
    }
    ck_assert(can_put((struct amqp_value){.type = 'l', .integer = INT64_MIN}));
    ck_assert(can_put((struct amqp_value){.type = 'L', .integer = INT64_MAX}));
    ck_assert(can_put((struct amqp_value){.type = 'd', .real = 1e300}));
    ck_assert(!can_put((struct amqp_value){.type = 'f', .real = 1e300}));
    ck_assert(!can_put((struct amqp_value){.type = 'f', .real = -1e300}));
    ck_assert(can_put((struct amqp_value){.type = 'f', .real = -INFINITY}));
    ck_assert(can_put((struct amqp_value){.type = 'f', .real = NAN}));
    ck_assert(!can_put((struct amqp_value){.type = '?'}));
    ck_assert(!can_put((struct amqp_value){.type = 0}));
}
END_TEST

START_TEST(names_have_up_to_255_bytes)
{
    struct amqp_table_builder builder;
    char name[256];

    memset(name, 'n', sizeof(name));
    amqp_table_builder_init(&builder);
    amqp_table_builder_put_void(&builder, (struct slice){.data = name, .size = 255});
    ck_assert_uint_eq(amqp_table_builder_finish(&builder).size, 257);
    amqp_table_builder_put_void(&builder, (struct slice){.data = name, .size = 256});
    ck_assert(builder.invalid);
    ck_assert_uint_eq(amqp_table_builder_finish(&builder).size, 0);
    amqp_table_builder_free(&builder);
}
END_TEST

START_TEST(lengths_at_their_extremes_are_invalid)
{
    static const size_t sizes[] = {UINT32_MAX, UINT32_MAX - 3, (size_t)UINT32_MAX + 1, SIZE_MAX};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct amqp_table_builder builder;

        amqp_table_builder_init(&builder);
        amqp_table_builder_put_string(&builder, SLICE("k"),
                                      (struct slice){.data = "", .size = sizes[i]});
        ck_assert_msg(builder.invalid, "case %zu", i);
        ck_assert_ptr_null(builder.data);
        amqp_table_builder_free(&builder);
    }
}
END_TEST

START_TEST(begins_and_ends_must_match)
{
    struct amqp_table_builder builder;

    amqp_table_builder_init(&builder);
    amqp_table_builder_end_table(&builder);
    ck_assert(builder.invalid);

    amqp_table_builder_free(&builder);
    ck_assert(!builder.invalid);
    amqp_table_builder_begin_array(&builder, SLICE("a"));
    amqp_table_builder_end_table(&builder);
    ck_assert(builder.invalid);

    amqp_table_builder_free(&builder);
    amqp_table_builder_begin_table(&builder, SLICE("a"));
    ck_assert(!builder.invalid);
    ck_assert_uint_eq(amqp_table_builder_finish(&builder).size, 0);
    ck_assert(builder.invalid);
    amqp_table_builder_free(&builder);
}
END_TEST

START_TEST(nesting_goes_as_deep_as_readers_accept)
{
    struct amqp_table_builder builder;
    struct slice table;

    amqp_table_builder_init(&builder);
    for (unsigned i = 0; i < AMQP_TABLE_MAX_DEPTH - 1; i++)
        amqp_table_builder_begin_table(&builder, SLICE("t"));
    for (unsigned i = 0; i < AMQP_TABLE_MAX_DEPTH - 1; i++)
        amqp_table_builder_end_table(&builder);
    table = amqp_table_builder_finish(&builder);
    ck_assert_uint_eq(table.size, (AMQP_TABLE_MAX_DEPTH - 1) * 7u);
    ck_assert_int_eq(amqp_table_validate(table, AMQP_TABLE_MAX_DEPTH), 0);
    ck_assert_int_eq(amqp_table_validate(table, AMQP_TABLE_MAX_DEPTH - 1), AMQP_TABLE_TOO_DEEP);

    for (unsigned i = 0; i < AMQP_TABLE_MAX_DEPTH; i++)
        amqp_table_builder_begin_table(&builder, SLICE("t"));
    ck_assert(builder.invalid);
    amqp_table_builder_free(&builder);
}
END_TEST

START_TEST(builder_grows)
{
    struct amqp_table_builder builder;
    struct slice table;
    struct amqp_value value;

    amqp_table_builder_init(&builder);
    for (int32_t i = 0; i < 10000; i++)
        amqp_table_builder_put_int32(&builder,
                                     (struct slice){.data = (char *)&i, .size = sizeof(i)}, i);
    table = amqp_table_builder_finish(&builder);
    ck_assert_uint_eq(table.size, 10000 * 10);
    for (int32_t i = 0; i < 10000; i += 999) {
        ck_assert(
            amqp_table_find(table, (struct slice){.data = (char *)&i, .size = sizeof(i)}, &value));
        ck_assert_int_eq(value.integer, i);
    }
    amqp_table_builder_free(&builder);
}
END_TEST

START_TEST(out_of_memory_is_for_good)
{
    struct amqp_table_builder builder;
    char text[200] = {0};

    for (int allowed = 0; allowed < 2; allowed++) {
        amqp_table_builder_init(&builder);
        allocations_left = allowed;
        amqp_table_builder_begin_table(&builder, SLICE("t"));
        amqp_table_builder_put_string(&builder, SLICE("s"),
                                      (struct slice){.data = text, .size = sizeof(text)});
        allocations_left = -1;
        ck_assert(builder.out_of_memory);
        amqp_table_builder_end_table(&builder);
        amqp_table_builder_put_bool(&builder, SLICE("b"), true);
        ck_assert(amqp_table_builder_failed(&builder));
        ck_assert_uint_eq(amqp_table_builder_finish(&builder).size, 0);
        amqp_table_builder_free(&builder);
    }
}
END_TEST

START_TEST(nothing_put_makes_an_empty_table)
{
    struct amqp_table_builder builder;

    amqp_table_builder_init(&builder);
    ck_assert_uint_eq(amqp_table_builder_finish(&builder).size, 0);
    ck_assert(!amqp_table_builder_failed(&builder));
    amqp_table_builder_put_table(&builder, SLICE("f"), SLICE(""));
    amqp_table_builder_put_array(&builder, SLICE("a"), no_name);
    amqp_table_builder_put_double(&builder, SLICE("d"), -2.5);
    ck_assert(slice_equal(amqp_table_builder_finish(&builder),
                          SLICE("\1fF\0\0\0\0\1aA\0\0\0\0\1dd\xC0\4\0\0\0\0\0\0")));
    amqp_table_builder_free(&builder);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("amqp table builder");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, entries_are_written_as_other_implementations_do);
    tcase_add_test(tests, every_value_is_copied_as_it_was_read);
    tcase_add_test(tests, value_out_of_its_types_range_is_invalid);
    tcase_add_test(tests, names_have_up_to_255_bytes);
    tcase_add_test(tests, lengths_at_their_extremes_are_invalid);
    tcase_add_test(tests, begins_and_ends_must_match);
    tcase_add_test(tests, nesting_goes_as_deep_as_readers_accept);
    tcase_add_test(tests, builder_grows);
    tcase_add_test(tests, out_of_memory_is_for_good);
    tcase_add_test(tests, nothing_put_makes_an_empty_table);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
