/* The configuration file: any text is either taken or refused with at least one error. */
#include <string.h>

#include "config/config.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct settings settings;
    static struct config_errors errors;
    settings_init(&settings);
    int status = config_load_text(&settings, "fuzz.yaml", (const char *)data, size, &errors);
    FUZZ_REQUIRE((status == 0) == (errors.total == 0));
    for (size_t i = 0; i < errors.count; i++) {
        char text[256];
        FUZZ_REQUIRE(config_error_format(&errors, i, text, sizeof(text)) > 0);
    }
    settings_fini(&settings);
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    static const char *const texts[] = {
        "data_dir: /var/lib/whippet\nlisten:\n  - 127.0.0.1:5672\n  - \"[::1]:5672\"\n"
        "threads: 3\nheartbeat: 60s\nlog:\n  level: debug\n  format: json\n"
        "limits:\n  frame_max: 128KiB\n  memory: 1GiB\n  consumer_timeout: 30m\n",
        "vhosts: [/a, {name: b}]\nloopback_users: []\nusers:\n  - name: anna\n    password: x\n"
        "    tags: [a, b]\n    permissions:\n      - {vhost: /, configure: a, write: .*, read: "
        "''}\n"
        "    topic_permissions:\n      - {vhost: /, exchange: t, write: ^x, read: y}\n"
        "  - {name: b, password_hash: ''}\n",
        "threads: [1, {a: b}]\nunknown: &anchor x\nlog: *anchor\n",
    };
    if (number >= sizeof(texts) / sizeof(texts[0]))
        return 0;
    size_t size = strlen(texts[number]);
    FUZZ_REQUIRE(size <= capacity);
    memcpy(out, texts[number], size);
    return size;
}
