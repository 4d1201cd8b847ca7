/* Random numbers: see base/random.h. xoshiro256** is by Blackman and Vigna. */
#include "base/random.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void
random_bytes(void *out, size_t size)
{
    uint8_t *at = out;

    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            fprintf(stderr, "no random numbers from the kernel: %s\n", strerror(errno));
            abort();
        }
        at += got;
        size -= (size_t)got;
    }
}

void
random_init(struct random *random)
{
    /* A state of only zeros would stay so; the kernel gives it once in 2^256. */
    random_bytes(random->state, sizeof(random->state));
    random->state[0] |= 1;
}

void
random_init_with(struct random *random, uint64_t seed)
{
    /* SplitMix64, as the authors advise, so that near seeds give unlike sequences. */
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        random->state[i] = z ^ (z >> 31);
    }
}

uint64_t
random_below(struct random *random, uint64_t count)
{
    /* Lemire: the high half of a product is even once the few products that would fall into a short
     * stretch are drawn again. */
    unsigned __int128 product = (unsigned __int128)random_next(random) * count;

    if ((uint64_t)product < count) {
        uint64_t short_stretch = -count % count;

        while ((uint64_t)product < short_stretch)
            product = (unsigned __int128)random_next(random) * count;
    }
    return (uint64_t)(product >> 64);
}
