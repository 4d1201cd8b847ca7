/* Direct reply-to: where replies go that are addressed to a waiting channel rather than a queue.
 *
 * A directory of the names that have been given out, for all shards. */
#ifndef BROKER_REPLY_TO_H
#define BROKER_REPLY_TO_H

#include "broker/catalogue.h"

struct reply_address {
    struct ref channel;
    uint32_t consumer; /* the channel's number of its consumer */
};

/* Adds a name (copied). -EEXIST, -ENOMEM. */
MUST_CHECK int reply_to_add(struct catalogue *catalogue, struct slice name,
                            struct reply_address address);

/* Takes it out; a name that is not there is ignored. */
void reply_to_remove(struct catalogue *catalogue, struct slice name);

/* False: nobody waits under that name. */
bool reply_to_find(struct catalogue *catalogue, struct slice name, struct reply_address *address);

/* The key by which the directory's entries are found; for the catalogue. */
struct slice reply_to_name_of_entry(const void *entry);

#endif
