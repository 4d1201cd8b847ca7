/* The process is killed at its n-th change of a file, before that is made: loaded before the C
 * library. KILL_AT is n; without it, or with 0, nothing happens. What counts is whatever changes a
 * file or a directory, of the message log as of SQLite. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long left;

__attribute__((constructor)) static void
begin(void)
{
    const char *number = getenv("KILL_AT");
    left = number != NULL ? atol(number) : 0;
}

static void
change(void)
{
    if (atomic_fetch_sub(&left, 1) == 1)
        kill(getpid(), SIGKILL);
}

/* The function that the C library has under this name. */
#define NEXT(name) (*(__typeof__(name) **)(void *[]){dlsym(RTLD_NEXT, #name)})

ssize_t
pwritev(int file, const struct iovec *pieces, int count, off_t offset)
{
    change();
    return NEXT(pwritev)(file, pieces, count, offset);
}

ssize_t
pwrite(int file, const void *bytes, size_t size, off_t offset)
{
    change();
    return NEXT(pwrite)(file, bytes, size, offset);
}

ssize_t
pwrite64(int file, const void *bytes, size_t size, off64_t offset)
{
    change();
    return NEXT(pwrite64)(file, bytes, size, offset);
}

int
fdatasync(int file)
{
    change();
    return NEXT(fdatasync)(file);
}

int
fsync(int file)
{
    change();
    return NEXT(fsync)(file);
}

int
ftruncate(int file, off_t size)
{
    change();
    return NEXT(ftruncate)(file, size);
}

int
ftruncate64(int file, off64_t size)
{
    change();
    return NEXT(ftruncate64)(file, size);
}

int
fallocate(int file, int mode, off_t offset, off_t size)
{
    change();
    return NEXT(fallocate)(file, mode, offset, size);
}

int
rename(const char *from, const char *to)
{
    change();
    return NEXT(rename)(from, to);
}

int
unlink(const char *path)
{
    change();
    return NEXT(unlink)(path);
}

int
mkdir(const char *path, mode_t mode)
{
    change();
    return NEXT(mkdir)(path, mode);
}

/* A file that is made anew, by the broker's own open and by SQLite's. */
static int
open_with(const char *name, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...);
    *(void **)&next = dlsym(RTLD_NEXT, name);
    if ((flags & O_CREAT) != 0 && access(path, F_OK) != 0)
        change();
    return next(path, flags, mode);
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        mode_t mode = 0;                                                                           \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        if ((flags & (O_CREAT | O_TMPFILE)) != 0)                                                  \
            mode = va_arg(more, mode_t);                                                           \
        va_end(more);                                                                              \
        return open_with(#name, path, flags, mode);                                                \
    }

OPEN(open)
OPEN(open64)
