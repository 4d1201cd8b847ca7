/* The text of a log line, in both formats, and the escaping that keeps what strangers choose from
 * looking like something else: line ends, quotes, terminal control, letters that turn the direction
 * of writing, and bytes that are not UTF-8. */
#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Kept free at the end of a line for what closes it: the quote, the mark of a cut, the braces. */
enum { TAIL_ROOM = 32 };

struct line {
    char *out;
    size_t size;
    enum log_format format;
    bool is_cut;
};

/* Adds the bytes, all or none; after the first that find no room, nothing is added. */
static bool
put(struct line *line, const char *bytes, size_t size)
{
    if (line->is_cut || line->size + size > (size_t)LOG_LINE_MAX - TAIL_ROOM) {
        line->is_cut = true;
        return false;
    }
    memcpy(line->out + line->size, bytes, size);
    line->size += size;
    return true;
}

PRINTF_LIKE(2, 3)
static bool
put_format(struct line *line, const char *format, ...)
{
    char text[160];
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (size < 0 || (size_t)size >= sizeof(text)) {
        line->is_cut = true;
        return false;
    }
    return put(line, text, (size_t)size);
}

static inline bool
is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The length of the UTF-8 character at the front, with its code; 0 when it is not valid (RFC 3629:
 * no overlong forms, no surrogates, nothing above U+10FFFF). size is not 0. */
static size_t
utf8_take(const uint8_t *at, size_t size, uint32_t *code)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc0 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;

    if (length == 0 || at[0] > 0xf4 || length > size)
        return 0;
    *code = length == 1 ? at[0] : at[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation(at[i]))
            return 0;
        *code = *code << 6 | (at[i] & 0x3fu);
    }
    if (*code < smallest[length] || *code > 0x10ffff || (*code >= 0xd800 && *code <= 0xdfff))
        return 0;
    return length;
}

/* Characters that move the cursor, end a line or turn the direction of writing where the log is
 * shown. */
static bool
is_unprintable(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e
           || code == 0x200f || (code >= 0x2028 && code <= 0x202e)
           || (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

static bool
put_code(struct line *line, uint32_t code)
{
    switch (code) {
    case '\n':
        return put(line, "\\n", 2);
    case '\r':
        return put(line, "\\r", 2);
    case '\t':
        return put(line, "\\t", 2);
    default:
        return put_format(line, "\\u%04x", (unsigned)code);
    }
}

/* Adds the text with everything escaped that cannot stand between quotes; stops where the line is
 * full. */
static void
put_escaped(struct line *line, struct slice text)
{
    const uint8_t *at = (const uint8_t *)text.data;

    for (size_t i = 0; i < text.size && !line->is_cut;) {
        uint32_t code = 0;
        size_t length = utf8_take(at + i, text.size - i, &code);

        if (length == 0) {
            if (line->format == LOG_FORMAT_JSON)
                put(line, "\\ufffd", 6); /* JSON has no way to write a byte */
            else
                put_format(line, "\\x%02x", at[i]);
            length = 1;
        } else if (code == '"' || code == '\\') {
            put_format(line, "\\%c", (char)code);
        } else if (is_unprintable(code)) {
            put_code(line, code);
        } else {
            put(line, text.data + i, length);
        }
        i += length;
    }
}

/* Would the value be taken for something else without quotes? */
static bool
needs_quotes(struct slice text)
{
    const uint8_t *at = (const uint8_t *)text.data;

    for (size_t i = 0; i < text.size; i++) {
        if (at[i] <= ' ' || at[i] >= 0x7f || at[i] == '"' || at[i] == '\\' || at[i] == '=')
            return true;
    }
    return text.size == 0;
}

static void
put_text(struct line *line, struct slice text)
{
    bool quoted = line->format == LOG_FORMAT_JSON || needs_quotes(text);

    if (quoted && !put(line, "\"", 1))
        return;
    put_escaped(line, text);
    if (quoted)
        line->out[line->size++] = '"'; /* there is always room for it: TAIL_ROOM */
}

static void
put_value(struct line *line, const struct log_field *field)
{
    switch (field->kind) {
    case LOG_FIELD_TEXT:
        put_text(line, field->text);
        break;
    case LOG_FIELD_INT:
        put_format(line, "%" PRId64, field->integer);
        break;
    case LOG_FIELD_UINT:
        put_format(line, "%" PRIu64, field->natural);
        break;
    case LOG_FIELD_BOOL:
        put_format(line, "%s", field->truth ? "true" : "false");
        break;
    case LOG_FIELD_END:
        break;
    }
}

/* A field that finds no room is left out; of a long text the beginning is kept. */
static void
put_field(struct line *line, const struct log_field *field)
{
    size_t before = line->size, value;
    bool is_json = line->format == LOG_FORMAT_JSON;

    if (!put_format(line, is_json ? ",\"%s\":" : " %s=", field->key))
        return;
    value = line->size;
    put_value(line, field);
    if (line->size == value)
        line->size = before;
}

static void
put_time(struct line *line, int64_t wall_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm parts = {0};

    gmtime_r(&seconds, &parts);
    put_format(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", parts.tm_year + 1900, parts.tm_mon + 1,
               parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, (int)(wall_ms % 1000));
}

static void
put_head(struct line *line, int64_t wall_ms, enum log_level level, const char *event)
{
    bool is_json = line->format == LOG_FORMAT_JSON;

    if (is_json)
        put(line, "{\"time\":\"", 9);
    put_time(line, wall_ms);
    if (is_json) {
        put_format(line, "\",\"level\":\"%s\",\"event\":", log_level_name(level));
        put_text(line, slice_from(event));
    } else {
        put_format(line, " %s ", log_level_name(level));
        put_escaped(line, slice_from(event));
    }
}

static void
put_tail(struct line *line)
{
    bool is_json = line->format == LOG_FORMAT_JSON;
    int size = snprintf(line->out + line->size, (size_t)LOG_LINE_MAX - line->size, "%s%s\n",
                        !line->is_cut ? ""
                        : is_json     ? ",\"cut\":true"
                                      : " cut=true",
                        is_json ? "}" : "");

    line->size += (size_t)size;
}

size_t
log_format_line(char out[LOG_LINE_MAX], enum log_format format, int64_t wall_ms,
                enum log_level level, const char *event, const struct log_field *fields,
                size_t count)
{
    struct line line = {.out = out, .format = format};

    put_head(&line, wall_ms, level, event);
    for (size_t i = 0; i < count && !line.is_cut; i++)
        put_field(&line, &fields[i]);
    put_tail(&line);
    return line.size;
}
