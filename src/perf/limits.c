/* The limits of the machine, to be put beside a broker's numbers: what a confirm that waits for the
 * disk, and a message that goes through the kernel twice, cannot beat. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/histogram.h"
#include "perf/modes.h"

enum {
    BLOCK_SIZE = 4096,
    BLOCKS = 4096, /* 16 MiB, written before: no sync has to allocate */
    LOOPBACK_WRITE = 65536,
    LOOPBACK_READ = 512 << 10,
};

static int
mode_error(const char *what)
{
    fprintf(stderr, "whippet-perf: %s: %s\n", what, strerror(errno));
    return 1;
}

static uint64_t
mode_end(const struct options *options)
{
    return clock_now() + (uint64_t)(options->duration * 1e9);
}

/* --- The disk --------------------------------------------------------------------------------- */

/* A file in the directory that goes away with the program. */
static int
scratch_file(const char *directory)
{
    char path[4096];
    int size = snprintf(path, sizeof(path), "%s/whippet-perf-XXXXXX", directory);
    if (size < 0 || (size_t)size >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static int
write_block(int fd, const uint8_t *block, uint64_t index)
{
    ssize_t n = pwrite(fd, block, BLOCK_SIZE, (off_t)(index % BLOCKS * BLOCK_SIZE));
    if (n >= 0 && n < BLOCK_SIZE)
        errno = ENOSPC;
    return n == BLOCK_SIZE ? 0 : -1;
}

static int
measure_syncs(int fd, const struct options *options, struct histogram *times, double *seconds)
{
    uint8_t block[BLOCK_SIZE];
    memset(block, 0xa5, sizeof(block));
    for (uint64_t i = 0; i < BLOCKS; i++) {
        if (write_block(fd, block, i) < 0)
            return -1;
    }
    if (fsync(fd) < 0)
        return -1;
    uint64_t start = clock_now(), before = start, end = mode_end(options);
    for (uint64_t i = 0; before < end; i++) {
        memcpy(block, &i, sizeof(i)); /* new content: nobody may skip the write */
        if (write_block(fd, block, i) < 0 || fdatasync(fd) < 0)
            return -1;
        uint64_t now = clock_now();
        histogram_record(times, now - before, 1);
        before = now;
    }
    *seconds = (double)(before - start) / 1e9;
    return 0;
}

int
mode_sync_limit(const struct options *options)
{
    static struct histogram times;
    double seconds;
    int fd = scratch_file(options->sync_limit);
    if (fd < 0)
        return mode_error(options->sync_limit);
    int status = measure_syncs(fd, options, &times, &seconds);
    if (status < 0)
        mode_error(options->sync_limit);
    close(fd);
    if (status < 0)
        return 1;
    double rate = (double)times.count / seconds;
    double p50 = (double)histogram_quantile(&times, 0.5) / 1e6;
    double p99 = (double)histogram_quantile(&times, 0.99) / 1e6;
    printf(options->json ? "{\"syncs_per_second\":%.1f,\"p50_ms\":%.6f,\"p99_ms\":%.6f}\n"
                         : "sync limit: %.0f/s  p50 %.3f  p99 %.3f ms\n",
           rate, p50, p99);
    return 0;
}

/* --- Loopback --------------------------------------------------------------------------------- */

/* Two ends of a TCP connection over 127.0.0.1. */
static int
loopback_pair(int ends[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ends[1] = -1;
    if (listener >= 0 && ends[0] >= 0
        && bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0
        && listen(listener, 1) == 0
        && getsockname(listener, (struct sockaddr *)&address, &size) == 0
        && connect(ends[0], (struct sockaddr *)&address, size) == 0)
        ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    int saved = errno;
    if (listener >= 0)
        close(listener);
    if (ends[1] < 0 && ends[0] >= 0)
        close(ends[0]);
    errno = saved;
    return ends[1] >= 0 ? 0 : -1;
}

struct loopback_sender {
    int fd;
    uint64_t end;
};

static void *
loopback_send(void *argument)
{
    static uint8_t bytes[LOOPBACK_WRITE];
    struct loopback_sender *sender = argument;
    memset(bytes, 'x', sizeof(bytes));
    while (clock_now() < sender->end) {
        if (send(sender->fd, bytes, sizeof(bytes), MSG_NOSIGNAL) < 0 && errno != EINTR)
            break;
    }
    shutdown(sender->fd, SHUT_WR);
    return NULL;
}

int
mode_loopback_limit(const struct options *options)
{
    int ends[2];
    pthread_t thread;
    uint8_t *buffer = malloc(LOOPBACK_READ);
    if (!buffer || loopback_pair(ends) < 0) {
        free(buffer);
        return mode_error("loopback");
    }
    uint64_t start = clock_now(), total = 0;
    struct loopback_sender sender = {.fd = ends[0], .end = mode_end(options)};
    errno = pthread_create(&thread, NULL, loopback_send, &sender);
    int status = errno ? mode_error("thread") : 0;
    if (status == 0) {
        ssize_t n;
        while ((n = recv(ends[1], buffer, LOOPBACK_READ, 0)) > 0)
            total += (uint64_t)n;
        if (n < 0)
            status = mode_error("loopback");
        pthread_join(thread, NULL);
    }
    double rate = (double)total / ((double)(clock_now() - start) / 1e9);
    close(ends[0]);
    close(ends[1]);
    free(buffer);
    if (status == 0)
        printf(options->json ? "{\"loopback_bytes_per_second\":%.0f}\n"
                             : "loopback limit: %.0f bytes/s\n",
               rate);
    return status;
}
