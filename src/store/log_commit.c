/* A commit: what gathered while the last one was written becomes one atomic stretch of the log.
 *
 * First the plan: every message enters the index as pending, every settle is applied to it. A
 * message that all its queues settled within the group is struck out: it is never written. Then
 * the rest is laid out behind the head, in as many segments as it takes, written with pwritev
 * straight from the shards' staging buffers, and synced once. Only then do the tickets advance.
 *
 * The index is ahead of the medium while a group is written. That is safe because nobody learns
 * from it what is durable, and because the log never goes on after a failed write. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "store/log_internal.h"

enum {
    ARENA_CHUNK_SIZE = 256 * 1024,
    INDEX_LOCK_SLICE = 1024, /* so many records under the index lock, then readers get their turn */
};

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    char bytes[ARENA_CHUNK_SIZE];
};

static char *
arena_get(struct group *group, size_t size)
{
    assert(size <= ARENA_CHUNK_SIZE);
    size = record_round(size);
    if (group->arena == NULL || ARENA_CHUNK_SIZE - group->arena->used < size) {
        struct arena_chunk *chunk = malloc(sizeof(*chunk));
        if (chunk == NULL)
            return NULL;
        chunk->next = group->arena;
        chunk->used = 0;
        group->arena = chunk;
    }
    char *bytes = group->arena->bytes + group->arena->used;
    group->arena->used += size;
    return bytes;
}

static void
group_reset(struct group *group)
{
    group->batches = NULL;
    group->publishes.count = group->moves.count = 0;
    group->settles.count = group->deliveries.count = group->part_settles.count = 0;
    group->piece_count = group->extent_count = 0;
    group->move_size = 0;
    group->records = 0;
    while (group->arena != NULL && group->arena->next != NULL) {
        struct arena_chunk *next = group->arena->next;
        free(group->arena);
        group->arena = next;
    }
    if (group->arena != NULL)
        group->arena->used = 0;
}

void
group_fini(struct group *group)
{
    group_reset(group);
    free(group->arena);
    free(group->publishes.items);
    free(group->moves.items);
    free(group->settles.items);
    free(group->deliveries.items);
    free(group->part_settles.items);
    free(group->pieces);
    free(group->extents);
    free(group->move_buffer);
    *group = (struct group){0};
}

/* ---- the plan: what of the batches needs writing ---- */

static int
note_add(struct notes *notes, const struct record_note *note)
{
    if (log_room(&notes->items, &notes->capacity, notes->count, sizeof(*notes->items)) != 0)
        return -ENOMEM;
    notes->items[notes->count++] = *note;
    return 0;
}

/* The record as it was staged; it was made by the writer, so it can only be sound. */
static struct record_publish
staged_record(const char *record, bool *is_transient)
{
    struct record_header header = {
        .length = get_u32(record + 4),
        .pieces = (uint8_t)record[10],
        .flags = (uint8_t)record[11],
        .count = get_u32(record + 12),
    };
    struct record_publish publish;
    int error = record_publish_get(record, &header, &publish);
    assert(error == 0);
    (void)error;
    *is_transient = publish.is_transient;
    return publish;
}

static int
plan_publish(struct log *log, const struct batch *batch, const struct staged_publish *staged)
{
    struct group *group = &log->group;
    if (log_room(&group->publishes.items, &group->publishes.capacity, group->publishes.count,
                 sizeof(*group->publishes.items))
        != 0)
        return -ENOMEM;
    struct group_record *entry = &group->publishes.items[group->publishes.count];
    *entry = (struct group_record){
        .record = batch->bytes + staged->offset,
        .id = staged->id,
        .length = staged->length,
    };
    struct record_publish publish = staged_record(entry->record, &entry->is_transient);
    struct place place = {
        .ordinal = (uint32_t)group->publishes.count,
        .is_pending = true,
        .is_transient = entry->is_transient,
    };
    if (log_index_put(&log->index, &publish, &place) != 0)
        return -ENOMEM;
    group->publishes.count++;
    return 0;
}

static int
plan_settle(struct log *log, const struct record_note *note)
{
    struct place place;
    enum settle_result result = log_index_settle(&log->index, note->queue_id, note->id, &place);
    if (result == SETTLE_UNKNOWN) {
        log->counts.unknown_settles++;
        return 0;
    }
    if (result == SETTLE_LAST && place.is_pending) {
        log->group.publishes.items[place.ordinal].is_cancelled = true;
        log->counts.cancelled++;
        return 0;
    }
    if (result == SETTLE_LAST)
        segment_kill(log->segments[place.slot], place.ordinal);
    if (place.is_transient)
        return 0;
    return note_add(place.is_pending ? &log->group.part_settles : &log->group.settles, note);
}

static int
plan_delivery(struct log *log, const struct record_note *note)
{
    struct place place;
    if (!log_index_find(&log->index, note->id, &place))
        return 0;
    int noted = log_index_redelivered(&log->index, note->queue_id, note->id, note->count);
    if (noted <= 0)
        return noted;
    return place.is_transient ? 0 : note_add(&log->group.deliveries, note);
}

static void
yield_index(struct log *log, size_t done)
{
    if (done % INDEX_LOCK_SLICE == INDEX_LOCK_SLICE - 1) {
        pthread_mutex_unlock(&log->index_mutex);
        pthread_mutex_lock(&log->index_mutex);
    }
}

/* Notes on a message that in the end is not written need not be, either. */
static int
drop_vain_notes(struct log *log)
{
    struct group *group = &log->group;
    struct place place;
    size_t kept = 0;
    for (size_t i = 0; i < group->deliveries.count; i++)
        if (log_index_find(&log->index, group->deliveries.items[i].id, &place))
            group->deliveries.items[kept++] = group->deliveries.items[i];
    group->deliveries.count = kept;
    int error = 0;
    for (size_t i = 0; i < group->part_settles.count && error == 0; i++)
        if (log_index_find(&log->index, group->part_settles.items[i].id, &place))
            error = note_add(&group->settles, &group->part_settles.items[i]);
    return error;
}

static int
plan_batches(struct log *log, const struct batch *batch)
{
    int error = 0;
    pthread_mutex_lock(&log->index_mutex);
    for (; batch != NULL && error == 0; batch = batch->next) {
        for (size_t i = 0; i < batch->publish_count && error == 0; i++) {
            error = plan_publish(log, batch, &batch->publishes[i]);
            yield_index(log, i);
        }
        for (size_t i = 0; i < batch->settles.count && error == 0; i++) {
            error = plan_settle(log, &batch->settles.items[i]);
            yield_index(log, i);
        }
        for (size_t i = 0; i < batch->deliveries.count && error == 0; i++) {
            error = plan_delivery(log, &batch->deliveries.items[i]);
            yield_index(log, i);
        }
    }
    if (error == 0)
        error = drop_vain_notes(log);
    pthread_mutex_unlock(&log->index_mutex);
    return error;
}

/* ---- the layout: where each record goes ---- */

static int
add_piece(struct group *group, struct segment *segment, uint32_t offset, char *bytes, size_t size)
{
    struct extent *extent =
        group->extent_count > 0 ? &group->extents[group->extent_count - 1] : NULL;
    if (extent == NULL || extent->segment != segment) {
        if (log_room(&group->extents, &group->extent_capacity, group->extent_count,
                     sizeof(*group->extents))
            != 0)
            return -ENOMEM;
        extent = &group->extents[group->extent_count++];
        *extent = (struct extent){
            .segment = segment,
            .offset = offset,
            .first_piece = group->piece_count,
        };
    }
    if (extent->piece_count > 0) {
        struct iovec *last = &group->pieces[group->piece_count - 1];
        if ((char *)last->iov_base + last->iov_len == bytes) {
            last->iov_len += size;
            return 0;
        }
    }
    if (log_room(&group->pieces, &group->piece_capacity, group->piece_count, sizeof(*group->pieces))
        != 0)
        return -ENOMEM;
    group->pieces[group->piece_count++] = (struct iovec){.iov_base = bytes, .iov_len = size};
    extent->piece_count++;
    return 0;
}

/* Puts a record at the end of the head. There is room. */
static int
put_record(struct log *log, char *record, size_t length, struct segment **segment, uint32_t *offset)
{
    struct segment *head = log->head;
    assert(length <= head->size - head->end);
    record_seal(record, head->salt);
    int error = add_piece(&log->group, head, head->end, record, length);
    if (segment != NULL) {
        *segment = head;
        *offset = head->end;
    }
    head->end += (uint32_t)length;
    log->counts.bytes_written += length;
    return error;
}

/* Ends the head segment and goes on in the next. */
static int
roll(struct log *log, size_t length)
{
    char *end = arena_get(&log->group, RECORD_HEADER_SIZE);
    char *block = arena_get(&log->group, SEGMENT_HEADER_SIZE);
    if (end == NULL || block == NULL)
        return log_fail(log, -ENOMEM, "planning a commit", NULL);
    record_end_put(end);
    if (put_record(log, end, RECORD_HEADER_SIZE, NULL, NULL) != 0)
        return log_fail(log, -ENOMEM, "planning a commit", NULL);
    struct segment *next = log_next_segment(log, length);
    if (next == NULL)
        return -EIO;
    log->head->state = SEGMENT_SEALED;
    log->sealed_since_checkpoint++;
    log->head = next;
    struct segment_header header = {
        .number = next->number,
        .log_id = log->log_id,
        .size = next->size,
    };
    segment_header_put(block, &header);
    if (add_piece(&log->group, next, 0, block, SEGMENT_HEADER_SIZE) != 0)
        return log_fail(log, -ENOMEM, "planning a commit", NULL);
    log->counts.bytes_written += SEGMENT_HEADER_SIZE;
    return 0;
}

/* Appends a record, rolling first when it does not fit with the END that every segment must be
 * able to take. Failing here fails the log: the index already has what would not be written. */
static int
append(struct log *log, char *record, size_t length, struct segment **segment, uint32_t *offset)
{
    if (log->head->size - log->head->end < length + RECORD_HEADER_SIZE) {
        int error = roll(log, length);
        if (error != 0)
            return error;
    }
    if (put_record(log, record, length, segment, offset) != 0)
        return log_fail(log, -ENOMEM, "planning a commit", NULL);
    log->group.records++;
    return 0;
}

static struct record_begin
next_begin(const struct log *log)
{
    return (struct record_begin){
        .sequence = log->next_sequence,
        .durable_segment = log->durable.segment,
        .durable_offset = log->durable.offset,
    };
}

static int
append_begin(struct log *log)
{
    struct record_begin begin = next_begin(log);
    char *record = arena_get(&log->group, RECORD_BEGIN_SIZE);
    if (record == NULL)
        return log_fail(log, -ENOMEM, "planning a commit", NULL);
    record_begin_put(record, &begin);
    int error = append(log, record, RECORD_BEGIN_SIZE, NULL, NULL);
    log->group.records = 0;
    return error;
}

static int
append_commit(struct log *log)
{
    char *record = arena_get(&log->group, RECORD_COMMIT_SIZE);
    if (record == NULL)
        return log_fail(log, -ENOMEM, "planning a commit", NULL);
    record_commit_put(record, log->next_sequence, log->group.records);
    return append(log, record, RECORD_COMMIT_SIZE, NULL, NULL);
}

static int
append_records(struct log *log, struct group_records *records)
{
    for (size_t i = 0; i < records->count; i++) {
        struct group_record *entry = &records->items[i];
        if (entry->is_cancelled)
            continue;
        int error = append(log, entry->record, entry->length, &entry->segment, &entry->offset);
        if (error != 0)
            return error;
    }
    return 0;
}

static int
append_notes(struct log *log, enum record_type type, const struct notes *notes)
{
    size_t room =
        log->segment_size / 4 < RECORD_NOTES_ROOM ? log->segment_size / 4 : RECORD_NOTES_ROOM;
    for (size_t done = 0; done < notes->count;) {
        /* Ask for as much as the rest can need at most, so small commits stay small. */
        size_t need = (notes->count - done) * 4 * VARINT_MAX + 2 * RECORD_NOTES_SLACK;
        size_t size = need < room ? need : room;
        char *record = arena_get(&log->group, size);
        if (record == NULL)
            return log_fail(log, -ENOMEM, "planning a commit", NULL);
        size_t used;
        size_t length =
            record_notes_put(record, size, type, notes->items + done, notes->count - done, &used);
        int error = append(log, record, length, NULL, NULL);
        if (error != 0)
            return error;
        done += used;
    }
    return 0;
}

/* Moved messages come last: their records have what the settles and deliveries of this commit left
 * of them, so these must have been replayed on the old copies. A copy with one queue does not even
 * know that another one ever was. */
static int
lay_out(struct log *log)
{
    struct group *group = &log->group;
    int error = append_begin(log);
    if (error == 0)
        error = append_records(log, &group->publishes);
    if (error == 0)
        error = append_notes(log, RECORD_SETTLE, &group->settles);
    if (error == 0)
        error = append_notes(log, RECORD_DELIVERIES, &group->deliveries);
    if (error == 0)
        error = append_records(log, &group->moves);
    return error == 0 ? append_commit(log) : error;
}

/* ---- writing ---- */

static int
write_extents(struct log *log)
{
    struct group *group = &log->group;
    for (size_t i = 0; i < group->extent_count; i++) {
        const struct extent *extent = &group->extents[i];
        int error =
            file_write_all(log->files, extent->segment->file, group->pieces + extent->first_piece,
                           extent->piece_count, extent->offset);
        if (error != 0) {
            char name[SEGMENT_NAME_MAX];
            segment_name(name, extent->segment->slot);
            return log_fail(log, error, "writing", name);
        }
        extent->segment->needs_sync = true;
    }
    log->has_unsynced = true;
    return 0;
}

int
log_sync_all(struct log *log)
{
    if (!log->has_unsynced)
        return 0;
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment == NULL || !segment->needs_sync)
            continue;
        int error = log->files->sync(log->files->context, segment->file);
        if (error != 0) {
            char name[SEGMENT_NAME_MAX];
            segment_name(name, segment->slot);
            return log_fail(log, error, "syncing", name);
        }
        segment->needs_sync = false;
        log->counts.syncs++;
    }
    log->has_unsynced = false;
    log->durable = (struct position){.segment = log->head->number, .offset = log->head->end};
    return 0;
}

/* What was pending has its place now. */
static int
settle_places(struct log *log, struct group_records *records, bool is_move)
{
    int error = 0;
    pthread_mutex_lock(&log->index_mutex);
    for (size_t i = 0; i < records->count && error == 0; i++) {
        struct group_record *entry = &records->items[i];
        if (entry->is_cancelled)
            continue;
        struct record_publish publish = staged_record(entry->record, &entry->is_transient);
        struct place place = {.slot = entry->segment->slot, .is_transient = entry->is_transient};
        struct place old;
        if (is_move && log_index_find(&log->index, entry->id, &old))
            segment_kill(log->segments[old.slot], old.ordinal);
        error = segment_note(entry->segment, &publish, entry->offset, entry->length, true,
                             &place.ordinal);
        /* A moved record has only the queues that were alive, so its detail is made anew. */
        if (error == 0 && is_move)
            error = log_index_put(&log->index, &publish, &place);
        else if (error == 0)
            log_index_move(&log->index, entry->id, &place);
        if (error == 0 && !is_move) {
            log->counts.published++;
            log->counts.bytes_published += entry->length;
        } else if (error == 0) {
            log->counts.moved++;
            log->counts.bytes_moved += entry->length;
        }
        yield_index(log, i);
    }
    pthread_mutex_unlock(&log->index_mutex);
    return error == 0 ? 0 : log_fail(log, error, "entering a commit", NULL);
}

/* Whether anything of the group must be on the medium before it is reported. Moved records need
 * not: until the next checkpoint, which syncs, their old copies are there. */
static bool
needs_sync(const struct group *group)
{
    if (group->settles.count > 0 || group->deliveries.count > 0)
        return true;
    for (size_t i = 0; i < group->publishes.count; i++)
        if (!group->publishes.items[i].is_cancelled && !group->publishes.items[i].is_transient)
            return true;
    return false;
}

static bool
is_empty(const struct group *group)
{
    if (group->settles.count > 0 || group->deliveries.count > 0 || group->moves.count > 0)
        return false;
    for (size_t i = 0; i < group->publishes.count; i++)
        if (!group->publishes.items[i].is_cancelled)
            return false;
    return true;
}

static int
write_group(struct log *log)
{
    struct group *group = &log->group;
    if (is_empty(group))
        return 0;
    int error = lay_out(log);
    if (error == 0)
        error = write_extents(log);
    if (error == 0)
        error = settle_places(log, &group->publishes, false);
    if (error == 0)
        error = settle_places(log, &group->moves, true);
    if (error == 0 && needs_sync(group))
        error = log_sync_all(log);
    if (error != 0)
        return error;
    log->next_sequence++;
    log->is_marked = false;
    log->counts.commits++;
    return 0;
}

int
log_mark_end(struct log *log)
{
    const struct segment *head = log->head;
    if (log->is_marked || log->has_unsynced || log->counts.commits == 0
        || head->size - head->end < RECORD_BEGIN_SIZE + RECORD_HEADER_SIZE)
        return 0;
    char record[RECORD_BEGIN_SIZE];
    struct record_begin begin = next_begin(log);
    record_begin_put(record, &begin);
    record_seal(record, head->salt);
    struct iovec piece = {.iov_base = record, .iov_len = sizeof(record)};
    int error = file_write_all(log->files, head->file, &piece, 1, head->end);
    if (error != 0) {
        char name[SEGMENT_NAME_MAX];
        segment_name(name, head->slot);
        return log_fail(log, error, "writing", name);
    }
    log->is_marked = true;
    return 0;
}

static void
report(struct log *log, struct batch *batches)
{
    uint64_t ticket = 0;
    size_t bytes = 0;
    for (const struct batch *batch = batches; batch != NULL; batch = batch->next) {
        ticket = batch->ticket;
        bytes += batch->backlog;
    }
    atomic_store_explicit(&log->durable_ticket, ticket, memory_order_release);
    atomic_fetch_sub_explicit(&log->backlog, bytes, memory_order_relaxed);
    /* Any number that is new each time tells one report from another. */
    log_finish_batches(log, batches, ticket);
}

int
log_commit(struct log *log, struct batch *batches)
{
    group_reset(&log->group);
    log->group.batches = batches;
    int error = plan_batches(log, batches);
    if (error != 0)
        return log_fail(log, error, "planning a commit", NULL);
    error = log_collect_moves(log);
    uint64_t written_before = log->counts.bytes_written;
    if (error == 0)
        error = write_group(log);
    if (error != 0)
        return error;
    log->last_commit_bytes = log->counts.bytes_written - written_before;
    bool has_moved = log->group.moves.count > 0;
    if (batches != NULL)
        report(log, batches);
    return batches != NULL || has_moved ? 1 : 0;
}
