/* Users and permissions: what a snapshot permits, what is told to the observer, and who owns a user
 * that the configuration file declares. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/access.h"

static struct access *users;
static char told[4096], error[ACCESS_ERROR_MAX];

/* Writes each change as one line: what, and whose. */
static void
on_change(void *context, const struct access_change *change)
{
    static const char *const names[] = {
        [ACCESS_USER_SET] = "user",
        [ACCESS_USER_DELETED] = "no user",
        [ACCESS_PERMISSIONS_SET] = "permissions",
        [ACCESS_PERMISSIONS_CLEARED] = "no permissions",
        [ACCESS_TOPIC_SET] = "topic",
        [ACCESS_TOPIC_CLEARED] = "no topic",
    };
    const struct access_expressions *expressions = &change->expressions;
    size_t size = strlen(told);
    (void)context;
    snprintf(told + size, sizeof(told) - size, "%s %.*s %.*s %.*s\n", names[change->type],
             SLICE_ARGS(change->user), SLICE_ARGS(expressions->vhost),
             SLICE_ARGS(expressions->exchange));
}

static void
set_up(void)
{
    users = access_new();
    ck_assert_ptr_nonnull(users);
    access_observe(users, (struct access_observer){on_change, NULL});
    told[0] = error[0] = 0;
}

static void
tear_down(void)
{
    access_free(users);
}

static void
make(const char *name, const char *tags)
{
    char hash[PASSWORD_HASH_MAX];
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, slice_from(name), hash), 0);
    ck_assert_int_eq(
        access_user_set(users, slice_from(name), slice_from(hash), slice_from(tags), error), 0);
}

static struct access_expressions
expressions(const char *configure, const char *write, const char *read)
{
    return (struct access_expressions){
        .vhost = SLICE("/"),
        .texts = {slice_from(configure), slice_from(write), slice_from(read)},
    };
}

static void
permit(const char *name, const char *configure, const char *write, const char *read)
{
    struct access_expressions wanted = expressions(configure, write, read);
    ck_assert_int_eq(access_permissions_set(users, slice_from(name), &wanted, error), 0);
}

static bool
permits(const char *name, enum access_permission permission, const char *resource)
{
    struct access_user *user = access_user_find(users, slice_from(name));
    ck_assert_ptr_nonnull(user);
    bool is_permitted = access_permits(user, SLICE("/"), permission, slice_from(resource));
    access_user_unref(user);
    return is_permitted;
}

START_TEST(an_expression_matches_anywhere_and_the_empty_one_only_the_empty_name)
{
    make("u", "");
    permit("u", "", "b", "^b$");
    ck_assert(!permits("u", ACCESS_CONFIGURE, "a"));
    ck_assert(permits("u", ACCESS_CONFIGURE, ""));
    ck_assert(permits("u", ACCESS_WRITE, "abc"));
    ck_assert(!permits("u", ACCESS_WRITE, "ac"));
    ck_assert(permits("u", ACCESS_READ, "b"));
    ck_assert(!permits("u", ACCESS_READ, "ab"));
}
END_TEST

START_TEST(without_permissions_a_user_may_not_even_enter)
{
    make("u", "");
    struct access_user *user = access_user_find(users, SLICE("u"));
    ck_assert(!access_may_enter(user, SLICE("/")));
    ck_assert(!access_permits(user, SLICE("/"), ACCESS_READ, SLICE("")));
    access_user_unref(user);
    permit("u", "", "", "");
    user = access_user_find(users, SLICE("u"));
    ck_assert(access_may_enter(user, SLICE("/")));
    ck_assert(!access_may_enter(user, SLICE("/other")));
    access_user_unref(user);
}
END_TEST

START_TEST(a_snapshot_stays_what_it_was)
{
    make("u", "management");
    permit("u", ".*", ".*", ".*");
    struct access_user *before = access_user_find(users, SLICE("u"));
    uint64_t generation = access_generation(users);
    permit("u", "^$", "^$", "^$");
    ck_assert_uint_ne(access_generation(users), generation);
    ck_assert(!permits("u", ACCESS_WRITE, "q"));
    ck_assert(access_permits(before, SLICE("/"), ACCESS_WRITE, SLICE("q")));
    ck_assert_int_eq(access_user_delete(users, SLICE("u"), error), 0);
    ck_assert(access_permits(before, SLICE("/"), ACCESS_WRITE, SLICE("q")));
    ck_assert_ptr_null(access_user_find(users, SLICE("u")));
    access_user_unref(before);
}
END_TEST

START_TEST(a_later_user_with_the_same_name_is_another_one)
{
    make("u", "");
    struct access_user *first = access_user_find(users, SLICE("u"));
    uint64_t deletions = access_deletions(users);
    ck_assert_int_eq(access_user_delete(users, SLICE("u"), error), 0);
    ck_assert_uint_eq(access_deletions(users), deletions + 1);
    make("u", "");
    struct access_user *second = access_user_find(users, SLICE("u"));
    ck_assert_uint_ne(access_user_id(first), access_user_id(second));
    make("u", "other,tags"); /* this changes, and does not make another */
    struct access_user *third = access_user_find(users, SLICE("u"));
    ck_assert_uint_eq(access_user_id(second), access_user_id(third));
    access_user_unref(first);
    access_user_unref(second);
    access_user_unref(third);
}
END_TEST

START_TEST(tags_are_whole_words)
{
    make("u", "administrator,monitoring");
    struct access_user *user = access_user_find(users, SLICE("u"));
    ck_assert(access_user_has_tag(user, "administrator"));
    ck_assert(access_user_has_tag(user, "monitoring"));
    ck_assert(!access_user_has_tag(user, "admin"));
    ck_assert(!access_user_has_tag(user, "toring"));
    access_user_unref(user);
}
END_TEST

START_TEST(topic_permissions_name_the_user_and_the_vhost)
{
    make("a.b", "");
    struct access_expressions topic = {
        .vhost = SLICE("/"),
        .exchange = SLICE("t"),
        .texts = {SLICE(""), SLICE("^{username}\\.[a-z]+$"), SLICE("^x{vhost}")},
    };
    ck_assert_int_eq(access_topic_set(users, SLICE("a.b"), &topic, error), 0);
    struct access_user *user = access_user_find(users, SLICE("a.b"));
    const struct slice vhost = SLICE("/"), exchange = SLICE("t");
    ck_assert(access_has_topic_permission(user, vhost, exchange));
    ck_assert(!access_has_topic_permission(user, vhost, SLICE("u")));
    ck_assert(access_permits_topic(user, vhost, exchange, ACCESS_WRITE, SLICE("a.b.key")));
    ck_assert(!access_permits_topic(user, vhost, exchange, ACCESS_WRITE, SLICE("axb.key")));
    ck_assert(!access_permits_topic(user, vhost, exchange, ACCESS_WRITE, SLICE("a.b.KEY")));
    ck_assert(access_permits_topic(user, vhost, exchange, ACCESS_READ, SLICE("x/y")));
    ck_assert(!access_permits_topic(user, vhost, exchange, ACCESS_READ, SLICE("xy")));
    /* Without a topic permission all keys are permitted. */
    ck_assert(access_permits_topic(user, vhost, SLICE("u"), ACCESS_WRITE, SLICE("any")));
    access_user_unref(user);
}
END_TEST

START_TEST(no_expression_holds_anybody_up)
{
    char name[256];
    memset(name, 'a', 255);
    name[255] = 0;
    make("u", "");
    permit("u", "^(a+)+$", "^(a|aa)+b$", "(x+x+)+y");
    name[254] = '!';
    ck_assert(!permits("u", ACCESS_CONFIGURE, name));
    ck_assert(!permits("u", ACCESS_WRITE, name));
}
END_TEST

START_TEST(bad_expressions_are_refused_with_their_place)
{
    make("u", "");
    struct access_expressions wanted = expressions(".*", "a(b", ".*");
    ck_assert_int_eq(access_permissions_set(users, SLICE("u"), &wanted, error), -EINVAL);
    ck_assert_str_eq(error, "the expression 'a(b' for write of user 'u': missing closing "
                            "parenthesis, at byte 3");
    struct access_user *user = access_user_find(users, SLICE("u"));
    ck_assert(!access_may_enter(user, SLICE("/")));
    access_user_unref(user);
    wanted = expressions(".*", ".*", ".*");
    ck_assert_int_eq(access_permissions_set(users, SLICE("w"), &wanted, error), -ENOENT);
    ck_assert_str_eq(error, "no user 'w'");
    ck_assert_int_eq(access_user_set(users, SLICE("w"), SLICE("xyz"), SLICE(""), error), -EINVAL);
    ck_assert_ptr_null(access_user_find(users, SLICE("w")));
}
END_TEST

START_TEST(changes_are_told_in_order)
{
    struct access_expressions topic = expressions("", ".*", ".*");
    topic.exchange = SLICE("t");
    make("u", "");
    permit("u", ".*", ".*", ".*");
    ck_assert_int_eq(access_topic_set(users, SLICE("u"), &topic, error), 0);
    ck_assert_int_eq(access_topic_clear(users, SLICE("u"), SLICE("/"), true, SLICE("none"), error),
                     0);
    ck_assert_int_eq(access_user_delete(users, SLICE("u"), error), 0);
    ck_assert_str_eq(told, "user u  \npermissions u / \ntopic u / t\nno permissions u / \n"
                           "no topic u / t\nno user u  \n");
}
END_TEST

START_TEST(permissions_go_with_their_vhost)
{
    make("u", "");
    permit("u", ".*", ".*", ".*");
    ck_assert_int_eq(access_vhost_deleted(users, SLICE("/other")), 0);
    ck_assert(permits("u", ACCESS_READ, "q"));
    ck_assert_int_eq(access_vhost_deleted(users, SLICE("/")), 0);
    ck_assert(!permits("u", ACCESS_READ, "q"));
    ck_assert_str_eq(told, "user u  \npermissions u / \nno permissions u / \n");
}
END_TEST

START_TEST(a_password_is_known_once_it_was_right)
{
    make("u", "");
    struct access_user *user = access_user_find(users, SLICE("u"));
    ck_assert(!access_knows_password(user, SLICE("u")));
    ck_assert(!access_verify_password(users, user, SLICE("x")));
    ck_assert(!access_knows_password(user, SLICE("x")));
    ck_assert(access_verify_password(users, user, SLICE("u")));
    ck_assert(access_knows_password(user, SLICE("u")));
    ck_assert(!access_knows_password(user, SLICE("x")));
    access_user_unref(user);
    /* Other permissions change nothing about that; another password does. */
    permit("u", ".*", ".*", ".*");
    user = access_user_find(users, SLICE("u"));
    ck_assert(access_knows_password(user, SLICE("u")));
    access_user_unref(user);
    make("u", "");
    user = access_user_find(users, SLICE("u"));
    ck_assert(!access_knows_password(user, SLICE("u")));
    access_user_unref(user);
    ck_assert(!access_verify_password(users, NULL, SLICE("u")));
}
END_TEST

/* --- Users of the file ------------------------------------------------------------------------ */

static const struct access_expressions everything = {.vhost = {"/", 1},
                                                     .texts = {{".*", 2}, {".*", 2}, {".*", 2}}};

static struct access_declaration
declare(const char *name, const char *password)
{
    return (struct access_declaration){
        .name = slice_from(name),
        .password = slice_from(password),
        .has_password = true,
        .permissions = &everything,
        .permission_count = 1,
    };
}

START_TEST(the_file_is_the_truth_for_its_users)
{
    struct access_declaration file[] = {declare("a", "1"), declare("b", "2")};
    make("made", "");
    told[0] = 0;
    ck_assert_int_eq(access_apply(users, file, 2, error), 0);
    ck_assert(permits("a", ACCESS_READ, "q"));
    ck_assert(permits("b", ACCESS_READ, "q"));
    ck_assert_str_eq(told, ""); /* nothing of it is to be kept anywhere else */
    ck_assert_int_eq(access_user_delete(users, SLICE("a"), error), -EPERM);
    ck_assert_int_eq(access_user_set(users, SLICE("a"), SLICE(""), SLICE(""), error), -EPERM);
    ck_assert_int_eq(access_permissions_set(users, SLICE("a"), &everything, error), -EPERM);
    ck_assert_int_eq(access_apply(users, file + 1, 1, error), 0);
    ck_assert_ptr_null(access_user_find(users, SLICE("a")));
    ck_assert(permits("b", ACCESS_READ, "q"));
    ck_assert_int_eq(access_apply(users, NULL, 0, error), 0);
    ck_assert_ptr_null(access_user_find(users, SLICE("b")));
    ck_assert_str_eq(told, "");
    struct access_user *made = access_user_find(users, SLICE("made"));
    ck_assert_ptr_nonnull(made); /* who was made at run time stays */
    access_user_unref(made);
}
END_TEST

START_TEST(a_user_whom_the_file_takes_over_goes_with_it)
{
    struct access_declaration file[] = {declare("u", "new")};
    make("u", "");
    permit("u", ".*", ".*", ".*");
    struct access_user *before = access_user_find(users, SLICE("u"));
    told[0] = 0;
    ck_assert_int_eq(access_apply(users, file, 1, error), 0);
    ck_assert_str_eq(told, "no permissions u / \nno user u  \n");
    struct access_user *after = access_user_find(users, SLICE("u"));
    ck_assert_uint_eq(access_user_id(before), access_user_id(after)); /* stays connected */
    ck_assert(access_verify_password(users, after, SLICE("new")));
    access_user_unref(before);
    access_user_unref(after);
    ck_assert_int_eq(access_apply(users, NULL, 0, error), 0);
    ck_assert_ptr_null(access_user_find(users, SLICE("u")));
}
END_TEST

START_TEST(the_same_file_again_changes_no_password)
{
    struct access_declaration file[] = {declare("u", "secret")};
    ck_assert_int_eq(access_apply(users, file, 1, error), 0);
    struct access_user *user = access_user_find(users, SLICE("u"));
    ck_assert(access_verify_password(users, user, SLICE("secret")));
    access_user_unref(user);
    ck_assert_int_eq(access_apply(users, file, 1, error), 0);
    user = access_user_find(users, SLICE("u"));
    ck_assert(access_knows_password(user, SLICE("secret")));
    access_user_unref(user);
    file[0] = declare("u", "other");
    ck_assert_int_eq(access_apply(users, file, 1, error), 0);
    user = access_user_find(users, SLICE("u"));
    ck_assert(!access_knows_password(user, SLICE("secret")));
    ck_assert(!access_verify_password(users, user, SLICE("secret")));
    access_user_unref(user);
}
END_TEST

START_TEST(a_file_is_applied_whole_or_not_at_all)
{
    struct access_declaration file[] = {declare("a", "1"), declare("b", "2")};
    struct access_expressions bad = everything;
    bad.texts[ACCESS_READ] = SLICE("[");
    file[1].permissions = &bad;
    ck_assert_int_eq(access_apply(users, file, 2, error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error, "for read of user 'b'"));
    ck_assert_ptr_null(access_user_find(users, SLICE("a")));
}
END_TEST

START_TEST(guest_is_for_this_machine_only_unless_told_otherwise)
{
    const struct slice names[] = {SLICE("x"), SLICE("y")};
    ck_assert(access_is_loopback_only(users, SLICE("guest")));
    ck_assert(!access_is_loopback_only(users, SLICE("x")));
    ck_assert_int_eq(access_set_loopback_users(users, names, 2), 0);
    ck_assert(!access_is_loopback_only(users, SLICE("guest")));
    ck_assert(access_is_loopback_only(users, SLICE("y")));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("auth/access");
    TCase *tests = tcase_create("access");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, an_expression_matches_anywhere_and_the_empty_one_only_the_empty_name);
    tcase_add_test(tests, without_permissions_a_user_may_not_even_enter);
    tcase_add_test(tests, a_snapshot_stays_what_it_was);
    tcase_add_test(tests, a_later_user_with_the_same_name_is_another_one);
    tcase_add_test(tests, tags_are_whole_words);
    tcase_add_test(tests, topic_permissions_name_the_user_and_the_vhost);
    tcase_add_test(tests, no_expression_holds_anybody_up);
    tcase_add_test(tests, bad_expressions_are_refused_with_their_place);
    tcase_add_test(tests, changes_are_told_in_order);
    tcase_add_test(tests, permissions_go_with_their_vhost);
    tcase_add_test(tests, a_password_is_known_once_it_was_right);
    tcase_add_test(tests, the_file_is_the_truth_for_its_users);
    tcase_add_test(tests, a_user_whom_the_file_takes_over_goes_with_it);
    tcase_add_test(tests, the_same_file_again_changes_no_password);
    tcase_add_test(tests, a_file_is_applied_whole_or_not_at_all);
    tcase_add_test(tests, guest_is_for_this_machine_only_unless_told_otherwise);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
