/* Content properties: what can be decoded is, encoded again, decoded to the same. */
#include <string.h>

#include "amqp/properties.h"
#include "amqp/wire.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct amqp_properties properties;
    if (!amqp_properties_decode((struct slice){(const char *)data, size}, &properties))
        return 0;
    size_t needed = amqp_properties_size(&properties);
    uint8_t *first = malloc(2 * needed);
    FUZZ_REQUIRE(first != NULL);
    struct amqp_writer writer = amqp_writer_of(first, needed);
    amqp_properties_encode(&writer, &properties);
    FUZZ_REQUIRE(!writer.overflow && (size_t)(writer.at - first) == needed);
    FUZZ_REQUIRE(amqp_properties_decode((struct slice){(char *)first, needed}, &properties));
    writer = amqp_writer_of(first + needed, needed);
    amqp_properties_encode(&writer, &properties);
    FUZZ_REQUIRE(!writer.overflow && memcmp(first, first + needed, needed) == 0);
    free(first);
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    struct amqp_properties properties = {
        .flags = AMQP_HAS_CONTENT_TYPE | AMQP_HAS_DELIVERY_MODE | AMQP_HAS_EXPIRATION
                 | AMQP_HAS_HEADERS | AMQP_HAS_TIMESTAMP,
        .content_type = SLICE("text/plain"),
        .delivery_mode = 2,
        .expiration = SLICE("60000"),
        .headers = SLICE("\002CCA\0\0\0\006S\0\0\0\001k"),
        .timestamp = 1700000000,
    };
    if (number > 0)
        return 0;
    struct amqp_writer writer = amqp_writer_of(out, capacity);
    amqp_properties_encode(&writer, &properties);
    return (size_t)(writer.at - out);
}
