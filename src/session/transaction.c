/* tx: publishes and settlements that take effect together at tx.commit, or not at all.
 *
 * A commit sends everything on its way, then awaits the answers of the queues: whether they took
 * the messages that they may refuse, and that they have dealt with the settlements. Queues of other
 * shards have handed what they wrote to the log before they answered, so then one ticket of the log
 * covers all of the transaction, and commit-ok comes when that is on disk. */
#include <errno.h>
#include <stdlib.h>

#include "session/channel.h"
#include "store/log.h"

/* Operations of one transaction; more is a client that forgot to commit. */
enum { TRANSACTION_MAX = 1 << 22 };

struct published {
    struct message *message;
    bool mandatory;
};

struct settled {
    uint64_t delivery_tag;
    enum settle_outcome outcome;
};

struct transaction {
    struct published *published;
    struct settled *settled;
    uint32_t published_count, published_capacity;
    uint32_t settled_count, settled_capacity;
    uint32_t answers; /* awaited by the commit */
    bool is_committing, is_refused;
    bool has_written, others_have_written; /* this shard, or others, to the log */
};

/* Room for one more item of `size` bytes; NULL: out of memory, the array is as before. */
static void *
make_room(void *items, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity)
        return items;
    uint32_t larger = *capacity == 0 ? 16 : 2 * *capacity;
    void *grown = realloc(items, larger * size);
    if (grown != NULL)
        *capacity = larger;
    return grown;
}

static int
too_large(struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_RESOURCE_ERROR,
                         "a transaction of more than %d operations, or out of memory",
                         (int)TRANSACTION_MAX);
}

int
transaction_publish(struct channel *channel, struct message *message, bool mandatory,
                    struct amqp_error *error)
{
    struct transaction *transaction = channel->transaction;
    if (publish_check_exchange(channel, message, error) != 0) {
        message_unref(message);
        return -1;
    }
    struct published *published = NULL;
    if (transaction->published_count < TRANSACTION_MAX)
        published = make_room(transaction->published, transaction->published_count,
                              &transaction->published_capacity, sizeof(*published));
    if (published == NULL) {
        message_unref(message);
        return too_large(error);
    }
    transaction->published = published;
    published[transaction->published_count++] = (struct published){message, mandatory};
    return 0;
}

static int
note_settled(struct transaction *transaction, uint64_t delivery_tag, enum settle_outcome outcome,
             struct amqp_error *error)
{
    struct settled *settled = NULL;
    if (transaction->settled_count < TRANSACTION_MAX)
        settled = make_room(transaction->settled, transaction->settled_count,
                            &transaction->settled_capacity, sizeof(*settled));
    if (settled == NULL)
        return too_large(error);
    transaction->settled = settled;
    settled[transaction->settled_count++] = (struct settled){delivery_tag, outcome};
    return 0;
}

int
transaction_settle(struct channel *channel, uint64_t delivery_tag, bool multiple,
                   enum settle_outcome outcome, struct amqp_error *error)
{
    struct unacked *unacked = &channel->unacked;
    struct unacked_entry *entry;
    uint64_t tag = multiple ? 0 : delivery_tag;
    for (; (entry = unacked_from(unacked, &tag)) != NULL && tag <= delivery_tag; tag++) {
        if (entry->state != UNACKED_OUTSTANDING)
            continue;
        if (note_settled(channel->transaction, tag, outcome, error) != 0)
            return -1;
        entry->state = UNACKED_IN_TRANSACTION;
    }
    return 0;
}

/* Forgets what was gathered; messages that are still there are dropped. */
static void
clear(struct transaction *transaction)
{
    for (uint32_t i = 0; i < transaction->published_count; i++)
        if (transaction->published[i].message != NULL)
            message_unref(transaction->published[i].message);
    free(transaction->published);
    free(transaction->settled);
    *transaction = (struct transaction){0};
}

void
transaction_free(struct channel *channel)
{
    if (channel->transaction == NULL)
        return;
    clear(channel->transaction);
    free(channel->transaction);
    channel->transaction = NULL;
}

int
tx_select_method(struct channel *channel, const union amqp_method *method, struct amqp_error *error)
{
    (void)method;
    if (channel->mode == CHANNEL_CONFIRMS)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "cannot switch from confirm to tx mode");
    if (channel->transaction == NULL)
        channel->transaction = calloc(1, sizeof(*channel->transaction));
    if (channel->transaction == NULL)
        return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    channel->mode = CHANNEL_TRANSACTIONAL;
    CONNECTION_SEND(channel->connection, channel->number, tx_select_ok, 16, {.no_fields = 0});
    return 0;
}

/* --- Commit ----------------------------------------------------------------------------------- */

static void
complete(struct channel *channel)
{
    struct amqp_error error = {0};
    bool is_refused = channel->transaction->is_refused;
    clear(channel->transaction);
    if (is_refused) {
        channel->pending.method_id = AMQP_tx_commit;
        (void)channel_error(&error, AMQP_REPLY_PRECONDITION_FAILED, "partial tx completion");
        channel_fail_pending(channel, &error);
        return;
    }
    CONNECTION_SEND(channel->connection, channel->number, tx_commit_ok, 16, {.no_fields = 0});
    channel_answered(channel);
}

/* Everything is done, and what had to be written is with the log. */
static void
await_disk(struct channel *channel)
{
    struct session_host *host = channel->connection->host;
    if (channel->transaction->others_have_written && log_fence(host->log_writer) != 0) {
        connection_break(channel->connection, "out of memory");
        return;
    }
    list_push_back(&host->written, &channel->written_link);
}

static void
answered(struct channel *channel)
{
    struct transaction *transaction = channel->transaction;
    if (--transaction->answers > 0)
        return;
    if (transaction->has_written || transaction->others_have_written)
        await_disk(channel);
    else
        complete(channel);
}

void
transaction_expects(struct channel *channel, uint32_t answers)
{
    channel->transaction->answers += answers;
}

void
transaction_writes(struct channel *channel)
{
    channel->transaction->has_written = true;
}

bool
transaction_is_committing(const struct channel *channel)
{
    return channel->transaction != NULL && channel->transaction->is_committing;
}

void
transaction_confirmed(struct channel *channel, const struct mail *mail)
{
    struct transaction *transaction = channel->transaction;
    if (!transaction_is_committing(channel))
        return;
    transaction->is_refused |= mail->flag == 0;
    if (mail->result != 0 && mail->from.shard == channel->ref.shard)
        transaction->has_written = true;
    else if (mail->result != 0)
        transaction->others_have_written = true;
    answered(channel);
}

void
transaction_lost(struct channel *channel)
{
    if (transaction_is_committing(channel))
        channel->transaction->is_refused = true;
}

void
transaction_durable(struct channel *channel)
{
    if (transaction_is_committing(channel))
        complete(channel);
}

static int
not_transactional(struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED, "channel is not transactional");
}

int
tx_commit_method(struct channel *channel, const union amqp_method *method, struct amqp_error *error)
{
    (void)method;
    struct transaction *transaction = channel->transaction;
    if (transaction == NULL)
        return not_transactional(error);
    channel->connection->is_waiting = true;
    transaction->is_committing = true;
    transaction->answers = 1; /* ours, given when everything is on its way */
    for (uint32_t i = 0; i < transaction->published_count; i++) {
        struct message *message = transaction->published[i].message;
        struct amqp_properties properties;
        struct amqp_error gone = {0}; /* an exchange deleted meanwhile: the message goes nowhere */
        transaction->published[i].message = NULL;
        (void)amqp_properties_decode(message_properties(message), &properties);
        if (publish_message(channel, message, &properties, transaction->published[i].mandatory,
                            &gone)
                != 0
            && gone.code == AMQP_REPLY_RESOURCE_ERROR)
            connection_break(channel->connection, "out of memory");
    }
    for (uint32_t i = 0; i < transaction->settled_count; i++) {
        struct unacked_entry *entry =
            unacked_at(&channel->unacked, transaction->settled[i].delivery_tag);
        channel_settle(channel, entry, transaction->settled[i].outcome);
    }
    unacked_trim(&channel->unacked);
    channel_grant(channel);
    connection_dirty(channel->connection); /* it may have been full */
    answered(channel);
    return 0;
}

int
tx_rollback_method(struct channel *channel, const union amqp_method *method,
                   struct amqp_error *error)
{
    (void)method;
    struct transaction *transaction = channel->transaction;
    if (transaction == NULL)
        return not_transactional(error);
    for (uint32_t i = 0; i < transaction->settled_count; i++)
        unacked_at(&channel->unacked, transaction->settled[i].delivery_tag)->state =
            UNACKED_OUTSTANDING;
    clear(transaction);
    CONNECTION_SEND(channel->connection, channel->number, tx_rollback_ok, 16, {.no_fields = 0});
    return 0;
}
