/* Decoders, encoders and the look-up table of all methods, made from amqp/methods.def.
 *
 * Everything here is straight-line code: the bit counters of reader and writer are known to the
 * compiler at each field once the readers are inlined, so a run of bits costs one load or store. */
#include "amqp/method.h"

#include "amqp/frame.h"

/* ---- field types: how each is read and written ---- */

#define READ_octet amqp_read_u8
#define READ_short amqp_read_u16
#define READ_long amqp_read_u32
#define READ_longlong amqp_read_u64
#define READ_timestamp amqp_read_u64
#define READ_bit amqp_read_bit
#define READ_shortstr amqp_read_shortstr
#define READ_longstr amqp_read_longstr
#define READ_table amqp_read_table

#define WRITE_octet amqp_write_u8
#define WRITE_short amqp_write_u16
#define WRITE_long amqp_write_u32
#define WRITE_longlong amqp_write_u64
#define WRITE_timestamp amqp_write_u64
#define WRITE_bit amqp_write_bit
#define WRITE_shortstr amqp_write_shortstr
#define WRITE_longstr amqp_write_longstr
#define WRITE_table amqp_write_table

/* ---- decoders ---- */

#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    bool amqp_decode_##class##_##method(struct amqp_reader *reader,                                \
                                        struct amqp_##class##_##method *method_out)                \
    {
#define FIELD(type, name) method_out->name = READ_##type(reader);
#define NO_FIELDS() method_out->no_fields = 0;
#define METHOD_END(class, method)                                                                  \
    return !reader->failed;                                                                        \
    }
#include "amqp/methods.def"

/* The same with the type that struct amqp_method_info wants. */
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    static bool decode_any_##class##_##method(struct amqp_reader *reader,                          \
                                              union amqp_method *method_out)                       \
    {                                                                                              \
        return amqp_decode_##class##_##method(reader, &method_out->class##_##method);              \
    }
#include "amqp/methods.def"

/* ---- encoders ---- */

/* Inlined into both public forms below. */
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    AMQP_ALWAYS_INLINE void put_##class##_##method(                                                \
        struct amqp_writer *writer, const struct amqp_##class##_##method *method_in)               \
    {
#define FIELD(type, name) WRITE_##type(writer, method_in->name);
#define NO_FIELDS()                                                                                \
    (void)writer;                                                                                  \
    (void)method_in;
#define METHOD_END(class, method) }
#include "amqp/methods.def"

#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    void amqp_encode_##class##_##method(struct amqp_writer *writer,                                \
                                        const struct amqp_##class##_##method *method_in)           \
    {                                                                                              \
        put_##class##_##method(writer, method_in);                                                 \
    }
#include "amqp/methods.def"

/* ---- whole frames ---- */

/* Leaves room for the frame's header, which needs the size and is written last. */
AMQP_ALWAYS_INLINE void
frame_begin(struct amqp_writer *writer, uint32_t id)
{
    (void)amqp_write_room(writer, AMQP_FRAME_HEADER_SIZE);
    amqp_write_u32(writer, id);
}

AMQP_ALWAYS_INLINE size_t
frame_end(struct amqp_writer *writer, uint8_t *out, uint16_t channel)
{
    size_t payload_size;

    amqp_write_u8(writer, AMQP_FRAME_END);
    if (writer->overflow)
        return 0;
    payload_size = (size_t)(writer->at - out) - AMQP_FRAME_OVERHEAD;
    if (payload_size > UINT32_MAX)
        return 0;
    amqp_frame_put_header(out, AMQP_FRAME_METHOD, channel, (uint32_t)payload_size);
    return payload_size + AMQP_FRAME_OVERHEAD;
}

#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    size_t amqp_frame_##class##_##method(uint8_t *out, size_t capacity, uint16_t channel,          \
                                         const struct amqp_##class##_##method *method_in)          \
    {                                                                                              \
        struct amqp_writer writer = amqp_writer_of(out, capacity);                                 \
                                                                                                   \
        frame_begin(&writer, AMQP_METHOD_ID(class_id, method_id));                                 \
        put_##class##_##method(&writer, method_in);                                                \
        return frame_end(&writer, out, channel);                                                   \
    }
#include "amqp/methods.def"

/* ---- the table ---- */

#define METHOD_BEGIN(class, method, class_id, method_id, flags_)                                   \
    [AMQP_INDEX_##class##_##method] = {.id = AMQP_METHOD_ID(class_id, method_id),                  \
                                       .index = AMQP_INDEX_##class##_##method,                     \
                                       .flags = (flags_),                                          \
                                       .name = #class "." #method,                                 \
                                       .decode = decode_any_##class##_##method},
const struct amqp_method_info amqp_methods[AMQP_METHOD_COUNT] = {
#include "amqp/methods.def"
};

/* The largest ids there are; a method beyond them in methods.def does not compile. */
#define LAST_CLASS_ID 90u
#define LAST_METHOD_ID 120u

_Static_assert(AMQP_METHOD_COUNT < UINT8_MAX, "an index and 1 must fit in index_by_id's octets");

/* Index and 1 by class and method id; 0 where there is no method. Eleven kilobytes, of which a
 * connection in its steady state touches two lines. */
static const uint8_t index_by_id[LAST_CLASS_ID + 1][LAST_METHOD_ID + 1] = {
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    [class_id][method_id] = AMQP_INDEX_##class##_##method + 1,
#include "amqp/methods.def"
};

const struct amqp_method_info *
amqp_method_find(uint16_t class_id, uint16_t method_id)
{
    uint8_t index;

    if (class_id > LAST_CLASS_ID || method_id > LAST_METHOD_ID)
        return NULL;
    index = index_by_id[class_id][method_id];
    return index != 0 ? &amqp_methods[index - 1] : NULL;
}
