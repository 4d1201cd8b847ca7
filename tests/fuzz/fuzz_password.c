/* Hashes of passwords, which come from files and other brokers: any text is one or is none, and one
 * that is valid can be asked about any password. */
#include <string.h>

#include "auth/password.h"
#include "fuzz.h"

/* The password is what stands behind the first line. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *end = size == 0 ? NULL : memchr(data, '\n', size);
    struct slice hash = {text, end != NULL ? (size_t)(end - text) : size};
    struct slice password = {hash.data, 0};
    char made[PASSWORD_HASH_MAX];
    if (end != NULL)
        password = (struct slice){end + 1, size - hash.size - 1};
    if (!password_hash_is_valid(hash)) {
        FUZZ_REQUIRE(!password_is_right(password, hash));
        return 0;
    }
    FUZZ_REQUIRE(hash.size < PASSWORD_HASH_MAX);
    if (hash.size == 0)
        FUZZ_REQUIRE(!password_is_right(password, hash));
    if (password_hash_work(hash) > 0)
        return 0; /* at most a second by its limits, and too long for here */
    bool is_right = password_is_right(password, hash);
    FUZZ_REQUIRE(!is_right || password.size <= PASSWORD_MAX);
    if (password_hash(PASSWORD_SHA256, password, made) != 0) {
        FUZZ_REQUIRE(password.size > PASSWORD_MAX);
        return 0;
    }
    FUZZ_REQUIRE(password_is_right(password, slice_from(made)));
    if (password.size > 0) {
        password.size--;
        FUZZ_REQUIRE(!password_is_right(password, slice_from(made)));
    }
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    static const char *const texts[] = {
        "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH\ncorrect horse",
        "$scrypt$ln=14,r=8,p=1$bm9ib2R5bm9ib2R5bm9ibw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"
        "nobody",
        "$scrypt$ln=17,r=16,p=4$bm9ib2R5bm9ib2R5bm9ibw==$AAAAAAAAAAAAAAAAAAAAAA==\n",
        "\nno password",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "A\n",
    };
    if (number >= sizeof(texts) / sizeof(texts[0]))
        return 0;
    size_t size = strlen(texts[number]);
    FUZZ_REQUIRE(size <= capacity);
    memcpy(out, texts[number], size);
    return size;
}
