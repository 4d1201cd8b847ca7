/* Messages: how the one allocation is laid out and filled. */
#include "broker/message.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "base/memory.h"

static struct message *
allocate(const struct message_parts *parts)
{
    size_t prefix_size = 2 + parts->exchange.size + parts->routing_key.size;
    struct message *message =
        malloc(sizeof(*message) + prefix_size + parts->properties.size + parts->body_size);
    if (message == NULL)
        return NULL;
    memory_count(
        (int64_t)(sizeof(*message) + prefix_size + parts->properties.size + parts->body_size));
    *message = (struct message){
        .references = 1, /* and no id */
        .properties_size = (uint32_t)parts->properties.size,
        .body_size = (uint32_t)parts->body_size,
        .prefix_size = (uint32_t)prefix_size,
        .priority = parts->decoded->priority,
        .expiration_ms = parts->expiration_ms,
    };
    if ((parts->decoded->flags & AMQP_HAS_DELIVERY_MODE) != 0
        && parts->decoded->delivery_mode == AMQP_PERSISTENT)
        message->flags |= MESSAGE_PERSISTENT;
    if ((parts->decoded->flags & AMQP_HAS_HEADERS) != 0)
        message->flags |= MESSAGE_HAS_HEADERS;
    if ((parts->decoded->flags & AMQP_HAS_PRIORITY) != 0)
        message->flags |= MESSAGE_HAS_PRIORITY;
    char *at = message->data;
    *at++ = (char)parts->exchange.size;
    memcpy(at, parts->exchange.data, parts->exchange.size);
    at += parts->exchange.size;
    *at++ = (char)parts->routing_key.size;
    memcpy(at, parts->routing_key.data, parts->routing_key.size);
    at += parts->routing_key.size;
    memcpy(at, parts->properties.data, parts->properties.size);
    return message;
}

struct message *
message_new(const struct message_parts *parts)
{
    return allocate(parts);
}

struct message *
message_derive(const struct message *message, const struct message_parts *parts)
{
    struct message_parts sized = *parts;
    sized.body_size = message->body_size;
    struct message *derived = allocate(&sized);
    if (derived != NULL) {
        struct slice body = message_body(message);
        memcpy(message_body_data(derived), body.data, body.size);
    }
    return derived;
}

struct message *
message_copy(const struct message *message)
{
    size_t size = message_memory(message);
    struct message *copy = malloc(size);
    if (copy == NULL)
        return NULL;
    memory_count((int64_t)size);
    memcpy(copy->data, message->data, size - sizeof(*copy));
    copy->id = 0;
    atomic_init(&copy->references, 1);
    copy->properties_size = message->properties_size;
    copy->body_size = message->body_size;
    copy->prefix_size = message->prefix_size;
    copy->flags = message->flags;
    copy->priority = message->priority;
    copy->expiration_ms = message->expiration_ms;
    return copy;
}

void
message_free(struct message *message)
{
    memory_count(-(int64_t)message_memory(message));
    free(message);
}

struct slice
message_headers(const struct message *message)
{
    struct amqp_properties properties;
    if ((message->flags & MESSAGE_HAS_HEADERS) == 0
        || !amqp_properties_decode(message_properties(message), &properties))
        return (struct slice){"", 0};
    return properties.headers;
}

size_t
message_more_keys(struct slice headers, const char *header, struct slice *keys, size_t capacity)
{
    struct amqp_value value;
    size_t count = 0;
    if (!amqp_table_find(headers, slice_from(header), &value) || value.type != 'A')
        return 0;
    struct amqp_table_iterator at = amqp_table_begin(value.bytes);
    while (count < capacity && amqp_array_next(&at, &value) == 1)
        if (value.type == 'S' && value.bytes.size <= AMQP_SHORTSTR_MAX)
            keys[count++] = value.bytes;
    return count;
}
