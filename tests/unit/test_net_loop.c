/* The event loop: removal while events wait, and waking without losing mail. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "net/loop.h"

enum { PAIRS = 8 };

struct end {
    struct io io;
    int peer_fd;
    int calls;
    uint32_t last_events;
    struct end **victims; /* to be removed, closed and freed when this one is called */
    size_t victim_count;
};

static struct loop loop;
static struct end *ends[PAIRS];

static void
on_events(struct io *io, uint32_t events)
{
    struct end *end = CONTAINER_OF(io, struct end, io);
    char byte;

    end->calls++;
    end->last_events = events;
    if ((events & EPOLLIN) != 0)
        ck_assert_int_ge(read(io->fd, &byte, 1), 0);
    for (size_t i = 0; i < end->victim_count; i++) {
        struct end *victim = end->victims[i];

        if (victim == NULL || victim == end)
            continue;
        loop_remove(&loop, &victim->io);
        close(victim->io.fd);
        close(victim->peer_fd);
        free(victim); /* a late event would be a use after free */
        end->victims[i] = NULL;
    }
}

static void
set_up(void)
{
    ck_assert_int_eq(loop_init(&loop, NULL, NULL), 0);
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];

        ends[i] = calloc(1, sizeof(*ends[i]));
        ck_assert_ptr_nonnull(ends[i]);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        io_init(&ends[i]->io, fds[0], on_events);
        ends[i]->peer_fd = fds[1];
        ck_assert_int_eq(loop_add(&loop, &ends[i]->io, EPOLLIN), 0);
    }
}

static void
tear_down(void)
{
    for (int i = 0; i < PAIRS; i++) {
        if (ends[i] == NULL)
            continue;
        loop_remove(&loop, &ends[i]->io);
        close(ends[i]->io.fd);
        close(ends[i]->peer_fd);
        free(ends[i]);
        ends[i] = NULL;
    }
    loop_fini(&loop);
}

static void
make_readable(const struct end *end)
{
    ck_assert_int_eq(write(end->peer_fd, "x", 1), 1);
}

START_TEST(only_what_is_ready_is_called)
{
    ck_assert_int_eq(loop_wait(&loop, 0), 0);
    make_readable(ends[2]);
    make_readable(ends[5]);
    ck_assert_int_eq(loop_wait(&loop, -1), 2);
    for (int i = 0; i < PAIRS; i++)
        ck_assert_int_eq(ends[i]->calls, i == 2 || i == 5);
    ck_assert_uint_eq(ends[2]->last_events, EPOLLIN);
    ck_assert_int_eq(loop_wait(&loop, 0), 0);
}
END_TEST

START_TEST(what_is_watched_for_can_be_changed)
{
    ck_assert_int_eq(loop_modify(&loop, &ends[0]->io, EPOLLIN | EPOLLOUT), 0);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(ends[0]->last_events, EPOLLOUT);
    ck_assert_int_eq(loop_modify(&loop, &ends[0]->io, 0), 0);
    make_readable(ends[0]);
    ck_assert_int_eq(loop_wait(&loop, 0), 0);
    loop_remove(&loop, &ends[0]->io);
    loop_remove(&loop, &ends[0]->io);
    ck_assert_int_eq(loop_add(&loop, &ends[0]->io, EPOLLIN), 0);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
}
END_TEST

/* Whichever comes first removes, closes and frees all others of the same batch. */
START_TEST(what_is_removed_while_its_event_waits_is_not_called)
{
    int left = 0;

    for (int i = 0; i < PAIRS; i++) {
        ends[i]->victims = ends;
        ends[i]->victim_count = PAIRS;
        make_readable(ends[i]);
    }
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    for (int i = 0; i < PAIRS; i++)
        left += ends[i] != NULL;
    ck_assert_int_eq(left, 1);
}
END_TEST

START_TEST(the_end_of_a_peer_is_an_event)
{
    shutdown(ends[1]->peer_fd, SHUT_RDWR);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_ne(ends[1]->last_events & (EPOLLIN | EPOLLHUP), 0);
}
END_TEST

static bool
mail_is_there(void *context)
{
    ++*(int *)context;
    return true;
}

START_TEST(a_loop_with_mail_does_not_sleep)
{
    struct loop other;
    int asked = 0;

    ck_assert_int_eq(loop_init(&other, mail_is_there, &asked), 0);
    ck_assert_int_eq(loop_wait(&other, -1), 0);
    ck_assert_int_eq(asked, 1);
    loop_fini(&other);
}
END_TEST

struct clock_reader {
    struct io io;
    int readings, readings_at_event;
};

static void
take_reading(void *context)
{
    ((struct clock_reader *)context)->readings++;
}

static void
note_readings(struct io *io, uint32_t events)
{
    struct clock_reader *reader = (struct clock_reader *)(void *)io;

    (void)events;
    reader->readings_at_event = reader->readings;
}

/* A connection that came after a long sleep was timed out at once: its time-out was reckoned from
 * before the sleep. */
START_TEST(the_clock_is_read_between_sleeping_and_handling)
{
    struct loop other;
    struct clock_reader reader = {.readings_at_event = -1};
    int pipe_ends[2];

    ck_assert_int_eq(pipe(pipe_ends), 0);
    ck_assert_int_eq(write(pipe_ends[1], "x", 1), 1);
    ck_assert_int_eq(loop_init(&other, NULL, &reader), 0);
    other.woke = take_reading;
    io_init(&reader.io, pipe_ends[0], note_readings);
    ck_assert_int_eq(loop_add(&other, &reader.io, EPOLLIN), 0);
    ck_assert_int_eq(loop_wait(&other, -1), 1);
    ck_assert_int_eq(reader.readings_at_event, 1);
    loop_remove(&other, &reader.io);
    loop_fini(&other);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}
END_TEST

START_TEST(a_timeout_ends_the_sleep)
{
    int64_t before_ms = clock_monotonic_ms();

    ck_assert_int_eq(loop_wait(&loop, 20), 0);
    ck_assert_int_ge(clock_monotonic_ms() - before_ms, 19);
}
END_TEST

START_TEST(waking_an_awake_loop_costs_no_event)
{
    int64_t before_ms = clock_monotonic_ms();

    for (int i = 0; i < 10; i++)
        loop_wake(&loop);
    ck_assert_int_eq(loop_wait(&loop, 5), 0);
    ck_assert_int_ge(clock_monotonic_ms() - before_ms, 4);
}
END_TEST

/* A mailbox of the simplest kind: how many letters were put in. */
struct post {
    struct loop loop;
    atomic_int sent;
    int received;
};

enum { LETTERS = 20000 };

static bool
has_letters(void *context)
{
    struct post *post = context;

    return atomic_load_explicit(&post->sent, memory_order_relaxed) != post->received;
}

static struct post here, there;

/* Takes what is there, else sleeps for ever: a lost wake would be a hang, which Check's time-out
 * turns into a failure. */
static void
receive(struct post *post, int until)
{
    while (post->received < until) {
        post->received = atomic_load_explicit(&post->sent, memory_order_acquire);
        if (post->received < until)
            ck_assert_int_ge(loop_wait(&post->loop, -1), 0);
    }
}

static void
send_letter(struct post *post)
{
    atomic_fetch_add_explicit(&post->sent, 1, memory_order_release);
    loop_wake(&post->loop);
}

static void *
answer_letters(void *unused)
{
    for (int i = 1; i <= LETTERS; i++) {
        receive(&there, i);
        send_letter(&here);
    }
    return unused;
}

/* One letter to and one back, over and over: both sides fall asleep just when the other writes. */
START_TEST(no_wake_is_lost_between_two_threads)
{
    pthread_t thread;

    ck_assert_int_eq(loop_init(&here.loop, has_letters, &here), 0);
    ck_assert_int_eq(loop_init(&there.loop, has_letters, &there), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, answer_letters, NULL), 0);
    for (int i = 1; i <= LETTERS; i++) {
        send_letter(&there);
        for (volatile int spin = i % 97 * 20; spin > 0; spin--) /* vary who comes first */
            continue;
        receive(&here, i);
    }
    pthread_join(thread, NULL);
    loop_fini(&here.loop);
    loop_fini(&there.loop);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/loop");
    TCase *events = tcase_create("events"), *wakes = tcase_create("wakes");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(events, set_up, tear_down);
    tcase_add_test(events, only_what_is_ready_is_called);
    tcase_add_test(events, what_is_watched_for_can_be_changed);
    tcase_add_test(events, what_is_removed_while_its_event_waits_is_not_called);
    tcase_add_test(events, the_end_of_a_peer_is_an_event);
    tcase_add_test(events, a_timeout_ends_the_sleep);
    tcase_add_test(events, the_clock_is_read_between_sleeping_and_handling);
    tcase_add_test(events, waking_an_awake_loop_costs_no_event);
    suite_add_tcase(suite, events);
    tcase_set_timeout(wakes, 30);
    tcase_add_test(wakes, a_loop_with_mail_does_not_sleep);
    tcase_add_test(wakes, no_wake_is_lost_between_two_threads);
    suite_add_tcase(suite, wakes);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
