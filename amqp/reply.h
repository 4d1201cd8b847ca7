/* Reply codes, and protocol errors as values: made where a rule is broken, sent in one place. */
#ifndef AMQP_REPLY_H
#define AMQP_REPLY_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__GNUC__)
#define AMQP_PRINTF(format_at, arguments_at)                                                       \
    __attribute__((format(printf, format_at, arguments_at)))
#else
#define AMQP_PRINTF(format_at, arguments_at)
#endif

/* The code of an orderly close; not an error. */
#define AMQP_REPLY_SUCCESS 200u

enum amqp_reply_code {
#define REPLY(code, name, is_hard) AMQP_REPLY_##name = (code),
#include "amqp/reply_codes.def"
};

/* What connection.close or channel.close will say. */
struct amqp_error {
    uint16_t code;                /* 0: no error */
    uint16_t class_id, method_id; /* the offending method, 0 and 0 if none */
    char text[256];               /* at most 255 bytes of UTF-8, terminated */
};

/* Sets code and text; the text becomes "<NAME> - <formatted>", and "<formatted>" alone for a code
 * that is none of the table's. A text over 255 bytes is cut at a character and ends in "...".
 * class_id and method_id are left as they are: whoever knows the method sets them. */
AMQP_PRINTF(3, 4)
void amqp_error_set(struct amqp_error *error, uint16_t code, const char *format, ...);

/* "NOT_FOUND" for 404; NULL for a code that is none of the table's. */
const char *amqp_reply_name(uint16_t code);

/* Whether the error closes the connection. Unknown codes do. */
bool amqp_reply_is_hard(uint16_t code);

#endif
