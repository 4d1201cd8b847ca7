/* Paths of requests: what is taken comes out as text of no more bytes than went in, and written
 * again, with every byte escaped, it is the same path. */
#include <stdio.h>
#include <string.h>

#include "admin/path.h"
#include "amqp/wire.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct admin_path path, again;
    static char escaped[3 * ADMIN_PATH_MAX + ADMIN_PATH_PARTS + 1];
    size_t written = 0, bytes = 0;
    if (admin_path_parse(&path, (struct slice){(const char *)data, size}) != 0)
        return 0;
    FUZZ_REQUIRE(path.count > 0 && path.count <= ADMIN_PATH_PARTS);
    for (size_t i = 0; i < path.count; i++) {
        FUZZ_REQUIRE(amqp_is_utf8(path.parts[i]));
        bytes += path.parts[i].size;
        escaped[written++] = '/';
        for (size_t j = 0; j < path.parts[i].size; j++) {
            FUZZ_REQUIRE(path.parts[i].data[j] != 0);
            written += (size_t)snprintf(escaped + written, 4, "%%%02x",
                                        (unsigned)(uint8_t)path.parts[i].data[j]);
        }
    }
    FUZZ_REQUIRE(bytes + path.count <= size);
    if (written > ADMIN_PATH_MAX)
        return 0;
    FUZZ_REQUIRE(admin_path_parse(&again, (struct slice){escaped, written}) == 0);
    FUZZ_REQUIRE(again.count == path.count);
    for (size_t i = 0; i < path.count; i++)
        FUZZ_REQUIRE(slice_equal(again.parts[i], path.parts[i]));
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    static const char *const seeds[] = {"/api/permissions/%2F/guest",
                                        "/api/users/%C3%a9//",
                                        "/1/2/3/4/5/6/7/8",
                                        "/%",
                                        "/a%0",
                                        "//..%2e/%00"};
    if (number >= sizeof(seeds) / sizeof(seeds[0]) || strlen(seeds[number]) > capacity)
        return 0;
    memcpy(out, seeds[number], strlen(seeds[number]));
    return strlen(seeds[number]);
}
