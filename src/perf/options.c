/* Parsing the command line from a table. See options.h. */
#include "perf/options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "development"
#endif

enum option_type {
    OPTION_FLAG,  /* bool */
    OPTION_COUNT, /* uint64_t, within [min, max] */
    OPTION_REAL,  /* double, within [min, max] */
    OPTION_TEXT,  /* const char * */
    OPTION_LIST,  /* of const char *, appended to queue_arguments */
};

struct option_rule {
    const char *name;
    char letter; /* 0: none */
    enum option_type type;
    size_t offset;
    double min, max;
    const char *argument, *help;
};

#define AT(field) offsetof(struct options, field)

static const struct option_rule RULES[] = {
    {"uri", 'u', OPTION_TEXT, AT(uri_text), 0, 0, "URI",
     "where the broker is (amqp://guest:guest@127.0.0.1:5672/%2f); amqps:// is TLS"},
    {"ca-file", 0, OPTION_TEXT, AT(ca_file), 0, 0, "FILE",
     "with TLS, trust only brokers that these authorities vouch for (all)"},
    {"producers", 'x', OPTION_COUNT, AT(producers), 0, CLIENTS_MAX, "N",
     "publishing connections (1)"},
    {"consumers", 'y', OPTION_COUNT, AT(consumers), 0, CLIENTS_MAX, "N",
     "consuming connections (1; with --fanout one per queue)"},
    {"queues", 0, OPTION_COUNT, AT(queues), 1, QUEUES_MAX, "N",
     "queues, made and deleted by the run (1)"},
    {"queue", 'q', OPTION_TEXT, AT(queue), 0, 0, "NAME",
     "use this one queue; one that exists is left as it is"},
    {"queue-prefix", 0, OPTION_TEXT, AT(queue_prefix), 0, 0, "TEXT",
     "begins the names of the queues that are made (whippet-perf)"},
    {"queue-argument", 0, OPTION_LIST, 0, 0, 0, "NAME=VALUE",
     "an argument for the queues that are made; may be repeated"},
    {"exchange", 'e', OPTION_TEXT, AT(exchange), 0, 0, "NAME",
     "publish to this exchange; made if it does not exist"},
    {"exchange-type", 't', OPTION_TEXT, AT(exchange_type), 0, 0, "TYPE",
     "of an exchange that is made (direct)"},
    {"routing-key", 'k', OPTION_TEXT, AT(routing_key), 0, 0, "KEY",
     "publish and bind with this key (the queues' names)"},
    {"fanout", 0, OPTION_COUNT, AT(fanout), 1, CLIENTS_MAX, "N",
     "one fanout exchange, N queues behind it"},
    {"durable", 0, OPTION_FLAG, AT(durable), 0, 0, NULL, "make durable queues and exchanges"},
    {"keep", 0, OPTION_FLAG, AT(keep), 0, 0, NULL, "do not delete what was made"},
    {"threads", 0, OPTION_COUNT, AT(threads), 1, CLIENTS_MAX, "N",
     "threads that share the connections (one for each)"},
    {"size", 's', OPTION_COUNT, AT(size), 0, 128 << 20, "BYTES", "of a body (16)"},
    {"persistent", 0, OPTION_FLAG, AT(persistent), 0, 0, NULL, "publish with delivery-mode 2"},
    {"confirm", 'c', OPTION_COUNT, AT(confirm), 1, 1 << 24, "WINDOW",
     "publisher confirms, at most that many outstanding"},
    {"prefetch", 0, OPTION_COUNT, AT(prefetch), 1, UINT16_MAX, "N", "basic.qos for each consumer"},
    {"ack-every", 'a', OPTION_COUNT, AT(ack_every), 1, 1 << 24, "N",
     "acknowledge every Nth message and those before it (auto-ack)"},
    {"rate", 'r', OPTION_REAL, AT(rate), 0.001, 1e9, "N",
     "messages a second for each producer, on a fixed schedule"},
    {"latency", 'l', OPTION_FLAG, AT(latency), 0, 0, NULL,
     "measure from (intended) sending to arrival, and of confirms"},
    {"duration", 'z', OPTION_REAL, AT(duration), 0.001, 1e7, "SECONDS", "length of the run (10)"},
    {"messages", 'n', OPTION_COUNT, AT(messages), 1, 1e15, "N",
     "publish so many in all, and check that all arrive"},
    {"warmup", 0, OPTION_REAL, AT(warmup), 0, 1e6, "SECONDS",
     "run so long before the measured time begins (0)"},
    {"drain-timeout", 0, OPTION_REAL, AT(drain_timeout), 0.001, 1e6, "SECONDS",
     "with --messages: silence after which the rest counts as lost (10)"},
    {"idle", 0, OPTION_FLAG, AT(idle), 0, 0, NULL, "only hold --connections open"},
    {"connections", 0, OPTION_COUNT, AT(connections), 1, 1000000, "N", "for --idle (1000)"},
    {"heartbeat", 0, OPTION_COUNT, AT(heartbeat), 0, UINT16_MAX, "SECONDS",
     "for --idle; 0 is none (0)"},
    {"sync-limit", 0, OPTION_TEXT, AT(sync_limit), 0, 0, "DIR",
     "measure what the disk alone does: fdatasync of 4 KiB blocks"},
    {"loopback-limit", 0, OPTION_FLAG, AT(loopback_limit), 0, 0, NULL,
     "measure what the kernel alone does: copying through loopback TCP"},
    {"null-broker", 0, OPTION_FLAG, AT(null_broker), 0, 0, NULL,
     "run against a built-in broker that does nothing: the client's own limit"},
    {"json", 0, OPTION_FLAG, AT(json), 0, 0, NULL, "print the result as one JSON object"},
    {"quiet", 0, OPTION_FLAG, AT(quiet), 0, 0, NULL, "no progress line every second"},
};

enum { RULE_COUNT = sizeof(RULES) / sizeof(RULES[0]), FIRST_LONG = 1000 };

static void
print_help(void)
{
    printf("usage: whippet-perf [options]\n"
           "Puts load on an AMQP 0-9-1 broker and measures what it does.\n\n");
    for (size_t i = 0; i < RULE_COUNT; i++) {
        const struct option_rule *rule = &RULES[i];
        char left[64], letter[8] = "    ";
        if (rule->letter)
            snprintf(letter, sizeof(letter), "-%c, ", rule->letter);
        snprintf(left, sizeof(left), "%s--%s %s", letter, rule->name,
                 rule->argument ? rule->argument : "");
        printf("  %-32s %s\n", left, rule->help);
    }
    printf("  %-32s %s\n  %-32s %s\n", "-h, --help", "print this", "-V, --version",
           "print the version");
}

static int
usage_error(const char *name, const char *text)
{
    fprintf(stderr, "whippet-perf: --%s: %s\n", name, text);
    return -1;
}

/* Out of range, as a text that says the range. */
static int
range_error(const struct option_rule *rule, const char *text)
{
    fprintf(stderr, "whippet-perf: --%s: \"%s\" is not a number from %.15g to %.15g\n", rule->name,
            text, rule->min, rule->max);
    return -1;
}

static int
option_store(struct options *options, const struct option_rule *rule, const char *text)
{
    char *field = (char *)options + rule->offset;
    char *end;
    errno = 0;
    switch (rule->type) {
    case OPTION_FLAG:
        *(bool *)(void *)field = true;
        return 0;
    case OPTION_TEXT:
        *(const char **)(void *)field = text;
        return 0;
    case OPTION_COUNT: {
        unsigned long long value = strtoull(text, &end, 10);
        if (errno != 0 || end == text || *end != '\0' || strchr(text, '-')
            || (double)value < rule->min || (double)value > rule->max)
            return range_error(rule, text);
        *(uint64_t *)(void *)field = value;
        return 0;
    }
    case OPTION_REAL: {
        double value = strtod(text, &end);
        if (errno != 0 || end == text || *end != '\0' || !(value >= rule->min)
            || !(value <= rule->max))
            return range_error(rule, text);
        *(double *)(void *)field = value;
        return 0;
    }
    case OPTION_LIST:
        if (options->queue_argument_count == QUEUE_ARGUMENTS_MAX)
            return usage_error(rule->name, "too many");
        const char *equals = strchr(text, '=');
        if (!equals || equals == text || equals - text > UINT8_MAX)
            return usage_error(rule->name, "NAME=VALUE is expected");
        options->queue_arguments[options->queue_argument_count++] = text;
        return 0;
    }
    return -1;
}

/* Defaults that depend on other options, and combinations that mean nothing. */
static int
options_settle(struct options *options)
{
    char error[512];
    if (uri_parse(&options->uri, options->uri_text, error, sizeof(error)) < 0)
        return usage_error("uri", error);
    if (options->ca_file && !options->uri.is_tls)
        return usage_error("ca-file", "belongs to an amqps:// address");
    options->uri.ca_file = options->ca_file;
    const struct {
        const char *name, *text;
    } names[] = {{"queue", options->queue},
                 {"queue-prefix", options->queue_prefix},
                 {"exchange", options->exchange},
                 {"exchange-type", options->exchange_type},
                 {"routing-key", options->routing_key}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        /* A number is appended to the prefix, and the whole is to fit into 255 bytes. */
        if (names[i].text && strlen(names[i].text) > UINT8_MAX - 15)
            return usage_error(names[i].name, "longer than 240 bytes");
    }
    if (options->queue && options->queues != OPTION_UNSET && options->queues != 1)
        return usage_error("queue", "is one queue, --queues says otherwise");
    if (options->fanout && (options->queue || options->queues != OPTION_UNSET || options->exchange))
        return usage_error("fanout", "makes its own exchange and queues");
    if (options->connections != OPTION_UNSET && !options->idle)
        return usage_error("connections", "belongs to --idle; see --producers and --consumers");
    if (options->connections == OPTION_UNSET)
        options->connections = 1000;
    if (options->queues == OPTION_UNSET)
        options->queues = options->fanout ? options->fanout : 1;
    if (options->producers == OPTION_UNSET)
        options->producers = 1;
    if (options->consumers == OPTION_UNSET)
        options->consumers = options->fanout ? options->fanout : 1;
    if (options->producers + options->consumers == 0)
        return usage_error("producers", "no producers and no consumers leave nothing to do");
    if (options->threads == OPTION_UNSET)
        options->threads = options->producers + options->consumers;
    if (options->latency && options->producers && options->size < STAMP_SIZE)
        return usage_error("latency", "needs bodies of 16 bytes or more for its time stamp");
    if (options->prefetch && options->ack_every == 0)
        return usage_error("prefetch", "has no effect without --ack-every");
    if (options->prefetch && options->ack_every > options->prefetch)
        return usage_error("ack-every", "greater than --prefetch: the consumer would starve");
    if (options->messages && options->warmup > 0)
        return usage_error("warmup", "does not go with --messages, which counts from the first");
    if (options->messages && options->messages < options->producers)
        return usage_error("messages", "fewer than producers");
    if (options->duration <= 0 && options->messages == 0)
        options->duration = 10;
    return 0;
}

int
options_parse(struct options *options, int count, char **arguments)
{
    *options = (struct options){.uri_text = "amqp://guest:guest@127.0.0.1:5672/%2f",
                                .producers = OPTION_UNSET,
                                .consumers = OPTION_UNSET,
                                .queues = OPTION_UNSET,
                                .threads = OPTION_UNSET,
                                .connections = OPTION_UNSET,
                                .queue_prefix = "whippet-perf",
                                .exchange_type = "direct",
                                .size = 16,
                                .drain_timeout = 10};

    struct option longs[RULE_COUNT + 3] = {0};
    char letters[2 * RULE_COUNT + 4] = "hV";
    size_t letter_count = 2;
    for (size_t i = 0; i < RULE_COUNT; i++) {
        longs[i] = (struct option){.name = RULES[i].name,
                                   .val = FIRST_LONG + (int)i,
                                   .has_arg = RULES[i].argument ? required_argument : no_argument};
        if (RULES[i].letter) {
            letters[letter_count++] = RULES[i].letter;
            if (RULES[i].argument)
                letters[letter_count++] = ':';
        }
    }
    longs[RULE_COUNT] = (struct option){.name = "help", .val = 'h'};
    longs[RULE_COUNT + 1] = (struct option){.name = "version", .val = 'V'};

    int c;
    while ((c = getopt_long(count, arguments, letters, longs, NULL)) != -1) {
        if (c == 'h') {
            print_help();
            return 1;
        }
        if (c == 'V') {
            printf("whippet-perf %s\n", PACKAGE_VERSION);
            return 1;
        }
        if (c == '?') {
            fprintf(stderr, "whippet-perf: see whippet-perf --help\n");
            return -1;
        }
        const struct option_rule *rule = NULL;
        for (size_t i = 0; i < RULE_COUNT && !rule; i++) {
            if (c == FIRST_LONG + (int)i || (RULES[i].letter && c == RULES[i].letter))
                rule = &RULES[i];
        }
        if (!rule || option_store(options, rule, optarg) < 0)
            return -1;
    }
    if (optind < count) {
        fprintf(stderr, "whippet-perf: \"%s\" is not an option\n", arguments[optind]);
        return -1;
    }
    return options_settle(options);
}
