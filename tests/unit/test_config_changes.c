/* What has changed between two configurations is told as in the file, and only what may change
 * while the program runs is taken over. */
#include "test_config_support.h"

/* All changes from the defaults to the settings: "path from to live|start", a line each. */
static const char *
changes_text(void)
{
    static char text[SETTING_COUNT * (2 * CONFIG_VALUE_TEXT_MAX + 96)];
    struct config_change change;
    size_t at = 0, used = 0;

    text[0] = '\0';
    while (settings_next_change(&defaults, &settings, &at, &change))
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s: %s -> %s %s\n", change.path,
                                 change.from, change.to, change.is_live ? "live" : "start");
    return text;
}

START_TEST(a_configuration_that_says_the_same_has_no_changes)
{
    load("log: {level: info}\nheartbeat: 1m\nlisten: [127.0.0.1:5672]\n");
    ck_assert_str_eq(changes_text(), "");
}
END_TEST

START_TEST(changes_are_told_as_they_are_written)
{
    load("data_dir: /srv/mq\nlisten: [\"[::1]:5672\", \"*:1\"]\nthreads: 3\nheartbeat: 0\n"
         "log: {level: debug, format: json}\n"
         "limits: {frame_max: 5000, memory: 1GiB, consumer_timeout: 90s}\n");
    ck_assert_str_eq(changes_text(), "data_dir: /var/lib/whippet -> /srv/mq start\n"
                                     "listen: 127.0.0.1:5672 -> [::1]:5672, *:1 start\n"
                                     "threads: 0 -> 3 start\n"
                                     "heartbeat: 1m -> 0 live\n"
                                     "log.level: info -> debug live\n"
                                     "log.format: text -> json live\n"
                                     "limits.frame_max: 128KiB -> 5000 live\n"
                                     "limits.memory: 0 -> 1GiB live\n"
                                     "limits.consumer_timeout: 30m -> 90s live\n");
}
END_TEST

START_TEST(lists_are_compared_item_by_item_and_tell_no_secret)
{
    const char *const text = "users: [{name: a, password: secret, tags: [x]}]\n"
                             "loopback_users: []\n";
    load(text);
    ck_assert_str_eq(changes_text(), "users: a list of 0 -> a list of 1 live\n"
                                     "loopback_users: a list of 0 -> a list of 0 live\n");
    settings_take_live(&defaults, &settings, NULL, NULL);
    ck_assert_ptr_null(settings.users.items); /* they have moved */
    load(text);
    ck_assert_str_eq(changes_text(), "");
    load("users: [{name: a, password: Secret, tags: [x]}]\n");
    ck_assert_str_eq(changes_text(), "users: a list of 1 -> a list of 1 live\n");
    load("users: [{name: a, password: secret, tags: [x, y]}]\n");
    ck_assert_str_eq(changes_text(), "users: a list of 1 -> a list of 1 live\n");
    settings_fini(&settings);
    settings_fini(&defaults);
}
END_TEST

START_TEST(policies_are_compared_by_all_that_they_say)
{
    static const char *const others[] = {
        "policies: [{name: p, pattern: a, definition: {expires: 2, overflow: x}}]\n",
        "policies: [{name: p, pattern: a, definition: {expires: 1, overflow: y}}]\n",
        "policies: [{name: p, pattern: a, definition: {expires: 1}}]\n",
        "policies: [{name: p, pattern: a, priority: 1, definition: {expires: 1, overflow: x}}]\n",
        "policies: [{name: p, pattern: b, definition: {expires: 1, overflow: x}}]\n",
    };
    settings_init(&defaults);
    load("policies: [{name: p, pattern: a, definition: {expires: 1, overflow: x}}]\n");
    settings_take_live(&defaults, &settings, NULL, NULL);
    load("\n\npolicies: [{name: p, pattern: a, definition: {expires: 1, overflow: x}}]\n");
    ck_assert_str_eq(changes_text(), ""); /* where it stands plays no part */
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        load(others[i]);
        ck_assert_str_eq(changes_text(), "policies: a list of 1 -> a list of 1 live\n");
    }
    settings_fini(&settings);
    settings_fini(&defaults);
}
END_TEST

START_TEST(a_list_that_was_longer_once_is_the_same)
{
    load("listen: [127.0.0.1:5672, localhost:1]\n");
    ck_assert_str_eq(changes_text(),
                     "listen: 127.0.0.1:5672 -> 127.0.0.1:5672, localhost:1 start\n");
    settings.listen.count = 1;
    ck_assert_str_eq(changes_text(), "");
}
END_TEST

START_TEST(a_long_value_is_cut)
{
    char text[1024];

    snprintf(text, sizeof(text), "data_dir: /%0*d\n", 600, 0);
    load(text);
    ck_assert_uint_eq(strlen(strstr(changes_text(), "-> ")),
                      strlen("-> ") + CONFIG_VALUE_TEXT_MAX - 1 + strlen(" start\n"));
    ck_assert_ptr_nonnull(strstr(changes_text(), "000... start"));
}
END_TEST

START_TEST(only_what_may_change_is_taken_over)
{
    struct settings running = defaults;

    load("data_dir: /srv/mq\nthreads: 3\nheartbeat: 5s\nlog: {level: error}\n"
         "limits: {message_size: 1KiB}\n");
    settings_take_live(&running, &settings, NULL, NULL);
    ck_assert_str_eq(running.data_dir, defaults.data_dir);
    ck_assert_uint_eq(running.threads, 0);
    ck_assert_uint_eq(running.heartbeat_s, 5);
    ck_assert_int_eq((int)running.log.level, LOG_LEVEL_ERROR);
    ck_assert_uint_eq(running.limits.message_size, 1024);
    defaults = running;
    ck_assert_str_eq(changes_text(), "data_dir: /var/lib/whippet -> /srv/mq start\n"
                                     "threads: 0 -> 3 start\n");
}
END_TEST

static bool
is_not(void *path, const char *taken)
{
    return strcmp(path, taken) != 0;
}

START_TEST(what_is_refused_is_not_taken_over)
{
    load("log: {level: error, format: json}\nusers: [{name: a, password: b}]\n");
    settings_take_live(&defaults, &settings, is_not, "users");
    ck_assert_int_eq((int)defaults.log.level, LOG_LEVEL_ERROR);
    ck_assert_uint_eq(defaults.users.count, 0);
    ck_assert_uint_eq(settings.users.count, 1); /* it has not moved */
    ck_assert_str_eq(changes_text(), "users: a list of 0 -> a list of 1 live\n");
    load("log: {format: text}\n");
    settings_take_live(&defaults, &settings, is_not, "log.format");
    ck_assert_uint_eq(defaults.users.count, 1);
    ck_assert_str_eq(changes_text(), "log.format: json -> text live\n"
                                     "users: a list of 1 -> a list of 0 live\n"); /* it moved */
    settings_fini(&settings);
    settings_fini(&defaults);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("config changes");
    TCase *tests = tcase_create("changes");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_test(tests, a_configuration_that_says_the_same_has_no_changes);
    tcase_add_test(tests, changes_are_told_as_they_are_written);
    tcase_add_test(tests, lists_are_compared_item_by_item_and_tell_no_secret);
    tcase_add_test(tests, policies_are_compared_by_all_that_they_say);
    tcase_add_test(tests, a_list_that_was_longer_once_is_the_same);
    tcase_add_test(tests, a_long_value_is_cut);
    tcase_add_test(tests, only_what_may_change_is_taken_over);
    tcase_add_test(tests, what_is_refused_is_not_taken_over);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
