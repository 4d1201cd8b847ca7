/* The path of a request: cut at its slashes, and each part with its percent-escapes decoded, so
 * that a name may have any character, slashes among them ("%2F" is the vhost "/"). */
#ifndef ADMIN_PATH_H
#define ADMIN_PATH_H

#include <stddef.h>

#include "amqp/slice.h"
#include "base/compiler.h"

enum {
    ADMIN_PATH_PARTS = 8,  /* more than any route has */
    ADMIN_PATH_MAX = 4096, /* bytes, escaped: four names of 255 bytes, each byte as %XX */
};

/* The parts point into the text. */
struct admin_path {
    struct slice parts[ADMIN_PATH_PARTS];
    size_t count;
    char text[ADMIN_PATH_MAX];
};

/* "/api/users/a%20b" is "api", "users" and "a b". Dots mean nothing here. -EINVAL: it does not
 * begin with a slash, an escape is none, or a part is not UTF-8 or has a 0; -E2BIG: longer or of
 * more parts than fit. */
MUST_CHECK int admin_path_parse(struct admin_path *path, struct slice url);

/* Decodes the escapes of a part that is not longer than the room at out, to which *part then
 * points. -EINVAL, as above. */
MUST_CHECK int admin_path_decode(struct slice escaped, char *out, struct slice *part);

#endif
