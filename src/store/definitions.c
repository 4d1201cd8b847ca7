/* The definitions database: opening, what it remembers beside the definitions, and closing. See the
 * header. */
#include "store/definitions.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/definitions_internal.h"

/* --- SQLite, with its errors as texts --------------------------------------------------------- */

static int
error_of_system(const struct definitions *definitions)
{
    return definitions->database == NULL ? ENOMEM : sqlite3_system_errno(definitions->database);
}

int
definitions_complain(const struct definitions *definitions, const char *what,
                     char error[DEFINITIONS_TEXT_SIZE])
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

int
definitions_execute(struct definitions *definitions, const char *sql, const char *what,
                    char error[DEFINITIONS_TEXT_SIZE])
{
    if (sqlite3_exec(definitions->database, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return definitions_complain(definitions, what, error);
}

int
definitions_query_integer(struct definitions *definitions, const char *sql, int64_t *value,
                          char error[DEFINITIONS_TEXT_SIZE])
{
    sqlite3_stmt *statement = NULL;
    int status = 0;
    if (sqlite3_prepare_v2(definitions->database, sql, -1, &statement, NULL) != SQLITE_OK
        || sqlite3_step(statement) != SQLITE_ROW)
        status = definitions_complain(definitions, "reading", error);
    else
        *value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

static int
read_meta(struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    int64_t value;
    int status = definitions_query_integer(
        definitions, "SELECT value FROM meta WHERE key = 'highest_queue_id'", &value, error);
    if (status != 0)
        return status;
    definitions->highest_queue_id = (uint64_t)value;
    status = definitions_query_integer(definitions, "SELECT value FROM meta WHERE key = 'clean'",
                                       &value, error);
    definitions->was_clean = status == 0 && value != 0;
    if (status == 0) /* not there before the first crash */
        status = definitions_query_integer(
            definitions, "SELECT coalesce(max(value), 0) FROM meta WHERE key = 'seen_message_id'",
            &value, error);
    if (status == 0)
        definitions->seen_message_id = (uint64_t)value;
    if (status == 0) /* not there before the first start */
        status = definitions_query_integer(
            definitions, "SELECT coalesce(max(value), 0) FROM meta WHERE key = 'log_id'", &value,
            error);
    if (status == 0)
        definitions->log_id = (uint64_t)value;
    if (status == 0)
        status = definitions_query_integer(
            definitions, "SELECT value FROM meta WHERE key = 'has_had_users'", &value, error);
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

ino_t
definitions_wal_inode(const struct definitions *definitions)
{
    char path[sizeof(definitions->path) + 8];
    struct stat status;
    snprintf(path, sizeof(path), "%s-wal", definitions->path);
    return stat(path, &status) == 0 ? status.st_ino : 0;
}

static void
destroy(struct definitions *definitions)
{
    definitions_discard(definitions);
    sqlite3_close(definitions->database);
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
        status = definitions_complain(definitions, "opening", error);
    /* One process at a time, without files for sharing memory; a commit is on disk when it returns.
     */
    if (status == 0)
        status = definitions_execute(definitions,
                                     "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
                                     "PRAGMA synchronous = FULL; BEGIN EXCLUSIVE; COMMIT",
                                     "opening", error);
    if (status == 0)
        status = definitions_migrate(definitions, error);
    if (status == 0)
        status = definitions_prepare(definitions, error);
    if (status == 0)
        status = read_meta(definitions, error);
    if (status != 0) {
        destroy(definitions);
        return status;
    }
    definitions->wal_inode = definitions_wal_inode(definitions);
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

uint64_t
definitions_log_identity(const struct definitions *definitions)
{
    return definitions->log_id;
}

bool
definitions_are_new(const struct definitions *definitions)
{
    return definitions->log_id == 0 && definitions->highest_queue_id == 0;
}

void
definitions_close(struct definitions *definitions, bool is_clean)
{
    definitions_stop(definitions, is_clean);
    destroy(definitions);
}
