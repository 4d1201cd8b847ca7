/* Frames: the parts that are not inline. */
#include "amqp/frame.h"

const uint8_t amqp_heartbeat_frame[AMQP_FRAME_OVERHEAD] = {AMQP_FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0,
                                                           AMQP_FRAME_END};

const uint8_t amqp_protocol_header_0_9_1[AMQP_PROTOCOL_HEADER_SIZE] = {'A', 'M', 'Q', 'P',
                                                                       0,   0,   9,   1};

const uint8_t amqp_protocol_header_0_9[AMQP_PROTOCOL_HEADER_SIZE] = {'A', 'M', 'Q', 'P',
                                                                     1,   1,   0,   9};

enum amqp_protocol_header
amqp_protocol_header_check(const uint8_t header[AMQP_PROTOCOL_HEADER_SIZE])
{
    if (memcmp(header, amqp_protocol_header_0_9_1, AMQP_PROTOCOL_HEADER_SIZE) == 0)
        return AMQP_PROTOCOL_OK_0_9_1;
    if (memcmp(header, amqp_protocol_header_0_9, AMQP_PROTOCOL_HEADER_SIZE) == 0)
        return AMQP_PROTOCOL_OK_0_9;
    return AMQP_PROTOCOL_WRONG;
}

bool
amqp_content_header_decode(struct slice payload, struct amqp_content_header *header)
{
    struct amqp_reader reader = amqp_reader_of(payload);

    *header = (struct amqp_content_header){0};
    if (payload.size < AMQP_CONTENT_HEADER_FIXED_SIZE)
        return false;
    header->class_id = amqp_read_u16(&reader);
    header->weight = amqp_read_u16(&reader);
    header->body_size = amqp_read_u64(&reader);
    header->properties = amqp_read_slice(&reader, amqp_reader_left(&reader));
    return true;
}

void
amqp_content_header_encode(struct amqp_writer *writer, const struct amqp_content_header *header)
{
    amqp_write_u16(writer, header->class_id);
    amqp_write_u16(writer, header->weight);
    amqp_write_u64(writer, header->body_size);
    amqp_write_slice(writer, header->properties);
}

size_t
amqp_frame_content_header(uint8_t *out, size_t capacity, uint16_t channel,
                          const struct amqp_content_header *header)
{
    struct amqp_writer writer = amqp_writer_of(out, capacity);
    size_t whole;

    if (amqp_write_room(&writer, AMQP_FRAME_HEADER_SIZE) == NULL)
        return 0;
    amqp_content_header_encode(&writer, header);
    amqp_write_u8(&writer, AMQP_FRAME_END);
    whole = (size_t)(writer.at - out);
    if (writer.overflow || whole - AMQP_FRAME_OVERHEAD > UINT32_MAX)
        return 0;
    amqp_frame_put_header(out, AMQP_FRAME_HEADER, channel, (uint32_t)(whole - AMQP_FRAME_OVERHEAD));
    return whole;
}
