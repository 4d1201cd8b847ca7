/* What the broker and systemd tell each other: see the header. */
#include "server/supervisor.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

/* For so long a supervisor that does not read may keep a worker waiting: it tells it of a reload.
 */
enum { PATIENCE_S = 1 };

static struct {
    int fd; /* -1: nobody wants to know */
    unsigned sockets;
    char socket_names[1024]; /* with ':' between */
    int64_t watchdog_ms;     /* 0: none */
    struct server *server;
    struct timer timer;         /* the first worker's */
    uint32_t turns[SHARDS_MAX]; /* of each worker, when the timer fired last */
} supervisor = {.fd = -1};

/* --- What the environment says ---------------------------------------------------------------- */

/* A number in the environment; 0 when there is none. */
static uint64_t
number_of(const char *name)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || text[0] < '0' || text[0] > '9')
        return 0;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    return errno == 0 && *end == 0 ? value : 0;
}

/* Is what it says meant for this process? A supervisor names it, since the environment is
 * inherited. */
static bool
is_meant(const char *name)
{
    return number_of(name) == (uint64_t)getpid();
}

static int
connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || size < 2 || size >= sizeof(address.sun_path))
        return -EINVAL;
    memcpy(address.sun_path, path, size);
    if (path[0] == '@') /* in the abstract name space */
        address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0
        || connect(fd, (const struct sockaddr *)&address, length) != 0) {
        int status = -errno;
        close(fd);
        return status;
    }
    return fd;
}

void
supervisor_find(void)
{
    static const char *const names[] = {"NOTIFY_SOCKET",  "LISTEN_FDS",    "LISTEN_PID",
                                        "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"};
    const char *path = getenv("NOTIFY_SOCKET");
    if (path != NULL) {
        supervisor.fd = connect_to(path);
        if (supervisor.fd < 0)
            log_warn("the supervisor cannot be told anything", LOG_STR("socket", path),
                     LOG_ERRNO("reason", supervisor.fd));
    }
    if (is_meant("LISTEN_PID")) {
        const char *socket_names = getenv("LISTEN_FDNAMES");
        supervisor.sockets = (unsigned)number_of("LISTEN_FDS");
        snprintf(supervisor.socket_names, sizeof(supervisor.socket_names), "%s",
                 socket_names != NULL ? socket_names : "");
    }
    if (supervisor.fd >= 0 && (getenv("WATCHDOG_PID") == NULL || is_meant("WATCHDOG_PID")))
        supervisor.watchdog_ms = (int64_t)(number_of("WATCHDOG_USEC") / 1000);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        unsetenv(names[i]);
}

unsigned
supervisor_sockets(void)
{
    return supervisor.sockets;
}

bool
supervisor_socket_is_tls(unsigned number)
{
    const char *name = supervisor.socket_names;
    for (; number > 0 && name != NULL; number--) {
        name = strchr(name, ':');
        name = name != NULL ? name + 1 : NULL;
    }
    return name != NULL && strcspn(name, ":") == strlen("amqps")
           && strncmp(name, "amqps", strlen("amqps")) == 0;
}

/* --- Telling it ------------------------------------------------------------------------------- */

static void
tell(const char *state, int flags)
{
    if (supervisor.fd < 0)
        return;
    ssize_t sent;
    do
        sent = send(supervisor.fd, state, strlen(state), flags | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    /* What need not be told now is told again. */
    if (sent < 0 && !(errno == EAGAIN && (flags & MSG_DONTWAIT) != 0))
        log_warn("the supervisor cannot be told", LOG_STR("state", state),
                 LOG_ERRNO("reason", errno));
}

void
supervisor_tell(const char *state)
{
    tell(state, 0);
}

void
supervisor_tell_reloading(void)
{
    struct timespec now;
    char state[64];
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
             (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
    supervisor_tell(state);
}

/* --- The watchdog ----------------------------------------------------------------------------- */

/* Has every worker been through its loop since the last time? They are woken for it. */
static bool
has_turned(struct server *server)
{
    bool have_all = true;
    for (uint32_t i = 0; i < server->worker_count; i++) {
        struct worker *worker = &server->workers[i];
        uint32_t turns = atomic_load_explicit(&worker->turns, memory_order_relaxed);
        have_all = have_all && turns != supervisor.turns[i];
        supervisor.turns[i] = turns;
        loop_wake(&worker->loop);
    }
    return have_all;
}

static void
on_watchdog(struct timer *timer, int64_t now_ms)
{
    struct server *server = supervisor.server;
    if (has_turned(server))
        tell("WATCHDOG=1", MSG_DONTWAIT);
    wheel_set(&server->workers[0].shard->wheel, timer,
              now_ms + supervisor.watchdog_ms / SUPERVISOR_WATCHDOG_SHARE);
}

void
supervisor_watch(struct server *server)
{
    if (supervisor.watchdog_ms < SUPERVISOR_WATCHDOG_SHARE)
        return;
    struct shard *shard = server->workers[0].shard;
    supervisor.server = server;
    timer_init(&supervisor.timer, on_watchdog);
    wheel_set(&shard->wheel, &supervisor.timer, shard->now_ms);
}
