/* Building and reading AMQP frames, outside the hot path. See wire.h. */
#include "perf/wire.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

void
wire_buffer_fini(struct wire_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct wire_buffer){0};
}

uint8_t *
wire_extend(struct wire_buffer *buffer, size_t size)
{
    if (buffer->capacity - buffer->size < size) {
        size_t capacity = buffer->capacity ? buffer->capacity : 512;
        while (capacity - buffer->size < size)
            capacity *= 2;
        uint8_t *data = realloc(buffer->data, capacity);
        if (!data) {
            fprintf(stderr, "whippet-perf: out of memory\n");
            exit(1);
        }
        buffer->data = data;
        buffer->capacity = capacity;
    }
    uint8_t *at = buffer->data + buffer->size;
    buffer->size += size;
    return at;
}

void
wire_u8(struct wire_buffer *buffer, uint8_t value)
{
    *wire_extend(buffer, 1) = value;
}

void
wire_u16(struct wire_buffer *buffer, uint16_t value)
{
    uint8_t *at = wire_extend(buffer, 2);
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

void
wire_u32(struct wire_buffer *buffer, uint32_t value)
{
    wire_put_u32(wire_extend(buffer, 4), value);
}

void
wire_u64(struct wire_buffer *buffer, uint64_t value)
{
    wire_put_u64(wire_extend(buffer, 8), value);
}

void
wire_bytes(struct wire_buffer *buffer, const void *bytes, size_t size)
{
    if (size > 0)
        memcpy(wire_extend(buffer, size), bytes, size);
}

void
wire_short_string(struct wire_buffer *buffer, const char *string)
{
    size_t size = strlen(string);
    assert(size <= UINT8_MAX);
    wire_u8(buffer, (uint8_t)size);
    wire_bytes(buffer, string, size);
}

void
wire_long_string(struct wire_buffer *buffer, const void *bytes, size_t size)
{
    assert(size <= UINT32_MAX);
    wire_u32(buffer, (uint32_t)size);
    wire_bytes(buffer, bytes, size);
}

size_t
wire_table_begin(struct wire_buffer *buffer)
{
    size_t place = buffer->size;
    wire_u32(buffer, 0);
    return place;
}

void
wire_table_end(struct wire_buffer *buffer, size_t place)
{
    assert(buffer->size - place >= 4);
    wire_put_u32(buffer->data + place, (uint32_t)(buffer->size - place - 4));
}

void
wire_frame_begin(struct wire_buffer *buffer, uint8_t type, uint16_t channel)
{
    buffer->frame_start = buffer->size;
    wire_u8(buffer, type);
    wire_u16(buffer, channel);
    wire_u32(buffer, 0);
}

void
wire_method_begin(struct wire_buffer *buffer, uint16_t channel, enum method_id method)
{
    wire_frame_begin(buffer, FRAME_METHOD, channel);
    wire_u32(buffer, (uint32_t)method);
}

void
wire_frame_end(struct wire_buffer *buffer)
{
    size_t payload = buffer->size - buffer->frame_start - FRAME_HEAD_SIZE;
    wire_put_u32(buffer->data + buffer->frame_start + 3, (uint32_t)payload);
    wire_u8(buffer, FRAME_END);
}

/* The next size bytes, or NULL when they are not there. */
static const uint8_t *
reader_take(struct wire_reader *reader, size_t size)
{
    if (reader->failed || (size_t)(reader->end - reader->at) < size) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *at = reader->at;
    reader->at += size;
    return at;
}

uint8_t
wire_read_u8(struct wire_reader *reader)
{
    const uint8_t *at = reader_take(reader, 1);
    return at ? *at : 0;
}

uint16_t
wire_read_u16(struct wire_reader *reader)
{
    const uint8_t *at = reader_take(reader, 2);
    return at ? wire_get_u16(at) : 0;
}

uint32_t
wire_read_u32(struct wire_reader *reader)
{
    const uint8_t *at = reader_take(reader, 4);
    return at ? wire_get_u32(at) : 0;
}

uint64_t
wire_read_u64(struct wire_reader *reader)
{
    const uint8_t *at = reader_take(reader, 8);
    return at ? wire_get_u64(at) : 0;
}

const uint8_t *
wire_read_short_string(struct wire_reader *reader, size_t *size)
{
    *size = wire_read_u8(reader);
    const uint8_t *at = reader_take(reader, *size);
    if (!at)
        *size = 0;
    return at;
}
