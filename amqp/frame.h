/* Frames (AMQP 0-9-1 sections 2.3.5 and 4.2): the envelope around methods, content headers and
 * bodies; the content header; and the eight octets with which a connection begins.
 *
 * A frame is type (1), channel (2), size (4), payload (size), end octet 0xCE. */
#ifndef AMQP_FRAME_H
#define AMQP_FRAME_H

#include "amqp/slice.h"
#include "amqp/wire.h"

#define AMQP_FRAME_METHOD 1u
#define AMQP_FRAME_HEADER 2u
#define AMQP_FRAME_BODY 3u
#define AMQP_FRAME_HEARTBEAT 8u

#define AMQP_FRAME_END 0xCEu
#define AMQP_FRAME_HEADER_SIZE 7u /* type, channel, size */
#define AMQP_FRAME_OVERHEAD 8u    /* the header and the end octet */
#define AMQP_FRAME_MIN_SIZE 4096u /* the smallest frame_max a peer may ask for */

/* Class, weight, body size, property flags: a content header's payload without property values. */
#define AMQP_CONTENT_HEADER_FIXED_SIZE 14u

struct amqp_frame {
    uint8_t type;
    uint16_t channel;
    struct slice payload; /* borrowed from the parsed bytes */
};

enum amqp_frame_result {
    AMQP_FRAME_OK,
    AMQP_FRAME_INCOMPLETE,
    AMQP_FRAME_TOO_LARGE, /* the frame is larger than frame_max */
    AMQP_FRAME_BAD_END,   /* the octet after the payload is not 0xCE */
    AMQP_FRAME_BAD_TYPE   /* none of the four types */
};

/* Looks for one frame at the start of data[0..size).
 *
 * AMQP_FRAME_OK: `frame` is filled, *size_out is the number of bytes it took.
 * AMQP_FRAME_INCOMPLETE: *size_out is the size of the whole frame, or AMQP_FRAME_HEADER_SIZE while
 * its header is incomplete; call again with at least that many bytes. Otherwise the connection is
 * beyond repair; *size_out is 0. frame->type and frame->channel are set as soon as the header is
 * there, also for an error.
 *
 * frame_max counts the whole frame with its eight octets of overhead; 0 means no limit. A frame
 * that is too large or of no known type is refused as soon as its header is there. */
AMQP_ALWAYS_INLINE enum amqp_frame_result
amqp_frame_parse(const uint8_t *data, size_t size, uint32_t frame_max, struct amqp_frame *frame,
                 size_t *size_out)
{
    uint64_t whole;

    if (size < AMQP_FRAME_HEADER_SIZE) {
        *size_out = AMQP_FRAME_HEADER_SIZE;
        return AMQP_FRAME_INCOMPLETE;
    }
    *size_out = 0;
    frame->type = data[0];
    frame->channel = amqp_load_u16(data + 1);
    whole = (uint64_t)amqp_load_u32(data + 3) + AMQP_FRAME_OVERHEAD;
    if (AMQP_UNLIKELY((frame->type < AMQP_FRAME_METHOD || frame->type > AMQP_FRAME_BODY)
                      && frame->type != AMQP_FRAME_HEARTBEAT))
        return AMQP_FRAME_BAD_TYPE;
    if (AMQP_UNLIKELY((frame_max != 0 && whole > frame_max) || whole > SIZE_MAX))
        return AMQP_FRAME_TOO_LARGE;
    if (size < whole) {
        *size_out = (size_t)whole;
        return AMQP_FRAME_INCOMPLETE;
    }
    if (AMQP_UNLIKELY(data[whole - 1] != AMQP_FRAME_END))
        return AMQP_FRAME_BAD_END;
    frame->payload = (struct slice){.data = (const char *)data + AMQP_FRAME_HEADER_SIZE,
                                    .size = (size_t)whole - AMQP_FRAME_OVERHEAD};
    *size_out = (size_t)whole;
    return AMQP_FRAME_OK;
}

/* Writes the seven octets before a payload of the given size. */
AMQP_ALWAYS_INLINE void
amqp_frame_put_header(uint8_t out[AMQP_FRAME_HEADER_SIZE], uint8_t type, uint16_t channel,
                      uint32_t payload_size)
{
    out[0] = type;
    amqp_store_u16(out + 1, channel);
    amqp_store_u32(out + 3, payload_size);
}

/* A heartbeat frame, ready to send. */
extern const uint8_t amqp_heartbeat_frame[AMQP_FRAME_OVERHEAD];

/* ---- the protocol header ---- */

#define AMQP_PROTOCOL_HEADER_SIZE 8u

/* "AMQP" 0 0 9 1: what a client begins with, and what a server answers to any other beginning. */
extern const uint8_t amqp_protocol_header_0_9_1[AMQP_PROTOCOL_HEADER_SIZE];

/* "AMQP" 1 1 0 9: what clients of 0-9 begin with; they speak 0-9-1 well enough. */
extern const uint8_t amqp_protocol_header_0_9[AMQP_PROTOCOL_HEADER_SIZE];

enum amqp_protocol_header { AMQP_PROTOCOL_OK_0_9_1, AMQP_PROTOCOL_OK_0_9, AMQP_PROTOCOL_WRONG };

enum amqp_protocol_header
amqp_protocol_header_check(const uint8_t header[AMQP_PROTOCOL_HEADER_SIZE]);

/* ---- the content header (section 2.3.5.2) ---- */

struct amqp_content_header {
    uint16_t class_id;
    uint16_t weight; /* always 0, ignored by everybody */
    uint64_t body_size;
    struct slice properties; /* flags and values as on the wire: amqp_properties_decode */
};

/* Reads the payload of a header frame. False if it is shorter than its fixed part with two octets
 * of property flags. The properties are borrowed and not looked into. */
bool amqp_content_header_decode(struct slice payload, struct amqp_content_header *header);

/* Writes the payload of a header frame. */
void amqp_content_header_encode(struct amqp_writer *writer,
                                const struct amqp_content_header *header);

/* Writes a complete header frame; returns its size, 0 if it does not fit in `capacity`. */
size_t amqp_frame_content_header(uint8_t *out, size_t capacity, uint16_t channel,
                                 const struct amqp_content_header *header);

#endif
