/* The directory of direct reply-to names. */
#include "broker/reply_to.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/exchange.h"

struct reply_entry {
    struct reply_address address;
    size_t size;
    char name[];
};

struct slice
reply_to_name_of_entry(const void *value)
{
    const struct reply_entry *entry = value;
    return (struct slice){entry->name, entry->size};
}

int
reply_to_add(struct catalogue *catalogue, struct slice name, struct reply_address address)
{
    struct reply_entry *entry = malloc(sizeof(*entry) + name.size);
    if (entry == NULL)
        return -ENOMEM;
    entry->address = address;
    entry->size = name.size;
    memcpy(entry->name, name.data, name.size);
    catalogue_lock(catalogue);
    int status = map_insert(&catalogue->reply_addresses, entry);
    catalogue_unlock(catalogue);
    if (status != 0)
        free(entry);
    return status;
}

void
reply_to_remove(struct catalogue *catalogue, struct slice name)
{
    catalogue_lock(catalogue);
    free(map_remove(&catalogue->reply_addresses, name));
    catalogue_unlock(catalogue);
}

bool
reply_to_find(struct catalogue *catalogue, struct slice name, struct reply_address *address)
{
    catalogue_lock(catalogue);
    const struct reply_entry *entry = map_find(&catalogue->reply_addresses, name);
    if (entry != NULL)
        *address = entry->address;
    catalogue_unlock(catalogue);
    return entry != NULL;
}
