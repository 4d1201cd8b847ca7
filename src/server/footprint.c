/* Giving back what only the start needed: see the header.
 *
 * Libraries run much code once, as they are loaded: what of it was mapped counts as the process's
 * memory until it ends, though the page cache has it all the same. Only executable segments that
 * cannot be written are dropped: nothing in them can differ from the file. */
#include "server/footprint.h"

#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static int
drop_code(struct dl_phdr_info *object, size_t size, void *context)
{
    (void)size;
    const uintptr_t page = *(const uintptr_t *)context;
    for (size_t i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || (segment->p_flags & (PF_X | PF_W)) != PF_X)
            continue;
        uintptr_t begin = (object->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        uintptr_t end =
            (object->dlpi_addr + segment->p_vaddr + segment->p_memsz + page - 1) & ~(page - 1);
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED); /* else it just stays */
    }
    return 0;
}

void
footprint_shrink(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)dl_iterate_phdr(drop_code, &page);
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
}
