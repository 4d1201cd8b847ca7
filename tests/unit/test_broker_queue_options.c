/* What queue.declare's arguments may say, with RabbitMQ's answers where they are wrong, and when a
 * redeclaration says something else. The texts are those that RabbitMQ 3.10 gave to the same
 * tables. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "amqp/table.h"
#include "broker/queue_options.h"

/* Entries of an argument table on the wire: names with their length, then tag and value. */
#define LONG_5 "l\0\0\0\0\0\0\0\5"
#define NEGATIVE "l\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"
#define QUORUM "\14x-queue-typeS\0\0\0\6quorum"
#define CLASSIC "\14x-queue-typeS\0\0\0\7classic"
#define TTL "\15x-message-ttl"
#define EXPIRES "\11x-expires"
#define DLX "\26x-dead-letter-exchange"
#define DLX_KEY "\31x-dead-letter-routing-key"

#define Q "for queue 'q' in vhost '/'"
#define INVALID(name) "PRECONDITION_FAILED - invalid arg '" name "' " Q
#define INEQUIVALENT(name) "PRECONDITION_FAILED - inequivalent arg '" name "' " Q ": "

static struct queue_declaration
durable_queue(struct slice arguments)
{
    return (struct queue_declaration){.name = SLICE("q"), .durable = true, .arguments = arguments};
}

static struct queue_options
accept(struct slice arguments)
{
    struct queue_declaration declaration = durable_queue(arguments);
    struct amqp_error error = {0};
    struct queue_options options;

    ck_assert_int_eq(amqp_table_validate(arguments, AMQP_TABLE_MAX_DEPTH), 0);
    ck_assert_msg(queue_options_parse(&options, &declaration, SLICE("/"), &error) == 0, "%s",
                  error.text);
    ck_assert_uint_eq(error.code, 0);
    return options;
}

static void
refuse_declaration(struct queue_declaration declaration, const char *text)
{
    struct amqp_error error = {0};
    struct queue_options options;

    ck_assert_int_eq(amqp_table_validate(declaration.arguments, AMQP_TABLE_MAX_DEPTH), 0);
    ck_assert_msg(queue_options_parse(&options, &declaration, SLICE("/"), &error) == -1,
                  "accepted, instead of: %s", text);
    ck_assert_uint_eq(error.code, AMQP_REPLY_PRECONDITION_FAILED);
    ck_assert_str_eq(error.text, text);
}

static void
refuse(struct slice arguments, const char *text)
{
    refuse_declaration(durable_queue(arguments), text);
}

/* Of a queue that was declared with these arguments. */
static enum queue_type
type_of(struct slice arguments)
{
    return slice_starts_with(arguments, SLICE(QUORUM)) ? QUEUE_QUORUM : QUEUE_CLASSIC;
}

static void
equivalent(struct slice current, struct slice redeclared)
{
    struct amqp_error error = {0};

    ck_assert_msg(queue_arguments_check_equivalent(type_of(current), current, redeclared,
                                                   SLICE("q"), SLICE("/"), &error)
                      == 0,
                  "%s", error.text);
}

static void
inequivalent(struct slice current, struct slice redeclared, const char *text)
{
    struct amqp_error error = {0};

    ck_assert_int_eq(queue_arguments_check_equivalent(type_of(current), current, redeclared,
                                                      SLICE("q"), SLICE("/"), &error),
                     -1);
    ck_assert_uint_eq(error.code, AMQP_REPLY_PRECONDITION_FAILED);
    ck_assert_str_eq(error.text, text);
}

/* A table of one entry. */
static struct slice
one_integer(struct amqp_table_builder *builder, const char *name, int64_t value)
{
    amqp_table_builder_init(builder);
    amqp_table_builder_put_int64(builder, slice_from(name), value);
    ck_assert(!amqp_table_builder_failed(builder));
    return amqp_table_builder_finish(builder);
}

static struct slice
one_string(struct amqp_table_builder *builder, const char *name, struct slice value)
{
    amqp_table_builder_init(builder);
    amqp_table_builder_put_string(builder, slice_from(name), value);
    ck_assert(!amqp_table_builder_failed(builder));
    return amqp_table_builder_finish(builder);
}

START_TEST(without_arguments_a_queue_is_classic_and_unlimited)
{
    struct queue_options options = accept((struct slice){0});

    ck_assert_int_eq(options.type, QUEUE_CLASSIC);
    ck_assert_int_eq(options.overflow, OVERFLOW_DROP_HEAD);
    ck_assert_int_eq(options.message_ttl_ms, OPTION_NONE);
    ck_assert_int_eq(options.expires_ms, OPTION_NONE);
    ck_assert_int_eq(options.max_length, OPTION_NONE);
    ck_assert_int_eq(options.max_length_bytes, OPTION_NONE);
    ck_assert_int_eq(options.delivery_limit, OPTION_NONE);
    ck_assert_int_eq(options.consumer_timeout_ms, OPTION_NONE);
    ck_assert_int_eq(options.max_priority, OPTION_NONE);
    ck_assert(!options.single_active_consumer && !options.deduplicates);
    ck_assert(!options.has_dead_letter_exchange && !options.has_dead_letter_routing_key);
}
END_TEST

START_TEST(each_argument_goes_to_its_option)
{
    struct queue_options options =
        accept(SLICE(TTL "I\0\0\0\1" EXPIRES "s\0\2"
                         "\14x-max-lengthb\3"
                         "\22x-max-length-bytesB\4"
                         "\20x-delivery-limitu\0\5"
                         "\22x-consumer-timeouti\0\0\0\6"
                         "\16x-max-priorityb\7"
                         "\30x-single-active-consumert\1"
                         "\27x-message-deduplicationt\1" DLX "S\0\0\0\0" DLX_KEY "S\0\0\0\1k"
                         "\12x-overflowS\0\0\0\22reject-publish-dlx" CLASSIC));

    ck_assert_int_eq(options.type, QUEUE_CLASSIC);
    ck_assert_int_eq(options.overflow, OVERFLOW_REJECT_PUBLISH_DLX);
    ck_assert_int_eq(options.message_ttl_ms, 1);
    ck_assert_int_eq(options.expires_ms, 2);
    ck_assert_int_eq(options.max_length, 3);
    ck_assert_int_eq(options.max_length_bytes, 4);
    ck_assert_int_eq(options.delivery_limit, 5);
    ck_assert_int_eq(options.consumer_timeout_ms, 6);
    ck_assert_int_eq(options.max_priority, 7);
    ck_assert(options.single_active_consumer && options.deduplicates);
    ck_assert(options.has_dead_letter_exchange && options.has_dead_letter_routing_key);
    ck_assert_uint_eq(options.dead_letter_exchange.size, 0);
    ck_assert(slice_is(options.dead_letter_routing_key, "k"));
}
END_TEST

START_TEST(integers_are_taken_up_to_their_bounds)
{
    static const struct {
        const char *name;
        int64_t minimum, maximum;
    } rows[] = {
        {"x-message-ttl", 0, 315360000000},
        {"x-expires", 1, 315360000000},
        {"x-max-length", 0, INT64_MAX},
        {"x-max-length-bytes", 0, INT64_MAX},
        {"x-max-priority", 0, 255},
        {"x-delivery-limit", -1, INT64_MAX},
        {"x-consumer-timeout", 0, 315360000000},
    };
    struct amqp_table_builder builder;
    char text[256];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        accept(one_integer(&builder, rows[i].name, rows[i].minimum));
        amqp_table_builder_free(&builder);
        accept(one_integer(&builder, rows[i].name, rows[i].maximum));
        amqp_table_builder_free(&builder);
        snprintf(text, sizeof(text),
                 "PRECONDITION_FAILED - invalid arg '%s' " Q
                 ": \"expected integer of at least %" PRId64 ", got %" PRId64 "\"",
                 rows[i].name, rows[i].minimum, rows[i].minimum - 1);
        refuse(one_integer(&builder, rows[i].name, rows[i].minimum - 1), text);
        amqp_table_builder_free(&builder);
        if (rows[i].maximum == INT64_MAX)
            continue;
        snprintf(text, sizeof(text),
                 "PRECONDITION_FAILED - invalid arg '%s' " Q
                 ": \"expected integer of at most %" PRId64 ", got %" PRId64 "\"",
                 rows[i].name, rows[i].maximum, rows[i].maximum + 1);
        refuse(one_integer(&builder, rows[i].name, rows[i].maximum + 1), text);
        amqp_table_builder_free(&builder);
    }
}
END_TEST

START_TEST(values_of_a_wrong_type_are_refused)
{
    refuse(SLICE(TTL "S\0\0\0\3abc"),
           INVALID("x-message-ttl") ": \"expected integer, got longstr\"");
    refuse(SLICE(TTL "d\0\0\0\0\0\0\0\0"),
           INVALID("x-message-ttl") ": \"expected integer, got double\"");
    refuse(SLICE(TTL "V"), INVALID("x-message-ttl") ": \"expected integer, got void\"");
    refuse(SLICE(TTL "t\1"), INVALID("x-message-ttl") ": \"expected integer, got bool\"");
    refuse(SLICE(TTL "F\0\0\0\0"), INVALID("x-message-ttl") ": \"expected integer, got table\"");
    refuse(SLICE("\12x-overflow" LONG_5), INVALID("x-overflow") ": \"expected longstr, got long\"");
    refuse(SLICE("\30x-single-active-consumerS\0\0\0\4true"),
           INVALID("x-single-active-consumer") ": \"expected bool, got longstr\"");
    refuse(SLICE("\14x-queue-typet\1"), INVALID("x-queue-type") ": \"expected longstr, got bool\"");
    refuse(SLICE(DLX "I\0\0\0\1"), "PRECONDITION_FAILED - invalid type 'signedint' for arg "
                                   "'x-dead-letter-exchange' in queue 'q' in vhost '/'");
    refuse(SLICE(DLX "x\0\0\0\1a"), "PRECONDITION_FAILED - invalid type 'binary' for arg "
                                    "'x-dead-letter-exchange' in queue 'q' in vhost '/'");
    refuse(SLICE(DLX "S\0\0\0\1a" DLX_KEY "t\0"),
           INVALID("x-dead-letter-routing-key") ": \"expected longstr, got bool\"");
}
END_TEST

START_TEST(unknown_words_are_refused)
{
    refuse(SLICE("\14x-queue-typeS\0\0\0\3abc"),
           INVALID("x-queue-type") ": \"unsupported queue type 'abc'\"");
    refuse(SLICE("\14x-queue-typeS\0\0\0\6stream"),
           INVALID("x-queue-type") ": \"streams are not supported by this broker yet\"");
    refuse(SLICE("\14x-queue-modeS\0\0\0\3abc"),
           INVALID("x-queue-mode") ": \"unsupported queue mode 'abc'\"");
    refuse(SLICE("\17x-queue-versionb\3"),
           INVALID("x-queue-version") ": \"unsupported queue version '3'\"");
    refuse(SLICE("\12x-overflowS\0\0\0\2\xFF\n"), INVALID("x-overflow") ": invalid_overflow");
    refuse(SLICE(QUORUM "\26x-dead-letter-strategyS\0\0\0\3foo"),
           INVALID("x-dead-letter-strategy") ": invalid_dlx_strategy");
    refuse(SLICE(QUORUM "\26x-queue-leader-locatorS\0\0\0\3foo"),
           INVALID("x-queue-leader-locator") ": invalid_queue_locator_arg");
}
END_TEST

START_TEST(a_dead_letter_routing_key_needs_an_exchange)
{
    refuse(SLICE(DLX_KEY "S\0\0\0\1k"),
           INVALID("x-dead-letter-routing-key") ": routing_key_but_no_dlx_defined");
    accept(SLICE(DLX_KEY "S\0\0\0\1k" DLX "S\0\0\0\1x"));
}
END_TEST

START_TEST(names_that_no_frame_can_carry_are_refused)
{
    struct amqp_table_builder builder;
    char name[256];

    memset(name, 'a', sizeof(name));
    accept(one_string(&builder, "x-dead-letter-exchange", (struct slice){name, 255}));
    amqp_table_builder_free(&builder);
    refuse(
        one_string(&builder, "x-dead-letter-exchange", (struct slice){name, 256}),
        INVALID("x-dead-letter-exchange") ": \"expected longstr of at most 255 bytes, got 256\"");
    amqp_table_builder_free(&builder);
}
END_TEST

START_TEST(of_several_wrong_arguments_the_same_is_named_in_any_order)
{
    const char *text = INVALID("x-expires") ": \"expected integer of at least 1, got -1\"";

    refuse(SLICE(TTL NEGATIVE EXPIRES NEGATIVE), text);
    refuse(SLICE(EXPIRES NEGATIVE TTL NEGATIVE), text);
}
END_TEST

START_TEST(of_an_argument_given_twice_the_first_counts)
{
    ck_assert_int_eq(accept(SLICE(TTL LONG_5 TTL "b\6")).message_ttl_ms, 5);
}
END_TEST

START_TEST(unknown_arguments_are_ignored)
{
    accept(SLICE("\5x-fooV"
                 "\0V"
                 "\3fooF\0\0\0\0"
                 "\13x-ha-policyb\1"
                 "\15X-Message-TTLV"));
}
END_TEST

START_TEST(placement_arguments_are_checked_and_ignored)
{
    accept(SLICE("\26x-queue-leader-locatorS\0\0\0\10balanced"
                 "\26x-queue-master-locatorS\0\0\0\13min-masters"
                 "\14x-queue-modeS\0\0\0\4lazy"
                 "\17x-queue-versionb\2"
                 "\26x-dead-letter-strategyS\0\0\0\15at-least-once"));
    accept(SLICE(QUORUM "\33x-quorum-initial-group-sizeb\3"
                        "\32x-quorum-target-group-sizeb\0"));
    refuse(SLICE("\26x-queue-master-locatort\1"),
           INVALID("x-queue-master-locator") ": \"expected longstr, got bool\"");
    refuse(SLICE(QUORUM "\33x-quorum-initial-group-sizeb\0"),
           INVALID("x-quorum-initial-group-size") ": \"expected integer of at least 1, got 0\"");
}
END_TEST

START_TEST(a_quorum_queue_returns_a_message_twenty_times_unless_told_otherwise)
{
    ck_assert_int_eq(accept(SLICE(QUORUM)).type, QUEUE_QUORUM);
    ck_assert_int_eq(accept(SLICE(QUORUM)).delivery_limit, 20);
    ck_assert_int_eq(accept(SLICE(QUORUM "\20x-delivery-limitb\3")).delivery_limit, 3);
    ck_assert_int_eq(accept(SLICE(QUORUM "\20x-delivery-limit" NEGATIVE)).delivery_limit,
                     OPTION_NONE);
}
END_TEST

START_TEST(a_quorum_queue_is_named_and_durable_and_nobodys_own)
{
    struct queue_declaration declaration = durable_queue(SLICE(QUORUM));
    const char *text = "PRECONDITION_FAILED - invalid property 'auto-delete' " Q;

    declaration.auto_delete = true;
    refuse_declaration(declaration, text);
    declaration.exclusive = true;
    declaration.durable = false;
    refuse_declaration(declaration, text);
    declaration.auto_delete = false;
    refuse_declaration(declaration, "PRECONDITION_FAILED - invalid property 'exclusive-owner' " Q);
    declaration.exclusive = false;
    refuse_declaration(declaration, "PRECONDITION_FAILED - invalid property 'non-durable' " Q);
    declaration.server_named = true;
    refuse_declaration(declaration, "PRECONDITION_FAILED - Cannot declare a server-named queue for "
                                    "type rabbit_quorum_queue");
}
END_TEST

START_TEST(classic_queues_may_be_anything)
{
    struct queue_declaration declaration = {.exclusive = true, .auto_delete = true};
    struct amqp_error error = {0};
    struct queue_options options;

    ck_assert_int_eq(queue_options_parse(&options, &declaration, SLICE("/"), &error), 0);
    declaration.arguments = SLICE(CLASSIC);
    ck_assert_int_eq(queue_options_parse(&options, &declaration, SLICE("/"), &error), 0);
}
END_TEST

START_TEST(arguments_of_another_queue_type_are_refused)
{
    refuse(SLICE(QUORUM "\16x-max-priorityb\3"),
           INVALID("x-max-priority") " of queue type rabbit_quorum_queue");
    refuse(SLICE(QUORUM "\14x-queue-modeS\0\0\0\4lazy"),
           INVALID("x-queue-mode") " of queue type rabbit_quorum_queue");
    refuse(SLICE(QUORUM "\17x-queue-versionb\2"),
           INVALID("x-queue-version") " of queue type rabbit_quorum_queue");
    refuse(SLICE("\26x-max-in-memory-lengthb\3"),
           INVALID("x-max-in-memory-length") " of queue type rabbit_classic_queue");
    refuse(SLICE("\11x-max-ageS\0\0\0\0021h"),
           INVALID("x-max-age") " of queue type rabbit_classic_queue");
    accept(SLICE(QUORUM "\26x-max-in-memory-lengthb\3"));
    accept(SLICE(QUORUM "\12x-overflowS\0\0\0\22reject-publish-dlx"));
}
END_TEST

START_TEST(wrong_values_are_named_before_wrong_queue_types)
{
    refuse(SLICE(QUORUM "\16x-max-priorityb\3" TTL NEGATIVE),
           INVALID("x-message-ttl") ": \"expected integer of at least 0, got -1\"");
}
END_TEST

START_TEST(a_redeclaration_may_use_other_integer_types_and_another_order)
{
    equivalent(SLICE(TTL "I\0\0\0\5" EXPIRES "b\7"), SLICE(EXPIRES "s\0\7" TTL LONG_5));
}
END_TEST

START_TEST(a_redeclaration_with_another_value_is_refused)
{
    inequivalent(SLICE(TTL "b\5"), SLICE(TTL "b\6"),
                 INEQUIVALENT("x-message-ttl") "received '6' but current is '5'");
    inequivalent(SLICE(TTL "b\5"), SLICE(TTL "t\1"),
                 INEQUIVALENT("x-message-ttl") "received 'true' but current is '5'");
    inequivalent(SLICE(DLX "S\0\0\0\1a"), SLICE(DLX "S\0\0\0\1b"),
                 INEQUIVALENT("x-dead-letter-exchange") "received 'b' but current is 'a'");
    inequivalent(SLICE(TTL "b\5" EXPIRES "b\5"), SLICE(TTL "b\6" EXPIRES "b\6"),
                 INEQUIVALENT("x-expires") "received '6' but current is '5'");
}
END_TEST

START_TEST(an_argument_that_is_new_or_gone_is_named_with_its_type)
{
    static const struct {
        struct slice value;
        const char *text;
    } rows[] = {
        {SLICE(TTL "I\0\0\0\5"), "'5' of type 'signedint'"},
        {SLICE(TTL "i\0\0\0\5"), "'5' of type 'unsignedint'"},
        {SLICE(TTL "b\5"), "'5' of type 'byte'"},
        {SLICE(TTL "B\5"), "'5' of type 'unsignedbyte'"},
        {SLICE(TTL "s\0\5"), "'5' of type 'short'"},
        {SLICE(TTL "u\0\5"), "'5' of type 'unsignedshort'"},
        {SLICE(TTL LONG_5), "'5' of type 'long'"},
        {SLICE(TTL "T\0\0\0\0\0\0\0\5"), "'5' of type 'timestamp'"},
        {SLICE(TTL "d\x3F\xF8\0\0\0\0\0\0"), "'1.5' of type 'double'"},
        {SLICE(TTL "d\x40\x08\0\0\0\0\0\0"), "'3.0' of type 'double'"},
        {SLICE(TTL "f\x3D\xCC\xCC\xCD"), "'0.10000000149011612' of type 'float'"},
        {SLICE(TTL "S\0\0\0\3abc"), "'abc' of type 'longstr'"},
        {SLICE(TTL "x\0\0\0\3abc"), "'abc' of type 'binary'"},
        {SLICE(TTL "t\0"), "'false' of type 'bool'"},
        {SLICE(TTL "V"), "'undefined' of type 'void'"},
        {SLICE(TTL "D\1\0\0\0\5"), "'5e-1' of type 'decimal'"},
        {SLICE(TTL "A\0\0\0\0"), "'[...]' of type 'array'"},
        {SLICE(TTL "F\0\0\0\0"), "'{...}' of type 'table'"},
    };
    char text[256];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        snprintf(text, sizeof(text), "%sreceived the value %s but current is none",
                 INEQUIVALENT("x-message-ttl"), rows[i].text);
        inequivalent(SLICE(""), rows[i].value, text);
        snprintf(text, sizeof(text), "%sreceived none but current is the value %s",
                 INEQUIVALENT("x-message-ttl"), rows[i].text);
        inequivalent(rows[i].value, SLICE(""), text);
    }
}
END_TEST

START_TEST(no_queue_type_means_classic)
{
    equivalent(SLICE(""), SLICE(CLASSIC));
    equivalent(SLICE(CLASSIC), SLICE(""));
    inequivalent(
        SLICE(""), SLICE(QUORUM),
        INEQUIVALENT(
            "x-queue-type") "received the value 'quorum' of type 'longstr' but current is none");
    inequivalent(SLICE(QUORUM), SLICE(CLASSIC),
                 INEQUIVALENT("x-queue-type") "received 'classic' but current is 'quorum'");
}
END_TEST

START_TEST(arguments_that_rabbitmq_does_not_compare_may_change)
{
    equivalent(SLICE(""), SLICE("\22x-consumer-timeoutb\1"
                                "\27x-message-deduplicationt\1"
                                "\5x-fooV"));
    equivalent(SLICE(QUORUM), SLICE(QUORUM "\32x-quorum-target-group-sizeb\3"));
}
END_TEST

START_TEST(arguments_that_the_queues_type_does_not_take_are_not_compared)
{
    equivalent(SLICE(""), SLICE("\33x-quorum-initial-group-sizeb\3"
                                "\26x-max-in-memory-lengthb\3"));
    equivalent(SLICE(QUORUM), SLICE(QUORUM "\16x-max-priorityb\3"
                                           "\14x-queue-modeS\0\0\0\4lazy"));
}
END_TEST

START_TEST(of_several_wrong_arguments_the_queue_type_is_told_first)
{
    refuse(SLICE("\15x-message-ttlb\377\14x-queue-typeS\0\0\0\3bad"),
           INVALID("x-queue-type") ": \"unsupported queue type 'bad'\"");
    refuse(SLICE(QUORUM "\16x-max-priorityb\377"),
           INVALID("x-max-priority") " of queue type rabbit_quorum_queue");
    refuse(
        SLICE("\15x-message-ttlb\377\26x-dead-letter-exchangeb\1"),
        "PRECONDITION_FAILED - invalid type 'byte' for arg 'x-dead-letter-exchange' in queue 'q' "
        "in vhost '/'");
}
END_TEST

START_TEST(long_values_are_cut_with_the_text)
{
    struct amqp_table_builder builder;
    struct amqp_error error = {0};
    char name[1000];
    struct slice table;

    memset(name, 'a', sizeof(name));
    table = one_string(&builder, "x-overflow", (struct slice){name, sizeof(name)});
    ck_assert_int_eq(queue_arguments_check_equivalent(QUEUE_CLASSIC, SLICE(""), table, SLICE("q"),
                                                      SLICE("/"), &error),
                     -1);
    ck_assert_uint_eq(strlen(error.text), 255);
    ck_assert_str_eq(error.text + 250, "aa...");
    amqp_table_builder_free(&builder);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("broker queue options");
    TCase *tests = tcase_create("rules");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, without_arguments_a_queue_is_classic_and_unlimited);
    tcase_add_test(tests, each_argument_goes_to_its_option);
    tcase_add_test(tests, integers_are_taken_up_to_their_bounds);
    tcase_add_test(tests, values_of_a_wrong_type_are_refused);
    tcase_add_test(tests, unknown_words_are_refused);
    tcase_add_test(tests, a_dead_letter_routing_key_needs_an_exchange);
    tcase_add_test(tests, names_that_no_frame_can_carry_are_refused);
    tcase_add_test(tests, of_several_wrong_arguments_the_same_is_named_in_any_order);
    tcase_add_test(tests, of_an_argument_given_twice_the_first_counts);
    tcase_add_test(tests, unknown_arguments_are_ignored);
    tcase_add_test(tests, placement_arguments_are_checked_and_ignored);
    tcase_add_test(tests, a_quorum_queue_returns_a_message_twenty_times_unless_told_otherwise);
    tcase_add_test(tests, a_quorum_queue_is_named_and_durable_and_nobodys_own);
    tcase_add_test(tests, classic_queues_may_be_anything);
    tcase_add_test(tests, arguments_of_another_queue_type_are_refused);
    tcase_add_test(tests, wrong_values_are_named_before_wrong_queue_types);
    tcase_add_test(tests, a_redeclaration_may_use_other_integer_types_and_another_order);
    tcase_add_test(tests, a_redeclaration_with_another_value_is_refused);
    tcase_add_test(tests, an_argument_that_is_new_or_gone_is_named_with_its_type);
    tcase_add_test(tests, no_queue_type_means_classic);
    tcase_add_test(tests, arguments_that_rabbitmq_does_not_compare_may_change);
    tcase_add_test(tests, arguments_that_the_queues_type_does_not_take_are_not_compared);
    tcase_add_test(tests, of_several_wrong_arguments_the_queue_type_is_told_first);
    tcase_add_test(tests, long_values_are_cut_with_the_text);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
