/* Restoring: catalogue, users and queues from the definitions, then the messages from the log. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "broker/policy.h"
#include "broker/queue.h"
#include "server/storage_internal.h"

/* --- Definitions ------------------------------------------------------------------------------ */

struct slice
storage_record_key(const void *value)
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

/* There is nothing yet that could be told of it. */
static int
restore_policy(struct storage *storage, struct vhost *vhost, const struct definition *definition)
{
    struct policy_declaration declaration = {
        .is_operator = definition->is_operator,
        .name = definition->name,
        .pattern = definition->pattern,
        .priority = definition->priority,
        .definition = definition->arguments,
    };
    struct policy_change change = {0};
    char error[POLICY_ERROR_MAX] = "out of memory";
    int status = -EBADMSG;
    if (!policy_target_find(definition->type, &declaration.target))
        snprintf(error, sizeof(error), "it is for '%.*s', which is unknown",
                 SLICE_ARGS(definition->type));
    else if (amqp_table_validate(definition->arguments, AMQP_TABLE_MAX_DEPTH) != 0)
        snprintf(error, sizeof(error), "what it says is damaged");
    else
        status =
            policy_set(storage->server->broker->catalogue, vhost, &declaration, &change, error);
    free(change.queues);
    if (status != 0)
        log_error("a policy cannot be restored", LOG_SLICE("vhost", definition->vhost),
                  LOG_SLICE("policy", definition->name), LOG_STR("reason", error));
    return status;
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

int
storage_restore_definition(void *context, const struct definition *definition)
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
    if (definition->kind == DEFINITION_POLICY) {
        status = restore_policy(storage, vhost, definition);
        vhost_unref(vhost);
        return status;
    }
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

/* --- Messages --------------------------------------------------------------------------------- */

static struct queue_record *
record_of(struct storage *storage, uint64_t id)
{
    return map_find(&storage->queues, (struct slice){(const char *)&id, sizeof(id)});
}

/* A message of a queue that was deleted is dropped. When the definitions are new it is none of
 * those: storage_restore_message says so, before anything is dropped. */
bool
storage_queue_exists(void *context, uint64_t queue_id)
{
    struct storage *storage = context;
    return definitions_are_new(storage->definitions) || record_of(storage, queue_id) != NULL;
}

void
storage_name_queue(void *context, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE])
{
    const struct queue_record *record = record_of(context, queue_id);
    if (record != NULL)
        snprintf(name, LOG_QUEUE_NAME_SIZE, "'%.*s' in vhost '%.*s'", SLICE_ARGS(record->name),
                 SLICE_ARGS(vhost_name(record->vhost)));
}

/* A message that waits until the log can be read. */
struct late_message {
    const struct queue_record *record;
    struct restored_message message;
};

static int
restore_late(struct storage *storage, const struct queue_record *record,
             const struct restored_message *message)
{
    if (storage->late_count == storage->late_capacity) {
        size_t capacity = storage->late_capacity == 0 ? 64 : 2 * storage->late_capacity;
        struct late_message *grown = realloc(storage->late, capacity * sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        storage->late = grown;
        storage->late_capacity = capacity;
    }
    storage->late[storage->late_count++] = (struct late_message){record, *message};
    return 0;
}

static int
restore(const struct storage *storage, const struct queue_record *record,
        const struct restored_message *message)
{
    struct shard *shard = storage->server->broker->shards[record->queue.shard];
    return queue_restore(ref_table_find(&shard->queues, record->queue), message);
}

int
storage_restore_late(struct storage *storage, char error[STORAGE_TEXT_SIZE])
{
    int status = 0;
    for (size_t i = 0; i < storage->late_count && status == 0; i++)
        status = restore(storage, storage->late[i].record, &storage->late[i].message);
    free(storage->late);
    storage->late = NULL;
    storage->late_count = storage->late_capacity = 0;
    if (status != 0)
        snprintf(error, STORAGE_TEXT_SIZE, "restoring messages: %s", strerror(-status));
    return status;
}

int
storage_restore_message(void *context, const struct log_message *message)
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
        .priority = (uint8_t)(message->flags >> STORAGE_PRIORITY_SHIFT),
    };
    for (uint32_t i = 0; i < message->queue_count; i++) {
        struct queue_record *record = record_of(storage, message->queues[i].queue_id);
        if (record == NULL)
            continue;
        uint32_t count = message->queues[i].delivery_count;
        restored.delivery_count = count > UINT16_MAX ? UINT16_MAX : (uint16_t)count;
        /* After a crash nobody knows who has seen what, also when more restarts follow. */
        restored.is_redelivered = !was_clean || count > 0 || message->id <= seen;
        int status = record->options.deduplicates ? restore_late(storage, record, &restored)
                                                  : restore(storage, record, &restored);
        if (status != 0)
            return status;
        storage->restored++;
    }
    return 0;
}
