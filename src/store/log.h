/* The message log: what makes a confirmed message survive.
 *
 * There is one log for the whole broker: one directory, one stream of records in preallocated
 * segments, one thread that writes and syncs it. Each shard stages what it publishes and settles
 * in its own struct log_writer, without a lock, and hands it over at the end of its loop turn with
 * log_submit(). While one sync is under way the next group gathers, so one fdatasync serves
 * everybody who came meanwhile; nothing waits for a timer. doc/STORAGE.md has the format and the
 * argument.
 *
 * The log knows no AMQP. A message is up to LOG_PIECES_MAX opaque pieces, the ids of the queues it
 * went to, and a few numbers that the log keeps for its owner. It is addressed by its id: 64 bits,
 * unique for ever, ascending in the order of log_publish(); where its bytes lie is the log's own
 * affair and changes when a segment is compacted.
 *
 * Errors are negative errno values. */
#ifndef STORE_LOG_H
#define STORE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

#include "base/compiler.h"
#include "store/file.h"

struct log;
struct log_writer;

enum {
    LOG_PIECES_MAX = 4,
    LOG_TEXT_SIZE = 512,
    LOG_QUEUE_NAME_SIZE = 80,
    LOG_QUEUES_PER_MESSAGE_MAX = 1 << 20,
    /* A whole record. The broker's own limit on messages is below it. */
    LOG_MESSAGE_SIZE_MAX = 1 << 30,
};

struct log_options {
    const char *directory;        /* made if it is not there; its parent must exist */
    const struct file_ops *files; /* NULL: the operating system's */
    uint32_t segment_size;        /* bytes; 0: 64 MiB. Larger messages get a segment of their own */
    uint32_t spare_segments;      /* kept ready, also as the reserve for a full disk; 0: 2 */
    uint64_t disk_free_low;       /* bytes of free disk below which log_disk_low() is true */
    uint64_t identity;            /* that the log must have, unless it is new; 0: any */
    /* Writes the name of a queue for people, for messages about damage; NULL: its id will do. */
    void (*name_queue)(void *context, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE]);
    void *name_context;
    bool verify;         /* check every live message at opening (reads all of them) */
    bool without_thread; /* for tests: nothing happens but in log_turn() */
};

/* A queue that a recovered message is still in. */
struct log_queue {
    uint64_t queue_id;
    uint32_t delivery_count; /* as last told to log_redelivered(), else 0 */
};

/* A recovered message. */
struct log_message {
    uint64_t id;
    uint64_t published_wall_ms;
    uint64_t expires_wall_ms;
    uint32_t flags;
    uint32_t piece_count;
    uint32_t piece_sizes[LOG_PIECES_MAX];
    uint32_t queue_count;
    const struct log_queue *queues; /* borrowed for the call */
};

/* What the owner does with what is found. Called from log_open() on its thread. */
struct log_recovery {
    void *context;
    /* Messages of other queues count as settled. Asked at least once for each queue found. */
    bool (*queue_exists)(void *context, uint64_t queue_id);
    /* In ascending order of ids, so in order for every queue. Anything but 0 ends the opening. */
    int (*message)(void *context, const struct log_message *message);
    /* A line for the operator: a torn tail that was cut. May be NULL. */
    void (*note)(void *context, const char *text);
};

/* Opens the log in the directory, making it when that is empty. Recovers what is there, telling the
 * sink, then starts the log's thread. On failure nothing is left open and `error` says in one line
 * what was wrong and where: -EWOULDBLOCK another process has it, -ENOTSUP a newer format, -ESTALE
 * it is another log than the one of that identity, -EBADMSG damage (log_repair() sets it aside). */
MUST_CHECK int log_open(struct log **log, const struct log_options *options,
                        const struct log_recovery *recovery, char error[LOG_TEXT_SIZE]);

/* Writes out what was submitted and closes. All writers must have been freed. */
void log_close(struct log *log);

/* The log's random id, which it keeps for ever; not 0. */
uint64_t log_identity(const struct log *log);

/* A writer for one thread. durable(context) is called on the log's thread each time that something
 * this writer submitted became durable, when the log has failed, and when log_disk_low() changes:
 * it should only wake the shard. NULL: out of memory. */
struct log_writer *log_writer_new(struct log *log, void (*durable)(void *context), void *context);

/* Waits until what it submitted is durable or the log has failed. What is staged and not submitted
 * is dropped. */
void log_writer_free(struct log_writer *writer);

enum log_publish_kind {
    LOG_PERSISTENT,
    LOG_TRANSIENT, /* kept on disk only to spare memory; forgotten at a restart, never synced for */
};

struct log_publish {
    const struct iovec *pieces; /* copied */
    uint32_t piece_count;
    uint32_t queue_count;      /* at least 1 */
    const uint64_t *queue_ids; /* distinct; in any order; copied */
    uint64_t published_wall_ms;
    uint64_t expires_wall_ms; /* 0: never */
    uint32_t flags;           /* the owner's own */
    enum log_publish_kind kind;
};

/* Stages a message: copies it and computes its checksum. *id is its name from now on. -EMSGSIZE:
 * larger than a record can be; -ENOMEM: nothing was staged. */
MUST_CHECK int log_publish(struct log_writer *writer, const struct log_publish *publish,
                           uint64_t *id);

/* The queue is done with the message. The message's publish must have been submitted, or staged in
 * this same writer before. A message that all its queues have settled before it was written is
 * never written. -ENOMEM. */
MUST_CHECK int log_settle(struct log_writer *writer, uint64_t queue_id, uint64_t id);

/* The message was delivered from the queue and came back; the count survives a restart. -ENOMEM. */
MUST_CHECK int log_redelivered(struct log_writer *writer, uint64_t queue_id, uint64_t id,
                               uint32_t delivery_count);

/* Hands over what is staged. Call it at the end of a loop turn, before other shards can hear of the
 * messages. After a crash, all of it is in force or nothing is. Returns the ticket for it; with
 * nothing staged, that of the last time. */
uint64_t log_submit(struct log_writer *writer);

/* The next log_submit() returns a ticket of its own, even with nothing staged until then: when it
 * is durable, so is all that anybody had submitted before that call, whatever its writer. -ENOMEM.
 */
MUST_CHECK int log_fence(struct log_writer *writer);

/* The last ticket whose records are on the medium, and all before it. Cheap. */
uint64_t log_durable(const struct log_writer *writer);

/* Bytes that were submitted and are not durable yet. */
size_t log_backlog(const struct log *log);

/* Bytes of them that the disk takes in a second, as the last large commits show; 0: there were none
 * yet. Any thread; cheap. */
uint64_t log_rate(const struct log *log);

struct log_content {
    uint32_t piece_count;
    uint32_t piece_sizes[LOG_PIECES_MAX];
    uint64_t published_wall_ms;
    size_t size; /* of all pieces */
    char *data;  /* the pieces one behind the other; the caller frees it */
};

/* Reads a message that was submitted and has not been settled by all its queues. Any thread. The
 * bytes are checked: -EBADMSG with the place in `error` when they are damaged. -ENOENT: there is no
 * such message. */
MUST_CHECK int log_read(struct log *log, uint64_t id, struct log_content *content,
                        char error[LOG_TEXT_SIZE]);

/* The same of a message that is staged in this writer and not submitted; its own thread only.
 * -ENOENT: there is no such message; -ENOMEM. */
MUST_CHECK int log_read_staged(const struct log_writer *writer, uint64_t id,
                               struct log_content *content);

/* Whether a write or a sync has failed. From then on nothing becomes durable: the broker says the
 * text and stops. `text` may be NULL. */
bool log_failed(struct log *log, char text[LOG_TEXT_SIZE]);

/* The disk is nearly full: hold publishers back. Consumers may go on, which frees space. */
bool log_disk_low(const struct log *log);

/* From now on less than so many bytes of free disk are few. Any thread. */
void log_set_disk_free_low(struct log *log, uint64_t bytes);

struct log_statistics {
    uint64_t segments; /* files, spares included */
    uint64_t spare_segments;
    uint64_t disk_bytes; /* of all segments */
    uint64_t live_messages;
    uint64_t live_bytes;
    uint64_t published;       /* records written for publishers */
    uint64_t cancelled;       /* messages settled before they were written */
    uint64_t moved;           /* records written by compaction */
    uint64_t bytes_published; /* written for publishers */
    uint64_t bytes_moved;
    uint64_t bytes_written; /* all in all, without zeroing and checkpoints */
    uint64_t commits;
    uint64_t syncs;
    uint64_t checkpoints;
    uint64_t unknown_settles; /* of messages that were not there: a fault of the caller */
};

void log_statistics(struct log *log, struct log_statistics *statistics);

/* For tests, with options.without_thread: does one round of the log thread's work. False when there
 * was nothing to do. */
bool log_turn(struct log *log);

/* Makes a damaged log usable: what cannot be read is copied to lost+found/ in the directory and
 * left out of the log. Tells every step through note(). The broker must not be running. */
MUST_CHECK int log_repair(const struct log_options *options,
                          void (*note)(void *context, const char *text), void *context,
                          char error[LOG_TEXT_SIZE]);

/* Writes what is in the directory: segments with their live messages and bytes, what is alive in
 * each queue (a message counts in each of its queues), and sums. Changes nothing and needs no lock;
 * while a broker writes, what it has just written may look damaged. */
MUST_CHECK int log_inspect(const struct log_options *options, FILE *out, bool json,
                           char error[LOG_TEXT_SIZE]);

#endif
