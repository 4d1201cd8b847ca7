/* How much memory the broker holds of what clients can make it hold: messages, places in queues,
 * output that nobody reads. Above a limit its publishers are paused.
 *
 * Counted where it is allocated and freed, not asked of the kernel: what malloc keeps after the
 * messages have gone must not keep publishers waiting. Each thread counts in a cell of its own, so
 * that it costs an addition. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MEMORY_CELLS = 128,
    MEMORY_CELL_ALIGNMENT = 64, /* a cache line each */
};

struct memory_cell {
    _Alignas(MEMORY_CELL_ALIGNMENT) _Atomic int64_t bytes; /* one thread's: may be negative */
};

extern struct memory_cell memory_cells[MEMORY_CELLS];
extern _Thread_local struct memory_cell *memory_cell; /* NULL: it has none yet */

/* Finds the thread its cell. The last cell is shared by all that come too late for one. */
struct memory_cell *memory_cell_new(void);

/* So many bytes more are held; less, when negative. */
static inline void
memory_count(int64_t bytes)
{
    struct memory_cell *cell = memory_cell != NULL ? memory_cell : memory_cell_new();
    if (cell == &memory_cells[MEMORY_CELLS - 1])
        atomic_fetch_add_explicit(&cell->bytes, bytes, memory_order_relaxed);
    else
        atomic_store_explicit(&cell->bytes,
                              atomic_load_explicit(&cell->bytes, memory_order_relaxed) + bytes,
                              memory_order_relaxed);
}

/* What all threads hold together, as well as it can be known while they work. */
uint64_t memory_held(void);

/* The memory that this process may use: of the machine, or of its control group if that is less. */
uint64_t memory_of_machine(void);

#endif
