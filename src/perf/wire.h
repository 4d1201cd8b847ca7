/* The little of AMQP 0-9-1 that a load generator needs: building frames and reading their fields.
 *
 * The instrument has its own encoding on purpose, and does not use the broker's: what both sides
 * of a measurement share, no measurement can find wrong. Building is for set-up and for the frames
 * that are prepared once and sent a million times; reading checks every length. */
#ifndef PERF_WIRE_H
#define PERF_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    FRAME_METHOD = 1,
    FRAME_HEADER = 2,
    FRAME_BODY = 3,
    FRAME_HEARTBEAT = 8,
    FRAME_END = 0xce,
    FRAME_HEAD_SIZE = 7,   /* type, channel, payload size */
    FRAME_OVERHEAD = 8,    /* the head and the end octet */
    FRAME_MIN_SIZE = 4096, /* the least frame-max a peer may ask for (4.2.3) */
};

/* Class and method id as they stand on the wire: class in the upper half. */
#define METHOD(class_id, method_id) ((uint32_t)(class_id) << 16 | (uint32_t)(method_id))

enum method_id {
    CONNECTION_START = METHOD(10, 10),
    CONNECTION_START_OK = METHOD(10, 11),
    CONNECTION_SECURE = METHOD(10, 20),
    CONNECTION_TUNE = METHOD(10, 30),
    CONNECTION_TUNE_OK = METHOD(10, 31),
    CONNECTION_OPEN = METHOD(10, 40),
    CONNECTION_OPEN_OK = METHOD(10, 41),
    CONNECTION_CLOSE = METHOD(10, 50),
    CONNECTION_CLOSE_OK = METHOD(10, 51),
    CONNECTION_BLOCKED = METHOD(10, 60),
    CONNECTION_UNBLOCKED = METHOD(10, 61),
    CHANNEL_OPEN = METHOD(20, 10),
    CHANNEL_OPEN_OK = METHOD(20, 11),
    CHANNEL_FLOW = METHOD(20, 20),
    CHANNEL_FLOW_OK = METHOD(20, 21),
    CHANNEL_CLOSE = METHOD(20, 40),
    CHANNEL_CLOSE_OK = METHOD(20, 41),
    EXCHANGE_DECLARE = METHOD(40, 10),
    EXCHANGE_DECLARE_OK = METHOD(40, 11),
    EXCHANGE_DELETE = METHOD(40, 20),
    EXCHANGE_DELETE_OK = METHOD(40, 21),
    QUEUE_DECLARE = METHOD(50, 10),
    QUEUE_DECLARE_OK = METHOD(50, 11),
    QUEUE_BIND = METHOD(50, 20),
    QUEUE_BIND_OK = METHOD(50, 21),
    QUEUE_DELETE = METHOD(50, 40),
    QUEUE_DELETE_OK = METHOD(50, 41),
    BASIC_QOS = METHOD(60, 10),
    BASIC_QOS_OK = METHOD(60, 11),
    BASIC_CONSUME = METHOD(60, 20),
    BASIC_CONSUME_OK = METHOD(60, 21),
    BASIC_CANCEL = METHOD(60, 30),
    BASIC_PUBLISH = METHOD(60, 40),
    BASIC_RETURN = METHOD(60, 50),
    BASIC_DELIVER = METHOD(60, 60),
    BASIC_ACK = METHOD(60, 80),
    BASIC_NACK = METHOD(60, 120),
    CONFIRM_SELECT = METHOD(85, 10),
    CONFIRM_SELECT_OK = METHOD(85, 11),
};

static inline uint16_t
wire_get_u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof(value));
    return __builtin_bswap16(value);
}

static inline uint32_t
wire_get_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return __builtin_bswap32(value);
}

static inline uint64_t
wire_get_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return __builtin_bswap64(value);
}

static inline void
wire_put_u32(uint8_t *at, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(at, &value, sizeof(value));
}

static inline void
wire_put_u64(uint8_t *at, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(at, &value, sizeof(value));
}

/* --- Building --------------------------------------------------------------------------------- */

/* A growing buffer of bytes to send. Out of memory ends the program: it has nothing to save. */
struct wire_buffer {
    uint8_t *data;
    size_t size, capacity;
    size_t frame_start; /* of the frame that is being built */
};

void wire_buffer_fini(struct wire_buffer *buffer);

/* Makes room for that many more bytes and returns where they go; the size grows by them. */
uint8_t *wire_extend(struct wire_buffer *buffer, size_t size);

void wire_u8(struct wire_buffer *buffer, uint8_t value);
void wire_u16(struct wire_buffer *buffer, uint16_t value);
void wire_u32(struct wire_buffer *buffer, uint32_t value);
void wire_u64(struct wire_buffer *buffer, uint64_t value);
void wire_bytes(struct wire_buffer *buffer, const void *bytes, size_t size);

/* At most 255 bytes; callers have checked what comes from outside. */
void wire_short_string(struct wire_buffer *buffer, const char *string);
void wire_long_string(struct wire_buffer *buffer, const void *bytes, size_t size);

/* A table is built between these two: begin returns the place that end fills in. */
size_t wire_table_begin(struct wire_buffer *buffer);
void wire_table_end(struct wire_buffer *buffer, size_t place);

/* A frame is built between begin and end. */
void wire_frame_begin(struct wire_buffer *buffer, uint8_t type, uint16_t channel);
void wire_method_begin(struct wire_buffer *buffer, uint16_t channel, enum method_id method);
void wire_frame_end(struct wire_buffer *buffer);

/* --- Reading ---------------------------------------------------------------------------------- */

/* The fields of a payload, read one after the other. A field that is not there reads as zero or
 * empty, and the reader remembers that it failed. */
struct wire_reader {
    const uint8_t *at, *end;
    bool failed;
};

uint8_t wire_read_u8(struct wire_reader *reader);
uint16_t wire_read_u16(struct wire_reader *reader);
uint32_t wire_read_u32(struct wire_reader *reader);
uint64_t wire_read_u64(struct wire_reader *reader);

/* Points into the payload; the size goes to *size. */
const uint8_t *wire_read_short_string(struct wire_reader *reader, size_t *size);

#endif
