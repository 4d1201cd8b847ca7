/* A disk that is slow, or fails, for a broker under test: loaded before the C library.
 *
 * While the file named by DISK_HOLD is there, no sync returns; with DISK_HOLD_OF, none of a file
 * that has this in its path. While the one named by DISK_FAIL is there, every sync fails with EIO.
 * DISK_RATE is how many bytes of the message log the disk takes in a second: writing costs nothing,
 * as into the system's cache, and a sync returns when all that was written until then would be on
 * such a disk. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t unwritten;  /* bytes since the last sync */
static int64_t busy_until; /* the disk, monotonic, in ns */

static int
is_there(const char *variable)
{
    const char *path = getenv(variable);
    return path != NULL && access(path, F_OK) == 0;
}

static int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
write_out(int64_t rate)
{
    pthread_mutex_lock(&lock);
    int64_t now = now_ns();
    if (busy_until < now)
        busy_until = now;
    busy_until += (int64_t)((double)unwritten / (double)rate * 1e9);
    unwritten = 0;
    int64_t left = busy_until - now;
    pthread_mutex_unlock(&lock);
    struct timespec time = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    while (nanosleep(&time, &time) < 0 && errno == EINTR)
        continue;
}

static int
is_held(int file)
{
    const char *part = getenv("DISK_HOLD_OF");
    char link[64], path[4096];
    if (!is_there("DISK_HOLD"))
        return 0;
    if (part == NULL)
        return 1;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof(path) - 1);
    path[size < 0 ? 0 : size] = 0;
    return strstr(path, part) != NULL;
}

static int
sync_file(long call, int file)
{
    const char *rate = getenv("DISK_RATE");
    while (is_held(file))
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    if (is_there("DISK_FAIL")) {
        errno = EIO;
        return -1;
    }
    if (rate != NULL)
        write_out(atoll(rate));
    return (int)syscall(call, file);
}

int
fdatasync(int file)
{
    return sync_file(SYS_fdatasync, file);
}

int
fsync(int file)
{
    return sync_file(SYS_fsync, file);
}

/* The log writes with this call, and SQLite does not. */
ssize_t
pwritev64(int file, const struct iovec *pieces, int count, off64_t offset)
{
    ssize_t written = syscall(SYS_pwritev, file, pieces, (long)count, (long)offset,
                              (long)((uint64_t)offset >> 32));
    if (written > 0) {
        pthread_mutex_lock(&lock);
        unwritten += written;
        pthread_mutex_unlock(&lock);
    }
    return written;
}

ssize_t
pwritev(int file, const struct iovec *pieces, int count, off_t offset)
{
    return pwritev64(file, pieces, count, offset);
}
