/* How the texts of errors print the values of arguments: as RabbitMQ does, except that a value of
 * many values is not printed whole. What is printed is UTF-8, as a reply has to be, whatever the
 * client sent. */
#ifndef BROKER_ARGUMENT_TEXT_H
#define BROKER_ARGUMENT_TEXT_H

#include <stdbool.h>

#include "amqp/slice.h"
#include "amqp/table.h"

/* What a reply text can hold of a value, with the terminator. */
#define ARGUMENT_TEXT_SIZE 256u
#define ARGUMENT_SIDE_SIZE (ARGUMENT_TEXT_SIZE + 64u)

/* The bytes as text that a reply may carry: a reply is UTF-8, a long string is any bytes. What does
 * not fit is left out; the reply is cut before that point anyhow. */
void argument_print_bytes(char text[ARGUMENT_TEXT_SIZE], struct slice bytes);

/* A value as RabbitMQ prints it. It fails to print decimals, and tables (541); here they have a
 * form too. */
void argument_print_value(char text[ARGUMENT_TEXT_SIZE], const struct amqp_value *value);

/* One side of "received ... but current is ...": "none" (for a void value too), "'5'", or, where
 * the other side has none, "the value '5' of type 'long'". NULL: there is no such argument. */
void argument_print_side(char text[ARGUMENT_SIDE_SIZE], const struct amqp_value *value,
                         bool is_other_none);

#endif
