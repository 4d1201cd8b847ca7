/* The definitions: what exists and is durable. Vhosts, policies, users and their permissions,
 * exchanges, queues, bindings, kept in one SQLite database, `definitions.sqlite` in the data
 * directory.
 *
 * Changes are handed over in order, copied, and written by a thread of their own: all that gathered
 * while one transaction was being committed go into the next, so many declarations share a sync.
 * Whoever must not answer before a change is on disk compares its sequence number with
 * definitions_durable().
 *
 * This module knows no broker: names and tables are bytes to it. Errors are negative errno values
 * with a text for people. */
#ifndef STORE_DEFINITIONS_H
#define STORE_DEFINITIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"

enum { DEFINITIONS_TEXT_SIZE = 512 };

struct definitions;

enum definition_kind {
    DEFINITION_VHOST,
    DEFINITION_POLICY,
    DEFINITION_EXCHANGE,
    DEFINITION_QUEUE,
    DEFINITION_BINDING,
    DEFINITION_USER,
    DEFINITION_PERMISSION,
    DEFINITION_TOPIC_PERMISSION, /* its exchange is the name */
    DEFINITION_KINDS,            /* their number */
};

struct definition {
    enum definition_kind kind;
    struct slice vhost;
    struct slice name; /* of the exchange, queue or policy; of a binding's source exchange */
    uint64_t queue_id; /* of a queue; of the store of a delayed exchange, else 0 */
    struct slice type; /* of an exchange; of a policy: what it is for ("queues") */
    bool auto_delete, internal;
    struct slice arguments;   /* a field table's content: bytes here; part of a binding's identity;
                               * what a policy says */
    struct slice destination; /* of a binding */
    bool destination_is_exchange;
    struct slice routing_key;
    struct slice user; /* of a user, and of a permission */
    struct slice password_hash, tags;
    struct slice configure, write, read; /* expressions of a permission */
    struct slice pattern;                /* of a policy */
    int32_t priority;                    /* of a policy */
    bool is_operator; /* an operator policy: the two kinds have names of their own */
};

/* Opens the database in the directory (which exists), making it, or bringing an older schema up to
 * date. Refuses a newer schema, a damaged file and a file that another process has open, in a text
 * that names the file. */
MUST_CHECK int definitions_open(struct definitions **definitions, const char *directory,
                                char error[DEFINITIONS_TEXT_SIZE]);

/* Calls visit for every definition: vhosts, then policies, exchanges, queues, bindings, users,
 * permissions and topic permissions, each kind in the order in which they were made. The slices are
 * lent for the call. Anything but 0 from visit ends it and is returned. Before definitions_start.
 */
MUST_CHECK int definitions_load(struct definitions *definitions,
                                int (*visit)(void *context, const struct definition *definition),
                                void *context, char error[DEFINITIONS_TEXT_SIZE]);

/* The highest queue id that was ever given, also to queues that are gone. */
uint64_t definitions_highest_queue_id(const struct definitions *definitions);

/* The identity of the log with the messages of these queues; 0: there was none yet. */
uint64_t definitions_log_identity(const struct definitions *definitions);

/* Whether there has ever been a user: else this is the first start with users. */
bool definitions_has_had_users(const struct definitions *definitions);

/* Whether the broker that wrote last ended in order (definitions_close with is_clean). */
bool definitions_was_clean(const struct definitions *definitions);

/* Messages with ids up to this one may have been delivered by a broker that died before it could
 * note it; this outlives any number of orderly restarts. definitions_see_message, before
 * definitions_start, makes it a higher one, if the broker that wrote last did not end in order. */
uint64_t definitions_seen_message(const struct definitions *definitions);
void definitions_see_message(struct definitions *definitions, uint64_t message_id);

/* Whether no broker has started with this database yet: then no log can have messages for it. */
bool definitions_are_new(const struct definitions *definitions);

/* Starts the thread, and notes that the broker is running (so it was not clean if it dies), with
 * the message log of this id. durable(context) is called on that thread after each commit and when
 * committing has failed: it should only wake somebody. */
MUST_CHECK int definitions_start(struct definitions *definitions, uint64_t log_id,
                                 void (*durable)(void *context), void *context,
                                 char error[DEFINITIONS_TEXT_SIZE]);

/* Something was added, or removed (what identifies it is enough). Removing an exchange or queue
 * does not remove its bindings, and removing a user not his permissions: that is said separately.
 * Removing a vhost removes all that is in it. Adding a policy, a user or a permission that is there
 * changes it; adding anything else that is there and removing what is not are no errors. Any
 * thread; the caller sees to the order. Returns the change's sequence number, 0 when memory ran
 * out: the database has failed then. */
uint64_t definitions_add(struct definitions *definitions, const struct definition *definition);
uint64_t definitions_remove(struct definitions *definitions, const struct definition *definition);

/* The number of the last change that was handed over, and of the last that is on disk with all
 * before it. Any thread; cheap. */
uint64_t definitions_submitted(const struct definitions *definitions);
uint64_t definitions_durable(const struct definitions *definitions);

/* Whether a commit has failed: nothing becomes durable any more. A full disk is no failure: changes
 * wait until there is room, or the broker ends. `text` may be NULL. */
bool definitions_failed(struct definitions *definitions, char text[DEFINITIONS_TEXT_SIZE]);

/* Commits what was handed over, ends the thread, and closes. is_clean: the broker ended in order.
 */
void definitions_close(struct definitions *definitions, bool is_clean);

#endif
