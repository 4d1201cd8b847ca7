/* What is the same over any file system: whole reads and writes, and replacing a file at once. */
#include "store/file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Pieces that one call takes; POSIX promises at least 16, Linux takes 1024. */
enum { PIECES_PER_CALL = 1024 };

int
file_write_all(const struct file_ops *files, int file, struct iovec *pieces, size_t count,
               uint64_t offset)
{
    while (count > 0) {
        if (pieces->iov_len == 0) {
            pieces++;
            count--;
            continue;
        }
        int batch = count < PIECES_PER_CALL ? (int)count : PIECES_PER_CALL;
        ssize_t written = files->write(files->context, file, pieces, batch, offset);
        if (written == -EINTR)
            continue;
        if (written <= 0)
            return written < 0 ? (int)written : -EIO;
        offset += (uint64_t)written;
        size_t left = (size_t)written;
        while (left > 0 && left >= pieces->iov_len) {
            left -= pieces->iov_len;
            pieces++;
            count--;
        }
        if (left > 0) {
            pieces->iov_base = (char *)pieces->iov_base + left;
            pieces->iov_len -= left;
        }
    }
    return 0;
}

int
file_read_all(const struct file_ops *files, int file, void *into, size_t size, uint64_t offset,
              size_t *got)
{
    *got = 0;
    while (*got < size) {
        ssize_t n =
            files->read(files->context, file, (char *)into + *got, size - *got, offset + *got);
        if (n == -EINTR)
            continue;
        if (n < 0)
            return (int)n;
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return 0;
}

int
file_load(const struct file_ops *files, const char *path, size_t limit, char **data, size_t *size)
{
    int file = files->open(files->context, path, FILE_READ);
    if (file < 0)
        return file;
    uint64_t length;
    *data = NULL;
    int error = files->size(files->context, file, &length);
    if (error == 0 && length > limit)
        error = -EFBIG;
    if (error == 0 && (*data = malloc((size_t)length + 1)) == NULL)
        error = -ENOMEM;
    if (error == 0)
        error = file_read_all(files, file, *data, (size_t)length, 0, size);
    if (error != 0) {
        free(*data);
        *data = NULL;
    }
    files->close(files->context, file);
    return error;
}

int
file_make_directory(const struct file_ops *files, const char *path)
{
    char above[PATH_MAX];
    int length = snprintf(above, sizeof(above), "%s", path);
    if (length < 0 || (size_t)length >= sizeof(above))
        return -ENAMETOOLONG;
    while (length > 1 && above[length - 1] == '/')
        above[--length] = '\0';
    char *slash = strrchr(above, '/');
    if (slash == NULL)
        snprintf(above, sizeof(above), ".");
    else
        slash[slash == above ? 1 : 0] = '\0';
    int error = files->make_directory(files->context, path);
    return error == 0 ? files->sync_directory(files->context, above) : error;
}

static int
write_new(const struct file_ops *files, const char *path, const void *data, size_t size)
{
    int file = files->open(files->context, path, FILE_WRITE | FILE_CREATE | FILE_EMPTY);
    if (file < 0)
        return file;
    struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    int error = file_write_all(files, file, &piece, 1, 0);
    if (error == 0)
        error = files->sync(files->context, file);
    int closed = files->close(files->context, file);
    return error != 0 ? error : closed;
}

int
file_replace(const struct file_ops *files, const char *directory, const char *path,
             const void *data, size_t size)
{
    char fresh[PATH_MAX];
    int length = snprintf(fresh, sizeof(fresh), "%s.new", path);
    if (length < 0 || (size_t)length >= sizeof(fresh))
        return -ENAMETOOLONG;
    int error = write_new(files, fresh, data, size);
    if (error == 0)
        error = files->rename(files->context, fresh, path);
    if (error == 0)
        return files->sync_directory(files->context, directory);
    (void)files->remove(files->context, fresh); /* the error that counts is the first */
    return error;
}
