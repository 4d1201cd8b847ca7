/* Looking up many names in the headers of one message.
 *
 * A headers exchange asks for each argument of each binding, and a message may have tens of
 * thousands of headers. The first few questions go through the table; then it is gone through once
 * more, to be indexed by name. So the time is that of the questions plus that of the table, and not
 * their product; and what is usual, few headers, needs no index. */
#ifndef BROKER_HEADER_INDEX_H
#define BROKER_HEADER_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/table.h"
#include "base/compiler.h"

struct header_slot;

/* All 0 is one that was not used yet. */
struct header_index {
    struct slice headers;
    size_t looked_at;          /* headers, before there was an index */
    bool is_built;             /* the slots are those of the headers */
    struct header_slot *slots; /* owned; kept for the next message */
    size_t capacity;           /* of the array */
    size_t slot_count;         /* of these headers; a power of two */
};

/* From here on these are the headers: a valid table, borrowed as long as it is asked about. */
void header_index_begin(struct header_index *index, struct slice headers);

/* The first header of that name. 1: it is there; 0: it is not; -ENOMEM. */
MUST_CHECK int header_index_find(struct header_index *index, struct slice name,
                                 struct amqp_value *value);

void header_index_fini(struct header_index *index);

#endif
