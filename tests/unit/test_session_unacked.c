/* Deliveries that a channel has not settled: found by their tag, in order, and forgotten. */
#include "session/unacked.h"

#include "test_broker_support.h"

static struct unacked unacked;

static void
set_up(void)
{
    unacked_init(&unacked);
}

static void
tear_down(void)
{
    unacked_fini(&unacked);
}

static uint64_t
deliver(uint64_t queue_tag)
{
    uint64_t tag;
    struct unacked_entry *entry = unacked_add(&unacked, &tag);
    ck_assert_ptr_nonnull(entry);
    entry->tag = queue_tag;
    return tag;
}

static void
settle(uint64_t tag)
{
    struct unacked_entry *entry = unacked_find(&unacked, tag);
    ck_assert_ptr_nonnull(entry);
    unacked_remove(&unacked, entry);
    unacked_trim(&unacked);
}

START_TEST(tags_are_given_in_order_from_1)
{
    for (uint64_t i = 1; i <= 100; i++)
        ck_assert_uint_eq(deliver(i), i);
    ck_assert_uint_eq(unacked.outstanding, 100);
}
END_TEST

START_TEST(a_tag_that_was_not_given_is_not_found)
{
    deliver(7);
    ck_assert_ptr_null(unacked_find(&unacked, 0));
    ck_assert_ptr_null(unacked_find(&unacked, 2));
    ck_assert_ptr_null(unacked_find(&unacked, UINT64_MAX));
}
END_TEST

START_TEST(a_tag_is_settled_once)
{
    deliver(7);
    deliver(8);
    settle(2);
    ck_assert_ptr_null(unacked_find(&unacked, 2));
    ck_assert_uint_eq(unacked_find(&unacked, 1)->tag, 7);
    settle(1);
    ck_assert_ptr_null(unacked_find(&unacked, 1));
    ck_assert_uint_eq(unacked.outstanding, 0);
}
END_TEST

START_TEST(a_tag_is_never_given_again)
{
    settle(deliver(1));
    ck_assert_uint_eq(deliver(2), 2);
    ck_assert_uint_eq(unacked_skip(&unacked), 3);
    ck_assert_uint_eq(deliver(4), 4);
}
END_TEST

START_TEST(what_needs_no_settling_takes_a_tag_and_no_memory)
{
    for (uint64_t i = 1; i <= 1000; i++)
        ck_assert_uint_eq(unacked_skip(&unacked), i);
    ck_assert_ptr_null(unacked.entries);
    ck_assert_ptr_null(unacked_find(&unacked, 500));
}
END_TEST

START_TEST(all_are_visited_in_their_order)
{
    uint64_t tag = 0;
    ck_assert_ptr_null(unacked_from(&unacked, &tag));
    for (uint64_t i = 1; i <= 5; i++)
        deliver(10 + i);
    settle(1);
    settle(3);
    ck_assert_uint_eq(unacked_from(&unacked, &tag)->tag, 12);
    ck_assert_uint_eq(tag, 2);
    tag = 3;
    ck_assert_uint_eq(unacked_from(&unacked, &tag)->tag, 14);
    ck_assert_uint_eq(tag, 4);
    tag = 6;
    ck_assert_ptr_null(unacked_from(&unacked, &tag));
}
END_TEST

START_TEST(what_is_never_settled_does_not_keep_the_memory_of_what_came_after)
{
    uint64_t first = deliver(7);
    for (uint64_t i = 0; i < 100000; i++)
        settle(deliver(i));
    ck_assert_uint_le(unacked.capacity, 64);
    for (uint64_t i = 0; i < 100000; i++)
        (void)unacked_skip(&unacked);
    uint64_t last = deliver(8);
    ck_assert_uint_eq(last, 200002);
    ck_assert_uint_le(unacked.capacity, 64);
    ck_assert_uint_eq(unacked_find(&unacked, first)->tag, 7);
    ck_assert_uint_eq(unacked_find(&unacked, last)->tag, 8);
    ck_assert_ptr_null(unacked_find(&unacked, 100000));
}
END_TEST

START_TEST(the_most_urgent_is_that_with_the_earliest_deadline)
{
    ck_assert_ptr_null(unacked_most_urgent(&unacked));
    for (uint64_t i = 1; i <= 3; i++)
        deliver(i);
    ck_assert_ptr_null(unacked_most_urgent(&unacked)); /* none has a deadline */
    unacked_find(&unacked, 1)->deadline_s = 30;
    unacked_find(&unacked, 3)->deadline_s = 20;
    ck_assert_uint_eq(unacked_most_urgent(&unacked)->tag, 3);
    settle(3);
    ck_assert_uint_eq(unacked_most_urgent(&unacked)->tag, 1);
}
END_TEST

START_TEST(what_a_transaction_settled_is_not_outstanding_and_not_forgotten)
{
    uint64_t tag = 0;
    deliver(1);
    deliver(2);
    unacked_find(&unacked, 1)->state = UNACKED_IN_TRANSACTION;
    unacked_trim(&unacked);
    ck_assert_ptr_null(unacked_find(&unacked, 1));
    ck_assert_uint_eq(unacked_from(&unacked, &tag)->tag, 1);
    ck_assert_uint_eq(unacked_at(&unacked, 1)->tag, 1);
}
END_TEST

START_TEST(a_burst_gives_its_memory_back)
{
    for (uint64_t i = 1; i <= 5000; i++)
        deliver(i);
    for (uint64_t i = 5000; i >= 1; i--)
        settle(i);
    ck_assert_ptr_null(unacked.entries);
}
END_TEST

enum { TAGS = 5000 };

static void
random_tags(void)
{
    static bool is_outstanding[TAGS + 1];
    uint32_t count = 0;
    memset(is_outstanding, 0, sizeof(is_outstanding));
    set_up();
    for (test_operation = 1; unacked.next <= TAGS; test_operation++) {
        uint64_t tag = 1 + pick(unacked.next);
        if (chance(10)) {
            REQUIRE(unacked_skip(&unacked) > 0, "out of memory");
        } else if (chance(45)) {
            uint64_t given = deliver(3 * unacked.next);
            is_outstanding[given] = true;
            count++;
        } else if (tag < unacked.next) {
            struct unacked_entry *entry = unacked_find(&unacked, tag);
            REQUIRE((entry != NULL) == is_outstanding[tag], "tag %" PRIu64, tag);
            if (entry == NULL)
                continue;
            REQUIRE(entry->tag == 3 * tag, "tag %" PRIu64 " is of %" PRIu64, tag, entry->tag / 3);
            unacked_remove(&unacked, entry);
            unacked_trim(&unacked);
            is_outstanding[tag] = false;
            count--;
        }
        REQUIRE(unacked.outstanding == count, "%u outstanding, not %u", unacked.outstanding, count);
    }
    struct unacked_entry *entry;
    uint64_t expected = 1;
    for (uint64_t tag = 0; (entry = unacked_from(&unacked, &tag)) != NULL; tag++, count--) {
        while (expected < unacked.next && !is_outstanding[expected])
            expected++;
        REQUIRE(tag == expected, "the next is %" PRIu64 ", not %" PRIu64, tag, expected);
        expected++;
    }
    REQUIRE(count == 0, "%u were not visited", count);
    tear_down();
}

START_TEST(tags_are_found_as_in_a_plain_array)
{
    run_rounds(20, random_tags);
    set_up(); /* for the fixture */
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, tags_are_given_in_order_from_1);
    tcase_add_test(tests, a_tag_that_was_not_given_is_not_found);
    tcase_add_test(tests, a_tag_is_settled_once);
    tcase_add_test(tests, a_tag_is_never_given_again);
    tcase_add_test(tests, what_needs_no_settling_takes_a_tag_and_no_memory);
    tcase_add_test(tests, all_are_visited_in_their_order);
    tcase_add_test(tests, what_is_never_settled_does_not_keep_the_memory_of_what_came_after);
    tcase_add_test(tests, the_most_urgent_is_that_with_the_earliest_deadline);
    tcase_add_test(tests, what_a_transaction_settled_is_not_outstanding_and_not_forgotten);
    tcase_add_test(tests, a_burst_gives_its_memory_back);
    tcase_add_test(tests, tags_are_found_as_in_a_plain_array);
}

int
main(void)
{
    return run_suite("session/unacked", add);
}
