/* Hashing of keys that strangers choose.
 *
 * SipHash-1-3: keyed, so that who does not know the key cannot make keys that collide. Names of
 * queues, exchanges and routing keys come from clients, and a faster unkeyed hash, or one whose
 * collisions do not depend on the key, would let them turn each map into a list. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"

/* The hash of the bytes under this seed. The same on every machine and in every run: good for what
 * is stored or must agree between processes, with a seed of the caller's choice. data may be NULL
 * when size is 0. */
uint64_t hash_bytes(const void *data, size_t size, uint64_t seed);

/* The hash of the bytes under the secret of this process, drawn from the kernel at the first call.
 * Different in every run. Thread-safe. */
uint64_t hash_slice(struct slice key);

#endif
