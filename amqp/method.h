/* The methods of AMQP 0-9-1 as C: for every entry of amqp/methods.def an id, a struct, a decoder,
 * an encoder and a function that makes a whole frame; and a table to find a method by its ids.
 *
 * For queue.declare these are AMQP_queue_declare, struct amqp_queue_declare,
 * amqp_decode_queue_declare, amqp_encode_queue_declare and amqp_frame_queue_declare. */
#ifndef AMQP_METHOD_H
#define AMQP_METHOD_H

#include "amqp/slice.h"
#include "amqp/wire.h"

/* What amqp_method_info.flags says. */
#define AMQP_FROM_CLIENT 1u /* a client may send it */
#define AMQP_FROM_SERVER 2u /* a server may send it */
#define AMQP_HAS_CONTENT 4u /* a content header and body follow */
#define AMQP_SYNCHRONOUS 8u /* the sender waits for an answer, unless its no_wait is set */

/* A method's two ids as one number: class in the upper 16 bits. */
#define AMQP_METHOD_ID(class_id, method_id) ((uint32_t)(class_id) << 16 | (uint32_t)(method_id))

enum amqp_method_id {
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    AMQP_##class##_##method = (class_id) << 16 | (method_id),
#include "amqp/methods.def"
};

/* Positions 0..AMQP_METHOD_COUNT-1, for tables with a row per method. */
enum amqp_method_index {
#define METHOD_BEGIN(class, method, class_id, method_id, flags) AMQP_INDEX_##class##_##method,
#include "amqp/methods.def"
    AMQP_METHOD_COUNT
};

/* The C type of each field type. Slices are borrowed: after decoding they point into the frame, and
 * a table is its content without the four octets of length. */
#define AMQP_C_TYPE_octet uint8_t
#define AMQP_C_TYPE_short uint16_t
#define AMQP_C_TYPE_long uint32_t
#define AMQP_C_TYPE_longlong uint64_t
#define AMQP_C_TYPE_timestamp uint64_t
#define AMQP_C_TYPE_bit bool
#define AMQP_C_TYPE_shortstr struct slice
#define AMQP_C_TYPE_longstr struct slice
#define AMQP_C_TYPE_table struct slice

/* struct amqp_<class>_<method>, its fields in the order of the wire. */
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    struct amqp_##class##_##method                                                                 \
    {
#define FIELD(type, name) AMQP_C_TYPE_##type name;
#define NO_FIELDS() uint8_t no_fields; /* C has no empty structs; never read nor written */
#define METHOD_END(class, method)                                                                  \
    }                                                                                              \
    ;
#include "amqp/methods.def"

/* amqp_decode_<class>_<method>: reads the fields (what follows the class and method id). False if
 * the bytes run out or a table is malformed; the struct's contents are then of no meaning. Bytes
 * left over are the caller's to judge: amqp_reader_done.
 *
 * amqp_encode_<class>_<method>: writes the fields, without the ids. A shortstr over 255 bytes
 * overflows the writer.
 *
 * amqp_frame_<class>_<method>: writes a complete method frame (header, ids, fields, end octet) to
 * out[0..capacity) and returns its size in bytes; 0 if it does not fit or a shortstr is too long,
 * in which case out's contents are of no meaning. */
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    bool amqp_decode_##class##_##method(struct amqp_reader *reader,                                \
                                        struct amqp_##class##_##method *method_out);               \
    void amqp_encode_##class##_##method(struct amqp_writer *writer,                                \
                                        const struct amqp_##class##_##method *method_in);          \
    size_t amqp_frame_##class##_##method(uint8_t *out, size_t capacity, uint16_t channel,          \
                                         const struct amqp_##class##_##method *method_in);
#include "amqp/methods.def"

/* Any method, decoded: the member is named <class>_<method>. */
union amqp_method {
#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    struct amqp_##class##_##method class##_##method;
#include "amqp/methods.def"
};

struct amqp_method_info {
    uint32_t id;    /* enum amqp_method_id */
    uint16_t index; /* enum amqp_method_index */
    uint8_t flags;  /* AMQP_FROM_CLIENT ... */
    const char
        *name; /* "queue.declare", "basic.recover_async": underscores, as RabbitMQ prints them */
    bool (*decode)(struct amqp_reader *reader, union amqp_method *method);
};

/* Every method, by enum amqp_method_index. */
extern const struct amqp_method_info amqp_methods[AMQP_METHOD_COUNT];

/* The method of these ids in constant time, or NULL if there is none. */
const struct amqp_method_info *amqp_method_find(uint16_t class_id, uint16_t method_id);

#endif
