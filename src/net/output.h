/* What one connection has yet to send.
 *
 * Small things (methods, headers, small bodies) are written or copied into blocks from the thread's
 * pool; large bodies are queued by reference and go from where they lie to the socket in one
 * gathered write. A connection with nothing to send holds no block.
 *
 * Writing into it:
 *
 *     uint8_t *room = output_reserve(output, size);   NULL: out of memory, give the connection up
 *     ... write at most size bytes at room ...
 *     output_commit(output, used);
 *
 * Belongs to one thread, the pool's. */
#ifndef NET_OUTPUT_H
#define NET_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "net/block_pool.h"
#include "net/stream.h"

enum {
    OUTPUT_RESERVE_MAX = 64 * 1024,
    /* From this size on a body is rather referred to than copied. Measured over loopback, copying
     * wins by a few percent at 2 KiB and referring from 8 KiB on (by a quarter at 32 KiB). */
    OUTPUT_COPY_LIMIT = 4096,
    OUTPUT_PIECES_MAX = 256, /* iovecs in one write */
    /* Bytes that one output_flush sends at most, so that one fast reader does not hold up a turn.
     */
    OUTPUT_FLUSH_MAX = 1024 * 1024,
};

enum output_result {
    OUTPUT_DRAINED, /* all is sent */
    OUTPUT_BLOCKED, /* there is more: call again when the socket can be written */
    OUTPUT_ERROR,   /* the stream is broken (stream->error) */
};

struct output {
    struct block_pool *pool;
    struct block *first, *last; /* NULL when there is nothing */
    uint8_t *at;                /* where the next byte goes, in the last block */
    size_t room;                /* contiguous bytes there */
    size_t pending;             /* bytes queued, copied and referred to */
};

/* An empty output; holds no memory. */
void output_init(struct output *output, struct block_pool *pool);

/* Drops everything that is queued, releasing what was referred to, and gives the blocks back. */
void output_clear(struct output *output);

uint8_t *output_reserve_slow(struct output *output, size_t size);

/* Contiguous room for `size` bytes, 1 to OUTPUT_RESERVE_MAX; good until the next call other than
 * output_commit. NULL: out of memory. */
static inline uint8_t *
output_reserve(struct output *output, size_t size)
{
    if (LIKELY(output->room >= size))
        return output->at;
    return output_reserve_slow(output, size);
}

/* `used` bytes of the reserved room are written and are to be sent. */
static inline void
output_commit(struct output *output, size_t used)
{
    output->at += used;
    output->room -= used;
    output->pending += used;
}

/* Queues a copy of the bytes, of any number. -ENOMEM: part of it may be queued, so the stream is
 * spoilt and the connection is to be given up. */
MUST_CHECK int output_append(struct output *output, const void *data, size_t size);

/* Queues the bytes where they are: they must not change until release(owner) is called, which is
 * when they are sent or dropped. release must not touch this output. -ENOMEM: nothing is queued and
 * release is not called. size is not 0. */
MUST_CHECK int output_append_reference(struct output *output, const void *data, size_t size,
                                       void (*release)(void *owner), void *owner);

/* Bytes queued. */
static inline size_t
output_pending(const struct output *output)
{
    return output->pending;
}

/* Sends what is queued, in gathered writes, until all is gone, the socket is full or
 * OUTPUT_FLUSH_MAX has gone. Blocks and references whose bytes are sent are given back. */
MUST_CHECK enum output_result output_flush(struct output *output, struct stream *stream);

#endif
