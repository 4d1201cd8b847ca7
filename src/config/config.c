/* From a YAML file to settings.
 *
 * libyaml cuts the text into events, each with its place, and this file walks through them beside
 * the table of settings. It uses the events and not libyaml's documents because those lose what is
 * to be refused here: duplicate keys, anchors and aliases (a few lines of which can stand for
 * gigabytes), and depth. What is wrong is noted and stepped over, so that one run finds everything;
 * only after a text that is not YAML nothing more can be said. */
#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amqp/slice.h"
#include "auth/password.h"
#include "base/buffer.h"
#include "config/config_internal.h"
#include "config/config_reader.h"

/* What was probably meant where YAML reads signs of its own; "" when there is no telling. */
static const char *
syntax_hint(const struct reader *reader, yaml_mark_t mark)
{
    struct slice text = reader->text;
    const char *context = reader->parser.context != NULL ? reader->parser.context : "";
    const char *line;

    if (strstr(context, "alias") != NULL)
        return " (a value that begins with * is put in quotes: \"*:5672\")";
    for (line = text.data; mark.line > 0 && line != NULL; mark.line--) {
        line = memchr(line, '\n', text.size - (size_t)(line - text.data));
        if (line != NULL)
            line++;
    }
    if (line == NULL)
        return "";
    text = (struct slice){.data = line, .size = text.size - (size_t)(line - text.data)};
    if (memchr(text.data, '\n', text.size) != NULL)
        text.size = (size_t)((const char *)memchr(text.data, '\n', text.size) - text.data);
    if (memmem(text.data, text.size, "]:", 2) != NULL)
        return " (an IPv6 address is put in quotes: \"[::1]:5672\")";
    if (text.size > 0 && memchr(text.data, '\t', text.size) != NULL)
        return " (lines are indented with spaces, not with tabs)";
    return "";
}

/* The place of a byte of the file, as libyaml counts: lines and characters from 0. */
static yaml_mark_t
mark_of_offset(struct slice text, size_t offset)
{
    yaml_mark_t mark = {.index = offset};

    for (size_t i = 0; i < offset && i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];

        if (byte == '\n') {
            mark.line++;
            mark.column = 0;
        } else if ((byte & 0xc0) != 0x80) {
            mark.column++;
        }
    }
    return mark;
}

/* Notes why libyaml could not go on. */
static void
fail_syntax(struct reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    const char *problem = parser->problem != NULL ? parser->problem : "not readable";

    reader->is_broken = true;
    if (parser->error == YAML_MEMORY_ERROR) {
        config_errors_add(reader->errors, 0, 0, "out of memory");
    } else if (parser->error == YAML_READER_ERROR) {
        yaml_mark_t mark = mark_of_offset(reader->text, parser->problem_offset);

        if (parser->problem_value >= 0)
            FAIL_AT(reader, mark, "not a text in UTF-8: %s (0x%02X)", problem,
                    (unsigned)parser->problem_value);
        else
            FAIL_AT(reader, mark, "not a text in UTF-8: %s", problem);
    } else if (parser->context != NULL && parser->context_mark.line != parser->problem_mark.line) {
        FAIL_AT(reader, parser->problem_mark, "not YAML: %s %s from line %zu%s", problem,
                parser->context, parser->context_mark.line + 1,
                syntax_hint(reader, parser->problem_mark));
    } else {
        FAIL_AT(reader, parser->problem_mark, "not YAML: %s%s%s%s", problem,
                parser->context != NULL ? " " : "", parser->context != NULL ? parser->context : "",
                syntax_hint(reader, parser->problem_mark));
    }
}

/* Notes anchors and tags, which change what a value means. The value itself is read as if it had
 * none. */
static void
refuse_decoration(struct reader *reader, const yaml_char_t *anchor, const yaml_char_t *tag)
{
    char quoted[CONFIG_QUOTE_MAX];

    if (anchor != NULL)
        FAIL_AT(reader, reader->event.start_mark, "anchors (&%s) are not supported",
                config_escape(slice_from((const char *)anchor), quoted));
    if (tag != NULL)
        FAIL_AT(reader, reader->event.start_mark, "tags (%s) are not supported",
                config_escape(slice_from((const char *)tag), quoted));
}

static void
enter(struct reader *reader)
{
    if (++reader->depth <= CONFIG_DEPTH_MAX)
        return;
    FAIL_AT(reader, reader->event.start_mark, "nested deeper than %d levels", CONFIG_DEPTH_MAX);
    reader->is_broken = true;
}

bool
reader_next(struct reader *reader)
{
    yaml_event_t *event = &reader->event;
    char quoted[CONFIG_QUOTE_MAX];

    if (reader->is_broken)
        return false;
    yaml_event_delete(event);
    if (yaml_parser_parse(&reader->parser, event) == 0) {
        fail_syntax(reader);
        return false;
    }
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        refuse_decoration(reader, event->data.scalar.anchor, event->data.scalar.tag);
        break;
    case YAML_ALIAS_EVENT:
        FAIL_AT(reader, event->start_mark, "aliases (*%s) are not supported",
                config_escape(slice_from((const char *)event->data.alias.anchor), quoted));
        break;
    case YAML_SEQUENCE_START_EVENT:
        refuse_decoration(reader, event->data.sequence_start.anchor,
                          event->data.sequence_start.tag);
        enter(reader);
        break;
    case YAML_MAPPING_START_EVENT:
        refuse_decoration(reader, event->data.mapping_start.anchor, event->data.mapping_start.tag);
        enter(reader);
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        reader->depth--;
        break;
    default:
        break;
    }
    return !reader->is_broken;
}

bool
reader_skip_value(struct reader *reader)
{
    bool is_open = reader->event.type == YAML_MAPPING_START_EVENT
                   || reader->event.type == YAML_SEQUENCE_START_EVENT;
    unsigned outside = reader->depth - 1;

    while (is_open && reader->depth > outside) {
        if (!reader_next(reader))
            return false;
    }
    return true;
}

struct config_scalar
reader_scalar(const struct reader *reader)
{
    const yaml_event_t *event = &reader->event;

    return (struct config_scalar){
        .text = {.data = (const char *)event->data.scalar.value, .size = event->data.scalar.length},
        .is_plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE,
    };
}

const char *
reader_describe(const struct reader *reader, char out[CONFIG_QUOTE_MAX])
{
    switch (reader->event.type) {
    case YAML_SCALAR_EVENT:
        return config_scalar_describe(reader_scalar(reader), out);
    case YAML_MAPPING_START_EVENT:
        return "a mapping";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    default:
        return "an alias";
    }
}

static void
fail_value(struct reader *reader, const struct setting *setting)
{
    char expected[CONFIG_EXPECTED_MAX], found[CONFIG_QUOTE_MAX];

    /* An alias has been noted as what it is. */
    if (reader->event.type == YAML_ALIAS_EVENT)
        return;
    FAIL_AT(reader, reader->event.start_mark, "%s: expected %s; found %s", setting->path,
            setting_expected(setting, expected), reader_describe(reader, found));
}

/* One address, or something wrong: the current event. */
static void
read_address(struct reader *reader, const struct setting *setting, struct config_addresses *list)
{
    char found[CONFIG_QUOTE_MAX];
    const char *problem = NULL;
    bool is_text =
        reader->event.type == YAML_SCALAR_EVENT && !config_scalar_is_null(reader_scalar(reader));

    if (is_text)
        problem = setting_store_address(reader_scalar(reader).text, list);
    /* An alias has been noted as what it is. */
    if (reader->event.type == YAML_ALIAS_EVENT || (is_text && problem == NULL))
        return;
    FAIL_AT(reader, reader->event.start_mark, "%s: expected ADDRESS:PORT; found %s%s%s",
            setting->path, reader_describe(reader, found), is_text ? ": " : "",
            is_text ? problem : "");
}

/* One text, or something wrong: the current event. */
static void
read_text_element(struct reader *reader, const struct setting *setting, struct config_texts *list)
{
    char found[CONFIG_QUOTE_MAX];
    bool is_text =
        reader->event.type == YAML_SCALAR_EVENT && setting_store_text(reader_scalar(reader), list);

    /* An alias has been noted as what it is. */
    if (!is_text && reader->event.type != YAML_ALIAS_EVENT)
        FAIL_AT(reader, reader->event.start_mark,
                "%s: expected a text of 1 to %d bytes without control characters; found %s",
                setting->path, CONFIG_PATH_MAX - 1, reader_describe(reader, found));
}

/* One network, or something wrong: the current event. */
static void
read_network(struct reader *reader, const struct setting *setting, struct networks *list)
{
    char found[CONFIG_QUOTE_MAX];
    const char *problem = NULL;
    bool is_scalar = reader->event.type == YAML_SCALAR_EVENT;

    if (is_scalar)
        problem = setting_store_network(reader_scalar(reader).text, list);
    /* An alias has been noted as what it is. */
    if (reader->event.type == YAML_ALIAS_EVENT || (is_scalar && problem == NULL))
        return;
    FAIL_AT(reader, reader->event.start_mark,
            "%s: expected ADDRESS or ADDRESS/PREFIX; found %s%s%s", setting->path,
            reader_describe(reader, found), is_scalar ? ": " : "", is_scalar ? problem : "");
}

static void
read_element(struct reader *reader, const struct setting *setting)
{
    if (setting->type == SETTING_ADDRESSES)
        read_address(reader, setting, setting_addresses(setting, reader->settings));
    else if (setting->type == SETTING_NETWORKS)
        read_network(reader, setting, setting_networks(setting, reader->settings));
    else
        read_text_element(reader, setting, setting_texts(setting, reader->settings));
}

/* A list, or the one element of it. */
MUST_CHECK static bool
read_list(struct reader *reader, const struct setting *setting)
{
    bool has_addresses = setting->type != SETTING_TEXTS;
    size_t elements = 0;

    memset((char *)reader->settings + setting->offset, 0, setting->size);
    if (reader->event.type == YAML_MAPPING_START_EVENT) {
        fail_value(reader, setting);
        return reader_skip_value(reader);
    }
    if (reader->event.type != YAML_SEQUENCE_START_EVENT) {
        read_element(reader, setting);
        return true;
    }
    for (;;) {
        yaml_mark_t mark = reader->event.start_mark;

        if (!reader_next(reader))
            return false;
        if (reader->event.type == YAML_SEQUENCE_END_EVENT) {
            if (elements < setting->minimum)
                FAIL_AT(reader, mark, "%s: expected at least one %s; found an empty list",
                        setting->path, has_addresses ? "address" : "text");
            return true;
        }
        if (++elements <= setting->maximum)
            read_element(reader, setting);
        else if (elements == setting->maximum + 1)
            FAIL_AT(reader, reader->event.start_mark, "%s: expected at most %d %s", setting->path,
                    (int)setting->maximum, has_addresses ? "addresses" : "texts");
        if (!reader_skip_value(reader))
            return false;
    }
}

/* The value of a setting: the current event. */
MUST_CHECK static bool
read_setting(struct reader *reader, const struct setting *setting)
{
    if (setting->type == SETTING_ADDRESSES || setting->type == SETTING_TEXTS
        || setting->type == SETTING_NETWORKS)
        return read_list(reader, setting);
    if (setting->type == SETTING_LIST)
        return reader_read_list(reader, setting);
    if (reader->event.type != YAML_SCALAR_EVENT
        || !setting_store(setting, reader_scalar(reader), reader->settings))
        fail_value(reader, setting);
    return reader_skip_value(reader);
}

/* The keys of a section, as "level, format"; what finds no room is "...". */
static void
list_names(struct slice section, char *out, size_t size)
{
    const struct slice none = {.data = "", .size = 0};
    const char *separator = "";
    size_t used = 0;

    out[0] = '\0';
    for (struct slice name = setting_next_name(section, none); name.size > 0;
         name = setting_next_name(section, name)) {
        if (used + strlen(separator) + name.size + sizeof(", ...") > size) {
            snprintf(out + used, size - used, ", ...");
            return;
        }
        used += (size_t)snprintf(out + used, size - used, "%s%.*s", separator, SLICE_ARGS(name));
        separator = ", ";
    }
}

static void
fail_unknown_key(struct reader *reader, struct setting_key key)
{
    char section[CONFIG_QUOTE_MAX], name[CONFIG_QUOTE_MAX], meant[SETTING_PATH_MAX], names[192];
    const char *prefix = config_escape(key.section, section);
    const char *instead = setting_removed(key);

    config_escape(key.name, name);
    if (instead != NULL) {
        FAIL_AT(reader, reader->event.start_mark, "\"%s%s\" is no setting any more: %s", prefix,
                name, instead);
    } else if (setting_suggest(key, meant)) {
        FAIL_AT(reader, reader->event.start_mark, "unknown key \"%s%s\"; did you mean %s?%s",
                prefix, name, meant,
                memchr(key.name.data, '.', key.name.size) != NULL
                    ? " (each part is a mapping of its own)"
                    : "");
    } else {
        list_names(key.section, names, sizeof(names));
        FAIL_AT(reader, reader->event.start_mark, "unknown key \"%s%s\"; expected one of %s",
                prefix, name, names);
    }
}

/* Remembers where a key stands. False, with the error noted, when it was there before. */
static bool
note_key(struct reader *reader, struct setting_key key, size_t *line)
{
    if (*line != 0) {
        FAIL_AT(reader, reader->event.start_mark,
                "duplicate key \"%.*s%.*s\"; it is on line %zu already", SLICE_ARGS(key.section),
                SLICE_ARGS(key.name), *line);
        return false;
    }
    *line = reader->event.start_mark.line + 1;
    return true;
}

/* What is done with the value after a key. */
struct target {
    const struct setting *setting; /* read it into this */
    const struct setting *section; /* or as this section's keys, or step over it */
    size_t name_size;
};

/* Looks at the current event, a key, and says what its value is for. */
static struct target
read_key(struct reader *reader, struct slice section)
{
    struct target target = {.setting = NULL};
    struct setting_key key = {.section = section};
    size_t *line;

    if (reader->event.type == YAML_ALIAS_EVENT)
        return target;
    if (reader->event.type != YAML_SCALAR_EVENT) {
        char found[CONFIG_QUOTE_MAX];

        FAIL_AT(reader, reader->event.start_mark, "expected a key; found %s",
                reader_describe(reader, found));
        return target;
    }
    key.name = reader_scalar(reader).text;
    target.name_size = key.name.size;
    target.setting = setting_find(key);
    target.section = setting_find_section(key);
    if (target.setting == NULL && target.section == NULL) {
        fail_unknown_key(reader, key);
        return target;
    }
    line = target.setting != NULL ? &reader->setting_lines[target.setting - setting_table]
                                  : &reader->section_lines[target.section - setting_table];
    if (!note_key(reader, key, line))
        return (struct target){.setting = NULL};
    return target;
}

MUST_CHECK static bool read_section(struct reader *reader, struct slice section);

/* The value that should be a section's mapping: the current event. Nothing is an empty section, as
 * when all its keys are commented out. */
MUST_CHECK static bool
read_section_value(struct reader *reader, struct slice section)
{
    char names[192], found[CONFIG_QUOTE_MAX];

    if (reader->event.type == YAML_MAPPING_START_EVENT)
        return read_section(reader, section);
    if (reader->event.type == YAML_SCALAR_EVENT && config_scalar_is_null(reader_scalar(reader)))
        return true;
    if (reader->event.type != YAML_ALIAS_EVENT) {
        list_names(section, names, sizeof(names));
        if (section.size == 0)
            FAIL_AT(reader, reader->event.start_mark, "expected a mapping of settings; found %s",
                    reader_describe(reader, found));
        else
            FAIL_AT(reader, reader->event.start_mark, "%.*s: expected a mapping of %s; found %s",
                    (int)section.size - 1, section.data, names, reader_describe(reader, found));
    }
    return reader_skip_value(reader);
}

/* The keys of a section, whose mapping begins with the current event; up to its end. Recursion ends
 * with the table's depth: what it does not know is stepped over. */
static bool
read_section(struct reader *reader, struct slice section)
{
    for (;;) {
        struct target target;
        bool is_read;

        if (!reader_next(reader))
            return false;
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            return true;
        target = read_key(reader, section);
        if (!reader_skip_value(reader) || !reader_next(reader))
            return false;
        if (target.setting != NULL) {
            is_read = read_setting(reader, target.setting);
        } else if (target.section != NULL) {
            /* The path of any setting in it begins with the section's. */
            is_read = read_section_value(
                reader, (struct slice){.data = target.section->path,
                                       .size = section.size + target.name_size + 1});
        } else {
            is_read = reader_skip_value(reader);
        }
        if (!is_read)
            return false;
    }
}

/* The whole file: nothing, or one document. */
static void
read_stream(struct reader *reader)
{
    if (!reader_next(reader) || !reader_next(reader) || reader->event.type == YAML_STREAM_END_EVENT)
        return;
    if (!reader_next(reader) || !read_section_value(reader, SLICE("")) || !reader_next(reader)
        || !reader_next(reader))
        return;
    if (reader->event.type != YAML_STREAM_END_EVENT)
        FAIL_AT(reader, reader->event.start_mark,
                "expected the end of the file; found a second document");
}

static void
errors_init(struct config_errors *errors, const char *path)
{
    errors->count = 0;
    errors->total = 0;
    snprintf(errors->path, sizeof(errors->path), "%s", path);
}

static void
read_text(struct settings *settings, struct slice text, bool is_private,
          struct config_errors *errors)
{
    struct reader reader = {.settings = settings, .errors = errors, .is_private = is_private};

    /* The mark of some editors, which libyaml would count as a character of the first line. */
    if (slice_starts_with(text, SLICE("\xef\xbb\xbf")))
        text = (struct slice){.data = text.data + 3, .size = text.size - 3};
    reader.text = text;
    if (yaml_parser_initialize(&reader.parser) == 0) {
        config_errors_add(errors, 0, 0, "out of memory");
        return;
    }
    /* Else libyaml takes UTF-16 too. */
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text.data, text.size);
    read_stream(&reader);
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
}

MUST_CHECK static int
load_text(struct settings *settings, struct slice whole, bool is_private,
          struct config_errors *errors)
{
    struct settings loaded = *settings;

    if (whole.size > CONFIG_FILE_MAX)
        config_errors_add(errors, 0, 0, "larger than %d bytes", CONFIG_FILE_MAX);
    else
        read_text(&loaded, whole, is_private, errors);
    if (errors->total > 0) {
        setting_lists_drop(&loaded, settings);
        return -1;
    }
    setting_lists_drop(settings, &loaded);
    *settings = loaded;
    return 0;
}

int
config_load_text(struct settings *settings, const char *path, const char *text, size_t size,
                 struct config_errors *errors)
{
    errors_init(errors, path);
    return load_text(settings, (struct slice){.data = size > 0 ? text : "", .size = size}, true,
                     errors);
}

/* Whether the file keeps its content from those whom it does not belong to. */
static bool
is_private_file(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && (!S_ISREG(status.st_mode) || (status.st_mode & S_IROTH) == 0);
}

/* Everything there is to read, or one byte more than a file may have. -errno. */
MUST_CHECK static int
read_all(int fd, struct buffer *buffer)
{
    while (buffer->size <= CONFIG_FILE_MAX) {
        ssize_t got;
        int error = buffer_reserve(buffer, 16384);

        if (error != 0)
            return error;
        got = read(fd, buffer->data + buffer->size, buffer->capacity - buffer->size);
        if (got == 0)
            return 0;
        if (got > 0)
            buffer->size += (size_t)got;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int
config_load(struct settings *settings, const char *path, struct config_errors *errors)
{
    struct buffer buffer;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    bool is_private;
    int result;

    errors_init(errors, path);
    if (fd < 0) {
        config_errors_add(errors, 0, 0, "cannot open: %s", strerror(errno));
        return -1;
    }
    buffer_init(&buffer);
    is_private = is_private_file(fd);
    result = read_all(fd, &buffer);
    close(fd);
    if (result != 0) {
        config_errors_add(errors, 0, 0, "cannot read: %s", strerror(-result));
        result = -1;
    } else {
        result = load_text(settings, buffer_slice(&buffer), is_private, errors);
    }
    secret_wipe(buffer.data, buffer.size); /* there may be passwords in it */
    buffer_free(&buffer);
    return result;
}
