/* The tables of config_items.h, and what needs no more than them: comparing and freeing. */
#include "config/config_items.h"

#include <stdlib.h>
#include <string.h>

#include "auth/access.h"
#include "auth/password.h"
#include "base/pattern.h"

/* --- The tables ------------------------------------------------------------------------------- */

enum { VHOST_MAX = 255, TAG_MAX = 255 };

#define FIELDS(fields_) .field_count = ARRAY_SIZE(fields_), .fields = (fields_)

static const struct list_field text_fields[] = {
    {"", FIELD_TEXT, 0, 1, 255, .is_required = true, .is_unique = true},
};
static const struct list_type texts = {
    .one = "a text", .item_size = sizeof(char *), .is_text = true, FIELDS(text_fields)};

#define MEMBER(name) offsetof(struct config_permission, name)
static const struct list_field permission_fields[] = {
    {"vhost", FIELD_TEXT, MEMBER(vhost), 1, VHOST_MAX, .is_required = true, .is_unique = true},
    {"configure", FIELD_EXPRESSION, MEMBER(configure), 0, PATTERN_TEXT_MAX, .is_required = true},
    {"write", FIELD_EXPRESSION, MEMBER(write), 0, PATTERN_TEXT_MAX, .is_required = true},
    {"read", FIELD_EXPRESSION, MEMBER(read), 0, PATTERN_TEXT_MAX, .is_required = true},
};
#undef MEMBER
static const struct list_type permissions = {
    .one = "a permission",
    .item_size = sizeof(struct config_permission),
    FIELDS(permission_fields),
};

#define MEMBER(name) offsetof(struct config_topic_permission, name)
static const struct list_field topic_permission_fields[] = {
    {"vhost", FIELD_TEXT, MEMBER(vhost), 1, VHOST_MAX, .is_required = true},
    {"exchange", FIELD_TEXT, MEMBER(exchange), 1, 255, .is_required = true},
    {"write", FIELD_EXPRESSION, MEMBER(write), 0, PATTERN_TEXT_MAX, .is_required = true},
    {"read", FIELD_EXPRESSION, MEMBER(read), 0, PATTERN_TEXT_MAX, .is_required = true},
};
#undef MEMBER
static const struct list_type topic_permissions = {
    .one = "a topic permission",
    .item_size = sizeof(struct config_topic_permission),
    FIELDS(topic_permission_fields),
};

#define MEMBER(name) offsetof(struct config_user, name)
static const struct list_field user_fields[] = {
    {"name", FIELD_TEXT, MEMBER(name), 1, ACCESS_NAME_MAX, .is_required = true, .is_unique = true},
    {"password", FIELD_PASSWORD, MEMBER(password), 1, PASSWORD_MAX, .is_required = false},
    {"password_hash", FIELD_HASH, MEMBER(password_hash), 0, PASSWORD_HASH_MAX - 1,
     .is_required = false},
    {"tags", FIELD_LIST, MEMBER(tags), 0, 32, .items = &texts},
    {"permissions", FIELD_LIST, MEMBER(permissions), 0, 10000, .items = &permissions},
    {"topic_permissions", FIELD_LIST, MEMBER(topic_permissions), 0, 10000,
     .items = &topic_permissions},
};
#undef MEMBER

static const char *
check_user(const void *item)
{
    const struct config_user *user = item;

    if ((user->password == NULL) == (user->password_hash == NULL))
        return "expected either password or password_hash (which may be \"\": no password)";
    return NULL;
}

static const struct list_type users = {
    .one = "a user",
    .item_size = sizeof(struct config_user),
    FIELDS(user_fields),
    .check = check_user,
};

static const struct list_field vhost_fields[] = {
    {"name", FIELD_TEXT, offsetof(struct config_vhost, name), 1, VHOST_MAX, .is_required = true,
     .is_unique = true},
};
static const struct list_type vhosts = {
    .one = "a vhost",
    .item_size = sizeof(struct config_vhost),
    .has_short_form = true,
    FIELDS(vhost_fields),
};

#define MEMBER(name) offsetof(struct config_entry, name)
static const struct list_field entry_fields[] = {
    {"", FIELD_TEXT, MEMBER(name), 1, 255, .is_required = true, .is_unique = true},
    {"", FIELD_TEXT, MEMBER(text), 0, 4096, .is_required = false},
    {"", FIELD_INTEGER, MEMBER(number), 0, 0, .is_required = false},
};
#undef MEMBER
static const struct list_type entries = {
    .one = "an integer or a text",
    .item_size = sizeof(struct config_entry),
    .is_entries = true,
    FIELDS(entry_fields),
};

#define MEMBER(name) offsetof(struct config_policy, name)
static const struct list_field policy_fields[] = {
    {"name", FIELD_TEXT, MEMBER(name), 1, 255, .is_required = true},
    {"vhost", FIELD_TEXT, MEMBER(vhost), 1, VHOST_MAX, .is_required = false},
    {"pattern", FIELD_EXPRESSION, MEMBER(pattern), 0, PATTERN_TEXT_MAX, .is_required = true},
    {"apply_to", FIELD_TEXT, MEMBER(apply_to), 1, 255, .is_required = false},
    {"priority", FIELD_INTEGER, MEMBER(priority), 0, 0, .is_required = false},
    {"definition", FIELD_LIST, MEMBER(definition), 0, 100, .is_required = true, .items = &entries},
};
static const struct list_type policies = {
    .one = "a policy",
    .item_size = sizeof(struct config_policy),
    FIELDS(policy_fields),
    .line_offset = MEMBER(line),
    .column_offset = MEMBER(column),
};
#undef MEMBER

/* What the settings of type SETTING_LIST are lists of. */
static const struct {
    const char *path;
    const struct list_type *items;
} list_settings[] = {
    {"users", &users},
    {"vhosts", &vhosts},
    {"loopback_users", &texts},
    {"policies", &policies},
    {"operator_policies", &policies},
};

const struct list_type *
config_list_type(const struct setting *setting)
{
    for (size_t i = 0; i < ARRAY_SIZE(list_settings); i++)
        if (strcmp(setting->path, list_settings[i].path) == 0)
            return list_settings[i].items;
    abort(); /* a line of settings.def that is not in the table above */
}

/* --- Items ------------------------------------------------------------------------------------ */

char **
item_text(const struct list_field *field, void *item)
{
    return (char **)(void *)((char *)item + field->offset);
}

int64_t *
item_integer(const struct list_field *field, void *item)
{
    return (int64_t *)(void *)((char *)item + field->offset);
}

struct config_list *
item_list(const struct list_field *field, void *item)
{
    return (struct config_list *)(void *)((char *)item + field->offset);
}

void *
config_list_item(const struct list_type *type, const struct config_list *list, size_t index)
{
    return (char *)list->items + index * type->item_size;
}

static void
clear_item(const struct list_type *type, void *item)
{
    for (size_t i = 0; i < type->field_count; i++) {
        const struct list_field *field = &type->fields[i];

        if (field->kind == FIELD_LIST) {
            config_list_free(field->items, item_list(field, item));
            continue;
        }
        if (field->kind == FIELD_INTEGER)
            continue;
        char *text = *item_text(field, item);
        if (field->kind == FIELD_PASSWORD && text != NULL)
            secret_wipe(text, strlen(text));
        free(text);
    }
    memset(item, 0, type->item_size);
}

void
config_list_free(const struct list_type *type, struct config_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        clear_item(type, config_list_item(type, list, i));
    free(list->items);
    *list = (struct config_list){.count = 0};
}

struct config_list *
setting_list(const struct setting *setting, struct settings *settings)
{
    return (struct config_list *)(void *)((char *)settings + setting->offset);
}

void
setting_lists_drop(struct settings *settings, const struct settings *others)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const struct setting *setting = &setting_table[i];
        struct config_list *list = setting_list(setting, settings);

        if (setting->type != SETTING_LIST)
            continue;
        const struct config_list *other =
            others == NULL ? NULL : (const void *)((const char *)others + setting->offset);
        if (other == NULL || other->items != list->items)
            config_list_free(config_list_type(setting), list);
    }
}

static bool lists_equal(const struct list_type *type, const struct config_list *a,
                        const struct config_list *b);

static bool
items_equal(const struct list_type *type, void *a, void *b)
{
    for (size_t i = 0; i < type->field_count; i++) {
        const struct list_field *field = &type->fields[i];

        if (field->kind == FIELD_LIST) {
            if (!lists_equal(field->items, item_list(field, a), item_list(field, b)))
                return false;
            continue;
        }
        if (field->kind == FIELD_INTEGER) {
            if (*item_integer(field, a) != *item_integer(field, b))
                return false;
            continue;
        }
        const char *text_a = *item_text(field, a), *text_b = *item_text(field, b);
        if (text_a == NULL || text_b == NULL ? text_a != text_b : strcmp(text_a, text_b) != 0)
            return false;
    }
    return true;
}

static bool
lists_equal(const struct list_type *type, const struct config_list *a, const struct config_list *b)
{
    /* A list that is there and empty is another than none. */
    if (a->count != b->count || (a->items == NULL) != (b->items == NULL))
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!items_equal(type, config_list_item(type, a, i), config_list_item(type, b, i)))
            return false;
    return true;
}

bool
setting_lists_equal(const struct setting *setting, const struct settings *a,
                    const struct settings *b)
{
    return lists_equal(config_list_type(setting), (const void *)((const char *)a + setting->offset),
                       (const void *)((const char *)b + setting->offset));
}

void
setting_list_move(const struct setting *setting, struct settings *to, struct settings *from)
{
    config_list_free(config_list_type(setting), setting_list(setting, to));
    *setting_list(setting, to) = *setting_list(setting, from);
    *setting_list(setting, from) = (struct config_list){.count = 0};
}
