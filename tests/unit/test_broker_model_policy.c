/* Policies in the model of queues: set, changed and cleared at random while queues are in use. What
 * they make of a queue follows at once in the model, also for the messages that are there. */
#include "test_broker_model.h"
#include "test_broker_policy.h"

#include <stdio.h>

static const char *const patterns[] = {"", "^q[0-2]$", "[345]", "q1"};

static bool
matches(const struct model_policy *policy, int queue)
{
    static const bool matching[ARRAY_SIZE(patterns)][QUEUES] = {
        {true, true, true, true, true, true},
        {true, true, true},
        {false, false, false, true, true, true},
        {false, true},
    };
    return policy->exists && matching[policy->pattern][queue];
}

/* Of the policies, or of the operator's, the one that applies. NULL: none. */
static const struct model_policy *
best(int queue, bool is_operator)
{
    const struct model_policy *best = NULL;
    for (int i = 0; i < POLICIES; i++) {
        const struct model_policy *policy = &model.policies[i];
        if (policy->is_operator == is_operator && matches(policy, queue)
            && (best == NULL || policy->priority > best->priority))
            best = policy; /* of equals, the first name */
    }
    return best;
}

static int64_t
smaller(int64_t a, int64_t b)
{
    return a < 0 ? b : b < 0 || a < b ? a : b;
}

static void
limit_by(struct model_says *holds, const struct model_says *says)
{
    holds->ttl_ms = smaller(holds->ttl_ms, says->ttl_ms);
    holds->max_length = smaller(holds->max_length, says->max_length);
    holds->max_bytes = smaller(holds->max_bytes, says->max_bytes);
    holds->limit = smaller(holds->limit, says->limit);
    if (holds->overflow < 0)
        holds->overflow = says->overflow;
    if (holds->dlx < 0)
        holds->dlx = says->dlx;
}

int64_t
deadline_of(const struct model_queue *queue, const struct story *story, int64_t published_ms)
{
    int64_t lives_ms = smaller(queue->ttl_ms, story->expiration_ms);
    return lives_ms < 0 ? NEVER : published_ms + lives_ms;
}

/* What its arguments and the policies say. */
void
apply_policies(int number)
{
    struct model_queue *queue = &model.queues[number];
    struct model_says holds = queue->says;
    for (int is_operator = 1; is_operator >= 0; is_operator--) {
        const struct model_policy *policy = best(number, is_operator != 0);
        if (policy != NULL)
            limit_by(&holds, &policy->says);
    }
    queue->ttl_ms = holds.ttl_ms;
    queue->max_length = holds.max_length;
    queue->max_bytes = holds.max_bytes;
    queue->limit = holds.limit;
    queue->overflow = holds.overflow < 0 ? OVERFLOW_DROP_HEAD : (enum queue_overflow)holds.overflow;
    queue->dlx = holds.dlx;
    for (struct item *item = queue->first; item != NULL; item = item->next)
        item->deadline_ms = deadline_of(queue, &item->story, item->published_ms);
}

static void
apply_to_all(void)
{
    for (int i = 0; i < QUEUES; i++)
        if (model.queues[i].exists)
            apply_policies(i);
}

static int64_t
maybe(unsigned percent, int64_t most)
{
    return chance(percent) ? (int64_t)pick((uint64_t)most + 1) : -1;
}

static void
say(struct said *said, const char *key, int64_t number, const char *text)
{
    while (said->key != NULL)
        said++;
    if (number >= 0)
        *said = (struct said){.key = key, .number = number, .text = text};
}

static void
set(int number)
{
    static const char *const overflows[] = {"drop-head", "reject-publish", "reject-publish-dlx"};
    struct model_policy *policy = &model.policies[number];
    struct said said[SAID_MAX + 1] = {{0}};
    char name[8];
    policy->exists = true;
    policy->is_operator = number >= POLICIES / 2;
    policy->priority = (int32_t)pick(3);
    policy->pattern = (uint8_t)pick(ARRAY_SIZE(patterns));
    policy->says = (struct model_says){
        .ttl_ms = maybe(50, 60),
        .max_length = maybe(40, 8),
        .max_bytes = maybe(20, 1000),
        .limit = maybe(30, 3),
        .overflow = (int)maybe(30, 2),
        .dlx = !policy->is_operator && chance(30) ? QUEUES : -1,
    };
    say(said, "message-ttl", policy->says.ttl_ms, NULL);
    say(said, "max-length", policy->says.max_length, NULL);
    say(said, "max-length-bytes", policy->says.max_bytes, NULL);
    say(said, "delivery-limit", policy->says.limit, NULL);
    if (policy->says.overflow >= 0)
        say(said, "overflow", 0, overflows[policy->says.overflow]);
    say(said, "dead-letter-exchange", policy->says.dlx, "spread");
    say(said, "max-in-memory-length", 0, NULL); /* a policy has to say something */
    snprintf(name, sizeof(name), "p%d", number);
    TRACE("policy %s: pattern '%s' priority %d ttl %d length %d bytes %d limit %d overflow %d dlx "
          "%d",
          name, patterns[policy->pattern], policy->priority, (int)policy->says.ttl_ms,
          (int)policy->says.max_length, (int)policy->says.max_bytes, (int)policy->says.limit,
          policy->says.overflow, policy->says.dlx);
    apply_to_all();
    set_policy(&(struct policy_wish){.name = name,
                                     .pattern = patterns[policy->pattern],
                                     .is_operator = policy->is_operator,
                                     .target = chance(50) ? POLICY_ALL : POLICY_QUEUES,
                                     .priority = policy->priority,
                                     .says = said});
}

static void
clear(int number)
{
    struct model_policy *policy = &model.policies[number];
    char name[8];
    snprintf(name, sizeof(name), "p%d", number);
    TRACE("no policy %s", name);
    policy->exists = false;
    apply_to_all();
    REQUIRE(try_clear(name, policy->is_operator, false) == 0, "clearing %s", name);
}

void
do_policy(void)
{
    int number = (int)pick(POLICIES);
    if (model.policies[number].exists && chance(40))
        clear(number);
    else
        set(number);
}
