/* Where log lines go, and which are written; their text is made in log_format.c.
 *
 * The descriptor's number never changes once threads run: opening the file anew puts the new file
 * under the same number (dup3), so writers need no lock. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

/* As the journal has them: SD_ERR and so on, which are syslog's. */
static const char *const level_priorities[] = {
    [LOG_LEVEL_ERROR] = "<3>",
    [LOG_LEVEL_WARN] = "<4>",
    [LOG_LEVEL_INFO] = "<6>",
    [LOG_LEVEL_DEBUG] = "<7>",
};

enum { PRIORITY_SIZE = 3 };

_Atomic int log_threshold = LOG_LEVEL_INFO;

static struct {
    int fd;
    char *path;         /* NULL: standard error */
    bool is_journal;    /* standard error is */
    _Atomic int format; /* enum log_format */
    _Atomic uint64_t lost;
} output = {.fd = STDERR_FILENO};

struct slice
log_text_of(const char *string)
{
    return string != NULL ? slice_from(string) : SLICE("");
}

struct slice
log_text_of_errno(int error)
{
    /* Safe with threads: nobody sets a locale, so the texts are constants; that of an unknown error
     * is the thread's. */
    return slice_from(strerror(error < 0 ? -error : error));
}

const char *
log_level_name(enum log_level level)
{
    return level_names[level];
}

bool
log_level_parse(struct slice name, enum log_level *level)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (slice_is(name, level_names[i])) {
            *level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void
log_find_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    char own[2 * 20 + sizeof(":")]; /* two numbers of 64 bits */
    struct stat status;

    output.is_journal = false;
    if (stream == NULL || fstat(STDERR_FILENO, &status) != 0)
        return;
    snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino);
    output.is_journal = strcmp(stream, own) == 0;
}

/* Puts what the journal wants to know in front of a line; returns its size, up to PRIORITY_SIZE. */
static size_t
put_priority(char *line, enum log_level level)
{
    if (!output.is_journal)
        return 0;
    memcpy(line, level_priorities[level], PRIORITY_SIZE);
    return PRIORITY_SIZE;
}

/* One write, unless a signal or a full disk cuts it short. */
static bool
write_line(int fd, const char *line, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, line, size);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        line += written;
        size -= (size_t)written;
    }
    return true;
}

void
log_event(enum log_level level, const char *event, const struct log_field *fields, size_t count)
{
    char line[PRIORITY_SIZE + LOG_LINE_MAX];
    int saved_errno = errno;
    enum log_format format =
        (enum log_format)atomic_load_explicit(&output.format, memory_order_relaxed);
    size_t size = output.path == NULL ? put_priority(line, level) : 0;

    size += log_format_line(line + size, format, clock_wall_ms(), level, event, fields, count);
    if (!write_line(output.fd, line, size))
        atomic_fetch_add_explicit(&output.lost, 1, memory_order_relaxed);
    errno = saved_errno;
}

void
log_plain(enum log_level level, const char *format, ...)
{
    char line[PRIORITY_SIZE + LOG_LINE_MAX];
    size_t size = put_priority(line, level);
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(line + size, LOG_LINE_MAX, format, arguments);
    va_end(arguments);
    if (length > 0)
        size += length < LOG_LINE_MAX ? (size_t)length : LOG_LINE_MAX - 1;
    line[size++] = '\n'; /* in the place of the 0 */
    if (!write_line(STDERR_FILENO, line, size))
        atomic_fetch_add_explicit(&output.lost, 1, memory_order_relaxed);
}

static int
open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);

    return fd >= 0 ? fd : -errno;
}

int
log_setup(enum log_format format, enum log_level level, const char *path)
{
    int fd = STDERR_FILENO;
    char *copy = NULL;

    if (path != NULL) {
        copy = strdup(path);
        if (copy == NULL)
            return -ENOMEM;
        fd = open_file(path);
        if (fd < 0) {
            free(copy);
            return fd;
        }
    }
    if (output.path != NULL) {
        close(output.fd);
        free(output.path);
    }
    output.fd = fd;
    output.path = copy;
    log_set_format(format);
    log_set_level(level);
    return 0;
}

void
log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
}

void
log_set_format(enum log_format format)
{
    atomic_store_explicit(&output.format, (int)format, memory_order_relaxed);
}

int
log_reopen(void)
{
    int fd, result = 0;

    if (output.path == NULL)
        return 0;
    fd = open_file(output.path);
    if (fd < 0)
        return fd;
    if (dup3(fd, output.fd, O_CLOEXEC) < 0)
        result = -errno;
    close(fd);
    return result;
}

uint64_t
log_lost(void)
{
    return atomic_load_explicit(&output.lost, memory_order_relaxed);
}

bool
log_rate_allows(struct log_rate *rate, int64_t now_ms)
{
    if (!rate->has_begun || now_ms - rate->began_ms >= rate->interval_ms) {
        rate->has_begun = true;
        rate->began_ms = now_ms;
        rate->passed = 0;
    }
    if (rate->passed < rate->burst) {
        rate->passed++;
        return true;
    }
    rate->suppressed++;
    return false;
}

uint64_t
log_rate_suppressed(struct log_rate *rate)
{
    uint64_t suppressed = rate->suppressed;

    rate->suppressed = 0;
    return suppressed;
}
