/* Policies as the catalogue keeps them. For the files of the core only; all of it is guarded by the
 * catalogue's mutex but the counting of references. */
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

/* The policies that are for a queue or an exchange of its vhost: when it is new. */
void queue_record_take_policies(struct queue_record *record);
void exchange_take_policies(struct exchange *exchange);

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
