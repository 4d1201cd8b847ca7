/* Values: from a scalar of YAML to the field of a setting, by type, with its range.
 *
 * What YAML 1.1, YAML 1.2 and people read differently is not taken at all: 010 (eight or ten),
 * 0x10, 1_000, yes and on. */
#include "config/config_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name;
    uint64_t factor;
};

/* The first BINARY_UNITS are those in which messages speak. */
enum { BINARY_UNITS = 3 };
static const struct unit size_units[] = {
    {"KiB", UINT64_C(1) << 10}, {"MiB", UINT64_C(1) << 20}, {"GiB", UINT64_C(1) << 30},
    {"kB", UINT64_C(1000)},     {"MB", UINT64_C(1000000)},  {"GB", UINT64_C(1000000000)},
};

static const struct unit duration_units[] = {
    {"ms", 1},
    {"s", UINT64_C(1000)},
    {"m", UINT64_C(60000)},
    {"h", UINT64_C(3600000)},
};

/* Names by their values. */
static const char *const log_format_names[] = {
    [LOG_FORMAT_TEXT] = "text",
    [LOG_FORMAT_JSON] = "json",
};

static const char *const log_level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

static const char *const tls_verify_names[] = {
    [TLS_VERIFY_NONE] = "none",
    [TLS_VERIFY_REQUEST] = "request",
    [TLS_VERIFY_REQUIRE] = "require",
};

static const char *const tls_version_names[] = {
    [TLS_VERSION_1_2] = "1.2",
    [TLS_VERSION_1_3] = "1.3",
};

static const char *const tls_peer_name_names[] = {
    [TLS_PEER_NAME_CN] = "cn",           [TLS_PEER_NAME_DN] = "dn",
    [TLS_PEER_NAME_SAN_DNS] = "san_dns", [TLS_PEER_NAME_SAN_EMAIL] = "san_email",
    [TLS_PEER_NAME_SAN_URI] = "san_uri",
};

struct choices {
    const char *const *names;
    size_t count;
};

static struct choices
choices_of(enum setting_type type)
{
    switch (type) {
    case SETTING_LOG_LEVEL:
        return (struct choices){log_level_names, ARRAY_SIZE(log_level_names)};
    case SETTING_LOG_FORMAT:
        return (struct choices){log_format_names, ARRAY_SIZE(log_format_names)};
    case SETTING_TLS_VERIFY:
        return (struct choices){tls_verify_names, ARRAY_SIZE(tls_verify_names)};
    case SETTING_TLS_VERSION:
        return (struct choices){tls_version_names, ARRAY_SIZE(tls_version_names)};
    case SETTING_TLS_PEER_NAME:
        return (struct choices){tls_peer_name_names, ARRAY_SIZE(tls_peer_name_names)};
    default:
        return (struct choices){NULL, 0};
    }
}

/* Takes the decimal digits from the front. False without any, with a 0 before others, and beyond 64
 * bits. */
static bool
take_number(struct slice *text, uint64_t *number)
{
    uint64_t value = 0;
    size_t size = 0;

    while (size < text->size && text->data[size] >= '0' && text->data[size] <= '9') {
        uint64_t digit = (uint64_t)(text->data[size++] - '0');

        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (size == 0 || (size > 1 && text->data[0] == '0'))
        return false;
    *text = (struct slice){.data = text->data + size, .size = text->size - size};
    *number = value;
    return true;
}

static bool
apply_unit(struct slice name, const struct unit *units, size_t count, uint64_t *number)
{
    for (size_t i = 0; i < count; i++) {
        if (!slice_is(name, units[i].name))
            continue;
        if (*number > UINT64_MAX / units[i].factor)
            return false;
        *number *= units[i].factor;
        return true;
    }
    return false;
}

static bool
parse_size(struct slice text, uint64_t *bytes)
{
    return take_number(&text, bytes)
           && (text.size == 0 || apply_unit(text, size_units, ARRAY_SIZE(size_units), bytes));
}

/* A number without a unit says nothing, except 0. */
static bool
parse_duration(struct slice text, uint64_t *milliseconds)
{
    if (!take_number(&text, milliseconds))
        return false;
    return (text.size == 0 && *milliseconds == 0)
           || apply_unit(text, duration_units, ARRAY_SIZE(duration_units), milliseconds);
}

static bool
parse_choice(struct slice text, struct choices choices, uint64_t *value)
{
    for (size_t i = 0; i < choices.count; i++) {
        if (slice_is(text, choices.names[i])) {
            *value = i;
            return true;
        }
    }
    return false;
}

static bool
in_range(const struct setting *setting, uint64_t value)
{
    return value >= setting->minimum && value <= setting->maximum;
}

/* The number that goes into the field, when the scalar is one of this setting's type and range. */
static bool
parse_number(const struct setting *setting, struct config_scalar scalar, uint64_t *value)
{
    struct slice text = scalar.text;

    switch (setting->type) {
    case SETTING_INTEGER:
        return scalar.is_plain && take_number(&text, value) && text.size == 0
               && in_range(setting, *value);
    case SETTING_SIZE:
        return parse_size(text, value) && in_range(setting, *value);
    case SETTING_DURATION:
        return parse_duration(text, value) && in_range(setting, *value);
    case SETTING_SECONDS:
        if (!parse_duration(text, value) || !in_range(setting, *value) || *value % 1000 != 0)
            return false;
        *value /= 1000;
        return true;
    case SETTING_BOOL:
        *value = slice_is(text, "true");
        return scalar.is_plain && (*value != 0 || slice_is(text, "false"));
    case SETTING_LOG_LEVEL:
    case SETTING_LOG_FORMAT:
    case SETTING_TLS_VERIFY:
    case SETTING_TLS_VERSION:
    case SETTING_TLS_PEER_NAME:
        return parse_choice(text, choices_of(setting->type), value);
    case SETTING_TEXT:
    case SETTING_ADDRESSES:
    case SETTING_TEXTS:
    case SETTING_NETWORKS:
    case SETTING_LIST:
        break;
    }
    return false;
}

/* Puts the number into a field of its width; false when it does not fit (the table is wrong then).
 */
static bool
put_number(void *field, size_t size, uint64_t value)
{
    uint8_t value8 = (uint8_t)value;
    uint16_t value16 = (uint16_t)value;
    uint32_t value32 = (uint32_t)value;

    if (size == sizeof(value8) && value8 == value)
        memcpy(field, &value8, size);
    else if (size == sizeof(value16) && value16 == value)
        memcpy(field, &value16, size);
    else if (size == sizeof(value32) && value32 == value)
        memcpy(field, &value32, size);
    else if (size == sizeof(value))
        memcpy(field, &value, size);
    else
        return false;
    return true;
}

bool
config_scalar_is_null(struct config_scalar scalar)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};

    for (size_t i = 0; scalar.is_plain && i < ARRAY_SIZE(nulls); i++) {
        if (slice_is(scalar.text, nulls[i]))
            return true;
    }
    return false;
}

/* Does YAML take a plain scalar for something other than text: nothing, a boolean (of YAML 1.2) or
 * a number (anything from digits and what may stand in one)? */
bool
config_scalar_is_text(struct config_scalar scalar)
{
    static const char *const booleans[] = {"true", "True", "TRUE", "false", "False", "FALSE"};
    bool has_digit = false;

    if (!scalar.is_plain)
        return true;
    if (config_scalar_is_null(scalar))
        return false;
    if (scalar.text.data[0] == 'e' || scalar.text.data[0] == 'E')
        return true;
    for (size_t i = 0; i < ARRAY_SIZE(booleans); i++) {
        if (slice_is(scalar.text, booleans[i]))
            return false;
    }
    for (size_t i = 0; i < scalar.text.size; i++) {
        char c = scalar.text.data[i];

        if (c >= '0' && c <= '9')
            has_digit = true;
        else if (strchr("+-.eE_", c) == NULL || c == '\0')
            return true;
    }
    return !has_digit;
}

bool
config_has_control(struct slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];

        if (byte < ' ' || byte == 0x7f)
            return true;
    }
    return false;
}

/* Copies with the 0, and clears the rest, so that equal settings are equal bytes. Control
 * characters are always a slip, such as the newline at the end of a YAML block. */
static bool
store_text(const struct setting *setting, struct config_scalar scalar, char *field)
{
    struct slice text = scalar.text;

    if (!config_scalar_is_text(scalar) || !in_range(setting, text.size)
        || text.size >= setting->size || config_has_control(text))
        return false;
    memset(field, 0, setting->size);
    memcpy(field, text.data, text.size);
    return true;
}

bool
setting_store_text(struct config_scalar scalar, struct config_texts *list)
{
    struct slice text = scalar.text;

    if (!config_scalar_is_text(scalar) || text.size == 0 || text.size >= sizeof(list->items[0])
        || config_has_control(text))
        return false;
    assert(list->count < CONFIG_TEXTS_MAX);
    memcpy(list->items[list->count++], text.data, text.size); /* all of it was zeroed */
    return true;
}

bool
setting_store(const struct setting *setting, struct config_scalar scalar, struct settings *settings)
{
    char *field = (char *)settings + setting->offset;
    uint64_t value = 0;

    if (setting->type == SETTING_TEXT)
        return store_text(setting, scalar, field);
    return parse_number(setting, scalar, &value) && put_number(field, setting->size, value);
}

/* A number in the greatest unit that divides it: "4KiB", "100ms", "1h". */
static void
describe_units(uint64_t value, const struct unit *units, size_t count, char out[32])
{
    const struct unit *best = NULL;

    for (size_t i = 0; i < count; i++) {
        if (value != 0 && value % units[i].factor == 0
            && (best == NULL || units[i].factor > best->factor))
            best = &units[i];
    }
    if (best != NULL)
        snprintf(out, 32, "%" PRIu64 "%s", value / best->factor, best->name);
    else
        snprintf(out, 32, "%" PRIu64, value);
}

static void
describe_choices(struct choices choices, char out[CONFIG_EXPECTED_MAX])
{
    size_t used = (size_t)snprintf(out, CONFIG_EXPECTED_MAX, "one of");

    for (size_t i = 0; i < choices.count && used < CONFIG_EXPECTED_MAX; i++)
        used += (size_t)snprintf(out + used, CONFIG_EXPECTED_MAX - used, "%s %s", i > 0 ? "," : "",
                                 choices.names[i]);
}

static void
describe_duration(const struct setting *setting, const char *name, char out[CONFIG_EXPECTED_MAX])
{
    char from[32], to[32];

    describe_units(setting->minimum, duration_units, ARRAY_SIZE(duration_units), from);
    describe_units(setting->maximum, duration_units, ARRAY_SIZE(duration_units), to);
    snprintf(out, CONFIG_EXPECTED_MAX, "%s from %s to %s (as 10s, 5m or 1h)", name, from, to);
}

const char *
setting_expected(const struct setting *setting, char out[CONFIG_EXPECTED_MAX])
{
    char from[32], to[32];

    switch (setting->type) {
    case SETTING_INTEGER:
        snprintf(out, CONFIG_EXPECTED_MAX, "an integer from %" PRIu64 " to %" PRIu64,
                 setting->minimum, setting->maximum);
        break;
    case SETTING_SIZE:
        describe_units(setting->minimum, size_units, BINARY_UNITS, from);
        describe_units(setting->maximum, size_units, BINARY_UNITS, to);
        snprintf(out, CONFIG_EXPECTED_MAX,
                 "a size from %s to %s (bytes, or as 128KiB, 16MiB, 16MB)", from, to);
        break;
    case SETTING_DURATION:
        describe_duration(setting, "a duration", out);
        break;
    case SETTING_SECONDS:
        describe_duration(setting, "a duration in whole seconds", out);
        break;
    case SETTING_BOOL:
        snprintf(out, CONFIG_EXPECTED_MAX, "true or false, without quotes");
        break;
    case SETTING_LOG_LEVEL:
    case SETTING_LOG_FORMAT:
    case SETTING_TLS_VERIFY:
    case SETTING_TLS_VERSION:
    case SETTING_TLS_PEER_NAME:
        describe_choices(choices_of(setting->type), out);
        break;
    case SETTING_TEXT:
        snprintf(out, CONFIG_EXPECTED_MAX,
                 "a text of %" PRIu64 " to %" PRIu64
                 " bytes without control characters (in quotes, if it looks like a number)",
                 setting->minimum, setting->maximum);
        break;
    case SETTING_ADDRESSES:
        snprintf(out, CONFIG_EXPECTED_MAX,
                 "ADDRESS:PORT (as 127.0.0.1:5672 or \"*:5672\"), or a list of %" PRIu64
                 " to %" PRIu64,
                 setting->minimum, setting->maximum);
        break;
    case SETTING_NETWORKS:
        snprintf(out, CONFIG_EXPECTED_MAX,
                 "ADDRESS or ADDRESS/PREFIX (as 10.0.0.0/8 or \"2001:db8::1\"), or a list of "
                 "%" PRIu64 " to %" PRIu64,
                 setting->minimum, setting->maximum);
        break;
    case SETTING_TEXTS:
        snprintf(out, CONFIG_EXPECTED_MAX,
                 "a text of 1 to %d bytes without control characters, or a list of %" PRIu64
                 " to %" PRIu64,
                 CONFIG_PATH_MAX - 1, setting->minimum, setting->maximum);
        break;
    case SETTING_LIST:
        snprintf(out, CONFIG_EXPECTED_MAX, "a list");
        break;
    }
    return out;
}

static uint64_t
get_number(const void *field, size_t size)
{
    uint8_t value8;
    uint16_t value16;
    uint32_t value32;
    uint64_t value = 0;

    if (size == sizeof(value8)) {
        memcpy(&value8, field, size);
        value = value8;
    } else if (size == sizeof(value16)) {
        memcpy(&value16, field, size);
        value = value16;
    } else if (size == sizeof(value32)) {
        memcpy(&value32, field, size);
        value = value32;
    } else if (size == sizeof(value)) {
        memcpy(&value, field, size);
    }
    return value;
}

static size_t
addresses_text(const struct config_addresses *list, char out[CONFIG_VALUE_TEXT_MAX])
{
    char text[CONFIG_ADDRESS_TEXT_MAX];
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < list->count && used < CONFIG_VALUE_TEXT_MAX; i++)
        used += (size_t)snprintf(out + used, CONFIG_VALUE_TEXT_MAX - used, "%s%s",
                                 i > 0 ? ", " : "", config_address_text(&list->items[i], text));
    return used;
}

/* The texts with commas between them, as far as they fit; the length that was needed. */
static size_t
texts_text(const struct config_texts *list, char out[CONFIG_VALUE_TEXT_MAX])
{
    size_t size = 0;

    out[0] = '\0';
    for (size_t i = 0; i < list->count && size < CONFIG_VALUE_TEXT_MAX; i++)
        size += (size_t)snprintf(out + size, CONFIG_VALUE_TEXT_MAX - size, "%s%s",
                                 i > 0 ? ", " : "", list->items[i]);
    return size;
}

static size_t
networks_text(const struct networks *list, char out[CONFIG_VALUE_TEXT_MAX])
{
    char text[NETWORK_TEXT_MAX];
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < list->count && used < CONFIG_VALUE_TEXT_MAX; i++)
        used += (size_t)snprintf(out + used, CONFIG_VALUE_TEXT_MAX - used, "%s%s",
                                 i > 0 ? ", " : "", network_text(&list->items[i], text));
    return used;
}

const char *
setting_text(const struct setting *setting, const struct settings *settings,
             char out[CONFIG_VALUE_TEXT_MAX])
{
    const char *field = (const char *)settings + setting->offset;
    uint64_t value = get_number(field, setting->size);
    char text[32];
    size_t size = 0;

    switch (setting->type) {
    case SETTING_INTEGER:
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "%" PRIu64, value);
        break;
    case SETTING_SIZE:
        describe_units(value, size_units, BINARY_UNITS, text);
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "%s", text);
        break;
    case SETTING_DURATION:
    case SETTING_SECONDS:
        describe_units(setting->type == SETTING_SECONDS ? value * 1000 : value, duration_units,
                       ARRAY_SIZE(duration_units), text);
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "%s", text);
        break;
    case SETTING_BOOL:
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "%s", value != 0 ? "true" : "false");
        break;
    case SETTING_LOG_LEVEL:
    case SETTING_LOG_FORMAT:
    case SETTING_TLS_VERIFY:
    case SETTING_TLS_VERSION:
    case SETTING_TLS_PEER_NAME:
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "%s",
                                choices_of(setting->type).names[value]);
        break;
    case SETTING_TEXT:
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "%s", field);
        break;
    case SETTING_ADDRESSES:
        size = addresses_text((const struct config_addresses *)(const void *)field, out);
        break;
    case SETTING_NETWORKS:
        size = networks_text((const struct networks *)(const void *)field, out);
        break;
    case SETTING_TEXTS:
        size = texts_text((const struct config_texts *)(const void *)field, out);
        break;
    case SETTING_LIST: /* may hold secrets: its length is all that is told */
        size = (size_t)snprintf(out, CONFIG_VALUE_TEXT_MAX, "a list of %zu",
                                ((const struct config_list *)(const void *)field)->count);
        break;
    }
    if (size >= CONFIG_VALUE_TEXT_MAX)
        memcpy(out + CONFIG_VALUE_TEXT_MAX - sizeof("..."), "...", sizeof("..."));
    return out;
}
