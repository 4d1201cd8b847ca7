/* The message log as its users see it: publishing, settling, reading, opening again. */
#include "test_store_support.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static struct world world;

static void
set_up(void)
{
    world_init(&world, 42);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
}

static void
tear_down(void)
{
    world_fini(&world);
}

static void
reopen(void)
{
    uint64_t last = world.next_ticket - 1;
    world_close(&world);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    world_check(&world, last, last);
}

START_TEST(published_message_is_there_after_reopening)
{
    world_publish_to(&world, 1, 100, false);
    world_publish_to(&world, 4, 0, false);
    world_submit(&world);
    world_work(&world);
    ck_assert_uint_eq(log_durable(world.writer), 1);
    reopen();
    ck_assert_uint_eq(world.recovered_count, 2);
    ck_assert_uint_eq(world.recovered[0].queues, 1);
    ck_assert_uint_eq(world.recovered[1].queues, 4);
}
END_TEST

START_TEST(ticket_is_not_durable_before_the_log_has_worked)
{
    world_publish_to(&world, 1, 100, false);
    uint64_t ticket = log_submit(world.writer);
    ck_assert_uint_lt(log_durable(world.writer), ticket);
    ck_assert_uint_gt(log_backlog(world.log), 100);
    world_work(&world);
    ck_assert_uint_ge(log_durable(world.writer), ticket);
    ck_assert_uint_eq(log_backlog(world.log), 0);
    ck_assert_uint_eq(log_submit(world.writer), ticket);
}
END_TEST

static void
count_call(void *context)
{
    ++*(int *)context;
}

/* A transaction's settlements may be another thread's to write. */
START_TEST(a_fence_covers_what_other_writers_submitted_before_it)
{
    int calls = 0;
    struct log_writer *other = log_writer_new(world.log, count_call, &calls);
    ck_assert_ptr_nonnull(other);
    uint64_t before = log_submit(other);
    world_publish_to(&world, 1, 100, false);
    uint64_t ticket = log_submit(world.writer);
    ck_assert_uint_eq(log_submit(other), before); /* without one it says nothing of it */
    ck_assert_int_eq(log_fence(other), 0);
    ck_assert_uint_gt(log_submit(other), ticket);
    ck_assert_uint_lt(log_durable(other), ticket);
    world_work(&world);
    ck_assert_uint_gt(log_durable(other), ticket);
    ck_assert_int_eq(calls, 1);
    log_writer_free(other);
}
END_TEST

START_TEST(settled_message_does_not_come_back)
{
    struct model_message *message = world_publish_to(&world, 3, 100, false);
    world_submit(&world);
    world_work(&world);
    world_settle(&world, message, 0);
    world_submit(&world);
    world_work(&world);
    reopen();
    ck_assert_uint_eq(world.recovered_count, 1);
    ck_assert_uint_eq(world.recovered[0].queues, 2);
    world_settle(&world, message, 1);
    world_submit(&world);
    world_work(&world);
    reopen();
    ck_assert_uint_eq(world.recovered_count, 0);
}
END_TEST

START_TEST(message_settled_before_it_is_written_is_never_written)
{
    struct log_statistics before, after;
    log_statistics(world.log, &before);
    for (int i = 0; i < 100; i++) {
        struct model_message *message = world_publish_to(&world, 3, 500, false);
        world_submit(&world);
        world_settle(&world, message, 0);
        world_settle(&world, message, 1);
        world_submit(&world);
    }
    world_work(&world);
    log_statistics(world.log, &after);
    ck_assert_uint_eq(after.cancelled, 100);
    ck_assert_uint_eq(after.bytes_written, before.bytes_written);
    ck_assert_uint_eq(log_durable(world.writer), world.next_ticket - 1);
    reopen();
    ck_assert_uint_eq(world.recovered_count, 0);
}
END_TEST

START_TEST(delivery_count_survives)
{
    struct model_message *one = world_publish_to(&world, 1, 10, false);
    struct model_message *two = world_publish_to(&world, 6, 10, false);
    world_submit(&world);
    world_work(&world);
    world_deliver(&world, one, 0, 3);
    world_deliver(&world, two, 2, 4);
    world_submit(&world);
    world_work(&world);
    reopen();
    ck_assert_uint_eq(world.recovered[0].counts[0], 3);
    ck_assert_uint_eq(world.recovered[1].counts[2], 4);
    ck_assert_uint_eq(world.recovered[1].counts[1], 0);
    reopen();
    ck_assert_uint_eq(world.recovered[0].counts[0], 3);
}
END_TEST

START_TEST(transient_message_can_be_read_and_is_forgotten_at_a_restart)
{
    struct model_message *message = world_publish_to(&world, 1, 300, true);
    world_submit(&world);
    world_work(&world);
    check_body(&world, message);
    struct log_statistics statistics;
    log_statistics(world.log, &statistics);
    ck_assert_uint_eq(statistics.commits, 1);
    ck_assert_uint_eq(statistics.syncs, 0);
    reopen();
    ck_assert_uint_eq(world.recovered_count, 0);
}
END_TEST

START_TEST(message_can_be_read_before_it_is_written)
{
    struct model_message *message = world_publish_to(&world, 1, 300, false);
    world_submit(&world);
    check_body(&world, message);
    world_work(&world);
    check_body(&world, message);
    struct log_content content;
    char error[LOG_TEXT_SIZE];
    ck_assert_int_eq(log_read(world.log, message->id + 1, &content, error), -ENOENT);
}
END_TEST

/* Handing over early, to read from what was handed over, would tear the turn in two. */
START_TEST(message_can_be_read_before_its_turn_is_submitted)
{
    struct log_content content;
    char error[LOG_TEXT_SIZE];
    ck_assert_int_eq(log_read_staged(world.writer, 1, &content), -ENOENT);
    struct model_message *first = world_publish_to(&world, 1, 300, false);
    struct model_message *second = world_publish_to(&world, 3, 70, true);
    ck_assert_int_eq(log_read(world.log, second->id, &content, error), -ENOENT);
    ck_assert_int_eq(log_read_staged(world.writer, second->id, &content), 0);
    check_content(&world, second, &content);
    ck_assert_int_eq(log_read_staged(world.writer, first->id, &content), 0);
    check_content(&world, first, &content);
    ck_assert_int_eq(log_read_staged(world.writer, second->id + 1, &content), -ENOENT);
    world_submit(&world);
    ck_assert_int_eq(log_read_staged(world.writer, first->id, &content), -ENOENT);
    check_body(&world, first);
    world_work(&world);
    check_body(&world, second);
}
END_TEST

START_TEST(ids_ascend_and_are_not_used_again_after_a_restart)
{
    uint64_t last = 0;
    for (int life = 0; life < 3; life++) {
        for (int i = 0; i < 10; i++) {
            struct model_message *message = world_publish_to(&world, 1, 10, false);
            ck_assert_uint_gt(message->id, last);
            last = message->id;
            world_submit(&world);
            world_settle(&world, message, 0);
            world_submit(&world);
        }
        world_work(&world);
        reopen();
    }
}
END_TEST

START_TEST(message_of_a_queue_that_is_gone_counts_as_settled)
{
    uint64_t queues[] = {queue_id_of(0), queue_id_of(WORLD_QUEUES)};
    uint64_t mark = 77, id;
    struct iovec pieces[] = {{&mark, 8}, {&mark, 3}};
    struct log_publish publish = {
        .pieces = pieces,
        .piece_count = 2,
        .queue_ids = queues,
        .queue_count = 2,
        .flags = 0xabcd,
        .published_wall_ms = 1700000000000,
        .expires_wall_ms = 1700000009999,
    };
    ck_assert_int_eq(log_publish(world.writer, &publish, &id), 0);
    publish.queue_ids = &queues[1];
    publish.queue_count = 1;
    ck_assert_int_eq(log_publish(world.writer, &publish, &id), 0);
    log_submit(world.writer);
    world_work(&world);
    for (int i = 0; i < 2; i++) {
        world_close(&world);
        ck_assert_int_eq(world_open(&world), 0);
        ck_assert_uint_eq(world.recovered_count, 1);
        ck_assert_uint_eq(world.recovered[0].queues, 1);
    }
}
END_TEST

START_TEST(message_larger_than_a_segment_is_kept)
{
    struct model_message *small = world_publish_to(&world, 1, 10, false);
    struct model_message *large = world_publish_to(&world, 1, 200000, false);
    struct model_message *after = world_publish_to(&world, 1, 20, false);
    world_submit(&world);
    check_body(&world, large);
    world_work(&world);
    reopen();
    ck_assert_uint_eq(world.recovered_count, 3);
    world_settle(&world, small, 0);
    world_settle(&world, large, 0);
    world_settle(&world, after, 0);
    world_submit(&world);
    world_work(&world);
    reopen();
    reopen();
    ck_assert_uint_lt(simulated_disk_used(world.disk), 12 * WORLD_SEGMENT);
}
END_TEST

START_TEST(message_that_no_record_can_hold_is_refused)
{
    uint64_t queue = queue_id_of(0), id;
    struct iovec pieces[] = {{.iov_base = NULL, .iov_len = (size_t)LOG_MESSAGE_SIZE_MAX}};
    struct log_publish publish = {
        .pieces = pieces, .piece_count = 1, .queue_ids = &queue, .queue_count = 1};
    ck_assert_int_eq(log_publish(world.writer, &publish, &id), -EMSGSIZE);
    pieces[0].iov_len = SIZE_MAX;
    ck_assert_int_eq(log_publish(world.writer, &publish, &id), -EMSGSIZE);
    publish.piece_count = LOG_PIECES_MAX + 1;
    ck_assert_int_eq(log_publish(world.writer, &publish, &id), -EMSGSIZE);
}
END_TEST

/* Its queues would be taken for others that have the same numbers. */
START_TEST(another_log_than_the_expected_is_refused_and_left_alone)
{
    struct log_options options = world_options(&world);
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    struct log *other;
    uint64_t identity = log_identity(world.log);
    world_publish_to(&world, 1, 100, false);
    world_submit(&world);
    world_close(&world);
    options.identity = identity + 1;
    world.recovered_count = 0;
    ck_assert_int_eq(log_open(&other, &options, &sink, world.error), -ESTALE);
    ck_assert_uint_eq(world.recovered_count, 0);
    ck_assert_ptr_nonnull(strstr(world.error, "/log/checkpoint"));
    options.identity = identity;
    ck_assert_msg(log_open(&other, &options, &sink, world.error) == 0, "%s", world.error);
    ck_assert_uint_eq(world.recovered_count, 1);
    log_close(other);
}
END_TEST

START_TEST(second_opener_is_refused)
{
    struct log_options options = world_options(&world);
    struct log *second;
    char error[LOG_TEXT_SIZE];
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    ck_assert_int_eq(log_open(&second, &options, &sink, error), -EWOULDBLOCK);
    ck_assert_ptr_null(second);
    ck_assert_ptr_nonnull(strstr(error, "in use by another process"));
}
END_TEST

START_TEST(short_writes_are_continued)
{
    simulated_disk_short_writes(world.disk, true);
    for (int i = 0; i < 200; i++)
        random_turn(&world, 70);
    world_work(&world);
    ck_assert(!log_failed(world.log, NULL));
    reopen();
}
END_TEST

START_TEST(opening_twice_without_work_changes_nothing)
{
    for (int i = 0; i < 50; i++)
        random_turn(&world, 70);
    world_work(&world);
    reopen();
    size_t count = world.recovered_count;
    uint64_t used = simulated_disk_used(world.disk);
    for (int i = 0; i < 5; i++) {
        reopen();
        ck_assert_uint_eq(world.recovered_count, count);
    }
    ck_assert_uint_le(simulated_disk_used(world.disk), used + 2 * WORLD_SEGMENT);
}
END_TEST

/* ---- on the real file system, with the log's thread ---- */

struct bell {
    pthread_mutex_t mutex;
    pthread_cond_t rung;
};

static void
ring(void *context)
{
    struct bell *bell = context;
    pthread_mutex_lock(&bell->mutex);
    pthread_cond_broadcast(&bell->rung);
    pthread_mutex_unlock(&bell->mutex);
}

static void
wait_durable(struct bell *bell, struct log_writer *writer, uint64_t ticket)
{
    pthread_mutex_lock(&bell->mutex);
    while (log_durable(writer) < ticket)
        pthread_cond_wait(&bell->rung, &bell->mutex);
    pthread_mutex_unlock(&bell->mutex);
}

enum { THREADS = 3, ROUNDS = 300 };

struct shard {
    struct log *log;
    uint64_t queue_id;
    pthread_t thread;
};

static void *
shard_run(void *argument)
{
    struct shard *shard = argument;
    struct bell bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    struct log_writer *writer = log_writer_new(shard->log, ring, &bell);
    ck_assert_ptr_nonnull(writer);
    uint64_t previous = 0, ticket = 0;
    char body[600];
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t id, mark = shard->queue_id;
        memset(body, i, sizeof(body));
        struct iovec pieces[] = {{&mark, 8}, {body, sizeof(body)}};
        struct log_publish publish = {
            .pieces = pieces,
            .piece_count = 2,
            .queue_ids = &shard->queue_id,
            .queue_count = 1,
            .flags = 0xabcd,
            .published_wall_ms = 1700000000000,
            .expires_wall_ms = 1700000009999,
        };
        ck_assert_int_eq(log_publish(writer, &publish, &id), 0);
        if (previous != 0 && i % 10 != 0)
            ck_assert_int_eq(log_settle(writer, shard->queue_id, previous), 0);
        previous = id;
        ticket = log_submit(writer);
        if (i % 50 == 0)
            wait_durable(&bell, writer, ticket);
        struct log_content content;
        char error[LOG_TEXT_SIZE];
        ck_assert_int_eq(log_read(shard->log, id, &content, error), 0);
        ck_assert_uint_eq(content.size, 608);
        ck_assert_int_eq(content.data[100], (char)i);
        free(content.data);
    }
    wait_durable(&bell, writer, ticket);
    log_writer_free(writer);
    return NULL;
}

static void
remove_directory(const char *path)
{
    char command[256];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(threads_share_the_log_on_a_real_disk)
{
    char directory[] = "/tmp/whippet-log-XXXXXX", error[LOG_TEXT_SIZE], inner[64];
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(inner, sizeof(inner), "%s/log", directory);
    struct log_options options = {.directory = inner, .segment_size = 256 * 1024};
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    struct log *log;
    ck_assert_msg(log_open(&log, &options, &sink, error) == 0, "%s", error);
    struct shard shards[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        shards[i] = (struct shard){.log = log, .queue_id = queue_id_of(i)};
        ck_assert_int_eq(pthread_create(&shards[i].thread, NULL, shard_run, &shards[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(shards[i].thread, NULL);
    log_close(log);

    struct stat status;
    char path[128];
    snprintf(path, sizeof(path), "%s/checkpoint", inner);
    ck_assert_int_eq(stat(inner, &status), 0);
    ck_assert_uint_eq(status.st_mode & 0777, 0700);
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert_uint_eq(status.st_mode & 0777, 0600);

    world.recovered_count = 0;
    options.verify = true;
    ck_assert_msg(log_open(&log, &options, &sink, error) == 0, "%s", error);
    ck_assert_uint_eq(world.recovered_count, THREADS * ROUNDS / 10);
    log_close(log);
    remove_directory(directory);
}
END_TEST

/* Waits for the ticket or the failure; asks for the failure under its own lock, as a shard may. */
static void *
wait_for_failure(void *argument)
{
    struct shard *shard = argument;
    struct bell bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    struct log_writer *writer = log_writer_new(shard->log, ring, &bell);
    ck_assert_ptr_nonnull(writer);
    char text[LOG_TEXT_SIZE] = "";
    pthread_mutex_lock(&bell.mutex);
    while (!log_failed(shard->log, text)) {
        uint64_t id;
        struct log_publish publish = {.queue_ids = &shard->queue_id, .queue_count = 1};
        ck_assert_int_eq(log_publish(writer, &publish, &id), 0);
        uint64_t ticket = log_submit(writer);
        while (log_durable(writer) < ticket && !log_failed(shard->log, NULL))
            pthread_cond_wait(&bell.rung, &bell.mutex);
    }
    pthread_mutex_unlock(&bell.mutex);
    ck_assert_ptr_nonnull(strstr(text, "Input/output error"));
    log_writer_free(writer);
    return NULL;
}

START_TEST(failure_wakes_every_writer)
{
    world_close(&world);
    struct log_options options = world_options(&world);
    options.without_thread = false;
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    struct log *log;
    ck_assert_int_eq(log_open(&log, &options, &sink, world.error), 0);
    struct shard shards[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        shards[i] = (struct shard){.log = log, .queue_id = queue_id_of(i)};
        ck_assert_int_eq(pthread_create(&shards[i].thread, NULL, wait_for_failure, &shards[i]), 0);
    }
    simulated_disk_fail_at(world.disk, 500, -EIO, false);
    for (int i = 0; i < THREADS; i++)
        pthread_join(shards[i].thread, NULL);
    log_close(log);
}
END_TEST

/* A disk on which the first read lets the log work: everything is settled, and the files are used
 * again for other messages, before the bytes are fetched. */
static struct {
    struct file_ops files;
    ssize_t (*read)(void *context, int file, void *into, size_t size, uint64_t offset);
    bool is_armed;
} interrupted;

static ssize_t
interrupted_read(void *context, int file, void *into, size_t size, uint64_t offset)
{
    if (interrupted.is_armed) {
        interrupted.is_armed = false;
        size_t before = world.count;
        for (size_t i = 0; i < before; i++)
            world_settle(&world, &world.messages[i], 0);
        world_submit(&world);
        world_work(&world);
        for (int i = 0; i < 200; i++) {
            world_publish_to(&world, 1, 700, false);
            world_submit(&world);
            world_work(&world);
        }
    }
    return interrupted.read(context, file, into, size, offset);
}

START_TEST(segment_that_is_being_read_is_not_used_again)
{
    world_close(&world);
    interrupted.files = *simulated_disk_files(world.disk);
    interrupted.read = interrupted.files.read;
    interrupted.files.read = interrupted_read;
    struct log_options options = world_options(&world);
    options.files = &interrupted.files;
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), 0);
    world.writer = log_writer_new(world.log, world_durable, NULL);
    for (int i = 0; i < 60; i++) {
        world_publish_to(&world, 1, 700, false);
        world_submit(&world);
        world_work(&world);
    }
    interrupted.is_armed = true;
    check_body(&world, &world.messages[0]);
    ck_assert(!interrupted.is_armed);
    /* The reader has gone: the segment is given back with the next ones. */
    size_t first = 60, count = world.count;
    for (size_t i = first; i < count; i++)
        world_settle(&world, &world.messages[i], 0);
    world_submit(&world);
    world_work(&world);
    struct log_statistics end;
    log_statistics(world.log, &end);
    ck_assert_uint_le(end.disk_bytes, 14 * (uint64_t)WORLD_SEGMENT);
    world_close(&world);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/log");
    TCase *tests = tcase_create("log");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, published_message_is_there_after_reopening);
    tcase_add_test(tests, ticket_is_not_durable_before_the_log_has_worked);
    tcase_add_test(tests, a_fence_covers_what_other_writers_submitted_before_it);
    tcase_add_test(tests, settled_message_does_not_come_back);
    tcase_add_test(tests, message_settled_before_it_is_written_is_never_written);
    tcase_add_test(tests, delivery_count_survives);
    tcase_add_test(tests, transient_message_can_be_read_and_is_forgotten_at_a_restart);
    tcase_add_test(tests, message_can_be_read_before_it_is_written);
    tcase_add_test(tests, message_can_be_read_before_its_turn_is_submitted);
    tcase_add_test(tests, ids_ascend_and_are_not_used_again_after_a_restart);
    tcase_add_test(tests, message_of_a_queue_that_is_gone_counts_as_settled);
    tcase_add_test(tests, message_larger_than_a_segment_is_kept);
    tcase_add_test(tests, message_that_no_record_can_hold_is_refused);
    tcase_add_test(tests, another_log_than_the_expected_is_refused_and_left_alone);
    tcase_add_test(tests, second_opener_is_refused);
    tcase_add_test(tests, short_writes_are_continued);
    tcase_add_test(tests, opening_twice_without_work_changes_nothing);
    tcase_add_test(tests, threads_share_the_log_on_a_real_disk);
    tcase_add_test(tests, failure_wakes_every_writer);
    tcase_add_test(tests, segment_that_is_being_read_is_not_used_again);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
