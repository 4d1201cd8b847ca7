/* Exchanges: declaring, checking a redeclaration, deleting. */
#include "broker/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "broker/argument_text.h"

#define DELAYED_TYPE "x-delayed-message"
#define DEDUPLICATING_TYPE "x-message-deduplication"

static const struct exchange_type *const types[] = {
    &exchange_type_direct,       &exchange_type_fanout,         &exchange_type_topic,
    &exchange_type_headers,      &exchange_type_random,         &exchange_type_consistent_hash,
    &exchange_type_modulus_hash, &exchange_type_recent_history,
};

const struct exchange_type *
exchange_type_find(struct slice name)
{
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (slice_is(name, types[i]->name))
            return types[i];
    return NULL;
}

struct slice
slice_copy(struct slice from)
{
    char *copy = malloc(from.size + 1); /* never of size 0: NULL means that memory ran out */
    if (copy == NULL)
        return (struct slice){NULL, 0};
    if (from.size > 0)
        memcpy(copy, from.data, from.size);
    return (struct slice){copy, from.size};
}

static int
out_of_memory(struct amqp_error *error)
{
    amqp_error_set(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    return -1;
}

/* --- Making ----------------------------------------------------------------------------------- */

static int
read_type(struct exchange *exchange, struct amqp_error *error)
{
    exchange->type = exchange_type_find(exchange->type_name);
    if (slice_is(exchange->type_name, DEDUPLICATING_TYPE)) {
        exchange->type = &exchange_type_fanout;
        exchange->is_deduplicating = true;
        exchange->deduplication = deduplication_new(exchange->arguments, error);
        return exchange->deduplication == NULL ? -1 : 0;
    }
    if (slice_is(exchange->type_name, DELAYED_TYPE)) {
        struct amqp_value value;
        if (!amqp_table_find(exchange->arguments, SLICE("x-delayed-type"), &value)
            || value.type != 'S' || (exchange->type = exchange_type_find(value.bytes)) == NULL) {
            amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                           "Invalid argument, 'x-delayed-type' must be an existing exchange type");
            return -1;
        }
        exchange->is_delayed = true;
    }
    if (exchange->type == NULL) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED, "unknown exchange type '%.*s'",
                       SLICE_ARGS(exchange->type_name));
        return -1;
    }
    return exchange->type->declare == NULL ? 0 : exchange->type->declare(exchange, error);
}

static int
check_text(const struct exchange *exchange, const char *argument, const struct amqp_value *value,
           struct amqp_error *error)
{
    if (value->type == 'S')
        return 0;
    amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                   "invalid type '%s' for arg '%s' in exchange '%.*s' in vhost '%.*s'",
                   amqp_value_type_name(value->type), argument, SLICE_ARGS(exchange->name),
                   SLICE_ARGS(exchange->vhost->name));
    return -1;
}

static int
check_alternate(const struct exchange *exchange, struct amqp_error *error)
{
    struct amqp_value value;
    if (!amqp_table_find(exchange->arguments, SLICE("alternate-exchange"), &value))
        return 0;
    return check_text(exchange, "alternate-exchange", &value, error);
}

/* They become the exchange and the key of messages, which travel as short strings. */
static int
check_dead_letter_route(const struct exchange *exchange, struct amqp_error *error)
{
    static const char *const names[] = {"x-dead-letter-exchange", "x-dead-letter-routing-key"};
    struct amqp_value value;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (!amqp_table_find(exchange->arguments, slice_from(names[i]), &value))
            continue;
        if (check_text(exchange, names[i], &value, error) != 0)
            return -1;
        if (value.bytes.size <= UINT8_MAX)
            continue;
        amqp_error_set(
            error, AMQP_REPLY_PRECONDITION_FAILED,
            "invalid arg '%s' for exchange '%.*s' in vhost '%.*s': \"expected longstr of "
            "at most %u bytes, got %zu\"",
            names[i], SLICE_ARGS(exchange->name), SLICE_ARGS(exchange->vhost->name),
            (unsigned)UINT8_MAX, value.bytes.size);
        return -1;
    }
    return 0;
}

/* Frees an exchange that is in no vhost. */
static void
release(struct exchange *exchange)
{
    if (exchange->type != NULL && exchange->type->free != NULL)
        exchange->type->free(exchange);
    deduplication_free(exchange->deduplication);
    policies_release(exchange->policies);
    map_fini(&exchange->binding_index);
    free((char *)exchange->name.data);
    free((char *)exchange->arguments.data);
    free((char *)exchange->type_name.data);
    free(exchange);
}

static struct slice
identity_of_binding(const void *value)
{
    return ((const struct binding *)value)->identity;
}

struct exchange *
exchange_new(struct vhost *vhost, const struct exchange_declaration *declaration, bool is_system,
             struct amqp_error *error)
{
    struct exchange *exchange = calloc(1, sizeof(*exchange));
    if (exchange == NULL) {
        (void)out_of_memory(error);
        return NULL;
    }
    exchange->name = slice_copy(declaration->name);
    exchange->arguments = slice_copy(declaration->arguments);
    exchange->type_name = slice_copy(declaration->type);
    exchange->vhost = vhost;
    exchange->durable = declaration->durable;
    exchange->auto_delete = declaration->auto_delete;
    exchange->internal = declaration->internal;
    exchange->is_system = is_system;
    list_init(&exchange->bindings);
    list_init(&exchange->incoming);
    map_init(&exchange->binding_index, identity_of_binding);
    bool is_whole = exchange->name.data != NULL && exchange->arguments.data != NULL
                    && exchange->type_name.data != NULL;
    if (!is_whole)
        (void)out_of_memory(error);
    if (!is_whole || read_type(exchange, error) != 0 || check_alternate(exchange, error) != 0
        || check_dead_letter_route(exchange, error) != 0) {
        release(exchange);
        return NULL;
    }
    if (map_insert(&vhost->exchanges, exchange) != 0) {
        (void)out_of_memory(error);
        release(exchange);
        return NULL;
    }
    exchange_take_policies(exchange);
    return exchange;
}

void
exchange_free(struct exchange *exchange)
{
    map_remove(&exchange->vhost->exchanges, exchange->name);
    release(exchange);
}

/* --- Declaring -------------------------------------------------------------------------------- */

struct exchange *
vhost_exchange(struct vhost *vhost, struct slice name)
{
    return map_find(&vhost->exchanges, name);
}

struct exchange *
exchange_find(struct catalogue *catalogue, struct vhost *vhost, struct slice name)
{
    (void)catalogue;
    return vhost_exchange(vhost, name);
}

static int
inequivalent(const struct exchange *exchange, const char *argument, const char *received,
             const char *current, struct amqp_error *error)
{
    amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                   "inequivalent arg '%s' for exchange '%.*s' in vhost '%.*s': received %s but "
                   "current is %s",
                   argument, SLICE_ARGS(exchange->name), SLICE_ARGS(exchange->vhost->name),
                   received, current);
    return -1;
}

static int
check_flag(const struct exchange *exchange, const char *name, bool received, bool current,
           struct amqp_error *error)
{
    if (received == current)
        return 0;
    return inequivalent(exchange, name, received ? "'true'" : "'false'",
                        current ? "'true'" : "'false'", error);
}

static int
check_argument(const struct exchange *exchange, const char *name, struct slice received_table,
               struct amqp_error *error)
{
    struct amqp_value received, current;
    struct slice key = slice_from(name);
    bool has_received = amqp_table_find(received_table, key, &received);
    bool has_current = amqp_table_find(exchange->arguments, key, &current);
    if (has_received == has_current && (!has_current || amqp_value_equal(&received, &current)))
        return 0;
    char received_text[ARGUMENT_SIDE_SIZE], current_text[ARGUMENT_SIDE_SIZE];
    argument_print_side(received_text, has_received ? &received : NULL, !has_current);
    argument_print_side(current_text, has_current ? &current : NULL, !has_received);
    return inequivalent(exchange, name, received_text, current_text, error);
}

static int
check_equivalent(const struct exchange *exchange, const struct exchange_declaration *declaration,
                 struct amqp_error *error)
{
    if (!slice_equal(exchange->type_name, declaration->type)) {
        char received[128], current[128];
        snprintf(received, sizeof(received), "'%.*s'",
                 declaration->type.size > 100 ? 100 : (int)declaration->type.size,
                 declaration->type.data);
        snprintf(current, sizeof(current), "'%.*s'", SLICE_ARGS(exchange->type_name));
        return inequivalent(exchange, "type", received, current, error);
    }
    if (check_flag(exchange, "durable", declaration->durable, exchange->durable, error) != 0
        || check_flag(exchange, "auto_delete", declaration->auto_delete, exchange->auto_delete,
                      error)
               != 0
        || check_flag(exchange, "internal", declaration->internal, exchange->internal, error) != 0)
        return -1;
    static const char *const arguments[] = {"alternate-exchange", "x-delayed-type",
                                            "x-dead-letter-exchange", "x-dead-letter-routing-key"};
    for (size_t i = 0; i < ARRAY_SIZE(arguments); i++)
        if (check_argument(exchange, arguments[i], declaration->arguments, error) != 0)
            return -1;
    return 0;
}

static int
no_exchange(struct vhost *vhost, struct slice name, struct amqp_error *error)
{
    amqp_error_set(error, AMQP_REPLY_NOT_FOUND, "no exchange '%.*s' in vhost '%.*s'",
                   SLICE_ARGS(name), SLICE_ARGS(vhost->name));
    return -1;
}

static int
no_default(struct amqp_error *error)
{
    amqp_error_set(error, AMQP_REPLY_ACCESS_REFUSED,
                   "operation not permitted on the default exchange");
    return -1;
}

/* Names of exchange types that are none close the connection, as everywhere (503 in 3.x, 4.x: 406
 * on the channel): known names only have to be checked against what there is. */
bool
exchange_type_is_known(struct slice type)
{
    return exchange_type_find(type) != NULL || slice_is(type, DELAYED_TYPE)
           || slice_is(type, DEDUPLICATING_TYPE);
}

static void
tell_added(struct catalogue *catalogue, const struct exchange *exchange)
{
    if (!exchange->durable)
        return;
    struct catalogue_event event = exchange_event(exchange, CATALOGUE_EXCHANGE_ADDED);
    catalogue_tell(catalogue, &event);
}

int
exchange_declare(struct catalogue *catalogue, struct vhost *vhost,
                 const struct exchange_declaration *declaration, bool *created,
                 struct amqp_error *error)
{
    *created = false;
    struct slice name = declaration->name;
    if (vhost_is_deleted(vhost)) {
        amqp_error_set(error, AMQP_REPLY_CONNECTION_FORCED, "vhost '%.*s' is deleted",
                       SLICE_ARGS(vhost->name));
        return -1;
    }
    struct exchange *exchange = vhost_exchange(vhost, name);
    if (declaration->passive && name.size > 0)
        return exchange == NULL ? no_exchange(vhost, name, error) : 0;
    if (!declaration->passive && !exchange_type_is_known(declaration->type)) {
        amqp_error_set(error, AMQP_REPLY_COMMAND_INVALID, "unknown exchange type '%.*s'",
                       SLICE_ARGS(declaration->type));
        return -1;
    }
    if (name.size == 0)
        return no_default(error);
    if (exchange != NULL)
        return check_equivalent(exchange, declaration, error);
    if (slice_starts_with(name, SLICE("amq."))) {
        amqp_error_set(error, AMQP_REPLY_ACCESS_REFUSED,
                       "exchange name '%.*s' contains reserved prefix 'amq.*'", SLICE_ARGS(name));
        return -1;
    }
    uint32_t limit = catalogue->limits.exchanges;
    if (limit > 0 && map_count(&vhost->exchanges) >= limit) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "cannot declare exchange '%.*s' in vhost '%.*s': exchange limit of %u is "
                       "reached",
                       SLICE_ARGS(name), SLICE_ARGS(vhost->name), limit);
        return -1;
    }
    exchange = exchange_new(vhost, declaration, false, error);
    if (exchange == NULL)
        return -1;
    *created = true;
    catalogue_changed(catalogue);
    struct slice to, key;
    bool has_key;
    if (exchange_dead_letter(exchange, &to, &key, &has_key)) {
        exchange->gives_dead_letter_route = true;
        atomic_fetch_add_explicit(&catalogue->dead_letter_exchanges, 1, memory_order_relaxed);
    }
    if (!exchange->is_delayed) /* else when it has its store */
        tell_added(catalogue, exchange);
    return 0;
}

/* --- Deleting --------------------------------------------------------------------------------- */

int
exchange_delete(struct catalogue *catalogue, struct vhost *vhost, struct slice name, bool if_unused,
                struct amqp_error *error)
{
    if (name.size == 0)
        return no_default(error);
    if (vhost_is_deleted(vhost)) {
        amqp_error_set(error, AMQP_REPLY_CONNECTION_FORCED, "vhost '%.*s' is deleted",
                       SLICE_ARGS(vhost->name));
        return -1;
    }
    struct exchange *exchange = vhost_exchange(vhost, name);
    if (slice_starts_with(name, SLICE("amq.")) && (exchange == NULL || exchange->is_system)) {
        amqp_error_set(error, AMQP_REPLY_ACCESS_REFUSED,
                       "deletion of system exchange '%.*s' in vhost '%.*s' not allowed",
                       SLICE_ARGS(name), SLICE_ARGS(vhost->name));
        return -1;
    }
    if (exchange == NULL)
        return 0;
    if (if_unused && !list_is_empty(&exchange->bindings)) {
        amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                       "exchange '%.*s' in vhost '%.*s' in use", SLICE_ARGS(name),
                       SLICE_ARGS(vhost->name));
        return -1;
    }
    exchange_remove(catalogue, exchange);
    return 0;
}

static void
remember_orphan(struct catalogue *catalogue, struct ref store)
{
    size_t count = atomic_load_explicit(&catalogue->orphan_count, memory_order_relaxed);
    if (count == catalogue->orphan_capacity) {
        size_t capacity = count == 0 ? 8 : 2 * count;
        struct ref *grown = realloc(catalogue->orphans, capacity * sizeof(*grown));
        if (grown == NULL)
            return; /* costs the memory of a store that nobody feeds; it empties by itself */
        catalogue->orphans = grown;
        catalogue->orphan_capacity = capacity;
    }
    catalogue->orphans[count] = store;
    atomic_store_explicit(&catalogue->orphan_count, count + 1, memory_order_release);
}

bool
catalogue_next_orphan(struct catalogue *catalogue, struct ref *queue)
{
    if (atomic_load_explicit(&catalogue->orphan_count, memory_order_relaxed) == 0)
        return false;
    catalogue_lock(catalogue);
    size_t count = atomic_load_explicit(&catalogue->orphan_count, memory_order_relaxed);
    bool found = count > 0;
    if (found) {
        *queue = catalogue->orphans[count - 1];
        atomic_store_explicit(&catalogue->orphan_count, count - 1, memory_order_release);
    }
    catalogue_unlock(catalogue);
    return found;
}

void
exchange_remove(struct catalogue *catalogue, struct exchange *exchange)
{
    /* Auto-delete exchanges that were bound to this one go too, and those bound to them: a list of
     * what is to go, through a link that is not needed any more, instead of recursion. */
    struct exchange *next = NULL;
    exchange->is_doomed = true;
    exchange->doomed_next = NULL;
    for (; exchange != NULL; exchange = next) {
        next = exchange->doomed_next;
        LIST_FOR_EACH_SAFE (node, &exchange->bindings)
            binding_free(catalogue, LIST_ENTRY(node, struct binding, source_link));
        LIST_FOR_EACH_SAFE (node, &exchange->incoming) {
            struct binding *binding = LIST_ENTRY(node, struct binding, destination_link);
            struct exchange *source = binding->source;
            binding_free(catalogue, binding);
            if (source->auto_delete && list_is_empty(&source->bindings) && !source->is_doomed) {
                source->is_doomed = true;
                source->doomed_next = next;
                next = source;
            }
        }
        if (exchange->durable && !vhost_is_deleted(exchange->vhost)) {
            struct catalogue_event event = exchange_event(exchange, CATALOGUE_EXCHANGE_REMOVED);
            catalogue_tell(catalogue, &event);
        }
        if (exchange->delay_store != NULL)
            remember_orphan(catalogue, exchange->delay_store->queue);
        if (exchange->gives_dead_letter_route)
            atomic_fetch_sub_explicit(&catalogue->dead_letter_exchanges, 1, memory_order_relaxed);
        exchange_free(exchange);
    }
    catalogue_changed(catalogue);
}

/* --- Delayed exchanges, dead letters ---------------------------------------------------------- */

bool
exchange_is_internal(const struct exchange *exchange)
{
    return exchange->internal;
}

bool
exchange_needs_delay_store(const struct exchange *exchange)
{
    return exchange->is_delayed && exchange->delay_store == NULL;
}

void
exchange_set_delay_store(struct catalogue *catalogue, struct exchange *exchange,
                         struct queue_record *record)
{
    exchange->delay_store = record;
    tell_added(catalogue, exchange);
}

struct queue_record *
exchange_delay_store(const struct exchange *exchange)
{
    return exchange->delay_store;
}

struct slice
exchange_name(const struct exchange *exchange)
{
    return exchange->name;
}

struct slice
exchange_type_name(const struct exchange *exchange)
{
    return exchange->type_name;
}

bool
exchange_is_durable(const struct exchange *exchange)
{
    return exchange->durable;
}

bool
catalogue_has_dead_letter_exchanges(const struct catalogue *catalogue)
{
    return atomic_load_explicit(&catalogue->dead_letter_exchanges, memory_order_relaxed) > 0;
}

void
catalogue_forget_refused(struct catalogue *catalogue, struct vhost *vhost,
                         const struct message *message)
{
    struct slice headers = message_headers(message), key;
    if (!deduplication_key(headers, &key))
        return;
    catalogue_lock(catalogue);
    struct exchange *exchange = exchange_find(catalogue, vhost, message_exchange(message));
    if (exchange != NULL && exchange->is_deduplicating)
        deduplication_forget(exchange->deduplication, headers);
    catalogue_unlock(catalogue);
}

bool
exchange_dead_letter(const struct exchange *exchange, struct slice *dead_letter_exchange,
                     struct slice *dead_letter_routing_key, bool *has_routing_key)
{
    struct amqp_value value;
    if (!amqp_table_find(exchange->arguments, SLICE("x-dead-letter-exchange"), &value)
        || value.type != 'S')
        return false;
    *dead_letter_exchange = value.bytes;
    *has_routing_key =
        amqp_table_find(exchange->arguments, SLICE("x-dead-letter-routing-key"), &value)
        && value.type == 'S';
    if (*has_routing_key)
        *dead_letter_routing_key = value.bytes;
    return true;
}
