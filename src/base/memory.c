/* Counting memory: see the header. */
#include "base/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

struct memory_cell memory_cells[MEMORY_CELLS];
_Thread_local struct memory_cell *memory_cell;
static _Atomic uint32_t cells_used;

struct memory_cell *
memory_cell_new(void)
{
    uint32_t index = atomic_fetch_add_explicit(&cells_used, 1, memory_order_relaxed);
    memory_cell = &memory_cells[index < MEMORY_CELLS - 1 ? index : MEMORY_CELLS - 1];
    return memory_cell;
}

uint64_t
memory_held(void)
{
    uint32_t used = atomic_load_explicit(&cells_used, memory_order_relaxed);
    int64_t sum = 0;
    for (uint32_t i = 0; i < used && i < MEMORY_CELLS; i++)
        sum += atomic_load_explicit(&memory_cells[i].bytes, memory_order_relaxed);
    return sum < 0 ? 0 : (uint64_t)sum;
}

static bool
read_limit(const char *path, uint64_t *limit)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool is_number = fscanf(file, "%" SCNu64, limit) == 1; /* or "max" */
    fclose(file);
    return is_number;
}

uint64_t
memory_of_machine(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGE_SIZE);
    uint64_t total =
        pages > 0 && page_size > 0 ? (uint64_t)pages * (uint64_t)page_size : UINT64_MAX;
    static const char *const limits[] = {
        "/sys/fs/cgroup/memory.max",                   /* as a container sees its own */
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", /* control groups version 1 */
    };
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        uint64_t limit;
        if (read_limit(limits[i], &limit) && limit < total)
            total = limit;
    }
    return total;
}
