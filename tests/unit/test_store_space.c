/* How much disk the log takes, how often it writes a message, and what it does on a full disk. */
#include "test_store_support.h"

static struct world world;

static void
set_up(void)
{
    world_init(&world, 11);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
}

static void
tear_down(void)
{
    world_fini(&world);
}

/* The constant in the bound: open head, spares, slack of compaction, what waits for a checkpoint.
 */
enum { CONSTANT_SEGMENTS = 14 };

static struct log_statistics
statistics(void)
{
    struct log_statistics result;
    log_statistics(world.log, &result);
    return result;
}

static void
check_bounded(void)
{
    struct log_statistics now = statistics();
    ck_assert_msg(now.disk_bytes <= 3 * now.live_bytes + CONSTANT_SEGMENTS * world.segment_size,
                  "%" PRIu64 " bytes on disk for %" PRIu64 " live bytes", now.disk_bytes,
                  now.live_bytes);
}

/* One message is published and the one `behind` it settled, in a turn. */
static void
flow(size_t first, size_t behind)
{
    world_publish_to(&world, 1, 1000, false);
    if (world.count > first + behind)
        world_settle(&world, &world.messages[world.count - 1 - behind], 0);
    world_submit(&world);
    world_work(&world);
}

START_TEST(traffic_in_order_is_written_once)
{
    /* Larger segments, so that their header blocks count as little as they do with real ones. */
    world_close(&world);
    world.segment_size = 128 * 1024;
    ck_assert_int_eq(world_open(&world), 0);
    for (int i = 0; i < 8000; i++) {
        flow(0, 100);
        check_bounded();
    }
    struct log_statistics end = statistics();
    ck_assert_uint_eq(end.moved, 0);
    ck_assert_uint_lt(end.disk_bytes, CONSTANT_SEGMENTS * world.segment_size);
    /* Everything that was written, against the messages alone. */
    ck_assert_uint_lt(end.bytes_written * 10, end.bytes_published * 13);
}
END_TEST

START_TEST(slow_queue_among_fast_ones_keeps_the_disk_bounded)
{
    /* One message in a thousand is for a queue that nobody consumes. */
    for (int i = 0; i < 12000; i++) {
        if (i % 1000 == 0)
            world_publish_to(&world, 2, 200, false);
        struct model_message *message = world_publish_to(&world, 1, 200, false);
        world_submit(&world);
        world_work(&world);
        world_settle(&world, message, 0);
        world_submit(&world);
        if (i % 10 == 0)
            check_bounded();
    }
    world_work(&world);
    check_bounded();
    struct log_statistics end = statistics();
    ck_assert_uint_gt(end.moved, 0);
    ck_assert_uint_lt(end.bytes_moved * 10, end.bytes_published * 3);
    uint64_t last = world.next_ticket - 1;
    world_close(&world);
    ck_assert_int_eq(world_open(&world), 0);
    world_check(&world, last, last);
    ck_assert_uint_eq(world.recovered_count, 12);
}
END_TEST

/* Hours of traffic: a thousand queues that are consumed a little behind their publishers, some more
 * than others, and one that gets as much as each of them and lets go of a message a minute. */
enum { FAST_QUEUES = 1000, PUBLISHED_A_TURN = 40, HOURS = 3, BEHIND_MAX = 4000 };

struct traffic {
    struct {
        uint64_t queue, id;
    } behind[BEHIND_MAX]; /* of the fast queues, not settled yet, in no order */
    size_t behind_count;
    uint64_t *slow; /* of the slow queue, in order */
    size_t slow_first, slow_count;
};

static uint64_t
publish_plain(uint64_t queue)
{
    static char body[200];
    struct iovec piece = {body, sizeof(body)};
    struct log_publish publish = {
        .pieces = &piece, .piece_count = 1, .queue_count = 1, .queue_ids = &queue};
    uint64_t id;
    REQUIRE(log_publish(world.writer, &publish, &id) == 0);
    return id;
}

static void
settle_some(struct traffic *traffic)
{
    /* Seldom behind by more than a half; which of them goes is chance. */
    while (traffic->behind_count > BEHIND_MAX / 2 - world_random(&world, BEHIND_MAX / 4)) {
        size_t i = world_random(&world, traffic->behind_count);
        REQUIRE(log_settle(world.writer, traffic->behind[i].queue, traffic->behind[i].id) == 0);
        traffic->behind[i] = traffic->behind[--traffic->behind_count];
    }
}

START_TEST(slow_queue_among_a_thousand_keeps_the_disk_bounded_for_hours)
{
    enum { SECONDS = HOURS * 3600, SLOW = FAST_QUEUES + 1 };
    static struct traffic traffic;
    traffic.slow = calloc((size_t)SECONDS * PUBLISHED_A_TURN, sizeof(*traffic.slow));
    ck_assert_ptr_nonnull(traffic.slow);
    for (int second = 0; second < SECONDS; second++) {
        for (int i = 0; i < PUBLISHED_A_TURN; i++) {
            uint64_t queue = 1 + world_random(&world, SLOW);
            uint64_t id = publish_plain(queue);
            if (queue == SLOW) {
                traffic.slow[traffic.slow_count++] = id;
                continue;
            }
            traffic.behind[traffic.behind_count].queue = queue;
            traffic.behind[traffic.behind_count++].id = id;
        }
        settle_some(&traffic);
        if (second % 60 == 59 && traffic.slow_first < traffic.slow_count)
            REQUIRE(log_settle(world.writer, SLOW, traffic.slow[traffic.slow_first++]) == 0);
        log_submit(world.writer);
        world_work(&world);
        if (second % 20 == 0)
            check_bounded();
    }
    struct log_statistics end = statistics();
    ck_assert_uint_eq(end.live_messages,
                      traffic.behind_count + traffic.slow_count - traffic.slow_first);
    ck_assert_uint_gt(traffic.slow_count - traffic.slow_first, 100);
    /* That nothing is settled in order is the worst there is: still less is moved than came in. */
    ck_assert_uint_lt(end.bytes_moved, end.bytes_published);
    ck_assert_uint_eq(end.unknown_settles, 0);
    free(traffic.slow);
}
END_TEST

START_TEST(standing_backlog_is_not_written_again_and_again)
{
    for (int i = 0; i < 2000; i++)
        world_publish_to(&world, 2, 200, false);
    world_submit(&world);
    world_work(&world);
    size_t first = world.count;
    for (int i = 0; i < 8000; i++) {
        flow(first, 50);
        check_bounded();
    }
    struct log_statistics end = statistics();
    ck_assert_uint_lt(end.bytes_moved * 10, end.bytes_published);
}
END_TEST

START_TEST(drained_backlog_gives_its_disk_back)
{
    for (int i = 0; i < 4000; i++) {
        world_publish_to(&world, 1, 300, false);
        if (i % 10 == 0)
            world_submit(&world);
    }
    world_submit(&world);
    world_work(&world);
    ck_assert_uint_gt(statistics().disk_bytes, 80 * WORLD_SEGMENT);
    for (size_t i = 0; i < 4000; i++) {
        world_settle(&world, &world.messages[i], 0);
        if (i % 10 == 0) {
            world_submit(&world);
            world_work(&world);
        }
    }
    world_submit(&world);
    world_work(&world);
    ck_assert_uint_lt(statistics().disk_bytes, CONSTANT_SEGMENTS * world.segment_size);
    world_close(&world);
    ck_assert_int_eq(world_open(&world), 0);
    ck_assert_uint_eq(world.recovered_count, 0);
}
END_TEST

START_TEST(random_work_with_restarts_keeps_to_the_model)
{
    for (int life = 0; life < 12; life++) {
        for (int i = 0; i < 120; i++)
            random_turn(&world, life % 3 == 0 ? 70 : 45);
        world_work(&world);
        check_bounded();
        uint64_t last = world.next_ticket - 1;
        world_close(&world);
        ck_assert_msg(world_open(&world) == 0, "%s", world.error);
        world_check(&world, last, last);
    }
    ck_assert(!log_failed(world.log, NULL));
}
END_TEST

START_TEST(full_disk_is_announced_before_it_stops_the_log)
{
    world_work(&world);
    ck_assert(!log_disk_low(world.log));
    simulated_disk_limit(world.disk, simulated_disk_used(world.disk) + 6 * WORLD_SEGMENT);
    int turns = 0;
    while (!log_disk_low(world.log)) {
        world_publish_to(&world, 1, 500, false);
        world_submit(&world);
        world_work(&world);
        ck_assert_int_lt(++turns, 10000);
    }
    /* Who holds publishers back has nothing else to wake it. */
    ck_assert(world.knows_disk_low);
    /* Publishers are held back now; consumers go on, and what they settle makes room. */
    ck_assert(!log_failed(world.log, NULL));
    for (size_t i = 0; i < world.count; i++) {
        world_settle(&world, &world.messages[i], 0);
        world_submit(&world);
        world_work(&world);
    }
    ck_assert(!log_failed(world.log, NULL));
    ck_assert(!log_disk_low(world.log));
    ck_assert(!world.knows_disk_low);
    for (int i = 0; i < 20; i++)
        world_publish_to(&world, 1, 500, false);
    world_submit(&world);
    world_work(&world);
    ck_assert(!log_failed(world.log, NULL));
    uint64_t last = world.next_ticket - 1;
    world_close(&world);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    world_check(&world, last, last);
}
END_TEST

START_TEST(reserve_lets_a_full_disk_be_emptied)
{
    for (int i = 0; i < 300; i++) {
        world_publish_to(&world, 1, 500, false);
        world_submit(&world);
        world_work(&world);
    }
    /* Not a byte is left: even a checkpoint must take the place of a spare. */
    struct log_statistics full = statistics();
    simulated_disk_limit(world.disk, simulated_disk_used(world.disk));
    for (size_t i = 0; i < 300; i++)
        world_settle(&world, &world.messages[i], 0);
    world_submit(&world);
    world_work(&world);
    struct log_statistics emptied = statistics();
    ck_assert(!log_failed(world.log, NULL));
    ck_assert(!log_disk_low(world.log));
    ck_assert_uint_gt(emptied.checkpoints, full.checkpoints);
    ck_assert_uint_lt(emptied.disk_bytes * 2, full.disk_bytes);
}
END_TEST

/* A broker that is killed when the disk is full must start again for consumers to make room, though
 * the new head takes the last spare. */
START_TEST(full_disk_can_be_opened_again_and_emptied)
{
    simulated_disk_limit(world.disk, simulated_disk_used(world.disk) + 6 * WORLD_SEGMENT);
    while (!log_disk_low(world.log)) {
        world_publish_to(&world, 1, 500, false);
        world_submit(&world);
        world_work(&world);
    }
    uint64_t used = simulated_disk_used(world.disk), last = world.next_ticket - 1;
    simulated_disk_limit(world.disk, used);
    world_publish_to(&world, 1, 500, false);
    world_submit(&world);
    simulated_disk_fail_at(world.disk, 1, -EIO, true);
    world_work(&world);
    world_close(&world);
    simulated_disk_reboot(world.disk, SIMULATED_LOSE_ALL);
    ck_assert_uint_eq(simulated_disk_used(world.disk), used);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    world_check(&world, last, last);
    for (size_t i = 0; i < world.count; i++) {
        if (!is_in(&world.messages[i], 0, NO_TICKET - 1))
            continue;
        world_settle(&world, &world.messages[i], 0);
        world_submit(&world);
        world_work(&world);
    }
    ck_assert(!log_failed(world.log, NULL));
    ck_assert(!log_disk_low(world.log));
    ck_assert_uint_lt(statistics().disk_bytes, used);
    /* The head that is too small for most does not stay as a spare that is of no use. */
    size_t first = world.count;
    for (int i = 0; i < 60; i++)
        flow(first, 5);
    ck_assert(!log_failed(world.log, NULL));
    ck_assert_uint_eq(statistics().disk_bytes % WORLD_SEGMENT, 0);
}
END_TEST

START_TEST(publisher_that_is_not_held_back_on_a_full_disk_loses_nothing_confirmed)
{
    simulated_disk_limit(world.disk, 10 * WORLD_SEGMENT);
    while (!log_failed(world.log, NULL)) {
        world_publish_to(&world, 1, 500, false);
        world_submit(&world);
        world_work(&world);
    }
    char text[LOG_TEXT_SIZE];
    ck_assert(log_failed(world.log, text));
    ck_assert_ptr_nonnull(strstr(text, "No space left"));
    uint64_t durable = world.durable, last = world.next_ticket - 1;
    ck_assert_uint_gt(durable, 50);
    world_close(&world);
    simulated_disk_reboot(world.disk, SIMULATED_LOSE_ALL);
    simulated_disk_limit(world.disk, 20 * WORLD_SEGMENT);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    world_check(&world, durable, last);
}
END_TEST

START_TEST(free_disk_below_the_watermark_is_told)
{
    world_close(&world);
    struct log_options options = world_options(&world);
    options.disk_free_low = 4 * WORLD_SEGMENT;
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    simulated_disk_limit(world.disk, simulated_disk_used(world.disk) + 5 * WORLD_SEGMENT);
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), 0);
    world.writer = log_writer_new(world.log, world_durable, NULL);
    world.next_ticket = 1;
    int turns = 0;
    while (!log_disk_low(world.log)) {
        world_publish_to(&world, 1, 500, false);
        world_submit(&world);
        world_work(&world);
        ck_assert_int_lt(++turns, 1000);
    }
    ck_assert(!log_failed(world.log, NULL));
}
END_TEST

/* The first publishers come before the log has written anything. */
START_TEST(disk_that_is_nearly_full_at_the_start_is_told_at_once)
{
    world_close(&world);
    struct log_options options = world_options(&world);
    options.disk_free_low = 4 * WORLD_SEGMENT;
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    simulated_disk_limit(world.disk, simulated_disk_used(world.disk) + 3 * WORLD_SEGMENT);
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), 0);
    world.writer = log_writer_new(world.log, world_durable, NULL);
    ck_assert(log_disk_low(world.log));
}
END_TEST

/* What the log keeps for its own convenience must not be what holds publishers back: nobody else
 * could end that. */
START_TEST(emptied_log_gives_back_what_is_needed_to_reach_the_watermark)
{
    world_close(&world);
    struct log_options options = world_options(&world);
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    options.disk_free_low = 3 * WORLD_SEGMENT;
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), 0);
    world.writer = log_writer_new(world.log, world_durable, NULL);
    world.next_ticket = 1;
    world_work(&world);
    ck_assert_uint_eq(statistics().segments, 3); /* the head and two spares */
    /* Room for one more before the watermark, less what checkpoints take. */
    simulated_disk_limit(world.disk, simulated_disk_used(world.disk) + 5 * WORLD_SEGMENT - 1);
    for (int life = 0; life < 20; life++) {
        size_t first = world.count;
        while (!log_disk_low(world.log)) {
            world_publish_to(&world, 1, 500, false);
            world_submit(&world);
            world_work(&world);
            ck_assert_uint_lt(world.count - first, 1000);
        }
        ck_assert_uint_gt(world.count, first);
        for (size_t i = first; i < world.count; i++)
            world_settle(&world, &world.messages[i], 0);
        world_submit(&world);
        world_work(&world);
        ck_assert_msg(!log_disk_low(world.log), "%" PRIu64 " segments, %" PRIu64 " of them spare",
                      statistics().segments, statistics().spare_segments);
    }
    ck_assert(!log_failed(world.log, NULL));
}
END_TEST

/* Calls of the disk that a message of this size costs, and all that the log does after it. */
static uint64_t
operations_of(uint32_t size)
{
    uint64_t before = simulated_disk_operations(world.disk);
    world_publish_to(&world, 1, size, false);
    world_submit(&world);
    world_work(&world);
    return simulated_disk_operations(world.disk) - before;
}

START_TEST(spares_are_zeroed_only_while_commits_are_small)
{
    enum { ALONE = 3 }; /* written, synced, and the end of the log marked */
    /* Large enough that the zeros of the spares take several steps. */
    world_close(&world);
    world.segment_size = 8 * 1024 * 1024;
    ck_assert_int_eq(world_open(&world), 0);
    operations_of(100 * 1024); /* and the spares, which are made at the first occasion */
    ck_assert_uint_eq(operations_of(100 * 1024), ALONE);
    ck_assert_uint_gt(operations_of(100), ALONE);
}
END_TEST

/* A file system may break its promise of space, when a spare is written with zeros. */
START_TEST(spare_whose_space_is_not_there_holds_nobody_back_while_there_are_others)
{
    static const int errors[] = {-ENOSPC, -EDQUOT};
    enum { LARGE = 100 * 1024, COUNT = 4 * 80 };
    world_close(&world);
    world.segment_size = 8 * 1024 * 1024;
    ck_assert_int_eq(world_open(&world), 0);
    for (int i = 0; i < COUNT; i++)
        operations_of(LARGE);
    for (size_t i = 0; i < COUNT; i++)
        world_settle(&world, &world.messages[i], 0);
    operations_of(LARGE);
    ck_assert_uint_eq(statistics().spare_segments, 4);
    world_publish_to(&world, 1, 100, false);
    world_submit(&world);
    simulated_disk_fail_at(world.disk, 3, errors[_i], false); /* written, synced, zeros */
    world_work(&world);
    ck_assert(simulated_disk_has_failed(world.disk));
    ck_assert(!log_failed(world.log, NULL));
    ck_assert(!log_disk_low(world.log));
    ck_assert_uint_eq(statistics().spare_segments, 3);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/space");
    TCase *tests = tcase_create("space");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, traffic_in_order_is_written_once);
    tcase_add_test(tests, slow_queue_among_fast_ones_keeps_the_disk_bounded);
    tcase_add_test(tests, slow_queue_among_a_thousand_keeps_the_disk_bounded_for_hours);
    tcase_add_test(tests, standing_backlog_is_not_written_again_and_again);
    tcase_add_test(tests, drained_backlog_gives_its_disk_back);
    tcase_add_test(tests, random_work_with_restarts_keeps_to_the_model);
    tcase_add_test(tests, full_disk_is_announced_before_it_stops_the_log);
    tcase_add_test(tests, reserve_lets_a_full_disk_be_emptied);
    tcase_add_test(tests, full_disk_can_be_opened_again_and_emptied);
    tcase_add_test(tests, publisher_that_is_not_held_back_on_a_full_disk_loses_nothing_confirmed);
    tcase_add_test(tests, free_disk_below_the_watermark_is_told);
    tcase_add_test(tests, disk_that_is_nearly_full_at_the_start_is_told_at_once);
    tcase_add_test(tests, emptied_log_gives_back_what_is_needed_to_reach_the_watermark);
    tcase_add_test(tests, spares_are_zeroed_only_while_commits_are_small);
    tcase_add_loop_test(
        tests, spare_whose_space_is_not_there_holds_nobody_back_while_there_are_others, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
