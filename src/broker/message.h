/* A message: one allocation with everything that was published, never changed once it is shared.
 *
 * The exchange's name and the routing key are kept in the form in which basic.deliver wants them
 * (two short strings, one behind the other), the properties in the form in which they came; so
 * delivering is copying. Queues hold references, not copies: fan-out to a thousand queues is one
 * message. What the broker must know of the properties on the hot path is decoded once, when the
 * message is built, into the fields of the struct. */
#ifndef BROKER_MESSAGE_H
#define BROKER_MESSAGE_H

#include <stdatomic.h>
#include <stdint.h>

#include "amqp/properties.h"
#include "amqp/slice.h"

enum message_flags {
    MESSAGE_PERSISTENT = 1 << 0,   /* delivery-mode 2 */
    MESSAGE_HAS_HEADERS = 1 << 1,  /* the properties hold a headers table */
    MESSAGE_HAS_PRIORITY = 1 << 2, /* the publisher set a priority */
    MESSAGE_HAS_BCC = 1 << 3,      /* the headers hold a BCC, which no consumer may see */
};

/* No expiration property. */
enum { MESSAGE_NO_EXPIRATION = -1 };

/* Routing keys of one message; more in CC and BCC are not looked at. */
enum { MESSAGE_KEYS_MAX = 1024 };

struct message {
    uint64_t id; /* in the journal; 0: it is not kept there */
    _Atomic uint32_t references;
    uint32_t properties_size;
    uint32_t body_size;
    uint32_t prefix_size; /* both short strings with their length octets */
    uint8_t flags;
    uint8_t priority;
    uint16_t published_high; /* when it was published, by message_published_ms */
    uint32_t published_low;
    int64_t expiration_ms; /* the expiration property, or MESSAGE_NO_EXPIRATION */
    char data[];           /* prefix, properties (flags and values), body */
};

/* What a message is made from. The slices are copied. */
struct message_parts {
    struct slice exchange;                 /* at most 255 bytes */
    struct slice routing_key;              /* at most 255 bytes */
    struct slice properties;               /* as on the wire, already found valid */
    const struct amqp_properties *decoded; /* the same, decoded */
    int64_t expiration_ms; /* parsed from the expiration property, or MESSAGE_NO_EXPIRATION */
    size_t body_size;
};

/* A new message with one reference, its body uninitialised: the caller fills message_body_data().
 * NULL when memory ran out. */
struct message *message_new(const struct message_parts *parts);

/* A copy, not known to the journal and not published yet. NULL: out of memory. */
struct message *message_copy(const struct message *message);

/* A copy with other exchange, routing key and properties but the same body. NULL: out of memory. */
struct message *message_derive(const struct message *message, const struct message_parts *parts);

static inline struct message *
message_ref(struct message *message)
{
    atomic_fetch_add_explicit(&message->references, 1, memory_order_relaxed);
    return message;
}

/* Takes n further references at once. */
static inline void
message_ref_many(struct message *message, uint32_t n)
{
    if (n > 0)
        atomic_fetch_add_explicit(&message->references, n, memory_order_relaxed);
}

/* When it was published, by the monotonic clock; of one that was read again after a restart perhaps
 * a negative time. 48 bits, which is what room there is: enough for 4000 years. */
static inline int64_t
message_published_ms(const struct message *message)
{
    uint64_t bits = (uint64_t)message->published_high << 32 | message->published_low;
    return (int64_t)(bits << 16) >> 16;
}

/* While nobody else sees the message. */
static inline void
message_set_published(struct message *message, int64_t monotonic_ms)
{
    message->published_high = (uint16_t)((uint64_t)monotonic_ms >> 32);
    message->published_low = (uint32_t)monotonic_ms;
}

void message_free(struct message *message);

/* Gives one reference back. The last holder needs no atomic write: nobody else can see it. */
static inline void
message_unref(struct message *message)
{
    if (atomic_load_explicit(&message->references, memory_order_acquire) == 1
        || atomic_fetch_sub_explicit(&message->references, 1, memory_order_acq_rel) == 1)
        message_free(message);
}

/* Exchange and routing key as two short strings. */
static inline struct slice
message_prefix(const struct message *message)
{
    return (struct slice){message->data, message->prefix_size};
}

static inline struct slice
message_exchange(const struct message *message)
{
    return (struct slice){message->data + 1, (uint8_t)message->data[0]};
}

static inline struct slice
message_routing_key(const struct message *message)
{
    const char *at = message->data + 1 + (uint8_t)message->data[0];
    return (struct slice){at + 1, (uint8_t)at[0]};
}

static inline struct slice
message_properties(const struct message *message)
{
    return (struct slice){message->data + message->prefix_size, message->properties_size};
}

static inline char *
message_body_data(struct message *message)
{
    return message->data + message->prefix_size + message->properties_size;
}

static inline struct slice
message_body(const struct message *message)
{
    return (struct slice){message->data + message->prefix_size + message->properties_size,
                          message->body_size};
}

/* What the message costs in memory. */
static inline size_t
message_memory(const struct message *message)
{
    return sizeof(*message) + message->prefix_size + message->properties_size + message->body_size;
}

/* The headers table of its properties; empty if there is none. */
struct slice message_headers(const struct message *message);

/* The routing keys in the CC (or BCC) header, up to `capacity` of them; how many. */
size_t message_more_keys(struct slice headers, const char *header, struct slice *keys,
                         size_t capacity);

#endif
