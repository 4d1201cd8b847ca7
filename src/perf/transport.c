/* Plain sockets and TLS. See transport.h. */
#include "perf/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "perf/clock.h"
#include "perf/connection.h"

enum { HANDSHAKE_TIMEOUT_MS = 30000, READ_AHEAD = 64 * 1024 };

/* --- One context for all connections ---------------------------------------------------------- */

static pthread_mutex_t context_lock = PTHREAD_MUTEX_INITIALIZER;
static SSL_CTX *context; /* under the lock; NULL: not made yet, or it could not be */

static const char *
library_error(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    ERR_clear_error();
    return reason ? reason : "unknown error of OpenSSL";
}

/* ca_file is the same at every call. NULL: it cannot be made. */
static SSL_CTX *
context_make(const char *ca_file)
{
    SSL_CTX *made = SSL_CTX_new(TLS_client_method());
    if (!made || (ca_file && SSL_CTX_load_verify_file(made, ca_file) != 1)) {
        SSL_CTX_free(made);
        return NULL;
    }
    SSL_CTX_set_verify(made, ca_file ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                               | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(made, 1);
    SSL_CTX_set_default_read_buffer_len(made, READ_AHEAD);
    return made;
}

static SSL *
new_ssl(const char *ca_file)
{
    pthread_mutex_lock(&context_lock);
    if (!context)
        context = context_make(ca_file);
    SSL *ssl = context ? SSL_new(context) : NULL;
    pthread_mutex_unlock(&context_lock);
    return ssl;
}

/* --- Opening and closing ---------------------------------------------------------------------- */

/* Waits until the socket can go on with what OpenSSL wants. false: not in time. */
static bool
handshake_wait(struct connection *connection, int error, uint64_t deadline)
{
    struct pollfd entry = {.fd = connection->fd,
                           .events = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN};
    for (;;) {
        uint64_t now = clock_now();
        if (now >= deadline)
            return false;
        int n = poll(&entry, 1, (int)((deadline - now) / NS_PER_MS) + 1);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

static int
handshake(struct connection *connection)
{
    uint64_t deadline = clock_now() + HANDSHAKE_TIMEOUT_MS * NS_PER_MS;
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int result = SSL_connect(connection->ssl);
        if (result == 1)
            return 0;
        int saved = errno;
        int error = SSL_get_error(connection->ssl, result);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
            if (handshake_wait(connection, error, deadline))
                continue;
            return connection_fail(connection, "TLS: the server does not go on with the handshake");
        }
        long verified = SSL_get_verify_result(connection->ssl);
        if (verified != X509_V_OK && SSL_get_verify_mode(connection->ssl) != SSL_VERIFY_NONE)
            return connection_fail(connection, "TLS: the server's certificate is not good: %s",
                                   X509_verify_cert_error_string(verified));
        return connection_fail(connection, "TLS: %s",
                               error == SSL_ERROR_SYSCALL && saved ? strerror(saved)
                                                                   : library_error());
    }
}

/* Only names are told to the server (RFC 6066, section 3). */
static bool
is_address(const char *host)
{
    struct in6_addr address; /* large enough for either */
    return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

int
transport_open(struct connection *connection, const struct uri *uri)
{
    if (!uri->is_tls)
        return 0;
    connection->ssl = new_ssl(uri->ca_file);
    if (!connection->ssl)
        return connection_fail(connection, "TLS: %s: %s",
                               uri->ca_file ? uri->ca_file : "no context", library_error());
    int flags = fcntl(connection->fd, F_GETFL);
    if (flags < 0 || fcntl(connection->fd, F_SETFL, flags | O_NONBLOCK) < 0
        || SSL_set_fd(connection->ssl, connection->fd) != 1
        || (!is_address(uri->host) && SSL_set_tlsext_host_name(connection->ssl, uri->host) != 1)
        || (uri->ca_file && SSL_set1_host(connection->ssl, uri->host) != 1))
        return connection_fail(connection, "TLS: cannot begin: %s", library_error());
    return handshake(connection);
}

void
transport_close(struct connection *connection)
{
    if (!connection->ssl)
        return;
    if (connection->error[0] == '\0' && SSL_is_init_finished(connection->ssl))
        SSL_shutdown(connection->ssl);
    SSL_free(connection->ssl);
    connection->ssl = NULL;
    ERR_clear_error();
}

/* --- Bytes ------------------------------------------------------------------------------------ */

/* The last call was no success: 0 at the end, or -1 with errno. */
static ssize_t
not_done(struct connection *connection, int saved)
{
    switch (SSL_get_error(connection->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        errno = saved ? saved : ECONNRESET;
        return -1;
    default:
        errno = EPROTO;
        return -1;
    }
}

/* Waits as recv would: as long as SO_RCVTIMEO says, and for ever if it says nothing. */
static void
wait_for_input(struct connection *connection)
{
    struct timeval limit = {0};
    socklen_t size = sizeof(limit);
    getsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size);
    struct timespec timeout = {.tv_sec = limit.tv_sec, .tv_nsec = limit.tv_usec * 1000};
    bool is_limited = limit.tv_sec != 0 || limit.tv_usec != 0;
    struct pollfd entry = {.fd = connection->fd, .events = POLLIN};
    ppoll(&entry, 1, is_limited ? &timeout : NULL, NULL);
}

static ssize_t
tls_receive(struct connection *connection)
{
    ssize_t total = 0;
    for (;;) {
        size_t got, room = connection->in_capacity - connection->in_end - (size_t)total;
        if (room == 0) {
            if (SSL_has_pending(connection->ssl) == 0)
                return total;
            room = connection->in_capacity;
            connection_reserve(connection, 2 * room);
        }
        ERR_clear_error();
        errno = 0;
        if (SSL_read_ex(connection->ssl, connection->in + connection->in_end + total, room, &got)
            != 1)
            return total > 0 ? total : not_done(connection, errno);
        total += (ssize_t)got;
    }
}

ssize_t
transport_receive(struct connection *connection, bool wait)
{
    if (!connection->ssl)
        return recv(connection->fd, connection->in + connection->in_end,
                    connection->in_capacity - connection->in_end, wait ? 0 : MSG_DONTWAIT);
    ssize_t n = tls_receive(connection);
    if (n >= 0 || errno != EAGAIN || !wait)
        return n;
    wait_for_input(connection);
    return tls_receive(connection);
}

ssize_t
transport_send(struct connection *connection, const uint8_t *data, size_t size)
{
    if (!connection->ssl)
        return send(connection->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    size_t sent;
    ERR_clear_error();
    errno = 0;
    if (SSL_write_ex(connection->ssl, data, size, &sent) == 1)
        return (ssize_t)sent;
    ssize_t n = not_done(connection, errno);
    if (n == 0) { /* the other side has ended */
        errno = EPIPE;
        n = -1;
    }
    return n;
}
