/* Reading all definitions, at the start: see definitions_load. */
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "store/definitions_internal.h"

static struct slice
column(sqlite3_stmt *statement, int index)
{
    const char *data = sqlite3_column_blob(statement, index);
    return (struct slice){data == NULL ? "" : data, (size_t)sqlite3_column_bytes(statement, index)};
}

/* The same columns for every kind, so that one function reads them; users, permissions and
 * policies, which have few of them, have more behind. */
static const struct {
    enum definition_kind kind;
    const char *sql;
} loads[] = {
    {DEFINITION_VHOST, "SELECT name, '', '', 0, 0, 0, '', '', 0, '' FROM vhosts ORDER BY n"},
    {DEFINITION_POLICY, "SELECT vhost, name, apply_to, 0, 0, 0, definition, '', 0, '', '', '', '',"
                        " '', '', '', pattern, priority, is_operator FROM policies ORDER BY n"},
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

enum { COLUMNS_OF_ALL = 10, COLUMNS_OF_ACCESS = 16 };

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
    if (sqlite3_column_count(statement) == COLUMNS_OF_ACCESS)
        return definition;
    definition.pattern = column(statement, COLUMNS_OF_ACCESS);
    definition.priority = (int32_t)sqlite3_column_int(statement, COLUMNS_OF_ACCESS + 1);
    definition.is_operator = sqlite3_column_int(statement, COLUMNS_OF_ACCESS + 2) != 0;
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
            status = definitions_complain(definitions, "reading", error);
        sqlite3_finalize(statement);
    }
    return status;
}
