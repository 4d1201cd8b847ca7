/* Headers exchanges: a binding matches when all (or any) of its arguments are among the message's
 * headers. Arguments that begin with "x-" take part only when x-match ends in "-with-x". An
 * argument without a value matches the header's presence. */
#include "amqp/table.h"
#include "broker/exchange.h"

static int
headers_check(struct exchange *exchange, struct binding *binding, struct amqp_error *error)
{
    (void)exchange;
    struct amqp_value value;
    binding->match = MATCH_ALL;
    if (!amqp_table_find(binding->arguments, SLICE("x-match"), &value))
        return 0;
    if (value.type != 'S') {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "Invalid x-match field type %s (value); expected longstr",
                       amqp_value_type_name(value.type));
        return -1;
    }
    static const struct {
        const char *name;
        enum headers_match match;
        bool with_x;
    } matches[] = {
        {"all", MATCH_ALL, false},
        {"any", MATCH_ANY, false},
        {"all-with-x", MATCH_ALL, true},
        {"any-with-x", MATCH_ANY, true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(matches); i++) {
        if (slice_is(value.bytes, matches[i].name)) {
            binding->match = matches[i].match;
            binding->matches_x_headers = matches[i].with_x;
            return 0;
        }
    }
    amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                   "Invalid x-match field value \"%.*s\"; expected all, any, all-with-x, or "
                   "any-with-x",
                   SLICE_ARGS(value.bytes));
    return -1;
}

/* Tables and arrays are the same when their bytes are: in RabbitMQ, too, the order of what is in
 * them counts here, and the types. So it costs no more than the binding has bytes. */
static bool
value_matches(const struct amqp_value *wanted, const struct amqp_value *value)
{
    if (wanted->type == 'F' || wanted->type == 'A')
        return value->type == wanted->type && slice_equal(value->bytes, wanted->bytes);
    return amqp_value_equal(wanted, value);
}

/* 1: it matches; 0: it does not; -ENOMEM. */
static int
binding_matches(const struct binding *binding, struct header_index *headers)
{
    struct amqp_table_iterator at = amqp_table_begin(binding->arguments);
    struct slice name;
    struct amqp_value wanted, value;
    while (amqp_table_next(&at, &name, &wanted) == 1) {
        if (slice_is(name, "x-match")
            || (!binding->matches_x_headers && slice_starts_with(name, SLICE("x-"))))
            continue;
        int found = header_index_find(headers, name, &value);
        if (found < 0)
            return found;
        bool has = found > 0 && (wanted.type == 'V' || value_matches(&wanted, &value));
        if (has && binding->match == MATCH_ANY)
            return true;
        if (!has && binding->match == MATCH_ALL)
            return false;
    }
    return binding->match == MATCH_ALL;
}

static void
headers_route(struct exchange *exchange, struct router *router)
{
    struct header_index *headers = &router->catalogue->headers;
    bool has_headers = router->request->properties != NULL;
    header_index_begin(headers, has_headers ? router->request->properties->headers : SLICE(""));
    LIST_FOR_EACH (node, &exchange->bindings) {
        struct binding *binding = LIST_ENTRY(node, struct binding, source_link);
        int matches = binding_matches(binding, headers);
        if (matches > 0)
            router_add(router, binding);
        if (matches < 0) {
            router->is_out_of_memory = true;
            return;
        }
    }
}

const struct exchange_type exchange_type_headers = {
    .name = "headers",
    .check = headers_check,
    .route = headers_route,
    .looks_at_message = true,
    .matches_all_keys = true,
};
