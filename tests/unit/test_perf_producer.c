/* A producer of whippet-perf on a socket that takes little: batches of messages, and what else is
 * to be said in between, stay apart. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/run.h"

enum { BODY_SIZE = 3000, KEPT_MAX = 4 << 20 };

static struct options options;
static struct run run;
static struct client *client;
static int server; /* the other end */
static uint8_t *kept;
static size_t kept_size;
static bool has_failed;

/* What run.c has of this. */
void
run_notify(struct run *notified)
{
    ck_assert_ptr_eq(notified, &run);
}

void
run_fail(struct run *failed, const struct client *by)
{
    ck_assert_ptr_eq(failed, &run);
    ck_assert_ptr_eq(by, client);
    has_failed = true;
}

static void
set_up(void)
{
    int ends[2], small = 1;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    server = ends[1];
    ck_assert_int_eq(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    options = (struct options){.producers = 1, .queues = 1, .queue = "q", .size = BODY_SIZE};
    run = (struct run){.options = &options};
    run.topology.options = &options;
    run.topology.exchange_type = "direct";
    run.topology.queues = 1;
    atomic_store(&run.start_ns, clock_now());
    client = aligned_alloc(_Alignof(struct client), sizeof(*client));
    kept = malloc(KEPT_MAX);
    ck_assert(client != NULL && kept != NULL);
    *client = (struct client){.run = &run, .is_producer = true};
    client->connection.fd = ends[0];
    client->connection.frame_max = CONNECTION_FRAME_MAX;
    ck_assert_int_eq(producer_init(client), 0);
    kept_size = 0;
    has_failed = false;
}

static void
tear_down(void)
{
    producer_fini(client);
    connection_fini(&client->connection);
    free(client);
    free(kept);
    close(server);
}

/* The server reads what is there. */
static void
read_all(void)
{
    for (;;) {
        ck_assert_uint_lt(kept_size, KEPT_MAX);
        ssize_t n = recv(server, kept + kept_size, KEPT_MAX - kept_size, MSG_DONTWAIT);
        if (n <= 0) {
            ck_assert(n < 0 && errno == EAGAIN);
            return;
        }
        kept_size += (size_t)n;
    }
}

/* Sends until a message stands half on the wire. */
static void
send_half(void)
{
    struct producer *producer = &client->producer;
    size_t last = 0;
    do {
        read_all();
        client->wants_output = false;
        for (int i = 0; i < 1000 && !client->wants_output; i++)
            (void)producer_step(client, clock_now());
        ck_assert_msg(client->wants_output, "the socket takes everything");
        for (size_t i = 0; i <= producer->slot_count; i++)
            if (producer->slot_start[i] <= producer->pending_start)
                last = producer->slot_start[i];
    } while (producer->pending_start == last);
}

static void
put_flow_ok(void)
{
    wire_method_begin(&client->connection.out, 1, CHANNEL_FLOW_OK);
    wire_u8(&client->connection.out, 1);
    wire_frame_end(&client->connection.out);
}

/* What was sent is whole frames; how many answers to channel.flow are among them. */
static size_t
flow_oks(void)
{
    size_t at = 0, count = 0;
    while (at < kept_size) {
        ck_assert_uint_ge(kept_size - at, FRAME_OVERHEAD);
        size_t size = wire_get_u32(kept + at + 3);
        ck_assert_uint_ge(kept_size - at, size + FRAME_OVERHEAD);
        ck_assert_uint_eq(kept[at + FRAME_HEAD_SIZE + size], FRAME_END);
        count += kept[at] == FRAME_METHOD
                 && wire_get_u32(kept + at + FRAME_HEAD_SIZE) == CHANNEL_FLOW_OK;
        at += size + FRAME_OVERHEAD;
    }
    return count;
}

START_TEST(an_answer_waits_for_the_end_of_a_message_that_is_half_sent)
{
    send_half();
    put_flow_ok();
    client_flush(client);
    ck_assert(client->wants_output);
    for (int i = 0; client->wants_output; i++) {
        ck_assert_int_lt(i, 1000);
        read_all();
        client->wants_output = false; /* as after EPOLLOUT */
        client_flush(client);
    }
    read_all();
    ck_assert(!has_failed);
    ck_assert_uint_eq(flow_oks(), 1);
    ck_assert_uint_eq(client->producer.pending_start, client->producer.pending_end);
}
END_TEST

START_TEST(at_the_end_of_a_run_the_rest_of_a_message_goes_before_an_answer)
{
    send_half();
    put_flow_ok();
    client_flush(client);
    producer_stop(client);
    for (int status = 0, i = 0; status == 0; i++) {
        ck_assert_int_lt(i, 1000);
        read_all();
        status = connection_flush(&client->connection);
        ck_assert_int_ge(status, 0);
    }
    read_all();
    ck_assert_uint_eq(flow_oks(), 1);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("perf/producer");
    TCase *tests = tcase_create("producer");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, an_answer_waits_for_the_end_of_a_message_that_is_half_sent);
    tcase_add_test(tests, at_the_end_of_a_run_the_rest_of_a_message_goes_before_an_answer);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
