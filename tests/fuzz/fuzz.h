/* What a fuzz target is: one function, given any bytes. Each is linked either with libFuzzer
 * (./dev fuzz) or with driver.c, which needs nothing and runs in the ordinary tests. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns 0. Whatever the bytes are, it neither crashes nor leaks. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise of the code under test: it holds for every input, in every build. */
#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Inputs to begin with, which the target understands; the driver changes them at random. Writes the
 * one with that number, of at most `capacity` bytes, and returns its size; 0: there are no more. */
size_t fuzz_seed(unsigned number, uint8_t *out, size_t capacity);

#endif
