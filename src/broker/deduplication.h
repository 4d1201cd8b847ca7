/* Deduplication: messages carry an identifier in the header x-deduplication-header, and who has
 * seen it before drops the message. */
#ifndef BROKER_DEDUPLICATION_H
#define BROKER_DEDUPLICATION_H

#include "amqp/properties.h"
#include "amqp/reply.h"

/* The identifiers that an exchange remembers: at most x-cache-size, the oldest forgotten first,
 * each for x-cache-ttl milliseconds (an argument of the exchange, or a header of the message). */
struct deduplication;

/* Reads an exchange's arguments. NULL with the error. */
struct deduplication *deduplication_new(struct slice arguments, struct amqp_error *error);
void deduplication_free(struct deduplication *deduplication);

/* Whether a message with these properties was seen before; if not it is from now on. A message
 * without identifier never was. */
bool deduplication_has_seen(struct deduplication *deduplication,
                            const struct amqp_properties *properties, int64_t now_ms);

/* A message with these headers has not been seen after all: it was refused behind the exchange, and
 * will perhaps come again. */
void deduplication_forget(struct deduplication *deduplication, struct slice headers);

/* The identifier in a message's headers, lent: type and value as on the wire. False if it has none.
 */
bool deduplication_key(struct slice headers, struct slice *key);

#endif
