/* Text between whippetctl and people: names that may have anything in them, and passwords. */
#ifndef CTL_TEXT_H
#define CTL_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "amqp/slice.h"
#include "base/compiler.h"

enum { TEXT_PASSWORD_MAX = 1025 }; /* what the broker takes, with its 0 */

/* Writes the text so that a line stays a line and a terminal takes no orders from it: control
 * characters, those that turn the direction of writing, and backslashes, are escaped as in C. */
void text_print(struct slice text, FILE *out);

/* A column: the key of the JSON, and its head. The list ends with a NULL key. */
struct text_column {
    const char *key, *name;
};

/* The list of objects as a table, with tabs between and a line of heads. */
void text_table(const json_t *list, const struct text_column *columns, FILE *out);

/* The same as JSON, with the names as keys. -1: out of memory or the output cannot be written. */
MUST_CHECK int text_json(const json_t *list, const struct text_column *columns, FILE *out);

/* Reads a password: on a terminal without showing it, and twice if it is a new one; else the first
 * line of standard input. -1, after one line on standard error: there is none, it is too long, or
 * the two differ. To be wiped by the caller. */
MUST_CHECK int text_read_password(char password[TEXT_PASSWORD_MAX], bool is_new);

#endif
