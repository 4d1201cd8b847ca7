/* What the files of the configuration share: the table of settings, values as scalars of YAML, and
 * the list of errors. */
#ifndef CONFIG_CONFIG_INTERNAL_H
#define CONFIG_CONFIG_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"
#include "config/config.h"

enum {
    SETTING_PATH_MAX = 64,     /* the longest path of a setting with its 0 */
    CONFIG_EXPECTED_MAX = 192, /* what a setting takes, with its 0 */
};

/* How a value is written, and what its field is. */
enum setting_type {
    SETTING_INTEGER,       /* decimal digits, not in quotes: uint16_t, uint32_t, uint64_t */
    SETTING_SIZE,          /* "4096", "128KiB", "16MB": the same, bytes */
    SETTING_DURATION,      /* "500ms", "10s", "5m", "1h", "0": the same, milliseconds */
    SETTING_SECONDS,       /* a duration without a fraction of a second: the same, seconds */
    SETTING_BOOL,          /* true or false, not in quotes: bool */
    SETTING_TEXT,          /* a string: char[] with its 0 */
    SETTING_LOG_LEVEL,     /* a name: enum log_level */
    SETTING_LOG_FORMAT,    /* a name: enum log_format */
    SETTING_TLS_VERIFY,    /* a name: enum tls_verify */
    SETTING_TLS_VERSION,   /* a name: enum tls_version */
    SETTING_TLS_PEER_NAME, /* a name: enum tls_peer_name */
    SETTING_ADDRESSES,     /* a list of ADDRESS:PORT, or one: struct config_addresses */
    SETTING_TEXTS,         /* a list of strings, or one: struct config_texts */
    SETTING_NETWORKS,      /* a list of ADDRESS or ADDRESS/PREFIX, or one: struct networks */
    SETTING_LIST,          /* texts or mappings (config_items.h): struct config_list */
};

/* When a change takes effect, as a bool: while the program runs? */
enum setting_effect { SETTING_START, SETTING_LIVE };

/* A line of settings.def. */
struct setting {
    const char *path;
    enum setting_type type;
    bool is_live;  /* a change takes effect while the program runs */
    size_t offset; /* of the field in struct settings */
    size_t size;   /* of the field */
    const char *default_text;
    uint64_t minimum;
    uint64_t maximum;
    const char *summary;
};

#define SETTING(...) +1
enum {
    SETTING_COUNT = 0
#include "config/settings.def"
};
#undef SETTING

extern const struct setting setting_table[SETTING_COUNT];

/* A key of the file: the path of its section with a '.' at its end ("log.", "" at the top). */
struct setting_key {
    struct slice section;
    struct slice name;
};

/* The setting of this key; NULL when there is none. */
const struct setting *setting_find(struct setting_key key);

/* The first setting in the section that this key is, which stands for the section; NULL when the
 * key is no section. */
const struct setting *setting_find_section(struct setting_key key);

/* The names of keys in a section, one after the other, each once: the one after `previous`, or the
 * first for an empty slice. Empty after the last. */
struct slice setting_next_name(struct slice section, struct slice previous);

/* What one may have meant by an unknown key: writes the path of a key or section of a similar name,
 * or of one with that name elsewhere. false when nothing is near. */
MUST_CHECK bool setting_suggest(struct setting_key key, char out[SETTING_PATH_MAX]);

/* What to write instead of a key that there was once; NULL when there was none. */
const char *setting_removed(struct setting_key key);

/* The fewest letters that make one name of the other; and how many are still near. */
unsigned setting_distance(struct slice a, struct slice b);
unsigned setting_tolerance(struct slice name);

/* Whether the lists of this setting (of type SETTING_LIST) are the same, item by item. */
bool setting_lists_equal(const struct setting *setting, const struct settings *a,
                         const struct settings *b);

/* Frees the list that is there, and takes the other's over, who has none then. */
void setting_list_move(const struct setting *setting, struct settings *to, struct settings *from);

/* Frees the lists of these settings, but for those that the others share with them. */
void setting_lists_drop(struct settings *settings, const struct settings *others);

/* A scalar of the file. Only a plain one, without quotes, can be a number, a boolean or nothing. */
struct config_scalar {
    struct slice text; /* valid UTF-8, may hold 0 bytes */
    bool is_plain;
};

/* Nothing: an empty value, "~" or "null". */
bool config_scalar_is_null(struct config_scalar scalar);

/* Whether YAML takes it for a text: in quotes, or neither nothing, a boolean or a number. */
bool config_scalar_is_text(struct config_scalar scalar);

/* Whether there are control characters in the text. */
bool config_has_control(struct slice text);

/* Reads a value of this type and puts it in its field; not for lists. false, and the
 * settings as before, when it is none or out of range. */
MUST_CHECK bool setting_store(const struct setting *setting, struct config_scalar scalar,
                              struct settings *settings);

/* The field of a setting of type SETTING_ADDRESSES. */
struct config_addresses *setting_addresses(const struct setting *setting,
                                           struct settings *settings);

/* The field of a setting of type SETTING_TEXTS. */
struct config_texts *setting_texts(const struct setting *setting, struct settings *settings);

/* Reads one text and adds it to the list, which has room. false, and the list as before, when it is
 * none. */
MUST_CHECK bool setting_store_text(struct config_scalar scalar, struct config_texts *list);

/* Reads one address and adds it to the list. NULL, or why it cannot be added; the list is as before
 * then. */
MUST_CHECK const char *setting_store_address(struct slice text, struct config_addresses *list);

/* The field of a setting of type SETTING_NETWORKS. */
struct networks *setting_networks(const struct setting *setting, struct settings *settings);

/* Reads one network and adds it to the list. NULL, or why it cannot be added; the list is as before
 * then. */
MUST_CHECK const char *setting_store_network(struct slice text, struct networks *list);

/* "an integer from 0 to 64". Returns out. */
const char *setting_expected(const struct setting *setting, char out[CONFIG_EXPECTED_MAX]);

/* The value of a setting as one would write it in the file: "5m", "128KiB", "info",
 * "127.0.0.1:5672, [::1]:5672"; a long one is cut and ends in "...". Returns out. */
const char *setting_text(const struct setting *setting, const struct settings *settings,
                         char out[CONFIG_VALUE_TEXT_MAX]);

/* A scalar for messages: 65, "65" in quotes, nothing. Returns out. */
const char *config_scalar_describe(struct config_scalar scalar, char out[CONFIG_QUOTE_MAX]);

#endif
