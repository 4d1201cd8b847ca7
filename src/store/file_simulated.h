/* A disk for tests, in memory: it tells what was synced from what was not, and can fail.
 *
 * It behaves as a disk may at its worst: what was written and not synced is, after a power loss,
 * there or not, sector by sector, in any order; a file or directory that was made, renamed or
 * removed is so only after the directory that it is in was synced. Any call can be made to fail,
 * and power can be lost at any. */
#ifndef STORE_FILE_SIMULATED_H
#define STORE_FILE_SIMULATED_H

#include "store/file.h"

struct simulated_disk;

/* What is left of that which was not synced. */
enum simulated_loss {
    SIMULATED_LOSE_ALL,
    SIMULATED_LOSE_NONE,    /* as after a mere kill */
    SIMULATED_LOSE_SECTORS, /* each 512 bytes survive or not */
    SIMULATED_LOSE_PAGES,   /* each 4096 bytes */
    SIMULATED_LOSS_END,
};

/* NULL: out of memory. */
struct simulated_disk *simulated_disk_new(uint64_t seed);
void simulated_disk_free(struct simulated_disk *disk);

/* The functions over it; valid as long as the disk. */
const struct file_ops *simulated_disk_files(struct simulated_disk *disk);

/* Calls that have been made which change the disk or depend on it. */
uint64_t simulated_disk_operations(const struct simulated_disk *disk);

/* The call with this number, counted from now on from 1, fails with the error. With is_power_loss
 * it does half of its work, and nothing works any more until the reboot. 0: no such call. */
void simulated_disk_fail_at(struct simulated_disk *disk, uint64_t operation, int error,
                            bool is_power_loss);

/* Whether the chosen call has come. */
bool simulated_disk_has_failed(const struct simulated_disk *disk);

/* While paused, calls are not counted, and none fails that would have been chosen. */
void simulated_disk_pause(struct simulated_disk *disk, bool is_paused);

/* Power is lost, if it was not yet, and comes back: all files are closed, and hold what is left. */
void simulated_disk_reboot(struct simulated_disk *disk, enum simulated_loss loss);

/* Bytes that all files together can have. */
void simulated_disk_limit(struct simulated_disk *disk, uint64_t capacity);

/* Writes do a part only, at random. */
void simulated_disk_short_writes(struct simulated_disk *disk, bool are_short);

/* Damages a byte; false when the file is not there or is shorter. */
bool simulated_disk_flip(struct simulated_disk *disk, const char *path, uint64_t offset);

/* The contents of a file, borrowed until the next call; NULL: no such file. */
const char *simulated_disk_contents(const struct simulated_disk *disk, const char *path,
                                    size_t *size);

uint64_t simulated_disk_used(const struct simulated_disk *disk);

#endif
