/* Recovery's first step: the files of the directory, and what their headers say they are. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "store/log_recover.h"

struct segment *
recovery_segment(const struct recovery *recovery, uint64_t number)
{
    size_t low = 0, high = recovery->numbered_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (recovery->by_number[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < recovery->numbered_count && recovery->by_number[low]->number == number
               ? recovery->by_number[low]
               : NULL;
}

int
recovery_load(struct recovery *recovery, const struct segment *segment, size_t limit, char **bytes,
              size_t *size)
{
    const struct log *log = recovery->log;
    char name[SEGMENT_NAME_MAX];
    segment_name(name, segment->slot);
    *bytes = malloc(limit + 1);
    if (*bytes == NULL)
        return recovery_error(recovery, -ENOMEM, "out of memory");
    int error = file_read_all(log->files, segment->file, *bytes, limit, 0, size);
    if (error == 0)
        return 0;
    free(*bytes);
    *bytes = NULL;
    return recovery_error(recovery, error, "reading %.300s/%s: %s", log->directory, name,
                          strerror(-error));
}

/* The slot of a file name like 000007.segment. */
static bool
parse_name(const char *name, uint32_t *slot)
{
    char *end, again[SEGMENT_NAME_MAX];
    unsigned long number = strtoul(name, &end, 10);
    if (number >= INDEX_SLOTS_MAX)
        return false;
    *slot = (uint32_t)number;
    segment_name(again, *slot);
    return strcmp(again, name) == 0;
}

static int
place_segment(struct log *log, struct segment *segment)
{
    if (segment->slot >= log->segment_slots) {
        uint32_t slots = log->segment_slots == 0 ? 16 : log->segment_slots;
        while (slots <= segment->slot)
            slots *= 2;
        struct segment **segments = realloc(log->segments, slots * sizeof(struct segment *));
        if (segments == NULL)
            return -ENOMEM;
        memset(segments + log->segment_slots, 0,
               (slots - log->segment_slots) * sizeof(struct segment *));
        log->segments = segments;
        log->segment_slots = slots;
    }
    log->segments[segment->slot] = segment;
    return 0;
}

/* What the header of a file says. */
static int
read_header(struct recovery *recovery, struct segment *segment, const char *name)
{
    struct log *log = recovery->log;
    char block[SEGMENT_HEADER_SIZE];
    struct segment_header header;
    size_t got;
    int error = file_read_all(log->files, segment->file, block, sizeof(block), 0, &got);
    if (error != 0)
        return recovery_error(recovery, error, "reading %.300s/%s: %s", log->directory, name,
                              strerror(-error));
    error = segment_header_get(block, got, &header);
    if (error == -ENODATA)
        return 0;
    if (error == -ENOTSUP)
        return recovery_error(recovery, error, "%.300s/%s was written by a newer version",
                              log->directory, name);
    if (error == 0 && recovery->must_rebuild && log->log_id == 0)
        log->log_id = header.log_id;
    if (error == 0 && header.number != 0 && header.log_id != log->log_id)
        return recovery_damage(recovery, "%.300s/%s belongs to another log", log->directory, name);
    if (error != 0) {
        error = recovery_damage(recovery, "%.300s/%s: the header is damaged", log->directory, name);
        return error != 0 ? error : 1;
    }
    segment->number = header.number;
    segment->zeroed = segment->size;
    if (header.number > recovery->max_number)
        recovery->max_number = header.number;
    if (header.number == 0)
        return 0;
    if (log_room(&recovery->by_number, &recovery->numbered_capacity, recovery->numbered_count,
                 sizeof(struct segment *))
        != 0)
        return recovery_error(recovery, -ENOMEM, "out of memory");
    recovery->by_number[recovery->numbered_count++] = segment;
    return 0;
}

static int
open_segment(struct recovery *recovery, const char *name, uint32_t slot)
{
    struct log *log = recovery->log;
    char path[PATH_ROOM];
    log_path(log, path, name);
    struct segment *segment = segment_new(slot);
    if (segment == NULL || place_segment(log, segment) != 0) {
        segment_free(log->files, segment);
        return recovery_error(recovery, -ENOMEM, "out of memory");
    }
    uint64_t size = 0;
    segment->file = log->files->open(log->files->context, path,
                                     recovery->mode == RECOVER_LOOK ? FILE_READ : FILE_WRITE);
    int error = segment->file < 0 ? segment->file
                                  : log->files->size(log->files->context, segment->file, &size);
    if (error != 0)
        return recovery_error(recovery, error, "opening %.400s: %s", path, strerror(-error));
    if (size > UINT32_MAX)
        return recovery_damage(recovery, "%.400s is larger than a segment can be", path);
    segment->size = (uint32_t)size;
    error = read_header(recovery, segment, name);
    if (error <= 0)
        return error;
    /* Damaged and passed over. */
    log->segments[slot] = NULL;
    segment_free(log->files, segment);
    return recovery_set_aside(recovery, name);
}

int
names_gather(void *context, const char *name)
{
    struct names *names = context;
    if (strlen(name) >= SEGMENT_NAME_MAX)
        return 0;
    if (log_room(&names->names, &names->capacity, names->count, SEGMENT_NAME_MAX) != 0)
        return -ENOMEM;
    memcpy(names->names[names->count++], name, strlen(name) + 1);
    return 0;
}

static int
compare_numbers(const void *a, const void *b)
{
    const struct segment *const *x = a, *const *y = b;
    return ((*x)->number > (*y)->number) - ((*x)->number < (*y)->number);
}

int
recovery_open_segments(struct recovery *recovery, const struct names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        uint32_t slot;
        if (!parse_name(names->names[i], &slot))
            continue;
        int error = open_segment(recovery, names->names[i], slot);
        if (error != 0)
            return error;
    }
    if (recovery->numbered_count == 0)
        return 0;
    qsort(recovery->by_number, recovery->numbered_count, sizeof(struct segment *), compare_numbers);
    for (size_t i = 1; i < recovery->numbered_count; i++)
        if (recovery->by_number[i]->number == recovery->by_number[i - 1]->number)
            return recovery_error(recovery, -EBADMSG,
                                  "%.300s: two files are segment %" PRIu64 " (%06" PRIu32
                                  " and %06" PRIu32 "): one is a copy; move it away",
                                  recovery->log->directory, recovery->by_number[i]->number,
                                  recovery->by_number[i - 1]->slot, recovery->by_number[i]->slot);
    return 0;
}

/* Whether the file has ever been part of a log: then its header has a number. */
static int
look_whether_used(struct recovery *recovery, const char *name, bool *is_used)
{
    const struct log *log = recovery->log;
    char path[PATH_ROOM], block[SEGMENT_HEADER_SIZE];
    struct segment_header header;
    size_t got = 0;
    log_path(log, path, name);
    int file = log->files->open(log->files->context, path, FILE_READ);
    int error = file < 0 ? file : file_read_all(log->files, file, block, sizeof(block), 0, &got);
    if (file >= 0)
        (void)log->files->close(log->files->context, file);
    if (error != 0)
        return recovery_error(recovery, error, "reading %.400s: %s", path, strerror(-error));
    int result = segment_header_get(block, got, &header);
    *is_used = result != -ENODATA && (result != 0 || header.number != 0);
    return 0;
}

int
recovery_find_used(struct recovery *recovery, const struct names *names, bool *is_found)
{
    int error = 0;
    *is_found = false;
    for (size_t i = 0; i < names->count && error == 0 && !*is_found; i++) {
        uint32_t slot;
        if (parse_name(names->names[i], &slot))
            error = look_whether_used(recovery, names->names[i], is_found);
    }
    return error;
}
