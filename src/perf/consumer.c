/* Consuming: deliveries are parsed where they were received, a whole buffer at a time, and cost a
 * few nanoseconds each. Every message is counted, its number goes into the checksum, and with
 * --latency the time since it was to be sent into the histogram; the clock is read once for all
 * that arrived together, which is when they arrived. */
#include <stdlib.h>

#include "perf/clock.h"
#include "perf/run.h"

enum { ACK_FRAME_SIZE = FRAME_OVERHEAD + 4 + 8 + 1 };

void
consumer_subscribe(struct client *client)
{
    struct run *run = client->run;
    struct wire_buffer *out = &client->connection.out;
    uint64_t queues = run->topology.queues, consumers = run->options->consumers;
    for (uint64_t queue = client->index % queues; queue < queues; queue += consumers) {
        char name[TOPOLOGY_NAME_SIZE];
        topology_queue_name(&run->topology, queue, name);
        wire_method_begin(out, 1, BASIC_CONSUME);
        wire_u16(out, 0);
        wire_short_string(out, name);
        wire_short_string(out, "");
        wire_u8(out, run->options->ack_every == 0 ? 2 : 0); /* no-ack */
        wire_table_end(out, wire_table_begin(out));
        wire_frame_end(out);
        client->consumer.queue_count++;
    }
}

static void
put_ack(struct wire_buffer *out, uint64_t delivery_tag, bool multiple)
{
    static const uint8_t FRAME[ACK_FRAME_SIZE] = {
        FRAME_METHOD, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, [ACK_FRAME_SIZE - 1] = FRAME_END};
    uint8_t *at = wire_extend(out, ACK_FRAME_SIZE);
    memcpy(at, FRAME, ACK_FRAME_SIZE);
    wire_put_u64(at + 11, delivery_tag);
    at[19] = multiple;
}

void
consumer_stop(struct client *client)
{
    if (client->consumer.unacknowledged == 0)
        return;
    put_ack(&client->connection.out, client->consumer.delivery_tag, true);
    client->consumer.unacknowledged = 0;
}

/* What one pass over the input adds up. */
struct tally {
    uint64_t consumed, redelivered, checksum, unstamped;
    uint64_t now;
    bool is_measured; /* the warm-up is over */
};

static int
deliver_method(struct client *client, const uint8_t *arguments, size_t size, struct tally *tally)
{
    /* consumer tag (short string), delivery tag, redelivered; exchange and key are not looked at.
     */
    if (size < 1 || size < (size_t)1 + arguments[0] + 9)
        return connection_fail(&client->connection, "malformed basic.deliver");
    const uint8_t *at = arguments + 1 + arguments[0];
    client->consumer.delivery_tag = wire_get_u64(at);
    tally->redelivered += at[8] & 1;
    client->consumer.expects = EXPECT_HEADER;
    return 0;
}

static void
message_done(struct client *client, struct tally *tally)
{
    struct consumer *consumer = &client->consumer;
    uint64_t ack_every = client->run->options->ack_every;
    consumer->expects = EXPECT_METHOD;
    tally->consumed++;
    if (ack_every && ++consumer->unacknowledged >= ack_every) {
        put_ack(&client->connection.out, consumer->delivery_tag, ack_every > 1);
        consumer->unacknowledged = 0;
    }
}

/* The first bytes of a body: number and time, unless somebody else has published it. */
static void
read_stamp(struct client *client, const uint8_t *body, size_t size, struct tally *tally)
{
    uint64_t number, sent;
    if (size < STAMP_NUMBER_SIZE) {
        tally->unstamped++;
        return;
    }
    memcpy(&number, body, sizeof(number));
    tally->checksum += checksum_part(number);
    if (client->latency && size >= STAMP_SIZE && tally->is_measured) {
        memcpy(&sent, body + STAMP_NUMBER_SIZE, sizeof(sent));
        histogram_record(client->latency, tally->now > sent ? tally->now - sent : 0, 1);
    }
}

static int
header_frame(struct client *client, const uint8_t *payload, size_t size, struct tally *tally)
{
    struct consumer *consumer = &client->consumer;
    if (consumer->expects != EXPECT_HEADER || size < 14)
        return connection_fail(&client->connection, "unexpected content header");
    consumer->body_left = wire_get_u64(payload + 4);
    consumer->expects = EXPECT_FIRST_BODY;
    if (consumer->body_left == 0) {
        tally->unstamped++;
        message_done(client, tally);
    }
    return 0;
}

static int
body_frame(struct client *client, const uint8_t *payload, size_t size, struct tally *tally)
{
    struct consumer *consumer = &client->consumer;
    if (consumer->expects < EXPECT_FIRST_BODY || size > consumer->body_left)
        return connection_fail(&client->connection, "unexpected content body");
    if (consumer->expects == EXPECT_FIRST_BODY)
        read_stamp(client, payload, size, tally);
    consumer->expects = EXPECT_BODY;
    consumer->body_left -= size;
    if (consumer->body_left == 0)
        message_done(client, tally);
    return 0;
}

static int
method_frame(struct client *client, uint16_t channel, const uint8_t *payload, size_t size,
             struct tally *tally)
{
    struct consumer *consumer = &client->consumer;
    if (size < 4)
        return connection_fail(&client->connection, "malformed method");
    uint32_t method = wire_get_u32(payload);
    if (method == BASIC_DELIVER && consumer->expects == EXPECT_METHOD)
        return deliver_method(client, payload + 4, size - 4, tally);
    if (method == BASIC_CONSUME_OK) {
        if (++consumer->subscribed == consumer->queue_count) {
            atomic_fetch_add(&client->run->ready, 1);
            run_notify(client->run);
        }
        return 0;
    }
    struct wire_reader arguments = {.at = payload + 4, .end = payload + size};
    return connection_control(&client->connection, channel, method, arguments);
}

/* All whole frames in the input. */
static int
consumer_parse(struct client *client, struct tally *tally)
{
    struct connection *connection = &client->connection;
    const uint8_t *at = connection->in + connection->in_start;
    const uint8_t *end = connection->in + connection->in_end;
    uint32_t size_max = connection->frame_max - FRAME_OVERHEAD;
    int status = 0;
    while (status == 0 && end - at >= FRAME_OVERHEAD) {
        uint32_t size = wire_get_u32(at + 3);
        if (size > size_max)
            return connection_fail(connection, "the server sent a frame of %u bytes", size);
        if ((size_t)(end - at) < (size_t)size + FRAME_OVERHEAD)
            break;
        const uint8_t *payload = at + FRAME_HEAD_SIZE;
        if (payload[size] != FRAME_END)
            return connection_fail(connection, "the server sent a malformed frame");
        switch (at[0]) {
        case FRAME_METHOD:
            status = method_frame(client, wire_get_u16(at + 1), payload, size, tally);
            break;
        case FRAME_HEADER:
            status = header_frame(client, payload, size, tally);
            break;
        case FRAME_BODY:
            status = body_frame(client, payload, size, tally);
            break;
        case FRAME_HEARTBEAT:
            break;
        default:
            return connection_fail(connection, "the server sent a frame of type %u", at[0]);
        }
        at = payload + size + 1;
    }
    connection->in_start = (size_t)(at - connection->in);
    return status;
}

int
consumer_input(struct client *client, uint64_t now)
{
    struct run *run = client->run;
    struct counters *counters = &client->counters;
    uint64_t measure_from = atomic_load_explicit(&run->measure_from_ns, memory_order_relaxed);
    struct tally tally = {.now = now, .is_measured = now >= measure_from};
    int status = consumer_parse(client, &tally);
    if (tally.consumed == 0)
        return status;
    counter_add(&counters->consumed, tally.consumed);
    counter_add(&counters->checksum, tally.checksum);
    if (tally.redelivered)
        counter_add(&counters->redelivered, tally.redelivered);
    if (tally.unstamped)
        counter_add(&counters->unstamped, tally.unstamped);
    counter_set(&counters->last_consumed_ns, now);
    if (run->options->messages) {
        uint64_t before = atomic_fetch_add(&run->consumed, tally.consumed);
        uint64_t target = atomic_load(&run->target);
        if (before < target && before + tally.consumed >= target)
            run_notify(run);
    }
    return status;
}
