/* The system call filter: what a broker does goes on, and the rest is refused by the kernel. Each
 * test enters it in a process of its own, since there is no way out. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/sandbox.h"

enum { HAS_NO_FILTER = 77 };

/* Does this in the sandbox, in a process of its own; returns how that ended, as wait(2) has it. */
static int
status_of(int (*action)(void))
{
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        char error[SANDBOX_ERROR_MAX];

        if (sandbox_enter(error) != 0) {
            fprintf(stderr, "%s\n", error);
            _exit(HAS_NO_FILTER);
        }
        _exit(action());
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        perror("a process for the sandbox");
    return status;
}

static void
check_succeeds(int (*action)(void))
{
    int status = status_of(action);

    ck_assert_msg(WIFEXITED(status), "killed by signal %d", WTERMSIG(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}

static void
check_kills(int (*action)(void))
{
    int status = status_of(action);

    ck_assert_msg(WIFSIGNALED(status), "it ended with status %d", WEXITSTATUS(status));
    ck_assert_int_eq(WTERMSIG(status), SIGSYS);
}

static int
run_a_program(void)
{
    char *arguments[] = {"true", NULL};
    return execv("/bin/true", arguments);
}

static int
fork_a_process(void)
{
    return (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0 && errno == ENOSYS ? 0 : 1;
}

#ifdef SYS_clone3
/* The arguments of clone3 are in memory, where no filter looks. */
static int
fork_by_clone3(void)
{
    uint64_t arguments[8] = {[4] = SIGCHLD}; /* struct clone_args: exit_signal */
    long child = syscall(SYS_clone3, arguments, sizeof(arguments));

    if (child == 0)
        _exit(0);
    return child < 0 && errno == ENOSYS ? 0 : 1;
}
#endif

static int
become_root(void)
{
    return setuid(0);
}

static int
enter_a_namespace(void)
{
    return (int)syscall(SYS_unshare, 0);
}

START_TEST(what_only_an_attack_does_kills_the_process)
{
    check_kills(run_a_program);
    check_kills(become_root);
    check_kills(enter_a_namespace);
}
END_TEST

static int
make_a_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == ENOSYS ? 0 : 1;
}

static int
raise_a_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 2;
    return setrlimit(RLIMIT_NOFILE, &limit) != 0 && errno == ENOSYS ? 0 : 1;
}

static int
type_into_the_terminal(void)
{
    return ioctl(STDIN_FILENO, TIOCSTI, "x") != 0 && errno == ENOSYS ? 0 : 1;
}

static int
make_itself_dumpable(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0 && errno == ENOSYS ? 0 : 1;
}

/* Signal 0 does nothing but ask whether one might send another. */
static int
signal_another_process(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0) != 0 && errno == ENOSYS ? 0 : 1;
}

START_TEST(what_a_broker_does_not_do_fails)
{
    check_succeeds(signal_another_process);
    check_succeeds(make_a_socket);
    check_succeeds(fork_a_process);
#ifdef SYS_clone3
    check_succeeds(fork_by_clone3);
#endif
    check_succeeds(raise_a_limit);
    check_succeeds(type_into_the_terminal);
    check_succeeds(make_itself_dumpable);
}
END_TEST

static void *
nothing(void *context)
{
    return context;
}

static int
start_a_thread(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, nothing, NULL) != 0)
        return 1;
    return pthread_join(thread, NULL);
}

static int
use_a_file(void)
{
    char path[] = "/tmp/test_sandbox.XXXXXX";
    int file = mkstemp(path);

    if (file < 0 || pwrite(file, "x", 1, 0) != 1 || fdatasync(file) != 0 || close(file) != 0)
        return 1;
    return unlink(path);
}

static int
signal_itself(void)
{
    return signal(SIGABRT, SIG_IGN) != SIG_ERR ? raise(SIGABRT) : 1;
}

START_TEST(what_a_broker_does_goes_on)
{
    check_succeeds(signal_itself);
    check_succeeds(start_a_thread);
    check_succeeds(use_a_file);
}
END_TEST

static int go[2];

static void *
try_a_socket(void *context)
{
    char byte;

    if (read(go[0], &byte, 1) != 1)
        return NULL;
    *(int *)context = make_a_socket();
    return NULL;
}

START_TEST(threads_that_were_there_before_are_filtered_too)
{
    int status;
    pid_t child = fork();

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        char error[SANDBOX_ERROR_MAX];
        pthread_t thread;
        int result = -1;

        if (pipe(go) != 0 || pthread_create(&thread, NULL, try_a_socket, &result) != 0
            || sandbox_enter(error) != 0 || write(go[1], "", 1) != 1)
            _exit(2);
        pthread_join(thread, NULL);
        _exit(result);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(without_a_filter_the_reason_is_told)
{
    char error[SANDBOX_ERROR_MAX] = "";

    ck_assert_int_eq(sandbox_enter(error), -1);
    ck_assert_ptr_nonnull(strstr(error, "built with"));
}
END_TEST

/* Kernels and containers without filters: there is nothing to be tested. */
static int
do_nothing(void)
{
    return 0;
}

int
main(void)
{
    Suite *suite = suite_create("server/sandbox");
    TCase *tests = tcase_create("filter");
    SRunner *runner;
    int failed;

    if (UNDER_SANITIZER || !HAVE_SECCOMP) {
        tcase_add_test(tests, without_a_filter_the_reason_is_told);
    } else if (WEXITSTATUS(status_of(do_nothing)) == HAS_NO_FILTER) {
        puts("skip server/sandbox: this system has no system call filters");
    } else {
        tcase_add_test(tests, what_only_an_attack_does_kills_the_process);
        tcase_add_test(tests, what_a_broker_does_not_do_fails);
        tcase_add_test(tests, what_a_broker_does_goes_on);
        tcase_add_test(tests, threads_that_were_there_before_are_filtered_too);
    }
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
