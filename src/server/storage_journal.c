/* The journal of a shard: messages to and from the log. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/log.h"
#include "server/storage_internal.h"

static int
publish(struct log_writer *writer, const struct message *message, const uint64_t *queue_ids,
        uint32_t queue_count, int64_t wall_ms, uint32_t delay_ms, enum log_publish_kind kind,
        uint64_t *id)
{
    struct slice prefix = message_prefix(message);
    struct slice properties = message_properties(message);
    struct slice body = message_body(message);
    struct iovec pieces[] = {
        {(void *)prefix.data, prefix.size},
        {(void *)properties.data, properties.size},
        {(void *)body.data, body.size},
    };
    int64_t expires_ms = 0;
    if (delay_ms > 0)
        expires_ms = wall_ms + delay_ms;
    else if (message->expiration_ms != MESSAGE_NO_EXPIRATION)
        expires_ms = wall_ms + message->expiration_ms;
    struct log_publish request = {
        .pieces = pieces,
        .piece_count = ARRAY_SIZE(pieces),
        .queue_count = queue_count,
        .queue_ids = queue_ids,
        .published_wall_ms = (uint64_t)wall_ms,
        .expires_wall_ms = (uint64_t)expires_ms,
        .flags = message->flags | (uint32_t)message->priority << STORAGE_PRIORITY_SHIFT,
        .kind = kind,
    };
    return log_publish(writer, &request, id);
}

static int
journal_publish(void *context, struct message *message, const uint64_t *queue_ids,
                uint32_t queue_count, int64_t wall_ms, uint32_t delay_ms)
{
    struct shard_storage *shard = context;
    return publish(shard->writer, message, queue_ids, queue_count, wall_ms, delay_ms,
                   LOG_PERSISTENT, &message->id);
}

static int
journal_page(void *context, const struct message *message, uint64_t queue_id, uint64_t *id)
{
    struct shard_storage *shard = context;
    return publish(shard->writer, message, &queue_id, 1, shard->worker->shard->wall_ms, 0,
                   LOG_TRANSIENT, id);
}

static bool
has_bcc(const struct amqp_properties *properties)
{
    struct amqp_value value;
    return amqp_table_find(properties->headers, SLICE("BCC"), &value);
}

/* The message in what the log read. NULL: out of memory, or no message of ours. */
static struct message *
message_of(const struct log_content *content, uint64_t id)
{
    struct amqp_properties properties;
    if (content->piece_count != 3 || content->piece_sizes[0] < 2)
        return NULL;
    const char *at = content->data;
    struct slice exchange = {at + 1, (uint8_t)at[0]};
    if (exchange.size + 2 > content->piece_sizes[0])
        return NULL;
    struct slice routing_key = {exchange.data + exchange.size + 1,
                                content->piece_sizes[0] - exchange.size - 2};
    struct slice wire = {at + content->piece_sizes[0], content->piece_sizes[1]};
    if (!amqp_properties_decode(wire, &properties))
        return NULL;
    int64_t expiration_ms = MESSAGE_NO_EXPIRATION;
    if ((properties.flags & AMQP_HAS_EXPIRATION) != 0) {
        expiration_ms = 0;
        for (size_t i = 0; i < properties.expiration.size; i++) /* it was found to be digits */
            expiration_ms = expiration_ms * 10 + (properties.expiration.data[i] - '0');
    }
    struct message_parts parts = {
        .exchange = exchange,
        .routing_key = routing_key,
        .properties = wire,
        .decoded = &properties,
        .expiration_ms = expiration_ms,
        .body_size = content->piece_sizes[2],
    };
    struct message *message = message_new(&parts);
    if (message == NULL)
        return NULL;
    memcpy(message_body_data(message), wire.data + wire.size, parts.body_size);
    message->id = id;
    if (has_bcc(&properties))
        message->flags |= MESSAGE_HAS_BCC;
    return message;
}

static struct message *
journal_read(void *context, uint64_t message_id)
{
    struct shard_storage *shard = context;
    struct log_content content;
    char text[LOG_TEXT_SIZE] = "out of memory";
    /* What this turn has staged is handed over at its end, all together. */
    int status = log_read_staged(shard->writer, message_id, &content);
    if (status == -ENOENT)
        status = log_read(shard->storage->log, message_id, &content, text);
    if (status != 0) {
        log_error("reading a message failed", LOG_UINT("message", message_id),
                  LOG_STR("reason", text));
        return NULL;
    }
    struct message *message = message_of(&content, message_id);
    free(content.data);
    if (message == NULL) {
        log_error("out of memory for a message", LOG_UINT("message", message_id));
        return NULL;
    }
    const struct shard *clock = shard->worker->shard;
    message_set_published(message,
                          wall_clock_monotonic(&clock->wall_clock,
                                               (int64_t)content.published_wall_ms, clock->now_ms));
    return message;
}

/* Settling is a promise that costs no more than a delivery once more when it cannot be kept. */
static void
not_noted(int status, const char *event)
{
    if (status != 0)
        log_error(event, LOG_ERRNO("reason", status));
}

static void
journal_settle(void *context, uint64_t queue_id, uint64_t message_id)
{
    struct shard_storage *shard = context;
    not_noted(log_settle(shard->writer, queue_id, message_id),
              "an acknowledgement was not written: its message may come again after a restart");
}

static uint64_t
journal_definitions_made(void *context)
{
    const struct shard_storage *shard = context;
    return definitions_submitted(shard->storage->definitions);
}

static uint64_t
journal_definitions_written(void *context)
{
    const struct shard_storage *shard = context;
    return definitions_durable(shard->storage->definitions);
}

static void
journal_returned(void *context, uint64_t queue_id, uint64_t message_id, uint32_t count)
{
    struct shard_storage *shard = context;
    not_noted(log_redelivered(shard->writer, queue_id, message_id, count),
              "a redelivery was not written: its count may be too low after a restart");
}

void
storage_journal_init(struct shard_storage *shard)
{
    shard->journal = (struct journal){
        .context = shard,
        .publish = journal_publish,
        .page = journal_page,
        .read = journal_read,
        .settle = journal_settle,
        .definitions_made = journal_definitions_made,
        .definitions_written = journal_definitions_written,
        .returned = journal_returned,
    };
}
