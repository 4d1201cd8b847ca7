/* Socket addresses and their texts: see net/address.h. */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

enum { HOST_MAX = 256 };

PRINTF_LIKE(2, 3)
static int
fail(char error[ADDRESS_ERROR_MAX], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(error, ADDRESS_ERROR_MAX, format, arguments);
    va_end(arguments);
    return -1;
}

static bool
parse_port(const char *text, uint16_t *port)
{
    unsigned value = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (unsigned)(*text - '0');
        if (value > UINT16_MAX)
            return false;
    }
    *port = (uint16_t)value;
    return true;
}

/* Cuts "HOST:PORT", "[HOST]:PORT" or "PORT" into its parts; host is "" when there is none or "*".
 */
MUST_CHECK static int
split(const char *text, char host[HOST_MAX], uint16_t *port, char error[ADDRESS_ERROR_MAX])
{
    const char *colon = strrchr(text, ':');
    const char *begin = text, *end = colon;

    host[0] = '\0';
    if (!parse_port(colon != NULL ? colon + 1 : text, port))
        return fail(error, "\"%.100s\" does not end in a port from 0 to 65535", text);
    if (colon == NULL || (colon == text + 1 && *text == '*'))
        return 0;
    if (*text == '[') {
        begin = text + 1;
        end = colon - 1;
        if (end < begin || *end != ']')
            return fail(error, "\"%.100s\": no \"]\" before the port", text);
    }
    if (end == begin)
        return fail(error, "\"%.100s\" has no address before the port (all addresses are \"*\")",
                    text);
    if ((size_t)(end - begin) >= HOST_MAX)
        return fail(error, "\"%.100s...\" is too long for an address", text);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    if (*text != '[' && strchr(host, ':') != NULL)
        return fail(error, "\"%.100s\": write IPv6 addresses in brackets, as in \"[::1]:5672\"",
                    text);
    return 0;
}

static bool
address_equal(const struct address *a, const struct address *b)
{
    return a->size == b->size && memcmp(&a->storage, &b->storage, a->size) == 0;
}

/* Adds an address that is not there yet. */
static void
add(struct address *addresses, size_t capacity, size_t *count, const void *socket_address,
    socklen_t size)
{
    struct address *next = &addresses[*count];

    if (*count == capacity || size > sizeof(next->storage))
        return;
    *next = (struct address){.size = size};
    memcpy(&next->storage, socket_address, size);
    for (size_t i = 0; i < *count; i++) {
        if (address_equal(&addresses[i], next))
            return;
    }
    ++*count;
}

static void
add_all_of_machine(struct address *addresses, size_t capacity, size_t *count, uint16_t port)
{
    struct sockaddr_in ip4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 ip6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

    ip4.sin_addr.s_addr = htonl(INADDR_ANY);
    ip6.sin6_addr = in6addr_any;
    add(addresses, capacity, count, &ip4, sizeof(ip4));
    add(addresses, capacity, count, &ip6, sizeof(ip6));
}

int
address_resolve_listen(const char *text, struct address *addresses, size_t capacity, size_t *count,
                       char error[ADDRESS_ERROR_MAX])
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_PASSIVE,
    };
    struct addrinfo *found;
    char host[HOST_MAX];
    uint16_t port = 0;
    int result;

    *count = 0;
    if (split(text, host, &port, error) != 0)
        return -1;
    if (host[0] == '\0') {
        add_all_of_machine(addresses, capacity, count, port);
        return 0;
    }
    result = getaddrinfo(host, NULL, &hints, &found);
    if (result == EAI_SYSTEM)
        return fail(error, "cannot look up \"%.100s\": %s", host, strerror(errno));
    if (result != 0)
        return fail(error, "cannot look up \"%.100s\": %s", host, gai_strerror(result));
    for (struct addrinfo *each = found; each != NULL; each = each->ai_next) {
        size_t before = *count;

        if (each->ai_family != AF_INET && each->ai_family != AF_INET6)
            continue;
        add(addresses, capacity, count, each->ai_addr, each->ai_addrlen);
        if (*count > before)
            address_set_port(&addresses[before], port);
    }
    freeaddrinfo(found);
    return *count > 0 ? 0 : fail(error, "\"%.100s\" has no IP address", host);
}

uint16_t
address_port(const struct address *address)
{
    switch (address->storage.ss_family) {
    case AF_INET:
        return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
    case AF_INET6:
        return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
    default:
        return 0;
    }
}

void
address_set_port(struct address *address, uint16_t port)
{
    if (address->storage.ss_family == AF_INET)
        ((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
    else if (address->storage.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address->storage)->sin6_port = htons(port);
}

/* "unix:" and the path; an abstract name, which begins with a 0, is shown with "@". */
static void
unix_text(const struct address *address, char out[ADDRESS_TEXT_MAX])
{
    const struct sockaddr_un *local = (const struct sockaddr_un *)&address->storage;
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    size_t size = address->size > offset ? address->size - offset : 0;

    if (size > sizeof(local->sun_path))
        size = sizeof(local->sun_path);
    if (size > 0 && local->sun_path[0] == '\0')
        snprintf(out, ADDRESS_TEXT_MAX, "unix:@%.*s", (int)(size - 1), local->sun_path + 1);
    else
        snprintf(out, ADDRESS_TEXT_MAX, "unix:%.*s", (int)size, local->sun_path);
}

const char *
address_host_text(const struct address *address, char out[ADDRESS_TEXT_MAX])
{
    if (address->storage.ss_family == AF_UNIX)
        unix_text(address, out);
    else if (getnameinfo((const struct sockaddr *)&address->storage, address->size, out,
                         ADDRESS_TEXT_MAX - 16, NULL, 0, NI_NUMERICHOST)
             != 0)
        snprintf(out, ADDRESS_TEXT_MAX, "unknown");
    return out;
}

const char *
address_text(const struct address *address, char out[ADDRESS_TEXT_MAX])
{
    char host[ADDRESS_TEXT_MAX];
    bool is_ip6 = address->storage.ss_family == AF_INET6;

    address_host_text(address, host);
    if (!is_ip6 && address->storage.ss_family != AF_INET)
        memcpy(out, host, sizeof(host));
    else
        snprintf(out, ADDRESS_TEXT_MAX, "%s%.*s%s:%u", is_ip6 ? "[" : "", ADDRESS_TEXT_MAX - 16,
                 host, is_ip6 ? "]" : "", (unsigned)address_port(address));
    return out;
}

int
address_of_socket(int fd, struct address *address)
{
    *address = (struct address){.size = sizeof(address->storage)};
    return getsockname(fd, (struct sockaddr *)&address->storage, &address->size) == 0 ? 0 : -errno;
}

int
address_of_peer(int fd, struct address *address)
{
    *address = (struct address){.size = sizeof(address->storage)};
    return getpeername(fd, (struct sockaddr *)&address->storage, &address->size) == 0 ? 0 : -errno;
}

bool
address_is_loopback(const struct address *address)
{
    if (address->is_elsewhere)
        return false;
    switch (address->storage.ss_family) {
    case AF_UNIX:
        return true;
    case AF_INET:
        return ntohl(((const struct sockaddr_in *)&address->storage)->sin_addr.s_addr) >> 24
               == IN_LOOPBACKNET;
    case AF_INET6: {
        const struct in6_addr *ip6 = &((const struct sockaddr_in6 *)&address->storage)->sin6_addr;

        return IN6_IS_ADDR_LOOPBACK(ip6) || (IN6_IS_ADDR_V4MAPPED(ip6) && ip6->s6_addr[12] == 127);
    }
    default:
        return false;
    }
}
