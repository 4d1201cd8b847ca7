/* From the configuration's `tls` section to the server's TLS. */
#ifndef SERVER_TLS_SETTINGS_H
#define SERVER_TLS_SETTINGS_H

#include "config/config.h"
#include "server/worker.h"

/* TLS is no longer wanted, which takes a restart: what is in use stays so. */
enum { TLS_SETTINGS_NEED_RESTART = 1 };

/* Reads the files that the settings name, and gives what they make to the server's new connections
 * (server_tls_reload, whose rules of threads these are). 0: they are in force; without certificates
 * and addresses for TLS, and with none in use, there is nothing to do. TLS_SETTINGS_NEED_RESTART,
 * never at the start. -1 with one line for the operator: whatever was in use before still is. */
MUST_CHECK int tls_settings_apply(const struct settings *settings, struct server *server,
                                  char error[TLS_ERROR_MAX]);

/* Would it succeed? */
MUST_CHECK int tls_settings_check(const struct settings *settings, char error[TLS_ERROR_MAX]);

#endif
