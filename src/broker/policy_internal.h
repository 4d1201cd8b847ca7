/* Policies as the catalogue keeps them. For the files of the core only. Who changes a set holds the
 * policies' mutex and then the catalogue's, so holding either is enough to read it; what applies is
 * guarded by the catalogue's. References are counted without either. */
#ifndef BROKER_POLICY_INTERNAL_H
#define BROKER_POLICY_INTERNAL_H

#include "base/pattern.h"
#include "broker/policy.h"

/* A policy never changes: who replaces it makes another one. Queues and exchanges have references,
 * so what they took from the definition stays where it is. */
struct policy {
    _Atomic uint32_t references;
    struct policy_declaration declaration; /* its slices point into bytes */
    struct pattern *pattern;
    bool is_for_exchanges;
    unsigned queue_types; /* it is for those: 1 << enum queue_type */
    char bytes[];
};

/* A set of policies, those of the highest rank first. */
struct policy_list {
    struct policy **items;
    size_t count, capacity;
};

void policy_list_fini(struct policy_list *list);

/* Whether it applies before the other one (NULL: there is none) where both could. */
bool policy_outranks(const struct policy *policy, const struct policy *other);

/* --- What applies (policy_match.c) ------------------------------------------------------------ */

/* The policies that are for a queue or an exchange of its vhost: when it is new. */
void queue_record_take_policies(struct queue_record *record);
void exchange_take_policies(struct exchange *exchange);

/* One policy of a set has gone, or come, or both: it was replaced. */
struct policy_difference {
    enum policy_kind kind;
    struct policy *removed, *added;
};

/* The way through a vhost that is to be taken when the set has changed. With the mutex held, before
 * that: makes room in the change for all queues that there are. NULL: out of memory. */
struct policy_walk *policy_walk_new(struct catalogue *catalogue, struct vhost *vhost,
                                    struct policy_change *change);

/* Without the mutex, but with that of the policies: everything finds its policies, and the change
 * gets the queues that have found others. Frees the walk. */
void policy_walk_run(struct policy_walk *walk, const struct policy_difference *difference);

/* Tells some more of the queues that policy_tell left for later turns; or, at the end, forgets
 * them (policy_tell.c). */
void policy_tell_more(struct shard *shard);
void policy_tell_end(struct shard *shard);

/* --- References (policy.c) -------------------------------------------------------------------- */

/* Copies what applies with references, and gives those back that were there. */
void policies_copy(struct policy *to[POLICY_KINDS], struct policy *const from[POLICY_KINDS]);

/* Gives the references back. */
void policies_release(struct policy *policies[POLICY_KINDS]);

/* --- Definitions (policy_definition.c) -------------------------------------------------------- */

/* 0, or -EINVAL with the text. */
MUST_CHECK int policy_definition_check(struct slice definition, bool is_operator,
                                       char error[POLICY_ERROR_MAX]);

/* The queue types for which it may be, by its keys. */
unsigned policy_definition_queue_types(struct slice definition);

/* Changes what the arguments said to what holds with these policies. Slices point into their
 * definitions then. */
void policies_apply(struct policy *const policies[POLICY_KINDS], struct queue_options *options);

/* alternate-exchange. */
bool policies_alternate(struct policy *const policies[POLICY_KINDS], struct slice *name);

void policies_put(struct policy *const policies[POLICY_KINDS], struct amqp_table_builder *builder);

#endif
