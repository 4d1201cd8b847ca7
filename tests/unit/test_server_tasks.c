/* Tasks: done in order on the thread that is to do them, each once, or not at all and told so. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>

#include "server/tasks.h"

static struct tasks tasks;
static sem_t woken;
static pthread_t doer;
static int done;

static void
wake(void *context)
{
    sem_post(context);
}

static void
count(void *context)
{
    ck_assert(pthread_equal(pthread_self(), doer));
    ck_assert_int_eq(++done, *(int *)context);
}

static void *
call(void *context)
{
    return (void *)(intptr_t)tasks_call(&tasks, count, context, wake, &woken);
}

static void
set_up(void)
{
    tasks_init(&tasks);
    ck_assert_int_eq(sem_init(&woken, 0, 0), 0);
    doer = pthread_self();
    done = 0;
}

static void
tear_down(void)
{
    tasks_fini(&tasks);
    sem_destroy(&woken);
}

static intptr_t
result_of(pthread_t thread)
{
    void *result;
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    return (intptr_t)result;
}

START_TEST(tasks_are_done_in_order_by_the_thread_that_runs_them)
{
    int numbers[] = {1, 2};
    pthread_t callers[2];
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_create(&callers[i], NULL, call, &numbers[i]), 0);
        sem_wait(&woken);
    }
    ck_assert(tasks_has_any(&tasks));
    tasks_run(&tasks);
    ck_assert(!tasks_has_any(&tasks));
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(result_of(callers[i]), 0);
    ck_assert_int_eq(done, 2);
}
END_TEST

START_TEST(who_waits_when_nothing_is_done_any_more_is_told_so)
{
    int number = 1;
    pthread_t caller;
    ck_assert_int_eq(pthread_create(&caller, NULL, call, &number), 0);
    sem_wait(&woken);
    tasks_close(&tasks);
    ck_assert_int_eq(result_of(caller), -ECANCELED);
    ck_assert_int_eq(tasks_call(&tasks, count, &number, wake, &woken), -ECANCELED);
    tasks_run(&tasks);
    ck_assert_int_eq(done, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("server/tasks");
    TCase *cases = tcase_create("tasks");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, tasks_are_done_in_order_by_the_thread_that_runs_them);
    tcase_add_test(cases, who_waits_when_nothing_is_done_any_more_is_told_so);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
