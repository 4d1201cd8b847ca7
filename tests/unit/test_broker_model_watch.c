/* The model watches: deaths, dead letters on their way, deliveries and answers, each checked when
 * it happens. */
#include "test_broker_model.h"

#include <stdio.h>

/* --- Dying ------------------------------------------------------------------------------------ */

static bool
find_targets(int dlx, bool targets[QUEUES])
{
    for (int i = 0; i < QUEUES; i++)
        targets[i] = model.queues[i].exists && (dlx == QUEUES ? model.spread[i] : dlx == i);
    return dlx >= 0;
}

/* Where the dead of this queue go that came through the exchange; -1: nowhere. */
static int
dead_letter_target(const struct model_queue *queue, struct slice exchange)
{
    if (queue->dlx >= 0)
        return queue->dlx;
    return slice_is(exchange, "all") ? model.all_dlx : -1;
}

static void
expect_dead_letter(int number, const struct story *dead, enum departure_reason reason, uint64_t id)
{
    struct model_queue *queue = &model.queues[number];
    int dlx = dead_letter_target(queue, slice_from(dead->exchange));
    struct pending *pending = &model.pending[model.pending_count];
    if (dlx < 0) {
        model.drops++;
        return;
    }
    REQUIRE(model.pending_count++ < PENDING_MAX - 1, "too many dead letters");
    *pending = (struct pending){.story = *dead, .queue_id = queue->id, .id = id};
    pending->by_itself = reason != DEPARTS_REJECTED;
    write_death(&pending->story, number, reason);
    snprintf(pending->story.exchange, sizeof(pending->story.exchange), "%s",
             dlx == QUEUES ? "spread" : "");
    if (dlx < QUEUES)
        snprintf(pending->story.routing_key, sizeof(pending->story.routing_key), "q%d", dlx);
    /* Where it will be kept, the original must not be settled before. */
    bool targets[QUEUES];
    bool goes_to_disk = false;
    (void)find_targets(dlx, targets);
    for (int i = 0; i < QUEUES; i++)
        goes_to_disk |= targets[i] && model.queues[i].durable;
    struct journal_place *place = journal_place_of(&test_journal, queue->id, id);
    if (place != NULL && goes_to_disk && dead->persistent)
        place->awaits_copy = true;
}

static void
on_death(int number, const struct message *message, uint64_t id, enum departure_reason reason)
{
    struct model_queue *queue = &model.queues[number];
    struct item *item = find_item(queue, message, (int)reason);
    model.deaths++;
    REQUIRE(item != NULL, "message %" PRIu64 " dies in %s, where it is not", uid_of(message),
            queue->name);
    const char *name = queue->name;
    uint64_t uid = item->story.uid;
    TRACE("message %" PRIu64 " dies in %s: %d", uid, name, reason);
    switch (reason) {
    case DEPARTS_EXPIRED:
        REQUIRE(item->place == IN_READY || item->place == IN_ARRIVING,
                "message %" PRIu64 " expires in %s while it is unacknowledged", uid, name);
        REQUIRE(item->deadline_ms <= clock_now(), "message %" PRIu64 " expires early in %s", uid,
                name);
        break;
    case DEPARTS_MAXLEN:
        if (queue->overflow == OVERFLOW_DROP_HEAD) {
            REQUIRE(item == head_of(queue), "%s drops message %" PRIu64 ", not its head", name,
                    uid);
            REQUIRE(is_over(queue, 0, 0), "%s drops below its limit", name);
            REQUIRE(!has_able(number), "%s drops what it could deliver", name);
        } else {
            REQUIRE(queue->overflow == OVERFLOW_REJECT_PUBLISH_DLX && item->place == IN_ARRIVING
                        && is_over(queue, 1, item->story.size),
                    "%s refuses message %" PRIu64, name, uid);
        }
        break;
    default:
        REQUIRE(item->must_die && item->why == reason, "message %" PRIu64 " dies in %s of %d", uid,
                name, reason);
        break;
    }
    struct story story = item->story;
    remove_item(queue, item);
    if (model.publishing[number] == item && reason != DEPARTS_MAXLEN)
        model.publishing[number] = NULL;
    expect_dead_letter(number, &story, reason, id);
    /* One that was refused and died of it is no more when the refusal is told. */
    if (model.publishing[number] == item)
        model.publishing[number] = NULL, model.refused++;
}

int __real_departure_add(struct queue *queue, struct message *message, uint64_t id,
                         enum departure_reason reason, struct ref settler);
int __wrap_departure_add(struct queue *queue, struct message *message, uint64_t id,
                         enum departure_reason reason, struct ref settler);

int
__wrap_departure_add(struct queue *queue, struct message *message, uint64_t id,
                     enum departure_reason reason, struct ref settler)
{
    on_death(queue_number(queue->ref), message, id, reason);
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
    on_death(queue_number(queue->ref), test_journal.messages[id - 1].copy, id, reason);
    __real_departure_end(queue, id, reason, settler);
}

bool __real_queue_depart_refused(struct queue *queue, struct message *message);
bool __wrap_queue_depart_refused(struct queue *queue, struct message *message);

bool
__wrap_queue_depart_refused(struct queue *queue, struct message *message)
{
    int number = queue_number(queue->ref);
    /* Without a way for dead letters it is just refused. */
    bool goes_on = dead_letter_target(&model.queues[number], message_exchange(message)) >= 0;
    if (goes_on)
        on_death(number, message, queue->record->durable ? message->id : 0, DEPARTS_MAXLEN);
    REQUIRE(__real_queue_depart_refused(queue, message) == goes_on,
            "message %" PRIu64 " is dead-lettered: %d", uid_of(message), !goes_on);
    return goes_on;
}

/* --- Dead letters are published --------------------------------------------------------------- */

/* Of several that look the same, the one that waits longest. */
static struct pending *
find_pending(const struct message *message)
{
    struct difference difference = {0};
    struct pending *found = NULL;
    for (uint32_t i = 0; i < model.pending_count; i++) {
        struct pending *pending = &model.pending[i];
        if (pending->is_sent || pending->story.uid != uid_of(message))
            continue;
        struct difference other = difference_of(&pending->story, message);
        if (other.is_there)
            difference = other;
        else if (found == NULL || pending->since_ms < found->since_ms)
            found = pending;
    }
    REQUIRE(found != NULL, "a dead letter of message %" PRIu64 " that nobody expects: %s",
            uid_of(message), difference.text);
    return found;
}

static void
forget_pending(struct pending *pending)
{
    *pending = model.pending[--model.pending_count];
}

static struct pending *asking; /* the dead letter whose targets are asked */

static void
on_publish(const struct route *route, const struct message *message, enum publish_origin origin)
{
    struct pending *pending = find_pending(message);
    TRACE("message %" PRIu64 " goes on to '%s' with %s", pending->story.uid,
          pending->story.exchange, pending->story.routing_key);
    REQUIRE(pending->by_itself == (origin == PUBLISHED_BY_DEATH), "origin");
    bool targets[QUEUES];
    uint32_t count = 0, refusable = 0;
    (void)find_targets(strcmp(pending->story.exchange, "spread") == 0
                           ? QUEUES
                           : pending->story.routing_key[1] - '0',
                       targets);
    for (uint32_t i = 0; i < route->count; i++)
        REQUIRE(targets[queue_number(route->targets[i].queue)], "a wrong target");
    for (int i = 0; i < QUEUES; i++) {
        count += targets[i];
        refusable += targets[i] && model.queues[i].overflow != OVERFLOW_DROP_HEAD;
    }
    REQUIRE(count == route->count, "message %" PRIu64 " goes to %u queues, not %u",
            pending->story.uid, route->count, count);
    model.dead_letters++;
    memset(model.publishing, 0, sizeof(model.publishing));
    for (int i = 0; i < QUEUES; i++)
        if (targets[i])
            arrive(i, &pending->story, message, pending->by_itself);
    if (count > 0 && refusable == count) {
        pending->is_sent = true;
        pending->answers_due = count;
        pending->taken = 0;
        asking = pending;
    } else {
        forget_pending(pending);
        asking = NULL;
    }
}

int __real_shard_publish(struct shard *shard, const struct route *route, struct message *message,
                         struct ref from, uint64_t number, enum publish_origin origin);
int __wrap_shard_publish(struct shard *shard, const struct route *route, struct message *message,
                         struct ref from, uint64_t number, enum publish_origin origin);

int
__wrap_shard_publish(struct shard *shard, const struct route *route, struct message *message,
                     struct ref from, uint64_t number, enum publish_origin origin)
{
    bool is_departure = ref_is_none(from) || number == DEPARTURE_NUMBER;
    if (is_departure)
        on_publish(route, message, origin);
    int status = __real_shard_publish(shard, route, message, from, number, origin);
    REQUIRE(status == 0, "out of memory");
    /* Nobody asked those that may refuse if others cannot: they are full, or have it. */
    for (int i = 0; i < QUEUES && is_departure; i++)
        if (model.publishing[i] != NULL && model.publishing[i]->place == IN_ARRIVING)
            take_answer(i, !is_over(&model.queues[i], 1, model.publishing[i]->story.size));
    return status;
}

void __real_departure_answered(struct shard *shard, const struct mail *mail);
void __wrap_departure_answered(struct shard *shard, const struct mail *mail);

void
__wrap_departure_answered(struct shard *shard, const struct mail *mail)
{
    int number = queue_number(mail->from);
    REQUIRE(asking != NULL && asking->answers_due > 0, "an answer that nobody asked for");
    take_answer(number, mail->flag != 0);
    asking->taken += mail->flag != 0;
    if (--asking->answers_due == 0) {
        if (asking->taken > 0) {
            forget_pending(asking);
        } else {
            asking->is_sent = false;
            asking->since_ms = clock_now();
        }
        asking = NULL;
    }
    __real_departure_answered(shard, mail);
}

/* --- Clients ---------------------------------------------------------------------------------- */

static int
find_consumer(int client, uint32_t number)
{
    REQUIRE(number < CONSUMERS_MAX && model.consumers[number].exists
                && model.consumers[number].client == client,
            "a delivery to a consumer that is not there");
    return (int)number;
}

/* It is this consumer's turn. */
static void
check_turn(int queue, int number)
{
    const struct consumer *consumer = &model.consumers[number];
    REQUIRE(consumer->queue == queue, "a delivery of a wrong queue");
    REQUIRE(is_able(number), "consumer %d of %s gets a message that it may not have", number,
            model.queues[queue].name);
    for (int i = 0; i < CONSUMERS_MAX; i++) {
        if (i == number || model.consumers[i].queue != queue || !is_able(i))
            continue;
        REQUIRE(model.consumers[i].priority <= consumer->priority,
                "consumer %d of %s goes before one of higher priority", number,
                model.queues[queue].name);
        if (model.consumers[i].priority < consumer->priority)
            continue;
        REQUIRE(model.queues[queue].last_served != number || !model.consumers[i].waits,
                "consumer %d of %s gets two, and %d, which could, none", number,
                model.queues[queue].name, i);
        model.consumers[i].waits = true;
    }
    model.consumers[number].waits = false;
    model.queues[queue].last_served = number;
}

static void
on_delivery(int client, const struct delivery *delivery)
{
    int number = queue_number(delivery->queue);
    struct model_queue *queue = &model.queues[number];
    struct item *item = find_item(queue, delivery->message, DELIVERED);
    model.deliveries++;
    TRACE("message %" PRIu64 " is delivered from %s to %d", uid_of(delivery->message), queue->name,
          (int)delivery->consumer);
    model.got_delivery = true;
    REQUIRE(item != NULL, "message %" PRIu64 " is delivered from %s, where it is not",
            uid_of(delivery->message), queue->name);
    if (item->place == IN_ARRIVING) {
        REQUIRE(!is_over(queue, 1, item->story.size), "%s takes more than its limit", queue->name);
        item->place = IN_READY;
    }
    REQUIRE(item == head_of(queue), "message %" PRIu64 " is delivered from %s before its turn",
            item->story.uid, queue->name);
    REQUIRE(item->deadline_ms >= clock_now(), "message %" PRIu64 " of %s is delivered too late",
            item->story.uid, queue->name);
    struct difference difference = difference_of(&item->story, delivery->message);
    REQUIRE(!difference.is_there, "message %" PRIu64 ": %s", item->story.uid, difference.text);
    REQUIRE(delivery->is_redelivered == item->redelivered, "message %" PRIu64 ": redelivered",
            item->story.uid);
    REQUIRE(delivery->delivery_count == (queue->limit >= 0 ? item->returns : 0),
            "message %" PRIu64 ": delivery count %u", item->story.uid, delivery->delivery_count);
    int consumer = -1;
    bool no_ack = model.get_no_ack;
    if (delivery->consumer == GET_CONSUMER) {
        REQUIRE(model.getting == number, "an answer to no basic.get");
        REQUIRE(delivery->left == count_in(queue, IN_READY) - 1, "%" PRIu64 " left",
                delivery->left);
    } else {
        consumer = find_consumer(client, delivery->consumer);
        check_turn(number, consumer);
        no_ack = model.consumers[consumer].no_ack;
        /* The bytes are on their way at once. */
        struct mail credit = {
            .type = MAIL_CREDIT,
            .to = delivery->subscription,
            .credit = {.bytes = delivery->message->body_size + DELIVERY_OVERHEAD}};
        shard_send(model.shard, &credit);
    }
    REQUIRE(delivery->no_ack == no_ack, "no-ack");
    if (no_ack) {
        remove_item(queue, item);
        return;
    }
    item->place = IN_UNACKED;
    if (consumer >= 0)
        model.consumers[consumer].unsettled++;
    REQUIRE(model.outstanding_count < OUTSTANDING_MAX, "too many outstanding");
    model.outstanding[model.outstanding_count++] =
        (struct outstanding){.queue = (uint8_t)number,
                             .consumer = consumer,
                             .queue_ref = delivery->queue,
                             .subscription = delivery->subscription,
                             .tag = delivery->tag,
                             .item = item};
}

static void
on_reply(const struct mail *mail)
{
    REQUIRE(model.reply_expected, "a reply to nothing");
    model.reply_expected = false;
    REQUIRE(mail->result == model.expected, "result %d, not %d", mail->result, model.expected);
    if (mail->flag == MAIL_SUBSCRIBE && mail->result == QUEUE_OK) {
        struct consumer *consumer = &model.consumers[model.asked_consumer];
        consumer->exists = true;
        consumer->ref = mail->reply.subscription;
        consumer->age = model.next_age++;
    }
    if (mail->flag == MAIL_PURGE || mail->flag == MAIL_DELETE)
        model.reply_messages = mail->reply.messages;
}

void
model_receive(void *context, const struct mail *mail)
{
    int client = *(int *)context;
    switch ((enum mail_type)mail->type) {
    case MAIL_DELIVER:
        on_delivery(client, &mail->deliver);
        break;
    case MAIL_REPLY:
        on_reply(mail);
        break;
    case MAIL_CONFIRM:
        REQUIRE(model.confirms_due > 0, "a confirm of nothing");
        model.confirms_due--;
        if (!mail->flag && model.publishing[queue_number(mail->from)] == NULL) {
            REQUIRE(model.refused > 0, "a refusal that killed nothing");
            model.refused--;
            break;
        }
        take_answer(queue_number(mail->from), mail->flag != 0);
        break;
    case MAIL_CANCELLED:
        REQUIRE(model.consumers[mail->consumer].exists, "cancelled twice");
        model.consumers[mail->consumer].exists = false;
        break;
    default:
        REQUIRE(false, "mail of type %d", mail->type);
    }
}
