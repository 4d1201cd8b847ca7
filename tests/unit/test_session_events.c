/* What the log says about clients: enough lines to see what happens, and the others are counted. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/wheel.h"
#include "session/events.h"

static struct wheel wheel;
static struct events events;
static char path[] = "/tmp/test_events.XXXXXX", text[65536];

static void
set_up(void)
{
    int file;

    strcpy(path, "/tmp/test_events.XXXXXX");
    file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    close(file);
    ck_assert_int_eq(log_setup(LOG_FORMAT_TEXT, LOG_LEVEL_INFO, path), 0);
    wheel_init(&wheel, 1000);
    events_init(&events, &wheel);
}

static void
tear_down(void)
{
    ck_assert_int_eq(unlink(path), 0);
}

static const char *
logged(void)
{
    FILE *file = fopen(path, "r");
    size_t size;

    ck_assert_ptr_nonnull(file);
    size = fread(text, 1, sizeof(text) - 1, file);
    text[size] = '\0';
    fclose(file);
    return text;
}

/* So many happen; returns how many of them are allowed. */
static unsigned
happen(enum event_kind kind, unsigned count)
{
    unsigned allowed = 0;

    for (unsigned i = 0; i < count; i++)
        allowed += events_allow(&events, kind);
    return allowed;
}

START_TEST(a_flood_is_cut_and_what_was_held_back_is_told_once)
{
    unsigned allowed = happen(EVENT_BAD_HEADER, 5000);
    char expected[64];

    ck_assert_uint_ge(allowed, 1);
    ck_assert_uint_le(allowed, 100);
    ck_assert_str_eq(logged(), "");
    (void)wheel_advance(&wheel, 2100, 100);
    snprintf(expected, sizeof(expected), "kind=\"bad protocol header\" suppressed=%u\n",
             5000 - allowed);
    ck_assert_ptr_nonnull(strstr(logged(), expected));
    (void)wheel_advance(&wheel, 10000, 100);
    ck_assert_ptr_eq(strstr(strstr(logged(), expected) + strlen(expected), "suppressed"), NULL);
    ck_assert_uint_eq(happen(EVENT_BAD_HEADER, 1), 1);
}
END_TEST

START_TEST(a_flood_of_one_kind_holds_back_no_other)
{
    (void)happen(EVENT_LOGIN_REFUSED, 5000);
    for (int kind = 0; kind < EVENT_KINDS; kind++)
        if (kind != EVENT_LOGIN_REFUSED)
            ck_assert_uint_eq(happen((enum event_kind)kind, 1), 1);
}
END_TEST

START_TEST(what_honest_clients_do_is_logged)
{
    ck_assert_uint_eq(happen(EVENT_OPENED, 300), 300);
    ck_assert_uint_eq(happen(EVENT_ENDED, 300), 300);
}
END_TEST

START_TEST(what_is_held_back_at_the_end_is_told)
{
    (void)happen(EVENT_HANDSHAKE_TIMEOUT, 1000);
    events_fini(&events);
    ck_assert_ptr_nonnull(strstr(logged(), "kind=\"handshake timed out\" suppressed="));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("session/events");
    TCase *tests = tcase_create("events");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_flood_is_cut_and_what_was_held_back_is_told_once);
    tcase_add_test(tests, a_flood_of_one_kind_holds_back_no_other);
    tcase_add_test(tests, what_honest_clients_do_is_logged);
    tcase_add_test(tests, what_is_held_back_at_the_end_is_told);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
