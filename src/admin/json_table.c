/* Tables and JSON: see the header. Both recur as deep as tables may nest, AMQP_TABLE_MAX_DEPTH. */
#include "admin/json_table.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"

/* --- From tables ------------------------------------------------------------------------------ */

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

json_t *
json_of_bytes(struct slice bytes)
{
    if (amqp_is_utf8(bytes))
        return json_stringn_nocheck(bytes.size > 0 ? bytes.data : "", bytes.size);
    char *text = malloc(bytes.size * (sizeof(REPLACEMENT) - 1));
    size_t size = 0;
    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < bytes.size; i++) {
        if ((unsigned char)bytes.data[i] < 0x80) {
            text[size++] = bytes.data[i];
            continue;
        }
        memcpy(text + size, REPLACEMENT, sizeof(REPLACEMENT) - 1);
        size += sizeof(REPLACEMENT) - 1;
    }
    json_t *json = json_stringn_nocheck(text, size);
    free(text);
    return json;
}

/* JSON has no numbers that are none. */
static json_t *
json_of_real(double real)
{
    return isfinite(real) ? json_real(real) : json_null();
}

static json_t *json_of_array(struct slice array);

static json_t *
json_of_value(const struct amqp_value *value)
{
    if (amqp_value_is_integer(value))
        return json_integer(value->integer);
    switch (value->type) {
    case 't':
        return json_boolean(value->boolean);
    case 'T':
        return value->timestamp <= INT64_MAX ? json_integer((json_int_t)value->timestamp)
                                             : json_real((double)value->timestamp);
    case 'f':
    case 'd':
        return json_of_real(value->real);
    case 'D':
        return json_of_real(value->decimal.value / pow(10, value->decimal.scale));
    case 'S':
    case 'x':
        return json_of_bytes(value->bytes);
    case 'A':
        return json_of_array(value->bytes);
    case 'F':
        return json_of_table(value->bytes);
    default:
        return json_null();
    }
}

static json_t *
json_of_array(struct slice array)
{
    struct amqp_table_iterator at = amqp_table_begin(array);
    struct amqp_value value;
    json_t *json = json_array();
    while (amqp_array_next(&at, &value) == 1) {
        if (json_array_append_new(json, json_of_value(&value)) != 0) {
            json_decref(json);
            return NULL;
        }
    }
    return json;
}

/* Under a name as it can stand in JSON, unless it is there. */
static int
put_value(json_t *object, struct slice name, const struct amqp_value *value)
{
    json_t *key = json_of_bytes(name);
    if (key == NULL)
        return -ENOMEM;
    int status = 0;
    if (json_object_get(object, json_string_value(key)) == NULL)
        status = json_object_set_new_nocheck(object, json_string_value(key), json_of_value(value));
    json_decref(key);
    return status == 0 ? 0 : -ENOMEM;
}

json_t *
json_of_table(struct slice table)
{
    struct amqp_table_iterator at = amqp_table_begin(table);
    struct amqp_value value;
    struct slice name;
    json_t *json = json_object();
    while (json != NULL && amqp_table_next(&at, &name, &value) == 1) {
        if (put_value(json, name, &value) != 0) {
            json_decref(json);
            return NULL;
        }
    }
    return json;
}

/* --- To tables -------------------------------------------------------------------------------- */

static void put_items(const json_t *array, struct amqp_table_builder *builder);
static void put_members(const json_t *object, struct amqp_table_builder *builder);

/* Too deep a nesting makes the builder invalid, and is not gone into any deeper. */
static void
put_json(const json_t *json, struct slice name, struct amqp_table_builder *builder)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        amqp_table_builder_begin_table(builder, name);
        put_members(json, builder);
        amqp_table_builder_end_table(builder);
        break;
    case JSON_ARRAY:
        amqp_table_builder_begin_array(builder, name);
        put_items(json, builder);
        amqp_table_builder_end_array(builder);
        break;
    case JSON_STRING:
        amqp_table_builder_put_string(
            builder, name, (struct slice){json_string_value(json), json_string_length(json)});
        break;
    case JSON_INTEGER:
        amqp_table_builder_put_int64(builder, name, json_integer_value(json));
        break;
    case JSON_REAL:
        amqp_table_builder_put_double(builder, name, json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        amqp_table_builder_put_bool(builder, name, json_is_true(json));
        break;
    case JSON_NULL:
        amqp_table_builder_put_void(builder, name);
        break;
    }
}

static void
put_items(const json_t *array, struct amqp_table_builder *builder)
{
    for (size_t i = 0; i < json_array_size(array) && !amqp_table_builder_failed(builder); i++)
        put_json(json_array_get(array, i), (struct slice){"", 0}, builder);
}

static void
put_members(const json_t *object, struct amqp_table_builder *builder)
{
    /* jansson's iterators look only, but do not say so. */
    json_t *members = (json_t *)(uintptr_t)object;
    for (void *at = json_object_iter(members); at != NULL && !amqp_table_builder_failed(builder);
         at = json_object_iter_next(members, at))
        put_json(json_object_iter_value(at), slice_from(json_object_iter_key(at)), builder);
}

int
json_to_table(const json_t *object, struct amqp_table_builder *builder)
{
    put_members(object, builder);
    return builder->invalid ? -EINVAL : builder->out_of_memory ? -ENOMEM : 0;
}
