/* Policies: what may be said, which one applies to what, and what comes of it together with the
 * arguments. */
#include <errno.h>
#include <stdio.h>

#include "broker/exchange.h"
#include "test_broker_policy.h"

static struct shard *shard;

static void
set_up(void)
{
    broker_up(2, client_receive);
    shard = test_broker->shards[0];
}

static void
tear_down(void)
{
    broker_down();
}

/* The policy that applies to the queue. */
static const char *
policy_of(const struct queue_record *record)
{
    static char text[256];
    struct slice name = queue_record_policy(record, false);
    snprintf(text, sizeof(text), "%.*s", SLICE_ARGS(name));
    return text;
}

static const struct queue_options *
holds(const struct queue_record *record)
{
    return &queue_of(record)->options;
}

/* --- What may be said ------------------------------------------------------------------------- */

static const struct {
    const struct said *says;
    bool is_operator;
    const char *text;
} refused[] = {
    {SAY({0}), false, "no policy provided"},
    {SAY({"foo", .number = 1}), false, "'foo' is not a recognised policy setting"},
    {SAY({"max-length", .number = -1}), false, "-1 is not a valid maximum length"},
    {SAY({"max-length", .text = "x"}), false, "\"x\" is not a valid maximum length"},
    {SAY({"max-length-bytes", .number = -1}), false, "-1 is not a valid maximum length in bytes"},
    {SAY({"message-ttl", .number = -1}), false, "-1 is not a valid message TTL"},
    {SAY({"expires", .number = 0}), false, "0 is not a valid queue expiry"},
    {SAY({"overflow", .text = "x"}), false, "\"x\" is not a valid overflow value"},
    {SAY({"overflow", .number = 5}), false, "5 is not a valid overflow value"},
    {SAY({"delivery-limit", .number = -2}), false, "-2 is not a valid delivery limit"},
    {SAY({"dead-letter-exchange", .number = 5}), false,
     "5 is not a valid dead letter exchange name"},
    {SAY({"dead-letter-routing-key", .number = 5}), false,
     "5 is not a valid dead letter routing key"},
    {SAY({"dead-letter-strategy", .number = 5}), false, "5 is not a valid dead letter strategy"},
    {SAY({"alternate-exchange", .number = 5}), false, "5 is not a valid alternate exchange name"},
    {SAY({"queue-mode", .text = "x"}), false, "\"x\" is not a valid queue-mode value"},
    {SAY({"queue-version", .number = 3}), false, "3 is not a valid queue-version value"},
    {SAY({"max-in-memory-bytes", .number = -1}), false,
     "-1 is not a valid maximum memory in bytes"},
    {SAY({"ha-mode", .text = "x"}), false, "\"x\" is not a valid ha-mode value"},
    {SAY({"ha-mode", .text = "exactly"}), false,
     "ha-mode=\"exactly\" takes an integer, none given"},
    {SAY({"ha-mode", .text = "nodes"}), false, "ha-mode=\"nodes\" list must be non-empty"},
    {SAY({"ha-sync-mode", .text = "manual"}), false,
     "ha-mode must be specified to specify ha-params, ha-sync-mode or ha-promote-on-shutdown"},
    {SAY({"max-age", .text = "7"}), false, "\"7\" is not a valid max age"},
    {SAY({"max-length", .number = 1}, {"max-length", .number = 2}), false,
     "'max-length': duplicate keys not allowed"},
    {SAY({"dead-letter-exchange", .text = "x"}), true,
     "'dead-letter-exchange' is not a recognised operator policy setting"},
    {SAY({"alternate-exchange", .text = "x"}), true,
     "'alternate-exchange' is not a recognised operator policy setting"},
};

START_TEST(what_means_nothing_is_refused_with_a_text)
{
    char error[POLICY_ERROR_MAX];
    struct policy_wish wish = {
        .name = "p", .is_operator = refused[_i].is_operator, .says = refused[_i].says};
    ck_assert_int_eq(try_policy(&wish, error), -EINVAL);
    ck_assert_str_eq(error, refused[_i].text);
    ck_assert_str_eq(policy_of(declare_saying(shard, "q", NULL)), "");
}
END_TEST

static const struct {
    const struct said *says;
    bool is_operator;
} taken[] = {
    {SAY({"message-ttl", .number = INT64_MAX}), false}, /* for ever */
    {SAY({"delivery-limit", .number = -1}), false},     /* none */
    {SAY({"max-length", .number = 0}, {"overflow", .text = "reject-publish"}), true},
    {SAY({"ha-mode", .text = "exactly"}, {"ha-params", .number = 2}), false},
    {SAY({"queue-mode", .text = "lazy"}, {"queue-version", .number = 2}), false},
    {SAY({"queue-master-locator", .text = "min-masters"}), false},
    {SAY({"max-in-memory-length", .number = 5}), true},
    {SAY({"max-age", .text = "7D"}), false},
};

START_TEST(keys_without_effect_are_taken)
{
    set_policy(&(struct policy_wish){
        .name = "p", .is_operator = taken[_i].is_operator, .says = taken[_i].says});
}
END_TEST

START_TEST(a_pattern_that_is_none_is_refused)
{
    char error[POLICY_ERROR_MAX];
    struct policy_wish wish = {
        .name = "p", .pattern = "(", .says = SAY({"max-length", .number = 1})};
    ck_assert_int_eq(try_policy(&wish, error), -EINVAL);
    ck_assert_ptr_eq(strstr(error, "pattern should be regular expression but is invalid: "), error);
}
END_TEST

START_TEST(targets_have_names)
{
    static const char *const names[] = {"all", "exchanges", "queues", "classic_queues",
                                        "quorum_queues"};
    enum policy_target target;
    for (int i = 0; i < POLICY_TARGETS; i++) {
        ck_assert_str_eq(policy_target_name((enum policy_target)i), names[i]);
        ck_assert(policy_target_find(slice_from(names[i]), &target));
        ck_assert_int_eq(target, i);
    }
    ck_assert(!policy_target_find(SLICE("streams"), &target));
}
END_TEST

/* --- Which one applies ------------------------------------------------------------------------ */

START_TEST(a_policy_is_for_names_that_its_pattern_matches_anywhere)
{
    set_policy(&(struct policy_wish){
        .name = "p", .pattern = "work", .says = SAY({"max-length", .number = 3})});
    ck_assert_str_eq(policy_of(declare_saying(shard, "my.work.1", NULL)), "p");
    ck_assert_str_eq(policy_of(declare_saying(shard, "play", NULL)), "");
    ck_assert_int_eq(holds(find_queue("my.work.1"))->max_length, 3);
    ck_assert_int_eq(holds(find_queue("play"))->max_length, OPTION_NONE);
    set_policy(&(struct policy_wish){
        .name = "z", .pattern = "", .says = SAY({"max-length", .number = 3})});
    ck_assert_str_eq(policy_of(find_queue("play")), "z"); /* other than in permissions */
}
END_TEST

START_TEST(a_queue_that_is_there_hears_of_it_wherever_it_lives)
{
    struct queue_record *queue = declare_saying(test_broker->shards[_i], "q", NULL);
    POLICY("p", {"max-length", .number = 3});
    ck_assert_str_eq(policy_of(queue), "p");
    ck_assert_int_eq(holds(queue)->max_length, 3);
    POLICY("p", {"max-length", .number = 4});
    ck_assert_int_eq(holds(queue)->max_length, 4);
    clear_policy("p");
    ck_assert_str_eq(policy_of(queue), "");
    ck_assert_int_eq(holds(queue)->max_length, OPTION_NONE);
}
END_TEST

START_TEST(of_several_the_one_of_the_highest_priority_applies_alone)
{
    struct queue_record *early = declare_saying(shard, "early", NULL);
    set_policy(&(struct policy_wish){
        .name = "high", .priority = 2, .says = SAY({"max-length", .number = 2})});
    set_policy(&(struct policy_wish){
        .name = "low", .priority = -1, .says = SAY({"message-ttl", .number = 1})});
    struct queue_record *late = declare_saying(shard, "late", NULL);
    ck_assert_str_eq(policy_of(early), "high");
    ck_assert_str_eq(policy_of(late), "high");
    ck_assert_int_eq(holds(late)->message_ttl_ms, OPTION_NONE);
    /* It falls behind the other, and is in front again. */
    set_policy(&(struct policy_wish){
        .name = "high", .priority = -2, .says = SAY({"max-length", .number = 2})});
    ck_assert_str_eq(policy_of(early), "low");
    ck_assert_int_eq(holds(early)->max_length, OPTION_NONE);
    ck_assert_int_eq(holds(early)->message_ttl_ms, 1);
    clear_policy("low");
    ck_assert_str_eq(policy_of(early), "high");
}
END_TEST

/* RabbitMQ leaves it to chance. */
START_TEST(of_equal_priorities_the_first_name_applies)
{
    struct queue_record *early = declare_saying(shard, "early", NULL);
    POLICY("b", {"max-length", .number = 1});
    POLICY("a", {"max-length", .number = 2});
    POLICY("ab", {"max-length", .number = 3});
    ck_assert_str_eq(policy_of(early), "a");
    ck_assert_str_eq(policy_of(declare_saying(shard, "late", NULL)), "a");
    clear_policy("a");
    ck_assert_str_eq(policy_of(early), "ab");
}
END_TEST

START_TEST(a_policy_is_for_what_it_says_it_is_for)
{
    static const struct {
        enum policy_target target;
        bool classic, quorum, exchange;
    } rows[] = {
        {POLICY_ALL, true, true, true},
        {POLICY_EXCHANGES, false, false, true},
        {POLICY_QUEUES, true, true, false},
        {POLICY_CLASSIC_QUEUES, true, false, false},
        {POLICY_QUORUM_QUEUES, false, true, false},
    };
    struct queue_record *classic = declare_saying(shard, "c", NULL);
    struct queue_record *quorum =
        declare_saying(shard, "q", SAY({"x-queue-type", .text = "quorum"}));
    declare_exchange("x", "fanout", (struct slice){"", 0});
    const struct exchange *exchange = exchange_find(test_broker->catalogue, test_vhost, SLICE("x"));
    set_policy(&(struct policy_wish){
        .name = "p", .target = rows[_i].target, .says = SAY({"alternate-exchange", .text = "y"})});
    ck_assert_int_eq(queue_record_policy(classic, false).size > 0, rows[_i].classic);
    ck_assert_int_eq(queue_record_policy(quorum, false).size > 0, rows[_i].quorum);
    ck_assert_int_eq(exchange_policy(exchange, false).size > 0, rows[_i].exchange);
}
END_TEST

/* As on RabbitMQ: another one may apply then. */
START_TEST(a_policy_is_not_for_queues_whose_type_does_not_know_all_its_keys)
{
    set_policy(&(struct policy_wish){
        .name = "mirrors",
        .priority = 1,
        .says = SAY({"ha-mode", .text = "all"}, {"max-length", .number = 1})});
    POLICY("streams", {"max-age", .text = "7D"});
    POLICY("z", {"max-length", .number = 2});
    ck_assert_str_eq(policy_of(declare_saying(shard, "c", NULL)), "mirrors");
    ck_assert_str_eq(policy_of(declare_saying(shard, "q", SAY({"x-queue-type", .text = "quorum"}))),
                     "z");
}
END_TEST

START_TEST(the_store_of_a_delayed_exchange_has_no_policy)
{
    POLICY("p", {"message-ttl", .number = 1});
    declare_exchange("d", "x-delayed-message",
                     (struct slice){"\x0e"
                                    "x-delayed-typeS\0\0\0\x06"
                                    "direct",
                                    26});
    struct exchange *exchange = exchange_find(test_broker->catalogue, test_vhost, SLICE("d"));
    catalogue_lock(test_broker->catalogue);
    ck_assert_int_eq(queue_new_delay_store(shard, test_vhost, exchange, 0), 0);
    catalogue_unlock(test_broker->catalogue);
    ck_assert_str_eq(policy_of(exchange_delay_store(exchange)), "");
    ck_assert_int_eq(holds(exchange_delay_store(exchange))->message_ttl_ms, OPTION_NONE);
}
END_TEST

/* --- What holds ------------------------------------------------------------------------------- */

START_TEST(of_numbers_the_smallest_holds)
{
    struct queue_record *queue =
        declare_saying(shard, "q", SAY({"x-max-length", .number = 5}, {"x-expires", .number = 5}));
    POLICY("p", {"max-length", .number = 7}, {"expires", .number = 3}, {"message-ttl", .number = 9},
           {"max-length-bytes", .number = 100});
    ck_assert_int_eq(holds(queue)->max_length, 5);
    ck_assert_int_eq(holds(queue)->expires_ms, 3);
    ck_assert_int_eq(holds(queue)->message_ttl_ms, 9);
    OPERATOR_POLICY("o", {"max-length", .number = 4}, {"message-ttl", .number = 10},
                    {"max-length-bytes", .number = 99}, {"expires", .number = 4});
    ck_assert_int_eq(holds(queue)->max_length, 4);
    ck_assert_int_eq(holds(queue)->expires_ms, 3);
    ck_assert_int_eq(holds(queue)->message_ttl_ms, 9);
    ck_assert_int_eq(holds(queue)->max_length_bytes, 99);
}
END_TEST

START_TEST(a_time_that_is_too_long_is_the_longest_there_is)
{
    POLICY("p", {"message-ttl", .number = INT64_MAX}, {"expires", .number = INT64_MAX});
    struct queue_record *queue = declare_saying(shard, "q", NULL);
    ck_assert_int_eq(holds(queue)->message_ttl_ms, INT64_C(315360000000));
    ck_assert_int_eq(holds(queue)->expires_ms, INT64_C(315360000000));
}
END_TEST

START_TEST(a_default_of_the_queue_type_is_no_limit_that_somebody_set)
{
    const struct said quorum = {"x-queue-type", .text = "quorum"};
    struct queue_record *plain = declare_saying(shard, "plain", SAY(quorum));
    struct queue_record *limited =
        declare_saying(shard, "limited", SAY(quorum, {"x-delivery-limit", .number = 5}));
    struct queue_record *unlimited =
        declare_saying(shard, "unlimited", SAY(quorum, {"x-delivery-limit", .number = -1}));
    ck_assert_int_eq(holds(plain)->delivery_limit, 20);
    POLICY("p", {"delivery-limit", .number = 50});
    ck_assert_int_eq(holds(plain)->delivery_limit, 50);
    ck_assert_int_eq(holds(limited)->delivery_limit, 5);
    ck_assert_int_eq(holds(unlimited)->delivery_limit, 50);
    POLICY("p", {"delivery-limit", .number = -1});
    ck_assert_int_eq(holds(plain)->delivery_limit, OPTION_NONE);
    ck_assert_int_eq(holds(limited)->delivery_limit, 5);
    clear_policy("p");
    ck_assert_int_eq(holds(plain)->delivery_limit, 20);
}
END_TEST

START_TEST(of_words_and_names_the_arguments_hold)
{
    struct queue_record *says = declare_saying(
        shard, "says",
        SAY({"x-overflow", .text = "drop-head"}, {"x-dead-letter-exchange", .text = "mine"}));
    struct queue_record *silent = declare_saying(shard, "silent", NULL);
    POLICY("p", {"overflow", .text = "reject-publish"}, {"dead-letter-exchange", .text = "theirs"},
           {"dead-letter-routing-key", .text = "k"});
    ck_assert_int_eq(holds(says)->overflow, OVERFLOW_DROP_HEAD);
    ck_assert(slice_is(holds(says)->dead_letter_exchange, "mine"));
    ck_assert(slice_is(holds(says)->dead_letter_routing_key, "k")); /* each for itself */
    ck_assert_int_eq(holds(silent)->overflow, OVERFLOW_REJECT_PUBLISH);
    ck_assert(slice_is(holds(silent)->dead_letter_exchange, "theirs"));
    ck_assert(slice_is(holds(silent)->dead_letter_routing_key, "k"));
    OPERATOR_POLICY("o", {"overflow", .text = "reject-publish-dlx"});
    ck_assert_int_eq(holds(silent)->overflow, OVERFLOW_REJECT_PUBLISH_DLX);
    ck_assert_int_eq(holds(says)->overflow, OVERFLOW_DROP_HEAD);
    clear_policy("p");
    ck_assert(!holds(silent)->has_dead_letter_exchange);
    ck_assert(slice_is(holds(says)->dead_letter_exchange, "mine"));
}
END_TEST

START_TEST(what_policies_say_together_can_be_asked_for)
{
    struct queue_record *queue = declare_saying(shard, "q", SAY({"x-max-length", .number = 1}));
    POLICY("p", {"max-length", .number = 5}, {"queue-mode", .text = "lazy"});
    OPERATOR_POLICY("o", {"max-length", .number = 3}, {"expires", .number = 7});
    struct amqp_table_builder table, expected;
    amqp_table_builder_init(&table);
    amqp_table_builder_init(&expected);
    queue_record_put_policy(queue, &table);
    put_said(&expected, SAY({"max-length", .number = 3}, {"queue-mode", .text = "lazy"},
                            {"expires", .number = 7}));
    ck_assert(amqp_table_equivalent(amqp_table_builder_finish(&table),
                                    amqp_table_builder_finish(&expected)));
    ck_assert(slice_is(queue_record_policy(queue, true), "o"));
    amqp_table_builder_free(&table);
    amqp_table_builder_free(&expected);
}
END_TEST

START_TEST(an_alternate_exchange_by_policy_gives_way_to_the_argument)
{
    struct amqp_table_builder arguments;
    amqp_table_builder_init(&arguments);
    amqp_table_builder_put_string(&arguments, SLICE("alternate-exchange"), SLICE("a"));
    declare_exchange("says", "direct", amqp_table_builder_finish(&arguments));
    declare_exchange("silent", "direct", (struct slice){"", 0});
    declare_exchange("a", "fanout", (struct slice){"", 0});
    declare_exchange("b", "fanout", (struct slice){"", 0});
    struct queue_record *a = declare_saying(shard, "qa", NULL);
    struct queue_record *b = declare_saying(shard, "qb", NULL);
    bind_queue("a", "qa", "", (struct slice){"", 0});
    bind_queue("b", "qb", "", (struct slice){"", 0});
    amqp_table_builder_free(&arguments);

    static const char *const exchanges[] = {"says", "silent"};
    uint64_t generation = catalogue_generation(test_broker->catalogue);
    POLICY("p", {"alternate-exchange", .text = "b"});
    ck_assert_uint_ne(catalogue_generation(test_broker->catalogue), generation);
    uint32_t answers;
    for (int i = 0; i < 2; i++) {
        struct message_wish wish = {
            .exchange = exchanges[i], .routing_key = "?", .priority = -1, .expiration_ms = -1};
        ck_assert_int_eq(publish(shard, make_message(&wish), REF_NONE, 0, &answers), 1);
        settle_down();
        ck_assert_uint_eq(a->ready, 1);
        ck_assert_uint_eq(b->ready, i);
    }
    clear_policy("p");
    struct message_wish wish = {
        .exchange = "silent", .routing_key = "?", .priority = -1, .expiration_ms = -1};
    ck_assert_int_eq(publish(shard, make_message(&wish), REF_NONE, 0, &answers), 0);
}
END_TEST

/* --- The sets --------------------------------------------------------------------------------- */

static char listing[256];

static void
list_one(void *context, const struct policy_declaration *policy)
{
    size_t size = strlen(listing);
    (void)context;
    snprintf(listing + size, sizeof(listing) - size, "%.*s %.*s %s %d%s;", SLICE_ARGS(policy->name),
             SLICE_ARGS(policy->pattern), policy_target_name(policy->target), policy->priority,
             policy->is_from_file ? " file" : "");
}

static const char *
list(bool is_operator)
{
    listing[0] = '\0';
    policy_list(test_broker->catalogue, test_vhost, is_operator, list_one, NULL);
    return listing;
}

START_TEST(each_set_is_listed_by_name)
{
    POLICY("b", {"max-length", .number = 1});
    set_policy(&(struct policy_wish){.name = "c",
                                     .pattern = "^x",
                                     .target = POLICY_QUEUES,
                                     .priority = 9,
                                     .says = SAY({"max-length", .number = 1})});
    POLICY("a", {"max-length", .number = 1});
    OPERATOR_POLICY("a", {"max-length", .number = 1});
    ck_assert_str_eq(list(false), "a .* all 0;b .* all 0;c ^x queues 9;");
    ck_assert_str_eq(list(true), "a .* all 0;");
    clear_policy("b");
    ck_assert_str_eq(list(false), "a .* all 0;c ^x queues 9;");
    ck_assert_int_eq(try_clear("b", false, false), -ENOENT);
}
END_TEST

static struct {
    int set, removed, others;
    bool is_operator;
    char text[128];
} told;

static void
on_change(void *context, const struct catalogue_event *event)
{
    (void)context;
    told.set += event->type == CATALOGUE_POLICY_SET;
    told.removed += event->type == CATALOGUE_POLICY_REMOVED;
    told.others += event->type != CATALOGUE_POLICY_SET && event->type != CATALOGUE_POLICY_REMOVED;
    told.is_operator = event->is_operator;
    struct amqp_value value = {0};
    (void)amqp_table_find(event->arguments, SLICE("max-length"), &value);
    snprintf(told.text, sizeof(told.text), "%.*s %.*s %.*s %s %d %" PRId64,
             SLICE_ARGS(event->vhost), SLICE_ARGS(event->name), SLICE_ARGS(event->pattern),
             policy_target_name(event->target), event->priority, value.integer);
}

START_TEST(who_keeps_definitions_is_told_all_of_a_policy)
{
    memset(&told, 0, sizeof(told));
    catalogue_observe(test_broker->catalogue, (struct catalogue_observer){.changed = on_change});
    set_policy(&(struct policy_wish){.name = "p",
                                     .pattern = "^x",
                                     .target = POLICY_QUEUES,
                                     .priority = 9,
                                     .says = SAY({"max-length", .number = 3})});
    ck_assert_int_eq(told.set, 1);
    ck_assert(!told.is_operator);
    ck_assert_str_eq(told.text, "/ p ^x queues 9 3");
    OPERATOR_POLICY("o", {"max-length", .number = 4});
    ck_assert_int_eq(told.set, 2);
    ck_assert(told.is_operator);
    clear_policy("p");
    ck_assert_int_eq(told.removed, 1);
    ck_assert_str_eq(told.text, "/ p ^x queues 9 3");
    ck_assert_int_eq(told.others, 0);
}
END_TEST

START_TEST(a_policy_of_the_configuration_file_is_in_memory_only_and_the_files_own)
{
    char error[POLICY_ERROR_MAX];
    struct policy_wish wish = {
        .name = "p", .is_from_file = true, .says = SAY({"max-length", .number = 3})};
    memset(&told, 0, sizeof(told));
    catalogue_observe(test_broker->catalogue, (struct catalogue_observer){.changed = on_change});
    POLICY("p", {"max-length", .number = 4});
    set_policy(&wish); /* takes the other's place, which must not come back */
    ck_assert_int_eq(told.set, 1);
    ck_assert_int_eq(told.removed, 1);
    ck_assert_str_eq(list(false), "p .* all 0 file;");
    ck_assert_int_eq(try_clear("p", false, false), -EPERM);
    wish.is_from_file = false;
    ck_assert_int_eq(try_policy(&wish, error), -EPERM);
    ck_assert_str_eq(error, "policy 'p' is declared in the configuration file");
    ck_assert_int_eq(try_clear("p", false, true), 0);
    ck_assert_int_eq(told.set + told.removed, 2);
    POLICY("p", {"max-length", .number = 4});
    ck_assert_int_eq(try_clear("p", false, true), -EPERM);
}
END_TEST

START_TEST(a_vhost_that_is_removed_takes_its_policies_along)
{
    char error[POLICY_ERROR_MAX];
    POLICY("p", {"max-length", .number = 3});
    struct queue_record *queue = declare_saying(test_broker->shards[1], "q", NULL);
    memset(&told, 0, sizeof(told));
    catalogue_observe(test_broker->catalogue, (struct catalogue_observer){.changed = on_change});
    (void)queue;
    ck_assert_int_eq(shard_remove_vhost(shard, SLICE("/")), 0);
    ck_assert_int_eq(told.removed, 0); /* one change is enough */
    ck_assert_int_eq(told.others, 1);
    struct policy_wish wish = {.name = "p", .says = SAY({"max-length", .number = 3})};
    ck_assert_int_eq(try_policy(&wish, error), -ENOENT);
    ck_assert_int_eq(try_clear("p", false, false), -ENOENT);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, what_means_nothing_is_refused_with_a_text, 0, ARRAY_SIZE(refused));
    tcase_add_loop_test(tests, keys_without_effect_are_taken, 0, ARRAY_SIZE(taken));
    tcase_add_test(tests, a_pattern_that_is_none_is_refused);
    tcase_add_test(tests, targets_have_names);
    tcase_add_test(tests, a_policy_is_for_names_that_its_pattern_matches_anywhere);
    tcase_add_loop_test(tests, a_queue_that_is_there_hears_of_it_wherever_it_lives, 0, 2);
    tcase_add_test(tests, of_several_the_one_of_the_highest_priority_applies_alone);
    tcase_add_test(tests, of_equal_priorities_the_first_name_applies);
    tcase_add_loop_test(tests, a_policy_is_for_what_it_says_it_is_for, 0, 5);
    tcase_add_test(tests, a_policy_is_not_for_queues_whose_type_does_not_know_all_its_keys);
    tcase_add_test(tests, the_store_of_a_delayed_exchange_has_no_policy);
    tcase_add_test(tests, of_numbers_the_smallest_holds);
    tcase_add_test(tests, a_time_that_is_too_long_is_the_longest_there_is);
    tcase_add_test(tests, a_default_of_the_queue_type_is_no_limit_that_somebody_set);
    tcase_add_test(tests, of_words_and_names_the_arguments_hold);
    tcase_add_test(tests, what_policies_say_together_can_be_asked_for);
    tcase_add_test(tests, an_alternate_exchange_by_policy_gives_way_to_the_argument);
    tcase_add_test(tests, each_set_is_listed_by_name);
    tcase_add_test(tests, who_keeps_definitions_is_told_all_of_a_policy);
    tcase_add_test(tests, a_policy_of_the_configuration_file_is_in_memory_only_and_the_files_own);
    tcase_add_test(tests, a_vhost_that_is_removed_takes_its_policies_along);
}

int
main(void)
{
    return run_suite("policies", add);
}
