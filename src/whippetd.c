/* whippetd: the broker's program. Reads its options and its configuration, opens the data
 * directory, listens, serves, and stops in order on SIGTERM and SIGINT.
 *
 * The exit status says whether it is of use to start again: not after EX_USAGE or EX_CONFIG, which
 * the unit of systemd names. What may pass, such as an address that is taken, is EXIT_FAILURE. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "admin/admin.h"
#include "base/log.h"
#include "config/config.h"
#include "server/footprint.h"
#include "server/maintenance.h"
#include "server/file_policies.h"
#include "server/privileges.h"
#include "server/reload.h"
#include "server/sandbox.h"
#include "server/storage.h"
#include "server/supervisor.h"
#include "server/tls_settings.h"
#include "server/users.h"

/* Threads by default: one for each CPU, but not more than a broker has use for. */
enum { THREADS_DEFAULT_MAX = 8 };

_Static_assert((int)USERS_ERROR_MAX >= (int)ADMIN_ERROR_MAX, "the text of the administration fits");
_Static_assert((int)USERS_ERROR_MAX >= (int)FILE_POLICIES_ERROR_MAX, "the text of policies fits");

struct options {
    const char *config, *data_dir, *threads;
    const char *listen[CONFIG_LISTEN_MAX];
    size_t listen_count;
    const char *inspect_log; /* a format */
    bool check_config, repair;
};

static struct server server; /* for the signal handler */

static void
on_signal(int number)
{
    int saved = errno;
    if (number == SIGHUP)
        server_ask_reload(&server);
    else
        server_stop(&server);
    errno = saved;
}

/* Signals wait until the server runs, and reach only its first worker: every thread that is started
 * meanwhile has them blocked. */
static void
set_up_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    /* Who reads the log may go away; that is no reason to end. */
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

static void
usage(FILE *out)
{
    fputs("usage: whippetd [OPTIONS]\n"
          "\n"
          "  --config FILE          read the configuration from this file\n"
          "  --data-dir DIR         where the broker keeps its data\n"
          "  --listen ADDRESS:PORT  accept AMQP connections there; may be given several times\n"
          "  --threads N            worker threads; 0: one for each CPU, at most 8\n"
          "  --check-config         say whether the configuration is good, and end\n"
          "  --repair               set damaged parts of the message log aside, and end\n"
          "  --inspect-log FORMAT   print what is in the message log, as text or json, and end\n"
          "  --version              print the version, and end\n"
          "  --help                 print this, and end\n",
          out);
}

/* A config_errors_told. */
static void
complain(void *context, const char *line)
{
    (void)context;
    log_plain(LOG_LEVEL_ERROR, "%s", line);
}

/* -1: go on; else the exit status. */
static int
read_options(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {
        {"config", required_argument, NULL, 'c'},
        {"data-dir", required_argument, NULL, 'd'},
        {"listen", required_argument, NULL, 'l'},
        {"threads", required_argument, NULL, 't'},
        {"check-config", no_argument, NULL, 'C'},
        {"repair", no_argument, NULL, 'r'},
        {"inspect-log", required_argument, NULL, 'i'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'c':
            options->config = optarg;
            break;
        case 'd':
            options->data_dir = optarg;
            break;
        case 'l':
            if (options->listen_count == CONFIG_LISTEN_MAX) {
                log_plain(LOG_LEVEL_ERROR, "whippetd: --listen: at most %d addresses",
                          (int)CONFIG_LISTEN_MAX);
                return EX_USAGE;
            }
            options->listen[options->listen_count++] = optarg;
            break;
        case 't':
            options->threads = optarg;
            break;
        case 'C':
            options->check_config = true;
            break;
        case 'r':
            options->repair = true;
            break;
        case 'i':
            if (strcmp(optarg, "text") != 0 && strcmp(optarg, "json") != 0) {
                log_plain(LOG_LEVEL_ERROR,
                          "whippetd: --inspect-log: expected text or json, not '%s'", optarg);
                return EX_USAGE;
            }
            options->inspect_log = optarg;
            break;
        case 'V':
            puts("whippetd " PACKAGE_VERSION);
            return EX_OK;
        case 'h':
            usage(stdout);
            return EX_OK;
        default:
            usage(stderr);
            return EX_USAGE;
        }
    }
    if (optind < argc) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: unexpected argument '%s'", argv[optind]);
        usage(stderr);
        return EX_USAGE;
    }
    return -1;
}

/* What the options say over what the file says. -1: it makes no sense, which has been said. */
static int
apply_options(struct settings *settings, const struct options *options)
{
    if (options->data_dir != NULL
        && snprintf(settings->data_dir, sizeof(settings->data_dir), "%s", options->data_dir)
               >= (int)sizeof(settings->data_dir)) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: --data-dir: the path is too long");
        return -1;
    }
    if (options->threads != NULL) {
        char *end;
        long threads = strtol(options->threads, &end, 10);
        if (end == options->threads || *end != 0 || threads < 0 || threads > SHARDS_MAX) {
            log_plain(LOG_LEVEL_ERROR,
                      "whippetd: --threads: expected a number from 0 to %d, not '%s'",
                      (int)SHARDS_MAX, options->threads);
            return -1;
        }
        settings->threads = (uint32_t)threads;
    }
    if (options->listen_count > 0)
        settings->listen.count = options->listen_count;
    for (size_t i = 0; i < options->listen_count; i++) {
        int status = config_parse_address(options->listen[i], &settings->listen.items[i]);
        if (status != 0) {
            log_plain(LOG_LEVEL_ERROR, "whippetd: --listen: '%s': %s", options->listen[i],
                      config_address_error_text(status));
            return -1;
        }
    }
    return 0;
}

/* A reload_read: the settings as the file and the options, the context, have them. The options do
 * not change, so that those that made sense at the start do so later. */
static int
read_settings(void *context, struct settings *settings, struct config_errors *errors)
{
    const struct options *options = context;
    errors->count = errors->total = 0;
    settings_init(settings);
    if (options->config != NULL
        && (config_load(settings, options->config, errors) != 0
            || file_policies_check(settings, errors) != 0))
        return -1;
    return apply_options(settings, options);
}

static uint32_t
thread_count(const struct settings *settings)
{
    if (settings->threads > 0)
        return settings->threads;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus < 1 ? 1 : cpus > THREADS_DEFAULT_MAX ? THREADS_DEFAULT_MAX : (uint32_t)cpus;
}

/* Says where it listens and how to stop it: one line, for people and for who started it. */
static void
announce(const struct settings *settings)
{
    char text[ADDRESS_TEXT_MAX];
    printf("whippetd " PACKAGE_VERSION ": AMQP on");
    for (uint32_t i = 0; i < server.listener_count; i++)
        printf("%s %s%s", i > 0 ? "," : "", address_text(&server.listeners[i].address, text),
               server_listener_is_tls(&server.listeners[i]) ? " (TLS)" : "");
    printf("; %u thread%s; data in %s; stop with Ctrl-C or SIGTERM\n", server.worker_count,
           server.worker_count == 1 ? "" : "s", settings->data_dir);
    fflush(stdout);
}

/* The sockets that a supervisor has opened take the place of those of the configuration. */
static int
adopt_all(void)
{
    for (unsigned i = 0; i < supervisor_sockets(); i++) {
        char error[ADDRESS_ERROR_MAX];
        if (server_adopt(&server, SUPERVISOR_FIRST_SOCKET + (int)i, supervisor_socket_is_tls(i),
                         error)
            != 0) {
            log_plain(LOG_LEVEL_ERROR, "whippetd: %s", error);
            return -1;
        }
    }
    return 0;
}

static int
listen_on(const struct config_addresses *addresses, bool is_tls)
{
    for (size_t i = 0; i < addresses->count; i++) {
        char text[CONFIG_ADDRESS_TEXT_MAX], error[ADDRESS_ERROR_MAX];
        config_address_text(&addresses->items[i], text);
        if (server_listen(&server, text, is_tls, error) != 0) {
            log_plain(LOG_LEVEL_ERROR, "whippetd: %s", error);
            return -1;
        }
    }
    return 0;
}

/* EX_OK, or the exit status. */
static int
listen_all(const struct settings *settings)
{
    char error[TLS_ERROR_MAX];
    if (tls_settings_apply(settings, &server, error) != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: tls: %s", error);
        return EX_CONFIG;
    }
    int status = supervisor_sockets() > 0 ? adopt_all() : listen_on(&settings->listen, false);
    if (status == 0 && supervisor_sockets() == 0)
        status = listen_on(&settings->tls.listen, true);
    return status == 0 ? EX_OK : EXIT_FAILURE;
}

/* What root is needed for, and then no more of it. EX_OK, or the exit status. */
static int
give_up_privileges(const struct settings *settings)
{
    struct identity identity;
    char error[PRIVILEGES_ERROR_MAX];
    if (identity_find(&identity, settings->user, settings->group, error) != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: %s", error);
        return EX_CONFIG;
    }
    int status = listen_all(settings);
    if (status != EX_OK)
        return status;
    if (privileges_make_directory(&identity, settings->data_dir, error) != 0
        || privileges_drop(&identity, error) != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: %s", error);
        return EXIT_FAILURE;
    }
    privileges_allow_core(settings->core_dumps);
    return EX_OK;
}

/* A filter that cannot be had is no reason to serve nobody: containers have their own. */
static void
enter_sandbox(const struct settings *settings)
{
    char error[SANDBOX_ERROR_MAX];
    if (settings->seccomp && sandbox_enter(error) != 0)
        log_warn("system calls are not filtered", LOG_STR("reason", error));
}

/* The order is that of rights: what follows needs nothing but the data directory. So clients that
 * come while the messages are restored wait for a moment. */
static int
serve(const struct settings *settings)
{
    struct storage *storage;
    struct admin *admin;
    char error[STORAGE_TEXT_SIZE];
    int status = give_up_privileges(settings);
    if (status != EX_OK)
        return status;
    if (storage_open(&storage, &server, settings->data_dir, settings->limits.disk_free, error)
        != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: %s", error);
        return 1;
    }
    char problem[USERS_ERROR_MAX];
    const struct admin_subject subject = {&server, storage, settings};
    if (users_apply(&server, settings, problem) != 0
        || file_policies_begin(&server, settings, problem) != 0
        || users_begin(&server, storage, settings, problem) != 0
        || admin_open(&admin, &subject, problem) != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: %s", problem);
        storage_close(storage);
        return 1;
    }
    enter_sandbox(settings);
    footprint_shrink();
    announce(settings);
    supervisor_tell("READY=1");
    supervisor_watch(&server);
    status = server_run(&server);
    if (status != 0)
        log_plain(LOG_LEVEL_ERROR, "whippetd: cannot run: %s", strerror(-status));
    admin_close(admin);
    server_end_sessions(&server);
    storage_close(storage);
    return status == 0 ? 0 : 1;
}

/* Looks after the data directory instead of serving. */
static int
maintain(const struct settings *settings, const struct options *options)
{
    char error[STORAGE_TEXT_SIZE];
    int status = options->repair ? maintenance_repair(settings->data_dir, stdout, error)
                                 : maintenance_inspect(settings->data_dir,
                                                       strcmp(options->inspect_log, "json") == 0,
                                                       stdout, error);
    if (status != 0)
        log_plain(LOG_LEVEL_ERROR, "whippetd: %s", error);
    return status == 0 ? 0 : 1;
}

/* The settings are good; are the files that they name? EX_OK, or the exit status. */
static int
check_config(const struct settings *settings)
{
    char error[TLS_ERROR_MAX];
    if (tls_settings_check(settings, error) != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: tls: %s", error);
        return EX_CONFIG;
    }
    puts("the configuration is good");
    return 0;
}

static void
limit_catalogue(const struct settings *settings)
{
    const struct catalogue_limits limits = {
        .queues = settings->limits.queues_per_vhost,
        .exchanges = settings->limits.exchanges_per_vhost,
        .bindings = settings->limits.bindings_per_vhost,
        .consumers = settings->limits.consumers_per_vhost,
    };
    catalogue_set_limits(server.broker->catalogue, &limits);
}

int
main(int argc, char **argv)
{
    static struct reload reload = {.server = &server, .read = read_settings};
    static struct config_errors errors;
    struct options options = {0};
    struct settings *settings = &reload.running;
    log_find_journal();
    int status = read_options(&options, argc, argv);
    if (status >= 0)
        return status;
    reload.context = &options;
    if (read_settings(&options, settings, &errors) != 0) {
        config_errors_tell(&errors, complain, NULL);
        return errors.total > 0 ? EX_CONFIG : EX_USAGE; /* else it is an option's value */
    }
    if (options.check_config)
        return check_config(settings);
    umask(077);
    if (options.repair || options.inspect_log != NULL)
        return maintain(settings, &options);
    set_up_signals();
    if (log_setup(settings->log.format, settings->log.level, NULL) != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: cannot set up the log");
        return 1;
    }
    supervisor_find();
    privileges_raise_files();
    const struct session_limits limits = reload_limits(settings);
    status = server_init(&server, thread_count(settings), settings->limits.memory, &limits);
    if (status != 0) {
        log_plain(LOG_LEVEL_ERROR, "whippetd: cannot start: %s", strerror(-status));
        server_fini(&server);
        return 1;
    }
    limit_catalogue(settings);
    server_trust_proxies(&server, &settings->proxy_protocol.trusted);
    server.on_reload = reload_now;
    server.reload_context = &reload;
    status = serve(settings);
    server_fini(&server);
    settings_fini(settings);
    return status;
}
