/* The timing wheel against a plain list of due times, with timers from now to centuries away and
 * jumps of any size. */
#include <check.h>
#include <stdlib.h>

#include "base/compiler.h"
#include "base/random.h"
#include "base/wheel.h"

enum { TIMERS = 300 };

struct alarm {
    struct timer timer;
    int64_t due_ms; /* the model's: INT64_MAX when not set */
    int fired;
};

static struct wheel wheel;
static struct alarm alarms[TIMERS];
static struct random random_state;
static int64_t last_due;

static void
fire(struct timer *timer, int64_t now_ms)
{
    struct alarm *alarm = CONTAINER_OF(timer, struct alarm, timer);

    ck_assert(!timer_is_set(timer));
    ck_assert_int_le(alarm->due_ms, now_ms);
    ck_assert_msg(alarm->due_ms >= last_due, "fired out of order");
    last_due = alarm->due_ms;
    alarm->due_ms = INT64_MAX;
    alarm->fired++;
}

static void
set_up(void)
{
    wheel_init(&wheel, 0);
    for (int i = 0; i < TIMERS; i++) {
        alarms[i] = (struct alarm){.due_ms = INT64_MAX};
        timer_init(&alarms[i].timer, fire);
    }
    last_due = 0;
}

static void
set(struct alarm *alarm, int64_t due_ms)
{
    wheel_set(&wheel, &alarm->timer, due_ms);
    alarm->due_ms = due_ms;
}

/* A span of any order of magnitude up to 2^bits ms. */
static int64_t
any_span(uint64_t bits)
{
    return (int64_t)(random_next(&random_state) >> (63 - random_below(&random_state, bits)) >> 1);
}

static int64_t
model_next(void)
{
    int64_t next = INT64_MAX;

    for (int i = 0; i < TIMERS; i++) {
        if (alarms[i].due_ms < next)
            next = alarms[i].due_ms;
    }
    return next;
}

/* All that the model says is due has fired, nothing else has, and the next time is never late. */
static void
check(int64_t now_ms)
{
    size_t count = 0;

    for (int i = 0; i < TIMERS; i++) {
        ck_assert_int_gt(alarms[i].due_ms, now_ms);
        ck_assert_int_eq(timer_is_set(&alarms[i].timer), alarms[i].due_ms != INT64_MAX);
        count += alarms[i].due_ms != INT64_MAX;
    }
    ck_assert_uint_eq(wheel.count, count);
    ck_assert_int_le(wheel_next_due(&wheel), model_next());
    ck_assert_int_gt(wheel_next_due(&wheel), now_ms);
    ck_assert_int_eq(wheel_next_due(&wheel) == INT64_MAX, count == 0);
}

START_TEST(random_operations_agree_with_a_model)
{
    int64_t now_ms = _i == 0 ? 0 : INT64_C(1) << (6 * _i);

    random_init_with(&random_state, (uint64_t)_i);
    wheel_init(&wheel, now_ms);
    for (int step = 0; step < 3000; step++) {
        struct alarm *alarm = &alarms[random_below(&random_state, TIMERS)];

        switch (random_below(&random_state, 4)) {
        case 0:
            wheel_cancel(&wheel, &alarm->timer);
            alarm->due_ms = INT64_MAX;
            break;
        case 1:
        case 2:
            set(alarm, now_ms + 1 + any_span(step % 3 == 0 ? 44 : 16));
            break;
        default:
            /* Small steps, jumps, and just to the next due time. */
            now_ms = step % 5 == 0 && model_next() != INT64_MAX
                         ? model_next()
                         : now_ms + any_span(step % 50 == 0 ? 40 : 12);
            last_due = 0;
            wheel_advance(&wheel, now_ms, SIZE_MAX);
            check(now_ms);
        }
    }
}
END_TEST

/* Going by wheel_next_due alone, as a loop does, every timer fires exactly at its time, and the
 * wheel asks to be called only a few times too often. */
START_TEST(following_the_next_due_time_fires_each_timer_on_time)
{
    int64_t now_ms = 123456789;
    int calls = 0, fired = 0;

    random_init_with(&random_state, 5);
    wheel_init(&wheel, now_ms);
    for (int i = 0; i < TIMERS; i++)
        set(&alarms[i], now_ms + 1 + any_span(42));
    while ((now_ms = wheel_next_due(&wheel)) != INT64_MAX) {
        int64_t due_ms = model_next();
        size_t count = wheel_advance(&wheel, now_ms, SIZE_MAX);

        ck_assert_int_le(now_ms, due_ms);
        ck_assert(count == 0 || now_ms == due_ms);
        fired += (int)count;
        calls++;
    }
    ck_assert_int_eq(fired, TIMERS);
    ck_assert_int_lt(calls, TIMERS * WHEEL_LEVELS);
}
END_TEST

START_TEST(the_farthest_time_is_not_too_far)
{
    set(&alarms[0], INT64_MAX - 1);
    set(&alarms[1], INT64_MAX);
    ck_assert(!timer_is_set(&alarms[1].timer));
    ck_assert_uint_eq(wheel_advance(&wheel, INT64_MAX - 2, 10), 0);
    ck_assert_uint_eq(wheel_advance(&wheel, INT64_MAX - 1, 10), 1);
    ck_assert_int_eq(wheel_next_due(&wheel), INT64_MAX);
}
END_TEST

START_TEST(a_time_that_is_past_fires_at_the_next_turn)
{
    ck_assert_uint_eq(wheel_advance(&wheel, 1000, 10), 0);
    set(&alarms[0], 10);
    set(&alarms[1], 1000);
    ck_assert_int_le(wheel_next_due(&wheel), 1000);
    ck_assert_uint_eq(wheel_advance(&wheel, 1000, 10), 2);
}
END_TEST

START_TEST(time_does_not_run_backwards)
{
    ck_assert_uint_eq(wheel_advance(&wheel, 1000, 10), 0);
    set(&alarms[0], 1001);
    ck_assert_uint_eq(wheel_advance(&wheel, 5, 10), 0);
    ck_assert_uint_eq(wheel_advance(&wheel, 1001, 10), 1);
}
END_TEST

/* Also where all of them come down from one slot of a higher level at the same time. */
START_TEST(a_turn_fires_no_more_than_it_may_and_the_rest_comes_next)
{
    size_t total = 0;
    int turns = 0;

    for (int i = 0; i < TIMERS; i++)
        set(&alarms[i], 100000 + i % 7);
    while (wheel_next_due(&wheel) <= 100010) {
        size_t fired = wheel_advance(&wheel, 100010, 4);

        ck_assert_uint_le(fired, 4);
        total += fired;
        turns++;
    }
    ck_assert_uint_eq(total, TIMERS);
    ck_assert_int_lt(turns, TIMERS);
    for (int i = 0; i < TIMERS; i++)
        ck_assert_int_eq(alarms[i].fired, 1);
}
END_TEST

static void
fire_and_meddle(struct timer *timer, int64_t now_ms)
{
    struct alarm *alarm = CONTAINER_OF(timer, struct alarm, timer);

    alarm->fired++;
    if (alarm->fired < 3)
        wheel_set(&wheel, timer, now_ms + 10);
    wheel_cancel(&wheel, &alarms[1].timer);      /* due in the same turn */
    wheel_cancel(&wheel, &alarms[2].timer);      /* far away */
    wheel_set(&wheel, &alarms[3].timer, now_ms); /* due at once */
}

START_TEST(handlers_may_set_and_cancel_any_timer)
{
    timer_init(&alarms[0].timer, fire_and_meddle);
    set(&alarms[0], 5);
    set(&alarms[1], 5);
    set(&alarms[2], 500000);
    alarms[3].due_ms = 5;
    ck_assert_uint_eq(wheel_advance(&wheel, 5, 100), 2);
    ck_assert_int_eq(alarms[0].fired, 1);
    ck_assert_int_eq(alarms[1].fired, 0);
    ck_assert_int_eq(alarms[3].fired, 1);
    ck_assert_int_eq(wheel_next_due(&wheel), 15);
    last_due = 0;
    alarms[3].due_ms = 15;
    ck_assert_uint_eq(wheel_advance(&wheel, 15, 100), 2);
    alarms[3].due_ms = 25;
    ck_assert_uint_eq(wheel_advance(&wheel, 1000, 100), 2);
    ck_assert_uint_eq(wheel_advance(&wheel, 1000000, 100), 0);
    ck_assert_int_eq(alarms[2].fired, 0);
}
END_TEST

static void
fire_again_at_once(struct timer *timer, int64_t now_ms)
{
    wheel_set(&wheel, timer, now_ms);
}

START_TEST(a_timer_that_sets_itself_for_now_does_not_hold_the_turn)
{
    timer_init(&alarms[0].timer, fire_again_at_once);
    set(&alarms[0], 1);
    ck_assert_uint_eq(wheel_advance(&wheel, 1, 50), 50);
    wheel_cancel(&wheel, &alarms[0].timer);
    ck_assert_int_eq(wheel_next_due(&wheel), INT64_MAX);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/wheel");
    TCase *tests = tcase_create("wheel");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_loop_test(tests, random_operations_agree_with_a_model, 0, 9);
    tcase_add_test(tests, following_the_next_due_time_fires_each_timer_on_time);
    tcase_add_test(tests, the_farthest_time_is_not_too_far);
    tcase_add_test(tests, a_time_that_is_past_fires_at_the_next_turn);
    tcase_add_test(tests, time_does_not_run_backwards);
    tcase_add_test(tests, a_turn_fires_no_more_than_it_may_and_the_rest_comes_next);
    tcase_add_test(tests, handlers_may_set_and_cancel_any_timer);
    tcase_add_test(tests, a_timer_that_sets_itself_for_now_does_not_hold_the_turn);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
