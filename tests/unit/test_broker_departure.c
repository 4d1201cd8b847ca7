/* Messages that leave a queue for somewhere else: dead letters and what is written on them, and
 * delayed messages. */
#include <stdio.h>

#include "base/memory.h"
#include "broker/exchange.h"
#include "test_broker_support.h"

static struct shard *shard;
static struct test_client client;

static void
set_up(void)
{
    broker_up(2, client_receive);
    shard = test_broker->shards[0];
    client_init(&client, shard);
}

static void
tear_down(void)
{
    client_fini(&client);
    broker_down();
}

struct arguments {
    const char *dead_letters_to; /* a queue, by the default exchange */
    const char *dead_letter_exchange;
    int64_t ttl_ms, max_length;
    const char *overflow;
};

static struct queue_record *
declare_on(struct shard *where, const char *name, const struct arguments *wanted)
{
    struct queue_wish wish = {.name = name, .has_arguments = true};
    struct amqp_table_builder *arguments = &wish.arguments;
    amqp_table_builder_init(arguments);
    if (wanted->dead_letters_to != NULL || wanted->dead_letter_exchange != NULL)
        amqp_table_builder_put_string(
            arguments, SLICE("x-dead-letter-exchange"),
            slice_from(wanted->dead_letter_exchange == NULL ? "" : wanted->dead_letter_exchange));
    if (wanted->dead_letters_to != NULL)
        amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-routing-key"),
                                      slice_from(wanted->dead_letters_to));
    if (wanted->ttl_ms != 0)
        amqp_table_builder_put_int64(arguments, SLICE("x-message-ttl"), wanted->ttl_ms);
    if (wanted->max_length != 0)
        amqp_table_builder_put_int64(arguments, SLICE("x-max-length"), wanted->max_length);
    if (wanted->overflow != NULL)
        amqp_table_builder_put_string(arguments, SLICE("x-overflow"), slice_from(wanted->overflow));
    return declare_queue(where, &wish);
}

static struct queue_record *
declare(const char *name, const struct arguments *wanted)
{
    return declare_on(shard, name, wanted);
}

static void
send_to_many(const char *exchange, const char *key, uint64_t uid, int64_t delay_ms, int queues)
{
    uint32_t answers;
    struct message_wish wish = {.uid = uid,
                                .exchange = exchange,
                                .routing_key = key,
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = -1,
                                .delay_ms = delay_ms};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), queues);
    settle_down();
}

static void
send(const char *exchange, const char *key, uint64_t uid, int64_t expiration_ms, int64_t delay_ms)
{
    uint32_t answers;
    struct message_wish wish = {.uid = uid,
                                .exchange = exchange,
                                .routing_key = key,
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = expiration_ms,
                                .delay_ms = delay_ms};
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
    settle_down();
}

static void
pass(int64_t ms)
{
    set_clock(clock_now() + ms);
    settle_down();
}

static const struct seen_delivery *
get(const struct queue_record *queue)
{
    size_t before = client.count;
    send_plain(shard, MAIL_GET, queue->queue, client.ref, 0);
    settle_down();
    ck_assert_uint_eq(client.count, before + 1);
    return &client.seen[before];
}

/* The n-th death on it is that of this queue, for that reason, so many times. */
static void
check_death(const struct message *message, size_t n, const char *queue, const char *reason,
            int64_t count)
{
    struct amqp_value deaths, death, value;
    ck_assert(amqp_table_find(message_headers(message), SLICE("x-death"), &deaths));
    struct amqp_table_iterator at = amqp_table_begin(deaths.bytes);
    for (size_t i = 0; i <= n; i++)
        ck_assert_int_eq(amqp_array_next(&at, &death), 1);
    ck_assert(amqp_table_find(death.bytes, SLICE("queue"), &value));
    ck_assert(slice_is(value.bytes, queue));
    ck_assert(amqp_table_find(death.bytes, SLICE("reason"), &value));
    ck_assert(slice_is(value.bytes, reason));
    ck_assert(amqp_table_find(death.bytes, SLICE("count"), &value));
    ck_assert_int_eq(value.integer, count);
}

START_TEST(a_rejected_message_goes_on_with_its_death_written_on_it)
{
    struct queue_record *queue = declare("q", &(struct arguments){.dead_letters_to = "dead"});
    struct queue_record *dead = declare("dead", &(struct arguments){0});
    send("", "q", 7, -1, 0);
    client_settle(&client, get(queue), SETTLE_REJECTED);
    const struct seen_delivery *delivery = get(dead);
    ck_assert_uint_eq(delivery->uid, 7);
    ck_assert(!delivery->is_redelivered);
    check_death(delivery->message, 0, "q", "rejected", 1);
    ck_assert(slice_is(message_routing_key(delivery->message), "dead"));
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert_uint_eq(journal_holds(&test_journal, dead->id), 1);
}
END_TEST

START_TEST(an_expired_message_does_not_expire_again)
{
    declare("q", &(struct arguments){.dead_letters_to = "dead"});
    struct queue_record *dead = declare("dead", &(struct arguments){0});
    send("", "q", 7, 10, 0);
    pass(10);
    pass(10000);
    const struct message *message = get(dead)->message;
    struct amqp_properties properties;
    struct amqp_value deaths, death, value;
    ck_assert(amqp_properties_decode(message_properties(message), &properties));
    ck_assert_uint_eq(properties.flags & AMQP_HAS_EXPIRATION, 0);
    check_death(message, 0, "q", "expired", 1);
    ck_assert(amqp_table_find(properties.headers, SLICE("x-death"), &deaths));
    struct amqp_table_iterator at = amqp_table_begin(deaths.bytes);
    ck_assert_int_eq(amqp_array_next(&at, &death), 1);
    ck_assert(amqp_table_find(death.bytes, SLICE("original-expiration"), &value));
    ck_assert(slice_is(value.bytes, "10"));
}
END_TEST

START_TEST(deaths_of_a_chain_are_written_the_latest_first)
{
    struct queue_record *a = declare("a", &(struct arguments){.dead_letters_to = "b"});
    declare("b", &(struct arguments){.dead_letters_to = "c", .ttl_ms = 10});
    struct queue_record *c = declare("c", &(struct arguments){0});
    send("", "a", 1, -1, 0);
    client_settle(&client, get(a), SETTLE_REJECTED);
    pass(10);
    const struct message *message = get(c)->message;
    check_death(message, 0, "b", "expired", 1);
    check_death(message, 1, "a", "rejected", 1);
}
END_TEST

START_TEST(dying_again_for_the_same_reason_counts)
{
    struct queue_record *work = declare("work", &(struct arguments){.dead_letters_to = "wait"});
    declare("wait", &(struct arguments){.dead_letters_to = "work", .ttl_ms = 10});
    send("", "work", 1, -1, 0);
    for (int64_t i = 1; i <= 5; i++) {
        client_settle(&client, get(work), SETTLE_REJECTED);
        pass(10);
    }
    const struct message *message = get(work)->message;
    check_death(message, 0, "wait", "expired", 5);
    check_death(message, 1, "work", "rejected", 5);
}
END_TEST

START_TEST(a_message_that_only_expires_in_a_circle_ends)
{
    struct queue_record *a =
        declare("a", &(struct arguments){.dead_letters_to = "b", .ttl_ms = 10});
    struct queue_record *b =
        declare("b", &(struct arguments){.dead_letters_to = "a", .ttl_ms = 10});
    send("", "a", 1, -1, 0);
    pass(10);
    ck_assert_uint_eq(b->ready, 1);
    pass(10);
    ck_assert_uint_eq(a->ready + b->ready, 0);
    ck_assert_uint_eq(journal_holds(&test_journal, a->id), 0);
    ck_assert_uint_eq(journal_holds(&test_journal, b->id), 0);
}
END_TEST

static const char *const refusing[] = {"reject-publish", "reject-publish-dlx"};

/* On the same shard, and on another that answers by mail; a queue that would dead-letter what it
 * refuses, but has no route for it, is no different. */
START_TEST(a_dead_letter_that_is_refused_waits_and_goes_when_there_is_room)
{
    struct queue_record *queue = declare("q", &(struct arguments){.dead_letters_to = "full"});
    struct queue_record *full =
        declare_on(test_broker->shards[_i % 2], "full",
                   &(struct arguments){.max_length = 1, .overflow = refusing[_i / 2]});
    send("", "full", 1, -1, 0);
    send("", "q", 2, -1, 0);
    client_settle(&client, get(queue), SETTLE_REJECTED);
    pass(5000);
    ck_assert_uint_eq(full->ready, 1);
    ck_assert_uint_eq(journal_holds(&test_journal, full->id), 1);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 1); /* it is not lost meanwhile */
    client_settle(&client, get(full), SETTLE_ACKNOWLEDGED);
    pass(1000);
    ck_assert_uint_eq(get(full)->uid, 2);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
}
END_TEST

/* Settles it, and wants to hear when that is done. */
static void
settle_asking(const struct seen_delivery *delivery, enum settle_outcome outcome)
{
    struct mail mail = {
        .type = MAIL_SETTLE,
        .flag = true,
        .result = (uint8_t)outcome,
        .to = delivery->queue,
        .from = client.ref,
        .settle = {.tag = delivery->tag, .count = 1, .subscription = delivery->subscription},
    };
    shard_send(shard, &mail);
}

START_TEST(a_settlement_that_asks_is_answered_when_the_journal_has_it)
{
    struct queue_record *queue = declare_on(test_broker->shards[_i], "q", &(struct arguments){0});
    send("", "q", 1, -1, 0);
    settle_asking(get(queue), SETTLE_REQUEUED);
    settle_down();
    ck_assert_uint_eq(client.accepted, 1);
    ck_assert_uint_eq(client.written, 1); /* that it came back */
    const struct seen_delivery *delivery = get(queue);
    settle_asking(delivery, SETTLE_ACKNOWLEDGED);
    settle_down();
    ck_assert_uint_eq(client.written, 2);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    settle_asking(delivery, SETTLE_ACKNOWLEDGED); /* once more: there is nothing to do */
    settle_down();
    ck_assert_uint_eq(client.accepted, 3);
    ck_assert_uint_eq(client.written, 2);
}
END_TEST

START_TEST(a_reject_that_asks_is_answered_when_the_dead_letter_has_gone_on)
{
    struct queue_record *queue =
        declare_on(test_broker->shards[_i], "q", &(struct arguments){.dead_letters_to = "dead"});
    struct queue_record *dead = declare("dead", &(struct arguments){0});
    send("", "q", 1, -1, 0);
    settle_asking(get(queue), SETTLE_REJECTED);
    ck_assert_uint_eq(client.accepted, 0);
    settle_down();
    ck_assert_uint_eq(client.accepted, 1);
    ck_assert_uint_eq(client.written, 1);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert_uint_eq(journal_holds(&test_journal, dead->id), 1);
}
END_TEST

/* A queue whose messages will have died when so many milliseconds have passed; where they go to has
 * room for one message, and has it. */
enum { HELD = 100, HELD_SIZE = 100 * 1024, LIVES_MS = 100 };

static struct queue_record *
queue_before_a_full_one(bool persistent, struct queue_record **full)
{
    struct queue_record *queue = declare("q", &(struct arguments){.dead_letters_to = "full"});
    *full = declare_on(test_broker->shards[1], "full",
                       &(struct arguments){.max_length = 1, .overflow = "reject-publish"});
    send("", "full", 1000, -1, 0);
    for (uint64_t uid = 1; uid <= HELD; uid++) {
        struct message_wish wish = {.uid = uid,
                                    .exchange = "",
                                    .routing_key = "q",
                                    .body_size = HELD_SIZE,
                                    .persistent = persistent,
                                    .priority = -1,
                                    .expiration_ms = LIVES_MS};
        uint32_t answers;
        ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, uid, &answers), 1);
    }
    return queue;
}

/* There may be very many, for as long as nobody looks after the queue of dead letters. */
START_TEST(dead_letters_that_wait_are_not_in_memory)
{
    struct queue_record *full;
    struct queue_record *queue = queue_before_a_full_one(_i == 0, &full);
    uint64_t before = memory_held();
    if (_i == 1)
        shard->memory_share = 0; /* transient ones are written when it is scarce */
    pass(LIVES_MS);
    ck_assert_uint_eq(shard->held, HELD);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), HELD);
    ck_assert_uint_eq(atomic_load(&shard->queued_bytes), 0);
    if (_i == 0) /* the journal of the test has its own copies in memory */
        ck_assert_uint_lt(memory_held(), before - (uint64_t)(HELD * HELD_SIZE) * 9 / 10);
}
END_TEST

START_TEST(dead_letters_that_wait_in_memory_count)
{
    struct queue_record *full;
    (void)queue_before_a_full_one(false, &full);
    pass(LIVES_MS);
    ck_assert_uint_gt(atomic_load(&shard->queued_bytes), (uint64_t)(HELD * HELD_SIZE));
    client_settle(&client, get(full), SETTLE_ACKNOWLEDGED);
    queue_delete(queue_of(full));
    for (int rounds = 0; shard->held > 0; rounds++) {
        ck_assert_int_lt(rounds, HELD);
        pass(1000);
    }
    ck_assert_uint_eq(atomic_load(&shard->queued_bytes), 0);
}
END_TEST

/* However many wait, only some are read to see whether there is room now. When there is, all
 * follow.
 */
START_TEST(dead_letters_that_wait_are_tried_a_few_at_a_time)
{
    struct queue_record *full;
    struct queue_record *queue = queue_before_a_full_one(true, &full);
    pass(LIVES_MS);
    size_t reads = test_journal.reads;
    pass(1000);
    ck_assert_uint_gt(test_journal.reads, reads);
    ck_assert_uint_lt(test_journal.reads, reads + HELD / 4);
    ck_assert_uint_eq(shard->held, HELD);
    queue_delete(queue_of(full));
    settle_down();
    struct queue_record *wide = declare("full", &(struct arguments){0});
    pass(1000);
    ck_assert_uint_eq(wide->ready, HELD);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert(departures_are_over(shard));
}
END_TEST

/* Also where messages that came through different exchanges go different ways in turn. */
START_TEST(dead_letters_that_wait_are_tried_a_few_of_each_route)
{
    static const char *const exchanges[] = {"e1", "e2"}, *const dead[] = {"full1", "full2"};
    struct arguments one = {.max_length = 1, .overflow = "reject-publish"};
    struct queue_record *queue = declare("q", &(struct arguments){0});
    for (int i = 0; i < 2; i++) {
        struct amqp_table_builder arguments;
        amqp_table_builder_init(&arguments);
        amqp_table_builder_put_string(&arguments, SLICE("x-dead-letter-exchange"), SLICE(""));
        amqp_table_builder_put_string(&arguments, SLICE("x-dead-letter-routing-key"),
                                      slice_from(dead[i]));
        declare_exchange(exchanges[i], "fanout", amqp_table_builder_finish(&arguments));
        amqp_table_builder_free(&arguments);
        bind_queue(exchanges[i], "q", "", (struct slice){"", 0});
        (void)declare(dead[i], &one);
        send("", dead[i], 1000, -1, 0);
    }
    for (uint64_t uid = 1; uid <= HELD; uid++)
        send(exchanges[uid % 2], "", uid, LIVES_MS, 0);
    pass(LIVES_MS);
    ck_assert_uint_eq(shard->held, HELD);
    for (int seconds = 0; seconds < 3; seconds++) {
        size_t reads = test_journal.reads;
        pass(1000);
        ck_assert_uint_gt(test_journal.reads, reads);
        ck_assert_uint_lt(test_journal.reads, reads + HELD / 2);
    }
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), HELD);
}
END_TEST

/* However many queues they are of. */
START_TEST(dead_letters_of_very_many_queues_are_tried_a_few_at_a_time)
{
    enum { MANY = 5000, TRIED_IN_A_SECOND = 2048 };
    struct queue_record *full = NULL;
    for (uint64_t uid = 1; uid <= MANY; uid++) {
        char name[16];
        snprintf(name, sizeof(name), "q%d", (int)uid);
        (void)declare(name, &(struct arguments){.dead_letters_to = "full"});
        if (full == NULL) {
            full =
                declare("full", &(struct arguments){.max_length = 1, .overflow = "reject-publish"});
            send("", "full", MANY + 1, -1, 0);
        }
        send("", name, uid, LIVES_MS, 0);
    }
    pass(LIVES_MS);
    ck_assert_uint_eq(shard->held, MANY);
    for (int seconds = 0; seconds < 10; seconds++) {
        size_t reads = test_journal.reads;
        pass(1000);
        ck_assert_uint_gt(test_journal.reads, reads);
        ck_assert_uint_le(test_journal.reads - reads, TRIED_IN_A_SECOND * 3 / 2);
    }
    ck_assert_uint_eq(shard->held, MANY);
    queue_delete(queue_of(full));
    settle_down();
    struct queue_record *wide = declare("full", &(struct arguments){0});
    for (int seconds = 0; wide->ready < MANY; seconds++) {
        ck_assert_int_lt(seconds, 10);
        pass(1000);
    }
    pass(10000);
    ck_assert_uint_eq(shard->lines_held, 0);
}
END_TEST

/* Those of one queue may go to different ones. */
START_TEST(a_dead_letter_that_waits_gets_its_turn_behind_others_that_are_refused)
{
    struct queue_record *queue =
        declare("q", &(struct arguments){.dead_letter_exchange = "amq.direct"});
    struct arguments one = {.max_length = 1, .overflow = "reject-publish"};
    struct queue_record *full = declare("full", &one), *other = declare("other", &one);
    declare_exchange("e", "direct", (struct slice){"", 0});
    bind_queue("e", "q", "full", (struct slice){"", 0});
    bind_queue("e", "q", "other", (struct slice){"", 0});
    bind_queue("amq.direct", "full", "full", (struct slice){"", 0});
    bind_queue("amq.direct", "other", "other", (struct slice){"", 0});
    send("", "full", 1000, -1, 0);
    send("", "other", 1001, -1, 0);
    for (uint64_t uid = 1; uid <= HELD; uid++)
        send("e", uid == HELD / 2 ? "other" : "full", uid, LIVES_MS, 0);
    pass(LIVES_MS);
    ck_assert_uint_eq(shard->held, HELD);
    client_settle(&client, get(other), SETTLE_ACKNOWLEDGED);
    for (int seconds = 0; other->ready == 0; seconds++) {
        ck_assert_int_lt(seconds, 10);
        pass(1000);
    }
    ck_assert_uint_eq(get(other)->uid, HELD / 2);
    ck_assert_uint_eq(full->ready, 1);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), HELD - 1);
}
END_TEST

/* When it is tried again, it is not taken for one that came twice. */
START_TEST(a_dead_letter_that_waits_may_go_through_a_deduplicating_exchange)
{
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_int64(&arguments, SLICE("x-cache-size"), 10);
    declare_exchange("once", "x-message-deduplication", amqp_table_builder_finish(&arguments));
    amqp_table_builder_free(&arguments);
    struct queue_record *queue = declare("q", &(struct arguments){.dead_letter_exchange = "once"});
    struct queue_record *full =
        declare("full", &(struct arguments){.max_length = 1, .overflow = "reject-publish"});
    bind_queue("once", "full", "q", (struct slice){"", 0});
    send("", "full", 1000, -1, 0);
    struct message_wish wish = {.uid = 7,
                                .exchange = "",
                                .routing_key = "q",
                                .persistent = true,
                                .priority = -1,
                                .expiration_ms = LIVES_MS,
                                .identifier = 1};
    uint32_t answers;
    ck_assert_int_eq(publish(shard, make_message(&wish), client.ref, 7, &answers), 1);
    pass(LIVES_MS);
    pass(5000);
    ck_assert_uint_eq(shard->held, 1);
    client_settle(&client, get(full), SETTLE_ACKNOWLEDGED);
    pass(1000);
    ck_assert_uint_eq(get(full)->uid, 7);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
}
END_TEST

START_TEST(a_broker_may_end_while_dead_letters_wait)
{
    struct queue_record *full;
    struct queue_record *queue = queue_before_a_full_one(_i == 0, &full);
    pass(LIVES_MS);
    ck_assert_uint_eq(shard->held, HELD);
    if (_i == 1)
        queue_delete(queue_of(queue)); /* they go on, whatever becomes of it */
    settle_down();
    ck_assert_uint_eq(shard->held, HELD);
}
END_TEST

/* Of a queue that is freed before the other, the timer has the same time as that of the line. */
START_TEST(a_broker_may_end_when_dead_letters_have_waited)
{
    declare("before", &(struct arguments){0});
    struct queue_record *full;
    (void)queue_before_a_full_one(true, &full);
    pass(LIVES_MS);
    queue_delete(queue_of(full));
    pass(1000);
    ck_assert(departures_are_over(shard));
    send("", "before", 1, 1000, 0);
}
END_TEST

START_TEST(a_reject_that_asks_does_not_wait_for_room_in_the_dead_letter_queue)
{
    struct queue_record *queue =
        declare_on(test_broker->shards[_i], "q", &(struct arguments){.dead_letters_to = "full"});
    struct queue_record *full =
        declare("full", &(struct arguments){.max_length = 1, .overflow = "reject-publish"});
    send("", "full", 1, -1, 0);
    send("", "q", 2, -1, 0);
    client.accepted = 0;
    settle_asking(get(queue), SETTLE_REJECTED);
    settle_down();
    ck_assert_uint_eq(client.accepted, 1);
    ck_assert_uint_eq(client.written, 0); /* it is still the old queue's, and may come again */
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 1);
    client_settle(&client, get(full), SETTLE_ACKNOWLEDGED);
    pass(1000);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert_uint_eq(client.accepted, 1); /* once is enough */
}
END_TEST

START_TEST(a_settlement_for_a_queue_that_is_gone_is_answered)
{
    struct queue_record *queue = declare_on(test_broker->shards[_i], "q", &(struct arguments){0});
    send("", "q", 1, -1, 0);
    const struct seen_delivery *delivery = get(queue);
    queue_delete(queue_of(queue));
    settle_down();
    settle_asking(delivery, SETTLE_ACKNOWLEDGED);
    settle_down();
    ck_assert_uint_eq(client.accepted, 1);
    ck_assert_uint_eq(client.written, 1); /* the deletion has to be on disk */
}
END_TEST

START_TEST(a_dead_letter_that_leads_nowhere_ends)
{
    struct queue_record *queue =
        declare("q", &(struct arguments){.dead_letter_exchange = "nowhere"});
    send("", "q", 1, -1, 0);
    client_settle(&client, get(queue), SETTLE_REJECTED);
    ck_assert_uint_eq(journal_holds(&test_journal, queue->id), 0);
    ck_assert(departures_are_over(shard));
}
END_TEST

START_TEST(an_exchange_gives_its_queues_a_dead_letter_route_unless_they_have_one)
{
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_string(&arguments, SLICE("x-dead-letter-exchange"), SLICE(""));
    amqp_table_builder_put_string(&arguments, SLICE("x-dead-letter-routing-key"), SLICE("dead"));
    declare_exchange("e", "direct", amqp_table_builder_finish(&arguments));
    amqp_table_builder_free(&arguments);
    struct queue_record *plain = declare("plain", &(struct arguments){0});
    struct queue_record *own = declare("own", &(struct arguments){.dead_letters_to = "other"});
    struct queue_record *dead = declare("dead", &(struct arguments){0});
    struct queue_record *other = declare("other", &(struct arguments){0});
    bind_queue("e", "plain", "plain", (struct slice){"", 0});
    bind_queue("e", "own", "own", (struct slice){"", 0});
    send("e", "plain", 1, -1, 0);
    send("e", "own", 2, -1, 0);
    send("", "plain", 3, -1, 0); /* not through that exchange */
    client_settle(&client, get(plain), SETTLE_REJECTED);
    client_settle(&client, get(own), SETTLE_REJECTED);
    client_settle(&client, get(plain), SETTLE_REJECTED);
    ck_assert_uint_eq(dead->ready, 1);
    ck_assert_uint_eq(get(dead)->uid, 1);
    ck_assert_uint_eq(get(other)->uid, 2);
}
END_TEST

START_TEST(what_a_deleted_queue_had_sent_on_arrives)
{
    struct queue_record *queue = declare("q", &(struct arguments){.dead_letters_to = "dead"});
    struct queue_record *dead = declare("dead", &(struct arguments){0});
    send("", "q", 1, -1, 0);
    const struct seen_delivery *delivery = get(queue);
    send_settle(shard, delivery->queue, delivery->subscription, delivery->tag, 1, SETTLE_REJECTED);
    queue_delete(queue_of(queue)); /* before the dead letter's turn */
    settle_down();
    ck_assert_uint_eq(dead->ready, 1);
}
END_TEST

/* A delayed exchange "d"; its store's id. */
static uint64_t
declare_delayed(void)
{
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_string(&arguments, SLICE("x-delayed-type"), SLICE("direct"));
    declare_exchange("d", "x-delayed-message", amqp_table_builder_finish(&arguments));
    amqp_table_builder_free(&arguments);
    catalogue_lock(test_broker->catalogue);
    struct exchange *exchange = exchange_find(test_broker->catalogue, test_vhost, SLICE("d"));
    ck_assert_int_eq(queue_new_delay_store(shard, test_vhost, exchange, 0), 0);
    uint64_t store_id = exchange_delay_store(exchange)->id;
    catalogue_unlock(test_broker->catalogue);
    return store_id;
}

/* A restart would otherwise end the one in the queue with the delay of the other. */
START_TEST(a_message_that_is_held_back_for_one_queue_is_not_for_another)
{
    uint64_t store_id = declare_delayed();
    struct queue_record *now = declare("now", &(struct arguments){0});
    struct queue_record *later = declare("later", &(struct arguments){0});
    declare_exchange("f", "fanout", (struct slice){"", 0});
    bind_queue("f", "now", "", (struct slice){"", 0});
    bind_exchange("f", "d", "", (struct slice){"", 0});
    bind_queue("d", "later", "k", (struct slice){"", 0});
    send_to_many("f", "k", 1, 500, 2);
    ck_assert_uint_eq(now->ready, 1);
    ck_assert_uint_eq(journal_holds(&test_journal, now->id), 1);
    ck_assert_uint_eq(journal_holds(&test_journal, store_id), 1);
    for (size_t i = 0; i < test_journal.count; i++)
        ck_assert_uint_eq(test_journal.messages[i].delay_ms,
                          test_journal.messages[i].places[0].queue_id == store_id ? 500 : 0);
    pass(500);
    ck_assert_uint_eq(now->ready, 1);
    ck_assert_uint_eq(get(later)->uid, 1);
    ck_assert_uint_eq(get(now)->uid, 1);
}
END_TEST

/* As after a night on which the broker was down. */
START_TEST(delayed_messages_that_are_late_come_in_the_order_of_their_times)
{
    static const int delays_ms[] = {500, 100, 300, 900, 200, 600};
    static const uint64_t expected[] = {2, 5, 3, 1, 6, 4};
    (void)declare_delayed();
    struct queue_record *queue = declare("q", &(struct arguments){0});
    bind_queue("d", "q", "k", (struct slice){"", 0});
    for (size_t i = 0; i < ARRAY_SIZE(delays_ms); i++)
        send("d", "k", i + 1, -1, delays_ms[i]);
    pass(1000);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        ck_assert_uint_eq(get(queue)->uid, expected[i]);
}
END_TEST

START_TEST(a_delayed_message_comes_when_its_time_has_come)
{
    struct amqp_value value;
    uint64_t store_id = declare_delayed();
    struct queue_record *queue = declare("q", &(struct arguments){0});
    bind_queue("d", "q", "k", (struct slice){"", 0});
    send("d", "k", 1, -1, 500);
    send("d", "k", 2, -1, 100);
    ck_assert_uint_eq(journal_holds(&test_journal, store_id), 2);
    pass(99);
    ck_assert_uint_eq(queue->ready, 0);
    pass(1);
    ck_assert_uint_eq(get(queue)->uid, 2);
    pass(399);
    ck_assert_uint_eq(queue->ready, 0);
    pass(1);
    const struct message *message = get(queue)->message;
    ck_assert(amqp_table_find(message_headers(message), SLICE("x-delay"), &value));
    ck_assert_int_eq(value.integer, -500);
    ck_assert_uint_eq(journal_holds(&test_journal, store_id), 0);
    ck_assert(slice_is(message_exchange(message), "d"));
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_rejected_message_goes_on_with_its_death_written_on_it);
    tcase_add_test(tests, an_expired_message_does_not_expire_again);
    tcase_add_test(tests, deaths_of_a_chain_are_written_the_latest_first);
    tcase_add_test(tests, dying_again_for_the_same_reason_counts);
    tcase_add_test(tests, a_message_that_only_expires_in_a_circle_ends);
    tcase_add_loop_test(tests, dead_letters_that_wait_are_not_in_memory, 0, 2);
    tcase_add_test(tests, dead_letters_that_wait_in_memory_count);
    tcase_add_test(tests, dead_letters_that_wait_are_tried_a_few_at_a_time);
    tcase_add_test(tests, dead_letters_that_wait_are_tried_a_few_of_each_route);
    tcase_add_test(tests, dead_letters_of_very_many_queues_are_tried_a_few_at_a_time);
    tcase_add_test(tests, a_dead_letter_that_waits_gets_its_turn_behind_others_that_are_refused);
    tcase_add_test(tests, a_dead_letter_that_waits_may_go_through_a_deduplicating_exchange);
    tcase_add_loop_test(tests, a_broker_may_end_while_dead_letters_wait, 0, 2);
    tcase_add_test(tests, a_broker_may_end_when_dead_letters_have_waited);
    tcase_add_loop_test(tests, a_dead_letter_that_is_refused_waits_and_goes_when_there_is_room, 0,
                        4);
    tcase_add_loop_test(tests, a_settlement_that_asks_is_answered_when_the_journal_has_it, 0, 2);
    tcase_add_loop_test(tests, a_reject_that_asks_is_answered_when_the_dead_letter_has_gone_on, 0,
                        2);
    tcase_add_loop_test(tests, a_reject_that_asks_does_not_wait_for_room_in_the_dead_letter_queue,
                        0, 2);
    tcase_add_loop_test(tests, a_settlement_for_a_queue_that_is_gone_is_answered, 0, 2);
    tcase_add_test(tests, a_dead_letter_that_leads_nowhere_ends);
    tcase_add_test(tests, an_exchange_gives_its_queues_a_dead_letter_route_unless_they_have_one);
    tcase_add_test(tests, what_a_deleted_queue_had_sent_on_arrives);
    tcase_add_test(tests, a_message_that_is_held_back_for_one_queue_is_not_for_another);
    tcase_add_test(tests, delayed_messages_that_are_late_come_in_the_order_of_their_times);
    tcase_add_test(tests, a_delayed_message_comes_when_its_time_has_come);
}

int
main(void)
{
    return run_suite("broker/departure", add);
}
