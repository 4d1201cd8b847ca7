/* The login thread, and what failed logins cost.
 *
 * Slow hashes are counted on their way to OpenSSL (--wrap): what a refusal costs is work, and a
 * clock would not say whose. */
#include <check.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "auth/login.h"

static _Atomic uint64_t slow_work; /* of scrypt: N r p, all together */

int __real_EVP_PBE_scrypt(const char *password, size_t size, const unsigned char *salt,
                          size_t salt_size, uint64_t n, uint64_t r, uint64_t p, uint64_t memory_max,
                          unsigned char *key, size_t key_size);
int __wrap_EVP_PBE_scrypt(const char *password, size_t size, const unsigned char *salt,
                          size_t salt_size, uint64_t n, uint64_t r, uint64_t p, uint64_t memory_max,
                          unsigned char *key, size_t key_size);

int
__wrap_EVP_PBE_scrypt(const char *password, size_t size, const unsigned char *salt,
                      size_t salt_size, uint64_t n, uint64_t r, uint64_t p, uint64_t memory_max,
                      unsigned char *key, size_t key_size)
{
    slow_work += n * r * p;
    return __real_EVP_PBE_scrypt(password, size, salt, salt_size, n, r, p, memory_max, key,
                                 key_size);
}

static struct access *users;
static struct login_service *service;

struct test_job {
    struct login_job job;
    sem_t done;
    int calls;
};

static void
on_done(struct login_job *job)
{
    struct test_job *test = (struct test_job *)job;
    test->calls++;
    sem_post(&test->done);
}

static void
set_up(void)
{
    char error[ACCESS_ERROR_MAX], hash[PASSWORD_HASH_MAX];
    users = access_new();
    service = login_service_new(users);
    ck_assert_ptr_nonnull(service);
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, SLICE("secret"), hash), 0);
    ck_assert_int_eq(access_user_set(users, SLICE("u"), slice_from(hash), SLICE(""), error), 0);
}

static void
tear_down(void)
{
    login_service_free(service);
    access_free(users);
}

static void
prepare(struct test_job *test, const char *user, const char *password)
{
    *test = (struct test_job){
        .job = {.user = access_user_find(users, slice_from(user)),
                .password = slice_from(password),
                .done = on_done},
    };
    sem_init(&test->done, 0, 0);
}

static bool
verify(const char *user, const char *password)
{
    struct test_job test;
    prepare(&test, user, password);
    ck_assert(login_submit(service, &test.job));
    sem_wait(&test.done);
    access_user_unref(test.job.user);
    return test.job.is_right;
}

START_TEST(the_thread_says_whether_a_password_is_right)
{
    ck_assert(verify("u", "secret"));
    ck_assert(verify("u", "secret"));
    ck_assert(!verify("u", "wrong"));
    ck_assert(!verify("nobody", "secret"));
}
END_TEST

/* Users with a password of each kind, by name. */
static const struct {
    const char *name, *hash; /* NULL: made here, by scrypt */
} kinds[] = {
    {"sha256", "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH"},
    {"sha512",
     "6K0XJ4E71hyCI02AxSmJ38KuxD5JcO+3MzswDN3QgNFL0MCAD3XLzqO3i6Di1+/VzwBLbptUGWerrdXj9cs8"
     "jeUYGlI="},
    {"scrypt", NULL},
    {"of-no-password", ""},
    {"cheap", "$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$"
              "0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0"},
};

static uint64_t
work_to_refuse(const char *user, const char *password)
{
    slow_work = 0;
    ck_assert_msg(!verify(user, password), "%s comes in with '%.20s'", user, password);
    return slow_work;
}

static void
refuse_all_alike(void)
{
    static char too_long[PASSWORD_MAX + 2];
    memset(too_long, 'x', sizeof(too_long) - 1);
    const char *const passwords[] = {"wrong", "", "\xff\xfe", too_long};
    for (size_t i = 0; i < ARRAY_SIZE(passwords); i++) {
        uint64_t expected = work_to_refuse("nobody", passwords[i]);
        if (passwords[i] != too_long)
            ck_assert_uint_ge(expected, PASSWORD_WORK);
        ck_assert_uint_eq(work_to_refuse("u", passwords[i]), expected);
        for (size_t j = 0; j < ARRAY_SIZE(kinds); j++) {
            uint64_t work = work_to_refuse(kinds[j].name, passwords[i]);
            ck_assert_msg(work == expected, "%s takes %" PRIu64 ", who is not there %" PRIu64,
                          kinds[j].name, work, expected);
        }
    }
}

START_TEST(a_refusal_takes_as_much_work_for_who_exists_as_for_who_does_not)
{
    char error[ACCESS_ERROR_MAX], hash[PASSWORD_HASH_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (kinds[i].hash == NULL)
            ck_assert_int_eq(password_hash(PASSWORD_SCRYPT, SLICE("right"), hash), 0);
        struct slice text = slice_from(kinds[i].hash == NULL ? hash : kinds[i].hash);
        ck_assert_int_eq(access_user_set(users, slice_from(kinds[i].name), text, SLICE(""), error),
                         0);
    }
    ck_assert(verify("u", "secret")); /* whose password is known again from here on */
    refuse_all_alike();
    /* One hash that costs more makes all refusals cost as much. */
    struct slice dear = SLICE("$scrypt$ln=15,r=9,p=2$MDEyMzQ1Njc4OWFiY2RlZg$"
                              "0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0");
    ck_assert_int_eq(access_user_set(users, SLICE("sha256"), dear, SLICE(""), error), 0);
    refuse_all_alike();
    ck_assert_uint_eq(work_to_refuse("nobody", "wrong"), 9 * 2 << 15);
}
END_TEST

START_TEST(all_that_wait_are_answered_once_when_the_service_ends)
{
    static struct test_job tests[2000];
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        prepare(&tests[i], "nobody", "wrong");
        tests[i].job.source = i % 7;
        ck_assert(login_submit(service, &tests[i].job));
    }
    login_service_free(service);
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        ck_assert_int_eq(tests[i].calls, 1);
        ck_assert(!tests[i].job.is_right);
    }
    service = login_service_new(users);
}
END_TEST

START_TEST(who_asks_without_end_does_not_hold_up_others)
{
    /* More others than any table of a fixed size would keep apart. */
    static struct test_job flood[2000], others[200];
    int done = 0;
    for (size_t i = 0; i < ARRAY_SIZE(flood); i++) {
        prepare(&flood[i], "nobody", "wrong");
        flood[i].job.source = 1;
        ck_assert(login_submit(service, &flood[i].job));
    }
    ck_assert(verify("u", "secret")); /* is known from here on: verifying others takes no time */
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        prepare(&others[i], "u", "secret");
        others[i].job.source = 2 + i;
        ck_assert(login_submit(service, &others[i].job));
    }
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        sem_wait(&others[i].done);
        ck_assert(others[i].job.is_right);
        access_user_unref(others[i].job.user);
    }
    for (size_t i = 0; i < ARRAY_SIZE(flood); i++)
        done += !login_cancel(service, &flood[i].job);
    ck_assert_int_lt(done, 20);
}
END_TEST

START_TEST(what_was_taken_back_is_not_verified)
{
    static struct test_job tests[20];
    bool is_back[ARRAY_SIZE(tests)];
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        prepare(&tests[i], "nobody", "wrong");
        ck_assert(login_submit(service, &tests[i].job));
    }
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
        is_back[i] = login_cancel(service, &tests[i].job);
    ck_assert(is_back[ARRAY_SIZE(tests) - 1]);
    ck_assert(verify("u", "secret")); /* the service goes on, and is through with what it has */
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
        ck_assert_int_eq(tests[i].calls, is_back[i] ? 0 : 1);
    ck_assert(!login_cancel(service, &tests[0].job));
}
END_TEST

START_TEST(who_keeps_failing_waits_longer_up_to_a_limit)
{
    struct failures *failures = login_failures(service);
    uint32_t count, delay_ms = 0, before_ms = 0;
    for (int i = 0; i < FAILURES_FREE; i++)
        ck_assert_uint_eq(failures_add(failures, 7, 1000, &count), 0);
    for (int i = 0; i < 40; i++, before_ms = delay_ms) {
        delay_ms = failures_add(failures, 7, 1000, &count);
        ck_assert_uint_gt(delay_ms, 0);
        ck_assert_uint_ge(delay_ms, before_ms);
    }
    ck_assert_uint_eq(delay_ms, FAILURES_DELAY_MAX_MS);
    ck_assert_uint_eq(count, FAILURES_FREE + 40);
    /* Others do not pay for it, and one day it is forgotten. */
    ck_assert_uint_eq(failures_add(failures, 8, 1000, &count), 0);
    ck_assert_uint_eq(failures_add(failures, 7, 1000 + FAILURES_MEMORY_MS + 1, &count), 0);
    ck_assert_uint_eq(count, 1);
}
END_TEST

START_TEST(a_flood_of_addresses_forgets_the_oldest_first)
{
    struct failures *failures = login_failures(service);
    uint32_t count;
    for (int i = 0; i < 20; i++)
        (void)failures_add(failures, 5, 1000, &count);
    /* Three others of the same place in the table leave it alone; a fourth takes the oldest. */
    for (uint64_t i = 1; i <= 3; i++)
        (void)failures_add(failures, 5 + i * FAILURES_SETS, 2000, &count);
    (void)failures_add(failures, 5, 3000, &count);
    ck_assert_uint_eq(count, 21);
    (void)failures_add(failures, 5 + 4 * FAILURES_SETS, 4000, &count);
    (void)failures_add(failures, 5, 5000, &count);
    ck_assert_uint_eq(count, 22);
    (void)failures_add(failures, 5 + 1 * FAILURES_SETS, 6000, &count);
    ck_assert_uint_eq(count, 1);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("auth/login");
    TCase *tests = tcase_create("login");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, the_thread_says_whether_a_password_is_right);
    tcase_add_test(tests, a_refusal_takes_as_much_work_for_who_exists_as_for_who_does_not);
    tcase_add_test(tests, all_that_wait_are_answered_once_when_the_service_ends);
    tcase_add_test(tests, who_asks_without_end_does_not_hold_up_others);
    tcase_add_test(tests, what_was_taken_back_is_not_verified);
    tcase_add_test(tests, who_keeps_failing_waits_longer_up_to_a_limit);
    tcase_add_test(tests, a_flood_of_addresses_forgets_the_oldest_first);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
