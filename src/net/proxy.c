/* The PROXY protocol: see the header. Version 1 is a line of text, version 2 a binary header with
 * addresses and then fields (TLVs), of which only the checksum matters here. */
#include "net/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#include "base/crc32c.h"

static const char text_signature[] = "PROXY ";
static const uint8_t binary_signature[12] = "\r\n\r\n\0\r\nQUIT\n";

enum {
    TEXT_SIGNATURE_SIZE = sizeof(text_signature) - 1,
    BINARY_FIXED_SIZE = 16, /* signature, version and command, family, length */
    BINARY_VERSION = 2,
    BINARY_LOCAL = 0, /* commands */
    BINARY_PROXY = 1,
    BINARY_STREAM = 1, /* transport */
    TLV_HEAD_SIZE = 3,
    TLV_CRC32C = 3,
};

static enum proxy_result
bad(const char **reason, const char *text)
{
    *reason = text;
    return PROXY_BAD;
}

/* --- Version 1 -------------------------------------------------------------------------------- */

/* The next word of the line: up to a space or its end, and not empty. */
static bool
take_word(const char **at, char *out, size_t size)
{
    size_t length = strcspn(*at, " ");

    if (length == 0 || length >= size)
        return false;
    memcpy(out, *at, length);
    out[length] = '\0';
    *at += length;
    return true;
}

static bool
take_space(const char **at)
{
    return *(*at)++ == ' ';
}

/* 0 to 65535, without leading zeros. */
static bool
parse_port(const char *text, uint16_t *port)
{
    unsigned value = 0;
    size_t size = strlen(text);

    if (size == 0 || size > 5 || (size > 1 && text[0] == '0') || strspn(text, "0123456789") != size)
        return false;
    for (size_t i = 0; i < size; i++)
        value = value * 10 + (unsigned)(text[i] - '0');
    *port = (uint16_t)value;
    return value <= UINT16_MAX;
}

static bool
make_address(int family, const char *host, uint16_t port, struct address *address)
{
    struct sockaddr_in *ip4 = (struct sockaddr_in *)&address->storage;
    struct sockaddr_in6 *ip6 = (struct sockaddr_in6 *)&address->storage;

    *address = (struct address){.size = family == AF_INET ? sizeof(*ip4) : sizeof(*ip6)};
    address->storage.ss_family = (sa_family_t)family;
    address_set_port(address, port);
    return inet_pton(family, host, family == AF_INET ? (void *)&ip4->sin_addr : &ip6->sin6_addr)
           == 1;
}

/* What is between "PROXY " and the line end, as a string without 0 bytes in it. */
static bool
parse_line(const char *at, struct proxy_header *header)
{
    char protocol[8], source[INET6_ADDRSTRLEN], destination[INET6_ADDRSTRLEN];
    char source_port[6], destination_port[6];
    uint16_t port, ignored_port;
    struct address ignored;
    int family;

    if (strncmp(at, "UNKNOWN", 7) == 0 && (at[7] == '\0' || at[7] == ' ')) {
        header->is_unknown = true; /* whatever follows is to be ignored */
        return true;
    }
    if (!take_word(&at, protocol, sizeof(protocol)) || !take_space(&at)
        || !take_word(&at, source, sizeof(source)) || !take_space(&at)
        || !take_word(&at, destination, sizeof(destination)) || !take_space(&at)
        || !take_word(&at, source_port, sizeof(source_port)) || !take_space(&at)
        || !take_word(&at, destination_port, sizeof(destination_port)) || *at != '\0')
        return false;
    family = strcmp(protocol, "TCP4") == 0 ? AF_INET : AF_INET6;
    if (family == AF_INET6 && strcmp(protocol, "TCP6") != 0)
        return false;
    header->has_source = true;
    return parse_port(source_port, &port) && parse_port(destination_port, &ignored_port)
           && make_address(family, source, port, &header->source)
           && make_address(family, destination, 0, &ignored);
}

static enum proxy_result
parse_text(const uint8_t *data, size_t size, struct proxy_header *header, const char **reason)
{
    char line[PROXY_TEXT_MAX + 1];
    size_t looked = size < PROXY_TEXT_MAX ? size : PROXY_TEXT_MAX;
    const uint8_t *end = memchr(data, '\n', looked);
    size_t length = end != NULL ? (size_t)(end - data) : looked;

    if (end == NULL && looked == PROXY_TEXT_MAX)
        return bad(reason, "a PROXY line longer than 107 bytes");
    if (memchr(data, '\0', length) != NULL)
        return bad(reason, "a PROXY line with a 0 byte");
    if (end == NULL) {
        /* A line end that has begun must go on. */
        const uint8_t *carriage = memchr(data, '\r', length);
        return carriage == NULL || carriage == data + length - 1
                   ? PROXY_INCOMPLETE
                   : bad(reason, "a PROXY line that does not end in CR LF");
    }
    if (data[length - 1] != '\r' || memchr(data, '\r', length - 1) != NULL)
        return bad(reason, "a PROXY line that does not end in CR LF");
    memcpy(line, data, length - 1);
    line[length - 1] = '\0';
    *header = (struct proxy_header){.size = length + 1};
    if (!parse_line(line + TEXT_SIGNATURE_SIZE, header))
        return bad(reason, "a PROXY line with wrong addresses");
    return PROXY_OK;
}

/* --- Version 2 -------------------------------------------------------------------------------- */

static size_t
load_u16(const uint8_t *at)
{
    return (size_t)at[0] << 8 | at[1];
}

/* The checksum is right when it is that of the header with 0 in its place (section 2.2.4). */
static bool
has_right_checksum(const uint8_t *data, size_t size, size_t place)
{
    uint8_t copy[PROXY_HEADER_MAX];
    uint32_t told = (uint32_t)(load_u16(data + place) << 16 | load_u16(data + place + 2));

    memcpy(copy, data, size);
    memset(copy + place, 0, 4);
    return crc32c(0, copy, size) == told;
}

static bool
check_fields(const uint8_t *data, size_t size, size_t at, const char **reason)
{
    while (at < size) {
        size_t length;

        if (size - at < TLV_HEAD_SIZE || load_u16(data + at + 1) > size - at - TLV_HEAD_SIZE) {
            *reason = "a PROXY header with a field beyond its end";
            return false;
        }
        length = load_u16(data + at + 1);
        if (data[at] == TLV_CRC32C
            && (length != 4 || !has_right_checksum(data, size, at + TLV_HEAD_SIZE))) {
            *reason = "a PROXY header with a wrong checksum";
            return false;
        }
        at += TLV_HEAD_SIZE + length;
    }
    return true;
}

static void
make_binary_address(int family, const uint8_t *at, struct address *address)
{
    struct sockaddr_in *ip4 = (struct sockaddr_in *)&address->storage;
    struct sockaddr_in6 *ip6 = (struct sockaddr_in6 *)&address->storage;
    struct sockaddr_un *local = (struct sockaddr_un *)&address->storage;

    *address = (struct address){.storage = {.ss_family = (sa_family_t)family}};
    switch (family) {
    case AF_INET:
        address->size = sizeof(*ip4);
        memcpy(&ip4->sin_addr, at, 4);
        memcpy(&ip4->sin_port, at + 8, 2);
        break;
    case AF_INET6:
        address->size = sizeof(*ip6);
        memcpy(&ip6->sin6_addr, at, 16);
        memcpy(&ip6->sin6_port, at + 32, 2);
        break;
    default:
        memcpy(local->sun_path, at, sizeof(local->sun_path));
        address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path)
                                    + strnlen((const char *)at, sizeof(local->sun_path)));
        break;
    }
}

/* The address families by number: source, destination and ports take so many bytes. */
static const struct {
    int family;
    size_t size;
} families[] = {{AF_UNSPEC, 0}, {AF_INET, 12}, {AF_INET6, 36}, {AF_UNIX, 216}};

static enum proxy_result
parse_binary(const uint8_t *data, size_t size, struct proxy_header *header, const char **reason)
{
    unsigned version = data[12] >> 4, command = data[12] & 0xf;
    unsigned family = data[13] >> 4, transport = data[13] & 0xf;
    size_t whole = BINARY_FIXED_SIZE + load_u16(data + 14), addresses;

    if (version != BINARY_VERSION || command > BINARY_PROXY)
        return bad(reason, "a PROXY header of an unknown version or command");
    if (whole > PROXY_HEADER_MAX)
        return bad(reason, "a PROXY header longer than 4096 bytes");
    if (size < whole)
        return PROXY_INCOMPLETE;
    *header = (struct proxy_header){.size = whole};
    if (command == BINARY_LOCAL)
        return PROXY_OK;
    if (family == 0 && transport == 0) {
        header->is_unknown = true;
        return PROXY_OK;
    }
    if (family == 0 || family >= ARRAY_SIZE(families) || transport != BINARY_STREAM)
        return bad(reason, "a PROXY header of an unknown address family");
    addresses = BINARY_FIXED_SIZE + families[family].size;
    if (whole < addresses)
        return bad(reason, "a PROXY header too short for its addresses");
    if (!check_fields(data, whole, addresses, reason))
        return PROXY_BAD;
    header->has_source = true;
    make_binary_address(families[family].family, data + BINARY_FIXED_SIZE, &header->source);
    return PROXY_OK;
}

/* --- Either ----------------------------------------------------------------------------------- */

static bool
begins_with(const uint8_t *data, size_t size, const void *signature, size_t signature_size)
{
    return memcmp(data, signature, size < signature_size ? size : signature_size) == 0;
}

enum proxy_result
proxy_parse(const uint8_t *data, size_t size, struct proxy_header *header, const char **reason)
{
    if (size == 0)
        return PROXY_INCOMPLETE;
    if (begins_with(data, size, text_signature, TEXT_SIGNATURE_SIZE))
        return size < TEXT_SIGNATURE_SIZE ? PROXY_INCOMPLETE
                                          : parse_text(data, size, header, reason);
    if (begins_with(data, size, binary_signature, sizeof(binary_signature)))
        return size < BINARY_FIXED_SIZE ? PROXY_INCOMPLETE
                                        : parse_binary(data, size, header, reason);
    return bad(reason, "no PROXY header");
}

bool
proxy_looks_like(const uint8_t data[8])
{
    return memcmp(data, text_signature, TEXT_SIGNATURE_SIZE) == 0
           || memcmp(data, binary_signature, 8) == 0;
}
