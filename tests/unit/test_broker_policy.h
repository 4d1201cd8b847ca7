/* Setting policies in the tests of them. */
#ifndef TEST_BROKER_POLICY_H
#define TEST_BROKER_POLICY_H

#include "broker/policy.h"
#include "test_broker_support.h"

/* One key of a definition or one argument: a text or a number. */
struct said {
    const char *key, *text;
    int64_t number;
};

enum { SAID_MAX = 8 };

/* {"max-length": 3, "overflow": "drop-head"} is SAY({"max-length", .number = 3}, ...). */
#define SAY(...) ((const struct said[SAID_MAX + 1]){__VA_ARGS__})

static inline void
put_said(struct amqp_table_builder *table, const struct said *said)
{
    for (; said->key != NULL; said++) {
        if (said->text != NULL)
            amqp_table_builder_put_string(table, slice_from(said->key), slice_from(said->text));
        else
            amqp_table_builder_put_int64(table, slice_from(said->key), said->number);
    }
}

struct policy_wish {
    const char *name, *pattern; /* the pattern is everything unless it says */
    bool is_operator, is_from_file;
    enum policy_target target;
    int32_t priority;
    const struct said *says;
};

/* Sets it and tells no queue. What policy_set says. */
static inline int
find_policy_change(const struct policy_wish *wish, struct policy_change *change,
                   char error[POLICY_ERROR_MAX])
{
    struct amqp_table_builder definition;
    amqp_table_builder_init(&definition);
    put_said(&definition, wish->says);
    const struct policy_declaration declaration = {
        .is_operator = wish->is_operator,
        .is_from_file = wish->is_from_file,
        .name = slice_from(wish->name),
        .pattern = slice_from(wish->pattern == NULL ? ".*" : wish->pattern),
        .target = wish->target,
        .priority = wish->priority,
        .definition = amqp_table_builder_finish(&definition),
    };
    int status = policy_set(test_broker->catalogue, test_vhost, &declaration, change, error);
    amqp_table_builder_free(&definition);
    return status;
}

/* Sets it and tells the queues from that shard. What policy_set says. */
static inline int
try_policy_from(struct shard *shard, const struct policy_wish *wish, char error[POLICY_ERROR_MAX])
{
    struct policy_change change;
    int status = find_policy_change(wish, &change, error);
    policy_tell(shard, &change);
    return status;
}

/* The queues have heard of it then. */
static inline int
try_policy(const struct policy_wish *wish, char error[POLICY_ERROR_MAX])
{
    int status = try_policy_from(test_broker->shards[0], wish, error);
    settle_down();
    return status;
}

static inline void
set_policy(const struct policy_wish *wish)
{
    char error[POLICY_ERROR_MAX];
    int status = try_policy(wish, error);
    REQUIRE(status == 0, "policy %s: %d %s", wish->name, status, error);
}

/* A policy of that name for everything. */
#define POLICY(policy_name, ...)                                                                   \
    set_policy(&(struct policy_wish){.name = (policy_name), .says = SAY(__VA_ARGS__)})
#define OPERATOR_POLICY(policy_name, ...)                                                          \
    set_policy(&(struct policy_wish){                                                              \
        .name = (policy_name), .is_operator = true, .says = SAY(__VA_ARGS__)})

static inline int
try_clear_from(struct shard *shard, const char *name, bool is_operator, bool from_file)
{
    char error[POLICY_ERROR_MAX];
    struct policy_change change;
    int status = policy_clear(test_broker->catalogue, test_vhost, is_operator, slice_from(name),
                              from_file, &change, error);
    policy_tell(shard, &change);
    return status;
}

static inline int
try_clear(const char *name, bool is_operator, bool from_file)
{
    int status = try_clear_from(test_broker->shards[0], name, is_operator, from_file);
    settle_down();
    return status;
}

static inline void
clear_policy(const char *name)
{
    int status = try_clear(name, false, false);
    REQUIRE(status == 0, "clearing policy %s: %d", name, status);
}

/* A durable queue with these arguments, or none: NULL. */
static inline struct queue_record *
declare_saying(struct shard *shard, const char *name, const struct said *arguments)
{
    struct queue_wish wish = {.name = name, .has_arguments = arguments != NULL};
    if (arguments != NULL) {
        amqp_table_builder_init(&wish.arguments);
        put_said(&wish.arguments, arguments);
    }
    return declare_queue(shard, &wish);
}

#endif
