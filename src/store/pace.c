/* A disk's pace: see the header. */
#include "store/pace.h"

void
pace_note(struct pace *pace, uint64_t bytes, uint64_t ns)
{
    if (bytes < PACE_COMMIT_MIN)
        return;
    /* Sums, not an average of rates: a commit that took long counts for as long. */
    pace->bytes = pace->bytes / 4 * 3 + bytes;
    pace->ns = pace->ns / 4 * 3 + ns;
}

uint64_t
pace_rate(const struct pace *pace)
{
    if (pace->bytes == 0)
        return 0;
    double rate = (double)pace->bytes * 1e9 / (double)(pace->ns > 0 ? pace->ns : 1);
    return rate < 1e18 ? (uint64_t)rate : UINT64_MAX;
}
