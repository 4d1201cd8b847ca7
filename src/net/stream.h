/* A byte stream over a socket: TCP as it is, or TLS. Sessions read and write through this and do
 * not know which.
 *
 * A stream is embedded; an implementation that needs state of its own embeds the struct stream in a
 * larger one. Nothing blocks. */
#ifndef NET_STREAM_H
#define NET_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/compiler.h"

/* Negative results of reading and writing. */
enum {
    STREAM_AGAIN = -1, /* nothing to be done now; wait for the socket */
    STREAM_ERROR = -2, /* broken: stream->error says why; only stream_close is left */
};

struct stream;

struct stream_ops {
    ssize_t (*readv)(struct stream *stream, struct iovec *pieces, int count);
    ssize_t (*writev)(struct stream *stream, struct iovec *pieces, int count);
    int (*shutdown_write)(struct stream *stream);
    void (*close)(struct stream *stream);
    bool (*has_buffered)(const struct stream *stream);      /* NULL: never */
    const char *(*error_text)(const struct stream *stream); /* NULL: that of the errno */
};

struct stream {
    int fd;    /* -1 when closed */
    int error; /* errno of the last STREAM_ERROR */
    const struct stream_ops *ops;
    /* Which readiness of the socket the other direction waits for, after STREAM_AGAIN. TCP sets
     * neither; a TLS handshake may need to write before it can read, and the reverse. */
    bool read_wants_write;
    bool write_wants_read;
    bool is_handshaking; /* TLS: nothing has been agreed yet. Reading goes on with it */
    void *state;         /* the implementation's; NULL for TCP */
};

/* A TCP (or Unix) stream over a connected non-blocking socket, which it owns from here on. */
void stream_init_tcp(struct stream *stream, int fd);

/* Reads into the pieces in turn. > 0: how many bytes, 0: the peer has ended the stream, else
 * STREAM_AGAIN or STREAM_ERROR. A count less than the room does not mean that there is no more. The
 * pieces may be changed. */
MUST_CHECK static inline ssize_t
stream_readv(struct stream *stream, struct iovec *pieces, int count)
{
    return stream->ops->readv(stream, pieces, count);
}

/* Writes from the pieces in turn. > 0: how many bytes were taken (perhaps not all), else
 * STREAM_AGAIN or STREAM_ERROR. After STREAM_AGAIN the same bytes must come first in the next call.
 * The pieces may be changed. Never raises SIGPIPE. */
MUST_CHECK static inline ssize_t
stream_writev(struct stream *stream, struct iovec *pieces, int count)
{
    return stream->ops->writev(stream, pieces, count);
}

/* For one piece of memory. */
MUST_CHECK static inline ssize_t
stream_read(struct stream *stream, void *into, size_t size)
{
    struct iovec piece = {.iov_base = into, .iov_len = size};

    return stream_readv(stream, &piece, 1);
}

/* Is there something to read of which epoll knows nothing, because it was taken from the socket
 * already: bytes, the end, or an error? */
static inline bool
stream_has_buffered(const struct stream *stream)
{
    return stream->ops->has_buffered != NULL && stream->ops->has_buffered(stream);
}

/* Must the socket be watched for writing (for reading) though only reading (writing) is wanted? */
static inline bool
stream_wants_write(const struct stream *stream)
{
    return stream->read_wants_write;
}

static inline bool
stream_wants_read(const struct stream *stream)
{
    return stream->write_wants_read;
}

/* Why the last call said STREAM_ERROR, for the log: a text that is good until the next call of any
 * stream's function in this thread. */
const char *stream_error_text(const struct stream *stream);

/* Tells the peer that no more bytes come; reading goes on. 0, STREAM_AGAIN or STREAM_ERROR. */
MUST_CHECK static inline int
stream_shutdown_write(struct stream *stream)
{
    return stream->ops->shutdown_write(stream);
}

/* Closes the socket (which must not be watched any more); does nothing to a closed stream. Frees
 * what the implementation holds, not the struct. */
static inline void
stream_close(struct stream *stream)
{
    stream->ops->close(stream);
}

#endif
