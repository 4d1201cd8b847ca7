/* The pool of output blocks: see net/block_pool.h. */
#include "net/block_pool.h"

#include <assert.h>
#include <stdlib.h>

#include "base/memory.h"

void
block_pool_init(struct block_pool *pool, size_t free_bytes_max)
{
    *pool = (struct block_pool){.free_bytes_max = free_bytes_max};
}

static void
free_list(struct block *block)
{
    while (block != NULL) {
        struct block *next = block->next;

        free(block);
        block = next;
    }
}

void
block_pool_fini(struct block_pool *pool)
{
    assert(pool->used_bytes == 0);
    free_list(pool->free_small);
    free_list(pool->free_large);
    block_pool_init(pool, pool->free_bytes_max);
}

static size_t
block_size(const struct block *block)
{
    return sizeof(*block) + block->capacity;
}

struct block *
block_pool_take(struct block_pool *pool, size_t size, bool is_large)
{
    size_t whole =
        is_large || size > BLOCK_SMALL - sizeof(struct block) ? BLOCK_LARGE : BLOCK_SMALL;
    struct block **free = whole == BLOCK_SMALL ? &pool->free_small : &pool->free_large;
    struct block *block = *free;

    assert(size <= BLOCK_LARGE - sizeof(struct block));
    if (block != NULL) {
        *free = block->next;
        pool->free_bytes -= whole;
    } else {
        block = malloc(whole);
        if (block == NULL)
            return NULL;
    }
    *block = (struct block){.capacity = (uint32_t)(whole - sizeof(*block))};
    pool->used_bytes += whole;
    memory_count((int64_t)whole);
    return block;
}

void
block_pool_give(struct block_pool *pool, struct block *block)
{
    size_t whole = block_size(block);
    struct block **list = whole == BLOCK_SMALL ? &pool->free_small : &pool->free_large;

    pool->used_bytes -= whole;
    memory_count(-(int64_t)whole);
    if (pool->free_bytes + whole > pool->free_bytes_max) {
        free(block);
        return;
    }
    block->next = *list;
    *list = block;
    pool->free_bytes += whole;
}
