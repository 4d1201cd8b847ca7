/* Routing against a naive model: for every binding in turn "does it match?", and from exchange to
 * exchange by recursion.
 *
 * Random exchanges of the four types, alternate exchanges, bindings between exchanges in any
 * circles, auto-delete; they come and go, and each routing must reach the same queues. */
#include "test_broker_support.h"

#include <stdio.h>

#include "broker/exchange.h"

enum {
    EXCHANGES = 8,
    QUEUES = 10,
    BINDINGS_MAX = 300,
    HEADERS = 4,
    WORDS_MAX = 6,
    KEY_SIZE = 40,
    OPERATIONS = 400,
    ROUTES_EACH = 4,
};

enum kind { DIRECT, FANOUT, TOPIC, HEADERS_TYPE, KINDS };

static const char *const kind_names[KINDS] = {"direct", "fanout", "topic", "headers"};
static const char *const header_names[HEADERS] = {"a", "b", "x-c", "x-d"};
static const char *const matches[] = {NULL, "all", "any", "all-with-x", "any-with-x"};

enum { ABSENT = -1, PRESENT = 3 /* in a binding: any value */ };

struct model_binding {
    int source, destination; /* of the exchanges; a destination from EXCHANGES on is a queue */
    char key[KEY_SIZE];
    size_t match;        /* in `matches` */
    int values[HEADERS]; /* ABSENT, a number, PRESENT */
};

static struct {
    struct {
        bool exists, auto_delete;
        enum kind kind;
        int alternate; /* -1: none; also one that does not exist */
    } exchanges[EXCHANGES];
    bool queues[QUEUES];
    struct model_binding bindings[BINDINGS_MAX];
    uint32_t count;
} model;

/* --- What matches ----------------------------------------------------------------------------- */

struct words {
    int count;
    const char *at[KEY_SIZE];
    size_t size[KEY_SIZE];
};

static struct words
split(const char *key)
{
    struct words words = {0};
    while (*key != '\0' || words.count > 0) {
        const char *end = strchr(key, '.');
        words.at[words.count] = key;
        words.size[words.count++] = end == NULL ? strlen(key) : (size_t)(end - key);
        if (end == NULL)
            break;
        key = end + 1;
        if (*key == '\0') { /* the empty word after a last dot */
            words.at[words.count] = key;
            words.size[words.count++] = 0;
            break;
        }
    }
    return words;
}

static bool
is_word(const struct words *words, int i, const char *word)
{
    return words->size[i] == strlen(word) && memcmp(words->at[i], word, words->size[i]) == 0;
}

static bool
words_match(const struct words *pattern, int p, const struct words *key, int k)
{
    if (p == pattern->count)
        return k == key->count;
    if (is_word(pattern, p, "#"))
        return words_match(pattern, p + 1, key, k)
               || (k < key->count && words_match(pattern, p, key, k + 1));
    if (k == key->count)
        return false;
    bool same =
        pattern->size[p] == key->size[k] && memcmp(pattern->at[p], key->at[k], key->size[k]) == 0;
    return (is_word(pattern, p, "*") || same) && words_match(pattern, p + 1, key, k + 1);
}

static bool
headers_match(const struct model_binding *binding, const int headers[HEADERS])
{
    bool any = binding->match == 2 || binding->match == 4, with_x = binding->match >= 3;
    uint32_t wanted = 0, found = 0;
    for (int i = 0; i < HEADERS; i++) {
        if (binding->values[i] == ABSENT || (!with_x && strncmp(header_names[i], "x-", 2) == 0))
            continue;
        wanted++;
        found += headers[i] != ABSENT
                 && (binding->values[i] == PRESENT || binding->values[i] == headers[i]);
    }
    return any ? found > 0 : found == wanted;
}

struct question {
    char keys[3][KEY_SIZE];
    size_t key_count;
    int headers[HEADERS];
};

static bool
binding_matches(const struct model_binding *binding, const struct question *question)
{
    enum kind kind = model.exchanges[binding->source].kind;
    if (kind == FANOUT)
        return true;
    if (kind == HEADERS_TYPE)
        return headers_match(binding, question->headers);
    for (size_t i = 0; i < question->key_count; i++) {
        struct words pattern = split(binding->key), key = split(question->keys[i]);
        if (kind == DIRECT ? strcmp(binding->key, question->keys[i]) == 0
                           : words_match(&pattern, 0, &key, 0))
            return true;
    }
    return false;
}

static void
model_route(int exchange, const struct question *question, bool visited[EXCHANGES],
            bool reached[QUEUES])
{
    if (exchange < 0 || !model.exchanges[exchange].exists || visited[exchange])
        return;
    visited[exchange] = true;
    bool matched = false;
    for (uint32_t i = 0; i < model.count; i++) {
        const struct model_binding *binding = &model.bindings[i];
        if (binding->source != exchange || !binding_matches(binding, question))
            continue;
        matched = true;
        if (binding->destination >= EXCHANGES)
            reached[binding->destination - EXCHANGES] = true;
        else
            model_route(binding->destination, question, visited, reached);
    }
    if (!matched)
        model_route(model.exchanges[exchange].alternate, question, visited, reached);
}

/* --- Changes ---------------------------------------------------------------------------------- */

static const char *
name_of(int place)
{
    static char names[4][8];
    static unsigned next;
    char *name = names[next++ % 4];
    snprintf(name, sizeof(names[0]), place < EXCHANGES ? "e%d" : "q%d",
             place < EXCHANGES ? place : place - EXCHANGES);
    return name;
}

static void
random_key(char key[KEY_SIZE], bool is_pattern)
{
    static const char *const words[] = {"a", "b", "", "cc", "*", "#"};
    size_t count = pick(WORDS_MAX);
    key[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            strcat(key, ".");
        strcat(key, words[pick(is_pattern || chance(3) ? 6 : 4)]);
    }
}

static void model_delete_exchange(int exchange);

static void
model_remove(uint32_t at)
{
    int source = model.bindings[at].source;
    bool is_last = true;
    model.bindings[at] = model.bindings[--model.count];
    for (uint32_t i = 0; i < model.count; i++)
        is_last &= model.bindings[i].source != source;
    if (is_last && model.exchanges[source].exists && model.exchanges[source].auto_delete)
        model_delete_exchange(source);
}

static void
model_remove_to(int destination)
{
    for (bool found = true; found;) {
        found = false;
        for (uint32_t i = 0; i < model.count && !found; i++) {
            found = model.bindings[i].destination == destination;
            if (found)
                model_remove(i);
        }
    }
}

static void
model_delete_exchange(int exchange)
{
    model.exchanges[exchange].exists = false;
    for (uint32_t i = model.count; i-- > 0;)
        if (model.bindings[i].source == exchange)
            model.bindings[i] = model.bindings[--model.count];
    model_remove_to(exchange);
}

static struct slice
arguments_of(const struct model_binding *binding, struct amqp_table_builder *builder)
{
    amqp_table_builder_init(builder);
    int first = (int)pick(HEADERS); /* their order means nothing */
    bool match_first = chance(50);
    const char *match = matches[binding->match];
    if (match != NULL && match_first)
        amqp_table_builder_put_string(builder, SLICE("x-match"), slice_from(match));
    for (int j = 0; j < HEADERS; j++) {
        int i = (first + j) % HEADERS;
        if (binding->values[i] == PRESENT)
            amqp_table_builder_put_void(builder, slice_from(header_names[i]));
        else if (binding->values[i] != ABSENT)
            amqp_table_builder_put_int64(builder, slice_from(header_names[i]), binding->values[i]);
    }
    if (match != NULL && !match_first)
        amqp_table_builder_put_string(builder, SLICE("x-match"), slice_from(match));
    return amqp_table_builder_finish(builder);
}

static int
call(const struct model_binding *binding, bool binds)
{
    struct amqp_table_builder builder;
    struct amqp_error error = {0};
    struct binding_history history;
    struct binding_request request = {
        .source = slice_from(name_of(binding->source)),
        .destination = slice_from(name_of(binding->destination)),
        .destination_is_exchange = binding->destination < EXCHANGES,
        .routing_key = slice_from(binding->key),
        .arguments = arguments_of(binding, &builder),
    };
    catalogue_lock(test_broker->catalogue);
    int status =
        binds ? catalogue_bind(test_broker->catalogue, test_vhost, &request, &history, &error)
              : catalogue_unbind(test_broker->catalogue, test_vhost, &request, &error);
    catalogue_unlock(test_broker->catalogue);
    amqp_table_builder_free(&builder);
    return status == 0 ? 0 : error.code;
}

static bool
place_exists(int place)
{
    return place < EXCHANGES ? model.exchanges[place].exists : model.queues[place - EXCHANGES];
}

static bool
is_same(const struct model_binding *a, const struct model_binding *b)
{
    return a->source == b->source && a->destination == b->destination && strcmp(a->key, b->key) == 0
           && a->match == b->match && memcmp(a->values, b->values, sizeof(a->values)) == 0;
}

static void
do_bind(void)
{
    struct model_binding binding = {.source = (int)pick(EXCHANGES),
                                    .destination = chance(30) ? (int)pick(EXCHANGES)
                                                              : EXCHANGES + (int)pick(QUEUES)};
    random_key(binding.key, true);
    bool has_arguments = model.exchanges[binding.source].kind == HEADERS_TYPE || chance(5);
    binding.match = has_arguments ? (size_t)pick(ARRAY_SIZE(matches)) : 0;
    for (int i = 0; i < HEADERS; i++)
        binding.values[i] = has_arguments && chance(40) ? (int)pick(4) : ABSENT;
    if (model.count > 0 && chance(5)) /* once more */
        binding = model.bindings[pick(model.count)];
    bool exists = place_exists(binding.source) && place_exists(binding.destination);
    TRACE("bind %s to %s by '%s'", name_of(binding.source), name_of(binding.destination),
          binding.key);
    int code = call(&binding, true);
    REQUIRE(code == (exists ? 0 : AMQP_REPLY_NOT_FOUND), "binding: %d", code);
    for (uint32_t i = 0; i < model.count; i++)
        if (is_same(&model.bindings[i], &binding))
            return;
    if (exists)
        model.bindings[model.count++] = binding;
}

static void
do_unbind(void)
{
    if (model.count == 0)
        return;
    uint32_t at = (uint32_t)pick(model.count);
    TRACE("unbind %s from %s by '%s'", name_of(model.bindings[at].destination),
          name_of(model.bindings[at].source), model.bindings[at].key);
    REQUIRE(call(&model.bindings[at], false) == 0, "unbinding");
    model_remove(at);
}

static void
do_exchange(void)
{
    int exchange = (int)pick(EXCHANGES);
    struct amqp_error error;
    if (model.exchanges[exchange].exists) {
        if (!chance(25))
            return;
        TRACE("delete e%d", exchange);
        catalogue_lock(test_broker->catalogue);
        int status = exchange_delete(test_broker->catalogue, test_vhost,
                                     slice_from(name_of(exchange)), false, &error);
        catalogue_unlock(test_broker->catalogue);
        REQUIRE(status == 0, "%s", error.text);
        model_delete_exchange(exchange);
        return;
    }
    model.exchanges[exchange].exists = true;
    model.exchanges[exchange].auto_delete = chance(20);
    model.exchanges[exchange].kind = (enum kind)pick(KINDS);
    model.exchanges[exchange].alternate = chance(50) ? (int)pick(EXCHANGES) : -1;
    struct amqp_table_builder builder;
    amqp_table_builder_init(&builder);
    if (model.exchanges[exchange].alternate >= 0)
        amqp_table_builder_put_string(&builder, SLICE("alternate-exchange"),
                                      slice_from(name_of(model.exchanges[exchange].alternate)));
    struct exchange_declaration declaration = {
        .name = slice_from(name_of(exchange)),
        .type = slice_from(kind_names[model.exchanges[exchange].kind]),
        .auto_delete = model.exchanges[exchange].auto_delete,
        .arguments = amqp_table_builder_finish(&builder),
    };
    TRACE("declare e%d %s", exchange, kind_names[model.exchanges[exchange].kind]);
    bool created;
    catalogue_lock(test_broker->catalogue);
    int status =
        exchange_declare(test_broker->catalogue, test_vhost, &declaration, &created, &error);
    catalogue_unlock(test_broker->catalogue);
    REQUIRE(status == 0 && created, "declaring e%d", exchange);
    amqp_table_builder_free(&builder);
}

static void
do_queue(void)
{
    int queue = (int)pick(QUEUES);
    if (model.queues[queue] && chance(50)) {
        TRACE("delete q%d", queue);
        model.queues[queue] = false;
        queue_delete(queue_of(find_queue(name_of(EXCHANGES + queue))));
        model_remove_to(EXCHANGES + queue);
    } else if (!model.queues[queue]) {
        model.queues[queue] = true;
        struct queue_wish wish = {.name = name_of(EXCHANGES + queue), .transient = chance(50)};
        REQUIRE(declare_queue(test_broker->shards[0], &wish) != NULL, "no queue");
    }
}

/* --- Routing ---------------------------------------------------------------------------------- */

static struct question
random_question(void)
{
    struct question question = {.key_count = chance(80) ? 1 : 1 + pick(3)};
    for (size_t i = 0; i < question.key_count; i++)
        random_key(question.keys[i], false);
    for (int i = 0; i < HEADERS; i++)
        question.headers[i] = chance(60) ? (int)pick(3) : ABSENT;
    return question;
}

static void
ask(int exchange, const struct question *question, struct route *route)
{
    struct amqp_table_builder builder;
    struct slice keys[3];
    amqp_table_builder_init(&builder);
    for (int i = 0; i < HEADERS; i++)
        if (question->headers[i] != ABSENT)
            amqp_table_builder_put_int32(&builder, slice_from(header_names[i]),
                                         question->headers[i]);
    for (size_t i = 0; i < question->key_count; i++)
        keys[i] = slice_from(question->keys[i]);
    struct amqp_properties properties = {.flags = AMQP_HAS_HEADERS,
                                         .headers = amqp_table_builder_finish(&builder)};
    struct route_request request = {
        .exchange = slice_from(name_of(exchange)),
        .routing_key = keys[0],
        .more_keys = keys + 1,
        .more_key_count = question->key_count - 1,
        .properties = &properties,
    };
    REQUIRE(catalogue_route(test_broker->catalogue, test_vhost, &request, clock_now(), route) == 0,
            "out of memory");
    amqp_table_builder_free(&builder);
}

static bool
is_target(const struct route *route, const struct queue_record *record)
{
    unsigned times = 0;
    for (uint32_t i = 0; i < route->count; i++)
        times += ref_equal(route->targets[i].queue, record->queue);
    REQUIRE(times <= 1, "a queue is a target %u times", times);
    return times == 1;
}

static void
check_route(void)
{
    int exchange = (int)pick(EXCHANGES);
    struct question question = random_question();
    bool visited[EXCHANGES] = {0}, reached[QUEUES] = {0};
    struct route route;
    uint32_t count = 0, durable = 0;
    route_init(&route);
    ask(exchange, &question, &route);
    model_route(exchange, &question, visited, reached);
    REQUIRE((route.status == ROUTE_OK) == model.exchanges[exchange].exists, "status %d",
            route.status);
    for (int i = 0; i < QUEUES; i++) {
        const struct queue_record *record = find_queue(name_of(EXCHANGES + i));
        REQUIRE((record != NULL) == model.queues[i], "q%d exists: %d", i, record != NULL);
        if (record == NULL)
            continue;
        bool is = is_target(&route, record);
        REQUIRE(is == reached[i], "'%s' (of %zu keys) from e%d %s q%d", question.keys[0],
                question.key_count, exchange, is ? "reaches" : "does not reach", i);
        count += is;
        durable += is && record->durable;
    }
    REQUIRE(route.count == count && route.durable_count == durable, "%u targets, %u durable",
            route.count, route.durable_count);
    route_fini(&route);
}

static void
random_operations(void)
{
    memset(&model, 0, sizeof(model));
    broker_up(1, client_receive);
    for (test_operation = 1; test_operation <= OPERATIONS; test_operation++) {
        uint64_t what = pick(100);
        if (what < 60 && model.count < BINDINGS_MAX)
            do_bind();
        else if (what < 80)
            do_unbind();
        else if (what < 92)
            do_exchange();
        else
            do_queue();
        for (int i = 0; i < ROUTES_EACH; i++)
            check_route();
    }
    settle_down();
    broker_down();
}

START_TEST(routes_reach_what_the_model_reaches)
{
    run_rounds(200, random_operations);
}
END_TEST

/* --- Consistent hash -------------------------------------------------------------------------- */

enum { KEYS = 4000, RING_QUEUES = 8, RING_WEIGHT = 3 };

static void
route_keys(struct ref owners[KEYS])
{
    struct route route;
    route_init(&route);
    for (int i = 0; i < KEYS; i++) {
        char key[16];
        snprintf(key, sizeof(key), "key-%d", i);
        struct route_request request = {.exchange = SLICE("ring"), .routing_key = slice_from(key)};
        ck_assert_int_eq(catalogue_route(test_broker->catalogue, test_vhost, &request, 0, &route),
                         0);
        ck_assert_uint_eq(route.count, 1);
        owners[i] = route.targets[0].queue;
    }
    route_fini(&route);
}

static void
add_to_ring(int number, int weight)
{
    char name[8], key[8];
    snprintf(name, sizeof(name), "r%d", number);
    snprintf(key, sizeof(key), "%d", weight);
    declare_queue(test_broker->shards[0], &(struct queue_wish){.name = name});
    bind_queue("ring", name, key, (struct slice){"", 0});
}

START_TEST(a_new_queue_of_a_consistent_hash_takes_its_share_and_moves_no_other)
{
    static struct ref before[KEYS], after[KEYS];
    broker_up(1, client_receive);
    declare_exchange("ring", "x-consistent-hash", (struct slice){"", 0});
    for (int i = 0; i < RING_QUEUES; i++)
        add_to_ring(i, RING_WEIGHT);
    route_keys(before);
    add_to_ring(RING_QUEUES, 2 * RING_WEIGHT);
    route_keys(after);
    struct ref added = find_queue("r8")->queue;
    int moved = 0;
    for (int i = 0; i < KEYS; i++) {
        if (ref_equal(before[i], after[i]))
            continue;
        moved++;
        ck_assert(ref_equal(after[i], added));
    }
    /* Twice the weight of each of the eight: a fifth of all. */
    ck_assert_int_gt(moved, KEYS / 5 * 3 / 4);
    ck_assert_int_lt(moved, KEYS / 5 * 5 / 4);
    queue_delete(queue_of(find_queue("r8")));
    route_keys(after);
    ck_assert_int_eq(memcmp(before, after, sizeof(before)), 0);
    broker_down();
}
END_TEST

START_TEST(a_queue_that_leaves_a_consistent_hash_moves_no_key_but_its_own)
{
    static struct ref before[KEYS], after[KEYS];
    broker_up(1, client_receive);
    declare_exchange("ring", "x-consistent-hash", (struct slice){"", 0});
    for (int i = 0; i < RING_QUEUES; i++)
        add_to_ring(i, RING_WEIGHT);
    route_keys(before);
    struct ref gone = find_queue("r2")->queue;
    queue_delete(queue_of(find_queue("r2")));
    route_keys(after);
    for (int i = 0; i < KEYS; i++) {
        ck_assert(!ref_equal(after[i], gone));
        if (!ref_equal(before[i], gone))
            ck_assert(ref_equal(after[i], before[i]));
    }
    broker_down();
}
END_TEST

/* A restart restores bindings in an order of its own. */
START_TEST(a_consistent_hash_does_not_depend_on_the_order_of_its_bindings)
{
    static struct ref keys[KEYS];
    static char forwards[KEYS], backwards[KEYS];
    for (int turn = 0; turn < 2; turn++) {
        broker_up(1, client_receive);
        declare_exchange("ring", "x-consistent-hash", (struct slice){"", 0});
        for (int i = 0; i < RING_QUEUES; i++) {
            int number = turn == 0 ? i : RING_QUEUES - 1 - i;
            add_to_ring(number, 1 + number % 3);
        }
        route_keys(keys);
        for (int i = 0; i < KEYS; i++) {
            const struct queue *queue = ref_table_find(&test_broker->shards[0]->queues, keys[i]);
            (turn == 0 ? forwards : backwards)[i] = queue->record->name.data[1];
        }
        broker_down();
    }
    ck_assert_int_eq(memcmp(forwards, backwards, KEYS), 0);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, routes_reach_what_the_model_reaches);
    tcase_add_test(tests, a_new_queue_of_a_consistent_hash_takes_its_share_and_moves_no_other);
    tcase_add_test(tests, a_queue_that_leaves_a_consistent_hash_moves_no_key_but_its_own);
    tcase_add_test(tests, a_consistent_hash_does_not_depend_on_the_order_of_its_bindings);
}

int
main(void)
{
    return run_suite("broker/model_route", add);
}
