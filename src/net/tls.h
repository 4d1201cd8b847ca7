/* TLS: what a listener needs to speak it (certificates, whom it trusts, versions, ciphers), read
 * from files into one context, and the streams that are made from it.
 *
 *     struct tls_context *context;
 *     char error[TLS_ERROR_MAX];
 *
 *     if (tls_context_new(&context, &options, error) != 0)
 *         ... error is one line for the operator, with the file that is to blame ...
 *     if (stream_init_tls(&stream, fd, context) != 0) ...
 *     tls_context_unref(context);    the stream holds its own reference
 *
 * A context never changes. To change anything, one makes another and gives it to new connections;
 * those that exist go on with theirs. With it go its session tickets: a client that resumes a
 * session is one that this very context has let in, with these authorities and this revocation
 * list, and whose certificate has not expired since.
 *
 * The library is OpenSSL 3, and no header but tls_internal.h knows it. */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"
#include "net/stream.h"

enum {
    TLS_CERTIFICATES_MAX = 16,
    TLS_ERROR_MAX = 512,
    TLS_NAME_MAX = 256, /* a name in a certificate that is taken as a user's, with its 0 */
};

/* Whether clients are asked for a certificate. One that is sent must always be good. */
enum tls_verify {
    TLS_VERIFY_NONE,
    TLS_VERIFY_REQUEST, /* who sends none is let in too */
    TLS_VERIFY_REQUIRE,
};

enum tls_version { TLS_VERSION_1_2, TLS_VERSION_1_3 };

/* Which name in a client's certificate is the user's. */
enum tls_peer_name {
    TLS_PEER_NAME_CN,      /* the common name of the subject; there must be one only */
    TLS_PEER_NAME_DN,      /* the whole subject as RFC 4514 writes it: "CN=shop,O=Example" */
    TLS_PEER_NAME_SAN_DNS, /* the first alternative name of this kind */
    TLS_PEER_NAME_SAN_EMAIL,
    TLS_PEER_NAME_SAN_URI,
};

struct tls_certificate_files {
    const char *certificate; /* PEM: the certificate, and those of the authorities between */
    const char *key;         /* PEM, not encrypted; NULL: it is in the same file */
};

/* All texts are borrowed for the call that takes them. */
struct tls_options {
    /* A client that names a host gets the certificates made for it; who names none, or an unknown
     * one, the first. Certificates for the same host with keys of different kinds are offered
     * together. */
    struct tls_certificate_files certificates[TLS_CERTIFICATES_MAX];
    size_t certificate_count; /* at least 1 */
    const char *ca_file;      /* the authorities whose clients are trusted; NULL: none */
    const char *crl_file;     /* what they have revoked; NULL: not looked at */
    enum tls_verify verify;
    enum tls_version minimum_version;
    const char *ciphers;      /* of TLS 1.2, as openssl-ciphers(1); NULL: Mozilla intermediate */
    const char *ciphersuites; /* of TLS 1.3; NULL: OpenSSL's */
    enum tls_peer_name peer_name;
};

struct tls_context;

/* Reads all files. -1 with one line for the operator. A certificate whose time is over is no error:
 * it is logged as a warning, since refusing it would turn an oversight into an outage of everything
 * that does not look. */
MUST_CHECK int tls_context_new(struct tls_context **context, const struct tls_options *options,
                               char error[TLS_ERROR_MAX]);

/* Counting references; any thread. unref takes NULL too. */
struct tls_context *tls_context_ref(struct tls_context *context);
void tls_context_unref(struct tls_context *context);

/* The server's side of TLS over a connected non-blocking socket, which the stream owns on success
 * and not before. It takes a reference to the context. The handshake is made by reading, and
 * stream->is_handshaking tells until when. SIGPIPE must be ignored in the process: OpenSSL writes
 * without MSG_NOSIGNAL. -ENOMEM. */
MUST_CHECK int stream_init_tls(struct stream *stream, int fd, struct tls_context *context);

/* Has the client of this stream, of whatever kind, shown a certificate that was verified? */
bool stream_has_peer_certificate(const struct stream *stream);

/* The name in it that the context's options choose. -1 with a static text in *reason: there is no
 * certificate, no such name, or none that can be a user's. */
MUST_CHECK int stream_peer_name(const struct stream *stream, char name[TLS_NAME_MAX],
                                const char **reason);

/* "TLSv1.3" for the log; "none" of a stream without TLS. A static text. */
const char *stream_tls_version(const struct stream *stream);

#endif
