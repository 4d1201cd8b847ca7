/* SipHash-1-3 (Aumasson and Bernstein; one round a word, three at the end). */
#include "base/hash.h"

#include <pthread.h>

#include "base/random.h"

struct sip {
    uint64_t v0, v1, v2, v3;
};

static uint64_t process_key[2];
static pthread_once_t process_key_once = PTHREAD_ONCE_INIT;

static inline uint64_t
rotate(uint64_t value, int bits)
{
    return (value << bits) | (value >> (64 - bits));
}

static inline void
sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

/* The word of up to eight bytes, little-endian, so that the hash is the same everywhere. */
static inline uint64_t
load_word(const uint8_t *bytes, size_t size)
{
    uint64_t word = 0;

    for (size_t i = 0; i < size; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

static uint64_t
siphash13(const void *data, size_t size, uint64_t k0, uint64_t k1)
{
    const uint8_t *at = data;
    struct sip s = {
        .v0 = k0 ^ 0x736f6d6570736575,
        .v1 = k1 ^ 0x646f72616e646f6d,
        .v2 = k0 ^ 0x6c7967656e657261,
        .v3 = k1 ^ 0x7465646279746573,
    };
    uint64_t word;

    for (size_t left = size; left >= 8; left -= 8, at += 8) {
        word = load_word(at, 8);
        s.v3 ^= word;
        sip_round(&s);
        s.v0 ^= word;
    }
    word = load_word(at, size % 8) | (uint64_t)size << 56;
    s.v3 ^= word;
    sip_round(&s);
    s.v0 ^= word;
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

uint64_t
hash_bytes(const void *data, size_t size, uint64_t seed)
{
    return siphash13(data, size, seed, rotate(seed, 32) ^ 0x9e3779b97f4a7c15);
}

static void
draw_process_key(void)
{
    random_bytes(process_key, sizeof(process_key));
}

uint64_t
hash_slice(struct slice key)
{
    pthread_once(&process_key_once, draw_process_key);
    return siphash13(key.data, key.size, process_key[0], process_key[1]);
}
