/* Field tables: what is found valid can be walked, compared and built again; two tables are judged
 * the same way round. */
#include "amqp/table.h"
#include "fuzz.h"

static void walk_table(struct slice table, unsigned depth);

static void
walk_value(const struct amqp_value *value, unsigned depth)
{
    FUZZ_REQUIRE(depth <= AMQP_TABLE_MAX_DEPTH);
    FUZZ_REQUIRE(amqp_value_type_name(value->type) != NULL);
    FUZZ_REQUIRE(value->type == 'd' || value->type == 'f' || value->type == 'F'
                 || value->type == 'A' || amqp_value_equal(value, value));
    if (value->type == 'F')
        walk_table(value->bytes, depth + 1);
    if (value->type != 'A')
        return;
    struct amqp_table_iterator iterator = amqp_table_begin(value->bytes);
    struct amqp_value element;
    int more;
    while ((more = amqp_array_next(&iterator, &element)) > 0)
        walk_value(&element, depth + 1);
    FUZZ_REQUIRE(more == 0);
}

static void
walk_table(struct slice table, unsigned depth)
{
    struct amqp_table_iterator iterator = amqp_table_begin(table);
    struct amqp_value value, found;
    struct slice name;
    int more;
    while ((more = amqp_table_next(&iterator, &name, &value)) > 0) {
        walk_value(&value, depth);
        FUZZ_REQUIRE(amqp_table_find(table, name, &found));
    }
    FUZZ_REQUIRE(more == 0);
}

/* The same table out of its values. */
static void
rebuild(struct slice table)
{
    struct amqp_table_builder builder;
    struct amqp_table_iterator iterator = amqp_table_begin(table);
    struct amqp_value value;
    struct slice name;
    amqp_table_builder_init(&builder);
    while (amqp_table_next(&iterator, &name, &value) > 0)
        amqp_table_builder_put_value(&builder, name, &value);
    struct slice built = amqp_table_builder_finish(&builder);
    FUZZ_REQUIRE(!amqp_table_builder_failed(&builder));
    FUZZ_REQUIRE(amqp_table_validate(built, AMQP_TABLE_MAX_DEPTH) == 0);
    FUZZ_REQUIRE(built.size == table.size);
    amqp_table_builder_free(&builder);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t cut = (size - 1) * data[0] / 255;
    struct slice a = {(const char *)data + 1, cut}, b = {a.data + cut, size - 1 - cut};
    bool is_a = amqp_table_validate(a, AMQP_TABLE_MAX_DEPTH) == 0;
    bool is_b = amqp_table_validate(b, AMQP_TABLE_MAX_DEPTH) == 0;
    if (is_a) {
        walk_table(a, 1);
        rebuild(a);
    }
    if (is_a && is_b)
        FUZZ_REQUIRE(amqp_table_equivalent(a, b) == amqp_table_equivalent(b, a));
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    if (number > 1)
        return 0;
    struct amqp_table_builder builder;
    amqp_table_builder_init(&builder);
    amqp_table_builder_put_bool(&builder, SLICE("bool"), true);
    amqp_table_builder_put_int32(&builder, SLICE("x-max-length"), 100);
    amqp_table_builder_put_int64(&builder, SLICE("long"), -1);
    amqp_table_builder_put_double(&builder, SLICE("double"), 1.5);
    amqp_table_builder_put_string(&builder, SLICE("x-dead-letter-exchange"), SLICE("dlx"));
    amqp_table_builder_put_timestamp(&builder, SLICE("time"), 1700000000);
    amqp_table_builder_put_void(&builder, SLICE("nothing"));
    amqp_table_builder_begin_table(&builder, SLICE("inner"));
    amqp_table_builder_put_bool(&builder, SLICE("x"), false);
    amqp_table_builder_begin_array(&builder, SLICE("list"));
    amqp_table_builder_end_array(&builder);
    amqp_table_builder_end_table(&builder);
    struct slice table = amqp_table_builder_finish(&builder);
    FUZZ_REQUIRE(!amqp_table_builder_failed(&builder) && 2 * table.size + 1 <= capacity);
    out[0] = number == 0 ? 255 : 128;
    memcpy(out + 1, table.data, table.size);
    memcpy(out + 1 + table.size, table.data, table.size);
    size_t size = 1 + (number + 1) * table.size;
    amqp_table_builder_free(&builder);
    return size;
}
