/* What the lists of the configuration file hold: one table for each kind of item. Reading
 * (config_list.c), comparing and freeing follow from it. For the files of config/ only. */
#ifndef CONFIG_CONFIG_ITEMS_H
#define CONFIG_CONFIG_ITEMS_H

#include "config/config_internal.h"

enum field_kind {
    FIELD_TEXT,       /* char * */
    FIELD_EXPRESSION, /* char *: a regular expression */
    FIELD_PASSWORD,   /* char *: wiped, never told, and only in files that others cannot read */
    FIELD_HASH,       /* char *: of a password */
    FIELD_LIST,       /* struct config_list */
};

struct list_type;

struct list_field {
    const char *name;
    enum field_kind kind;
    size_t offset;           /* in the item */
    size_t minimum, maximum; /* bytes of a text, items of a list */
    bool is_required;
    bool is_unique; /* no two items of a list have the same */
    const struct list_type *items;
};

struct list_type {
    const char *one; /* "a user" */
    size_t item_size;
    bool is_text;        /* the items are texts; else mappings */
    bool has_short_form; /* a text stands for a mapping with that as its first field */
    size_t field_count;
    const struct list_field *fields;
    const char *(*check)(const void *item); /* NULL, or what is wrong with the whole */
};

/* What the setting, of type SETTING_LIST, is a list of. */
const struct list_type *config_list_type(const struct setting *setting);

/* The list that the setting is. */
struct config_list *setting_list(const struct setting *setting, struct settings *settings);

/* A field of an item that is a text; or a list. */
char **item_text(const struct list_field *field, void *item);
struct config_list *item_list(const struct list_field *field, void *item);

void *config_list_item(const struct list_type *type, const struct config_list *list, size_t index);

/* Frees what is in the list. */
void config_list_free(const struct list_type *type, struct config_list *list);

#endif
