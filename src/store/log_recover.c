/* Recovery: from the files in the directory to the state of the log.
 *
 * The checkpoint names the segments that matter and says which of their records are alive; their
 * summaries say what those records are; the stream behind the checkpoint's position is replayed.
 * Then the owner is told of each message that is left, and the log goes on in a fresh segment with
 * a fresh checkpoint. Nothing that the old checkpoint needs is changed before the new one is on the
 * medium, so a crash on the way only means to begin again. */
#include "store/log_recover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/random.h>

/* ---- saying what is wrong ---- */

int
recovery_error(struct recovery *recovery, int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(recovery->error, LOG_TEXT_SIZE, format, arguments);
    va_end(arguments);
    return code;
}

static void
tell(const struct recovery *recovery, const char *text)
{
    if (recovery->repair != NULL && recovery->repair->note != NULL)
        recovery->repair->note(recovery->repair->context, text);
    else if (recovery->sink != NULL && recovery->sink->note != NULL)
        recovery->sink->note(recovery->sink->context, text);
}

void
recovery_note(const struct recovery *recovery, const char *format, ...)
{
    char text[LOG_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    tell(recovery, text);
}

int
recovery_damage(struct recovery *recovery, const char *format, ...)
{
    char text[LOG_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    recovery->damages++;
    if (recovery->mode == RECOVER_OPEN)
        return recovery_error(recovery, -EBADMSG, "%s", text);
    tell(recovery, text);
    return 0;
}

/* ---- messages ---- */

int
recovery_enter(struct recovery *recovery, struct segment *segment,
               const struct record_publish *publish, uint32_t offset, uint32_t size, bool is_live)
{
    struct log *log = recovery->log;
    struct place place = {.slot = segment->slot}, old;
    if (publish->id > recovery->max_id)
        recovery->max_id = publish->id;
    if (is_live && log_index_find(&log->index, publish->id, &old)) {
        /* This is a newer copy: the message was moved. */
        segment_kill(log->segments[old.slot], old.ordinal);
        log_index_remove(&log->index, publish->id);
    }
    if (segment_note(segment, publish, offset, size, is_live, &place.ordinal) != 0)
        return recovery_error(recovery, -ENOMEM, "out of memory");
    if (!is_live)
        return 0;
    struct found found = {
        .id = publish->id,
        .published_wall_ms = publish->published_wall_ms,
        .expires_wall_ms = publish->expires_wall_ms,
        .queue_id = get_u64(publish->queue_ids),
        .flags = publish->flags,
        .slot = place.slot,
        .ordinal = place.ordinal,
        .piece_count = publish->piece_count,
    };
    memcpy(found.piece_sizes, publish->piece_sizes, sizeof(found.piece_sizes));
    if (found_add(&recovery->found, &found) != 0
        || log_index_put(&log->index, publish, &place) != 0)
        return recovery_error(recovery, -ENOMEM, "out of memory");
    return 0;
}

/* Whether it is still alive at this place. */
static bool
is_current(const struct recovery *recovery, const struct found *found, struct place *place)
{
    return log_index_find(&recovery->log->index, found->id, place) && place->slot == found->slot
           && place->ordinal == found->ordinal;
}

/* ---- the checkpoint and what it lists ---- */

static int
make_log_id(struct recovery *recovery)
{
    uint64_t *id = &recovery->log->log_id;
    do {
        if (getrandom(id, sizeof(*id), 0) != (ssize_t)sizeof(*id))
            return recovery_error(recovery, -EIO, "no random numbers to be had");
    } while (*id == 0);
    return 0;
}

static int
load_checkpoint(struct recovery *recovery, const struct names *names)
{
    struct log *log = recovery->log;
    char path[PATH_ROOM];
    log_path(log, path, "checkpoint");
    int error = checkpoint_load(log->files, path, &recovery->checkpoint);
    if (error == 0) {
        log->log_id = recovery->checkpoint.log_id;
        if (log->expected_id != 0 && log->expected_id != log->log_id)
            return recovery_error(recovery, -ESTALE,
                                  "%.400s is of log %016" PRIx64 ", and not of %016" PRIx64, path,
                                  log->log_id, log->expected_id);
        return 0;
    }
    bool is_used = true;
    if (error == -ENOENT) {
        int failed = recovery_find_used(recovery, names, &is_used);
        if (failed != 0)
            return failed;
    }
    if (!is_used) {
        /* A new log, or one whose making was cut off: the first segment is there before the first
         * checkpoint, and gets its number after it. */
        recovery->checkpoint = (struct checkpoint){.next_id = 1,
                                                   .next_sequence = 1,
                                                   .next_number = 1,
                                                   .position = {1, SEGMENT_HEADER_SIZE}};
        return make_log_id(recovery);
    }
    if (error == -ENOTSUP)
        return recovery_error(recovery, error, "%.400s was written by a newer version", path);
    if (error != -EBADMSG && error != -ENOENT && error != -EFBIG)
        return recovery_error(recovery, error, "reading %.400s: %s", path, strerror(-error));
    int refused =
        recovery_damage(recovery, "%.400s is %s", path, error == -ENOENT ? "missing" : "damaged");
    if (refused != 0)
        return refused;
    recovery->must_rebuild = true;
    recovery_note(recovery,
                  "without a checkpoint all segments are read; messages that were settled "
                  "long ago may come back");
    return error == -ENOENT ? 0 : recovery_set_aside(recovery, "checkpoint");
}

/* One of its messages that is alive, by which the details find it. */
struct listed_message {
    uint64_t id, queue_id;
    uint32_t ordinal;
};

struct listed {
    struct recovery *recovery;
    struct segment *segment;
    const struct checkpoint_segment *entry;
    const uint64_t *live;
    struct listed_message *messages;
    size_t count, capacity;
    uint64_t damages; /* of the recovery, when this segment was begun */
};

static int
enter_listed(struct listed *listed, const struct record_publish *publish, uint32_t offset,
             uint32_t size, bool is_live)
{
    uint32_t ordinal = listed->segment->count;
    if (is_live) {
        if (log_room(&listed->messages, &listed->capacity, listed->count, sizeof(*listed->messages))
            != 0)
            return recovery_error(listed->recovery, -ENOMEM, "out of memory");
        listed->messages[listed->count++] = (struct listed_message){
            .id = publish->id, .queue_id = get_u64(publish->queue_ids), .ordinal = ordinal};
    }
    return recovery_enter(listed->recovery, listed->segment, publish, offset, size, is_live);
}

static int
visit_listed(void *context, const struct record_publish *publish, uint32_t offset, uint32_t size)
{
    struct listed *listed = context;
    uint32_t ordinal = listed->segment->count;
    /* Behind a record that could not be read the bits mean others: then all count as alive. */
    if (listed->recovery->damages != listed->damages)
        return enter_listed(listed, publish, offset, size, !publish->is_transient);
    bool is_live = ordinal < listed->entry->count && !publish->is_transient
                   && (listed->live[ordinal / 64] >> (ordinal % 64) & 1) != 0;
    return enter_listed(listed, publish, offset, size, is_live);
}

/* The state of one queue of a message that was alive at the checkpoint. */
static int
visit_detail(void *context, uint32_t ordinal, uint32_t queue, bool is_live, uint32_t count)
{
    struct listed *listed = context;
    struct log *log = listed->recovery->log;
    size_t low = 0, high = listed->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (listed->messages[middle].ordinal < ordinal)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == listed->count || listed->messages[low].ordinal != ordinal)
        return 0; /* transient, or lost to damage that was passed over */
    const struct listed_message *found = &listed->messages[low];
    const struct log_detail *detail = log_index_detail(&log->index, found->id);
    if (queue >= (detail == NULL ? 1 : detail->count))
        return -EBADMSG;
    uint64_t queue_id = detail == NULL ? found->queue_id : detail->queues[queue].queue_id;
    struct place place;
    if (!is_live) {
        if (log_index_settle(&log->index, queue_id, found->id, &place) == SETTLE_LAST)
            segment_kill(listed->segment, ordinal);
        return 0;
    }
    if (count == 0 && detail == NULL)
        return 0;
    int noted = log_index_redelivered(&log->index, queue_id, found->id, count);
    return noted < 0 ? noted : 0;
}

/* Takes what a segment holds from its summary. 1: there is none that can be used. */
static int
load_summary(struct listed *listed)
{
    struct recovery *recovery = listed->recovery;
    struct log *log = recovery->log;
    char name[SEGMENT_NAME_MAX], path[PATH_ROOM], *data;
    size_t size;
    segment_summary_name(name, listed->segment->number);
    log_path(log, path, name);
    if (file_load(log->files, path, SIZE_MAX / 2, &data, &size) != 0)
        return 1;
    listed->segment->has_summary = true; /* it need not be made while records are entered */
    int error =
        segment_summary_read(data, size, listed->segment->number, log->log_id, listed->entry->end,
                             listed->entry->count, visit_listed, listed);
    free(data);
    if (error != -EBADMSG)
        return error;
    listed->segment->has_summary = false;
    if (listed->segment->count == 0)
        return 1;
    return recovery_error(recovery, -EBADMSG, "%.400s contradicts the checkpoint", path);
}

static int
load_listed(struct recovery *recovery, const struct checkpoint_segment *entry)
{
    struct log *log = recovery->log;
    struct segment *segment = recovery_segment(recovery, entry->number);
    if (segment == NULL)
        return recovery_damage(recovery,
                               "%.300s: segment %" PRIu64 " is missing, or its header is not there "
                               "(file %06" PRIu32 ".segment); it holds %" PRIu32 " messages",
                               log->directory, entry->number, entry->slot, entry->live_count);
    uint64_t *live = calloc((size_t)entry->count / 64 + 1, sizeof(*live));
    if (live == NULL)
        return recovery_error(recovery, -ENOMEM, "out of memory");
    segment_start(segment, entry->number, log->log_id);
    segment->end = entry->end;
    struct listed listed = {
        .recovery = recovery,
        .segment = segment,
        .entry = entry,
        .live = live,
        .damages = recovery->damages,
    };
    int error = checkpoint_bits(entry, live);
    bool is_head = entry->number == recovery->checkpoint.position.segment;
    if (error == 0 && !is_head)
        segment->state = SEGMENT_SEALED;
    if (error == 0)
        error = is_head ? 1 : load_summary(&listed);
    if (error == 1)
        error = scan_segment(recovery, segment, entry->end, visit_listed, &listed);
    if (error == 0 && recovery->damages == listed.damages)
        error = checkpoint_details(entry, visit_detail, &listed);
    free(live);
    free(listed.messages);
    if (error == -EBADMSG && recovery->error[0] == '\0')
        return recovery_error(recovery, error, "%.300s/checkpoint contradicts segment %" PRIu64,
                              log->directory, entry->number);
    if (error == -ENOMEM)
        return recovery_error(recovery, error, "out of memory");
    return error;
}

static int
load_all(struct recovery *recovery)
{
    const struct checkpoint *checkpoint = &recovery->checkpoint;
    int error = 0;
    for (uint32_t i = 0; i < checkpoint->segment_count && error == 0; i++)
        error = load_listed(recovery, &checkpoint->segments[i]);
    if (error != 0)
        return error;
    struct position from = checkpoint->position;
    if (recovery->must_rebuild) {
        if (recovery->numbered_count == 0)
            return make_log_id(recovery);
        from = (struct position){recovery->by_number[0]->number, SEGMENT_HEADER_SIZE};
    }
    return scan_tail(recovery, from);
}

/* ---- handing over ---- */

/* The record of a live message cannot be read: that is damage, and if it is passed over the message
 * is gone. */
static int
drop_damaged(struct recovery *recovery, const struct found *found, struct segment *segment,
             const struct segment_record *where)
{
    struct log *log = recovery->log;
    char name[SEGMENT_NAME_MAX], queue[LOG_QUEUE_NAME_SIZE];
    segment_name(name, segment->slot);
    const struct log_detail *detail = log_index_detail(&log->index, found->id);
    int error = recovery_damage(
        recovery,
        "%.200s/%s, offset %" PRIu32 ": damaged record of message %" PRIu64
        " in queue %s%s, %" PRIu32 " bytes, segment %" PRIu64,
        log->directory, name, where->offset, found->id,
        log_name_queue(log, detail == NULL ? found->queue_id : detail->queues[0].queue_id, queue),
        detail != NULL && detail->count > 1 ? " and others" : "", where->size, segment->number);
    if (error == 0)
        error = recovery_save(recovery, segment, NULL, where->offset, where->size);
    if (error != 0)
        return error;
    log_index_remove(&log->index, found->id);
    segment_kill(segment, found->ordinal);
    return 0;
}

/* Reads every live message once. */
static int
verify_all(struct recovery *recovery)
{
    struct log *log = recovery->log;
    struct found_cursor cursor = {0};
    struct found found;
    while (found_next(&recovery->found, &cursor, &found)) {
        struct place place;
        if (!is_current(recovery, &found, &place))
            continue;
        struct segment *segment = log->segments[place.slot];
        struct segment_record where = segment->records[place.ordinal];
        struct record_header header;
        char *record, name[SEGMENT_NAME_MAX];
        int error = log_read_record(log, segment, where.offset, where.size, &record, &header);
        free(record);
        if (error == -EBADMSG)
            error = drop_damaged(recovery, &found, segment, &where);
        else if (error != 0) {
            segment_name(name, segment->slot);
            error = recovery_error(recovery, error, "reading %.300s/%s: %s", log->directory, name,
                                   strerror(-error));
        }
        if (error != 0)
            return error;
    }
    return 0;
}

/* Settles what is in queues that are gone. */
static void
drop_queues(struct recovery *recovery, const struct found *found)
{
    struct log *log = recovery->log;
    struct segment *segment = log->segments[found->slot];
    struct place place;
    const struct log_detail *detail = log_index_detail(&log->index, found->id);
    uint32_t count = detail == NULL ? 1 : detail->count;
    for (uint32_t i = 0; i < count; i++) {
        if (detail != NULL && !detail->queues[i].is_live)
            continue;
        uint64_t queue_id = detail == NULL ? found->queue_id : detail->queues[i].queue_id;
        if (recovery->sink->queue_exists(recovery->sink->context, queue_id))
            continue;
        if (log_index_settle(&log->index, queue_id, found->id, &place) == SETTLE_LAST) {
            segment_kill(segment, found->ordinal);
            return; /* the detail is gone with it */
        }
    }
}

static int
hand_over_one(struct recovery *recovery, const struct found *found, struct log_queue **queues,
              size_t *capacity)
{
    struct log_message message = {
        .id = found->id,
        .published_wall_ms = found->published_wall_ms,
        .expires_wall_ms = found->expires_wall_ms,
        .flags = found->flags,
        .piece_count = found->piece_count,
    };
    memcpy(message.piece_sizes, found->piece_sizes, sizeof(message.piece_sizes));
    const struct log_detail *detail = log_index_detail(&recovery->log->index, found->id);
    uint32_t count = detail == NULL ? 1 : detail->count;
    for (uint32_t i = 0; i < count; i++) {
        if (detail != NULL && !detail->queues[i].is_live)
            continue;
        if (log_room(queues, capacity, message.queue_count, sizeof(**queues)) != 0)
            return recovery_error(recovery, -ENOMEM, "out of memory");
        (*queues)[message.queue_count++] = (struct log_queue){
            .queue_id = detail == NULL ? found->queue_id : detail->queues[i].queue_id,
            .delivery_count = detail == NULL ? 0 : detail->queues[i].delivery_count,
        };
    }
    message.queues = *queues;
    int error = recovery->sink->message(recovery->sink->context, &message);
    return error == 0 ? 0
                      : recovery_error(recovery, error, "taking over message %" PRIu64 ": %s",
                                       found->id, strerror(error < 0 ? -error : error));
}

static int
hand_over(struct recovery *recovery)
{
    struct log_queue *queues = NULL;
    size_t capacity = 0;
    int error = 0;
    /* What was handed over makes room for what the owner makes of it. */
    struct found_cursor cursor = {.is_last = true};
    struct found found;
    while (error == 0 && found_next(&recovery->found, &cursor, &found)) {
        struct place place;
        if (!is_current(recovery, &found, &place))
            continue;
        drop_queues(recovery, &found);
        if (is_current(recovery, &found, &place))
            error = hand_over_one(recovery, &found, &queues, &capacity);
    }
    free(queues);
    return error;
}

/* ---- going on ---- */

/* Files that nothing is left of: spares if they have the right size. */
static void
clear_unused(struct log *log)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment == NULL || segment->state == SEGMENT_SEALED)
            continue;
        segment_clear(segment);
    }
}

static void
remove_misfits(struct log *log)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        struct segment *segment = log->segments[slot];
        if (segment == NULL || segment->state != SEGMENT_SPARE
            || segment->size == log->segment_size)
            continue;
        char name[SEGMENT_NAME_MAX], path[PATH_ROOM];
        segment_name(name, slot);
        log_path(log, path, name);
        log->segments[slot] = NULL;
        segment_free(log->files, segment);
        (void)log->files->remove(log->files->context, path); /* the next start tries again */
    }
}

static bool
is_in_use(const struct log *log, uint64_t number)
{
    for (uint32_t slot = 0; slot < log->segment_slots; slot++)
        if (log->segments[slot] != NULL && log->segments[slot]->state == SEGMENT_SEALED
            && log->segments[slot]->number == number)
            return true;
    return false;
}

/* Summaries of segments that are gone, and files that were being written. */
static void
remove_leftovers(const struct log *log, const struct names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        const char *name = names->names[i];
        const char *dot = strrchr(name, '.');
        if (dot == NULL)
            continue;
        char own[SEGMENT_NAME_MAX], path[PATH_ROOM];
        uint64_t number = strtoull(name, NULL, 16);
        segment_summary_name(own, number);
        bool is_summary = strcmp(own, name) == 0;
        if (!is_summary && strcmp(name, "checkpoint.new") != 0)
            continue;
        if (is_summary && is_in_use(log, number))
            continue;
        log_path(log, path, name);
        (void)log->files->remove(log->files->context, path); /* the next start tries again */
    }
}

static int
start_head(struct recovery *recovery)
{
    struct log *log = recovery->log;
    char name[SEGMENT_NAME_MAX], block[SEGMENT_HEADER_SIZE];
    log->head = log_next_segment(log, 0);
    if (log->head != NULL) {
        log->durable = (struct position){log->head->number, SEGMENT_HEADER_SIZE};
        int error = log_checkpoint(log);
        /* The head has taken the last spare, and there is nothing else to give up. */
        if (error == 0 && log->counts.checkpoints == 0 && log_halve_head(log) == 0)
            error = log_checkpoint(log);
        if (error == 0 && log->counts.checkpoints == 0)
            return recovery_error(recovery, -ENOSPC, "%.400s: the disk is full", log->directory);
        if (error == 0) {
            struct segment_header header = {
                .number = log->head->number, .log_id = log->log_id, .size = log->head->size};
            segment_header_put(block, &header);
            struct iovec piece = {.iov_base = block, .iov_len = sizeof(block)};
            error = file_write_all(log->files, log->head->file, &piece, 1, 0);
            log->head->needs_sync = true;
            segment_name(name, log->head->slot);
            if (error != 0)
                return recovery_error(recovery, error, "writing %.300s/%s: %s", log->directory,
                                      name, strerror(-error));
            return 0;
        }
    }
    return recovery_error(recovery, -EIO, "%s", log->failure);
}

static int
take_lock(struct recovery *recovery)
{
    struct log *log = recovery->log;
    const struct file_ops *files = log->files;
    char path[PATH_ROOM];
    int error = file_make_directory(files, log->directory);
    if (error != 0)
        return recovery_error(recovery, error, "making %.400s: %s", log->directory,
                              strerror(-error));
    log_path(log, path, "lock");
    log->lock_file = files->open(files->context, path, FILE_WRITE | FILE_CREATE);
    if (log->lock_file < 0)
        return recovery_error(recovery, log->lock_file, "opening %.400s: %s", path,
                              strerror(-log->lock_file));
    error = files->lock(files->context, log->lock_file);
    if (error != 0)
        return recovery_error(recovery, error, "%.400s is in use by another process",
                              log->directory);
    return 0;
}

static int
read_everything(struct recovery *recovery, const struct names *names, bool verify)
{
    int error = load_checkpoint(recovery, names);
    if (error == 0)
        error = recovery_open_segments(recovery, names);
    if (error == 0)
        error = load_all(recovery);
    if (error != 0)
        return error;
    if (found_sort(&recovery->found) != 0)
        return recovery_error(recovery, -ENOMEM, "out of memory");
    return verify ? verify_all(recovery) : 0;
}

static int
go_on(struct recovery *recovery, const struct names *names)
{
    struct log *log = recovery->log;
    const struct checkpoint *checkpoint = &recovery->checkpoint;
    uint64_t number = checkpoint->next_number;
    if (number <= recovery->max_number)
        number = recovery->max_number + 1;
    log->next_number = number == 1 ? 1 : number + SEGMENT_NUMBER_GAP;
    log->next_sequence = checkpoint->next_sequence > recovery->max_sequence
                             ? checkpoint->next_sequence
                             : recovery->max_sequence + 1;
    uint64_t next_id =
        checkpoint->next_id > recovery->max_id ? checkpoint->next_id : recovery->max_id + 1;
    atomic_store(&log->next_id, next_id);
    clear_unused(log);
    int error = start_head(recovery);
    if (error != 0)
        return error;
    remove_misfits(log);
    remove_leftovers(log, names);
    return 0;
}

int
log_recover(struct log *log, const struct log_recovery *sink, enum recover_mode mode, bool verify,
            const struct repair *repair, char error[LOG_TEXT_SIZE])
{
    error[0] = '\0';
    struct recovery recovery = {
        .log = log, .sink = sink, .mode = mode, .repair = repair, .error = error};
    struct names names = {0};
    int result = mode == RECOVER_LOOK ? 0 : take_lock(&recovery);
    if (result == 0) {
        result = log->files->list(log->files->context, log->directory, names_gather, &names);
        if (result != 0)
            (void)snprintf(error, LOG_TEXT_SIZE, "listing %.400s: %s", log->directory,
                           strerror(-result));
    }
    if (result == 0)
        result = read_everything(&recovery, &names, verify);
    if (result == 0 && sink != NULL)
        result = hand_over(&recovery);
    if (result == 0 && mode != RECOVER_LOOK)
        result = go_on(&recovery, &names);
    checkpoint_fini(&recovery.checkpoint);
    found_free(&recovery.found);
    free(recovery.by_number);
    free(names.names);
    return result;
}
