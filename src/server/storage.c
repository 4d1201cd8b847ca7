/* Storage: keeping what changes in the definitions, and opening and closing the data directory. See
 * the header. */
#include "server/storage.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "broker/policy.h"
#include "server/storage_internal.h"
#include "store/file.h"

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
        .is_operator = event->is_operator,
        .pattern = event->pattern,
        .priority = event->priority,
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
        [CATALOGUE_POLICY_SET] = {DEFINITION_POLICY, false},
        [CATALOGUE_POLICY_REMOVED] = {DEFINITION_POLICY, true},
    };
    struct storage *storage = context;
    struct definition definition = definition_of(event);
    definition.kind = meanings[event->type].kind;
    if (definition.kind == DEFINITION_POLICY)
        definition.type = slice_from(policy_target_name(event->target));
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

/* --- Becoming durable ------------------------------------------------------------------------- */

/* Nothing can be promised any more: what was confirmed is on disk, and the next start finds it. */
static void
give_up(const char *what, const char *text)
{
    log_error(what, LOG_STR("reason", text), LOG_STR("action", "the broker ends"));
    log_plain(LOG_LEVEL_ERROR, "whippetd: %s: %s", what, text);
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
    /* Who has looked and is about to wait holds the lock. */
    pthread_mutex_lock(&storage->durable_lock);
    pthread_cond_broadcast(&storage->became_durable);
    pthread_mutex_unlock(&storage->durable_lock);
}

static void
init_waiting(struct storage *storage)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&storage->became_durable, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&storage->durable_lock, NULL);
}

int
storage_wait_definitions(struct storage *storage, int64_t timeout_ms)
{
    const int64_t until_ms = clock_monotonic_ms() + timeout_ms;
    const struct timespec until = {.tv_sec = until_ms / 1000,
                                   .tv_nsec = until_ms % 1000 * 1000 * 1000};
    const uint64_t wanted = definitions_submitted(storage->definitions);
    int status = 0;
    pthread_mutex_lock(&storage->durable_lock);
    while (status == 0 && definitions_durable(storage->definitions) < wanted)
        status = -pthread_cond_timedwait(&storage->became_durable, &storage->durable_lock, &until);
    pthread_mutex_unlock(&storage->durable_lock);
    return status;
}

/* --- Opening and closing ---------------------------------------------------------------------- */

static void
note(void *context, const char *text)
{
    (void)context;
    log_warn("message log", LOG_STR("note", text));
}

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
    const uint64_t identity = definitions_log_identity(storage->definitions);
    struct log_options options = {.directory = path,
                                  .disk_free_low = storage->disk_free_low,
                                  .identity = identity,
                                  .name_queue = storage_name_queue,
                                  .name_context = storage};
    struct log_recovery recovery = {
        .context = storage,
        .queue_exists = storage_queue_exists,
        .message = storage_restore_message,
        .note = note,
    };
    int status = log_open(&storage->log, &options, &recovery, error);
    if (status != 0 && storage->has_strangers)
        snprintf(
            error, STORAGE_TEXT_SIZE,
            "%.300s holds messages, but definitions.sqlite beside it is new: put the one back that "
            "has their queues, or move the log away",
            path);
    /* The numbers of its queues are those of other ones here. */
    if (status == -ESTALE)
        snprintf(error, STORAGE_TEXT_SIZE,
                 "%.300s is not the log that definitions.sqlite beside it belongs to: put that one "
                 "back, or move the log away",
                 path);
    if (status == 0 && identity != 0 && identity != log_identity(storage->log))
        log_warn("the message log is a new one: messages of the one before are not there",
                 LOG_STR("path", path));
    return status;
}

static int
give_journals(struct storage *storage, char error[STORAGE_TEXT_SIZE])
{
    struct server *server = storage->server;
    snprintf(error, STORAGE_TEXT_SIZE, "out of memory");
    storage->shards = calloc(server->worker_count, sizeof(*storage->shards));
    if (storage->shards == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < server->worker_count; i++) {
        struct shard_storage *shard = &storage->shards[i];
        *shard = (struct shard_storage){
            .storage = storage,
            .worker = &server->workers[i],
        };
        storage_journal_init(shard);
        shard->writer = log_writer_new(storage->log, log_became_durable, shard);
        if (shard->writer == NULL)
            return -ENOMEM;
        shard->worker->shard->journal = &shard->journal;
        pressure_share(&server->pressure, shard->worker->shard, server->worker_count);
        shard->worker->host.log_writer = shard->writer;
        shard->worker->host.definitions = storage->definitions;
    }
    return 0;
}

/* What is in the definitions was let in once: limits that are lower by now must not keep the broker
 * from starting. */
static int
load_definitions(struct storage *storage, char error[STORAGE_TEXT_SIZE])
{
    struct catalogue *catalogue = storage->server->broker->catalogue;
    const struct catalogue_limits limits = *catalogue_limits(catalogue), none = {0};
    catalogue_set_limits(catalogue, &none);
    int status = definitions_load(storage->definitions, storage_restore_definition, storage, error);
    catalogue_set_limits(catalogue, &limits);
    return status;
}

int
storage_open(struct storage **out, struct server *server, const char *directory,
             uint64_t disk_free_low, char error[STORAGE_TEXT_SIZE])
{
    if (make_directory(directory, error) != 0)
        return -1;
    struct storage *storage = calloc(1, sizeof(*storage));
    if (storage == NULL) {
        snprintf(error, STORAGE_TEXT_SIZE, "out of memory");
        return -1;
    }
    storage->server = server;
    storage->disk_free_low = disk_free_low;
    map_init(&storage->queues, storage_record_key);
    init_waiting(storage);
    struct catalogue *catalogue = server->broker->catalogue;
    if (definitions_open(&storage->definitions, directory, error) != 0) {
        storage->definitions = NULL;
        goto failed;
    }
    storage->has_had_users = definitions_has_had_users(storage->definitions);
    catalogue_queue_ids_used(catalogue, definitions_highest_queue_id(storage->definitions));
    if (load_definitions(storage, error) != 0 || open_log(storage, directory, error) != 0
        || give_journals(storage, error) != 0 || storage_restore_late(storage, error) != 0
        || definitions_start(storage->definitions, log_identity(storage->log),
                             definitions_became_durable, storage, error)
               != 0)
        goto failed;
    map_fini(&storage->queues);
    catalogue_observe(catalogue, (struct catalogue_observer){on_change, storage});
    access_observe(server->access, (struct access_observer){on_access_change, storage});
    if (!storage->has_vhost && catalogue_vhost_add(catalogue, SLICE("/")) != 0) {
        snprintf(error, STORAGE_TEXT_SIZE, "out of memory");
        goto failed;
    }
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
    free(storage->late);
    pthread_cond_destroy(&storage->became_durable);
    pthread_mutex_destroy(&storage->durable_lock);
    free(storage->shards);
    free(storage);
}
