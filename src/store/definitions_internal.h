/* What the files of the definitions share: the object, SQLite with its errors as texts, and the
 * statements that change something. */
#ifndef STORE_DEFINITIONS_INTERNAL_H
#define STORE_DEFINITIONS_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "store/definitions.h"

/* The statements of definitions_write.c. */
enum statement {
    ADD_VHOST,
    ADD_POLICY,
    ADD_EXCHANGE,
    ADD_QUEUE,
    ADD_BINDING,
    ADD_USER,
    ADD_PERMISSION,
    ADD_TOPIC_PERMISSION,
    REMOVE_VHOST,
    REMOVE_POLICY,
    REMOVE_EXCHANGE,
    REMOVE_QUEUE,
    REMOVE_BINDING,
    REMOVE_USER,
    REMOVE_PERMISSION,
    REMOVE_TOPIC_PERMISSION,
    SET_META,
    STATEMENT_COUNT,
};

struct change;

struct definitions {
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char path[4096 + 32];
    ino_t wal_inode; /* of the file with what was committed last; 0: there is none */
    uint64_t highest_queue_id, seen_message_id, log_id;
    bool was_clean, has_had_users;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    /* Under the mutex: */
    struct change *first, **last;
    bool is_ending, has_lost; /* has_lost: of which on_durable was not told */
    char failure[DEFINITIONS_TEXT_SIZE];
    atomic_bool has_failed;
    _Atomic uint64_t submitted, durable;
    void (*on_durable)(void *context);
    void *context;
};

/* The text for people of what SQLite says now, about `what`, and its error: -ENOSPC (the disk or
 * the quota is full), -EWOULDBLOCK (another process has the file), -ENOMEM, else -EIO. */
MUST_CHECK int definitions_complain(const struct definitions *definitions, const char *what,
                                    char error[DEFINITIONS_TEXT_SIZE]);

/* The number of the WAL that has its name now; 0: none has. */
ino_t definitions_wal_inode(const struct definitions *definitions);

/* Runs SQL that gives nothing; `what` was being done. */
MUST_CHECK int definitions_execute(struct definitions *definitions, const char *sql,
                                   const char *what, char error[DEFINITIONS_TEXT_SIZE]);

/* The one integer that a query gives. */
MUST_CHECK int definitions_query_integer(struct definitions *definitions, const char *sql,
                                         int64_t *value, char error[DEFINITIONS_TEXT_SIZE]);

/* Brings an open database to the present schema (definitions_schema.c). Refuses one of a newer
 * version (-ENOTSUP) and of another program (-EBADMSG). */
MUST_CHECK int definitions_migrate(struct definitions *definitions,
                                   char error[DEFINITIONS_TEXT_SIZE]);

/* The statements, against the present schema (definitions_write.c); definitions_discard frees them,
 * and the changes that nobody wrote. */
MUST_CHECK int definitions_prepare(struct definitions *definitions,
                                   char error[DEFINITIONS_TEXT_SIZE]);
void definitions_discard(struct definitions *definitions);

/* Writes what was handed over, ends the thread if it was started, and notes, if so, that the broker
 * ended in order. */
void definitions_stop(struct definitions *definitions, bool is_clean);

#endif
