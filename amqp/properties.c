/* Content properties, made from amqp/properties.def: one predictable branch per property, a read
 * only for those present. */
#include "amqp/properties.h"

/* The flags that announce a property; the two others are refused. */
#define KNOWN_FLAGS 0xFFFCu

#define READ_octet amqp_read_u8
#define READ_timestamp amqp_read_u64
#define READ_shortstr amqp_read_shortstr
/* Its bounds only: most messages' headers are never looked at. */
#define READ_table amqp_read_longstr

#define WRITE_octet amqp_write_u8
#define WRITE_timestamp amqp_write_u64
#define WRITE_shortstr amqp_write_shortstr
#define WRITE_table amqp_write_table

#define SIZE_octet(value) ((void)(value), (size_t)1)
#define SIZE_timestamp(value) ((void)(value), (size_t)8)
#define SIZE_shortstr(value) (1 + (value).size)
#define SIZE_table(value) (4 + (value).size)

bool
amqp_properties_decode(struct slice wire, struct amqp_properties *properties)
{
    struct amqp_reader reader = amqp_reader_of(wire);
    unsigned flags = amqp_read_u16(&reader);

    *properties = (struct amqp_properties){.flags = (uint16_t)flags};
    if ((flags & ~KNOWN_FLAGS) != 0)
        return false;
#define PROPERTY(type, name, NAME)                                                                 \
    if ((flags & AMQP_HAS_##NAME) != 0)                                                            \
        properties->name = READ_##type(&reader);
#include "amqp/properties.def"
    return amqp_reader_done(&reader);
}

size_t
amqp_properties_size(const struct amqp_properties *properties)
{
    size_t size = 2;

#define PROPERTY(type, name, NAME)                                                                 \
    if ((properties->flags & AMQP_HAS_##NAME) != 0)                                                \
        size += SIZE_##type(properties->name);
#include "amqp/properties.def"
    return size;
}

void
amqp_properties_encode(struct amqp_writer *writer, const struct amqp_properties *properties)
{
    unsigned flags = properties->flags & KNOWN_FLAGS;

    amqp_write_u16(writer, (uint16_t)flags);
#define PROPERTY(type, name, NAME)                                                                 \
    if ((flags & AMQP_HAS_##NAME) != 0)                                                            \
        WRITE_##type(writer, properties->name);
#include "amqp/properties.def"
}
