/* The sets of policies, and which of them apply to what. */
#include "broker/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/argument_text.h"
#include "broker/exchange.h"
#include "broker/shard.h"

static const char *const target_names[POLICY_TARGETS] = {
    [POLICY_ALL] = "all",
    [POLICY_EXCHANGES] = "exchanges",
    [POLICY_QUEUES] = "queues",
    [POLICY_CLASSIC_QUEUES] = "classic_queues",
    [POLICY_QUORUM_QUEUES] = "quorum_queues",
};

static const unsigned target_queue_types[POLICY_TARGETS] = {
    [POLICY_ALL] = ~0u,
    [POLICY_QUEUES] = ~0u,
    [POLICY_CLASSIC_QUEUES] = 1u << QUEUE_CLASSIC,
    [POLICY_QUORUM_QUEUES] = 1u << QUEUE_QUORUM,
};

const char *
policy_target_name(enum policy_target target)
{
    return target_names[target];
}

bool
policy_target_find(struct slice name, enum policy_target *target)
{
    for (int i = 0; i < POLICY_TARGETS; i++) {
        if (!slice_is(name, target_names[i]))
            continue;
        *target = (enum policy_target)i;
        return true;
    }
    return false;
}

/* --- One policy ------------------------------------------------------------------------------- */

static void
policy_unref(struct policy *policy)
{
    if (policy == NULL
        || atomic_fetch_sub_explicit(&policy->references, 1, memory_order_acq_rel) > 1)
        return;
    pattern_free(policy->pattern);
    free(policy);
}

static struct policy *
policy_ref(struct policy *policy)
{
    if (policy != NULL)
        atomic_fetch_add_explicit(&policy->references, 1, memory_order_relaxed);
    return policy;
}

void
policies_copy(struct policy *to[POLICY_KINDS], struct policy *const from[POLICY_KINDS])
{
    for (int i = 0; i < POLICY_KINDS; i++) {
        struct policy *before = to[i];
        to[i] = policy_ref(from[i]);
        policy_unref(before);
    }
}

void
policies_release(struct policy *policies[POLICY_KINDS])
{
    for (int i = 0; i < POLICY_KINDS; i++) {
        policy_unref(policies[i]);
        policies[i] = NULL;
    }
}

/* The compiled pattern, or NULL with the text. The empty one is found in every name, other than in
 * permissions. */
static struct pattern *
compile(struct slice pattern, char error[POLICY_ERROR_MAX])
{
    char reason[PATTERN_ERROR_MAX];
    struct pattern *compiled = pattern_new(pattern.size == 0 ? SLICE(".*") : pattern, reason);
    if (compiled == NULL)
        snprintf(error, POLICY_ERROR_MAX, "pattern should be regular expression but is invalid: %s",
                 reason);
    return compiled;
}

int
policy_check(const struct policy_declaration *declaration, char error[POLICY_ERROR_MAX])
{
    if (declaration->name.size == 0 || declaration->name.size > UINT8_MAX) {
        snprintf(error, POLICY_ERROR_MAX, "the name of a policy has 1 to %d bytes", UINT8_MAX);
        return -EINVAL;
    }
    struct pattern *pattern = compile(declaration->pattern, error);
    if (pattern == NULL)
        return -EINVAL;
    pattern_free(pattern);
    return policy_definition_check(declaration->definition, declaration->is_operator, error);
}

/* A policy with one reference, in no set. NULL: out of memory. */
static struct policy *
policy_new(const struct policy_declaration *declaration)
{
    char error[POLICY_ERROR_MAX];
    struct policy *policy = malloc(sizeof(*policy) + declaration->name.size
                                   + declaration->pattern.size + declaration->definition.size);
    if (policy == NULL)
        return NULL;
    char *at = policy->bytes;
    atomic_init(&policy->references, 1);
    policy->declaration = *declaration;
    policy->declaration.name = slice_keep(&at, declaration->name);
    policy->declaration.pattern = slice_keep(&at, declaration->pattern);
    policy->declaration.definition = slice_keep(&at, declaration->definition);
    policy->is_for_exchanges =
        declaration->target == POLICY_ALL || declaration->target == POLICY_EXCHANGES;
    policy->queue_types = target_queue_types[declaration->target]
                          & policy_definition_queue_types(declaration->definition);
    policy->pattern = compile(declaration->pattern, error); /* which was found good */
    if (policy->pattern == NULL) {
        free(policy);
        return NULL;
    }
    return policy;
}

/* --- A set ------------------------------------------------------------------------------------ */

static int
compare_names(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

/* Whether it applies before the other one (NULL: there is none) where both could. */
static bool
outranks(const struct policy *policy, const struct policy *other)
{
    if (other == NULL || policy->declaration.priority != other->declaration.priority)
        return other == NULL || policy->declaration.priority > other->declaration.priority;
    return compare_names(policy->declaration.name, other->declaration.name) < 0;
}

static struct policy **
list_find(struct policy_list *list, struct slice name)
{
    for (size_t i = 0; i < list->count; i++)
        if (slice_equal(list->items[i]->declaration.name, name))
            return &list->items[i];
    return NULL;
}

/* Makes room for one more. -ENOMEM. */
static int
list_reserve(struct policy_list *list)
{
    if (list->count < list->capacity)
        return 0;
    size_t capacity = list->capacity == 0 ? 4 : 2 * list->capacity;
    struct policy **grown = realloc(list->items, capacity * sizeof(struct policy *));
    if (grown == NULL)
        return -ENOMEM;
    list->items = grown;
    list->capacity = capacity;
    return 0;
}

/* Where there is room; takes the reference. */
static void
list_insert(struct policy_list *list, struct policy *policy)
{
    size_t i = list->count++;
    for (; i > 0 && outranks(policy, list->items[i - 1]); i--)
        list->items[i] = list->items[i - 1];
    list->items[i] = policy;
}

/* The reference is the caller's. */
static struct policy *
list_remove_at(struct policy_list *list, struct policy **place)
{
    struct policy *policy = *place;
    size_t behind = (size_t)(list->items + --list->count - place);
    memmove(place, place + 1, behind * sizeof(*place));
    return policy;
}

void
policy_list_fini(struct policy_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        policy_unref(list->items[i]);
    free(list->items);
    *list = (struct policy_list){0};
}

/* --- What applies ----------------------------------------------------------------------------- */

/* A queue or an exchange, as policies see it. */
struct subject {
    struct slice name;
    bool is_exchange;
    unsigned queue_type; /* 1 << enum queue_type */
};

static struct subject
subject_of_record(const struct queue_record *record)
{
    return (struct subject){.name = record->name, .queue_type = 1u << record->options.type};
}

static struct subject
subject_of_exchange(const struct exchange *exchange)
{
    return (struct subject){.name = exchange->name, .is_exchange = true};
}

static bool
is_for(const struct policy *policy, const struct subject *subject)
{
    return (subject->is_exchange ? policy->is_for_exchanges
                                 : (policy->queue_types & subject->queue_type) != 0)
           && pattern_matches(policy->pattern, subject->name);
}

/* The one of the set that applies, or NULL. */
static struct policy *
find_best(const struct policy_list *list, const struct subject *subject)
{
    for (size_t i = 0; i < list->count; i++)
        if (is_for(list->items[i], subject))
            return list->items[i];
    return NULL;
}

/* What holds of the record where its policies are these. */
static void
refresh_record(struct queue_record *record)
{
    struct queue_options options = record->options;
    policies_apply(record->policies, &options);
    record->overflow = options.overflow;
    record->consumer_timeout_ms = options.consumer_timeout_ms;
}

/* An argument wins over a policy. */
static void
refresh_exchange(struct exchange *exchange)
{
    struct amqp_value value;
    exchange->has_alternate = true;
    if (amqp_table_find(exchange->arguments, SLICE("alternate-exchange"), &value))
        exchange->alternate = value.bytes;
    else
        exchange->has_alternate = policies_alternate(exchange->policies, &exchange->alternate);
}

static void
find_all(struct vhost *vhost, const struct subject *subject, struct policy *policies[POLICY_KINDS])
{
    struct policy *found[POLICY_KINDS];
    for (int i = 0; i < POLICY_KINDS; i++)
        found[i] = find_best(&vhost->policies[i], subject);
    policies_copy(policies, found);
}

void
queue_record_take_policies(struct queue_record *record)
{
    struct subject subject = subject_of_record(record);
    find_all(record->vhost, &subject, record->policies);
    refresh_record(record);
}

void
exchange_take_policies(struct exchange *exchange)
{
    struct subject subject = subject_of_exchange(exchange);
    find_all(exchange->vhost, &subject, exchange->policies);
    refresh_exchange(exchange);
}

/* --- Changing a set --------------------------------------------------------------------------- */

/* One policy of the set has gone, or come, or both: it was replaced. */
struct difference {
    enum policy_kind kind;
    const struct policy *removed;
    struct policy *added;
};

/* Whether another policy applies now. Most queues are not concerned, and of those at most one
 * pattern is tried. */
static bool
update(const struct vhost *vhost, const struct difference *difference,
       const struct subject *subject, struct policy *policies[POLICY_KINDS])
{
    struct policy **place = &policies[difference->kind];
    struct policy *found = *place;
    if (found != NULL && found == difference->removed)
        found = find_best(&vhost->policies[difference->kind], subject);
    else if (difference->added != NULL && outranks(difference->added, found)
             && is_for(difference->added, subject))
        found = difference->added;
    if (found == *place)
        return false;
    policy_unref(*place);
    *place = policy_ref(found);
    return true;
}

/* Everything in the vhost finds its policies anew. The change has room for all queues. */
static void
update_all(struct catalogue *catalogue, struct vhost *vhost, const struct difference *difference,
           struct policy_change *change)
{
    void *value;
    for (size_t cursor = 0; (value = map_next(&vhost->exchanges, &cursor)) != NULL;) {
        struct exchange *exchange = value;
        struct subject subject = subject_of_exchange(exchange);
        if (update(vhost, difference, &subject, exchange->policies))
            refresh_exchange(exchange);
    }
    for (size_t cursor = 0; (value = map_next(&vhost->queues, &cursor)) != NULL;) {
        struct queue_record *record = value;
        struct subject subject = subject_of_record(record);
        if (!update(vhost, difference, &subject, record->policies))
            continue;
        refresh_record(record);
        change->queues[change->count++] = record->queue;
    }
    catalogue_changed(catalogue);
}

static void
tell_observer(struct catalogue *catalogue, const struct vhost *vhost, const struct policy *policy,
              enum catalogue_event_type type)
{
    const struct policy_declaration *declaration = &policy->declaration;
    const struct catalogue_event event = {
        .type = type,
        .vhost = vhost->name,
        .name = declaration->name,
        .is_operator = declaration->is_operator,
        .pattern = declaration->pattern,
        .target = declaration->target,
        .priority = declaration->priority,
        .arguments = declaration->definition,
    };
    catalogue_tell(catalogue, &event);
}

/* -EPERM with the text. */
static int
refuse(struct slice name, bool is_of_file, char error[POLICY_ERROR_MAX])
{
    char text[ARGUMENT_TEXT_SIZE];
    argument_print_bytes(text, name);
    snprintf(error, POLICY_ERROR_MAX,
             is_of_file ? "policy '%s' is declared in the configuration file"
                        : "policy '%s' is not declared in the configuration file",
             text);
    return -EPERM;
}

static int
change_init(const struct vhost *vhost, struct policy_change *change)
{
    change->count = 0;
    change->queues = calloc(map_count(&vhost->queues) + 1, sizeof(*change->queues));
    return change->queues == NULL ? -ENOMEM : 0;
}

/* With the mutex held; takes the reference unless it fails. */
static int
put(struct catalogue *catalogue, struct vhost *vhost, struct policy *policy,
    struct policy_change *change, char error[POLICY_ERROR_MAX])
{
    const struct policy_declaration *declaration = &policy->declaration;
    struct difference difference = {
        .kind = declaration->is_operator ? POLICY_OPERATOR : POLICY_PLAIN, .added = policy};
    struct policy_list *list = &vhost->policies[difference.kind];
    struct policy **place = list_find(list, declaration->name);
    if (vhost_is_deleted(vhost))
        return -ENOENT;
    if (place != NULL && (*place)->declaration.is_from_file && !declaration->is_from_file)
        return refuse(declaration->name, true, error);
    if ((place == NULL && list_reserve(list) != 0) || change_init(vhost, change) != 0)
        return -ENOMEM;
    struct policy *removed = place == NULL ? NULL : list_remove_at(list, place);
    difference.removed = removed;
    list_insert(list, policy);
    update_all(catalogue, vhost, &difference, change);
    if (!declaration->is_from_file)
        tell_observer(catalogue, vhost, policy, CATALOGUE_POLICY_SET);
    else if (removed != NULL && !removed->declaration.is_from_file)
        tell_observer(catalogue, vhost, removed, CATALOGUE_POLICY_REMOVED);
    policy_unref(removed);
    return 0;
}

int
policy_set(struct catalogue *catalogue, struct vhost *vhost,
           const struct policy_declaration *declaration, struct policy_change *change,
           char error[POLICY_ERROR_MAX])
{
    *change = (struct policy_change){0};
    error[0] = '\0';
    if (policy_check(declaration, error) != 0)
        return -EINVAL;
    struct policy *policy = policy_new(declaration);
    if (policy == NULL)
        return -ENOMEM;
    catalogue_lock(catalogue);
    int status = put(catalogue, vhost, policy, change, error);
    catalogue_unlock(catalogue);
    if (status != 0)
        policy_unref(policy);
    return status;
}

/* With the mutex held. */
static int
take(struct catalogue *catalogue, struct vhost *vhost, enum policy_kind kind, struct slice name,
     bool from_file, struct policy_change *change, char error[POLICY_ERROR_MAX])
{
    struct policy_list *list = &vhost->policies[kind];
    struct policy **place = list_find(list, name);
    if (place == NULL || vhost_is_deleted(vhost))
        return -ENOENT;
    if ((*place)->declaration.is_from_file != from_file)
        return refuse(name, !from_file, error);
    if (change_init(vhost, change) != 0)
        return -ENOMEM;
    struct policy *removed = list_remove_at(list, place);
    struct difference difference = {.kind = kind, .removed = removed};
    update_all(catalogue, vhost, &difference, change);
    if (!from_file)
        tell_observer(catalogue, vhost, removed, CATALOGUE_POLICY_REMOVED);
    policy_unref(removed);
    return 0;
}

int
policy_clear(struct catalogue *catalogue, struct vhost *vhost, bool is_operator, struct slice name,
             bool from_file, struct policy_change *change, char error[POLICY_ERROR_MAX])
{
    *change = (struct policy_change){0};
    error[0] = '\0';
    catalogue_lock(catalogue);
    int status = take(catalogue, vhost, is_operator ? POLICY_OPERATOR : POLICY_PLAIN, name,
                      from_file, change, error);
    catalogue_unlock(catalogue);
    return status;
}

void
policy_tell(struct shard *shard, struct policy_change *change)
{
    struct mail mail = {.type = MAIL_POLICY};
    for (size_t i = 0; i < change->count; i++) {
        mail.to = change->queues[i];
        shard_send(shard, &mail);
    }
    free(change->queues);
    *change = (struct policy_change){0};
}

/* --- Looking ---------------------------------------------------------------------------------- */

static int
compare_policies(const void *a, const void *b)
{
    return compare_names((*(struct policy *const *)a)->declaration.name,
                         (*(struct policy *const *)b)->declaration.name);
}

void
policy_list(struct catalogue *catalogue, struct vhost *vhost, bool is_operator,
            void (*visit)(void *context, const struct policy_declaration *policy), void *context)
{
    catalogue_lock(catalogue);
    const struct policy_list *list = &vhost->policies[is_operator ? POLICY_OPERATOR : POLICY_PLAIN];
    struct policy **sorted = list->count == 0 ? NULL : calloc(list->count, sizeof(*sorted));
    struct policy *const *items = sorted != NULL ? sorted : list->items; /* for want of memory */
    if (sorted != NULL) {
        memcpy(sorted, list->items, list->count * sizeof(*sorted));
        qsort(sorted, list->count, sizeof(*sorted), compare_policies);
    }
    for (size_t i = 0; i < list->count; i++)
        visit(context, &items[i]->declaration);
    catalogue_unlock(catalogue);
    free(sorted);
}

static struct slice
name_of(struct policy *const policies[POLICY_KINDS], bool of_operator)
{
    const struct policy *policy = policies[of_operator ? POLICY_OPERATOR : POLICY_PLAIN];
    return policy == NULL ? (struct slice){"", 0} : policy->declaration.name;
}

struct slice
queue_record_policy(const struct queue_record *record, bool of_operator)
{
    return name_of(record->policies, of_operator);
}

struct slice
exchange_policy(const struct exchange *exchange, bool of_operator)
{
    return name_of(exchange->policies, of_operator);
}

void
queue_record_put_policy(const struct queue_record *record, struct amqp_table_builder *builder)
{
    policies_put(record->policies, builder);
}

void
exchange_put_policy(const struct exchange *exchange, struct amqp_table_builder *builder)
{
    policies_put(exchange->policies, builder);
}
