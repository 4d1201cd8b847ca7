/* Reading amqp:// and amqps:// addresses. See uri.h. */
#include "perf/uri.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Copies [from, end) into part and decodes %xx on the way. */
static bool
part_decode(char part[URI_PART_SIZE], const char *from, const char *end)
{
    size_t size = 0;
    while (from < end) {
        char c = *from++;
        if (c == '%') {
            int high = end - from >= 2 ? hex_digit(from[0]) : -1;
            int low = end - from >= 2 ? hex_digit(from[1]) : -1;
            if (high < 0 || low < 0 || (high == 0 && low == 0))
                return false;
            c = (char)(high << 4 | low);
            from += 2;
        }
        if (size + 1 >= URI_PART_SIZE)
            return false;
        part[size++] = c;
    }
    part[size] = '\0';
    return true;
}

static bool
port_parse(char port[8], const char *from, const char *end)
{
    size_t size = (size_t)(end - from);
    if (size == 0)
        return true; /* "host:" is allowed and means the default */
    if (size > 5)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (!isdigit((unsigned char)from[i]))
            return false;
    }
    memcpy(port, from, size);
    port[size] = '\0';
    long number = strtol(port, NULL, 10);
    return number >= 1 && number <= UINT16_MAX;
}

static bool
host_and_port_parse(struct uri *uri, const char *from, const char *end)
{
    const char *host_end;
    if (from < end && *from == '[') {
        host_end = memchr(from, ']', (size_t)(end - from));
        if (!host_end || !part_decode(uri->host, from + 1, host_end))
            return false;
        host_end++;
        if (host_end < end && *host_end != ':')
            return false;
    } else {
        host_end = memchr(from, ':', (size_t)(end - from));
        if (!host_end)
            host_end = end;
        if (host_end > from && !part_decode(uri->host, from, host_end))
            return false;
    }
    return host_end == end || port_parse(uri->port, host_end + 1, end);
}

int
uri_parse(struct uri *uri, const char *text, char *error, size_t error_size)
{
    *uri = (struct uri){
        .user = "guest", .password = "guest", .host = "127.0.0.1", .port = "5672", .vhost = "/"};
    uri->is_tls = strncasecmp(text, "amqps://", 8) == 0;
    if (!uri->is_tls && strncasecmp(text, "amqp://", 7) != 0) {
        snprintf(error, error_size, "\"%s\" begins with neither amqp:// nor amqps://", text);
        return -1;
    }
    if (uri->is_tls)
        snprintf(uri->port, sizeof(uri->port), "5671");
    const char *at = text + (uri->is_tls ? 8 : 7);
    const char *query = strchr(at, '?');
    const char *end = query ? query : at + strlen(at);
    const char *slash = memchr(at, '/', (size_t)(end - at));
    const char *authority_end = slash ? slash : end;

    bool ok = true;
    const char *user_end = memchr(at, '@', (size_t)(authority_end - at));
    if (user_end) {
        const char *colon = memchr(at, ':', (size_t)(user_end - at));
        ok = part_decode(uri->user, at, colon ? colon : user_end);
        if (ok && colon)
            ok = part_decode(uri->password, colon + 1, user_end);
        at = user_end + 1;
    }
    ok = ok && host_and_port_parse(uri, at, authority_end);
    if (ok && slash)
        ok = part_decode(uri->vhost, slash + 1, end);
    if (!ok) {
        snprintf(error, error_size,
                 "\"%s\" is not an address of the form "
                 "amqp://user:password@host:port/vhost",
                 text);
        return -1;
    }
    return 0;
}
