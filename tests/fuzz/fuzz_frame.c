/* Frames: however the stream is cut, the same frames come out, and nothing beyond it is read. */
#include "amqp/frame.h"
#include "amqp/method.h"
#include "fuzz.h"

enum { FRAME_MAX = 8192, FRAMES_MAX = 4096 };

struct found {
    size_t count, end;
    enum amqp_frame_result last;
    size_t at[FRAMES_MAX];
};

/* The frames of the stream, of which at first only `visible` bytes have come. */
static void
find(const uint8_t *data, size_t size, size_t visible, struct found *found)
{
    *found = (struct found){.last = AMQP_FRAME_OK};
    while (found->count < FRAMES_MAX) {
        struct amqp_frame frame;
        struct amqp_content_header header;
        size_t step;
        found->last =
            amqp_frame_parse(data + found->end, visible - found->end, FRAME_MAX, &frame, &step);
        if (found->last == AMQP_FRAME_INCOMPLETE) {
            FUZZ_REQUIRE(step > visible - found->end && step <= FRAME_MAX);
            if (visible == size)
                return;
            visible = size;
            continue;
        }
        if (found->last != AMQP_FRAME_OK)
            return;
        FUZZ_REQUIRE(step == frame.payload.size + AMQP_FRAME_OVERHEAD);
        FUZZ_REQUIRE(step <= visible - found->end);
        if (frame.type == AMQP_FRAME_HEADER && amqp_content_header_decode(frame.payload, &header))
            FUZZ_REQUIRE(header.properties.size <= frame.payload.size);
        found->at[found->count++] = found->end;
        found->end += step;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct found whole, cut;
    if (size == 0)
        return 0;
    find(data + 1, size - 1, size - 1, &whole);
    find(data + 1, size - 1, data[0] % size, &cut);
    FUZZ_REQUIRE(whole.count == cut.count && whole.end == cut.end && whole.last == cut.last);
    for (size_t i = 0; i < whole.count; i++)
        FUZZ_REQUIRE(whole.at[i] == cut.at[i]);
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    if (number > 2)
        return 0;
    out[0] = (uint8_t)(number * 11);
    size_t size = 1;
    for (unsigned i = 0; i <= number; i++) {
        const struct amqp_basic_publish publish = {
            .exchange = SLICE("exchange"), .routing_key = SLICE("key"), .mandatory = true};
        size += amqp_frame_basic_publish(out + size, capacity - size, 1, &publish);
        const struct amqp_content_header header = {
            .class_id = 60, .body_size = 9, .properties = SLICE("\x10\0\x02")};
        size += amqp_frame_content_header(out + size, capacity - size, 1, &header);
        amqp_frame_put_header(out + size, AMQP_FRAME_BODY, 1, 9);
        memcpy(out + size + AMQP_FRAME_HEADER_SIZE, "some body", 9);
        out[size + AMQP_FRAME_HEADER_SIZE + 9] = AMQP_FRAME_END;
        size += AMQP_FRAME_OVERHEAD + 9;
        memcpy(out + size, amqp_heartbeat_frame, AMQP_FRAME_OVERHEAD);
        size += AMQP_FRAME_OVERHEAD;
    }
    return size;
}
