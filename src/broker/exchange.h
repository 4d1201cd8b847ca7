/* Exchanges and bindings inside the catalogue: what the exchange types and the routing share.
 * Nothing here is for anybody outside the catalogue; everything is guarded by its mutex. */
#ifndef BROKER_EXCHANGE_H
#define BROKER_EXCHANGE_H

#include "base/random.h"
#include "broker/catalogue.h"
#include "broker/deduplication.h"
#include "broker/header_index.h"
#include "broker/policy_internal.h"

struct binding;
struct topic_node;

struct catalogue {
    pthread_mutex_t mutex;
    pthread_mutex_t policy_mutex; /* of who changes policies; taken before the other */
    _Atomic uint64_t generation;
    struct map vhosts;
    struct map reply_addresses; /* reply_to.c */
    uint32_t next_vhost_id;
    _Atomic uint64_t next_queue_id;
    uint64_t mark;              /* number of the routing that is under way */
    struct exchange **worklist; /* exchanges that the routing has still to visit */
    size_t worklist_count, worklist_capacity;
    struct topic_node **states[2]; /* nodes of a trie that the words so far lead to; and the next */
    size_t state_capacity[2];
    uint64_t state_mark;
    struct header_index headers; /* of the message that a headers exchange looks at */
    struct random random;
    struct catalogue_observer observer;
    struct catalogue_limits limits;
    struct ref *orphans; /* stores of delayed exchanges that are no more */
    size_t orphan_capacity;
    _Atomic size_t orphan_count;
    _Atomic uint64_t vhost_deletions;
    _Atomic size_t dead_letter_exchanges; /* exchanges with a dead-letter route for their queues */
};

struct vhost {
    uint32_t id;
    _Atomic uint32_t references;
    atomic_bool is_deleted; /* it is in no catalogue any more, and what is in it is no change */
    struct slice name;
    struct map exchanges;
    struct map queues; /* of struct queue_record, by name */
    struct policy_list policies[POLICY_KINDS];
    uint32_t bindings;
    _Atomic uint32_t consumers;
};

/* Where a match goes: collects targets, each once. */
struct router {
    struct catalogue *catalogue;
    const struct route_request *request;
    struct route *route;
    struct slice routing_key; /* the one of the keys that is looked at */
    int64_t now_ms;
    bool is_out_of_memory;
    bool has_matched; /* the exchange that is looked at */
};

/* A match: the binding's queue is a target, the binding's exchange is visited. */
void router_add(struct router *router, struct binding *binding);

/* A queue is a target, held back by delay_ms if that is not 0. */
void router_add_queue(struct router *router, struct queue_record *record, uint32_t delay_ms);

/* How an exchange chooses among its bindings. Where a type needs nothing an operation is NULL. */
struct exchange_type {
    const char *name;
    /* Reads the exchange's arguments; -1 with the error. */
    int (*declare)(struct exchange *exchange, struct amqp_error *error);
    void (*free)(struct exchange *exchange);
    /* Whether the type takes such a binding; -1 with the error. May fill binding->match. */
    int (*check)(struct exchange *exchange, struct binding *binding, struct amqp_error *error);
    /* The binding is in exchange->bindings; indexes it. -ENOMEM. */
    int (*add)(struct exchange *exchange, struct binding *binding);
    void (*remove)(struct exchange *exchange, struct binding *binding);
    void (*route)(struct exchange *exchange, struct router *router);
    bool looks_at_message; /* routes by more than the key */
    bool matches_all_keys; /* routes once for all keys of a message */
};

struct exchange {
    struct slice name, arguments; /* owned */
    struct vhost *vhost;
    const struct exchange_type *type; /* what routes */
    struct slice type_name;           /* what was declared */
    bool durable, auto_delete, internal, is_system;
    bool is_deduplicating, is_delayed;
    bool is_doomed; /* will be deleted with another one */
    struct exchange *doomed_next;
    bool gives_dead_letter_route;
    struct policy *policies[POLICY_KINDS]; /* which apply, each referenced or NULL */
    bool has_alternate;
    struct slice alternate;   /* points into arguments, or into a policy's definition */
    struct list bindings;     /* from here, oldest first */
    struct list incoming;     /* exchange-to-exchange bindings to here */
    struct map binding_index; /* by identity */
    size_t binding_count;
    uint64_t mark;
    /* What the types keep. */
    struct map keys;             /* direct: struct key_group by routing key */
    struct topic_node *topic;    /* topic: root of the trie */
    struct spread_by *spread_by; /* consistent hash */
    struct history *history;     /* recent history */
    struct deduplication *deduplication;
    struct queue_record *delay_store; /* delayed: where messages wait */
};

/* How a headers binding matches. */
enum headers_match { MATCH_ALL, MATCH_ANY };

struct binding {
    struct list source_link;      /* in source->bindings */
    struct list destination_link; /* in the queue's bindings, or in the exchange's incoming */
    struct list match_link;       /* among the bindings that match alike */
    struct exchange *source;
    struct queue_record *queue;          /* the destination: this */
    struct exchange *exchange;           /* or that */
    struct slice identity;               /* owned: destination, key and arguments as one string */
    struct slice routing_key, arguments; /* in there */
    void *match_group;                   /* direct: struct key_group; topic: struct topic_node */
    enum headers_match match;
    bool matches_x_headers;
    uint32_t weight; /* consistent hash: its part of the messages, */
    uint64_t lot;    /* and the hash of its destination */
};

/* NULL: there is no such type. */
const struct exchange_type *exchange_type_find(struct slice name);

extern const struct exchange_type exchange_type_direct, exchange_type_fanout, exchange_type_topic,
    exchange_type_headers, exchange_type_consistent_hash, exchange_type_modulus_hash,
    exchange_type_random, exchange_type_recent_history;

/* The exchange without a name: by queue name. */
void route_default(struct vhost *vhost, struct router *router);

struct exchange *vhost_exchange(struct vhost *vhost, struct slice name);
struct queue_record *vhost_queue(struct vhost *vhost, struct slice name);

/* Makes an exchange whose type and arguments are already found good, and puts it into the vhost.
 * NULL with the error. */
struct exchange *exchange_new(struct vhost *vhost, const struct exchange_declaration *declaration,
                              bool is_system, struct amqp_error *error);

/* Takes the exchange, which has no bindings any more, out and frees it. */
void exchange_free(struct exchange *exchange);

/* Takes a binding away and frees it; its source stays. */
void binding_free(struct catalogue *catalogue, struct binding *binding);

/* Deletes the exchange with its bindings, and what lost its last binding by that. */
void exchange_remove(struct catalogue *catalogue, struct exchange *exchange);

/* Frees a binding; an auto-delete source that has no other goes too. */
void binding_remove(struct catalogue *catalogue, struct binding *binding);

void catalogue_changed(struct catalogue *catalogue);
void catalogue_tell(struct catalogue *catalogue, const struct catalogue_event *event);

/* Events. */
struct catalogue_event exchange_event(const struct exchange *exchange,
                                      enum catalogue_event_type type);
struct catalogue_event binding_event(const struct binding *binding, enum catalogue_event_type type);
struct catalogue_event queue_event(const struct queue_record *record,
                                   enum catalogue_event_type type);
bool binding_is_durable(const struct binding *binding);

/* Recent history: what a new queue gets. */
void history_take(struct exchange *exchange, struct binding_history *history);

/* A copy of the bytes; data is NULL when memory ran out. */
struct slice slice_copy(struct slice from);

#endif
