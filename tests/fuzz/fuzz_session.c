/* A client's connection: whatever it sends after it has logged in, the broker answers or closes,
 * and when the client has gone nothing of it is left. Inputs that begin with a 0 are those of a
 * stranger, who does not know the password and never comes in.
 *
 * The input is a list of frames in short: type, channel, two octets of size, payload. Most bytes so
 * reach the methods and the content behind the framing, which fuzz_frame looks at. A type above 127
 * instead lets time pass, so that timers fire. */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/log.h"
#include "fuzz.h"
#include "session/channel.h"

/* --- Logins, in place of the library's: at once, and without what makes guessing slow ------------
 */

struct login_service {
    struct failures failures;
};

struct login_service *
login_service_new(struct access *access)
{
    (void)access;
    struct login_service *service = calloc(1, sizeof(*service));
    if (service != NULL)
        failures_init(&service->failures);
    return service;
}

void
login_service_free(struct login_service *service)
{
    failures_fini(&service->failures);
    free(service);
}

bool
login_submit(struct login_service *service, struct login_job *job)
{
    (void)service;
    job->is_right =
        job->user != NULL && password_is_right(job->password, access_user_hash(job->user));
    job->done(job);
    return true;
}

bool
login_cancel(struct login_service *service, struct login_job *job)
{
    (void)service;
    (void)job;
    return false; /* its answer is on its way already */
}

struct failures *
login_failures(struct login_service *service)
{
    return &service->failures;
}

/* --- The world -------------------------------------------------------------------------------- */

enum { CHANNELS = 3, OUT_SIZE = 256 * 1024, TURNS_MAX = 10000 };

struct world {
    struct broker *broker;
    struct loop loop;
    struct admission admission;
    struct session_host host;
    struct access *access;
    struct login_service *logins;
    int64_t now_ms;
    int client;
};

/* What no input can say. */
static struct slice
secret(void)
{
    static char bytes[32];
    for (size_t i = 0; bytes[0] == 0 && i < sizeof(bytes); i++) {
        random_bytes(&bytes[i], 1);
        bytes[i] = (char)('a' + (bytes[i] & 15));
    }
    return (struct slice){bytes, sizeof(bytes)};
}

/* The user guest, and one who has no password and so cannot log in with any. */
static void
make_users(struct world *world)
{
    const struct slice guest = SLICE("guest");
    const struct access_expressions everything = {
        .vhost = SLICE("/"),
        .exchange = SLICE(""),
        .texts = {SLICE(".*"), SLICE(".*"), SLICE(".*")},
    };
    char hash[PASSWORD_HASH_MAX], error[ACCESS_ERROR_MAX];
    world->access = access_new();
    FUZZ_REQUIRE(world->access != NULL);
    FUZZ_REQUIRE(password_hash(PASSWORD_SHA256, secret(), hash) == 0);
    FUZZ_REQUIRE(access_user_set(world->access, guest, slice_from(hash), SLICE(""), error) == 0);
    FUZZ_REQUIRE(access_permissions_set(world->access, guest, &everything, error) == 0);
    FUZZ_REQUIRE(access_user_set(world->access, SLICE("nopw"), SLICE(""), SLICE(""), error) == 0);
    FUZZ_REQUIRE(access_permissions_set(world->access, SLICE("nopw"), &everything, error) == 0);
    world->logins = login_service_new(world->access);
    FUZZ_REQUIRE(world->logins != NULL);
}

static void
set_time(struct world *world, int64_t passed_ms)
{
    world->now_ms += passed_ms;
    shard_set_time(world->broker->shards[0], world->now_ms, 1700000000000 + world->now_ms);
}

static void
no_wake(void *context)
{
    (void)context;
}

/* What the broker sent is thrown away, so that it can go on sending. */
static void
drain_client(struct world *world)
{
    static char sink[64 * 1024];
    while (world->client >= 0 && read(world->client, sink, sizeof(sink)) > 0)
        continue;
}

/* Turns until there is nothing to do. */
static void
turn(struct world *world)
{
    struct shard *shard = world->broker->shards[0];
    for (int turns = 0; turns < TURNS_MAX; turns++) {
        session_host_login(&world->host);
        bool has_more = shard_run(shard);
        has_more |= session_host_flush(&world->host);
        session_host_submit(&world->host);
        shard_flush(shard);
        int events = loop_wait(&world->loop, 0);
        FUZZ_REQUIRE(events >= 0);
        drain_client(world);
        if (events == 0 && !has_more)
            return;
    }
}

static void
begin(struct world *world)
{
    static const struct session_limits limits = {
        .frame_max = 131072,
        .channel_max = CHANNELS,
        .heartbeat_s = 60,
        .handshake_ms = 10000,
        .message_size_max = 1 << 20,
        .header_size_max = 1 << 20,
        .header_depth_max = 128,
        .consumer_timeout_ms = 60000,
        .consumers_per_channel = 8,
        .unsettled_per_channel = 100,
    };
    int ends[2];
    *world = (struct world){.now_ms = 1000};
    world->broker = broker_new(1);
    FUZZ_REQUIRE(world->broker != NULL);
    FUZZ_REQUIRE(catalogue_vhost_add(world->broker->catalogue, SLICE("/")) == 0);
    make_users(world);
    FUZZ_REQUIRE(loop_init(&world->loop, NULL, NULL) == 0);
    admission_init(&world->admission);
    FUZZ_REQUIRE(session_host_init(&world->host, world->broker->shards[0], &world->loop, &limits,
                                   &world->admission, world->access, world->logins)
                 == 0);
    shard_set_host(world->broker->shards[0], (struct client_ops){.receive = channel_receive},
                   no_wake, NULL);
    set_time(world, 0);
    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    world->client = ends[1];
    const struct address peer = {.storage.ss_family = AF_UNIX, .size = sizeof(sa_family_t)};
    session_accept(&world->host, ends[0], &peer, NULL);
}

static void
end(struct world *world)
{
    if (world->client >= 0)
        close(world->client);
    world->client = -1;
    turn(world);
    FUZZ_REQUIRE(world->host.connection_count == 0);
    login_service_free(world->logins);
    session_host_fini(&world->host);
    access_free(world->access);
    admission_fini(&world->admission);
    broker_free(world->broker);
    loop_fini(&world->loop);
}

/* The broker may have closed the connection meanwhile: then it is as if the client spoke on. */
static void
say(struct world *world, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(world->client, data, size, MSG_NOSIGNAL);
        turn(world);
        if (sent <= 0)
            return;
        data += sent;
        size -= (size_t)sent;
    }
}

static size_t
log_in(uint8_t *out, size_t capacity)
{
    char response[64] = "\0guest";
    memcpy(response + 7, secret().data, secret().size);
    const struct amqp_connection_start_ok start_ok = {.mechanism = SLICE("PLAIN"),
                                                      .response = {response, 7 + secret().size},
                                                      .locale = SLICE("en_US")};
    const struct amqp_connection_tune_ok tune_ok = {.channel_max = CHANNELS, .frame_max = 131072};
    const struct amqp_connection_open open = {.virtual_host = SLICE("/")};
    const struct amqp_channel_open channel_open = {.out_of_band = {"", 0}};
    size_t size = AMQP_PROTOCOL_HEADER_SIZE;
    memcpy(out, amqp_protocol_header_0_9_1, size);
    size += amqp_frame_connection_start_ok(out + size, capacity - size, 0, &start_ok);
    size += amqp_frame_connection_tune_ok(out + size, capacity - size, 0, &tune_ok);
    size += amqp_frame_connection_open(out + size, capacity - size, 0, &open);
    size += amqp_frame_channel_open(out + size, capacity - size, 1, &channel_open);
    return size;
}

/* Nobody is anybody, and nothing was made. */
static void
check_stranger(struct world *world)
{
    LIST_FOR_EACH (node, &world->host.connections) {
        const struct connection *connection = LIST_ENTRY(node, struct connection, link);
        FUZZ_REQUIRE(connection->user == NULL && connection->vhost == NULL);
        FUZZ_REQUIRE(connection->channel_count == 0);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t frame[65536 + AMQP_FRAME_OVERHEAD];
    struct world world;
    bool is_stranger = size > 0 && data[0] == 0;
    log_set_level(LOG_LEVEL_ERROR);
    begin(&world);
    if (is_stranger) {
        data++;
        size--;
        say(&world, (const uint8_t *)amqp_protocol_header_0_9_1, AMQP_PROTOCOL_HEADER_SIZE);
    } else {
        say(&world, frame, log_in(frame, sizeof(frame)));
    }
    while (size >= 4) {
        size_t payload = (size_t)data[2] << 8 | data[3];
        if (payload > size - 4)
            payload = size - 4;
        if (data[0] > 127) {
            set_time(&world, (int64_t)data[1] * 100);
            turn(&world);
        } else {
            amqp_frame_put_header(frame, data[0], data[1], (uint32_t)payload);
            memcpy(frame + AMQP_FRAME_HEADER_SIZE, data + 4, payload);
            frame[AMQP_FRAME_HEADER_SIZE + payload] = AMQP_FRAME_END;
            say(&world, frame, payload + AMQP_FRAME_OVERHEAD);
        }
        data += 4 + payload;
        size -= 4 + payload;
        if (is_stranger)
            check_stranger(&world);
    }
    end(&world);
    return 0;
}

/* --- Seeds ------------------------------------------------------------------------------------ */

/* Frames in the short form. */
struct story {
    uint8_t *out;
    size_t size, capacity;
};

static void
tell(struct story *story, const uint8_t *frame, size_t size)
{
    FUZZ_REQUIRE(size >= AMQP_FRAME_OVERHEAD && story->capacity - story->size > size);
    size_t payload = size - AMQP_FRAME_OVERHEAD;
    const uint8_t head[] = {frame[0], frame[2], (uint8_t)(payload >> 8), (uint8_t)payload};
    memcpy(story->out + story->size, head, sizeof(head));
    memcpy(story->out + story->size + 4, frame + AMQP_FRAME_HEADER_SIZE, payload);
    story->size += 4 + payload;
}

#define TELL(class_method, ...)                                                                    \
    do {                                                                                           \
        uint8_t told_frame[2048];                                                                  \
        const struct amqp_##class_method told_method = __VA_ARGS__;                                \
        tell(story, told_frame,                                                                    \
             amqp_frame_##class_method(told_frame, sizeof(told_frame), 1, &told_method));          \
    } while (0)

static void
tell_message(struct story *story, struct slice exchange, struct slice routing_key)
{
    uint8_t frame[256];
    TELL(basic_publish, {.exchange = exchange, .routing_key = routing_key, .mandatory = true});
    /* Headers, delivery mode, expiration. */
    const struct amqp_content_header header = {
        .class_id = 60,
        .body_size = 4,
        .properties = SLICE("\x31\x00\0\0\0\x0e\002CCA\0\0\0\006S\0\0\0\001q\002\003900")};
    tell(story, frame, amqp_frame_content_header(frame, sizeof(frame), 1, &header));
    amqp_frame_put_header(frame, AMQP_FRAME_BODY, 1, 4);
    memcpy(frame + AMQP_FRAME_HEADER_SIZE, "body\xce", 5);
    tell(story, frame, AMQP_FRAME_OVERHEAD + 4);
}

static void
tell_queue(struct story *story)
{
    TELL(queue_declare, {.queue = SLICE("q"),
                         .auto_delete = true,
                         .arguments = SLICE("\x16x-dead-letter-exchangeS\0\0\0\0"
                                            "\x19x-dead-letter-routing-keyS\0\0\0\001d"
                                            "\x0dx-message-ttlI\0\0\x03\xe8"
                                            "\x0ex-max-priorityb\003")});
    TELL(queue_declare, {.queue = SLICE("d"), .exclusive = true});
    TELL(exchange_declare, {.exchange = SLICE("e"), .type = SLICE("topic"), .auto_delete = true});
    TELL(queue_bind, {.queue = SLICE("q"), .exchange = SLICE("e"), .routing_key = SLICE("a.#")});
}

static void
tell_settling(struct story *story)
{
    TELL(basic_qos, {.prefetch_count = 2});
    TELL(basic_consume, {.queue = SLICE("q"), .consumer_tag = SLICE("c")});
    TELL(basic_ack, {.delivery_tag = 1});
    TELL(basic_nack, {.delivery_tag = 2, .multiple = true, .requeue = true});
    TELL(basic_reject, {.delivery_tag = 3});
    TELL(basic_recover, {.requeue = true});
    TELL(basic_cancel, {.consumer_tag = SLICE("c")});
    TELL(basic_get, {.queue = SLICE("q"), .no_ack = true});
}

/* TELL for channel 0. */
#define TELL_CONNECTION(class_method, ...)                                                         \
    do {                                                                                           \
        uint8_t told_frame[2048];                                                                  \
        const struct amqp_##class_method told_method = __VA_ARGS__;                                \
        tell(story, told_frame,                                                                    \
             amqp_frame_##class_method(told_frame, sizeof(told_frame), 0, &told_method));          \
    } while (0)

/* What a stranger tries. */
static size_t
tell_as_stranger(struct story *story, unsigned number)
{
    static const struct amqp_connection_start_ok logins[] = {
        {.mechanism = SLICE("PLAIN"), .response = SLICE("\0guest\0guest")},
        {.mechanism = SLICE("PLAIN"), .response = SLICE("\0nopw\0")},
        {.mechanism = SLICE("AMQPLAIN"),
         .response = SLICE("\5LOGINS\0\0\0\4nopw\x08PASSWORDS\0\0\0\0")},
        {.mechanism = SLICE("EXTERNAL"), .response = SLICE("guest")},
    };
    story->out[story->size++] = 0;
    if (number < ARRAY_SIZE(logins))
        TELL_CONNECTION(connection_start_ok, logins[number]);
    if (number <= ARRAY_SIZE(logins)) {
        TELL_CONNECTION(connection_tune_ok, {.channel_max = CHANNELS, .frame_max = 131072});
        TELL_CONNECTION(connection_open, {.virtual_host = SLICE("/")});
    }
    TELL(channel_open, {.out_of_band = {"", 0}});
    tell_queue(story);
    return number <= ARRAY_SIZE(logins) + 1 ? story->size : 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    struct story told = {.out = out, .capacity = capacity}, *story = &told;
    if (number > 3)
        return tell_as_stranger(story, number - 4);
    if (number == 1)
        TELL(confirm_select, {.no_wait = false});
    if (number == 2)
        TELL(tx_select, {.no_fields = 0});
    tell_queue(story);
    for (int i = 0; i < 4; i++)
        tell_message(story, i % 2 == 0 ? SLICE("e") : SLICE(""), i < 2 ? SLICE("a.b") : SLICE("q"));
    if (number == 2)
        TELL(tx_commit, {.no_fields = 0});
    tell_settling(story);
    const uint8_t pause[] = {0xff, 20, 0, 0}; /* two seconds */
    memcpy(out + told.size, pause, sizeof(pause));
    told.size += sizeof(pause);
    if (number == 3)
        TELL(queue_delete, {.queue = SLICE("q"), .if_unused = true});
    TELL(channel_close, {.reply_code = 200, .reply_text = SLICE("bye")});
    return told.size;
}
