/* Policies: what an operator says about many queues or exchanges at once, by a pattern of their
 * names, and may change while they are in use.
 *
 * A vhost has two sets of them, the policies and the *operator policies*. Of each set, the one of
 * the highest priority that is for the queue or exchange applies to it (of several, the one whose
 * name comes first), and no other. What holds for a queue comes of its arguments and of both:
 *
 *   numbers     the smallest of those that are given
 *   the rest    the argument, else the operator policy's, else the policy's
 *
 * A row of the table in policy_definition.c says it for each key. A change takes effect at once:
 * routes are told by the catalogue's generation, and each queue for which another policy applies
 * now by mail (MAIL_POLICY), since its shard reads what holds without the mutex. A message that is
 * in the queue already expires as if the present message-ttl had held when it came, as it would
 * after a restart (RabbitMQ leaves it as it was).
 *
 * Policies are guarded by the catalogue's mutex, which these functions take themselves, but where
 * it says otherwise. Setting and clearing may be done by any thread, and with hundreds of thousands
 * of queues take some hundred milliseconds; the mutex is held for a small part of a millisecond at
 * a time. */
#ifndef BROKER_POLICY_H
#define BROKER_POLICY_H

#include "amqp/table.h"
#include "broker/catalogue.h"

struct shard;

enum { POLICY_ERROR_MAX = 512 };

/* "all", "exchanges", "queues", "classic_queues", "quorum_queues". */
const char *policy_target_name(enum policy_target target);
bool policy_target_find(struct slice name, enum policy_target *target);

struct policy_declaration {
    bool is_operator;
    bool is_from_file; /* the configuration's: not told to the observer, so in memory only */
    struct slice name, pattern;
    enum policy_target target;
    int32_t priority;
    struct slice definition; /* content of a validated table: {"max-length": 10, ...} */
};

/* The queues to be told, from a shard's thread. */
struct policy_change {
    struct ref *queues; /* to be freed */
    size_t count;
};

/* Whether policy_set would take the declaration, wherever it is for: 0, -EINVAL with the text that
 * it would give, or -ENOMEM. Any thread. */
MUST_CHECK int policy_check(const struct policy_declaration *declaration,
                            char error[POLICY_ERROR_MAX]);

/* Makes the policy, or replaces the one of that name in its set, if that is not the same. 0; else
 * nothing has changed: -EINVAL with a text that says what is wrong with it (RabbitMQ's without the
 * "Validation failed" before it, where its has no Erlang terms); -EPERM with a text: a policy of
 * the configuration file has that name; -ENOENT: the vhost has been removed; -ENOMEM. One of the
 * file replaces any other, of which the observer is then told that it has gone. */
MUST_CHECK int policy_set(struct catalogue *catalogue, struct vhost *vhost,
                          const struct policy_declaration *declaration,
                          struct policy_change *change, char error[POLICY_ERROR_MAX]);

/* Takes it away. -ENOENT: there is none; -EPERM with a text: it is the configuration file's (or,
 * with from_file, it is not); -ENOMEM. */
MUST_CHECK int policy_clear(struct catalogue *catalogue, struct vhost *vhost, bool is_operator,
                            struct slice name, bool from_file, struct policy_change *change,
                            char error[POLICY_ERROR_MAX]);

/* Has some of the change's queues look at what holds for them now, few enough for a turn, and takes
 * them off it. True: there are more; else its array is freed. On the shard's own thread, without
 * the mutex. */
bool policy_tell_some(struct shard *shard, struct policy_change *change);

/* The same for all of them: the rest in the turns that follow. Who changes policies again and again
 * had better wait, by policy_tell_some: what is left is kept here as long as it takes. */
void policy_tell(struct shard *shard, struct policy_change *change);

/* Has all queues hear of what policy_tell left for later, before anything else happens in them:
 * those of other shards before the first turn of theirs. At the start, before the shards run. */
void policy_tell_rest(struct shard *shard);

/* Calls visit for every policy of the set, by name; slices are lent for the call, which is made
 * under the mutex. */
void policy_list(struct catalogue *catalogue, struct vhost *vhost, bool is_operator,
                 void (*visit)(void *context, const struct policy_declaration *policy),
                 void *context);

/* With the mutex held: the names of the policies that apply (size 0: none), valid as long as it is
 * held. */
struct slice queue_record_policy(const struct queue_record *record, bool of_operator);
struct slice exchange_policy(const struct exchange *exchange, bool of_operator);

/* With the mutex held: puts the keys that these policies give into the table under construction,
 * with the values that hold (RabbitMQ's effective_policy_definition); the arguments play no part.
 */
void queue_record_put_policy(const struct queue_record *record, struct amqp_table_builder *builder);
void exchange_put_policy(const struct exchange *exchange, struct amqp_table_builder *builder);

#endif
