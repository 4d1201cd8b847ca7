/* The memory that the process occupies once it has started. */
#ifndef SERVER_FOOTPRINT_H
#define SERVER_FOOTPRINT_H

/* Gives back what only the start needed: code that is not run again, and free memory of the heap.
 * Costs a few page faults from the page cache. Call it once, when the start is over. */
void footprint_shrink(void);

#endif
