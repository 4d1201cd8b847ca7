/* What the process may do, and how it comes to be allowed less.
 *
 * Root is needed for two things only: to bind the ports below 1024 and to make the data directory.
 * Both are done first; then the process becomes its user for good, before there is any second
 * thread, so that every thread is born with nothing. */
#ifndef SERVER_PRIVILEGES_H
#define SERVER_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/compiler.h"

enum {
    PRIVILEGES_ERROR_MAX = 512,
    /* File descriptors that are no connections: the log's segments, the database, listeners. */
    PRIVILEGES_FILES_RESERVED = 256,
};

/* Whom to become. */
struct identity {
    const char *user; /* lent: as in the configuration; "" stays who it is */
    uid_t uid;
    gid_t gid;
    bool has_name; /* the system knows the user by name, and so its further groups */
};

/* Looks the names up; a user or a group that the system does not know may be a number, and the
 * group is the user's own if it is "". Asks the system's databases, so it may block. -1 with one
 * line for the operator: also when it cannot become that user, for it is not root. */
MUST_CHECK int identity_find(struct identity *identity, const char *user, const char *group,
                             char error[PRIVILEGES_ERROR_MAX]);

/* Makes the directory, if it is not there, for its user alone (0700), and syncs the one above it,
 * so that it keeps its name. -1 with one line. */
MUST_CHECK int privileges_make_directory(const struct identity *identity, const char *path,
                                         char error[PRIVILEGES_ERROR_MAX]);

/* Becomes that user, with its groups and no capability, and with no way back or to more: not even
 * by running a set-user-ID program. Before any thread is started. Root without a user stays root,
 * with a warning in the log. -1 with one line: the process must end. */
MUST_CHECK int privileges_drop(const struct identity *identity, char error[PRIVILEGES_ERROR_MAX]);

/* Whether the kernel may write the memory, with messages and secrets in it, to a core file.
 * Without, other processes of the user may not look into it either; except for a debugger that has
 * started it. After privileges_drop, which the kernel takes for a reason to forbid it. */
void privileges_allow_core(bool is_allowed);

/* As many open files as the system lets it have; says in the log how many connections that is. */
void privileges_raise_files(void);

#endif
