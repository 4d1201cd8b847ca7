/* Verifying passwords on a thread of its own: see the header. */
#include "auth/login.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/map.h"

struct login_service {
    struct access *access;
    struct failures failures;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_t thread;
    bool has_thread, is_ending;
    struct map lanes;  /* of struct lane, by source */
    struct list turns; /* of the same, the next one's first */
};

/* Those of one source that wait; there is none without. */
struct lane {
    struct list turn;
    struct list jobs;
    uint64_t source;
};

static struct slice
source_of_lane(const void *value)
{
    const struct lane *lane = value;
    return (struct slice){(const char *)&lane->source, sizeof(lane->source)};
}

struct login_service *
login_service_new(struct access *access)
{
    struct login_service *service = calloc(1, sizeof(*service));
    if (service == NULL)
        return NULL;
    service->access = access;
    map_init(&service->lanes, source_of_lane);
    list_init(&service->turns);
    failures_init(&service->failures);
    pthread_mutex_init(&service->mutex, NULL);
    pthread_cond_init(&service->work, NULL);
    return service;
}

/* --- Lanes: with the mutex -------------------------------------------------------------------- */

static struct lane *
find_lane(const struct login_service *service, const struct login_job *job)
{
    return map_find(&service->lanes,
                    (struct slice){(const char *)&job->source, sizeof(job->source)});
}

/* The job's lane, which may have to be made. NULL: out of memory. */
static struct lane *
lane_for(struct login_service *service, const struct login_job *job)
{
    struct lane *lane = find_lane(service, job);
    if (lane != NULL)
        return lane;
    lane = malloc(sizeof(*lane));
    if (lane == NULL)
        return NULL;
    lane->source = job->source;
    list_init(&lane->turn);
    list_init(&lane->jobs);
    if (map_insert(&service->lanes, lane) != 0) {
        free(lane);
        return NULL;
    }
    list_push_back(&service->turns, &lane->turn);
    return lane;
}

static void
drop_if_empty(struct login_service *service, struct lane *lane)
{
    if (!list_is_empty(&lane->jobs))
        return;
    list_remove(&lane->turn);
    map_remove(&service->lanes, source_of_lane(lane));
    free(lane);
}

/* The job that waits longest in the lane whose turn it is, or NULL. */
static struct login_job *
take(struct login_service *service)
{
    struct list *turn = list_first(&service->turns);
    if (turn == NULL)
        return NULL;
    struct lane *lane = LIST_ENTRY(turn, struct lane, turn);
    struct login_job *job = LIST_ENTRY(list_pop_front(&lane->jobs), struct login_job, link);
    list_move_back(&service->turns, turn);
    drop_if_empty(service, lane);
    return job;
}

/* --- The thread ------------------------------------------------------------------------------- */

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
    struct lane *lane = NULL;
    list_init(&job->link);
    job->is_right = false;
    pthread_mutex_lock(&service->mutex);
    if (!service->is_ending && start(service) == 0)
        lane = lane_for(service, job);
    if (lane != NULL) {
        list_push_back(&lane->jobs, &job->link);
        pthread_cond_signal(&service->work);
    }
    pthread_mutex_unlock(&service->mutex);
    return lane != NULL;
}

bool
login_cancel(struct login_service *service, struct login_job *job)
{
    pthread_mutex_lock(&service->mutex);
    bool is_waiting = list_is_linked(&job->link);
    if (is_waiting) {
        list_remove(&job->link);
        drop_if_empty(service, find_lane(service, job));
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
    map_fini(&service->lanes);
    failures_fini(&service->failures);
    pthread_cond_destroy(&service->work);
    pthread_mutex_destroy(&service->mutex);
    free(service);
}
