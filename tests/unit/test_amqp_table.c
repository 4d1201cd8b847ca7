/* Field tables: every type is read as RabbitMQ reads it, every malformed byte is noticed, nesting
 * has a bound. */
#include <check.h>
#include <stdlib.h>

#include "amqp/table.h"
#include "amqp/wire.h"

/* One entry of each type, named by its tag. */
static const char every_type[] = "\1tt\7"
                                 "\1bb\xFF"
                                 "\1BB\xFF"
                                 "\1ss\xFF\xFE"
                                 "\1uu\xFF\xFE"
                                 "\1II\xFF\xFF\xFF\xFD"
                                 "\1ii\xFF\xFF\xFF\xFD"
                                 "\1ll\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFC"
                                 "\1LL\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF"
                                 "\1ff\x3F\xC0\0\0"
                                 "\1dd\xC0\x04\0\0\0\0\0\0"
                                 "\1DD\2\0\0\1\x3A"
                                 "\1TT\0\0\0\0\x65\x92\0\x80"
                                 "\1VV"
                                 "\1SS\0\0\0\3abc"
                                 "\1xx\0\0\0\2\0\xFF"
                                 "\1AA\0\0\0\3t\1V"
                                 "\1FF\0\0\0\3\1kV";

static struct slice
all_types(void)
{
    return (struct slice){.data = every_type, .size = sizeof(every_type) - 1};
}

/* Bytes in memory of exactly their size, so that a sanitizer sees a read past them. */
static char *
exact_copy(const char *bytes, size_t size)
{
    char *copy = malloc(size != 0 ? size : 1);

    ck_assert_ptr_nonnull(copy);
    if (size != 0)
        memcpy(copy, bytes, size);
    return copy;
}

/* The value of a name that must be there. */
static struct amqp_value
find(struct slice table, const char *name)
{
    struct amqp_value value;

    ck_assert_msg(amqp_table_find(table, slice_from(name), &value), "no %s", name);
    return value;
}

/* Whether iteration into every nested table and array meets nothing malformed: what
 * amqp_table_validate must agree with. */
static bool
is_well_formed(struct slice content, bool is_array, unsigned depth)
{
    struct amqp_table_iterator iterator = amqp_table_begin(content);
    struct amqp_value value;
    struct slice name;
    int result;

    if (depth > AMQP_TABLE_MAX_DEPTH)
        return false;
    while ((result = is_array ? amqp_array_next(&iterator, &value)
                              : amqp_table_next(&iterator, &name, &value))
           == 1) {
        if ((value.type == 'F' || value.type == 'A')
            && !is_well_formed(value.bytes, value.type == 'A', depth + 1))
            return false;
    }
    return result == 0;
}

/* ---- types ---- */

START_TEST(every_type_is_read)
{
    struct slice table = all_types();

    ck_assert_int_eq(amqp_table_validate(table, AMQP_TABLE_MAX_DEPTH), 0);
    ck_assert(find(table, "t").boolean);
    ck_assert_int_eq(find(table, "b").integer, -1);
    ck_assert_int_eq(find(table, "B").integer, 255);
    ck_assert_int_eq(find(table, "s").integer, -2);
    ck_assert_int_eq(find(table, "u").integer, 65534);
    ck_assert_int_eq(find(table, "I").integer, -3);
    ck_assert_int_eq(find(table, "i").integer, 4294967293);
    ck_assert_int_eq(find(table, "l").integer, -4);
    ck_assert_int_eq(find(table, "L").integer, INT64_MAX);
    ck_assert_double_eq(find(table, "f").real, 1.5);
    ck_assert_double_eq(find(table, "d").real, -2.5);
    ck_assert_uint_eq(find(table, "D").decimal.scale, 2);
    ck_assert_int_eq(find(table, "D").decimal.value, 314);
    ck_assert_uint_eq(find(table, "T").timestamp, 0x65920080);
    ck_assert_uint_eq(find(table, "V").type, 'V');
    ck_assert(slice_is(find(table, "S").bytes, "abc"));
    ck_assert(slice_equal(find(table, "x").bytes, SLICE("\0\xFF")));
    ck_assert(slice_equal(find(table, "A").bytes, SLICE("t\1V")));
    ck_assert(slice_equal(find(table, "F").bytes, SLICE("\1kV")));
}
END_TEST

START_TEST(types_have_the_names_that_error_texts_print)
{
    static const struct {
        char tag;
        const char *name;
    } names[] = {
        {'t', "bool"},          {'b', "byte"},      {'B', "unsignedbyte"}, {'s', "short"},
        {'u', "unsignedshort"}, {'I', "signedint"}, {'i', "unsignedint"},  {'l', "long"},
        {'L', "long"},          {'f', "float"},     {'d', "double"},       {'D', "decimal"},
        {'T', "timestamp"},     {'V', "void"},      {'S', "longstr"},      {'x', "binary"},
        {'A', "array"},         {'F', "table"},
    };
    size_t known = 0;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        ck_assert_str_eq(amqp_value_type_name((uint8_t)names[i].tag), names[i].name);
    for (unsigned tag = 0; tag < 256; tag++)
        known += strcmp(amqp_value_type_name((uint8_t)tag), "unknown") != 0;
    ck_assert_uint_eq(known, sizeof(names) / sizeof(names[0]));
}
END_TEST

START_TEST(eight_types_are_integers)
{
    size_t count = 0;

    for (unsigned tag = 0; tag < 256; tag++) {
        bool is_integer = amqp_value_is_integer(&(struct amqp_value){.type = (uint8_t)tag});

        ck_assert_int_eq(is_integer, tag != 0 && strchr("bBsuIilL", (int)tag) != NULL);
        count += is_integer;
    }
    ck_assert_uint_eq(count, 8);
}
END_TEST

/* ---- iterating ---- */

START_TEST(entries_come_in_order_and_end)
{
    struct amqp_table_iterator iterator = amqp_table_begin(all_types());
    struct slice name;
    struct amqp_value value;

    for (const char *tag = "tbBsuIilLfdDTVSxAF"; *tag != '\0'; tag++) {
        ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), 1);
        ck_assert_uint_eq(value.type, (uint8_t)*tag);
        ck_assert_uint_eq(name.size, 1);
        ck_assert_int_eq(name.data[0], *tag);
    }
    ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), 0);
    ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), 0);
}
END_TEST

START_TEST(items_of_an_array_have_no_names)
{
    struct amqp_table_iterator iterator =
        amqp_table_begin(SLICE("I\0\0\0\1S\0\0\0\1xF\0\0\0\7\1yI\xff\xff\xff\xff"));
    struct amqp_value value;

    ck_assert_int_eq(amqp_array_next(&iterator, &value), 1);
    ck_assert_int_eq(value.integer, 1);
    ck_assert_int_eq(amqp_array_next(&iterator, &value), 1);
    ck_assert(slice_is(value.bytes, "x"));
    ck_assert_int_eq(amqp_array_next(&iterator, &value), 1);
    ck_assert_int_eq(find(value.bytes, "y").integer, -1);
    ck_assert_int_eq(amqp_array_next(&iterator, &value), 0);
}
END_TEST

START_TEST(malformed_rest_stays_malformed)
{
    struct amqp_table_iterator iterator = amqp_table_begin(SLICE("\1at\1\1bt"));
    struct slice name;
    struct amqp_value value;

    ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), 1);
    ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), -1);
    ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), -1);
}
END_TEST

START_TEST(empty_table_has_no_entries)
{
    struct amqp_table_iterator iterator = amqp_table_begin((struct slice){0});
    struct slice name;
    struct amqp_value value;

    ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), 0);
    ck_assert_int_eq(amqp_table_validate((struct slice){0}, 1), 0);
    ck_assert(!amqp_table_find((struct slice){0}, SLICE("k"), &value));
}
END_TEST

START_TEST(first_entry_of_a_name_is_found)
{
    struct slice table = SLICE("\1aI\0\0\0\1\2abI\0\0\0\2\1aI\0\0\0\3\0I\0\0\0\4");
    struct amqp_value value;

    ck_assert_int_eq(find(table, "a").integer, 1);
    ck_assert_int_eq(find(table, "ab").integer, 2);
    ck_assert_int_eq(find(table, "").integer, 4);
    ck_assert(!amqp_table_find(table, SLICE("b"), &value));
    ck_assert(!amqp_table_find(table, SLICE("A"), &value));
    ck_assert(!amqp_table_find(table, SLICE("a\0"), &value));
}
END_TEST

START_TEST(names_have_up_to_255_bytes)
{
    char table[257 + 1];
    struct amqp_value value;

    memset(table, 'n', sizeof(table));
    table[0] = (char)0xFF;
    table[256] = 'V';
    ck_assert_int_eq(amqp_table_validate((struct slice){.data = table, .size = 257}, 32), 0);
    ck_assert(amqp_table_find((struct slice){.data = table, .size = 257},
                              (struct slice){.data = table + 1, .size = 255}, &value));
    ck_assert_int_eq(amqp_table_validate((struct slice){.data = table, .size = 256}, 32),
                     AMQP_TABLE_MALFORMED);
}
END_TEST

/* ---- malformed ---- */

START_TEST(table_cut_within_an_entry_is_malformed)
{
    struct slice table = all_types();
    struct amqp_table_iterator boundary = amqp_table_begin(table);
    struct slice name;
    struct amqp_value value;

    for (size_t cut = 0; cut < table.size; cut++) {
        char *bytes = exact_copy(table.data, cut);
        struct slice part = {.data = bytes, .size = cut};
        bool at_boundary;

        while ((size_t)(boundary.at - (const uint8_t *)table.data) < cut)
            ck_assert_int_eq(amqp_table_next(&boundary, &name, &value), 1);
        at_boundary = (size_t)(boundary.at - (const uint8_t *)table.data) == cut;
        ck_assert_msg(amqp_table_validate(part, 32) == (at_boundary ? 0 : AMQP_TABLE_MALFORMED),
                      "cut at %zu", cut);
        ck_assert_int_eq(is_well_formed(part, false, 1), at_boundary);
        free(bytes);
    }
}
END_TEST

START_TEST(validation_and_iteration_agree_on_every_damaged_byte)
{
    struct slice table = all_types();
    size_t accepted = 0;

    for (size_t at = 0; at < table.size; at++) {
        for (unsigned byte = 0; byte < 256; byte++) {
            char *bytes = exact_copy(table.data, table.size);
            struct slice damaged = {.data = bytes, .size = table.size};
            bool is_valid;

            bytes[at] = (char)byte;
            is_valid = amqp_table_validate(damaged, AMQP_TABLE_MAX_DEPTH) == 0;
            accepted += is_valid;
            ck_assert_msg(is_valid == is_well_formed(damaged, false, 1), "byte %zu = %u", at, byte);
            free(bytes);
        }
    }
    ck_assert_uint_gt(accepted, table.size); /* damage within a number leaves a table */
}
END_TEST

START_TEST(unknown_types_are_malformed)
{
    for (unsigned tag = 0; tag < 256; tag++) {
        char table[] = "\1k?\0\0\0\0\0\0\0\0";
        bool is_known = strcmp(amqp_value_type_name((uint8_t)tag), "unknown") != 0;
        struct amqp_table_iterator iterator =
            amqp_table_begin((struct slice){.data = table, .size = sizeof(table) - 1});
        struct slice name;
        struct amqp_value value;

        table[2] = (char)tag;
        ck_assert_int_eq(amqp_table_next(&iterator, &name, &value), is_known ? 1 : -1);
    }
}
END_TEST

START_TEST(lengths_at_their_extremes_are_malformed)
{
    static const struct slice tables[] = {
        SLICE("\1kS\xFF\xFF\xFF\xFF"),
        SLICE("\1kx\x80\0\0\0abc"),
        SLICE("\1kF\x7F\xFF\xFF\xFF"),
        SLICE("\1kA\xFF\xFF\xFF\xFF"),
        SLICE("\1kF\0\0\0\1"),
        SLICE("\1kA\0\0\0\1"),
        SLICE("\1kS\0\0\0"),
        SLICE("\1kF\0\0\0\3\1xt\1"),           /* child runs past the nested end */
        SLICE("\1kA\0\0\0\7S\0\0\0\3ab\1xV"),  /* so does a string */
        SLICE("\1kF\0\0\0\7\1xF\0\0\0\2\1yV"), /* grandchild longer than its parent */
        SLICE("\377k"),
        SLICE("\1"),
        SLICE("\0"),
    };

    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        char *bytes = exact_copy(tables[i].data, tables[i].size);
        struct slice table = {.data = bytes, .size = tables[i].size};

        ck_assert_msg(amqp_table_validate(table, 32) == AMQP_TABLE_MALFORMED, "case %zu", i);
        ck_assert_msg(!is_well_formed(table, false, 1), "case %zu", i);
        free(bytes);
    }
}
END_TEST

/* ---- depth ---- */

/* A table with `levels` tables or arrays inside one another. The caller frees it. */
static struct slice
nested(unsigned levels, char tag)
{
    const size_t step = tag == 'F' ? 6 : 5; /* name, tag, length */
    const size_t size = 6 + (levels - 1) * step;
    char *bytes = malloc(size);
    size_t at = 0;

    ck_assert_ptr_nonnull(bytes);
    for (unsigned level = 0; level < levels; level++) {
        if (level == 0 || tag == 'F')
            bytes[at++] = 0;
        bytes[at++] = tag;
        amqp_store_u32((uint8_t *)bytes + at, (uint32_t)(size - at - 4));
        at += 4;
    }
    ck_assert_uint_eq(at, size);
    return (struct slice){.data = bytes, .size = size};
}

static void
slice_free(struct slice slice)
{
    free((void *)(uintptr_t)slice.data);
}

START_TEST(nesting_is_allowed_up_to_the_limit)
{
    for (unsigned levels = 1; levels < 2 * AMQP_TABLE_MAX_DEPTH; levels++) {
        struct slice tables = nested(levels, 'F'), arrays = nested(levels, 'A');

        /* the table that holds the first level counts too */
        for (unsigned limit = 0; limit <= AMQP_TABLE_MAX_DEPTH; limit++) {
            int expected = levels + 1 <= limit ? 0 : AMQP_TABLE_TOO_DEEP;

            ck_assert_int_eq(amqp_table_validate(tables, limit), expected);
            ck_assert_int_eq(amqp_table_validate(arrays, limit), expected);
        }
        slice_free(tables);
        slice_free(arrays);
    }
}
END_TEST

START_TEST(ten_thousand_levels_are_refused)
{
    struct slice tables = nested(10000, 'F'), arrays = nested(10000, 'A');
    struct slice tables_other = nested(9999, 'F'), arrays_other = nested(9999, 'A');
    struct amqp_value value;

    ck_assert_int_eq(amqp_table_validate(tables, UINT32_MAX), AMQP_TABLE_TOO_DEEP);
    ck_assert_int_eq(amqp_table_validate(arrays, UINT32_MAX), AMQP_TABLE_TOO_DEEP);
    ck_assert(amqp_table_find(tables, SLICE(""), &value));
    ck_assert_uint_eq(value.type, 'F');
    ck_assert(!amqp_table_equivalent(tables, tables_other));
    ck_assert(!amqp_table_equivalent(arrays, arrays_other));
    slice_free(tables);
    slice_free(arrays);
    slice_free(tables_other);
    slice_free(arrays_other);
}
END_TEST

START_TEST(many_siblings_are_not_deep)
{
    char table[6 * 1000];

    for (size_t i = 0; i < 1000; i++)
        memcpy(table + 6 * i, "\0F\0\0\0\0", 6);
    ck_assert_int_eq(amqp_table_validate((struct slice){.data = table, .size = sizeof(table)}, 2),
                     0);
    ck_assert_int_eq(amqp_table_validate((struct slice){.data = table, .size = sizeof(table)}, 1),
                     AMQP_TABLE_TOO_DEEP);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("amqp table");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, every_type_is_read);
    tcase_add_test(tests, types_have_the_names_that_error_texts_print);
    tcase_add_test(tests, eight_types_are_integers);
    tcase_add_test(tests, entries_come_in_order_and_end);
    tcase_add_test(tests, items_of_an_array_have_no_names);
    tcase_add_test(tests, malformed_rest_stays_malformed);
    tcase_add_test(tests, empty_table_has_no_entries);
    tcase_add_test(tests, first_entry_of_a_name_is_found);
    tcase_add_test(tests, names_have_up_to_255_bytes);
    tcase_add_test(tests, table_cut_within_an_entry_is_malformed);
    tcase_add_test(tests, validation_and_iteration_agree_on_every_damaged_byte);
    tcase_add_test(tests, unknown_types_are_malformed);
    tcase_add_test(tests, lengths_at_their_extremes_are_malformed);
    tcase_add_test(tests, nesting_is_allowed_up_to_the_limit);
    tcase_add_test(tests, ten_thousand_levels_are_refused);
    tcase_add_test(tests, many_siblings_are_not_deep);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
