/* Repair: a damaged log is made usable, and what could not be read is kept in lost+found/. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "store/log_recover.h"

void
recovery_guess_queues(const struct log *log, char text[LOG_TEXT_SIZE], const char *record,
                      size_t size)
{
    text[0] = '\0';
    if (size < RECORD_HEADER_SIZE)
        return;
    struct record_header header = {
        .length = get_u32(record + 4),
        .type = (uint8_t)record[8],
        .pieces = (uint8_t)record[10],
        .flags = (uint8_t)record[11],
        .count = get_u32(record + 12),
    };
    struct record_publish publish;
    if (header.type != RECORD_PUBLISH || header.length > size
        || record_publish_get(record, &header, &publish) != 0)
        return;
    enum { QUEUES_NAMED = 3 };
    int length =
        snprintf(text, LOG_TEXT_SIZE, ", by its looks message %" PRIu64 " in queue", publish.id);
    for (uint32_t i = 0; i < publish.queue_count && i < QUEUES_NAMED; i++) {
        char name[LOG_QUEUE_NAME_SIZE];
        uint64_t queue_id = get_u64(publish.queue_ids + 8 * (size_t)i);
        length += snprintf(text + length, (size_t)(LOG_TEXT_SIZE - length), "%s %s",
                           i == 0 ? "" : ",", log_name_queue(log, queue_id, name));
    }
    if (publish.queue_count > QUEUES_NAMED)
        snprintf(text + length, (size_t)(LOG_TEXT_SIZE - length), " and others");
}

static int
lost_path(struct recovery *recovery, char path[PATH_ROOM], const char *name)
{
    const struct log *log = recovery->log;
    log_path(log, path, "lost+found");
    int error = log->files->make_directory(log->files->context, path);
    if (error != 0)
        return recovery_error(recovery, error, "making %.400s: %s", path, strerror(-error));
    int length = snprintf(path, PATH_ROOM, "%s/lost+found/%s", log->directory, name);
    if (length >= PATH_ROOM)
        return recovery_error(recovery, -ENAMETOOLONG, "the directory's name is too long");
    return 0;
}

static int
sync_lost(struct recovery *recovery)
{
    const struct log *log = recovery->log;
    char path[PATH_ROOM];
    log_path(log, path, "lost+found");
    int error = log->files->sync_directory(log->files->context, path);
    if (error == 0)
        error = log->files->sync_directory(log->files->context, log->directory);
    return error == 0
               ? 0
               : recovery_error(recovery, error, "syncing %.400s: %s", path, strerror(-error));
}

static int
write_lost(struct recovery *recovery, const char *path, const char *bytes, size_t size)
{
    const struct file_ops *files = recovery->log->files;
    int file = files->open(files->context, path, FILE_WRITE | FILE_CREATE | FILE_EMPTY);
    int error = file < 0 ? file : 0;
    if (error == 0) {
        struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
        error = file_write_all(files, file, &piece, 1, 0);
        if (error == 0)
            error = files->sync(files->context, file);
        (void)files->close(files->context, file);
    }
    if (error != 0)
        return recovery_error(recovery, error, "writing %.400s: %s", path, strerror(-error));
    recovery_note(recovery, "%zu bytes that cannot be read were copied to %.400s", size, path);
    return sync_lost(recovery);
}

int
recovery_save(struct recovery *recovery, const struct segment *segment, const char *bytes,
              uint32_t offset, size_t size)
{
    if (recovery->mode != RECOVER_REPAIR)
        return 0;
    char name[SEGMENT_NAME_MAX], path[PATH_ROOM], *own = NULL;
    snprintf(name, sizeof(name), "%016" PRIx64 "-%08" PRIx32, segment->number, offset);
    int error = lost_path(recovery, path, name);
    if (error == 0 && bytes == NULL) {
        own = malloc(size);
        if (own == NULL)
            return recovery_error(recovery, -ENOMEM, "out of memory");
        error = file_read_all(recovery->log->files, segment->file, own, size, offset, &size);
        if (error != 0)
            error = recovery_error(recovery, error, "reading segment %" PRIu64 ": %s",
                                   segment->number, strerror(-error));
    }
    if (error == 0)
        error = write_lost(recovery, path, bytes != NULL ? bytes + offset : own, size);
    free(own);
    return error;
}

int
recovery_set_aside(struct recovery *recovery, const char *name)
{
    if (recovery->mode != RECOVER_REPAIR)
        return 0;
    const struct log *log = recovery->log;
    char from[PATH_ROOM], path[PATH_ROOM];
    log_path(log, from, name);
    int error = lost_path(recovery, path, name);
    if (error == 0) {
        error = log->files->rename(log->files->context, from, path);
        if (error != 0)
            return recovery_error(recovery, error, "moving %.200s to %.200s: %s", from, path,
                                  strerror(-error));
        recovery_note(recovery, "%.200s was moved to %.200s", from, path);
        error = sync_lost(recovery);
    }
    return error;
}

int
log_repair(const struct log_options *options, void (*note)(void *context, const char *text),
           void *context, char error[LOG_TEXT_SIZE])
{
    struct log *log = log_make(options);
    if (log == NULL) {
        snprintf(error, LOG_TEXT_SIZE, "out of memory");
        return -ENOMEM;
    }
    const struct repair repair = {.note = note, .context = context};
    int result = log_recover(log, NULL, RECOVER_REPAIR, true, &repair, error);
    log_free(log);
    return result;
}
