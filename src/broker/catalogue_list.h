/* Looking through all that a vhost has, a piece at a time, so that nobody waits for the mutex as
 * long as it takes to look at everything. */
#ifndef BROKER_CATALOGUE_LIST_H
#define BROKER_CATALOGUE_LIST_H

#include "broker/catalogue.h"

/* How far one is; zeroed at the beginning. */
struct catalogue_cursor {
    size_t at, layout;
    bool has_begun;
};

/* Calls visit, with the mutex held, for the next queues of the vhost, at most `count`, in no
 * order. 1: there may be more; 0: those were all. What is there from the first call to the last is
 * visited once; what comes or goes in between, perhaps. -EAGAIN: that can no longer be promised, as
 * the directory has been rearranged, and one has to begin again, with a new cursor; never so for a
 * new cursor. */
MUST_CHECK int catalogue_next_queues(
    struct catalogue *catalogue, struct vhost *vhost, struct catalogue_cursor *cursor, size_t count,
    void (*visit)(void *context, const struct queue_record *record), void *context);

/* The same for exchanges. */
MUST_CHECK int catalogue_next_exchanges(
    struct catalogue *catalogue, struct vhost *vhost, struct catalogue_cursor *cursor, size_t count,
    void (*visit)(void *context, const struct exchange *exchange), void *context);

/* With the mutex held: the exchange as it was declared, lent. */
struct exchange_declaration exchange_declaration_of(const struct exchange *exchange);

#endif
