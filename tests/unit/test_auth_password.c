/* Password hashes: RabbitMQ's and scrypt's are understood, and only the right password is right. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "auth/password.h"

#define PASSWORD "correct horse"

/* Made by RabbitMQ 3.10.8 and by another implementation of scrypt. */
static const char *const hashes[] = {
    "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH",
    "6K0XJ4E71hyCI02AxSmJ38KuxD5JcO+3MzswDN3QgNFL0MCAD3XLzqO3i6Di1+/VzwBLbptUGWerrdXj9cs8jeUYGlI=",
    "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
};

START_TEST(hashes_of_others_are_understood)
{
    struct slice hash = slice_from(hashes[_i]);
    ck_assert(password_hash_is_valid(hash));
    ck_assert(password_is_right(SLICE(PASSWORD), hash));
    ck_assert(!password_is_right(SLICE("correct horsf"), hash));
    ck_assert(!password_is_right(SLICE("correct hors"), hash));
    ck_assert(!password_is_right(SLICE(""), hash));
}
END_TEST

START_TEST(a_changed_bit_of_a_hash_makes_the_password_wrong)
{
    char text[PASSWORD_HASH_MAX];
    size_t size = strlen(hashes[_i]);
    memcpy(text, hashes[_i], size);
    text[size - 5] = text[size - 5] == 'A' ? 'B' : 'A';
    ck_assert(!password_is_right(SLICE(PASSWORD), (struct slice){text, size}));
}
END_TEST

START_TEST(what_is_hashed_here_is_right_again)
{
    char first[PASSWORD_HASH_MAX], second[PASSWORD_HASH_MAX];
    enum password_method method = _i == 0 ? PASSWORD_SHA256 : PASSWORD_SCRYPT;
    ck_assert_int_eq(password_hash(method, SLICE("\xc3\xa4 b"), first), 0);
    ck_assert_int_eq(password_hash(method, SLICE("\xc3\xa4 b"), second), 0);
    ck_assert_str_ne(first, second); /* the salt */
    ck_assert(password_hash_is_valid(slice_from(first)));
    ck_assert_uint_eq(password_hash_work(slice_from(first)),
                      method == PASSWORD_SCRYPT ? PASSWORD_WORK : 0);
    ck_assert(password_is_right(SLICE("\xc3\xa4 b"), slice_from(first)));
    ck_assert(!password_is_right(SLICE("a b"), slice_from(first)));
}
END_TEST

START_TEST(no_password_is_right_for_an_empty_hash)
{
    ck_assert(password_hash_is_valid(SLICE("")));
    ck_assert(!password_is_right(SLICE(""), SLICE("")));
    ck_assert(!password_is_right(SLICE("x"), SLICE("")));
}
END_TEST

START_TEST(an_empty_password_can_have_a_hash)
{
    char hash[PASSWORD_HASH_MAX];
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, SLICE(""), hash), 0);
    ck_assert(password_is_right(SLICE(""), slice_from(hash)));
    ck_assert(!password_is_right(SLICE("x"), slice_from(hash)));
}
END_TEST

START_TEST(what_is_no_hash_is_refused)
{
    static const char *const bad[] = {
        "x",
        "secret",
        "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJ",    /* short */
        "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJHAA", /* long */
        "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxn!H",
        "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg",
        "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$",
        "$scrypt$ln=14,r=8$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
        /* More memory or time than a login may cost. */
        "$scrypt$ln=18,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
        "$scrypt$ln=14,r=99,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
        "$scrypt$ln=14,r=8,p=5$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
        "$scrypt$ln=0,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
        "$scrypt$ln=4294967310,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvF",
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        ck_assert_msg(!password_hash_is_valid(slice_from(bad[i])), "taken: %s", bad[i]);
        ck_assert(!password_is_right(SLICE(PASSWORD), slice_from(bad[i])));
    }
}
END_TEST

START_TEST(a_password_that_is_too_long_is_refused)
{
    char hash[PASSWORD_HASH_MAX];
    static char text[PASSWORD_MAX + 1];
    memset(text, 'x', sizeof(text));
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, (struct slice){text, PASSWORD_MAX}, hash), 0);
    ck_assert(password_is_right((struct slice){text, PASSWORD_MAX}, slice_from(hash)));
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, (struct slice){text, PASSWORD_MAX + 1}, hash),
                     -EINVAL);
}
END_TEST

START_TEST(a_secret_is_known_again_by_its_digest)
{
    unsigned char a[SECRET_DIGEST_SIZE], b[SECRET_DIGEST_SIZE], c[SECRET_DIGEST_SIZE];
    ck_assert(secret_digest(SLICE("one"), a));
    ck_assert(secret_digest(SLICE("one"), b));
    ck_assert(secret_digest(SLICE("two"), c));
    ck_assert(secret_equal(a, b, sizeof(a)));
    ck_assert(!secret_equal(a, c, sizeof(a)));
    secret_wipe(a, sizeof(a));
    for (size_t i = 0; i < sizeof(a); i++)
        ck_assert_uint_eq(a[i], 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("auth/password");
    TCase *tests = tcase_create("password");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, hashes_of_others_are_understood, 0, (int)ARRAY_SIZE(hashes));
    tcase_add_loop_test(tests, a_changed_bit_of_a_hash_makes_the_password_wrong, 0,
                        (int)ARRAY_SIZE(hashes));
    tcase_add_loop_test(tests, what_is_hashed_here_is_right_again, 0, 2);
    tcase_add_test(tests, no_password_is_right_for_an_empty_hash);
    tcase_add_test(tests, an_empty_password_can_have_a_hash);
    tcase_add_test(tests, what_is_no_hash_is_refused);
    tcase_add_test(tests, a_password_that_is_too_long_is_refused);
    tcase_add_test(tests, a_secret_is_known_again_by_its_digest);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
