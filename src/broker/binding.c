/* Bindings: making, finding and removing them.
 *
 * A binding's identity is its destination, its key and its arguments, in which the order of the
 * arguments means nothing: they are sorted into one byte string, by which the source finds it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "broker/exchange.h"

/* --- Identity --------------------------------------------------------------------------------- */

struct argument {
    struct slice name;
    struct amqp_value value;
};

static int
compare_arguments(const void *a, const void *b)
{
    const struct slice x = ((const struct argument *)a)->name;
    const struct slice y = ((const struct argument *)b)->name;
    int order = memcmp(x.data, y.data, x.size < y.size ? x.size : y.size);
    return order != 0 ? order : (x.size > y.size) - (x.size < y.size);
}

/* The arguments sorted by name, into the builder. */
static int
sort_arguments(struct slice table, struct amqp_table_builder *builder)
{
    size_t count = 0;
    struct argument argument;
    struct amqp_table_iterator at = amqp_table_begin(table);
    while (amqp_table_next(&at, &argument.name, &argument.value) == 1)
        count++;
    if (count == 0)
        return 0;
    struct argument *arguments = calloc(count, sizeof(*arguments));
    if (arguments == NULL)
        return -ENOMEM;
    at = amqp_table_begin(table);
    for (size_t i = 0; i < count; i++)
        (void)amqp_table_next(&at, &arguments[i].name, &arguments[i].value);
    qsort(arguments, count, sizeof(*arguments), compare_arguments);
    for (size_t i = 0; i < count; i++)
        amqp_table_builder_put_value(builder, arguments[i].name, &arguments[i].value);
    free(arguments);
    return amqp_table_builder_failed(builder) ? -ENOMEM : 0;
}

static void
put(char **at, struct slice bytes)
{
    *(*at)++ = (char)bytes.size; /* names and keys are short strings */
    if (bytes.size > 0)
        memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
}

/* Fills identity, routing_key and arguments of the binding. */
static int
identify(struct binding *binding, const struct binding_request *request)
{
    struct amqp_table_builder builder;
    amqp_table_builder_init(&builder);
    int status = sort_arguments(request->arguments, &builder);
    struct slice arguments = amqp_table_builder_finish(&builder);
    size_t size = 3 + request->destination.size + request->routing_key.size + arguments.size;
    char *identity = status == 0 ? malloc(size) : NULL;
    if (identity == NULL) {
        amqp_table_builder_free(&builder);
        return -ENOMEM;
    }
    char *at = identity;
    *at++ = request->destination_is_exchange ? 'e' : 'q';
    put(&at, request->destination);
    put(&at, request->routing_key);
    binding->routing_key =
        (struct slice){at - request->routing_key.size, request->routing_key.size};
    if (arguments.size > 0)
        memcpy(at, arguments.data, arguments.size);
    binding->arguments = (struct slice){at, arguments.size};
    binding->identity = (struct slice){identity, size};
    amqp_table_builder_free(&builder);
    return 0;
}

/* --- Events ----------------------------------------------------------------------------------- */

bool
binding_is_durable(const struct binding *binding)
{
    return binding->source->durable
           && (binding->queue != NULL ? binding->queue->durable : binding->exchange->durable);
}

struct catalogue_event
binding_event(const struct binding *binding, enum catalogue_event_type type)
{
    return (struct catalogue_event){
        .type = type,
        .vhost = binding->source->vhost->name,
        .name = binding->source->name,
        .destination = binding->queue != NULL ? binding->queue->name : binding->exchange->name,
        .destination_is_exchange = binding->queue == NULL,
        .routing_key = binding->routing_key,
        .arguments = binding->arguments,
    };
}

static void
tell(struct catalogue *catalogue, const struct binding *binding, enum catalogue_event_type type)
{
    if (!binding_is_durable(binding) || vhost_is_deleted(binding->source->vhost))
        return;
    struct catalogue_event event = binding_event(binding, type);
    catalogue_tell(catalogue, &event);
}

/* --- Binding ---------------------------------------------------------------------------------- */

static int
not_found(const char *kind, struct slice name, struct vhost *vhost, struct amqp_error *error)
{
    amqp_error_set(error, AMQP_REPLY_NOT_FOUND, "no %s '%.*s' in vhost '%.*s'", kind,
                   SLICE_ARGS(name), SLICE_ARGS(vhost->name));
    return -1;
}

/* The two ends of the request. */
static int
find_ends(struct vhost *vhost, const struct binding_request *request, struct binding *ends,
          struct amqp_error *error)
{
    if (request->source.size == 0
        || (request->destination_is_exchange && request->destination.size == 0)) {
        amqp_error_set(error, AMQP_REPLY_ACCESS_REFUSED,
                       "operation not permitted on the default exchange");
        return -1;
    }
    if (request->destination_is_exchange) {
        ends->exchange = vhost_exchange(vhost, request->destination);
    } else {
        ends->queue = vhost_queue(vhost, request->destination);
        if (ends->queue != NULL && !ref_is_none(ends->queue->owner)
            && !ref_equal(ends->queue->owner, request->connection)) {
            amqp_error_set(error, AMQP_REPLY_RESOURCE_LOCKED,
                           "cannot obtain exclusive access to locked queue '%.*s' in vhost "
                           "'%.*s'. It could be originally declared on another connection or the "
                           "exclusive property value does not match that of the original "
                           "declaration.",
                           SLICE_ARGS(request->destination), SLICE_ARGS(vhost->name));
            return -1;
        }
    }
    ends->source = vhost_exchange(vhost, request->source);
    return 0;
}

static void
drop(struct binding *binding)
{
    free((char *)binding->identity.data);
    free(binding);
}

static int
no_memory(struct amqp_error *error)
{
    amqp_error_set(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    return -1;
}

/* Puts a complete binding into all its lists. */
static int
link_binding(struct binding *binding)
{
    struct exchange *source = binding->source;
    if (source->type->add != NULL && source->type->add(source, binding) != 0)
        return -ENOMEM;
    if (map_insert(&source->binding_index, binding) != 0) {
        if (source->type->remove != NULL)
            source->type->remove(source, binding);
        return -ENOMEM;
    }
    list_push_back(&source->bindings, &binding->source_link);
    list_push_back(binding->queue != NULL ? &binding->queue->bindings
                                          : &binding->exchange->incoming,
                   &binding->destination_link);
    source->binding_count++;
    source->vhost->bindings++;
    return 0;
}

int
catalogue_bind(struct catalogue *catalogue, struct vhost *vhost,
               const struct binding_request *request, struct binding_history *history,
               struct amqp_error *error)
{
    *history = (struct binding_history){0};
    struct binding ends = {0};
    if (find_ends(vhost, request, &ends, error) != 0)
        return -1;
    if (ends.source == NULL)
        return not_found("exchange", request->source, vhost, error);
    if (ends.queue == NULL && ends.exchange == NULL)
        return not_found(request->destination_is_exchange ? "exchange" : "queue",
                         request->destination, vhost, error);
    struct binding *binding = calloc(1, sizeof(*binding));
    if (binding == NULL)
        return no_memory(error);
    binding->source = ends.source;
    binding->queue = ends.queue;
    binding->exchange = ends.exchange;
    list_init(&binding->source_link);
    list_init(&binding->destination_link);
    list_init(&binding->match_link);
    if (identify(binding, request) != 0) {
        free(binding);
        return no_memory(error);
    }
    if (map_find(&ends.source->binding_index, binding->identity) != NULL) {
        drop(binding);
        return 0;
    }
    uint32_t limit = catalogue->limits.bindings;
    if (limit > 0 && vhost->bindings >= limit) {
        drop(binding);
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "cannot bind to exchange '%.*s': binding limit in vhost '%.*s' (%u) is "
                       "reached",
                       SLICE_ARGS(request->source), SLICE_ARGS(vhost->name), limit);
        return -1;
    }
    const struct exchange_type *type = ends.source->type;
    if (type->check != NULL && type->check(ends.source, binding, error) != 0) {
        drop(binding);
        return -1;
    }
    if (link_binding(binding) != 0) {
        drop(binding);
        return no_memory(error);
    }
    if (binding->queue != NULL && ends.source->history != NULL) {
        history_take(ends.source, history);
        history->queue = binding->queue->queue;
        history->queue_id = binding->queue->durable ? binding->queue->id : 0;
        history->keeps_all = queue_record_keeps_all(binding->queue);
    }
    catalogue_changed(catalogue);
    tell(catalogue, binding, CATALOGUE_BINDING_ADDED);
    return 0;
}

/* --- Unbinding -------------------------------------------------------------------------------- */

void
binding_free(struct catalogue *catalogue, struct binding *binding)
{
    struct exchange *source = binding->source;
    tell(catalogue, binding, CATALOGUE_BINDING_REMOVED);
    if (source->type->remove != NULL)
        source->type->remove(source, binding);
    map_remove(&source->binding_index, binding->identity);
    list_remove(&binding->source_link);
    list_remove(&binding->destination_link);
    source->binding_count--;
    source->vhost->bindings--;
    drop(binding);
}

void
binding_remove(struct catalogue *catalogue, struct binding *binding)
{
    struct exchange *source = binding->source;
    binding_free(catalogue, binding);
    if (source->auto_delete && list_is_empty(&source->bindings))
        exchange_remove(catalogue, source);
    catalogue_changed(catalogue);
}

int
catalogue_unbind(struct catalogue *catalogue, struct vhost *vhost,
                 const struct binding_request *request, struct amqp_error *error)
{
    struct binding ends = {0}, wanted = {0};
    if (find_ends(vhost, request, &ends, error) != 0)
        return -1;
    if (ends.source == NULL)
        return 0;
    if (identify(&wanted, request) != 0)
        return no_memory(error);
    struct binding *binding = map_find(&ends.source->binding_index, wanted.identity);
    free((char *)wanted.identity.data);
    if (binding != NULL)
        binding_remove(catalogue, binding);
    return 0;
}
