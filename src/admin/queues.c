/* Queues over HTTP: what they are, what they hold, and which policies apply to them. Counts are
 * what the queues last told; nobody is asked. */
#include "admin/listing.h"
#include "admin/routes.h"
#include "broker/policy.h"

struct queue_row {
    struct slice vhost, name, type, state, arguments;
    struct slice policy, operator_policy, effective_policy_definition;
    bool durable, auto_delete, exclusive;
    uint64_t messages, messages_ready, messages_unacknowledged, consumers;
    uint64_t message_bytes, message_bytes_ready, message_bytes_unacknowledged, memory;
};

#define COLUMN(name, kind)                                                                         \
    {                                                                                              \
#name, LISTING_##kind, offsetof(struct queue_row, name)                                    \
    }
static const struct listing_column columns[] = {
    COLUMN(name, TEXT),
    COLUMN(vhost, TEXT),
    COLUMN(type, TEXT),
    COLUMN(state, TEXT),
    COLUMN(durable, BOOL),
    COLUMN(auto_delete, BOOL),
    COLUMN(exclusive, BOOL),
    COLUMN(arguments, TABLE),
    COLUMN(policy, TEXT_OR_NULL),
    COLUMN(operator_policy, TEXT_OR_NULL),
    COLUMN(effective_policy_definition, TABLE),
    COLUMN(messages, NUMBER),
    COLUMN(messages_ready, NUMBER),
    COLUMN(messages_unacknowledged, NUMBER),
    COLUMN(consumers, NUMBER),
    COLUMN(message_bytes, NUMBER),
    COLUMN(message_bytes_ready, NUMBER),
    COLUMN(message_bytes_unacknowledged, NUMBER),
    COLUMN(memory, NUMBER),
};
#undef COLUMN

static void
add(void *context, const struct queue_record *record)
{
    struct amqp_table_builder effective;
    amqp_table_builder_init(&effective);
    queue_record_put_policy(record, &effective);
    const uint64_t ready = atomic_load_explicit(&record->ready, memory_order_relaxed);
    const uint64_t unacknowledged =
        atomic_load_explicit(&record->unacknowledged, memory_order_relaxed);
    const uint64_t ready_bytes = atomic_load_explicit(&record->ready_bytes, memory_order_relaxed);
    const uint64_t unacknowledged_bytes =
        atomic_load_explicit(&record->unacknowledged_bytes, memory_order_relaxed);
    const struct queue_row row = {
        .vhost = vhost_name(record->vhost),
        .name = record->name,
        .type = record->options.type == QUEUE_QUORUM ? SLICE("quorum") : SLICE("classic"),
        .state = SLICE("running"),
        .durable = record->durable,
        .auto_delete = record->auto_delete,
        .exclusive = record->exclusive,
        .arguments = record->arguments,
        .policy = queue_record_policy(record, false),
        .operator_policy = queue_record_policy(record, true),
        .effective_policy_definition = amqp_table_builder_finish(&effective),
        .messages = ready + unacknowledged,
        .messages_ready = ready,
        .messages_unacknowledged = unacknowledged,
        .consumers = atomic_load_explicit(&record->consumers, memory_order_relaxed),
        .message_bytes = ready_bytes + unacknowledged_bytes,
        .message_bytes_ready = ready_bytes,
        .message_bytes_unacknowledged = unacknowledged_bytes,
        .memory = atomic_load_explicit(&record->memory, memory_order_relaxed),
    };
    if (amqp_table_builder_failed(&effective))
        listing_fail(context);
    else
        listing_add(context, &row);
    amqp_table_builder_free(&effective);
}

static int
add_next(struct catalogue *catalogue, struct vhost *vhost, struct catalogue_cursor *cursor,
         size_t count, struct listing *listing)
{
    return catalogue_next_queues(catalogue, vhost, cursor, count, add, listing);
}

static void
add_one(struct catalogue *catalogue, struct vhost *vhost, struct slice name,
        struct listing *listing)
{
    const struct queue_record *record = queue_record_find(catalogue, vhost, name);
    if (record != NULL)
        add(listing, record);
}

static const struct listing_form form = {
    .one = "queue",
    .columns = columns,
    .column_count = ARRAY_SIZE(columns),
    .row_size = sizeof(struct queue_row),
    .add_next = add_next,
    .add_one = add_one,
};

void
queues_list(const struct admin_request *request, struct admin_reply *reply)
{
    listing_of_all(&form, request, reply);
}

void
queues_of_vhost(const struct admin_request *request, struct admin_reply *reply)
{
    listing_of_vhost(&form, request, reply);
}

void
queue_show(const struct admin_request *request, struct admin_reply *reply)
{
    listing_of_one(&form, request, reply);
}
