/* The schema of the definitions database, and what brings an older one up to date. */
#include <errno.h>
#include <stdio.h>

#include "base/compiler.h"
#include "store/definitions_internal.h"

#define APPLICATION_ID 0x57687070 /* "Whpp" */

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
    /* Policies. A trigger cannot be changed, only made anew. */
    "CREATE TABLE policies (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " name BLOB NOT NULL, is_operator INTEGER NOT NULL, pattern BLOB NOT NULL,"
    " priority INTEGER NOT NULL, apply_to BLOB NOT NULL, definition BLOB NOT NULL,"
    " UNIQUE (vhost, is_operator, name));"
    "DROP TRIGGER vhost_removed;"
    "CREATE TRIGGER vhost_removed AFTER DELETE ON vhosts BEGIN"
    " DELETE FROM bindings WHERE vhost = OLD.name;"
    " DELETE FROM queues WHERE vhost = OLD.name;"
    " DELETE FROM exchanges WHERE vhost = OLD.name;"
    " DELETE FROM policies WHERE vhost = OLD.name;"
    " DELETE FROM permissions WHERE vhost = OLD.name;"
    " DELETE FROM topic_permissions WHERE vhost = OLD.name; END;",
};

enum { SCHEMA_VERSION = ARRAY_SIZE(migrations) };

int
definitions_migrate(struct definitions *definitions, char error[DEFINITIONS_TEXT_SIZE])
{
    int64_t version, application_id;
    int status = definitions_query_integer(definitions, "PRAGMA user_version", &version, error);
    if (status == 0)
        status =
            definitions_query_integer(definitions, "PRAGMA application_id", &application_id, error);
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
        status =
            definitions_execute(definitions, "BEGIN EXCLUSIVE", "bringing it up to date", error);
        if (status == 0)
            status = definitions_execute(definitions, migrations[version], "bringing it up to date",
                                         error);
        if (status == 0)
            status = definitions_execute(definitions, sql, "bringing it up to date", error);
    }
    return status;
}
