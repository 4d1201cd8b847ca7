/* Regular expressions of permissions and policies: PCRE2, the dialect of RabbitMQ's.
 *
 * An expression is compiled once and matches anywhere in a name, as RabbitMQ's do ("^a" and "a$"
 * anchor it). The empty expression matches the empty name only. Names are bytes, not characters.
 * An expression comes from an operator and a name from a client, so the work of one match is
 * bounded: an expression that would backtrack for long does not match. */
#ifndef BASE_PATTERN_H
#define BASE_PATTERN_H

#include <stdbool.h>

#include "amqp/slice.h"
#include "base/compiler.h"

enum {
    PATTERN_TEXT_MAX = 4096, /* bytes of an expression */
    PATTERN_ERROR_MAX = 256, /* a text that says what is wrong with one, with its 0 */
};

/* The text when memory ran out: then nothing is known about the expression. */
#define PATTERN_NO_MEMORY "out of memory"

struct pattern;

/* Compiles. NULL with the text: not an expression, too long, or PATTERN_NO_MEMORY. */
struct pattern *pattern_new(struct slice text, char error[PATTERN_ERROR_MAX]);

void pattern_free(struct pattern *pattern);

/* Any thread. False also when the limits of work or memory are hit. */
bool pattern_matches(const struct pattern *pattern, struct slice subject);

#endif
