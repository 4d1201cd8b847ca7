/* Bytes that have gone bad: found, named, never passed over in silence; and repaired when asked. */
#include "test_store_support.h"

static struct world world;

static void
set_up(void)
{
    world_init(&world, 21);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    world_work(&world);
}

static void
tear_down(void)
{
    world_fini(&world);
}

/* Messages of one queue, each its own commit. */
static void
publish_some(unsigned count, uint32_t size)
{
    for (unsigned i = 0; i < count; i++) {
        world_publish_to(&world, 1, size, false);
        world_submit(&world);
        world_work(&world);
    }
}

/* As after kill -9: nothing is tidied up. */
static void
kill_and_reboot(void)
{
    simulated_disk_fail_at(world.disk, 1, -EIO, true);
    const struct file_ops *files = simulated_disk_files(world.disk);
    ck_assert_int_eq(files->sync_directory(files->context, "/log"), -EIO);
    world_close(&world);
    simulated_disk_reboot(world.disk, SIMULATED_LOSE_NONE);
}

/* The file and offset at which a message's body lies. */
static bool
find_body(const struct model_message *message, char path[64], uint64_t *offset)
{
    char body[64];
    uint64_t mark = (uint64_t)(message - world.messages) + 77;
    fill_body(body, sizeof(body), mark);
    for (unsigned slot = 0; slot < 100; slot++) {
        size_t size;
        snprintf(path, 64, "/log/%06u.segment", slot);
        const char *bytes = simulated_disk_contents(world.disk, path, &size);
        for (size_t at = 4096; bytes != NULL && at + 8 + sizeof(body) <= size; at++)
            if (memcmp(bytes + at, &mark, 8) == 0
                && memcmp(bytes + at + 8, body, sizeof(body)) == 0) {
                *offset = at + 8;
                return true;
            }
    }
    return false;
}

static void
damage(const struct model_message *message)
{
    char path[64];
    uint64_t offset;
    ck_assert(find_body(message, path, &offset));
    ck_assert(simulated_disk_flip(world.disk, path, offset + 20));
}

static void
count_note(void *context, const char *text)
{
    unsigned *notes = context;
    ck_assert_str_ne(text, "");
    ++*notes;
}

static unsigned
repair(void)
{
    struct log_options options = world_options(&world);
    unsigned notes = 0;
    char error[LOG_TEXT_SIZE];
    ck_assert_msg(log_repair(&options, count_note, &notes, error) == 0, "%s", error);
    return notes;
}

static bool
was_recovered(const struct model_message *message)
{
    for (size_t i = 0; i < world.recovered_count; i++)
        if (world.recovered[i].id == message->id)
            return true;
    return false;
}

/* For people: the queue's name where it is known. */
static void
name_queue(void *context, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE])
{
    (void)context;
    if (queue_id == 1000)
        snprintf(name, LOG_QUEUE_NAME_SIZE, "'orders'");
}

START_TEST(damage_in_the_middle_of_the_tail_is_refused_with_its_place)
{
    publish_some(10, 300);
    kill_and_reboot();
    damage(&world.messages[4]);
    ck_assert_int_eq(world_open(&world), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(world.error, ".segment, offset "));
    ck_assert_ptr_nonnull(strstr(world.error, "later ones are sound"));
    ck_assert_ptr_nonnull(strstr(world.error, "message 5 in queue number 1000"));
}
END_TEST

START_TEST(repair_of_the_tail_loses_the_damaged_message_only)
{
    publish_some(10, 300);
    kill_and_reboot();
    damage(&world.messages[4]);
    ck_assert_uint_gt(repair(), 1);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    ck_assert_uint_eq(world.recovered_count, 9);
    ck_assert(!was_recovered(&world.messages[4]));
    bool is_saved = false;
    for (unsigned offset = 4096; offset < WORLD_SEGMENT; offset += 8) {
        char path[64];
        size_t size;
        snprintf(path, sizeof(path), "/log/lost+found/%016x-%08x", 1, offset);
        is_saved = is_saved || simulated_disk_contents(world.disk, path, &size) != NULL;
    }
    ck_assert(is_saved);
    world_close(&world);
    ck_assert_int_eq(world_open(&world), 0);
    ck_assert_uint_eq(world.recovered_count, 9);
}
END_TEST

START_TEST(damage_in_a_sealed_segment_is_found_when_read)
{
    publish_some(10, 300);
    world_close(&world);
    damage(&world.messages[4]);
    ck_assert_int_eq(world_open(&world), 0);
    struct log_content content;
    char error[LOG_TEXT_SIZE];
    ck_assert_int_eq(log_read(world.log, world.messages[4].id, &content, error), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(error, ".segment, offset "));
    check_body(&world, &world.messages[5]);
}
END_TEST

START_TEST(damage_in_a_sealed_segment_is_found_when_verified)
{
    publish_some(10, 300);
    world_close(&world);
    damage(&world.messages[4]);
    struct log_options options = world_options(&world);
    options.verify = true;
    struct log_recovery sink = {&world, world_queue_exists, world_message, world_note};
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(world.error, "of message 5 in queue number 1000"));
    options.name_queue = name_queue;
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(world.error, "of message 5 in queue 'orders'"));
    repair();
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    ck_assert_uint_eq(world.recovered_count, 9);
    world_close(&world);
    world.recovered_count = 0;
    ck_assert_int_eq(log_open(&world.log, &options, &sink, world.error), 0);
    log_close(world.log);
    world.log = NULL;
}
END_TEST

/* Whatever byte goes bad: the log is refused, or the damage is found on reading, or nothing that
 * matters was in that byte. Messages are never changed, and never lost without a word. */
START_TEST(no_flipped_byte_goes_unnoticed)
{
    publish_some(20, 600);
    for (size_t i = 0; i < 20; i += 3)
        world_settle(&world, &world.messages[i], 0);
    world_submit(&world);
    world_work(&world);
    publish_some(10, 600);
    if (_i == 0) {
        world_close(&world);
    } else {
        kill_and_reboot();
    }
    static const char *const names[] = {"/log/checkpoint", "/log/000000.segment",
                                        "/log/000001.segment", "/log/000002.segment"};
    unsigned refused = 0, found = 0;
    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
        size_t size = 0;
        if (simulated_disk_contents(world.disk, names[n], &size) == NULL)
            continue;
        for (uint64_t at = 0; at < size; at += at < 4200 ? 13 : 61) {
            ck_assert(simulated_disk_flip(world.disk, names[n], at));
            struct log_options options = world_options(&world);
            char *text = NULL, error[LOG_TEXT_SIZE];
            size_t text_size;
            /* A look changes nothing, so each byte can be tried on the same log. */
            FILE *out = open_memstream(&text, &text_size);
            options.verify = true;
            int result = log_inspect(&options, out, false, error);
            fclose(out);
            ck_assert(result == 0 || error[0] != '\0');
            if (result != 0)
                refused++;
            else if (strstr(text, "note: ") != NULL)
                found++;
            else if (strstr(text, "23 live messages") == NULL)
                ck_abort_msg("%s, byte %" PRIu64 ": %s", names[n], at, text);
            free(text);
            ck_assert(simulated_disk_flip(world.disk, names[n], at));
        }
    }
    ck_assert_uint_gt(refused + found, 100);
}
END_TEST

START_TEST(damaged_checkpoint_is_refused_and_can_be_rebuilt)
{
    publish_some(60, 600);
    world_close(&world);
    ck_assert(simulated_disk_flip(world.disk, "/log/checkpoint", 70));
    ck_assert_int_eq(world_open(&world), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(world.error, "/log/checkpoint is damaged"));
    ck_assert_uint_ge(repair(), 2);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    ck_assert_uint_eq(world.recovered_count, 60);
    world_check_bodies(&world);
}
END_TEST

/* What is damaged, and how many of 60 messages a repair can save. */
static const struct {
    const char *path; /* NULL: a message in the tail */
    uint64_t offset;
    size_t at_least;
} damages[] = {
    {NULL, 0, 59}, {"/log/checkpoint", 70, 60}, {"/log/000001.segment", 20, 20}, /* its header */
};

static void
make_damaged(unsigned which)
{
    publish_some(60, 600);
    kill_and_reboot();
    if (damages[which].path == NULL)
        damage(&world.messages[59 - 3]);
    else
        ck_assert(simulated_disk_flip(world.disk, damages[which].path, damages[which].offset));
    ck_assert_int_eq(world_open(&world), -EBADMSG);
}

/* Power goes at any call of a repair, which is then made again. */
START_TEST(interrupted_repair_loses_no_more_than_one_that_is_not)
{
    unsigned which = (unsigned)_i / SIMULATED_LOSS_END;
    enum simulated_loss loss = (enum simulated_loss)(_i % SIMULATED_LOSS_END);
    bool has_come = true;
    for (uint64_t call = 1; has_come; call++) {
        tear_down();
        set_up();
        make_damaged(which);
        struct log_options options = world_options(&world);
        unsigned notes = 0;
        char error[LOG_TEXT_SIZE];
        simulated_disk_fail_at(world.disk, call, -EIO, true);
        int result = log_repair(&options, count_note, &notes, error);
        has_come = simulated_disk_has_failed(world.disk);
        /* Removing what is left over may fail: the next start does it. */
        ck_assert(has_come || result == 0);
        simulated_disk_reboot(world.disk, loss);
        repair();
        ck_assert_msg(world_open(&world) == 0, "call %" PRIu64 ": %s", call, world.error);
        ck_assert_msg(world.recovered_count >= damages[which].at_least,
                      "call %" PRIu64 ": %zu messages left", call, world.recovered_count);
        for (size_t i = 0; i < world.count; i++)
            if (was_recovered(&world.messages[i]))
                check_body(&world, &world.messages[i]);
        ck_assert_uint_lt(call, 1000);
    }
}
END_TEST

START_TEST(missing_checkpoint_is_refused)
{
    publish_some(3, 600);
    world_close(&world);
    const struct file_ops *files = simulated_disk_files(world.disk);
    ck_assert_int_eq(files->remove(files->context, "/log/checkpoint"), 0);
    ck_assert_int_eq(world_open(&world), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(world.error, "/log/checkpoint is missing"));
}
END_TEST

START_TEST(missing_segment_is_refused_and_repaired)
{
    publish_some(60, 600);
    world_close(&world);
    const struct file_ops *files = simulated_disk_files(world.disk);
    char path[64];
    uint64_t offset;
    ck_assert(find_body(&world.messages[30], path, &offset));
    ck_assert_int_eq(files->remove(files->context, path), 0);
    ck_assert_int_eq(world_open(&world), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(world.error, "is missing"));
    repair();
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    ck_assert(!was_recovered(&world.messages[30]));
    ck_assert(was_recovered(&world.messages[0]));
    ck_assert(was_recovered(&world.messages[59]));
}
END_TEST

START_TEST(damaged_or_missing_summary_costs_only_time)
{
    publish_some(60, 600);
    uint64_t last = world.next_ticket - 1;
    world_close(&world);
    const struct file_ops *files = simulated_disk_files(world.disk);
    unsigned touched = 0;
    for (unsigned number = 1; number < 10; number++) {
        char path[64];
        snprintf(path, sizeof(path), "/log/%016x.summary", number);
        if (number % 2 == 0 ? simulated_disk_flip(world.disk, path, 45)
                            : files->remove(files->context, path) == 0)
            touched++;
    }
    ck_assert_uint_gt(touched, 2);
    ck_assert_msg(world_open(&world) == 0, "%s", world.error);
    world_check(&world, last, last);
    ck_assert_uint_eq(world.recovered_count, 60);
}
END_TEST

START_TEST(newer_format_is_refused_and_left_alone)
{
    publish_some(3, 600);
    world_close(&world);
    const struct file_ops *files = simulated_disk_files(world.disk);
    uint32_t version = 99;
    struct iovec piece = {&version, 4};
    const char *name = _i == 0 ? "/log/checkpoint" : "/log/000000.segment";
    int file = files->open(files->context, name, FILE_WRITE);
    ck_assert_int_eq(files->write(files->context, file, &piece, 1, 8), 4);
    files->close(files->context, file);
    ck_assert_int_eq(world_open(&world), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(world.error, "newer version"));
    struct log_options options = world_options(&world);
    char error[LOG_TEXT_SIZE];
    unsigned notes = 0;
    ck_assert_int_eq(log_repair(&options, count_note, &notes, error), -ENOTSUP);
}
END_TEST

START_TEST(segment_of_another_log_is_refused)
{
    publish_some(3, 600);
    world_close(&world);
    size_t size;
    const char *bytes = simulated_disk_contents(world.disk, "/log/000000.segment", &size);
    char *copy = malloc(size);
    memcpy(copy, bytes, size);
    struct world other;
    world_init(&other, 5);
    ck_assert_int_eq(world_open(&other), 0);
    world_close(&other);
    const struct file_ops *files = simulated_disk_files(other.disk);
    int file = files->open(files->context, "/log/000050.segment", FILE_WRITE | FILE_CREATE);
    struct iovec piece = {copy, size};
    ck_assert_int_eq(file_write_all(files, file, &piece, 1, 0), 0);
    files->close(files->context, file);
    ck_assert_int_eq(world_open(&other), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(other.error, "belongs to another log"));
    free(copy);
    world_fini(&other);
}
END_TEST

START_TEST(message_that_looks_like_a_record_is_not_taken_for_one)
{
    /* The bytes of a whole segment, records and all, as the body of a message. */
    publish_some(10, 300);
    size_t size;
    const char *bytes = simulated_disk_contents(world.disk, "/log/000000.segment", &size);
    char *copy = malloc(size);
    memcpy(copy, bytes, size);
    world_close(&world);
    struct world other;
    world_init(&other, 5);
    ck_assert_int_eq(world_open(&other), 0);
    uint64_t queue = queue_id_of(0), mark = 1, id;
    struct iovec pieces[] = {{&mark, 8}, {copy, size}};
    struct log_publish publish = {
        .pieces = pieces,
        .piece_count = 2,
        .queue_ids = &queue,
        .queue_count = 1,
        .flags = 0xabcd,
        .published_wall_ms = 1700000000000,
        .expires_wall_ms = size % 3 == 0 ? 1700000009999 : 0,
    };
    ck_assert_int_eq(log_publish(other.writer, &publish, &id), 0);
    log_submit(other.writer);
    simulated_disk_fail_at(other.disk, 4, -EIO, true); /* while it is written */
    world_work(&other);
    world_close(&other);
    simulated_disk_reboot(other.disk, SIMULATED_LOSE_SECTORS);
    ck_assert_msg(world_open(&other) == 0, "%s", other.error);
    ck_assert_uint_le(other.recovered_count, 1);
    free(copy);
    world_fini(&other);
}
END_TEST

START_TEST(inspection_shows_what_is_there)
{
    publish_some(30, 600);
    world_close(&world);
    struct log_options options = world_options(&world);
    char *text = NULL, error[LOG_TEXT_SIZE];
    size_t size;
    FILE *out = open_memstream(&text, &size);
    uint64_t used = simulated_disk_used(world.disk);
    ck_assert_int_eq(log_inspect(&options, out, true, error), 0);
    fclose(out);
    ck_assert_ptr_nonnull(strstr(text, "\"live_messages\": 30"));
    ck_assert_ptr_nonnull(
        strstr(text, "\"queues\": [{\"id\": 1000, \"name\": \"number 1000\", \"messages\": 30, "
                     "\"bytes\": 18240}]"));
    ck_assert_ptr_nonnull(
        strstr(text, "\"notes\": [], \"segments\": [{\"file\": \"000000.segment\""));
    ck_assert_uint_eq(simulated_disk_used(world.disk), used);
    free(text);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/damage");
    TCase *tests = tcase_create("damage");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, damage_in_the_middle_of_the_tail_is_refused_with_its_place);
    tcase_add_test(tests, repair_of_the_tail_loses_the_damaged_message_only);
    tcase_add_test(tests, damage_in_a_sealed_segment_is_found_when_read);
    tcase_add_test(tests, damage_in_a_sealed_segment_is_found_when_verified);
    tcase_add_loop_test(tests, no_flipped_byte_goes_unnoticed, 0, 2);
    tcase_add_test(tests, damaged_checkpoint_is_refused_and_can_be_rebuilt);
    tcase_add_loop_test(tests, interrupted_repair_loses_no_more_than_one_that_is_not, 0,
                        3 * SIMULATED_LOSS_END);
    tcase_add_test(tests, missing_checkpoint_is_refused);
    tcase_add_test(tests, missing_segment_is_refused_and_repaired);
    tcase_add_test(tests, damaged_or_missing_summary_costs_only_time);
    tcase_add_loop_test(tests, newer_format_is_refused_and_left_alone, 0, 2);
    tcase_add_test(tests, segment_of_another_log_is_refused);
    tcase_add_test(tests, message_that_looks_like_a_record_is_not_taken_for_one);
    tcase_add_test(tests, inspection_shows_what_is_there);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
