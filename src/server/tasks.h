/* Work that other threads have the first worker do, and wait for: what touches a shard's objects
 * may be done on its own thread only. */
#ifndef SERVER_TASKS_H
#define SERVER_TASKS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/compiler.h"

struct task;

struct tasks {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* something was done, or never will be */
    struct task *first, **last; /* in order; they are on their callers' stacks */
    atomic_bool has_any;        /* read without the lock */
    bool is_closed;
};

void tasks_init(struct tasks *tasks);
void tasks_fini(struct tasks *tasks);

/* Any thread but the one that does the tasks. Calls wake(wake_context), and returns when
 * run(context) was done on that thread: 0. -ECANCELED: nobody will do it, and nobody has. */
MUST_CHECK int tasks_call(struct tasks *tasks, void (*run)(void *context), void *context,
                          void (*wake)(void *context), void *wake_context);

/* Whether there is something to do. Any thread; cheap. */
static inline bool
tasks_has_any(const struct tasks *tasks)
{
    return atomic_load_explicit(&tasks->has_any, memory_order_acquire);
}

/* Does what there is, without the lock. */
void tasks_run(struct tasks *tasks);

/* Nothing is done any more: who waits, and who comes, is told so. */
void tasks_close(struct tasks *tasks);

#endif
