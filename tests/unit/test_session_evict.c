/* Who is no user any more, or is connected to a vhost that has gone, is told so and closed; what a
 * channel remembers of permissions is good for one state of the users only. Over a pair of sockets,
 * with one shard and no thread. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/log.h"
#include "session/channel.h"

enum { TURNS_MAX = 100 };

static struct broker *broker;
static struct access *users;
static struct login_service *logins;
static struct loop loop;
static struct session_host host;
static struct admission admission;
static int client;
static char error[ACCESS_ERROR_MAX];
static uint8_t heard[65536];
static size_t heard_size;

static void
no_wake(void *context)
{
    (void)context;
}

static void
permit(const char *expression)
{
    const struct slice text = slice_from(expression);
    const struct access_expressions expressions = {
        .vhost = SLICE("v"), .exchange = SLICE(""), .texts = {text, text, text}};
    ck_assert_int_eq(access_permissions_set(users, SLICE("u"), &expressions, error), 0);
}

static void
make_user(void)
{
    char hash[PASSWORD_HASH_MAX];
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, SLICE("p"), hash), 0);
    ck_assert_int_eq(access_user_set(users, SLICE("u"), slice_from(hash), SLICE(""), error), 0);
    permit(".*");
    struct access_user *user = access_user_find(users, SLICE("u"));
    ck_assert(access_verify_password(users, user, SLICE("p"))); /* now it needs no thread */
    access_user_unref(user);
}

static void
set_up(void)
{
    static const struct session_limits limits = {
        .frame_max = 131072,
        .channel_max = 10,
        .heartbeat_s = 0,
        .handshake_ms = 10000,
        .message_size_max = 1 << 20,
    };
    int ends[2];
    const struct address peer = {.storage.ss_family = AF_UNIX, .size = sizeof(sa_family_t)};
    log_set_level(LOG_LEVEL_ERROR);
    broker = broker_new(1);
    users = access_new();
    logins = login_service_new(users);
    ck_assert_int_eq(catalogue_vhost_add(broker->catalogue, SLICE("v")), 0);
    make_user();
    ck_assert_int_eq(loop_init(&loop, NULL, NULL), 0);
    admission_init(&admission);
    ck_assert_int_eq(
        session_host_init(&host, broker->shards[0], &loop, &limits, &admission, users, logins), 0);
    shard_set_host(broker->shards[0], (struct client_ops){channel_receive}, no_wake, NULL);
    shard_set_time(broker->shards[0], 1000, 1000);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    client = ends[1];
    heard_size = 0;
    session_accept(&host, ends[0], &peer, NULL);
}

static void
tear_down(void)
{
    close(client);
    login_service_free(logins);
    session_host_fini(&host);
    admission_fini(&admission);
    access_free(users);
    broker_free(broker);
    loop_fini(&loop);
}

/* Turns until there is nothing to do; what the broker says is kept. */
static void
turn(void)
{
    for (int i = 0; i < TURNS_MAX; i++) {
        session_host_evict(&host);
        bool has_more = shard_run(broker->shards[0]);
        has_more |= session_host_flush(&host);
        shard_flush(broker->shards[0]);
        int events = loop_wait(&loop, 0);
        ck_assert_int_ge(events, 0);
        ssize_t size;
        while ((size = read(client, heard + heard_size, sizeof(heard) - heard_size)) > 0)
            heard_size += (size_t)size;
        if (events == 0 && !has_more)
            return;
    }
    ck_abort_msg("there is always something to do");
}

static void
say(const uint8_t *data, size_t size)
{
    ck_assert_int_eq(send(client, data, size, MSG_NOSIGNAL), (ssize_t)size);
    turn();
}

static void
log_in(void)
{
    const struct amqp_connection_start_ok start_ok = {
        .mechanism = SLICE("PLAIN"), .response = SLICE("\0u\0p"), .locale = SLICE("en_US")};
    const struct amqp_connection_tune_ok tune_ok = {.channel_max = 10, .frame_max = 131072};
    const struct amqp_connection_open open = {.virtual_host = SLICE("v")};
    const struct amqp_channel_open channel_open = {.out_of_band = {"", 0}};
    uint8_t out[4096];
    size_t size = AMQP_PROTOCOL_HEADER_SIZE;
    memcpy(out, amqp_protocol_header_0_9_1, size);
    size += amqp_frame_connection_start_ok(out + size, sizeof(out) - size, 0, &start_ok);
    size += amqp_frame_connection_tune_ok(out + size, sizeof(out) - size, 0, &tune_ok);
    size += amqp_frame_connection_open(out + size, sizeof(out) - size, 0, &open);
    size += amqp_frame_channel_open(out + size, sizeof(out) - size, 1, &channel_open);
    say(out, size);
    heard_size = 0;
}

static void
declare(const char *queue)
{
    const struct amqp_queue_declare method = {.queue = slice_from(queue), .arguments = {"", 0}};
    uint8_t out[256];
    say(out, amqp_frame_queue_declare(out, sizeof(out), 1, &method));
}

/* The broker has said this text, in a frame of this method. */
static bool
has_said(const char *text)
{
    return memmem(heard, heard_size, text, strlen(text)) != NULL;
}

START_TEST(a_deleted_user_is_told_so_and_closed)
{
    log_in();
    ck_assert_int_eq(access_user_delete(users, SLICE("u"), error), 0);
    turn();
    ck_assert(has_said("CONNECTION_FORCED - user 'u' is deleted"));
}
END_TEST

START_TEST(a_user_who_was_made_anew_meanwhile_is_another_one)
{
    log_in();
    ck_assert_int_eq(access_user_delete(users, SLICE("u"), error), 0);
    make_user();
    turn();
    ck_assert(has_said("CONNECTION_FORCED - user 'u' is deleted"));
}
END_TEST

START_TEST(other_users_stay_when_one_is_deleted)
{
    log_in();
    ck_assert_int_eq(access_user_set(users, SLICE("w"), SLICE(""), SLICE(""), error), 0);
    ck_assert_int_eq(access_user_delete(users, SLICE("w"), error), 0);
    declare("q");
    ck_assert(!has_said("deleted"));
    ck_assert(has_said("q"));
}
END_TEST

START_TEST(who_is_in_a_vhost_that_is_removed_is_told_so_and_closed)
{
    log_in();
    declare("q");
    ck_assert_int_eq(shard_remove_vhost(broker->shards[0], SLICE("v")), 0);
    turn();
    ck_assert(has_said("CONNECTION_FORCED - vhost 'v' is deleted"));
}
END_TEST

START_TEST(permissions_that_are_taken_away_hold_at_once)
{
    log_in();
    declare("q");
    permit("^$");
    declare("q");
    ck_assert(has_said("ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'u'"));
}
END_TEST

START_TEST(permissions_that_are_given_hold_at_once)
{
    permit("^$");
    log_in();
    permit("q");
    declare("q");
    ck_assert(!has_said("ACCESS_REFUSED"));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("session/evict");
    TCase *tests = tcase_create("evict");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_deleted_user_is_told_so_and_closed);
    tcase_add_test(tests, a_user_who_was_made_anew_meanwhile_is_another_one);
    tcase_add_test(tests, other_users_stay_when_one_is_deleted);
    tcase_add_test(tests, who_is_in_a_vhost_that_is_removed_is_told_so_and_closed);
    tcase_add_test(tests, permissions_that_are_taken_away_hold_at_once);
    tcase_add_test(tests, permissions_that_are_given_hold_at_once);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
