/* Direct reply-to: a client consumes from the pseudo queue, its requests carry a name made for its
 * channel, and replies to that name go straight to the channel. */
#include <stdlib.h>
#include <string.h>

#include "broker/reply_to.h"

#include "session/channel.h"

bool
is_reply_to_name(struct slice name)
{
    return slice_is(name, REPLY_TO_NAME) || slice_starts_with(name, SLICE(REPLY_TO_NAME "."));
}

bool
reply_to_exists(struct channel *channel, struct slice name)
{
    struct reply_address address;
    return slice_is(name, REPLY_TO_NAME)
           || reply_to_find(channel->connection->host->shard->broker->catalogue, name, &address);
}

int
reply_to_consume(struct channel *channel, const struct amqp_basic_consume *method,
                 struct amqp_error *error)
{
    struct connection *connection = channel->connection;
    struct catalogue *catalogue = connection->host->shard->broker->catalogue;
    struct slice tag = method->consumer_tag;
    char made_tag[64], made_name[64];
    if (!method->no_ack)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED,
                             "reply consumer cannot acknowledge");
    if (channel->reply_to != NULL)
        return channel_error(error, AMQP_REPLY_PRECONDITION_FAILED, "reply consumer already set");
    if (consumer_take_place(channel, method->queue, error) != 0)
        return -1;
    if (tag.size == 0)
        tag = channel_make_name(channel, "amq.ctag-", made_tag);
    struct slice name = channel_make_name(channel, REPLY_TO_NAME ".", made_name);
    struct consumer *consumer = consumer_new(channel, tag);
    channel->reply_to = strndup(name.data, name.size);
    if (consumer == NULL || channel->reply_to == NULL
        || reply_to_add(
               catalogue, name,
               (struct reply_address){.channel = channel->ref, .consumer = consumer->number})
               != 0) {
        connection_break(connection, "out of memory");
        return 0;
    }
    consumer->no_ack = consumer->is_reply_to = true;
    if (!method->no_wait)
        CONNECTION_SEND(connection, channel->number, basic_consume_ok, 512, {.consumer_tag = tag});
    return 0;
}

void
reply_to_end(struct channel *channel)
{
    if (channel->reply_to == NULL)
        return;
    reply_to_remove(channel->connection->host->shard->broker->catalogue,
                    slice_from(channel->reply_to));
    free(channel->reply_to);
    channel->reply_to = NULL;
}

bool
reply_to_publish(struct channel *channel, struct slice name, struct message *message)
{
    struct shard *shard = channel->connection->host->shard;
    struct reply_address address;
    if (!reply_to_find(shard->broker->catalogue, name, &address))
        return false;
    struct mail mail = {
        .type = MAIL_DELIVER,
        .to = address.channel,
        .deliver = {.message = message, .consumer = address.consumer, .no_ack = true},
    };
    shard_send(shard, &mail);
    if (address.channel.shard == shard->index)
        message_unref(message); /* it was lent for the call; to another shard it is given */
    return true;
}
