/* The catalogue: its life, the vhosts, the directory of queues. */
#include "broker/catalogue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/exchange.h"
#include "broker/reply_to.h"

enum { RECORD_MAGIC = 0x5152 };

static struct slice
name_of_vhost(const void *value)
{
    return ((const struct vhost *)value)->name;
}

static struct slice
name_of_exchange(const void *value)
{
    return ((const struct exchange *)value)->name;
}

static struct slice
name_of_record(const void *value)
{
    return ((const struct queue_record *)value)->name;
}

/* --- Life ------------------------------------------------------------------------------------- */

struct catalogue *
catalogue_new(void)
{
    struct catalogue *catalogue = calloc(1, sizeof(*catalogue));
    if (catalogue == NULL)
        return NULL;
    pthread_mutex_init(&catalogue->mutex, NULL);
    pthread_mutex_init(&catalogue->policy_mutex, NULL);
    map_init(&catalogue->vhosts, name_of_vhost);
    map_init(&catalogue->reply_addresses, reply_to_name_of_entry);
    atomic_init(&catalogue->generation, 1);
    atomic_init(&catalogue->next_queue_id, 1);
    random_init(&catalogue->random);
    return catalogue;
}

static void
vhost_empty(struct catalogue *catalogue, struct vhost *vhost)
{
    void *value;
    for (size_t cursor = 0; (value = map_next(&vhost->queues, &cursor)) != NULL;)
        queue_record_remove(catalogue, value);
    for (size_t cursor = 0; (value = map_next(&vhost->exchanges, &cursor)) != NULL;) {
        struct exchange *exchange = value;
        LIST_FOR_EACH_SAFE (node, &exchange->bindings)
            binding_free(catalogue, LIST_ENTRY(node, struct binding, source_link));
    }
    for (size_t cursor = 0; (value = map_next(&vhost->exchanges, &cursor)) != NULL;)
        exchange_free(value);
}

void
catalogue_free(struct catalogue *catalogue)
{
    void *value;
    catalogue->observer = (struct catalogue_observer){0}; /* ending is no change */
    for (size_t cursor = 0; (value = map_next(&catalogue->vhosts, &cursor)) != NULL;) {
        vhost_empty(catalogue, value);
        map_remove(&catalogue->vhosts, name_of_vhost(value));
        vhost_unref(value);
    }
    map_fini(&catalogue->vhosts);
    for (size_t cursor = 0; (value = map_next(&catalogue->reply_addresses, &cursor)) != NULL;) {
        map_remove(&catalogue->reply_addresses, reply_to_name_of_entry(value));
        free(value);
    }
    map_fini(&catalogue->reply_addresses);
    free(catalogue->worklist);
    free(catalogue->states[0]);
    free(catalogue->states[1]);
    header_index_fini(&catalogue->headers);
    free(catalogue->orphans);
    pthread_mutex_destroy(&catalogue->policy_mutex);
    pthread_mutex_destroy(&catalogue->mutex);
    free(catalogue);
}

void
catalogue_observe(struct catalogue *catalogue, struct catalogue_observer observer)
{
    catalogue->observer = observer;
}

void
catalogue_set_limits(struct catalogue *catalogue, const struct catalogue_limits *limits)
{
    catalogue->limits = *limits;
}

const struct catalogue_limits *
catalogue_limits(const struct catalogue *catalogue)
{
    return &catalogue->limits;
}

void
catalogue_tell(struct catalogue *catalogue, const struct catalogue_event *event)
{
    if (catalogue->observer.changed != NULL)
        catalogue->observer.changed(catalogue->observer.context, event);
}

void
catalogue_lock(struct catalogue *catalogue)
{
    pthread_mutex_lock(&catalogue->mutex);
}

void
catalogue_unlock(struct catalogue *catalogue)
{
    pthread_mutex_unlock(&catalogue->mutex);
}

uint64_t
catalogue_generation(const struct catalogue *catalogue)
{
    return atomic_load_explicit(&catalogue->generation, memory_order_acquire);
}

void
catalogue_changed(struct catalogue *catalogue)
{
    atomic_fetch_add_explicit(&catalogue->generation, 1, memory_order_release);
}

uint64_t
catalogue_next_queue_id(struct catalogue *catalogue)
{
    return atomic_fetch_add_explicit(&catalogue->next_queue_id, 1, memory_order_relaxed);
}

void
catalogue_queue_ids_used(struct catalogue *catalogue, uint64_t highest)
{
    if (atomic_load(&catalogue->next_queue_id) <= highest)
        atomic_store(&catalogue->next_queue_id, highest + 1);
}

/* --- Vhosts ----------------------------------------------------------------------------------- */

static int
add_predeclared(struct vhost *vhost)
{
    static const struct {
        const char *name, *type;
        bool internal;
    } predeclared[] = {
        {"amq.direct", "direct", false}, {"amq.fanout", "fanout", false},
        {"amq.topic", "topic", false},   {"amq.headers", "headers", false},
        {"amq.match", "headers", false}, {"amq.rabbitmq.trace", "topic", true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(predeclared); i++) {
        struct amqp_error error;
        struct exchange_declaration declaration = {
            .name = slice_from(predeclared[i].name),
            .type = slice_from(predeclared[i].type),
            .arguments = {"", 0},
            .durable = true,
            .internal = predeclared[i].internal,
        };
        if (exchange_new(vhost, &declaration, true, &error) == NULL)
            return -ENOMEM;
    }
    return 0;
}

int
catalogue_vhost_add(struct catalogue *catalogue, struct slice name)
{
    struct vhost *vhost = calloc(1, sizeof(*vhost));
    if (vhost == NULL)
        return -ENOMEM;
    vhost->references = 1;
    vhost->name = slice_copy(name);
    map_init(&vhost->exchanges, name_of_exchange);
    map_init(&vhost->queues, name_of_record);
    int status = vhost->name.data == NULL ? -ENOMEM : add_predeclared(vhost);
    catalogue_lock(catalogue);
    if (status == 0)
        status = map_insert(&catalogue->vhosts, vhost);
    if (status == 0) {
        vhost->id = catalogue->next_vhost_id++;
        catalogue_changed(catalogue);
        struct catalogue_event event = {.type = CATALOGUE_VHOST_ADDED, .vhost = vhost->name};
        catalogue_tell(catalogue, &event);
    } else {
        vhost_empty(catalogue, vhost);
    }
    catalogue_unlock(catalogue);
    if (status != 0)
        vhost_unref(vhost);
    return status;
}

struct vhost *
catalogue_vhost_find(struct catalogue *catalogue, struct slice name)
{
    catalogue_lock(catalogue);
    struct vhost *vhost = map_find(&catalogue->vhosts, name);
    if (vhost != NULL)
        vhost_ref(vhost);
    catalogue_unlock(catalogue);
    return vhost;
}

int
catalogue_vhost_list(struct catalogue *catalogue, struct vhost ***vhosts, size_t *count)
{
    void *vhost;
    *count = 0;
    catalogue_lock(catalogue);
    *vhosts = calloc(map_count(&catalogue->vhosts) + 1, sizeof(struct vhost *));
    for (size_t cursor = 0;
         *vhosts != NULL && (vhost = map_next(&catalogue->vhosts, &cursor)) != NULL;)
        (*vhosts)[(*count)++] = vhost_ref(vhost);
    catalogue_unlock(catalogue);
    return *vhosts == NULL ? -ENOMEM : 0;
}

/* The addresses of all queues of the vhost, and room for one more. NULL: out of memory. */
static struct ref *
list_queues(const struct vhost *vhost, size_t *count)
{
    struct ref *queues = calloc(map_count(&vhost->queues) + 1, sizeof(*queues));
    void *value;
    *count = 0;
    for (size_t cursor = 0; queues != NULL && (value = map_next(&vhost->queues, &cursor)) != NULL;)
        queues[(*count)++] = ((struct queue_record *)value)->queue;
    return queues;
}

int
catalogue_vhost_remove(struct catalogue *catalogue, struct slice name, struct ref **queues,
                       size_t *count)
{
    void *value;
    catalogue_lock(catalogue);
    struct vhost *vhost = map_find(&catalogue->vhosts, name);
    *queues = vhost == NULL ? NULL : list_queues(vhost, count);
    if (*queues == NULL) {
        catalogue_unlock(catalogue);
        return vhost == NULL ? -ENOENT : -ENOMEM;
    }
    atomic_store(&vhost->is_deleted, true);
    struct catalogue_event event = {.type = CATALOGUE_VHOST_REMOVED, .vhost = vhost->name};
    catalogue_tell(catalogue, &event);
    for (size_t cursor = 0; (value = map_next(&vhost->exchanges, &cursor)) != NULL;)
        exchange_remove(catalogue, value);
    map_remove(&catalogue->vhosts, name);
    catalogue_changed(catalogue);
    atomic_fetch_add_explicit(&catalogue->vhost_deletions, 1, memory_order_release);
    catalogue_unlock(catalogue);
    vhost_unref(vhost);
    return 0;
}

uint64_t
catalogue_vhost_deletions(const struct catalogue *catalogue)
{
    return atomic_load_explicit(&catalogue->vhost_deletions, memory_order_acquire);
}

bool
vhost_is_deleted(const struct vhost *vhost)
{
    return atomic_load_explicit(&vhost->is_deleted, memory_order_relaxed);
}

struct vhost *
vhost_ref(struct vhost *vhost)
{
    atomic_fetch_add_explicit(&vhost->references, 1, memory_order_relaxed);
    return vhost;
}

void
vhost_unref(struct vhost *vhost)
{
    if (atomic_fetch_sub_explicit(&vhost->references, 1, memory_order_acq_rel) > 1)
        return;
    map_fini(&vhost->exchanges);
    map_fini(&vhost->queues);
    for (int i = 0; i < POLICY_KINDS; i++)
        policy_list_fini(&vhost->policies[i]);
    free((char *)vhost->name.data);
    free(vhost);
}

struct slice
vhost_name(const struct vhost *vhost)
{
    return vhost->name;
}

bool
vhost_take_consumer(struct vhost *vhost, uint32_t limit)
{
    uint32_t count = atomic_load_explicit(&vhost->consumers, memory_order_relaxed);
    do
        if (limit > 0 && count >= limit)
            return false;
    while (!atomic_compare_exchange_weak_explicit(&vhost->consumers, &count, count + 1,
                                                  memory_order_relaxed, memory_order_relaxed));
    return true;
}

void
vhost_give_consumer_back(struct vhost *vhost)
{
    atomic_fetch_sub_explicit(&vhost->consumers, 1, memory_order_relaxed);
}

uint32_t
vhost_id(const struct vhost *vhost)
{
    return vhost->id;
}

/* --- Queues ----------------------------------------------------------------------------------- */

struct queue_record *
vhost_queue(struct vhost *vhost, struct slice name)
{
    return map_find(&vhost->queues, name);
}

struct queue_record *
queue_record_find(struct catalogue *catalogue, struct vhost *vhost, struct slice name)
{
    (void)catalogue;
    return vhost_queue(vhost, name);
}

int
queue_check_limit(struct catalogue *catalogue, struct vhost *vhost, struct slice name,
                  struct amqp_error *error)
{
    uint32_t limit = catalogue->limits.queues;
    if (limit == 0 || map_count(&vhost->queues) < limit)
        return 0;
    amqp_error_set(error, AMQP_REPLY_PRECONDITION_FAILED,
                   "cannot declare queue '%.*s': queue limit in vhost '%.*s' (%u) is reached",
                   SLICE_ARGS(name), SLICE_ARGS(vhost->name), limit);
    return -1;
}

/* The options' slices point into some table; the same places in the copy of it. */
static void
rebase(struct slice *slice, struct slice from, struct slice to)
{
    if (slice->data != NULL)
        slice->data = to.data + (slice->data - from.data);
}

struct queue_record *
queue_record_new(struct catalogue *catalogue, struct vhost *vhost,
                 const struct queue_declaration *declaration, const struct queue_options *options,
                 uint64_t id)
{
    struct queue_record *record = calloc(1, sizeof(*record));
    if (record == NULL)
        return NULL;
    record->magic = RECORD_MAGIC;
    record->id = id != 0 ? id : catalogue_next_queue_id(catalogue);
    record->vhost = vhost_ref(vhost);
    record->name = slice_copy(declaration->name);
    record->arguments = slice_copy(declaration->arguments);
    record->durable = declaration->durable && !declaration->exclusive;
    record->exclusive = declaration->exclusive;
    record->auto_delete = declaration->auto_delete;
    record->options = *options;
    record->overflow = options->overflow;
    record->consumer_timeout_ms = options->consumer_timeout_ms;
    list_init(&record->bindings);
    if (record->name.data == NULL || record->arguments.data == NULL) {
        queue_record_free(record);
        return NULL;
    }
    if (options->has_dead_letter_exchange)
        rebase(&record->options.dead_letter_exchange, declaration->arguments, record->arguments);
    if (options->has_dead_letter_routing_key)
        rebase(&record->options.dead_letter_routing_key, declaration->arguments, record->arguments);
    return record;
}

int
queue_record_insert(struct catalogue *catalogue, struct queue_record *record)
{
    if (vhost_is_deleted(record->vhost))
        return -ENOENT;
    int status = record->is_internal ? 0 : map_insert(&record->vhost->queues, record);
    if (status != 0)
        return status;
    catalogue_changed(catalogue);
    if (record->durable) {
        struct catalogue_event event = queue_event(record, CATALOGUE_QUEUE_ADDED);
        catalogue_tell(catalogue, &event);
    }
    return 0;
}

void
queue_record_remove(struct catalogue *catalogue, struct queue_record *record)
{
    while (!list_is_empty(&record->bindings))
        binding_remove(catalogue,
                       LIST_ENTRY(list_first(&record->bindings), struct binding, destination_link));
    if (!record->is_internal)
        map_remove(&record->vhost->queues, record->name);
    catalogue_changed(catalogue);
    if (record->durable && !vhost_is_deleted(record->vhost)) {
        struct catalogue_event event = queue_event(record, CATALOGUE_QUEUE_REMOVED);
        catalogue_tell(catalogue, &event);
    }
    queue_record_free(record);
}

void
queue_record_free(struct queue_record *record)
{
    free((char *)record->name.data);
    free((char *)record->arguments.data);
    policies_release(record->policies);
    vhost_unref(record->vhost);
    record->magic = 0;
    free(record);
}

/* --- Events ----------------------------------------------------------------------------------- */

struct catalogue_event
exchange_event(const struct exchange *exchange, enum catalogue_event_type type)
{
    return (struct catalogue_event){
        .type = type,
        .vhost = exchange->vhost->name,
        .queue_id = exchange->delay_store != NULL ? exchange->delay_store->id : 0,
        .name = exchange->name,
        .kind = exchange->type_name,
        .auto_delete = exchange->auto_delete,
        .internal = exchange->internal,
        .arguments = exchange->arguments,
    };
}

struct catalogue_event
queue_event(const struct queue_record *record, enum catalogue_event_type type)
{
    return (struct catalogue_event){
        .type = type,
        .vhost = record->vhost->name,
        .queue_id = record->id,
        .name = record->name,
        .auto_delete = record->auto_delete,
        .internal = record->is_internal,
        .arguments = record->arguments,
    };
}
