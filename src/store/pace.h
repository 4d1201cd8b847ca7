/* How fast a disk takes what is written and synced to it, as the last commits show.
 *
 * Whoever fills the log's backlog makes everybody wait who wants something on the disk, so the
 * backlog has to be bounded in time, and that takes knowing the disk. Only large commits are looked
 * at: in small ones it is the sync that takes the time, whatever its size. */
#ifndef STORE_PACE_H
#define STORE_PACE_H

#include <stdint.h>

enum { PACE_COMMIT_MIN = 1024 * 1024 };

struct pace {
    uint64_t bytes, ns; /* of all commits so far, a commit weighing less with each that follows */
};

/* So many bytes were written and synced in so many nanoseconds. Fewer than PACE_COMMIT_MIN tell
 * nothing. */
void pace_note(struct pace *pace, uint64_t bytes, uint64_t ns);

/* Bytes in a second; 0: nothing is known yet. */
uint64_t pace_rate(const struct pace *pace);

#endif
