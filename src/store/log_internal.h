/* What the parts of the log share. Nobody outside src/store/log*.c includes this.
 *
 *   log.c             opening, closing, the thread, failing, statistics
 *   log_writer.c      staging in the shards, handing over
 *   log_commit.c      a group becomes a commit: planned, written, synced, reported
 *   log_space.c       spares, compaction, what a nearly full disk means
 *   log_checkpoint.c  what recovery starts from
 *   log_recover.c     from files to state; log_files.c opens them, log_scan.c reads the stream,
 *                     log_repair.c sets damage aside
 *   log_read.c        reading one message
 *   log_inspect.c     showing what is there
 *
 * Who may touch what: the fields of `struct log` are in three parts. Those under `mutex` are the
 * hand-over between shards and log thread. Those under `index_mutex` are changed by the log thread
 * only, holding it; the log thread reads them without, others with it. The rest is the log
 * thread's own (and log_open's, before there is a thread). */
#ifndef STORE_LOG_INTERNAL_H
#define STORE_LOG_INTERNAL_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "store/log.h"
#include "store/log_index.h"
#include "store/log_record.h"
#include "store/pace.h"
#include "store/segment.h"

enum {
    SEGMENT_SIZE_DEFAULT = 64 << 20,
    SPARE_SEGMENTS_DEFAULT = 2,
    SPARE_SEGMENTS_EXTRA = 2,        /* more than wanted are kept up to here, then removed */
    COMPACTION_SLICE_MIN = 2 << 20,  /* moved in one commit, and as much as is published in it: */
    COMPACTION_SLICE_MAX = 16 << 20, /* so it keeps up, and no commit gets very long */
    COMPACTION_SLACK_SEGMENTS = 4,   /* waste that is never worth moving for */
    CHECKPOINT_AFTER_SEGMENTS = 2,   /* sealed or died since the last checkpoint */
    ZERO_SLICE = 1 << 20,            /* of a spare, written with zeros when there is time */
    /* From here on a commit is large: its sync has so much to write that metadata do not matter,
     * and zeros would only take the disk's time from the next one. */
    LARGE_COMMIT = 64 * 1024,
    SPACE_RETRY_COMMITS = 64, /* how often a full disk is looked at again */
    /* Segment numbers that a crash may have used without leaving a header: recovery skips as
     * many, so that no salt is used twice. One commit is far smaller than so many segments. */
    SEGMENT_NUMBER_GAP = 4096,
    PATH_ROOM = PATH_MAX + SEGMENT_NAME_MAX,
};

/* What one writer handed over at the end of one turn. */
struct staged_publish {
    uint64_t id;
    size_t offset; /* of the record in bytes */
    uint32_t length;
};

struct notes {
    struct record_note *items;
    size_t count, capacity;
};

struct batch {
    struct batch *next;
    struct log_writer *writer;
    uint64_t ticket;
    char *bytes; /* finished publish records, checks unsalted */
    size_t size, capacity;
    struct staged_publish *publishes; /* ascending ids */
    size_t publish_count, publish_capacity;
    struct notes settles, deliveries;
    size_t backlog;  /* what it counts for */
    bool needs_sync; /* more in it than transient messages */
};

struct log_writer {
    struct log *log;
    void (*durable)(void *context);
    void *context;
    struct log_writer *next; /* in the log's list */
    struct batch *staged;    /* NULL: nothing */
    uint64_t last_ticket;
    uint64_t reported; /* log thread: the last commit it was called for */
};

/* A publish record in the group that is being written. */
struct group_record {
    char *record;
    uint64_t id;
    uint32_t length;
    uint32_t offset; /* in the segment */
    struct segment *segment;
    bool is_cancelled;
    bool is_transient;
};

struct group_records {
    struct group_record *items;
    size_t count, capacity;
};

/* Bytes that go to one segment in one piece. */
struct extent {
    struct segment *segment;
    uint32_t offset;
    size_t first_piece, piece_count;
};

/* Memory for the small records of a group; pointers stay good until the group is done. */
struct arena_chunk;

struct group {
    struct batch *batches;
    struct group_records publishes, moves;
    struct notes settles, deliveries;
    struct notes part_settles; /* of messages of this group that other queues still had */
    struct iovec *pieces;
    size_t piece_count, piece_capacity;
    struct extent *extents;
    size_t extent_count, extent_capacity;
    struct arena_chunk *arena;
    char *move_buffer; /* records that compaction moves */
    size_t move_size, move_capacity;
    uint32_t records; /* between BEGIN and COMMIT */
};

struct position {
    uint64_t segment; /* number */
    uint32_t offset;
};

struct log {
    char directory[PATH_MAX];
    const struct file_ops *files;
    uint32_t segment_size;
    uint32_t spares_wanted;
    _Atomic uint64_t disk_free_low;
    uint64_t log_id;
    uint64_t expected_id; /* or 0 */
    int lock_file;
    bool has_thread;
    pthread_t thread;

    pthread_mutex_t mutex; /* hand-over */
    pthread_cond_t work;   /* something was submitted, or the log is stopping */
    pthread_cond_t done;   /* the durable ticket moved, or the log failed */
    struct batch *pending, **pending_tail;
    struct batch *current; /* the batches of the group being written, for readers */
    struct batch *free_batches;
    unsigned free_batch_count;
    struct log_writer *writers;
    bool is_telling; /* the log thread walks the writers: none may be freed */
    uint64_t last_ticket;
    uint64_t finished_ticket; /* up to here the writers have been told, too */
    bool is_stopping;
    char failure[LOG_TEXT_SIZE];
    struct log_statistics statistics; /* a copy, made after each round */

    _Atomic uint64_t next_id;
    _Atomic uint64_t durable_ticket;
    _Atomic size_t backlog;
    _Atomic uint64_t rate; /* for log_rate() */
    _Atomic bool has_failed;
    _Atomic bool is_disk_low;

    pthread_mutex_t index_mutex;
    struct log_index index;
    struct segment **segments; /* by slot; NULL: no such file */
    uint32_t segment_slots;

    struct group group;
    struct segment *head;
    uint64_t next_number;    /* of the next segment */
    uint64_t next_sequence;  /* of the next commit */
    struct position durable; /* everything before is on the medium */
    struct pace pace;        /* of the disk */
    bool has_unsynced;       /* written, transient only, not synced */
    struct segment *victim;  /* being compacted */
    uint32_t victim_next;    /* ordinal */
    uint32_t sealed_since_checkpoint;
    uint64_t space_retry_at; /* commit count from which a full disk is tried again */
    void (*name_queue)(void *context, uint64_t queue_id, char name[LOG_QUEUE_NAME_SIZE]);
    void *name_context;
    uint64_t last_commit_bytes; /* that the last one wrote */
    bool is_space_blocked;      /* the last attempt to get a spare failed for want of space */
    bool is_checkpoint_blocked; /* the last checkpoint did */
    bool is_marked;             /* the next BEGIN stands at the end already */
    struct log_statistics counts;
};

/* ---- log.c ---- */

/* Puts the log into the failed state, once: `what` on `file` did not work. Returns the error. */
int log_fail(struct log *log, int error, const char *what, const char *file);

/* A path in the log's directory. */
void log_path(const struct log *log, char path[PATH_ROOM], const char *name);

/* A log that nothing has been read into yet. NULL: out of memory. */
struct log *log_make(const struct log_options *options);
void log_free(struct log *log);

static inline bool
log_has_failed(const struct log *log)
{
    return atomic_load_explicit(&log->has_failed, memory_order_acquire);
}

/* Makes room for one more element of `size` bytes. -ENOMEM. */
MUST_CHECK int log_room(void *items, size_t *capacity, size_t count, size_t size);

/* ---- log_writer.c ---- */
void batch_free(struct batch *batch);

/* A commit is done with these batches: tells their writers, then keeps or frees them. */
void log_finish_batches(struct log *log, struct batch *batches, uint64_t commit);

/* Wakes every shard, to see that the log has failed, or that the disk is low, or no more. */
void log_tell_writers(struct log *log);

/* ---- log_commit.c ---- */

/* Writes the batches (may be NULL) and a slice of compaction as one commit, and reports it. 1:
 * done; 0: there was nothing to do; negative: the log has failed. */
MUST_CHECK int log_commit(struct log *log, struct batch *batches);

/* Writes the BEGIN of the next commit ahead, when there is nothing to do. It says that everything
 * before it is on the medium: so damage to the last commit is not taken for a torn tail. */
MUST_CHECK int log_mark_end(struct log *log);

/* Syncs what was written without. */
MUST_CHECK int log_sync_all(struct log *log);
void group_fini(struct group *group);

/* ---- log_space.c ---- */

/* The segment that the log goes on in, with room for a record of this length; NULL: none, and the
 * log has failed. Its header is not written yet. */
struct segment *log_next_segment(struct log *log, size_t length);

/* A new file in a free slot, allocated and synced. -ENOSPC when the disk is full. */
MUST_CHECK int log_create_segment(struct log *log, uint64_t size, struct segment **segment);

/* Puts a file of half the size in the place of the head, in which nothing has been written yet, to
 * make room on a full disk. -ENOSPC: it is too small for that; the head may be gone after an error.
 */
MUST_CHECK int log_halve_head(struct log *log);

/* Collects live records of the segment that is being compacted, if one is, into the group. */
MUST_CHECK int log_collect_moves(struct log *log);

bool log_wants_compaction(struct log *log);

/* One step of what is done when there is time: spares, zeroing. 1: did something; 0: nothing to do;
 * negative: the log has failed. */
MUST_CHECK int log_tend_space(struct log *log, bool is_idle);
bool log_space_is_due(struct log *log, bool is_idle);
uint32_t log_spares(const struct log *log);

/* What people call the queue: its name if somebody knows it, else its id. Returns name. */
const char *log_name_queue(const struct log *log, uint64_t queue_id,
                           char name[LOG_QUEUE_NAME_SIZE]);

/* Sets what log_disk_low() says. */
void log_update_low(struct log *log);

/* Gives up one spare file, for the sake of something more important. False: there is none. */
bool log_drop_spare(struct log *log);

/* ---- log_checkpoint.c ---- */
bool log_checkpoint_is_due(struct log *log);

/* Writes summaries and checkpoint; then the segments without a live message are spares. */
MUST_CHECK int log_checkpoint(struct log *log);

struct checkpoint_segment {
    uint32_t slot;
    uint64_t number;
    uint32_t end, count, live_count;
    const char *live; /* encoded bits, then details; borrowed from the file's bytes */
    const char *details;
    uint32_t live_size, details_size;
};

struct checkpoint {
    char *data;
    uint64_t log_id, next_id, next_sequence, next_number;
    struct position position; /* from here on the stream must be read */
    struct checkpoint_segment *segments;
    uint32_t segment_count;
};

/* -ENOENT: there is none; -EBADMSG; -ENOTSUP. */
MUST_CHECK int checkpoint_load(const struct file_ops *files, const char *path,
                               struct checkpoint *checkpoint);
void checkpoint_fini(struct checkpoint *checkpoint);

/* Decodes the bits into words for `count` records. -EBADMSG. */
MUST_CHECK int checkpoint_bits(const struct checkpoint_segment *segment, uint64_t *words);

/* Calls back for each detail: ordinal and the queues' state bytes. */
typedef int checkpoint_detail_visit(void *context, uint32_t ordinal, uint32_t queue, bool is_live,
                                    uint32_t delivery_count);
MUST_CHECK int checkpoint_details(const struct checkpoint_segment *segment,
                                  checkpoint_detail_visit *visit, void *context);

/* ---- log_recover.c ---- */
enum recover_mode {
    RECOVER_OPEN,   /* damage is refused */
    RECOVER_REPAIR, /* damage is set aside */
    RECOVER_LOOK,   /* nothing is changed, damage is told */
};

struct repair {
    void (*note)(void *context, const char *text);
    void *context;
};

MUST_CHECK int log_recover(struct log *log, const struct log_recovery *sink, enum recover_mode mode,
                           bool verify, const struct repair *repair, char error[LOG_TEXT_SIZE]);

/* ---- log_read.c ---- */

/* Reads one whole record of a segment and checks it. The bytes are the caller's to free. */
MUST_CHECK int log_read_record(struct log *log, const struct segment *segment, uint32_t offset,
                               uint32_t size, char **record, struct record_header *header);

#endif
