/* basic.ack, nack, reject, recover: what the client says about its deliveries. */
#include "session/channel.h"

/* Tags of one queue and subscription that follow each other are settled by one piece of mail. */
struct run {
    struct mail mail;
    struct shard *shard;
};

static void
run_end(struct run *run)
{
    if (run->mail.settle.count > 0)
        shard_send(run->shard, &run->mail);
    run->mail.settle.count = 0;
}

static void
run_add(struct run *run, const struct unacked_entry *entry)
{
    struct mail *mail = &run->mail;
    if (mail->settle.count > 0 && ref_equal(mail->to, entry->queue)
        && ref_equal(mail->settle.subscription, entry->subscription)
        && mail->settle.tag + mail->settle.count == entry->tag) {
        mail->settle.count++;
        return;
    }
    run_end(run);
    mail->to = entry->queue;
    mail->settle.tag = entry->tag;
    mail->settle.count = 1;
    mail->settle.subscription = entry->subscription;
}

void
channel_settle(struct channel *channel, struct unacked_entry *entry, enum settle_outcome outcome)
{
    struct run run = {
        .mail = {.type = MAIL_SETTLE, .result = (uint8_t)outcome},
        .shard = channel->connection->host->shard,
    };
    if (transaction_is_committing(channel)) {
        transaction_expects(channel, 1);
        run.mail.flag = true;
        run.mail.from = channel->ref;
    }
    run_add(&run, entry);
    if (entry->consumer == GET_CONSUMER && channel->got > 0)
        channel->got--;
    unacked_remove(&channel->unacked, entry);
    run_end(&run);
}

/* Settles all that is outstanding up to and with this tag. What is given back may be delivered anew
 * before this is over: the entries may move then, and those that come are not meant. */
static void
settle_up_to(struct channel *channel, uint64_t last, enum settle_outcome outcome)
{
    struct unacked *unacked = &channel->unacked;
    if (last >= unacked->next)
        last = unacked->next - 1;
    struct run run = {
        .mail = {.type = MAIL_SETTLE, .result = (uint8_t)outcome},
        .shard = channel->connection->host->shard,
    };
    struct unacked_entry *entry;
    for (uint64_t tag = 0; (entry = unacked_from(unacked, &tag)) != NULL && tag <= last; tag++) {
        if (entry->state != UNACKED_OUTSTANDING)
            continue;
        const struct unacked_entry settled = *entry;
        unacked_remove(unacked, entry);
        if (settled.consumer == GET_CONSUMER && channel->got > 0)
            channel->got--;
        run_add(&run, &settled);
    }
    run_end(&run);
}

static int
unknown_tag(uint64_t delivery_tag, struct amqp_error *error)
{
    return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED, "unknown delivery tag %llu",
                         (unsigned long long)delivery_tag);
}

static int
settle(struct channel *channel, uint64_t delivery_tag, bool multiple, enum settle_outcome outcome,
       struct amqp_error *error)
{
    struct unacked *unacked = &channel->unacked;
    bool is_all = delivery_tag == 0 && multiple;
    struct unacked_entry *entry = is_all ? NULL : unacked_find(unacked, delivery_tag);
    if (entry == NULL && !is_all)
        return unknown_tag(delivery_tag, error);
    if (channel->mode == CHANNEL_TRANSACTIONAL)
        return transaction_settle(channel, is_all ? UINT64_MAX : delivery_tag, multiple, outcome,
                                  error);
    if (multiple)
        settle_up_to(channel, is_all ? UINT64_MAX : delivery_tag, outcome);
    else
        channel_settle(channel, entry, outcome);
    unacked_trim(unacked);
    channel_grant(channel);
    if (!list_is_empty(&channel->connection->owing))
        connection_dirty(channel->connection); /* it may have been full */
    return 0;
}

int
basic_ack_method(struct channel *channel, const union amqp_method *method, struct amqp_error *error)
{
    const struct amqp_basic_ack *ack = &method->basic_ack;
    return settle(channel, ack->delivery_tag, ack->multiple, SETTLE_ACKNOWLEDGED, error);
}

int
basic_nack_method(struct channel *channel, const union amqp_method *method,
                  struct amqp_error *error)
{
    const struct amqp_basic_nack *nack = &method->basic_nack;
    return settle(channel, nack->delivery_tag, nack->multiple,
                  nack->requeue ? SETTLE_REQUEUED : SETTLE_REJECTED, error);
}

int
basic_reject_method(struct channel *channel, const union amqp_method *method,
                    struct amqp_error *error)
{
    const struct amqp_basic_reject *reject = &method->basic_reject;
    return settle(channel, reject->delivery_tag, false,
                  reject->requeue ? SETTLE_REQUEUED : SETTLE_REJECTED, error);
}

int
basic_recover_async_method(struct channel *channel, const union amqp_method *method,
                           struct amqp_error *error)
{
    if (!method->basic_recover_async.requeue)
        return channel_error(error, AMQP_REPLY_NOT_IMPLEMENTED, "requeue=false");
    settle_up_to(channel, UINT64_MAX, SETTLE_REQUEUED);
    unacked_trim(&channel->unacked);
    channel_grant(channel);
    return 0;
}

int
basic_recover_method(struct channel *channel, const union amqp_method *method,
                     struct amqp_error *error)
{
    union amqp_method same = {.basic_recover_async.requeue = method->basic_recover.requeue};
    if (basic_recover_async_method(channel, &same, error) != 0)
        return -1;
    CONNECTION_SEND(channel->connection, channel->number, basic_recover_ok, 16, {.no_fields = 0});
    return 0;
}
