/* Reading the events of a YAML file: what the files that walk through them share. */
#ifndef CONFIG_CONFIG_READER_H
#define CONFIG_CONFIG_READER_H

#include <yaml.h>

#include "config/config_internal.h"

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; what it owns is freed by the next */
    struct slice text;  /* the whole file */
    struct settings *settings;
    struct config_errors *errors;
    unsigned depth;  /* mappings and lists that are open */
    bool is_broken;  /* nothing more can be read */
    bool is_private; /* others cannot read the file: it may hold passwords */
    /* Where each setting, and each section by its first setting, was found; 0: not yet. */
    size_t setting_lines[SETTING_COUNT];
    size_t section_lines[SETTING_COUNT];
};

/* Notes an error at a place of libyaml's, which counts from 0. */
#define FAIL_AT(reader, mark, ...)                                                                 \
    config_errors_add((reader)->errors, (mark).line + 1, (mark).column + 1, __VA_ARGS__)

/* Takes the next event. False when there is none: the error is noted, and every later call says the
 * same. */
MUST_CHECK bool reader_next(struct reader *reader);

/* Steps over the rest of the value whose first event is the current one, up to its last. */
MUST_CHECK bool reader_skip_value(struct reader *reader);

/* The current event, which is a scalar; lent until the next one. */
struct config_scalar reader_scalar(const struct reader *reader);

/* What the value of the current event is, for "found ...". */
const char *reader_describe(const struct reader *reader, char out[CONFIG_QUOTE_MAX]);

/* The value of a setting of type SETTING_LIST (config_list.c): the current event. */
MUST_CHECK bool reader_read_list(struct reader *reader, const struct setting *setting);

#endif
