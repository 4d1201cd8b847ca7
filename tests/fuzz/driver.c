/* Runs a fuzz target without libFuzzer: its seeds, then random changes of them, the same ones each
 * time. So a little fuzzing is part of every test run, with any compiler.
 *
 *     fuzz_TARGET                     as many rounds as FUZZ_ROUNDS says, or a default
 *     fuzz_TARGET FILE...             these inputs, as libFuzzer's programs do: to look at a crash
 *     fuzz_TARGET --write-seeds DIR   the seeds as files, to begin a corpus with */
#include "fuzz.h"

#include <string.h>

#include "base/compiler.h"
#include "base/random.h"

enum { INPUT_MAX = 64 * 1024, SEEDS_MAX = 64, ROUNDS_DEFAULT = 2000 };

struct seed {
    uint8_t *data;
    size_t size;
};

static struct seed seeds[SEEDS_MAX];
static unsigned seed_count;
static uint8_t input[INPUT_MAX];

static void
make_seeds(void)
{
    size_t size;
    while ((size = fuzz_seed(seed_count, input, sizeof(input))) > 0) {
        FUZZ_REQUIRE(seed_count < SEEDS_MAX);
        struct seed *seed = &seeds[seed_count++];
        seed->data = malloc(size);
        FUZZ_REQUIRE(seed->data != NULL);
        memcpy(seed->data, input, size);
        seed->size = size;
    }
    FUZZ_REQUIRE(seed_count > 0);
}

static const struct seed *
any_seed(struct random *random)
{
    return &seeds[random_below(random, seed_count)];
}

/* --- Changes: each returns the new size ------------------------------------------------------- */

static size_t
flip_bit(struct random *random, size_t size)
{
    input[random_below(random, size)] ^= (uint8_t)(1u << random_below(random, 8));
    return size;
}

/* A byte that means something to lengths and tags. */
static size_t
set_byte(struct random *random, size_t size)
{
    static const uint8_t telling[] = {0x00, 0x01, 0x7f, 0x80, 0xce, 0xff, 'A', 'F', 'S', '\n'};
    input[random_below(random, size)] = telling[random_below(random, sizeof(telling))];
    return size;
}

static size_t
cut_end(struct random *random, size_t size)
{
    return random_below(random, size);
}

static size_t
cut_part(struct random *random, size_t size)
{
    size_t at = random_below(random, size), count = 1 + random_below(random, size - at);
    memmove(input + at, input + at + count, size - at - count);
    return size - count;
}

static size_t
repeat_part(struct random *random, size_t size)
{
    if (size * 2 > INPUT_MAX)
        return size;
    size_t at = random_below(random, size), count = 1 + random_below(random, size - at);
    memmove(input + at + count, input + at, size - at);
    return size + count;
}

static size_t
append_seed(struct random *random, size_t size)
{
    const struct seed *seed = any_seed(random);
    size_t count = seed->size < INPUT_MAX - size ? seed->size : INPUT_MAX - size;
    memcpy(input + size, seed->data, count);
    return size + count;
}

static size_t
change(struct random *random, size_t size)
{
    static size_t (*const changes[])(struct random *, size_t) = {
        flip_bit, set_byte, cut_end, cut_part, repeat_part, append_seed,
    };
    if (size == 0)
        return append_seed(random, size);
    return changes[random_below(random, ARRAY_SIZE(changes))](random, size);
}

/* --- Runs ------------------------------------------------------------------------------------- */

/* In memory of exactly the input's size, so that a sanitizer sees a read past it. */
static void
run(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);
    FUZZ_REQUIRE(exact != NULL);
    if (size > 0)
        memcpy(exact, data, size);
    FUZZ_REQUIRE(LLVMFuzzerTestOneInput(exact, size) == 0);
    free(exact);
}

static int
run_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (file == NULL) {
        perror(name);
        return 1;
    }
    size_t size = fread(input, 1, sizeof(input), file);
    fclose(file);
    run(input, size);
    return 0;
}

static void
run_changes(long rounds)
{
    struct random random;
    random_init_with(&random, 1);
    run(input, 0);
    for (unsigned i = 0; i < seed_count; i++)
        run(seeds[i].data, seeds[i].size);
    for (long round = 0; round < rounds; round++) {
        const struct seed *seed = any_seed(&random);
        size_t size = seed->size;
        memcpy(input, seed->data, size);
        for (uint64_t changes = 1 + random_below(&random, 4); changes > 0; changes--)
            size = change(&random, size);
        run(input, size);
    }
}

static int
write_seeds(const char *directory)
{
    for (unsigned i = 0; i < seed_count; i++) {
        char name[4096];
        snprintf(name, sizeof(name), "%s/seed-%u", directory, i);
        FILE *file = fopen(name, "wb");
        if (file == NULL || fwrite(seeds[i].data, 1, seeds[i].size, file) != seeds[i].size
            || fclose(file) != 0) {
            perror(name);
            return 1;
        }
    }
    return 0;
}

int
main(int argc, char **argv)
{
    int status = 0;
    make_seeds();
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        status = write_seeds(argv[2]);
    } else if (argc > 1) {
        for (int i = 1; i < argc; i++)
            status |= run_file(argv[i]);
    } else {
        const char *wanted = getenv("FUZZ_ROUNDS");
        run_changes(wanted != NULL ? strtol(wanted, NULL, 10) : ROUNDS_DEFAULT);
    }
    for (unsigned i = 0; i < seed_count; i++)
        free(seeds[i].data);
    return status;
}
