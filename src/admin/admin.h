/* Administration: an HTTP API on a Unix socket, for the operator and the programs that he runs.
 *
 * Who may connect is said by the socket: it is for the broker's user (mode 0600), and a process of
 * anybody else but root is refused. The API's thread is one of its own, so that it may wait; what
 * is answered as done is on disk. */
#ifndef ADMIN_ADMIN_H
#define ADMIN_ADMIN_H

#include "admin/request.h"

enum {
    ADMIN_ERROR_MAX = 512,
    ADMIN_BODY_MAX = 64 * 1024, /* bytes: far beyond what any route takes */
    ADMIN_CONNECTIONS_MAX = 64,
    ADMIN_IDLE_S = 10,        /* a connection on which nothing moves is closed */
    ADMIN_REQUEST_MS = 15000, /* so is one whose request takes longer to come */
    ADMIN_DURABLE_MS = 30000, /* a change that is not on disk by then is answered so */
};

struct admin;

/* Makes the socket that the settings name and starts the thread. A socket that a broker which died
 * has left is replaced; one on which somebody listens is not. After the privileges were given up,
 * since the file is to be the broker's own, and before the sandbox is entered, which lets nobody
 * make a socket. *admin is NULL if no socket is wanted. The subject is copied, and what it names
 * stays until admin_close. -1 with one line for the operator. */
MUST_CHECK int admin_open(struct admin **admin, const struct admin_subject *subject,
                          char error[ADMIN_ERROR_MAX]);

/* Ends the thread, after the request that it is at, and removes the socket. After server_run, so
 * that nobody waits for a worker; before the storage is closed. NULL is nothing to do. */
void admin_close(struct admin *admin);

#endif
