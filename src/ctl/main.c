/* whippetctl: changes users, vhosts, permissions and policies of a running broker, and lists its
 * queues and exchanges, through the HTTP API on its Unix socket. Passwords are read from standard
 * input, never from the command line, which everybody on the machine can see. */
#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/client.h"
#include "ctl/verbs.h"

enum { EXIT_USAGE = 2 };

struct options {
    const char *data_dir, *socket, *vhost, *format;
    const char *priority, *apply_to; /* NULL: not given */
    bool has_vhost, wants_help, wants_version;
};

static void
usage(FILE *out)
{
    const struct verb *verb;
    fputs("usage: whippetctl [OPTIONS] VERB [ARGUMENTS]\n"
          "\n"
          "  --data-dir DIR         the broker's data directory, which has its socket, "
          "control.sock;\n"
          "                         /var/lib/whippet if it is not given\n"
          "  --socket PATH          the socket, if it is elsewhere\n"
          "  --format text|json     how lists are printed\n"
          "  --version              print the version, and end\n"
          "  --help                 print this, and end\n"
          "\n"
          "Verbs; -p VHOST is \"/\" if it is not given:\n"
          "\n",
          out);
    for (int i = 0; (verb = verb_at(i)) != NULL; i++)
        fprintf(out, "  %s%s%s%s\n        %s\n", verb->name,
                verb->options != VERB_PLAIN ? " [-p VHOST]" : "",
                verb->arguments[0] != 0 ? " " : "", verb->arguments, verb->summary);
}

/* Options may stand anywhere before "--". What is none, the verb and its arguments, is moved to the
 * front of argv, behind the program's name and before a NULL; returns how many these are. -1: that
 * made no sense, which has been said. */
static int
read_options(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {
        {"data-dir", required_argument, NULL, 'd'},
        {"socket", required_argument, NULL, 's'},
        {"vhost", required_argument, NULL, 'p'},
        {"format", required_argument, NULL, 'f'},
        {"priority", required_argument, NULL, 'P'},
        {"apply-to", required_argument, NULL, 'a'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option, words = 0;
    /* With '-', what is no option comes in its turn, whether POSIXLY_CORRECT is set or not. */
    while ((option = getopt_long(argc, argv, "-p:", known, NULL)) != -1) {
        switch (option) {
        case 1:
            argv[1 + words++] = optarg;
            break;
        case 'd':
            options->data_dir = optarg;
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'p':
            options->vhost = optarg;
            options->has_vhost = true;
            break;
        case 'f':
            options->format = optarg;
            break;
        case 'P':
            options->priority = optarg;
            break;
        case 'a':
            options->apply_to = optarg;
            break;
        case 'V':
            options->wants_version = true;
            break;
        case 'h':
            options->wants_help = true;
            break;
        default:
            return -1;
        }
    }
    while (optind < argc)
        argv[1 + words++] = argv[optind++];
    argv[1 + words] = NULL;
    return words;
}

/* Whether the text, or 0 if there is none, is an integer of 32 bits. */
static bool
read_priority(const char *text, int *priority)
{
    char *end;
    *priority = 0;
    if (text == NULL)
        return true;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || value < INT_MIN || value > INT_MAX)
        return false;
    *priority = (int)value;
    return true;
}

/* 0, or EXIT_USAGE when the arguments are not the verb's. */
static int
check_usage(const struct options *options, const struct verb *verb, int count)
{
    int priority;
    if (strcmp(options->format, "text") != 0 && strcmp(options->format, "json") != 0)
        fprintf(stderr, "whippetctl: --format: expected text or json, not '%s'\n", options->format);
    else if (options->has_vhost && verb->options == VERB_PLAIN)
        fprintf(stderr, "whippetctl: %s has no vhost: -p means nothing\n", verb->name);
    else if ((options->priority != NULL || options->apply_to != NULL)
             && verb->options != VERB_POLICY)
        fprintf(stderr, "whippetctl: %s sets no policy: --priority and --apply-to mean nothing\n",
                verb->name);
    else if (!read_priority(options->priority, &priority))
        fprintf(stderr, "whippetctl: --priority: expected an integer, not '%s'\n",
                options->priority);
    else if (count < verb->min || count > verb->max)
        fprintf(stderr, "whippetctl: usage: %s%s %s: %s\n", verb->name,
                verb->options != VERB_PLAIN ? " [-p VHOST]" : "", verb->arguments, verb->summary);
    else
        return 0;
    return EXIT_USAGE;
}

static int
run(const struct options *options, const struct verb *verb, char **arguments, int count)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/control.sock", options->data_dir) >= (int)sizeof(path)) {
        fputs("whippetctl: --data-dir: the path is too long\n", stderr);
        return EXIT_USAGE;
    }
    struct client *client = client_new(options->socket != NULL ? options->socket : path);
    if (client == NULL) {
        fputs("whippetctl: out of memory\n", stderr);
        return EXIT_FAILURE;
    }
    struct verb_call call = {
        .client = client,
        .vhost = options->vhost,
        .apply_to = options->apply_to,
        .wants_json = strcmp(options->format, "json") == 0,
        .arguments = (const char *const *)arguments,
        .count = count,
    };
    (void)read_priority(options->priority, &call.priority); /* it was good */
    int status = verb->run(&call);
    client_free(client);
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        perror("whippetctl: writing");
        status = -1;
    }
    return status == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int
main(int argc, char **argv)
{
    struct options options = {.data_dir = "/var/lib/whippet", .vhost = "/", .format = "text"};
    int words = read_options(&options, argc, argv);
    if (words < 0)
        return EXIT_USAGE;
    if (options.wants_version || options.wants_help) {
        if (options.wants_version)
            puts("whippetctl " PACKAGE_VERSION);
        else
            usage(stdout);
        return EXIT_SUCCESS;
    }
    if (words == 0) {
        usage(stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    const struct verb *verb = verb_find(name);
    char **arguments = argv + 2;
    int count = words - 1;
    if (verb == NULL) {
        fprintf(stderr, "whippetctl: no such verb: %s; --help lists them\n", name);
        return EXIT_USAGE;
    }
    int status = check_usage(&options, verb, count);
    if (status != 0)
        return status;
    if (curl_global_init(CURL_GLOBAL_NOTHING) != 0) {
        fputs("whippetctl: cannot set up libcurl\n", stderr);
        return EXIT_FAILURE;
    }
    status = run(&options, verb, arguments, count);
    curl_global_cleanup();
    return status;
}
