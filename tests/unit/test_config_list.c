/* Lists of mappings in the configuration file, and what is told about those that are wrong. */
#include <sys/stat.h>
#include <unistd.h>

#include "test_config_support.h"

#define HASH "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH"

static void
tear_down(void)
{
    settings_fini(&settings);
}

START_TEST(users_are_read_with_all_that_they_have)
{
    load("users:\n"
         "  - name: anna\n"
         "    password: secret\n"
         "    tags: [administrator, monitoring]\n"
         "    permissions:\n"
         "      - {vhost: /, configure: \"\", write: \".*\", read: ^a}\n"
         "      - {vhost: /b, configure: c, write: w, read: r}\n"
         "    topic_permissions:\n"
         "      - {vhost: /, exchange: amq.topic, write: \"{username}\", read: \"\"}\n"
         "  - {name: \"5\", password_hash: " HASH ", tags: one}\n"
         "  - {name: x, password_hash: \"\"}\n");
    const struct config_user *users = settings.users.items;
    ck_assert_uint_eq(settings.users.count, 3);
    ck_assert_str_eq(users[0].name, "anna");
    ck_assert_str_eq(users[0].password, "secret");
    ck_assert_ptr_null(users[0].password_hash);
    ck_assert_uint_eq(users[0].tags.count, 2);
    ck_assert_str_eq(((char **)users[0].tags.items)[1], "monitoring");
    const struct config_permission *permissions = users[0].permissions.items;
    ck_assert_uint_eq(users[0].permissions.count, 2);
    ck_assert_str_eq(permissions[0].configure, "");
    ck_assert_str_eq(permissions[0].read, "^a");
    ck_assert_str_eq(permissions[1].vhost, "/b");
    const struct config_topic_permission *topics = users[0].topic_permissions.items;
    ck_assert_uint_eq(users[0].topic_permissions.count, 1);
    ck_assert_str_eq(topics[0].exchange, "amq.topic");
    ck_assert_str_eq(users[1].name, "5");
    ck_assert_str_eq(users[1].password_hash, HASH);
    ck_assert_str_eq(((char **)users[1].tags.items)[0], "one"); /* one may stand alone */
    ck_assert_str_eq(users[2].password_hash, "");
}
END_TEST

START_TEST(policies_are_read_with_their_definitions)
{
    load("policies:\n"
         "  - name: p\n"
         "    vhost: /v\n"
         "    pattern: ^q\n"
         "    apply_to: queues\n"
         "    priority: -3\n"
         "    definition: {max-length: 9223372036854775807, overflow: drop-head,\n"
         "                 delivery-limit: -1, dead-letter-exchange: \"\", ha-params: \"2\"}\n"
         "operator_policies:\n"
         "  - {name: o, pattern: \"\", definition: {}}\n");
    const struct config_policy *policy = settings.policies.items;
    const struct config_entry *entries = policy->definition.items;
    ck_assert_uint_eq(settings.policies.count, 1);
    ck_assert_str_eq(policy->name, "p");
    ck_assert_str_eq(policy->vhost, "/v");
    ck_assert_str_eq(policy->pattern, "^q");
    ck_assert_str_eq(policy->apply_to, "queues");
    ck_assert_int_eq(policy->priority, -3);
    ck_assert_uint_eq(policy->line, 2);
    ck_assert_uint_eq(policy->column, 5);
    ck_assert_uint_eq(policy->definition.count, 5);
    ck_assert_str_eq(entries[0].name, "max-length");
    ck_assert_ptr_null(entries[0].text);
    ck_assert_int_eq(entries[0].number, INT64_MAX);
    ck_assert_str_eq(entries[1].text, "drop-head");
    ck_assert_int_eq(entries[2].number, -1);
    ck_assert_str_eq(entries[3].text, "");
    ck_assert_str_eq(entries[4].text, "2");
    policy = settings.operator_policies.items;
    ck_assert_uint_eq(settings.operator_policies.count, 1);
    ck_assert_ptr_null(policy->vhost);
    ck_assert_ptr_null(policy->apply_to);
    ck_assert_int_eq(policy->priority, 0);
    ck_assert_uint_eq(policy->definition.count, 0);
}
END_TEST

START_TEST(all_that_is_wrong_with_a_policy_is_told_with_its_place)
{
    refuse(
        "policies:\n"
        "  - {name: a, pattern: \"(\", definition: 5, priority: 2147483648}\n"
        "  - {name: b, pattern: \"\", definition: {x: [], y: 1, y: {a: b}, 5: 3, z: 1.5}}\n"
        "  - {name: c, definition: {x: 9223372036854775808, y: true, z: }, priority: -5}\n"
        "  - {name: d, pattern: x, priority: \"5\", definition: {\"\": 1, w: -}}\n"
        "  - {name: e, pattern: x, priority: high, definition: &x {a: 1}}\n",
        "f:2:24: policies.pattern: expected a regular expression; found \"(\" in quotes: missing "
        "closing parenthesis, at byte 1\n"
        "f:2:41: policies.definition: expected a mapping, each value of which is an integer or a "
        "text; found 5\n"
        "f:2:54: policies.priority: expected an integer from -2147483648 to 2147483647; found "
        "2147483648\n"
        "f:3:44: policies.definition.x: expected an integer or a text; found a list\n"
        "f:3:54: policies.definition: \"y\" is in the list twice\n"
        "f:3:57: policies.definition.y: expected an integer or a text; found a mapping\n"
        "f:3:65: policies.definition: expected a text of 1 to 255 bytes without control "
        "characters (in quotes, if it looks like a number); found 5\n"
        "f:3:74: policies.definition.z: expected an integer or a text; found 1.5\n"
        "f:4:31: policies.definition.x: expected an integer or a text; found "
        "9223372036854775808\n"
        "f:4:55: policies.definition.y: expected an integer or a text; found true\n"
        "f:4:64: policies.definition.z: expected an integer or a text; found nothing\n"
        "f:4:5: policies: a policy needs the key pattern\n"
        "f:5:37: policies.priority: expected an integer from -2147483648 to 2147483647; found "
        "\"5\" in quotes\n"
        "f:5:55: policies.definition: expected a text of 1 to 255 bytes without control "
        "characters (in quotes, if it looks like a number); found \"\" in quotes\n"
        "f:6:37: policies.priority: expected an integer from -2147483648 to 2147483647; found "
        "high\n"
        "f:6:55: anchors (&x) are not supported\n");
}
END_TEST

START_TEST(an_item_with_one_key_may_be_a_text)
{
    load("vhosts: [/a, {name: b}]\n");
    const struct config_vhost *vhosts = settings.vhosts.items;
    ck_assert_uint_eq(settings.vhosts.count, 2);
    ck_assert_str_eq(vhosts[0].name, "/a");
    ck_assert_str_eq(vhosts[1].name, "b");
}
END_TEST

START_TEST(an_empty_list_is_told_from_none)
{
    load("users:\n");
    ck_assert_ptr_null(settings.users.items);
    load("loopback_users: []\n");
    ck_assert_ptr_nonnull(settings.loopback_users.items);
    ck_assert_uint_eq(settings.loopback_users.count, 0);
}
END_TEST

START_TEST(a_later_file_replaces_the_list_or_keeps_it)
{
    load("vhosts: [a, b]\n");
    load("threads: 2\n");
    ck_assert_uint_eq(settings.vhosts.count, 2);
    load("vhosts: [c]\n");
    ck_assert_uint_eq(settings.vhosts.count, 1);
    ck_assert_int_eq(load_bytes("vhosts: [d, d, 5]\n", 18), -1);
    ck_assert_str_eq(((struct config_vhost *)settings.vhosts.items)[0].name, "c");
}
END_TEST

START_TEST(all_that_is_wrong_with_a_list_is_told_with_its_place)
{
    refuse("users:\n"
           "  - nmae: anna\n"
           "    password: a\n"
           "  - name: b\n"
           "    name: c\n"
           "    password: x\n"
           "    password_hash: " HASH "\n"
           "  - name: d\n"
           "  - name: e\n"
           "    password: e\n"
           "    permissions: [{vhost: /, configure: \"a(b\", write: 5, read: \"\"}, 7]\n"
           "  - {name: d, password: x}\n"
           "  - text\n"
           "  - {name: f, password_hash: nonsense, tags: {a: b}}\n"
           "  - {name: g, password: 12345, xyz: [1, {2: 3}]}\n"
           "vhosts: 5\n",
           "f:2:5: unknown key \"users.nmae\"; did you mean users.name?\n"
           "f:2:5: users: a user needs the key name\n"
           "f:5:5: duplicate key \"users.name\"; it is on line 4 already\n"
           "f:8:5: users: expected either password or password_hash (which may be \"\": no "
           "password)\n"
           "f:11:41: users.permissions.configure: expected a regular expression; found \"a(b\" in "
           "quotes: missing closing parenthesis, at byte 3\n"
           "f:11:55: users.permissions.write: expected a regular expression of 0 to 4096 bytes "
           "without control characters (in quotes, if it looks like a number); found 5\n"
           "f:11:69: users.permissions: expected a permission, a mapping of vhost, configure, "
           "write, read; found 7\n"
           "f:12:5: users.name: \"d\" is in the list twice\n"
           "f:13:5: users: expected a user, a mapping of name, password, password_hash, tags, "
           "permissions, topic_permissions; found text\n"
           "f:14:30: users.password_hash: expected the hash of a password: it is neither base64 of "
           "a salt and SHA-256 or SHA-512, nor $scrypt$...\n"
           "f:14:46: users.tags: expected a list, each item of which is a text; found a mapping\n"
           "f:15:25: users.password: expected a password of 1 to 1024 bytes without control "
           "characters (in quotes, if it looks like a number)\n"
           "f:15:32: unknown key \"users.xyz\"; expected one of name, password, password_hash, "
           "tags, permissions, topic_permissions\n"
           "f:16:9: vhosts: expected a list, each item of which is a vhost; found 5\n");
}
END_TEST

START_TEST(no_secret_is_in_a_message)
{
    static const char *const texts[] = {
        "users: [{name: a, password: [hidden]}]\n",
        "users: [{name: a, password: \"hid\\u0007den\"}]\n",
        "users: [{name: a, password_hash: hidden}]\n",
        "users: [{name: a, password_hash: \"hid\\nden\"}]\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        ck_assert_int_eq(load_bytes(texts[i], strlen(texts[i])), -1);
        ck_assert_ptr_null(strstr(errors_text(), "hid"));
    }
}
END_TEST

START_TEST(a_list_has_a_limit)
{
    static char text[400000] = "loopback_users: [";
    size_t size = strlen(text);
    for (int i = 0; i < 1001; i++)
        size += (size_t)snprintf(text + size, sizeof(text) - size, "u%d, ", i);
    snprintf(text + size, sizeof(text) - size, "last]\nthreads: x\n");
    ck_assert_int_eq(load_bytes(text, strlen(text)), -1);
    ck_assert_ptr_nonnull(strstr(errors_text(), "loopback_users: expected at most 1000 items\n"));
    ck_assert_ptr_nonnull(strstr(errors_text(), "threads: expected")); /* reading went on */
    ck_assert_uint_eq(errors.total, 2);
}
END_TEST

START_TEST(a_password_in_clear_needs_a_file_that_others_cannot_read)
{
    char path[] = "/tmp/whippet-config-XXXXXX";
    static const char text[] = "users: [{name: a, password: secret}]\n";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    ck_assert_int_eq(fchmod(fd, 0644), 0);
    ck_assert_int_eq(config_load(&settings, path, &errors), -1);
    ck_assert_ptr_nonnull(strstr(errors_text(), ":1:29: users.password: expected a password: a "
                                                "password in clear is taken only from a file that "
                                                "others cannot read (chmod o-r), else use "
                                                "password_hash\n"));
    ck_assert_int_eq(fchmod(fd, 0640), 0);
    ck_assert_int_eq(config_load(&settings, path, &errors), 0);
    ck_assert_uint_eq(settings.users.count, 1);
    close(fd);
    unlink(path);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("config/list");
    TCase *tests = tcase_create("list");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, users_are_read_with_all_that_they_have);
    tcase_add_test(tests, policies_are_read_with_their_definitions);
    tcase_add_test(tests, all_that_is_wrong_with_a_policy_is_told_with_its_place);
    tcase_add_test(tests, an_item_with_one_key_may_be_a_text);
    tcase_add_test(tests, an_empty_list_is_told_from_none);
    tcase_add_test(tests, a_later_file_replaces_the_list_or_keeps_it);
    tcase_add_test(tests, all_that_is_wrong_with_a_list_is_told_with_its_place);
    tcase_add_test(tests, no_secret_is_in_a_message);
    tcase_add_test(tests, a_list_has_a_limit);
    tcase_add_test(tests, a_password_in_clear_needs_a_file_that_others_cannot_read);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
