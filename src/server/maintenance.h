/* What is done with a data directory while no broker uses it: looking into it, and repairing it. */
#ifndef SERVER_MAINTENANCE_H
#define SERVER_MAINTENANCE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/compiler.h"
#include "server/storage.h"

/* Sets damaged parts of the message log aside, into log/lost+found/ of the directory, so that the
 * broker can start, and says on `out` what was done, a line each. -1 with one line for the
 * operator: also when a broker is running. */
MUST_CHECK int maintenance_repair(const char *directory, FILE *out, char error[STORAGE_TEXT_SIZE]);

/* Prints the message log's files and what is alive in them and in each queue, as text or as one
 * JSON object. Changes nothing in the log, and may be done while the broker runs, but queues have
 * numbers instead of names then. Without a broker, opening the definitions for the names brings an
 * older database up to date, as a start would. -1 as above. */
MUST_CHECK int maintenance_inspect(const char *directory, bool json, FILE *out,
                                   char error[STORAGE_TEXT_SIZE]);

#endif
