/* The output queue: see net/output.h.
 *
 * A chain of blocks. In each, copied data grows from the front, and records of references grow from
 * the end towards it; a record says at which offset of the data its bytes come in between. So a
 * reference costs no allocation of its own and order is kept by construction. Invariants:
 *
 *   - `at` is bytes + end of the last block, and `room` what lies between there and its records;
 *     the struct's end is brought up to date (settle_end) before anyone else looks;
 *   - offsets of the records do not decrease, and lie between begin and end;
 *   - an output with nothing pending holds no block, or one that was reserved and not written. */
#include "net/output.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

struct reference {
    const uint8_t *data;
    size_t size;
    void (*release)(void *owner);
    void *owner;
    size_t offset; /* of the copied bytes it comes before */
};

/* A record needs this much of a block, aligned as blocks are. */
enum { REFERENCE_SIZE = sizeof(struct reference) };
_Static_assert(REFERENCE_SIZE % _Alignof(struct reference) == 0, "records lie side by side");
_Static_assert((BLOCK_SMALL - sizeof(struct block)) % _Alignof(struct reference) == 0
                   && (BLOCK_LARGE - sizeof(struct block)) % _Alignof(struct reference) == 0,
               "records end where the block ends");
_Static_assert(OUTPUT_RESERVE_MAX <= BLOCK_LARGE - sizeof(struct block),
               "what may be reserved fits a block");

/* Record number `index`, counted from the end of the block. */
static struct reference *
reference_at(struct block *block, uint32_t index)
{
    return (struct reference *)(void *)(block->bytes + block->capacity) - 1 - index;
}

void
output_init(struct output *output, struct block_pool *pool)
{
    *output = (struct output){.pool = pool};
}

static void
settle_end(struct output *output)
{
    if (output->last != NULL)
        output->last->end = (uint32_t)(output->at - output->last->bytes);
}

/* Chains a block with room for `size` bytes behind the others. A connection that has more than a
 * block's worth waiting gets a large one. */
MUST_CHECK static int
add_block(struct output *output, size_t size)
{
    struct block *block = block_pool_take(output->pool, size, output->pending >= BLOCK_SMALL / 2);

    if (block == NULL)
        return -ENOMEM;
    settle_end(output);
    if (output->last != NULL)
        output->last->next = block;
    else
        output->first = block;
    output->last = block;
    output->at = block->bytes;
    output->room = block->capacity;
    return 0;
}

COLD uint8_t *
output_reserve_slow(struct output *output, size_t size)
{
    assert(size <= OUTPUT_RESERVE_MAX);
    if (add_block(output, size) != 0)
        return NULL;
    return output->at;
}

int
output_append(struct output *output, const void *data, size_t size)
{
    const uint8_t *from = data;

    while (size > 0) {
        size_t part;

        if (output->room == 0) {
            int result = add_block(output, size < OUTPUT_RESERVE_MAX ? size : OUTPUT_RESERVE_MAX);

            if (result != 0)
                return result;
        }
        part = size < output->room ? size : output->room;
        memcpy(output->at, from, part);
        output_commit(output, part);
        from += part;
        size -= part;
    }
    return 0;
}

int
output_append_reference(struct output *output, const void *data, size_t size,
                        void (*release)(void *owner), void *owner)
{
    struct reference *reference;

    assert(size != 0);
    if (output->room < REFERENCE_SIZE) {
        int result = add_block(output, REFERENCE_SIZE);

        if (result != 0)
            return result;
    }
    settle_end(output);
    reference = reference_at(output->last, output->last->reference_count++);
    *reference = (struct reference){
        .data = data,
        .size = size,
        .release = release,
        .owner = owner,
        .offset = output->last->end,
    };
    output->room -= REFERENCE_SIZE;
    output->pending += size;
    return 0;
}

/* The next record of the block that is not sent, or NULL. */
static struct reference *
next_reference(struct block *block)
{
    return block->first_reference < block->reference_count
               ? reference_at(block, block->first_reference)
               : NULL;
}

/* Takes the first block off the chain and gives it back. */
static void
drop_first_block(struct output *output)
{
    struct block *block = output->first;

    output->first = block->next;
    if (output->first == NULL) {
        output->last = NULL;
        output->at = NULL;
        output->room = 0;
    }
    block_pool_give(output->pool, block);
}

void
output_clear(struct output *output)
{
    while (output->first != NULL) {
        struct block *block = output->first;

        for (uint32_t i = block->first_reference; i < block->reference_count; i++) {
            struct reference *reference = reference_at(block, i);

            reference->release(reference->owner);
        }
        drop_first_block(output);
    }
    output->pending = 0;
}

/* What is being gathered for one write. */
struct gathering {
    struct iovec pieces[OUTPUT_PIECES_MAX];
    int count;
    size_t left; /* bytes that may yet go in */
};

/* Adds one piece, shortened to the bound. false: full. */
static bool
gather_piece(struct gathering *gathering, const uint8_t *data, size_t size)
{
    if (size > gathering->left)
        size = gathering->left;
    if (size != 0)
        gathering->pieces[gathering->count++] = (struct iovec){
            .iov_base = (void *)(uintptr_t)data,
            .iov_len = size,
        };
    gathering->left -= size;
    return gathering->count < OUTPUT_PIECES_MAX && gathering->left > 0;
}

/* Adds what the block holds. false: full. */
static bool
gather_block(struct gathering *gathering, struct block *block)
{
    size_t begin = block->begin;

    for (uint32_t i = block->first_reference; i < block->reference_count; i++) {
        struct reference *reference = reference_at(block, i);

        if (!gather_piece(gathering, block->bytes + begin, reference->offset - begin)
            || !gather_piece(gathering, reference->data, reference->size))
            return false;
        begin = reference->offset;
    }
    return gather_piece(gathering, block->bytes + begin, block->end - begin);
}

/* Takes `sent` bytes, or as many as it has, off the first block; gives the block back when nothing
 * is left of it. Returns how many were taken. */
static size_t
consume_block(struct output *output, size_t sent)
{
    struct block *block = output->first;
    size_t taken = 0;

    for (;;) {
        struct reference *reference = next_reference(block);
        size_t copied = (reference != NULL ? reference->offset : block->end) - block->begin;
        size_t part = copied < sent - taken ? copied : sent - taken;

        block->begin += (uint32_t)part;
        taken += part;
        if (part < copied)
            return taken;
        if (reference == NULL)
            break;
        part = reference->size < sent - taken ? reference->size : sent - taken;
        reference->data += part;
        reference->size -= part;
        taken += part;
        if (reference->size > 0)
            return taken;
        block->first_reference++;
        reference->release(reference->owner);
    }
    drop_first_block(output);
    return taken;
}

static void
consume(struct output *output, size_t sent)
{
    output->pending -= sent;
    while (sent > 0)
        sent -= consume_block(output, sent);
}

/* One gathered write of at most `limit` bytes. What the stream says, with what was sent taken off.
 */
static ssize_t
write_once(struct output *output, struct stream *stream, size_t limit)
{
    struct gathering gathering; /* not cleared: 4 KiB that are filled as far as they are used */
    ssize_t sent;

    gathering.count = 0;
    gathering.left = limit;
    for (struct block *block = output->first; block != NULL; block = block->next) {
        if (!gather_block(&gathering, block))
            break;
    }
    sent = stream_writev(stream, gathering.pieces, gathering.count);
    if (sent > 0)
        consume(output, (size_t)sent);
    return sent;
}

enum output_result
output_flush(struct output *output, struct stream *stream)
{
    size_t limit = OUTPUT_FLUSH_MAX;

    settle_end(output);
    while (output->pending > 0) {
        ssize_t sent;

        if (limit == 0)
            return OUTPUT_BLOCKED;
        sent = write_once(output, stream, limit);
        if (sent == STREAM_ERROR)
            return OUTPUT_ERROR;
        if (sent <= 0)
            return OUTPUT_BLOCKED;
        limit -= (size_t)sent;
    }
    output_clear(output); /* a block may be left that was reserved and not written */
    return OUTPUT_DRAINED;
}
