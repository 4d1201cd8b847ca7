/* Writing the definitions. Whoever changes something hands over a copy; the thread takes all that
 * have gathered and commits them as one transaction, so that many changes share a sync. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/compiler.h"
#include "base/log.h"
#include "store/definitions_internal.h"

/* Seconds after which a full disk is tried again. */
enum { SPACE_RETRY_SECONDS = 1 };

static const char *const statement_texts[STATEMENT_COUNT] = {
    [ADD_VHOST] = "INSERT OR IGNORE INTO vhosts (name) VALUES (?1)",
    [ADD_POLICY] = "INSERT INTO policies (vhost, name, is_operator, pattern, priority, apply_to,"
                   " definition) VALUES (?1, ?2, ?19, ?17, ?18, ?3, ?7)"
                   " ON CONFLICT (vhost, is_operator, name) DO UPDATE SET pattern = ?17,"
                   " priority = ?18, apply_to = ?3, definition = ?7",
    [ADD_EXCHANGE] = "INSERT OR IGNORE INTO exchanges (vhost, name, type, auto_delete, internal,"
                     " queue_id, arguments) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [ADD_QUEUE] = "INSERT OR IGNORE INTO queues (vhost, name, auto_delete, queue_id, arguments)"
                  " VALUES (?1, ?2, ?4, ?6, ?7)",
    [ADD_BINDING] = "INSERT OR IGNORE INTO bindings (vhost, source, destination, to_exchange,"
                    " routing_key, arguments) VALUES (?1, ?2, ?8, ?9, ?10, ?7)",
    [ADD_USER] = "INSERT INTO users (name, password_hash, tags) VALUES (?11, ?12, ?13)"
                 " ON CONFLICT (name) DO UPDATE SET password_hash = ?12, tags = ?13",
    [ADD_PERMISSION] = "INSERT INTO permissions (user, vhost, configure, write, read)"
                       " VALUES (?11, ?1, ?14, ?15, ?16) ON CONFLICT (user, vhost)"
                       " DO UPDATE SET configure = ?14, write = ?15, read = ?16",
    [ADD_TOPIC_PERMISSION] = "INSERT INTO topic_permissions (user, vhost, exchange, write, read)"
                             " VALUES (?11, ?1, ?2, ?15, ?16) ON CONFLICT (user, vhost, exchange)"
                             " DO UPDATE SET write = ?15, read = ?16",
    [REMOVE_VHOST] = "DELETE FROM vhosts WHERE name = ?1",
    [REMOVE_POLICY] = "DELETE FROM policies WHERE vhost = ?1 AND name = ?2 AND is_operator = ?19",
    [REMOVE_EXCHANGE] = "DELETE FROM exchanges WHERE vhost = ?1 AND name = ?2",
    [REMOVE_QUEUE] = "DELETE FROM queues WHERE vhost = ?1 AND name = ?2",
    [REMOVE_BINDING] = "DELETE FROM bindings WHERE vhost = ?1 AND source = ?2 AND destination = ?8"
                       " AND to_exchange = ?9 AND routing_key = ?10 AND arguments = ?7",
    [REMOVE_USER] = "DELETE FROM users WHERE name = ?11",
    [REMOVE_PERMISSION] = "DELETE FROM permissions WHERE user = ?11 AND vhost = ?1",
    [REMOVE_TOPIC_PERMISSION] = "DELETE FROM topic_permissions WHERE user = ?11 AND vhost = ?1"
                                " AND exchange = ?2",
    [SET_META] = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
};

_Static_assert((int)ADD_VHOST + (int)DEFINITION_KINDS == (int)REMOVE_VHOST,
               "adding is found by the kind");
_Static_assert((int)REMOVE_VHOST + (int)DEFINITION_KINDS == (int)SET_META,
               "removing is found by the kind");

/* The statement for this kind, of those that begin with the one for vhosts. */
static enum statement
statement_for(enum statement vhosts, enum definition_kind kind)
{
    return (enum statement)((int)vhosts + (int)kind);
}

/* A change that waits for the thread, with its bytes behind it. */
struct change {
    struct change *next;
    enum statement statement;
    struct definition definition;
    char bytes[];
};

/* --- The statements --------------------------------------------------------------------------- */

int
definitions_prepare(struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(definitions->database, statement_texts[i], -1,
                               SQLITE_PREPARE_PERSISTENT, &definitions->statements[i], NULL)
            != SQLITE_OK)
            return definitions_complain(definitions, "preparing", error);
    return 0;
}

void
definitions_discard(struct definitions *definitions)
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(definitions->statements[i]);
    while (definitions->first != NULL) {
        struct change *change = definitions->first;
        definitions->first = change->next;
        free(change);
    }
}

/* --- Handing over ----------------------------------------------------------------------------- */

static void
fail(struct definitions *definitions, const char *text)
{
    pthread_mutex_lock(&definitions->mutex);
    if (definitions->failure[0] == '\0')
        snprintf(definitions->failure, sizeof(definitions->failure), "%s", text);
    pthread_mutex_unlock(&definitions->mutex);
    atomic_store(&definitions->has_failed, true);
}

/* What of a definition is bytes, and its parameter in the statements. */
static const struct {
    int index;
    size_t offset;
} byte_fields[] = {
    {1, offsetof(struct definition, vhost)},       {2, offsetof(struct definition, name)},
    {3, offsetof(struct definition, type)},        {7, offsetof(struct definition, arguments)},
    {8, offsetof(struct definition, destination)}, {10, offsetof(struct definition, routing_key)},
    {11, offsetof(struct definition, user)},       {12, offsetof(struct definition, password_hash)},
    {13, offsetof(struct definition, tags)},       {14, offsetof(struct definition, configure)},
    {15, offsetof(struct definition, write)},      {16, offsetof(struct definition, read)},
    {17, offsetof(struct definition, pattern)},
};

static struct slice *
field_of(struct definition *definition, size_t i)
{
    return (struct slice *)(void *)((char *)definition + byte_fields[i].offset);
}

/* A change is lost. It is counted, so that whoever waits for what was handed over up to now waits
 * for ever, and the thread tells of it. */
static void
lose(struct definitions *definitions)
{
    fail(definitions, "out of memory for a change of the definitions");
    pthread_mutex_lock(&definitions->mutex);
    atomic_fetch_add_explicit(&definitions->submitted, 1, memory_order_release);
    definitions->has_lost = true;
    pthread_cond_signal(&definitions->work);
    pthread_mutex_unlock(&definitions->mutex);
}

static uint64_t
submit(struct definitions *definitions, enum statement statement,
       const struct definition *definition)
{
    struct definition from = *definition;
    size_t size = 0;
    for (size_t i = 0; i < ARRAY_SIZE(byte_fields); i++)
        size += field_of(&from, i)->size;
    struct change *change = malloc(sizeof(*change) + size);
    if (change == NULL) {
        lose(definitions);
        return 0;
    }
    char *at = change->bytes;
    change->next = NULL;
    change->statement = statement;
    change->definition = from;
    for (size_t i = 0; i < ARRAY_SIZE(byte_fields); i++)
        *field_of(&change->definition, i) = slice_keep(&at, *field_of(&from, i));
    pthread_mutex_lock(&definitions->mutex);
    *definitions->last = change;
    definitions->last = &change->next;
    uint64_t sequence =
        atomic_fetch_add_explicit(&definitions->submitted, 1, memory_order_release) + 1;
    pthread_cond_signal(&definitions->work);
    pthread_mutex_unlock(&definitions->mutex);
    return sequence;
}

uint64_t
definitions_add(struct definitions *definitions, const struct definition *definition)
{
    return submit(definitions, statement_for(ADD_VHOST, definition->kind), definition);
}

uint64_t
definitions_remove(struct definitions *definitions, const struct definition *definition)
{
    return submit(definitions, statement_for(REMOVE_VHOST, definition->kind), definition);
}

uint64_t
definitions_submitted(const struct definitions *definitions)
{
    return atomic_load_explicit(&definitions->submitted, memory_order_acquire);
}

uint64_t
definitions_durable(const struct definitions *definitions)
{
    return atomic_load_explicit(&definitions->durable, memory_order_acquire);
}

bool
definitions_failed(struct definitions *definitions, char text[DEFINITIONS_TEXT_SIZE])
{
    if (!atomic_load(&definitions->has_failed))
        return false;
    if (text != NULL) {
        pthread_mutex_lock(&definitions->mutex);
        memcpy(text, definitions->failure, sizeof(definitions->failure));
        pthread_mutex_unlock(&definitions->mutex);
    }
    return true;
}

/* --- The thread ------------------------------------------------------------------------------- */

static void
bind_bytes(sqlite3_stmt *statement, int index, struct slice bytes)
{
    /* A NULL pointer would be SQL's NULL. */
    sqlite3_bind_blob64(statement, index, bytes.size == 0 ? "" : bytes.data, bytes.size,
                        SQLITE_STATIC);
}

static int
set_meta(struct definitions *definitions, const char *key, int64_t value)
{
    sqlite3_stmt *statement = definitions->statements[SET_META];
    sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, value);
    int status = sqlite3_step(statement) == SQLITE_DONE ? 0 : -1;
    sqlite3_reset(statement);
    return status;
}

/* What the database remembers beside the change itself. */
static int
note(struct definitions *definitions, const struct change *change)
{
    const struct definition *definition = &change->definition;
    if (change->statement == ADD_USER && !definitions->has_had_users) {
        definitions->has_had_users = true;
        return set_meta(definitions, "has_had_users", 1);
    }
    if (change->statement < REMOVE_VHOST && definition->queue_id > definitions->highest_queue_id) {
        definitions->highest_queue_id = definition->queue_id;
        return set_meta(definitions, "highest_queue_id", (int64_t)definition->queue_id);
    }
    return 0;
}

static int
apply(struct definitions *definitions, struct change *change)
{
    const struct definition *definition = &change->definition;
    sqlite3_stmt *statement = definitions->statements[change->statement];
    /* A statement has the parameters up to its highest; binding others would be an error. */
    int parameters = sqlite3_bind_parameter_count(statement);
    for (size_t i = 0; i < ARRAY_SIZE(byte_fields); i++)
        if (byte_fields[i].index <= parameters)
            bind_bytes(statement, byte_fields[i].index, *field_of(&change->definition, i));
    if (parameters >= 4)
        sqlite3_bind_int(statement, 4, definition->auto_delete);
    if (parameters >= 5)
        sqlite3_bind_int(statement, 5, definition->internal);
    if (parameters >= 6)
        sqlite3_bind_int64(statement, 6, (int64_t)definition->queue_id);
    if (parameters >= 9)
        sqlite3_bind_int(statement, 9, definition->destination_is_exchange);
    if (parameters >= 18)
        sqlite3_bind_int(statement, 18, definition->priority);
    if (parameters >= 19)
        sqlite3_bind_int(statement, 19, definition->is_operator);
    int status = sqlite3_step(statement) == SQLITE_DONE ? 0 : -1;
    sqlite3_reset(statement);
    return status == 0 ? note(definitions, change) : status;
}

/* What was committed is gone when somebody has removed the database or its WAL, and SQLite writes
 * on: it looks at neither, and on request at the former. */
static int
check_file(struct definitions *definitions, char text[DEFINITIONS_TEXT_SIZE])
{
    int has_moved = 0;
    if (sqlite3_file_control(definitions->database, "main", SQLITE_FCNTL_HAS_MOVED, &has_moved)
        != SQLITE_OK)
        has_moved = 0;
    bool has_wal_moved =
        definitions->wal_inode != 0 && definitions->wal_inode != definitions_wal_inode(definitions);
    if (has_moved == 0 && !has_wal_moved)
        return 0;
    snprintf(text, DEFINITIONS_TEXT_SIZE, "%s%s: was removed while the broker runs",
             definitions->path, has_moved == 0 ? "-wal" : "");
    return -ENOENT;
}

/* One transaction for all of them. After an error the database is as it was before. */
static int
write_changes(struct definitions *definitions, struct change *changes,
              char text[DEFINITIONS_TEXT_SIZE])
{
    uint64_t highest_queue_id = definitions->highest_queue_id;
    bool has_had_users = definitions->has_had_users;
    int status = definitions_execute(definitions, "BEGIN IMMEDIATE", "writing", text);
    for (; changes != NULL && status == 0; changes = changes->next)
        if (apply(definitions, changes) != 0)
            status = definitions_complain(definitions, "writing", text);
    if (status == 0)
        status = definitions_execute(definitions, "COMMIT", "committing", text);
    if (status == 0)
        status = check_file(definitions, text);
    if (status == 0)
        return 0;
    definitions->highest_queue_id = highest_queue_id;
    definitions->has_had_users = has_had_users;
    if (!sqlite3_get_autocommit(definitions->database))
        (void)sqlite3_exec(definitions->database, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* False: the broker ends, or has to, and cannot wait. */
static bool
wait_for_room(struct definitions *definitions)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SPACE_RETRY_SECONDS;
    pthread_mutex_lock(&definitions->mutex);
    int status = 0;
    while (!definitions->is_ending && !definitions->has_lost && status == 0)
        status = pthread_cond_timedwait(&definitions->work, &definitions->mutex, &until);
    bool may_wait = !definitions->is_ending && !definitions->has_lost;
    pthread_mutex_unlock(&definitions->mutex);
    return may_wait;
}

/* A full disk is waited for: nothing of the transaction was written, and who declared something has
 * no answer yet. Any other error ends the broker. */
static void
commit(struct definitions *definitions, struct change *changes, uint64_t count)
{
    char text[DEFINITIONS_TEXT_SIZE];
    bool is_waiting = false;
    if (atomic_load(&definitions->has_failed))
        return;
    int status;
    while ((status = write_changes(definitions, changes, text)) == -ENOSPC) {
        if (!is_waiting)
            log_warn("the disk is full: definitions wait for room",
                     LOG_STR("file", definitions->path));
        is_waiting = true;
        if (!wait_for_room(definitions))
            break;
    }
    if (status == 0 && is_waiting)
        log_info("there is room again: definitions are written",
                 LOG_STR("file", definitions->path));
    if (status == 0)
        atomic_fetch_add_explicit(&definitions->durable, count, memory_order_release);
    else
        fail(definitions, text);
}

static void *
run(void *context)
{
    struct definitions *definitions = context;
    pthread_mutex_lock(&definitions->mutex);
    for (;;) {
        while (definitions->first == NULL && !definitions->has_lost && !definitions->is_ending)
            pthread_cond_wait(&definitions->work, &definitions->mutex);
        struct change *changes = definitions->first;
        if (changes == NULL && !definitions->has_lost)
            break;
        definitions->has_lost = false;
        definitions->first = NULL;
        definitions->last = &definitions->first;
        pthread_mutex_unlock(&definitions->mutex);
        uint64_t count = 0;
        for (const struct change *change = changes; change != NULL; change = change->next)
            count++;
        commit(definitions, changes, count);
        while (changes != NULL) {
            struct change *next = changes->next;
            free(changes);
            changes = next;
        }
        definitions->on_durable(definitions->context);
        pthread_mutex_lock(&definitions->mutex);
    }
    pthread_mutex_unlock(&definitions->mutex);
    return NULL;
}

int
definitions_start(struct definitions *definitions, uint64_t log_id, void (*durable)(void *context),
                  void *context, char error[DEFINITIONS_TEXT_SIZE])
{
    definitions->on_durable = durable;
    definitions->context = context;
    if ((definitions->log_id != log_id && set_meta(definitions, "log_id", (int64_t)log_id) != 0)
        || (!definitions->was_clean
            && set_meta(definitions, "seen_message_id", (int64_t)definitions->seen_message_id) != 0)
        || set_meta(definitions, "clean", 0) != 0)
        return definitions_complain(definitions, "writing", error);
    int status = -pthread_create(&definitions->thread, NULL, run, definitions);
    if (status != 0)
        snprintf(error, DEFINITIONS_TEXT_SIZE, "%s: no thread for it: %s", definitions->path,
                 strerror(-status));
    definitions->has_thread = status == 0;
    return status;
}

void
definitions_stop(struct definitions *definitions, bool is_clean)
{
    if (!definitions->has_thread)
        return;
    pthread_mutex_lock(&definitions->mutex);
    definitions->is_ending = true;
    pthread_cond_signal(&definitions->work);
    pthread_mutex_unlock(&definitions->mutex);
    pthread_join(definitions->thread, NULL);
    if (is_clean && !atomic_load(&definitions->has_failed)) /* failing, it counts as a crash */
        (void)set_meta(definitions, "clean", 1);
}
