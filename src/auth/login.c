/* Verifying passwords on a thread of its own: see the header. */
#include "auth/login.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct login_service {
    struct access *access;
    struct failures failures;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_t thread;
    bool has_thread, is_ending;
    struct lane {
        struct list jobs;
        uint32_t count;
    } lanes[LOGIN_LANES];
    uint32_t next_lane; /* whose turn it is */
};

struct login_service *
login_service_new(struct access *access)
{
    struct login_service *service = calloc(1, sizeof(*service));
    if (service == NULL)
        return NULL;
    service->access = access;
    for (size_t i = 0; i < LOGIN_LANES; i++)
        list_init(&service->lanes[i].jobs);
    failures_init(&service->failures);
    pthread_mutex_init(&service->mutex, NULL);
    pthread_cond_init(&service->work, NULL);
    return service;
}

static struct lane *
lane_of(struct login_service *service, const struct login_job *job)
{
    return &service->lanes[job->source % LOGIN_LANES];
}

/* With the mutex: the job that waits longest in the next lane that has any, or NULL. */
static struct login_job *
take(struct login_service *service)
{
    for (uint32_t i = 0; i < LOGIN_LANES; i++) {
        struct lane *lane = &service->lanes[service->next_lane];
        service->next_lane = (service->next_lane + 1) % LOGIN_LANES;
        struct list *node = list_pop_front(&lane->jobs);
        if (node == NULL)
            continue;
        lane->count--;
        return LIST_ENTRY(node, struct login_job, link);
    }
    return NULL;
}

static void
verify(struct login_service *service, struct login_job *job)
{
    /* Many clients of one user come at once: the first has paid for all. */
    job->is_right = (job->user != NULL && access_knows_password(job->user, job->password))
                    || access_verify_password(service->access, job->user, job->password);
    job->done(job);
}

static void *
run(void *context)
{
    struct login_service *service = context;
    pthread_mutex_lock(&service->mutex);
    while (!service->is_ending) {
        struct login_job *job = take(service);
        if (job == NULL) {
            pthread_cond_wait(&service->work, &service->mutex);
            continue;
        }
        pthread_mutex_unlock(&service->mutex);
        verify(service, job);
        pthread_mutex_lock(&service->mutex);
    }
    pthread_mutex_unlock(&service->mutex);
    return NULL;
}

/* With the mutex. Signals are for the first thread. -errno. */
static int
start(struct login_service *service)
{
    sigset_t all, before;
    if (service->has_thread)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int status = -pthread_create(&service->thread, NULL, run, service);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    service->has_thread = status == 0;
    return status;
}

int
login_service_start(struct login_service *service)
{
    pthread_mutex_lock(&service->mutex);
    int status = start(service);
    pthread_mutex_unlock(&service->mutex);
    return status;
}

bool
login_submit(struct login_service *service, struct login_job *job)
{
    struct lane *lane = lane_of(service, job);
    list_init(&job->link);
    job->is_right = false;
    pthread_mutex_lock(&service->mutex);
    bool is_taken = !service->is_ending && lane->count < LOGIN_LANE_MAX && start(service) == 0;
    if (is_taken) {
        list_push_back(&lane->jobs, &job->link);
        lane->count++;
        pthread_cond_signal(&service->work);
    }
    pthread_mutex_unlock(&service->mutex);
    return is_taken;
}

bool
login_cancel(struct login_service *service, struct login_job *job)
{
    pthread_mutex_lock(&service->mutex);
    bool is_waiting = list_is_linked(&job->link);
    if (is_waiting) {
        list_remove(&job->link);
        lane_of(service, job)->count--;
    }
    pthread_mutex_unlock(&service->mutex);
    return is_waiting;
}

struct failures *
login_failures(struct login_service *service)
{
    return &service->failures;
}

void
login_service_free(struct login_service *service)
{
    if (service == NULL)
        return;
    pthread_mutex_lock(&service->mutex);
    service->is_ending = true;
    pthread_cond_signal(&service->work);
    pthread_mutex_unlock(&service->mutex);
    if (service->has_thread)
        pthread_join(service->thread, NULL);
    for (struct login_job *job; (job = take(service)) != NULL;)
        job->done(job);
    failures_fini(&service->failures);
    pthread_cond_destroy(&service->work);
    pthread_mutex_destroy(&service->mutex);
    free(service);
}
