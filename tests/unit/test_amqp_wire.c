/* The primitive types: what goes out comes back, nothing is touched past the end, errors stick. */
#include <check.h>
#include <stdlib.h>

#include "amqp/wire.h"

/* A copy in memory of exactly its size, so that a sanitizer sees a read past it. */
static struct slice
exact_copy(const void *bytes, size_t size)
{
    char *copy = malloc(size != 0 ? size : 1);

    ck_assert_ptr_nonnull(copy);
    if (size != 0)
        memcpy(copy, bytes, size);
    return (struct slice){.data = copy, .size = size};
}

static void
slice_free(struct slice slice)
{
    free((void *)(uintptr_t)slice.data);
}

START_TEST(numbers_are_in_network_byte_order)
{
    uint8_t out[15];
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));
    struct amqp_reader reader;

    amqp_write_u8(&writer, 0x01);
    amqp_write_u16(&writer, 0x0203);
    amqp_write_u32(&writer, 0x04050607);
    amqp_write_u64(&writer, 0x08090A0B0C0D0E0F);
    ck_assert(!writer.overflow);
    ck_assert_ptr_eq(writer.at, out + sizeof(out));
    for (size_t i = 0; i < sizeof(out); i++)
        ck_assert_uint_eq(out[i], i + 1);

    reader = amqp_reader_of((struct slice){.data = (char *)out, .size = sizeof(out)});
    ck_assert_uint_eq(amqp_read_u8(&reader), 0x01);
    ck_assert_uint_eq(amqp_read_u16(&reader), 0x0203);
    ck_assert_uint_eq(amqp_read_u32(&reader), 0x04050607);
    ck_assert_uint_eq(amqp_read_u64(&reader), 0x08090A0B0C0D0E0F);
    ck_assert(amqp_reader_done(&reader));
}
END_TEST

START_TEST(largest_numbers_survive)
{
    uint8_t out[15];
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));
    struct amqp_reader reader =
        amqp_reader_of((struct slice){.data = (char *)out, .size = sizeof(out)});

    amqp_write_u64(&writer, UINT64_MAX);
    amqp_write_u32(&writer, UINT32_MAX);
    amqp_write_u16(&writer, UINT16_MAX);
    amqp_write_u8(&writer, UINT8_MAX);
    ck_assert_uint_eq(amqp_read_u64(&reader), UINT64_MAX);
    ck_assert_uint_eq(amqp_read_u32(&reader), UINT32_MAX);
    ck_assert_uint_eq(amqp_read_u16(&reader), UINT16_MAX);
    ck_assert_uint_eq(amqp_read_u8(&reader), UINT8_MAX);
    ck_assert(amqp_reader_done(&reader));
}
END_TEST

START_TEST(eleven_bits_take_two_octets_lowest_first)
{
    static const bool bits[11] = {1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 1};
    uint8_t out[4];
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));
    struct amqp_reader reader;

    for (size_t i = 0; i < 11; i++)
        amqp_write_bit(&writer, bits[i]);
    amqp_write_u8(&writer, 0x77);
    ck_assert_uint_eq((size_t)(writer.at - out), 3);
    ck_assert_uint_eq(out[0], 0x8D);
    ck_assert_uint_eq(out[1], 0x06);
    ck_assert_uint_eq(out[2], 0x77);

    reader = amqp_reader_of((struct slice){.data = (char *)out, .size = 3});
    for (size_t i = 0; i < 11; i++)
        ck_assert_int_eq(amqp_read_bit(&reader), bits[i]);
    ck_assert_uint_eq(amqp_read_u8(&reader), 0x77);
    ck_assert(amqp_reader_done(&reader));
}
END_TEST

START_TEST(any_other_type_ends_a_run_of_bits)
{
    uint8_t out[8];
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));
    struct amqp_reader reader;

    amqp_write_bit(&writer, true);
    amqp_write_shortstr(&writer, SLICE("x"));
    amqp_write_bit(&writer, true);
    amqp_write_longstr(&writer, SLICE(""));
    ck_assert(!writer.overflow);
    ck_assert_mem_eq(out, "\1\1x\1\0\0\0\0", 8);

    reader = amqp_reader_of((struct slice){.data = (char *)out, .size = sizeof(out)});
    ck_assert(amqp_read_bit(&reader));
    ck_assert(slice_is(amqp_read_shortstr(&reader), "x"));
    ck_assert(amqp_read_bit(&reader));
    ck_assert_uint_eq(amqp_read_longstr(&reader).size, 0);
    ck_assert(amqp_reader_done(&reader));
}
END_TEST

START_TEST(unknown_bits_of_an_octet_are_ignored)
{
    struct amqp_reader reader = amqp_reader_of(SLICE("\xFC\x01"));

    ck_assert(!amqp_read_bit(&reader));
    ck_assert(!amqp_read_bit(&reader));
    ck_assert_uint_eq(amqp_read_u8(&reader), 1);
    ck_assert(amqp_reader_done(&reader));
}
END_TEST

START_TEST(reading_past_the_end_fails_for_good)
{
    struct slice bytes = exact_copy("\1\2\3", 3);
    struct amqp_reader reader = amqp_reader_of(bytes);

    ck_assert_uint_eq(amqp_read_u32(&reader), 0);
    ck_assert(reader.failed);
    ck_assert_uint_eq(amqp_read_u8(&reader), 0);
    ck_assert_uint_eq(amqp_read_u16(&reader), 0);
    ck_assert_uint_eq(amqp_read_u64(&reader), 0);
    ck_assert(!amqp_read_bit(&reader));
    ck_assert_uint_eq(amqp_read_shortstr(&reader).size, 0);
    ck_assert_ptr_nonnull(amqp_read_longstr(&reader).data);
    ck_assert_ptr_null(amqp_read_bytes(&reader, 0));
    ck_assert(reader.failed);
    ck_assert(!amqp_reader_done(&reader));
    slice_free(bytes);
}
END_TEST

START_TEST(bits_of_an_empty_reader_fail)
{
    struct amqp_reader reader = amqp_reader_of((struct slice){0});

    ck_assert(amqp_reader_done(&reader));
    ck_assert(!amqp_read_bit(&reader));
    ck_assert(!amqp_read_bit(&reader));
    ck_assert(reader.failed);
}
END_TEST

START_TEST(strings_longer_than_what_is_left_fail)
{
    struct slice bytes[] = {
        exact_copy("\4abc", 4),
        exact_copy("\0\0\0\4abc", 7),
        exact_copy("\xFF\xFF\xFF\xFFxyz", 7),
        exact_copy("\x7F\xFF\xFF\xFFxyz", 7),
        exact_copy("\x80\0\0\0xyz", 7),
        exact_copy("\0\0\0", 3),
        exact_copy("", 0),
    };

    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        struct amqp_reader as_short = amqp_reader_of(bytes[i]);
        struct amqp_reader as_long = amqp_reader_of(bytes[i]);
        struct amqp_reader as_table = amqp_reader_of(bytes[i]);

        if (i == 0 || i == 6) {
            ck_assert_uint_eq(amqp_read_shortstr(&as_short).size, 0);
            ck_assert(as_short.failed);
        }
        ck_assert_uint_eq(amqp_read_longstr(&as_long).size, 0);
        ck_assert_msg(as_long.failed, "longstr %zu", i);
        ck_assert_uint_eq(amqp_read_table(&as_table).size, 0);
        ck_assert_msg(as_table.failed, "table %zu", i);
        slice_free(bytes[i]);
    }
}
END_TEST

START_TEST(shortstr_holds_255_bytes_and_not_one_more)
{
    uint8_t out[600];
    char text[256];
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));
    struct amqp_reader reader;

    memset(text, 0xFE, sizeof(text));
    amqp_write_shortstr(&writer, (struct slice){.data = text, .size = 255});
    ck_assert(!writer.overflow);
    ck_assert_uint_eq((size_t)(writer.at - out), 256);
    reader = amqp_reader_of((struct slice){.data = (char *)out, .size = 256});
    ck_assert(slice_equal(amqp_read_shortstr(&reader), (struct slice){.data = text, .size = 255}));

    amqp_write_shortstr(&writer, (struct slice){.data = text, .size = 256});
    ck_assert(writer.overflow);
    ck_assert_uint_eq((size_t)(writer.at - out), 256);
}
END_TEST

START_TEST(strings_over_four_gibibytes_overflow_before_they_are_touched)
{
    uint8_t out[16];
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));

    amqp_write_longstr(&writer, (struct slice){.data = "", .size = (size_t)UINT32_MAX + 1});
    ck_assert(writer.overflow);
    ck_assert_ptr_eq(writer.at, out);

    writer = amqp_writer_of(out, sizeof(out));
    amqp_write_slice(&writer, (struct slice){.data = "", .size = SIZE_MAX});
    ck_assert(writer.overflow);
    ck_assert_ptr_eq(writer.at, out);
}
END_TEST

/* Writes one of everything. */
static void
write_all(struct amqp_writer *writer)
{
    amqp_write_u8(writer, 1);
    amqp_write_u16(writer, 2);
    amqp_write_bit(writer, true);
    amqp_write_bit(writer, true);
    amqp_write_u32(writer, 3);
    amqp_write_u64(writer, 4);
    amqp_write_shortstr(writer, SLICE("abc"));
    amqp_write_longstr(writer, SLICE("defg"));
    amqp_write_table(writer, SLICE("\1kV"));
}

START_TEST(writer_never_passes_its_end)
{
    uint8_t whole[64];
    struct amqp_writer writer = amqp_writer_of(whole, sizeof(whole));
    size_t size;

    write_all(&writer);
    ck_assert(!writer.overflow);
    size = (size_t)(writer.at - whole);
    for (size_t capacity = 0; capacity < size; capacity++) {
        struct slice room = exact_copy(whole, capacity); /* a sanitizer watches its end */
        uint8_t *out = (uint8_t *)(uintptr_t)room.data;
        struct amqp_writer tight = amqp_writer_of(out, capacity);

        write_all(&tight);
        ck_assert_msg(tight.overflow, "capacity %zu", capacity);
        ck_assert_msg(tight.at <= out + capacity, "capacity %zu", capacity);
        slice_free(room);
    }
}
END_TEST

START_TEST(overflow_is_for_good)
{
    uint8_t out[4] = {9, 9, 9, 9};
    struct amqp_writer writer = amqp_writer_of(out, sizeof(out));

    amqp_write_u64(&writer, 1);
    ck_assert(writer.overflow);
    amqp_write_u8(&writer, 1);
    amqp_write_bit(&writer, true);
    amqp_write_shortstr(&writer, SLICE(""));
    ck_assert_ptr_eq(writer.at, out);
    ck_assert_mem_eq(out, "\11\11\11\11", 4);

    writer = amqp_writer_of(NULL, 0);
    amqp_write_bit(&writer, true);
    amqp_write_bit(&writer, true);
    ck_assert(writer.overflow);
}
END_TEST

START_TEST(table_comes_without_its_length)
{
    struct amqp_reader reader = amqp_reader_of(SLICE("\0\0\0\4\1kt\1\7"));

    ck_assert(slice_equal(amqp_read_table(&reader), SLICE("\1kt\1")));
    ck_assert_uint_eq(amqp_read_u8(&reader), 7);
    ck_assert(amqp_reader_done(&reader));
}
END_TEST

START_TEST(malformed_table_fails_the_reader)
{
    struct amqp_reader bad_tag = amqp_reader_of(SLICE("\0\0\0\4\1k?\1\7"));
    struct amqp_reader bad_depth = amqp_reader_of(SLICE("\0\0\0\7\1kF\0\0\0\1\7"));

    ck_assert_uint_eq(amqp_read_table(&bad_tag).size, 0);
    ck_assert(bad_tag.failed);
    ck_assert_uint_eq(amqp_read_u8(&bad_tag), 0);
    ck_assert_uint_eq(amqp_read_table(&bad_depth).size, 0);
    ck_assert(bad_depth.failed);
}
END_TEST

START_TEST(utf8_is_told_from_other_bytes)
{
    static const struct {
        struct slice bytes;
        bool is_utf8;
    } cases[] = {
        {{0}, true},
        {SLICE(""), true},
        {SLICE("plain and longer than eight"), true},
        {SLICE("with a \0 in it"), true},
        {SLICE("\x7F"), true},
        {SLICE("\xC2\x80"), true},
        {SLICE("\xDF\xBF"), true},
        {SLICE("\xE0\xA0\x80"), true},
        {SLICE("\xED\x9F\xBF"), true},
        {SLICE("\xEE\x80\x80"), true},
        {SLICE("\xEF\xBF\xBF"), true},
        {SLICE("\xF0\x90\x80\x80"), true},
        {SLICE("\xF4\x8F\xBF\xBF"), true},
        {SLICE("seven b\xC3\xA9 over the edge"), true},
        {SLICE("\x80"), false},
        {SLICE("\xBF"), false},
        {SLICE("\xC0\x80"), false},         /* overlong */
        {SLICE("\xC1\xBF"), false},         /* overlong */
        {SLICE("\xC2"), false},             /* cut */
        {SLICE("\xC2\x41"), false},         /* not continued */
        {SLICE("\xE0\x9F\xBF"), false},     /* overlong */
        {SLICE("\xED\xA0\x80"), false},     /* surrogate */
        {SLICE("\xE1\x80"), false},         /* cut */
        {SLICE("\xE1\x80\x41"), false},     /* not continued */
        {SLICE("\xF0\x8F\xBF\xBF"), false}, /* overlong */
        {SLICE("\xF4\x90\x80\x80"), false}, /* past U+10FFFF */
        {SLICE("\xF1\x80\x80"), false},     /* cut */
        {SLICE("\xF1\x80\x80\x41"), false}, /* not continued */
        {SLICE("\xF5\x80\x80\x80"), false},
        {SLICE("\xFF"), false},
        {SLICE("eight ok\xFF"), false},
        {SLICE("\xC3\xA9 then wrong \xE9"), false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice bytes = exact_copy(cases[i].bytes.data, cases[i].bytes.size);

        ck_assert_msg(amqp_is_utf8(bytes) == cases[i].is_utf8, "case %zu", i);
        slice_free(bytes);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("amqp wire");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, numbers_are_in_network_byte_order);
    tcase_add_test(tests, largest_numbers_survive);
    tcase_add_test(tests, eleven_bits_take_two_octets_lowest_first);
    tcase_add_test(tests, any_other_type_ends_a_run_of_bits);
    tcase_add_test(tests, unknown_bits_of_an_octet_are_ignored);
    tcase_add_test(tests, reading_past_the_end_fails_for_good);
    tcase_add_test(tests, bits_of_an_empty_reader_fail);
    tcase_add_test(tests, strings_longer_than_what_is_left_fail);
    tcase_add_test(tests, shortstr_holds_255_bytes_and_not_one_more);
    tcase_add_test(tests, strings_over_four_gibibytes_overflow_before_they_are_touched);
    tcase_add_test(tests, writer_never_passes_its_end);
    tcase_add_test(tests, overflow_is_for_good);
    tcase_add_test(tests, table_comes_without_its_length);
    tcase_add_test(tests, malformed_table_fails_the_reader);
    tcase_add_test(tests, utf8_is_told_from_other_bytes);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
