/* CRC-32C (Castagnoli), as in iSCSI and ext4: the check of everything that lies on disk. Uses the
 * processor's instruction where there is one, chosen when the program runs. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of what came before followed by these bytes: start with 0, and crc32c(crc32c(0, a), b) is
 * the CRC of a and b together. data may be NULL when size is 0. Any thread. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* The same, computed without special instructions (for comparison). */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

/* "sse4.2", "armv8" or "portable": what crc32c uses here. */
const char *crc32c_implementation(void);

#endif
