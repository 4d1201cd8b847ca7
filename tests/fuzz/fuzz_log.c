/* The message log: a segment with any bytes in it is opened, refused with its place, or repaired;
 * and what was repaired can be opened. */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "store/file_simulated.h"
#include "store/log.h"

enum { SEGMENT_SIZE = 64 * 1024, SEED_SIZE = 4096, QUEUE = 1000 };

static bool
any_queue(void *context, uint64_t queue_id)
{
    (void)context;
    (void)queue_id;
    return true;
}

static int
count_message(void *context, const struct log_message *message)
{
    uint64_t *count = context;
    FUZZ_REQUIRE(message->queue_count > 0);
    ++*count;
    return 0;
}

static void
ignore_note(void *context, const char *text)
{
    (void)context;
    FUZZ_REQUIRE(text[0] != '\0');
}

static struct log_options
options_of(struct simulated_disk *disk)
{
    return (struct log_options){
        .directory = "/log",
        .files = simulated_disk_files(disk),
        .segment_size = SEGMENT_SIZE,
        .spare_segments = 1,
        .verify = true,
        .without_thread = true,
    };
}

static int
open_log(struct simulated_disk *disk, struct log **log)
{
    char error[LOG_TEXT_SIZE];
    uint64_t count = 0;
    struct log_options options = options_of(disk);
    struct log_recovery recovery = {&count, any_queue, count_message, ignore_note};
    int status = log_open(log, &options, &recovery, error);
    FUZZ_REQUIRE(status == 0 || error[0] != '\0');
    return status;
}

static void
ignore_durable(void *context)
{
    (void)context;
}

/* A log with some messages in it, some of them settled, as a crash leaves it. */
static struct simulated_disk *
make_disk(unsigned messages)
{
    struct simulated_disk *disk = simulated_disk_new(1);
    struct log *log;
    FUZZ_REQUIRE(disk != NULL && open_log(disk, &log) == 0);
    struct log_writer *writer = log_writer_new(log, ignore_durable, NULL);
    FUZZ_REQUIRE(writer != NULL);
    for (unsigned i = 0; i < messages; i++) {
        uint64_t ids[] = {QUEUE, QUEUE + i % 3 + 1}, id;
        char body[] = "the body of a message in the log";
        struct iovec piece = {body, sizeof(body)};
        const struct log_publish publish = {
            .pieces = &piece, .piece_count = 1, .queue_count = 1 + i % 2, .queue_ids = ids};
        FUZZ_REQUIRE(log_publish(writer, &publish, &id) == 0);
        (void)log_submit(writer);
        while (log_turn(log))
            continue;
        if (i % 3 == 0)
            FUZZ_REQUIRE(log_settle(writer, QUEUE, id) == 0);
        if (i % 4 == 0)
            FUZZ_REQUIRE(log_redelivered(writer, QUEUE, id, 2) == 0);
    }
    (void)log_submit(writer);
    while (log_turn(log))
        continue;
    simulated_disk_reboot(disk, SIMULATED_LOSE_NONE);
    log_writer_free(writer);
    log_close(log);
    return disk;
}

/* What the files of a log are called. The first byte of the input says which of them the rest is
 * written over, and its highest bit that the file is emptied before. */
static const char *const names[] = {"/log/000000.segment", "/log/checkpoint",
                                    "/log/0000000000000001.summary"};
enum { NAMES = sizeof(names) / sizeof(names[0]) };

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > SEGMENT_SIZE)
        return 0;
    struct simulated_disk *disk = make_disk(4);
    const struct file_ops *files = simulated_disk_files(disk);
    int file = files->open(files->context, names[data[0] % NAMES],
                           FILE_WRITE | FILE_CREATE | (data[0] & 0x80 ? FILE_EMPTY : 0));
    FUZZ_REQUIRE(file >= 0);
    struct iovec piece = {(void *)(data + 1), size - 1};
    FUZZ_REQUIRE(file_write_all(files, file, &piece, 1, 0) == 0);
    FUZZ_REQUIRE(files->close(files->context, file) == 0);

    struct log *log;
    char error[LOG_TEXT_SIZE];
    if (open_log(disk, &log) == 0) {
        log_close(log);
    } else {
        struct log_options options = options_of(disk);
        if (log_repair(&options, ignore_note, NULL, error) == 0) {
            FUZZ_REQUIRE(open_log(disk, &log) == 0);
            log_close(log);
        } else {
            FUZZ_REQUIRE(error[0] != '\0');
        }
    }
    simulated_disk_free(disk);
    return 0;
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    if (number >= NAMES)
        return 0;
    struct simulated_disk *disk = make_disk(12);
    size_t size;
    const char *contents = simulated_disk_contents(disk, names[number], &size);
    out[0] = (uint8_t)number;
    size = contents == NULL ? 0 : size < SEED_SIZE ? size : SEED_SIZE;
    FUZZ_REQUIRE(size < capacity);
    if (size > 0)
        memcpy(out + 1, contents, size);
    simulated_disk_free(disk);
    return size + 1;
}
