/* Lanes: each message keeps its place, whatever happens to others. */
#include "base/memory.h"
#include "test_broker_support.h"

static struct lane lane;

static void
set_up(void)
{
    lane_init(&lane);
}

static void
tear_down(void)
{
    lane_fini(&lane);
    ck_assert_uint_eq(memory_held(), 0);
}

static void
push(uint64_t count)
{
    uint64_t sequence;
    for (uint64_t i = 0; i < count; i++) {
        struct entry *entry = lane_push(&lane, &sequence);
        ck_assert_ptr_nonnull(entry);
        entry->id = sequence + 1;
    }
}

/* Takes the first ready one; its number. */
static uint64_t
take(void)
{
    uint64_t sequence = UINT64_MAX;
    struct entry *entry = lane_first_ready(&lane, &sequence);
    ck_assert_ptr_nonnull(entry);
    ck_assert_uint_eq(entry->id, sequence + 1);
    lane_take(&lane, sequence, entry);
    return sequence;
}

static void
give_back(uint64_t sequence)
{
    lane_return(&lane, sequence, lane_at(&lane, sequence));
}

static void
drop(uint64_t sequence)
{
    lane_remove(&lane, sequence, lane_at(&lane, sequence));
}

START_TEST(messages_leave_in_the_order_in_which_they_came)
{
    push(1000);
    for (uint64_t i = 0; i < 1000; i++) {
        ck_assert_uint_eq(take(), i);
        drop(i);
    }
    ck_assert_uint_eq(lane.ready, 0);
}
END_TEST

START_TEST(what_comes_back_has_its_old_place)
{
    push(10);
    for (int i = 0; i < 5; i++)
        take();
    give_back(3);
    give_back(1);
    ck_assert_uint_eq(take(), 1);
    ck_assert_uint_eq(take(), 3);
    ck_assert_uint_eq(take(), 5);
}
END_TEST

START_TEST(what_left_from_the_middle_is_not_found)
{
    uint64_t sequence;
    push(5);
    drop(1);
    drop(0);
    ck_assert_ptr_null(lane_at(&lane, 1));
    ck_assert_uint_eq(take(), 2);
    take();
    take();
    ck_assert_ptr_null(lane_first_ready(&lane, &sequence));
}
END_TEST

START_TEST(what_came_back_and_left_again_is_passed_over)
{
    push(4);
    take();
    take();
    give_back(0);
    give_back(1);
    drop(0); /* expired, say */
    ck_assert_uint_eq(take(), 1);
    ck_assert_uint_eq(take(), 2);
}
END_TEST

START_TEST(one_that_stays_keeps_one_chunk)
{
    push(100 * LANE_CHUNK_ENTRIES);
    uint64_t whole = memory_held();
    for (uint64_t i = 0; i < 100 * LANE_CHUNK_ENTRIES; i++) {
        take();
        if (i != 5)
            drop(i);
    }
    ck_assert_uint_lt(memory_held(), whole / 20);
    ck_assert_int_eq(lane_at(&lane, 5)->state, ENTRY_UNACKNOWLEDGED);
}
END_TEST

START_TEST(an_empty_lane_holds_no_more_than_a_chunk)
{
    push(10 * LANE_CHUNK_ENTRIES + 1);
    for (uint64_t i = 0; i <= 10 * LANE_CHUNK_ENTRIES; i++)
        drop(i);
    ck_assert_uint_le(memory_held(), LANE_CHUNK_ENTRIES * sizeof(struct entry) + 64);
    push(1);
    ck_assert_uint_eq(take(), 10 * LANE_CHUNK_ENTRIES + 1);
}
END_TEST

START_TEST(all_that_live_are_visited_in_order)
{
    uint64_t at = 0;
    push(1000);
    for (uint64_t i = 0; i < 1000; i++)
        if (i % 3 != 0)
            drop(i);
    for (uint64_t i = 0; i < 1000; i += 3)
        ck_assert_uint_eq(lane_next(&lane, &at)->id, i + 1);
    ck_assert_ptr_null(lane_next(&lane, &at));
}
END_TEST

enum { ENTRIES = 3000 };

static void
random_places(void)
{
    static enum entry_state states[ENTRIES];
    uint64_t count = 0, ready = 0;
    memset(states, 0, sizeof(states));
    set_up();
    for (test_operation = 1; count < ENTRIES; test_operation++) {
        uint64_t sequence = count == 0 ? 0 : pick(count), first = 0;
        while (first < count && states[first] != ENTRY_READY)
            first++;
        if (chance(35)) {
            push(1);
            states[count++] = ENTRY_READY;
            ready++;
        } else if (chance(40) && first < count) {
            uint64_t taken = take();
            REQUIRE(taken == first, "%" PRIu64 " comes before %" PRIu64, taken, first);
            states[first] = ENTRY_UNACKNOWLEDGED;
            ready--;
        } else if (chance(40) && states[sequence] == ENTRY_UNACKNOWLEDGED) {
            give_back(sequence);
            states[sequence] = ENTRY_READY;
            ready++;
        } else if (states[sequence] != ENTRY_DEAD) {
            ready -= states[sequence] == ENTRY_READY;
            drop(sequence);
            states[sequence] = ENTRY_DEAD;
        }
        const struct entry *entry = count == 0 ? NULL : lane_at(&lane, sequence);
        REQUIRE((entry == NULL ? ENTRY_DEAD : (enum entry_state)entry->state) == states[sequence],
                "the state of %" PRIu64, sequence);
        REQUIRE(lane.ready == ready, "%" PRIu64 " ready, not %" PRIu64, lane.ready, ready);
    }
    tear_down();
}

START_TEST(places_are_as_in_a_plain_array)
{
    run_rounds(10, random_places);
    set_up(); /* for the fixture */
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, messages_leave_in_the_order_in_which_they_came);
    tcase_add_test(tests, what_comes_back_has_its_old_place);
    tcase_add_test(tests, what_left_from_the_middle_is_not_found);
    tcase_add_test(tests, what_came_back_and_left_again_is_passed_over);
    tcase_add_test(tests, one_that_stays_keeps_one_chunk);
    tcase_add_test(tests, an_empty_lane_holds_no_more_than_a_chunk);
    tcase_add_test(tests, all_that_live_are_visited_in_order);
    tcase_add_test(tests, places_are_as_in_a_plain_array);
}

int
main(void)
{
    return run_suite("broker/lane", add);
}
