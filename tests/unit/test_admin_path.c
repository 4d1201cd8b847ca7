/* Paths of requests: names come out as they are meant, and nothing else comes through. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "admin/path.h"

static struct admin_path path;

static int
parse(const char *url)
{
    return admin_path_parse(&path, slice_from(url));
}

static void
check_part(size_t index, const char *expected)
{
    ck_assert_uint_lt(index, path.count);
    ck_assert_msg(slice_is(path.parts[index], expected), "'%.*s' is not '%s'",
                  SLICE_ARGS(path.parts[index]), expected);
}

START_TEST(a_part_is_decoded_after_the_path_is_cut)
{
    ck_assert_int_eq(parse("/api/permissions/%2Fa%2fb/J%C3%BCrgen+x"), 0);
    ck_assert_uint_eq(path.count, 4);
    check_part(0, "api");
    check_part(2, "/a/b");
    check_part(3, "J\xc3\xbcrgen+x");
}
END_TEST

START_TEST(dots_are_names_and_empty_parts_are_kept)
{
    ck_assert_int_eq(parse("/api/../%2e%2E//"), 0);
    ck_assert_uint_eq(path.count, 5);
    check_part(1, "..");
    check_part(2, "..");
    check_part(3, "");
    check_part(4, "");
}
END_TEST

START_TEST(what_is_no_path_is_refused)
{
    static const char *const bad[] = {"",     "api",        "/%",     "/%2",     "/a%",
                                      "/%zz", "/%-1",       "/%00",   "/a%00b",  "/%ff",
                                      "/%c3", "/%ed%a0%80", "/x\xff", "/%c0%af", "*"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(parse(bad[i]) == -EINVAL, "'%s' was taken", bad[i]);
}
END_TEST

START_TEST(length_and_number_of_parts_are_bounded)
{
    char url[ADMIN_PATH_MAX + 2];
    ck_assert_int_eq(parse("/1/2/3/4/5/6/7/8"), 0);
    check_part(7, "8");
    ck_assert_int_eq(parse("/1/2/3/4/5/6/7/8/9"), -E2BIG);
    memset(url, 'a', sizeof(url));
    url[0] = '/';
    ck_assert_int_eq(admin_path_parse(&path, (struct slice){url, ADMIN_PATH_MAX}), 0);
    ck_assert_uint_eq(path.parts[0].size, ADMIN_PATH_MAX - 1);
    ck_assert_int_eq(admin_path_parse(&path, (struct slice){url, ADMIN_PATH_MAX + 1}), -E2BIG);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("admin/path");
    TCase *cases = tcase_create("path");
    tcase_add_test(cases, a_part_is_decoded_after_the_path_is_cut);
    tcase_add_test(cases, dots_are_names_and_empty_parts_are_kept);
    tcase_add_test(cases, what_is_no_path_is_refused);
    tcase_add_test(cases, length_and_number_of_parts_are_bounded);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
