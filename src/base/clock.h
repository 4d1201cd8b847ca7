/* The clocks. Only main loops and programs read them; everything else is told the time, so that it
 * can be run under a simulated one. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Since some moment before the program started; never runs backwards. For durations and deadlines.
 */
int64_t clock_monotonic_ns(void);
int64_t clock_monotonic_ms(void);

/* Since 1970-01-01T00:00:00Z; may jump. For timestamps that people or messages carry. */
int64_t clock_wall_ms(void);

#endif
