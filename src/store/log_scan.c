/* Reading the stream of records: the tail behind the checkpoint, and segments without a summary.
 *
 * The tail is read commit by commit, and a commit is applied when its end has been seen. Where
 * reading stops, one question decides: was that the end, torn perhaps, or is it damage? If any
 * later commit's BEGIN can be found and says that everything up to beyond this place was on the
 * medium when it was written, then sound bytes have gone bad here: damage. Otherwise nothing from
 * here on was ever reported durable, and it is cut. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "store/log_recover.h"

struct tail_record {
    const char *bytes;
    struct record_header header;
    struct segment *segment;
    uint32_t offset;
};

/* The bytes of a segment; kept until the commits that lie in it are applied. */
struct tail_bytes {
    struct tail_bytes *next;
    char *bytes;
};

struct tail {
    struct recovery *recovery;
    struct segment *segment; /* being read */
    struct tail_bytes *loaded;
    const char *bytes;
    size_t size;
    uint32_t offset;
    bool is_in_commit;
    uint64_t sequence;
    struct tail_record *records;
    size_t count, capacity;
    struct segment *good_segment; /* the last commit ended here */
    uint32_t good_offset;
};

static bool
is_before(uint64_t segment, uint32_t offset, const struct record_begin *begin)
{
    return segment < begin->durable_segment
           || (segment == begin->durable_segment && offset < begin->durable_offset);
}

/* ---- segments without summary ---- */

/* The next offset at which a sound record starts. */
static uint32_t
find_sound(const char *bytes, uint32_t offset, uint32_t end, uint32_t salt)
{
    struct record_header header;
    while (offset < end && record_open(bytes + offset, end - offset, salt, &header) != 0)
        offset += RECORD_ALIGNMENT;
    return offset < end ? offset : end;
}

static int
pass_damage(struct recovery *recovery, struct segment *segment, const char *bytes, size_t size,
            uint32_t *offset, uint32_t end)
{
    char name[SEGMENT_NAME_MAX], queues[LOG_TEXT_SIZE];
    segment_name(name, segment->slot);
    recovery_guess_queues(recovery->log, queues, bytes + *offset, size - *offset);
    int error = recovery_damage(
        recovery, "%.200s/%s, offset %" PRIu32 ": damaged record in segment %" PRIu64 "%.300s",
        recovery->log->directory, name, *offset, segment->number, queues);
    if (error != 0)
        return error;
    uint32_t from = *offset;
    *offset = find_sound(bytes, from + RECORD_ALIGNMENT, end, segment->salt);
    return recovery_save(recovery, segment, bytes, from, *offset - from);
}

int
scan_segment(struct recovery *recovery, struct segment *segment, uint32_t end, segment_visit *visit,
             void *context)
{
    char *bytes;
    size_t size;
    int error = recovery_load(recovery, segment, end, &bytes, &size);
    if (error != 0)
        return error;
    uint32_t limit = size < end ? (uint32_t)size : end;
    uint32_t offset = SEGMENT_HEADER_SIZE;
    while (error == 0 && offset < limit) {
        struct record_header header;
        struct record_publish publish;
        int opened = record_open(bytes + offset, limit - offset, segment->salt, &header);
        if (opened == 0 && header.type == RECORD_PUBLISH)
            opened = record_publish_get(bytes + offset, &header, &publish);
        if (opened == -ENOTSUP) {
            error = recovery_error(recovery, opened,
                                   "segment %" PRIu64 " was written by a newer version",
                                   segment->number);
        } else if (opened != 0) {
            error = pass_damage(recovery, segment, bytes, limit, &offset, limit);
        } else {
            if (header.type == RECORD_PUBLISH)
                error = visit(context, &publish, offset, header.length);
            offset += header.length;
        }
    }
    if (error == 0 && limit < end) {
        char name[SEGMENT_NAME_MAX];
        segment_name(name, segment->slot);
        error =
            recovery_damage(recovery, "%.200s/%s ends at %" PRIu32 ", but should reach %" PRIu32,
                            recovery->log->directory, name, limit, end);
    }
    free(bytes);
    return error;
}

/* ---- applying a commit ---- */

static int
apply_settle(void *context, const struct record_note *note)
{
    struct log *log = ((struct recovery *)context)->log;
    struct place place;
    if (log_index_settle(&log->index, note->queue_id, note->id, &place) == SETTLE_LAST)
        segment_kill(log->segments[place.slot], place.ordinal);
    return 0;
}

static int
apply_delivery(void *context, const struct record_note *note)
{
    struct log *log = ((struct recovery *)context)->log;
    int noted = log_index_redelivered(&log->index, note->queue_id, note->id, note->count);
    return noted < 0 ? noted : 0;
}

static int
apply_record(struct recovery *recovery, const struct tail_record *record)
{
    struct record_publish publish;
    int error = 0;
    switch (record->header.type) {
    case RECORD_PUBLISH:
        error = record_publish_get(record->bytes, &record->header, &publish);
        if (error == 0)
            error = recovery_enter(recovery, record->segment, &publish, record->offset,
                                   record->header.length, !publish.is_transient);
        break;
    case RECORD_SETTLE:
        error = record_notes_get(record->bytes, &record->header, apply_settle, recovery);
        break;
    case RECORD_DELIVERIES:
        error = record_notes_get(record->bytes, &record->header, apply_delivery, recovery);
        break;
    default:
        break;
    }
    if (error != -EBADMSG)
        return error;
    /* Its check is right and its contents are not: no disk does that. */
    return recovery_damage(
        recovery, "segment %" PRIu64 ", offset %" PRIu32 ": a record that cannot be understood",
        record->segment->number, record->offset);
}

static int
apply_records(struct tail *tail)
{
    int error = 0;
    for (size_t i = 0; i < tail->count && error == 0; i++)
        error = apply_record(tail->recovery, &tail->records[i]);
    tail->count = 0;
    return error;
}

/* ---- walking ---- */

static void
drop_bytes(struct tail_bytes **list)
{
    while (*list != NULL) {
        struct tail_bytes *next = (*list)->next;
        free((*list)->bytes);
        free(*list);
        *list = next;
    }
}

static int
enter_segment(struct tail *tail, struct segment *segment, uint32_t offset)
{
    struct tail_bytes *loaded = calloc(1, sizeof(*loaded));
    if (loaded == NULL)
        return recovery_error(tail->recovery, -ENOMEM, "out of memory");
    int error = recovery_load(tail->recovery, segment, segment->size, &loaded->bytes, &tail->size);
    if (error != 0) {
        free(loaded);
        return error;
    }
    loaded->next = tail->loaded;
    tail->loaded = loaded;
    tail->bytes = loaded->bytes;
    tail->segment = segment;
    tail->offset = offset;
    if (segment->state == SEGMENT_SPARE)
        segment_start(segment, segment->number, tail->recovery->log->log_id);
    return 0;
}

static int
commit_ends(struct tail *tail, const struct record_header *header)
{
    int error = apply_records(tail);
    tail->is_in_commit = false;
    tail->good_segment = tail->segment;
    tail->good_offset = tail->offset + header->length;
    drop_bytes(&tail->loaded->next);
    return error;
}

enum step { STEP_ON, STEP_STOP };

/* One sound record. STEP_STOP: it does not belong here. */
static int
take_record(struct tail *tail, const struct record_header *header, enum step *step)
{
    const char *bytes = tail->bytes + tail->offset;
    struct record_begin begin;
    uint64_t sequence;
    *step = STEP_ON;
    switch (header->type) {
    case RECORD_BEGIN:
        if (tail->is_in_commit || record_begin_get(bytes, header, &begin) != 0)
            break;
        tail->is_in_commit = true;
        tail->sequence = begin.sequence;
        if (begin.sequence > tail->recovery->max_sequence)
            tail->recovery->max_sequence = begin.sequence;
        return 0;
    case RECORD_COMMIT:
        if (!tail->is_in_commit || record_commit_get(bytes, header, &sequence) != 0
            || sequence != tail->sequence || header->count != tail->count)
            break;
        return commit_ends(tail, header);
    default:
        if (!tail->is_in_commit)
            break;
        if (log_room(&tail->records, &tail->capacity, tail->count, sizeof(*tail->records)) != 0)
            return recovery_error(tail->recovery, -ENOMEM, "out of memory");
        tail->records[tail->count++] = (struct tail_record){
            .bytes = bytes,
            .header = *header,
            .segment = tail->segment,
            .offset = tail->offset,
        };
        return 0;
    }
    *step = STEP_STOP;
    return 0;
}

static int
walk(struct tail *tail)
{
    enum step step = STEP_ON;
    int error = 0;
    while (error == 0 && step == STEP_ON) {
        struct record_header header;
        int opened = record_open(tail->bytes + tail->offset, tail->size - tail->offset,
                                 tail->segment->salt, &header);
        if (opened == -ENOTSUP)
            return recovery_error(tail->recovery, opened,
                                  "segment %" PRIu64 " was written by a newer version",
                                  tail->segment->number);
        if (opened != 0)
            break;
        if (header.type != RECORD_END) {
            error = take_record(tail, &header, &step);
            if (error == 0 && step == STEP_ON)
                tail->offset += header.length;
            continue;
        }
        struct segment *next = recovery_segment(tail->recovery, tail->segment->number + 1);
        if (next == NULL)
            break;
        tail->segment->end = tail->offset;
        error = enter_segment(tail, next, SEGMENT_HEADER_SIZE);
    }
    return error;
}

/* ---- where it stopped ---- */

/* The first BEGIN at or behind an offset. */
static bool
find_begin(const char *bytes, size_t size, uint32_t salt, size_t offset, size_t *found,
           struct record_begin *begin)
{
    for (; offset + RECORD_BEGIN_SIZE <= size; offset += RECORD_ALIGNMENT) {
        struct record_header header;
        if (bytes[offset + 8] != RECORD_BEGIN || get_u32(bytes + offset + 4) != RECORD_BEGIN_SIZE)
            continue;
        if (record_open(bytes + offset, size - offset, salt, &header) == 0
            && record_begin_get(bytes + offset, &header, begin) == 0) {
            *found = offset;
            return true;
        }
    }
    return false;
}

/* Whether something was written after the place where reading stopped had been synced; where the
 * first such commit begins. With no bytes at hand (tail NULL) all segments are read from their
 * beginnings. */
static int
find_evidence(struct recovery *recovery, const struct tail *tail, struct position stopped,
              struct segment **segment, uint32_t *offset, bool *is_found)
{
    struct record_begin begin;
    *is_found = false;
    for (size_t i = 0; i < recovery->numbered_count && !*is_found; i++) {
        struct segment *at = recovery->by_number[i];
        if (at->number < stopped.segment)
            continue;
        bool is_loaded = tail != NULL && at == tail->segment;
        char *bytes = NULL;
        size_t size = 0, place, from = SEGMENT_HEADER_SIZE;
        if (!is_loaded) {
            int error = recovery_load(recovery, at, at->size, &bytes, &size);
            if (error != 0)
                return error;
        } else {
            size = tail->size;
            from = tail->offset;
        }
        uint32_t salt = record_salt(at->number, recovery->log->log_id);
        while (!*is_found
               && find_begin(is_loaded ? tail->bytes : bytes, size, salt, from, &place, &begin)) {
            *is_found = is_before(stopped.segment, stopped.offset, &begin);
            *segment = at;
            *offset = (uint32_t)place;
            from = place + RECORD_BEGIN_SIZE;
        }
        free(bytes);
    }
    return 0;
}

/* Damage in the middle: refused, or, when repairing, passed over. What was whole of the commit it
 * is in is kept: better a message that was not confirmed than to lose one that was. */
static int
pass_tail_damage(struct tail *tail, struct segment *segment, uint32_t offset)
{
    struct recovery *recovery = tail->recovery;
    char name[SEGMENT_NAME_MAX], queues[LOG_TEXT_SIZE];
    segment_name(name, tail->segment->slot);
    recovery_guess_queues(recovery->log, queues, tail->bytes + tail->offset,
                          tail->size - tail->offset);
    int error = recovery_damage(recovery,
                                "%.200s/%s, offset %" PRIu32 ": damaged record in segment %" PRIu64
                                ", later ones are sound%.300s",
                                recovery->log->directory, name, tail->offset, tail->segment->number,
                                queues);
    if (error != 0)
        return error;
    size_t lost_end = segment == tail->segment ? offset : tail->size;
    error =
        recovery_save(recovery, tail->segment, tail->bytes, tail->offset, lost_end - tail->offset);
    if (error == 0)
        error = apply_records(tail);
    if (error != 0)
        return error;
    tail->is_in_commit = false;
    tail->good_segment = tail->segment;
    tail->good_offset = tail->offset;
    if (segment == tail->segment) {
        tail->offset = offset;
        return 0;
    }
    tail->segment->end = tail->offset;
    return enter_segment(tail, segment, offset);
}

/* The log ends at the last whole commit. */
static void
cut(struct tail *tail)
{
    struct recovery *recovery = tail->recovery;
    if (tail->count > 0) { /* a lone BEGIN was written ahead: no commit had begun */
        char name[SEGMENT_NAME_MAX];
        segment_name(name, tail->good_segment->slot);
        recovery_note(recovery,
                      "%.200s/%s: the last commit was not finished; the log is cut at "
                      "offset %" PRIu32 " of segment %" PRIu64,
                      recovery->log->directory, name, tail->good_offset,
                      tail->good_segment->number);
    }
}

/* Segments of the stream before its end are sealed where their records end, those behind it were
 * never part of it. */
static void
seal(struct tail *tail, uint64_t first)
{
    const struct recovery *recovery = tail->recovery;
    for (size_t i = 0; i < recovery->numbered_count; i++) {
        struct segment *segment = recovery->by_number[i];
        if (segment->number < first || segment->state != SEGMENT_OPEN)
            continue;
        if (segment->number > tail->good_segment->number) {
            /* Nothing of it was applied: a commit that did not end. Its number stays known. */
            assert(segment->live_count == 0);
            continue;
        }
        if (segment == tail->good_segment)
            segment->end = tail->good_offset;
        segment->state = SEGMENT_SEALED;
    }
}

/* When rebuilding, the next segment there is, whatever its number. */
static struct segment *
next_present(const struct recovery *recovery, uint64_t number)
{
    for (size_t i = 0; i < recovery->numbered_count; i++)
        if (recovery->by_number[i]->number > number)
            return recovery->by_number[i];
    return NULL;
}

static int
walk_all(struct tail *tail)
{
    for (;;) {
        struct segment *segment = NULL;
        uint32_t offset = 0;
        bool is_damage;
        int error = walk(tail);
        struct position stopped = {.segment = tail->segment->number, .offset = tail->offset};
        if (error == 0)
            error = find_evidence(tail->recovery, tail, stopped, &segment, &offset, &is_damage);
        if (error != 0)
            return error;
        if (is_damage && tail->recovery->must_rebuild && !tail->is_in_commit
            && segment != tail->segment) {
            /* Segments that were given back leave gaps: that is no damage. */
            tail->segment->end = tail->offset;
            segment = next_present(tail->recovery, tail->segment->number);
            error = enter_segment(tail, segment, SEGMENT_HEADER_SIZE);
        } else if (is_damage) {
            error = pass_tail_damage(tail, segment, offset);
        } else {
            cut(tail);
            return 0;
        }
        if (error != 0)
            return error;
    }
}

/* The segment where the stream should go on is not there. That is so when it was never synced; but
 * not if a later one tells of synced bytes in it. */
static int
check_missing(struct recovery *recovery, struct position from)
{
    struct segment *segment;
    uint32_t offset;
    bool is_damage;
    int error = find_evidence(recovery, NULL, from, &segment, &offset, &is_damage);
    if (error == 0 && is_damage && !recovery->must_rebuild)
        error = recovery_damage(recovery,
                                "%.200s: segment %" PRIu64
                                " is missing, or its header is not there; segment %" PRIu64
                                " goes on after it",
                                recovery->log->directory, from.segment, segment->number);
    return error;
}

int
scan_tail(struct recovery *recovery, struct position from)
{
    struct segment *first = recovery_segment(recovery, from.segment);
    if (first == NULL) {
        first = next_present(recovery, from.segment);
        if (first == NULL)
            return 0; /* nothing was written after the checkpoint */
        int error = check_missing(recovery, from);
        if (error != 0)
            return error;
        from.offset = SEGMENT_HEADER_SIZE;
    }
    struct tail tail = {.recovery = recovery, .good_segment = first, .good_offset = from.offset};
    int error = enter_segment(&tail, first, from.offset);
    if (error == 0)
        error = walk_all(&tail);
    if (error == 0)
        seal(&tail, first->number);
    drop_bytes(&tail.loaded);
    free(tail.records);
    return error;
}
