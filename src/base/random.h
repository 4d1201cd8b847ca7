/* Random numbers: from the kernel where nobody may guess them, from a fast generator for picking.
 */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Fills with the kernel's random bytes (getrandom): for secrets, names and seeds. Blocks only while
 * the machine has just been started. A kernel without getrandom cannot run us: ends the program. */
void random_bytes(void *out, size_t size);

/* xoshiro256**: fast, even, and predictable to who sees its output. For spreading load, not for
 * secrets. One per thread. */
struct random {
    uint64_t state[4];
};

/* Seeded by the kernel. */
void random_init(struct random *random);

/* Seeded by a number: the same sequence each time (simulation, tests). */
void random_init_with(struct random *random, uint64_t seed);

static inline uint64_t
random_next(struct random *random)
{
    uint64_t *s = random->state;
    uint64_t scrambled = s[1] * 5;
    uint64_t shifted = s[1] << 17;

    scrambled = ((scrambled << 7) | (scrambled >> 57)) * 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return scrambled;
}

/* An even choice of 0 .. count - 1; count is not 0. */
uint64_t random_below(struct random *random, uint64_t count);

#endif
