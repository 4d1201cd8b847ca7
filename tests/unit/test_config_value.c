/* Values of the configuration: a value is taken only in its form and its range. */
#include "test_config_support.h"

START_TEST(defaults_are_those_of_the_table)
{
    ck_assert_str_eq(defaults.data_dir, "/var/lib/whippet");
    ck_assert_uint_eq(defaults.listen.count, 1);
    ck_assert_str_eq(defaults.listen.items[0].host, "127.0.0.1");
    ck_assert_uint_eq(defaults.listen.items[0].port, 5672);
    ck_assert_uint_eq(defaults.threads, 0);
    ck_assert_uint_eq(defaults.heartbeat_s, 60);
    ck_assert_int_eq((int)defaults.log.level, LOG_LEVEL_INFO);
    ck_assert_int_eq((int)defaults.log.format, LOG_FORMAT_TEXT);
    ck_assert_uint_eq(defaults.limits.frame_max, 131072);
    ck_assert_uint_eq(defaults.limits.channel_max, 2047);
    ck_assert_uint_eq(defaults.limits.message_size, 16777216);
    ck_assert_uint_eq(defaults.limits.handshake_timeout_ms, 10000);
}
END_TEST

START_TEST(every_key_reaches_its_own_field)
{
    load("data_dir: /srv/broker\n"
         "listen: [\"*:5672\", \"[::1]:5673\", localhost:0]\n"
         "threads: 3\n"
         "heartbeat: 5m\n"
         "log: {level: debug, format: json}\n"
         "limits:\n"
         "  frame_max: 8KiB\n"
         "  channel_max: 7\n"
         "  message_size: 100MB\n"
         "  handshake_timeout: 250ms\n");
    ck_assert_str_eq(settings.data_dir, "/srv/broker");
    ck_assert_uint_eq(settings.listen.count, 3);
    ck_assert_str_eq(settings.listen.items[0].host, "*");
    ck_assert_str_eq(settings.listen.items[1].host, "::1");
    ck_assert_uint_eq(settings.listen.items[1].port, 5673);
    ck_assert_str_eq(settings.listen.items[2].host, "localhost");
    ck_assert_uint_eq(settings.listen.items[2].port, 0);
    ck_assert_uint_eq(settings.threads, 3);
    ck_assert_uint_eq(settings.heartbeat_s, 300);
    ck_assert_int_eq((int)settings.log.level, LOG_LEVEL_DEBUG);
    ck_assert_int_eq((int)settings.log.format, LOG_FORMAT_JSON);
    ck_assert_uint_eq(settings.limits.frame_max, 8192);
    ck_assert_uint_eq(settings.limits.channel_max, 7);
    ck_assert_uint_eq(settings.limits.message_size, 100000000);
    ck_assert_uint_eq(settings.limits.handshake_timeout_ms, 250);
}
END_TEST

/* Values of one setting: taken, and stored as this number; or refused. */
static const struct {
    const char *text;
    const char *path;
    bool is_good;
    uint64_t value;
} values[] = {
    {"threads: 0", "threads", true, 0},
    {"threads: 64", "threads", true, 64},
    {"threads: 65", "threads", false, 0},
    {"threads: -1", "threads", false, 0},
    {"threads: +1", "threads", false, 0},
    {"threads: 010", "threads", false, 0},
    {"threads: 0x10", "threads", false, 0},
    {"threads: 1.0", "threads", false, 0},
    {"threads: 1_0", "threads", false, 0},
    {"threads: 1 0", "threads", false, 0},
    {"threads: \"5\"", "threads", false, 0},
    {"threads: '5'", "threads", false, 0},
    {"threads: ~", "threads", false, 0},
    {"threads:", "threads", false, 0},
    {"threads: true", "threads", false, 0},
    {"threads: [1]", "threads", false, 0},
    {"threads: {a: 1}", "threads", false, 0},
    {"threads: 18446744073709551616", "threads", false, 0},
    {"threads: 18446744073709551617", "threads", false, 0},
    {"threads: 99999999999999999999999999", "threads", false, 0},
    {"limits: {channel_max: 1}", "limits.channel_max", true, 1},
    {"limits: {channel_max: 0}", "limits.channel_max", false, 0},
    {"limits: {channel_max: 65535}", "limits.channel_max", true, 65535},
    {"limits: {channel_max: 65536}", "limits.channel_max", false, 0},
    {"limits: {frame_max: 4096}", "limits.frame_max", true, 4096},
    {"limits: {frame_max: 4095}", "limits.frame_max", false, 0},
    {"limits: {frame_max: \"4096\"}", "limits.frame_max", true, 4096},
    {"limits: {frame_max: \"64KiB\"}", "limits.frame_max", true, 65536},
    {"limits: {frame_max: 64kB}", "limits.frame_max", true, 64000},
    {"limits: {frame_max: 128MiB}", "limits.frame_max", true, 134217728},
    {"limits: {frame_max: 134217729}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 1GB}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 4294971392}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 64kb}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 64 KiB}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 64K}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 1.5MiB}", "limits.frame_max", false, 0},
    {"limits: {frame_max: KiB}", "limits.frame_max", false, 0},
    {"limits: {frame_max: 18014398509482048KiB}", "limits.frame_max", false, 0},
    {"limits: {message_size: 512MiB}", "limits.message_size", true, 536870912},
    {"limits: {message_size: 536870913}", "limits.message_size", false, 0},
    {"limits: {message_size: 0}", "limits.message_size", false, 0},
    {"limits: {message_size: 500MB}", "limits.message_size", true, 500000000},
    {"limits: {handshake_timeout: 100ms}", "limits.handshake_timeout", true, 100},
    {"limits: {handshake_timeout: 99ms}", "limits.handshake_timeout", false, 0},
    {"limits: {handshake_timeout: 1h}", "limits.handshake_timeout", true, 3600000},
    {"limits: {handshake_timeout: 60m}", "limits.handshake_timeout", true, 3600000},
    {"limits: {handshake_timeout: 2h}", "limits.handshake_timeout", false, 0},
    {"limits: {handshake_timeout: \"10s\"}", "limits.handshake_timeout", true, 10000},
    {"limits: {handshake_timeout: 10}", "limits.handshake_timeout", false, 0},
    {"limits: {handshake_timeout: 0}", "limits.handshake_timeout", false, 0},
    {"limits: {handshake_timeout: 1d}", "limits.handshake_timeout", false, 0},
    {"limits: {handshake_timeout: 1h30m}", "limits.handshake_timeout", false, 0},
    {"limits: {handshake_timeout: 5124095576030432h}", "limits.handshake_timeout", false, 0},
    {"heartbeat: 0", "heartbeat", true, 0},
    {"heartbeat: 0s", "heartbeat", true, 0},
    {"heartbeat: 1s", "heartbeat", true, 1},
    {"heartbeat: 2000ms", "heartbeat", true, 2},
    {"heartbeat: 1h", "heartbeat", true, 3600},
    {"heartbeat: 65535s", "heartbeat", true, 65535},
    {"heartbeat: 65536s", "heartbeat", false, 0},
    {"heartbeat: 1500ms", "heartbeat", false, 0},
    {"heartbeat: 60", "heartbeat", false, 0},
    {"log: {level: error}", "log.level", true, LOG_LEVEL_ERROR},
    {"log: {level: \"warn\"}", "log.level", true, LOG_LEVEL_WARN},
    {"log: {level: Info}", "log.level", false, 0},
    {"log: {level: 1}", "log.level", false, 0},
    {"log: {format: json}", "log.format", true, LOG_FORMAT_JSON},
    {"log: {format: \"\"}", "log.format", false, 0},
};

/* The number in the field of a setting. */
static uint64_t
number_of(const char *path)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *field = (const char *)&settings + setting_table[i].offset;
        uint16_t value16 = 0;
        uint32_t value32 = 0;
        uint64_t value64 = 0;

        if (strcmp(setting_table[i].path, path) != 0)
            continue;
        if (setting_table[i].size == sizeof(value16))
            memcpy(&value16, field, sizeof(value16));
        else if (setting_table[i].size == sizeof(value32))
            memcpy(&value32, field, sizeof(value32));
        else
            memcpy(&value64, field, sizeof(value64));
        return value16 + value32 + value64;
    }
    ck_abort_msg("no setting %s", path);
}

START_TEST(a_value_is_taken_in_its_form_and_range_alone)
{
    const char *text = values[_i].text, *path = values[_i].path;
    char beginning[64];

    if (values[_i].is_good) {
        load(text);
        ck_assert_msg(number_of(path) == values[_i].value, "%s", text);
        ck_assert(equal_but_for(&settings, &defaults, path));
        return;
    }
    ck_assert_msg(load_bytes(text, strlen(text)) == -1, "%s is taken", text);
    ck_assert_msg(errors.total == 1, "%s", errors_text());
    snprintf(beginning, sizeof(beginning), "%s: expected ", path);
    ck_assert_msg(strncmp(errors.items[0].text, beginning, strlen(beginning)) == 0, "%s",
                  errors_text());
    ck_assert(equal(&settings, &defaults));
}
END_TEST

START_TEST(a_boolean_is_true_or_false_without_quotes)
{
    static const struct setting setting = {
        .path = "x", .type = SETTING_BOOL, .offset = 0, .size = sizeof(bool)};
    static const char *const others[] = {"yes", "no", "on", "1", "0", "True", "TRUE", "", "truth"};
    char expected[CONFIG_EXPECTED_MAX];
    bool *field = (bool *)(void *)&settings;

    ck_assert(setting_store(&setting, (struct config_scalar){SLICE("true"), true}, &settings));
    ck_assert(*field);
    ck_assert(setting_store(&setting, (struct config_scalar){SLICE("false"), true}, &settings));
    ck_assert(!*field);
    ck_assert(!setting_store(&setting, (struct config_scalar){SLICE("true"), false}, &settings));
    ck_assert(!setting_store(&setting, (struct config_scalar){SLICE("false"), false}, &settings));
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        struct config_scalar scalar = {slice_from(others[i]), true};

        ck_assert_msg(!setting_store(&setting, scalar, &settings), "%s", others[i]);
    }
    ck_assert_str_eq(setting_expected(&setting, expected), "true or false, without quotes");
}
END_TEST

START_TEST(a_text_is_what_yaml_does_not_take_for_something_else)
{
    static const char *const good[] = {"./data", "\"5\"", "'true'", "\"~\"",       "/a b",
                                       "e1",     "1a",    "--",     "\"\\u00e9\"", "~/data"};
    static const char *const bad[] = {
        "5", "-5",   "1e5", "0.5",    "true",      "False",     "~",       "null",
        "",  "\"\"", "[a]", "{a: b}", "\"a\\0b\"", "\"a\\nb\"", "|\n  /a", "\"\\x7f\""};
    char text[64];

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        snprintf(text, sizeof(text), "data_dir: %s\n", good[i]);
        load(text);
    }
    ck_assert_str_eq(settings.data_dir, "~/data");
    settings = defaults;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text), "data_dir: %s\n", bad[i]);
        ck_assert_msg(load_bytes(text, strlen(text)) == -1, "%s is taken", bad[i]);
        ck_assert_msg(errors.total == 1, "%s", errors_text());
        ck_assert(equal(&settings, &defaults));
    }
}
END_TEST

START_TEST(a_path_fills_its_field_and_not_more)
{
    static char text[CONFIG_PATH_MAX + 64];
    int size = snprintf(text, sizeof(text), "data_dir: /%0*d", CONFIG_PATH_MAX - 2, 1);

    load(text);
    ck_assert_uint_eq(strlen(settings.data_dir), CONFIG_PATH_MAX - 1);
    text[size] = 'x';
    text[size + 1] = '\0';
    ck_assert_int_eq(load_bytes(text, strlen(text)), -1);
    ck_assert_uint_eq(strlen(settings.data_dir), CONFIG_PATH_MAX - 1);
}
END_TEST

/* Listening addresses, in the file and for --listen. */
static const struct {
    const char *text;
    int result;
    const char *host;
    uint16_t port;
} addresses[] = {
    {"127.0.0.1:5672", 0, "127.0.0.1", 5672},
    {"0.0.0.0:0", 0, "0.0.0.0", 0},
    {"*:65535", 0, "*", 65535},
    {"[::1]:5672", 0, "::1", 5672},
    {"[::]:1", 0, "::", 1},
    {"[::ffff:1.2.3.4]:1", 0, "::ffff:1.2.3.4", 1},
    {"[fe80::1%eth0]:1", 0, "fe80::1%eth0", 1},
    {"localhost:5672", 0, "localhost", 5672},
    {"a-b.example_1.org.:5672", 0, "a-b.example_1.org.", 5672},
    {"", CONFIG_ADDRESS_NO_PORT, NULL, 0},
    {"5672", CONFIG_ADDRESS_NO_PORT, NULL, 0},
    {"127.0.0.1", CONFIG_ADDRESS_NO_PORT, NULL, 0},
    {"127.0.0.1:", CONFIG_ADDRESS_NO_PORT, NULL, 0},
    {"[::1]", CONFIG_ADDRESS_NO_PORT, NULL, 0},
    {"127.0.0.1:65536", CONFIG_ADDRESS_BAD_PORT, NULL, 0},
    {"127.0.0.1:4294967297", CONFIG_ADDRESS_BAD_PORT, NULL, 0},
    {"127.0.0.1:-1", CONFIG_ADDRESS_BAD_PORT, NULL, 0},
    {"127.0.0.1: 1", CONFIG_ADDRESS_BAD_PORT, NULL, 0},
    {"127.0.0.1:amqp", CONFIG_ADDRESS_BAD_PORT, NULL, 0},
    {":5672", CONFIG_ADDRESS_NO_HOST, NULL, 0},
    {"[]:5672", CONFIG_ADDRESS_NO_HOST, NULL, 0},
    {"127.0.0:5672", CONFIG_ADDRESS_BAD_IP4, NULL, 0},
    {"127.0.0.256:5672", CONFIG_ADDRESS_BAD_IP4, NULL, 0},
    {"1:5672", CONFIG_ADDRESS_BAD_IP4, NULL, 0},
    {"[127.0.0.1]:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"[::1:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"[:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"[::1%]:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"[::1%a b]:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"[::1%abcdefghijklmnop]:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"[1:2:3:4:5:6:7:8:9]:5672", CONFIG_ADDRESS_BAD_IP6, NULL, 0},
    {"::1:5672", CONFIG_ADDRESS_NO_BRACKETS, NULL, 0},
    {"a b:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {"-a:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {"a-:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {"a-.b:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {"a..b:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {".a:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {"**:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
    {"caf\xc3\xa9:5672", CONFIG_ADDRESS_BAD_NAME, NULL, 0},
};

START_TEST(an_address_has_a_host_and_a_port)
{
    struct config_address address = {.host = "before", .port = 7};
    char text[CONFIG_ADDRESS_TEXT_MAX];

    ck_assert_msg(config_parse_address(addresses[_i].text, &address) == addresses[_i].result, "%s",
                  addresses[_i].text);
    if (addresses[_i].result != 0) {
        ck_assert_str_eq(address.host, "before");
        ck_assert_uint_eq(address.port, 7);
        ck_assert_str_ne(config_address_error_text(addresses[_i].result),
                         config_address_error_text(0));
        return;
    }
    ck_assert_str_eq(address.host, addresses[_i].host);
    ck_assert_uint_eq(address.port, addresses[_i].port);
    ck_assert_str_eq(config_address_text(&address, text), addresses[_i].text);
}
END_TEST

START_TEST(an_address_longer_than_its_field_is_refused)
{
    struct config_address address = {.port = 7};
    char text[2 * CONFIG_HOST_MAX];

    /* 63 + 1 + 63 + 1 + 63 + 1 + 63 = 255 characters fill the field. */
    memset(text, 'a', sizeof(text));
    text[63] = text[127] = text[191] = '.';
    memcpy(text + 255, ":1", 3);
    ck_assert_int_eq(config_parse_address(text, &address), 0);
    ck_assert_uint_eq(strlen(address.host), CONFIG_HOST_MAX - 1);
    memcpy(text + 255, ".:1", 4);
    ck_assert_int_eq(config_parse_address(text, &address), CONFIG_ADDRESS_TOO_LONG);
}
END_TEST

START_TEST(texts_are_a_list_or_one_text)
{
    load("tls: {certificate: /a.pem}");
    ck_assert_uint_eq(settings.tls.certificate.count, 1);
    ck_assert_str_eq(settings.tls.certificate.items[0], "/a.pem");
    load("tls:\n  certificate:\n    - /a.pem\n    - \"7\"\n");
    ck_assert_uint_eq(settings.tls.certificate.count, 2);
    ck_assert_str_eq(settings.tls.certificate.items[1], "7");
    ck_assert(equal_but_for(&settings, &defaults, "tls.certificate"));
    load("tls: {certificate: []}");
    ck_assert(equal(&settings, &defaults));
    refuse(
        "tls:\n  key: [/a, 7, [a], \"\", \"a\\nb\",\n  ]\n",
        "f:2:13: tls.key: expected a text of 1 to 4095 bytes without control characters; found 7\n"
        "f:2:16: tls.key: expected a text of 1 to 4095 bytes without control characters; found a "
        "list\n"
        "f:2:21: tls.key: expected a text of 1 to 4095 bytes without control characters; found \"\""
        " in quotes\n"
        "f:2:25: tls.key: expected a text of 1 to 4095 bytes without control characters; found "
        "\"a\\x0ab\" in quotes\n");
    refuse("tls: {key: {a: b}}",
           "f:1:12: tls.key: expected a text of 1 to 4095 bytes without control "
           "characters, or a list of 0 to 16; found a mapping\n");
    refuse("tls: {key: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q]}",
           "f:1:45: tls.key: expected at most 16 texts\n");
}
END_TEST

START_TEST(choices_of_tls_are_names)
{
    load("tls: {verify: require, minimum_version: 1.3, peer_name: san_email}");
    ck_assert_int_eq(settings.tls.verify, TLS_VERIFY_REQUIRE);
    ck_assert_int_eq(settings.tls.minimum_version, TLS_VERSION_1_3);
    ck_assert_int_eq(settings.tls.peer_name, TLS_PEER_NAME_SAN_EMAIL);
    settings_init(&settings);
    refuse("tls: {minimum_version: 1.1}",
           "f:1:24: tls.minimum_version: expected one of 1.2, 1.3; found 1.1\n");
}
END_TEST

START_TEST(listen_is_a_list_or_one_address)
{
    load("listen: 10.0.0.1:1");
    ck_assert_uint_eq(settings.listen.count, 1);
    ck_assert_str_eq(settings.listen.items[0].host, "10.0.0.1");
    load("listen:\n  - 10.0.0.1:1\n  - 10.0.0.1:2\n  - \"*:0\"\n  - \"*:0\"\n");
    ck_assert_uint_eq(settings.listen.count, 4);
    ck_assert(equal_but_for(&settings, &defaults, "listen"));
}
END_TEST

START_TEST(every_wrong_address_is_told_at_its_place)
{
    refuse("listen:\n  - 10.0.0.1:1\n  - 5672\n  - [a]\n  - {a: b}\n  -\n  - 10.0.0.1:1\n"
           "  - \"a\\0:1\"\n",
           "f:3:5: listen: expected ADDRESS:PORT; found 5672: there is no port (the form is "
           "ADDRESS:PORT)\n"
           "f:4:5: listen: expected ADDRESS:PORT; found a list\n"
           "f:5:5: listen: expected ADDRESS:PORT; found a mapping\n"
           "f:6:4: listen: expected ADDRESS:PORT; found nothing\n"
           "f:7:5: listen: expected ADDRESS:PORT; found 10.0.0.1:1: it is in the list already\n"
           "f:8:5: listen: expected ADDRESS:PORT; found \"a\\x00:1\" in quotes: this is neither an "
           "IP address nor a host name\n");
    refuse("listen: []\n", "f:1:9: listen: expected at least one address; found an empty list\n");
    refuse("listen: {a: 1}\n", "f:1:9: listen: expected ADDRESS:PORT (as 127.0.0.1:5672 or "
                               "\"*:5672\"), or a list of 1 to 16; found a mapping\n");
}
END_TEST

START_TEST(at_most_sixteen_addresses_are_taken)
{
    char text[1024] = "listen:\n";

    for (int i = 1; i <= CONFIG_LISTEN_MAX; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), " - 10.0.0.%d:1\n", i);
    load(text);
    ck_assert_uint_eq(settings.listen.count, CONFIG_LISTEN_MAX);
    ck_assert_str_eq(settings.listen.items[15].host, "10.0.0.16");
    settings = defaults;
    strcat(text, " - 10.0.0.17:1\n - 10.0.0.18:1\nthreads: 99\n");
    refuse(text, "f:18:4: listen: expected at most 16 addresses\n"
                 "f:20:10: threads: expected an integer from 0 to 64; found 99\n");
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("config/value");
    TCase *plain = tcase_create("plain"), *listen = tcase_create("listen");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(plain, set_up, NULL);
    tcase_add_test(plain, defaults_are_those_of_the_table);
    tcase_add_test(plain, every_key_reaches_its_own_field);
    tcase_add_loop_test(plain, a_value_is_taken_in_its_form_and_range_alone, 0,
                        (int)ARRAY_SIZE(values));
    tcase_add_test(plain, a_boolean_is_true_or_false_without_quotes);
    tcase_add_test(plain, a_text_is_what_yaml_does_not_take_for_something_else);
    tcase_add_test(plain, a_path_fills_its_field_and_not_more);
    suite_add_tcase(suite, plain);
    tcase_add_checked_fixture(listen, set_up, NULL);
    tcase_add_loop_test(listen, an_address_has_a_host_and_a_port, 0, (int)ARRAY_SIZE(addresses));
    tcase_add_test(listen, an_address_longer_than_its_field_is_refused);
    tcase_add_test(listen, texts_are_a_list_or_one_text);
    tcase_add_test(listen, choices_of_tls_are_names);
    tcase_add_test(listen, listen_is_a_list_or_one_address);
    tcase_add_test(listen, every_wrong_address_is_told_at_its_place);
    tcase_add_test(listen, at_most_sixteen_addresses_are_taken);
    suite_add_tcase(suite, listen);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
