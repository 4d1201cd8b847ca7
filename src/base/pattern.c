/* Regular expressions: see the header. */
#include "base/pattern.h"

#include <stdio.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/clock.h"
#include "base/log.h"

enum {
    /* What one match may cost: a few milliseconds at the worst, where usual expressions over names
     * of 255 bytes need less than a thousand steps. */
    MATCH_STEPS_MAX = 100 * 1000,
    MATCH_HEAP_KIB_MAX = 4096,
    NESTING_MAX = 50, /* parentheses */
};

struct pattern {
    pcre2_code *code; /* NULL: matches everything */
    pcre2_match_context *limits;
};

/* What is nearly always meant costs no matching. */
static bool
is_everything(struct slice text)
{
    return slice_is(text, ".*") || slice_is(text, "^.*$") || slice_is(text, "^.*");
}

static pcre2_code *
compile(struct slice text, char error[PATTERN_ERROR_MAX])
{
    int code = 0;
    PCRE2_SIZE place = 0;
    PCRE2_UCHAR reason[PATTERN_ERROR_MAX - 32];
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) {
        snprintf(error, PATTERN_ERROR_MAX, PATTERN_NO_MEMORY);
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, NESTING_MAX);
    pcre2_code *compiled = pcre2_compile(
        (PCRE2_SPTR)text.data, text.size,
        PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &place, context);
    pcre2_compile_context_free(context);
    if (compiled != NULL)
        return compiled;
    pcre2_get_error_message(code, reason, sizeof(reason));
    snprintf(error, PATTERN_ERROR_MAX, "%s, at byte %zu", (const char *)reason, (size_t)place);
    return NULL;
}

struct pattern *
pattern_new(struct slice text, char error[PATTERN_ERROR_MAX])
{
    if (text.size > PATTERN_TEXT_MAX) {
        snprintf(error, PATTERN_ERROR_MAX, "longer than %d bytes", (int)PATTERN_TEXT_MAX);
        return NULL;
    }
    snprintf(error, PATTERN_ERROR_MAX, PATTERN_NO_MEMORY);
    struct pattern *pattern = calloc(1, sizeof(*pattern));
    if (pattern == NULL || is_everything(text))
        return pattern;
    pattern->limits = pcre2_match_context_create(NULL);
    if (pattern->limits != NULL)
        pattern->code = compile(text.size == 0 ? SLICE("^$") : text, error);
    if (pattern->code == NULL) {
        pattern_free(pattern);
        return NULL;
    }
    pcre2_set_match_limit(pattern->limits, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(pattern->limits, MATCH_HEAP_KIB_MAX);
    return pattern;
}

void
pattern_free(struct pattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    free(pattern);
}

/* Clients can cause it as often as they like. */
static void
tell_given_up(struct slice subject, int code)
{
    static _Thread_local struct log_rate rate = LOG_RATE(5, 10000);
    if (log_rate_allows(&rate, clock_monotonic_ms()))
        log_warn("a regular expression was given up: it needs too much work",
                 LOG_SLICE("name", subject), LOG_INT("code", code),
                 LOG_UINT("suppressed", log_rate_suppressed(&rate)));
}

bool
pattern_matches(const struct pattern *pattern, struct slice subject)
{
    if (pattern->code == NULL)
        return true;
    /* Nobody asks where it matched; 1 is the least there can be. */
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    if (data == NULL)
        return false;
    int status = pcre2_match(pattern->code, (PCRE2_SPTR)(subject.size == 0 ? "" : subject.data),
                             subject.size, 0, 0, data, pattern->limits);
    pcre2_match_data_free(data);
    if (status < PCRE2_ERROR_NOMATCH)
        tell_given_up(subject, status);
    return status >= 0;
}
