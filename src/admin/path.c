/* The path of a request: see the header. */
#include "admin/path.h"

#include <errno.h>

#include "amqp/wire.h"

static int
digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int
admin_path_decode(struct slice escaped, char *out, struct slice *part)
{
    size_t size = 0;
    for (size_t i = 0; i < escaped.size; i++) {
        char c = escaped.data[i];
        if (c == '%') {
            if (escaped.size - i < 3 || digit(escaped.data[i + 1]) < 0
                || digit(escaped.data[i + 2]) < 0)
                return -EINVAL;
            c = (char)(digit(escaped.data[i + 1]) * 16 + digit(escaped.data[i + 2]));
            i += 2;
        }
        if (c == 0)
            return -EINVAL;
        out[size++] = c;
    }
    *part = (struct slice){out, size};
    return amqp_is_utf8(*part) ? 0 : -EINVAL;
}

int
admin_path_parse(struct admin_path *path, struct slice url)
{
    char *out = path->text;
    path->count = 0;
    if (url.size > ADMIN_PATH_MAX)
        return -E2BIG;
    if (url.size == 0 || url.data[0] != '/')
        return -EINVAL;
    const char *at = url.data, *end = url.data + url.size;
    while (at < end) {
        const char *begin = at + 1; /* after a slash */
        const char *slash = memchr(begin, '/', (size_t)(end - begin));
        at = slash != NULL ? slash : end;
        if (path->count == ADMIN_PATH_PARTS)
            return -E2BIG;
        struct slice *part = &path->parts[path->count];
        if (admin_path_decode((struct slice){begin, (size_t)(at - begin)}, out, part) != 0)
            return -EINVAL;
        out += part->size;
        path->count++;
    }
    return 0;
}
