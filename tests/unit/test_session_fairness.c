/* A connection that floods the broker makes nobody wait: however much it has sent, in a turn it is
 * given its slice, and whoever else asks something is answered in that same turn. One thread, pairs
 * of sockets, and a clock that goes on by so much each time that somebody looks at it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/clock.h"
#include "base/log.h"
#include "session/channel.h"

enum {
    LOOK_NS = 100 * 1000, /* what passes between two looks at the clock */
    /* What a connection may take of a turn: then a few of them leave the others a few
     * milliseconds. */
    TURN_LOOKS = 10,
    /* The clock is looked at after so many frames at the latest, so at a look of theirs each would
     * take microseconds. */
    CHEAP_FRAMES_PER_LOOK = 16,
    COSTLY_FRAMES_PER_LOOK = 2,
    PEERS_MAX = 24,
    FAN_OUT = 1000,
    STOCK = 3000, /* messages */
    LONG_QUEUE = 30000,
    DELIVERY_SIZE = 100, /* bytes at most: its frames, of a message of one */
    TURNS_MAX = 20000,
    FLOOD_SIZE = 96 * 1024, /* bytes: what a pair of sockets takes for sure */
};

/* --- The clock: in place of base/clock.c -------------------------------------------------------
 */

static int64_t now_ns;

int64_t
clock_monotonic_ns(void)
{
    return now_ns += LOOK_NS;
}

int64_t
clock_monotonic_ms(void)
{
    return clock_monotonic_ns() / 1000000;
}

int64_t
clock_wall_ms(void)
{
    return clock_monotonic_ms();
}

/* --- The world ---------------------------------------------------------------------------------
 */

struct peer {
    int fd;
    struct connection *connection;
    uint8_t heard[64 * 1024]; /* the last of it, when it is not looked at in between */
    size_t heard_size;
    uint64_t heard_bytes;
    uint64_t begun_bytes; /* of its input, taken before the flood */
};

static struct broker *broker;
static struct access *users;
static struct login_service *logins;
static struct loop loop;
static struct session_host host;
static struct admission admission;
static struct peer peers[PEERS_MAX];
static size_t peer_count;
static uint8_t out[FLOOD_SIZE + 4096];

static void
no_wake(void *context)
{
    (void)context;
}

static void
make_user(void)
{
    char hash[PASSWORD_HASH_MAX], error[ACCESS_ERROR_MAX];
    const struct access_expressions everything = {.vhost = SLICE("v"),
                                                  .exchange = SLICE(""),
                                                  .texts = {SLICE(".*"), SLICE(".*"), SLICE(".*")}};
    ck_assert_int_eq(password_hash(PASSWORD_SHA256, SLICE("p"), hash), 0);
    ck_assert_int_eq(access_user_set(users, SLICE("u"), slice_from(hash), SLICE(""), error), 0);
    ck_assert_int_eq(access_permissions_set(users, SLICE("u"), &everything, error), 0);
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
        .handshake_ms = 1000 * 1000,
        .message_size_max = 1 << 20,
        .header_size_max = 1 << 20,
        .header_depth_max = 128,
        .consumers_per_channel = CHANNEL_CONSUMERS_MAX,
        .unsettled_per_channel = 1 << 20,
    };
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
    peer_count = 0;
}

static void
tear_down(void)
{
    for (size_t i = 0; i < peer_count; i++)
        close(peers[i].fd);
    login_service_free(logins);
    session_host_fini(&host);
    admission_fini(&admission);
    access_free(users);
    broker_free(broker);
    loop_fini(&loop);
}

/* What the broker said is noted, and the room for it is free again. */
static void
hear(struct peer *peer)
{
    ssize_t size;
    for (;;) {
        if (peer->heard_size == sizeof(peer->heard))
            peer->heard_size = 0;
        size =
            read(peer->fd, peer->heard + peer->heard_size, sizeof(peer->heard) - peer->heard_size);
        if (size <= 0)
            return;
        peer->heard_size += (size_t)size;
        peer->heard_bytes += (uint64_t)size;
    }
}

/* One turn, as a worker makes it, from the sockets to the answers. False: there was nothing. */
static bool
turn(void)
{
    int events = loop_wait(&loop, 0);
    ck_assert_int_ge(events, 0);
    bool has_more = shard_run(broker->shards[0]);
    has_more |= session_host_flush(&host);
    shard_flush(broker->shards[0]);
    for (size_t i = 0; i < peer_count; i++)
        hear(&peers[i]);
    return has_more || events > 0;
}

static void
settle_down(void)
{
    for (int turns = 0; turn(); turns++)
        ck_assert_int_lt(turns, TURNS_MAX);
}

static void
send_bytes(struct peer *peer, const uint8_t *data, size_t size)
{
    ck_assert_int_eq(send(peer->fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

#define SAY(peer, class_method, ...)                                                               \
    do {                                                                                           \
        const struct amqp_##class_method said_method = __VA_ARGS__;                                \
        uint8_t said[1024];                                                                        \
        send_bytes((peer), said, amqp_frame_##class_method(said, sizeof(said), 1, &said_method));  \
    } while (0)

/* A client that has logged in and opened channel 1. */
static struct peer *
new_peer(void)
{
    static const struct address nowhere = {.storage.ss_family = AF_UNIX,
                                           .size = sizeof(sa_family_t)};
    const struct amqp_connection_start_ok start_ok = {
        .mechanism = SLICE("PLAIN"), .response = SLICE("\0u\0p"), .locale = SLICE("en_US")};
    const struct amqp_connection_tune_ok tune_ok = {.channel_max = 10, .frame_max = 131072};
    const struct amqp_connection_open open = {.virtual_host = SLICE("v")};
    int ends[2];
    ck_assert_uint_lt(peer_count, PEERS_MAX);
    struct peer *peer = &peers[peer_count++];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    *peer = (struct peer){.fd = ends[1]};
    session_accept(&host, ends[0], &nowhere, NULL);
    peer->connection = LIST_ENTRY(list_last(&host.connections), struct connection, link);
    size_t size = AMQP_PROTOCOL_HEADER_SIZE;
    memcpy(out, amqp_protocol_header_0_9_1, size);
    size += amqp_frame_connection_start_ok(out + size, sizeof(out) - size, 0, &start_ok);
    size += amqp_frame_connection_tune_ok(out + size, sizeof(out) - size, 0, &tune_ok);
    size += amqp_frame_connection_open(out + size, sizeof(out) - size, 0, &open);
    send_bytes(peer, out, size);
    SAY(peer, channel_open, {.out_of_band = {"", 0}});
    settle_down();
    ck_assert_int_eq(peer->connection->state, CONNECTION_OPEN);
    return peer;
}

static void
declare(struct peer *peer, const char *queue)
{
    SAY(peer, queue_declare, {.queue = slice_from(queue), .arguments = {"", 0}});
}

/* Bytes of what it sent that the broker has worked off. */
static uint64_t
worked_off(const struct peer *peer)
{
    return peer->connection->received_bytes - peer->connection->input.size;
}

/* --- Floods ------------------------------------------------------------------------------------
 */

/* Writes the `number`th request; its size. */
typedef size_t (*request)(uint8_t *room, size_t capacity, uint32_t number);

static size_t
put_message(uint8_t *room, size_t capacity, const struct amqp_basic_publish *method)
{
    const struct amqp_content_header header = {
        .class_id = 60, .body_size = 1, .properties = {"\0\0", 2}};
    size_t size = amqp_frame_basic_publish(room, capacity, 1, method);
    size += amqp_frame_content_header(room + size, capacity - size, 1, &header);
    amqp_frame_put_header(room + size, AMQP_FRAME_BODY, 1, 1);
    memcpy(room + size + AMQP_FRAME_HEADER_SIZE, "m\xce", 2);
    return size + AMQP_FRAME_OVERHEAD + 1;
}

static size_t
a_publish(uint8_t *room, size_t capacity, uint32_t number)
{
    (void)number;
    return put_message(room, capacity,
                       &(struct amqp_basic_publish){.routing_key = SLICE("flooded")});
}

static size_t
a_publish_to_many_queues(uint8_t *room, size_t capacity, uint32_t number)
{
    (void)number;
    return put_message(room, capacity,
                       &(struct amqp_basic_publish){.exchange = SLICE("amq.fanout")});
}

/* No cache knows its route. */
static size_t
a_publish_with_a_new_key(uint8_t *room, size_t capacity, uint32_t number)
{
    char key[16];
    snprintf(key, sizeof(key), "key.%07u", number);
    return put_message(room, capacity,
                       &(struct amqp_basic_publish){.exchange = SLICE("amq.topic"),
                                                    .routing_key = slice_from(key)});
}

static size_t
a_get(uint8_t *room, size_t capacity, uint32_t number)
{
    (void)number;
    return amqp_frame_basic_get(
        room, capacity, 1, &(struct amqp_basic_get){.queue = SLICE("flooded"), .no_ack = true});
}

static size_t
an_ack(uint8_t *room, size_t capacity, uint32_t number)
{
    return amqp_frame_basic_ack(room, capacity, 1,
                                &(struct amqp_basic_ack){.delivery_tag = number + 1});
}

static size_t
a_declaration(uint8_t *room, size_t capacity, uint32_t number)
{
    char name[16];
    snprintf(name, sizeof(name), "many-%07u", number);
    return amqp_frame_queue_declare(
        room, capacity, 1,
        &(struct amqp_queue_declare){.queue = slice_from(name), .arguments = {"", 0}});
}

static size_t
a_question(uint8_t *room, size_t capacity, uint32_t number)
{
    (void)number;
    return amqp_frame_queue_declare(room, capacity, 1,
                                    &(struct amqp_queue_declare){.queue = SLICE("flooded"),
                                                                 .passive = true,
                                                                 .arguments = {"", 0}});
}

static size_t
a_binding(uint8_t *room, size_t capacity, uint32_t number)
{
    char key[16];
    snprintf(key, sizeof(key), "%07u.*.#", number);
    return amqp_frame_queue_bind(room, capacity, 1,
                                 &(struct amqp_queue_bind){.queue = SLICE("flooded"),
                                                           .exchange = SLICE("amq.topic"),
                                                           .routing_key = slice_from(key),
                                                           .arguments = {"", 0}});
}

static size_t
a_heartbeat(uint8_t *room, size_t capacity, uint32_t number)
{
    (void)number;
    (void)capacity;
    amqp_frame_put_header(room, AMQP_FRAME_HEARTBEAT, 0, 0);
    room[AMQP_FRAME_HEADER_SIZE] = AMQP_FRAME_END;
    return AMQP_FRAME_OVERHEAD;
}

/* What has to be there before. */
static void
prepare_queues(struct peer *peer)
{
    char name[32];
    (void)peer;
    struct peer *owner = new_peer();
    for (int i = 0; i < FAN_OUT; i++) {
        snprintf(name, sizeof(name), "fan-%d", i);
        declare(owner, name);
        SAY(owner, queue_bind,
            {.queue = slice_from(name), .exchange = SLICE("amq.fanout"), .arguments = {"", 0}});
        if (i % 100 == 99)
            settle_down();
    }
}

static void
prepare_messages(struct peer *peer)
{
    size_t size = 0;
    for (uint32_t i = 0; i < STOCK; i++) {
        size += a_publish(out + size, sizeof(out) - size, i);
        if (size > FLOOD_SIZE / 2 || i == STOCK - 1) {
            send_bytes(peer, out, size);
            settle_down();
            size = 0;
        }
    }
}

static void
prepare_deliveries(struct peer *peer)
{
    prepare_messages(peer);
    SAY(peer, basic_consume, {.queue = SLICE("flooded"), .arguments = {"", 0}});
    settle_down();
}

static const struct flood {
    const char *name;
    request request;
    uint32_t frames;    /* of a request */
    uint32_t per_look;  /* frames: how often the clock has to be looked at */
    uint32_t count_max; /* requests, 0: as many as there is room for */
    void (*prepare)(struct peer *peer);
} floods[] = {
    {"publish", a_publish, 3, CHEAP_FRAMES_PER_LOOK, 0, NULL},
    {"publish to many queues", a_publish_to_many_queues, 3, 3, 0, prepare_queues},
    {"publish with new keys", a_publish_with_a_new_key, 3, 3, 0, NULL},
    {"get from an empty queue", a_get, 1, COSTLY_FRAMES_PER_LOOK, 0, NULL},
    {"get", a_get, 1, COSTLY_FRAMES_PER_LOOK, STOCK, prepare_messages},
    {"ack", an_ack, 1, CHEAP_FRAMES_PER_LOOK, STOCK, prepare_deliveries},
    {"declare", a_declaration, 1, COSTLY_FRAMES_PER_LOOK, 0, NULL},
    {"declare passively", a_question, 1, COSTLY_FRAMES_PER_LOOK, 0, NULL},
    {"bind", a_binding, 1, COSTLY_FRAMES_PER_LOOK, 0, NULL},
    {"heartbeat", a_heartbeat, 1, CHEAP_FRAMES_PER_LOOK, 0, NULL},
};

/* Sends as much of it as there is room for; how many requests that were. *each: bytes of one. */
static uint32_t
send_flood(struct peer *peer, const struct flood *flood, size_t *each)
{
    uint32_t count = 0;
    size_t size = 0;
    while (size < FLOOD_SIZE && (flood->count_max == 0 || count < flood->count_max)) {
        *each = flood->request(out + size, sizeof(out) - size, count);
        size += *each;
        count++;
    }
    peer->begun_bytes = worked_off(peer);
    send_bytes(peer, out, size);
    return count;
}

static void
ask(struct peer *peer)
{
    SAY(peer, channel_flow, {.active = true});
}

static void
check_answered(const struct peer *peer, uint64_t heard_before, const char *what)
{
    ck_assert_msg(peer->heard_bytes > heard_before,
                  "%s: the other one was not answered in the turn", what);
}

/* --- The tests ---------------------------------------------------------------------------------
 */

START_TEST(beside_a_flood_others_are_answered_in_the_same_turn)
{
    const struct flood *flood = &floods[_i];
    struct peer *flooding = new_peer();
    declare(flooding, "flooded");
    settle_down();
    if (flood->prepare != NULL)
        flood->prepare(flooding);
    struct peer *quiet = new_peer();
    size_t each = 0;
    uint32_t count = send_flood(flooding, flood, &each), done = 0, turns = 0;
    uint32_t most = TURN_LOOKS * flood->per_look / flood->frames + 1;
    ck_assert_uint_gt(count, 5 * most); /* else it is no flood */
    while (done < count) {
        uint64_t heard_before = quiet->heard_bytes;
        ask(quiet);
        turn();
        check_answered(quiet, heard_before, flood->name);
        uint32_t now_done = (uint32_t)((worked_off(flooding) - flooding->begun_bytes) / each);
        ck_assert_msg(now_done - done <= most, "%s: %u requests in one turn, %u are its share",
                      flood->name, now_done - done, most);
        done = now_done;
        ck_assert_msg(++turns < TURNS_MAX, "%s: only %u of %u requests are done", flood->name, done,
                      count);
    }
    ck_assert_int_eq(flooding->connection->state, CONNECTION_OPEN);
}
END_TEST

/* Bytes that the broker had to say to it so far. */
static uint64_t
answered(const struct peer *peer)
{
    return peer->heard_bytes + output_pending(&peer->connection->output);
}

/* Consumers that take whatever they are given of a long queue. */
START_TEST(beside_a_flood_of_deliveries_others_are_answered_in_the_same_turn)
{
    enum { DELIVERIES_MAX = 4096 };
    struct peer *owner = new_peer();
    declare(owner, "flooded");
    settle_down();
    for (int i = 0; i < LONG_QUEUE / STOCK; i++)
        prepare_messages(owner);
    struct peer *greedy = new_peer(), *quiet = new_peer();
    for (int i = 0; i < 100; i++) /* each has a window of its own */
        SAY(greedy, basic_consume,
            {.queue = SLICE("flooded"), .no_ack = true, .no_wait = true, .arguments = {"", 0}});
    uint64_t sent = 0, turns = 0, silent_turns = 0;
    while (silent_turns < 3) {
        uint64_t heard_before = quiet->heard_bytes, got_before = answered(greedy);
        ask(quiet);
        turn();
        check_answered(quiet, heard_before, "deliveries");
        sent = answered(greedy) - got_before;
        ck_assert_uint_lt(sent, (uint64_t)DELIVERIES_MAX * DELIVERY_SIZE);
        silent_turns = sent == 0 ? silent_turns + 1 : 0;
        turns++;
    }
    ck_assert_uint_gt(greedy->heard_bytes, (uint64_t)LONG_QUEUE * 60);
    ck_assert_uint_gt(turns, LONG_QUEUE / DELIVERIES_MAX);
}
END_TEST

static bool
is_anything_left(struct peer *const *flooding)
{
    for (size_t i = 0; i < PEERS_MAX - 1; i++)
        if (flooding[i]->connection->input.size > 0)
            return true;
    return false;
}

START_TEST(beside_many_floods_others_are_answered_in_the_same_turn)
{
    struct peer *flooding[PEERS_MAX - 1];
    size_t each = 0;
    for (size_t i = 0; i < PEERS_MAX - 1; i++)
        flooding[i] = new_peer();
    declare(flooding[0], "flooded");
    settle_down();
    struct peer *quiet = new_peer();
    for (size_t i = 0; i < PEERS_MAX - 1; i++)
        (void)send_flood(flooding[i], &floods[0], &each);
    uint32_t turns = 0;
    do {
        int64_t began_ns = now_ns;
        uint64_t heard_before = quiet->heard_bytes;
        ask(quiet);
        turn();
        check_answered(quiet, heard_before, "many floods");
        ck_assert_int_le(now_ns - began_ns, (int64_t)PEERS_MAX * TURN_LOOKS * LOOK_NS);
        ck_assert_uint_lt(++turns, TURNS_MAX);
    } while (is_anything_left(flooding));
    ck_assert_uint_gt(turns, 5);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("session/fairness");
    TCase *tests = tcase_create("fairness");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 120); /* for a machine that is busy; it takes a second */
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, beside_a_flood_others_are_answered_in_the_same_turn, 0,
                        ARRAY_SIZE(floods));
    tcase_add_test(tests, beside_a_flood_of_deliveries_others_are_answered_in_the_same_turn);
    tcase_add_test(tests, beside_many_floods_others_are_answered_in_the_same_turn);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
