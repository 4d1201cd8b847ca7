/* What the files of storage share: the object, and what a log record's flags mean. */
#ifndef SERVER_STORAGE_INTERNAL_H
#define SERVER_STORAGE_INTERNAL_H

#include <pthread.h>

#include "base/map.h"
#include "broker/journal.h"
#include "server/storage.h"
#include "store/definitions.h"
#include "store/log.h"

/* The owner's flags of a log record: the message's flags, and above them its priority. */
enum { STORAGE_PRIORITY_SHIFT = 8 };

/* One shard's side of it. */
struct shard_storage {
    struct storage *storage;
    struct worker *worker;
    struct log_writer *writer;
    struct journal journal;
};

struct storage {
    struct server *server;
    struct definitions *definitions;
    struct log *log;
    struct shard_storage *shards;
    struct map queues;         /* of records by id, while restoring */
    struct late_message *late; /* what is restored when the log can be read */
    size_t late_count, late_capacity;
    uint32_t next_shard;
    uint64_t restored;
    uint64_t disk_free_low;
    bool has_vhost, has_had_users;
    bool has_strangers; /* messages in the log, and new definitions */
    /* For who waits for the definitions: something has become durable. */
    pthread_mutex_t durable_lock;
    pthread_cond_t became_durable;
};

/* The journal of this shard, whose log writer is there when the journal is first used
 * (storage_journal.c). */
void storage_journal_init(struct shard_storage *shard);

/* --- Restoring (storage_restore.c) ------------------------------------------------------------ */

/* The key of a queue record in storage->queues. */
struct slice storage_record_key(const void *value);

/* What definitions_load and log_open call; the context is the storage. */
int storage_restore_definition(void *context, const struct definition *definition);
bool storage_queue_exists(void *context, uint64_t queue_id);
void storage_name_queue(void *context, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE]);
int storage_restore_message(void *context, const struct log_message *message);

/* The messages of queues that deduplicate, which look into each that they get. With the log open
 * and the journals given. -ENOMEM with the text. */
MUST_CHECK int storage_restore_late(struct storage *storage, char error[STORAGE_TEXT_SIZE]);

#endif
