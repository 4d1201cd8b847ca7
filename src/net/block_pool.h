/* The memory in which output waits for its socket: blocks of two sizes, shared by the connections
 * of one thread.
 *
 * A connection takes a block when it has something to send and gives it back when that is sent, so
 * at any time there are about as many blocks as connections that cannot write, plus one or two that
 * go from hand to hand and stay in the cache (last in, first out). Free blocks are kept up to a
 * bound. Belongs to one thread. */
#ifndef NET_BLOCK_POOL_H
#define NET_BLOCK_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sizes as allocated, header included. The small one holds a turn's output of an ordinary
 * connection; the large one any piece that must lie in one run, and the output of a busy one. */
enum {
    BLOCK_SMALL = 16 * 1024,
    BLOCK_LARGE = 64 * 1024 + 4096,
};

/* Data grows from the front of `bytes`, records of references (output.c) from its end. */
struct block {
    struct block *next;
    uint32_t capacity;                         /* of bytes */
    uint32_t begin;                            /* data before it is sent */
    uint32_t end;                              /* data */
    uint32_t first_reference, reference_count; /* those before the first are sent */
    _Alignas(16) uint8_t bytes[];
};

struct block_pool {
    struct block *free_small, *free_large;
    size_t free_bytes;     /* in both lists */
    size_t free_bytes_max; /* more is given back to the system */
    size_t used_bytes;     /* out with connections */
};

/* An empty pool that keeps at most this much free memory. */
void block_pool_init(struct block_pool *pool, size_t free_bytes_max);

/* Frees the free blocks; none is out any more. */
void block_pool_fini(struct block_pool *pool);

/* An empty block with room for at least `size` bytes, at most BLOCK_LARGE less its header; small
 * unless it has to be large or is_large asks for it. NULL: out of memory. */
struct block *block_pool_take(struct block_pool *pool, size_t size, bool is_large);

void block_pool_give(struct block_pool *pool, struct block *block);

#endif
