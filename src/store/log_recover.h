/* What recovery knows while it is at work; shared by log_files.c (the files), log_recover.c
 * (from files to state), log_scan.c (the stream of records) and log_repair.c (what is done about
 * damage). */
#ifndef STORE_LOG_RECOVER_H
#define STORE_LOG_RECOVER_H

#include "store/log_found.h"
#include "store/log_internal.h"

struct recovery {
    struct log *log;
    const struct log_recovery *sink; /* NULL: nobody wants to know */
    enum recover_mode mode;
    const struct repair *repair;
    char *error;
    struct checkpoint checkpoint;
    bool must_rebuild; /* there is no checkpoint: everything is read as if it were the tail */
    struct found_list found;
    struct segment **by_number; /* those with a number, ascending */
    size_t numbered_count, numbered_capacity;
    uint64_t max_id, max_sequence, max_number;
    uint64_t damages; /* told and passed over */
};

/* Damage was found. -EBADMSG with the text in `error` when it must be refused; 0 when the work goes
 * on, and the text was told. */
PRINTF_LIKE(2, 3)
MUST_CHECK int recovery_damage(struct recovery *recovery, const char *format, ...);

/* Any other error: the text goes to `error`, the code is returned. */
PRINTF_LIKE(3, 4)
MUST_CHECK int recovery_error(struct recovery *recovery, int code, const char *format, ...);

/* A line for the operator. */
PRINTF_LIKE(2, 3)
void recovery_note(const struct recovery *recovery, const char *format, ...);

/* The queue ids of a record that may be damaged, as text: ", it may be of queue 3, 5". */
void recovery_guess_queues(const struct log *log, char text[LOG_TEXT_SIZE], const char *record,
                           size_t size);

/* With RECOVER_REPAIR: copies a stretch of a segment, or moves a whole file, to lost+found/. */
MUST_CHECK int recovery_save(struct recovery *recovery, const struct segment *segment,
                             const char *bytes, uint32_t offset, size_t size);
MUST_CHECK int recovery_set_aside(struct recovery *recovery, const char *name);

/* A record of this segment was read, the next in order. */
MUST_CHECK int recovery_enter(struct recovery *recovery, struct segment *segment,
                              const struct record_publish *publish, uint32_t offset, uint32_t size,
                              bool is_live);

/* ---- log_files.c ---- */

/* The names in the directory. */
struct names {
    char (*names)[SEGMENT_NAME_MAX];
    size_t count, capacity;
};

/* A file_visit that fills struct names. */
int names_gather(void *context, const char *name);

/* Whether one of them is a segment that was part of a log, and not only made for one. */
MUST_CHECK int recovery_find_used(struct recovery *recovery, const struct names *names,
                                  bool *is_found);

/* Opens every segment file and reads its header; fills log->segments and by_number. */
MUST_CHECK int recovery_open_segments(struct recovery *recovery, const struct names *names);

struct segment *recovery_segment(const struct recovery *recovery, uint64_t number);

/* Reads a segment's file from its beginning up to `limit` bytes; what lies behind the file's end is
 * missing from *size. The caller frees the bytes. */
MUST_CHECK int recovery_load(struct recovery *recovery, const struct segment *segment, size_t limit,
                             char **bytes, size_t *size);

/* ---- log_scan.c ---- */

/* Calls back for each publish record of a segment up to `end`, where all must be sound. */
MUST_CHECK int scan_segment(struct recovery *recovery, struct segment *segment, uint32_t end,
                            segment_visit *visit, void *context);

/* Replays the stream from a position to its end and seals the segments of it. */
MUST_CHECK int scan_tail(struct recovery *recovery, struct position from);

#endif
