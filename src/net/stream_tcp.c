/* A stream straight over a socket. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/stream.h"

static ssize_t
failed(struct stream *stream)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return STREAM_AGAIN;
    stream->error = errno;
    return STREAM_ERROR;
}

static ssize_t
tcp_readv(struct stream *stream, struct iovec *pieces, int count)
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
    ssize_t got;

    do
        got = recvmsg(stream->fd, &message, 0);
    while (got < 0 && errno == EINTR);
    return got >= 0 ? got : failed(stream);
}

static ssize_t
tcp_writev(struct stream *stream, struct iovec *pieces, int count)
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
    ssize_t sent;

    do
        sent = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent >= 0 ? sent : failed(stream);
}

static int
tcp_shutdown_write(struct stream *stream)
{
    return shutdown(stream->fd, SHUT_WR) == 0 ? 0 : (int)failed(stream);
}

static void
tcp_close(struct stream *stream)
{
    if (stream->fd < 0)
        return;
    close(stream->fd);
    stream->fd = -1;
}

static const struct stream_ops tcp_ops = {
    .readv = tcp_readv,
    .writev = tcp_writev,
    .shutdown_write = tcp_shutdown_write,
    .close = tcp_close,
};

const char *
stream_error_text(const struct stream *stream)
{
    return stream->ops->error_text != NULL ? stream->ops->error_text(stream)
                                           : strerror(stream->error);
}

void
stream_init_tcp(struct stream *stream, int fd)
{
    *stream = (struct stream){.fd = fd, .ops = &tcp_ops};
}
