/* The administration's socket: see the header. */
#include "admin/socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BACKLOG = 16 };

int
socket_path(struct sockaddr_un *address, const char *data_dir, const char *setting, char *error,
            size_t error_size)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    bool is_absolute = setting[0] == '/';
    int size = snprintf(address->sun_path, sizeof(address->sun_path), "%s%s%s",
                        is_absolute ? "" : data_dir, is_absolute ? "" : "/", setting);
    if (size < (int)sizeof(address->sun_path))
        return 0;
    snprintf(error, error_size,
             "admin.socket: the path has %d bytes, and the system takes %d: name a shorter one, or "
             "\"\" for none",
             size, (int)sizeof(address->sun_path) - 1);
    return -1;
}

/* Removes what a broker that died has left there. NULL, also if there was nothing; else why not. */
static const char *
clear_the_place(const struct sockaddr_un *address)
{
    struct stat status;
    if (lstat(address->sun_path, &status) != 0)
        return errno == ENOENT ? NULL : strerror(errno);
    if (!S_ISSOCK(status.st_mode))
        return "there is something else at this place";
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return strerror(errno);
    bool is_dead = connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0
                   && errno == ECONNREFUSED;
    close(fd);
    if (!is_dead)
        return "another process listens there";
    return unlink(address->sun_path) == 0 ? NULL : strerror(errno);
}

int
socket_listen(const struct sockaddr_un *address, char *error, size_t error_size)
{
    const char *reason = clear_the_place(address);
    int fd = -1;
    if (reason == NULL) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* Linux gives the file the socket's mode, so that there is no moment of another one. */
        if (fd < 0 || fchmod(fd, 0600) != 0
            || bind(fd, (const struct sockaddr *)address, sizeof(*address)) != 0
            || listen(fd, BACKLOG) != 0)
            reason = strerror(errno);
    }
    if (reason == NULL)
        return fd;
    if (fd >= 0)
        close(fd);
    snprintf(error, error_size, "admin.socket: cannot listen on %s: %s", address->sun_path, reason);
    return -1;
}

bool
socket_is_trusted(int fd, uid_t *uid)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    *uid = (uid_t)-1;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return false;
    *uid = peer.uid;
    return peer.uid == 0 || peer.uid == geteuid();
}
