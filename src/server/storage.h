/* Storage: what joins the broker to its data directory. At the start the catalogue and the queues
 * are made again from the definitions and the log; from then on every durable change and every
 * persistent message goes there. */
#ifndef SERVER_STORAGE_H
#define SERVER_STORAGE_H

#include "server/worker.h"

enum {
    STORAGE_TEXT_SIZE = 768,
};

struct storage;

/* Opens (or makes) the data directory, restores what is there into the server's shards and users,
 * and gives every worker its journal. Before server_run. Publishers wait while the disk has less
 * than disk_free_low bytes free. -1 with one line for the operator. */
MUST_CHECK int storage_open(struct storage **storage, struct server *server, const char *directory,
                            uint64_t disk_free_low, char error[STORAGE_TEXT_SIZE]);

/* Whether there had ever been a user in the data directory when it was opened. */
bool storage_has_had_users(const struct storage *storage);

/* Waits until every change of the definitions that was made before the call is on disk: 0.
 * -ETIMEDOUT: it is not yet, for instance because the disk is full. Any thread but a worker's. */
MUST_CHECK int storage_wait_definitions(struct storage *storage, int64_t timeout_ms);

/* What was written is made durable, then all is closed. The workers have stopped and submitted. */
void storage_close(struct storage *storage);

#endif
