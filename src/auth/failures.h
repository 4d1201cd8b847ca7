/* Failed logins, counted by the address they come from: who keeps failing waits longer and longer
 * for the answer.
 *
 * The table is of a fixed size. A new address takes the place of the one of its few neighbours that
 * has been quiet longest, so a flood from many addresses forgets some failures and costs no memory.
 */
#ifndef AUTH_FAILURES_H
#define AUTH_FAILURES_H

#include <pthread.h>
#include <stdint.h>

enum {
    FAILURES_FREE = 10, /* so many cost nothing: somebody mistypes */
    FAILURES_DELAY_MAX_MS = 30 * 1000,
    FAILURES_MEMORY_MS = 5 * 60 * 1000, /* after so long without one, all are forgotten */
    FAILURES_SETS = 1024,
    FAILURES_WAYS = 4,
};

struct failure_record {
    uint64_t address; /* a number that stands for it; 0: free */
    int64_t last_ms;
    uint32_t count;
};

struct failures {
    pthread_mutex_t mutex;
    struct failure_record records[FAILURES_SETS][FAILURES_WAYS];
};

void failures_init(struct failures *failures);
void failures_fini(struct failures *failures);

/* One more. The address is any number that strangers cannot choose, such as a keyed hash. Returns
 * how long the answer is to be held back, and in *count how many there are now. Any thread. */
uint32_t failures_add(struct failures *failures, uint64_t address, int64_t now_ms, uint32_t *count);

#endif
