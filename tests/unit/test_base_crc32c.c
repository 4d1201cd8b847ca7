/* CRC-32C: the published vectors, and both implementations alike. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/random.h"

/* RFC 3720, appendix B.4, and the usual check word. */
START_TEST(the_published_vectors_come_out)
{
    uint8_t bytes[32];

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof(bytes));
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x46dd794e);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(31 - i);
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x113fdb5c);
    ck_assert_uint_eq(crc32c(0, NULL, 0), 0);
}
END_TEST

START_TEST(both_implementations_agree_at_every_length_and_alignment)
{
    uint8_t bytes[300];

    random_bytes(bytes, sizeof(bytes));
    for (size_t begin = 0; begin < 9; begin++) {
        for (size_t size = 0; size < 280; size++)
            ck_assert_uint_eq(crc32c(begin == 3 ? 0xdeadbeef : 0, bytes + begin, size),
                              crc32c_portable(begin == 3 ? 0xdeadbeef : 0, bytes + begin, size));
    }
}
END_TEST

START_TEST(a_crc_in_parts_is_that_of_the_whole)
{
    uint8_t bytes[100];

    random_bytes(bytes, sizeof(bytes));
    for (size_t cut = 0; cut <= sizeof(bytes); cut++) {
        uint32_t whole = crc32c(0, bytes, sizeof(bytes));

        ck_assert_uint_eq(crc32c(crc32c(0, bytes, cut), bytes + cut, sizeof(bytes) - cut), whole);
        ck_assert_uint_eq(
            crc32c_portable(crc32c_portable(0, bytes, cut), bytes + cut, sizeof(bytes) - cut),
            whole);
    }
}
END_TEST

START_TEST(the_implementation_has_a_name)
{
    const char *name = crc32c_implementation();

    ck_assert(strcmp(name, "sse4.2") == 0 || strcmp(name, "armv8") == 0
              || strcmp(name, "portable") == 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/crc32c");
    TCase *tests = tcase_create("crc32c");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, the_published_vectors_come_out);
    tcase_add_test(tests, both_implementations_agree_at_every_length_and_alignment);
    tcase_add_test(tests, a_crc_in_parts_is_that_of_the_whole);
    tcase_add_test(tests, the_implementation_has_a_name);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
