/* What is left of the log when power goes, or the disk fails, at any single call. */
#define WORLD_MESSAGES_MAX 4000
#include "test_store_support.h"

enum {
    FIRST_TURNS = 180, /* enough for segments to be compacted and used again */
    TURNS = 20,
    LIVES = 3,
    CALLS_MAX = 20000,
};

/* The queues are done with most of what they have, here and there: what is left lies thinly, and
 * compaction has work while settles go on. */
static void
thin_out(struct world *world)
{
    enum { A_TURN = 12 };
    unsigned settled = 0;
    for (size_t i = 0; i < world->count && !log_failed(world->log, NULL); i++) {
        struct model_message *message = &world->messages[i];
        for (uint32_t queue = 0; queue < WORLD_QUEUES; queue++) {
            if (message->is_gone || !is_in(message, queue, NO_TICKET - 1)
                || world_random(world, 8) == 0)
                continue;
            world_settle(world, message, queue);
            if (++settled % A_TURN != 0)
                continue;
            /* One that is settled before it is written, by one queue or by both. */
            struct model_message *brief = world_publish_to(world, 3, 300, false);
            world_settle(world, brief, 0);
            if (world_random(world, 2) == 0)
                world_settle(world, brief, 1);
            world_submit(world);
            if (world_random(world, 3) != 0)
                world_work(world);
        }
    }
}

/* The recorded workload; ends early when the log fails. */
static void
work_turns(struct world *world, int turns)
{
    for (int i = 0; i < turns && !log_failed(world->log, NULL); i++)
        random_turn(world, 60);
    if (turns == TURNS)
        thin_out(world);
    world_submit(world);
    if (!log_failed(world->log, NULL))
        world_work(world);
    world->durable = log_durable(world->writer);
}

/* A world in which the workload was cut off at a call; what was durable and submitted then. */
struct cut {
    uint64_t durable, submitted;
};

/* What the log did in the runs that were cut off, so that a workload that no longer does it all is
 * noticed. */
static struct {
    uint64_t moved, checkpoints, cancelled;
} covered;

static void
note_covered(struct world *world)
{
    struct log_statistics now;
    log_statistics(world->log, &now);
    covered.moved += now.moved;
    covered.checkpoints += now.checkpoints;
    covered.cancelled += now.cancelled;
}

static struct cut
run_until_failure(struct world *world, int turns)
{
    work_turns(world, turns);
    note_covered(world);
    struct cut cut = {.durable = world->durable, .submitted = world->next_ticket - 1};
    world_close(world);
    return cut;
}

static void
open_after(struct world *world, struct cut cut)
{
    ck_assert_msg(world_open(world) == 0, "%s", world->error);
    world_check(world, cut.durable, cut.submitted);
}

/* Power goes at call number `call` of the workload; then the same again, and again, so that what a
 * recovery leaves is recovered from, too. False when the workload was over before the call. */
static bool
lose_power_at(uint64_t seed, uint64_t call, enum simulated_loss loss)
{
    struct world world;
    world_init(&world, seed);
    ck_assert_int_eq(world_open(&world), 0);
    work_turns(&world, FIRST_TURNS);
    world_close(&world);
    struct cut cut = {.durable = world.next_ticket - 1, .submitted = world.next_ticket - 1};
    bool has_come = false;
    for (int life = 0; life < LIVES; life++) {
        simulated_disk_fail_at(world.disk, call, -EIO, true);
        /* When power goes during recovery, what was cut off in the life before still holds. */
        if (world_open(&world) != 0) {
            ck_assert(simulated_disk_has_failed(world.disk));
        } else if (simulated_disk_has_failed(world.disk)) {
            world_close(&world);
        } else {
            world_check(&world, cut.durable, cut.submitted);
            cut = run_until_failure(&world, TURNS);
        }
        has_come = has_come || simulated_disk_has_failed(world.disk);
        simulated_disk_reboot(world.disk, loss);
    }
    open_after(&world, cut);
    world_fini(&world);
    return has_come;
}

START_TEST(nothing_confirmed_is_lost_when_power_goes_at_any_call)
{
    uint64_t call = 1;
    while (lose_power_at(7 + call % 5, call, (enum simulated_loss)_i)) {
        call++;
        ck_assert_uint_lt(call, CALLS_MAX);
    }
    ck_assert_uint_gt(call, 100);
    ck_assert_uint_gt(covered.moved, 500);
    ck_assert_uint_gt(covered.cancelled, 500);
    ck_assert_uint_gt(covered.checkpoints, LIVES * call); /* more than the one of each opening */
}
END_TEST

/* The first start of all is cut off, and there is a second one. */
START_TEST(a_log_that_was_not_made_in_full_is_made_anew)
{
    bool has_come = true;
    for (uint64_t call = 1; has_come; call++) {
        struct world world;
        world_init(&world, call);
        simulated_disk_fail_at(world.disk, call, -EIO, true);
        int opened = world_open(&world);
        has_come = simulated_disk_has_failed(world.disk);
        ck_assert(opened == 0 || has_come);
        world_close(&world);
        simulated_disk_reboot(world.disk, (enum simulated_loss)_i);
        ck_assert_msg(world_open(&world) == 0, "after call %" PRIu64 ": %s", call, world.error);
        struct model_message *message = world_publish_to(&world, 1, 100, false);
        world_submit(&world);
        world_work(&world);
        world_close(&world);
        ck_assert_msg(world_open(&world) == 0, "%s", world.error);
        ck_assert_uint_eq(world.recovered_count, 1);
        check_body(&world, message);
        world_fini(&world);
        ck_assert_uint_lt(call, CALLS_MAX);
    }
}
END_TEST

START_TEST(nothing_confirmed_is_lost_over_many_power_losses)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct world world;
        world_init(&world, seed * 1000 + (uint64_t)_i);
        ck_assert_int_eq(world_open(&world), 0);
        work_turns(&world, FIRST_TURNS);
        for (int life = 0; life < 25; life++) {
            simulated_disk_fail_at(world.disk, 1 + world_random(&world, 300), -EIO, true);
            struct cut cut = run_until_failure(&world, 60);
            simulated_disk_reboot(world.disk, (enum simulated_loss)_i);
            open_after(&world, cut);
        }
        world_fini(&world);
    }
}
END_TEST

/* A call fails with an error, the machine goes on. */
static bool
fail_at(uint64_t call, int error)
{
    struct world world;
    world_init(&world, 99 + call % 3);
    ck_assert_int_eq(world_open(&world), 0);
    work_turns(&world, FIRST_TURNS);
    world_close(&world);
    struct cut cut = {.durable = world.next_ticket - 1, .submitted = world.next_ticket - 1};
    simulated_disk_fail_at(world.disk, call, error, false);
    int opened = world_open(&world);
    if (opened == 0) {
        world_check(&world, cut.durable, cut.submitted);
        cut = run_until_failure(&world, TURNS);
    } else {
        ck_assert_str_ne(world.error, "");
    }
    bool has_come = simulated_disk_has_failed(world.disk);
    /* What the failed call left is as uncertain as after a power loss. */
    simulated_disk_reboot(world.disk, SIMULATED_LOSE_SECTORS);
    open_after(&world, cut);
    world_fini(&world);
    return has_come;
}

START_TEST(nothing_confirmed_is_lost_when_any_call_fails)
{
    static const int errors[] = {-EIO, -ENOSPC, -EDQUOT};
    uint64_t call = 1;
    while (fail_at(call, errors[_i])) {
        call++;
        ck_assert_uint_lt(call, CALLS_MAX);
    }
    ck_assert_uint_gt(call, 100);
}
END_TEST

START_TEST(failed_sync_is_not_tried_again)
{
    struct world world;
    world_init(&world, 5);
    ck_assert_int_eq(world_open(&world), 0);
    world_work(&world);
    world_publish_to(&world, 1, 100, false);
    world_submit(&world);
    simulated_disk_fail_at(world.disk, 2, -EIO, false); /* the write, then the sync */
    ck_assert(!log_turn(world.log));
    char text[LOG_TEXT_SIZE];
    ck_assert(log_failed(world.log, text));
    ck_assert_ptr_nonnull(strstr(text, "syncing"));
    ck_assert_ptr_nonnull(strstr(text, ".segment"));
    ck_assert_uint_eq(log_durable(world.writer), 0);
    uint64_t calls = simulated_disk_operations(world.disk);
    world_publish_to(&world, 1, 100, false);
    world_submit(&world);
    ck_assert(!log_turn(world.log));
    ck_assert_uint_eq(log_durable(world.writer), 0);
    ck_assert_uint_eq(simulated_disk_operations(world.disk), calls);
    world_fini(&world);
}
END_TEST

/* A turn that moves a message from queue 0 to queue 1, as dead-lettering does. */
static void
move_message(struct world *world, struct model_message *source)
{
    world_publish_to(world, 2, 50, false);
    world_settle(world, source, 0);
    world_submit(world);
}

START_TEST(dead_lettered_message_is_in_one_of_its_queues_whatever_happens)
{
    for (uint64_t call = 1;; call++) {
        struct world world;
        world_init(&world, call);
        ck_assert_int_eq(world_open(&world), 0);
        struct model_message *source = world_publish_to(&world, 1, 50, false);
        world_submit(&world);
        world_work(&world);
        simulated_disk_fail_at(world.disk, call, -EIO, true);
        move_message(&world, source);
        log_turn(world.log);
        bool has_come = simulated_disk_has_failed(world.disk);
        world_close(&world);
        simulated_disk_reboot(world.disk, (enum simulated_loss)_i);
        ck_assert_int_eq(world_open(&world), 0);
        ck_assert_uint_eq(world.recovered_count, 1);
        world_fini(&world);
        if (!has_come)
            break;
    }
}
END_TEST

/* Segments full of messages of queue 0, with one survivor in each that queue 1 has, too. */
static void
fill_segments(struct world *world)
{
    for (int i = 0; i < 12 * 20; i++) {
        world_publish_to(world, i % 20 == 7 ? 3 : 1, 700, false);
        world_submit(world);
    }
    world_work(world);
}

/* Queue 0 is done with everything in one turn, which makes compaction move the survivors in the
 * same commit. Some had come back to it before. */
static void
empty_queue(struct world *world)
{
    for (size_t i = 0; i < world->count; i++)
        if (i % 40 == 7)
            world_deliver(world, &world->messages[i], 0, 5);
    for (size_t i = 0; i < world->count; i++)
        world_settle(world, &world->messages[i], 0);
    world_submit(world);
}

/* A message was moved with the queues that were left to it, and the record that another queue had
 * settled it, in the same commit, was replayed on the copy: it took the last queue for that one. */
START_TEST(message_settled_and_moved_in_one_commit_stays_in_its_other_queue)
{
    for (uint64_t call = 1;; call++) {
        struct world world;
        world_init(&world, call);
        ck_assert_int_eq(world_open(&world), 0);
        fill_segments(&world);
        struct cut cut = {.durable = world.next_ticket - 1};
        empty_queue(&world);
        cut.submitted = world.next_ticket - 1;
        simulated_disk_fail_at(world.disk, call, -EIO, true);
        world_work(&world);
        if (world.durable > cut.durable)
            cut.durable = world.durable;
        bool has_come = simulated_disk_has_failed(world.disk);
        ck_assert(has_come || !log_failed(world.log, NULL));
        struct log_statistics end;
        log_statistics(world.log, &end);
        ck_assert(has_come || end.moved > 0);
        world_close(&world);
        simulated_disk_reboot(world.disk, (enum simulated_loss)_i);
        open_after(&world, cut);
        world_fini(&world);
        if (!has_come)
            break;
    }
}
END_TEST

/* The disk is full, so that checkpoints take the place of spares, and the queues are emptied. Power
 * goes at any call of that; what the last checkpoint needs must not have been given up before. */
START_TEST(nothing_confirmed_is_lost_when_power_goes_on_a_full_disk)
{
    for (uint64_t call = 1;; call++) {
        struct world world;
        world_init(&world, call);
        ck_assert_int_eq(world_open(&world), 0);
        fill_segments(&world);
        simulated_disk_limit(world.disk, simulated_disk_used(world.disk));
        struct cut cut = {.durable = world.next_ticket - 1};
        simulated_disk_fail_at(world.disk, call, -EIO, true);
        for (size_t i = 0; i < world.count && !log_failed(world.log, NULL); i++) {
            world_settle(&world, &world.messages[i], 0);
            if (i % 40 != 39)
                continue;
            world_submit(&world);
            world_work(&world);
        }
        if (world.durable > cut.durable)
            cut.durable = world.durable;
        cut.submitted = world.next_ticket - 1;
        bool has_come = simulated_disk_has_failed(world.disk);
        world_close(&world);
        simulated_disk_reboot(world.disk, (enum simulated_loss)_i);
        simulated_disk_limit(world.disk, UINT64_MAX / 2);
        open_after(&world, cut);
        world_fini(&world);
        if (!has_come)
            break;
        ck_assert_uint_lt(call, CALLS_MAX);
    }
}
END_TEST

START_TEST(torn_tail_is_cut_and_said)
{
    struct world world;
    world_init(&world, 5);
    ck_assert_int_eq(world_open(&world), 0);
    world_work(&world);
    world_publish_to(&world, 1, 100, false);
    world_submit(&world);
    world_work(&world);
    for (int i = 0; i < 8; i++)
        world_publish_to(&world, 1, 800, false);
    world_submit(&world);
    simulated_disk_fail_at(world.disk, 1, -EIO, true);
    log_turn(world.log);
    world_close(&world);
    simulated_disk_reboot(world.disk, SIMULATED_LOSE_NONE); /* the half that was written is there */
    open_after(&world, (struct cut){1, 1});
    ck_assert_uint_eq(world.notes, 1);
    ck_assert_ptr_nonnull(strstr(world.note, "the last commit was not finished"));
    world_close(&world);
    ck_assert_int_eq(world_open(&world), 0);
    ck_assert_uint_eq(world.notes, 0);
    ck_assert_uint_eq(world.recovered_count, 1);
    world_fini(&world);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/crash");
    TCase *tests = tcase_create("crash");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, nothing_confirmed_is_lost_when_power_goes_at_any_call, 0,
                        SIMULATED_LOSS_END);
    tcase_add_loop_test(tests, a_log_that_was_not_made_in_full_is_made_anew, 0, SIMULATED_LOSS_END);
    tcase_add_loop_test(tests, nothing_confirmed_is_lost_over_many_power_losses, 0,
                        SIMULATED_LOSS_END);
    tcase_add_loop_test(tests, nothing_confirmed_is_lost_when_any_call_fails, 0, 3);
    tcase_add_test(tests, failed_sync_is_not_tried_again);
    tcase_add_loop_test(tests, dead_lettered_message_is_in_one_of_its_queues_whatever_happens, 0,
                        SIMULATED_LOSS_END);
    tcase_add_loop_test(tests, message_settled_and_moved_in_one_commit_stays_in_its_other_queue, 0,
                        SIMULATED_LOSS_END);
    tcase_add_loop_test(tests, nothing_confirmed_is_lost_when_power_goes_on_a_full_disk, 0,
                        SIMULATED_LOSS_END);
    tcase_add_test(tests, torn_tail_is_cut_and_said);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
