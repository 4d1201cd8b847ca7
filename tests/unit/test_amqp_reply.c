/* Reply codes and the texts of errors. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/reply.h"
#include "amqp/slice.h"
#include "amqp/wire.h"

START_TEST(codes_have_their_names_and_hardness)
{
    size_t known = 0;

    for (unsigned code = 0; code <= UINT16_MAX; code++)
        known += amqp_reply_name((uint16_t)code) != NULL;
    ck_assert_uint_eq(known, 18);
    ck_assert_str_eq(amqp_reply_name(404), "NOT_FOUND");
    ck_assert_str_eq(amqp_reply_name(AMQP_REPLY_PRECONDITION_FAILED), "PRECONDITION_FAILED");
    ck_assert_str_eq(amqp_reply_name(541), "INTERNAL_ERROR");
    ck_assert_ptr_null(amqp_reply_name(200));

    ck_assert(!amqp_reply_is_hard(311));
    ck_assert(!amqp_reply_is_hard(403));
    ck_assert(!amqp_reply_is_hard(406));
    ck_assert(amqp_reply_is_hard(320));
    ck_assert(amqp_reply_is_hard(402));
    ck_assert(amqp_reply_is_hard(501));
    ck_assert(amqp_reply_is_hard(541));
    ck_assert(amqp_reply_is_hard(999));
}
END_TEST

START_TEST(text_begins_with_the_name_of_the_code)
{
    struct amqp_error error = {.class_id = 50, .method_id = 10};
    struct slice queue = SLICE("jobs");

    amqp_error_set(&error, AMQP_REPLY_NOT_FOUND, "no queue '%.*s' in vhost '%s'", SLICE_ARGS(queue),
                   "/");
    ck_assert_uint_eq(error.code, 404);
    ck_assert_str_eq(error.text, "NOT_FOUND - no queue 'jobs' in vhost '/'");
    ck_assert_uint_eq(error.class_id, 50);
    ck_assert_uint_eq(error.method_id, 10);

    amqp_error_set(&error, AMQP_REPLY_SUCCESS, "Goodbye");
    ck_assert_uint_eq(error.code, 200);
    ck_assert_str_eq(error.text, "Goodbye");
}
END_TEST

START_TEST(text_of_255_bytes_is_whole_and_one_more_is_cut)
{
    struct amqp_error error;
    char filler[300];

    memset(filler, 'a', sizeof(filler));
    amqp_error_set(&error, 404, "%.*s", 255 - 12, filler);
    ck_assert_uint_eq(strlen(error.text), 255);
    ck_assert_str_eq(error.text + 250, "aaaaa");

    amqp_error_set(&error, 404, "%.*s", 256 - 12, filler);
    ck_assert_uint_eq(strlen(error.text), 255);
    ck_assert_str_eq(error.text + 250, "aa...");
}
END_TEST

START_TEST(cut_falls_between_characters)
{
    static const char *characters[] = {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x90\x95"};
    struct amqp_error error;

    for (size_t c = 0; c < sizeof(characters) / sizeof(characters[0]); c++) {
        for (unsigned shift = 0; shift < 4; shift++) {
            char text[1024] = {0};
            size_t length;

            memset(text, 'a', shift);
            while (strlen(text) < 600)
                strncat(text, characters[c], sizeof(text) - strlen(text) - 1);
            amqp_error_set(&error, 404, "%s", text);
            length = strlen(error.text);
            ck_assert_uint_le(length, 255);
            ck_assert_uint_ge(length, 252);
            ck_assert(amqp_is_utf8(slice_from(error.text)));
            ck_assert_str_eq(error.text + length - 3, "...");
            ck_assert_str_ne(error.text + length - 4, "....");
        }
    }
}
END_TEST

START_TEST(text_of_nothing_but_continuation_bytes_stays_within_bounds)
{
    struct amqp_error error;
    char text[600];

    memset(text, 0x80, sizeof(text));
    amqp_error_set(&error, 404, "%.*s", (int)sizeof(text), text);
    ck_assert_uint_le(strlen(error.text), 255);
    ck_assert(amqp_is_utf8((struct slice){.data = error.text, .size = 12}));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("amqp reply");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, codes_have_their_names_and_hardness);
    tcase_add_test(tests, text_begins_with_the_name_of_the_code);
    tcase_add_test(tests, text_of_255_bytes_is_whole_and_one_more_is_cut);
    tcase_add_test(tests, cut_falls_between_characters);
    tcase_add_test(tests, text_of_nothing_but_continuation_bytes_stays_within_bounds);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
