/* Storage: see the header. */
#include "server/storage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amqp/table.h"
#include "base/log.h"
#include "broker/queue.h"
#include "store/definitions.h"
#include "store/file.h"
#include "store/log.h"

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
    struct map queues; /* of records by id, while restoring */
    uint32_t next_shard;
    uint64_t restored;
    uint64_t disk_free_low;
    bool has_vhost, has_had_users;
    bool has_strangers; /* messages in the log, and new definitions */
};

/* --- The journal: messages to and from the log ------------------------------------------------ */

/* The owner's flags of a log record: the message's flags, and above them its priority. */
enum { PRIORITY_SHIFT = 8 };

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
        .flags = message->flags | (uint32_t)message->priority << PRIORITY_SHIFT,
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
    char text[LOG_TEXT_SIZE];
    int status = log_read(shard->storage->log, message_id, &content, text);
    if (status == -ENOENT) {
        /* Staged in this turn and not handed over: it is now. */
        log_submit(shard->writer);
        status = log_read(shard->storage->log, message_id, &content, text);
    }
    if (status != 0) {
        log_error("reading a message failed", LOG_UINT("message", message_id),
                  LOG_STR("reason", text));
        return NULL;
    }
    struct message *message = message_of(&content, message_id);
    free(content.data);
    if (message == NULL)
        log_error("out of memory for a message", LOG_UINT("message", message_id));
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

static void
journal_returned(void *context, uint64_t queue_id, uint64_t message_id, uint32_t count)
{
    struct shard_storage *shard = context;
    not_noted(log_redelivered(shard->writer, queue_id, message_id, count),
              "a redelivery was not written: its count may be too low after a restart");
}

/* --- Definitions ------------------------------------------------------------------------------ */

static struct definition
definition_of(const struct catalogue_event *event)
{
    return (struct definition){
        .vhost = event->vhost,
        .name = event->name,
        .queue_id = event->queue_id,
        .type = event->kind,
        .auto_delete = event->auto_delete,
        .internal = event->internal,
        .arguments = event->arguments,
        .destination = event->destination,
        .destination_is_exchange = event->destination_is_exchange,
        .routing_key = event->routing_key,
    };
}

static void
on_change(void *context, const struct catalogue_event *event)
{
    static const struct {
        enum definition_kind kind;
        bool is_removed;
    } meanings[] = {
        [CATALOGUE_VHOST_ADDED] = {DEFINITION_VHOST, false},
        [CATALOGUE_VHOST_REMOVED] = {DEFINITION_VHOST, true},
        [CATALOGUE_EXCHANGE_ADDED] = {DEFINITION_EXCHANGE, false},
        [CATALOGUE_EXCHANGE_REMOVED] = {DEFINITION_EXCHANGE, true},
        [CATALOGUE_QUEUE_ADDED] = {DEFINITION_QUEUE, false},
        [CATALOGUE_QUEUE_REMOVED] = {DEFINITION_QUEUE, true},
        [CATALOGUE_BINDING_ADDED] = {DEFINITION_BINDING, false},
        [CATALOGUE_BINDING_REMOVED] = {DEFINITION_BINDING, true},
    };
    struct storage *storage = context;
    struct definition definition = definition_of(event);
    definition.kind = meanings[event->type].kind;
    /* The store of a delayed exchange is kept with the exchange. */
    if (definition.kind == DEFINITION_QUEUE && event->internal)
        return;
    if (meanings[event->type].is_removed)
        (void)definitions_remove(storage->definitions, &definition);
    else
        (void)definitions_add(storage->definitions, &definition);
    /* A failure is reported by definitions_durable's callback, which ends the broker. */
}

/* What an event about users is to the database. */
static void
on_access_change(void *context, const struct access_change *change)
{
    static const struct {
        enum definition_kind kind;
        bool is_removed;
    } meanings[] = {
        [ACCESS_USER_SET] = {DEFINITION_USER, false},
        [ACCESS_USER_DELETED] = {DEFINITION_USER, true},
        [ACCESS_PERMISSIONS_SET] = {DEFINITION_PERMISSION, false},
        [ACCESS_PERMISSIONS_CLEARED] = {DEFINITION_PERMISSION, true},
        [ACCESS_TOPIC_SET] = {DEFINITION_TOPIC_PERMISSION, false},
        [ACCESS_TOPIC_CLEARED] = {DEFINITION_TOPIC_PERMISSION, true},
    };
    struct storage *storage = context;
    const struct access_expressions *expressions = &change->expressions;
    const struct definition definition = {
        .kind = meanings[change->type].kind,
        .vhost = expressions->vhost,
        .name = expressions->exchange,
        .user = change->user,
        .password_hash = change->password_hash,
        .tags = change->tags,
        .configure = expressions->texts[ACCESS_CONFIGURE],
        .write = expressions->texts[ACCESS_WRITE],
        .read = expressions->texts[ACCESS_READ],
    };
    if (meanings[change->type].is_removed)
        (void)definitions_remove(storage->definitions, &definition);
    else
        (void)definitions_add(storage->definitions, &definition);
    /* A failure is reported as that of any other definition. */
}

/* --- Restoring the definitions ---------------------------------------------------------------- */

static struct slice
id_of_record(const void *value)
{
    const struct queue_record *record = value;
    return (struct slice){(const char *)&record->id, sizeof(record->id)};
}

static struct shard *
next_shard(struct storage *storage)
{
    struct broker *broker = storage->server->broker;
    return broker->shards[storage->next_shard++ % broker->shard_count];
}

static int
restore_queue(struct storage *storage, struct vhost *vhost, const struct definition *definition,
              struct amqp_error *error)
{
    struct shard *shard = next_shard(storage);
    struct catalogue *catalogue = shard->broker->catalogue;
    struct queue_declaration declaration = {
        .name = definition->name,
        .durable = true,
        .auto_delete = definition->auto_delete,
        .arguments = definition->arguments,
    };
    struct queue_options options;
    if (queue_options_parse(&options, &declaration, vhost_name(vhost), error) != 0)
        return -EINVAL;
    struct queue_record *record =
        queue_record_new(catalogue, vhost, &declaration, &options, definition->queue_id);
    if (record == NULL)
        return -ENOMEM;
    struct queue *queue = queue_new(shard, record);
    if (queue == NULL || queue_record_insert(catalogue, record) != 0) {
        if (queue != NULL)
            queue_discard(queue);
        queue_record_free(record);
        return -ENOMEM;
    }
    return map_insert(&storage->queues, record);
}

static int
restore_exchange(struct storage *storage, struct vhost *vhost, const struct definition *definition,
                 struct amqp_error *error)
{
    struct catalogue *catalogue = storage->server->broker->catalogue;
    struct exchange_declaration declaration = {
        .name = definition->name,
        .type = definition->type,
        .durable = true,
        .auto_delete = definition->auto_delete,
        .internal = definition->internal,
        .arguments = definition->arguments,
    };
    bool created;
    if (exchange_declare(catalogue, vhost, &declaration, &created, error) != 0)
        return -EINVAL;
    struct exchange *exchange = exchange_find(catalogue, vhost, definition->name);
    if (!exchange_needs_delay_store(exchange))
        return 0;
    int status = queue_new_delay_store(next_shard(storage), vhost, exchange, definition->queue_id);
    return status != 0 ? status : map_insert(&storage->queues, exchange_delay_store(exchange));
}

static int
restore_binding(struct storage *storage, struct vhost *vhost, const struct definition *definition,
                struct amqp_error *error)
{
    struct binding_request request = {
        .source = definition->name,
        .destination = definition->destination,
        .destination_is_exchange = definition->destination_is_exchange,
        .routing_key = definition->routing_key,
        .arguments = definition->arguments,
    };
    struct binding_history history;
    return catalogue_bind(storage->server->broker->catalogue, vhost, &request, &history, error) == 0
               ? 0
               : -EINVAL;
}

static int
restore_access(struct storage *storage, const struct definition *definition)
{
    struct access *access = storage->server->access;
    char error[ACCESS_ERROR_MAX];
    const struct access_expressions expressions = {
        .vhost = definition->vhost,
        .exchange = definition->name,
        .texts = {definition->configure, definition->write, definition->read},
    };
    int status;
    if (definition->kind == DEFINITION_USER)
        status = access_user_set(access, definition->user, definition->password_hash,
                                 definition->tags, error);
    else if (definition->kind == DEFINITION_PERMISSION)
        status = access_permissions_set(access, definition->user, &expressions, error);
    else
        status = access_topic_set(access, definition->user, &expressions, error);
    if (status != 0)
        log_error("a user cannot be restored", LOG_SLICE("user", definition->user),
                  LOG_STR("reason", error));
    return status;
}

static int
restore_definition(void *context, const struct definition *definition)
{
    struct storage *storage = context;
    struct catalogue *catalogue = storage->server->broker->catalogue;
    struct amqp_error error = {.text = "out of memory"};
    if (definition->kind == DEFINITION_VHOST) {
        storage->has_vhost = true;
        return catalogue_vhost_add(catalogue, definition->vhost);
    }
    if (definition->kind >= DEFINITION_USER)
        return restore_access(storage, definition);
    struct vhost *vhost = catalogue_vhost_find(catalogue, definition->vhost);
    if (vhost == NULL) {
        log_error("a definition of an unknown vhost", LOG_SLICE("vhost", definition->vhost),
                  LOG_SLICE("name", definition->name));
        return -EBADMSG;
    }
    int status;
    catalogue_lock(catalogue);
    if (definition->kind == DEFINITION_EXCHANGE)
        status = restore_exchange(storage, vhost, definition, &error);
    else if (definition->kind == DEFINITION_QUEUE)
        status = restore_queue(storage, vhost, definition, &error);
    else
        status = restore_binding(storage, vhost, definition, &error);
    catalogue_unlock(catalogue);
    vhost_unref(vhost);
    if (status != 0)
        log_error("a definition cannot be restored", LOG_SLICE("vhost", definition->vhost),
                  LOG_SLICE("name", definition->name), LOG_STR("reason", error.text));
    return status;
}

/* --- Restoring the messages ------------------------------------------------------------------- */

static struct queue_record *
record_of(struct storage *storage, uint64_t id)
{
    return map_find(&storage->queues, (struct slice){(const char *)&id, sizeof(id)});
}

/* A message of a queue that was deleted is dropped. When the definitions are new it is none of
 * those: restore_message says so, before anything is dropped. */
static bool
queue_exists(void *context, uint64_t queue_id)
{
    struct storage *storage = context;
    return definitions_are_new(storage->definitions) || record_of(storage, queue_id) != NULL;
}

static void
name_queue(void *context, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE])
{
    const struct queue_record *record = record_of(context, queue_id);
    if (record != NULL)
        snprintf(name, LOG_QUEUE_NAME_SIZE, "'%.*s' in vhost '%.*s'", SLICE_ARGS(record->name),
                 SLICE_ARGS(vhost_name(record->vhost)));
}

static int
restore_message(void *context, const struct log_message *message)
{
    struct storage *storage = context;
    if (definitions_are_new(storage->definitions)) {
        storage->has_strangers = true;
        return -EBADMSG;
    }
    bool was_clean = definitions_was_clean(storage->definitions);
    uint64_t seen = definitions_seen_message(storage->definitions);
    if (!was_clean)
        definitions_see_message(storage->definitions, message->id);
    struct restored_message restored = {
        .id = message->id,
        .published_wall_ms = (int64_t)message->published_wall_ms,
        .expires_wall_ms = (int64_t)message->expires_wall_ms,
        .body_size = message->piece_count == 3 ? message->piece_sizes[2] : 0,
        .priority = (uint8_t)(message->flags >> PRIORITY_SHIFT),
    };
    for (uint32_t i = 0; i < message->queue_count; i++) {
        struct queue_record *record = record_of(storage, message->queues[i].queue_id);
        if (record == NULL)
            continue;
        struct shard *shard = storage->server->broker->shards[record->queue.shard];
        uint32_t count = message->queues[i].delivery_count;
        restored.delivery_count = count > UINT16_MAX ? UINT16_MAX : (uint16_t)count;
        /* After a crash nobody knows who has seen what, also when more restarts follow. */
        restored.is_redelivered = !was_clean || count > 0 || message->id <= seen;
        int status = queue_restore(ref_table_find(&shard->queues, record->queue), &restored);
        if (status != 0)
            return status;
        storage->restored++;
    }
    return 0;
}

static void
note(void *context, const char *text)
{
    (void)context;
    log_warn("message log", LOG_STR("note", text));
}

/* --- Becoming durable ------------------------------------------------------------------------- */

/* Nothing can be promised any more: what was confirmed is on disk, and the next start finds it. */
static void
give_up(const char *what, const char *text)
{
    log_error(what, LOG_STR("reason", text), LOG_STR("action", "the broker ends"));
    fprintf(stderr, "whippetd: %s: %s\n", what, text);
    _exit(1);
}

static void
log_became_durable(void *context)
{
    struct shard_storage *shard = context;
    char text[LOG_TEXT_SIZE];
    if (log_failed(shard->storage->log, text))
        give_up("the message log cannot be written", text);
    loop_wake(&shard->worker->loop);
}

static void
definitions_became_durable(void *context)
{
    struct storage *storage = context;
    char text[DEFINITIONS_TEXT_SIZE];
    if (definitions_failed(storage->definitions, text))
        give_up("the definitions cannot be written", text);
    for (uint32_t i = 0; i < storage->server->worker_count; i++)
        loop_wake(&storage->server->workers[i].loop);
}

/* --- Opening and closing ---------------------------------------------------------------------- */

static int
make_directory(const char *path, char error[STORAGE_TEXT_SIZE])
{
    struct stat status;
    int code = 0;
    if (stat(path, &status) != 0 && errno == ENOENT)
        code = file_make_directory(file_posix_ops(), path);
    if (code != 0) {
        snprintf(error, STORAGE_TEXT_SIZE, "cannot make the data directory %s: %s", path,
                 strerror(-code));
        return -1;
    }
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        snprintf(error, STORAGE_TEXT_SIZE, "the data directory %s is no directory", path);
        return -1;
    }
    if (access(path, R_OK | W_OK | X_OK) != 0) {
        snprintf(error, STORAGE_TEXT_SIZE, "cannot write in the data directory %s: %s", path,
                 strerror(errno));
        return -1;
    }
    return 0;
}

static int
open_log(struct storage *storage, const char *directory, char error[STORAGE_TEXT_SIZE])
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/log", directory) >= (int)sizeof(path)) {
        snprintf(error, STORAGE_TEXT_SIZE, "the name of the data directory is too long");
        return -1;
    }
    struct log_options options = {.directory = path,
                                  .disk_free_low = storage->disk_free_low,
                                  .name_queue = name_queue,
                                  .name_context = storage};
    struct log_recovery recovery = {
        .context = storage,
        .queue_exists = queue_exists,
        .message = restore_message,
        .note = note,
    };
    int status = log_open(&storage->log, &options, &recovery, error);
    if (status != 0 && storage->has_strangers)
        snprintf(
            error, STORAGE_TEXT_SIZE,
            "%.300s holds messages, but definitions.sqlite beside it is new: put the one back that "
            "has their queues, or move the log away",
            path);
    return status;
}

static int
give_journals(struct storage *storage)
{
    struct server *server = storage->server;
    storage->shards = calloc(server->worker_count, sizeof(*storage->shards));
    if (storage->shards == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < server->worker_count; i++) {
        struct shard_storage *shard = &storage->shards[i];
        *shard = (struct shard_storage){
            .storage = storage,
            .worker = &server->workers[i],
            .journal = {.context = shard,
                        .publish = journal_publish,
                        .page = journal_page,
                        .read = journal_read,
                        .settle = journal_settle,
                        .returned = journal_returned},
        };
        shard->writer = log_writer_new(storage->log, log_became_durable, shard);
        if (shard->writer == NULL)
            return -ENOMEM;
        shard->worker->shard->journal = &shard->journal;
        shard->worker->shard->memory_share = STORAGE_MEMORY / server->worker_count;
        shard->worker->host.log_writer = shard->writer;
        shard->worker->host.definitions = storage->definitions;
    }
    return 0;
}

int
storage_open(struct storage **out, struct server *server, const char *directory,
             uint64_t disk_free_low, char error[STORAGE_TEXT_SIZE])
{
    if (make_directory(directory, error) != 0)
        return -1;
    struct storage *storage = calloc(1, sizeof(*storage));
    snprintf(error, STORAGE_TEXT_SIZE, "out of memory");
    if (storage == NULL)
        return -1;
    storage->server = server;
    storage->disk_free_low = disk_free_low;
    map_init(&storage->queues, id_of_record);
    struct catalogue *catalogue = server->broker->catalogue;
    if (definitions_open(&storage->definitions, directory, error) != 0) {
        storage->definitions = NULL;
        goto failed;
    }
    storage->has_had_users = definitions_has_had_users(storage->definitions);
    catalogue_queue_ids_used(catalogue, definitions_highest_queue_id(storage->definitions));
    if (definitions_load(storage->definitions, restore_definition, storage, error) != 0
        || open_log(storage, directory, error) != 0 || give_journals(storage) != 0
        || definitions_start(storage->definitions, log_identity(storage->log),
                             definitions_became_durable, storage, error)
               != 0)
        goto failed;
    map_fini(&storage->queues);
    catalogue_observe(catalogue, (struct catalogue_observer){on_change, storage});
    access_observe(server->access, (struct access_observer){on_access_change, storage});
    if (!storage->has_vhost && catalogue_vhost_add(catalogue, SLICE("/")) != 0)
        goto failed;
    if (storage->restored > 0)
        log_info("messages restored", LOG_UINT("count", storage->restored));
    server->pressure.log = storage->log;
    *out = storage;
    return 0;
failed:
    storage_close(storage);
    return -1;
}

bool
storage_has_had_users(const struct storage *storage)
{
    return storage->has_had_users;
}

void
storage_close(struct storage *storage)
{
    struct server *server = storage->server;
    bool is_whole = storage->shards != NULL && storage->log != NULL;
    server->pressure.log = NULL;
    for (uint32_t i = 0; is_whole && i < server->worker_count; i++) {
        if (storage->shards[i].writer != NULL)
            log_writer_free(storage->shards[i].writer);
        server->workers[i].shard->journal = NULL;
        server->workers[i].host.log_writer = NULL;
        server->workers[i].host.definitions = NULL;
    }
    if (storage->log != NULL)
        log_close(storage->log);
    catalogue_observe(server->broker->catalogue, (struct catalogue_observer){0});
    access_observe(server->access, (struct access_observer){0});
    if (storage->definitions != NULL)
        definitions_close(storage->definitions, is_whole);
    map_fini(&storage->queues);
    free(storage->shards);
    free(storage);
}
