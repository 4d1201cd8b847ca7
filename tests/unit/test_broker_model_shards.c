/* Several shards, in random interleavings of their turns: no message may be lost or come twice.
 *
 * Each shard runs when chance lets it, and hands its mail over when chance lets it, so mail between
 * shards crosses in every order that threads could make (order between two parties is kept: that is
 * what outboxes do). Clients on all shards publish, consume, settle, go away and come back; queues
 * are deleted; policies come and go, so that queues refuse messages, or do no longer, while some
 * are under way. In the end everything is brought to rest, and every message that was published to
 * a queue must have had one end there: acknowledged once, dropped for a reason that the queue has,
 * or still there; and the journal holds what the queues hold. Large bodies make some of them leave
 * memory and come back. */
#include "test_broker_policy.h"

#include <stdio.h>

enum {
    QUEUES = 6,
    CLIENTS = 6,
    CONSUMERS = 3, /* of each client */
    MESSAGES_MAX = 2500,
    HELD_MAX = 3000,
    OPERATIONS = 4000,
    LARGE_BODY = 400 * 1024,
};

/* What became of one message in one queue. */
struct fate {
    uint8_t sent, acknowledged, dropped;
};

struct held {
    struct ref queue, subscription;
    uint64_t tag;
    uint64_t uid;
    int queue_number;
};

struct client {
    struct shard *shard;
    struct ref ref;
    struct {
        bool exists, asked, no_ack;
        struct ref subscription, queue;
    } consumers[CONSUMERS];
    struct held held[HELD_MAX];
    uint32_t count;
    bool has_no_ack; /* or had */
    uint32_t gets_due;
    uint32_t confirms_due;
};

static struct {
    struct client clients[CLIENTS];
    struct ref queues[QUEUES];
    uint64_t ids[QUEUES];
    bool durable[QUEUES], deleted[QUEUES], rejects[QUEUES];
    int dead_letters_to[QUEUES]; /* -1: none */
    struct fate fates[MESSAGES_MAX][QUEUES];
    uint64_t next_uid;
    bool pages;
} model;

static int
queue_number(struct ref ref)
{
    for (int i = 0; i < QUEUES; i++)
        if (ref_equal(model.queues[i], ref))
            return i;
    REQUIRE(false, "an unknown queue");
    return -1;
}

/* A delivery came; it is settled later, by who holds it. */
static void
hold(struct client *client, const struct delivery *delivery)
{
    int queue = queue_number(delivery->queue);
    uint64_t uid = uid_of(delivery->message);
    struct fate *fate = &model.fates[uid][queue];
    TRACE("message %" PRIu64 " of q%d is with client %d", uid, queue,
          (int)(client - model.clients));
    REQUIRE(fate->sent > 0, "message %" PRIu64 " was never sent to q%d", uid, queue);
    REQUIRE(fate->acknowledged + fate->dropped < fate->sent, "message %" PRIu64 " of q%d again",
            uid, queue);
    REQUIRE(delivery->message->body_size == 8 || delivery->message->body_size == LARGE_BODY,
            "a body of %u", delivery->message->body_size);
    if (delivery->consumer == GET_CONSUMER) {
        REQUIRE(client->gets_due > 0, "an answer to no basic.get");
        client->gets_due--;
    } else {
        struct mail credit = {
            .type = MAIL_CREDIT,
            .to = delivery->subscription,
            .credit = {.bytes = delivery->message->body_size + DELIVERY_OVERHEAD}};
        shard_send(client->shard, &credit);
    }
    if (delivery->no_ack) {
        fate->acknowledged++;
        return;
    }
    REQUIRE(client->count < HELD_MAX, "too many");
    client->held[client->count++] = (struct held){.queue = delivery->queue,
                                                  .subscription = delivery->subscription,
                                                  .tag = delivery->tag,
                                                  .uid = uid,
                                                  .queue_number = queue};
}

static void
on_reply(struct client *client, const struct mail *mail)
{
    if (mail->flag == MAIL_GET)
        client->gets_due--;
    if (mail->flag != MAIL_SUBSCRIBE)
        return;
    TRACE("client %d is subscribed: %u to q%d: %d", (int)(client - model.clients),
          mail->reply.consumer, queue_number(mail->from), mail->result);
    REQUIRE(client->consumers[mail->reply.consumer].asked, "a subscription that nobody wanted");
    client->consumers[mail->reply.consumer].asked = false;
    client->consumers[mail->reply.consumer].exists = mail->result == QUEUE_OK;
    client->consumers[mail->reply.consumer].subscription = mail->reply.subscription;
    client->consumers[mail->reply.consumer].queue = mail->from;
}

static void
receive(void *context, const struct mail *mail)
{
    struct client *client = context;
    switch ((enum mail_type)mail->type) {
    case MAIL_DELIVER:
        hold(client, &mail->deliver);
        break;
    case MAIL_REPLY:
        on_reply(client, mail);
        break;
    case MAIL_CONFIRM:
        REQUIRE(client->confirms_due > 0, "a confirm of nothing");
        client->confirms_due--;
        if (!mail->flag)
            model.fates[mail->number][queue_number(mail->from)].dropped++;
        break;
    case MAIL_CANCELLED:
        /* Or it has been unsubscribed, and its number given to another. */
        if (ref_equal(mail->from, client->consumers[mail->consumer].queue))
            client->consumers[mail->consumer].exists = false;
        break;
    default:
        REQUIRE(false, "mail of type %d", mail->type);
    }
}

/* --- What happens to messages inside the core ------------------------------------------------- */

int __real_departure_add(struct queue *queue, struct message *message, uint64_t id,
                         enum departure_reason reason, struct ref settler);
int __wrap_departure_add(struct queue *queue, struct message *message, uint64_t id,
                         enum departure_reason reason, struct ref settler);

/* A death ends a message in its queue, and begins it in the next. */
int
__wrap_departure_add(struct queue *queue, struct message *message, uint64_t id,
                     enum departure_reason reason, struct ref settler)
{
    int from = queue_number(queue->ref), to = model.dead_letters_to[from];
    TRACE("message %" PRIu64 " dies in q%d: %d", uid_of(message), from, reason);
    model.fates[uid_of(message)][from].dropped++;
    if (to >= 0 && !model.deleted[to]) {
        struct journal_place *place = journal_place_of(&test_journal, queue->journal_id, id);
        if (place != NULL && model.durable[to] && (message->flags & MESSAGE_PERSISTENT) != 0)
            place->awaits_copy = true;
    }
    return __real_departure_add(queue, message, id, reason, settler);
}

void __real_departure_end(struct queue *queue, uint64_t id, enum departure_reason reason,
                          struct ref settler);
void __wrap_departure_end(struct queue *queue, uint64_t id, enum departure_reason reason,
                          struct ref settler);

/* The same of one that was not read for it. */
void
__wrap_departure_end(struct queue *queue, uint64_t id, enum departure_reason reason,
                     struct ref settler)
{
    uint64_t uid = test_journal.messages[id - 1].uid;
    int from = queue_number(queue->ref);
    TRACE("message %" PRIu64 " dies in q%d, unread: %d", uid, from, reason);
    REQUIRE(model.dead_letters_to[from] < 0, "it has somewhere to go");
    model.fates[uid][from].dropped++;
    __real_departure_end(queue, id, reason, settler);
}

int __real_shard_publish(struct shard *shard, const struct route *route, struct message *message,
                         struct ref from, uint64_t number, enum publish_origin origin);
int __wrap_shard_publish(struct shard *shard, const struct route *route, struct message *message,
                         struct ref from, uint64_t number, enum publish_origin origin);

int
__wrap_shard_publish(struct shard *shard, const struct route *route, struct message *message,
                     struct ref from, uint64_t number, enum publish_origin origin)
{
    for (uint32_t i = 0; i < route->count; i++)
        model.fates[uid_of(message)][queue_number(route->targets[i].queue)].sent++;
    return __real_shard_publish(shard, route, message, from, number, origin);
}

/* --- Operations ------------------------------------------------------------------------------- */

static struct client *
some_client(void)
{
    return &model.clients[pick(CLIENTS)];
}

static void
do_publish(void)
{
    struct client *client = some_client();
    if (model.next_uid == MESSAGES_MAX)
        return;
    char key[8];
    snprintf(key, sizeof(key), "q%d", (int)pick(QUEUES));
    uint32_t answers;
    struct message_wish wish = {.uid = model.next_uid,
                                .exchange = chance(20) ? "all" : "",
                                .routing_key = key,
                                .body_size = model.pages && chance(50) ? LARGE_BODY : 8,
                                .persistent = chance(60),
                                .priority = chance(30) ? (int)pick(4) : -1,
                                .expiration_ms = chance(10) ? (int64_t)pick(200) : -1};
    struct message *message = make_message(&wish);
    TRACE("publish %" PRIu64 " to %s", model.next_uid, key);
    client->confirms_due += QUEUES; /* at most; some may be told inside */
    int count = publish(client->shard, message, client->ref, model.next_uid++, &answers);
    REQUIRE(count >= 0, "out of memory");
    client->confirms_due -= QUEUES - answers;
}

static void
do_subscribe(void)
{
    struct client *client = some_client();
    uint32_t number = (uint32_t)pick(CONSUMERS);
    if (client->consumers[number].exists || client->consumers[number].asked)
        return;
    client->consumers[number].asked = true;
    client->consumers[number].no_ack = chance(10);
    client->has_no_ack |= client->consumers[number].no_ack;
    TRACE("client %d subscribes %u", (int)(client - model.clients), number);
    struct subscription_request request = {.consumer = number,
                                           .prefetch = chance(80) ? 1 + (uint32_t)pick(5) : 0,
                                           .priority = chance(20),
                                           .no_ack = client->consumers[number].no_ack};
    send_subscribe(client->shard, model.queues[pick(QUEUES)], client->ref, &request);
}

static void
settle_one(struct client *client, uint32_t at, enum settle_outcome outcome)
{
    struct held held = client->held[at];
    client->held[at] = client->held[--client->count];
    if (outcome == SETTLE_ACKNOWLEDGED && !model.deleted[held.queue_number])
        model.fates[held.uid][held.queue_number].acknowledged++;
    TRACE("client %d settles %" PRIu64 " of q%d: %d", (int)(client - model.clients), held.uid,
          held.queue_number, outcome);
    send_settle(client->shard, held.queue, held.subscription, held.tag, 1, outcome);
}

static void
do_settle(void)
{
    struct client *client = some_client();
    if (client->count > 0)
        settle_one(client, (uint32_t)pick(client->count),
                   chance(60)   ? SETTLE_ACKNOWLEDGED
                   : chance(60) ? SETTLE_REQUEUED
                                : SETTLE_REJECTED);
}

static void
do_get(void)
{
    struct client *client = some_client();
    client->gets_due++;
    send_plain(client->shard, MAIL_GET, model.queues[pick(QUEUES)], client->ref, chance(20));
}

static void
do_unsubscribe(void)
{
    struct client *client = some_client();
    uint32_t number = (uint32_t)pick(CONSUMERS);
    if (!client->consumers[number].exists)
        return;
    client->consumers[number].exists = false;
    TRACE("client %d unsubscribes %u", (int)(client - model.clients), number);
    send_plain(client->shard, MAIL_UNSUBSCRIBE, client->consumers[number].subscription, REF_NONE,
               0);
}

/* The client's connection breaks, and another takes its place: what is on its way to the old one
 * must come back to the queues (but for what needs no acknowledgement, which is lost with it). */
static void
do_restart(void)
{
    struct client *client = some_client();
    if (client->gets_due > 0 || client->confirms_due > 0 || client->has_no_ack)
        return;
    TRACE("client %d goes", (int)(client - model.clients));
    for (uint32_t i = 0; i < CONSUMERS; i++) {
        if (client->consumers[i].exists)
            send_plain(client->shard, MAIL_UNSUBSCRIBE, client->consumers[i].subscription, REF_NONE,
                       0);
        client->consumers[i].exists = client->consumers[i].asked = false;
    }
    while (client->count > 0)
        settle_one(client, client->count - 1, SETTLE_REQUEUED);
    ref_table_remove(&client->shard->clients, client->ref);
    client->ref = ref_table_add(&client->shard->clients, client);
}

static void
do_delete(void)
{
    int number = (int)pick(QUEUES);
    if (!chance(3) || model.deleted[number])
        return;
    struct client *client = some_client();
    TRACE("delete q%d", number);
    model.deleted[number] = true;
    for (size_t i = 0; i < test_journal.count; i++) /* dead letters on their way may lead nowhere */
        for (uint32_t j = 0; j < test_journal.messages[i].place_count; j++)
            test_journal.messages[i].places[j].awaits_copy = false;
    send_plain(client->shard, MAIL_DELETE, model.queues[number], client->ref, 0);
}

static void
say(struct said *said, unsigned percent, const char *key, int64_t number, const char *text)
{
    while (said->key != NULL)
        said++;
    if (chance(percent))
        *said = (struct said){.key = key, .number = number, .text = text};
}

static struct shard *
some_shard(void)
{
    return test_broker->shards[pick(test_broker->shard_count)];
}

static void
do_policy(void)
{
    static const char *const names[] = {"a", "b"}, *const patterns[] = {"", "q[0-2]", "q[24]"};
    int number = (int)pick(ARRAY_SIZE(names));
    if (chance(30)) {
        TRACE("no policy %s", names[number]);
        (void)try_clear_from(some_shard(), names[number], false, false); /* there may be none */
        return;
    }
    struct said said[SAID_MAX + 1] = {{0}};
    char error[POLICY_ERROR_MAX];
    say(said, 70, "max-length", (int64_t)pick(20), NULL);
    say(said, 60, "overflow", 0, chance(80) ? "reject-publish" : "drop-head");
    say(said, 30, "message-ttl", (int64_t)pick(500), NULL);
    say(said, 20, "delivery-limit", (int64_t)pick(4), NULL);
    say(said, 100, "expires", 1000000000, NULL);
    TRACE("policy %s", names[number]);
    const struct policy_wish wish = {.name = names[number],
                                     .pattern = patterns[pick(ARRAY_SIZE(patterns))],
                                     .priority = (int32_t)pick(2),
                                     .says = said};
    int status = try_policy_from(some_shard(), &wish, error);
    REQUIRE(status == 0, "policy: %d %s", status, error);
}

static void
do_turn(void)
{
    struct shard *shard = test_broker->shards[pick(test_broker->shard_count)];
    (void)shard_run(shard);
    if (chance(70))
        shard_flush(shard);
}

static void
do_time(void)
{
    set_clock(clock_now() + (int64_t)pick(20));
}

/* --- The end ---------------------------------------------------------------------------------- */

static void
count_left(int number, uint8_t left[MESSAGES_MAX], size_t *journaled)
{
    char name[8];
    snprintf(name, sizeof(name), "q%d", number);
    const struct queue_record *record = find_queue(name);
    REQUIRE((record == NULL) == model.deleted[number], "%s", name);
    if (record == NULL)
        return;
    const struct queue *queue = queue_of(record);
    uint64_t memory = 0;
    for (uint32_t i = 0; i < queue->lane_count; i++) {
        uint64_t sequence = 0;
        const struct entry *entry;
        while (queue->lanes[i] != NULL && (entry = lane_next(queue->lanes[i], &sequence)) != NULL) {
            bool is_paged = entry->message == NULL;
            left[is_paged ? test_journal.messages[entry->id - 1].uid : uid_of(entry->message)]++;
            memory += is_paged ? 0 : message_memory(entry->message);
            *journaled += entry->id != 0;
            REQUIRE(entry->id == 0 || journal_has(&test_journal, queue->journal_id, entry->id),
                    "%s has a message that the journal has not", name);
        }
    }
    REQUIRE(queue->memory == memory, "%s counts %" PRIu64 " bytes, not %" PRIu64, name,
            queue->memory, memory);
    REQUIRE(record->consumers == 0, "%s has consumers", name);
    REQUIRE(record->unacknowledged == 0, "%s: %" PRIu64 " unacknowledged", name,
            record->unacknowledged);
}

/* Dead letters that go in circles are dropped at the door, and those that a full queue refuses come
 * again: the queue was sent more than it had. */
static bool
may_turn_away(int queue)
{
    for (int i = 0; i < QUEUES; i++)
        if (model.dead_letters_to[i] == queue)
            return true;
    return false;
}

static void
check_fates(void)
{
    for (int queue = 0; queue < QUEUES; queue++) {
        uint8_t left[MESSAGES_MAX] = {0};
        size_t journaled = 0;
        count_left(queue, left, &journaled);
        size_t held = journal_holds(&test_journal, model.ids[queue]);
        REQUIRE(held == journaled, "the journal holds %zu messages of q%d, which has %zu", held,
                queue, journaled);
        if (model.deleted[queue])
            continue;
        for (uint64_t uid = 1; uid < model.next_uid; uid++) {
            const struct fate *fate = &model.fates[uid][queue];
            int ends = fate->acknowledged + fate->dropped + left[uid];
            REQUIRE(ends == fate->sent || (ends < fate->sent && ends > 0 && may_turn_away(queue)),
                    "message %" PRIu64 " was sent to q%d %d times, acknowledged %d, dropped %d, "
                    "and is there %d times",
                    uid, queue, fate->sent, fate->acknowledged, fate->dropped, left[uid]);
        }
    }
}

static bool
dead_letters_wait(void)
{
    for (uint32_t i = 0; i < test_broker->shard_count; i++)
        if (test_broker->shards[i]->held > 0)
            return true;
    return false;
}

/* Makes room for the dead letters that full queues refuse, so that none is on its way. */
static void
make_room(void)
{
    for (unsigned rounds = 0; dead_letters_wait(); rounds++) {
        REQUIRE(rounds < 1000, "dead letters wait for ever");
        for (int i = 0; i < QUEUES; i++) {
            uint8_t left[MESSAGES_MAX] = {0};
            size_t journaled = 0;
            if (model.deleted[i] || !model.rejects[i])
                continue;
            count_left(i, left, &journaled);
            for (uint64_t uid = 1; uid < model.next_uid; uid++)
                model.fates[uid][i].dropped = (uint8_t)(model.fates[uid][i].dropped + left[uid]);
            send_plain(test_broker->shards[0], MAIL_PURGE, model.queues[i], REF_NONE, 0);
            settle_down();
        }
        set_clock(clock_now() + 1000);
        settle_down();
    }
}

/* Everything comes back to the queues, and is looked at. */
static void
end(void)
{
    settle_down();
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &model.clients[i];
        REQUIRE(client->gets_due == 0 && client->confirms_due == 0, "%u gets, %u confirms due",
                client->gets_due, client->confirms_due);
        for (uint32_t j = 0; j < CONSUMERS; j++)
            if (client->consumers[j].exists)
                send_plain(client->shard, MAIL_UNSUBSCRIBE, client->consumers[j].subscription,
                           REF_NONE, 0);
    }
    settle_down();
    for (int i = 0; i < CLIENTS; i++)
        while (model.clients[i].count > 0)
            settle_one(&model.clients[i], model.clients[i].count - 1, SETTLE_REQUEUED);
    settle_down();
    (void)try_clear("a", false, false);
    (void)try_clear("b", false, false);
    make_room();
    check_fates();
    for (uint32_t i = 0; i < test_broker->shard_count; i++) {
        uint64_t bytes = 0;
        const struct shard *shard = test_broker->shards[i];
        for (uint32_t j = 0; j < shard->queues.size; j++)
            if (shard->queues.slots[j].object != NULL)
                bytes += ((const struct queue *)shard->queues.slots[j].object)->memory;
        REQUIRE(shard->queued_bytes == bytes, "shard %u counts %" PRIu64 " bytes, not %" PRIu64, i,
                shard->queued_bytes, bytes);
    }
}

static void
create_queue(int number)
{
    char name[8], key[8];
    snprintf(name, sizeof(name), "q%d", number);
    model.durable[number] = chance(70);
    model.rejects[number] = chance(20);
    model.dead_letters_to[number] = chance(50) ? (int)pick(QUEUES) : -1;
    struct queue_wish wish = {
        .name = name, .transient = !model.durable[number], .has_arguments = true};
    struct amqp_table_builder *arguments = &wish.arguments;
    amqp_table_builder_init(arguments);
    if (chance(30))
        amqp_table_builder_put_int64(arguments, SLICE("x-max-priority"), 3);
    if (model.rejects[number] || chance(20))
        amqp_table_builder_put_int64(arguments, SLICE("x-max-length"), 5 + (int64_t)pick(20));
    if (model.rejects[number])
        amqp_table_builder_put_string(arguments, SLICE("x-overflow"), SLICE("reject-publish"));
    if (chance(20))
        amqp_table_builder_put_int64(arguments, SLICE("x-message-ttl"), 200 + (int64_t)pick(1000));
    if (chance(20))
        amqp_table_builder_put_int64(arguments, SLICE("x-delivery-limit"), 3);
    if (chance(20))
        amqp_table_builder_put_bool(arguments, SLICE("x-single-active-consumer"), true);
    if (model.dead_letters_to[number] >= 0) {
        snprintf(key, sizeof(key), "q%d", model.dead_letters_to[number]);
        amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-exchange"), SLICE(""));
        amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-routing-key"),
                                      slice_from(key));
    }
    uint32_t shard = (uint32_t)pick(test_broker->shard_count);
    const struct queue_record *record = declare_queue(test_broker->shards[shard], &wish);
    model.queues[number] = record->queue;
    model.ids[number] = record->id;
    if (chance(60))
        bind_queue("all", name, "", (struct slice){"", 0});
}

static void
random_interleaving(void)
{
    static const struct {
        unsigned weight;
        void (*run)(void);
    } operations[] = {
        {30, do_publish}, {8, do_subscribe}, {4, do_unsubscribe}, {30, do_settle}, {4, do_get},
        {2, do_restart},  {1, do_delete},    {40, do_turn},       {3, do_time},    {1, do_policy},
    };
    memset(&model, 0, sizeof(model));
    model.next_uid = 1;
    model.pages = chance(10);
    broker_up(1 + (uint32_t)pick(3), receive);
    if (model.pages)
        for (uint32_t i = 0; i < test_broker->shard_count; i++)
            test_broker->shards[i]->memory_share = test_broker->shards[i]->memory_most = 0;
    declare_exchange("all", "fanout", (struct slice){"", 0});
    for (int i = 0; i < QUEUES; i++)
        create_queue(i);
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &model.clients[i];
        client->shard = test_broker->shards[pick(test_broker->shard_count)];
        client->ref = ref_table_add(&client->shard->clients, client);
    }
    unsigned most = model.pages ? OPERATIONS / 10 : OPERATIONS;
    for (test_operation = 1; test_operation <= most; test_operation++) {
        unsigned at = (unsigned)pick(123);
        size_t chosen = 0;
        while (at >= operations[chosen].weight)
            at -= operations[chosen++].weight;
        operations[chosen].run();
    }
    end();
    broker_down();
}

START_TEST(no_message_is_lost_or_doubled_in_any_interleaving)
{
    run_rounds(300, random_interleaving);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, no_message_is_lost_or_doubled_in_any_interleaving);
}

int
main(void)
{
    return run_suite("broker/model_shards", add);
}
