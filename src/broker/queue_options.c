/* The table of queue arguments, and what follows from it: reading them at the first declaration,
 * comparing them at each later one.
 *
 * The rows stand in RabbitMQ's order: of several differing arguments, the first row's is the one
 * that the error names. Of several wrong ones, a dead-letter exchange that is no text comes first,
 * then the queue type, then the rows in order; what the type does not take comes last, and its
 * value is not looked at. Arguments that no row names are accepted and ignored, as RabbitMQ does.
 * Where RabbitMQ's texts hold Erlang terms
 * ({value_negative,-1}), these say in words what was expected and what came instead; all others are
 * its texts to the letter. */
#include "broker/queue_options.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "amqp/wire.h"
#include "broker/argument_text.h"

/* Ten years: what RabbitMQ takes at most, so that a deadline always fits its timers. */
#define DURATION_MAX_MS INT64_C(315360000000)

/* RabbitMQ's default for quorum queues since 4.0. */
#define QUORUM_DELIVERY_LIMIT 20

/* Exchange names and routing keys travel as short strings. */
#define NAME_MAX_BYTES 255u

/* The queue types that take an argument. */
#define ON_CLASSIC (1u << QUEUE_CLASSIC)
#define ON_QUORUM (1u << QUEUE_QUORUM)
#define ON_ALL (ON_CLASSIC | ON_QUORUM)
#define ON_STREAM_ONLY 0u

struct argument;

/* What the check functions read, and where they put it. */
struct reading {
    struct queue_options *options;
    const struct queue_declaration *declaration;
    struct slice vhost_name;
    struct amqp_error *error;
};

struct argument {
    struct slice name;
    /* Checks the value and stores it; NULL where any value will do. 0, or -1 with the error set. */
    int (*read)(const struct reading *reading, const struct argument *argument,
                const struct amqp_value *value);
    int64_t minimum, maximum; /* integers */
    const char *const *words; /* strings of a fixed set, to NULL; the index is what is stored */
    const char *noun;      /* `"unsupported <noun> '...'"` is RabbitMQ's text for a wrong value */
    const char *complaint; /* else its word for a wrong string */
    size_t offset, size;   /* the member of struct queue_options; size 0: checked, not kept */
    size_t given_offset;   /* of the bool that says it is there; 0: there is none */
    unsigned types;        /* on which queue types it is not refused */
    bool compared;         /* takes part in the check of a redeclaration */
};

#define MEMBER(member)                                                                             \
    .offset = offsetof(struct queue_options, member),                                              \
    .size = sizeof(((struct queue_options *)0)->member)

static int read_integer(const struct reading *reading, const struct argument *argument,
                        const struct amqp_value *value);
static int read_bool(const struct reading *reading, const struct argument *argument,
                     const struct amqp_value *value);
static int read_word(const struct reading *reading, const struct argument *argument,
                     const struct amqp_value *value);
static int read_text(const struct reading *reading, const struct argument *argument,
                     const struct amqp_value *value);
static int read_dead_letter_exchange(const struct reading *reading, const struct argument *argument,
                                     const struct amqp_value *value);
static int read_dead_letter_routing_key(const struct reading *reading,
                                        const struct argument *argument,
                                        const struct amqp_value *value);
static int read_queue_type(const struct reading *reading, const struct argument *argument,
                           const struct amqp_value *value);

/* In the order of the enumerators. */
static const char *const queue_types[] = {
    [QUEUE_CLASSIC] = "classic", [QUEUE_QUORUM] = "quorum", NULL};
static const char *const overflows[] = {[OVERFLOW_DROP_HEAD] = "drop-head",
                                        [OVERFLOW_REJECT_PUBLISH] = "reject-publish",
                                        [OVERFLOW_REJECT_PUBLISH_DLX] = "reject-publish-dlx",
                                        NULL};
static const char *const strategies[] = {"at-most-once", "at-least-once", NULL};
static const char *const queue_modes[] = {"default", "lazy", NULL};
/* The last two are the names of before 3.10, still taken. */
static const char *const locators[] = {"client-local", "balanced", "random", "least-leaders", NULL};

static const struct argument arguments[] = {
    {SLICE("x-expires"), read_integer, .minimum = 1, .maximum = DURATION_MAX_MS, MEMBER(expires_ms),
     .types = ON_ALL, .compared = true},
    {SLICE("x-message-ttl"), read_integer, .maximum = DURATION_MAX_MS, MEMBER(message_ttl_ms),
     .types = ON_ALL, .compared = true},
    {SLICE("x-dead-letter-exchange"), read_dead_letter_exchange, MEMBER(dead_letter_exchange),
     .given_offset = offsetof(struct queue_options, has_dead_letter_exchange), .types = ON_ALL,
     .compared = true},
    {SLICE("x-dead-letter-routing-key"), read_dead_letter_routing_key,
     MEMBER(dead_letter_routing_key),
     .given_offset = offsetof(struct queue_options, has_dead_letter_routing_key), .types = ON_ALL,
     .compared = true},
    {SLICE("x-dead-letter-strategy"), read_word, .words = strategies,
     .complaint = "invalid_dlx_strategy", .types = ON_ALL, .compared = true},
    {SLICE("x-max-length"), read_integer, .maximum = INT64_MAX, MEMBER(max_length), .types = ON_ALL,
     .compared = true},
    {SLICE("x-max-length-bytes"), read_integer, .maximum = INT64_MAX, MEMBER(max_length_bytes),
     .types = ON_ALL, .compared = true},
    {SLICE("x-max-in-memory-length"), read_integer, .maximum = INT64_MAX, .types = ON_QUORUM,
     .compared = true},
    {SLICE("x-max-in-memory-bytes"), read_integer, .maximum = INT64_MAX, .types = ON_QUORUM,
     .compared = true},
    {SLICE("x-max-priority"), read_integer, .maximum = 255, MEMBER(max_priority),
     .types = ON_CLASSIC, .compared = true},
    {SLICE("x-overflow"), read_word, .words = overflows, .complaint = "invalid_overflow",
     MEMBER(overflow), .given_offset = offsetof(struct queue_options, has_overflow),
     .types = ON_ALL, .compared = true},
    {SLICE("x-queue-mode"), read_word, .words = queue_modes, .noun = "queue mode",
     .types = ON_CLASSIC, .compared = true},
    {SLICE("x-queue-version"), read_integer, .minimum = 1, .maximum = 2, .noun = "queue version",
     .types = ON_CLASSIC, .compared = true},
    {SLICE("x-single-active-consumer"), read_bool, MEMBER(single_active_consumer), .types = ON_ALL,
     .compared = true},
    {SLICE("x-queue-type"), read_queue_type, .words = queue_types, .noun = "queue type",
     MEMBER(type), .types = ON_ALL, .compared = true},
    {SLICE("x-quorum-initial-group-size"), read_integer, .minimum = 1, .maximum = INT64_MAX,
     .types = ON_QUORUM, .compared = true},
    {SLICE("x-quorum-target-group-size"), read_integer, .maximum = INT64_MAX, .types = ON_QUORUM},
    {SLICE("x-queue-leader-locator"), read_word, .words = locators,
     .complaint = "invalid_queue_locator_arg", .types = ON_ALL, .compared = true},
    /* Any strategy: plugins could add theirs, and RabbitMQ falls back to its default. */
    {SLICE("x-queue-master-locator"), read_text, .types = ON_CLASSIC, .compared = true},
    /* -1 is "unlimited", which is what OPTION_NONE stands for. */
    {SLICE("x-delivery-limit"), read_integer, .minimum = OPTION_NONE, .maximum = INT64_MAX,
     MEMBER(delivery_limit), .given_offset = offsetof(struct queue_options, has_delivery_limit),
     .types = ON_ALL, .compared = true},
    /* RabbitMQ 3.10 knows neither of the next two and so compares neither. */
    {SLICE("x-consumer-timeout"), read_integer, .maximum = DURATION_MAX_MS,
     MEMBER(consumer_timeout_ms), .types = ON_ALL},
    {SLICE("x-message-deduplication"), read_bool, MEMBER(deduplicates), .types = ON_ALL},
    /* Accepting these would promise a retention or a replication that no queue here has. */
    {SLICE("x-max-age"), NULL, .types = ON_STREAM_ONLY},
    {SLICE("x-stream-max-segment-size-bytes"), NULL, .types = ON_STREAM_ONLY},
    {SLICE("x-initial-cluster-size"), NULL, .types = ON_STREAM_ONLY},
};

#define ARGUMENT_COUNT ARRAY_SIZE(arguments)

/* The arguments of one declaration by row. */
struct given_arguments {
    bool is_given[ARGUMENT_COUNT];
    struct amqp_value values[ARGUMENT_COUNT];
};

/* ---- texts ---- */

/* The common beginning: which argument of which queue. */
#define INVALID_ARGUMENT "invalid arg '%.*s' for queue '%.*s' in vhost '%.*s'"
#define INVALID_ARGUMENT_ARGS(reading, argument)                                                   \
    SLICE_ARGS((argument)->name), SLICE_ARGS((reading)->declaration->name),                        \
        SLICE_ARGS((reading)->vhost_name)

static int
refuse_type(const struct reading *reading, const struct argument *argument, const char *expected,
            const struct amqp_value *value)
{
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   INVALID_ARGUMENT ": \"expected %s, got %s\"",
                   INVALID_ARGUMENT_ARGS(reading, argument), expected,
                   amqp_value_type_name(value->type));
    return -1;
}

static int
refuse_unsupported(const struct reading *reading, const struct argument *argument,
                   const struct amqp_value *value)
{
    char text[ARGUMENT_TEXT_SIZE];

    argument_print_value(text, value);
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   INVALID_ARGUMENT ": \"unsupported %s '%s'\"",
                   INVALID_ARGUMENT_ARGS(reading, argument), argument->noun, text);
    return -1;
}

/* ---- reading one argument ---- */

/* Puts the number into the member that the row names, whatever its width. */
static void
store_number(const struct reading *reading, const struct argument *argument, int64_t number)
{
    char *member = (char *)reading->options + argument->offset;

    if (argument->size == sizeof(int64_t)) {
        memcpy(member, &number, sizeof(number));
    } else if (argument->size == sizeof(int32_t)) {
        int32_t narrow = (int32_t)number;
        memcpy(member, &narrow, sizeof(narrow));
    } else if (argument->size == sizeof(int16_t)) {
        int16_t narrow = (int16_t)number;
        memcpy(member, &narrow, sizeof(narrow));
    }
}

static int
read_integer(const struct reading *reading, const struct argument *argument,
             const struct amqp_value *value)
{
    const char *bound;
    int64_t limit;

    if (!amqp_value_is_integer(value))
        return refuse_type(reading, argument, "integer", value);
    if (value->integer >= argument->minimum && value->integer <= argument->maximum) {
        store_number(reading, argument, value->integer);
        return 0;
    }
    if (argument->noun != NULL)
        return refuse_unsupported(reading, argument, value);
    bound = value->integer < argument->minimum ? "at least" : "at most";
    limit = value->integer < argument->minimum ? argument->minimum : argument->maximum;
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   INVALID_ARGUMENT ": \"expected integer of %s %" PRId64 ", got %" PRId64 "\"",
                   INVALID_ARGUMENT_ARGS(reading, argument), bound, limit, value->integer);
    return -1;
}

static int
read_bool(const struct reading *reading, const struct argument *argument,
          const struct amqp_value *value)
{
    bool *member = (bool *)((char *)reading->options + argument->offset);

    if (value->type != 't')
        return refuse_type(reading, argument, "bool", value);
    *member = value->boolean;
    return 0;
}

static int
read_text(const struct reading *reading, const struct argument *argument,
          const struct amqp_value *value)
{
    if (value->type != 'S')
        return refuse_type(reading, argument, "longstr", value);
    return 0;
}

/* RabbitMQ's word, and the words it would have taken. */
static int
refuse_word(const struct reading *reading, const struct argument *argument,
            const struct amqp_value *value)
{
    if (argument->noun != NULL)
        return refuse_unsupported(reading, argument, value);
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED, INVALID_ARGUMENT ": %s",
                   INVALID_ARGUMENT_ARGS(reading, argument), argument->complaint);
    return -1;
}

static int
read_word(const struct reading *reading, const struct argument *argument,
          const struct amqp_value *value)
{
    if (read_text(reading, argument, value) < 0)
        return -1;
    for (int i = 0; argument->words[i] != NULL; i++) {
        if (slice_is(value->bytes, argument->words[i])) {
            store_number(reading, argument, i);
            return 0;
        }
    }
    return refuse_word(reading, argument, value);
}

static int
read_queue_type(const struct reading *reading, const struct argument *argument,
                const struct amqp_value *value)
{
    if (value->type != 'S' || !slice_is(value->bytes, "stream"))
        return read_word(reading, argument, value);
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   INVALID_ARGUMENT ": \"streams are not supported by this broker yet\"",
                   INVALID_ARGUMENT_ARGS(reading, argument));
    return -1;
}

/* RabbitMQ takes longer names; there is no such exchange, and such a routing key would break the
 * frame of every delivery. */
static int
read_name(const struct reading *reading, const struct argument *argument,
          const struct amqp_value *value)
{
    char *options = (char *)reading->options;

    if (read_text(reading, argument, value) < 0)
        return -1;
    if (value->bytes.size > NAME_MAX_BYTES) {
        amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                       INVALID_ARGUMENT ": \"expected longstr of at most %u bytes, got %zu\"",
                       INVALID_ARGUMENT_ARGS(reading, argument), NAME_MAX_BYTES, value->bytes.size);
        return -1;
    }
    memcpy(options + argument->offset, &value->bytes, sizeof(value->bytes));
    return 0;
}

/* RabbitMQ's text for a wrong type is another one here. */
static int
read_dead_letter_exchange(const struct reading *reading, const struct argument *argument,
                          const struct amqp_value *value)
{
    if (value->type == 'S')
        return read_name(reading, argument, value);
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   "invalid type '%s' for arg '%.*s' in queue '%.*s' in vhost '%.*s'",
                   amqp_value_type_name(value->type), INVALID_ARGUMENT_ARGS(reading, argument));
    return -1;
}

/* The exchange's row comes first, so whether it is there is known. */
static int
read_dead_letter_routing_key(const struct reading *reading, const struct argument *argument,
                             const struct amqp_value *value)
{
    if (read_name(reading, argument, value) < 0)
        return -1;
    if (reading->options->has_dead_letter_exchange)
        return 0;
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   INVALID_ARGUMENT ": routing_key_but_no_dlx_defined",
                   INVALID_ARGUMENT_ARGS(reading, argument));
    return -1;
}

/* ---- reading a declaration ---- */

/* Sorts the entries of a table into the rows, in one pass: the table is the client's, and may be
 * long. Of a name given twice the first counts, as for amqp_table_find. */
static void
collect_arguments(struct given_arguments *given, struct slice table)
{
    struct amqp_table_iterator iterator = amqp_table_begin(table);
    struct amqp_value value;
    struct slice name;

    memset(given->is_given, 0, sizeof(given->is_given));
    while (amqp_table_next(&iterator, &name, &value) > 0) {
        if (!slice_starts_with(name, SLICE("x-")))
            continue;
        for (size_t row = 0; row < ARGUMENT_COUNT; row++) {
            if (!slice_equal(arguments[row].name, name))
                continue;
            if (!given->is_given[row])
                given->values[row] = value;
            given->is_given[row] = true;
            break;
        }
    }
}

const char *
queue_type_module(enum queue_type type)
{
    return type == QUEUE_QUORUM ? "rabbit_quorum_queue" : "rabbit_classic_queue";
}

/* The row of a name that the table has. */
static size_t
row_of(const char *name)
{
    size_t row = 0;

    while (!slice_is(arguments[row].name, name))
        row++;
    return row;
}

/* The value given under a name of the table, or NULL. */
static const struct amqp_value *
find_argument(const struct given_arguments *given, const char *name)
{
    size_t row = row_of(name);

    return given->is_given[row] ? &given->values[row] : NULL;
}

/* A quorum queue outlives its connections and its broker, so it needs a name to be found by. This
 * comes before all other checks. */
static int
check_name(const struct reading *reading, const struct given_arguments *given)
{
    const struct amqp_value *type = find_argument(given, "x-queue-type");

    if (!reading->declaration->server_named || type == NULL || type->type != 'S'
        || !slice_is(type->bytes, queue_types[QUEUE_QUORUM]))
        return 0;
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   "Cannot declare a server-named queue for type %s",
                   queue_type_module(QUEUE_QUORUM));
    return -1;
}

static bool
is_taken(const struct argument *argument, enum queue_type type)
{
    return (argument->types & (1u << type)) != 0;
}

static int
read_row(const struct reading *reading, const struct given_arguments *given, size_t row)
{
    const struct argument *argument = &arguments[row];

    if (!given->is_given[row] || argument->read == NULL)
        return 0;
    if (argument->read(reading, argument, &given->values[row]) < 0)
        return -1;
    if (argument->given_offset != 0)
        *(bool *)((char *)reading->options + argument->given_offset) = true;
    return 0;
}

static int
read_values(const struct reading *reading, const struct given_arguments *given)
{
    for (size_t row = 0; row < ARGUMENT_COUNT; row++) {
        if (is_taken(&arguments[row], reading->options->type) && read_row(reading, given, row) < 0)
            return -1;
    }
    return 0;
}

/* The arguments that another queue type takes, but not this one. */
static int
check_queue_type_takes(const struct reading *reading, const struct given_arguments *given)
{
    enum queue_type type = reading->options->type;

    for (size_t row = 0; row < ARGUMENT_COUNT; row++) {
        const struct argument *argument = &arguments[row];

        if (!given->is_given[row] || is_taken(argument, type))
            continue;
        amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                       INVALID_ARGUMENT " of queue type %s",
                       INVALID_ARGUMENT_ARGS(reading, argument), queue_type_module(type));
        return -1;
    }
    return 0;
}

static int
check_quorum_properties(const struct reading *reading)
{
    const struct queue_declaration *declaration = reading->declaration;
    const char *property = NULL;

    if (declaration->auto_delete)
        property = "auto-delete";
    else if (declaration->exclusive)
        property = "exclusive-owner";
    else if (!declaration->durable)
        property = "non-durable";
    if (property == NULL)
        return 0;
    amqp_error_set(reading->error, AMQP_REPLY_PRECONDITION_FAILED,
                   "invalid property '%s' for queue '%.*s' in vhost '%.*s'", property,
                   SLICE_ARGS(declaration->name), SLICE_ARGS(reading->vhost_name));
    return -1;
}

int
queue_options_parse(struct queue_options *options, const struct queue_declaration *declaration,
                    struct slice vhost_name, struct amqp_error *error)
{
    struct reading reading = {options, declaration, vhost_name, error};
    struct given_arguments given;

    *options = (struct queue_options){
        .type = QUEUE_CLASSIC,
        .overflow = OVERFLOW_DROP_HEAD,
        .message_ttl_ms = OPTION_NONE,
        .expires_ms = OPTION_NONE,
        .max_length = OPTION_NONE,
        .max_length_bytes = OPTION_NONE,
        .delivery_limit = OPTION_NONE,
        .consumer_timeout_ms = OPTION_NONE,
        .max_priority = OPTION_NONE,
    };
    collect_arguments(&given, declaration->arguments);
    if (check_name(&reading, &given) < 0
        || read_row(&reading, &given, row_of("x-dead-letter-exchange")) < 0
        || read_row(&reading, &given, row_of("x-queue-type")) < 0
        || read_values(&reading, &given) < 0 || check_queue_type_takes(&reading, &given) < 0)
        return -1;
    if (options->type == QUEUE_QUORUM) {
        if (check_quorum_properties(&reading) < 0)
            return -1;
        if (!options->has_delivery_limit)
            options->delivery_limit = QUORUM_DELIVERY_LIMIT;
    }
    return 0;
}

/* ---- comparing with a redeclaration ---- */

/* Whether a row's values mean the same. An absent queue type is a classic one. */
static bool
is_equivalent(const struct argument *argument, const struct amqp_value *current,
              const struct amqp_value *redeclared)
{
    if (current != NULL && redeclared != NULL)
        return amqp_value_equal(current, redeclared);
    if (current == NULL && redeclared == NULL)
        return true;
    if (argument->read == read_queue_type) {
        const struct amqp_value *type = current != NULL ? current : redeclared;

        return type->type == 'S' && slice_is(type->bytes, queue_types[QUEUE_CLASSIC]);
    }
    return false;
}

int
queue_arguments_check_equivalent(enum queue_type type, struct slice current,
                                 struct slice redeclared, struct slice queue_name,
                                 struct slice vhost_name, struct amqp_error *error)
{
    char received_text[ARGUMENT_SIDE_SIZE], current_text[ARGUMENT_SIDE_SIZE];
    struct given_arguments before, now;

    collect_arguments(&before, current);
    collect_arguments(&now, redeclared);
    for (size_t row = 0; row < ARGUMENT_COUNT; row++) {
        const struct amqp_value *old = before.is_given[row] ? &before.values[row] : NULL;
        const struct amqp_value *new = now.is_given[row] ? &now.values[row] : NULL;

        if (!arguments[row].compared || !is_taken(&arguments[row], type)
            || is_equivalent(&arguments[row], old, new))
            continue;
        argument_print_side(received_text, new, old == NULL);
        argument_print_side(current_text, old, new == NULL);
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "inequivalent arg '%.*s' for queue '%.*s' in vhost '%.*s': "
                       "received %s but current is %s",
                       SLICE_ARGS(arguments[row].name), SLICE_ARGS(queue_name),
                       SLICE_ARGS(vhost_name), received_text, current_text);
        return -1;
    }
    return 0;
}
