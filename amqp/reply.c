/* Reply codes by number, and the making of reply texts. */
#include "amqp/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What a shortstr holds. */
#define TEXT_MAX (sizeof(((struct amqp_error *)0)->text) - 1)

static const char cut_mark[] = "...";

const char *
amqp_reply_name(uint16_t code)
{
    switch (code) {
#define REPLY(code_, name, is_hard)                                                                \
    case code_:                                                                                    \
        return #name;
#include "amqp/reply_codes.def"
    default:
        return NULL;
    }
}

bool
amqp_reply_is_hard(uint16_t code)
{
    switch (code) {
#define REPLY(code_, name, is_hard)                                                                \
    case code_:                                                                                    \
        return is_hard;
#include "amqp/reply_codes.def"
    default:
        return true;
    }
}

/* Ends a text that did not fit with the mark, so that it stays whole characters. */
static void
cut_text(char text[TEXT_MAX + 1])
{
    size_t at = TEXT_MAX - (sizeof(cut_mark) - 1);

    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    memcpy(text + at, cut_mark, sizeof(cut_mark));
}

void
amqp_error_set(struct amqp_error *error, uint16_t code, const char *format, ...)
{
    const char *name = amqp_reply_name(code);
    size_t prefix = 0;
    va_list arguments;
    int length;

    if (name != NULL)
        prefix = (size_t)snprintf(error->text, sizeof(error->text), "%s - ", name);
    va_start(arguments, format);
    length = vsnprintf(error->text + prefix, sizeof(error->text) - prefix, format, arguments);
    va_end(arguments);
    error->code = code;
    if (length < 0)
        error->text[prefix] = '\0';
    else if ((size_t)length > TEXT_MAX - prefix)
        cut_text(error->text);
}
