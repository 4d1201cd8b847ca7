/* A disk that syncs slowly, or fails to, for a broker under test: loaded before the C library.
 *
 * While the file named by DISK_HOLD is there, no sync returns. While the one named by DISK_FAIL is
 * there, every sync fails with EIO. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int
is_there(const char *variable)
{
    const char *path = getenv(variable);
    return path != NULL && access(path, F_OK) == 0;
}

static int
sync_file(long call, int file)
{
    while (is_there("DISK_HOLD"))
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    if (is_there("DISK_FAIL")) {
        errno = EIO;
        return -1;
    }
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
