/* The properties of class basic's content (AMQP 0-9-1 sections 1.8.2 and 4.2.6.1): sixteen flags,
 * then the values of those present, in the order of the flags from the highest bit down. */
#ifndef AMQP_PROPERTIES_H
#define AMQP_PROPERTIES_H

#include "amqp/slice.h"
#include "amqp/wire.h"

#define AMQP_HAS_CONTENT_TYPE (1u << 15)
#define AMQP_HAS_CONTENT_ENCODING (1u << 14)
#define AMQP_HAS_HEADERS (1u << 13)
#define AMQP_HAS_DELIVERY_MODE (1u << 12)
#define AMQP_HAS_PRIORITY (1u << 11)
#define AMQP_HAS_CORRELATION_ID (1u << 10)
#define AMQP_HAS_REPLY_TO (1u << 9)
#define AMQP_HAS_EXPIRATION (1u << 8)
#define AMQP_HAS_MESSAGE_ID (1u << 7)
#define AMQP_HAS_TIMESTAMP (1u << 6)
#define AMQP_HAS_TYPE (1u << 5)
#define AMQP_HAS_USER_ID (1u << 4)
#define AMQP_HAS_APP_ID (1u << 3)
#define AMQP_HAS_CLUSTER_ID (1u << 2)

/* delivery_mode */
#define AMQP_TRANSIENT 1u
#define AMQP_PERSISTENT 2u

struct amqp_properties {
    uint16_t flags; /* AMQP_HAS_...; a property whose flag is not set is zero and has no meaning */
    struct slice content_type, content_encoding;
    struct slice headers; /* a table's content, without its four octets of length */
    struct slice correlation_id, reply_to, expiration, message_id, type, user_id, app_id,
        cluster_id;
    uint8_t delivery_mode, priority;
    uint64_t timestamp; /* seconds since 1970 by convention; not interpreted */
};

/* Decodes the flags and values of a content header. The slices point into `wire`. False if it does
 * not end exactly where the flags say, or if it sets one of the two lowest flags: bit 0 announces
 * more flags and bit 1 a property that does not exist. The headers table is not looked into:
 * amqp_table_validate does that for whoever reads it. */
bool amqp_properties_decode(struct slice wire, struct amqp_properties *properties);

/* The size in bytes of what amqp_properties_encode writes. */
size_t amqp_properties_size(const struct amqp_properties *properties);

/* Writes flags and values. A short string over 255 bytes overflows the writer. */
void amqp_properties_encode(struct amqp_writer *writer, const struct amqp_properties *properties);

#endif
