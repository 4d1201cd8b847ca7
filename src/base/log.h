/* The program's log: what it tells the operator, one event per line.
 *
 *     log_info("connection closed", LOG_STR("peer", peer), LOG_INT("channel", number));
 *
 * An event is a fixed text of ours; everything that varies is a field. As key=value for people:
 *
 *     2026-11-23T22:41:02.123Z info connection closed peer=127.0.0.1:5 reason="shut down"
 *
 * or as one JSON object per line for machines. Text from outside is escaped in both, so that a line
 * is always a line and valid UTF-8, and nobody writes entries by choosing a name. A line is at most
 * LOG_LINE_MAX bytes; a longer one is cut and says so. Every line is one write(2), so lines of
 * several threads do not mix. A message below the level costs a load and a branch.
 *
 * Where standard error is the journal of systemd, a line begins with its priority ("<4>"), which
 * the journal takes off again: so it knows errors from the rest. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"

enum { LOG_LINE_MAX = 4096 };

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

enum log_field_kind {
    LOG_FIELD_END,
    LOG_FIELD_TEXT,
    LOG_FIELD_INT,
    LOG_FIELD_UINT,
    LOG_FIELD_BOOL,
};

struct log_field {
    const char *key; /* a plain name of ours: letters, digits, '_' */
    enum log_field_kind kind;
    union {
        struct slice text;
        int64_t integer;
        uint64_t natural;
        bool truth;
    };
};

struct slice log_text_of(const char *string); /* "" for NULL */
struct slice log_text_of_errno(int error);    /* the system's text, e.g. "Connection refused" */

#define LOG_SLICE(name, value)                                                                     \
    {                                                                                              \
        .key = (name), .kind = LOG_FIELD_TEXT, .text = (value)                                     \
    }
#define LOG_STR(name, value) LOG_SLICE(name, log_text_of(value))
#define LOG_INT(name, value)                                                                       \
    {                                                                                              \
        .key = (name), .kind = LOG_FIELD_INT, .integer = (int64_t)(value)                          \
    }
#define LOG_UINT(name, value)                                                                      \
    {                                                                                              \
        .key = (name), .kind = LOG_FIELD_UINT, .natural = (uint64_t)(value)                        \
    }
#define LOG_BOOL(name, value)                                                                      \
    {                                                                                              \
        .key = (name), .kind = LOG_FIELD_BOOL, .truth = (value)                                    \
    }
/* An errno, positive or negated, as the system's text. */
#define LOG_ERRNO(name, value) LOG_SLICE(name, log_text_of_errno(value))

extern _Atomic int log_threshold; /* the enum log_level up to which events are written */

static inline bool
log_is_on(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_threshold, memory_order_relaxed);
}

#define LOG_EVENT(level, event, ...)                                                               \
    do {                                                                                           \
        if (log_is_on(level)) {                                                                    \
            const struct log_field log_fields_[] = {                                               \
                __VA_ARGS__ __VA_OPT__(, ){.kind = LOG_FIELD_END}};                                \
            log_event(level, event, log_fields_, ARRAY_SIZE(log_fields_) - 1);                     \
        }                                                                                          \
    } while (0)

#define log_error(event, ...) LOG_EVENT(LOG_LEVEL_ERROR, event __VA_OPT__(, ) __VA_ARGS__)
#define log_warn(event, ...) LOG_EVENT(LOG_LEVEL_WARN, event __VA_OPT__(, ) __VA_ARGS__)
#define log_info(event, ...) LOG_EVENT(LOG_LEVEL_INFO, event __VA_OPT__(, ) __VA_ARGS__)
#define log_debug(event, ...) LOG_EVENT(LOG_LEVEL_DEBUG, event __VA_OPT__(, ) __VA_ARGS__)

/* Writes one line, at once. Keeps errno. A line that cannot be written is counted (log_lost). */
COLD void log_event(enum log_level level, const char *event, const struct log_field *fields,
                    size_t count);

/* Where and how to write: path NULL means standard error (the state without a call, as text, at
 * info). Before threads are started. -errno when the file cannot be opened for appending; nothing
 * has changed then. The path is copied. */
MUST_CHECK int log_setup(enum log_format format, enum log_level level, const char *path);

/* Whether standard error is a stream of systemd's journal, as JOURNAL_STREAM says
 * (systemd.exec(5)): then what is written there has its priority in front (sd-daemon(3)). Without a
 * call it has not. Before threads are started. */
void log_find_journal(void);

/* A line on standard error that is no event, whatever the level and the format of the log are: why
 * the program does not start, say. With its newline; a text that is longer than LOG_LINE_MAX is
 * cut. Any thread. */
PRINTF_LIKE(2, 3) COLD void log_plain(enum log_level level, const char *format, ...);

/* From now on events up to this level are written. Any thread. */
void log_set_level(enum log_level level);

/* From now on lines are written so. Any thread. */
void log_set_format(enum log_format format);

/* Opens the file again by its name, after something has moved it away; nothing to do on standard
 * error. Other threads may go on writing meanwhile. -errno: the old file stays in use. */
MUST_CHECK int log_reopen(void);

/* Lines that could not be written, since the start. */
uint64_t log_lost(void);

/* "error", "warn", "info", "debug". */
const char *log_level_name(enum log_level level);

/* false when it is none of them. */
MUST_CHECK bool log_level_parse(struct slice name, enum log_level *level);

/* The line as log_event writes it, with its newline; returns its length, at most LOG_LINE_MAX. */
size_t log_format_line(char out[LOG_LINE_MAX], enum log_format format, int64_t wall_ms,
                       enum log_level level, const char *event, const struct log_field *fields,
                       size_t count);

/* For events that strangers can cause: at most `burst` in an interval, the others are counted.
 *
 *     static _Thread_local struct log_rate rate = LOG_RATE(5, 1000);
 *     if (log_rate_allows(&rate, now_ms))
 *         log_warn("frame refused", LOG_UINT("suppressed", log_rate_suppressed(&rate)));
 *
 * Belongs to one thread. */
struct log_rate {
    uint32_t burst;
    uint32_t interval_ms;
    int64_t began_ms; /* the current interval */
    uint32_t passed;  /* in it */
    bool has_begun;
    uint64_t suppressed; /* since they were last reported */
};

#define LOG_RATE(burst_, interval_ms_)                                                             \
    {                                                                                              \
        .burst = (burst_), .interval_ms = (interval_ms_)                                           \
    }

MUST_CHECK bool log_rate_allows(struct log_rate *rate, int64_t now_ms);

/* How many were held back since the last call. */
uint64_t log_rate_suppressed(struct log_rate *rate);

#endif
