/* Methods: what can be decoded is, encoded again, decoded to the same. */
#include <string.h>

#include "amqp/method.h"
#include "amqp/frame.h"
#include "fuzz.h"

enum { ENCODED_MAX = 256 * 1024 };

static uint8_t first[ENCODED_MAX], second[ENCODED_MAX];

/* Encodes the method of that index; its size. */
static size_t
encode(uint16_t index, const union amqp_method *method, uint8_t *out)
{
    struct amqp_writer writer = amqp_writer_of(out, ENCODED_MAX);
    switch ((enum amqp_method_index)index) {
#define METHOD_BEGIN(class, method_name, class_id, method_id, flags)                               \
    case AMQP_INDEX_##class##_##method_name:                                                       \
        amqp_encode_##class##_##method_name(&writer, &method->class##_##method_name);              \
        break;
#include "amqp/methods.def"
    default:
        abort();
    }
    FUZZ_REQUIRE(!writer.overflow);
    return (size_t)(writer.at - out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    union amqp_method method;
    if (size < 1 || size > ENCODED_MAX / 2)
        return 0;
    const struct amqp_method_info *info = &amqp_methods[data[0] % AMQP_METHOD_COUNT];
    struct amqp_reader reader = amqp_reader_of((struct slice){(const char *)data + 1, size - 1});
    if (!info->decode(&reader, &method))
        return 0;
    size_t once = encode(info->index, &method, first);
    reader = amqp_reader_of((struct slice){(const char *)first, once});
    FUZZ_REQUIRE(info->decode(&reader, &method) && amqp_reader_done(&reader));
    size_t twice = encode(info->index, &method, second);
    FUZZ_REQUIRE(once == twice && memcmp(first, second, once) == 0);
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    uint8_t frame[1024];
    size_t size;
    struct slice table = SLICE("\001xS\0\0\0\001y\001nI\0\0\0\007");
    switch (number) {
    case 0: {
        const struct amqp_queue_declare declare = {
            .queue = SLICE("orders"), .durable = true, .arguments = table};
        size = amqp_frame_queue_declare(frame, sizeof(frame), 1, &declare);
        out[0] = AMQP_INDEX_queue_declare;
        break;
    }
    case 1: {
        const struct amqp_basic_consume consume = {
            .queue = SLICE("orders"), .consumer_tag = SLICE("tag"), .arguments = table};
        size = amqp_frame_basic_consume(frame, sizeof(frame), 1, &consume);
        out[0] = AMQP_INDEX_basic_consume;
        break;
    }
    case 2: {
        const struct amqp_connection_start_ok start_ok = {.client_properties = table,
                                                          .mechanism = SLICE("PLAIN"),
                                                          .response = SLICE("\0guest\0guest"),
                                                          .locale = SLICE("en_US")};
        size = amqp_frame_connection_start_ok(frame, sizeof(frame), 0, &start_ok);
        out[0] = AMQP_INDEX_connection_start_ok;
        break;
    }
    default:
        return 0;
    }
    /* Without the frame around it and the ids. */
    enum { BEFORE = AMQP_FRAME_HEADER_SIZE + 4 };
    size -= BEFORE + 1;
    FUZZ_REQUIRE(size + 1 <= capacity);
    memcpy(out + 1, frame + BEFORE, size);
    return size + 1;
}
