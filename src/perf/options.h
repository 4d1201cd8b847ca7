/* The command line of whippet-perf: one table gives parsing, checks, defaults and --help. */
#ifndef PERF_OPTIONS_H
#define PERF_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "perf/uri.h"

enum {
    CLIENTS_MAX = 65535, /* producers or consumers; a producer's number has 16 bits */
    QUEUES_MAX = 1000000,
    QUEUE_ARGUMENTS_MAX = 16,
    STAMP_SIZE = 16,       /* what --latency needs of a body: a number and a time */
    STAMP_NUMBER_SIZE = 8, /* what the check for loss needs: the number */
};

/* A count that was not given. */
#define OPTION_UNSET UINT64_MAX

struct options {
    const char *uri_text;
    const char *ca_file; /* NULL: none */
    struct uri uri;

    /* Who and where. OPTION_UNSET in the first four until options_parse has settled them. */
    uint64_t producers, consumers, queues, threads;
    const char *queue, *queue_prefix;
    const char *exchange, *exchange_type, *routing_key;
    uint64_t fanout; /* 0: no */
    bool durable, keep;
    const char *queue_arguments[QUEUE_ARGUMENTS_MAX]; /* NAME=VALUE */
    uint64_t queue_argument_count;

    /* What. */
    uint64_t size;
    bool persistent, latency;
    uint64_t confirm;   /* window; 0: no confirms */
    uint64_t prefetch;  /* 0: unlimited */
    uint64_t ack_every; /* 0: auto-ack */
    double rate;        /* messages a second for each producer; 0: as fast as it goes */

    /* How long. */
    double duration, warmup,
        drain_timeout; /* seconds; duration 0: until the messages are through */
    uint64_t messages; /* in all; 0: until time is up */

    /* Other modes. */
    bool idle, null_broker, loopback_limit;
    uint64_t connections, heartbeat;
    const char *sync_limit; /* a directory */

    bool json, quiet;
};

/* Fills in options from the command line. 0: go on. 1: --help or --version was asked for and
 * printed. -1: wrong usage, told on standard error. */
int options_parse(struct options *options, int count, char **arguments);

#endif
