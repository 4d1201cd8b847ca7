/* Publisher confirms: every published message is reported once, with its outcome, and not before
 * all that it waits for has come. */
#include "session/confirms.h"

#include "test_broker_support.h"

static struct confirms confirms;

static void
set_up(void)
{
    confirms_init(&confirms);
}

static void
tear_down(void)
{
    confirms_fini(&confirms);
}

static void
publish_one(uint32_t answers, bool awaits_disk)
{
    uint64_t expected = confirms.next;
    ck_assert_uint_eq(confirms_add(&confirms, answers, awaits_disk), expected);
}

static void
answer(uint64_t number, bool is_accepted)
{
    ck_assert_int_eq(confirms_answer(&confirms, number, is_accepted), 0);
}

static void
check_report(uint64_t number, bool multiple, bool is_refused)
{
    struct confirm_report report;
    ck_assert(confirms_report(&confirms, &report));
    ck_assert_uint_eq(report.number, number);
    ck_assert_int_eq(report.multiple, multiple);
    ck_assert_int_eq(report.is_refused, is_refused);
}

static void
check_nothing_to_report(void)
{
    struct confirm_report report;
    ck_assert(!confirms_report(&confirms, &report));
}

START_TEST(what_nobody_answers_for_is_done_at_once)
{
    publish_one(0, false);
    check_report(1, false, false);
    check_nothing_to_report();
    ck_assert_ptr_null(confirms.slots);
}
END_TEST

START_TEST(many_that_are_done_are_one_report)
{
    for (int i = 0; i < 100; i++)
        publish_one(0, false);
    check_report(100, true, false);
    check_nothing_to_report();
}
END_TEST

START_TEST(a_message_waits_for_all_its_queues)
{
    publish_one(2, false);
    answer(1, true);
    check_nothing_to_report();
    answer(1, true);
    check_report(1, false, false);
}
END_TEST

START_TEST(one_queue_that_refuses_is_enough)
{
    publish_one(2, false);
    answer(1, false);
    check_nothing_to_report();
    answer(1, true);
    check_report(1, false, true);
}
END_TEST

START_TEST(a_message_waits_for_the_disk)
{
    publish_one(0, true);
    publish_one(0, true);
    check_nothing_to_report();
    ck_assert_int_eq(confirms_durable(&confirms, 1), 0);
    check_report(1, false, false);
    ck_assert_int_eq(confirms_durable(&confirms, 2), 0);
    check_report(2, false, false);
}
END_TEST

START_TEST(what_is_done_early_is_reported_early_and_only_once)
{
    publish_one(1, false);
    publish_one(0, false);
    check_report(2, false, false);
    answer(1, true);
    check_report(2, true, false); /* the client knows 2 already: it is 1 that it learns */
    check_nothing_to_report();
}
END_TEST

START_TEST(different_outcomes_are_different_reports)
{
    for (int i = 0; i < 4; i++)
        publish_one(1, false);
    answer(1, true);
    answer(2, true);
    answer(3, false);
    answer(4, true);
    check_report(2, true, false);
    check_report(3, false, true);
    check_report(4, false, false);
    check_nothing_to_report();
}
END_TEST

START_TEST(answers_too_late_or_for_nothing_mean_nothing)
{
    answer(7, false);
    publish_one(1, false);
    answer(1, true);
    answer(1, false);
    check_report(1, false, false);
    answer(1, false);
    check_nothing_to_report();
}
END_TEST

static void
lose(uint64_t number)
{
    ck_assert_int_eq(confirms_lost(&confirms, number), 0);
}

START_TEST(a_message_that_was_done_at_once_and_is_lost_is_refused)
{
    for (int i = 0; i < 4; i++)
        publish_one(0, false);
    lose(2);
    check_report(1, false, false);
    check_report(2, false, true);
    check_report(4, true, false);
    check_nothing_to_report();
    publish_one(0, false);
    check_report(5, false, false);
    lose(5); /* too late */
    check_nothing_to_report();
}
END_TEST

START_TEST(a_message_that_is_lost_is_refused_when_the_others_have_answered)
{
    publish_one(1, false);
    lose(1);
    check_nothing_to_report();
    answer(1, true);
    check_report(1, false, true);
    publish_one(1, false);
    publish_one(0, false); /* done before the one in front of it */
    lose(3);
    check_report(3, false, true);
    answer(2, true);
    check_report(3, true, false); /* the client knows 3 already */
    check_nothing_to_report();
}
END_TEST

/* --- Against a model -------------------------------------------------------------------------- */

enum { MESSAGES = 3000 };

static struct {
    uint32_t answers_due;
    bool awaits_disk, is_refused, is_reported;
} model[MESSAGES + 1];

static void
take_reports(void)
{
    struct confirm_report report;
    while (confirms_report(&confirms, &report)) {
        REQUIRE(report.number > 0 && report.number < confirms.next, "number %" PRIu64,
                report.number);
        for (uint64_t i = report.multiple ? 1 : report.number; i <= report.number; i++) {
            REQUIRE(report.multiple || !model[i].is_reported, "%" PRIu64 " is reported twice", i);
            if (model[i].is_reported)
                continue;
            REQUIRE(model[i].answers_due == 0 && !model[i].awaits_disk,
                    "%" PRIu64 " is reported early", i);
            REQUIRE(model[i].is_refused == report.is_refused, "%" PRIu64 " has another outcome", i);
            model[i].is_reported = true;
        }
    }
    for (uint64_t i = 1; i < confirms.next; i++)
        REQUIRE(model[i].is_reported || model[i].answers_due > 0 || model[i].awaits_disk,
                "%" PRIu64 " is not reported", i);
}

static void
answer_one(void)
{
    uint64_t number = confirms.next - 1 - pick(confirms.next < 20 ? confirms.next - 1 : 20);
    bool is_accepted = chance(80);
    if (model[number].answers_due == 0)
        return;
    model[number].answers_due--;
    model[number].is_refused |= !is_accepted;
    answer(number, is_accepted);
}

static void
lose_one(uint64_t number)
{
    lose(number);
    model[number].is_refused |= !model[number].is_reported;
}

static void
random_confirms(void)
{
    uint64_t on_disk = 0;
    memset(model, 0, sizeof(model));
    set_up();
    for (test_operation = 1; confirms.next <= MESSAGES; test_operation++) {
        if (chance(40)) {
            uint32_t answers = chance(50) ? (uint32_t)pick(4) : 0;
            bool awaits_disk = chance(30);
            model[confirms.next].answers_due = answers;
            model[confirms.next].awaits_disk = awaits_disk;
            publish_one(answers, awaits_disk);
            if (chance(10))
                lose_one(confirms.next - 1);
        } else if (chance(5) && confirms.next > 1) {
            lose_one(confirms.next - 1 - pick(confirms.next < 20 ? confirms.next - 1 : 20));
        } else if (chance(80) && confirms.next > 1) {
            answer_one();
        } else if (confirms.next > 1) {
            uint64_t until = on_disk + pick(confirms.next - on_disk);
            while (on_disk < until)
                model[++on_disk].awaits_disk = false;
            ck_assert_int_eq(confirms_durable(&confirms, on_disk), 0);
        }
        if (chance(10))
            take_reports();
    }
    for (uint64_t i = 1; i < confirms.next; i++)
        for (; model[i].answers_due > 0; model[i].answers_due--)
            answer(i, true);
    for (uint64_t i = 1; i < confirms.next; i++)
        model[i].awaits_disk = false;
    ck_assert_int_eq(confirms_durable(&confirms, confirms.next - 1), 0);
    take_reports();
    tear_down();
}

START_TEST(confirms_report_what_the_model_says)
{
    run_rounds(20, random_confirms);
    set_up(); /* for the fixture */
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, what_nobody_answers_for_is_done_at_once);
    tcase_add_test(tests, many_that_are_done_are_one_report);
    tcase_add_test(tests, a_message_waits_for_all_its_queues);
    tcase_add_test(tests, one_queue_that_refuses_is_enough);
    tcase_add_test(tests, a_message_waits_for_the_disk);
    tcase_add_test(tests, what_is_done_early_is_reported_early_and_only_once);
    tcase_add_test(tests, different_outcomes_are_different_reports);
    tcase_add_test(tests, answers_too_late_or_for_nothing_mean_nothing);
    tcase_add_test(tests, a_message_that_was_done_at_once_and_is_lost_is_refused);
    tcase_add_test(tests, a_message_that_is_lost_is_refused_when_the_others_have_answered);
    tcase_add_test(tests, confirms_report_what_the_model_says);
}

int
main(void)
{
    return run_suite("session/confirms", add);
}
