/* The definitions database: see the header. */
#include "store/definitions.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/log.h"

#define APPLICATION_ID 0x57687070 /* "Whpp" */

/* Seconds after which a full disk is tried again. */
enum { SPACE_RETRY_SECONDS = 1 };

/* What brings a database from version i to i + 1; the last one's number + 1 is the present version.
 * Names and tables are BLOBs: they may hold any bytes. */
static const char *const migrations[] = {
    "CREATE TABLE vhosts (n INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE);"
    "CREATE TABLE exchanges (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " name BLOB NOT NULL, type BLOB NOT NULL, auto_delete INTEGER NOT NULL,"
    " internal INTEGER NOT NULL, queue_id INTEGER NOT NULL, arguments BLOB NOT NULL,"
    " UNIQUE (vhost, name));"
    "CREATE TABLE queues (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " name BLOB NOT NULL, queue_id INTEGER NOT NULL, auto_delete INTEGER NOT NULL,"
    " arguments BLOB NOT NULL, UNIQUE (vhost, name));"
    "CREATE TABLE bindings (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " source BLOB NOT NULL, destination BLOB NOT NULL, to_exchange INTEGER NOT NULL,"
    " routing_key BLOB NOT NULL, arguments BLOB NOT NULL,"
    " UNIQUE (vhost, source, destination, to_exchange, routing_key, arguments));"
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);"
    "INSERT INTO meta VALUES ('highest_queue_id', 0), ('clean', 1);",
    /* Users. What is in a vhost goes with it, in one transaction. */
    "CREATE TABLE users (n INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE,"
    " password_hash BLOB NOT NULL, tags BLOB NOT NULL);"
    "CREATE TABLE permissions (n INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL,"
    " vhost BLOB NOT NULL, configure BLOB NOT NULL, write BLOB NOT NULL, read BLOB NOT NULL,"
    " UNIQUE (user, vhost));"
    "CREATE TABLE topic_permissions (n INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL,"
    " vhost BLOB NOT NULL, exchange BLOB NOT NULL, write BLOB NOT NULL, read BLOB NOT NULL,"
    " UNIQUE (user, vhost, exchange));"
    "CREATE TRIGGER vhost_removed AFTER DELETE ON vhosts BEGIN"
    " DELETE FROM bindings WHERE vhost = OLD.name;"
    " DELETE FROM queues WHERE vhost = OLD.name;"
    " DELETE FROM exchanges WHERE vhost = OLD.name;"
    " DELETE FROM permissions WHERE vhost = OLD.name;"
    " DELETE FROM topic_permissions WHERE vhost = OLD.name; END;"
    "INSERT INTO meta VALUES ('has_had_users', 0);",
};

enum { SCHEMA_VERSION = ARRAY_SIZE(migrations) };

enum statement {
    ADD_VHOST,
    ADD_EXCHANGE,
    ADD_QUEUE,
    ADD_BINDING,
    ADD_USER,
    ADD_PERMISSION,
    ADD_TOPIC_PERMISSION,
    REMOVE_VHOST,
    REMOVE_EXCHANGE,
    REMOVE_QUEUE,
    REMOVE_BINDING,
    REMOVE_USER,
    REMOVE_PERMISSION,
    REMOVE_TOPIC_PERMISSION,
    SET_META,
    STATEMENT_COUNT,
};

static const char *const statement_texts[STATEMENT_COUNT] = {
    [ADD_VHOST] = "INSERT OR IGNORE INTO vhosts (name) VALUES (?1)",
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

_Static_assert(ADD_VHOST + DEFINITION_KINDS == REMOVE_VHOST, "adding is found by the kind");
_Static_assert(REMOVE_VHOST + DEFINITION_KINDS == SET_META, "removing is found by the kind");

/* A change that waits for the thread, with its bytes behind it. */
struct change {
    struct change *next;
    enum statement statement;
    struct definition definition;
    char bytes[];
};

struct definitions {
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char path[4096 + 32];
    uint64_t highest_queue_id, seen_message_id, log_id;
    bool was_clean, has_had_users;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    /* Under the mutex: */
    struct change *first, **last;
    bool is_ending;
    char failure[DEFINITIONS_TEXT_SIZE];
    atomic_bool has_failed;
    _Atomic uint64_t submitted, durable;
    void (*on_durable)(void *context);
    void *context;
};

/* --- SQLite, with its errors as texts --------------------------------------------------------- */

static int
error_of_system(const struct definitions *definitions)
{
    return definitions->database == NULL ? ENOMEM : sqlite3_system_errno(definitions->database);
}

static int
complain(const struct definitions *definitions, const char *what, char error[DEFINITIONS_TEXT_SIZE])
{
    const char *reason =
        definitions->database == NULL ? "out of memory" : sqlite3_errmsg(definitions->database);
    int code =
        definitions->database == NULL ? SQLITE_NOMEM : sqlite3_errcode(definitions->database);
    if (code == SQLITE_BUSY)
        reason = "another process has it open";
    else if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT)
        reason = "the file is damaged, or no database";
    snprintf(error, DEFINITIONS_TEXT_SIZE, "%s: %s: %s", definitions->path, what, reason);
    if (code == SQLITE_FULL || (code == SQLITE_IOERR && error_of_system(definitions) == EDQUOT))
        return -ENOSPC;
    return code == SQLITE_BUSY ? -EWOULDBLOCK : code == SQLITE_NOMEM ? -ENOMEM : -EIO;
}

static int
execute(struct definitions *definitions, const char *sql, const char *what,
        char error[DEFINITIONS_TEXT_SIZE])
{
    if (sqlite3_exec(definitions->database, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return complain(definitions, what, error);
}

/* The one integer that a query gives. */
static int
query_integer(struct definitions *definitions, const char *sql, int64_t *value,
              char error[DEFINITIONS_TEXT_SIZE])
{
    sqlite3_stmt *statement = NULL;
    int status = 0;
    if (sqlite3_prepare_v2(definitions->database, sql, -1, &statement, NULL) != SQLITE_OK
        || sqlite3_step(statement) != SQLITE_ROW)
        status = complain(definitions, "reading", error);
    else
        *value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return status;
}

static void
bind_bytes(sqlite3_stmt *statement, int index, struct slice bytes)
{
    /* A NULL pointer would be SQL's NULL. */
    sqlite3_bind_blob64(statement, index, bytes.size == 0 ? "" : bytes.data, bytes.size,
                        SQLITE_STATIC);
}

/* --- Opening ---------------------------------------------------------------------------------- */

static int
migrate(struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    int64_t version, application_id;
    int status = query_integer(definitions, "PRAGMA user_version", &version, error);
    if (status == 0)
        status = query_integer(definitions, "PRAGMA application_id", &application_id, error);
    if (status != 0)
        return status;
    if (version > SCHEMA_VERSION) {
        snprintf(error, DEFINITIONS_TEXT_SIZE,
                 "%s: was written by a newer version (format %lld, this one knows %d)",
                 definitions->path, (long long)version, (int)SCHEMA_VERSION);
        return -ENOTSUP;
    }
    if (version > 0 && application_id != APPLICATION_ID) {
        snprintf(error, DEFINITIONS_TEXT_SIZE, "%s: is a database of another program",
                 definitions->path);
        return -EBADMSG;
    }
    for (; version < SCHEMA_VERSION && status == 0; version++) {
        char sql[128];
        snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %lld; COMMIT",
                 APPLICATION_ID, (long long)version + 1);
        status = execute(definitions, "BEGIN EXCLUSIVE", "bringing it up to date", error);
        if (status == 0)
            status = execute(definitions, migrations[version], "bringing it up to date", error);
        if (status == 0)
            status = execute(definitions, sql, "bringing it up to date", error);
    }
    return status;
}

static int
prepare(struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(definitions->database, statement_texts[i], -1,
                               SQLITE_PREPARE_PERSISTENT, &definitions->statements[i], NULL)
            != SQLITE_OK)
            return complain(definitions, "preparing", error);
    return 0;
}

static int
read_meta(struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    int64_t value;
    int status = query_integer(definitions, "SELECT value FROM meta WHERE key = 'highest_queue_id'",
                               &value, error);
    if (status != 0)
        return status;
    definitions->highest_queue_id = (uint64_t)value;
    status =
        query_integer(definitions, "SELECT value FROM meta WHERE key = 'clean'", &value, error);
    definitions->was_clean = status == 0 && value != 0;
    if (status == 0) /* not there before the first crash */
        status = query_integer(
            definitions, "SELECT coalesce(max(value), 0) FROM meta WHERE key = 'seen_message_id'",
            &value, error);
    if (status == 0)
        definitions->seen_message_id = (uint64_t)value;
    if (status == 0) /* not there before the first start */
        status = query_integer(definitions,
                               "SELECT coalesce(max(value), 0) FROM meta WHERE key = 'log_id'",
                               &value, error);
    if (status == 0)
        definitions->log_id = (uint64_t)value;
    if (status == 0)
        status = query_integer(definitions, "SELECT value FROM meta WHERE key = 'has_had_users'",
                               &value, error);
    definitions->has_had_users = status == 0 && value != 0;
    return status;
}

/* SQLite makes files that all may read; ours are the owner's. */
static int
make_file(const struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    int file = open(definitions->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        int code = errno;
        snprintf(error, DEFINITIONS_TEXT_SIZE, "%s: %s", definitions->path, strerror(code));
        return -code;
    }
    close(file);
    return 0;
}

static void
destroy(struct definitions *definitions)
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(definitions->statements[i]);
    sqlite3_close(definitions->database);
    while (definitions->first != NULL) {
        struct change *change = definitions->first;
        definitions->first = change->next;
        free(change);
    }
    pthread_mutex_destroy(&definitions->mutex);
    pthread_cond_destroy(&definitions->work);
    free(definitions);
}

int
definitions_open(struct definitions **out, const char *directory, char error[DEFINITIONS_TEXT_SIZE])
{
    struct definitions *definitions = calloc(1, sizeof(*definitions));
    if (definitions == NULL) {
        snprintf(error, DEFINITIONS_TEXT_SIZE, "out of memory");
        return -ENOMEM;
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&definitions->mutex, NULL);
    pthread_cond_init(&definitions->work, &attributes);
    pthread_condattr_destroy(&attributes);
    definitions->last = &definitions->first;
    int status = 0;
    if (snprintf(definitions->path, sizeof(definitions->path), "%s/definitions.sqlite", directory)
        >= (int)sizeof(definitions->path)) {
        snprintf(error, DEFINITIONS_TEXT_SIZE, "%.200s...: the path is too long", directory);
        status = -ENAMETOOLONG;
    }
    if (status == 0)
        status = make_file(definitions, error);
    if (status == 0
        && sqlite3_open_v2(definitions->path, &definitions->database,
                           SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL)
               != SQLITE_OK)
        status = complain(definitions, "opening", error);
    /* One process at a time, without files for sharing memory; a commit is on disk when it returns.
     */
    if (status == 0)
        status = execute(definitions,
                         "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
                         "PRAGMA synchronous = FULL; BEGIN EXCLUSIVE; COMMIT",
                         "opening", error);
    if (status == 0)
        status = migrate(definitions, error);
    if (status == 0)
        status = prepare(definitions, error);
    if (status == 0)
        status = read_meta(definitions, error);
    if (status != 0) {
        destroy(definitions);
        return status;
    }
    *out = definitions;
    return 0;
}

uint64_t
definitions_highest_queue_id(const struct definitions *definitions)
{
    return definitions->highest_queue_id;
}

bool
definitions_has_had_users(const struct definitions *definitions)
{
    return definitions->has_had_users;
}

bool
definitions_was_clean(const struct definitions *definitions)
{
    return definitions->was_clean;
}

uint64_t
definitions_seen_message(const struct definitions *definitions)
{
    return definitions->seen_message_id;
}

void
definitions_see_message(struct definitions *definitions, uint64_t message_id)
{
    if (message_id > definitions->seen_message_id)
        definitions->seen_message_id = message_id;
}

bool
definitions_are_new(const struct definitions *definitions)
{
    return definitions->log_id == 0 && definitions->highest_queue_id == 0;
}

/* --- Loading ---------------------------------------------------------------------------------- */

static struct slice
column(sqlite3_stmt *statement, int index)
{
    const char *data = sqlite3_column_blob(statement, index);
    return (struct slice){data == NULL ? "" : data, (size_t)sqlite3_column_bytes(statement, index)};
}

/* The same columns for every kind, so that one function reads them; users and permissions, which
 * have few of them, have more behind. */
static const struct {
    enum definition_kind kind;
    const char *sql;
} loads[] = {
    {DEFINITION_VHOST, "SELECT name, '', '', 0, 0, 0, '', '', 0, '' FROM vhosts ORDER BY n"},
    {DEFINITION_EXCHANGE, "SELECT vhost, name, type, auto_delete, internal, queue_id, arguments,"
                          " '', 0, '' FROM exchanges ORDER BY n"},
    {DEFINITION_QUEUE, "SELECT vhost, name, '', auto_delete, 0, queue_id, arguments, '', 0, ''"
                       " FROM queues ORDER BY n"},
    {DEFINITION_BINDING, "SELECT vhost, source, '', 0, 0, 0, arguments, destination, to_exchange,"
                         " routing_key FROM bindings ORDER BY n"},
    {DEFINITION_USER, "SELECT '', '', '', 0, 0, 0, '', '', 0, '', name, password_hash, tags, '',"
                      " '', '' FROM users ORDER BY n"},
    {DEFINITION_PERMISSION, "SELECT vhost, '', '', 0, 0, 0, '', '', 0, '', user, '', '', configure,"
                            " write, read FROM permissions ORDER BY n"},
    {DEFINITION_TOPIC_PERMISSION, "SELECT vhost, exchange, '', 0, 0, 0, '', '', 0, '', user, '',"
                                  " '', '', write, read FROM topic_permissions ORDER BY n"},
};

enum { COLUMNS_OF_ALL = 10 };

static struct definition
definition_of(sqlite3_stmt *statement, enum definition_kind kind)
{
    struct definition definition = {
        .kind = kind,
        .vhost = column(statement, 0),
        .name = column(statement, 1),
        .type = column(statement, 2),
        .auto_delete = sqlite3_column_int(statement, 3) != 0,
        .internal = sqlite3_column_int(statement, 4) != 0,
        .queue_id = (uint64_t)sqlite3_column_int64(statement, 5),
        .arguments = column(statement, 6),
        .destination = column(statement, 7),
        .destination_is_exchange = sqlite3_column_int(statement, 8) != 0,
        .routing_key = column(statement, 9),
    };
    if (sqlite3_column_count(statement) == COLUMNS_OF_ALL)
        return definition;
    struct slice *const more[] = {&definition.user,  &definition.password_hash,
                                  &definition.tags,  &definition.configure,
                                  &definition.write, &definition.read};
    for (size_t i = 0; i < ARRAY_SIZE(more); i++)
        *more[i] = column(statement, COLUMNS_OF_ALL + (int)i);
    return definition;
}

static void
cannot_restore(const struct definitions *definitions, const struct definition *definition,
               int status, char error[DEFINITIONS_TEXT_SIZE])
{
    struct slice name = definition->kind >= DEFINITION_USER ? definition->user : definition->name;
    snprintf(error, DEFINITIONS_TEXT_SIZE, "%s: the definition of '%.*s' cannot be restored: %s",
             definitions->path, name.size > 200 ? 200 : (int)name.size, name.data,
             strerror(-status));
}

int
definitions_load(struct definitions *definitions,
                 int (*visit)(void *context, const struct definition *definition), void *context,
                 char error[DEFINITIONS_TEXT_SIZE])
{
    int status = 0;
    for (size_t i = 0; i < ARRAY_SIZE(loads) && status == 0; i++) {
        sqlite3_stmt *statement = NULL;
        int step = SQLITE_ERROR;
        if (sqlite3_prepare_v2(definitions->database, loads[i].sql, -1, &statement, NULL)
            == SQLITE_OK)
            while (status == 0 && (step = sqlite3_step(statement)) == SQLITE_ROW) {
                struct definition definition = definition_of(statement, loads[i].kind);
                status = visit(context, &definition);
                if (status != 0)
                    cannot_restore(definitions, &definition, status, error);
            }
        if (status == 0 && step != SQLITE_DONE)
            status = complain(definitions, "reading", error);
        sqlite3_finalize(statement);
    }
    return status;
}

/* --- Changing --------------------------------------------------------------------------------- */

static struct slice
keep(char **at, struct slice from)
{
    struct slice kept = {*at, from.size};
    if (from.size > 0)
        memcpy(*at, from.data, from.size);
    *at += from.size;
    return kept;
}

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
};

static struct slice *
field_of(struct definition *definition, size_t i)
{
    return (struct slice *)(void *)((char *)definition + byte_fields[i].offset);
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
        fail(definitions, "out of memory for a change of the definitions");
        return 0;
    }
    char *at = change->bytes;
    change->next = NULL;
    change->statement = statement;
    change->definition = from;
    for (size_t i = 0; i < ARRAY_SIZE(byte_fields); i++)
        *field_of(&change->definition, i) = keep(&at, *field_of(&from, i));
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
    return submit(definitions, ADD_VHOST + definition->kind, definition);
}

uint64_t
definitions_remove(struct definitions *definitions, const struct definition *definition)
{
    return submit(definitions, REMOVE_VHOST + definition->kind, definition);
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
    int status = sqlite3_step(statement) == SQLITE_DONE ? 0 : -1;
    sqlite3_reset(statement);
    return status == 0 ? note(definitions, change) : status;
}

/* One transaction for all of them. After an error the database is as it was before. */
static int
write_changes(struct definitions *definitions, struct change *changes,
              char text[DEFINITIONS_TEXT_SIZE])
{
    uint64_t highest_queue_id = definitions->highest_queue_id;
    bool has_had_users = definitions->has_had_users;
    int status = execute(definitions, "BEGIN IMMEDIATE", "writing", text);
    for (; changes != NULL && status == 0; changes = changes->next)
        if (apply(definitions, changes) != 0)
            status = complain(definitions, "writing", text);
    if (status == 0)
        status = execute(definitions, "COMMIT", "committing", text);
    if (status == 0)
        return 0;
    definitions->highest_queue_id = highest_queue_id;
    definitions->has_had_users = has_had_users;
    if (!sqlite3_get_autocommit(definitions->database))
        (void)sqlite3_exec(definitions->database, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* False: the broker ends and cannot wait. */
static bool
wait_for_room(struct definitions *definitions)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SPACE_RETRY_SECONDS;
    pthread_mutex_lock(&definitions->mutex);
    int status = 0;
    while (!definitions->is_ending && status == 0)
        status = pthread_cond_timedwait(&definitions->work, &definitions->mutex, &until);
    bool may_wait = !definitions->is_ending;
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
        while (definitions->first == NULL && !definitions->is_ending)
            pthread_cond_wait(&definitions->work, &definitions->mutex);
        struct change *changes = definitions->first;
        if (changes == NULL)
            break;
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
        return complain(definitions, "writing", error);
    int status = -pthread_create(&definitions->thread, NULL, run, definitions);
    if (status != 0)
        snprintf(error, DEFINITIONS_TEXT_SIZE, "%s: no thread for it: %s", definitions->path,
                 strerror(-status));
    definitions->has_thread = status == 0;
    return status;
}

void
definitions_close(struct definitions *definitions, bool is_clean)
{
    if (definitions->has_thread) {
        pthread_mutex_lock(&definitions->mutex);
        definitions->is_ending = true;
        pthread_cond_signal(&definitions->work);
        pthread_mutex_unlock(&definitions->mutex);
        pthread_join(definitions->thread, NULL);
        if (is_clean && !atomic_load(&definitions->has_failed))
            (void)set_meta(definitions, "clean",
                           1); /* failing, the next start takes it for a crash */
    }
    destroy(definitions);
}
