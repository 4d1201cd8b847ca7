/* A stream through TLS.
 *
 * Reading: OpenSSL reads a record's header and its body apart, and knows only its own 16 KiB
 * buffer. So between it and the socket stands a BIO that takes from the socket as much as the
 * caller has room for, in one call, into a buffer of the thread. It must be empty again when the
 * call is over, for the next one is another connection's: that is why no more is read ahead than
 * surely fits the caller's room as plain text (`ahead`). An idle connection so holds no buffer,
 * neither here nor in OpenSSL (SSL_MODE_RELEASE_BUFFERS). The one exception is a client that asks
 * for new keys and does not read our answer: OpenSSL then stops in the middle, and the connection
 * keeps what stands behind until the answer is out (`kept`).
 *
 * Writing: pieces are gathered into full records in another buffer of the thread, so that a hundred
 * small frames are one record. OpenSSL writes to the socket itself. */
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/tls_internal.h"

enum {
    RECORD_MAX = SSL3_RT_MAX_PLAIN_LENGTH,
    READ_AHEAD = 64 * 1024,
    /* Messages after the handshake (key updates) in one call. Clients send one in many gigabytes;
     * each costs us keys and perhaps an answer. */
    LATE_MESSAGES_MAX = 32,
    /* What a client may send until its handshake is over, since OpenSSL keeps messages that have
     * not come whole, of 128 KiB even. A ClientHello has one or two, its certificates some more. */
    HANDSHAKE_BYTES_MAX = 32 * 1024,
    HANDSHAKE_BYTES_MAX_VERIFIED = 64 * 1024,
    FIRST_BYTES = 4, /* by which a client that speaks no TLS is known */
};

struct tls_stream {
    SSL *ssl;
    struct tls_context *context;
    int fd;
    bool is_established; /* the opposite of the stream's is_handshaking, for OpenSSL's callbacks */
    bool has_failed;     /* for good; the three fields below say why */
    bool has_flooded;
    bool has_sent_too_much; /* in the handshake */
    size_t received;        /* bytes, in the handshake */
    unsigned long reason;   /* OpenSSL's code; 0: stream->error */
    long verify_result;     /* X509_V_..., when the client's certificate is the reason */
    uint8_t first[FIRST_BYTES];
    uint8_t first_count;
    uint8_t *kept; /* owned: what was read ahead when OpenSSL had to stop; NULL: nothing */
    size_t kept_size;
};

/* The thread's buffers, and what the call under way may do. Untouched pages cost nothing. */
static _Thread_local struct {
    uint8_t in[READ_AHEAD];
    size_t begin, end; /* of what is in `in` and not yet taken */
    size_t ahead;      /* bytes that may be read from the socket unasked */
    size_t left;       /* bytes that may be read from the socket at all: the bound of a turn */
    bool is_drained;   /* the socket had less than was asked for */
    unsigned late_messages;
    uint8_t out[RECORD_MAX];
    char text[256]; /* of errors */
} scratch;

/* --- Between OpenSSL and the socket ----------------------------------------------------------- */

static size_t
least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* What a stranger says first, until it is clear that it is TLS. */
static void
note_first(struct tls_stream *tls, const uint8_t *bytes, size_t size)
{
    while (tls->first_count < FIRST_BYTES && size-- > 0)
        tls->first[tls->first_count++] = *bytes++;
}

/* recv with the bookkeeping; as the BIO's read. */
static ssize_t
receive(BIO *bio, void *into, size_t size)
{
    struct tls_stream *tls = BIO_get_data(bio);
    ssize_t got;

    if (scratch.is_drained || scratch.left == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size = least(size, scratch.left);
    do
        got = recv(tls->fd, into, size, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            BIO_set_retry_read(bio);
        return -1;
    }
    if (got == 0)
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    scratch.left -= (size_t)got;
    tls->received += (size_t)got;
    scratch.is_drained = got > 0 && (size_t)got < size;
    note_first(tls, into, (size_t)got);
    return got;
}

/* Has a client sent more than any handshake needs, and has not finished it? */
static bool
is_too_much(const struct tls_stream *tls)
{
    bool is_verified = (SSL_get_verify_mode(tls->ssl) & SSL_VERIFY_PEER) != 0;

    return tls->received > (is_verified ? HANDSHAKE_BYTES_MAX_VERIFIED : HANDSHAKE_BYTES_MAX)
           && SSL_is_init_finished(tls->ssl) == 0;
}

static int
bio_read(BIO *bio, char *into, int size)
{
    struct tls_stream *tls = BIO_get_data(bio);
    size_t wanted = (size_t)size;

    BIO_clear_retry_flags(bio);
    if (scratch.late_messages > LATE_MESSAGES_MAX) {
        tls->has_flooded = true;
        return -1;
    }
    if (!tls->is_established && is_too_much(tls)) {
        tls->has_sent_too_much = true;
        return -1;
    }
    if (scratch.begin == scratch.end) {
        ssize_t got;

        if (scratch.ahead < wanted)
            return (int)receive(bio, into, wanted);
        got = receive(bio, scratch.in, least(scratch.ahead, READ_AHEAD));
        if (got <= 0)
            return (int)got;
        scratch.begin = 0;
        scratch.end = (size_t)got;
    }
    wanted = least(wanted, scratch.end - scratch.begin);
    memcpy(into, scratch.in + scratch.begin, wanted);
    scratch.begin += wanted;
    return (int)wanted;
}

static long
bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)number;
    (void)pointer;
    if (command == BIO_CTRL_EOF)
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

static BIO_METHOD *read_method;

static void
make_read_method(void)
{
    read_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "read ahead");
    if (read_method != NULL
        && (BIO_meth_set_read(read_method, bio_read) != 1
            || BIO_meth_set_ctrl(read_method, bio_control) != 1)) {
        BIO_meth_free(read_method);
        read_method = NULL;
    }
}

/* Before each call into OpenSSL: how much may be read in it. */
static void
begin_call(struct tls_stream *tls, size_t room)
{
    ERR_clear_error();
    scratch.begin = scratch.end = 0;
    if (UNLIKELY(tls->kept != NULL)) {
        memcpy(scratch.in, tls->kept, tls->kept_size);
        scratch.end = tls->kept_size;
        free(tls->kept);
        tls->kept = NULL;
    }
    scratch.ahead = 0;
    scratch.left = room + RECORD_MAX + SSL3_RT_MAX_ENCRYPTED_OVERHEAD + SSL3_RT_HEADER_LENGTH;
    scratch.is_drained = false;
    scratch.late_messages = 0;
}

/* After it: the buffer is the next connection's. */
static void
end_call(struct stream *stream)
{
    struct tls_stream *tls = stream->state;
    size_t size = scratch.end - scratch.begin;

    if (LIKELY(size == 0) || tls->has_failed
        || (SSL_get_shutdown(tls->ssl) & SSL_RECEIVED_SHUTDOWN) != 0)
        return;
    tls->kept = malloc(size);
    if (tls->kept == NULL) {
        tls->has_failed = true;
        stream->error = ENOMEM;
        return;
    }
    memcpy(tls->kept, scratch.in + scratch.begin, size);
    tls->kept_size = size;
}

/* Told by OpenSSL of each step of its state machine. (That a message has come puts it back "into
 * init", so it does not know itself whether it is the handshake's.) */
static void
on_info(const SSL *ssl, int where, int result)
{
    const struct tls_stream *tls = SSL_get_app_data(ssl);

    (void)result;
    if (where == SSL_CB_ACCEPT_LOOP && tls->is_established)
        scratch.late_messages++;
}

/* --- Results ---------------------------------------------------------------------------------- */

/* The first error of the TLS layer in the queue, which says more than those of the layers above and
 * below; else the first of all. */
static unsigned long
take_reason(void)
{
    unsigned long first = ERR_peek_error(), code;

    while ((code = ERR_get_error()) != 0) {
        if (ERR_GET_LIB(code) == ERR_LIB_SSL)
            break;
    }
    ERR_clear_error();
    return code != 0 ? code : first;
}

/* `result` of the last call was no success: what the stream says to it. 0: the peer has ended. */
MUST_CHECK static int
not_done(struct stream *stream, int result, int saved_errno, bool *wants_other)
{
    struct tls_stream *tls = stream->state;
    int error = SSL_get_error(tls->ssl, result);
    bool is_reading = wants_other == &stream->read_wants_write;

    switch (error) {
    case SSL_ERROR_WANT_READ:
        *wants_other = !is_reading;
        return STREAM_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        *wants_other = is_reading;
        return STREAM_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        if (!stream->is_handshaking)
            return 0;
        break;
    default:
        break;
    }
    tls->has_failed = true;
    tls->reason = take_reason();
    tls->verify_result = SSL_get_verify_result(tls->ssl);
    if (error == SSL_ERROR_ZERO_RETURN)
        tls->reason = 0;
    stream->error = error == SSL_ERROR_SYSCALL && saved_errno != 0 ? saved_errno
                    : error == SSL_ERROR_ZERO_RETURN               ? ECONNRESET
                                                                   : EPROTO;
    return STREAM_ERROR;
}

/* An alert that the client sent: what it means for whoever looks after this broker. */
static const char *
alert_text(int alert)
{
    const char *name = SSL_alert_desc_string_long(alert);
    const char *format = "the client sent the alert \"%s\"";

    switch (alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
        format = "the client does not trust our certificate (alert \"%s\")";
        break;
    default:
        break;
    }
    snprintf(scratch.text, sizeof(scratch.text), format, name);
    return scratch.text;
}

/* Why a handshake failed, when it is not for what OpenSSL says; NULL: it is. */
static const char *
stranger_text(const struct tls_stream *tls)
{
    if (tls->first_count == FIRST_BYTES && memcmp(tls->first, "AMQP", FIRST_BYTES) == 0)
        return "a plain AMQP client on a TLS port";
    if (tls->first_count == FIRST_BYTES
        && (memcmp(tls->first, "GET ", FIRST_BYTES) == 0
            || memcmp(tls->first, "POST", FIRST_BYTES) == 0))
        return "an HTTP client on a TLS port";
    return NULL;
}

static const char *
reason_text(const struct stream *stream)
{
    const struct tls_stream *tls = stream->state;
    int reason = ERR_GET_REASON(tls->reason);
    const char *text;

    if (tls->has_flooded)
        return "too many TLS key updates";
    if (tls->has_sent_too_much)
        return "the client sent too much in it";
    if (tls->reason == 0)
        return stream->error == ECONNRESET && stream->is_handshaking ? "closed by the client"
                                                                     : strerror(stream->error);
    if (ERR_GET_LIB(tls->reason) != ERR_LIB_SSL) {
        text = ERR_reason_error_string(tls->reason);
        return text != NULL ? text : "unknown error of OpenSSL";
    }
    switch (reason) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        snprintf(scratch.text, sizeof(scratch.text), "certificate verify failed: %s",
                 X509_verify_cert_error_string(tls->verify_result));
        return scratch.text;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return "the client sent no certificate";
    case SSL_R_WRONG_VERSION_NUMBER:
        return "the client does not speak TLS";
    default:
        break;
    }
    if (reason >= SSL_AD_REASON_OFFSET)
        return alert_text(reason - SSL_AD_REASON_OFFSET);
    text = ERR_reason_error_string(tls->reason);
    return text != NULL ? text : "unknown error of TLS";
}

static const char *
tls_error_text(const struct stream *stream)
{
    static _Thread_local char whole[sizeof(scratch.text) + 64];
    const char *stranger = stream->is_handshaking ? stranger_text(stream->state) : NULL;

    if (!stream->is_handshaking)
        snprintf(whole, sizeof(whole), "TLS: %s", reason_text(stream));
    else
        snprintf(whole, sizeof(whole), "TLS handshake failed: %s",
                 stranger != NULL ? stranger : reason_text(stream));
    return whole;
}

/* --- Reading ---------------------------------------------------------------------------------- */

/* Whether another call of SSL_read is in order: there is room, and what might be read from the
 * socket fits it or is asked for by a caller who has got nothing yet. */
static bool
goes_on(const struct tls_stream *tls, size_t room, size_t got)
{
    return room > 0
           && (room >= RECORD_MAX || got == 0 || scratch.begin < scratch.end
               || SSL_pending(tls->ssl) > 0);
}

static ssize_t
tls_readv(struct stream *stream, struct iovec *pieces, int count)
{
    struct tls_stream *tls = stream->state;
    size_t room = 0, total = 0, at = 0;
    int outcome = STREAM_AGAIN;

    if (tls->has_failed)
        return STREAM_ERROR;
    stream->read_wants_write = false;
    for (int i = 0; i < count; i++)
        room += pieces[i].iov_len;
    begin_call(tls, room);
    while (goes_on(tls, room, total)) {
        size_t got = 0;
        int result;

        for (; at == pieces->iov_len; pieces++)
            at = 0;
        scratch.ahead = room > RECORD_MAX ? room - RECORD_MAX : 0;
        errno = 0;
        result = SSL_read_ex(tls->ssl, (char *)pieces->iov_base + at, pieces->iov_len - at, &got);
        if (stream->is_handshaking && SSL_is_init_finished(tls->ssl) != 0) {
            stream->is_handshaking = false;
            tls->is_established = true;
        }
        if (result != 1) {
            outcome = not_done(stream, result, errno, &stream->read_wants_write);
            break;
        }
        at += got;
        total += got;
        room -= got;
    }
    end_call(stream);
    return total > 0 ? (ssize_t)total : tls->has_failed ? STREAM_ERROR : outcome;
}

static bool
tls_has_buffered(const struct stream *stream)
{
    const struct tls_stream *tls = stream->state;

    return tls->has_failed || (SSL_get_shutdown(tls->ssl) & SSL_RECEIVED_SHUTDOWN) != 0
           || SSL_pending(tls->ssl) > 0 || (tls->kept != NULL && !stream->read_wants_write);
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* The next record's bytes: where they lie, when they lie in one run, else gathered. The pieces stay
 * as they are. */
static const uint8_t *
next_record(const struct iovec *pieces, int count, size_t *size)
{
    *size = least(pieces->iov_len, RECORD_MAX);
    if (count == 1 || *size == RECORD_MAX)
        return pieces->iov_base;
    *size = 0;
    for (int i = 0; i < count && *size < RECORD_MAX; i++) {
        size_t part = least(pieces[i].iov_len, RECORD_MAX - *size);

        memcpy(scratch.out + *size, pieces[i].iov_base, part);
        *size += part;
    }
    return scratch.out;
}

/* Takes `size` bytes off the front. */
static void
advance(struct iovec **pieces, int *count, size_t size)
{
    while (*count > 0 && size >= (*pieces)->iov_len) {
        size -= (*pieces)->iov_len;
        (*pieces)++;
        (*count)--;
    }
    if (*count > 0) {
        (*pieces)->iov_base = (char *)(*pieces)->iov_base + size;
        (*pieces)->iov_len -= size;
    }
}

/* A record that the socket did not take whole is OpenSSL's already, and the next call must begin
 * with the same bytes, and as many: they are those that stream_writev asks its callers for. */
static ssize_t
write_records(struct stream *stream, struct iovec *pieces, int count)
{
    struct tls_stream *tls = stream->state;
    ssize_t sent = 0;

    advance(&pieces, &count, 0);
    while (count > 0) {
        size_t size, written = 0;
        const uint8_t *data = next_record(pieces, count, &size);
        int result;

        errno = 0;
        result = SSL_write_ex(tls->ssl, data, size, &written);
        if (result != 1) {
            int outcome = not_done(stream, result, errno, &stream->write_wants_read);

            return sent > 0 ? sent : outcome == 0 ? STREAM_ERROR : outcome;
        }
        sent += (ssize_t)written;
        advance(&pieces, &count, written);
    }
    return sent > 0 ? sent : STREAM_AGAIN;
}

static ssize_t
tls_writev(struct stream *stream, struct iovec *pieces, int count)
{
    struct tls_stream *tls = stream->state;
    ssize_t sent;

    if (tls->has_failed)
        return STREAM_ERROR;
    stream->write_wants_read = false;
    begin_call(tls, 0);
    sent = write_records(stream, pieces, count);
    end_call(stream);
    return sent;
}

/* close_notify, and then the end of the TCP stream. After a handshake that was never made, only the
 * latter. */
static int
tls_shutdown_write(struct stream *stream)
{
    struct tls_stream *tls = stream->state;

    if (!tls->has_failed && !stream->is_handshaking
        && (SSL_get_shutdown(tls->ssl) & SSL_SENT_SHUTDOWN) == 0) {
        int result;

        begin_call(tls, 0);
        errno = 0;
        stream->read_wants_write = false;
        result = SSL_shutdown(tls->ssl);
        end_call(stream);
        if (result < 0) {
            int outcome = not_done(stream, result, errno, &stream->read_wants_write);

            if (outcome == STREAM_AGAIN || outcome == STREAM_ERROR)
                return outcome;
        }
    }
    if (shutdown(stream->fd, SHUT_WR) != 0 && errno != ENOTCONN) {
        stream->error = errno;
        return STREAM_ERROR;
    }
    return 0;
}

/* --- Beginning and ending --------------------------------------------------------------------- */

/* Reads and drops what lies in the socket: closed with that unread, the connection would be reset,
 * and the alert that tells the client what is wrong lost. */
static void
drain(int fd)
{
    size_t left = READ_AHEAD;
    ssize_t got;

    (void)shutdown(fd, SHUT_WR);
    while (left > 0 && (got = recv(fd, scratch.in, left, MSG_DONTWAIT)) > 0)
        left -= (size_t)got;
}

static void
tls_close(struct stream *stream)
{
    struct tls_stream *tls = stream->state;

    if (stream->fd < 0)
        return;
    if (tls->has_failed)
        drain(stream->fd);
    SSL_free(tls->ssl);
    tls_context_unref(tls->context);
    free(tls->kept);
    free(tls);
    close(stream->fd);
    stream->fd = -1;
    stream->state = NULL;
    ERR_clear_error();
}

static const struct stream_ops tls_ops = {
    .readv = tls_readv,
    .writev = tls_writev,
    .shutdown_write = tls_shutdown_write,
    .close = tls_close,
    .has_buffered = tls_has_buffered,
    .error_text = tls_error_text,
};

/* The socket's two sides as OpenSSL sees them: reading through the buffer, writing straight. */
MUST_CHECK static int
attach_socket(struct tls_stream *tls)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    BIO *in, *out;

    pthread_once(&once, make_read_method);
    in = read_method != NULL ? BIO_new(read_method) : NULL;
    out = BIO_new_socket(tls->fd, BIO_NOCLOSE);
    if (in == NULL || out == NULL) {
        BIO_free(in);
        BIO_free(out);
        return -ENOMEM;
    }
    BIO_set_data(in, tls);
    BIO_set_init(in, 1);
    SSL_set0_rbio(tls->ssl, in);
    SSL_set0_wbio(tls->ssl, out);
    return 0;
}

int
stream_init_tls(struct stream *stream, int fd, struct tls_context *context)
{
    struct tls_stream *tls = calloc(1, sizeof(*tls));

    ERR_clear_error();
    if (tls == NULL)
        return -ENOMEM;
    tls->fd = fd;
    tls->ssl = SSL_new(context->ssl);
    if (tls->ssl == NULL || SSL_set_app_data(tls->ssl, tls) != 1 || attach_socket(tls) != 0) {
        SSL_free(tls->ssl);
        free(tls);
        ERR_clear_error();
        return -ENOMEM;
    }
    tls->context = tls_context_ref(context);
    SSL_set_info_callback(tls->ssl, on_info);
    SSL_set_accept_state(tls->ssl);
    *stream = (struct stream){.fd = fd, .ops = &tls_ops, .is_handshaking = true, .state = tls};
    return 0;
}

/* --- What is known of the peer ---------------------------------------------------------------- */

static const struct tls_stream *
established(const struct stream *stream)
{
    return stream->ops == &tls_ops && stream->fd >= 0 && !stream->is_handshaking ? stream->state
                                                                                 : NULL;
}

/* Borrowed. NULL: none, or nobody has verified it. */
static X509 *
peer_certificate(const struct stream *stream)
{
    const struct tls_stream *tls = established(stream);

    if (tls == NULL || (SSL_get_verify_mode(tls->ssl) & SSL_VERIFY_PEER) == 0
        || SSL_get_verify_result(tls->ssl) != X509_V_OK)
        return NULL;
    return SSL_get0_peer_certificate(tls->ssl);
}

bool
stream_has_peer_certificate(const struct stream *stream)
{
    return peer_certificate(stream) != NULL;
}

int
stream_peer_name(const struct stream *stream, char name[TLS_NAME_MAX], const char **reason)
{
    X509 *certificate = peer_certificate(stream);
    const struct tls_stream *tls = stream->state;

    *reason = "no certificate of the client was verified";
    if (certificate == NULL)
        return -1;
    return tls_certificate_name(certificate, tls->context->peer_name, name, reason);
}

const char *
stream_tls_version(const struct stream *stream)
{
    const struct tls_stream *tls = established(stream);

    return tls != NULL ? SSL_get_version(tls->ssl) : "none";
}
