/* The users and vhosts of the configuration file, and the user of the first start. */
#ifndef SERVER_USERS_H
#define SERVER_USERS_H

#include "config/config.h"
#include "server/storage.h"
#include "server/worker.h"

enum { USERS_ERROR_MAX = 1024 };

/* Makes the vhosts that the file names and are not there, and the users of the file those that it
 * names (see access_apply). A vhost that the file no longer names stays, with what is in it. At the
 * start, and whenever the file was read again: on the first worker's thread, or before server_run.
 * 0, or -1 with one line why the old users stay. */
MUST_CHECK int users_apply(struct server *server, const struct settings *settings,
                           char error[USERS_ERROR_MAX]);

/* A data directory that has never had a user, and a file that names none: "guest", with the
 * password "guest" that everybody knows, may do everything in the vhost "/", from this machine.
 * After users_apply. -1 with one line. */
MUST_CHECK int users_begin(struct server *server, const struct storage *storage,
                           const struct settings *settings, char error[USERS_ERROR_MAX]);

#endif
