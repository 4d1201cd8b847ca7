/* Space: spare segments, compaction, and what a nearly full disk means.
 *
 * A few preallocated spares are always kept: the head goes on in one without waiting for the file
 * system, and they are the reserve when the disk is full. If a new spare cannot be had, the disk
 * counts as low and the broker holds publishers back, while settles, compaction and checkpoints
 * have the reserve to work with.
 *
 * Compaction moves the live messages of the emptiest segment to the head when all segments
 * together hold more than twice what is alive (and some slack). The emptiest one is then at most
 * half full, so each move frees at least as much as it writes; traffic that is consumed in order
 * never moves anything, because its segments die by themselves. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "store/log_internal.h"

uint32_t
log_spares(const struct log *log)
{
    uint32_t spares = 0;
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        const struct segment *segment = log->segments[slot];
        spares += segment != NULL && segment->state == SEGMENT_SPARE
                  && segment->size >= log->segment_size;
    }
    return spares;
}

/* A spare that is too small to be the head: what a full disk made of one. */
static struct segment *
find_small(const struct log *log)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment != NULL && segment->state == SEGMENT_SPARE && segment->size < log->segment_size)
            return segment;
    }
    return NULL;
}

/* ---- files ---- */

static int
free_slot(struct log *log, uint32_t *slot)
{
    for (*slot = 0; *slot < log->segment_slots; ++*slot)
        if (log->segments[*slot] == NULL)
            return 0;
    if (log->segment_slots >= INDEX_SLOTS_MAX)
        return -ENOSPC;
    uint32_t slots = log->segment_slots == 0 ? 16 : log->segment_slots * 2;
    struct segment **segments = calloc(slots, sizeof(struct segment *));
    if (segments == NULL)
        return -ENOMEM;
    pthread_mutex_lock(&log->index_mutex);
    if (log->segment_slots > 0)
        memcpy(segments, log->segments, log->segment_slots * sizeof(struct segment *));
    free(log->segments);
    log->segments = segments;
    log->segment_slots = slots;
    pthread_mutex_unlock(&log->index_mutex);
    return 0;
}

static int
allocate_file(struct log *log, const char *path, uint64_t size, int *file)
{
    const struct file_ops *files = log->files;
    *file = files->open(files->context, path, FILE_WRITE | FILE_CREATE | FILE_EMPTY);
    if (*file < 0)
        return *file;
    int error = files->allocate(files->context, *file, size);
    if (error == 0)
        error = files->sync(files->context, *file);
    if (error == 0)
        error = files->sync_directory(files->context, log->directory);
    if (error == 0)
        return 0;
    (void)files->close(files->context, *file);
    (void)files->remove(files->context, path);
    return error;
}

int
log_create_segment(struct log *log, uint64_t size, struct segment **segment)
{
    uint32_t slot;
    int error = free_slot(log, &slot);
    if (error != 0)
        return error;
    struct segment *fresh = segment_new(slot);
    if (fresh == NULL)
        return -ENOMEM;
    char name[SEGMENT_NAME_MAX], path[PATH_ROOM];
    segment_name(name, slot);
    log_path(log, path, name);
    error = allocate_file(log, path, size, &fresh->file);
    if (error != 0) {
        fresh->file = -1;
        segment_free(log->files, fresh);
        return error;
    }
    fresh->size = (uint32_t)size;
    log->segments[slot] = fresh;
    *segment = fresh;
    return 0;
}

static void
remove_spare(struct log *log, struct segment *segment)
{
    char name[SEGMENT_NAME_MAX], path[PATH_ROOM];
    segment_name(name, segment->slot);
    log_path(log, path, name);
    pthread_mutex_lock(&log->index_mutex);
    log->segments[segment->slot] = NULL;
    pthread_mutex_unlock(&log->index_mutex);
    segment_free(log->files, segment);
    /* Should the file stay, it is a spare again after the next start. */
    (void)log->files->remove(log->files->context, path);
}

static struct segment *
find_spare(const struct log *log, size_t size)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment != NULL && segment->state == SEGMENT_SPARE && segment->size >= size)
            return segment;
    }
    return NULL;
}

bool
log_drop_spare(struct log *log)
{
    struct segment *spare = find_spare(log, 0);
    if (spare == NULL)
        return false;
    remove_spare(log, spare);
    return true;
}

struct segment *
log_next_segment(struct log *log, size_t length)
{
    size_t size = SEGMENT_HEADER_SIZE + length + RECORD_BEGIN_SIZE + RECORD_HEADER_SIZE;
    if (size < log->segment_size)
        size = log->segment_size;
    struct segment *segment = find_spare(log, size);
    if (segment == NULL) {
        int error = log_create_segment(log, size, &segment);
        if (error != 0) {
            log_fail(log, error, "making a new segment in", log->directory);
            return NULL;
        }
    }
    segment_start(segment, log->next_number++, log->log_id);
    return segment;
}

int
log_halve_head(struct log *log)
{
    struct segment *head = log->head, *smaller;
    uint64_t number = head->number;
    uint32_t size = head->size / 2 / SEGMENT_HEADER_SIZE * SEGMENT_HEADER_SIZE;
    if (size < SEGMENT_SIZE_MIN / 2)
        return -ENOSPC;
    log->head = NULL;
    remove_spare(log, head);
    int error = log_create_segment(log, size, &smaller);
    if (error != 0)
        return error;
    segment_start(smaller, number, log->log_id);
    log->head = smaller;
    return 0;
}

/* ---- compaction ---- */

/* Whether moving what lives in a segment frees enough to be worth it. */
static bool
is_worth_moving(const struct segment *segment)
{
    return segment->state == SEGMENT_SEALED && segment->live_count > 0 && !segment->is_damaged
           && segment->live_bytes < segment->size / 4 * 3;
}

static struct segment *
choose_victim(const struct log *log)
{
    uint64_t used = 0, live = 0, slack = COMPACTION_SLACK_SEGMENTS * (uint64_t)log->segment_size;
    struct segment *best = NULL;
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment == NULL || segment->state != SEGMENT_SEALED || segment->live_count == 0)
            continue;
        used += segment->size;
        live += segment->live_bytes;
        if (is_worth_moving(segment)
            && (best == NULL
                || segment->live_bytes * best->size < best->live_bytes * segment->size))
            best = segment;
    }
    bool is_low = atomic_load_explicit(&log->is_disk_low, memory_order_relaxed);
    return used > 2 * live + (is_low ? 0 : slack) ? best : NULL;
}

bool
log_wants_compaction(struct log *log)
{
    if (log->victim != NULL && log->victim->live_count > 0 && !log->victim->is_damaged)
        return true;
    log->victim = choose_victim(log);
    log->victim_next = 0;
    return log->victim != NULL;
}

/* Makes the record that is written for a moved message: as it was, with the queues that are still
 * alive. Returns its length. */
static size_t
put_moved(char *record, const struct record_publish *old, const struct log_detail *detail)
{
    struct record_publish fixed = *old;
    bool has_counts = detail == NULL && old->counts != NULL;
    uint32_t queues = detail == NULL ? old->queue_count : detail->live;
    for (uint32_t i = 0; detail != NULL && i < detail->count; i++)
        has_counts = has_counts || (detail->queues[i].is_live && detail->queues[i].delivery_count);
    size_t length = record_publish_size(queues, has_counts, old->piece_sizes, old->piece_count);
    record_publish_put(record, &fixed);
    char *ids = record + record_queues_offset(old->piece_count);
    char *counts = ids + 8 * (size_t)queues;
    uint32_t n = 0;
    for (uint32_t i = 0; i < old->queue_count; i++) {
        if (detail != NULL && !detail->queues[i].is_live)
            continue;
        put_u64(ids + 8 * (size_t)n, get_u64(old->queue_ids + 8 * (size_t)i));
        if (has_counts)
            put_u32(counts + 4 * (size_t)n, detail != NULL ? detail->queues[i].delivery_count
                                                           : get_u32(old->counts + 4 * (size_t)i));
        n++;
    }
    size_t payload = 0;
    for (uint32_t i = 0; i < old->piece_count; i++)
        payload += old->piece_sizes[i];
    char *at = record + record_payload_offset(old->piece_count, queues, has_counts);
    memcpy(at, old->payload, payload);
    memset(at + payload, 0, (size_t)(record + length - (at + payload)));
    record_finish(record, length, RECORD_PUBLISH, (uint8_t)old->piece_count,
                  (uint8_t)((old->is_transient ? RECORD_TRANSIENT : 0)
                            | (has_counts ? RECORD_HAS_COUNTS : 0)),
                  queues);
    return length;
}

/* One message of the victim joins the group. */
static int
collect_move(struct log *log, uint32_t ordinal)
{
    struct segment *victim = log->victim;
    struct group *group = &log->group;
    const struct segment_record *where = &victim->records[ordinal];
    char *record;
    struct record_header header;
    struct record_publish publish;
    int error = log_read_record(log, victim, where->offset, where->size, &record, &header);
    if (error == -ENOMEM)
        return log_fail(log, error, "compacting", NULL);
    if (error == 0)
        error = record_publish_get(record, &header, &publish);
    if (error != 0) {
        /* Damage in an old message is told to whoever reads that message. Here it means that the
         * segment stays as it is, so that what can be rescued from it is still there. */
        victim->is_damaged = true;
        free(record);
        return 0;
    }
    const struct log_detail *detail = log_index_detail(&log->index, publish.id);
    /* The delivery counts may be new, 4 bytes a queue. */
    size_t room = where->size + 4 * (size_t)publish.queue_count + RECORD_ALIGNMENT;
    if (log_room(&group->moves.items, &group->moves.capacity, group->moves.count,
                 sizeof(*group->moves.items))
            != 0
        || group->move_capacity - group->move_size < room) {
        free(record);
        return log_fail(log, -ENOMEM, "compacting", NULL);
    }
    char *moved = group->move_buffer + group->move_size;
    size_t length = put_moved(moved, &publish, detail);
    group->moves.items[group->moves.count++] = (struct group_record){
        .record = moved,
        .id = publish.id,
        .length = (uint32_t)length,
    };
    group->move_size += length;
    free(record);
    return 0;
}

/* How much to move in this commit: as much as is published in it, within bounds. */
static size_t
slice_size(const struct group *group)
{
    size_t published = 0;
    for (size_t i = 0; i < group->publishes.count; i++)
        published += group->publishes.items[i].length;
    if (published < COMPACTION_SLICE_MIN)
        return COMPACTION_SLICE_MIN;
    return published < COMPACTION_SLICE_MAX ? published : COMPACTION_SLICE_MAX;
}

/* Room for a slice, and for the one record that may be larger. */
static int
move_room(struct log *log, size_t slice, const struct segment_record *first)
{
    struct group *group = &log->group;
    size_t need = slice + 2 * (size_t)first->size;
    if (group->move_capacity >= need)
        return 0;
    free(group->move_buffer);
    group->move_buffer = malloc(need);
    group->move_capacity = group->move_buffer == NULL ? 0 : need;
    return group->move_buffer == NULL ? log_fail(log, -ENOMEM, "compacting", NULL) : 0;
}

int
log_collect_moves(struct log *log)
{
    if (!log_wants_compaction(log))
        return 0;
    struct segment *victim = log->victim;
    struct group *group = &log->group;
    uint32_t ordinal = segment_next_live(victim, log->victim_next);
    if (ordinal == victim->count)
        ordinal = segment_next_live(victim, 0);
    size_t slice = slice_size(group), taken = 0;
    int error = move_room(log, slice, &victim->records[ordinal]);
    while (error == 0 && ordinal < victim->count && !victim->is_damaged) {
        /* Twice its size: delivery counts may make it longer. */
        size_t size = 2 * (size_t)victim->records[ordinal].size;
        if (group->moves.count > 0
            && (taken + size > slice
                || group->move_capacity - group->move_size < size + RECORD_ALIGNMENT))
            break;
        error = collect_move(log, ordinal);
        taken += size;
        ordinal = segment_next_live(victim, ordinal + 1);
    }
    log->victim_next = ordinal;
    return error;
}

/* ---- spares and zeros ---- */

static struct segment *
find_unzeroed(const struct log *log)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment != NULL && segment->state == SEGMENT_SPARE && segment->zeroed < segment->size)
            return segment;
    }
    return NULL;
}

void
log_update_low(struct log *log)
{
    struct file_space space;
    bool is_low = log->is_space_blocked || log->is_checkpoint_blocked;
    uint64_t free_low = atomic_load_explicit(&log->disk_free_low, memory_order_relaxed);
    if (free_low > 0 && log->files->space(log->files->context, log->directory, &space) == 0)
        is_low = is_low || space.free_bytes < free_low;
    atomic_store_explicit(&log->is_disk_low, is_low, memory_order_relaxed);
}

/* Writes the next piece of a spare with zeros, so that later a sync of it has no metadata to
 * write: extents that were allocated and never written are marked as such in the file system. */
static int
zero_slice(struct log *log, struct segment *segment)
{
    char name[SEGMENT_NAME_MAX];
    segment_name(name, segment->slot);
    size_t size =
        segment->size - segment->zeroed < ZERO_SLICE ? segment->size - segment->zeroed : ZERO_SLICE;
    char *zeros = calloc(1, size);
    if (zeros == NULL)
        return log_fail(log, -ENOMEM, "preparing", name);
    uint32_t offset = segment->zeroed;
    segment->zeroed += (uint32_t)size;
    struct iovec piece = {.iov_base = zeros, .iov_len = size};
    int error = file_write_all(log->files, segment->file, &piece, 1, offset);
    if (error == 0 && segment->zeroed == segment->size) {
        /* The header says that it is done, for the next start. */
        struct segment_header header = {.log_id = log->log_id, .size = segment->size};
        char block[SEGMENT_HEADER_SIZE];
        segment_header_put(block, &header);
        piece = (struct iovec){.iov_base = block, .iov_len = sizeof(block)};
        error = file_write_all(log->files, segment->file, &piece, 1, 0);
    }
    free(zeros);
    if (error == 0)
        error = log->files->sync(log->files->context, segment->file);
    if (error == -ENOSPC || error == -EDQUOT) {
        /* A file system whose reservations are worth nothing. While there are spares enough without
         * this one, nobody need be held back, nor would a new one be tried to let them go on. */
        remove_spare(log, segment);
        log->is_space_blocked = log_spares(log) < log->spares_wanted;
        return 1;
    }
    return error == 0 ? 1 : log_fail(log, error, "preparing", name);
}

static bool
may_try_space(const struct log *log)
{
    return !log->is_space_blocked || log->counts.commits >= log->space_retry_at;
}

static int
add_spare(struct log *log)
{
    struct segment *segment;
    int error = log_create_segment(log, log->segment_size, &segment);
    log->is_space_blocked =
        error == -ENOSPC || error == -EDQUOT || error == -EMFILE || error == -ENFILE;
    if (log->is_space_blocked) {
        log->space_retry_at = log->counts.commits + SPACE_RETRY_COMMITS;
        return 0;
    }
    return error == 0 ? 1 : log_fail(log, error, "making a new segment in", log->directory);
}

static bool
zeroing_is_due(const struct log *log, bool is_idle)
{
    return is_idle && log->last_commit_bytes < LARGE_COMMIT && !log->is_space_blocked
           && find_unzeroed(log) != NULL;
}

/* More spares than wanted save the making of new ones, as long as the disk has room for that: they
 * must not be what keeps it below the watermark. */
static bool
has_spares_to_drop(const struct log *log, uint32_t spares)
{
    bool is_low = atomic_load_explicit(&log->is_disk_low, memory_order_relaxed);
    return spares > log->spares_wanted + (is_low ? 0 : SPARE_SEGMENTS_EXTRA);
}

bool
log_space_is_due(struct log *log, bool is_idle)
{
    uint32_t spares = log_spares(log);
    if (has_spares_to_drop(log, spares) || find_small(log) != NULL)
        return true;
    if (spares < log->spares_wanted && may_try_space(log))
        return true;
    return zeroing_is_due(log, is_idle);
}

int
log_tend_space(struct log *log, bool is_idle)
{
    int done = 0;
    uint32_t spares = log_spares(log);
    struct segment *small = find_small(log);
    if (small != NULL) {
        remove_spare(log, small);
        done = 1;
    } else if (has_spares_to_drop(log, spares)) {
        done = log_drop_spare(log) ? 1 : 0;
    } else if (spares < log->spares_wanted && may_try_space(log)) {
        done = add_spare(log);
    } else if (zeroing_is_due(log, is_idle)) {
        done = zero_slice(log, find_unzeroed(log));
    }
    return done;
}
