/* Which policies apply to what, and finding that anew in a vhost when one has come or gone.
 *
 * A vhost may have very many queues, and each costs the search of a pattern in its name. So the
 * catalogue's mutex is held a piece at a time only, and not while patterns are tried: the set of
 * policies does not change meanwhile, since whoever changes one holds the policies' own mutex.
 * Queues that are made between two pieces find the policy in its set already. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/exchange.h"

enum {
    /* With the mutex held: looked at, and of them tried. */
    LOOKED_AT_ONCE = 1024,
    TRIED_AT_ONCE = 256,
    NAME_SIZE = 256,
};

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

/* --- What applies ----------------------------------------------------------------------------- */

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

/* --- Finding it anew -------------------------------------------------------------------------- */

/* Something for which another policy may apply now. */
struct candidate {
    struct subject subject; /* its name is the one below */
    struct policy *best;
    char name[NAME_SIZE];
};

struct policy_walk {
    struct catalogue *catalogue;
    struct vhost *vhost;
    const struct policy_difference *difference;
    struct policy_change *change;
    struct map *map; /* of the exchanges, or the queues */
    bool is_exchanges;
    size_t cursor, layout;
    size_t count;
    struct candidate candidates[TRIED_AT_ONCE];
};

/* The policies of a value of the map. */
static struct policy **
policies_of(const struct policy_walk *walk, void *value, struct subject *subject)
{
    if (walk->is_exchanges) {
        *subject = subject_of_exchange(value);
        return ((struct exchange *)value)->policies;
    }
    *subject = subject_of_record(value);
    return ((struct queue_record *)value)->policies;
}

/* Whether what applied may not be what applies now. */
static bool
is_concerned(const struct policy_difference *difference, const struct policy *found)
{
    if (found != NULL && found == difference->removed)
        return true;
    return difference->added != NULL && found != difference->added
           && policy_outranks(difference->added, found);
}

/* Gathers the next candidates. False: there are no more behind them. */
static bool
gather(struct policy_walk *walk)
{
    void *value = NULL;
    struct subject subject;
    walk->count = 0;
    catalogue_lock(walk->catalogue);
    /* The map has been made anew: once more, which does nothing to those that were done. */
    if (walk->layout != walk->map->layout)
        walk->cursor = 0;
    walk->layout = walk->map->layout;
    for (size_t i = 0; i < LOOKED_AT_ONCE && walk->count < TRIED_AT_ONCE; i++) {
        if ((value = map_next(walk->map, &walk->cursor)) == NULL)
            break;
        if (!is_concerned(walk->difference,
                          policies_of(walk, value, &subject)[walk->difference->kind]))
            continue;
        struct candidate *candidate = &walk->candidates[walk->count++];
        assert(subject.name.size < NAME_SIZE); /* they came as short strings */
        memcpy(candidate->name, subject.name.data, subject.name.size);
        subject.name.data = candidate->name;
        candidate->subject = subject;
    }
    bool has_more = value != NULL && !vhost_is_deleted(walk->vhost);
    catalogue_unlock(walk->catalogue);
    return has_more;
}

/* With the mutex held. */
static void
give(struct policy_walk *walk, void *value, const struct candidate *candidate)
{
    struct subject subject;
    struct policy **policies = policies_of(walk, value, &subject);
    struct policy *changed[POLICY_KINDS] = {policies[POLICY_PLAIN], policies[POLICY_OPERATOR]};
    /* Another one of that name, made meanwhile, has its policies. */
    if (subject.queue_type != candidate->subject.queue_type
        || policies[walk->difference->kind] == candidate->best)
        return;
    changed[walk->difference->kind] = candidate->best;
    policies_copy(policies, changed);
    if (walk->is_exchanges) {
        refresh_exchange(value);
        return;
    }
    struct queue_record *record = value;
    refresh_record(record);
    walk->change->queues[walk->change->count++] = record->queue;
}

static void
give_all(struct policy_walk *walk)
{
    void *value;
    catalogue_lock(walk->catalogue);
    for (size_t i = 0; i < walk->count; i++)
        if ((value = map_find(walk->map, walk->candidates[i].subject.name)) != NULL)
            give(walk, value, &walk->candidates[i]);
    catalogue_changed(walk->catalogue);
    catalogue_unlock(walk->catalogue);
}

static void
walk_map(struct policy_walk *walk, struct map *map)
{
    const struct policy_list *list = &walk->vhost->policies[walk->difference->kind];
    bool has_more = true;
    walk->map = map;
    walk->cursor = walk->layout = 0;
    while (has_more) {
        has_more = gather(walk);
        for (size_t i = 0; i < walk->count; i++)
            walk->candidates[i].best = find_best(list, &walk->candidates[i].subject);
        if (walk->count > 0)
            give_all(walk);
    }
}

struct policy_walk *
policy_walk_new(struct catalogue *catalogue, struct vhost *vhost, struct policy_change *change)
{
    struct policy_walk *walk = malloc(sizeof(*walk));
    change->count = 0;
    change->queues = calloc(map_count(&vhost->queues) + 1, sizeof(*change->queues));
    if (walk == NULL || change->queues == NULL) {
        free(change->queues);
        change->queues = NULL;
        free(walk);
        return NULL;
    }
    walk->catalogue = catalogue;
    walk->vhost = vhost;
    walk->change = change;
    return walk;
}

void
policy_walk_run(struct policy_walk *walk, const struct policy_difference *difference)
{
    walk->difference = difference;
    walk->is_exchanges = true;
    walk_map(walk, &walk->vhost->exchanges);
    walk->is_exchanges = false;
    walk_map(walk, &walk->vhost->queues);
    free(walk);
}
