/* Reading the configuration again while the broker runs (SIGHUP).
 *
 * The file is read whole, as at the start. With an error in it nothing changes, and each error is
 * logged. Else each part of the broker is given the new settings; one that cannot use them (say, a
 * certificate that is none) keeps its old ones and says so, and the others go on. Then what became
 * of each key that has changed is logged: it is in force, it was refused with its part, or it takes
 * effect only at the start. */
#ifndef SERVER_RELOAD_H
#define SERVER_RELOAD_H

#include "config/config.h"
#include "server/worker.h"

enum { RELOAD_ERROR_MAX = 512 };

/* The configuration as at the start: defaults, the file, the options of the command line. -1 with
 * what is wrong with the file. */
typedef int reload_read(void *context, struct settings *settings, struct config_errors *errors);

struct reload {
    struct server *server;
    struct settings running; /* what is in force */
    reload_read *read;
    void *context;
};

/* The server's on_reload; `context` is a struct reload. On the first worker's thread: the file is
 * small and is read in the turn, which other connections of this worker wait for. */
void reload_now(void *context);

/* The limits of sessions that these settings name. */
struct session_limits reload_limits(const struct settings *settings);

#endif
