/* What a configuration that is read again has changed, and which of it can be used at once. */
#include <string.h>

#include "config/config_internal.h"

static bool
addresses_are_equal(const struct config_addresses *a, const struct config_addresses *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (a->items[i].port != b->items[i].port || strcmp(a->items[i].host, b->items[i].host) != 0)
            return false;
    return true;
}

static bool
is_equal(const struct setting *setting, const struct settings *a, const struct settings *b)
{
    const void *field_a = (const char *)a + setting->offset;
    const void *field_b = (const char *)b + setting->offset;

    /* Beyond its count a list may hold what an option of the command line has replaced. */
    if (setting->type == SETTING_ADDRESSES)
        return addresses_are_equal(field_a, field_b);
    if (setting->type == SETTING_LIST)
        return setting_lists_equal(setting, a, b);
    return memcmp(field_a, field_b, setting->size) == 0;
}

bool
settings_next_change(const struct settings *before, const struct settings *after, size_t *at,
                     struct config_change *change)
{
    while (*at < SETTING_COUNT) {
        const struct setting *setting = &setting_table[(*at)++];

        if (is_equal(setting, before, after))
            continue;
        change->path = setting->path;
        change->is_live = setting->is_live;
        setting_text(setting, before, change->from);
        setting_text(setting, after, change->to);
        return true;
    }
    return false;
}

void
settings_take_live(struct settings *running, struct settings *wanted,
                   bool (*is_taken)(void *context, const char *path), void *context)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const struct setting *setting = &setting_table[i];

        if (!setting->is_live || (is_taken != NULL && !is_taken(context, setting->path)))
            continue;
        if (setting->type == SETTING_LIST)
            setting_list_move(setting, running, wanted);
        else
            memcpy((char *)running + setting->offset, (const char *)wanted + setting->offset,
                   setting->size);
    }
}
