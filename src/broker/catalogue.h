/* The catalogue: what exists. Vhosts, exchanges, bindings, and which queue lives where.
 *
 * All shards read it and all may change it; one mutex guards everything. The mutex is not on the
 * hot path: shards keep what routing answered in caches of their own that are valid for one
 * *generation* of the catalogue, and every change that can alter a route starts a new generation.
 *
 * Pointers to what is in here (struct exchange, struct queue_record) mean something only while the
 * mutex is held, with two exceptions: a vhost lives as long as somebody holds a reference to it,
 * and a queue's own shard may read the constant part of its record at any time until it removes it.
 *
 * The catalogue knows no connection and no file. Changes that concern durable things are told to an
 * observer, under the mutex and in order, so that a store can keep them. */
#ifndef BROKER_CATALOGUE_H
#define BROKER_CATALOGUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "amqp/properties.h"
#include "amqp/reply.h"
#include "amqp/slice.h"
#include "base/compiler.h"
#include "base/list.h"
#include "base/map.h"
#include "broker/message.h"
#include "broker/queue_options.h"
#include "broker/ref.h"

struct catalogue;
struct exchange;
struct policy;
struct vhost;

/* The two sets of policies of a vhost (broker/policy.h). */
enum policy_kind { POLICY_PLAIN, POLICY_OPERATOR, POLICY_KINDS };

/* What a policy is for. */
enum policy_target {
    POLICY_ALL,
    POLICY_EXCHANGES,
    POLICY_QUEUES,
    POLICY_CLASSIC_QUEUES,
    POLICY_QUORUM_QUEUES,
    POLICY_TARGETS, /* their number */
};

/* --- Queues in the directory ------------------------------------------------------------------ */

/* A queue as the catalogue knows it. Everything but the bindings, what policies say, and the
 * statistics is constant from insertion to removal. */
struct queue_record {
    uint32_t magic;
    uint64_t id; /* never reused, also not after a restart */
    struct vhost *vhost;
    struct slice name, arguments; /* owned */
    struct ref queue;             /* where it lives */
    struct ref owner;             /* the connection that has it exclusively; else REF_NONE */
    bool durable, exclusive, auto_delete;
    bool is_internal;             /* not found by name: the store of a delayed exchange */
    struct queue_options options; /* what its arguments say; slices point into arguments */
    /* Which apply, each referenced or NULL; and what holds with them, where not only the queue's
     * own shard wants to know (what that goes by is the queue's `options`). */
    struct policy *policies[POLICY_KINDS];
    enum queue_overflow overflow;
    int64_t consumer_timeout_ms;
    struct list bindings; /* of struct binding, by destination */
    uint64_t mark;        /* the last routing that reached it */
    /* Written by the queue's shard, read by whoever wants to know. */
    _Atomic uint64_t ready, unacknowledged, consumers;
    _Atomic uint64_t ready_bytes, unacknowledged_bytes; /* of bodies */
    _Atomic uint64_t memory;                            /* that messages hold */
};

/* Whether it keeps transient messages over a restart too. */
static inline bool
queue_record_keeps_all(const struct queue_record *record)
{
    return record->durable && record->options.type == QUEUE_QUORUM;
}

/* --- Exchanges -------------------------------------------------------------------------------- */

struct exchange_declaration {
    struct slice name, type;
    bool passive, durable, auto_delete, internal;
    struct slice arguments;
};

/* --- Life of the catalogue -------------------------------------------------------------------- */

enum catalogue_event_type {
    CATALOGUE_VHOST_ADDED,
    CATALOGUE_VHOST_REMOVED,
    CATALOGUE_EXCHANGE_ADDED,
    CATALOGUE_EXCHANGE_REMOVED,
    CATALOGUE_QUEUE_ADDED,
    CATALOGUE_QUEUE_REMOVED,
    CATALOGUE_BINDING_ADDED,
    CATALOGUE_BINDING_REMOVED,
    CATALOGUE_POLICY_SET, /* made, or replaced */
    CATALOGUE_POLICY_REMOVED,
};

/* A change of something durable (a binding is durable when both its ends are; a policy, when it is
 * not the configuration file's). A vhost that is removed takes all that is in it along. Slices are
 * borrowed for the call. */
struct catalogue_event {
    enum catalogue_event_type type;
    struct slice vhost;
    uint64_t queue_id; /* of a queue, or of a delayed exchange's store */
    struct slice name; /* of the exchange, queue or policy; the source of a binding */
    struct slice kind; /* exchange type */
    bool auto_delete, internal;
    struct slice arguments;
    struct slice destination; /* of a binding */
    bool destination_is_exchange;
    struct slice routing_key;
    /* Of a policy, whose definition is in `arguments`. */
    bool is_operator;
    struct slice pattern;
    enum policy_target target;
    int32_t priority;
};

struct catalogue_observer {
    void (*changed)(void *context, const struct catalogue_event *event);
    void *context;
};

/* NULL: out of memory. There is no vhost yet. */
struct catalogue *catalogue_new(void);
void catalogue_free(struct catalogue *catalogue);

/* The most of each; 0: any number. */
struct catalogue_limits {
    uint32_t queues, exchanges, bindings, consumers; /* of a vhost */
};

/* Set before the shards start. What recovery brings is let in whatever the limits: it lifts them.
 */
void catalogue_set_limits(struct catalogue *catalogue, const struct catalogue_limits *limits);
const struct catalogue_limits *catalogue_limits(const struct catalogue *catalogue);

/* Set before the shards start (after recovery has filled the catalogue). */
void catalogue_observe(struct catalogue *catalogue, struct catalogue_observer observer);

void catalogue_lock(struct catalogue *catalogue);
void catalogue_unlock(struct catalogue *catalogue);

/* The number of the present state; what routing answered is valid for one number only. */
uint64_t catalogue_generation(const struct catalogue *catalogue);

/* A new queue id. Recovery tells the highest that was ever used. */
uint64_t catalogue_next_queue_id(struct catalogue *catalogue);
void catalogue_queue_ids_used(struct catalogue *catalogue, uint64_t highest);

/* --- Vhosts (these take the mutex themselves) ------------------------------------------------- */

/* Makes the vhost with its default exchange and amq.* exchanges. -EEXIST, -ENOMEM. */
MUST_CHECK int catalogue_vhost_add(struct catalogue *catalogue, struct slice name);

/* Takes the vhost out with its exchanges and bindings, at once and for the observer as one change.
 * Its queues are of their shards: *queues is an array, to be freed, of those that the caller is to
 * delete. Nothing can be made in the vhost any more; who is connected to it finds out by
 * catalogue_vhost_deletions. -ENOENT, -ENOMEM: nothing has changed. */
MUST_CHECK int catalogue_vhost_remove(struct catalogue *catalogue, struct slice name,
                                      struct ref **queues, size_t *count);

/* References to all vhosts, each to be given back, in an array to be freed, in no order. -ENOMEM.
 */
MUST_CHECK int catalogue_vhost_list(struct catalogue *catalogue, struct vhost ***vhosts,
                                    size_t *count);

/* How many vhosts have ever been removed; and whether this one has been. Any thread; cheap. */
uint64_t catalogue_vhost_deletions(const struct catalogue *catalogue);
bool vhost_is_deleted(const struct vhost *vhost);

/* A reference to the vhost, to be given back with vhost_unref; NULL: no such vhost. */
struct vhost *catalogue_vhost_find(struct catalogue *catalogue, struct slice name);
void vhost_unref(struct vhost *vhost);
struct vhost *vhost_ref(struct vhost *vhost);
struct slice vhost_name(const struct vhost *vhost);

/* Counts one more consumer of the vhost, to be given back; false: there are `limit` of them (0: any
 * number may be). Any thread, without the mutex. */
MUST_CHECK bool vhost_take_consumer(struct vhost *vhost, uint32_t limit);
void vhost_give_consumer_back(struct vhost *vhost);

uint32_t vhost_id(const struct vhost *vhost); /* never reused while the broker runs */

/* --- Exchanges and bindings: with the mutex held ---------------------------------------------- */

/* exchange.declare (passive too). *created tells whether it is new (also when it then fails).
 * 0, or -1 with the error: 403 reserved name or default exchange, 404 passive and missing,
 * 406 inequivalent / unknown type / invalid argument, 320 the vhost has been removed. An
 * x-delayed-message exchange needs a store, which the caller gives it with
 * exchange_set_delay_store. */
MUST_CHECK int exchange_declare(struct catalogue *catalogue, struct vhost *vhost,
                                const struct exchange_declaration *declaration, bool *created,
                                struct amqp_error *error);

/* exchange.delete. A missing exchange is no error. Bindings from and to it go too; auto-delete
 * exchanges that lose their last binding so go with it. */
MUST_CHECK int exchange_delete(struct catalogue *catalogue, struct vhost *vhost, struct slice name,
                               bool if_unused, struct amqp_error *error);

/* Whether exchanges of this type can be declared. Any thread, also without the mutex. */
bool exchange_type_is_known(struct slice type);

/* The exchange, or NULL. */
struct exchange *exchange_find(struct catalogue *catalogue, struct vhost *vhost, struct slice name);

bool exchange_is_internal(const struct exchange *exchange);

struct slice exchange_name(const struct exchange *exchange);
struct slice exchange_type_name(const struct exchange *exchange); /* as it was declared */
bool exchange_is_durable(const struct exchange *exchange);

/* Whether it delays (type x-delayed-message) and has no store yet. */
bool exchange_needs_delay_store(const struct exchange *exchange);

/* From here on a durable exchange is told of to the observer.
 *
 * The store is a queue whose record is in no directory (is_internal). The exchange does not own it:
 * when the exchange goes, catalogue_next_orphan gives it to whoever asks, to delete it. */
void exchange_set_delay_store(struct catalogue *catalogue, struct exchange *exchange,
                              struct queue_record *record);

struct queue_record *exchange_delay_store(const struct exchange *exchange);

/* The store of an exchange that has been deleted; false if there is none. Takes the mutex itself.
 */
bool catalogue_next_orphan(struct catalogue *catalogue, struct ref *queue);

/* A message that was published to the exchange was refused by a queue: if the exchange
 * deduplicates, it is no duplicate when it comes again. What came to it through another exchange
 * stays one. Takes the mutex itself, for messages with an identifier. */
void catalogue_forget_refused(struct catalogue *catalogue, struct vhost *vhost,
                              const struct message *message);

/* Whether any exchange has such arguments: without the mutex. */
bool catalogue_has_dead_letter_exchanges(const struct catalogue *catalogue);

/* x-dead-letter-exchange and -routing-key among the exchange's own arguments; false if none. */
bool exchange_dead_letter(const struct exchange *exchange, struct slice *dead_letter_exchange,
                          struct slice *dead_letter_routing_key, bool *has_routing_key);

struct binding_request {
    struct slice source;
    struct slice destination;
    bool destination_is_exchange;
    struct slice routing_key;
    struct slice arguments;
    struct ref connection; /* who asks: decides about exclusive queues */
};

/* queue.bind, exchange.bind: binding twice is no error. Errors: 403 default exchange, 404 source or
 * destination missing, 405 exclusive to another connection, 406 bad binding argument or key.

 * When the source is a recent-history exchange and the destination a queue that was not yet bound,
 * `history` receives its messages, each with a reference, to be published to history->queue and
 * given back; the caller frees the array. Else its count is 0. */
struct binding_history {
    struct message **messages;
    size_t count;
    struct ref queue;
    uint64_t queue_id; /* 0 if the queue is not durable */
    bool keeps_all;    /* as in struct route_target */
};
MUST_CHECK int catalogue_bind(struct catalogue *catalogue, struct vhost *vhost,
                              const struct binding_request *request,
                              struct binding_history *history, struct amqp_error *error);

/* queue.unbind, exchange.unbind: unbinding what is not bound is no error, a missing exchange or
 * queue neither. */
MUST_CHECK int catalogue_unbind(struct catalogue *catalogue, struct vhost *vhost,
                                const struct binding_request *request, struct amqp_error *error);

/* --- Queues: with the mutex held -------------------------------------------------------------- */

struct queue_record *queue_record_find(struct catalogue *catalogue, struct vhost *vhost,
                                       struct slice name);

/* May the vhost have one more queue? -1 with the error (406). */
MUST_CHECK int queue_check_limit(struct catalogue *catalogue, struct vhost *vhost,
                                 struct slice name, struct amqp_error *error);

/* The record for a queue.declare that found none: copies name and arguments, parses nothing
 * (options come parsed). NULL: out of memory. The id is fresh unless one is given (recovery). */
struct queue_record *queue_record_new(struct catalogue *catalogue, struct vhost *vhost,
                                      const struct queue_declaration *declaration,
                                      const struct queue_options *options, uint64_t id);

/* Puts it in the directory and binds it to the default exchange (which is how "" routes: by name,
 * without a binding of its own). -ENOMEM; -ENOENT: the vhost has been removed. From here on
 * publishers reach record->queue. */
MUST_CHECK int queue_record_insert(struct catalogue *catalogue, struct queue_record *record);

/* Takes it out with its bindings (auto-delete exchanges that lose their last binding go too) and
 * frees it. */
void queue_record_remove(struct catalogue *catalogue, struct queue_record *record);

/* Frees a record that was never inserted. */
void queue_record_free(struct queue_record *record);

/* --- Routing (takes the mutex itself) --------------------------------------------------------- */

enum route_status { ROUTE_OK, ROUTE_NO_EXCHANGE, ROUTE_INTERNAL_EXCHANGE };

struct route_target {
    struct ref queue;
    uint64_t queue_id; /* 0: the queue is not durable */
    uint32_t delay_ms; /* > 0: the store of a delayed exchange, which is to keep it that long */
    bool may_reject;   /* the queue can refuse a message (overflow reject-publish) */
    bool keeps_all;    /* the queue keeps transient messages too: a quorum queue does */
};

struct route_request {
    struct slice exchange;
    struct slice routing_key;
    const struct slice *more_keys; /* from CC and BCC */
    size_t more_key_count;
    const struct amqp_properties *properties; /* with headers; NULL: none */
    struct message *message; /* kept by exchanges with history; NULL: nothing is kept */
    bool is_internal;        /* by the broker itself: internal exchanges accept it */
    bool skips_delay;        /* the delay of the named exchange is over */
};

/* Where a message goes: every queue once, sorted by shard. */
struct route {
    enum route_status status;
    uint64_t generation;
    bool depends_on_message; /* not only on exchange and routing key: must not be cached */
    bool is_duplicate;       /* a deduplicating exchange has seen it: goes nowhere, and is routed */
    uint32_t may_reject_count; /* targets that may refuse */
    uint32_t count, capacity;
    struct route_target *targets;
    uint32_t durable_count;
    uint64_t *durable_ids;    /* of the targets that are durable; first those that keep all */
    uint32_t keeps_all_count; /* so many */
};

void route_init(struct route *route);
void route_fini(struct route *route);

/* Follows exchange-to-exchange bindings (each exchange once) and alternate exchanges. A stateful
 * exchange type (recent history, deduplication, random) does its work here. 0 or -ENOMEM. */
MUST_CHECK int catalogue_route(struct catalogue *catalogue, struct vhost *vhost,
                               const struct route_request *request, int64_t now_ms,
                               struct route *route);

#endif
