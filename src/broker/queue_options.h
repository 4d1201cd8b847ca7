/* What a queue's arguments say: the x-... table of queue.declare, checked and typed.
 *
 * The arguments are one table in queue_options.c: name, type, range, where it goes. From it follow
 * the parsing, the checks with RabbitMQ's texts, and which arguments take part in the equivalence
 * check of a redeclaration. */
#ifndef BROKER_QUEUE_OPTIONS_H
#define BROKER_QUEUE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "amqp/reply.h"
#include "amqp/slice.h"
#include "base/compiler.h"

enum queue_type { QUEUE_CLASSIC, QUEUE_QUORUM };

enum queue_overflow { OVERFLOW_DROP_HEAD, OVERFLOW_REJECT_PUBLISH, OVERFLOW_REJECT_PUBLISH_DLX };

/* In every numeric option: the argument was not given. */
enum { OPTION_NONE = -1 };

struct queue_options {
    enum queue_type type;
    enum queue_overflow overflow;
    int64_t message_ttl_ms;
    int64_t expires_ms;
    int64_t max_length;
    int64_t max_length_bytes;
    int64_t delivery_limit; /* OPTION_NONE: unlimited; quorum queues default to 20 */
    int64_t consumer_timeout_ms;
    int16_t max_priority; /* OPTION_NONE: not a priority queue */
    bool single_active_consumer;
    bool deduplicates;
    /* Whether the argument was given, where its value does not tell. */
    bool has_overflow, has_delivery_limit;
    bool has_dead_letter_exchange, has_dead_letter_routing_key;
    /* Borrowed from the arguments table that was parsed. */
    struct slice dead_letter_exchange, dead_letter_routing_key;
};

struct queue_declaration {
    struct slice name;
    bool server_named; /* the client gave none, and this one was made up for it */
    bool passive, durable, exclusive, auto_delete;
    struct slice arguments; /* content of a validated table */
};

/* Reads the arguments of a declaration for the queue of that name in that vhost (for the texts).
 * Checks types, ranges, combinations, and what the queue type forbids (a quorum queue must be
 * durable, not exclusive, not auto-delete, named by the client). 0, or -1 with the error that
 * closes the channel. The slices in *options point into declaration->arguments. For a queue that
 * does not exist yet: of one that does, RabbitMQ asks only whether the arguments are equivalent,
 * and of a passive declaration it reads none. */
MUST_CHECK int queue_options_parse(struct queue_options *options,
                                   const struct queue_declaration *declaration,
                                   struct slice vhost_name, struct amqp_error *error);

/* Whether a redeclaration's arguments mean the same as those the queue of that type has; -1 with
 * "inequivalent arg ..." 406 else. Any integer type equals any other; arguments that are unknown or
 * that the type does not take are ignored. */
MUST_CHECK int queue_arguments_check_equivalent(enum queue_type type, struct slice current,
                                                struct slice redeclared, struct slice queue_name,
                                                struct slice vhost_name, struct amqp_error *error);

/* RabbitMQ's name of the module behind a queue type, as it stands in its texts. */
const char *queue_type_module(enum queue_type type);

#endif
