/* The simulated disk: files with two contents each, the one programs see and the one on the
 * medium. One lock around everything: it is for tests. */
#include "store/file_simulated.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_ROOM = 512,
    OPEN_FILES_MAX = 512,
    SECTOR = 512,
    PAGE = 4096,
};

struct contents {
    char *bytes;
    size_t size;
};

struct inode {
    struct inode *next;
    struct contents seen, medium;
    bool is_locked;
};

struct entry {
    char name[NAME_ROOM];
    struct inode *inode;
};

struct names {
    struct entry *entries;
    size_t count, capacity;
};

/* A change of names that is not on the medium yet. */
struct change {
    char from[NAME_ROOM]; /* "": none */
    char to[NAME_ROOM];   /* "": none */
    struct inode *inode;
};

struct simulated_disk {
    struct file_ops files;
    pthread_mutex_t mutex;
    struct inode *inodes;
    struct names seen, medium;
    struct change *changes;
    size_t change_count, change_capacity;
    struct inode *open[OPEN_FILES_MAX];
    uint64_t operations, fail_at, capacity, random;
    int fail_error;
    bool fail_is_power_loss, has_failed, is_off, is_paused, has_short_writes;
};

static uint64_t
next_random(struct simulated_disk *disk)
{
    /* splitmix64 */
    uint64_t z = disk->random += 0x9e3779b97f4a7c15U;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

static void *
grow(void *items, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return items;
    *capacity = *capacity == 0 ? 32 : *capacity * 2;
    items = realloc(items, *capacity * size);
    assert(items != NULL);
    return items;
}

static struct entry *
find_name(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0)
            return &names->entries[i];
    return NULL;
}

static void
set_name(struct names *names, const char *name, struct inode *inode)
{
    struct entry *entry = find_name(names, name);
    if (entry == NULL) {
        names->entries =
            grow(names->entries, &names->capacity, names->count, sizeof(*names->entries));
        entry = &names->entries[names->count++];
        assert(strlen(name) < NAME_ROOM);
        memcpy(entry->name, name, strlen(name) + 1);
    }
    entry->inode = inode;
}

static void
drop_name(struct names *names, const char *name)
{
    struct entry *entry = find_name(names, name);
    if (entry != NULL)
        *entry = names->entries[--names->count];
}

static void
apply_change(struct names *names, const struct change *change)
{
    if (change->from[0] != '\0')
        drop_name(names, change->from);
    if (change->to[0] != '\0')
        set_name(names, change->to, change->inode);
}

static void
note_change(struct simulated_disk *disk, const char *from, const char *to, struct inode *inode)
{
    disk->changes =
        grow(disk->changes, &disk->change_capacity, disk->change_count, sizeof(*disk->changes));
    struct change *change = &disk->changes[disk->change_count++];
    memset(change, 0, sizeof(*change));
    assert(strlen(from) < NAME_ROOM && strlen(to) < NAME_ROOM);
    memcpy(change->from, from, strlen(from) + 1);
    memcpy(change->to, to, strlen(to) + 1);
    change->inode = inode;
    apply_change(&disk->seen, change);
}

static void
resize(struct contents *contents, size_t size)
{
    if (size == contents->size)
        return;
    contents->bytes = realloc(contents->bytes, size + 1);
    assert(contents->bytes != NULL);
    if (size > contents->size)
        memset(contents->bytes + contents->size, 0, size - contents->size);
    contents->size = size;
}

static void
copy_contents(struct contents *to, const struct contents *from)
{
    resize(to, from->size);
    if (from->size > 0)
        memcpy(to->bytes, from->bytes, from->size);
}

static uint64_t
used_bytes(const struct simulated_disk *disk)
{
    uint64_t used = 0;
    for (size_t i = 0; i < disk->seen.count; i++)
        used += disk->seen.entries[i].inode->seen.size;
    return used;
}

/* Counts a call. Not 0: it fails with this. *half: power fails in the middle of it. */
static int
count_call(struct simulated_disk *disk, bool *half)
{
    *half = false;
    if (disk->is_off)
        return -EIO;
    if (disk->is_paused)
        return 0;
    disk->operations++;
    if (disk->fail_at == 0 || --disk->fail_at > 0)
        return 0;
    disk->has_failed = true;
    if (disk->fail_is_power_loss) {
        disk->is_off = true;
        *half = true;
    }
    return disk->fail_error;
}

static struct inode *
inode_of(const struct simulated_disk *disk, int file)
{
    assert(file >= 0 && file < OPEN_FILES_MAX);
    return disk->open[file];
}

/* ---- the functions ---- */

static int
open_locked(struct simulated_disk *disk, const char *path, unsigned flags)
{
    bool half;
    int error = count_call(disk, &half);
    if (error != 0)
        return error;
    struct entry *entry = find_name(&disk->seen, path);
    if (entry != NULL && (flags & FILE_EXCLUSIVE) != 0)
        return -EEXIST;
    if (entry == NULL && (flags & FILE_CREATE) == 0)
        return -ENOENT;
    struct inode *inode = entry == NULL ? calloc(1, sizeof(*inode)) : entry->inode;
    assert(inode != NULL);
    if (entry == NULL) {
        inode->next = disk->inodes;
        disk->inodes = inode;
        note_change(disk, "", path, inode);
    }
    if ((flags & FILE_EMPTY) != 0)
        resize(&inode->seen, 0);
    for (int file = 0; file < OPEN_FILES_MAX; file++)
        if (disk->open[file] == NULL) {
            disk->open[file] = inode;
            return file;
        }
    return -EMFILE;
}

static int
simulated_open(void *context, const char *path, unsigned flags)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    int result = open_locked(disk, path, flags);
    pthread_mutex_unlock(&disk->mutex);
    return result;
}

static int
simulated_close(void *context, int file)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    struct inode *inode = inode_of(disk, file);
    if (inode != NULL)
        inode->is_locked = false;
    disk->open[file] = NULL;
    pthread_mutex_unlock(&disk->mutex);
    return 0;
}

static ssize_t
write_locked(struct simulated_disk *disk, int file, const struct iovec *pieces, int count,
             uint64_t offset)
{
    bool half;
    int error = count_call(disk, &half);
    struct inode *inode = inode_of(disk, file);
    if (inode == NULL || (error != 0 && !half))
        return error != 0 ? error : -EBADF;
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += pieces[i].iov_len;
    if (half)
        total /= 2;
    else if (disk->has_short_writes && total > 1)
        total = 1 + next_random(disk) % total;
    if (offset + total > inode->seen.size) {
        uint64_t more = offset + total - inode->seen.size;
        if (used_bytes(disk) + more > disk->capacity)
            return -ENOSPC;
        resize(&inode->seen, offset + total);
    }
    size_t done = 0;
    for (int i = 0; i < count && done < total; i++) {
        size_t n = pieces[i].iov_len < total - done ? pieces[i].iov_len : total - done;
        if (n > 0)
            memcpy(inode->seen.bytes + offset + done, pieces[i].iov_base, n);
        done += n;
    }
    return error != 0 ? error : (ssize_t)total;
}

static ssize_t
simulated_write(void *context, int file, const struct iovec *pieces, int count, uint64_t offset)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    ssize_t result = write_locked(disk, file, pieces, count, offset);
    pthread_mutex_unlock(&disk->mutex);
    return result;
}

static ssize_t
simulated_read(void *context, int file, void *into, size_t size, uint64_t offset)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    ssize_t result = count_call(disk, &half);
    struct inode *inode = inode_of(disk, file);
    if (result == 0 && inode == NULL)
        result = -EBADF;
    if (result == 0 && offset < inode->seen.size) {
        size_t n = inode->seen.size - offset < size ? inode->seen.size - offset : size;
        memcpy(into, inode->seen.bytes + offset, n);
        result = (ssize_t)n;
    }
    pthread_mutex_unlock(&disk->mutex);
    return result;
}

static int
simulated_sync(void *context, int file)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    struct inode *inode = inode_of(disk, file);
    if (error == 0 && inode == NULL)
        error = -EBADF;
    if (error == 0)
        copy_contents(&inode->medium, &inode->seen);
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

static int
simulated_allocate(void *context, int file, uint64_t size)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    struct inode *inode = inode_of(disk, file);
    if (error == 0 && inode == NULL)
        error = -EBADF;
    if (error == 0 && size > inode->seen.size) {
        if (used_bytes(disk) + size - inode->seen.size > disk->capacity)
            error = -ENOSPC;
        else
            resize(&inode->seen, size);
    }
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

static int
simulated_size(void *context, int file, uint64_t *size)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    const struct inode *inode = inode_of(disk, file);
    *size = inode != NULL ? inode->seen.size : 0;
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

static int
simulated_rename(void *context, const char *from, const char *to)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    const struct entry *entry = find_name(&disk->seen, from);
    if (error == 0 && entry == NULL)
        error = -ENOENT;
    if (error == 0)
        note_change(disk, from, to, entry->inode);
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

static int
simulated_remove(void *context, const char *path)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    const struct entry *entry = find_name(&disk->seen, path);
    if (error == 0 && entry == NULL)
        error = -ENOENT;
    if (error == 0)
        note_change(disk, path, "", NULL);
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

static int
simulated_make_directory(void *context, const char *path)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    if (error == 0 && find_name(&disk->seen, path) == NULL) {
        struct inode *inode = calloc(1, sizeof(*inode));
        assert(inode != NULL);
        inode->next = disk->inodes;
        disk->inodes = inode;
        note_change(disk, "", path, inode);
    }
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

/* Whether name is an entry of this directory; its last part if so. */
static const char *
name_in(const char *directory, const char *name)
{
    size_t length = strcmp(directory, "/") == 0 ? 0 : strlen(directory);
    if (strncmp(name, directory, length) != 0 || name[length] != '/'
        || strchr(name + length + 1, '/') != NULL)
        return NULL;
    return name + length + 1;
}

static int
simulated_sync_directory(void *context, const char *path)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    size_t kept = 0;
    for (size_t i = 0; i < disk->change_count && error == 0; i++) {
        const struct change *change = &disk->changes[i];
        if (name_in(path, change->to[0] != '\0' ? change->to : change->from) != NULL)
            apply_change(&disk->medium, change);
        else
            disk->changes[kept++] = *change;
    }
    if (error == 0)
        disk->change_count = kept;
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

static int
simulated_list(void *context, const char *path, file_visit *visit, void *visit_context)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int result = count_call(disk, &half);
    for (size_t i = 0; i < disk->seen.count && result == 0; i++) {
        const char *name = name_in(path, disk->seen.entries[i].name);
        if (name != NULL)
            result = visit(visit_context, name);
    }
    pthread_mutex_unlock(&disk->mutex);
    return result;
}

static int
simulated_space(void *context, const char *path, struct file_space *space)
{
    struct simulated_disk *disk = context;
    (void)path;
    pthread_mutex_lock(&disk->mutex);
    space->total_bytes = disk->capacity;
    space->free_bytes = disk->capacity - used_bytes(disk);
    pthread_mutex_unlock(&disk->mutex);
    return 0;
}

static int
simulated_lock(void *context, int file)
{
    struct simulated_disk *disk = context;
    pthread_mutex_lock(&disk->mutex);
    bool half;
    int error = count_call(disk, &half);
    struct inode *inode = inode_of(disk, file);
    if (error == 0 && inode->is_locked)
        error = -EWOULDBLOCK;
    if (error == 0)
        inode->is_locked = true;
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

/* ---- the outside ---- */

struct simulated_disk *
simulated_disk_new(uint64_t seed)
{
    struct simulated_disk *disk = calloc(1, sizeof(*disk));
    if (disk == NULL)
        return NULL;
    pthread_mutex_init(&disk->mutex, NULL);
    disk->random = seed;
    disk->capacity = UINT64_MAX / 2;
    disk->files = (struct file_ops){
        .context = disk,
        .open = simulated_open,
        .close = simulated_close,
        .write = simulated_write,
        .read = simulated_read,
        .sync = simulated_sync,
        .allocate = simulated_allocate,
        .size = simulated_size,
        .rename = simulated_rename,
        .remove = simulated_remove,
        .make_directory = simulated_make_directory,
        .sync_directory = simulated_sync_directory,
        .list = simulated_list,
        .space = simulated_space,
        .lock = simulated_lock,
    };
    return disk;
}

void
simulated_disk_free(struct simulated_disk *disk)
{
    if (disk == NULL)
        return;
    while (disk->inodes != NULL) {
        struct inode *next = disk->inodes->next;
        free(disk->inodes->seen.bytes);
        free(disk->inodes->medium.bytes);
        free(disk->inodes);
        disk->inodes = next;
    }
    free(disk->seen.entries);
    free(disk->medium.entries);
    free(disk->changes);
    pthread_mutex_destroy(&disk->mutex);
    free(disk);
}

const struct file_ops *
simulated_disk_files(struct simulated_disk *disk)
{
    return &disk->files;
}

uint64_t
simulated_disk_operations(const struct simulated_disk *disk)
{
    return disk->operations;
}

void
simulated_disk_fail_at(struct simulated_disk *disk, uint64_t operation, int error,
                       bool is_power_loss)
{
    pthread_mutex_lock(&disk->mutex);
    disk->fail_at = operation;
    disk->fail_error = error;
    disk->fail_is_power_loss = is_power_loss;
    disk->has_failed = false;
    pthread_mutex_unlock(&disk->mutex);
}

bool
simulated_disk_has_failed(const struct simulated_disk *disk)
{
    return disk->has_failed;
}

void
simulated_disk_pause(struct simulated_disk *disk, bool is_paused)
{
    disk->is_paused = is_paused;
}

/* Part of what was not synced reaches the medium after all. */
static void
spill(struct simulated_disk *disk, struct inode *inode, size_t block)
{
    size_t size = (next_random(disk) & 1) != 0 ? inode->seen.size : inode->medium.size;
    resize(&inode->medium, size);
    for (size_t at = 0; at < size && at < inode->seen.size; at += block) {
        size_t end = at + block;
        if (end > size)
            end = size;
        if (end > inode->seen.size)
            end = inode->seen.size;
        if ((next_random(disk) & 1) != 0)
            memcpy(inode->medium.bytes + at, inode->seen.bytes + at, end - at);
    }
}

/* A name whose directory did not reach the medium is lost, whatever was synced in it. */
static bool
is_reachable(const struct names *names, const char *name)
{
    char directory[NAME_ROOM];
    const char *end = strrchr(name, '/');
    if (end == NULL || end == name)
        return true;
    memcpy(directory, name, (size_t)(end - name));
    directory[end - name] = '\0';
    return find_name(names, directory) != NULL && is_reachable(names, directory);
}

void
simulated_disk_reboot(struct simulated_disk *disk, enum simulated_loss loss)
{
    size_t changes = disk->change_count;
    if (loss == SIMULATED_LOSE_ALL)
        changes = 0;
    else if (loss != SIMULATED_LOSE_NONE)
        changes = next_random(disk) % (disk->change_count + 1);
    for (size_t i = 0; i < changes; i++)
        apply_change(&disk->medium, &disk->changes[i]);
    disk->change_count = 0;
    for (struct inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        if (loss == SIMULATED_LOSE_NONE)
            copy_contents(&inode->medium, &inode->seen);
        else if (loss != SIMULATED_LOSE_ALL)
            spill(disk, inode, loss == SIMULATED_LOSE_SECTORS ? SECTOR : PAGE);
        copy_contents(&inode->seen, &inode->medium);
        inode->is_locked = false;
    }
    disk->seen.count = 0;
    for (size_t i = 0; i < disk->medium.count;)
        if (is_reachable(&disk->medium, disk->medium.entries[i].name))
            i++;
        else
            disk->medium.entries[i] = disk->medium.entries[--disk->medium.count];
    for (size_t i = 0; i < disk->medium.count; i++)
        set_name(&disk->seen, disk->medium.entries[i].name, disk->medium.entries[i].inode);
    memset(disk->open, 0, sizeof(disk->open));
    disk->is_off = false;
    disk->fail_at = 0;
}

void
simulated_disk_limit(struct simulated_disk *disk, uint64_t capacity)
{
    disk->capacity = capacity;
}

void
simulated_disk_short_writes(struct simulated_disk *disk, bool are_short)
{
    disk->has_short_writes = are_short;
}

bool
simulated_disk_flip(struct simulated_disk *disk, const char *path, uint64_t offset)
{
    struct entry *entry = find_name(&disk->seen, path);
    if (entry == NULL || offset >= entry->inode->seen.size)
        return false;
    entry->inode->seen.bytes[offset] ^= 0x10;
    copy_contents(&entry->inode->medium, &entry->inode->seen);
    return true;
}

const char *
simulated_disk_contents(const struct simulated_disk *disk, const char *path, size_t *size)
{
    const struct entry *entry = find_name(&disk->seen, path);
    if (entry == NULL)
        return NULL;
    *size = entry->inode->seen.size;
    return entry->inode->seen.bytes != NULL ? entry->inode->seen.bytes : "";
}

uint64_t
simulated_disk_used(const struct simulated_disk *disk)
{
    return used_bytes(disk);
}
