/* Passwords: see the header. */
#include "auth/password.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"

enum {
    SALT_SIZE = 4, /* RabbitMQ's */
    SHA256_SIZE = 32,
    SHA512_SIZE = 64,
    SCRYPT_SALT_SIZE = 16,
    SCRYPT_HASH_SIZE = 32,
    BYTES_MAX = 96, /* what a hash's text may decode to */
    /* What scrypt of new passwords costs: OWASP's 2^17 would be 128 MiB; a broker that verifies one
     * at a time has 16 MiB for it and some 50 ms. */
    SCRYPT_LOG_N = 14,
    SCRYPT_R = 8,
    SCRYPT_P = 1,
    /* And what those that come from elsewhere may cost. */
    SCRYPT_LOG_N_MAX = 17,
    SCRYPT_R_MAX = 16,
    SCRYPT_P_MAX = 4,
};

_Static_assert(PASSWORD_WORK == (uint64_t)SCRYPT_R * SCRYPT_P << SCRYPT_LOG_N,
               "as the header says");

#define SCRYPT_PREFIX "$scrypt$"
#define SCRYPT_MEMORY_MAX (300ULL * 1024 * 1024) /* above 128 N r of the highest that is taken */

/* --- Secrets ---------------------------------------------------------------------------------- */

void
secret_wipe(void *secret, size_t size)
{
    if (size > 0)
        OPENSSL_cleanse(secret, size);
}

bool
secret_equal(const void *a, const void *b, size_t size)
{
    return CRYPTO_memcmp(a, b, size) == 0;
}

static unsigned char digest_key[SECRET_DIGEST_SIZE];
static pthread_once_t digest_key_once = PTHREAD_ONCE_INIT;

static void
draw_digest_key(void)
{
    random_bytes(digest_key, sizeof(digest_key));
}

bool
secret_digest(struct slice secret, unsigned char digest[SECRET_DIGEST_SIZE])
{
    unsigned int size = 0;
    pthread_once(&digest_key_once, draw_digest_key);
    return HMAC(EVP_sha256(), digest_key, sizeof(digest_key), (const unsigned char *)secret.data,
                secret.size, digest, &size)
               != NULL
           && size == SECRET_DIGEST_SIZE;
}

/* --- Base64 ----------------------------------------------------------------------------------- */

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Without padding; returns the end, where a 0 is put. */
static char *
encode(const unsigned char *bytes, size_t size, char *out)
{
    uint32_t bits = 0;
    int count = 0;
    for (size_t i = 0; i < size; i++) {
        bits = bits << 8 | bytes[i];
        for (count += 8; count >= 6; count -= 6)
            *out++ = letters[bits >> (count - 6) & 63];
    }
    if (count > 0)
        *out++ = letters[bits << (6 - count) & 63];
    *out = 0;
    return out;
}

/* With or without padding. The number of bytes; -1: it is no base64, or longer than the room. */
static int
decode(struct slice text, unsigned char *bytes, size_t room)
{
    uint32_t bits = 0;
    int count = 0;
    size_t size = 0;
    bool is_padded = text.size > 0 && text.data[text.size - 1] == '=';
    if (is_padded && text.size % 4 != 0)
        return -1;
    for (int i = 0; i < 2 && text.size > 0 && text.data[text.size - 1] == '='; i++)
        text.size--;
    for (size_t i = 0; i < text.size; i++) {
        const char *letter = text.data[i] == 0 ? NULL : strchr(letters, text.data[i]);
        if (letter == NULL)
            return -1;
        bits = bits << 6 | (uint32_t)(letter - letters);
        if ((count += 6) < 8)
            continue;
        count -= 8;
        if (size == room)
            return -1;
        bytes[size++] = (unsigned char)(bits >> count);
    }
    return count >= 6 || (bits & ((1U << count) - 1)) != 0 ? -1 : (int)size;
}

/* --- The two forms ---------------------------------------------------------------------------- */

/* A hash, taken apart. */
struct parts {
    const EVP_MD *digest; /* of RabbitMQ's form; NULL: scrypt */
    unsigned log_n, r, p;
    const unsigned char *salt, *hash; /* in bytes */
    size_t salt_size, hash_size;
    unsigned char bytes[2 * BYTES_MAX];
};

/* The number behind the name at the front, and what is behind it: "ln=14,". */
static bool
take_number(struct slice *text, const char *name, char end, unsigned maximum, unsigned *number)
{
    size_t size = strlen(name);
    unsigned value = 0;
    if (!slice_starts_with(*text, slice_from(name)))
        return false;
    for (; size < text->size && text->data[size] >= '0' && text->data[size] <= '9'; size++)
        if ((value = value * 10 + (unsigned)(text->data[size] - '0')) > maximum)
            return false;
    if (size == strlen(name) || size == text->size || text->data[size] != end || value == 0)
        return false;
    *number = value;
    *text = (struct slice){text->data + size + 1, text->size - size - 1};
    return true;
}

static bool
read_scrypt(struct slice text, struct parts *parts)
{
    text = (struct slice){text.data + strlen(SCRYPT_PREFIX), text.size - strlen(SCRYPT_PREFIX)};
    if (!take_number(&text, "ln=", ',', SCRYPT_LOG_N_MAX, &parts->log_n)
        || !take_number(&text, "r=", ',', SCRYPT_R_MAX, &parts->r)
        || !take_number(&text, "p=", '$', SCRYPT_P_MAX, &parts->p))
        return false;
    const char *end = memchr(text.data, '$', text.size);
    if (end == NULL)
        return false;
    struct slice salt = {text.data, (size_t)(end - text.data)};
    struct slice hash = {end + 1, text.size - salt.size - 1};
    int salt_size = decode(salt, parts->bytes, BYTES_MAX);
    int hash_size = decode(hash, parts->bytes + BYTES_MAX, BYTES_MAX);
    if (salt_size < 8 || hash_size < 16)
        return false;
    parts->digest = NULL;
    parts->salt = parts->bytes;
    parts->salt_size = (size_t)salt_size;
    parts->hash = parts->bytes + BYTES_MAX;
    parts->hash_size = (size_t)hash_size;
    return true;
}

static bool
read_salted(struct slice text, struct parts *parts)
{
    int size = decode(text, parts->bytes, BYTES_MAX);
    if (size == SALT_SIZE + SHA256_SIZE)
        parts->digest = EVP_sha256();
    else if (size == SALT_SIZE + SHA512_SIZE)
        parts->digest = EVP_sha512();
    else
        return false;
    parts->salt = parts->bytes;
    parts->salt_size = SALT_SIZE;
    parts->hash = parts->bytes + SALT_SIZE;
    parts->hash_size = (size_t)size - SALT_SIZE;
    return true;
}

static bool
read_hash(struct slice text, struct parts *parts)
{
    return slice_starts_with(text, SLICE(SCRYPT_PREFIX)) ? read_scrypt(text, parts)
                                                         : read_salted(text, parts);
}

static bool
scrypt(struct slice password, const struct parts *parts, unsigned char *out)
{
    return EVP_PBE_scrypt(password.data, password.size, parts->salt, parts->salt_size,
                          1ULL << parts->log_n, parts->r, parts->p, SCRYPT_MEMORY_MAX, out,
                          parts->hash_size)
           == 1;
}

static bool
salted(struct slice password, const struct parts *parts, unsigned char *out)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool is_made = context != NULL && EVP_DigestInit_ex(context, parts->digest, NULL) == 1
                   && EVP_DigestUpdate(context, parts->salt, parts->salt_size) == 1
                   && EVP_DigestUpdate(context, password.data, password.size) == 1
                   && EVP_DigestFinal_ex(context, out, NULL) == 1;
    EVP_MD_CTX_free(context);
    return is_made;
}

/* --- What is asked ---------------------------------------------------------------------------- */

static int
hash_scrypt(struct slice password, char text[PASSWORD_HASH_MAX])
{
    unsigned char salt[SCRYPT_SALT_SIZE], hash[SCRYPT_HASH_SIZE];
    const struct parts parts = {
        .log_n = SCRYPT_LOG_N,
        .r = SCRYPT_R,
        .p = SCRYPT_P,
        .salt = salt,
        .salt_size = sizeof(salt),
        .hash_size = sizeof(hash),
    };
    random_bytes(salt, sizeof(salt));
    if (!scrypt(password, &parts, hash))
        return -ENOMEM;
    int size = snprintf(text, PASSWORD_HASH_MAX, SCRYPT_PREFIX "ln=%d,r=%d,p=%d$",
                        (int)SCRYPT_LOG_N, (int)SCRYPT_R, (int)SCRYPT_P);
    char *end = encode(salt, sizeof(salt), text + size);
    *end++ = '$';
    encode(hash, sizeof(hash), end);
    return 0;
}

static int
hash_salted(struct slice password, char text[PASSWORD_HASH_MAX])
{
    unsigned char bytes[SALT_SIZE + SHA256_SIZE];
    const struct parts parts = {
        .digest = EVP_sha256(), .salt = bytes, .salt_size = SALT_SIZE, .hash_size = SHA256_SIZE};
    random_bytes(bytes, SALT_SIZE);
    if (!salted(password, &parts, bytes + SALT_SIZE))
        return -ENOMEM;
    encode(bytes, sizeof(bytes), text); /* 36 bytes: no padding is left out */
    return 0;
}

int
password_hash(enum password_method method, struct slice password, char hash[PASSWORD_HASH_MAX])
{
    if (password.size > PASSWORD_MAX)
        return -EINVAL;
    return method == PASSWORD_SCRYPT ? hash_scrypt(password, hash) : hash_salted(password, hash);
}

bool
password_hash_is_valid(struct slice hash)
{
    struct parts parts;
    return hash.size == 0 || (hash.size < PASSWORD_HASH_MAX && read_hash(hash, &parts));
}

static uint64_t
work_of(const struct parts *parts)
{
    return parts->digest != NULL ? 0 : (uint64_t)parts->r * parts->p << parts->log_n;
}

uint64_t
password_hash_work(struct slice hash)
{
    struct parts parts;
    return hash.size > 0 && read_hash(hash, &parts) ? work_of(&parts) : 0;
}

bool
password_is_right(struct slice password, struct slice hash)
{
    struct parts parts;
    unsigned char made[BYTES_MAX];
    if (hash.size == 0 || password.size > PASSWORD_MAX || !read_hash(hash, &parts))
        return false;
    bool is_right =
        parts.digest != NULL ? salted(password, &parts, made) : scrypt(password, &parts, made);
    is_right = is_right && secret_equal(made, parts.hash, parts.hash_size);
    secret_wipe(made, sizeof(made));
    secret_wipe(&parts, sizeof(parts));
    return is_right;
}

/* N r p of any size, bit by bit, since N is a power of two; more than new passwords cost is spent
 * in so many times their memory's worth. */
void
password_spend_work(struct slice password, uint64_t work)
{
    static const unsigned char salt[SCRYPT_SALT_SIZE];
    unsigned char made[SCRYPT_HASH_SIZE];
    struct parts parts = {.log_n = SCRYPT_LOG_N,
                          .r = SCRYPT_R,
                          .salt = salt,
                          .salt_size = sizeof(salt),
                          .hash_size = sizeof(made)};
    if (password.size > PASSWORD_MAX) /* nobody's is verified */
        return;
    parts.p = (unsigned)(work / PASSWORD_WORK);
    if (parts.p > 0)
        (void)scrypt(password, &parts, made);
    for (parts.p = 1, parts.log_n = SCRYPT_LOG_N - 1; parts.log_n > 0; parts.log_n--)
        if ((work & (uint64_t)SCRYPT_R << parts.log_n) != 0)
            (void)scrypt(password, &parts, made);
    secret_wipe(made, sizeof(made));
}
