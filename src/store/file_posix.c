/* The table of file functions over the operating system. */
/* fallocate and pwritev are GNU. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store/file.h"

static int
kernel_open(void *context, const char *path, unsigned flags)
{
    (void)context;
    int mode = (flags & FILE_WRITE) != 0 ? O_RDWR : O_RDONLY;
    if ((flags & FILE_CREATE) != 0)
        mode |= O_CREAT;
    if ((flags & FILE_EXCLUSIVE) != 0)
        mode |= O_EXCL;
    if ((flags & FILE_EMPTY) != 0)
        mode |= O_TRUNC;
    int file = open(path, mode | O_CLOEXEC | O_NOFOLLOW, 0600);
    return file < 0 ? -errno : file;
}

static int
kernel_close(void *context, int file)
{
    (void)context;
    return close(file) < 0 && errno != EINTR ? -errno : 0;
}

static ssize_t
kernel_write(void *context, int file, const struct iovec *pieces, int count, uint64_t offset)
{
    (void)context;
    ssize_t n = pwritev(file, pieces, count, (off_t)offset);
    return n < 0 ? -errno : n;
}

static ssize_t
kernel_read(void *context, int file, void *into, size_t size, uint64_t offset)
{
    (void)context;
    ssize_t n = pread(file, into, size, (off_t)offset);
    return n < 0 ? -errno : n;
}

static int
kernel_sync(void *context, int file)
{
    (void)context;
    struct stat status;
    if (fdatasync(file) < 0 || fstat(file, &status) < 0)
        return -errno;
    return status.st_nlink > 0 ? 0 : -ENOENT;
}

static int
kernel_allocate(void *context, int file, uint64_t size)
{
    (void)context;
    if (fallocate(file, 0, 0, (off_t)size) == 0)
        return 0;
    if (errno != EOPNOTSUPP)
        return -errno;
    /* A file system without reservations: the size at least. Running full then shows at the
     * write, which stops the log; the watermark on free space is what protects there. */
    struct stat status;
    if (fstat(file, &status) < 0)
        return -errno;
    if ((uint64_t)status.st_size >= size)
        return 0;
    return ftruncate(file, (off_t)size) < 0 ? -errno : 0;
}

static int
kernel_size(void *context, int file, uint64_t *size)
{
    (void)context;
    struct stat status;
    if (fstat(file, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -EINVAL;
    *size = (uint64_t)status.st_size;
    return 0;
}

static int
kernel_rename(void *context, const char *from, const char *to)
{
    (void)context;
    return rename(from, to) < 0 ? -errno : 0;
}

static int
kernel_remove(void *context, const char *path)
{
    (void)context;
    return unlink(path) < 0 ? -errno : 0;
}

static int
kernel_make_directory(void *context, const char *path)
{
    (void)context;
    if (mkdir(path, 0700) == 0)
        return 0;
    struct stat status;
    if (errno != EEXIST)
        return -errno;
    if (stat(path, &status) < 0)
        return -errno;
    return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

static int
kernel_sync_directory(void *context, const char *path)
{
    (void)context;
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return -errno;
    int error = fsync(directory) < 0 ? -errno : 0;
    close(directory);
    return error;
}

static int
kernel_list(void *context, const char *path, file_visit *visit, void *visit_context)
{
    (void)context;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return -errno;
    int result = 0;
    while (result == 0) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (entry == NULL) {
            result = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = visit(visit_context, entry->d_name);
    }
    closedir(directory);
    return result;
}

static int
kernel_space(void *context, const char *path, struct file_space *space)
{
    (void)context;
    struct statvfs status;
    if (statvfs(path, &status) < 0)
        return -errno;
    space->free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
    space->total_bytes = (uint64_t)status.f_blocks * status.f_frsize;
    return 0;
}

static int
kernel_lock(void *context, int file)
{
    (void)context;
    /* flock, not fcntl: a POSIX lock would go when any descriptor of the file is closed. */
    return flock(file, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
}

const struct file_ops *
file_posix_ops(void)
{
    static const struct file_ops ops = {
        .open = kernel_open,
        .close = kernel_close,
        .write = kernel_write,
        .read = kernel_read,
        .sync = kernel_sync,
        .allocate = kernel_allocate,
        .size = kernel_size,
        .rename = kernel_rename,
        .remove = kernel_remove,
        .make_directory = kernel_make_directory,
        .sync_directory = kernel_sync_directory,
        .list = kernel_list,
        .space = kernel_space,
        .lock = kernel_lock,
    };
    return &ops;
}
