/* Publishing: prepared batches, schedules, and the window of confirms.
 *
 * Message number n of producer p carries ((p + 1) << 40 | n) and, with --latency, the time at which
 * it was to be sent: on a schedule the intended time, whether or not the broker let us keep it, so
 * that a broker that stalls is charged for every message that had to wait (no coordinated
 * omission). Time a message spends here because of a full window or socket counts too. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "perf/clock.h"
#include "perf/run.h"
#include "perf/transport.h"

enum {
    WRITE_SIZE = 65536,  /* of a batch; larger ones fall out of the second-level cache */
    WRITES_PER_STEP = 4, /* then the socket is looked at for input */
    SLOTS_MAX_BYTES = 256 << 20,
    PRODUCER_SHIFT = 40, /* of the producer's number in a message's number */
};

/* A schedule is looked at no more often than this: 20 us of lateness at most, for batches instead
 * of one wake-up per message above 50,000 messages a second. */
static const uint64_t TICK_NS = 20000;

/* --- Encoding the slots ----------------------------------------------------------------------- */

/* One whole message: publish, header, body frames. Returns where in the buffer the body begins. */
static size_t
encode_message(struct wire_buffer *buffer, const struct client *client, const char *key)
{
    const struct options *options = client->run->options;
    wire_method_begin(buffer, 1, BASIC_PUBLISH);
    wire_u16(buffer, 0);
    wire_short_string(buffer, client->run->topology.exchange);
    wire_short_string(buffer, key);
    wire_u8(buffer, 0);
    wire_frame_end(buffer);

    wire_frame_begin(buffer, FRAME_HEADER, 1);
    wire_u16(buffer, 60);
    wire_u16(buffer, 0);
    wire_u64(buffer, options->size);
    wire_u16(buffer, options->persistent ? 0x1000 : 0); /* delivery-mode */
    if (options->persistent)
        wire_u8(buffer, 2);
    wire_frame_end(buffer);

    size_t body = buffer->size + FRAME_HEAD_SIZE;
    size_t chunk_max = client->connection.frame_max - FRAME_OVERHEAD;
    for (size_t done = 0; done < options->size;) {
        size_t chunk = options->size - done < chunk_max ? options->size - done : chunk_max;
        wire_frame_begin(buffer, FRAME_BODY, 1);
        uint8_t *at = wire_extend(buffer, chunk);
        for (size_t i = 0; i < chunk; i++)
            at[i] = (uint8_t)('a' + (done + i) % 26);
        wire_frame_end(buffer);
        done += chunk;
    }
    return body;
}

/* The queues of a client, spread so that all have somebody: with fewer clients of its kind than
 * queues, every so-manieth; else one. */
static uint64_t
queues_of_producer(const struct client *client)
{
    const struct run *run = client->run;
    uint64_t queues = run->topology.queues, producers = run->options->producers;
    /* One key reaches all queues: the rest would be the same message again. */
    if (run->options->routing_key || run->options->fanout || queues <= producers)
        return 1;
    return (queues - client->index + producers - 1) / producers;
}

static int
producer_init_confirms(struct client *client)
{
    struct producer *producer = &client->producer;
    uint64_t window = client->run->options->confirm;
    producer->oldest = 1; /* delivery tags count from 1 */
    if (window == 0)
        return 0;
    /* Twice the window: room for confirms that come out of order. */
    uint64_t capacity = 2;
    while (capacity < 2 * window)
        capacity *= 2;
    producer->ring_mask = capacity - 1;
    producer->sent_at = calloc(capacity, sizeof(*producer->sent_at));
    producer->is_settled = calloc(capacity, sizeof(*producer->is_settled));
    if (!producer->sent_at || !producer->is_settled)
        return connection_fail(&client->connection, "out of memory");

    struct wire_reader reply;
    wire_method_begin(&client->connection.out, 1, CONFIRM_SELECT);
    wire_u8(&client->connection.out, 0);
    wire_frame_end(&client->connection.out);
    return connection_call(&client->connection, CONFIRM_SELECT_OK, &reply);
}

static void
producer_init_schedule(struct client *client)
{
    struct producer *producer = &client->producer;
    const struct options *options = client->run->options;
    if (options->rate > 0) {
        producer->interval_ns = (double)NS_PER_SECOND / options->rate;
        producer->phase_ns = producer->interval_ns * client->index / (double)options->producers;
    }
    producer->limit = UINT64_MAX;
    if (options->messages) {
        uint64_t share = options->messages / options->producers;
        uint64_t rest = options->messages % options->producers;
        producer->limit = share + (client->index < rest);
    }
}

int
producer_init(struct client *client)
{
    struct producer *producer = &client->producer;
    struct run *run = client->run;
    uint64_t keys = queues_of_producer(client);
    struct wire_buffer buffer = {0};

    char key[TOPOLOGY_NAME_SIZE];
    topology_routing_key(&run->topology, client->index % run->topology.queues, key);
    encode_message(&buffer, client, key);
    size_t message_size = buffer.size;
    buffer.size = 0;
    size_t rounds = WRITE_SIZE / message_size / keys + 1;
    if (message_size + 256 > SLOTS_MAX_BYTES / keys) {
        wire_buffer_fini(&buffer);
        return connection_fail(&client->connection,
                               "bodies of %llu bytes for %llu queues each: "
                               "use more producers",
                               (unsigned long long)run->options->size, (unsigned long long)keys);
    }
    producer->slot_count = rounds * keys;
    producer->slot_start = calloc(producer->slot_count + 1, sizeof(size_t));
    producer->slot_body = calloc(producer->slot_count, sizeof(size_t));
    if (!producer->slot_start || !producer->slot_body) {
        wire_buffer_fini(&buffer);
        return connection_fail(&client->connection, "out of memory");
    }
    size_t largest = 0;
    for (size_t i = 0; i < producer->slot_count; i++) {
        uint64_t queue =
            (client->index + i % keys * run->options->producers) % run->topology.queues;
        topology_routing_key(&run->topology, queue, key);
        producer->slot_body[i] = encode_message(&buffer, client, key);
        producer->slot_start[i + 1] = buffer.size;
        size_t size = buffer.size - producer->slot_start[i];
        largest = size > largest ? size : largest;
    }
    producer->slots = buffer.data;
    producer->slots_per_write = WRITE_SIZE / largest ? WRITE_SIZE / largest : 1;
    producer_init_schedule(client);
    return producer_init_confirms(client);
}

void
producer_fini(struct client *client)
{
    struct producer *producer = &client->producer;
    free(producer->slots);
    free(producer->slot_start);
    free(producer->slot_body);
    free(producer->sent_at);
    free(producer->is_settled);
}

/* --- Sending ---------------------------------------------------------------------------------- */

/* When message number n (from 0) is due. */
static uint64_t
intended_time(const struct client *client, uint64_t n)
{
    const struct producer *producer = &client->producer;
    uint64_t start = atomic_load_explicit(&client->run->start_ns, memory_order_relaxed);
    return start + (uint64_t)(producer->phase_ns + (double)n * producer->interval_ns);
}

/* How many messages may be put into the next batch; if none, *again says when to look again. */
static uint64_t
batch_allowance(struct client *client, uint64_t now, uint64_t *again)
{
    struct producer *producer = &client->producer;
    const struct options *options = client->run->options;
    uint64_t allowed = producer->slot_count - producer->cursor;
    if (allowed > producer->slots_per_write)
        allowed = producer->slots_per_write;
    if (allowed > producer->limit - producer->started)
        allowed = producer->limit - producer->started;

    if (options->confirm) {
        uint64_t span = producer->started + 1 - producer->oldest;
        uint64_t by_window = options->confirm - producer->outstanding;
        uint64_t by_ring = producer->ring_mask + 1 - span;
        uint64_t room = by_window < by_ring ? by_window : by_ring;
        allowed = allowed < room ? allowed : room;
    }
    *again = UINT64_MAX;
    if (allowed == 0 || producer->interval_ns <= 0)
        return allowed;

    uint64_t next = intended_time(client, producer->started);
    if (next < producer->last_tick + TICK_NS)
        next = producer->last_tick + TICK_NS;
    if (now < next) {
        *again = next;
        return 0;
    }
    uint64_t due = 1;
    while (due < allowed && intended_time(client, producer->started + due) <= now)
        due++;
    return due;
}

/* Numbers, times and accounts for the next n slots, which become the pending batch. */
static void
batch_prepare(struct client *client, uint64_t n, uint64_t now)
{
    struct producer *producer = &client->producer;
    const struct options *options = client->run->options;
    bool scheduled = producer->interval_ns > 0;
    uint64_t checksum = 0;
    uint64_t number = (uint64_t)(client->index + 1) << PRODUCER_SHIFT | producer->started;
    for (uint64_t i = 0; i < n; i++, number++) {
        uint8_t *body = producer->slots + producer->slot_body[producer->cursor + i];
        uint64_t time = scheduled ? intended_time(client, producer->started + i) : now;
        if (options->size >= STAMP_NUMBER_SIZE) {
            memcpy(body, &number, sizeof(number));
            checksum += checksum_part(number);
        }
        if (options->latency)
            memcpy(body + STAMP_NUMBER_SIZE, &time, sizeof(time));
        if (options->confirm) {
            uint64_t at = (producer->started + i + 1) & producer->ring_mask;
            producer->sent_at[at] = time;
            producer->is_settled[at] = false;
        }
    }
    producer->pending_start = producer->slot_start[producer->cursor];
    producer->pending_end = producer->slot_start[producer->cursor + n];
    producer->pending_messages = n;
    producer->cursor = (producer->cursor + n) % producer->slot_count;
    producer->started += n;
    if (options->confirm)
        producer->outstanding += n;
    counter_add(&client->counters.checksum, checksum);
}

int
producer_finish_batch(struct client *client)
{
    struct producer *producer = &client->producer;
    while (producer->pending_start < producer->pending_end) {
        ssize_t n = transport_send(&client->connection, producer->slots + producer->pending_start,
                                   producer->pending_end - producer->pending_start);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN) {
                client->wants_output = true;
                return 0;
            }
            /* What the server has to say about it stands in the input, if anywhere. */
            int saved = errno;
            if (connection_receive(&client->connection, false) > 0)
                (void)producer_input(client, clock_now());
            return connection_fail(&client->connection, "sending: %s", strerror(saved));
        }
        producer->pending_start += (size_t)n;
    }
    counter_add(&client->counters.published, producer->pending_messages);
    producer->pending_messages = 0;
    return 1;
}

static void
producer_check_finished(struct client *client, uint64_t now)
{
    struct producer *producer = &client->producer;
    if (client->is_finished || producer->started < producer->limit
        || producer->pending_start < producer->pending_end || producer->outstanding > 0)
        return;
    client->is_finished = true;
    if (counter_get(&client->counters.last_published_ns) == 0)
        counter_set(&client->counters.last_published_ns, now);
    atomic_fetch_add(&client->run->producers_finished, 1);
    run_notify(client->run);
}

uint64_t
producer_step(struct client *client, uint64_t now)
{
    struct producer *producer = &client->producer;
    uint64_t again = UINT64_MAX;
    if (client->is_finished)
        return again;
    for (int i = 0; i < WRITES_PER_STEP; i++) {
        if (producer->pending_start < producer->pending_end) {
            if (producer_finish_batch(client) <= 0)
                return UINT64_MAX;
        }
        if (client->connection.is_blocked || client->connection.is_paused)
            return UINT64_MAX;
        if (i > 0)
            now = clock_now();
        uint64_t n = batch_allowance(client, now, &again);
        if (n == 0) {
            if (producer->limit == producer->started) {
                if (counter_get(&client->counters.last_published_ns) == 0)
                    counter_set(&client->counters.last_published_ns, now);
                producer_check_finished(client, now);
            }
            return again;
        }
        producer->last_tick = now;
        batch_prepare(client, n, now);
        if (producer_finish_batch(client) <= 0)
            return UINT64_MAX;
    }
    return 0;
}

void
producer_stop(struct client *client)
{
    struct producer *producer = &client->producer;
    if (producer->blocked_since)
        counter_add(&client->counters.blocked_ns, clock_now() - producer->blocked_since);
    if (producer->pending_start == producer->pending_end)
        return;
    struct wire_buffer *out = &client->connection.out;
    struct wire_buffer later = *out; /* nothing of it is sent: it waited for the batch */
    *out = (struct wire_buffer){0};
    wire_bytes(out, producer->slots + producer->pending_start,
               producer->pending_end - producer->pending_start);
    if (later.size > 0)
        wire_bytes(out, later.data, later.size);
    wire_buffer_fini(&later);
    producer->pending_start = producer->pending_end;
}

/* --- Confirms --------------------------------------------------------------------------------- */

/* Settles one delivery if it is not settled yet. */
static void
settle(struct client *client, uint64_t tag, bool is_nack, uint64_t now)
{
    struct producer *producer = &client->producer;
    uint64_t at = tag & producer->ring_mask;
    if (producer->is_settled[at])
        return;
    producer->is_settled[at] = true;
    producer->outstanding--;
    counter_add(is_nack ? &client->counters.nacked : &client->counters.confirmed, 1);
    if (client->latency
        && now >= atomic_load_explicit(&client->run->measure_from_ns, memory_order_relaxed)) {
        uint64_t sent = producer->sent_at[at];
        histogram_record(client->latency, now > sent ? now - sent : 0, 1);
    }
}

static int
confirm_received(struct client *client, struct wire_reader reader, bool is_nack, uint64_t now)
{
    struct producer *producer = &client->producer;
    uint64_t tag = wire_read_u64(&reader);
    bool multiple = wire_read_u8(&reader) & 1;
    if (tag == 0 && multiple)
        tag = producer->started; /* 0 means all outstanding */
    if (reader.failed || producer->sent_at == NULL || tag == 0 || tag > producer->started)
        return connection_fail(&client->connection,
                               "the server confirmed a message that was not "
                               "published (delivery tag %llu)",
                               (unsigned long long)tag);
    if (multiple) {
        for (uint64_t t = producer->oldest; t <= tag; t++)
            settle(client, t, is_nack, now);
    } else if (tag >= producer->oldest) {
        settle(client, tag, is_nack, now);
    }
    while (producer->oldest <= producer->started
           && producer->is_settled[producer->oldest & producer->ring_mask])
        producer->oldest++;
    counter_set(&client->counters.last_confirmed_ns, now);
    producer_check_finished(client, now);
    return 0;
}

static void
track_blocked(struct client *client, uint64_t now)
{
    struct producer *producer = &client->producer;
    if (client->connection.is_blocked && producer->blocked_since == 0) {
        producer->blocked_since = now;
    } else if (!client->connection.is_blocked && producer->blocked_since != 0) {
        counter_add(&client->counters.blocked_ns, now - producer->blocked_since);
        producer->blocked_since = 0;
    }
}

int
producer_input(struct client *client, uint64_t now)
{
    struct frame frame;
    int status;
    while ((status = connection_next_frame(&client->connection, &frame)) == 1) {
        if (frame.type != FRAME_METHOD)
            continue; /* heartbeats, and the content of a basic.return */
        struct wire_reader reader = {.at = frame.payload, .end = frame.payload + frame.size};
        uint32_t method = wire_read_u32(&reader);
        if (method == BASIC_ACK || method == BASIC_NACK)
            status = confirm_received(client, reader, method == BASIC_NACK, now);
        else if (method == BASIC_RETURN)
            counter_add(&client->counters.returned, 1);
        else
            status = connection_control(&client->connection, frame.channel, method, reader);
        if (status < 0)
            return -1;
    }
    track_blocked(client, now);
    return status;
}
