/* The sets of policies: what is in them, and changing that. */
#include "broker/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/argument_text.h"
#include "broker/exchange.h"

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

/* The empty pattern is found in every name, other than in permissions. -EINVAL with the text, or
 * -ENOMEM. */
static int
compile(struct slice pattern, struct pattern **compiled, char error[POLICY_ERROR_MAX])
{
    char reason[PATTERN_ERROR_MAX];
    *compiled = pattern_new(pattern.size == 0 ? SLICE(".*") : pattern, reason);
    if (*compiled != NULL)
        return 0;
    if (strcmp(reason, PATTERN_NO_MEMORY) == 0)
        return -ENOMEM;
    snprintf(error, POLICY_ERROR_MAX, "pattern should be regular expression but is invalid: %s",
             reason);
    return -EINVAL;
}

int
policy_check(const struct policy_declaration *declaration, char error[POLICY_ERROR_MAX])
{
    struct pattern *pattern;
    error[0] = '\0';
    if (declaration->name.size == 0 || declaration->name.size > UINT8_MAX) {
        snprintf(error, POLICY_ERROR_MAX, "the name of a policy has 1 to %d bytes", UINT8_MAX);
        return -EINVAL;
    }
    int status = compile(declaration->pattern, &pattern, error);
    if (status != 0)
        return status;
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
    if (compile(declaration->pattern, &policy->pattern, error) != 0) { /* it was found good */
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

bool
policy_outranks(const struct policy *policy, const struct policy *other)
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
    for (; i > 0 && policy_outranks(policy, list->items[i - 1]); i--)
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

static enum policy_kind
kind_of(bool is_operator)
{
    return is_operator ? POLICY_OPERATOR : POLICY_PLAIN;
}

/* --- Changing a set --------------------------------------------------------------------------- */

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

/* A change of a set under way. */
struct changing {
    struct catalogue *catalogue;
    struct vhost *vhost;
    struct policy_difference difference;
    struct policy_walk *walk; /* what is left to do: to find out whom it concerns */
};

/* Whether both say the same. */
static bool
is_same(const struct policy_declaration *a, const struct policy_declaration *b)
{
    return a->is_from_file == b->is_from_file && a->target == b->target
           && a->priority == b->priority && slice_equal(a->pattern, b->pattern)
           && slice_equal(a->definition, b->definition);
}

/* With both mutexes held: the policy is in its set, in the place of what it removes, and the change
 * takes the reference; unless it fails. 1: the same is there already, and stays. */
static int
put(struct changing *changing, struct policy *policy, struct policy_change *change,
    char error[POLICY_ERROR_MAX])
{
    struct vhost *vhost = changing->vhost;
    const struct policy_declaration *declaration = &policy->declaration;
    enum policy_kind kind = kind_of(declaration->is_operator);
    struct policy_list *list = &vhost->policies[kind];
    struct policy **place = list_find(list, declaration->name);
    if (vhost_is_deleted(vhost))
        return -ENOENT;
    if (place != NULL && (*place)->declaration.is_from_file && !declaration->is_from_file)
        return refuse(declaration->name, true, error);
    if (place != NULL && is_same(&(*place)->declaration, declaration))
        return 1;
    if ((place == NULL && list_reserve(list) != 0)
        || (changing->walk = policy_walk_new(changing->catalogue, vhost, change)) == NULL)
        return -ENOMEM;
    struct policy *removed = place == NULL ? NULL : list_remove_at(list, place);
    changing->difference =
        (struct policy_difference){.kind = kind, .removed = removed, .added = policy};
    list_insert(list, policy);
    if (!declaration->is_from_file)
        tell_observer(changing->catalogue, vhost, policy, CATALOGUE_POLICY_SET);
    else if (removed != NULL && !removed->declaration.is_from_file)
        tell_observer(changing->catalogue, vhost, removed, CATALOGUE_POLICY_REMOVED);
    return 0;
}

/* With both mutexes held: the policy of that name is in its set no more. */
static int
take(struct changing *changing, enum policy_kind kind, struct slice name, bool from_file,
     struct policy_change *change, char error[POLICY_ERROR_MAX])
{
    struct policy_list *list = &changing->vhost->policies[kind];
    struct policy **place = list_find(list, name);
    if (place == NULL || vhost_is_deleted(changing->vhost))
        return -ENOENT;
    if ((*place)->declaration.is_from_file != from_file)
        return refuse(name, !from_file, error);
    changing->walk = policy_walk_new(changing->catalogue, changing->vhost, change);
    if (changing->walk == NULL)
        return -ENOMEM;
    struct policy *removed = list_remove_at(list, place);
    changing->difference = (struct policy_difference){.kind = kind, .removed = removed};
    if (!from_file)
        tell_observer(changing->catalogue, changing->vhost, removed, CATALOGUE_POLICY_REMOVED);
    return 0;
}

/* With the policies' mutex held. */
static void
finish(struct changing *changing)
{
    policy_walk_run(changing->walk, &changing->difference);
    policy_unref(changing->difference.removed);
}

int
policy_set(struct catalogue *catalogue, struct vhost *vhost,
           const struct policy_declaration *declaration, struct policy_change *change,
           char error[POLICY_ERROR_MAX])
{
    struct changing changing = {.catalogue = catalogue, .vhost = vhost};
    *change = (struct policy_change){0};
    int status = policy_check(declaration, error);
    if (status != 0)
        return status;
    struct policy *policy = policy_new(declaration);
    if (policy == NULL)
        return -ENOMEM;
    pthread_mutex_lock(&catalogue->policy_mutex);
    catalogue_lock(catalogue);
    status = put(&changing, policy, change, error);
    catalogue_unlock(catalogue);
    if (status == 0)
        finish(&changing);
    pthread_mutex_unlock(&catalogue->policy_mutex);
    if (status != 0)
        policy_unref(policy);
    return status == 1 ? 0 : status;
}

int
policy_clear(struct catalogue *catalogue, struct vhost *vhost, bool is_operator, struct slice name,
             bool from_file, struct policy_change *change, char error[POLICY_ERROR_MAX])
{
    struct changing changing = {.catalogue = catalogue, .vhost = vhost};
    *change = (struct policy_change){0};
    error[0] = '\0';
    pthread_mutex_lock(&catalogue->policy_mutex);
    catalogue_lock(catalogue);
    int status = take(&changing, kind_of(is_operator), name, from_file, change, error);
    catalogue_unlock(catalogue);
    if (status == 0)
        finish(&changing);
    pthread_mutex_unlock(&catalogue->policy_mutex);
    return status;
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
    const struct policy_list *list = &vhost->policies[kind_of(is_operator)];
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
    const struct policy *policy = policies[kind_of(of_operator)];
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
