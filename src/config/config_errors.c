/* What is wrong with a configuration: gathered in the order of the file, bounded, and told one per
 * line. Text of the file comes into messages only through config_escape, so that nobody's file can
 * write lines of its own or control the terminal. */
#include "config/config_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void
config_errors_add(struct config_errors *errors, size_t line, size_t column, const char *format, ...)
{
    struct config_error *error;
    va_list arguments;

    errors->total++;
    if (errors->count == CONFIG_ERRORS_MAX)
        return;
    error = &errors->items[errors->count++];
    error->line = line;
    error->column = column;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof(error->text), format, arguments);
    va_end(arguments);
}

int
config_error_format(const struct config_errors *errors, size_t index, char *out, size_t size)
{
    const struct config_error *error = &errors->items[index];

    assert(index < errors->count);
    if (error->line == 0)
        return snprintf(out, size, "%s: %s", errors->path, error->text);
    return snprintf(out, size, "%s:%zu:%zu: %s", errors->path, error->line, error->column,
                    error->text);
}

void
config_errors_tell(const struct config_errors *errors, config_errors_told *tell, void *context)
{
    char line[CONFIG_PATH_MAX + CONFIG_ERROR_TEXT_MAX + 64];

    for (size_t i = 0; i < errors->count; i++) {
        config_error_format(errors, i, line, sizeof(line));
        tell(context, line);
    }
    if (errors->total > errors->count) {
        snprintf(line, sizeof(line), "%s: %zu more errors", errors->path,
                 errors->total - errors->count);
        tell(context, line);
    }
}

/* Characters beyond ASCII that do not show, or that change what is around them: the C1 controls,
 * joiners, line separators, and those that turn the direction of writing. */
static bool
is_invisible(uint32_t character)
{
    return (character >= 0x80 && character < 0xa0) || character == 0xad || character == 0x61c
           || (character >= 0x200b && character <= 0x200f)
           || (character >= 0x2028 && character <= 0x202e)
           || (character >= 0x2060 && character <= 0x206f) || character == 0xfeff
           || character >= 0xe0000;
}

/* The size of the character at the front if it can be shown as it is, else 0. The text is valid
 * UTF-8 as far as libyaml has read it; what is not, is not shown. */
static size_t
printable_size(struct slice text)
{
    const unsigned char *bytes = (const unsigned char *)text.data;
    size_t size = bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
    uint32_t character;

    if (bytes[0] < 0x80)
        return bytes[0] >= ' ' && bytes[0] <= '~' && bytes[0] != '\\' ? 1 : 0;
    if (bytes[0] < 0xc2 || bytes[0] > 0xf4 || size > text.size)
        return 0;
    character = bytes[0] & (0x7fU >> size);
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        character = (character << 6) | (bytes[i] & 0x3fU);
    }
    return is_invisible(character) ? 0 : size;
}

/* Escapes into `size` bytes with the 0; what does not fit is cut at a character, and "..." says so.
 */
static void
escape(struct slice text, char *out, size_t size)
{
    const size_t room = size - sizeof("...");
    size_t used = 0;

    while (text.size > 0) {
        size_t shown = printable_size(text);
        size_t needed = shown > 0 ? shown : text.data[0] == '\\' ? 2 : 4;

        if (used + needed > room) {
            memcpy(out + used, "...", 3);
            used += 3;
            break;
        }
        if (shown > 0)
            memcpy(out + used, text.data, shown);
        else if (text.data[0] == '\\')
            memcpy(out + used, "\\\\", 2);
        else
            snprintf(out + used, needed + 1, "\\x%02x", (unsigned)(unsigned char)text.data[0]);
        used += needed;
        text.data += shown > 0 ? shown : 1;
        text.size -= shown > 0 ? shown : 1;
    }
    out[used] = '\0';
}

const char *
config_escape(struct slice text, char out[CONFIG_QUOTE_MAX])
{
    escape(text, out, CONFIG_QUOTE_MAX);
    return out;
}

const char *
config_scalar_describe(struct config_scalar scalar, char out[CONFIG_QUOTE_MAX])
{
    char inside[CONFIG_QUOTE_MAX - sizeof("\"\" in quotes") + 1];

    if (config_scalar_is_null(scalar)) {
        snprintf(out, CONFIG_QUOTE_MAX, "nothing");
    } else if (scalar.is_plain) {
        escape(scalar.text, out, CONFIG_QUOTE_MAX);
    } else {
        escape(scalar.text, inside, sizeof(inside));
        snprintf(out, CONFIG_QUOTE_MAX, "\"%s\" in quotes", inside);
    }
    return out;
}
