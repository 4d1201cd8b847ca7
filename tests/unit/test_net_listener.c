/* Listening: addresses as operators write them, accepting, and running out of file descriptors. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "net/listener.h"

static char error[ADDRESS_ERROR_MAX];
static struct address addresses[LISTENER_SOCKETS_MAX];
static size_t address_count;

/* What an operator may write, and what it means, or the beginning of what he is told. */
static const struct {
    const char *written, *first, *second, *error;
} spellings[] = {
    {"127.0.0.1:5672", "127.0.0.1:5672", NULL, NULL},
    {"[::1]:5672", "[::1]:5672", NULL, NULL},
    {"5672", "0.0.0.0:5672", "[::]:5672", NULL},
    {"*:0", "0.0.0.0:0", "[::]:0", NULL},
    {"0.0.0.0:65535", "0.0.0.0:65535", NULL, NULL},
    {"", NULL, NULL, "\"\" does not end in a port"},
    {"65536", NULL, NULL, "\"65536\" does not end in a port"},
    {"127.0.0.1", NULL, NULL, "\"127.0.0.1\" does not end in a port"},
    {"127.0.0.1:", NULL, NULL, "\"127.0.0.1:\" does not end in a port"},
    {"127.0.0.1:-1", NULL, NULL, "\"127.0.0.1:-1\" does not end in a port"},
    {"127.0.0.1:5672x", NULL, NULL, "\"127.0.0.1:5672x\" does not end in a port"},
    {":5672", NULL, NULL, "\":5672\" has no address before the port"},
    {"[]:5672", NULL, NULL, "\"[]:5672\" has no address before the port"},
    {"[::1:5672", NULL, NULL, "\"[::1:5672\": no \"]\" before the port"},
    {"[:5672", NULL, NULL, "\"[:5672\": no \"]\" before the port"},
    {"::1:5672", NULL, NULL, "\"::1:5672\": write IPv6 addresses in brackets"},
    {"no such name.invalid:1", NULL, NULL, "cannot look up \"no such name.invalid\": "},
};

START_TEST(addresses_are_read_as_operators_write_them)
{
    char text[ADDRESS_TEXT_MAX];
    int result = address_resolve_listen(spellings[_i].written, addresses, LISTENER_SOCKETS_MAX,
                                        &address_count, error);

    if (spellings[_i].error != NULL) {
        ck_assert_int_eq(result, -1);
        ck_assert_msg(strncmp(error, spellings[_i].error, strlen(spellings[_i].error)) == 0,
                      "told: %s", error);
        return;
    }
    ck_assert_msg(result == 0, "%s", error);
    ck_assert_uint_eq(address_count, spellings[_i].second != NULL ? 2 : 1);
    ck_assert_str_eq(address_text(&addresses[0], text), spellings[_i].first);
    if (spellings[_i].second != NULL)
        ck_assert_str_eq(address_text(&addresses[1], text), spellings[_i].second);
}
END_TEST

START_TEST(a_name_gives_each_of_its_addresses_once)
{
    char text[ADDRESS_TEXT_MAX];

    ck_assert_msg(address_resolve_listen("localhost:7", addresses, LISTENER_SOCKETS_MAX,
                                         &address_count, error)
                      == 0,
                  "%s", error);
    ck_assert_uint_ge(address_count, 1);
    for (size_t i = 0; i < address_count; i++) {
        ck_assert(address_is_loopback(&addresses[i]));
        ck_assert_uint_eq(address_port(&addresses[i]), 7);
        ck_assert_ptr_nonnull(strstr(address_host_text(&addresses[i], text), "1"));
        for (size_t j = 0; j < i; j++)
            ck_assert_mem_ne(&addresses[i], &addresses[j], sizeof(addresses[i]));
    }
}
END_TEST

START_TEST(unix_sockets_have_a_text)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/run/x.sock"};
    struct address address = {.size = sizeof(local)};
    char text[ADDRESS_TEXT_MAX];

    memcpy(&address.storage, &local, sizeof(local));
    ck_assert_str_eq(address_text(&address, text), "unix:/run/x.sock");
    address.size = (socklen_t)offsetof(struct sockaddr_un, sun_path); /* a client without a name */
    ck_assert_str_eq(address_text(&address, text), "unix:");
    memcpy(&local.sun_path, "\0name", 5);
    memcpy(&address.storage, &local, sizeof(local));
    address.size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 5);
    ck_assert_str_eq(address_text(&address, text), "unix:@name");
    memset(&local.sun_path, 'p', sizeof(local.sun_path)); /* no 0 at the end */
    memcpy(&address.storage, &local, sizeof(local));
    address.size = sizeof(local);
    ck_assert_uint_eq(strlen(address_text(&address, text)), 5 + sizeof(local.sun_path));
}
END_TEST

static struct loop loop;
static struct wheel wheel;
static struct listener listener;
static int accepted[600];
static size_t accepted_count;
static struct address last_peer;
static bool stop_at_first;

static void
on_accept(struct listener *of, int fd, const struct address *peer)
{
    ck_assert_uint_lt(accepted_count, ARRAY_SIZE(accepted));
    accepted[accepted_count++] = fd;
    last_peer = *peer;
    if (stop_at_first)
        listener_stop(of);
}

static void
set_up(void)
{
    ck_assert_int_eq(loop_init(&loop, NULL, NULL), 0);
    wheel_init(&wheel, 0);
    ck_assert_msg(listener_open(&listener, "127.0.0.1:0", on_accept, error) == 0, "%s", error);
    accepted_count = 0;
    stop_at_first = false;
}

static void
tear_down(void)
{
    listener_close(&listener);
    listener_close(&listener);
    for (size_t i = 0; i < accepted_count; i++)
        close(accepted[i]);
    ck_assert_int_eq(wheel_next_due(&wheel), INT64_MAX);
    loop_fini(&loop);
}

static void
start(void)
{
    ck_assert_int_eq(listener_start(&listener, &loop, &wheel), 0);
}

/* A client's socket, connected. */
static int
connect_client(void)
{
    struct address address = listener.address;
    int fd = socket(address.storage.ss_family, SOCK_STREAM, 0);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address.storage, address.size), 0);
    return fd;
}

static int
option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);

    ck_assert_int_eq(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

START_TEST(an_accepted_connection_is_set_up)
{
    struct address own;
    char text[ADDRESS_TEXT_MAX], own_text[ADDRESS_TEXT_MAX];
    int client;

    ck_assert_uint_ne(listener_port(&listener), 0);
    start();
    client = connect_client();
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, 1);
    ck_assert_int_ne(option(accepted[0], IPPROTO_TCP, TCP_NODELAY), 0);
    ck_assert_int_ne(option(accepted[0], SOL_SOCKET, SO_KEEPALIVE), 0);
    ck_assert_int_ne(fcntl(accepted[0], F_GETFL) & O_NONBLOCK, 0);
    ck_assert_int_ne(fcntl(accepted[0], F_GETFD) & FD_CLOEXEC, 0);
    ck_assert_int_eq(address_of_socket(client, &own), 0);
    ck_assert_str_eq(address_text(&last_peer, text), address_text(&own, own_text));
    ck_assert_int_eq(address_of_peer(client, &own), 0);
    ck_assert_uint_eq(address_port(&own), listener_port(&listener));
    close(client);
}
END_TEST

START_TEST(a_turn_accepts_a_bounded_number)
{
    int clients[LISTENER_ACCEPT_BATCH + 10];

    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        clients[i] = connect_client();
    start();
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, LISTENER_ACCEPT_BATCH);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, ARRAY_SIZE(clients));
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}
END_TEST

START_TEST(a_handler_may_stop_the_listener_and_it_starts_again)
{
    int one = connect_client(), two = connect_client();

    stop_at_first = true;
    start();
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, 1);
    ck_assert_int_eq(loop_wait(&loop, 0), 0);
    start();
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, 2);
    close(one);
    close(two);
}
END_TEST

START_TEST(an_address_in_use_is_said_so)
{
    struct listener second;
    char written[64], expected[128];

    snprintf(written, sizeof(written), "127.0.0.1:%u", (unsigned)listener_port(&listener));
    snprintf(expected, sizeof(expected), "cannot listen on %s: Address already in use", written);
    ck_assert_int_eq(listener_open(&second, written, on_accept, error), -1);
    ck_assert_str_eq(error, expected);
    listener_close(&second);
}
END_TEST

START_TEST(all_addresses_get_the_same_chosen_port)
{
    struct listener all;
    struct address address;

    ck_assert_msg(listener_open(&all, "0", on_accept, error) == 0, "%s", error);
    ck_assert_uint_ge(all.count, 1);
    for (size_t i = 0; i < all.count; i++) {
        ck_assert_int_eq(address_of_socket(all.sockets[i].io.fd, &address), 0);
        ck_assert_uint_eq(address_port(&address), listener_port(&all));
    }
    listener_close(&all);
}
END_TEST

START_TEST(a_socket_handed_over_is_adopted)
{
    struct listener second;
    int fd = dup(listener.sockets[0].io.fd), client;

    ck_assert_int_eq(listener_adopt(&second, fd, on_accept, error), 0);
    ck_assert_uint_eq(listener_port(&second), listener_port(&listener));
    ck_assert_int_eq(listener_start(&second, &loop, &wheel), 0);
    client = connect_client();
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, 1);
    ck_assert_int_eq(listener_adopt(&listener, client, on_accept, error), -1);
    ck_assert_ptr_nonnull(strstr(error, "is not a listening socket"));
    close(client);
    listener_close(&second);
}
END_TEST

/* The limit to which descriptors may be opened is the next one. */
static void
use_up_descriptors(struct rlimit *before)
{
    struct rlimit tight;
    int next = dup(0);

    ck_assert_int_ge(next, 0);
    close(next);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, before), 0);
    tight = *before;
    tight.rlim_cur = (rlim_t)next;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
}

/* What the peer of a socket sees: 0 when it was closed on it. */
static ssize_t
read_end(int fd)
{
    char byte;
    struct pollfd wait = {.fd = fd, .events = POLLIN};

    ck_assert_int_eq(poll(&wait, 1, 5000), 1);
    return recv(fd, &byte, 1, 0);
}

START_TEST(without_descriptors_one_client_is_turned_away_and_accepting_pauses)
{
    int one = connect_client(), two = connect_client();
    struct rlimit before;

    log_set_level(LOG_LEVEL_ERROR);
    ck_assert_uint_eq(wheel_advance(&wheel, 50, 10), 0);
    start();
    use_up_descriptors(&before);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, 0);
    ck_assert_uint_eq(listener.refused, 1);
    ck_assert_int_le(read_end(one), 0);
    ck_assert_int_ge(listener.reserve_fd, 0);

    /* The wheel has not been told the time for an hour; the pause counts from now all the same. */
    ck_assert_uint_eq(wheel_advance(&wheel, 3600000, 10), 1);
    ck_assert_int_eq(loop_wait(&loop, 0), 0);
    ck_assert_uint_eq(wheel_advance(&wheel, 3600000 + LISTENER_PAUSE_MS - 1, 10), 0);
    ck_assert_int_eq(loop_wait(&loop, 0), 0);

    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_uint_eq(wheel_advance(&wheel, 3600000 + LISTENER_PAUSE_MS, 10), 1);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_uint_eq(accepted_count, 1);
    close(one);
    close(two);
}
END_TEST

START_TEST(a_listener_can_be_closed_while_it_pauses)
{
    int client = connect_client();
    struct rlimit before;

    log_set_level(LOG_LEVEL_ERROR);
    start();
    use_up_descriptors(&before);
    ck_assert_int_eq(loop_wait(&loop, -1), 1);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_int_ne(wheel_next_due(&wheel), INT64_MAX);
    listener_close(&listener);
    ck_assert_int_eq(wheel_next_due(&wheel), INT64_MAX);
    close(client);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/listener");
    TCase *texts = tcase_create("texts"), *accepts = tcase_create("accepts");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(texts, addresses_are_read_as_operators_write_them, 0,
                        (int)ARRAY_SIZE(spellings));
    tcase_add_test(texts, a_name_gives_each_of_its_addresses_once);
    tcase_add_test(texts, unix_sockets_have_a_text);
    tcase_set_timeout(texts, 30);
    suite_add_tcase(suite, texts);
    tcase_add_checked_fixture(accepts, set_up, tear_down);
    tcase_add_test(accepts, an_accepted_connection_is_set_up);
    tcase_add_test(accepts, a_turn_accepts_a_bounded_number);
    tcase_add_test(accepts, a_handler_may_stop_the_listener_and_it_starts_again);
    tcase_add_test(accepts, an_address_in_use_is_said_so);
    tcase_add_test(accepts, all_addresses_get_the_same_chosen_port);
    tcase_add_test(accepts, a_socket_handed_over_is_adopted);
    tcase_add_test(accepts, without_descriptors_one_client_is_turned_away_and_accepting_pauses);
    tcase_add_test(accepts, a_listener_can_be_closed_while_it_pauses);
    suite_add_tcase(suite, accepts);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
