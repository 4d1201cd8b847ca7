/* The journal: how the core tells that messages must survive, to whatever keeps them.
 *
 * The core knows no file. A shard has a journal or has none (then nothing survives); it tells of
 * each persistent message that goes to durable queues (to quorum queues, of each message at all),
 * and of each message that such a queue is done with. When that is on disk is the business of the
 * thread that drives the shard. */
#ifndef BROKER_JOURNAL_H
#define BROKER_JOURNAL_H

#include "base/compiler.h"
#include "broker/message.h"

struct journal {
    void *context;
    /* The message, held back for delay_ms if that is not 0, goes to these durable queues: gives it
     * an id (message->id). Nobody else sees the message yet. -ENOMEM: it is not kept. */
    int (*publish)(void *context, struct message *message, const uint64_t *queue_ids,
                   uint32_t queue_count, int64_t wall_ms, uint32_t delay_ms);
    /* The same for a transient message of one queue, to spare the memory for it. */
    int (*page)(void *context, const struct message *message, uint64_t queue_id, uint64_t *id);
    /* Reads a message: one reference is the caller's. NULL: it cannot be read, which has been
     * logged with the reason. */
    struct message *(*read)(void *context, uint64_t message_id);
    /* The queue is done with the message, which it had. */
    void (*settle)(void *context, uint64_t queue_id, uint64_t message_id);
    /* How many changes of the definitions there have been, and how many of these are on disk. What
     * a deleted queue had must not be settled before its deletion is: it may come back. */
    uint64_t (*definitions_made)(void *context);
    uint64_t (*definitions_written)(void *context);
    /* It came back from a consumer for the count-th time. */
    void (*returned)(void *context, uint64_t queue_id, uint64_t message_id, uint32_t count);
};

#endif
