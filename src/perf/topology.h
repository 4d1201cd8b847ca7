/* The queues, exchange and bindings of a run: named, made before it and removed after it.
 *
 * Queues that the run names itself (PREFIX-1 ...) are its own: what an interrupted run left of them
 * is deleted first. What the user names and what exists already is used as it is and never deleted:
 * it may be somebody's. */
#ifndef PERF_TOPOLOGY_H
#define PERF_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "perf/connection.h"
#include "perf/options.h"

enum { TOPOLOGY_NAME_SIZE = 256 };

struct topology {
    const struct options *options;
    uint64_t queues;
    char exchange[TOPOLOGY_NAME_SIZE]; /* empty: the default exchange */
    const char *exchange_type;
    uint64_t copies; /* queues that get each message; 0: not known */
    bool made_exchange, made_queues;
    uint64_t messages_before; /* that were in the queues already */
    uint16_t next_channel;    /* of the control connection */
};

/* The name of queue i (from 0). */
void topology_queue_name(const struct topology *topology, uint64_t i,
                         char name[TOPOLOGY_NAME_SIZE]);

/* The key with which messages for queue i are published, and with which it is bound. */
void topology_routing_key(const struct topology *topology, uint64_t i,
                          char key[TOPOLOGY_NAME_SIZE]);

/* Makes everything over the connection. 0, or -1 with the reason in connection->error. */
int topology_make(struct topology *topology, const struct options *options,
                  struct connection *connection);

/* Removes what topology_make made, unless --keep was given. 0 or -1. */
int topology_remove(struct topology *topology, struct connection *connection);

#endif
