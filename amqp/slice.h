/* A borrowed run of bytes: pointer and length, no terminator, no ownership.
 *
 * Names, keys and tables are passed around as slices of the buffer in which they arrived. Whoever
 * wants to keep one past the life of that buffer copies it. */
#ifndef AMQP_SLICE_H
#define AMQP_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct slice {
    const char *data;
    size_t size;
};

/* A slice of a string literal; the size is a compile-time constant. */
#define SLICE(literal) ((struct slice){.data = "" literal, .size = sizeof(literal) - 1})

/* printf("%.*s", SLICE_ARGS(slice)) */
#define SLICE_ARGS(slice) ((int)(slice).size), ((slice).data)

static inline struct slice
slice_from(const char *string)
{
    return (struct slice){.data = string, .size = strlen(string)};
}

static inline bool
slice_equal(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline bool
slice_is(struct slice a, const char *string)
{
    return slice_equal(a, slice_from(string));
}

static inline bool
slice_starts_with(struct slice a, struct slice prefix)
{
    return a.size >= prefix.size
           && (prefix.size == 0 || memcmp(a.data, prefix.data, prefix.size) == 0);
}

/* Copies the bytes to *at, where the caller made room, and moves *at behind them. Returns the copy:
 * so an object keeps its names in one allocation. */
static inline struct slice
slice_keep(char **at, struct slice from)
{
    struct slice kept = {*at, from.size};
    if (from.size > 0)
        memcpy(*at, from.data, from.size);
    *at += from.size;
    return kept;
}

#endif
