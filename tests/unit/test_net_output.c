/* The output queue: what goes in comes out, in order and once, however little the socket takes;
 * what was referred to is released exactly once; a drained output holds no memory. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/random.h"
#include "net/output.h"

static struct block_pool pool;
static struct output output;
static struct stream stream;
static int peer_fd;
static struct random random_state;

/* The bytes of the test are a counter's: the next to put in, and the next to come out. */
static uint32_t next_in, next_out;

static uint8_t
pattern(uint32_t position)
{
    return (uint8_t)(position ^ position >> 8 ^ position >> 16);
}

static void
fill(uint8_t *room, size_t size)
{
    for (size_t i = 0; i < size; i++)
        room[i] = pattern(next_in++);
}

static void
set_up(void)
{
    int fds[2], size = 4096;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    ck_assert_int_eq(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    stream_init_tcp(&stream, fds[0]);
    peer_fd = fds[1];
    block_pool_init(&pool, 256 * 1024);
    output_init(&output, &pool);
    next_in = 0;
    next_out = 0;
}

static void
tear_down(void)
{
    output_clear(&output);
    ck_assert_uint_eq(pool.used_bytes, 0);
    ck_assert_uint_le(pool.free_bytes, pool.free_bytes_max);
    block_pool_fini(&pool);
    stream_close(&stream);
    stream_close(&stream);
    if (peer_fd >= 0)
        close(peer_fd);
}

/* Takes up to `size` bytes off the other end and compares them. Returns how many there were. */
static size_t
take(size_t size)
{
    uint8_t bytes[8192];
    ssize_t got = read(peer_fd, bytes, size < sizeof(bytes) ? size : sizeof(bytes));

    for (ssize_t i = 0; i < got; i++) {
        if (bytes[i] != pattern(next_out))
            ck_abort_msg("byte %u is wrong", next_out);
        next_out++;
    }
    return got > 0 ? (size_t)got : 0;
}

/* Flushes and reads until all is through. */
static void
drain(void)
{
    enum output_result result;

    do {
        result = output_flush(&output, &stream);
        ck_assert_int_ne(result, OUTPUT_ERROR);
        while (take(SIZE_MAX) > 0)
            continue;
    } while (result != OUTPUT_DRAINED);
    ck_assert_uint_eq(next_out, next_in);
    ck_assert_uint_eq(output_pending(&output), 0);
    ck_assert_ptr_null(output.first);
    ck_assert_uint_eq(pool.used_bytes, 0);
}

static void
put_reserved(size_t reserved, size_t used)
{
    uint8_t *room = output_reserve(&output, reserved);

    ck_assert_ptr_nonnull(room);
    memset(room, 0xee, reserved); /* a sanitizer would see room that is not there */
    fill(room, used);
    output_commit(&output, used);
}

static void
put_copied(size_t size)
{
    uint8_t *bytes = malloc(size);

    ck_assert_ptr_nonnull(bytes);
    fill(bytes, size);
    ck_assert_int_eq(output_append(&output, bytes, size), 0);
    free(bytes);
}

struct body {
    uint8_t *bytes;
    int releases;
};

static int bodies_out;

static void
release_body(void *owner)
{
    struct body *body = owner;

    ck_assert_int_eq(body->releases, 0);
    body->releases++;
    bodies_out--;
    free(body->bytes);
    free(body);
}

static void
put_reference(size_t size)
{
    struct body *body = calloc(1, sizeof(*body));

    ck_assert_ptr_nonnull(body);
    body->bytes = malloc(size);
    ck_assert_ptr_nonnull(body->bytes);
    fill(body->bytes, size);
    ck_assert_int_eq(output_append_reference(&output, body->bytes, size, release_body, body), 0);
    bodies_out++;
}

START_TEST(pieces_of_all_kinds_come_out_in_order)
{
    random_init_with(&random_state, (uint64_t)_i);
    for (int step = 0; step < 1500; step++) {
        size_t size =
            1 + random_below(&random_state, random_below(&random_state, 8) == 0 ? 30000 : 300);

        switch (random_below(&random_state, 8)) {
        case 0:
            put_copied(size);
            break;
        case 1:
        case 2:
            put_reference(size);
            break;
        case 3:
            put_reserved(size + random_below(&random_state, 30000), size);
            break;
        case 4:
            ck_assert_int_ne(output_flush(&output, &stream), OUTPUT_ERROR);
            take(random_below(&random_state, 8000));
            break;
        default:
            put_reserved(size, size);
        }
        ck_assert_uint_le(output_pending(&output), next_in - next_out);
    }
    drain();
    ck_assert_int_eq(bodies_out, 0);
}
END_TEST

START_TEST(nothing_to_send_is_drained_at_once)
{
    ck_assert_int_eq(output_flush(&output, &stream), OUTPUT_DRAINED);
    ck_assert_ptr_nonnull(output_reserve(&output, 100)); /* and nothing committed */
    ck_assert_int_eq(output_flush(&output, &stream), OUTPUT_DRAINED);
    ck_assert_uint_eq(pool.used_bytes, 0);
    ck_assert_int_eq(output_append(&output, NULL, 0), 0);
    ck_assert_uint_eq(pool.used_bytes, 0);
}
END_TEST

START_TEST(the_largest_reservation_is_contiguous)
{
    put_reserved(10, 10);
    put_reserved(OUTPUT_RESERVE_MAX, OUTPUT_RESERVE_MAX);
    put_reserved(OUTPUT_RESERVE_MAX, 1);
    drain();
}
END_TEST

START_TEST(more_pieces_than_one_write_takes_come_out_in_order)
{
    for (int i = 0; i < 5 * OUTPUT_PIECES_MAX; i++) {
        put_reserved(9, 9);
        put_reference(20);
    }
    drain();
    ck_assert_int_eq(bodies_out, 0);
}
END_TEST

START_TEST(references_without_copied_bytes_between_come_out_in_order)
{
    for (int i = 0; i < 1000; i++)
        put_reference(1 + (size_t)i % 5);
    drain();
    ck_assert_int_eq(bodies_out, 0);
}
END_TEST

START_TEST(a_full_socket_blocks_and_a_partly_sent_body_is_kept)
{
    put_reference(1000000);
    ck_assert_int_eq(output_flush(&output, &stream), OUTPUT_BLOCKED);
    ck_assert_int_eq(output_flush(&output, &stream), OUTPUT_BLOCKED);
    ck_assert_int_eq(bodies_out, 1);
    ck_assert_uint_gt(take(100), 0);
    drain();
    ck_assert_int_eq(bodies_out, 0);
}
END_TEST

START_TEST(clearing_releases_what_is_not_sent)
{
    for (int i = 0; i < 20; i++) {
        put_reserved(100, 100);
        put_reference(5000);
    }
    ck_assert_int_eq(output_flush(&output, &stream), OUTPUT_BLOCKED);
    ck_assert_int_gt(bodies_out, 0);
    output_clear(&output);
    ck_assert_int_eq(bodies_out, 0);
    ck_assert_uint_eq(output_pending(&output), 0);
    ck_assert_uint_eq(pool.used_bytes, 0);
}
END_TEST

START_TEST(a_peer_that_is_gone_is_an_error_and_no_signal)
{
    close(peer_fd);
    peer_fd = -1;
    put_reserved(10, 10);
    ck_assert_int_eq(output_flush(&output, &stream), OUTPUT_ERROR);
    ck_assert_int_eq(stream.error, EPIPE);
}
END_TEST

/* A socket that takes everything. */
static size_t writes, written;

static ssize_t
take_all(struct stream *unused, struct iovec *pieces, int count)
{
    size_t size = 0;

    (void)unused;
    for (int i = 0; i < count; i++)
        size += pieces[i].iov_len;
    writes++;
    written += size;
    return (ssize_t)size;
}

START_TEST(one_flush_is_one_write_and_sends_no_more_than_its_share)
{
    static const struct stream_ops greedy = {.writev = take_all};
    struct stream sink = {.fd = -1, .ops = &greedy};

    for (int i = 0; i < 3; i++) {
        put_reserved(100, 100);
        put_reference(1000);
    }
    ck_assert_int_eq(output_flush(&output, &sink), OUTPUT_DRAINED);
    ck_assert_uint_eq(writes, 1);
    for (int i = 0; i < 3; i++)
        put_reference(OUTPUT_FLUSH_MAX / 2);
    written = 0;
    ck_assert_int_eq(output_flush(&output, &sink), OUTPUT_BLOCKED);
    ck_assert_uint_eq(written, OUTPUT_FLUSH_MAX);
    ck_assert_int_eq(output_flush(&output, &sink), OUTPUT_DRAINED);
}
END_TEST

START_TEST(the_pool_keeps_free_blocks_up_to_its_bound)
{
    struct block *blocks[40];

    for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
        blocks[i] = block_pool_take(&pool, 1, i % 2 == 1);
        ck_assert_ptr_nonnull(blocks[i]);
        memset(blocks[i]->bytes, 1, blocks[i]->capacity);
    }
    ck_assert_uint_eq(pool.used_bytes, 20 * (BLOCK_SMALL + BLOCK_LARGE));
    for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
        block_pool_give(&pool, blocks[i]);
    ck_assert_uint_eq(pool.used_bytes, 0);
    ck_assert_uint_le(pool.free_bytes, pool.free_bytes_max);
    ck_assert_uint_gt(pool.free_bytes, pool.free_bytes_max / 2);
}
END_TEST

START_TEST(a_stream_tells_nothing_yet_from_the_end)
{
    char bytes[10];

    ck_assert_int_eq(stream_read(&stream, bytes, sizeof(bytes)), STREAM_AGAIN);
    ck_assert(!stream_has_buffered(&stream) && !stream_wants_read(&stream)
              && !stream_wants_write(&stream));
    ck_assert_int_eq(write(peer_fd, "abc", 3), 3);
    ck_assert_int_eq(stream_read(&stream, bytes, sizeof(bytes)), 3);
    ck_assert_int_eq(shutdown(peer_fd, SHUT_WR), 0);
    ck_assert_int_eq(stream_read(&stream, bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(stream_shutdown_write(&stream), 0);
    ck_assert_int_eq(read(peer_fd, bytes, sizeof(bytes)), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/output");
    TCase *tests = tcase_create("output");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 20);
    tcase_add_loop_test(tests, pieces_of_all_kinds_come_out_in_order, 0, 6);
    tcase_add_test(tests, nothing_to_send_is_drained_at_once);
    tcase_add_test(tests, the_largest_reservation_is_contiguous);
    tcase_add_test(tests, more_pieces_than_one_write_takes_come_out_in_order);
    tcase_add_test(tests, references_without_copied_bytes_between_come_out_in_order);
    tcase_add_test(tests, a_full_socket_blocks_and_a_partly_sent_body_is_kept);
    tcase_add_test(tests, clearing_releases_what_is_not_sent);
    tcase_add_test(tests, a_peer_that_is_gone_is_an_error_and_no_signal);
    tcase_add_test(tests, one_flush_is_one_write_and_sends_no_more_than_its_share);
    tcase_add_test(tests, the_pool_keeps_free_blocks_up_to_its_bound);
    tcase_add_test(tests, a_stream_tells_nothing_yet_from_the_end);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
