/* What the files of TLS share. */
#ifndef NET_TLS_INTERNAL_H
#define NET_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdint.h>

#include "net/tls.h"

/* A certificate of ours with its key. */
struct tls_certificate {
    X509 *leaf;
    STACK_OF(X509) * chain; /* of the authorities between; may be empty */
    EVP_PKEY *key;
};

struct tls_context {
    atomic_uint references;
    SSL_CTX *ssl;
    enum tls_peer_name peer_name;
    int64_t crl_end; /* when a list of revoked certificates is out of date, in s since 1970 */
    size_t certificate_count;
    struct tls_certificate certificates[TLS_CERTIFICATES_MAX];
};

/* Reads one certificate and its key, checks that they belong together, and warns in the log when
 * its time is over or has not come. -1 with a text. What was read is the caller's to free, also
 * then. */
MUST_CHECK int tls_certificate_load(struct tls_certificate *certificate,
                                    const struct tls_certificate_files *files,
                                    char error[TLS_ERROR_MAX]);
void tls_certificate_free(struct tls_certificate *certificate);

/* Why OpenSSL failed last, in its own words; empties its queue of errors. Returns out. */
const char *tls_library_error(char *out, size_t size);

/* Has sessions be resumed only as long as the certificates by which their clients came in are good.
 * When whom to trust is set. -1: out of memory. */
MUST_CHECK int tls_bound_resumption(struct tls_context *context);

/* The user's name in a verified certificate, as stream_peer_name. */
MUST_CHECK int tls_certificate_name(X509 *certificate, enum tls_peer_name kind,
                                    char name[TLS_NAME_MAX], const char **reason);

#endif
