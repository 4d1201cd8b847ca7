/* The field types as a table, shared by the files that read, compare and build field tables. */
#ifndef AMQP_TABLE_INTERNAL_H
#define AMQP_TABLE_INTERNAL_H

#include <stdint.h>

enum amqp_value_kind {
    AMQP_KIND_NONE, /* not a tag */
    AMQP_KIND_BOOL,
    AMQP_KIND_SIGNED,
    AMQP_KIND_UNSIGNED,
    AMQP_KIND_REAL,
    AMQP_KIND_DECIMAL,
    AMQP_KIND_TIMESTAMP,
    AMQP_KIND_VOID,
    AMQP_KIND_STRING, /* from here on: 32 bits of length, then so many bytes */
    AMQP_KIND_ARRAY,
    AMQP_KIND_TABLE
};

struct amqp_value_type {
    uint8_t kind;  /* enum amqp_value_kind */
    uint8_t width; /* octets of the value, or of its length */
    const char *name;
};

/* By tag. */
extern const struct amqp_value_type amqp_value_types[256];

#endif
