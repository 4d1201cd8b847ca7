/* Certificates for the tests of TLS, made anew for each run, and a client made of OpenSSL. */
#ifndef TEST_NET_TLS_SUPPORT_H
#define TEST_NET_TLS_SUPPORT_H

#include <check.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/tls.h"

enum { HOUR_S = 3600 };

/* What is done before the tests begin, where Check's assertions do not work. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                \
            ERR_print_errors_fp(stderr);                                                           \
            exit(EXIT_FAILURE);                                                                    \
        }                                                                                          \
    } while (0)

static char folder[] = "/tmp/whippet-tls-XXXXXX";

/* The path of a file in the folder; good for the whole test. */
static inline const char *
path_of(const char *name)
{
    static char paths[64][128];
    static size_t count;
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    for (size_t i = 0; i < count; i++)
        if (strcmp(paths[i], path) == 0)
            return paths[i];
    MUST(count < 64);
    return strcpy(paths[count++], path);
}

/* What a certificate is to say. */
struct request {
    const char *common_name;  /* NULL: none */
    int common_name_size;     /* 0: to its end */
    const char *second_name;  /* another common name */
    const char *alternatives; /* as in openssl.cnf: "DNS:localhost" */
    long from_s, until_s;     /* from now; until 0: in an hour */
    bool is_authority, is_rsa;
};

struct identity {
    X509 *certificate;
    EVP_PKEY *key;
};

static inline void
add_extension(X509 *certificate, int name, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, name, value);

    MUST(extension != NULL);
    MUST(X509_add_ext(certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

static inline void
add_name(X509_NAME *subject, const char *field, const char *text, int size)
{
    MUST(X509_NAME_add_entry_by_txt(subject, field, MBSTRING_UTF8, (const unsigned char *)text,
                                    size, -1, 0)
         == 1);
}

/* issuer NULL: it signs itself. */
static inline struct identity
make_identity(const struct request *request, const struct identity *issuer)
{
    static long serial = 1;
    struct identity made = {X509_new(), request->is_rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256")};
    X509_NAME *subject;

    MUST(made.certificate != NULL && made.key != NULL);
    subject = X509_get_subject_name(made.certificate);
    X509_set_version(made.certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.certificate), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.certificate), request->from_s - 60);
    X509_gmtime_adj(X509_getm_notAfter(made.certificate),
                    request->until_s != 0 ? request->until_s : HOUR_S);
    X509_set_pubkey(made.certificate, made.key);
    add_name(subject, "O", "Whippet", -1);
    if (request->common_name != NULL)
        add_name(subject, "CN", request->common_name,
                 request->common_name_size > 0 ? request->common_name_size : -1);
    if (request->second_name != NULL)
        add_name(subject, "CN", request->second_name, -1);
    X509_set_issuer_name(made.certificate,
                         issuer != NULL ? X509_get_subject_name(issuer->certificate) : subject);
    add_extension(made.certificate, NID_basic_constraints,
                  request->is_authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (request->alternatives != NULL)
        add_extension(made.certificate, NID_subject_alt_name, request->alternatives);
    MUST(X509_sign(made.certificate, issuer != NULL ? issuer->key : made.key, EVP_sha256()) != 0);
    return made;
}

static inline FILE *
create_file(const char *name)
{
    FILE *file = fopen(path_of(name), "w");

    MUST(file != NULL);
    return file;
}

static inline void
write_text(const char *name, const char *text)
{
    FILE *file = create_file(name);

    fputs(text, file);
    fclose(file);
}

/* NAME.pem and NAME.key. */
static inline void
write_identity(const char *name, const struct identity *identity, const char *password)
{
    char file_name[64];
    FILE *file;

    snprintf(file_name, sizeof(file_name), "%s.pem", name);
    file = create_file(file_name);
    MUST(PEM_write_X509(file, identity->certificate) == 1);
    fclose(file);
    snprintf(file_name, sizeof(file_name), "%s.key", name);
    file = create_file(file_name);
    MUST(PEM_write_PrivateKey(file, identity->key, password != NULL ? EVP_aes_128_cbc() : NULL,
                              (const unsigned char *)password,
                              password != NULL ? (int)strlen(password) : 0, NULL, NULL)
         == 1);
    fclose(file);
}

/* The server's stream, and a client of OpenSSL on the other end of its socket. Nothing blocks. */
struct pair {
    struct stream stream;
    SSL *client;
    SSL_CTX *client_context;
    int fd;          /* the client's */
    size_t promised; /* bytes of a record that did not go out whole: the next one has them first */
};

/* Over these two sockets, the server's first. The pair owns them. */
static inline struct pair
make_pair_over(struct tls_context *context, const int fds[2])
{
    struct pair pair;

    ck_assert_int_eq(stream_init_tls(&pair.stream, fds[0], context), 0);
    pair.fd = fds[1];
    pair.promised = 0;
    pair.client_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(pair.client_context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#ifdef SSL_OP_ENABLE_KTLS /* whatever the system's openssl.cnf says */
    SSL_CTX_clear_options(pair.client_context, SSL_OP_ENABLE_KTLS);
#endif
    SSL_CTX_set_security_level(pair.client_context, 0);
    SSL_CTX_set_min_proto_version(pair.client_context, SSL3_VERSION);
    pair.client = SSL_new(pair.client_context);
    SSL_set_fd(pair.client, pair.fd);
    SSL_set_connect_state(pair.client);
    return pair;
}

static inline struct pair
make_pair(struct tls_context *context)
{
    int fds[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    return make_pair_over(context, fds);
}

static inline void
free_pair(struct pair *pair)
{
    stream_close(&pair->stream);
    SSL_free(pair->client);
    SSL_CTX_free(pair->client_context);
    if (pair->fd >= 0)
        close(pair->fd);
}

static inline void
client_has_certificate(struct pair *pair, const char *certificate, const char *key)
{
    ck_assert_int_eq(SSL_use_certificate_file(pair->client, path_of(certificate), SSL_FILETYPE_PEM),
                     1);
    ck_assert_int_eq(SSL_use_PrivateKey_file(pair->client, path_of(key), SSL_FILETYPE_PEM), 1);
}

/* Lets both talk until the server has agreed, or said STREAM_ERROR, which is returned. The client's
 * part of the handshake is complete as well then, as far as it can be; what it sends after it is
 * not read. */
static inline ssize_t
handshake(struct pair *pair)
{
    uint8_t byte;

    for (int round = 0; round < 20; round++) {
        ssize_t got;
        int result = SSL_do_handshake(pair->client);

        ERR_clear_error();
        got = stream_read(&pair->stream, &byte, 1);
        if (got == STREAM_ERROR)
            return got;
        ck_assert_int_eq(got, STREAM_AGAIN);
        if (result == 1 && !pair->stream.is_handshaking)
            return 0;
    }
    ck_abort_msg("the handshake does not end");
}

#endif
