/* Frames, however the network cuts them; their limits; the protocol and content headers. */
#include <check.h>
#include <stdlib.h>

#include "amqp/frame.h"

/* Bytes in memory of exactly their size, so that a sanitizer sees a read past them. */
static uint8_t *
exact_copy(const void *bytes, size_t size)
{
    uint8_t *copy = malloc(size != 0 ? size : 1);

    ck_assert_ptr_nonnull(copy);
    if (size != 0)
        memcpy(copy, bytes, size);
    return copy;
}

/* Appends a frame whose payload is `size` octets of `fill`. */
static void
write_frame(struct amqp_writer *writer, uint8_t type, uint16_t channel, uint32_t size, uint8_t fill)
{
    uint8_t *header = amqp_write_room(writer, AMQP_FRAME_HEADER_SIZE);

    ck_assert_ptr_nonnull(header);
    amqp_frame_put_header(header, type, channel, size);
    for (uint32_t i = 0; i < size; i++)
        amqp_write_u8(writer, fill);
    amqp_write_u8(writer, AMQP_FRAME_END);
    ck_assert(!writer->overflow);
}

/* ---- streams ---- */

#define STREAM_FRAMES 6u

static const struct {
    uint8_t type;
    uint16_t channel;
    uint32_t size;
    uint8_t fill;
} stream_frames[STREAM_FRAMES] = {
    {AMQP_FRAME_METHOD, 1, 12, 0x11},         {AMQP_FRAME_HEADER, 1, 14, 0xCE},
    {AMQP_FRAME_BODY, 1, 40, AMQP_FRAME_END}, {AMQP_FRAME_HEARTBEAT, 0, 0, 0},
    {AMQP_FRAME_BODY, UINT16_MAX, 0, 0},      {AMQP_FRAME_METHOD, 2, 1, 0xFF},
};

static size_t
write_stream(uint8_t *out, size_t capacity)
{
    struct amqp_writer writer = amqp_writer_of(out, capacity);

    for (size_t i = 0; i < STREAM_FRAMES; i++)
        write_frame(&writer, stream_frames[i].type, stream_frames[i].channel, stream_frames[i].size,
                    stream_frames[i].fill);
    return (size_t)(writer.at - out);
}

/* Takes frames from bytes[0..size) as long as they are complete, checking each against the stream;
 * `*next` counts them. Returns the bytes consumed. */
static size_t
take_frames(const uint8_t *bytes, size_t size, size_t *next)
{
    size_t done = 0;

    for (;;) {
        struct amqp_frame frame;
        size_t count;
        enum amqp_frame_result result =
            amqp_frame_parse(bytes + done, size - done, 4096, &frame, &count);

        if (result == AMQP_FRAME_INCOMPLETE) {
            ck_assert_uint_gt(count, size - done);
            if (size - done < AMQP_FRAME_HEADER_SIZE)
                ck_assert_uint_eq(count, AMQP_FRAME_HEADER_SIZE);
            else
                ck_assert_uint_eq(count, stream_frames[*next].size + AMQP_FRAME_OVERHEAD);
            return done;
        }
        ck_assert_int_eq(result, AMQP_FRAME_OK);
        ck_assert_uint_lt(*next, STREAM_FRAMES);
        ck_assert_uint_eq(frame.type, stream_frames[*next].type);
        ck_assert_uint_eq(frame.channel, stream_frames[*next].channel);
        ck_assert_uint_eq(frame.payload.size, stream_frames[*next].size);
        for (size_t i = 0; i < frame.payload.size; i++)
            ck_assert_uint_eq((uint8_t)frame.payload.data[i], stream_frames[*next].fill);
        ck_assert_uint_eq(count, frame.payload.size + AMQP_FRAME_OVERHEAD);
        done += count;
        (*next)++;
    }
}

START_TEST(stream_split_anywhere_gives_the_same_frames)
{
    uint8_t stream[256];
    size_t size = write_stream(stream, sizeof(stream));

    for (size_t split = 0; split <= size; split++) {
        uint8_t *first = exact_copy(stream, split);
        size_t next = 0;
        size_t done = take_frames(first, split, &next);
        uint8_t *rest = exact_copy(stream + done, size - done);

        ck_assert_uint_eq(done + take_frames(rest, size - done, &next), size);
        ck_assert_uint_eq(next, STREAM_FRAMES);
        free(first);
        free(rest);
    }
}
END_TEST

START_TEST(stream_that_arrives_octet_by_octet_gives_the_same_frames)
{
    uint8_t stream[256];
    size_t size = write_stream(stream, sizeof(stream));
    size_t done = 0, next = 0;

    for (size_t have = 1; have <= size; have++) {
        uint8_t *bytes = exact_copy(stream + done, have - done);

        done += take_frames(bytes, have - done, &next);
        free(bytes);
    }
    ck_assert_uint_eq(done, size);
    ck_assert_uint_eq(next, STREAM_FRAMES);
}
END_TEST

/* ---- limits and damage ---- */

START_TEST(frame_max_counts_the_whole_frame)
{
    uint8_t bytes[128];
    struct amqp_writer writer = amqp_writer_of(bytes, sizeof(bytes));
    struct amqp_frame frame;
    size_t size;

    write_frame(&writer, AMQP_FRAME_BODY, 3, 100, 'x');
    ck_assert_int_eq(amqp_frame_parse(bytes, 108, 108, &frame, &size), AMQP_FRAME_OK);
    ck_assert_int_eq(amqp_frame_parse(bytes, 108, 107, &frame, &size), AMQP_FRAME_TOO_LARGE);
    ck_assert_uint_eq(size, 0);
    ck_assert_uint_eq(frame.channel, 3);
    ck_assert_int_eq(amqp_frame_parse(bytes, 108, 0, &frame, &size), AMQP_FRAME_OK);
    ck_assert_int_eq(amqp_frame_parse(bytes, 108, 1, &frame, &size), AMQP_FRAME_TOO_LARGE);
}
END_TEST

START_TEST(too_large_frame_is_refused_before_it_arrives)
{
    uint8_t header[AMQP_FRAME_HEADER_SIZE];
    struct amqp_frame frame;
    size_t size;

    amqp_frame_put_header(header, AMQP_FRAME_METHOD, 0, UINT32_MAX);
    ck_assert_int_eq(amqp_frame_parse(header, sizeof(header), UINT32_MAX, &frame, &size),
                     AMQP_FRAME_TOO_LARGE);
    amqp_frame_put_header(header, AMQP_FRAME_METHOD, 0, 131073 - 8);
    ck_assert_int_eq(amqp_frame_parse(header, sizeof(header), 131072, &frame, &size),
                     AMQP_FRAME_TOO_LARGE);
}
END_TEST

START_TEST(largest_frame_is_waited_for_when_there_is_no_limit)
{
    uint8_t header[AMQP_FRAME_HEADER_SIZE];
    struct amqp_frame frame;
    size_t size;

    amqp_frame_put_header(header, AMQP_FRAME_METHOD, 0, UINT32_MAX);
    ck_assert_int_eq(amqp_frame_parse(header, sizeof(header), 0, &frame, &size),
                     AMQP_FRAME_INCOMPLETE);
    ck_assert_uint_eq(size, (uint64_t)UINT32_MAX + AMQP_FRAME_OVERHEAD);
}
END_TEST

START_TEST(only_the_four_types_are_frames)
{
    uint8_t header[AMQP_FRAME_OVERHEAD];
    struct amqp_frame frame;
    size_t size;

    for (unsigned type = 0; type < 256; type++) {
        bool is_known = type == 1 || type == 2 || type == 3 || type == 8;

        amqp_frame_put_header(header, (uint8_t)type, 0, 0);
        header[7] = AMQP_FRAME_END;
        ck_assert_int_eq(amqp_frame_parse(header, sizeof(header), 4096, &frame, &size),
                         is_known ? AMQP_FRAME_OK : AMQP_FRAME_BAD_TYPE);
        ck_assert_uint_eq(frame.type, type);
    }
}
END_TEST

START_TEST(wrong_end_octet_is_noticed)
{
    uint8_t bytes[64];
    struct amqp_frame frame;
    size_t size;

    for (unsigned end = 0; end < 256; end++) {
        struct amqp_writer writer = amqp_writer_of(bytes, sizeof(bytes));

        write_frame(&writer, AMQP_FRAME_METHOD, 0, 4, AMQP_FRAME_END);
        bytes[11] = (uint8_t)end;
        ck_assert_int_eq(amqp_frame_parse(bytes, 12, 4096, &frame, &size),
                         end == 0xCE ? AMQP_FRAME_OK : AMQP_FRAME_BAD_END);
    }
}
END_TEST

START_TEST(heartbeat_is_a_frame)
{
    struct amqp_frame frame;
    size_t size;

    ck_assert_mem_eq(amqp_heartbeat_frame, "\x08\0\0\0\0\0\0\xCE", 8);
    ck_assert_int_eq(amqp_frame_parse(amqp_heartbeat_frame, 8, 8, &frame, &size), AMQP_FRAME_OK);
    ck_assert_uint_eq(frame.type, AMQP_FRAME_HEARTBEAT);
    ck_assert_uint_eq(frame.payload.size, 0);
}
END_TEST

/* ---- headers ---- */

START_TEST(protocol_headers_are_told_apart)
{
    static const char *wrong[] = {"AMQP\0\0\11\0", "AMQP\0\1\0\0",  "AMQP\3\1\0\0", "GET / HT",
                                  "amqp\0\0\11\1", "AMQP\1\1\11\1", "AMQP\1\1\10\0"};

    ck_assert_int_eq(amqp_protocol_header_check((const uint8_t *)"AMQP\0\0\11\1"),
                     AMQP_PROTOCOL_OK_0_9_1);
    ck_assert_int_eq(amqp_protocol_header_check((const uint8_t *)"AMQP\1\1\0\11"),
                     AMQP_PROTOCOL_OK_0_9);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_int_eq(amqp_protocol_header_check((const uint8_t *)wrong[i]),
                         AMQP_PROTOCOL_WRONG);
}
END_TEST

START_TEST(content_header_comes_back_as_it_went)
{
    struct amqp_content_header sent = {
        .class_id = 60, .body_size = UINT64_MAX, .properties = SLICE("\x10\0\2")};
    struct amqp_content_header received;
    uint8_t out[64];
    size_t consumed, size = amqp_frame_content_header(out, sizeof(out), 5, &sent);
    struct amqp_frame frame;

    ck_assert_uint_eq(size, 8 + 12 + 3);
    ck_assert_int_eq(amqp_frame_parse(out, size, 4096, &frame, &consumed), AMQP_FRAME_OK);
    ck_assert_uint_eq(frame.type, AMQP_FRAME_HEADER);
    ck_assert_uint_eq(frame.channel, 5);
    ck_assert(amqp_content_header_decode(frame.payload, &received));
    ck_assert_uint_eq(received.class_id, 60);
    ck_assert_uint_eq(received.weight, 0);
    ck_assert_uint_eq(received.body_size, UINT64_MAX);
    ck_assert(slice_equal(received.properties, sent.properties));

    for (size_t capacity = 0; capacity < size; capacity++) {
        uint8_t *room = exact_copy(out, capacity);

        ck_assert_uint_eq(amqp_frame_content_header(room, capacity, 5, &sent), 0);
        free(room);
    }
}
END_TEST

START_TEST(content_header_needs_its_fixed_part)
{
    uint8_t zeros[AMQP_CONTENT_HEADER_FIXED_SIZE] = {0};
    struct amqp_content_header header;

    for (size_t size = 0; size <= sizeof(zeros); size++) {
        uint8_t *bytes = exact_copy(zeros, size);

        ck_assert_int_eq(amqp_content_header_decode(
                             (struct slice){.data = (char *)bytes, .size = size}, &header),
                         size == sizeof(zeros));
        free(bytes);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("amqp frame");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, stream_split_anywhere_gives_the_same_frames);
    tcase_add_test(tests, stream_that_arrives_octet_by_octet_gives_the_same_frames);
    tcase_add_test(tests, frame_max_counts_the_whole_frame);
    tcase_add_test(tests, too_large_frame_is_refused_before_it_arrives);
    tcase_add_test(tests, largest_frame_is_waited_for_when_there_is_no_limit);
    tcase_add_test(tests, only_the_four_types_are_frames);
    tcase_add_test(tests, wrong_end_octet_is_noticed);
    tcase_add_test(tests, heartbeat_is_a_frame);
    tcase_add_test(tests, protocol_headers_are_told_apart);
    tcase_add_test(tests, content_header_comes_back_as_it_went);
    tcase_add_test(tests, content_header_needs_its_fixed_part);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
