/* Comparing argument values and tables as RabbitMQ does when something is declared a second time.
 *
 * Tables come from outside and may have tens of thousands of entries in any order, nested. So their
 * entries are sorted by name and then compared side by side: each value is looked at once, and the
 * time is n log n. Recursion is bounded by AMQP_TABLE_MAX_DEPTH. */
#include "amqp/table.h"

#include <stdlib.h>

#include "amqp/table_internal.h"

/* Entries kept on the stack; argument tables are seldom larger. Counted per nesting and side. */
#define ENTRIES_INLINE 8u

struct entry {
    struct slice name;
    size_t position; /* keeps equal names in their order */
    struct amqp_value value;
};

/* A table's entries, sorted, each name once. */
struct entries {
    struct entry *items;
    size_t count;
    struct entry inline_items[ENTRIES_INLINE];
};

static bool table_equivalent(struct slice a, struct slice b, unsigned depth);
static bool value_equal(const struct amqp_value *a, const struct amqp_value *b, unsigned depth);

static int
name_order(struct slice a, struct slice b)
{
    size_t shared = a.size < b.size ? a.size : b.size;
    int order = shared != 0 ? memcmp(a.data, b.data, shared) : 0;

    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int
entry_order(const void *a, const void *b)
{
    const struct entry *left = a, *right = b;
    int order = name_order(left->name, right->name);

    return order != 0 ? order
                      : (left->position > right->position) - (left->position < right->position);
}

/* The number of entries; false if the table is malformed. */
static bool
count_entries(struct slice table, size_t *count_out)
{
    struct amqp_table_iterator iterator = amqp_table_begin(table);
    struct slice name;
    struct amqp_value value;
    int result;

    *count_out = 0;
    while ((result = amqp_table_next(&iterator, &name, &value)) == 1)
        (*count_out)++;
    return result == 0;
}

/* Fills `entries` from a table of `count` entries. False if there is no memory. */
static bool
entries_init(struct entries *entries, struct slice table, size_t count)
{
    struct amqp_table_iterator iterator = amqp_table_begin(table);
    size_t kept = 0;

    entries->items = entries->inline_items;
    if (count > ENTRIES_INLINE) {
        entries->items = calloc(count, sizeof(*entries->items));
        if (entries->items == NULL)
            return false;
    }
    for (size_t i = 0; i < count; i++) {
        entries->items[i].position = i;
        (void)amqp_table_next(&iterator, &entries->items[i].name, &entries->items[i].value);
    }
    qsort(entries->items, count, sizeof(*entries->items), entry_order);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || !slice_equal(entries->items[kept - 1].name, entries->items[i].name))
            entries->items[kept++] = entries->items[i];
    }
    entries->count = kept;
    return true;
}

static void
entries_fini(struct entries *entries)
{
    if (entries->items != entries->inline_items)
        free(entries->items);
}

static bool
entries_equal(const struct entries *a, const struct entries *b, unsigned depth)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (!slice_equal(a->items[i].name, b->items[i].name)
            || !value_equal(&a->items[i].value, &b->items[i].value, depth))
            return false;
    }
    return true;
}

/* `depth` is how many levels may still be entered, this one included. */
static bool
table_equivalent(struct slice a, struct slice b, unsigned depth)
{
    struct entries left, right;
    size_t left_count, right_count;
    bool equal = false;

    if (slice_equal(a, b))
        return true;
    if (depth == 0 || !count_entries(a, &left_count) || !count_entries(b, &right_count))
        return false;
    if (!entries_init(&left, a, left_count))
        return false;
    if (entries_init(&right, b, right_count)) {
        equal = entries_equal(&left, &right, depth - 1);
        entries_fini(&right);
    }
    entries_fini(&left);
    return equal;
}

static bool
array_equal(struct slice a, struct slice b, unsigned depth)
{
    struct amqp_table_iterator left = amqp_table_begin(a), right = amqp_table_begin(b);
    struct amqp_value left_value, right_value;

    if (slice_equal(a, b))
        return true;
    if (depth == 0)
        return false;
    for (;;) {
        int left_result = amqp_array_next(&left, &left_value);
        int right_result = amqp_array_next(&right, &right_value);

        if (left_result != 1 || right_result != 1)
            return left_result == 0 && right_result == 0;
        if (!value_equal(&left_value, &right_value, depth - 1))
            return false;
    }
}

/* What has no order, which only damaged peers send, equals itself: so the same bytes always compare
 * equal. */
static bool
real_equal(double a, double b)
{
    return a == b || (a != a && b != b);
}

static bool
value_equal(const struct amqp_value *a, const struct amqp_value *b, unsigned depth)
{
    uint8_t kind = amqp_value_types[a->type].kind;

    if (amqp_value_is_integer(a) && amqp_value_is_integer(b))
        return a->integer == b->integer;
    if (kind != amqp_value_types[b->type].kind)
        return false;
    switch (kind) {
    case AMQP_KIND_BOOL:
        return a->boolean == b->boolean;
    case AMQP_KIND_REAL:
        return real_equal(a->real, b->real);
    case AMQP_KIND_DECIMAL:
        return a->decimal.scale == b->decimal.scale && a->decimal.value == b->decimal.value;
    case AMQP_KIND_TIMESTAMP:
        return a->timestamp == b->timestamp;
    case AMQP_KIND_VOID:
        return true;
    case AMQP_KIND_STRING:
        return slice_equal(a->bytes, b->bytes);
    case AMQP_KIND_ARRAY:
        return array_equal(a->bytes, b->bytes, depth);
    case AMQP_KIND_TABLE:
        return table_equivalent(a->bytes, b->bytes, depth);
    default:
        return false;
    }
}

bool
amqp_value_equal(const struct amqp_value *a, const struct amqp_value *b)
{
    return value_equal(a, b, AMQP_TABLE_MAX_DEPTH);
}

bool
amqp_table_equivalent(struct slice a, struct slice b)
{
    return table_equivalent(a, b, AMQP_TABLE_MAX_DEPTH);
}
