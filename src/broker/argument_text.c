/* Values of arguments as the texts of errors print them. */
#include "broker/argument_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"

void
argument_print_bytes(char text[ARGUMENT_TEXT_SIZE], struct slice bytes)
{
    bool is_utf8 = amqp_is_utf8(bytes);
    size_t size = bytes.size < ARGUMENT_TEXT_SIZE ? bytes.size : ARGUMENT_TEXT_SIZE - 1;

    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)bytes.data[i];

        text[i] = (byte < 0x20 || byte == 0x7F || (byte >= 0x80 && !is_utf8)) ? '?' : bytes.data[i];
    }
    text[size] = '\0';
}

/* The shortest digits that give the number back, with a point, as Erlang prints it. */
static void
print_real(char text[ARGUMENT_TEXT_SIZE], double real)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, ARGUMENT_TEXT_SIZE, "%.*g", digits, real);
        if (strtod(text, NULL) == real)
            break;
    }
    if (strpbrk(text, ".en") == NULL)
        strcat(text, ".0");
}

void
argument_print_value(char text[ARGUMENT_TEXT_SIZE], const struct amqp_value *value)
{
    text[0] = '\0';
    if (amqp_value_is_integer(value)) {
        snprintf(text, ARGUMENT_TEXT_SIZE, "%" PRId64, value->integer);
        return;
    }
    switch (value->type) {
    case 't':
        snprintf(text, ARGUMENT_TEXT_SIZE, "%s", value->boolean ? "true" : "false");
        break;
    case 'T':
        snprintf(text, ARGUMENT_TEXT_SIZE, "%" PRIu64, value->timestamp);
        break;
    case 'f':
    case 'd':
        print_real(text, value->real);
        break;
    case 'D':
        snprintf(text, ARGUMENT_TEXT_SIZE, "%" PRId32 "e-%u", value->decimal.value,
                 (unsigned)value->decimal.scale);
        break;
    case 'S':
    case 'x':
        argument_print_bytes(text, value->bytes);
        break;
    case 'A':
        snprintf(text, ARGUMENT_TEXT_SIZE, "[...]");
        break;
    case 'F':
        snprintf(text, ARGUMENT_TEXT_SIZE, "{...}");
        break;
    default:
        snprintf(text, ARGUMENT_TEXT_SIZE, "undefined");
        break;
    }
}

void
argument_print_side(char text[ARGUMENT_SIDE_SIZE], const struct amqp_value *value,
                    bool is_other_none)
{
    char printed[ARGUMENT_TEXT_SIZE];

    if (value == NULL || (value->type == 'V' && !is_other_none)) {
        snprintf(text, ARGUMENT_SIDE_SIZE, "none");
        return;
    }
    argument_print_value(printed, value);
    if (is_other_none)
        snprintf(text, ARGUMENT_SIDE_SIZE, "the value '%s' of type '%s'", printed,
                 amqp_value_type_name(value->type));
    else
        snprintf(text, ARGUMENT_SIDE_SIZE, "'%s'", printed);
}
