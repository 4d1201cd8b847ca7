/* Every method of amqp/methods.def goes out and comes back; cut short at any byte it is refused;
 * bytes made by another implementation read the same. */
#include <check.h>
#include <stdlib.h>

#include "amqp/frame.h"
#include "amqp/method.h"

#define CHANNEL 0x1234
#define FRAME_ROOM 8192u

/* ---- sample values ---- */

/* What the fields of a sample are filled with. */
enum sample { SAMPLE_LEAST, SAMPLE_MOST, SAMPLE_MIXED, SAMPLE_COUNT };

static char long_text[1024];
static unsigned field_number; /* makes the fields of SAMPLE_MIXED differ from one another */

static uint64_t
sample_number(enum sample sample)
{
    field_number++;
    return sample == SAMPLE_LEAST  ? 0
           : sample == SAMPLE_MOST ? UINT64_MAX
                                   : field_number * UINT64_C(0x9E3779B97F4A7C15);
}

static struct slice
sample_string(enum sample sample, size_t most)
{
    field_number++;
    memset(long_text, 'q', sizeof(long_text));
    return (struct slice){.data = long_text + field_number % 7,
                          .size = sample == SAMPLE_LEAST  ? 0
                                  : sample == SAMPLE_MOST ? most
                                                          : field_number % 50};
}

static struct slice
sample_table(enum sample sample)
{
    if (sample == SAMPLE_LEAST)
        return SLICE("");
    if (sample == SAMPLE_MOST)
        return SLICE("\1aI\0\0\0\1\1bF\0\0\0\11\1cA\0\0\0\2t\1\1dV\1eS\0\0\0\1z");
    return SLICE("\14x-queue-typeS\0\0\0\7classic");
}

#define SAMPLE_octet(sample) (uint8_t) sample_number(sample)
#define SAMPLE_short(sample) (uint16_t) sample_number(sample)
#define SAMPLE_long(sample) (uint32_t) sample_number(sample)
#define SAMPLE_longlong(sample) sample_number(sample)
#define SAMPLE_timestamp(sample) sample_number(sample)
#define SAMPLE_bit(sample) ((sample_number(sample) >> 40 & 1) != 0)
#define SAMPLE_shortstr(sample) sample_string(sample, 255)
#define SAMPLE_longstr(sample) sample_string(sample, 1000)
#define SAMPLE_table(sample) sample_table(sample)

#define SAME_octet(a, b) ((a) == (b))
#define SAME_short(a, b) ((a) == (b))
#define SAME_long(a, b) ((a) == (b))
#define SAME_longlong(a, b) ((a) == (b))
#define SAME_timestamp(a, b) ((a) == (b))
#define SAME_bit(a, b) ((a) == (b))
#define SAME_shortstr(a, b) slice_equal(a, b)
#define SAME_longstr(a, b) slice_equal(a, b)
#define SAME_table(a, b) slice_equal(a, b)

/* ---- per method: fill, compare, and the functions under test behind one type ---- */

struct method_case {
    const char *name;
    uint16_t class_id, method_id;
    unsigned flags;
    bool has_fields;
    void (*fill)(union amqp_method *method, enum sample sample);
    const char *(*difference)(const union amqp_method *a, const union amqp_method *b);
    bool (*decode)(struct amqp_reader *reader, union amqp_method *method);
    void (*encode)(struct amqp_writer *writer, const union amqp_method *method);
    size_t (*frame)(uint8_t *out, size_t capacity, uint16_t channel,
                    const union amqp_method *method);
};

#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    static void fill_##class##_##method(union amqp_method *any, enum sample sample)                \
    {                                                                                              \
        struct amqp_##class##_##method *filled = &any->class##_##method;                           \
        (void)sample;
#define FIELD(type, name) filled->name = SAMPLE_##type(sample);
#define NO_FIELDS() filled->no_fields = 0;
#define METHOD_END(class, method) }
#include "amqp/methods.def"

#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    static const char *difference_##class##_##method(const union amqp_method *any_a,               \
                                                     const union amqp_method *any_b)               \
    {                                                                                              \
        const struct amqp_##class##_##method *a = &any_a->class##_##method;                        \
        const struct amqp_##class##_##method *b = &any_b->class##_##method;                        \
        (void)a;                                                                                   \
        (void)b;
#define FIELD(type, name)                                                                          \
    if (!SAME_##type(a->name, b->name))                                                            \
        return #name;
#define METHOD_END(class, method)                                                                  \
    return NULL;                                                                                   \
    }
#include "amqp/methods.def"

#define METHOD_BEGIN(class, method, class_id, method_id, flags)                                    \
    static bool decode_##class##_##method(struct amqp_reader *reader, union amqp_method *any)      \
    {                                                                                              \
        return amqp_decode_##class##_##method(reader, &any->class##_##method);                     \
    }                                                                                              \
    static void encode_##class##_##method(struct amqp_writer *writer,                              \
                                          const union amqp_method *any)                            \
    {                                                                                              \
        amqp_encode_##class##_##method(writer, &any->class##_##method);                            \
    }                                                                                              \
    static size_t frame_##class##_##method(uint8_t *out, size_t capacity, uint16_t channel,        \
                                           const union amqp_method *any)                           \
    {                                                                                              \
        return amqp_frame_##class##_##method(out, capacity, channel, &any->class##_##method);      \
    }
#include "amqp/methods.def"

static const struct method_case cases[] = {
#define METHOD_BEGIN(class, method, class_id_, method_id_, flags_)                                 \
    {                                                                                              \
        .name = #class "." #method, .class_id = (class_id_), .method_id = (method_id_),            \
        .flags = (flags_), .fill = fill_##class##_##method,                                        \
        .difference = difference_##class##_##method, .decode = decode_##class##_##method,          \
        .encode = encode_##class##_##method, .frame = frame_##class##_##method, .has_fields = 0
#define FIELD(type, name) +1
#define METHOD_END(class, method)                                                                  \
    > 0                                                                                            \
    }                                                                                              \
    ,
#include "amqp/methods.def"
};

/* Bytes in memory of exactly their size, so that a sanitizer sees a read or write past them. */
static uint8_t *
exact_copy(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size != 0 ? size : 1);

    ck_assert_ptr_nonnull(copy);
    if (size != 0)
        memcpy(copy, bytes, size);
    return copy;
}

static struct slice
bytes_of(const uint8_t *bytes, size_t size)
{
    return (struct slice){.data = (const char *)bytes, .size = size};
}

/* ---- round trips ---- */

static void
method_survives(const struct method_case *method, enum sample sample)
{
    union amqp_method sent, received;
    uint8_t out[FRAME_ROOM], fields[FRAME_ROOM];
    struct amqp_frame frame;
    struct amqp_reader reader;
    struct amqp_writer writer = amqp_writer_of(fields, sizeof(fields));
    size_t size, consumed;
    const char *difference;

    method->fill(&sent, sample);
    size = method->frame(out, sizeof(out), CHANNEL, &sent);
    ck_assert_msg(size >= 12, "%s: no frame", method->name);
    ck_assert_int_eq(amqp_frame_parse(out, size, 0, &frame, &consumed), AMQP_FRAME_OK);
    ck_assert_uint_eq(consumed, size);
    ck_assert_uint_eq(frame.type, AMQP_FRAME_METHOD);
    ck_assert_uint_eq(frame.channel, CHANNEL);

    reader = amqp_reader_of(frame.payload);
    ck_assert_uint_eq(amqp_read_u16(&reader), method->class_id);
    ck_assert_uint_eq(amqp_read_u16(&reader), method->method_id);
    memset(&received, 0xA5, sizeof(received));
    ck_assert_msg(method->decode(&reader, &received), "%s: not decoded", method->name);
    ck_assert_msg(amqp_reader_done(&reader), "%s: bytes left over", method->name);
    difference = method->difference(&sent, &received);
    ck_assert_msg(difference == NULL, "%s: %s differs", method->name, difference);

    method->encode(&writer, &sent);
    ck_assert(!writer.overflow);
    ck_assert_msg(
        slice_equal(bytes_of(fields, (size_t)(writer.at - fields)), bytes_of(out + 11, size - 12)),
        "%s: encode and frame differ", method->name);
}

START_TEST(every_method_comes_back_as_it_went)
{
    for (int sample = 0; sample < SAMPLE_COUNT; sample++)
        method_survives(&cases[_i], (enum sample)sample);
}
END_TEST

START_TEST(every_method_cut_short_is_refused)
{
    const struct method_case *method = &cases[_i];
    union amqp_method sent, received;
    uint8_t fields[FRAME_ROOM];
    struct amqp_writer writer = amqp_writer_of(fields, sizeof(fields));
    size_t size;

    method->fill(&sent, SAMPLE_MOST);
    method->encode(&writer, &sent);
    size = (size_t)(writer.at - fields);
    ck_assert_int_eq(size != 0, method->has_fields);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *bytes = exact_copy(fields, cut);
        struct amqp_reader reader = amqp_reader_of(bytes_of(bytes, cut));

        ck_assert_msg(!method->decode(&reader, &received), "%s: decoded from %zu of %zu bytes",
                      method->name, cut, size);
        ck_assert(!amqp_reader_done(&reader));
        free(bytes);
    }
}
END_TEST

START_TEST(frame_that_does_not_fit_is_not_made)
{
    const struct method_case *method = &cases[_i];
    union amqp_method sent;
    uint8_t out[FRAME_ROOM];
    size_t size;

    method->fill(&sent, SAMPLE_MIXED);
    size = method->frame(out, sizeof(out), CHANNEL, &sent);
    for (size_t capacity = 0; capacity <= size; capacity++) {
        uint8_t *room = exact_copy(out, capacity);

        memset(room, 0, capacity);
        ck_assert_uint_eq(method->frame(room, capacity, CHANNEL, &sent),
                          capacity == size ? size : 0);
        if (capacity == size)
            ck_assert_mem_eq(room, out, size);
        free(room);
    }
}
END_TEST

START_TEST(bytes_after_the_last_field_are_noticed)
{
    const struct method_case *method = &cases[_i];
    union amqp_method sent, received;
    uint8_t fields[FRAME_ROOM];
    struct amqp_writer writer = amqp_writer_of(fields, sizeof(fields));
    struct amqp_reader reader;

    method->fill(&sent, SAMPLE_MIXED);
    method->encode(&writer, &sent);
    amqp_write_u8(&writer, 0);
    reader = amqp_reader_of(bytes_of(fields, (size_t)(writer.at - fields)));
    ck_assert(method->decode(&reader, &received));
    ck_assert(!amqp_reader_done(&reader));
    ck_assert_uint_eq(amqp_reader_left(&reader), 1);
}
END_TEST

/* ---- the table ---- */

START_TEST(every_method_is_found_by_its_ids)
{
    const struct method_case *method = &cases[_i];
    const struct amqp_method_info *info = amqp_method_find(method->class_id, method->method_id);
    union amqp_method sent, received;
    uint8_t fields[FRAME_ROOM];
    struct amqp_writer writer = amqp_writer_of(fields, sizeof(fields));
    struct amqp_reader reader;

    ck_assert_ptr_nonnull(info);
    ck_assert_ptr_eq(info, &amqp_methods[_i]);
    ck_assert_uint_eq(info->index, (unsigned)_i);
    ck_assert_uint_eq(info->id, AMQP_METHOD_ID(method->class_id, method->method_id));
    ck_assert_uint_eq(info->flags, method->flags);
    ck_assert_str_eq(info->name, method->name);

    method->fill(&sent, SAMPLE_MIXED);
    method->encode(&writer, &sent);
    reader = amqp_reader_of(bytes_of(fields, (size_t)(writer.at - fields)));
    ck_assert(info->decode(&reader, &received));
    ck_assert_ptr_null(method->difference(&sent, &received));
}
END_TEST

START_TEST(no_other_ids_are_found)
{
    size_t found = 0;

    for (unsigned class_id = 0; class_id < 300; class_id++) {
        for (unsigned method_id = 0; method_id < 300; method_id++)
            found += amqp_method_find((uint16_t)class_id, (uint16_t)method_id) != NULL;
    }
    ck_assert_uint_eq(found, AMQP_METHOD_COUNT);
    ck_assert_ptr_null(amqp_method_find(UINT16_MAX, UINT16_MAX));
    ck_assert_ptr_null(amqp_method_find(60, UINT16_MAX));
    ck_assert_ptr_null(amqp_method_find(UINT16_MAX, 60));
    ck_assert_ptr_null(amqp_method_find(40, 41)); /* exchange.unbind-ok is 51 */
}
END_TEST

START_TEST(ids_and_flags_are_those_of_the_specification)
{
    ck_assert_uint_eq(AMQP_METHOD_COUNT, 66);
    ck_assert_uint_eq(AMQP_connection_start, 10u << 16 | 10);
    ck_assert_uint_eq(AMQP_connection_update_secret_ok, 10u << 16 | 71);
    ck_assert_uint_eq(AMQP_exchange_unbind_ok, 40u << 16 | 51);
    ck_assert_uint_eq(AMQP_basic_recover_async, 60u << 16 | 100);
    ck_assert_uint_eq(AMQP_basic_nack, 60u << 16 | 120);
    ck_assert_uint_eq(AMQP_confirm_select, 85u << 16 | 10);
    ck_assert_uint_eq(AMQP_tx_rollback_ok, 90u << 16 | 31);

    ck_assert_uint_eq(amqp_method_find(60, 40)->flags, AMQP_FROM_CLIENT | AMQP_HAS_CONTENT);
    ck_assert_uint_eq(amqp_method_find(60, 60)->flags, AMQP_FROM_SERVER | AMQP_HAS_CONTENT);
    ck_assert_uint_eq(amqp_method_find(60, 80)->flags, AMQP_FROM_CLIENT | AMQP_FROM_SERVER);
    ck_assert_uint_eq(amqp_method_find(50, 10)->flags, AMQP_FROM_CLIENT | AMQP_SYNCHRONOUS);
    ck_assert_uint_eq(amqp_method_find(50, 11)->flags, AMQP_FROM_SERVER);
    ck_assert_uint_eq(amqp_method_find(10, 60)->flags, AMQP_FROM_SERVER);
    ck_assert_uint_eq(amqp_method_find(60, 30)->flags,
                      AMQP_FROM_CLIENT | AMQP_FROM_SERVER | AMQP_SYNCHRONOUS);
}
END_TEST

/* ---- bytes that another implementation made ---- */

/* Every frame below was made by pika 1.2 on channel 7. */
#define EXPECT_FRAME(method, expected, ...)                                                        \
    do {                                                                                           \
        static const char wire[] = expected;                                                       \
        uint8_t out[256];                                                                          \
        size_t size =                                                                              \
            amqp_frame_##method(out, sizeof(out), 7, &(struct amqp_##method){__VA_ARGS__});        \
                                                                                                   \
        ck_assert_uint_eq(size, sizeof(wire) - 1);                                                 \
        ck_assert_mem_eq(out, wire, size);                                                         \
    } while (0)

START_TEST(frames_are_those_of_other_implementations)
{
    EXPECT_FRAME(queue_declare,
                 "\x01\x00\x07\x00\x00\x00\x43\x00\x32\x00\x0a\x00\x00\x05"
                 "tasks\x0a\x00\x00\x00\x32\x0c"
                 "x-max-lengthI\x00\x00\x03\xe8\x0c"
                 "x-queue-typeS\x00\x00\x00\x07"
                 "classic\x04"
                 "flagt\x01\xce",
                 .queue = SLICE("tasks"), .durable = true, .auto_delete = true,
                 .arguments = SLICE("\x0cx-max-lengthI\x00\x00\x03\xe8\x0c"
                                    "x-queue-typeS\x00\x00\x00\x07"
                                    "classic\x04"
                                    "flagt\x01"));
    EXPECT_FRAME(basic_publish,
                 "\x01\x00\x07\x00\x00\x00\x10\x00\x3c\x00\x28\x00\x00\x04logs\x03"
                 "a.b\x01\xce",
                 .exchange = SLICE("logs"), .routing_key = SLICE("a.b"), .mandatory = true);
    EXPECT_FRAME(basic_deliver,
                 "\x01\x00\x07\x00\x00\x00\x19\x00\x3c\x00\x3c\x05"
                 "ctag1\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02"
                 "ex\x02rk\xce",
                 .consumer_tag = SLICE("ctag1"), .delivery_tag = 0x0102030405060708,
                 .redelivered = true, .exchange = SLICE("ex"), .routing_key = SLICE("rk"));
    EXPECT_FRAME(exchange_declare,
                 "\x01\x00\x07\x00\x00\x00\x13\x00\x28\x00\x0a\x00\x00\x01"
                 "e\x05topic\x1a\x00\x00\x00\x00\xce",
                 .exchange = SLICE("e"), .type = SLICE("topic"), .durable = true, .internal = true,
                 .no_wait = true);
    EXPECT_FRAME(basic_nack,
                 "\x01\x00\x07\x00\x00\x00\x0d\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x09"
                 "\x01\xce",
                 .delivery_tag = 9, .multiple = true);
    EXPECT_FRAME(connection_tune,
                 "\x01\x00\x07\x00\x00\x00\x0c\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c\xce",
                 .channel_max = 2047, .frame_max = 131072, .heartbeat = 60);
    EXPECT_FRAME(access_request, "\x01\x00\x07\x00\x00\x00\x0b\x00\x1e\x00\x0a\x05/data\x1e\xce",
                 .realm = SLICE("/data"), .passive = true, .active = true, .write = true,
                 .read = true);
    EXPECT_FRAME(exchange_unbind_ok, "\x01\x00\x07\x00\x00\x00\x04\x00\x28\x00\x33\xce",
                 .no_fields = 0);
}
END_TEST

START_TEST(shortstr_that_is_too_long_makes_no_frame)
{
    uint8_t out[FRAME_ROOM];
    struct amqp_basic_publish publish = {
        .routing_key = {.data = long_text, .size = 256},
    };

    ck_assert_uint_eq(amqp_frame_basic_publish(out, sizeof(out), 1, &publish), 0);
    publish.routing_key.size = 255;
    ck_assert_uint_ne(amqp_frame_basic_publish(out, sizeof(out), 1, &publish), 0);
}
END_TEST

START_TEST(malformed_arguments_are_refused)
{
    static const struct slice wires[] = {
        SLICE("\0\0\1q\0\0\0\0\4\1k?\1"),         /* unknown type */
        SLICE("\0\0\1q\0\0\0\0\3\1kt"),           /* value missing */
        SLICE("\0\0\1q\0\0\0\0\5\1kt\1"),         /* longer than the frame */
        SLICE("\0\0\1q\0\xFF\xFF\xFF\xFF\1kt\1"), /* much longer */
        SLICE("\0\0\1q\0\0\0\0\7\1kF\0\0\0\1"),   /* nested table past its parent */
        SLICE("\0\0\1q\0\0\0\0\4\5kt\1"),         /* name past the table */
    };
    struct amqp_queue_declare declare;

    for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
        struct amqp_reader reader = amqp_reader_of(wires[i]);

        ck_assert_msg(!amqp_decode_queue_declare(&reader, &declare), "case %zu", i);
    }
}
END_TEST

int
main(void)
{
    const int count = (int)(sizeof(cases) / sizeof(cases[0]));
    Suite *suite = suite_create("amqp method");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, every_method_comes_back_as_it_went, 0, count);
    tcase_add_loop_test(tests, every_method_cut_short_is_refused, 0, count);
    tcase_add_loop_test(tests, frame_that_does_not_fit_is_not_made, 0, count);
    tcase_add_loop_test(tests, bytes_after_the_last_field_are_noticed, 0, count);
    tcase_add_loop_test(tests, every_method_is_found_by_its_ids, 0, count);
    tcase_add_test(tests, no_other_ids_are_found);
    tcase_add_test(tests, ids_and_flags_are_those_of_the_specification);
    tcase_add_test(tests, frames_are_those_of_other_implementations);
    tcase_add_test(tests, shortstr_that_is_too_long_makes_no_frame);
    tcase_add_test(tests, malformed_arguments_are_refused);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
