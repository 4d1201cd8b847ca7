/* A long backlog that waits in the journal takes little memory, and comes back as it was. */
#include <check.h>
#include <stdlib.h>

#include "base/memory.h"
#include "broker/lane.h"

enum { CHUNKS = 40, MESSAGES = CHUNKS * LANE_CHUNK_ENTRIES };

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

/* Ids of a queue among others: with gaps. */
static uint64_t
id_of(uint64_t sequence)
{
    return 1000 + 7 * sequence + sequence % 3;
}

static struct entry *
push(uint8_t flags)
{
    uint64_t sequence;
    struct entry *entry = lane_push(&lane, &sequence);
    ck_assert_ptr_nonnull(entry);
    entry->id = id_of(sequence);
    entry->body_size = (uint32_t)(sequence * 11);
    entry->flags = flags;
    return entry;
}

static void
check_entry(const struct entry *entry, uint64_t sequence, uint8_t flags)
{
    ck_assert_ptr_nonnull(entry);
    ck_assert_int_eq(entry->state, ENTRY_READY);
    ck_assert_uint_eq(entry->id, id_of(sequence));
    ck_assert_uint_eq(entry->body_size, sequence * 11);
    ck_assert_uint_eq(entry->flags, flags);
    ck_assert_int_eq(entry->deadline_ms, NEVER);
    ck_assert_uint_eq(entry->delivery_count, 0);
    ck_assert_ptr_null(entry->message);
}

START_TEST(a_backlog_in_the_journal_takes_a_few_bytes_a_message)
{
    for (int i = 0; i < MESSAGES; i++)
        push(0);
    ck_assert_uint_lt(memory_held(), MESSAGES * 8);
}
END_TEST

START_TEST(it_is_taken_in_order_as_it_was)
{
    uint64_t sequence;
    for (int i = 0; i < MESSAGES; i++)
        push(ENTRY_REDELIVERED);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        struct entry *entry = lane_first_ready(&lane, &sequence);
        ck_assert_uint_eq(sequence, i);
        check_entry(entry, i, ENTRY_REDELIVERED);
        lane_take(&lane, sequence, entry);
        lane_remove(&lane, sequence, entry);
    }
    ck_assert_ptr_null(lane_first_ready(&lane, &sequence));
}
END_TEST

START_TEST(any_of_it_can_be_looked_at)
{
    for (int i = 0; i < MESSAGES; i++)
        push(0);
    for (uint64_t i = 0; i < MESSAGES; i += 777)
        check_entry(lane_at(&lane, i), i, 0);
    uint64_t at = 0, seen = 0;
    struct entry *entry;
    while ((entry = lane_next(&lane, &at)) != NULL)
        check_entry(entry, seen++, 0);
    ck_assert_uint_eq(seen, MESSAGES);
}
END_TEST

/* Each of these makes one entry different from what a packed chunk can say. */
static void
has_deadline(struct entry *entry)
{
    entry->deadline_ms = 5;
}

static void
was_given_back(struct entry *entry)
{
    entry->delivery_count = 3;
}

static void
has_other_flags(struct entry *entry)
{
    entry->flags = ENTRY_REDELIVERED;
}

static void
is_not_in_the_journal(struct entry *entry)
{
    entry->id = 0;
}

static void
is_far_from_the_others(struct entry *entry)
{
    entry->id += UINT16_MAX;
}

static void
is_in_memory(struct entry *entry)
{
    static char message;
    entry->message = (struct message *)(void *)&message;
}

static void (*const differences[])(struct entry *entry) = {
    has_deadline,          was_given_back,         has_other_flags,
    is_not_in_the_journal, is_far_from_the_others, is_in_memory,
};

START_TEST(what_differs_is_kept)
{
    struct entry changed = {0};
    for (int i = 0; i < MESSAGES; i++) {
        struct entry *entry = push(0);
        if (i == 3 * LANE_CHUNK_ENTRIES + _i * 13) {
            differences[_i](entry);
            changed = *entry;
        }
    }
    struct entry *entry = lane_at(&lane, (uint64_t)(3 * LANE_CHUNK_ENTRIES + _i * 13));
    ck_assert_int_eq(entry->deadline_ms, changed.deadline_ms);
    ck_assert_uint_eq(entry->delivery_count, changed.delivery_count);
    ck_assert_uint_eq(entry->flags, changed.flags);
    ck_assert_uint_eq(entry->id, changed.id);
    ck_assert_ptr_eq(entry->message, changed.message);
}
END_TEST

START_TEST(what_is_unacknowledged_stays_so)
{
    uint64_t sequence;
    for (int i = 0; i < 10; i++)
        push(0);
    struct entry *entry = lane_first_ready(&lane, &sequence);
    lane_take(&lane, sequence, entry);
    for (int i = 0; i < MESSAGES; i++)
        push(0);
    ck_assert_int_eq(lane_at(&lane, 0)->state, ENTRY_UNACKNOWLEDGED);
    check_entry(lane_first_ready(&lane, &sequence), 1, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("broker/lane_packed");
    TCase *tests = tcase_create("packed");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_backlog_in_the_journal_takes_a_few_bytes_a_message);
    tcase_add_test(tests, it_is_taken_in_order_as_it_was);
    tcase_add_test(tests, any_of_it_can_be_looked_at);
    tcase_add_loop_test(tests, what_differs_is_kept, 0,
                        (int)(sizeof(differences) / sizeof(differences[0])));
    tcase_add_test(tests, what_is_unacknowledged_stays_so);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
