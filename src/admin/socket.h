/* The socket of the administration: where it is, who made it, and who is on its other end. */
#ifndef ADMIN_SOCKET_H
#define ADMIN_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/compiler.h"

/* The socket's path: the setting admin.socket, which begins at the data directory unless it begins
 * with a slash. -1 with one line: it is too long for the system. */
MUST_CHECK int socket_path(struct sockaddr_un *address, const char *data_dir, const char *setting,
                           char *error, size_t error_size);

/* A listening socket there, mode 0600; -1 with one line. */
MUST_CHECK int socket_listen(const struct sockaddr_un *address, char *error, size_t error_size);

/* Whether the process that connected is root's or this process's own user's; *uid is whose. */
bool socket_is_trusted(int fd, uid_t *uid);

#endif
