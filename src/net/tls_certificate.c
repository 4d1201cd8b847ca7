/* Certificates: reading our own from files, and the names in those of clients. */
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "net/tls_internal.h"

/* The authorities between a certificate and a root: far more than any real chain has. */
enum { CHAIN_MAX = 16 };

const char *
tls_library_error(char *out, size_t size)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(code);

    if (ERR_SYSTEM_ERROR(code))
        snprintf(out, size, "%s", strerror(ERR_GET_REASON(code)));
    else
        snprintf(out, size, "%s", reason != NULL ? reason : "unknown error");
    ERR_clear_error();
    return out;
}

/* --- Files of our own ------------------------------------------------------------------------- */

/* A key that needs a password is refused: a daemon has nobody to ask. Without this, OpenSSL would
 * ask on the terminal. */
static int
no_password(char *buffer, int size, int is_for_writing, void *is_asked)
{
    (void)buffer;
    (void)size;
    (void)is_for_writing;
    *(bool *)is_asked = true;
    return -1;
}

/* NULL with a text. */
static BIO *
open_file(const char *path, char error[TLS_ERROR_MAX])
{
    BIO *file;

    errno = 0;
    file = BIO_new_file(path, "r");
    if (file == NULL)
        snprintf(error, TLS_ERROR_MAX, "cannot open %s: %s", path, strerror(errno));
    ERR_clear_error();
    return file;
}

MUST_CHECK static int
load_chain(struct tls_certificate *certificate, BIO *file, const char *path,
           char error[TLS_ERROR_MAX])
{
    X509 *next;
    char text[128];

    certificate->leaf = PEM_read_bio_X509_AUX(file, NULL, NULL, NULL);
    if (certificate->leaf == NULL) {
        snprintf(error, TLS_ERROR_MAX, "%s: no certificate in PEM form: %s", path,
                 tls_library_error(text, sizeof(text)));
        return -1;
    }
    while ((next = PEM_read_bio_X509(file, NULL, NULL, NULL)) != NULL) {
        if (sk_X509_num(certificate->chain) >= CHAIN_MAX
            || sk_X509_push(certificate->chain, next) == 0) {
            X509_free(next);
            snprintf(error, TLS_ERROR_MAX, "%s: more than %d certificates", path, CHAIN_MAX + 1);
            return -1;
        }
    }
    /* The end of the file is an error of this name; any other is one. */
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
        snprintf(error, TLS_ERROR_MAX, "%s: a certificate in it is not readable: %s", path,
                 tls_library_error(text, sizeof(text)));
        return -1;
    }
    ERR_clear_error();
    return 0;
}

MUST_CHECK static int
load_key(struct tls_certificate *certificate, const char *path, char error[TLS_ERROR_MAX])
{
    bool is_encrypted = false;
    char text[128];
    BIO *file = open_file(path, error);

    if (file == NULL)
        return -1;
    certificate->key = PEM_read_bio_PrivateKey(file, NULL, no_password, &is_encrypted);
    BIO_free(file);
    if (certificate->key != NULL)
        return 0;
    if (is_encrypted)
        snprintf(error, TLS_ERROR_MAX, "%s: the key is encrypted; one without a password is needed",
                 path);
    else
        snprintf(error, TLS_ERROR_MAX, "%s: no private key in PEM form: %s", path,
                 tls_library_error(text, sizeof(text)));
    ERR_clear_error();
    return -1;
}

static void
warn_about_time(const X509 *leaf, const char *path)
{
    if (X509_cmp_current_time(X509_get0_notAfter(leaf)) < 0)
        log_warn("certificate has expired", LOG_STR("file", path));
    else if (X509_cmp_current_time(X509_get0_notBefore(leaf)) > 0)
        log_warn("certificate is not valid yet", LOG_STR("file", path));
}

int
tls_certificate_load(struct tls_certificate *certificate, const struct tls_certificate_files *files,
                     char error[TLS_ERROR_MAX])
{
    const char *key = files->key != NULL ? files->key : files->certificate;
    BIO *file = open_file(files->certificate, error);
    int result;

    if (file == NULL)
        return -1;
    certificate->chain = sk_X509_new_null();
    if (certificate->chain == NULL) {
        BIO_free(file);
        snprintf(error, TLS_ERROR_MAX, "out of memory");
        return -1;
    }
    result = load_chain(certificate, file, files->certificate, error);
    BIO_free(file);
    if (result != 0 || load_key(certificate, key, error) != 0)
        return -1;
    if (X509_check_private_key(certificate->leaf, certificate->key) != 1) {
        snprintf(error, TLS_ERROR_MAX, "%s: the key does not match the certificate %s", key,
                 files->certificate);
        ERR_clear_error();
        return -1;
    }
    warn_about_time(certificate->leaf, files->certificate);
    return 0;
}

void
tls_certificate_free(struct tls_certificate *certificate)
{
    X509_free(certificate->leaf);
    sk_X509_pop_free(certificate->chain, X509_free);
    EVP_PKEY_free(certificate->key);
}

/* --- Names of clients ------------------------------------------------------------------------- */

/* Text of a certificate as a user's name. A 0 inside makes one name look like another to whoever
 * reads it as a string of C. */
MUST_CHECK static int
take_name(const void *text, size_t size, char name[TLS_NAME_MAX], const char **reason)
{
    *reason = size == 0                       ? "the name in the certificate is empty"
              : memchr(text, 0, size) != NULL ? "the name in the certificate has a 0 byte"
              : size >= TLS_NAME_MAX          ? "the name in the certificate is too long"
                                              : NULL;
    if (*reason != NULL)
        return -1;
    memcpy(name, text, size);
    name[size] = '\0';
    return 0;
}

MUST_CHECK static int
take_common_name(X509 *certificate, char name[TLS_NAME_MAX], const char **reason)
{
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int index = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    unsigned char *text;
    int size, result;

    *reason = "the certificate has no common name";
    if (index < 0)
        return -1;
    *reason = "the certificate has several common names";
    if (X509_NAME_get_index_by_NID(subject, NID_commonName, index) >= 0)
        return -1;
    *reason = "the common name of the certificate is not readable";
    size =
        ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, index)));
    if (size < 0) {
        ERR_clear_error();
        return -1;
    }
    result = take_name(text, (size_t)size, name, reason);
    OPENSSL_free(text);
    return result;
}

MUST_CHECK static int
take_subject(X509 *certificate, char name[TLS_NAME_MAX], const char **reason)
{
    /* UTF-8 as it is, and not as \XX for each byte. */
    unsigned long flags = XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB;
    BIO *out = BIO_new(BIO_s_mem());
    int result = -1;

    *reason = "the subject of the certificate is not readable";
    if (out != NULL && X509_NAME_print_ex(out, X509_get_subject_name(certificate), 0, flags) >= 0) {
        char *text;
        long size = BIO_get_mem_data(out, &text);

        result = take_name(size > 0 ? text : "", (size_t)size, name, reason);
    }
    BIO_free(out);
    ERR_clear_error();
    return result;
}

MUST_CHECK static int
take_alternative(X509 *certificate, int type, char name[TLS_NAME_MAX], const char **reason)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    int result = -1;

    *reason = "the certificate has no alternative name of the kind that is asked for";
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *entry = sk_GENERAL_NAME_value(names, i);

        if (entry->type != type)
            continue;
        result = take_name(ASN1_STRING_get0_data(entry->d.ia5),
                           (size_t)ASN1_STRING_length(entry->d.ia5), name, reason);
        break;
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return result;
}

int
tls_certificate_name(X509 *certificate, enum tls_peer_name kind, char name[TLS_NAME_MAX],
                     const char **reason)
{
    switch (kind) {
    case TLS_PEER_NAME_CN:
        return take_common_name(certificate, name, reason);
    case TLS_PEER_NAME_DN:
        return take_subject(certificate, name, reason);
    case TLS_PEER_NAME_SAN_DNS:
        return take_alternative(certificate, GEN_DNS, name, reason);
    case TLS_PEER_NAME_SAN_EMAIL:
        return take_alternative(certificate, GEN_EMAIL, name, reason);
    case TLS_PEER_NAME_SAN_URI:
        return take_alternative(certificate, GEN_URI, name, reason);
    }
    *reason = "unknown kind of name";
    return -1;
}
