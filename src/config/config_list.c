/* Reading lists of texts and of mappings, such as the users, and the messages about what is wrong
 * with them: both follow from the tables of config_items.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/password.h"
#include "base/pattern.h"
#include "config/config_items.h"
#include "config/config_reader.h"

/* --- Messages --------------------------------------------------------------------------------- */

enum { PATH_MAX_SIZE = 2 * SETTING_PATH_MAX };

/* The names of an item's fields, as "name, password". */
static void
list_fields(const struct list_type *type, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < type->field_count && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i > 0 ? ", " : "",
                                 type->fields[i].name);
}

/* "users.permissions", or "users" alone. */
static const char *
join(const char *path, const struct list_field *field, char out[PATH_MAX_SIZE])
{
    snprintf(out, PATH_MAX_SIZE, "%s%s%s", path, field->name[0] != '\0' ? "." : "", field->name);
    return out;
}

static void
fail_item(struct reader *reader, const struct list_type *type, const char *path)
{
    char names[192], found[CONFIG_QUOTE_MAX];

    if (reader->event.type == YAML_ALIAS_EVENT)
        return; /* it has been noted as what it is */
    list_fields(type, names, sizeof(names));
    FAIL_AT(reader, reader->event.start_mark, "%s: expected %s%s%s%s; found %s", path, type->one,
            type->has_short_form ? "'s name" : "",
            type->is_text          ? ""
            : type->has_short_form ? ", or a mapping of "
                                   : ", a mapping of ",
            type->is_text ? "" : names, reader_describe(reader, found));
}

static void
fail_unknown(struct reader *reader, const struct list_type *type, const char *path,
             struct slice name)
{
    char names[192], quoted[CONFIG_QUOTE_MAX];
    const char *meant = NULL;
    unsigned best = setting_tolerance(name) + 1;

    for (size_t i = 0; i < type->field_count; i++) {
        unsigned distance = setting_distance(name, slice_from(type->fields[i].name));

        if (distance < best) {
            meant = type->fields[i].name;
            best = distance;
        }
    }
    config_escape(name, quoted);
    list_fields(type, names, sizeof(names));
    if (meant != NULL)
        FAIL_AT(reader, reader->event.start_mark, "unknown key \"%s.%s\"; did you mean %s.%s?",
                path, quoted, path, meant);
    else
        FAIL_AT(reader, reader->event.start_mark, "unknown key \"%s.%s\"; expected one of %s", path,
                quoted, names);
}

/* --- Texts ------------------------------------------------------------------------------------ */

/* What is wrong with a text of this kind; NULL: nothing. */
static const char *
check_text(struct reader *reader, const struct list_field *field, struct slice text,
           char reason[PATTERN_ERROR_MAX])
{
    struct pattern *pattern;

    switch (field->kind) {
    case FIELD_EXPRESSION:
        pattern = pattern_new(text, reason);
        pattern_free(pattern);
        return pattern == NULL ? reason : NULL;
    case FIELD_HASH:
        return password_hash_is_valid(text) ? NULL
                                            : "it is neither base64 of a salt and SHA-256 or "
                                              "SHA-512, nor $scrypt$...";
    case FIELD_PASSWORD:
        return reader->is_private ? NULL
                                  : "a password in clear is taken only from a file that others "
                                    "cannot read (chmod o-r), else use password_hash";
    default:
        return NULL;
    }
}

static const char *
noun_of(enum field_kind kind)
{
    return kind == FIELD_EXPRESSION ? "a regular expression"
           : kind == FIELD_PASSWORD ? "a password"
           : kind == FIELD_HASH     ? "the hash of a password"
                                    : "a text";
}

/* The current event into a field that is a text; what is wrong is noted. */
static void
read_text(struct reader *reader, const struct list_field *field, const char *path, void *item)
{
    char found[CONFIG_QUOTE_MAX], reason[PATTERN_ERROR_MAX];
    bool is_secret = field->kind == FIELD_PASSWORD || field->kind == FIELD_HASH;
    bool is_text =
        reader->event.type == YAML_SCALAR_EVENT && config_scalar_is_text(reader_scalar(reader));
    struct slice text = is_text ? reader_scalar(reader).text : SLICE("");

    if (reader->event.type == YAML_ALIAS_EVENT)
        return; /* it has been noted as what it is */
    if (!is_text || text.size < field->minimum || text.size > field->maximum
        || config_has_control(text)) {
        FAIL_AT(reader, reader->event.start_mark,
                "%s: expected %s of %zu to %zu bytes without control characters (in quotes, if it "
                "looks like a number)%s%s",
                path, noun_of(field->kind), field->minimum, field->maximum,
                is_secret ? "" : "; found ", is_secret ? "" : reader_describe(reader, found));
        return;
    }
    const char *wrong = check_text(reader, field, text, reason);
    if (wrong != NULL) {
        FAIL_AT(reader, reader->event.start_mark, "%s: expected %s%s%s: %s", path,
                noun_of(field->kind), is_secret ? "" : "; found ",
                is_secret ? "" : reader_describe(reader, found), wrong);
        return;
    }
    free(*item_text(field, item)); /* of a key that stands there twice */
    *item_text(field, item) = strndup(text.data, text.size);
    if (*item_text(field, item) == NULL)
        config_errors_add(reader->errors, 0, 0, "out of memory");
}

/* --- Integers --------------------------------------------------------------------------------- */

/* Decimal digits, perhaps after a minus, and not in quotes. */
static bool
parse_integer(struct config_scalar scalar, int64_t *value)
{
    struct slice text = scalar.text;
    bool is_negative = text.size > 0 && text.data[0] == '-';
    size_t digits = text.size - is_negative;
    int64_t sum = 0;

    if (!scalar.is_plain || digits == 0)
        return false;
    for (size_t i = is_negative; i < text.size; i++) {
        int digit = text.data[i] - '0';

        if (digit < 0 || digit > 9 || __builtin_mul_overflow(sum, 10, &sum)
            || __builtin_sub_overflow(sum, digit, &sum)) /* downwards, where there is one more */
            return false;
    }
    *value = sum;
    return is_negative || !__builtin_sub_overflow(0, sum, value);
}

/* The current event into a field that is an integer; what is wrong is noted. */
static void
read_integer(struct reader *reader, const struct list_field *field, const char *path, void *item)
{
    char found[CONFIG_QUOTE_MAX];
    int64_t value;

    if (reader->event.type == YAML_ALIAS_EVENT)
        return; /* it has been noted as what it is */
    if (reader->event.type == YAML_SCALAR_EVENT && parse_integer(reader_scalar(reader), &value)
        && value >= INT32_MIN && value <= INT32_MAX)
        *item_integer(field, item) = value;
    else
        FAIL_AT(reader, reader->event.start_mark,
                "%s: expected an integer from %" PRId32 " to %" PRId32 "; found %s", path,
                INT32_MIN, INT32_MAX, reader_describe(reader, found));
}

/* --- Items ------------------------------------------------------------------------------------ */

MUST_CHECK static bool read_list(struct reader *reader, const struct list_type *type,
                                 const char *path, size_t maximum, struct config_list *list);
MUST_CHECK static bool read_entries(struct reader *reader, const struct list_field *field,
                                    const char *path, struct config_list *list);

/* The value of a field: the current event, up to its last. */
MUST_CHECK static bool
read_field(struct reader *reader, const struct list_field *field, const char *path, void *item)
{
    char joined[PATH_MAX_SIZE];

    join(path, field, joined);
    if (field->kind == FIELD_LIST && field->items->is_entries)
        return read_entries(reader, field, joined, item_list(field, item));
    if (field->kind == FIELD_LIST)
        return read_list(reader, field->items, joined, field->maximum, item_list(field, item));
    if (field->kind == FIELD_INTEGER)
        read_integer(reader, field, joined, item);
    else
        read_text(reader, field, joined, item);
    return reader_skip_value(reader);
}

/* The field that the current event, a key, names; NULL: what is wrong is noted. `lines` are where
 * the fields were found before. */
static const struct list_field *
read_key(struct reader *reader, const struct list_type *type, const char *path, size_t *lines)
{
    char found[CONFIG_QUOTE_MAX];

    if (reader->event.type == YAML_ALIAS_EVENT)
        return NULL;
    if (reader->event.type != YAML_SCALAR_EVENT) {
        FAIL_AT(reader, reader->event.start_mark, "%s: expected a name as key; found %s", path,
                reader_describe(reader, found));
        return NULL;
    }
    struct slice name = reader_scalar(reader).text;
    for (size_t i = 0; i < type->field_count; i++) {
        if (!slice_is(name, type->fields[i].name))
            continue;
        if (lines[i] != 0) {
            FAIL_AT(reader, reader->event.start_mark,
                    "duplicate key \"%s.%s\"; it is on line %zu already", path,
                    type->fields[i].name, lines[i]);
            return NULL;
        }
        lines[i] = reader->event.start_mark.line + 1;
        return &type->fields[i];
    }
    fail_unknown(reader, type, path, name);
    return NULL;
}

/* Tells the item where it stands, counted from 1. */
static void
note_place(const struct list_type *type, void *item, yaml_mark_t mark)
{
    const size_t line = mark.line + 1, column = mark.column + 1;

    if (type->line_offset == 0)
        return;
    memcpy((char *)item + type->line_offset, &line, sizeof(line));
    memcpy((char *)item + type->column_offset, &column, sizeof(column));
}

/* An item that is a mapping, which begins with the current event; up to its end. */
MUST_CHECK static bool
read_mapping(struct reader *reader, const struct list_type *type, const char *path, void *item)
{
    enum { FIELDS_MAX = 16 };
    size_t lines[FIELDS_MAX] = {0}, errors_before = reader->errors->total;
    yaml_mark_t begin = reader->event.start_mark;

    note_place(type, item, begin);
    for (;;) {
        if (!reader_next(reader))
            return false;
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            break;
        const struct list_field *field = read_key(reader, type, path, lines);
        if (!reader_skip_value(reader) || !reader_next(reader))
            return false;
        if (field != NULL ? !read_field(reader, field, path, item) : !reader_skip_value(reader))
            return false;
    }
    for (size_t i = 0; i < type->field_count; i++)
        if (type->fields[i].is_required && lines[i] == 0)
            FAIL_AT(reader, begin, "%s: %s needs the key %s", path, type->one,
                    type->fields[i].name);
    if (reader->errors->total == errors_before && type->check != NULL) {
        const char *wrong = type->check(item);

        if (wrong != NULL)
            FAIL_AT(reader, begin, "%s: %s", path, wrong);
    }
    return true;
}

/* Notes when an item before has the same in a field that is unique. */
static void
check_unique(struct reader *reader, const struct list_type *type, const char *path,
             const struct config_list *list, yaml_mark_t mark)
{
    char joined[PATH_MAX_SIZE], quoted[CONFIG_QUOTE_MAX];
    void *last = config_list_item(type, list, list->count - 1);

    for (size_t i = 0; i < type->field_count; i++) {
        const struct list_field *field = &type->fields[i];
        const char *text = field->is_unique ? *item_text(field, last) : NULL;

        for (size_t j = 0; text != NULL && j + 1 < list->count; j++) {
            const char *other = *item_text(field, config_list_item(type, list, j));

            if (other == NULL || strcmp(text, other) != 0)
                continue;
            FAIL_AT(reader, mark, "%s: \"%s\" is in the list twice", join(path, field, joined),
                    config_escape(slice_from(text), quoted));
            break;
        }
    }
}

/* Room at the end of the list, of zeros. NULL: out of memory, which is noted. */
static void *
new_item(struct reader *reader, const struct list_type *type, struct config_list *list)
{
    char *grown = realloc(list->items, (list->count + 1) * type->item_size);

    if (grown == NULL) {
        config_errors_add(reader->errors, 0, 0, "out of memory");
        return NULL;
    }
    list->items = grown;
    return memset(config_list_item(type, list, list->count++), 0, type->item_size);
}

/* One item: the current event, up to its last. */
MUST_CHECK static bool
read_item(struct reader *reader, const struct list_type *type, const char *path,
          struct config_list *list)
{
    yaml_mark_t mark = reader->event.start_mark;
    bool is_scalar =
        reader->event.type == YAML_SCALAR_EVENT && !config_scalar_is_null(reader_scalar(reader));
    void *item = new_item(reader, type, list);

    if (item == NULL)
        return false;
    if (type->is_text || (type->has_short_form && is_scalar)) {
        if (!read_field(reader, &type->fields[0], path, item))
            return false;
    } else if (reader->event.type == YAML_MAPPING_START_EVENT) {
        if (!read_mapping(reader, type, path, item))
            return false;
    } else {
        fail_item(reader, type, path);
        if (!reader_skip_value(reader))
            return false;
    }
    check_unique(reader, type, path, list, mark);
    return true;
}

/* A list that is there and empty is told from one that the file does not name by its items. */
MUST_CHECK static bool
note_empty(struct reader *reader, struct config_list *list)
{
    if (list->items != NULL || (list->items = malloc(1)) != NULL)
        return true;
    config_errors_add(reader->errors, 0, 0, "out of memory");
    return false;
}

/* A list, or the one text of it: the current event, up to its last. */
static bool
read_list(struct reader *reader, const struct list_type *type, const char *path, size_t maximum,
          struct config_list *list)
{
    bool is_null =
        reader->event.type == YAML_SCALAR_EVENT && config_scalar_is_null(reader_scalar(reader));
    char found[CONFIG_QUOTE_MAX];

    config_list_free(type, list);
    if (is_null)
        return true; /* as when all its items are commented out */
    if (type->is_text && reader->event.type == YAML_SCALAR_EVENT)
        return read_item(reader, type, path, list);
    if (reader->event.type != YAML_SEQUENCE_START_EVENT) {
        if (reader->event.type != YAML_ALIAS_EVENT)
            FAIL_AT(reader, reader->event.start_mark,
                    "%s: expected a list, each item of which is %s; found %s", path, type->one,
                    reader_describe(reader, found));
        return reader_skip_value(reader);
    }
    for (;;) {
        if (!reader_next(reader))
            return false;
        if (reader->event.type == YAML_SEQUENCE_END_EVENT)
            return note_empty(reader, list);
        if (list->count < maximum) {
            if (!read_item(reader, type, path, list))
                return false;
            continue;
        }
        FAIL_AT(reader, reader->event.start_mark, "%s: expected at most %zu items", path, maximum);
        while (reader->event.type != YAML_SEQUENCE_END_EVENT)
            if (!reader_skip_value(reader) || !reader_next(reader))
                return false;
        return true;
    }
}

/* --- Mappings of any names -------------------------------------------------------------------- */

/* The value of an entry whose name is read. */
static void
read_entry(struct reader *reader, const struct list_type *type, const char *path,
           struct config_entry *entry)
{
    char found[CONFIG_QUOTE_MAX], quoted[CONFIG_QUOTE_MAX];

    if (reader->event.type == YAML_ALIAS_EVENT)
        return; /* it has been noted as what it is */
    if (reader->event.type == YAML_SCALAR_EVENT) {
        struct config_scalar scalar = reader_scalar(reader);

        if (parse_integer(scalar, &entry->number))
            return;
        if (config_scalar_is_text(scalar) && scalar.text.size <= type->fields[1].maximum
            && !config_has_control(scalar.text)) {
            entry->text = strndup(scalar.text.data, scalar.text.size);
            if (entry->text == NULL)
                config_errors_add(reader->errors, 0, 0, "out of memory");
            return;
        }
    }
    FAIL_AT(reader, reader->event.start_mark, "%s.%s: expected %s; found %s", path,
            config_escape(slice_from(entry->name), quoted), type->one,
            reader_describe(reader, found));
}

/* The name of an entry, which is the current event; false: what is wrong is noted. */
static bool
read_entry_name(struct reader *reader, const struct list_type *type, const char *path,
                struct config_entry *entry)
{
    const struct list_field *field = &type->fields[0];

    read_text(reader, field, path, entry);
    return entry->name != NULL;
}

/* A mapping, the current event, up to its end. A name that stands there twice is told as that of an
 * item of a list would be. */
static bool
read_entries(struct reader *reader, const struct list_field *field, const char *path,
             struct config_list *list)
{
    const struct list_type *type = field->items;
    char found[CONFIG_QUOTE_MAX];

    config_list_free(type, list);
    if (reader->event.type != YAML_MAPPING_START_EVENT) {
        if (reader->event.type != YAML_ALIAS_EVENT)
            FAIL_AT(reader, reader->event.start_mark,
                    "%s: expected a mapping, each value of which is %s; found %s", path, type->one,
                    reader_describe(reader, found));
        return reader_skip_value(reader);
    }
    for (;;) {
        if (!reader_next(reader))
            return false;
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            return note_empty(reader, list);
        yaml_mark_t mark = reader->event.start_mark;
        struct config_entry *entry = new_item(reader, type, list);
        bool is_named = entry != NULL && read_entry_name(reader, type, path, entry);
        if (entry == NULL || !reader_skip_value(reader) || !reader_next(reader))
            return false;
        if (is_named && list->count > field->maximum)
            FAIL_AT(reader, mark, "%s: expected at most %zu keys", path, field->maximum);
        else if (is_named)
            check_unique(reader, type, path, list, mark);
        if (is_named)
            read_entry(reader, type, path, entry);
        if (!reader_skip_value(reader))
            return false;
    }
}

bool
reader_read_list(struct reader *reader, const struct setting *setting)
{
    struct config_list *list = setting_list(setting, reader->settings);

    *list = (struct config_list){.count = 0}; /* what was there is the caller's */
    return read_list(reader, config_list_type(setting), setting->path, (size_t)setting->maximum,
                     list);
}
