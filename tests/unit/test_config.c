/* The configuration file: it is taken whole or not at all, and everything wrong is told with its
 * place. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test_config_support.h"

START_TEST(all_errors_are_told_with_their_places)
{
    refuse("# a comment\n"
           "threads: \"5\"\n"
           "log:\n"
           "  levle: info\n"
           "  format: xml\n"
           "limits:\n"
           "  frame_max: 1KiB\n"
           "  message_size: 1GiB\n"
           "  handshake_timeout: 10\n"
           "heartbeat: 90000s\n",
           "f:2:10: threads: expected an integer from 0 to 64; found \"5\" in quotes\n"
           "f:4:3: unknown key \"log.levle\"; did you mean log.level?\n"
           "f:5:11: log.format: expected one of text, json; found xml\n"
           "f:7:14: limits.frame_max: expected a size from 4KiB to 128MiB (bytes, or as 128KiB, "
           "16MiB, 16MB); found 1KiB\n"
           "f:8:17: limits.message_size: expected a size from 1 to 512MiB (bytes, or as 128KiB, "
           "16MiB, 16MB); found 1GiB\n"
           "f:9:22: limits.handshake_timeout: expected a duration from 100ms to 1h (as 10s, 5m or "
           "1h); found 10\n"
           "f:10:12: heartbeat: expected a duration in whole seconds from 0 to 65535s (as 10s, 5m "
           "or 1h); found 90000s\n");
}
END_TEST

START_TEST(errors_beyond_the_limit_are_counted)
{
    static char text[4096];
    const char *last;

    text[0] = '\0';
    for (int i = 0; i < CONFIG_ERRORS_MAX + 7; i++)
        strcat(text, "zzzzzzz: 1\n");
    ck_assert_int_eq(load_bytes(text, strlen(text)), -1);
    ck_assert_uint_eq(errors.count, CONFIG_ERRORS_MAX);
    ck_assert_uint_eq(errors.total, CONFIG_ERRORS_MAX + 7);
    last = strstr(errors_text(), "f:100:1: unknown key \"zzzzzzz\"");
    ck_assert_ptr_nonnull(last);
    ck_assert_str_eq(strchr(last, '\n'), "\nf: 7 more errors\n");
}
END_TEST

START_TEST(unknown_keys_are_told_with_what_was_meant)
{
    refuse("thread: 1\nListen: a\nframe-max: 1\nlog.level: info\nlgo: {level: [x]}\nq: {a: [b]}\n",
           "f:1:1: unknown key \"thread\"; did you mean threads?\n"
           "f:2:1: unknown key \"Listen\"; did you mean listen?\n"
           "f:3:1: unknown key \"frame-max\"; did you mean limits.frame_max?\n"
           "f:4:1: unknown key \"log.level\"; did you mean log.level? (each part is a mapping of "
           "its own)\n"
           "f:5:1: unknown key \"lgo\"; did you mean log?\n"
           "f:6:1: unknown key \"q\"; expected one of data_dir, listen, threads, user, group, "
           "core_dumps, seccomp, heartbeat, log, limits, tls, proxy_protocol, admin, "
           "vhosts, users, policies, operator_policies, loopback_users\n");
    refuse("log: {verbosity: 1, \"\": 2, \"lev\\0el\": 3}\n",
           "f:1:7: unknown key \"log.verbosity\"; expected one of level, format\n"
           "f:1:21: unknown key \"log.\"; expected one of level, format\n"
           "f:1:28: unknown key \"log.lev\\x00el\"; did you mean log.level?\n");
}
END_TEST

/* And what is told then can be put into the file as it is, with the number in it. */
START_TEST(keys_of_former_times_are_told_with_what_takes_their_place)
{
    const char *const words =
        "\"limits.queue_length_bytes\" is no setting any more: leave it out if it was 0, else use "
        "operator_policies: [{name: length, pattern: \"\", apply_to: queues, definition: "
        "{max-length-bytes: BYTES}}]\n";
    char expected[512], instead[256];

    snprintf(expected, sizeof(expected), "f:1:10: %s", words);
    refuse("limits: {queue_length_bytes: 1GiB}\n", expected);
    snprintf(expected, sizeof(expected), "f:1:1: %s", words);
    refuse("limits.queue_length_bytes: 0\n", expected);
    refuse("limits: {queue_length_byte: 0}\n",
           "f:1:10: unknown key \"limits.queue_length_byte\"; expected one of frame_max, "
           "channel_max, message_size, memory, disk_free, consumer_timeout, handshake_timeout, "
           "handshakes, connections, connections_per_user, connections_per_vhost, ...\n");
    snprintf(instead, sizeof(instead), "%.*s1000}}]\n",
             (int)(strstr(words, "BYTES") - strstr(words, "operator_policies")),
             strstr(words, "operator_policies"));
    load(instead);
    ck_assert_uint_eq(settings.operator_policies.count, 1);
    settings_fini(&settings);
}
END_TEST

START_TEST(duplicate_keys_are_told_with_the_first)
{
    refuse("threads: 1\nlog: {level: info}\nthreads: 2\n\"threads\": 900\nlog: {format: text}\n"
           "limits: {channel_max: 1, channel_max: 2}\n",
           "f:3:1: duplicate key \"threads\"; it is on line 1 already\n"
           "f:4:1: duplicate key \"threads\"; it is on line 1 already\n"
           "f:5:1: duplicate key \"log\"; it is on line 2 already\n"
           "f:6:26: duplicate key \"limits.channel_max\"; it is on line 6 already\n");
}
END_TEST

START_TEST(a_section_is_a_mapping_or_nothing)
{
    load("log:\nlimits: ~\n");
    ck_assert(equal(&settings, &defaults));
    refuse("log: debug\n? [a]\n: 1\n? {b: c}\n: 2\n",
           "f:1:6: log: expected a mapping of level, format; found debug\n"
           "f:2:3: expected a key; found a list\n"
           "f:4:3: expected a key; found a mapping\n");
    refuse("log: [1]\n", "f:1:6: log: expected a mapping of level, format; found a list\n");
    refuse("- threads\n", "f:1:1: expected a mapping of settings; found a list\n");
    refuse("threads\n", "f:1:1: expected a mapping of settings; found threads\n");
}
END_TEST

START_TEST(an_empty_file_is_the_defaults)
{
    static const char *const texts[] = {"",           "\n",   "# nothing\n",  "---\n",
                                        "---\n...\n", "{}\n", "\xef\xbb\xbf", "%YAML 1.2\n---\n"};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        load(texts[i]);
        ck_assert_msg(equal(&settings, &defaults), "%s", texts[i]);
    }
    ck_assert_int_eq(load_bytes(NULL, 0), 0);
}
END_TEST

START_TEST(what_the_file_does_not_name_keeps_its_value)
{
    settings.threads = 9;
    settings.log.level = LOG_LEVEL_ERROR;
    load("log: {format: json}\n");
    ck_assert_uint_eq(settings.threads, 9);
    ck_assert_int_eq((int)settings.log.level, LOG_LEVEL_ERROR);
}
END_TEST

START_TEST(text_that_is_not_yaml_is_told_at_its_place)
{
    refuse("threads: 99\nlog: {level: info\n",
           "f:1:10: threads: expected an integer from 0 to 64; found 99\n"
           "f:3:1: not YAML: did not find expected ',' or '}' while parsing a flow mapping from "
           "line 2\n");
    refuse("listen: *:5672\n",
           "f:1:10: not YAML: did not find expected alphabetic or numeric character while scanning "
           "an alias (a value that begins with * is put in quotes: \"*:5672\")\n");
    refuse("listen:\n  - [fe80::1]:5672\n",
           "f:2:5: listen: expected ADDRESS:PORT; found a list\n"
           "f:2:14: not YAML: did not find expected '-' indicator while parsing a block collection "
           "(an IPv6 address is put in quotes: \"[::1]:5672\")\n");
    refuse("log:\n\tlevel: info\n",
           "f:2:1: not YAML: found character that cannot start any token while scanning for the "
           "next token (lines are indented with spaces, not with tabs)\n");
    refuse("threads: 1\n---\nthreads: 2\n",
           "f:2:1: expected the end of the file; found a second document\n");
}
END_TEST

START_TEST(anchors_aliases_and_tags_are_refused)
{
    refuse("log: &a {level: info}\nlimits: *a\nlisten: [*b]\n*c : 1\nthreads: !!int 3\n<<: *a\n",
           "f:1:6: anchors (&a) are not supported\n"
           "f:2:9: aliases (*a) are not supported\n"
           "f:3:10: aliases (*b) are not supported\n"
           "f:4:1: aliases (*c) are not supported\n"
           "f:5:10: tags (tag:yaml.org,2002:int) are not supported\n"
           "f:6:1: unknown key \"<<\"; expected one of data_dir, listen, threads, user, group, "
           "core_dumps, seccomp, heartbeat, log, limits, tls, proxy_protocol, admin, "
           "vhosts, users, policies, operator_policies, loopback_users\n"
           "f:6:5: aliases (*a) are not supported\n");
}
END_TEST

START_TEST(depth_is_bounded)
{
    static char text[200000];
    const char *const unknown = "f:1:1: unknown key \"q\"; expected one of data_dir, listen, "
                                "threads, user, group, core_dumps, seccomp, heartbeat, log, "
                                "limits, tls, proxy_protocol, admin, "
                                "vhosts, users, policies, operator_policies, loopback_users\n";
    char expected[512];

    /* The outermost mapping and 15 lists. */
    refuse("q: [[[[[[[[[[[[[[[]]]]]]]]]]]]]]]\n", unknown);
    snprintf(expected, sizeof(expected), "%sf:1:19: nested deeper than 16 levels\n", unknown);
    refuse("q: [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]\n", expected);
    memset(text, '[', sizeof(text) - 1);
    memcpy(text, "q: ", 3);
    refuse(text, expected);
}
END_TEST

START_TEST(text_that_is_not_utf8_is_told_at_its_place)
{
#define REFUSE(text, expected) refuse_bytes(text, sizeof(text) - 1, expected)
    REFUSE("threads: 1\0\n",
           "f:1:11: not a text in UTF-8: control characters are not allowed (0x00)\n");
    REFUSE("\xc3\xa4: 1\n\xc3\xa4\xc3\xa4 \x01\n",
           "f:2:4: not a text in UTF-8: control characters are not allowed (0x01)\n");
    REFUSE("threads: \xff\n", "f:1:10: not a text in UTF-8: invalid leading UTF-8 octet (0xFF)\n");
    REFUSE("q: \xc3", "f:1:4: not a text in UTF-8: incomplete UTF-8 octet sequence\n");
    REFUSE("q: \xc0\xaf", "f:1:4: not a text in UTF-8: invalid length of a UTF-8 sequence\n");
    REFUSE("\xff\xfeq\0:\0", "f:1:1: not a text in UTF-8: invalid leading UTF-8 octet (0xFF)\n");
#undef REFUSE
}
END_TEST

START_TEST(a_byte_order_mark_is_no_part_of_the_text)
{
    load("\xef\xbb\xbfthreads: 5\n");
    ck_assert_uint_eq(settings.threads, 5);
    settings = defaults;
    refuse("\xef\xbb\xbfthreads: x\n",
           "f:1:10: threads: expected an integer from 0 to 64; found x\n");
}
END_TEST

START_TEST(line_ends_of_other_systems_are_taken)
{
    load("threads: 5\r\nlog:\r\n  level: debug\r\n");
    ck_assert_uint_eq(settings.threads, 5);
    ck_assert_int_eq((int)settings.log.level, LOG_LEVEL_DEBUG);
}
END_TEST

START_TEST(text_of_the_file_is_escaped_and_cut_in_messages)
{
    static char text[8192];
    size_t longest = 0;

    /* Line end, escape, C1 control, right-to-left override: escaped; an e with accent: not. */
    refuse("threads: \"\\n\\e\\x85\\u202e\\u00e9\\\\\"\n",
           "f:1:10: threads: expected an integer from 0 to 64; found "
           "\"\\x0a\\x1b\\xc2\\x85\\xe2\\x80\\xae\xc3\xa9\\\\\" in quotes\n");
    for (size_t i = 0; i < 300; i++) {
        snprintf(text, sizeof(text), "threads: \"%0*d\xe2\x82\xac\\x01\"", (int)i + 1, 0);
        ck_assert_int_eq(load_bytes(text, strlen(text)), -1);
        longest = strlen(errors_text()) > longest ? strlen(errors_text()) : longest;
        ck_assert(strstr(told, i > 100 ? "0...\" in quotes\n" : "\" in quotes\n") != NULL);
    }
    ck_assert_uint_lt(longest, CONFIG_ERROR_TEXT_MAX);
}
END_TEST

static char directory[64], path[128];

static void
set_up_file(void)
{
    set_up();
    strcpy(directory, "/tmp/test_config.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/whippet.yaml", directory);
}

static void
tear_down_file(void)
{
    ck_assert(unlink(path) == 0 || errno == ENOENT);
    ck_assert_int_eq(rmdir(directory), 0);
}

static void
write_file(const char *text, size_t size)
{
    FILE *file = fopen(path, "w");

    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(text, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

/* config_load fails with one error about the file as a whole. */
static void
refuse_file(const char *name, const char *message)
{
    char expected[512];

    ck_assert_int_eq(config_load(&settings, name, &errors), -1);
    snprintf(expected, sizeof(expected), "%s: %s\n", name, message);
    ck_assert_str_eq(errors_text(), expected);
    ck_assert(equal(&settings, &defaults));
}

START_TEST(a_file_is_read_and_its_path_is_in_the_messages)
{
    char expected[512];

    write_file("threads: 12\n", 12);
    ck_assert_int_eq(config_load(&settings, path, &errors), 0);
    ck_assert_uint_eq(errors.total, 0);
    ck_assert_uint_eq(settings.threads, 12);
    write_file("threads: 1\nx: 2\n", 16);
    ck_assert_int_eq(config_load(&settings, path, &errors), -1);
    ck_assert_uint_eq(settings.threads, 12);
    snprintf(expected, sizeof(expected), "%s:2:1: unknown key \"x\"", path);
    ck_assert_ptr_eq(strstr(errors_text(), expected), told);
}
END_TEST

START_TEST(a_file_that_cannot_be_read_is_told)
{
    refuse_file(path, "cannot open: No such file or directory");
    refuse_file("", "cannot open: No such file or directory");
    refuse_file(directory, "cannot read: Is a directory");
    ck_assert_int_eq(symlink(path, path), 0);
    refuse_file(path, "cannot open: Too many levels of symbolic links");
}
END_TEST

/* Root may read everything, so the test becomes somebody else in a process of its own. */
START_TEST(a_file_without_permission_is_told)
{
    int status;
    pid_t child;

    write_file("threads: 1\n", 11);
    ck_assert_int_eq(chmod(path, 0), 0);
    ck_assert_int_eq(chmod(directory, 0755), 0);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        char expected[512];

        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(2);
        snprintf(expected, sizeof(expected), "%s: cannot open: Permission denied\n", path);
        if (config_load(&settings, path, &errors) != -1)
            _exit(3);
        _exit(strcmp(errors_text(), expected) == 0 ? 0 : 4);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(a_file_may_have_a_mebibyte_and_no_byte_more)
{
    char *text = malloc(CONFIG_FILE_MAX + 1);

    ck_assert_ptr_nonnull(text);
    memset(text, '#', CONFIG_FILE_MAX + 1);
    write_file(text, CONFIG_FILE_MAX);
    ck_assert_int_eq(config_load(&settings, path, &errors), 0);
    write_file(text, CONFIG_FILE_MAX + 1);
    refuse_file(path, "larger than 1048576 bytes");
    refuse_file("/dev/zero", "larger than 1048576 bytes");
    free(text);
}
END_TEST

START_TEST(a_pipe_is_read_to_its_end)
{
    char name[64];
    int ends[2];

    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_int_eq(write(ends[1], "threads: 3\n", 11), 11);
    close(ends[1]);
    snprintf(name, sizeof(name), "/dev/fd/%d", ends[0]);
    ck_assert_int_eq(config_load(&settings, name, &errors), 0);
    ck_assert_uint_eq(settings.threads, 3);
    close(ends[0]);
}
END_TEST

/* A file of the source folder: that of the build if it says where it is, else that from which this
 * was compiled. */
static const char *
source_path(const char *name)
{
    static char found[CONFIG_PATH_MAX];
    const char *folder = getenv("srcdir");

    if (folder != NULL)
        snprintf(found, sizeof(found), "%s/%s", folder, name);
    else
        snprintf(found, sizeof(found), "%.*s../../%s",
                 (int)(strlen(__FILE__) - strlen("test_config.c")), __FILE__, name);
    return found;
}

START_TEST(the_sample_has_every_key_with_its_default)
{
    /* Whatever the sample does not set would stay as it is here. */
    memset(&settings, 0x5a, sizeof(settings));
    for (size_t i = 0; i < SETTING_COUNT; i++) /* but for lists, which are owned */
        if (setting_table[i].type == SETTING_LIST)
            memset((char *)&settings + setting_table[i].offset, 0, setting_table[i].size);
    if (config_load(&settings, source_path("etc/whippet.yaml"), &errors) != 0)
        ck_abort_msg("%s", errors_text());
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const struct setting *setting = &setting_table[i];

        ck_assert_msg(memcmp((const char *)&settings + setting->offset,
                             (const char *)&defaults + setting->offset, setting->size)
                          == 0,
                      "%s is not in the sample with its default", setting->path);
    }
}
END_TEST

START_TEST(the_manual_describes_every_key_and_no_other)
{
    FILE *file = fopen(source_path("man/whippet.yaml.5"), "r");
    bool is_described[SETTING_COUNT] = {false};
    char line[512], key[SETTING_PATH_MAX];

    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        size_t i = 0;

        if (sscanf(line, ".It Cm %63s :", key) != 1)
            continue;
        while (i < SETTING_COUNT && strcmp(setting_table[i].path, key) != 0)
            i++;
        ck_assert_msg(i < SETTING_COUNT, "the manual describes %s", key);
        is_described[i] = true;
    }
    fclose(file);
    for (size_t i = 0; i < SETTING_COUNT; i++)
        ck_assert_msg(is_described[i], "%s is not in the manual", setting_table[i].path);
}
END_TEST

START_TEST(the_manual_lists_the_keys_that_need_a_restart_and_no_other)
{
    FILE *file = fopen(source_path("man/whippet.yaml.5"), "r");
    bool is_listed[SETTING_COUNT] = {false}, is_in_section = false;
    char line[512], key[SETTING_PATH_MAX];

    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, ".Ss ", 4) == 0)
            is_in_section = strncmp(line, ".Ss Changes", 11) == 0;
        bool is_bare = sscanf(line, ".Cm %63s", key) == 1 && strchr(line, ',') == NULL;
        for (size_t i = 0; is_in_section && is_bare && i < SETTING_COUNT; i++)
            if (strcmp(setting_table[i].path, key) == 0)
                is_listed[i] = true;
    }
    fclose(file);
    for (size_t i = 0; i < SETTING_COUNT; i++)
        ck_assert_msg(is_listed[i] == (!setting_table[i].is_live),
                      "the manual is wrong about when %s takes effect", setting_table[i].path);
}
END_TEST

static void
add_structure(Suite *suite)
{
    TCase *tests = tcase_create("structure");

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_test(tests, all_errors_are_told_with_their_places);
    tcase_add_test(tests, errors_beyond_the_limit_are_counted);
    tcase_add_test(tests, unknown_keys_are_told_with_what_was_meant);
    tcase_add_test(tests, keys_of_former_times_are_told_with_what_takes_their_place);
    tcase_add_test(tests, duplicate_keys_are_told_with_the_first);
    tcase_add_test(tests, a_section_is_a_mapping_or_nothing);
    tcase_add_test(tests, an_empty_file_is_the_defaults);
    tcase_add_test(tests, what_the_file_does_not_name_keeps_its_value);
    tcase_add_test(tests, text_that_is_not_yaml_is_told_at_its_place);
    tcase_add_test(tests, anchors_aliases_and_tags_are_refused);
    tcase_add_test(tests, depth_is_bounded);
    tcase_add_test(tests, text_that_is_not_utf8_is_told_at_its_place);
    tcase_add_test(tests, a_byte_order_mark_is_no_part_of_the_text);
    tcase_add_test(tests, line_ends_of_other_systems_are_taken);
    tcase_add_test(tests, text_of_the_file_is_escaped_and_cut_in_messages);
    suite_add_tcase(suite, tests);
}

static void
add_files(Suite *suite)
{
    TCase *tests = tcase_create("files"), *documents = tcase_create("documents");

    tcase_add_checked_fixture(tests, set_up_file, tear_down_file);
    tcase_add_test(tests, a_file_is_read_and_its_path_is_in_the_messages);
    tcase_add_test(tests, a_file_that_cannot_be_read_is_told);
    tcase_add_test(tests, a_file_without_permission_is_told);
    tcase_add_test(tests, a_file_may_have_a_mebibyte_and_no_byte_more);
    tcase_add_test(tests, a_pipe_is_read_to_its_end);
    suite_add_tcase(suite, tests);
    tcase_add_checked_fixture(documents, set_up, NULL);
    tcase_add_test(documents, the_sample_has_every_key_with_its_default);
    tcase_add_test(documents, the_manual_describes_every_key_and_no_other);
    tcase_add_test(documents, the_manual_lists_the_keys_that_need_a_restart_and_no_other);
    suite_add_tcase(suite, documents);
}

int
main(void)
{
    Suite *suite = suite_create("config");
    SRunner *runner;
    int failed;

    add_structure(suite);
    add_files(suite);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
