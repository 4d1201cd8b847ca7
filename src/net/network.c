/* Networks: see the header. */
#include "net/network.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

enum { MAPPED_BITS = 96 };

static bool
is_mapped(const uint8_t address[16])
{
    return memcmp(address, mapped, sizeof(mapped)) == 0;
}

/* Digits without leading zeros, up to the end. */
static bool
parse_prefix(const char *text, unsigned most, unsigned *prefix)
{
    size_t size = strspn(text, "0123456789");

    if (size == 0 || size > 3 || text[size] != '\0' || (size > 1 && text[0] == '0'))
        return false;
    *prefix = 0;
    for (size_t i = 0; i < size; i++)
        *prefix = *prefix * 10 + (unsigned)(text[i] - '0');
    return *prefix <= most;
}

/* Is this bit, and every one after it, 0? */
static bool
is_clear_from(const uint8_t address[16], unsigned bit)
{
    for (; bit < 128; bit++)
        if ((address[bit / 8] & (0x80U >> (bit % 8))) != 0)
            return false;
    return true;
}

bool
network_parse(const char *text, struct network *network)
{
    char host[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t size = slash != NULL ? (size_t)(slash - text) : strlen(text);
    struct network parsed = {.prefix = 0};
    unsigned prefix;
    bool is_ip4;

    if (size >= sizeof(host))
        return false;
    memcpy(host, text, size);
    host[size] = '\0';
    memcpy(parsed.address, mapped, sizeof(mapped));
    is_ip4 = inet_pton(AF_INET, host, parsed.address + sizeof(mapped)) == 1;
    if (!is_ip4 && inet_pton(AF_INET6, host, parsed.address) != 1)
        return false;
    prefix = is_ip4 ? 32 : 128;
    if (slash != NULL && !parse_prefix(slash + 1, prefix, &prefix))
        return false;
    parsed.prefix = (uint8_t)(prefix + (is_ip4 ? MAPPED_BITS : 0));
    if (!is_clear_from(parsed.address, parsed.prefix))
        return false;
    *network = parsed;
    return true;
}

const char *
network_text(const struct network *network, char out[NETWORK_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN];
    bool is_ip4 = network->prefix >= MAPPED_BITS && is_mapped(network->address);
    unsigned most = is_ip4 ? 32 : 128;
    unsigned prefix = network->prefix - (is_ip4 ? MAPPED_BITS : 0U);

    inet_ntop(is_ip4 ? AF_INET : AF_INET6, network->address + (is_ip4 ? sizeof(mapped) : 0), host,
              sizeof(host));
    if (prefix == most)
        snprintf(out, NETWORK_TEXT_MAX, "%s", host);
    else
        snprintf(out, NETWORK_TEXT_MAX, "%s/%u", host, prefix);
    return out;
}

static bool
contains(const struct network *network, const uint8_t address[16])
{
    unsigned whole = network->prefix / 8, rest = network->prefix % 8;

    if (memcmp(network->address, address, whole) != 0)
        return false;
    return rest == 0 || ((network->address[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

bool
networks_contain(const struct networks *networks, const struct address *address)
{
    uint8_t bytes[16];

    if (address->storage.ss_family == AF_INET) {
        memcpy(bytes, mapped, sizeof(mapped));
        memcpy(bytes + sizeof(mapped), &((const struct sockaddr_in *)&address->storage)->sin_addr,
               4);
    } else if (address->storage.ss_family == AF_INET6) {
        memcpy(bytes, &((const struct sockaddr_in6 *)&address->storage)->sin6_addr, sizeof(bytes));
    } else {
        return false;
    }
    for (size_t i = 0; i < networks->count; i++)
        if (contains(&networks->items[i], bytes))
            return true;
    return false;
}
