/* Recent-history exchanges: fanout that keeps the last messages for queues that are bound later. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "broker/exchange.h"

enum { HISTORY_DEFAULT = 20, HISTORY_MAX = 100000 };

struct history {
    struct message **messages; /* a ring */
    size_t limit, first, count;
};

static int
history_declare(struct exchange *exchange, struct amqp_error *error)
{
    struct amqp_value value;
    int64_t limit = HISTORY_DEFAULT;
    if (amqp_table_find(exchange->arguments, SLICE("x-recent-history-length"), &value)) {
        if (!amqp_value_is_integer(&value) || value.integer <= 0 || value.integer > HISTORY_MAX) {
            amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                           "Invalid argument, 'x-recent-history-length' must be a positive "
                           "integer of at most %d",
                           (int)HISTORY_MAX);
            return -1;
        }
        limit = value.integer;
    }
    exchange->history = calloc(1, sizeof(*exchange->history));
    if (exchange->history != NULL) {
        exchange->history->limit = (size_t)limit;
        exchange->history->messages = calloc((size_t)limit, sizeof(struct message *));
    }
    if (exchange->history == NULL || exchange->history->messages == NULL) {
        amqp_error_set(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
        return -1;
    }
    return 0;
}

static struct message **
history_at(struct history *history, size_t i)
{
    return &history->messages[(history->first + i) % history->limit];
}

static void
history_free(struct exchange *exchange)
{
    struct history *history = exchange->history;
    if (history == NULL)
        return;
    for (size_t i = 0; i < history->count && history->messages != NULL; i++)
        message_unref(*history_at(history, i));
    free(history->messages);
    free(history);
}

static void
history_keep(struct history *history, struct message *message)
{
    if (history->count == history->limit) {
        message_unref(*history_at(history, 0));
        history->first = (history->first + 1) % history->limit;
        history->count--;
    }
    *history_at(history, history->count++) = message_ref(message);
}

void
history_take(struct exchange *exchange, struct binding_history *taken)
{
    struct history *history = exchange->history;
    if (history == NULL || history->count == 0)
        return;
    taken->messages = calloc(history->count, sizeof(struct message *));
    if (taken->messages == NULL)
        return; /* the queue begins without history: history is a convenience, not a promise */
    for (size_t i = 0; i < history->count; i++)
        taken->messages[i] = message_ref(*history_at(history, i));
    taken->count = history->count;
}

static void
history_route(struct exchange *exchange, struct router *router)
{
    const struct route_request *request = router->request;
    struct amqp_value value;
    bool is_kept = request->message != NULL;
    if (is_kept && request->properties != NULL
        && amqp_table_find(request->properties->headers, SLICE("x-recent-history-no-store"), &value)
        && value.type == 't' && value.boolean)
        is_kept = false;
    if (is_kept)
        history_keep(exchange->history, request->message);
    LIST_FOR_EACH (node, &exchange->bindings)
        router_add(router, LIST_ENTRY(node, struct binding, source_link));
}

const struct exchange_type exchange_type_recent_history = {
    .name = "x-recent-history",
    .declare = history_declare,
    .free = history_free,
    .route = history_route,
    .looks_at_message = true,
    .matches_all_keys = true,
};
