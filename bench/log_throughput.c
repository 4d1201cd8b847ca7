/* How fast the message log is on this machine and disk. Not a test: it prints numbers.
 *
 *     log_throughput DIRECTORY
 *
 * Raw fdatasync of an overwritten file against one message at a time through the log; then one
 * writer with a bounded backlog, with and without settling; then opening a log of a million. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/log.h"

enum {
    WINDOW_ONE = 3000,
    MESSAGES = 1000000,
    SMALL = 1024,
    PER_TURN = 64,
    BACKLOG_MAX = 32 << 20,
    PREALLOCATED = 16 << 20,
};

static pthread_mutex_t bell_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bell = PTHREAD_COND_INITIALIZER;

static void
ring(void *context)
{
    (void)context;
    pthread_mutex_lock(&bell_mutex);
    pthread_cond_signal(&bell);
    pthread_mutex_unlock(&bell_mutex);
}

static double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
die(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static void
wait_durable(struct log *log, struct log_writer *writer, uint64_t ticket)
{
    char text[LOG_TEXT_SIZE];
    pthread_mutex_lock(&bell_mutex);
    while (log_durable(writer) < ticket) {
        if (log_failed(log, text))
            die("the log failed", text);
        pthread_cond_wait(&bell, &bell_mutex);
    }
    pthread_mutex_unlock(&bell_mutex);
}

static void
raw_sync(const char *directory)
{
    char path[4096], block[SMALL + 128];
    snprintf(path, sizeof(path), "%s/raw", directory);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char *zeros = calloc(1, PREALLOCATED);
    if (file < 0 || zeros == NULL || pwrite(file, zeros, PREALLOCATED, 0) != PREALLOCATED
        || fdatasync(file) != 0)
        die(path, "cannot be written");
    memset(block, 'x', sizeof(block));
    double start = now();
    for (int i = 0; i < WINDOW_ONE; i++)
        if (pwrite(file, block, sizeof(block), (off_t)i * (off_t)sizeof(block)) < 0
            || fdatasync(file) != 0)
            die(path, "cannot be synced");
    double time = now() - start;
    printf("raw pwrite + fdatasync          %9.0f /s\n", WINDOW_ONE / time);
    free(zeros);
    close(file);
    unlink(path);
}

static bool
exists(void *context, uint64_t queue_id)
{
    (void)context;
    (void)queue_id;
    return true;
}

static int
count(void *context, const struct log_message *message)
{
    uint64_t *found = context;
    *found += message->queue_count;
    return 0;
}

static struct log *
open_log(const char *directory, uint64_t *found)
{
    struct log_options options = {.directory = directory};
    struct log_recovery sink = {found, exists, count, NULL};
    char error[LOG_TEXT_SIZE];
    struct log *log;
    *found = 0;
    if (log_open(&log, &options, &sink, error) != 0)
        die("log_open", error);
    return log;
}

static uint64_t
publish(struct log_writer *writer, size_t size, const char *body)
{
    static const uint64_t queue = 1;
    struct iovec piece = {.iov_base = (void *)(uintptr_t)body, .iov_len = size};
    struct log_publish message = {
        .pieces = &piece, .piece_count = 1, .queue_ids = &queue, .queue_count = 1};
    uint64_t id;
    if (log_publish(writer, &message, &id) != 0)
        die("log_publish", "out of memory");
    return id;
}

static void
window_one(struct log *log, struct log_writer *writer, const char *body)
{
    double start = now();
    for (int i = 0; i < WINDOW_ONE; i++) {
        uint64_t id = publish(writer, SMALL, body);
        wait_durable(log, writer, log_submit(writer));
        if (log_settle(writer, 1, id) != 0)
            die("log_settle", "out of memory");
    }
    printf("window 1, 1 KiB, settled after  %9.0f /s\n", WINDOW_ONE / (now() - start));
}

/* As fast as a bounded backlog lets it. settle_behind 0: nothing is settled. */
static void
stream(struct log *log, struct log_writer *writer, const char *body, size_t size, unsigned messages,
       unsigned settle_behind, const char *name)
{
    uint64_t *ids = calloc(messages, sizeof(*ids)), ticket = 0, previous = 0;
    if (ids == NULL)
        die(name, "out of memory");
    double start = now();
    for (unsigned i = 0; i < messages; i++) {
        ids[i] = publish(writer, size, body);
        if (settle_behind > 0 && i >= settle_behind
            && log_settle(writer, 1, ids[i - settle_behind]) != 0)
            die("log_settle", "out of memory");
        if (i % PER_TURN != PER_TURN - 1)
            continue;
        previous = ticket;
        ticket = log_submit(writer);
        if (log_backlog(log) > BACKLOG_MAX)
            wait_durable(log, writer, previous > 16 ? previous - 16 : 1);
    }
    wait_durable(log, writer, log_submit(writer));
    double time = now() - start;
    printf("%-30s  %9.0f /s  %6.2f GB/s\n", name, messages / time,
           (double)messages * (double)size / time / 1e9);
    free(ids);
}

int
main(int argc, char **argv)
{
    if (argc != 2)
        die("usage", "log_throughput DIRECTORY");
    char directory[4096], *body = calloc(1, 1 << 20);
    snprintf(directory, sizeof(directory), "%s/log", argv[1]);
    if (body == NULL)
        die("memory", "out of memory");
    raw_sync(argv[1]);
    uint64_t found;
    struct log *log = open_log(directory, &found);
    struct log_writer *writer = log_writer_new(log, ring, NULL);
    if (writer == NULL)
        die("log_writer_new", "out of memory");
    window_one(log, writer, body);
    stream(log, writer, body, SMALL, MESSAGES, 1000, "1 KiB, settled 1000 behind");
    stream(log, writer, body, SMALL, MESSAGES, 200000, "1 KiB, settled 200000 behind");
    stream(log, writer, body, 100, MESSAGES, 200000, "100 B, settled 200000 behind");
    stream(log, writer, body, 1 << 20, 4000, 100, "1 MiB, settled 100 behind");
    stream(log, writer, body, SMALL, MESSAGES, 0, "1 KiB, nothing settled");
    struct log_statistics counts;
    log_statistics(log, &counts);
    printf("written %" PRIu64 " bytes for %" PRIu64 " published, %" PRIu64 " moved, %" PRIu64
           " cancelled, %" PRIu64 " syncs, %" PRIu64 " checkpoints\n",
           counts.bytes_written, counts.bytes_published, counts.bytes_moved, counts.cancelled,
           counts.syncs, counts.checkpoints);
    log_writer_free(writer);
    double start = now();
    log_close(log);
    printf("closing %6.3f s\n", now() - start);
    start = now();
    log = open_log(directory, &found);
    printf("opening with %" PRIu64 " messages %6.3f s\n", found, now() - start);
    log_close(log);
    free(body);
    return 0;
}
