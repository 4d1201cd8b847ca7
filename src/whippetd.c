/* whippetd: the broker's program. Reads its options and configuration, starts the server, stops it
 * in order on SIGTERM and SIGINT. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "server/worker.h"

static struct server server;

static void
on_signal(int number)
{
    (void)number;
    int saved = errno;
    server_stop(&server);
    errno = saved;
}

static void
usage(FILE *out)
{
    fputs("usage: whippetd [OPTIONS]\n"
          "\n"
          "  --config FILE          read the configuration from this file\n"
          "  --data-dir DIR         where the broker keeps its data\n"
          "  --listen ADDRESS:PORT  accept AMQP connections there; may be given several times\n"
          "  --threads N            worker threads; 0: one per CPU\n"
          "  --check-config         say whether the configuration is good, and end\n"
          "  --version              print the version, and end\n"
          "  --help                 print this, and end\n",
          out);
}

static bool
authenticate(void *context, struct slice user, struct slice password, bool is_loopback,
             const char **reason)
{
    (void)context;
    if (!slice_is(user, "guest") || !slice_is(password, "guest")) {
        *reason = "invalid credentials";
        return false;
    }
    if (!is_loopback) {
        *reason = "user can only connect via localhost";
        return false;
    }
    return true;
}

int
main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},  {"data-dir", required_argument, NULL, 'd'},
        {"listen", required_argument, NULL, 'l'},  {"threads", required_argument, NULL, 't'},
        {"check-config", no_argument, NULL, 'C'},  {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},          {0},
    };
    const char *listen[WORKER_LISTENERS_MAX] = {"127.0.0.1:5672"};
    uint32_t listen_count = 0;
    const char *data_dir = ".";
    long threads = 0;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *end;
        switch (option) {
        case 'd':
            data_dir = optarg;
            break;
        case 'l':
            if (listen_count < WORKER_LISTENERS_MAX)
                listen[listen_count++] = optarg;
            break;
        case 't':
            threads = strtol(optarg, &end, 10);
            if (*end != 0 || end == optarg || threads < 0 || threads > SHARDS_MAX) {
                fprintf(stderr, "whippetd: --threads: a number of 0 to %d is expected, not '%s'\n",
                        (int)SHARDS_MAX, optarg);
                return 1;
            }
            break;
        case 'V':
            puts("whippetd " PACKAGE_VERSION);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        case 'c':
        case 'C':
            break;
        default:
            usage(stderr);
            return 1;
        }
    }
    if (listen_count == 0)
        listen_count = 1;
    if (threads == 0)
        threads = sysconf(_SC_NPROCESSORS_ONLN);
    struct session_limits limits = {
        .frame_max = 131072,
        .channel_max = 2047,
        .heartbeat_s = 60,
        .handshake_ms = 10000,
        .message_size_max = 16 * 1024 * 1024,
    };
    int status = server_init(&server, (uint32_t)threads, &limits, authenticate, NULL);
    if (status == 0)
        status = catalogue_vhost_add(server.broker->catalogue, SLICE("/"));
    if (status != 0) {
        fprintf(stderr, "whippetd: cannot start: %s\n", strerror(-status));
        return 1;
    }
    for (uint32_t i = 0; i < listen_count; i++) {
        char error[ADDRESS_ERROR_MAX];
        if (server_listen(&server, listen[i], error) != 0) {
            fprintf(stderr, "whippetd: cannot listen on %s: %s\n", listen[i], error);
            server_fini(&server);
            return 1;
        }
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    char text[ADDRESS_TEXT_MAX];
    printf("whippetd " PACKAGE_VERSION ": AMQP on");
    for (uint32_t i = 0; i < server.listener_count; i++)
        printf("%s %s", i > 0 ? "," : "", address_text(&server.listeners[i].address, text));
    printf(", %ld thread%s, data in %s; stop with Ctrl-C or SIGTERM\n", threads,
           threads == 1 ? "" : "s", data_dir);
    fflush(stdout);
    status = server_run(&server);
    server_fini(&server);
    if (status != 0) {
        fprintf(stderr, "whippetd: cannot run: %s\n", strerror(-status));
        return 1;
    }
    return 0;
}
