/* Queues against a plain model (test_broker_model.h), in random operations on one shard.
 *
 * After each operation the core is at rest, and the model asks whether anything that had to happen
 * has not, and compares the queues entry by entry, and the journal with the queues. */
#include "test_broker_model.h"

#include <stdio.h>

static int client_numbers[CLIENTS] = {0, 1, 2};

/* --- After each operation --------------------------------------------------------------------- */

/* The entry's message, wherever it is. */
static const struct message *
message_of(const struct entry *entry)
{
    if (entry->message != NULL)
        return entry->message;
    REQUIRE(model.pages && entry->id != 0, "an entry without a message");
    return test_journal.messages[entry->id - 1].copy;
}

/* Of an entry that came under another message-ttl it is made when it is at the head, of this. */
static bool
has_deadline(const struct lane *lane, uint64_t sequence, const struct entry *entry,
             const struct item *item)
{
    if (sequence < lane->retimed && sequence != lane->retimed_last)
        return message_published_ms(message_of(entry)) == item->published_ms;
    return entry->deadline_ms == item->deadline_ms;
}

/* Whether the journal keeps the entry's message for the time after a restart, too. */
static bool
survives_restart(const struct entry *entry)
{
    return entry->id != 0 && !test_journal.messages[entry->id - 1].is_transient;
}

static void
check_entry(const struct model_queue *queue, const struct entry *entry, const struct item *item)
{
    const struct message *message = message_of(entry);
    REQUIRE(model.pages || message == item->message,
            "%s has message %" PRIu64 " in the place of %" PRIu64, queue->name, uid_of(message),
            item->story.uid);
    struct difference difference = difference_of(&item->story, message);
    REQUIRE(!difference.is_there, "message %" PRIu64 " in %s: %s", item->story.uid, queue->name,
            difference.text);
    REQUIRE(survives_restart(entry) == (queue->durable && item->story.persistent),
            "message %" PRIu64 " in %s and the journal", item->story.uid, queue->name);
    REQUIRE(entry->id == 0 || journal_has(&test_journal, queue->id, entry->id),
            "message %" PRIu64 " in %s is not in the journal any more", item->story.uid,
            queue->name);
}

static void
check_lane(const struct model_queue *queue, const struct queue *real, uint32_t number)
{
    uint64_t sequence = 0;
    const struct item *item = queue->first;
    struct lane *lane = real->lanes[number];
    for (;;) {
        while (item != NULL && item->lane != number)
            item = item->next;
        const struct entry *entry = lane == NULL ? NULL : lane_next(lane, &sequence);
        if (entry == NULL && item == NULL)
            return;
        REQUIRE(entry != NULL, "%s has lost message %" PRIu64, queue->name, item->story.uid);
        REQUIRE(item != NULL, "%s has message %" PRIu64 " too many", queue->name,
                uid_of(message_of(entry)));
        check_entry(queue, entry, item);
        REQUIRE((entry->state == ENTRY_READY) == (item->place == IN_READY)
                    && entry->delivery_count == item->returns
                    && has_deadline(lane, sequence - 1, entry, item),
                "message %" PRIu64 " in %s: state %d, returned %u times, due %" PRId64
                ", not %" PRId64,
                item->story.uid, queue->name, entry->state, entry->delivery_count,
                entry->deadline_ms, item->deadline_ms);
        item = item->next;
    }
}

static void
check_queue(int number)
{
    struct model_queue *queue = &model.queues[number];
    const struct queue_record *record = find_queue(queue->name);
    REQUIRE((record != NULL) == queue->exists, "%s exists: %d", queue->name, record != NULL);
    if (record == NULL)
        return;
    const struct queue *real = queue_of(record);
    uint32_t ready = count_in(queue, IN_READY), unacked = count_in(queue, IN_UNACKED);
    for (int i = 0; i < queue->lanes; i++)
        check_lane(queue, real, (uint32_t)i);
    REQUIRE(record->ready == ready && record->unacknowledged == unacked,
            "%s counts %" PRIu64 " ready and %" PRIu64 " unacknowledged, not %u and %u",
            queue->name, record->ready, record->unacknowledged, ready, unacked);
    REQUIRE(record->consumers == (uint64_t)consumer_count(number), "%s counts its consumers wrong",
            queue->name);
    REQUIRE(record->ready_bytes == bytes_in(queue, IN_READY)
                && record->unacknowledged_bytes == bytes_in(queue, IN_UNACKED),
            "%s counts its bytes wrong", queue->name);
    REQUIRE(ready == 0 || !has_able(number), "%s has messages, and a consumer waits", queue->name);
    REQUIRE(queue->overflow != OVERFLOW_DROP_HEAD || !is_over(queue, 0, 0), "%s is over its limit",
            queue->name);
    for (const struct item *item = queue->first; item != NULL; item = item->next)
        REQUIRE(item->place != IN_READY || item->deadline_ms > clock_now(),
                "message %" PRIu64 " in %s should have expired %" PRId64 " ms ago", item->story.uid,
                queue->name, clock_now() - item->deadline_ms);
}

/* How many messages the journal holds for the queue; of those that it would give back at the next
 * start, or of the others. */
static size_t
journal_holds_of(uint64_t queue_id, bool is_transient)
{
    size_t count = 0;
    for (size_t i = 0; i < test_journal.count; i++)
        count += test_journal.messages[i].is_transient == is_transient
                 && journal_has(&test_journal, queue_id, i + 1);
    return count;
}

/* What the journal holds is what the queues hold, and what is on its way from one to another. */
static void
check_journal(void)
{
    for (int i = 0; i < QUEUES; i++) {
        const struct model_queue *queue = &model.queues[i];
        size_t kept = 0, others = 0;
        for (const struct item *item = queue->first; item != NULL; item = item->next) {
            bool is_kept = queue->durable && item->story.persistent;
            kept += is_kept;
            others += !is_kept;
        }
        for (uint32_t j = 0; j < model.pending_count; j++) {
            bool is_kept = queue->durable && model.pending[j].story.persistent;
            if (model.pending[j].queue_id != queue->id)
                continue;
            kept += is_kept && model.pending[j].id != 0;
            others += !is_kept;
        }
        if (!queue->exists)
            continue;
        size_t held = journal_holds_of(queue->id, false);
        REQUIRE(held == kept, "the journal holds %zu messages of %s, which has %zu", held,
                queue->name, kept);
        held = journal_holds_of(queue->id, true);
        REQUIRE(held <= others, "the journal holds %zu transient messages of %s, which has %zu",
                held, queue->name, others);
    }
}

static void
check_all(void)
{
    settle_down();
    for (int i = 0; i < QUEUES; i++)
        check_queue(i);
    check_journal();
    if (model.pending_count > model.pending_most)
        model.pending_most = model.pending_count;
    /* Each of several rounds may begin late, by as much as the clock moves at once. */
    int64_t rounds = 1 + model.pending_most / TRIED_AGAIN;
    int64_t longest_ms = rounds == 1 ? RETRY_MS : rounds * (RETRY_MS + TIME_STEP_MAX);
    for (uint32_t i = 0; i < model.pending_count; i++)
        REQUIRE(model.pending[i].since_ms != 0
                    && clock_now() < model.pending[i].since_ms + longest_ms,
                "message %" PRIu64 " died and did not go on; of %u, since %" PRId64 " at %" PRId64,
                model.pending[i].story.uid, model.pending_count, model.pending[i].since_ms,
                clock_now());
    REQUIRE(!model.reply_expected && model.confirms_due == 0, "an answer is missing");
    model.refused = 0; /* those of dead letters count as taken, and nobody was told */
}

/* --- Operations ------------------------------------------------------------------------------- */

static int64_t
maybe(unsigned percent, int64_t low, int64_t high)
{
    return chance(percent) ? low + (int64_t)pick((uint64_t)(high - low + 1)) : -1;
}

static void
put_number(struct queue_wish *wish, const char *name, int64_t value)
{
    if (value >= 0)
        amqp_table_builder_put_int64(&wish->arguments, slice_from(name), value);
}

static void
create_queue(int number)
{
    static const char *const overflows[] = {"drop-head", "reject-publish", "reject-publish-dlx"};
    struct model_queue *queue = &model.queues[number];
    *queue = (struct model_queue){.exists = true, .last_served = -1};
    snprintf(queue->name, sizeof(queue->name), "q%d", number);
    queue->durable = chance(70);
    queue->auto_delete = chance(10);
    queue->sac = chance(20);
    queue->dedup = chance(15);
    queue->lanes = chance(30) ? 2 + (int)pick(4) : 1;
    struct model_says *says = &queue->says;
    *says = (struct model_says){
        .ttl_ms = maybe(40, 0, 60),
        .max_length = maybe(30, 0, 8),
        .max_bytes = maybe(20, 0, 1000),
        .limit = maybe(30, 0, 3),
        .overflow = -1,
        .dlx = chance(60) ? (int)pick(QUEUES + 1) : -1,
    };
    if (says->max_length >= 0 || says->max_bytes >= 0)
        says->overflow = (int)maybe(80, 0, 2);
    apply_policies(number);
    struct queue_wish wish = {.name = queue->name,
                              .transient = !queue->durable,
                              .auto_delete = queue->auto_delete,
                              .has_arguments = true};
    struct amqp_table_builder *arguments = &wish.arguments;
    amqp_table_builder_init(arguments);
    put_number(&wish, "x-message-ttl", says->ttl_ms);
    put_number(&wish, "x-max-length", says->max_length);
    put_number(&wish, "x-max-length-bytes", says->max_bytes);
    put_number(&wish, "x-delivery-limit", says->limit);
    if (queue->lanes > 1)
        put_number(&wish, "x-max-priority", queue->lanes - 1);
    if (queue->sac)
        amqp_table_builder_put_bool(arguments, SLICE("x-single-active-consumer"), true);
    if (queue->dedup)
        amqp_table_builder_put_bool(arguments, SLICE("x-message-deduplication"), true);
    if (says->overflow >= 0)
        amqp_table_builder_put_string(arguments, SLICE("x-overflow"),
                                      slice_from(overflows[says->overflow]));
    if (says->dlx >= 0) {
        char key[8];
        snprintf(key, sizeof(key), "q%d", says->dlx);
        amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-exchange"),
                                      says->dlx == QUEUES ? SLICE("spread") : SLICE(""));
        if (says->dlx < QUEUES)
            amqp_table_builder_put_string(arguments, SLICE("x-dead-letter-routing-key"),
                                          slice_from(key));
    }
    TRACE("%s: durable %d ttl %d length %d bytes %d limit %d lanes %d dlx %d overflow %d sac %d "
          "dedup "
          "%d",
          queue->name, queue->durable, (int)queue->ttl_ms, (int)queue->max_length,
          (int)queue->max_bytes, (int)queue->limit, queue->lanes, queue->dlx, queue->overflow,
          queue->sac, queue->dedup);
    const struct queue_record *record = declare_queue(model.shard, &wish);
    queue->ref = record->queue;
    queue->id = record->id;
    if (model.spread[number])
        bind_queue("spread", queue->name, "", (struct slice){"", 0});
    if (model.all[number])
        bind_queue("all", queue->name, "", (struct slice){"", 0});
}

static void
do_publish(void)
{
    struct story story = {.uid = model.next_uid++,
                          .identifier = chance(30) ? 1 + pick(5) : 0,
                          .size = 8 + (uint32_t)pick(chance(80) ? 30 : 600),
                          .priority = chance(50) ? (int)pick(8) : -1,
                          .expiration_ms = maybe(40, 0, 80),
                          .persistent = chance(70)};
    bool to_all = chance(25);
    int only = (int)pick(QUEUES);
    snprintf(story.exchange, sizeof(story.exchange), "%s", to_all ? "all" : "");
    snprintf(story.routing_key, sizeof(story.routing_key), "q%d", only);
    struct message_wish wish = {.uid = story.uid,
                                .exchange = story.exchange,
                                .routing_key = story.routing_key,
                                .body_size = story.size,
                                .persistent = story.persistent,
                                .priority = story.priority,
                                .expiration_ms = story.expiration_ms,
                                .identifier = story.identifier};
    struct message *message = make_message(&wish);
    int expected = 0;
    memset(model.publishing, 0, sizeof(model.publishing));
    for (int i = 0; i < QUEUES; i++) {
        if (!model.queues[i].exists || (to_all ? !model.all[i] : i != only))
            continue;
        arrive(i, &story, message, false);
        expected++;
        model.confirms_due += model.queues[i].overflow != OVERFLOW_DROP_HEAD;
    }
    uint32_t due = model.confirms_due, answers;
    TRACE("publish %" PRIu64 " to '%s' with %s", story.uid, story.exchange, story.routing_key);
    int count = publish(model.shard, message, model.clients[0], story.uid, &answers);
    REQUIRE(count == expected && answers == due, "%d targets, not %d", count, expected);
}

static int
some_queue(void)
{
    for (int tries = 0; tries < 50; tries++) {
        int number = (int)pick(QUEUES);
        if (model.queues[number].exists)
            return number;
    }
    return -1;
}

static void
do_subscribe(void)
{
    int number = some_queue(), free_slot = -1;
    for (int i = 0; i < CONSUMERS_MAX; i++)
        if (!model.consumers[i].exists)
            free_slot = i;
    if (number < 0 || free_slot < 0)
        return;
    for (uint32_t i = 0; i < model.outstanding_count; i++)
        if (model.outstanding[i].consumer == free_slot)
            model.outstanding[i].consumer = -1; /* of an earlier one */
    struct consumer *consumer = &model.consumers[free_slot];
    *consumer = (struct consumer){.queue = (uint8_t)number,
                                  .client = (uint8_t)pick(CLIENTS),
                                  .no_ack = chance(15),
                                  .exclusive = chance(10),
                                  .prefetch = chance(80) ? 1 + (uint32_t)pick(4) : 0,
                                  .priority = chance(30) ? (int32_t)pick(3) : 0};
    bool others = consumer_count(number) > 0, is_locked = false;
    for (int i = 0; i < CONSUMERS_MAX; i++)
        is_locked |= model.consumers[i].exists && model.consumers[i].queue == number
                     && model.consumers[i].exclusive;
    struct subscription_request request = {.consumer = (uint32_t)free_slot,
                                           .prefetch = consumer->prefetch,
                                           .priority = consumer->priority,
                                           .no_ack = consumer->no_ack,
                                           .exclusive = consumer->exclusive};
    if (consumer->no_ack)
        consumer->prefetch = 0;
    TRACE("subscribe %d to q%d: prefetch %u priority %d no-ack %d exclusive %d", free_slot, number,
          consumer->prefetch, consumer->priority, consumer->no_ack, consumer->exclusive);
    model.asked_consumer = free_slot;
    model.reply_expected = true;
    model.expected = is_locked || (consumer->exclusive && (others || model.queues[number].sac))
                         ? QUEUE_EXCLUSIVE_USE
                         : QUEUE_OK;
    send_subscribe(model.shard, model.queues[number].ref, model.clients[consumer->client],
                   &request);
}

static void
queue_is_gone(int number)
{
    struct model_queue *queue = &model.queues[number];
    while (queue->first != NULL)
        remove_item(queue, queue->first);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < model.outstanding_count; i++)
        if (model.outstanding[i].queue != number)
            model.outstanding[kept++] = model.outstanding[i];
    model.outstanding_count = kept;
    queue->exists = false;
}

/* Settles those of the client's deliveries from at on that follow each other in the queue. */
static void
settle_run(uint32_t at, uint32_t most, enum settle_outcome outcome)
{
    struct outstanding first = model.outstanding[at];
    struct model_queue *queue = &model.queues[first.queue];
    uint32_t count = 0;
    TRACE("settle %" PRIu64 " in %s: %d", first.item->story.uid, queue->name, outcome);
    for (bool found = true; found && count < most;) {
        found = false;
        for (uint32_t i = 0; i < model.outstanding_count && !found; i++) {
            struct outstanding *this = &model.outstanding[i];
            if (this->queue != first.queue || this->tag != first.tag + count
                || this->consumer != first.consumer)
                continue;
            found = true;
            count++;
            struct item *item = this->item;
            if (this->consumer >= 0 && model.consumers[this->consumer].exists)
                model.consumers[this->consumer].unsettled--;
            *this = model.outstanding[--model.outstanding_count];
            if (outcome == SETTLE_ACKNOWLEDGED) {
                remove_item(queue, item);
                continue;
            }
            if (outcome == SETTLE_REQUEUED)
                item->returns++;
            item->must_die =
                outcome == SETTLE_REJECTED || (queue->limit >= 0 && item->returns > queue->limit);
            item->why = outcome == SETTLE_REJECTED ? DEPARTS_REJECTED : DEPARTS_DELIVERY_LIMIT;
            if (item->must_die)
                continue;
            item->place = IN_READY;
            item->redelivered = true;
        }
    }
    send_settle(model.shard, first.queue_ref, first.subscription, first.tag, count, outcome);
    for (const struct item *item = queue->first; item != NULL; item = item->next)
        REQUIRE(!item->must_die, "message %" PRIu64 " in %s should have died", item->story.uid,
                queue->name);
}

static void
do_settle(void)
{
    if (model.outstanding_count == 0)
        return;
    enum settle_outcome outcome = chance(50)   ? SETTLE_ACKNOWLEDGED
                                  : chance(60) ? SETTLE_REQUEUED
                                               : SETTLE_REJECTED;
    settle_run((uint32_t)pick(model.outstanding_count), chance(70) ? 1 : 5, outcome);
}

static void
do_unsubscribe(void)
{
    int number = (int)pick(CONSUMERS_MAX);
    struct consumer *consumer = &model.consumers[number];
    if (!consumer->exists)
        return;
    bool gives_back = chance(60);
    TRACE("unsubscribe %d from q%d", number, consumer->queue);
    consumer->exists = false;
    model.reply_expected = true;
    model.expected = QUEUE_OK;
    struct ref client = model.clients[consumer->client];
    if (model.queues[consumer->queue].auto_delete && consumer_count(consumer->queue) == 0) {
        send_plain(model.shard, MAIL_UNSUBSCRIBE, consumer->ref, client, 0);
        queue_is_gone(consumer->queue);
        return;
    }
    send_plain(model.shard, MAIL_UNSUBSCRIBE, consumer->ref, client, 0);
    for (uint32_t i = 0; i < model.outstanding_count; i++) {
        if (model.outstanding[i].consumer != number)
            continue;
        model.outstanding[i].consumer = gives_back ? number : -1;
        if (gives_back)
            settle_run(i, 1, SETTLE_REQUEUED), i = UINT32_MAX;
    }
}

static void
do_get(void)
{
    int number = some_queue();
    if (number < 0)
        return;
    struct model_queue *queue = &model.queues[number];
    model.getting = number;
    model.got_delivery = false;
    model.get_no_ack = chance(30);
    model.expected = queue->sac ? QUEUE_SINGLE_ACTIVE : QUEUE_EMPTY;
    bool has_message = !queue->sac && head_of(queue) != NULL;
    model.reply_expected = !has_message;
    send_plain(model.shard, MAIL_GET, queue->ref, model.clients[1], model.get_no_ack);
    if (model.pages)
        settle_down(); /* it may have to be read first whether the head has expired */
    REQUIRE(model.got_delivery == has_message, "basic.get of %s", queue->name);
    model.getting = -1;
}

static void
do_purge(void)
{
    int number = some_queue();
    if (number < 0)
        return;
    struct model_queue *queue = &model.queues[number];
    uint32_t ready = count_in(queue, IN_READY);
    while (head_of(queue) != NULL)
        remove_item(queue, head_of(queue));
    model.reply_expected = true;
    model.expected = QUEUE_OK;
    send_plain(model.shard, MAIL_PURGE, queue->ref, model.clients[0], 0);
    REQUIRE(model.reply_messages == ready, "purged %" PRIu64 ", not %u", model.reply_messages,
            ready);
}

static void
do_delete(void)
{
    int number = some_queue();
    if (number < 0)
        return;
    struct model_queue *queue = &model.queues[number];
    uint8_t flags = (uint8_t)pick(4);
    uint32_t ready = count_in(queue, IN_READY);
    model.reply_expected = true;
    model.expected = (flags & 2) != 0 && ready > 0                    ? QUEUE_NOT_EMPTY
                     : (flags & 1) != 0 && consumer_count(number) > 0 ? QUEUE_IN_USE
                                                                      : QUEUE_OK;
    bool goes = model.expected == QUEUE_OK;
    send_plain(model.shard, MAIL_DELETE, queue->ref, model.clients[0], flags);
    if (!goes)
        return;
    REQUIRE(model.reply_messages == ready, "deleted with %" PRIu64, model.reply_messages);
    REQUIRE(consumer_count(number) == 0, "a consumer of %s was not told", queue->name);
    queue_is_gone(number);
}

static void
do_create(void)
{
    for (int i = 0; i < QUEUES; i++) {
        if (model.queues[i].exists)
            continue;
        create_queue(i);
        return;
    }
}

/* Memory gets scarce, or is no longer. */
static void
do_memory(void)
{
    if (model.pages)
        model.shard->memory_share = model.shard->memory_most = chance(60) ? 0 : UINT64_MAX;
}

static void
do_time(void)
{
    set_clock(clock_now() + (chance(90) ? (int64_t)pick(30) : (int64_t)pick(TIME_STEP_MAX)));
}

static void
up(void)
{
    static struct item items[ITEMS_MAX];
    memset(&model, 0, sizeof(model));
    model.getting = -1;
    model.next_uid = 1;
    for (int i = 0; i < ITEMS_MAX; i++) {
        items[i].next = model.free_items;
        model.free_items = &items[i];
    }
    broker_up(1, model_receive);
    model.shard = test_broker->shards[0];
    model.pages = chance(30);
    if (model.pages)
        model.shard->memory_share = model.shard->memory_most = 0;
    for (int i = 0; i < CLIENTS; i++)
        model.clients[i] = ref_table_add(&model.shard->clients, &client_numbers[i]);
    for (int i = 0; i < QUEUES; i++) {
        model.spread[i] = chance(40);
        model.all[i] = chance(60);
    }
    model.all_dlx = chance(50) ? (int)pick(QUEUES + 1) : -1;
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    char key[8];
    snprintf(key, sizeof(key), "q%d", model.all_dlx);
    if (model.all_dlx >= 0) {
        amqp_table_builder_put_string(&arguments, SLICE("x-dead-letter-exchange"),
                                      model.all_dlx == QUEUES ? SLICE("spread") : SLICE(""));
        if (model.all_dlx < QUEUES)
            amqp_table_builder_put_string(&arguments, SLICE("x-dead-letter-routing-key"),
                                          slice_from(key));
    }
    declare_exchange("spread", "fanout", (struct slice){"", 0});
    declare_exchange("all", "fanout", amqp_table_builder_finish(&arguments));
    amqp_table_builder_free(&arguments);
    for (int i = 0; i < QUEUES; i++)
        create_queue(i);
}

static void
random_operations(void)
{
    static const struct {
        unsigned weight;
        void (*run)(void);
    } operations[] = {
        {400, do_publish}, {80, do_subscribe}, {50, do_unsubscribe}, {220, do_settle},
        {60, do_get},      {100, do_time},     {6, do_purge},        {10, do_delete},
        {10, do_create},   {20, do_policy},    {10, do_memory},
    };
    up();
    for (test_operation = 1; test_operation <= OPERATIONS; test_operation++) {
        unsigned sum = 0;
        for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
            sum += operations[i].weight;
        unsigned at = (unsigned)pick(sum);
        size_t chosen = 0;
        while (at >= operations[chosen].weight)
            at -= operations[chosen++].weight;
        operations[chosen].run();
        check_all();
    }
    broker_down();
}

START_TEST(queues_do_what_the_model_does)
{
    run_rounds(300, random_operations);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, queues_do_what_the_model_does);
}

int
main(void)
{
    return run_suite("broker/model_queue", add);
}
