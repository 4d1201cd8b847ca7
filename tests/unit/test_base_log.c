/* The log: whatever strangers choose as names, a line stays one line of valid UTF-8. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/random.h"

/* 2026-11-23T22:41:02.123Z */
#define WHEN INT64_C(1795473662123)

static char line[LOG_LINE_MAX + 1];
static char directory[64], path[96], moved_path[96];

/* The line as a string, without its newline. */
static const char *
format_fields(enum log_format format, const struct log_field *fields, size_t count)
{
    size_t size =
        log_format_line(line, format, WHEN, LOG_LEVEL_INFO, "connection closed", fields, count);

    ck_assert_uint_le(size, LOG_LINE_MAX);
    ck_assert_int_eq(line[size - 1], '\n');
    line[size - 1] = '\0';
    ck_assert_uint_eq(strlen(line), size - 1);
    return line;
}

#define FORMAT(format, ...)                                                                        \
    format_fields(format, (const struct log_field[]){__VA_ARGS__},                                 \
                  ARRAY_SIZE(((const struct log_field[]){__VA_ARGS__})))

#define TEXT_HEAD "2026-11-23T22:41:02.123Z info connection closed"
#define JSON_HEAD                                                                                  \
    "{\"time\":\"2026-11-23T22:41:02.123Z\",\"level\":\"info\",\"event\":\"connection closed\""

START_TEST(fields_are_written_as_key_and_value)
{
    ck_assert_str_eq(FORMAT(LOG_FORMAT_TEXT, LOG_STR("peer", "127.0.0.1:5"),
                            LOG_STR("reason", "shut down"), LOG_INT("channel", -3),
                            LOG_UINT("tag", UINT64_MAX), LOG_BOOL("clean", true)),
                     TEXT_HEAD " peer=127.0.0.1:5 reason=\"shut down\" channel=-3"
                               " tag=18446744073709551615 clean=true");
    ck_assert_str_eq(FORMAT(LOG_FORMAT_JSON, LOG_STR("peer", "127.0.0.1:5"), LOG_INT("channel", -3),
                            LOG_BOOL("clean", false)),
                     JSON_HEAD ",\"peer\":\"127.0.0.1:5\",\"channel\":-3,\"clean\":false}");
    ck_assert_str_eq(format_fields(LOG_FORMAT_TEXT, NULL, 0), TEXT_HEAD);
    ck_assert_str_eq(format_fields(LOG_FORMAT_JSON, NULL, 0), JSON_HEAD "}");
    ck_assert_str_eq(FORMAT(LOG_FORMAT_TEXT, LOG_STR("missing", NULL), LOG_ERRNO("why", -ENOENT)),
                     TEXT_HEAD " missing=\"\" why=\"No such file or directory\"");
    char unknown[256];
    snprintf(unknown, sizeof(unknown), TEXT_HEAD " why=\"%s\"", strerror(99999));
    ck_assert_str_eq(FORMAT(LOG_FORMAT_TEXT, LOG_ERRNO("why", 99999)), unknown);
}
END_TEST

static const struct {
    struct slice value;
    const char *text, *json;
} escapes[] = {
    {{"a=b", 3}, "\"a=b\"", "\"a=b\""},
    {{"say \"hi\" \\o/", 12}, "\"say \\\"hi\\\" \\\\o/\"", "\"say \\\"hi\\\" \\\\o/\""},
    {{"x\ny\r\t", 5}, "\"x\\ny\\r\\t\"", "\"x\\ny\\r\\t\""},
    {{"\0\x1b[2J\x7f", 6}, "\"\\u0000\\u001b[2J\\u007f\"", "\"\\u0000\\u001b[2J\\u007f\""},
    {{"gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\x95", 11},
     "\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\x95\"",
     "\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\x95\""},
    {{"\xc2\x9b", 2}, "\"\\u009b\"", "\"\\u009b\""},     /* a terminal's CSI in one character */
    {{"\xe2\x80\xae", 3}, "\"\\u202e\"", "\"\\u202e\""}, /* right-to-left override */
    {{"\xff", 1}, "\"\\xff\"", "\"\\ufffd\""},
    {{"\xc3", 1}, "\"\\xc3\"", "\"\\ufffd\""},                                 /* cut short */
    {{"\xc0\x80", 2}, "\"\\xc0\\x80\"", "\"\\ufffd\\ufffd\""},                 /* overlong */
    {{"\xed\xa0\x80", 3}, "\"\\xed\\xa0\\x80\"", "\"\\ufffd\\ufffd\\ufffd\""}, /* surrogate */
    {{"\xf4\x90\x80\x80", 4}, "\"\\xf4\\x90\\x80\\x80\"", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},
};

START_TEST(foreign_text_is_escaped)
{
    char expected[256];

    snprintf(expected, sizeof(expected), TEXT_HEAD " name=%s", escapes[_i].text);
    ck_assert_str_eq(FORMAT(LOG_FORMAT_TEXT, LOG_SLICE("name", escapes[_i].value)), expected);
    snprintf(expected, sizeof(expected), JSON_HEAD ",\"name\":%s}", escapes[_i].json);
    ck_assert_str_eq(FORMAT(LOG_FORMAT_JSON, LOG_SLICE("name", escapes[_i].value)), expected);
}
END_TEST

static bool
ends_with(const char *string, const char *end)
{
    size_t size = strlen(string), end_size = strlen(end);

    return size >= end_size && strcmp(string + size - end_size, end) == 0;
}

/* At every length around the limit, so that the cut falls into each part of a field once. */
START_TEST(a_line_that_is_too_long_is_cut_and_says_so)
{
    static char huge[5000];
    bool was_whole = false, was_cut = false;

    memset(huge, 'h', sizeof(huge));
    for (size_t size = 3900; size < 4200; size++) {
        struct slice slice = {.data = huge, .size = size};
        const char *out = FORMAT(LOG_FORMAT_JSON, LOG_SLICE("huge", slice), LOG_INT("n", 12345),
                                 LOG_STR("s", "\x01\x01"));
        bool is_cut = strstr(out, ",\"cut\":true}") != NULL;

        ck_assert(
            ends_with(out, is_cut ? ",\"cut\":true}" : "\",\"n\":12345,\"s\":\"\\u0001\\u0001\"}"));
        ck_assert(!is_cut || strstr(out, "h\",") != NULL); /* the quote is closed */
        was_whole = was_whole || !is_cut;
        was_cut = was_cut || is_cut;
        out = FORMAT(LOG_FORMAT_TEXT, LOG_SLICE("huge", slice), LOG_STR("s", "a b"));
        ck_assert(ends_with(out, " cut=true") || ends_with(out, " s=\"a b\""));
    }
    ck_assert(was_whole && was_cut);
}
END_TEST

static bool
is_printable(const char *string)
{
    while ((uint8_t)*string >= ' ' && *string != 0x7f)
        string++;
    return *string == '\0';
}

START_TEST(any_bytes_make_one_printable_line)
{
    struct random random;
    char bytes[200];

    random_init_with(&random, 9);
    for (int round = 0; round < 3000; round++) {
        struct slice slice = {.data = bytes, .size = random_below(&random, sizeof(bytes))};
        const char *out;

        for (size_t i = 0; i < slice.size; i++)
            bytes[i] = (char)(round % 2 == 0 ? random_next(&random) : 0x80 | random_next(&random));
        out =
            FORMAT((enum log_format)(round / 2 % 2), LOG_SLICE("a", slice), LOG_SLICE("b", slice));
        ck_assert_msg(is_printable(out), "not printable: %s", out);
    }
}
END_TEST

static void
set_up_file(void)
{
    snprintf(directory, sizeof(directory), "/tmp/test_log_XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/log", directory);
    snprintf(moved_path, sizeof(moved_path), "%s/log.1", directory);
    ck_assert_int_eq(log_setup(LOG_FORMAT_TEXT, LOG_LEVEL_INFO, path), 0);
}

static void
tear_down_file(void)
{
    ck_assert_int_eq(log_setup(LOG_FORMAT_TEXT, LOG_LEVEL_INFO, NULL), 0);
    unlink(path);
    unlink(moved_path);
    rmdir(directory);
}

/* How many lines the file has; each must be one of ours, whole. */
static int
count_lines(const char *of)
{
    FILE *file = fopen(of, "r");
    char text[256];
    int count = 0;

    ck_assert_ptr_nonnull(file);
    while (fgets(text, sizeof(text), file) != NULL) {
        ck_assert_msg(strstr(text, " event thread=") != NULL && ends_with(text, " end=here\n"),
                      "mixed line: %s", text);
        count++;
    }
    fclose(file);
    return count;
}

START_TEST(events_below_the_level_are_not_written)
{
    enum log_level level;

    log_debug("event", LOG_INT("thread", 0), LOG_STR("end", "here"));
    ck_assert_int_eq(count_lines(path), 0);
    log_error("event", LOG_INT("thread", 0), LOG_STR("end", "here"));
    log_info("event", LOG_INT("thread", 0), LOG_STR("end", "here"));
    ck_assert_int_eq(count_lines(path), 2);
    ck_assert(log_level_parse(SLICE("debug"), &level));
    log_set_level(level);
    log_debug("event", LOG_INT("thread", 0), LOG_STR("end", "here"));
    ck_assert_int_eq(count_lines(path), 3);
    log_set_level(LOG_LEVEL_ERROR);
    log_warn("event", LOG_INT("thread", 0), LOG_STR("end", "here"));
    ck_assert_int_eq(count_lines(path), 3);
    ck_assert(!log_level_parse(SLICE("loud"), &level));
}
END_TEST

enum { THREADS = 4, LINES = 400 };

static void *
write_lines(void *number)
{
    for (int i = 0; i < LINES; i++)
        log_info("event", LOG_INT("thread", *(int *)number), LOG_STR("filler", "some more text"),
                 LOG_STR("end", "here"));
    return NULL;
}

/* With the file moved away and opened anew in the middle, as log rotation does. */
START_TEST(lines_of_threads_do_not_mix_and_none_is_lost)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];

    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_lines, &numbers[i]), 0);
    }
    ck_assert_int_eq(rename(path, moved_path), 0);
    ck_assert_int_eq(log_reopen(), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(count_lines(path) + count_lines(moved_path), THREADS * LINES);
    ck_assert_uint_eq(log_lost(), 0);
    log_info("event", LOG_INT("thread", 0), LOG_STR("end", "here"));
    ck_assert_int_ge(count_lines(path), 1);
}
END_TEST

START_TEST(a_line_that_cannot_be_written_is_counted_and_errno_kept)
{
    ck_assert_int_eq(log_setup(LOG_FORMAT_TEXT, LOG_LEVEL_INFO, "/dev/full"), 0);
    errno = EBADMSG;
    log_info("nobody will know");
    ck_assert_int_eq(errno, EBADMSG);
    ck_assert_uint_eq(log_lost(), 1);
    ck_assert_int_eq(log_setup(LOG_FORMAT_TEXT, LOG_LEVEL_INFO, "/no/such/place"), -ENOENT);
}
END_TEST

/* Standard error becomes a pipe, of which JOURNAL_STREAM says this; what comes is one event of each
 * level and one plain line. */
static const char *
said_to_a_pipe(const char *stream_format)
{
    static char said[1024];
    char stream[64];
    struct stat status;
    int ends[2], before = dup(STDERR_FILENO);
    ssize_t size;

    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(fstat(ends[1], &status), 0);
    ck_assert_int_eq(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    close(ends[1]);
    snprintf(stream, sizeof(stream), stream_format, (uintmax_t)status.st_dev,
             (uintmax_t)status.st_ino);
    ck_assert_int_eq(setenv("JOURNAL_STREAM", stream, 1), 0);
    log_find_journal();
    log_set_level(LOG_LEVEL_DEBUG);
    log_error("event");
    log_warn("event");
    log_info("event");
    log_debug("event");
    log_plain(LOG_LEVEL_ERROR, "no event, but %s", "a line");
    ck_assert_int_eq(dup2(before, STDERR_FILENO), STDERR_FILENO); /* and so the pipe ends */
    close(before);
    size = read(ends[0], said, sizeof(said) - 1);
    ck_assert_int_gt(size, 0);
    said[size] = '\0';
    close(ends[0]);
    ck_assert_int_eq(unsetenv("JOURNAL_STREAM"), 0);
    log_find_journal();
    log_set_level(LOG_LEVEL_INFO);
    return said;
}

/* Without the time of each event, which varies. */
static void
check_said(const char *said, const char *const beginnings[5])
{
    for (int i = 0; i < 5; i++) {
        ck_assert_msg(strncmp(said, beginnings[i], strlen(beginnings[i])) == 0,
                      "expected %s...: %s", beginnings[i], said);
        said = strchr(said, '\n');
        ck_assert_ptr_nonnull(said);
        said++;
    }
    ck_assert_str_eq(said, "");
}

START_TEST(the_journal_is_told_the_level_of_each_line)
{
    static const char *const expected[] = {"<3>2", "<4>2", "<6>2", "<7>2",
                                           "<3>no event, but a line"};

    check_said(said_to_a_pipe("%ju:%ju"), expected);
}
END_TEST

/* The variable is inherited, also by a program whose output goes elsewhere. */
static const char *const other_streams[] = {"%ju:1%ju", "1%ju:%ju", "%ju:%ju:1", "%ju:%jux",
                                            "%ju%ju",   " %ju:%ju", "%ju:",      "",
                                            ":",        "-%ju:%ju", "%ju: %ju"};

START_TEST(nobody_else_is_told_it)
{
    static const char *const expected[] = {"2", "2", "2", "2", "no event, but a line"};

    check_said(said_to_a_pipe(other_streams[_i]), expected);
}
END_TEST

START_TEST(a_file_is_not_the_journal_when_standard_error_is)
{
    struct stat status;
    char stream[64], text[8] = "";
    FILE *file;

    ck_assert_int_eq(fstat(STDERR_FILENO, &status), 0);
    snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino);
    ck_assert_int_eq(setenv("JOURNAL_STREAM", stream, 1), 0);
    log_find_journal();
    log_error("event");
    ck_assert_int_eq(unsetenv("JOURNAL_STREAM"), 0);
    log_find_journal();
    file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_ptr_nonnull(fgets(text, sizeof(text), file));
    fclose(file);
    ck_assert_int_eq(text[0], '2');
}
END_TEST

START_TEST(a_rate_lets_its_burst_pass_and_counts_the_rest)
{
    struct log_rate rate = LOG_RATE(2, 1000);

    ck_assert(log_rate_allows(&rate, 5));
    ck_assert(log_rate_allows(&rate, 6));
    ck_assert(!log_rate_allows(&rate, 7));
    ck_assert(!log_rate_allows(&rate, 1004));
    ck_assert(log_rate_allows(&rate, 1005));
    ck_assert_uint_eq(log_rate_suppressed(&rate), 2);
    ck_assert_uint_eq(log_rate_suppressed(&rate), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/log");
    TCase *journal = tcase_create("journal");
    TCase *format = tcase_create("format"), *file = tcase_create("file");
    SRunner *runner;
    int failed;

    tcase_add_test(format, fields_are_written_as_key_and_value);
    tcase_add_loop_test(format, foreign_text_is_escaped, 0, (int)ARRAY_SIZE(escapes));
    tcase_add_test(format, a_line_that_is_too_long_is_cut_and_says_so);
    tcase_add_test(format, any_bytes_make_one_printable_line);
    tcase_add_test(format, a_rate_lets_its_burst_pass_and_counts_the_rest);
    suite_add_tcase(suite, format);
    tcase_add_test(journal, the_journal_is_told_the_level_of_each_line);
    tcase_add_loop_test(journal, nobody_else_is_told_it, 0, (int)ARRAY_SIZE(other_streams));
    suite_add_tcase(suite, journal);
    tcase_add_checked_fixture(file, set_up_file, tear_down_file);
    tcase_add_test(file, events_below_the_level_are_not_written);
    tcase_add_test(file, lines_of_threads_do_not_mix_and_none_is_lost);
    tcase_add_test(file, a_line_that_cannot_be_written_is_counted_and_errno_kept);
    tcase_add_test(file, a_file_is_not_the_journal_when_standard_error_is);
    suite_add_tcase(suite, file);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
