/* What a policy may say: its keys, one row of a table for each. From it follow the check with
 * RabbitMQ's texts, what becomes of argument, policy and operator policy together, and which queues
 * a policy is for: RabbitMQ applies a policy to no queue whose type does not know all its keys.
 *
 * Keys that mean nothing on a single node, or nothing here, are checked all the same, so that
 * definitions made for RabbitMQ can be taken over. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "broker/argument_text.h"
#include "broker/policy_internal.h"

/* As for the arguments: RabbitMQ's timers take no more. A policy that says more means this. */
#define DURATION_MAX_MS INT64_C(315360000000)

#define ON_CLASSIC (1u << QUEUE_CLASSIC)
#define ON_QUORUM (1u << QUEUE_QUORUM)
#define ON_ALL (ON_CLASSIC | ON_QUORUM)

enum key_type { KEY_INTEGER, KEY_TEXT, KEY_WORD, KEY_AGE, KEY_ANY };

struct key {
    struct slice name;
    enum key_type type;
    int64_t minimum;
    int64_t maximum;          /* 0: none. What is above it counts as that much */
    const char *const *words; /* to NULL; the index is what is stored */
    const char *complaint;    /* what follows the wrong value in the text */
    size_t offset, size;      /* the member of struct queue_options; size 0: none */
    size_t given_offset;      /* of the bool that says that it is there; 0: there is none */
    unsigned queue_types;     /* a policy with this key is for those */
    bool is_for_operators;    /* stands in operator policies too */
};

#define MEMBER(member)                                                                             \
    .offset = offsetof(struct queue_options, member),                                              \
    .size = sizeof(((struct queue_options *)0)->member)
#define GIVEN(member) .given_offset = offsetof(struct queue_options, member)

/* In the order of the enumerators. */
static const char *const overflows[] = {[OVERFLOW_DROP_HEAD] = "drop-head",
                                        [OVERFLOW_REJECT_PUBLISH] = "reject-publish",
                                        [OVERFLOW_REJECT_PUBLISH_DLX] = "reject-publish-dlx",
                                        NULL};
static const char *const strategies[] = {"at-most-once", "at-least-once", NULL};
static const char *const queue_modes[] = {"default", "lazy", NULL};
static const char *const master_locators[] = {"min-masters", "client-local", "random", NULL};
static const char *const leader_locators[] = {"client-local", "balanced", "random", "least-leaders",
                                              NULL};
static const char *const ha_modes[] = {"all", "exactly", "nodes", NULL};
static const char *const ha_sync_modes[] = {"manual", "automatic", NULL};
static const char *const ha_promotions[] = {"always", "when-synced", NULL};

static const struct key keys[] = {
    {SLICE("message-ttl"), KEY_INTEGER, .maximum = DURATION_MAX_MS, MEMBER(message_ttl_ms),
     .complaint = "is not a valid message TTL", .queue_types = ON_ALL, .is_for_operators = true},
    {SLICE("expires"), KEY_INTEGER, .minimum = 1, .maximum = DURATION_MAX_MS, MEMBER(expires_ms),
     .complaint = "is not a valid queue expiry", .queue_types = ON_ALL, .is_for_operators = true},
    {SLICE("max-length"), KEY_INTEGER, MEMBER(max_length),
     .complaint = "is not a valid maximum length", .queue_types = ON_ALL, .is_for_operators = true},
    {SLICE("max-length-bytes"), KEY_INTEGER, MEMBER(max_length_bytes),
     .complaint = "is not a valid maximum length in bytes", .queue_types = ON_ALL,
     .is_for_operators = true},
    /* RabbitMQ 3.10 has it in policies only; later versions in operator policies too. */
    {SLICE("overflow"), KEY_WORD, .words = overflows, MEMBER(overflow), GIVEN(has_overflow),
     .complaint = "is not a valid overflow value", .queue_types = ON_ALL, .is_for_operators = true},
    /* -1: none, also where the queue type has one of its own (as since RabbitMQ 4.0). */
    {SLICE("delivery-limit"), KEY_INTEGER, .minimum = OPTION_NONE, MEMBER(delivery_limit),
     GIVEN(has_delivery_limit), .complaint = "is not a valid delivery limit", .queue_types = ON_ALL,
     .is_for_operators = true},
    /* RabbitMQ has it since 3.12. */
    {SLICE("consumer-timeout"), KEY_INTEGER, .maximum = DURATION_MAX_MS,
     MEMBER(consumer_timeout_ms), .complaint = "is not a valid consumer timeout",
     .queue_types = ON_ALL, .is_for_operators = true},
    {SLICE("dead-letter-exchange"), KEY_TEXT, MEMBER(dead_letter_exchange),
     GIVEN(has_dead_letter_exchange), .complaint = "is not a valid dead letter exchange name",
     .queue_types = ON_ALL},
    {SLICE("dead-letter-routing-key"), KEY_TEXT, MEMBER(dead_letter_routing_key),
     GIVEN(has_dead_letter_routing_key), .complaint = "is not a valid dead letter routing key",
     .queue_types = ON_ALL},
    {SLICE("dead-letter-strategy"), KEY_WORD, .words = strategies,
     .complaint = "is not a valid dead letter strategy", .queue_types = ON_ALL},
    {SLICE("alternate-exchange"), KEY_TEXT, .complaint = "is not a valid alternate exchange name",
     .queue_types = ON_ALL},
    /* From here on nothing has an effect. */
    {SLICE("max-in-memory-length"), KEY_INTEGER,
     .complaint = "is not a valid maximum memory in bytes", .queue_types = ON_ALL,
     .is_for_operators = true},
    {SLICE("max-in-memory-bytes"), KEY_INTEGER,
     .complaint = "is not a valid maximum memory in bytes", .queue_types = ON_ALL,
     .is_for_operators = true},
    {SLICE("queue-mode"), KEY_WORD, .words = queue_modes,
     .complaint = "is not a valid queue-mode value", .queue_types = ON_CLASSIC},
    {SLICE("queue-version"), KEY_INTEGER, .minimum = 1, .maximum = 2,
     .complaint = "is not a valid queue-version value", .queue_types = ON_ALL},
    {SLICE("queue-master-locator"), KEY_WORD, .words = master_locators,
     .complaint = "invalid queue-master-locator value", .queue_types = ON_CLASSIC},
    {SLICE("queue-leader-locator"), KEY_WORD, .words = leader_locators,
     .complaint = "is not a valid queue leader locator value", .queue_types = ON_ALL},
    {SLICE("target-group-size"), KEY_INTEGER, .minimum = 1,
     .complaint = "is not a valid target group size", .queue_types = ON_ALL},
    {SLICE("ha-mode"), KEY_WORD, .words = ha_modes, .complaint = "is not a valid ha-mode value",
     .queue_types = ON_CLASSIC},
    {SLICE("ha-params"), KEY_ANY, .queue_types = ON_CLASSIC},
    {SLICE("ha-sync-mode"), KEY_WORD, .words = ha_sync_modes,
     .complaint = "is not a valid ha-sync-mode: \"manual\" or \"automatic\"",
     .queue_types = ON_CLASSIC},
    {SLICE("ha-sync-batch-size"), KEY_INTEGER, .minimum = 1,
     .complaint = "is not a valid ha-sync-batch-size, which is greater than 0",
     .queue_types = ON_ALL},
    {SLICE("ha-promote-on-shutdown"), KEY_WORD, .words = ha_promotions,
     .complaint = "is not a valid ha-promote-on-shutdown: \"always\" or \"when-synced\"",
     .queue_types = ON_CLASSIC},
    {SLICE("ha-promote-on-failure"), KEY_WORD, .words = ha_promotions,
     .complaint = "is not a valid ha-promote-on-failure: \"always\" or \"when-synced\"",
     .queue_types = ON_CLASSIC},
    /* Of streams, which there are not: a policy that says these is for no queue. */
    {SLICE("max-age"), KEY_AGE, .complaint = "is not a valid max age"},
    {SLICE("stream-max-segment-size-bytes"), KEY_INTEGER,
     .complaint = "is not a valid segment size"},
    {SLICE("initial-cluster-size"), KEY_INTEGER, .complaint = "is not a valid cluster size"},
};

static const struct key *
find_key(struct slice name)
{
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (slice_equal(keys[i].name, name))
            return &keys[i];
    return NULL;
}

/* --- Checking --------------------------------------------------------------------------------- */

/* The index of the word, or -1. */
static int
find_word(const struct key *key, const struct amqp_value *value)
{
    if (value->type == 'S')
        for (int i = 0; key->words[i] != NULL; i++)
            if (slice_is(value->bytes, key->words[i]))
                return i;
    return -1;
}

/* Digits and a unit: "7D". */
static bool
is_age(const struct amqp_value *value)
{
    size_t digits = 0;
    if (value->type != 'S')
        return false;
    while (digits < value->bytes.size && value->bytes.data[digits] >= '0'
           && value->bytes.data[digits] <= '9')
        digits++;
    return digits > 0 && value->bytes.size == digits + 1
           && memchr("YMDhms", value->bytes.data[digits], 6) != NULL;
}

static bool
is_valid(const struct key *key, const struct amqp_value *value)
{
    switch (key->type) {
    case KEY_INTEGER:
        /* Of a version there is no such thing as too much; of a time it means for ever. */
        return amqp_value_is_integer(value) && value->integer >= key->minimum
               && (key->size != 0 || key->maximum == 0 || value->integer <= key->maximum);
    case KEY_TEXT: /* a name or a key, which travels as a short string */
        return value->type == 'S' && value->bytes.size <= UINT8_MAX;
    case KEY_WORD:
        return find_word(key, value) >= 0;
    case KEY_AGE:
        return is_age(value);
    case KEY_ANY:
        return true;
    }
    return false;
}

static int
check_value(const struct key *key, const struct amqp_value *value, char error[POLICY_ERROR_MAX])
{
    char text[ARGUMENT_TEXT_SIZE];
    if (is_valid(key, value))
        return 0;
    argument_print_value(text, value);
    const char *quote = value->type == 'S' ? "\"" : "";
    snprintf(error, POLICY_ERROR_MAX, "%s%s%s %s", quote, text, quote, key->complaint);
    return -EINVAL;
}

/* Whether the name stands in the table before this place. */
static bool
is_duplicate(struct slice definition, struct slice name, const struct amqp_table_iterator *end)
{
    struct amqp_table_iterator at = amqp_table_begin(definition);
    struct amqp_value value;
    struct slice other;
    unsigned times = 0;
    while (at.at < end->at && amqp_table_next(&at, &other, &value) == 1)
        times += slice_equal(name, other);
    return times > 1;
}

static bool
has(struct slice definition, struct slice name)
{
    struct amqp_value value;
    return amqp_table_find(definition, name, &value);
}

/* What RabbitMQ asks of keys for mirrored queues together. */
static int
check_mirroring(struct slice definition, char error[POLICY_ERROR_MAX])
{
    struct amqp_value mode, params;
    if (!amqp_table_find(definition, SLICE("ha-mode"), &mode)) {
        if (!has(definition, SLICE("ha-params")) && !has(definition, SLICE("ha-sync-mode"))
            && !has(definition, SLICE("ha-sync-batch-size"))
            && !has(definition, SLICE("ha-promote-on-shutdown"))
            && !has(definition, SLICE("ha-promote-on-failure")))
            return 0;
        snprintf(error, POLICY_ERROR_MAX,
                 "ha-mode must be specified to specify ha-params, ha-sync-mode or "
                 "ha-promote-on-shutdown");
        return -EINVAL;
    }
    bool has_params = amqp_table_find(definition, SLICE("ha-params"), &params);
    if (slice_is(mode.bytes, "exactly")
        && (!has_params || !amqp_value_is_integer(&params) || params.integer < 1)) {
        char text[ARGUMENT_TEXT_SIZE] = "none";
        if (has_params)
            argument_print_value(text, &params);
        snprintf(error, POLICY_ERROR_MAX, "ha-mode=\"exactly\" takes an integer, %s given", text);
        return -EINVAL;
    }
    if (slice_is(mode.bytes, "nodes")
        && (!has_params || params.type != 'A' || params.bytes.size == 0)) {
        snprintf(error, POLICY_ERROR_MAX, "ha-mode=\"nodes\" list must be non-empty");
        return -EINVAL;
    }
    return 0;
}

int
policy_definition_check(struct slice definition, bool is_operator, char error[POLICY_ERROR_MAX])
{
    char text[ARGUMENT_TEXT_SIZE];
    struct amqp_table_iterator at = amqp_table_begin(definition);
    struct amqp_value value;
    struct slice name;
    if (definition.size == 0) {
        snprintf(error, POLICY_ERROR_MAX, "no policy provided");
        return -EINVAL;
    }
    while (amqp_table_next(&at, &name, &value) == 1) {
        const struct key *key = find_key(name);
        argument_print_bytes(text, name);
        if (key == NULL || (is_operator && !key->is_for_operators)) {
            snprintf(error, POLICY_ERROR_MAX, "'%s' is not a recognised %spolicy setting", text,
                     is_operator ? "operator " : "");
            return -EINVAL;
        }
        if (is_duplicate(definition, name, &at)) {
            snprintf(error, POLICY_ERROR_MAX, "'%s': duplicate keys not allowed", text);
            return -EINVAL;
        }
        if (check_value(key, &value, error) != 0)
            return -EINVAL;
    }
    return check_mirroring(definition, error);
}

unsigned
policy_definition_queue_types(struct slice definition)
{
    struct amqp_table_iterator at = amqp_table_begin(definition);
    struct amqp_value value;
    struct slice name;
    unsigned types = ON_ALL;
    while (amqp_table_next(&at, &name, &value) == 1) {
        const struct key *key = find_key(name);
        types &= key == NULL ? 0 : key->queue_types;
    }
    return types;
}

/* --- What holds ------------------------------------------------------------------------------- */

static bool
find(const struct policy *policy, struct slice name, struct amqp_value *value)
{
    return policy != NULL && amqp_table_find(policy->declaration.definition, name, value);
}

/* The smaller number; what is negative says that there is no limit. */
static int64_t
smaller(int64_t a, int64_t b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

/* What the policies say together under a key: of numbers the smaller, else the operator's. */
static bool
combine(const struct key *key, struct policy *const policies[POLICY_KINDS],
        struct amqp_value *value)
{
    struct amqp_value own;
    bool has_own = find(policies[POLICY_PLAIN], key->name, &own);
    bool has_operators = find(policies[POLICY_OPERATOR], key->name, value);
    if (!has_own)
        return has_operators;
    if (!has_operators
        || (key->type == KEY_INTEGER && smaller(own.integer, value->integer) == own.integer))
        *value = own;
    return true;
}

static void
apply_integer(const struct key *key, int64_t value, bool is_given, int64_t *option)
{
    if (key->maximum != 0 && value > key->maximum)
        value = key->maximum;
    /* A default of the queue type is no limit that somebody set. */
    *option = is_given ? smaller(*option, value) : value;
}

static void
apply(const struct key *key, const struct amqp_value *value, struct queue_options *options)
{
    char *member = (char *)options + key->offset;
    bool *given = key->given_offset == 0 ? NULL : (bool *)((char *)options + key->given_offset);
    if (key->type == KEY_INTEGER) {
        int64_t option;
        memcpy(&option, member, sizeof(option));
        apply_integer(key, value->integer, given == NULL || *given, &option);
        memcpy(member, &option, sizeof(option));
    } else if (!*given && key->type == KEY_WORD) {
        options->overflow = (enum queue_overflow)find_word(key, value);
    } else if (!*given) {
        memcpy(member, &value->bytes, sizeof(value->bytes));
    }
    if (given != NULL)
        *given = true;
}

void
policies_apply(struct policy *const policies[POLICY_KINDS], struct queue_options *options)
{
    struct amqp_value value;
    if (policies[POLICY_PLAIN] == NULL && policies[POLICY_OPERATOR] == NULL)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (keys[i].size > 0 && combine(&keys[i], policies, &value))
            apply(&keys[i], &value, options);
}

bool
policies_alternate(struct policy *const policies[POLICY_KINDS], struct slice *name)
{
    struct amqp_value value;
    if (!find(policies[POLICY_PLAIN], SLICE("alternate-exchange"), &value))
        return false;
    *name = value.bytes;
    return true;
}

void
policies_put(struct policy *const policies[POLICY_KINDS], struct amqp_table_builder *builder)
{
    struct amqp_value value;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (combine(&keys[i], policies, &value))
            amqp_table_builder_put_value(builder, keys[i].name, &value);
}
