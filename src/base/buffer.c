/* The growable buffer: see base/buffer.h. */
#include "base/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_CAPACITY_MIN = 256 };

void
buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    buffer_init(buffer);
}

int
buffer_reserve(struct buffer *buffer, size_t more)
{
    size_t wanted = buffer->capacity != 0 ? buffer->capacity : BUFFER_CAPACITY_MIN;
    uint8_t *data;

    if (buffer->capacity - buffer->size >= more && buffer->data != NULL)
        return 0;
    if (more > SIZE_MAX / 4 - buffer->size)
        return -ENOMEM;
    while (wanted - buffer->size < more)
        wanted *= 2;
    data = realloc(buffer->data, wanted);
    if (data == NULL)
        return -ENOMEM;
    buffer->data = data;
    buffer->capacity = wanted;
    return 0;
}

int
buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    int result;

    if (size == 0)
        return 0;
    result = buffer_reserve(buffer, size);
    if (result != 0)
        return result;
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

int
buffer_append_slice(struct buffer *buffer, struct slice slice)
{
    return buffer_append(buffer, slice.data, slice.size);
}

void
buffer_consume(struct buffer *buffer, size_t count)
{
    if (count >= buffer->size) {
        buffer->size = 0;
        return;
    }
    if (count != 0)
        memmove(buffer->data, buffer->data + count, buffer->size - count);
    buffer->size -= count;
}
