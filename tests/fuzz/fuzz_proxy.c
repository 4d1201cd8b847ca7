/* PROXY headers: one that is cut is incomplete at every place, and what comes after it changes
 * nothing. So the gate, which takes bytes as they come, never takes one of the client's. */
#include <string.h>

#include "fuzz.h"
#include "net/proxy.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header header, again;
    const char *reason = NULL;
    char text[ADDRESS_TEXT_MAX];
    enum proxy_result whole = proxy_parse(data, size, &header, &reason);

    FUZZ_REQUIRE((whole == PROXY_BAD) == (reason != NULL));
    if (size >= 8 && !proxy_looks_like(data))
        FUZZ_REQUIRE(whole == PROXY_BAD);
    if (whole == PROXY_BAD)
        return 0;
    FUZZ_REQUIRE(whole == PROXY_INCOMPLETE || (header.size > 0 && header.size <= size));
    FUZZ_REQUIRE(whole == PROXY_OK || size < PROXY_HEADER_MAX);
    for (size_t part = 0; part < (whole == PROXY_OK ? header.size : size); part++)
        FUZZ_REQUIRE(proxy_parse(data, part, &again, &reason) == PROXY_INCOMPLETE);
    if (whole == PROXY_OK) {
        FUZZ_REQUIRE(proxy_parse(data, header.size, &again, &reason) == PROXY_OK);
        FUZZ_REQUIRE(again.size == header.size && again.has_source == header.has_source);
        if (header.has_source)
            FUZZ_REQUIRE(address_text(&header.source, text)[0] != '\0');
    }
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    static const char *const lines[] = {
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 5672\r\nAMQP",
        "PROXY TCP6 2001:db8::7 2001:db8::1 56324 5672\r\n",
        "PROXY UNKNOWN whatever\r\n",
    };
    static const uint8_t binary[] =
        "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xc0\0\x02\x07\xc6\x33\x64\x01"
        "\xdc\x04\x16\x28\x01\0\x02h2AMQP";
    const void *seed = number < 3 ? (const void *)lines[number] : binary;
    size_t size = number < 3 ? strlen(lines[number]) : sizeof(binary) - 1;

    if (number > 3 || size > capacity)
        return 0;
    memcpy(out, seed, size);
    return size;
}
