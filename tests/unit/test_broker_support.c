/* Support of the tests of the core: see the header. */
#include "test_broker_support.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"

uint64_t test_seed, test_operation;
struct random test_random;
bool test_traces;
struct broker *test_broker;
struct vhost *test_vhost;
struct test_journal test_journal;
static int64_t now_ms;

/* --- Randomness ------------------------------------------------------------------------------- */

static uint64_t
from_environment(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text == NULL ? fallback : strtoull(text, NULL, 0);
}

/* A crash says the seed, too. */
static void
on_crash(int signal_number)
{
    char text[96];
    int size = snprintf(text, sizeof(text),
                        "WHIPPET_TEST_SEED=%" PRIu64 ", operation %" PRIu64 ": crashed\n",
                        test_seed, test_operation);
    if (write(STDERR_FILENO, text, (size_t)size) == size)
        raise(signal_number);
}

void
run_rounds(unsigned rounds, void (*round)(void))
{
    test_traces = getenv("WHIPPET_TEST_TRACE") != NULL;
    uint64_t first = from_environment("WHIPPET_TEST_SEED", 0);
    uint64_t count = first != 0 ? 1 : rounds * from_environment("WHIPPET_TEST_ROUNDS", 1);
    if (first == 0) {
        random_bytes(&first, sizeof(first));
        first = first % 1000000000 + 1;
    }
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND | SA_NODEFER};
    sigaction(SIGABRT, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    printf("seeds %" PRIu64 " to %" PRIu64 "\n", first, first + count - 1);
    fflush(stdout);
    for (uint64_t i = 0; i < count; i++) {
        test_seed = first + i;
        test_operation = 0;
        random_init_with(&test_random, test_seed);
        round();
    }
}

void
test_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    char text[2000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    ck_abort_msg("WHIPPET_TEST_SEED=%" PRIu64 ", operation %" PRIu64 ", %s:%d: %s\n  %s", test_seed,
                 test_operation, file, line, condition, text);
    abort(); /* not reached: it jumps out of the test, or ends its process */
}

void
test_trace(const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "%4" PRIu64 " @%" PRId64 " ", test_operation, now_ms);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* --- The journal ------------------------------------------------------------------------------ */

static struct journal_message *
message_at(struct test_journal *journal, uint64_t id)
{
    REQUIRE(id > 0 && id <= journal->count, "the journal never gave out the id %" PRIu64, id);
    return &journal->messages[id - 1];
}

static struct journal_place *
place_in(struct journal_message *message, uint64_t queue_id)
{
    for (uint32_t i = 0; i < message->place_count; i++)
        if (message->places[i].queue_id == queue_id)
            return &message->places[i];
    return NULL;
}

static int
keep(struct test_journal *journal, const struct message *message, const uint64_t *queue_ids,
     uint32_t count, uint32_t delay_ms, bool is_transient, uint64_t *id)
{
    REQUIRE(count > 0 && count <= JOURNAL_QUEUES_MAX, "%u queues", count);
    if (journal->count == journal->capacity) {
        size_t capacity = journal->capacity == 0 ? 256 : 2 * journal->capacity;
        struct journal_message *grown =
            realloc(journal->messages, capacity * sizeof(struct journal_message));
        if (grown == NULL)
            return -ENOMEM;
        journal->messages = grown;
        journal->capacity = capacity;
    }
    struct message *copy = message_copy(message);
    if (copy == NULL)
        return -ENOMEM;
    message_set_published(copy, message_published_ms(message));
    *id = journal->count + 1;
    struct journal_message *kept = &journal->messages[journal->count++];
    *kept = (struct journal_message){.id = *id,
                                     .uid = uid_of(message),
                                     .copy = copy,
                                     .is_transient = is_transient,
                                     .place_count = count,
                                     .delay_ms = delay_ms};
    for (uint32_t i = 0; i < count; i++) {
        REQUIRE(queue_ids[i] != 0 && place_in(kept, queue_ids[i]) == NULL,
                "queue %" PRIu64 " twice in one record", queue_ids[i]);
        kept->places[i].queue_id = queue_ids[i];
    }
    return 0;
}

static int
journal_publish(void *context, struct message *message, const uint64_t *queue_ids, uint32_t count,
                int64_t wall_ms, uint32_t delay_ms)
{
    struct test_journal *journal = context;
    (void)wall_ms;
    REQUIRE(message->id == 0, "message %" PRIu64 " is published twice", uid_of(message));
    if (journal->fail_publishes > 0) {
        journal->fail_publishes--;
        return -ENOMEM;
    }
    int status = keep(journal, message, queue_ids, count, delay_ms, false, &message->id);
    if (status != 0)
        return status;
    journal->published++;
    for (size_t i = 0; i + 1 < journal->count; i++) /* what waited for this copy may go */
        if (journal->messages[i].uid == uid_of(message))
            for (uint32_t j = 0; j < journal->messages[i].place_count; j++)
                journal->messages[i].places[j].awaits_copy = false;
    return 0;
}

static uint64_t
journal_definitions_made(void *context)
{
    const struct test_journal *journal = context;
    return journal->definitions_made;
}

static uint64_t
journal_definitions_written(void *context)
{
    const struct test_journal *journal = context;
    return journal->definitions_written;
}

static int
journal_page(void *context, const struct message *message, uint64_t queue_id, uint64_t *id)
{
    return keep(context, message, &queue_id, 1, 0, true, id);
}

static struct message *
journal_read(void *context, uint64_t id)
{
    struct test_journal *journal = context;
    struct journal_message *kept = message_at(context, id);
    struct message *message = kept->copy == NULL ? NULL : message_copy(kept->copy);
    journal->reads++;
    if (message == NULL)
        return NULL;
    message_set_published(message, message_published_ms(kept->copy));
    if (!kept->is_transient)
        message->id = id;
    return message;
}

static void
journal_settle(void *context, uint64_t queue_id, uint64_t id)
{
    struct journal_message *kept = message_at(context, id);
    struct journal_place *place = place_in(kept, queue_id);
    REQUIRE(place != NULL,
            "queue %" PRIu64 " settles message %" PRIu64 ", which it was never given", queue_id,
            kept->uid);
    REQUIRE(!place->is_settled, "queue %" PRIu64 " settles message %" PRIu64 " twice", queue_id,
            kept->uid);
    REQUIRE(!place->awaits_copy,
            "queue %" PRIu64 " settles message %" PRIu64 " before its dead letter is kept",
            queue_id, kept->uid);
    place->is_settled = true;
    for (uint32_t i = 0; i < kept->place_count; i++)
        if (!kept->places[i].is_settled)
            return;
    message_unref(kept->copy);
    kept->copy = NULL;
}

static void
journal_returned(void *context, uint64_t queue_id, uint64_t id, uint32_t count)
{
    struct journal_place *place = place_in(message_at(context, id), queue_id);
    REQUIRE(place != NULL && !place->is_settled, "a message came back that had left");
    REQUIRE(count == place->returns + 1, "returned %u times after %u", count, place->returns);
    place->returns = count;
}

void
test_journal_init(struct test_journal *journal)
{
    *journal = (struct test_journal){.table = {.context = journal,
                                               .publish = journal_publish,
                                               .page = journal_page,
                                               .definitions_made = journal_definitions_made,
                                               .definitions_written = journal_definitions_written,
                                               .read = journal_read,
                                               .settle = journal_settle,
                                               .returned = journal_returned}};
}

void
test_journal_fini(struct test_journal *journal)
{
    for (size_t i = 0; i < journal->count; i++)
        if (journal->messages[i].copy != NULL)
            message_unref(journal->messages[i].copy);
    free(journal->messages);
    *journal = (struct test_journal){0};
}

struct journal_place *
journal_place_of(struct test_journal *journal, uint64_t queue_id, uint64_t id)
{
    return id == 0 || id > journal->count ? NULL : place_in(&journal->messages[id - 1], queue_id);
}

bool
journal_has(const struct test_journal *journal, uint64_t queue_id, uint64_t id)
{
    if (id == 0 || id > journal->count)
        return false;
    const struct journal_place *place = place_in(&journal->messages[id - 1], queue_id);
    return place != NULL && !place->is_settled;
}

size_t
journal_holds(const struct test_journal *journal, uint64_t queue_id)
{
    size_t count = 0;
    for (size_t i = 0; i < journal->count; i++)
        count += journal_has(journal, queue_id, i + 1);
    return count;
}

/* --- The broker ------------------------------------------------------------------------------- */

static void
wake(void *context)
{
    (void)context;
}

void
broker_up(uint32_t shards, void (*receive)(void *client, const struct mail *mail))
{
    test_journal_init(&test_journal);
    test_broker = broker_new(shards);
    REQUIRE(test_broker != NULL && catalogue_vhost_add(test_broker->catalogue, SLICE("/")) == 0,
            "no broker");
    test_vhost = catalogue_vhost_find(test_broker->catalogue, SLICE("/"));
    for (uint32_t i = 0; i < shards; i++) {
        shard_set_host(test_broker->shards[i], (struct client_ops){.receive = receive}, wake, NULL);
        test_broker->shards[i]->journal = &test_journal.table;
    }
    set_clock(1000);
    settle_down();
}

void
broker_down(void)
{
    vhost_unref(test_vhost);
    broker_free(test_broker);
    test_journal_fini(&test_journal);
    REQUIRE(memory_held() == 0, "%" PRIu64 " bytes of messages and places are left", memory_held());
}

void
set_clock(int64_t ms)
{
    now_ms = ms;
    for (uint32_t i = 0; i < test_broker->shard_count; i++)
        shard_set_time(test_broker->shards[i], ms, ms);
}

int64_t
clock_now(void)
{
    return now_ms;
}

void
settle_down(void)
{
    bool has_more = true;
    for (unsigned turns = 0; has_more; turns++) {
        REQUIRE(turns < 100000, "the shards never come to rest");
        has_more = false;
        for (uint32_t i = 0; i < test_broker->shard_count; i++) {
            has_more |= shard_run(test_broker->shards[i]);
            shard_flush(test_broker->shards[i]);
        }
        for (uint32_t i = 0; i < test_broker->shard_count; i++)
            has_more |=
                shard_has_mail(test_broker->shards[i]) || shard_has_work(test_broker->shards[i]);
    }
}

static void
lock(void)
{
    catalogue_lock(test_broker->catalogue);
}

static void
unlock(void)
{
    catalogue_unlock(test_broker->catalogue);
}

struct queue_record *
declare_queue(struct shard *shard, struct queue_wish *wish)
{
    struct queue_declaration declaration = {
        .name = slice_from(wish->name),
        .durable = !wish->transient,
        .auto_delete = wish->auto_delete,
        .exclusive = wish->exclusive,
        .arguments = wish->has_arguments ? amqp_table_builder_finish(&wish->arguments)
                                         : (struct slice){"", 0},
    };
    struct queue_options options;
    struct amqp_error error;
    struct queue_record *record = NULL;
    int status = queue_options_parse(&options, &declaration, SLICE("/"), &error);
    REQUIRE(status == 0, "queue %s: %s", wish->name, error.text);
    lock();
    record = queue_record_new(test_broker->catalogue, test_vhost, &declaration, &options, 0);
    struct queue *queue = record == NULL ? NULL : queue_new(shard, record);
    if (queue == NULL || queue_record_insert(test_broker->catalogue, record) != 0) {
        if (queue != NULL)
            queue_discard(queue);
        if (record != NULL)
            queue_record_free(record);
        record = NULL;
    }
    unlock();
    if (wish->has_arguments)
        amqp_table_builder_free(&wish->arguments);
    return record;
}

struct queue_record *
find_queue(const char *name)
{
    lock();
    struct queue_record *record =
        queue_record_find(test_broker->catalogue, test_vhost, slice_from(name));
    unlock();
    return record;
}

struct queue *
queue_of(const struct queue_record *record)
{
    return ref_table_find(&test_broker->shards[record->queue.shard]->queues, record->queue);
}

void
declare_exchange(const char *name, const char *type, struct slice arguments)
{
    struct exchange_declaration declaration = {.name = slice_from(name),
                                               .type = slice_from(type),
                                               .durable = true,
                                               .arguments = arguments};
    struct amqp_error error;
    bool created;
    lock();
    int status =
        exchange_declare(test_broker->catalogue, test_vhost, &declaration, &created, &error);
    unlock();
    REQUIRE(status == 0 && created, "exchange %s: %s", name, status == 0 ? "exists" : error.text);
}

static void
bind(const char *exchange, const char *to, bool to_exchange, const char *key,
     struct slice arguments)
{
    struct binding_request request = {
        .source = slice_from(exchange),
        .destination = slice_from(to),
        .destination_is_exchange = to_exchange,
        .routing_key = slice_from(key),
        .arguments = arguments,
    };
    struct binding_history history;
    struct amqp_error error;
    lock();
    int status = catalogue_bind(test_broker->catalogue, test_vhost, &request, &history, &error);
    unlock();
    REQUIRE(status == 0, "binding %s to %s: %s", to, exchange, error.text);
    for (size_t i = 0; i < history.count; i++)
        message_unref(history.messages[i]);
    free(history.messages);
}

void
bind_queue(const char *exchange, const char *queue, const char *key, struct slice arguments)
{
    bind(exchange, queue, false, key, arguments);
}

void
bind_exchange(const char *exchange, const char *to, const char *key, struct slice arguments)
{
    bind(exchange, to, true, key, arguments);
}

/* --- Messages --------------------------------------------------------------------------------- */

struct message *
make_message(const struct message_wish *wish)
{
    struct amqp_properties properties = {0};
    struct amqp_table_builder headers;
    char expiration[24], identifier[24];
    uint8_t wire[256];
    amqp_table_builder_init(&headers);
    if (wish->persistent) {
        properties.flags |= AMQP_HAS_DELIVERY_MODE;
        properties.delivery_mode = AMQP_PERSISTENT;
    }
    if (wish->priority >= 0) {
        properties.flags |= AMQP_HAS_PRIORITY;
        properties.priority = (uint8_t)wish->priority;
    }
    if (wish->expiration_ms >= 0) {
        snprintf(expiration, sizeof(expiration), "%" PRId64, wish->expiration_ms);
        properties.flags |= AMQP_HAS_EXPIRATION;
        properties.expiration = slice_from(expiration);
    }
    if (wish->identifier != 0) {
        snprintf(identifier, sizeof(identifier), "%" PRIu64, wish->identifier);
        amqp_table_builder_put_string(&headers, SLICE("x-deduplication-header"),
                                      slice_from(identifier));
    }
    if (wish->delay_ms != 0)
        amqp_table_builder_put_int64(&headers, SLICE("x-delay"), wish->delay_ms);
    properties.headers = amqp_table_builder_finish(&headers);
    if (properties.headers.size > 0)
        properties.flags |= AMQP_HAS_HEADERS;
    struct amqp_writer writer = amqp_writer_of(wire, sizeof(wire));
    amqp_properties_encode(&writer, &properties);
    struct message_parts parts = {
        .exchange = slice_from(wish->exchange),
        .routing_key = slice_from(wish->routing_key),
        .properties = {(const char *)wire, amqp_properties_size(&properties)},
        .decoded = &properties,
        .expiration_ms = wish->expiration_ms < 0 ? MESSAGE_NO_EXPIRATION : wish->expiration_ms,
        .body_size = wish->body_size < sizeof(wish->uid) ? sizeof(wish->uid) : wish->body_size,
    };
    struct message *message = amqp_table_builder_failed(&headers) ? NULL : message_new(&parts);
    amqp_table_builder_free(&headers);
    if (message == NULL)
        return NULL;
    memset(message_body_data(message), 0, parts.body_size);
    memcpy(message_body_data(message), &wish->uid, sizeof(wish->uid));
    return message;
}

uint64_t
uid_of(const struct message *message)
{
    uint64_t uid;
    memcpy(&uid, message_body(message).data, sizeof(uid));
    return uid;
}

int
publish(struct shard *shard, struct message *message, struct ref client, uint64_t number,
        uint32_t *answers)
{
    struct amqp_properties properties;
    REQUIRE(amqp_properties_decode(message_properties(message), &properties), "bad properties");
    struct route_request request = {
        .exchange = message_exchange(message),
        .routing_key = message_routing_key(message),
        .properties = &properties,
        .message = message,
    };
    struct route route;
    route_init(&route);
    int status =
        catalogue_route(test_broker->catalogue, test_vhost, &request, shard->now_ms, &route);
    int count = -1;
    *answers = 0;
    if (status != 0) {
        message_unref(message);
    } else {
        *answers = route.may_reject_count;
        if (shard_publish(shard, &route, message, client, number, PUBLISHED_BY_CLIENT) == 0)
            count = (int)route.count;
    }
    route_fini(&route);
    return count;
}

void
send_subscribe(struct shard *shard, struct ref queue, struct ref client,
               const struct subscription_request *request)
{
    struct mail mail = {.type = MAIL_SUBSCRIBE, .to = queue, .from = client, .subscribe = *request};
    shard_send(shard, &mail);
}

void
send_settle(struct shard *shard, struct ref queue, struct ref subscription, uint64_t tag,
            uint32_t count, enum settle_outcome outcome)
{
    struct mail mail = {
        .type = MAIL_SETTLE,
        .result = (uint8_t)outcome,
        .to = queue,
        .settle = {.tag = tag, .count = count, .subscription = subscription},
    };
    shard_send(shard, &mail);
}

void
send_plain(struct shard *shard, enum mail_type type, struct ref to, struct ref from, uint8_t flag)
{
    struct mail mail = {.type = (uint8_t)type, .flag = flag, .to = to, .from = from};
    shard_send(shard, &mail);
}

/* --- A client that notes what it gets --------------------------------------------------------- */

void
client_init(struct test_client *client, struct shard *shard)
{
    *client = (struct test_client){.shard = shard};
    client->ref = ref_table_add(&shard->clients, client);
}

void
client_fini(struct test_client *client)
{
    for (size_t i = 0; i < client->count; i++)
        message_unref(client->seen[i].message);
    free(client->seen);
    ref_table_remove(&client->shard->clients, client->ref);
}

static void
note_delivery(struct test_client *client, const struct delivery *delivery)
{
    if (client->count == client->capacity) {
        client->capacity = client->capacity == 0 ? 64 : 2 * client->capacity;
        client->seen = realloc(client->seen, client->capacity * sizeof(*client->seen));
        REQUIRE(client->seen != NULL, "out of memory");
    }
    client->seen[client->count++] = (struct seen_delivery){
        .uid = uid_of(delivery->message),
        .tag = delivery->tag,
        .left = delivery->left,
        .consumer = delivery->consumer,
        .delivery_count = delivery->delivery_count,
        .is_redelivered = delivery->is_redelivered,
        .no_ack = delivery->no_ack,
        .queue = delivery->queue,
        .subscription = delivery->subscription,
        .message = message_ref(delivery->message),
    };
}

void
client_receive(void *context, const struct mail *mail)
{
    struct test_client *client = context;
    switch ((enum mail_type)mail->type) {
    case MAIL_DELIVER:
        note_delivery(client, &mail->deliver);
        break;
    case MAIL_REPLY:
        client->reply = *mail;
        client->replies++;
        break;
    case MAIL_CONFIRM:
        client->accepted += mail->flag != 0;
        client->refused += mail->flag == 0;
        client->written += mail->flag != 0 && mail->result != 0;
        break;
    case MAIL_LOST:
        client->lost++;
        break;
    case MAIL_CANCELLED:
        client->cancelled++;
        break;
    case MAIL_WANT:
        client->wants++;
        break;
    case MAIL_UNUSED:
        client->unused += mail->credit.messages;
        break;
    default:
        REQUIRE(false, "mail of type %d", mail->type);
    }
}

struct ref
client_subscribe(struct test_client *client, const struct queue_record *queue,
                 const struct subscription_request *request)
{
    client->replies = 0;
    send_subscribe(client->shard, queue->queue, client->ref, request);
    settle_down();
    REQUIRE(client->replies == 1 && client->reply.result == QUEUE_OK, "not subscribed");
    return client->reply.reply.subscription;
}

void
client_settle(struct test_client *client, const struct seen_delivery *delivery,
              enum settle_outcome outcome)
{
    send_settle(client->shard, delivery->queue, delivery->subscription, delivery->tag, 1, outcome);
    settle_down();
}

int
run_suite(const char *name, void (*add)(TCase *tests))
{
    atomic_store(&log_threshold, -1); /* errors are provoked here */
    Suite *suite = suite_create(name);
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 300); /* for a machine that is busy; it takes a second or two */
    add(tests);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
