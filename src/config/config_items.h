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
    FIELD_INTEGER,    /* int64_t, of int32_t's range when it is read */
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
    bool is_entries;     /* it is no list, but one mapping of any names: struct config_entry */
    size_t field_count;
    const struct list_field *fields;
    const char *(*check)(const void *item); /* NULL, or what is wrong with the whole */
    size_t line_offset, column_offset;      /* of the members that are told its place; 0: none */
};

/* What the setting, of type SETTING_LIST, is a list of. */
const struct list_type *config_list_type(const struct setting *setting);

/* The list that the setting is. */
struct config_list *setting_list(const struct setting *setting, struct settings *settings);

/* A field of an item that is a text, an integer, or a list. */
char **item_text(const struct list_field *field, void *item);
int64_t *item_integer(const struct list_field *field, void *item);
struct config_list *item_list(const struct list_field *field, void *item);

void *config_list_item(const struct list_type *type, const struct config_list *list, size_t index);

/* Frees what is in the list. */
void config_list_free(const struct list_type *type, struct config_list *list);

#endif
