/* Field tables: iterating, validating, finding. */
#include "amqp/table.h"

#include "amqp/table_internal.h"
#include "amqp/wire.h"

const struct amqp_value_type amqp_value_types[256] = {
#define TYPE(tag, kind_, width_, name_)                                                            \
    [tag] = {.kind = AMQP_KIND_##kind_, .width = (width_), .name = (name_)},
#include "amqp/table_types.def"
};

const char *
amqp_value_type_name(uint8_t tag)
{
    return amqp_value_types[tag].kind != AMQP_KIND_NONE ? amqp_value_types[tag].name : "unknown";
}

bool
amqp_value_is_integer(const struct amqp_value *value)
{
    uint8_t kind = amqp_value_types[value->type].kind;

    return kind == AMQP_KIND_SIGNED || kind == AMQP_KIND_UNSIGNED;
}

/* ---- iterating ---- */

struct amqp_table_iterator
amqp_table_begin(struct slice content)
{
    struct amqp_reader reader = amqp_reader_of(content);

    return (struct amqp_table_iterator){.at = reader.at, .end = reader.end};
}

/* An unsigned integer of 1, 2, 4 or 8 octets. */
static uint64_t
read_unsigned(struct amqp_reader *reader, unsigned width)
{
    switch (width) {
    case 1:
        return amqp_read_u8(reader);
    case 2:
        return amqp_read_u16(reader);
    case 4:
        return amqp_read_u32(reader);
    default:
        return amqp_read_u64(reader);
    }
}

static int64_t
read_signed(struct amqp_reader *reader, unsigned width)
{
    uint64_t value = read_unsigned(reader, width);

    switch (width) {
    case 1:
        return (int8_t)value;
    case 2:
        return (int16_t)value;
    case 4:
        return (int32_t)value;
    default:
        return (int64_t)value;
    }
}

/* IEEE 754, most significant octet first. */
static double
read_real(struct amqp_reader *reader, unsigned width)
{
    uint64_t bits = read_unsigned(reader, width);
    uint32_t bits_single = (uint32_t)bits;
    double real;
    float single;

    if (width == sizeof(single)) {
        memcpy(&single, &bits_single, sizeof(single));
        return (double)single;
    }
    memcpy(&real, &bits, sizeof(real));
    return real;
}

/* Reads a tag and its value. The reader fails if that runs past its end or the tag is none. */
static void
read_value(struct amqp_reader *reader, struct amqp_value *value)
{
    const struct amqp_value_type *type;

    value->type = amqp_read_u8(reader);
    value->bytes = (struct slice){0};
    type = &amqp_value_types[value->type];
    switch (type->kind) {
    case AMQP_KIND_BOOL:
        value->boolean = amqp_read_u8(reader) != 0;
        break;
    case AMQP_KIND_SIGNED:
        value->integer = read_signed(reader, type->width);
        break;
    case AMQP_KIND_UNSIGNED: /* at most 32 bits wide */
        value->integer = (int64_t)read_unsigned(reader, type->width);
        break;
    case AMQP_KIND_REAL:
        value->real = read_real(reader, type->width);
        break;
    case AMQP_KIND_DECIMAL:
        value->decimal.scale = amqp_read_u8(reader);
        value->decimal.value = (int32_t)amqp_read_u32(reader);
        break;
    case AMQP_KIND_TIMESTAMP:
        value->timestamp = amqp_read_u64(reader);
        break;
    case AMQP_KIND_VOID:
        break;
    case AMQP_KIND_STRING:
    case AMQP_KIND_ARRAY:
    case AMQP_KIND_TABLE:
        value->bytes = amqp_read_longstr(reader);
        break;
    default:
        reader->failed = true;
        break;
    }
}

/* One item, with a name if there is a place for it. The iterator does not move over what is
 * malformed, so every further call finds it again. */
static int
next_item(struct amqp_table_iterator *iterator, struct slice *name, struct amqp_value *value)
{
    struct amqp_reader reader = {.at = iterator->at, .end = iterator->end};

    if (iterator->at == iterator->end)
        return 0;
    if (name != NULL)
        *name = amqp_read_shortstr(&reader);
    read_value(&reader, value);
    if (reader.failed)
        return -1;
    iterator->at = reader.at;
    return 1;
}

int
amqp_table_next(struct amqp_table_iterator *iterator, struct slice *name, struct amqp_value *value)
{
    return next_item(iterator, name, value);
}

int
amqp_array_next(struct amqp_table_iterator *iterator, struct amqp_value *value)
{
    return next_item(iterator, NULL, value);
}

bool
amqp_table_find(struct slice table, struct slice name, struct amqp_value *value)
{
    struct amqp_table_iterator iterator = amqp_table_begin(table);
    struct slice found;

    while (amqp_table_next(&iterator, &found, value) == 1) {
        if (slice_equal(found, name))
            return true;
    }
    return false;
}

/* ---- validating ---- */

/* Where the walk stands: the ends of the tables and arrays it is inside of, outermost first. */
struct walk {
    struct amqp_reader reader; /* its end is that of the innermost */
    unsigned depth;            /* how many are open, minus one */
    const uint8_t *ends[AMQP_TABLE_MAX_DEPTH];
    bool is_array[AMQP_TABLE_MAX_DEPTH];
};

/* Enters the table or array whose content has the given size and starts at the reader. */
static int
walk_enter(struct walk *walk, size_t size, bool is_array, unsigned max_depth)
{
    if (size > amqp_reader_left(&walk->reader))
        return AMQP_TABLE_MALFORMED;
    if (walk->depth + 1 >= max_depth)
        return AMQP_TABLE_TOO_DEEP;
    walk->depth++;
    walk->ends[walk->depth] = walk->reader.end = walk->reader.at + size;
    walk->is_array[walk->depth] = is_array;
    return 0;
}

/* Steps over one item, or into it. */
static int
walk_step(struct walk *walk, unsigned max_depth)
{
    struct amqp_reader *reader = &walk->reader;
    const struct amqp_value_type *type;
    size_t size;

    if (!walk->is_array[walk->depth])
        (void)amqp_read_shortstr(reader);
    type = &amqp_value_types[amqp_read_u8(reader)];
    if (type->kind == AMQP_KIND_NONE)
        return AMQP_TABLE_MALFORMED;
    size = type->kind >= AMQP_KIND_STRING ? amqp_read_u32(reader) : type->width;
    if (reader->failed)
        return AMQP_TABLE_MALFORMED;
    if (type->kind == AMQP_KIND_ARRAY || type->kind == AMQP_KIND_TABLE)
        return walk_enter(walk, size, type->kind == AMQP_KIND_ARRAY, max_depth);
    (void)amqp_read_bytes(reader, size);
    return reader->failed ? AMQP_TABLE_MALFORMED : 0;
}

int
amqp_table_validate(struct slice table, unsigned max_depth)
{
    struct walk walk = {.reader = amqp_reader_of(table)};

    if (max_depth > AMQP_TABLE_MAX_DEPTH)
        max_depth = AMQP_TABLE_MAX_DEPTH;
    if (max_depth == 0)
        return AMQP_TABLE_TOO_DEEP;
    walk.ends[0] = walk.reader.end;
    for (;;) {
        int result;

        while (walk.reader.at == walk.reader.end) {
            if (walk.depth == 0)
                return 0;
            walk.depth--;
            walk.reader.end = walk.ends[walk.depth];
        }
        result = walk_step(&walk, max_depth);
        if (result != 0)
            return result;
    }
}
