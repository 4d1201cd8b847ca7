/* Field tables (AMQP 0-9-1 section 4.2.5.5) with the field types that RabbitMQ and its clients
 * really use, which are not those of the specification's grammar:
 *
 *     t bool       b signed 8    B unsigned 8    s signed 16   u unsigned 16
 *     I signed 32  i unsigned 32 l, L signed 64  f float       d double
 *     D decimal    S long string x binary        A array       F table
 *     T timestamp  V void
 *
 * Throughout, a table or array is a slice of its content, without the four octets of length before
 * it. Readers check every length and may be given any bytes; nothing is allocated except by the
 * builder and, for large tables, by the comparison. */
#ifndef AMQP_TABLE_H
#define AMQP_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "amqp/slice.h"

/* How deep tables and arrays may nest; the outermost table counts as 1. Clients seldom pass 4. */
#define AMQP_TABLE_MAX_DEPTH 128u

/* The errors of amqp_table_validate. */
#define AMQP_TABLE_MALFORMED (-1)
#define AMQP_TABLE_TOO_DEEP (-2)

struct amqp_value {
    uint8_t type; /* the tag on the wire: 't', 'S' ... */
    union {
        bool boolean;       /* t */
        int64_t integer;    /* b B s u I i l L */
        uint64_t timestamp; /* T */
        double real;        /* f d */
        struct {
            uint8_t scale;
            int32_t value;
        } decimal;          /* D: value / 10^scale */
        struct slice bytes; /* S x, and the content of A F; borrowed */
    };
};

/* ---- reading ---- */

struct amqp_table_iterator {
    const uint8_t *at, *end;
};

/* An iterator over the content of a table, or of an array. Valid as long as the bytes are. */
struct amqp_table_iterator amqp_table_begin(struct slice content);

/* The next entry of a table, the next item of an array: 1 and the item; 0 at the end; -1 if the
 * rest is malformed (then also at every further call). Nested content is only bounded, not looked
 * into. */
int amqp_table_next(struct amqp_table_iterator *iterator, struct slice *name,
                    struct amqp_value *value);
int amqp_array_next(struct amqp_table_iterator *iterator, struct amqp_value *value);

/* Checks a table to its depths: 0, AMQP_TABLE_MALFORMED, or AMQP_TABLE_TOO_DEEP if it nests deeper
 * than max_depth (at most AMQP_TABLE_MAX_DEPTH; a larger max_depth counts as that). Takes time
 * linear in the size and constant stack. */
int amqp_table_validate(struct slice table, unsigned max_depth);

/* The value of the first entry of this name. False if there is none before the end or before the
 * first malformed entry. */
bool amqp_table_find(struct slice table, struct slice name, struct amqp_value *value);

/* ---- comparing ---- */

/* Whether the value is of one of the eight integer types. */
bool amqp_value_is_integer(const struct amqp_value *value);

/* Whether RabbitMQ would take two argument values for the same: integers of all widths are one
 * class, so are float and double, and long string and binary; else types must match. Tables are
 * compared as amqp_table_equivalent, arrays item by item. Content nested deeper than
 * AMQP_TABLE_MAX_DEPTH or malformed equals only the same bytes. */
bool amqp_value_equal(const struct amqp_value *a, const struct amqp_value *b);

/* Whether two tables have the same names with equal values, in any order; of a name given twice the
 * first counts, as for amqp_table_find. Takes n log n time. Tables of many entries in different
 * order need memory; if there is none they count as different. */
bool amqp_table_equivalent(struct slice a, struct slice b);

/* RabbitMQ's name of a type, as its error texts print it: "longstr", "signedint", "unsignedbyte"
 * ...; "unknown" for a tag that is none. */
const char *amqp_value_type_name(uint8_t tag);

/* ---- building ---- */

/* A table under construction, in memory of its own. Errors are sticky: put everything, then look at
 * what amqp_table_builder_finish says. `invalid` means that the builder was asked for something
 * that has no form on the wire: a name over 255 bytes, an unknown type, an end without its begin,
 * too deep nesting, more than 4 GiB. */
struct amqp_table_builder {
    uint8_t *data;
    size_t size, capacity;
    unsigned depth;                      /* open nested tables and arrays */
    size_t starts[AMQP_TABLE_MAX_DEPTH]; /* where the content of each begins */
    bool is_array[AMQP_TABLE_MAX_DEPTH];
    bool out_of_memory, invalid;
};

void amqp_table_builder_init(struct amqp_table_builder *builder);

/* Frees the memory, and with it the finished slice. The builder is as after _init. */
void amqp_table_builder_free(struct amqp_table_builder *builder);

/* Each puts one entry. Inside an array the name is ignored; pass (struct slice){0}. Bytes are
 * copied. */
void amqp_table_builder_put_bool(struct amqp_table_builder *builder, struct slice name, bool value);
void amqp_table_builder_put_int32(struct amqp_table_builder *builder, struct slice name,
                                  int32_t value); /* I */
void amqp_table_builder_put_int64(struct amqp_table_builder *builder, struct slice name,
                                  int64_t value); /* l */
void amqp_table_builder_put_double(struct amqp_table_builder *builder, struct slice name,
                                   double value); /* d */
void amqp_table_builder_put_string(struct amqp_table_builder *builder, struct slice name,
                                   struct slice value); /* S */
void amqp_table_builder_put_timestamp(struct amqp_table_builder *builder, struct slice name,
                                      uint64_t value); /* T */
void amqp_table_builder_put_void(struct amqp_table_builder *builder, struct slice name);

/* The content of a finished table or array; not checked. */
void amqp_table_builder_put_table(struct amqp_table_builder *builder, struct slice name,
                                  struct slice content);
void amqp_table_builder_put_array(struct amqp_table_builder *builder, struct slice name,
                                  struct slice content);

/* A value as an iterator gave it. An integer out of its type's range makes the builder invalid. */
void amqp_table_builder_put_value(struct amqp_table_builder *builder, struct slice name,
                                  const struct amqp_value *value);

/* Everything put between begin and end goes into the nested table or array. */
void amqp_table_builder_begin_table(struct amqp_table_builder *builder, struct slice name);
void amqp_table_builder_end_table(struct amqp_table_builder *builder);
void amqp_table_builder_begin_array(struct amqp_table_builder *builder, struct slice name);
void amqp_table_builder_end_array(struct amqp_table_builder *builder);

/* Whether something went wrong so far. */
static inline bool
amqp_table_builder_failed(const struct amqp_table_builder *builder)
{
    return builder->out_of_memory || builder->invalid;
}

/* The table's content, borrowed until the builder is changed or freed. Empty if anything went wrong
 * or a nested table was left open (which sets `invalid`): amqp_table_builder_failed tells that from
 * an empty table. */
struct slice amqp_table_builder_finish(struct amqp_table_builder *builder);

#endif
