/* CRC-32C, by the processor's instruction or by eight tables ("slicing by 8"). */
#include "base/crc32c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

/* x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 +
 * x^9 + x^8 + x^6 + 1, lowest bit first. */
#define POLYNOMIAL 0x82f63b78u

/* tables[k][b]: the CRC of byte b followed by k zero bytes. */
static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void
make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? POLYNOMIAL : 0);
        tables[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t shorter = tables[k - 1][byte];

            tables[k][byte] = (shorter >> 8) ^ tables[0][shorter & 0xff];
        }
    }
}

static inline uint32_t
load_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint32_t
crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *at = data;

    pthread_once(&tables_once, make_tables);
    crc = ~crc;
    for (; size >= 8; size -= 8, at += 8) {
        uint32_t low = load_u32(at) ^ crc;
        uint32_t high = load_u32(at + 4);

        crc = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff]
              ^ tables[4][low >> 24] ^ tables[3][high & 0xff] ^ tables[2][high >> 8 & 0xff]
              ^ tables[1][high >> 16 & 0xff] ^ tables[0][high >> 24];
    }
    for (; size > 0; size--, at++)
        crc = (crc >> 8) ^ tables[0][(crc ^ *at) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) static uint32_t
crc32c_processor(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *at = data;
    uint64_t wide = (uint32_t)~crc;
    uint32_t narrow;

    for (; size >= 8; size -= 8, at += 8) {
        uint64_t word;

        memcpy(&word, at, sizeof(word));
        wide = __builtin_ia32_crc32di(wide, word);
    }
    narrow = (uint32_t)wide;
    for (; size > 0; size--, at++)
        narrow = __builtin_ia32_crc32qi(narrow, *at);
    return ~narrow;
}

static const char processor_name[] = "sse4.2";

static _Bool
processor_can(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}

#elif defined(__aarch64__)

/* The instructions themselves, since what compilers call them and want switched on differs. */
static uint32_t
crc32c_processor(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *at = data;

    crc = ~crc;
    for (; size >= 8; size -= 8, at += 8) {
        uint64_t word;

        memcpy(&word, at, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    }
    for (; size > 0; size--, at++)
        __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)*at));
    return ~crc;
}

static const char processor_name[] = "armv8";

static _Bool
processor_can(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

#else

#define crc32c_processor crc32c_portable
static const char processor_name[] = "portable";

static _Bool
processor_can(void)
{
    return 0;
}

#endif

typedef uint32_t crc32c_function(uint32_t crc, const void *data, size_t size);

static crc32c_function choose_and_run;

/* Any thread may make the choice; all make the same. */
static crc32c_function *_Atomic chosen = choose_and_run;

static uint32_t
choose_and_run(uint32_t crc, const void *data, size_t size)
{
    crc32c_function *function = processor_can() ? crc32c_processor : crc32c_portable;

    atomic_store_explicit(&chosen, function, memory_order_relaxed);
    return function(crc, data, size);
}

uint32_t
crc32c(uint32_t crc, const void *data, size_t size)
{
    return atomic_load_explicit(&chosen, memory_order_relaxed)(crc, data, size);
}

const char *
crc32c_implementation(void)
{
    return processor_can() ? processor_name : "portable";
}
