/* Opening and closing the log, its thread, and what happens when the disk fails. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "store/log_internal.h"

/* Seconds after which an idle log looks at a full disk again. */
enum { SPACE_RETRY_SECONDS = 1 };

int
log_room(void *items, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return 0;
    size_t larger = *capacity == 0 ? 64 : *capacity * 2;
    void *old, *fresh;
    memcpy(&old, items, sizeof(old)); /* items is the address of a pointer of any type */
    if (larger > SIZE_MAX / size || (fresh = realloc(old, larger * size)) == NULL)
        return -ENOMEM;
    memcpy(items, &fresh, sizeof(fresh));
    *capacity = larger;
    return 0;
}

void
log_path(const struct log *log, char path[PATH_ROOM], const char *name)
{
    snprintf(path, PATH_ROOM, "%s/%s", log->directory, name);
}

int
log_fail(struct log *log, int error, const char *what, const char *file)
{
    pthread_mutex_lock(&log->mutex);
    if (!log_has_failed(log)) {
        snprintf(log->failure, sizeof(log->failure), "%s%s%.400s: %s", what,
                 file == NULL ? "" : " ", file == NULL ? "" : file, strerror(-error));
        atomic_store_explicit(&log->has_failed, true, memory_order_release);
    }
    pthread_mutex_unlock(&log->mutex);
    return error;
}

bool
log_failed(struct log *log, char text[LOG_TEXT_SIZE])
{
    if (!log_has_failed(log))
        return false;
    if (text != NULL) {
        pthread_mutex_lock(&log->mutex);
        memcpy(text, log->failure, LOG_TEXT_SIZE);
        pthread_mutex_unlock(&log->mutex);
    }
    return true;
}

uint64_t
log_identity(const struct log *log)
{
    return log->log_id;
}

const char *
log_name_queue(const struct log *log, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE])
{
    name[0] = '\0';
    if (log->name_queue != NULL)
        log->name_queue(log->name_context, queue_id, name);
    if (name[0] == '\0')
        snprintf(name, LOG_QUEUE_NAME_SIZE, "number %" PRIu64, queue_id);
    return name;
}

bool
log_disk_low(const struct log *log)
{
    return atomic_load_explicit(&log->is_disk_low, memory_order_relaxed);
}

uint64_t
log_rate(const struct log *log)
{
    return atomic_load_explicit(&log->rate, memory_order_relaxed);
}

void
log_set_disk_free_low(struct log *log, uint64_t bytes)
{
    atomic_store_explicit(&log->disk_free_low, bytes, memory_order_relaxed);
}

/* ---- the work ---- */

/* Takes what has gathered, up to about a segment, so that one commit does not grow without bound.
 */
static struct batch *
take_batches(struct log *log, bool *has_more)
{
    pthread_mutex_lock(&log->mutex);
    struct batch *first = log->pending, *last = NULL;
    size_t bytes = 0;
    for (struct batch *batch = first; batch != NULL; batch = batch->next) {
        bytes += batch->backlog;
        if (last != NULL && bytes > log->segment_size)
            break;
        last = batch;
    }
    if (last != NULL) {
        log->pending = last->next;
        last->next = NULL;
        if (log->pending == NULL)
            log->pending_tail = &log->pending;
    }
    log->current = first;
    *has_more = log->pending != NULL;
    pthread_mutex_unlock(&log->mutex);
    return first;
}

static void
count_segments(struct log *log)
{
    struct log_statistics *counts = &log->counts;
    counts->segments = counts->spare_segments = counts->disk_bytes = counts->live_bytes = 0;
    for (uint32_t slot = 0; slot < log->segment_slots; slot++) {
        const struct segment *segment = log->segments[slot];
        if (segment == NULL)
            continue;
        counts->segments++;
        counts->spare_segments += segment->state == SEGMENT_SPARE;
        counts->disk_bytes += segment->size;
        counts->live_bytes += segment->live_bytes;
    }
    counts->live_messages = log->index.messages;
    pthread_mutex_lock(&log->mutex);
    log->statistics = *counts;
    pthread_mutex_unlock(&log->mutex);
}

/* How much room the disk has. Who publishes must hear of a change, also when nothing else happens.
 */
static void
look_at_room(struct log *log)
{
    bool was_low = log_disk_low(log);
    log_update_low(log);
    if (log_disk_low(log) != was_low)
        log_tell_writers(log);
}

/* A commit, and how long it took. */
static int
commit(struct log *log, struct batch *batches)
{
    int64_t began_ns = clock_monotonic_ns();
    int done = log_commit(log, batches);
    if (done > 0) {
        pace_note(&log->pace, log->last_commit_bytes, (uint64_t)(clock_monotonic_ns() - began_ns));
        atomic_store_explicit(&log->rate, pace_rate(&log->pace), memory_order_relaxed);
    }
    return done;
}

/* One round: a commit, and the housekeeping that has become due. 0: there was nothing to do. */
static int
do_round(struct log *log)
{
    bool has_more;
    struct batch *batches = take_batches(log, &has_more);
    int done = 0;
    if (batches != NULL || log_wants_compaction(log))
        done = commit(log, batches);
    if (done >= 0 && log_checkpoint_is_due(log)) {
        int error = log_checkpoint(log);
        done = error == 0 ? 1 : error;
    }
    bool is_idle = done == 0 && !has_more;
    if (done >= 0 && log_space_is_due(log, is_idle)) {
        int tended = log_tend_space(log, is_idle);
        done = tended < 0 ? tended : done | tended;
    }
    if (done == 0)
        done = log_mark_end(log);
    if (done > 0) {
        look_at_room(log);
        count_segments(log);
    }
    return done;
}

bool
log_turn(struct log *log)
{
    if (log_has_failed(log))
        return false;
    int done = do_round(log);
    if (done < 0) {
        /* Every error of a round has failed the log on its way up. */
        assert(log_has_failed(log));
        log_tell_writers(log);
    }
    return done > 0;
}

/* Sleeps until something is submitted. While the disk is full, also looks at it now and then. */
static void
wait_for_work(struct log *log)
{
    bool is_time_to_look = false;
    pthread_mutex_lock(&log->mutex);
    while (log->pending == NULL && !log->is_stopping && !is_time_to_look) {
        if (!log_disk_low(log)) {
            pthread_cond_wait(&log->work, &log->mutex);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += SPACE_RETRY_SECONDS;
        is_time_to_look = pthread_cond_timedwait(&log->work, &log->mutex, &until) == ETIMEDOUT;
    }
    pthread_mutex_unlock(&log->mutex);
    if (is_time_to_look) {
        log->space_retry_at = 0;
        look_at_room(log);
    }
}

static bool
must_stop(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    bool stop = log->is_stopping && log->pending == NULL;
    pthread_mutex_unlock(&log->mutex);
    return stop || log_has_failed(log);
}

static void *
run(void *argument)
{
    struct log *log = argument;
    while (!must_stop(log))
        if (!log_turn(log) && !log_has_failed(log))
            wait_for_work(log);
    return NULL;
}

/* Signals are for the program's other threads. */
static int
start_thread(struct log *log)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = -pthread_create(&log->thread, NULL, run, log);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

/* ---- opening and closing ---- */

static void
free_batches(struct batch *batch)
{
    while (batch != NULL) {
        struct batch *next = batch->next;
        batch_free(batch);
        batch = next;
    }
}

void
log_free(struct log *log)
{
    if (log == NULL)
        return;
    for (uint32_t slot = 0; slot < log->segment_slots; slot++)
        segment_free(log->files, log->segments[slot]);
    free(log->segments);
    log_index_fini(&log->index);
    group_fini(&log->group);
    free_batches(log->pending);
    free_batches(log->current);
    free_batches(log->free_batches);
    if (log->lock_file >= 0)
        (void)log->files->close(log->files->context, log->lock_file);
    pthread_cond_destroy(&log->work);
    pthread_cond_destroy(&log->done);
    pthread_mutex_destroy(&log->mutex);
    pthread_mutex_destroy(&log->index_mutex);
    free(log);
}

struct log *
log_make(const struct log_options *options)
{
    struct log *log = calloc(1, sizeof(*log));
    if (log == NULL)
        return NULL;
    snprintf(log->directory, sizeof(log->directory), "%s", options->directory);
    log->files = options->files != NULL ? options->files : file_posix_ops();
    log->segment_size = options->segment_size != 0 ? options->segment_size : SEGMENT_SIZE_DEFAULT;
    log->spares_wanted =
        options->spare_segments != 0 ? options->spare_segments : SPARE_SEGMENTS_DEFAULT;
    atomic_init(&log->disk_free_low, options->disk_free_low);
    atomic_init(&log->rate, 0);
    log->expected_id = options->identity;
    log->name_queue = options->name_queue;
    log->name_context = options->name_context;
    log->lock_file = -1;
    log->pending_tail = &log->pending;
    log_index_init(&log->index);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&log->mutex, NULL);
    pthread_mutex_init(&log->index_mutex, NULL);
    pthread_cond_init(&log->work, &attributes);
    pthread_cond_init(&log->done, NULL);
    pthread_condattr_destroy(&attributes);
    return log;
}

static int
check_options(const struct log_options *options, char error[LOG_TEXT_SIZE])
{
    /* Names are put behind the directory; a path that is cut short would be another one. */
    if (strlen(options->directory) >= PATH_MAX - SEGMENT_NAME_MAX) {
        snprintf(error, LOG_TEXT_SIZE, "the name of the log's directory is too long");
        return -ENAMETOOLONG;
    }
    if (options->segment_size != 0
        && (options->segment_size < SEGMENT_SIZE_MIN || options->segment_size > 1U << 30)) {
        snprintf(error, LOG_TEXT_SIZE, "segment size %u is not between 16 KiB and 1 GiB",
                 options->segment_size);
        return -EINVAL;
    }
    return 0;
}

int
log_open(struct log **opened, const struct log_options *options,
         const struct log_recovery *recovery, char error[LOG_TEXT_SIZE])
{
    *opened = NULL;
    error[0] = '\0';
    int result = check_options(options, error);
    if (result != 0)
        return result;
    struct log *log = log_make(options);
    if (log == NULL) {
        snprintf(error, LOG_TEXT_SIZE, "out of memory");
        return -ENOMEM;
    }
    result = log_recover(log, recovery, RECOVER_OPEN, options->verify, NULL, error);
    if (result == 0) {
        count_segments(log);
        log_update_low(
            log); /* before anybody publishes: the thread looks only after it has written */
        log->has_thread = !options->without_thread;
        if (log->has_thread) {
            result = start_thread(log);
            if (result != 0)
                snprintf(error, LOG_TEXT_SIZE, "starting the log's thread: %s", strerror(-result));
        }
    }
    if (result != 0) {
        log_free(log);
        return result;
    }
    *opened = log;
    return 0;
}

void
log_close(struct log *log)
{
    if (log == NULL)
        return;
    assert(log->writers == NULL);
    if (log->has_thread) {
        pthread_mutex_lock(&log->mutex);
        log->is_stopping = true;
        pthread_cond_signal(&log->work);
        pthread_mutex_unlock(&log->mutex);
        pthread_join(log->thread, NULL);
    }
    /* The head is sealed and a checkpoint written, so that the next start reads no records at all,
     * and damage to the last commit cannot be taken for a torn tail. */
    if (!log_has_failed(log) && log_sync_all(log) == 0) {
        log->head->state = SEGMENT_SEALED;
        log->durable = (struct position){log->next_number, SEGMENT_HEADER_SIZE};
        if (log_checkpoint(log) != 0)
            assert(log_has_failed(log)); /* too late to tell anybody; the next start recovers */
    }
    log_free(log);
}

void
log_statistics(struct log *log, struct log_statistics *statistics)
{
    pthread_mutex_lock(&log->mutex);
    *statistics = log->statistics;
    pthread_mutex_unlock(&log->mutex);
}
