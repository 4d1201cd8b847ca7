/* The broker and who has started it, as systemd does it (sd_notify(3), sd_listen_fds(3)): sockets
 * that are handed over, and messages that say how it is.
 *
 * The protocol is a datagram of a few words, so this speaks it itself: libsystemd would bring more
 * code into the process than it saves. Without a supervisor, every function does nothing. */
#ifndef SERVER_SUPERVISOR_H
#define SERVER_SUPERVISOR_H

#include "server/worker.h"

enum {
    SUPERVISOR_FIRST_SOCKET = 3, /* SD_LISTEN_FDS_START */
    /* The watchdog is told so many times in its interval, so that one that is late does no harm. */
    SUPERVISOR_WATCHDOG_SHARE = 4,
};

/* Reads what the environment says, takes it out of there, and connects to the supervisor; says in
 * the log when it cannot. Once, while there is one thread and before system calls are filtered. */
void supervisor_find(void);

/* How many listening sockets were handed over, from descriptor SUPERVISOR_FIRST_SOCKET on. */
unsigned supervisor_sockets(void);

/* Is the one of this number, from 0, for TLS: is it called "amqps"? */
bool supervisor_socket_is_tls(unsigned number);

/* "READY=1", "STOPPING=1" and the like. Waits for a second at most, when the supervisor does not
 * read; then it is not told, and the log says so. Any thread. */
void supervisor_tell(const char *state);

/* A reload begins; it ends with "READY=1". */
void supervisor_tell_reloading(void);

/* From now on, while the server runs, the supervisor hears in time that it is alive, if it wants to
 * know: as long as the loop of every worker goes round. */
void supervisor_watch(struct server *server);

#endif
