/* The bytes of records and summaries: what goes in comes out, and foreign bytes do no harm. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/log_record.h"
#include "store/segment.h"

enum { ROOM = 4096, NOTES = 1000, TRIES = 20000 };

static uint64_t random_state = 88172645463325252U;

static uint64_t
next_random(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

struct gathered {
    struct record_note notes[NOTES];
    size_t count;
};

static int
gather(void *context, const struct record_note *note)
{
    struct gathered *gathered = context;
    if (gathered->count == NOTES)
        return -EBADMSG;
    gathered->notes[gathered->count++] = *note;
    return 0;
}

static void
make_notes(struct record_note *notes)
{
    uint64_t id = 5;
    for (size_t i = 0; i < NOTES; i++) {
        id = next_random(20) == 0 ? next_random(UINT64_MAX) : id + 1 + next_random(3);
        notes[i] = (struct record_note){
            .queue_id = next_random(10) == 0 ? UINT64_MAX - next_random(3) : 7,
            .id = id,
            .count = next_random(4) == 0 ? UINT32_MAX : (uint32_t)next_random(200),
        };
    }
}

START_TEST(notes_come_back_as_they_were)
{
    struct record_note notes[NOTES];
    char record[ROOM];
    make_notes(notes);
    size_t records = 0;
    for (size_t done = 0; done < NOTES; records++) {
        size_t used, length = record_notes_put(record, ROOM / 4, (enum record_type)_i, notes + done,
                                               NOTES - done, &used);
        ck_assert_uint_gt(used, 0);
        ck_assert_uint_le(length, ROOM / 4);
        struct record_header header;
        struct gathered gathered = {.count = 0};
        ck_assert_int_eq(record_open(record, ROOM, 0, &header), 0);
        ck_assert_int_eq(record_notes_get(record, &header, gather, &gathered), 0);
        ck_assert_uint_eq(gathered.count, used);
        for (size_t i = 0; i < used; i++) {
            ck_assert_uint_eq(gathered.notes[i].queue_id, notes[done + i].queue_id);
            ck_assert_uint_eq(gathered.notes[i].id, notes[done + i].id);
            if (_i == RECORD_DELIVERIES)
                ck_assert_uint_eq(gathered.notes[i].count, notes[done + i].count);
        }
        done += used;
    }
    ck_assert_uint_gt(records, 1);
}
END_TEST

START_TEST(settling_in_order_costs_about_a_byte_each)
{
    struct record_note notes[NOTES];
    char record[ROOM];
    for (size_t i = 0; i < NOTES; i++)
        notes[i] = (struct record_note){.queue_id = 123456, .id = 1000000 + i};
    size_t used, length = record_notes_put(record, ROOM, RECORD_SETTLE, notes, NOTES, &used);
    ck_assert_uint_eq(used, NOTES);
    ck_assert_uint_lt(length, NOTES + 100);
}
END_TEST

/* The room of notes_put is never overrun, whatever its size. */
START_TEST(notes_stay_within_their_room)
{
    struct record_note notes[NOTES];
    make_notes(notes);
    for (size_t room = 2 * RECORD_NOTES_SLACK; room < 2000; room += 8) {
        char *record = malloc(room);
        size_t used;
        ck_assert_uint_le(record_notes_put(record, room, RECORD_DELIVERIES, notes, NOTES, &used),
                          room);
        ck_assert_uint_gt(used, 0);
        free(record);
    }
}
END_TEST

START_TEST(numbers_fold_and_unfold)
{
    static const uint64_t values[] = {0, 1, 2, 127, 128, UINT32_MAX, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < 8; i++)
        for (size_t j = 0; j < 8; j++) {
            char bytes[VARINT_MAX];
            const char *end = varint_put(bytes, varint_fold(values[i], values[j]));
            struct record_reader reader = {.at = bytes, .end = end};
            ck_assert_uint_eq(varint_unfold(read_varint(&reader), values[j]), values[i]);
            ck_assert(!reader.is_bad && reader.at == end);
        }
}
END_TEST

/* A publish record with three queues and a body. */
static size_t
make_publish(char *record, uint64_t id, uint32_t body)
{
    struct record_publish publish = {.id = id,
                                     .published_wall_ms = 5,
                                     .expires_wall_ms = id % 2 == 0 ? 9 : 0,
                                     .flags = 3,
                                     .piece_count = 2,
                                     .piece_sizes = {10, body}};
    size_t length = record_publish_size(3, true, publish.piece_sizes, 2);
    memset(record, 'b', length);
    record_publish_put(record, &publish);
    char *ids = record + record_queues_offset(2);
    for (uint32_t i = 0; i < 3; i++) {
        put_u64(ids + 8 * (size_t)i, 100 + i);
        put_u32(ids + 24 + 4 * (size_t)i, i);
    }
    record_finish(record, length, RECORD_PUBLISH, 2, RECORD_HAS_COUNTS, 3);
    return length;
}

START_TEST(record_of_another_segment_is_not_sound)
{
    char record[ROOM];
    size_t length = make_publish(record, 77, 100);
    record_seal(record, record_salt(5, 0x1234));
    struct record_header header;
    ck_assert_int_eq(record_open(record, length, record_salt(5, 0x1234), &header), 0);
    ck_assert_int_eq(record_open(record, length, record_salt(6, 0x1234), &header), -EBADMSG);
    ck_assert_int_eq(record_open(record, length, record_salt(5, 0x1235), &header), -EBADMSG);
    ck_assert_int_eq(record_open(record, length - 8, record_salt(5, 0x1234), &header), -ENODATA);
}
END_TEST

START_TEST(every_flipped_bit_of_a_record_is_noticed)
{
    char record[ROOM];
    size_t length = make_publish(record, 77, 100);
    struct record_header header;
    for (size_t bit = 0; bit < length * 8; bit++) {
        record[bit / 8] ^= (char)(1 << bit % 8);
        ck_assert_int_ne(record_open(record, length, 0, &header), 0);
        record[bit / 8] ^= (char)(1 << bit % 8);
    }
    ck_assert_int_eq(record_open(record, length, 0, &header), 0);
}
END_TEST

static int
ignore_note(void *context, const struct record_note *note)
{
    (void)context;
    (void)note;
    return 0;
}

/* Decoders are given bytes whose check is right and whose contents are anything. */
START_TEST(wild_contents_are_refused_without_harm)
{
    for (int i = 0; i < TRIES; i++) {
        size_t length = 16 + 8 * next_random(40);
        char *record = malloc(length);
        for (size_t at = 0; at < length; at++)
            record[at] = next_random(3) == 0 ? 0 : (char)next_random(256);
        struct record_header header = {
            .length = (uint32_t)length,
            .type = (uint8_t)(1 + next_random(6)),
            .pieces = (uint8_t)next_random(8),
            .flags = (uint8_t)next_random(4),
            .count = (uint32_t)(next_random(8) == 0 ? next_random(UINT32_MAX) : next_random(9)),
        };
        struct record_publish publish;
        struct record_begin begin;
        uint64_t sequence;
        if (record_publish_get(record, &header, &publish) == 0) {
            ck_assert(publish.payload >= record);
            ck_assert(publish.payload <= record + length);
        }
        ck_assert_int_le(record_notes_get(record, &header, ignore_note, NULL), 0);
        ck_assert_int_le(record_begin_get(record, &header, &begin), 0);
        ck_assert_int_le(record_commit_get(record, &header, &sequence), 0);
        free(record);
    }
}
END_TEST

static int
count_record(void *context, const struct record_publish *publish, uint32_t offset, uint32_t size)
{
    uint64_t *sum = context;
    *sum += publish->id + publish->queue_count + offset + size;
    for (uint32_t i = 0; i < publish->queue_count; i++)
        *sum += get_u64(publish->queue_ids + 8 * (size_t)i)
                + (publish->counts != NULL ? get_u32(publish->counts + 4 * (size_t)i) : 0);
    return 0;
}

START_TEST(summary_tells_what_the_records_tell)
{
    struct segment *segment = segment_new(3);
    segment->size = 1 << 20;
    segment_start(segment, 9, 4);
    uint64_t expected = 0, sum = 0;
    char record[ROOM];
    for (uint32_t i = 0; i < 500; i++) {
        size_t length = make_publish(record, 1000 - i, i);
        struct record_header header;
        struct record_publish publish;
        uint32_t ordinal;
        ck_assert_int_eq(record_open(record, length, 0, &header), 0);
        ck_assert_int_eq(record_publish_get(record, &header, &publish), 0);
        uint32_t offset = segment->end + (uint32_t)next_random(3) * 8;
        ck_assert_int_eq(
            segment_note(segment, &publish, offset, (uint32_t)length, i % 2 == 0, &ordinal), 0);
        ck_assert_uint_eq(ordinal, i);
        segment->end = offset + (uint32_t)length;
        count_record(&expected, &publish, offset, (uint32_t)length);
    }
    ck_assert_uint_eq(segment->live_count, 250);
    char *data;
    size_t size;
    ck_assert_int_eq(segment_summary_make(segment, 4, &data, &size), 0);
    ck_assert_int_eq(segment_summary_read(data, size, 9, 4, segment->end, 500, count_record, &sum),
                     0);
    ck_assert_uint_eq(sum, expected);
    ck_assert_int_eq(segment_summary_read(data, size, 8, 4, segment->end, 500, count_record, &sum),
                     -EBADMSG);
    ck_assert_int_eq(segment_summary_read(data, size, 9, 5, segment->end, 500, count_record, &sum),
                     -EBADMSG);
    for (size_t at = 0; at < size; at++) {
        data[at] ^= 4;
        ck_assert_int_eq(
            segment_summary_read(data, size, 9, 4, segment->end, 500, count_record, &sum),
            -EBADMSG);
        data[at] ^= 4;
    }
    free(data);
    struct file_ops none = {0};
    segment_free(&none, segment);
}
END_TEST

START_TEST(header_of_a_segment_is_checked)
{
    char block[SEGMENT_HEADER_SIZE] = {0};
    struct segment_header header = {.number = 5, .log_id = 6, .size = 7}, read;
    ck_assert_int_eq(segment_header_get(block, sizeof(block), &read), -ENODATA);
    ck_assert_int_eq(segment_header_get(block, 0, &read), -ENODATA);
    segment_header_put(block, &header);
    ck_assert_int_eq(segment_header_get(block, sizeof(block), &read), 0);
    ck_assert_uint_eq(read.number, 5);
    ck_assert_uint_eq(read.log_id, 6);
    ck_assert_uint_eq(read.size, 7);
    ck_assert_int_eq(segment_header_get(block, 40, &read), -EBADMSG);
    for (size_t at = 0; at < 64; at++) {
        block[at] ^= 1;
        ck_assert_int_lt(segment_header_get(block, sizeof(block), &read), 0);
        block[at] ^= 1;
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/record");
    TCase *tests = tcase_create("record");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, notes_come_back_as_they_were, RECORD_SETTLE, RECORD_DELIVERIES + 1);
    tcase_add_test(tests, settling_in_order_costs_about_a_byte_each);
    tcase_add_test(tests, notes_stay_within_their_room);
    tcase_add_test(tests, numbers_fold_and_unfold);
    tcase_add_test(tests, record_of_another_segment_is_not_sound);
    tcase_add_test(tests, every_flipped_bit_of_a_record_is_noticed);
    tcase_add_test(tests, wild_contents_are_refused_without_harm);
    tcase_add_test(tests, summary_tells_what_the_records_tell);
    tcase_add_test(tests, header_of_a_segment_is_checked);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
