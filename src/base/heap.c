/* The binary heap: see base/heap.h. */
#include "base/heap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum { HEAP_CAPACITY_MIN = 16 };

void
heap_init(struct heap *heap)
{
    *heap = (struct heap){0};
}

void
heap_fini(struct heap *heap)
{
    free(heap->nodes);
    heap_init(heap);
}

static inline void
place(struct heap *heap, struct heap_node *node, uint32_t index)
{
    heap->nodes[index] = node;
    node->index = index;
}

/* The node's place is free at `index`: moves parents with larger keys down until it fits. */
static void
sift_up(struct heap *heap, struct heap_node *node, uint32_t index)
{
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;

        if (heap->nodes[parent]->key <= node->key)
            break;
        place(heap, heap->nodes[parent], index);
        index = parent;
    }
    place(heap, node, index);
}

/* The same downwards. */
static void
sift_down(struct heap *heap, struct heap_node *node, uint32_t index)
{
    while (index < heap->count / 2) {
        uint32_t child = 2 * index + 1;

        if (child + 1 < heap->count && heap->nodes[child + 1]->key < heap->nodes[child]->key)
            child++;
        if (heap->nodes[child]->key >= node->key)
            break;
        place(heap, heap->nodes[child], index);
        index = child;
    }
    place(heap, node, index);
}

static void
sift(struct heap *heap, struct heap_node *node, uint32_t index)
{
    if (index > 0 && heap->nodes[(index - 1) / 2]->key > node->key)
        sift_up(heap, node, index);
    else
        sift_down(heap, node, index);
}

MUST_CHECK static int
set_capacity(struct heap *heap, uint32_t capacity)
{
    struct heap_node **nodes = reallocarray(heap->nodes, capacity, sizeof(struct heap_node *));

    if (nodes == NULL)
        return -ENOMEM;
    heap->nodes = nodes;
    heap->capacity = capacity;
    return 0;
}

int
heap_insert(struct heap *heap, struct heap_node *node, int64_t key)
{
    assert(!heap_node_is_in(node));
    if (heap->count == heap->capacity) {
        uint32_t capacity = heap->capacity != 0 ? heap->capacity * 2 : HEAP_CAPACITY_MIN;

        if (capacity < heap->capacity || set_capacity(heap, capacity) != 0)
            return -ENOMEM;
    }
    node->key = key;
    heap->count++;
    sift_up(heap, node, heap->count - 1);
    return 0;
}

void
heap_update(struct heap *heap, struct heap_node *node, int64_t key)
{
    assert(node->index < heap->count && heap->nodes[node->index] == node);
    node->key = key;
    sift(heap, node, node->index);
}

void
heap_remove(struct heap *heap, struct heap_node *node)
{
    uint32_t index = node->index;
    struct heap_node *last;

    if (!heap_node_is_in(node))
        return;
    assert(index < heap->count && heap->nodes[index] == node);
    last = heap->nodes[--heap->count];
    if (last != node)
        sift(heap, last, index);
    node->index = HEAP_NOT_IN;
    if (heap->count == 0)
        heap_fini(heap);
    else if (heap->capacity > HEAP_CAPACITY_MIN && heap->count < heap->capacity / 4
             && set_capacity(heap, heap->capacity / 2) != 0)
        return; /* an array that could not be made smaller will do */
}
