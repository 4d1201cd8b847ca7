/* The file system as the store sees it: one small table of functions.
 *
 * Nothing in store/ calls the operating system on a file by itself. The table is either
 * file_posix_ops() or, in tests, a simulated disk (store/file_simulated.h) that stops the world at
 * any of these calls, tears a write, loses what was not synced, or runs full.
 *
 * Every function returns 0, a file descriptor or a count, or a negative errno. Paths are relative
 * to nothing: the caller passes whole ones. Files are created with mode 0600, directories 0700. */
#ifndef STORE_FILE_H
#define STORE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/compiler.h"

enum file_open_flags {
    FILE_READ = 0,
    FILE_WRITE = 1 << 0,     /* read and write */
    FILE_CREATE = 1 << 1,    /* make it if it is not there */
    FILE_EXCLUSIVE = 1 << 2, /* with FILE_CREATE: -EEXIST if it is there */
    FILE_EMPTY = 1 << 3,     /* cut it to nothing */
};

struct file_space {
    uint64_t free_bytes;
    uint64_t total_bytes;
};

/* Called for each entry of a directory except . and .., in no particular order. Anything but 0
 * ends the listing and is returned. */
typedef int file_visit(void *context, const char *name);

struct file_ops {
    void *context;
    int (*open)(void *context, const char *path, unsigned flags);
    int (*close)(void *context, int file);
    /* Both may do less than asked; file_write_all() and file_read_all() go on. */
    ssize_t (*write)(void *context, int file, const struct iovec *pieces, int count,
                     uint64_t offset);
    ssize_t (*read)(void *context, int file, void *into, size_t size, uint64_t offset);
    /* Contents and size are on the medium when it returns 0. -ENOENT: somebody has removed the
     * file, and with it what is in it. */
    int (*sync)(void *context, int file);
    /* Makes the file at least this large with its space reserved. -ENOSPC when there is none. */
    int (*allocate)(void *context, int file, uint64_t size);
    int (*size)(void *context, int file, uint64_t *size);
    /* rename and remove are on the medium after sync_directory. */
    int (*rename)(void *context, const char *from, const char *to);
    int (*remove)(void *context, const char *path);
    int (*make_directory)(void *context, const char *path); /* 0 also when it is there */
    int (*sync_directory)(void *context, const char *path);
    int (*list)(void *context, const char *path, file_visit *visit, void *visit_context);
    int (*space)(void *context, const char *path, struct file_space *space);
    /* An exclusive lock until the file is closed. -EWOULDBLOCK when somebody else has it. */
    int (*lock)(void *context, int file);
};

/* The operating system's files. */
const struct file_ops *file_posix_ops(void);

/* Writes all pieces at the offset, in as many calls as it takes. The pieces are used up (changed)
 * on the way. A call that writes nothing is -EIO. */
MUST_CHECK int file_write_all(const struct file_ops *files, int file, struct iovec *pieces,
                              size_t count, uint64_t offset);

/* Reads up to size bytes, less only at the end of the file; *got says how many. */
MUST_CHECK int file_read_all(const struct file_ops *files, int file, void *into, size_t size,
                             uint64_t offset, size_t *got);

/* Reads a whole file of at most limit bytes into memory that the caller frees. -EFBIG above it. */
MUST_CHECK int file_load(const struct file_ops *files, const char *path, size_t limit, char **data,
                         size_t *size);

/* Makes the directory if it is not there, and sees to it that power loss cannot take it away again
 * with all that is in it: the directory above is synced, also when another process made it. */
MUST_CHECK int file_make_directory(const struct file_ops *files, const char *path);

/* Makes path hold exactly these bytes: after a crash it has either its old content or this one.
 * Writes path.new, syncs it, renames it, syncs the directory. */
MUST_CHECK int file_replace(const struct file_ops *files, const char *directory, const char *path,
                            const void *data, size_t size);

#endif
