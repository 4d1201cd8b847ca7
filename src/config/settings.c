/* The table of settings: how a key finds its line, and which keys an unknown one resembles. */
#include "config/config_internal.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define SETTING(path_, type_, effect_, field_, default_, minimum_, maximum_, summary_)             \
    {.path = (path_),                                                                              \
     .type = SETTING_##type_,                                                                      \
     .is_live = SETTING_##effect_,                                                                 \
     .offset = offsetof(struct settings, field_),                                                  \
     .size = sizeof(((struct settings *)0)->field_),                                               \
     .default_text = (default_),                                                                   \
     .minimum = (minimum_),                                                                        \
     .maximum = (maximum_),                                                                        \
     .summary = (summary_)},
const struct setting setting_table[SETTING_COUNT] = {
#include "config/settings.def"
};
#undef SETTING

#define SETTING(path_, ...)                                                                        \
    _Static_assert(sizeof(path_) <= SETTING_PATH_MAX, path_ " is longer than SETTING_PATH_MAX");
#include "config/settings.def"
#undef SETTING

struct config_addresses *
setting_addresses(const struct setting *setting, struct settings *settings)
{
    assert(setting->type == SETTING_ADDRESSES);
    return (struct config_addresses *)(void *)((char *)settings + setting->offset);
}

struct config_texts *
setting_texts(const struct setting *setting, struct settings *settings)
{
    assert(setting->type == SETTING_TEXTS);
    return (struct config_texts *)(void *)((char *)settings + setting->offset);
}

struct networks *
setting_networks(const struct setting *setting, struct settings *settings)
{
    assert(setting->type == SETTING_NETWORKS);
    return (struct networks *)(void *)((char *)settings + setting->offset);
}

/* The default, which for a list is one element or, as an empty text, none. */
MUST_CHECK static bool
store_default(const struct setting *setting, struct settings *settings)
{
    struct slice text = slice_from(setting->default_text);
    struct config_scalar scalar = {text, .is_plain = setting->type != SETTING_TEXT};

    switch (setting->type) {
    case SETTING_ADDRESSES:
        return text.size == 0
               || setting_store_address(text, setting_addresses(setting, settings)) == NULL;
    case SETTING_NETWORKS:
        return text.size == 0
               || setting_store_network(text, setting_networks(setting, settings)) == NULL;
    case SETTING_TEXTS:
        return text.size == 0 || setting_store_text(scalar, setting_texts(setting, settings));
    case SETTING_LIST:
        return true; /* empty: it stands there as zeroes */
    default:
        return setting_store(setting, scalar, settings);
    }
}

void
settings_init(struct settings *settings)
{
    *settings = (struct settings){.threads = 0};
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        bool is_good = store_default(&setting_table[i], settings);

        assert(is_good);
        (void)is_good;
    }
}

void
settings_fini(struct settings *settings)
{
    setting_lists_drop(settings, NULL);
    *settings = (struct settings){.threads = 0};
}

/* Is the path that of the section, the name and this end? */
static bool
path_continues(const char *path, struct setting_key key)
{
    size_t size = key.section.size + key.name.size;

    return strlen(path) >= size && memcmp(path, key.section.data, key.section.size) == 0
           && memcmp(path + key.section.size, key.name.data, key.name.size) == 0;
}

const struct setting *
setting_find(struct setting_key key)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *path = setting_table[i].path;

        if (path_continues(path, key) && path[key.section.size + key.name.size] == '\0')
            return memchr(key.name.data, '.', key.name.size) == NULL ? &setting_table[i] : NULL;
    }
    return NULL;
}

const struct setting *
setting_find_section(struct setting_key key)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *path = setting_table[i].path;

        if (path_continues(path, key) && path[key.section.size + key.name.size] == '.')
            return memchr(key.name.data, '.', key.name.size) == NULL ? &setting_table[i] : NULL;
    }
    return NULL;
}

/* The name of the key at this place of a path: up to the next '.' or the end. */
static struct slice
name_at(const char *path, size_t begin)
{
    return (struct slice){.data = path + begin, .size = strcspn(path + begin, ".")};
}

struct slice
setting_next_name(struct slice section, struct slice previous)
{
    bool has_passed = previous.size == 0;

    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *path = setting_table[i].path;
        struct slice name;

        if (!slice_starts_with(slice_from(path), section))
            continue;
        name = name_at(path, section.size);
        if (slice_equal(name, previous))
            has_passed = true;
        else if (has_passed)
            return name;
    }
    return (struct slice){.data = "", .size = 0};
}

static char
lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static unsigned
least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* How many letters one has to insert, remove, replace or exchange with their neighbour to make one
 * name of the other (optimal string alignment); capitals count as small letters. Names as long as
 * no setting's are as far as can be. */
unsigned
setting_distance(struct slice a, struct slice b)
{
    unsigned rows[3][SETTING_PATH_MAX + 1];

    if (a.size > SETTING_PATH_MAX || b.size > SETTING_PATH_MAX)
        return UINT_MAX;
    for (size_t j = 0; j <= b.size; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= a.size; i++) {
        const unsigned *second = rows[(i + 1) % 3], *above = rows[(i + 2) % 3];
        unsigned *row = rows[i % 3];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b.size; j++) {
            char x = lower(a.data[i - 1]), y = lower(b.data[j - 1]);

            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == lower(b.data[j - 2]) && lower(a.data[i - 2]) == y)
                row[j] = least(row[j], second[j - 2] + 1);
        }
    }
    return rows[a.size % 3][b.size];
}

/* The last name of a path. */
static struct slice
last_name(const char *path)
{
    const char *dot = strrchr(path, '.');

    return slice_from(dot != NULL ? dot + 1 : path);
}

/* How far a name may be from what was meant: a third of it, so that short ones are not guessed. */
unsigned
setting_tolerance(struct slice name)
{
    return name.size < 4 ? 1 : name.size < 9 ? 2 : 3;
}

/* The name in this section that is nearest; empty when none is near. */
static struct slice
nearest_sibling(struct setting_key key)
{
    const struct slice none = {.data = "", .size = 0};
    unsigned best = setting_tolerance(key.name) + 1;
    struct slice nearest = none;

    for (struct slice name = setting_next_name(key.section, none); name.size > 0;
         name = setting_next_name(key.section, name)) {
        unsigned distance = setting_distance(key.name, name);

        if (distance < best) {
            nearest = name;
            best = distance;
        }
    }
    return nearest;
}

/* The setting in any section with the nearest name, or with the key as its whole path
 * ("log.level: info"); NULL when none is near. */
static const struct setting *
nearest_elsewhere(struct slice name)
{
    unsigned best = setting_tolerance(name) + 1;
    const struct setting *nearest = NULL;

    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *path = setting_table[i].path;
        unsigned distance = least(setting_distance(name, slice_from(path)),
                                  setting_distance(name, last_name(path)));

        if (distance < best) {
            nearest = &setting_table[i];
            best = distance;
        }
    }
    return nearest;
}

bool
setting_suggest(struct setting_key key, char out[SETTING_PATH_MAX])
{
    struct slice sibling = nearest_sibling(key);
    const struct setting *elsewhere = nearest_elsewhere(key.name);

    if (sibling.size > 0)
        snprintf(out, SETTING_PATH_MAX, "%.*s%.*s", SLICE_ARGS(key.section), SLICE_ARGS(sibling));
    else if (elsewhere != NULL)
        snprintf(out, SETTING_PATH_MAX, "%s", elsewhere->path);
    return sibling.size > 0 || elsewhere != NULL;
}

/* Keys that there were once. */
static const struct {
    const char *path, *instead;
} removed_table[] = {
    {"limits.queue_length_bytes",
     "leave it out if it was 0, else use operator_policies: [{name: length, pattern: \"\", "
     "apply_to: queues, definition: {max-length-bytes: BYTES}}]"},
};

const char *
setting_removed(struct setting_key key)
{
    for (size_t i = 0; i < ARRAY_SIZE(removed_table); i++) {
        struct slice path = slice_from(removed_table[i].path);

        if (slice_starts_with(path, key.section)
            && slice_equal(key.name, (struct slice){.data = path.data + key.section.size,
                                                    .size = path.size - key.section.size}))
            return removed_table[i].instead;
    }
    return NULL;
}
