/* Looking through a vhost: see the header. A map's values stay where they are until it is made
 * anew, which its `layout` tells. */
#include "broker/catalogue_list.h"

#include <errno.h>

#include "broker/exchange.h"

/* The next value: 1, or 0 at the end. */
static int
next(const struct map *map, struct catalogue_cursor *cursor, void **value)
{
    *value = map_next(map, &cursor->at);
    return *value != NULL;
}

/* Whether the cursor still means what it meant. */
static int
resume(const struct vhost *vhost, const struct map *map, struct catalogue_cursor *cursor)
{
    if (vhost_is_deleted(vhost))
        return 0;
    if (cursor->has_begun && cursor->layout != map->layout)
        return -EAGAIN;
    cursor->has_begun = true;
    cursor->layout = map->layout;
    return 1;
}

int
catalogue_next_queues(struct catalogue *catalogue, struct vhost *vhost,
                      struct catalogue_cursor *cursor, size_t count,
                      void (*visit)(void *context, const struct queue_record *record),
                      void *context)
{
    void *value;
    catalogue_lock(catalogue);
    int status = resume(vhost, &vhost->queues, cursor);
    for (size_t i = 0; i < count && status == 1; i++)
        if ((status = next(&vhost->queues, cursor, &value)) == 1)
            visit(context, value);
    catalogue_unlock(catalogue);
    return status;
}

int
catalogue_next_exchanges(struct catalogue *catalogue, struct vhost *vhost,
                         struct catalogue_cursor *cursor, size_t count,
                         void (*visit)(void *context, const struct exchange *exchange),
                         void *context)
{
    void *value;
    catalogue_lock(catalogue);
    int status = resume(vhost, &vhost->exchanges, cursor);
    for (size_t i = 0; i < count && status == 1; i++)
        if ((status = next(&vhost->exchanges, cursor, &value)) == 1)
            visit(context, value);
    catalogue_unlock(catalogue);
    return status;
}

struct exchange_declaration
exchange_declaration_of(const struct exchange *exchange)
{
    return (struct exchange_declaration){
        .name = exchange->name,
        .type = exchange->type_name,
        .durable = exchange->durable,
        .auto_delete = exchange->auto_delete,
        .internal = exchange->internal,
        .arguments = exchange->arguments,
    };
}
