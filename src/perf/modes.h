/* What whippet-perf can do besides putting load on a broker. Each returns the exit status. */
#ifndef PERF_MODES_H
#define PERF_MODES_H

#include "perf/options.h"

/* Opens connections, says so, and holds them for the duration. */
int mode_idle(const struct options *options);

/* What the disk can do: one overwritten and synced 4 KiB block after the other. */
int mode_sync_limit(const struct options *options);

/* What copying through loopback TCP costs: one thread sends, one receives. */
int mode_loopback_limit(const struct options *options);

#endif
