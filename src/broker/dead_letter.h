/* What is written on a message that goes on from one queue to somewhere else: on a dead letter how
 * it died, on a delayed message that its delay is over. */
#ifndef BROKER_DEAD_LETTER_H
#define BROKER_DEAD_LETTER_H

#include <stdbool.h>

#include "amqp/properties.h"
#include "broker/message.h"

enum departure_reason {
    DEPARTS_REJECTED,
    DEPARTS_EXPIRED,
    DEPARTS_MAXLEN,
    DEPARTS_DELIVERY_LIMIT,
    DEPARTS_DELAY_OVER,
};

/* How a message left its queue, and where it goes. */
struct death {
    const struct message *message;
    enum departure_reason reason;
    struct slice queue_name;
    struct slice exchange; /* to which it goes */
    bool has_routing_key;  /* else it keeps its own */
    struct slice routing_key;
};

/* The message as it goes on, with one reference: with other headers, and for a dead letter with the
 * exchange and key to which it goes now. NULL: out of memory. *properties are those of the new
 * message, and live in it. */
struct message *dead_letter_new(const struct death *death, int64_t wall_ms,
                                struct amqp_properties *properties);

/* Whether a message that died by itself (not by a reject) before may enter this queue: false in a
 * circle of automatic dead-lettering. */
bool dead_letter_may_enter(const struct message *message, struct slice queue_name);

#endif
