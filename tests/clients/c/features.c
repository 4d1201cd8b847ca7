/* The feature steps with librabbitmq, which leaves every wait to its caller.
 *
 * Each step runs in a process of its own with a connection of its own, so that one which fails or
 * hangs does not end the others. */
#include "steps.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    STEP_LIMIT_S = 30,
    RECOVERY_LIMIT_S = 90,
};

const char *step_name;

static const struct step {
    const char *name;
    void (*run)(struct client *client);
} steps[] = {
    {"hello", hello},
    {"work-queue", work_queue},
    {"publish-subscribe", publish_subscribe},
    {"routing", routing},
    {"topics", topics},
    {"rpc", rpc},
    {"direct-reply-to", direct_reply_to},
    {"confirms", confirms},
    {"mandatory-return", mandatory_return},
    {"get", get},
    {"requeue", requeue},
    {"dead-letter", dead_letter},
    {"ttl", ttl},
    {"priority", priority},
    {"headers", headers},
    {"transaction", transaction},
    {"recover", recover},
    {"exclusive", exclusive},
    {"missing-queue", missing_queue},
    {"redeclare", redeclare},
    {"cancel-notify", cancel_notify},
    {"large-body", large_body},
    {"close", close_connection},
    {"recovery", recovery},
};

static _Noreturn void
run_in_child(const struct step *step, struct client client)
{
    alarm(step->run == recovery ? RECOVERY_LIMIT_S : STEP_LIMIT_S);
    client_connect(&client);
    step->run(&client);
    client_close(&client);
    printf("ok %s\n", step->name);
    fflush(stdout);
    _exit(0);
}

static void
run_step(const struct step *step, const struct client *client)
{
    pid_t child;
    int status;

    step_name = step->name;
    child = fork();
    if (child == 0) {
        run_in_child(step, *client);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("a process for the step");
        exit(1);
    }
    if (WIFSIGNALED(status)) {
        printf("not ok %s: %s\n", step->name,
               WTERMSIG(status) == SIGALRM ? "the step took too long"
                                           : strsignal(WTERMSIG(status)));
        fflush(stdout);
    }
}

/* Runs the named steps, or all but recovery if there are no names. */
int
main(int argc, char **argv)
{
    struct client client = {0};

    if (argc < 3) {
        fprintf(stderr, "usage: %s HOST PORT [STEP...]\n", argv[0]);
        return 2;
    }
    client.host = argv[1];
    client.port = atoi(argv[2]);
    for (size_t i = 0; i < COUNT(steps); i++) {
        bool is_wanted = argc == 3 && steps[i].run != recovery;

        for (int j = 3; j < argc; j++) {
            is_wanted = is_wanted || strcmp(argv[j], steps[i].name) == 0;
        }
        if (is_wanted) {
            run_step(&steps[i], &client);
        }
    }
    return 0;
}
