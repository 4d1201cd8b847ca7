/* Staging: what a shard does before the log thread comes in.
 *
 * A writer gathers finished records in a batch that only its own thread sees: copying a message
 * and computing its checksum costs the shard that publishes it, not the one log thread. Handing
 * over is linking the batch into a list under the mutex. Settles are kept as pairs until the log
 * thread encodes them, for it may find that the message was never written, and drop both. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "store/log_internal.h"

enum {
    FREE_BATCHES_MAX = 16,
    FREE_BATCH_CAPACITY_MAX = 1 << 20, /* larger buffers are given back rather than kept */
    SETTLE_BACKLOG = 4,                /* bytes that a settle will take, about */
};

void
batch_free(struct batch *batch)
{
    if (batch == NULL)
        return;
    free(batch->bytes);
    free(batch->publishes);
    free(batch->settles.items);
    free(batch->deliveries.items);
    free(batch);
}

/* Under the mutex. */
static void
batch_recycle(struct log *log, struct batch *batch)
{
    if (log->free_batch_count >= FREE_BATCHES_MAX || batch->capacity > FREE_BATCH_CAPACITY_MAX
        || (batch->settles.capacity + batch->deliveries.capacity) * sizeof(struct record_note)
               > FREE_BATCH_CAPACITY_MAX) {
        batch_free(batch);
        return;
    }
    batch->size = batch->publish_count = batch->settles.count = batch->deliveries.count = 0;
    batch->backlog = 0;
    batch->needs_sync = false;
    batch->writer = NULL;
    batch->next = log->free_batches;
    log->free_batches = batch;
    log->free_batch_count++;
}

static struct batch *
staging(struct log_writer *writer)
{
    if (writer->staged != NULL)
        return writer->staged;
    struct log *log = writer->log;
    pthread_mutex_lock(&log->mutex);
    struct batch *batch = log->free_batches;
    if (batch != NULL) {
        log->free_batches = batch->next;
        log->free_batch_count--;
    }
    pthread_mutex_unlock(&log->mutex);
    if (batch == NULL)
        batch = calloc(1, sizeof(*batch));
    if (batch != NULL) {
        batch->next = NULL;
        batch->writer = writer;
    }
    writer->staged = batch;
    return batch;
}

struct log_writer *
log_writer_new(struct log *log, void (*durable)(void *context), void *context)
{
    struct log_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL)
        return NULL;
    writer->log = log;
    writer->durable = durable;
    writer->context = context;
    pthread_mutex_lock(&log->mutex);
    writer->last_ticket = log->finished_ticket;
    writer->next = log->writers;
    log->writers = writer;
    pthread_mutex_unlock(&log->mutex);
    return writer;
}

/* Whether the log thread may still call back for what this writer submitted. Under the mutex. */
static bool
is_expected(const struct log_writer *writer)
{
    return writer->log->finished_ticket < writer->last_ticket && !log_has_failed(writer->log);
}

void
log_writer_free(struct log_writer *writer)
{
    if (writer == NULL)
        return;
    struct log *log = writer->log;
    if (!log->has_thread)
        while (is_expected(writer) && log_turn(log))
            continue;
    pthread_mutex_lock(&log->mutex);
    while (log->is_telling || (log->has_thread && is_expected(writer)))
        pthread_cond_wait(&log->done, &log->mutex);
    struct log_writer **link = &log->writers;
    while (*link != writer)
        link = &(*link)->next;
    *link = writer->next;
    pthread_mutex_unlock(&log->mutex);
    batch_free(writer->staged);
    free(writer);
}

static int
bytes_room(struct batch *batch, size_t more)
{
    if (batch->capacity - batch->size >= more)
        return 0;
    size_t capacity = batch->capacity == 0 ? 16 * 1024 : batch->capacity * 2;
    while (capacity - batch->size < more)
        capacity *= 2;
    char *bytes = realloc(batch->bytes, capacity);
    if (bytes == NULL)
        return -ENOMEM;
    batch->bytes = bytes;
    batch->capacity = capacity;
    return 0;
}

static int
compare_ids(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The queue ids in ascending order, as records have them. */
static void
put_queues(char *at, const struct log_publish *publish)
{
    uint64_t previous = 0;
    bool is_ascending = true;
    for (uint32_t i = 0; i < publish->queue_count; i++) {
        is_ascending = is_ascending && publish->queue_ids[i] >= previous;
        previous = publish->queue_ids[i];
        memcpy(at + 8 * (size_t)i, &previous, sizeof(previous));
    }
    /* The ids lie on their natural boundary: the record does, and its queues in it. */
    if (!is_ascending)
        qsort(at, publish->queue_count, sizeof(uint64_t), compare_ids);
    for (uint32_t i = 0; i < publish->queue_count; i++) {
        memcpy(&previous, at + 8 * (size_t)i, sizeof(previous));
        put_u64(at + 8 * (size_t)i, previous);
    }
}

/* All of the record but its header. */
static void
put_publish(char *record, size_t length, const struct log_publish *publish, uint64_t id)
{
    struct record_publish fixed = {
        .id = id,
        .published_wall_ms = publish->published_wall_ms,
        .expires_wall_ms = publish->expires_wall_ms,
        .flags = publish->flags,
        .piece_count = publish->piece_count,
    };
    for (uint32_t i = 0; i < publish->piece_count; i++)
        fixed.piece_sizes[i] = (uint32_t)publish->pieces[i].iov_len;
    record_publish_put(record, &fixed);
    put_queues(record + record_queues_offset(publish->piece_count), publish);
    char *at = record + record_payload_offset(publish->piece_count, publish->queue_count, false);
    for (uint32_t i = 0; i < publish->piece_count; i++) {
        if (publish->pieces[i].iov_len > 0)
            memcpy(at, publish->pieces[i].iov_base, publish->pieces[i].iov_len);
        at += publish->pieces[i].iov_len;
    }
    memset(at, 0, (size_t)(record + length - at));
}

static size_t
publish_size(const struct log_publish *publish)
{
    uint32_t sizes[LOG_PIECES_MAX];
    if (publish->piece_count > LOG_PIECES_MAX || publish->queue_count > LOG_QUEUES_PER_MESSAGE_MAX)
        return 0;
    for (uint32_t i = 0; i < publish->piece_count; i++) {
        if (publish->pieces[i].iov_len > LOG_MESSAGE_SIZE_MAX)
            return 0;
        sizes[i] = (uint32_t)publish->pieces[i].iov_len;
    }
    return record_publish_size(publish->queue_count, false, sizes, publish->piece_count);
}

int
log_publish(struct log_writer *writer, const struct log_publish *publish, uint64_t *id)
{
    assert(publish->queue_count > 0);
    size_t length = publish_size(publish);
    if (length == 0)
        return -EMSGSIZE;
    struct batch *batch = staging(writer);
    if (batch == NULL || bytes_room(batch, length) != 0
        || log_room(&batch->publishes, &batch->publish_capacity, batch->publish_count,
                    sizeof(*batch->publishes))
               != 0)
        return -ENOMEM;
    *id = atomic_fetch_add_explicit(&writer->log->next_id, 1, memory_order_relaxed);
    char *record = batch->bytes + batch->size;
    put_publish(record, length, publish, *id);
    bool is_transient = publish->kind == LOG_TRANSIENT;
    record_finish(record, length, RECORD_PUBLISH, (uint8_t)publish->piece_count,
                  is_transient ? RECORD_TRANSIENT : 0, publish->queue_count);
    batch->publishes[batch->publish_count++] = (struct staged_publish){
        .id = *id,
        .offset = batch->size,
        .length = (uint32_t)length,
    };
    batch->size += length;
    batch->backlog += length;
    batch->needs_sync = batch->needs_sync || !is_transient;
    return 0;
}

static int
add_note(struct log_writer *writer, bool is_settle, struct record_note note)
{
    struct batch *batch = staging(writer);
    if (batch == NULL)
        return -ENOMEM;
    struct notes *notes = is_settle ? &batch->settles : &batch->deliveries;
    if (log_room(&notes->items, &notes->capacity, notes->count, sizeof(*notes->items)) != 0)
        return -ENOMEM;
    notes->items[notes->count++] = note;
    batch->backlog += SETTLE_BACKLOG;
    return 0;
}

int
log_settle(struct log_writer *writer, uint64_t queue_id, uint64_t id)
{
    return add_note(writer, true, (struct record_note){.queue_id = queue_id, .id = id});
}

int
log_redelivered(struct log_writer *writer, uint64_t queue_id, uint64_t id, uint32_t delivery_count)
{
    struct record_note note = {.queue_id = queue_id, .id = id, .count = delivery_count};
    return add_note(writer, false, note);
}

/* A batch with nothing in it has its place in the one list of batches like any other. */
int
log_fence(struct log_writer *writer)
{
    return staging(writer) == NULL ? -ENOMEM : 0;
}

uint64_t
log_submit(struct log_writer *writer)
{
    struct log *log = writer->log;
    struct batch *batch = writer->staged;
    if (batch == NULL)
        return writer->last_ticket;
    writer->staged = NULL;
    pthread_mutex_lock(&log->mutex);
    writer->last_ticket = batch->ticket = ++log->last_ticket;
    if (log_has_failed(log)) {
        batch_free(batch);
    } else {
        atomic_fetch_add_explicit(&log->backlog, batch->backlog, memory_order_relaxed);
        *log->pending_tail = batch;
        log->pending_tail = &batch->next;
        pthread_cond_signal(&log->work);
    }
    pthread_mutex_unlock(&log->mutex);
    return writer->last_ticket;
}

uint64_t
log_durable(const struct log_writer *writer)
{
    return atomic_load_explicit(&writer->log->durable_ticket, memory_order_acquire);
}

size_t
log_backlog(const struct log *log)
{
    return atomic_load_explicit(&log->backlog, memory_order_relaxed);
}

void
log_finish_batches(struct log *log, struct batch *batches, uint64_t commit)
{
    uint64_t ticket = 0;
    for (struct batch *batch = batches; batch != NULL; batch = batch->next) {
        struct log_writer *writer = batch->writer;
        if (writer->reported != commit) {
            writer->reported = commit;
            writer->durable(writer->context);
        }
        ticket = batch->ticket;
    }
    pthread_mutex_lock(&log->mutex);
    log->current = NULL;
    log->finished_ticket = ticket;
    while (batches != NULL) {
        struct batch *next = batches->next;
        batch_recycle(log, batches);
        batches = next;
    }
    pthread_cond_broadcast(&log->done);
    pthread_mutex_unlock(&log->mutex);
}

void
log_tell_writers(struct log *log)
{
    /* Not under the mutex: whoever is called may hold a lock that another thread holds while it
     * asks log_failed(). New writers come in at the head, which is read once. */
    pthread_mutex_lock(&log->mutex);
    log->is_telling = true;
    const struct log_writer *writer = log->writers;
    pthread_mutex_unlock(&log->mutex);
    for (; writer != NULL; writer = writer->next)
        writer->durable(writer->context);
    pthread_mutex_lock(&log->mutex);
    log->is_telling = false;
    pthread_cond_broadcast(&log->done);
    pthread_mutex_unlock(&log->mutex);
}
