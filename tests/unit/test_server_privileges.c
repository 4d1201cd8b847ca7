/* The data directory that is made while there are the rights for it.
 *
 * fsync is the test's, by the linker (--wrap). */
#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/privileges.h"

static char above[] = "/tmp/whippet-privileges-XXXXXX", directory[64];
static bool is_above_synced;

int __real_fsync(int file);
int __wrap_fsync(int file);

int
__wrap_fsync(int file)
{
    char link[64], path[PATH_MAX] = "";
    struct stat made;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof(path) - 1) > 0 && strcmp(path, above) == 0)
        is_above_synced = stat(directory, &made) == 0;
    return __real_fsync(file);
}

static void
set_up(void)
{
    ck_assert_ptr_nonnull(mkdtemp(above));
    snprintf(directory, sizeof(directory), "%s/data", above);
}

static void
tear_down(void)
{
    ck_assert_int_eq(rmdir(directory), 0);
    ck_assert_int_eq(rmdir(above), 0);
}

/* Without that all that is ever confirmed may have no name after a power loss. */
START_TEST(a_data_directory_that_is_made_is_synced_into_the_one_above)
{
    struct identity identity;
    struct stat status;
    char error[PRIVILEGES_ERROR_MAX] = "";
    ck_assert_int_eq(identity_find(&identity, "", "", error), 0);
    ck_assert_msg(privileges_make_directory(&identity, directory, error) == 0, "%s", error);
    ck_assert(is_above_synced);
    ck_assert_int_eq(stat(directory, &status), 0);
    ck_assert_uint_eq(status.st_mode & 0777, 0700);
    ck_assert_msg(privileges_make_directory(&identity, directory, error) == 0, "%s", error);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("server/privileges");
    TCase *tests = tcase_create("privileges");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_data_directory_that_is_made_is_synced_into_the_one_above);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
