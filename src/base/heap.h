/* A binary heap of embedded nodes, the smallest key first.
 *
 * Every node knows its place, so any can be removed or change its key in O(log n). The heap owns
 * its array, not the nodes. Of equal keys any may come first. */
#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define HEAP_NOT_IN UINT32_MAX

struct heap_node {
    int64_t key;    /* change it through heap_update only, while in a heap */
    uint32_t index; /* HEAP_NOT_IN when in no heap */
};

struct heap {
    struct heap_node **nodes;
    uint32_t count, capacity;
};

void heap_init(struct heap *heap);

/* Frees the array; nodes that are still in it are left as they are. */
void heap_fini(struct heap *heap);

static inline void
heap_node_init(struct heap_node *node)
{
    *node = (struct heap_node){.index = HEAP_NOT_IN};
}

static inline bool
heap_node_is_in(const struct heap_node *node)
{
    return node->index != HEAP_NOT_IN;
}

/* The node with the smallest key, or NULL. It stays in. */
static inline struct heap_node *
heap_first(const struct heap *heap)
{
    return heap->count != 0 ? heap->nodes[0] : NULL;
}

/* Puts in a node that is in no heap. -ENOMEM: nothing has changed. */
MUST_CHECK int heap_insert(struct heap *heap, struct heap_node *node, int64_t key);

/* Gives a node that is in the heap another key. Cannot fail. */
void heap_update(struct heap *heap, struct heap_node *node, int64_t key);

/* Takes the node out; does nothing when it is not in. Gives memory back when the heap has become
 * small. */
void heap_remove(struct heap *heap, struct heap_node *node);

#endif
