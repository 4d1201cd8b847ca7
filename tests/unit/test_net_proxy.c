/* The PROXY protocol: a header is recognised however it is cut, and nothing else is. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "net/proxy.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static uint8_t bytes[PROXY_HEADER_MAX + 64];
static struct proxy_header header;
static const char *reason;

/* Parses from memory of just this size, so that reading beyond it is found. */
static enum proxy_result
parse(const void *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    enum proxy_result result;

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, data, size);
    memset(&header, 0x5a, sizeof(header));
    reason = NULL;
    result = proxy_parse(copy, size, &header, &reason);
    ck_assert((result == PROXY_BAD) == (reason != NULL));
    free(copy);
    return result;
}

/* Every beginning of the header is incomplete, the whole is good, also with something after it. */
static void
check_every_split(const void *data, size_t size)
{
    for (size_t part = 0; part < size; part++)
        ck_assert_msg(parse(data, part) == PROXY_INCOMPLETE, "%zu of %zu bytes: %s", part, size,
                      reason);
    memcpy(bytes, data, size);
    memset(bytes + size, 'A', 64);
    for (size_t more = 0; more <= 64; more += 8) {
        ck_assert_msg(parse(bytes, size + more) == PROXY_OK, "%s", reason);
        ck_assert_uint_eq(header.size, size);
    }
}

static const char *
source_text(void)
{
    static char text[ADDRESS_TEXT_MAX];

    return header.has_source   ? address_text(&header.source, text)
           : header.is_unknown ? "unknown"
                               : "none";
}

static const struct {
    const char *line, *source;
} lines[] = {
    {"PROXY TCP4 192.0.2.7 198.51.100.1 56324 5672\r\n", "192.0.2.7:56324"},
    {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535"},
    {"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0:0"},
    {"PROXY TCP6 2001:db8::7 2001:db8::1 56324 5672\r\n", "[2001:db8::7]:56324"},
    {"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
     "65535 65535\r\n",
     "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
    {"PROXY UNKNOWN\r\n", "unknown"},
    {"PROXY UNKNOWN ffff::1 whatever it is\r\n", "unknown"},
};

START_TEST(a_line_is_taken_however_it_is_cut)
{
    check_every_split(lines[_i].line, strlen(lines[_i].line));
    ck_assert_str_eq(source_text(), lines[_i].source);
}
END_TEST

START_TEST(the_longest_line_has_107_bytes)
{
    char line[PROXY_TEXT_MAX + 2];

    snprintf(line, sizeof(line), "PROXY UNKNOWN %0*d\r\n", PROXY_TEXT_MAX - 16, 0);
    ck_assert_uint_eq(strlen(line), PROXY_TEXT_MAX);
    check_every_split(line, PROXY_TEXT_MAX);
    snprintf(line, sizeof(line), "PROXY UNKNOWN %0*d\r\n", PROXY_TEXT_MAX - 15, 0);
    ck_assert_int_eq(parse(line, PROXY_TEXT_MAX - 1), PROXY_INCOMPLETE);
    ck_assert_int_eq(parse(line, PROXY_TEXT_MAX), PROXY_BAD);
}
END_TEST

static const char *const bad_lines[] = {
    "PROXY\r\n",
    "proxy UNKNOWN\r\n",
    "PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
    "PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n",
    "PROXY TCP4 1.2.3.4 host 1 1\r\n",
    "PROXY TCP4 ::1 ::1 1 1\r\n",
    "PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
    "PROXY TCP6 fe80::1%lo ::1 1 1\r\n",
    "PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
    "PROXY UNKNOWNX\r\n",
    "PROXY \r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 1\r1\r\n",
    "PROXY UNKNOWN\rX",
    "GET / HTTP/1.1\r\n",
    "AMQP",
};

START_TEST(other_lines_are_refused)
{
    ck_assert_msg(parse(bad_lines[_i], strlen(bad_lines[_i])) == PROXY_BAD, "%s", bad_lines[_i]);
}
END_TEST

START_TEST(a_line_with_a_0_byte_is_refused)
{
    static const char line[] = "PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n";

    ck_assert_int_eq(parse(line, sizeof(line) - 1), PROXY_BAD);
    ck_assert_int_eq(parse(line, 20), PROXY_BAD);
}
END_TEST

/* A header of version 2 in `bytes`, with so many bytes of addresses and fields. */
static size_t
make(unsigned version_and_command, unsigned family, const void *rest, size_t size)
{
    memcpy(bytes, SIGNATURE, 12);
    bytes[12] = (uint8_t)version_and_command;
    bytes[13] = (uint8_t)family;
    bytes[14] = (uint8_t)(size >> 8);
    bytes[15] = (uint8_t)size;
    if (rest != NULL)
        memcpy(bytes + 16, rest, size);
    return 16 + size;
}

#define IP4 "\xc0\x00\x02\x07\xc6\x33\x64\x01\xdc\x04\x16\x28"
#define IP6                                                                                        \
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"                                                   \
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"                                                   \
    "\xdc\x04\x16\x28"

static void
check_whole(size_t size, const char *source)
{
    static uint8_t copy[PROXY_HEADER_MAX];

    memcpy(copy, bytes, size);
    check_every_split(copy, size);
    ck_assert_str_eq(source_text(), source);
}

START_TEST(a_binary_header_is_taken_however_it_is_cut)
{
    static char path[217] = "/run/client.sock";

    check_whole(make(0x21, 0x11, IP4, 12), "192.0.2.7:56324");
    check_whole(make(0x21, 0x21, IP6, 36), "[2001:db8::7]:56324");
    check_whole(make(0x21, 0x31, path, 216), "unix:/run/client.sock");
    check_whole(make(0x21, 0x00, NULL, 0), "unknown");
    check_whole(make(0x20, 0x00, NULL, 0), "none");
    check_whole(make(0x20, 0x11, IP4, 12), "none");
    check_whole(make(0x20, 0xff, NULL, 0), "none");
    memset(path, 'p', 216); /* a path need not end */
    check_whole(make(0x21, 0x31, path, 216), "unix:pppppppppppppppppppppppppppppppppppppppppppppppp"
                                             "pppppppppppppppppppppppppppppppppppppppppppppppppppp"
                                             "pppppppp");
}
END_TEST

START_TEST(fields_after_the_addresses_are_stepped_over)
{
    check_whole(make(0x21, 0x11,
                     IP4 "\x01\0\x02h2"
                         "\x04\0\0"
                         "\xee\0\x01x",
                     12 + 5 + 3 + 4),
                "192.0.2.7:56324");
    ck_assert_int_eq(parse(bytes, make(0x21, 0x11, IP4 "\x01", 13)), PROXY_BAD);
    ck_assert_int_eq(parse(bytes, make(0x21, 0x11, IP4 "\x01\0", 14)), PROXY_BAD);
    ck_assert_int_eq(parse(bytes, make(0x21, 0x11, IP4 "\x01\0\x01", 15)), PROXY_BAD);
    ck_assert_int_eq(parse(bytes, make(0x21, 0x11, IP4 "\x01\xff\xffh2", 17)), PROXY_BAD);
}
END_TEST

START_TEST(a_checksum_is_looked_at)
{
    size_t size = make(0x21, 0x11,
                       IP4 "\x03\0\x04\0\0\0\0"
                           "\x01\0\x02h2",
                       12 + 7 + 5);
    uint32_t sum = crc32c(0, bytes, size);

    for (int i = 0; i < 4; i++)
        bytes[31 + i] = (uint8_t)(sum >> (24 - 8 * i));
    check_whole(size, "192.0.2.7:56324");
    for (size_t i = 16; i < size; i++) {
        if (i >= 28 && i <= 30)
            continue; /* the field's own head: then it is another field */
        bytes[i] ^= 1;
        ck_assert_msg(parse(bytes, size) == PROXY_BAD, "byte %zu was changed", i);
        bytes[i] ^= 1;
    }
    ck_assert_int_eq(parse(bytes, make(0x21, 0x11, IP4 "\x03\0\x03\0\0\0", 18)), PROXY_BAD);
}
END_TEST

START_TEST(lengths_at_their_extremes)
{
    for (size_t size = 0; size < 12; size++)
        ck_assert_int_eq(parse(bytes, make(0x21, 0x11, IP4, size)), PROXY_BAD);
    for (size_t size = 0; size < 36; size++)
        ck_assert_int_eq(parse(bytes, make(0x21, 0x21, IP6, size)), PROXY_BAD);
    ck_assert_int_eq(parse(bytes, make(0x21, 0x31, NULL, 215)), PROXY_BAD);
    memset(bytes, 0, sizeof(bytes));
    ck_assert_int_eq(parse(bytes, make(0x20, 0, NULL, PROXY_HEADER_MAX - 16)), PROXY_OK);
    ck_assert_uint_eq(header.size, PROXY_HEADER_MAX);
    (void)make(0x20, 0, NULL, PROXY_HEADER_MAX - 15);
    ck_assert_int_eq(parse(bytes, 16), PROXY_BAD);
    bytes[14] = bytes[15] = 0xff;
    ck_assert_int_eq(parse(bytes, 16), PROXY_BAD);
}
END_TEST

START_TEST(every_version_command_and_family_is_known_or_refused)
{
    for (unsigned first = 0; first < 256; first++) {
        for (unsigned second = 0; second < 256; second++) {
            bool is_good =
                first == 0x20
                || (first == 0x21
                    && (second == 0x00 || second == 0x11 || second == 0x21 || second == 0x31));

            memset(bytes, 0, sizeof(bytes));
            ck_assert_msg(parse(bytes, make(first, second, NULL, 216))
                              == (is_good ? PROXY_OK : PROXY_BAD),
                          "%02x %02x", first, second);
        }
    }
}
END_TEST

START_TEST(any_other_byte_in_the_signature_is_refused_at_once)
{
    for (size_t i = 0; i < 12; i++) {
        (void)make(0x21, 0x11, IP4, 12);
        bytes[i] ^= 0x40;
        ck_assert_int_eq(parse(bytes, i + 1), PROXY_BAD);
    }
}
END_TEST

START_TEST(a_header_is_recognised_where_none_is_expected)
{
    ck_assert(proxy_looks_like((const uint8_t *)"PROXY TC"));
    ck_assert(proxy_looks_like((const uint8_t *)SIGNATURE));
    ck_assert(!proxy_looks_like((const uint8_t *)"AMQP\0\0\x09\x01"));
    ck_assert(!proxy_looks_like((const uint8_t *)"\r\n\r\n\r\n\r\n"));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/proxy");
    TCase *tests = tcase_create("header");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, a_line_is_taken_however_it_is_cut, 0, ARRAY_SIZE(lines));
    tcase_add_test(tests, the_longest_line_has_107_bytes);
    tcase_add_loop_test(tests, other_lines_are_refused, 0, ARRAY_SIZE(bad_lines));
    tcase_add_test(tests, a_line_with_a_0_byte_is_refused);
    tcase_add_test(tests, a_binary_header_is_taken_however_it_is_cut);
    tcase_add_test(tests, fields_after_the_addresses_are_stepped_over);
    tcase_add_test(tests, a_checksum_is_looked_at);
    tcase_add_test(tests, lengths_at_their_extremes);
    tcase_add_test(tests, every_version_command_and_family_is_known_or_refused);
    tcase_add_test(tests, any_other_byte_in_the_signature_is_refused_at_once);
    tcase_add_test(tests, a_header_is_recognised_where_none_is_expected);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
