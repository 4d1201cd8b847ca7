/* Reading and writing the primitive types of AMQP 0-9-1 (section 4.2.5), in network byte order.
 *
 * Both cursors are sticky: the first read past the end marks the reader failed and every later read
 * gives zero or an empty slice; the first write that does not fit marks the writer overflowed and
 * nothing more is written. So a decoder reads all its fields and asks once at the end. Neither ever
 * touches a byte outside [at, end), and neither allocates.
 *
 * Consecutive bits share octets, the first in the lowest bit; any other type ends the run. */
#ifndef AMQP_WIRE_H
#define AMQP_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "amqp/slice.h"

#if defined(__GNUC__)
#define AMQP_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define AMQP_ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define AMQP_UNLIKELY(condition) (condition)
#define AMQP_ALWAYS_INLINE static inline
#endif

/* The longest shortstr: its length is one octet. */
#define AMQP_SHORTSTR_MAX 255u

/* Integers at any address, most significant octet first. */

AMQP_ALWAYS_INLINE uint16_t
amqp_load_u16(const uint8_t *from)
{
    return (uint16_t)((unsigned)from[0] << 8 | from[1]);
}

AMQP_ALWAYS_INLINE uint32_t
amqp_load_u32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

AMQP_ALWAYS_INLINE uint64_t
amqp_load_u64(const uint8_t *from)
{
    return (uint64_t)amqp_load_u32(from) << 32 | amqp_load_u32(from + 4);
}

AMQP_ALWAYS_INLINE void
amqp_store_u16(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

AMQP_ALWAYS_INLINE void
amqp_store_u32(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 24);
    to[1] = (uint8_t)(value >> 16);
    to[2] = (uint8_t)(value >> 8);
    to[3] = (uint8_t)value;
}

AMQP_ALWAYS_INLINE void
amqp_store_u64(uint8_t *to, uint64_t value)
{
    amqp_store_u32(to, (uint32_t)(value >> 32));
    amqp_store_u32(to + 4, (uint32_t)value);
}

/* ---- reading ---- */

/* A cursor over borrowed bytes; slices read from it point into them. */
struct amqp_reader {
    const uint8_t *at, *end;
    uint8_t bits;      /* the octet of the current run of bits */
    uint8_t bit_index; /* the next bit of it to read; 0: the next bit starts a new octet */
    bool failed;
};

/* A reader over the given bytes, without ownership. `bytes.data` may be NULL if the size is 0. */
AMQP_ALWAYS_INLINE struct amqp_reader
amqp_reader_of(struct slice bytes)
{
    const uint8_t *start = (const uint8_t *)(bytes.data != NULL ? bytes.data : "");

    return (struct amqp_reader){.at = start, .end = start + bytes.size};
}

AMQP_ALWAYS_INLINE size_t
amqp_reader_left(const struct amqp_reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* Whether every read succeeded and every byte was consumed. */
AMQP_ALWAYS_INLINE bool
amqp_reader_done(const struct amqp_reader *reader)
{
    return !reader->failed && reader->at == reader->end;
}

/* Takes `count` bytes: their address, or NULL (and the reader failed) if fewer are left. */
AMQP_ALWAYS_INLINE const uint8_t *
amqp_read_bytes(struct amqp_reader *reader, size_t count)
{
    const uint8_t *at = reader->at;

    reader->bit_index = 0;
    if (AMQP_UNLIKELY(amqp_reader_left(reader) < count || reader->failed)) {
        reader->failed = true;
        reader->at = reader->end;
        return NULL;
    }
    reader->at = at + count;
    return at;
}

AMQP_ALWAYS_INLINE uint8_t
amqp_read_u8(struct amqp_reader *reader)
{
    const uint8_t *at = amqp_read_bytes(reader, 1);

    return at != NULL ? *at : 0;
}

AMQP_ALWAYS_INLINE uint16_t
amqp_read_u16(struct amqp_reader *reader)
{
    const uint8_t *at = amqp_read_bytes(reader, 2);

    return at != NULL ? amqp_load_u16(at) : 0;
}

AMQP_ALWAYS_INLINE uint32_t
amqp_read_u32(struct amqp_reader *reader)
{
    const uint8_t *at = amqp_read_bytes(reader, 4);

    return at != NULL ? amqp_load_u32(at) : 0;
}

AMQP_ALWAYS_INLINE uint64_t
amqp_read_u64(struct amqp_reader *reader)
{
    const uint8_t *at = amqp_read_bytes(reader, 8);

    return at != NULL ? amqp_load_u64(at) : 0;
}

AMQP_ALWAYS_INLINE bool
amqp_read_bit(struct amqp_reader *reader)
{
    unsigned index = reader->bit_index;

    if (index == 0)
        reader->bits = amqp_read_u8(reader);
    reader->bit_index = (uint8_t)((index + 1) & 7);
    return (reader->bits >> index & 1) != 0;
}

/* `size` bytes as a slice; empty, never NULL, after a failure. */
AMQP_ALWAYS_INLINE struct slice
amqp_read_slice(struct amqp_reader *reader, size_t size)
{
    const uint8_t *at = amqp_read_bytes(reader, size);

    if (AMQP_UNLIKELY(at == NULL))
        return (struct slice){.data = "", .size = 0};
    return (struct slice){.data = (const char *)at, .size = size};
}

/* Up to 255 bytes, any bytes: amqp_is_utf8 says whether they are text. */
AMQP_ALWAYS_INLINE struct slice
amqp_read_shortstr(struct amqp_reader *reader)
{
    return amqp_read_slice(reader, amqp_read_u8(reader));
}

AMQP_ALWAYS_INLINE struct slice
amqp_read_longstr(struct amqp_reader *reader)
{
    return amqp_read_slice(reader, amqp_read_u32(reader));
}

/* The content of a table, without its four octets of length. Every entry has been checked
 * (amqp_table_validate with AMQP_TABLE_MAX_DEPTH); a malformed table fails the reader. */
struct slice amqp_read_table(struct amqp_reader *reader);

/* Whether the bytes are well-formed UTF-8: no overlong forms, no surrogates, nothing past U+10FFFF.
 */
bool amqp_is_utf8(struct slice bytes);

/* ---- writing ---- */

struct amqp_writer {
    uint8_t *at, *end;
    uint8_t *bit_octet; /* where the current run of bits is gathered */
    uint8_t bit_index;  /* the next bit of it to write; 0: the next bit starts a new octet */
    bool overflow;
};

AMQP_ALWAYS_INLINE struct amqp_writer
amqp_writer_of(uint8_t *out, size_t capacity)
{
    return (struct amqp_writer){.at = out, .end = capacity != 0 ? out + capacity : out};
}

/* Room for `count` bytes: where to put them, or NULL (and the writer overflowed). */
AMQP_ALWAYS_INLINE uint8_t *
amqp_write_room(struct amqp_writer *writer, size_t count)
{
    uint8_t *at = writer->at;

    writer->bit_index = 0;
    if (AMQP_UNLIKELY((size_t)(writer->end - at) < count || writer->overflow)) {
        writer->overflow = true;
        return NULL;
    }
    writer->at = at + count;
    return at;
}

AMQP_ALWAYS_INLINE void
amqp_write_u8(struct amqp_writer *writer, uint8_t value)
{
    uint8_t *at = amqp_write_room(writer, 1);

    if (at != NULL)
        *at = value;
}

AMQP_ALWAYS_INLINE void
amqp_write_u16(struct amqp_writer *writer, uint16_t value)
{
    uint8_t *at = amqp_write_room(writer, 2);

    if (at != NULL)
        amqp_store_u16(at, value);
}

AMQP_ALWAYS_INLINE void
amqp_write_u32(struct amqp_writer *writer, uint32_t value)
{
    uint8_t *at = amqp_write_room(writer, 4);

    if (at != NULL)
        amqp_store_u32(at, value);
}

AMQP_ALWAYS_INLINE void
amqp_write_u64(struct amqp_writer *writer, uint64_t value)
{
    uint8_t *at = amqp_write_room(writer, 8);

    if (at != NULL)
        amqp_store_u64(at, value);
}

AMQP_ALWAYS_INLINE void
amqp_write_bit(struct amqp_writer *writer, bool value)
{
    unsigned index = writer->bit_index;

    if (index == 0) {
        writer->bit_octet = amqp_write_room(writer, 1);
        if (writer->bit_octet != NULL)
            *writer->bit_octet = 0;
    }
    if (AMQP_UNLIKELY(writer->overflow))
        return;
    *writer->bit_octet = (uint8_t)(*writer->bit_octet | (unsigned)value << index);
    writer->bit_index = (uint8_t)((index + 1) & 7);
}

/* The bytes alone, without a length. */
AMQP_ALWAYS_INLINE void
amqp_write_slice(struct amqp_writer *writer, struct slice bytes)
{
    uint8_t *at = amqp_write_room(writer, bytes.size);

    if (at != NULL && bytes.size != 0)
        memcpy(at, bytes.data, bytes.size);
}

/* A string of more than 255 bytes overflows the writer: nothing is ever cut silently. */
AMQP_ALWAYS_INLINE void
amqp_write_shortstr(struct amqp_writer *writer, struct slice string)
{
    if (AMQP_UNLIKELY(string.size > AMQP_SHORTSTR_MAX)) {
        writer->overflow = true;
        return;
    }
    amqp_write_u8(writer, (uint8_t)string.size);
    amqp_write_slice(writer, string);
}

AMQP_ALWAYS_INLINE void
amqp_write_longstr(struct amqp_writer *writer, struct slice string)
{
    if (AMQP_UNLIKELY(string.size > UINT32_MAX)) {
        writer->overflow = true;
        return;
    }
    amqp_write_u32(writer, (uint32_t)string.size);
    amqp_write_slice(writer, string);
}

/* `content` is the table's entries, without the four octets of length that this adds. */
AMQP_ALWAYS_INLINE void
amqp_write_table(struct amqp_writer *writer, struct slice content)
{
    amqp_write_longstr(writer, content);
}

#endif
