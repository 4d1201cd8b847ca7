/* Work for the first worker: see the header. */
#include "server/tasks.h"

#include <errno.h>
#include <stddef.h>

enum task_state { TASK_WAITING, TASK_DONE, TASK_CANCELED };

struct task {
    struct task *next;
    void (*run)(void *context);
    void *context;
    enum task_state state;
};

void
tasks_init(struct tasks *tasks)
{
    *tasks = (struct tasks){0};
    pthread_mutex_init(&tasks->lock, NULL);
    pthread_cond_init(&tasks->changed, NULL);
    tasks->last = &tasks->first;
}

void
tasks_fini(struct tasks *tasks)
{
    pthread_cond_destroy(&tasks->changed);
    pthread_mutex_destroy(&tasks->lock);
}

int
tasks_call(struct tasks *tasks, void (*run)(void *context), void *context,
           void (*wake)(void *context), void *wake_context)
{
    struct task task = {.run = run, .context = context};
    pthread_mutex_lock(&tasks->lock);
    if (tasks->is_closed) {
        task.state = TASK_CANCELED;
    } else {
        *tasks->last = &task;
        tasks->last = &task.next;
        atomic_store_explicit(&tasks->has_any, true, memory_order_release);
        wake(wake_context);
    }
    while (task.state == TASK_WAITING)
        pthread_cond_wait(&tasks->changed, &tasks->lock);
    pthread_mutex_unlock(&tasks->lock);
    return task.state == TASK_DONE ? 0 : -ECANCELED;
}

/* The oldest task, NULL if there is none. Under the lock. */
static struct task *
take(struct tasks *tasks)
{
    struct task *task = tasks->first;
    if (task == NULL)
        return NULL;
    tasks->first = task->next;
    if (tasks->first == NULL) {
        tasks->last = &tasks->first;
        atomic_store_explicit(&tasks->has_any, false, memory_order_relaxed);
    }
    return task;
}

void
tasks_run(struct tasks *tasks)
{
    struct task *task;
    pthread_mutex_lock(&tasks->lock);
    while ((task = take(tasks)) != NULL) {
        pthread_mutex_unlock(&tasks->lock);
        task->run(task->context);
        pthread_mutex_lock(&tasks->lock);
        task->state = TASK_DONE;
        pthread_cond_broadcast(&tasks->changed);
    }
    pthread_mutex_unlock(&tasks->lock);
}

void
tasks_close(struct tasks *tasks)
{
    struct task *task;
    pthread_mutex_lock(&tasks->lock);
    tasks->is_closed = true;
    while ((task = take(tasks)) != NULL)
        task->state = TASK_CANCELED;
    pthread_cond_broadcast(&tasks->changed);
    pthread_mutex_unlock(&tasks->lock);
}
