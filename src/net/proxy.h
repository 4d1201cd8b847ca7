/* The PROXY protocol, versions 1 and 2: what a load balancer says, before anything else, about the
 * client whose bytes it forwards (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt).
 *
 * Only the parser; it reads no socket. Whom to believe is the caller's business. */
#ifndef NET_PROXY_H
#define NET_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "net/address.h"

enum {
    PROXY_TEXT_MAX = 107, /* a header of version 1, with its line end (section 2.1) */
    /* A header of version 2: one may have 64 KiB, but nobody has that much to tell. */
    PROXY_HEADER_MAX = 4096,
};

enum proxy_result {
    PROXY_OK = 0,
    PROXY_INCOMPLETE = 1, /* so far it is one, and all bytes belong to it */
    PROXY_BAD = -1,
};

struct proxy_header {
    size_t size; /* bytes; what follows is the client's */
    /* Who the client is; not for LOCAL and UNKNOWN, which speak of the connection as it is. A Unix
     * socket's name is not known when its size is that of the family alone. */
    bool has_source;
    struct address source;
    bool is_unknown; /* it is a client's connection, and not said whose */
};

/* Looks at the bytes from the beginning of the connection. *header is set when they hold a whole
 * header (PROXY_OK); *reason, a static text for the log, when they are none (PROXY_BAD). */
MUST_CHECK enum proxy_result proxy_parse(const uint8_t *data, size_t size,
                                         struct proxy_header *header, const char **reason);

/* Do the first 8 bytes of something else look like the beginning of one? */
bool proxy_looks_like(const uint8_t data[8]);

#endif
