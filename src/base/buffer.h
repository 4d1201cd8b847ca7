/* A growable run of bytes. A zeroed struct is an empty buffer and holds no memory. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"

struct buffer {
    uint8_t *data;
    size_t size;     /* bytes in use */
    size_t capacity; /* bytes allocated */
};

static inline void
buffer_init(struct buffer *buffer)
{
    *buffer = (struct buffer){0};
}

/* Frees the memory and leaves an empty buffer. */
void buffer_free(struct buffer *buffer);

/* Makes room for this many more bytes at data + size, so that the caller can write there and add to
 * size. Moves the data. -ENOMEM: nothing has changed. */
MUST_CHECK int buffer_reserve(struct buffer *buffer, size_t more);

/* Copies the bytes to the end. -ENOMEM: nothing has changed. */
MUST_CHECK int buffer_append(struct buffer *buffer, const void *data, size_t size);

MUST_CHECK int buffer_append_slice(struct buffer *buffer, struct slice slice);

/* Drops the first bytes (at most size); the rest moves to the front. */
void buffer_consume(struct buffer *buffer, size_t count);

/* Empty, with the memory kept. */
static inline void
buffer_clear(struct buffer *buffer)
{
    buffer->size = 0;
}

/* What is in it, lent until the next change. */
static inline struct slice
buffer_slice(const struct buffer *buffer)
{
    return (struct slice){.data = (const char *)buffer->data, .size = buffer->size};
}

#endif
