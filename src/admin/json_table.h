/* Field tables of AMQP as JSON and back, as RabbitMQ's management API writes them: arguments, and
 * what policies say. */
#ifndef ADMIN_JSON_TABLE_H
#define ADMIN_JSON_TABLE_H

#include <jansson.h>

#include "amqp/table.h"
#include "base/compiler.h"

/* The content of a validated table as an object, which the caller owns. Of a name that it has twice
 * the first counts. Decimals and floats become numbers, times seconds, and what is no text in UTF-8
 * has U+FFFD where it is not. NULL: out of memory. */
json_t *json_of_table(struct slice table);

/* Bytes as a text. If they are not UTF-8, each that is not ASCII is replaced by U+FFFD. NULL: out
 * of memory. */
json_t *json_of_bytes(struct slice bytes);

/* Puts what is in the object into the table under construction: integers as 64 bits, other numbers
 * as doubles. 0; -EINVAL: it has no form as a table (a name of more than 255 bytes, too deep);
 * -ENOMEM. */
MUST_CHECK int json_to_table(const json_t *object, struct amqp_table_builder *builder);

#endif
