/* The policies of the configuration file. They are in memory only, as its users are: what the file
 * no longer says is gone at the next reading. */
#ifndef SERVER_FILE_POLICIES_H
#define SERVER_FILE_POLICIES_H

#include "config/config.h"
#include "server/worker.h"

enum { FILE_POLICIES_ERROR_MAX = 1024 };

/* Whether the core would take the policies that the settings declare; what it says against one is
 * added to the errors, with its place. -1: there was something. Needs no server. */
MUST_CHECK int file_policies_check(const struct settings *settings, struct config_errors *errors);

/* Makes the policies of the file those that the settings, found good by file_policies_check,
 * declare. A policy for a vhost that is not there waits until it is, and this is called again. On
 * the first worker's thread. 0, or -1 with one line: memory is short, and some of them are not in
 * force. */
MUST_CHECK int file_policies_apply(struct server *server, const struct settings *settings,
                                   char error[FILE_POLICIES_ERROR_MAX]);

/* The same before server_run, when the queues have been restored under the policies of the database
 * alone: none of them goes by one that the file overrules, not even for its first turn. */
MUST_CHECK int file_policies_begin(struct server *server, const struct settings *settings,
                                   char error[FILE_POLICIES_ERROR_MAX]);

#endif
