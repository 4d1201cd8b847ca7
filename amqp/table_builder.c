/* Building field tables: entries appended to one growing buffer, the length of a nested table or
 * array written when it ends. */
#include <float.h>
#include <stdlib.h>

#include "amqp/table.h"
#include "amqp/table_internal.h"
#include "amqp/wire.h"

#define CAPACITY_FIRST 128u

void
amqp_table_builder_init(struct amqp_table_builder *builder)
{
    *builder = (struct amqp_table_builder){0};
}

void
amqp_table_builder_free(struct amqp_table_builder *builder)
{
    free(builder->data);
    amqp_table_builder_init(builder);
}

/* Makes room for `size` more bytes: their place, or NULL after an error of this or an earlier call.
 */
static uint8_t *
take_room(struct amqp_table_builder *builder, size_t size)
{
    size_t capacity = builder->capacity != 0 ? builder->capacity : CAPACITY_FIRST;
    uint8_t *at;

    if (amqp_table_builder_failed(builder))
        return NULL;
    if (size > UINT32_MAX - builder->size) { /* size never exceeds UINT32_MAX */
        builder->invalid = true;
        return NULL;
    }
    while (capacity - builder->size < size) {
        if (capacity > SIZE_MAX / 2) { /* only where size_t has 32 bits */
            builder->out_of_memory = true;
            return NULL;
        }
        capacity *= 2;
    }
    if (capacity != builder->capacity) {
        uint8_t *data = realloc(builder->data, capacity);

        if (data == NULL) {
            builder->out_of_memory = true;
            return NULL;
        }
        builder->data = data;
        builder->capacity = capacity;
    }
    at = builder->data + builder->size;
    builder->size += size;
    return at;
}

/* Appends a name (none in an array) and a tag; returns room for `size` bytes of value, or NULL. */
static uint8_t *
put_entry(struct amqp_table_builder *builder, struct slice name, uint8_t tag, size_t size)
{
    bool in_array = builder->depth != 0 && builder->is_array[builder->depth - 1];
    size_t name_size = in_array ? 0 : 1 + name.size;
    uint8_t *at;

    if ((!in_array && name.size > AMQP_SHORTSTR_MAX) || size > UINT32_MAX) {
        builder->invalid = true;
        return NULL;
    }
    at = take_room(builder, name_size + 1 + size);
    if (at == NULL)
        return NULL;
    if (!in_array) {
        at[0] = (uint8_t)name.size;
        if (name.size != 0)
            memcpy(at + 1, name.data, name.size);
    }
    at[name_size] = tag;
    return at + name_size + 1;
}

static void
put_bytes(struct amqp_table_builder *builder, struct slice name, uint8_t tag, struct slice bytes)
{
    uint8_t *at;

    if (bytes.size > UINT32_MAX - 4) {
        builder->invalid = true;
        return;
    }
    at = put_entry(builder, name, tag, 4 + bytes.size);
    if (at == NULL)
        return;
    amqp_store_u32(at, (uint32_t)bytes.size);
    if (bytes.size != 0)
        memcpy(at + 4, bytes.data, bytes.size);
}

/* Appends the lowest `width` octets of a number. */
static void
put_number(struct amqp_table_builder *builder, struct slice name, uint8_t tag, uint64_t value,
           unsigned width)
{
    uint8_t *at = put_entry(builder, name, tag, width);

    if (at == NULL)
        return;
    for (unsigned i = 0; i < width; i++)
        at[i] = (uint8_t)(value >> 8 * (width - 1 - i));
}

static void
put_real(struct amqp_table_builder *builder, struct slice name, uint8_t tag, double value,
         unsigned width)
{
    uint64_t bits;
    uint32_t bits_single;
    float single;

    if (width == sizeof(single)) {
        single = (float)value;
        memcpy(&bits_single, &single, sizeof(bits_single));
        bits = bits_single;
    } else {
        memcpy(&bits, &value, sizeof(bits));
    }
    put_number(builder, name, tag, bits, width);
}

/* ---- the scalar types ---- */

void
amqp_table_builder_put_bool(struct amqp_table_builder *builder, struct slice name, bool value)
{
    put_number(builder, name, 't', value, 1);
}

void
amqp_table_builder_put_int32(struct amqp_table_builder *builder, struct slice name, int32_t value)
{
    put_number(builder, name, 'I', (uint32_t)value, 4);
}

void
amqp_table_builder_put_int64(struct amqp_table_builder *builder, struct slice name, int64_t value)
{
    put_number(builder, name, 'l', (uint64_t)value, 8);
}

void
amqp_table_builder_put_double(struct amqp_table_builder *builder, struct slice name, double value)
{
    put_real(builder, name, 'd', value, 8);
}

void
amqp_table_builder_put_string(struct amqp_table_builder *builder, struct slice name,
                              struct slice value)
{
    put_bytes(builder, name, 'S', value);
}

void
amqp_table_builder_put_timestamp(struct amqp_table_builder *builder, struct slice name,
                                 uint64_t value)
{
    put_number(builder, name, 'T', value, 8);
}

void
amqp_table_builder_put_void(struct amqp_table_builder *builder, struct slice name)
{
    put_number(builder, name, 'V', 0, 0);
}

void
amqp_table_builder_put_table(struct amqp_table_builder *builder, struct slice name,
                             struct slice content)
{
    put_bytes(builder, name, 'F', content);
}

void
amqp_table_builder_put_array(struct amqp_table_builder *builder, struct slice name,
                             struct slice content)
{
    put_bytes(builder, name, 'A', content);
}

/* ---- any value ---- */

/* Whether an integer can be written in so many octets. */
static bool
integer_fits(int64_t value, const struct amqp_value_type *type)
{
    unsigned bits = 8u * type->width;

    if (bits == 64)
        return true;
    if (type->kind == AMQP_KIND_UNSIGNED)
        return value >= 0 && value < INT64_C(1) << bits;
    return value >= -(INT64_C(1) << (bits - 1)) && value < INT64_C(1) << (bits - 1);
}

/* Whether a real can be written in so many octets: what is finite must stay so. */
static bool
real_fits(double value, const struct amqp_value_type *type)
{
    bool is_finite = value <= DBL_MAX && value >= -DBL_MAX;

    return type->width == sizeof(double) || !is_finite
           || (value <= (double)FLT_MAX && value >= -(double)FLT_MAX);
}

static void
put_decimal(struct amqp_table_builder *builder, struct slice name, const struct amqp_value *value)
{
    uint64_t both = (uint64_t)value->decimal.scale << 32 | (uint32_t)value->decimal.value;

    put_number(builder, name, value->type, both, 5);
}

void
amqp_table_builder_put_value(struct amqp_table_builder *builder, struct slice name,
                             const struct amqp_value *value)
{
    const struct amqp_value_type *type = &amqp_value_types[value->type];

    switch (type->kind) {
    case AMQP_KIND_BOOL:
        put_number(builder, name, value->type, value->boolean, 1);
        break;
    case AMQP_KIND_SIGNED:
    case AMQP_KIND_UNSIGNED:
        if (integer_fits(value->integer, type))
            put_number(builder, name, value->type, (uint64_t)value->integer, type->width);
        else
            builder->invalid = true;
        break;
    case AMQP_KIND_REAL:
        if (real_fits(value->real, type))
            put_real(builder, name, value->type, value->real, type->width);
        else
            builder->invalid = true;
        break;
    case AMQP_KIND_DECIMAL:
        put_decimal(builder, name, value);
        break;
    case AMQP_KIND_TIMESTAMP:
        put_number(builder, name, value->type, value->timestamp, 8);
        break;
    case AMQP_KIND_VOID:
        put_number(builder, name, value->type, 0, 0);
        break;
    case AMQP_KIND_STRING:
    case AMQP_KIND_ARRAY:
    case AMQP_KIND_TABLE:
        put_bytes(builder, name, value->type, value->bytes);
        break;
    default:
        builder->invalid = true;
        break;
    }
}

/* ---- nesting ---- */

static void
begin_nested(struct amqp_table_builder *builder, struct slice name, uint8_t tag)
{
    uint8_t *at;

    if (builder->depth + 1 >= AMQP_TABLE_MAX_DEPTH) { /* the outermost table counts too */
        builder->invalid = true;
        return;
    }
    at = put_entry(builder, name, tag, 4);
    if (at == NULL)
        return;
    amqp_store_u32(at, 0);
    builder->starts[builder->depth] = builder->size;
    builder->is_array[builder->depth] = tag == 'A';
    builder->depth++;
}

static void
end_nested(struct amqp_table_builder *builder, bool is_array)
{
    size_t start;

    if (amqp_table_builder_failed(builder))
        return;
    if (builder->depth == 0 || builder->is_array[builder->depth - 1] != is_array) {
        builder->invalid = true;
        return;
    }
    builder->depth--;
    start = builder->starts[builder->depth];
    amqp_store_u32(builder->data + start - 4, (uint32_t)(builder->size - start));
}

void
amqp_table_builder_begin_table(struct amqp_table_builder *builder, struct slice name)
{
    begin_nested(builder, name, 'F');
}

void
amqp_table_builder_end_table(struct amqp_table_builder *builder)
{
    end_nested(builder, false);
}

void
amqp_table_builder_begin_array(struct amqp_table_builder *builder, struct slice name)
{
    begin_nested(builder, name, 'A');
}

void
amqp_table_builder_end_array(struct amqp_table_builder *builder)
{
    end_nested(builder, true);
}

struct slice
amqp_table_builder_finish(struct amqp_table_builder *builder)
{
    if (builder->depth != 0)
        builder->invalid = true;
    if (amqp_table_builder_failed(builder) || builder->size == 0)
        return (struct slice){.data = "", .size = 0};
    return (struct slice){.data = (const char *)builder->data, .size = builder->size};
}
