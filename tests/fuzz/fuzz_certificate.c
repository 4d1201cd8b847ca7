/* Names in certificates, of which clients choose the bytes: what is taken for a user's name is one
 * string, not empty and whole. */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "fuzz.h"
#include "net/tls_internal.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const unsigned char *at = data;
    X509 *certificate = d2i_X509(NULL, &at, (long)size);
    ERR_clear_error();
    if (certificate == NULL)
        return 0;
    for (int kind = TLS_PEER_NAME_CN; kind <= TLS_PEER_NAME_SAN_URI; kind++) {
        char name[TLS_NAME_MAX];
        const char *reason = NULL;
        memset(name, 'x', sizeof(name));
        if (tls_certificate_name(certificate, (enum tls_peer_name)kind, name, &reason) == 0) {
            size_t length = strnlen(name, sizeof(name));
            FUZZ_REQUIRE(length > 0 && length < sizeof(name));
        } else {
            FUZZ_REQUIRE(reason != NULL);
        }
        FUZZ_REQUIRE(ERR_peek_error() == 0);
    }
    X509_free(certificate);
    return 0;
}

/* --- Seeds ------------------------------------------------------------------------------------ */

static void
add_extension(X509 *certificate, const char *names)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);
    FUZZ_REQUIRE(extension != NULL && X509_add_ext(certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

size_t
fuzz_seed(unsigned number, uint8_t *out, size_t capacity)
{
    static const char *const names[] = {"guest", "gu\xc3\xa4st, the \"first\""};
    if (number >= sizeof(names) / sizeof(names[0]))
        return 0;
    X509 *certificate = X509_new();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FUZZ_REQUIRE(certificate != NULL && key != NULL);
    FUZZ_REQUIRE(X509_set_version(certificate, X509_VERSION_3) == 1);
    FUZZ_REQUIRE(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                                            (const unsigned char *)names[number],
                                            (int)strlen(names[number]), -1, 0)
                 == 1);
    FUZZ_REQUIRE(X509_gmtime_adj(X509_getm_notBefore(certificate), 0) != NULL
                 && X509_gmtime_adj(X509_getm_notAfter(certificate), 3600) != NULL);
    add_extension(certificate, "DNS:guest, email:mail@guest.example, URI:urn:guest");
    FUZZ_REQUIRE(X509_set_pubkey(certificate, key) == 1);
    FUZZ_REQUIRE(X509_sign(certificate, key, EVP_sha256()) > 0);
    int size = i2d_X509(certificate, NULL);
    FUZZ_REQUIRE(size > 0 && (size_t)size <= capacity);
    FUZZ_REQUIRE(i2d_X509(certificate, &out) == size);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return (size_t)size;
}
