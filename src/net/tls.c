/* TLS contexts: see net/tls.h. One SSL_CTX for all threads and certificates, so that any connection
 * can resume a session that another one began. */
#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls_internal.h"

/* What Mozilla's "intermediate" recommends for TLS 1.2 (version 5.7), without its Diffie-Hellman
 * over finite fields, which costs much and which no AMQP client needs. All have forward secrecy and
 * are authenticated. Order is the client's: it knows whether it has instructions for AES. */
#define INTERMEDIATE_CIPHERS                                                                       \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                                   \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"                                   \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define INTERMEDIATE_GROUPS "X25519:P-256:P-384"

enum {
    /* Authorities between a client's certificate and the one that is trusted. */
    VERIFY_DEPTH_MAX = 10,
    /* Bits of strength, in OpenSSL's levels: 112, that is RSA of 2048 bits. */
    SECURITY_LEVEL = 2,
};

/* --- Certificates by name --------------------------------------------------------------------- */

/* Whether both are for one host: the pair of an RSA and an ECDSA certificate. */
static bool
is_for_same_host(X509 *certificate, X509 *first)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(first, NID_subject_alt_name, NULL, NULL);
    bool is_same = false;

    for (int i = 0; i < sk_GENERAL_NAME_num(names) && !is_same; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        is_same =
            name->type == GEN_DNS
            && X509_check_host(certificate, (const char *)ASN1_STRING_get0_data(name->d.dNSName),
                               (size_t)ASN1_STRING_length(name->d.dNSName), 0, NULL)
                   == 1;
    }
    GENERAL_NAMES_free(names);
    return is_same;
}

static bool
is_for_host(X509 *certificate, const char *host)
{
    return host != NULL && X509_check_host(certificate, host, strlen(host), 0, NULL) == 1;
}

/* Gives the connection the certificates for the host that its client has named, at most one for
 * each kind of key: the first of them. Called by OpenSSL in the handshake, only if there is a
 * choice. */
static int
choose_certificates(SSL *ssl, void *context_)
{
    struct tls_context *context = context_;
    const char *host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    int kinds[TLS_CERTIFICATES_MAX];
    size_t kind_count = 0;
    bool is_known = false;

    for (size_t i = 0; i < context->certificate_count && !is_known; i++)
        is_known = is_for_host(context->certificates[i].leaf, host);
    SSL_certs_clear(ssl);
    for (size_t i = 0; i < context->certificate_count; i++) {
        struct tls_certificate *certificate = &context->certificates[i];
        int kind = EVP_PKEY_get_base_id(certificate->key);
        bool is_wanted =
            is_known ? is_for_host(certificate->leaf, host)
                     : i == 0 || is_for_same_host(certificate->leaf, context->certificates[0].leaf);

        for (size_t j = 0; j < kind_count && is_wanted; j++)
            is_wanted = kinds[j] != kind;
        if (!is_wanted)
            continue;
        if (SSL_use_cert_and_key(ssl, certificate->leaf, certificate->key, certificate->chain, 1)
            != 1)
            return 0;
        kinds[kind_count++] = kind;
    }
    return 1;
}

MUST_CHECK static int
load_certificates(struct tls_context *context, const struct tls_options *options,
                  char error[TLS_ERROR_MAX])
{
    char text[128];

    if (options->certificate_count < 1 || options->certificate_count > TLS_CERTIFICATES_MAX) {
        snprintf(error, TLS_ERROR_MAX, "from 1 to %d certificates are needed",
                 TLS_CERTIFICATES_MAX);
        return -1;
    }
    for (size_t i = 0; i < options->certificate_count; i++) {
        struct tls_certificate *certificate = &context->certificates[context->certificate_count++];

        if (tls_certificate_load(certificate, &options->certificates[i], error) != 0)
            return -1;
        /* The context's own certificates stand in for those of a connection until it has chosen.
         * Putting each of them in also has OpenSSL look at its strength. */
        if (SSL_CTX_use_cert_and_key(context->ssl, certificate->leaf, certificate->key,
                                     certificate->chain, 1)
            != 1) {
            snprintf(error, TLS_ERROR_MAX, "%s: %s", options->certificates[i].certificate,
                     tls_library_error(text, sizeof(text)));
            return -1;
        }
    }
    if (context->certificate_count > 1)
        SSL_CTX_set_cert_cb(context->ssl, choose_certificates, context);
    return 0;
}

/* --- Whom to trust ---------------------------------------------------------------------------- */

/* Everything in the chain must be in a list of revoked ones that is in force: an authority without
 * one, or with one that is out of date, vouches for nobody. */
MUST_CHECK static int
load_crl(SSL_CTX *ssl, const char *path, char error[TLS_ERROR_MAX])
{
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    char text[128];

    if (lookup == NULL || X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) < 1) {
        snprintf(error, TLS_ERROR_MAX, "%s: no certificate revocation list in PEM form: %s", path,
                 tls_library_error(text, sizeof(text)));
        return -1;
    }
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return 0;
}

MUST_CHECK static int
load_trust(SSL_CTX *ssl, const struct tls_options *options, char error[TLS_ERROR_MAX])
{
    static const int modes[] = {
        [TLS_VERIFY_NONE] = SSL_VERIFY_NONE,
        [TLS_VERIFY_REQUEST] = SSL_VERIFY_PEER,
        [TLS_VERIFY_REQUIRE] = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
    };
    char text[128];

    if (options->ca_file != NULL) {
        STACK_OF(X509_NAME) *names = NULL;

        if (SSL_CTX_load_verify_file(ssl, options->ca_file) != 1
            || (names = SSL_load_client_CA_file(options->ca_file)) == NULL) {
            snprintf(error, TLS_ERROR_MAX, "%s: no certificates of authorities in PEM form: %s",
                     options->ca_file, tls_library_error(text, sizeof(text)));
            return -1;
        }
        SSL_CTX_set_client_CA_list(ssl, names); /* owns them now */
    } else if (options->verify != TLS_VERIFY_NONE || options->crl_file != NULL) {
        snprintf(error, TLS_ERROR_MAX,
                 "a file of authorities is needed to verify certificates of clients");
        return -1;
    }
    if (options->crl_file != NULL && load_crl(ssl, options->crl_file, error) != 0)
        return -1;
    SSL_CTX_set_verify(ssl, modes[options->verify], NULL);
    SSL_CTX_set_verify_depth(ssl, VERIFY_DEPTH_MAX);
    return 0;
}

/* --- Versions and ciphers --------------------------------------------------------------------- */

MUST_CHECK static int
set_protocol(SSL_CTX *ssl, const struct tls_options *options, char error[TLS_ERROR_MAX])
{
    int minimum = options->minimum_version == TLS_VERSION_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;
    const char *ciphers = options->ciphers != NULL ? options->ciphers : INTERMEDIATE_CIPHERS;
    char text[128];

    SSL_CTX_set_security_level(ssl, SECURITY_LEVEL);
    if (SSL_CTX_set_min_proto_version(ssl, minimum) != 1
        || SSL_CTX_set_max_proto_version(ssl, 0) != 1
        || SSL_CTX_set1_groups_list(ssl, INTERMEDIATE_GROUPS) != 1) {
        snprintf(error, TLS_ERROR_MAX, "OpenSSL has not what TLS needs: %s",
                 tls_library_error(text, sizeof(text)));
        return -1;
    }
    if (SSL_CTX_set_cipher_list(ssl, ciphers) != 1) {
        snprintf(error, TLS_ERROR_MAX, "ciphers \"%.200s\": %s", ciphers,
                 tls_library_error(text, sizeof(text)));
        return -1;
    }
    if (options->ciphersuites != NULL
        && SSL_CTX_set_ciphersuites(ssl, options->ciphersuites) != 1) {
        snprintf(error, TLS_ERROR_MAX, "ciphersuites \"%.200s\": %s", options->ciphersuites,
                 tls_library_error(text, sizeof(text)));
        return -1;
    }
    return 0;
}

/* Sessions are kept by clients, in tickets, and not here: 20,000 of them would be memory for
 * nothing. One ticket each is enough for clients that hold one connection. */
static void
set_behaviour(SSL_CTX *ssl)
{
    static const unsigned char session_id_context[] = "whippet";
    uint64_t options =
        SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION
        | SSL_OP_IGNORE_UNEXPECTED_EOF /* AMQP says itself when it has ended */
        | SSL_OP_CLEANSE_PLAINTEXT;    /* it frees its buffers, with passwords in them */

    SSL_CTX_set_options(ssl, options);
#ifdef SSL_OP_ENABLE_KTLS
    /* The kernel is not to encrypt, not even if the system's openssl.cnf says so: it goes on with
     * its keys when a client asks for new ones, and takes a record that waits from where it was
     * when it was first written. */
    SSL_CTX_clear_options(ssl, SSL_OP_ENABLE_KTLS);
#endif
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE
                              | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ssl, 1);
    /* Else a session that was begun with a client's certificate is not resumed. */
    (void)SSL_CTX_set_session_id_context(ssl, session_id_context, sizeof(session_id_context) - 1);
}

/* --- The context ------------------------------------------------------------------------------ */

int
tls_context_new(struct tls_context **context_, const struct tls_options *options,
                char error[TLS_ERROR_MAX])
{
    struct tls_context *context = calloc(1, sizeof(*context));

    if (context == NULL || (context->ssl = SSL_CTX_new(TLS_server_method())) == NULL) {
        free(context);
        snprintf(error, TLS_ERROR_MAX, "out of memory");
        ERR_clear_error();
        return -1;
    }
    atomic_init(&context->references, 1);
    context->peer_name = options->peer_name;
    set_behaviour(context->ssl);
    if (set_protocol(context->ssl, options, error) != 0
        || load_certificates(context, options, error) != 0
        || load_trust(context->ssl, options, error) != 0) {
        tls_context_unref(context);
        return -1;
    }
    if (tls_bound_resumption(context) != 0) {
        tls_context_unref(context);
        snprintf(error, TLS_ERROR_MAX, "out of memory");
        ERR_clear_error();
        return -1;
    }
    *context_ = context;
    return 0;
}

struct tls_context *
tls_context_ref(struct tls_context *context)
{
    atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
    return context;
}

void
tls_context_unref(struct tls_context *context)
{
    if (context == NULL
        || atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < context->certificate_count; i++)
        tls_certificate_free(&context->certificates[i]);
    SSL_CTX_free(context->ssl);
    free(context);
}
