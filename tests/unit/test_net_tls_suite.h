/* What the suites of TLS share: the files that they use, and the settings and the conversation with
 * which a test begins. */
#ifndef TEST_NET_TLS_SUITE_H
#define TEST_NET_TLS_SUITE_H

#include <signal.h>
#include <stdint.h>

#include "base/compiler.h"
#include "test_net_tls_support.h"

static struct tls_options options;
static char error[TLS_ERROR_MAX];

/* server.pem, trusting ca.pem, asking nobody. */
static inline void
set_up(void)
{
    options = (struct tls_options){
        .certificates = {{.certificate = path_of("server.pem"), .key = path_of("server.key")}},
        .certificate_count = 1,
    };
}

static inline struct tls_context *
make_context(void)
{
    struct tls_context *context;

    if (tls_context_new(&context, &options, error) != 0)
        ck_abort_msg("%s", error);
    return context;
}

static inline uint8_t
pattern(size_t position)
{
    return (uint8_t)(position ^ position >> 8 ^ position >> 16);
}

static inline struct pair
connected_pair(struct tls_context *context)
{
    struct pair pair = make_pair(context);

    if (handshake(&pair) != 0)
        ck_abort_msg("%s", stream_error_text(&pair.stream));
    return pair;
}

/* Sends `size` bytes of the pattern as the client, as far as they fit. Returns how many. */
static inline size_t
client_sends(struct pair *pair, size_t position, size_t size)
{
    uint8_t bytes[16384];
    size_t sent = 0;

    if (size < pair->promised)
        size = pair->promised;
    while (size > 0) {
        size_t part = size < sizeof(bytes) ? size : sizeof(bytes), written;

        for (size_t i = 0; i < part; i++)
            bytes[i] = pattern(position + i);
        if (SSL_write_ex(pair->client, bytes, part, &written) != 1) {
            ck_assert_int_eq(SSL_get_error(pair->client, 0), SSL_ERROR_WANT_WRITE);
            pair->promised = part;
            break;
        }
        pair->promised = 0;
        position += written;
        sent += written;
        size -= written;
    }
    return sent;
}

static inline void
make_crl(const struct identity *ca, X509 *revoked)
{
    X509_CRL *crl = X509_CRL_new();
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -60), *later = X509_gmtime_adj(NULL, HOUR_S);
    FILE *file = create_file("crl.pem");

    X509_CRL_set_version(crl, X509_CRL_VERSION_2);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->certificate));
    X509_CRL_set1_lastUpdate(crl, now);
    X509_CRL_set1_nextUpdate(crl, later);
    X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(revoked));
    X509_REVOKED_set_revocationDate(entry, now);
    X509_CRL_add0_revoked(crl, entry);
    MUST(X509_CRL_sign(crl, ca->key, EVP_sha256()) != 0);
    MUST(PEM_write_X509_CRL(file, crl) == 1);
    fclose(file);
    ASN1_TIME_free(now);
    ASN1_TIME_free(later);
    X509_CRL_free(crl);
}

static inline void
free_identity(struct identity *identity)
{
    X509_free(identity->certificate);
    EVP_PKEY_free(identity->key);
}

/* Makes all the files that the tests use. */
static inline void
make_files(void)
{
    static const struct {
        const char *name;
        struct request request;
    } of_ca[] = {
        {"server", {.common_name = "server", .alternatives = "DNS:localhost"}},
        {"server-rsa",
         {.common_name = "server-rsa", .alternatives = "DNS:localhost", .is_rsa = true}},
        {"one", {.common_name = "one", .alternatives = "DNS:one.example"}},
        {"wild", {.common_name = "wild", .alternatives = "DNS:*.wild.example"}},
        {"expired", {.common_name = "server", .from_s = -7200, .until_s = -HOUR_S}},
        {"client",
         {.common_name = "guest",
          .alternatives = "DNS:shop.example,email:shop@example.com,URI:urn:shop"}},
        {"client-utf8", {.common_name = "J\xc3\xbcrgen, der \"Erste\""}},
        {"client-nul", {.common_name = "guest\0.example", .common_name_size = 14}},
        {"client-two", {.common_name = "guest", .second_name = "admin"}},
        {"client-nameless", {.common_name = NULL}},
        {"client-expired", {.common_name = "guest", .from_s = -7200, .until_s = -HOUR_S}},
        {"client-early", {.common_name = "guest", .from_s = HOUR_S, .until_s = 2L * HOUR_S}},
    };
    struct request authority = {.common_name = "authority", .is_authority = true};
    struct request guest = {.common_name = "guest"};
    struct identity ca = make_identity(&authority, NULL), stranger_ca, made;
    FILE *file;

    authority.common_name = "strange authority";
    stranger_ca = make_identity(&authority, NULL);
    write_identity("ca", &ca, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(of_ca); i++) {
        made = make_identity(&of_ca[i].request, &ca);
        write_identity(of_ca[i].name, &made, NULL);
        if (i == 0) {
            write_identity("encrypted", &made, "secret");
            file = create_file("both.pem");
            PEM_write_X509(file, made.certificate);
            PEM_write_PrivateKey(file, made.key, NULL, NULL, 0, NULL, NULL);
            fclose(file);
            file = create_file("half-chain.pem");
            PEM_write_X509(file, made.certificate);
            fputs("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", file);
            fclose(file);
        }
        free_identity(&made);
    }
    made = make_identity(&guest, &stranger_ca);
    write_identity("client-stranger", &made, NULL);
    free_identity(&made);
    made = make_identity(&guest, NULL);
    write_identity("client-self", &made, NULL);
    free_identity(&made);
    made = make_identity(&guest, &ca);
    write_identity("client-revoked", &made, NULL);
    make_crl(&ca, made.certificate);
    free_identity(&made);
    write_text("rubbish", "this is no certificate\n");
    free_identity(&ca);
    free_identity(&stranger_ca);
}

static inline void
remove_files(void)
{
    char command[64];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    if (system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", folder);
}

/* Makes the files, runs the suite and removes them; what main returns. */
static inline int
run_tls_suite(Suite *suite)
{
    SRunner *runner;
    int failed;

    signal(SIGPIPE, SIG_IGN);
    if (mkdtemp(folder) == NULL) {
        perror(folder);
        return EXIT_FAILURE;
    }
    make_files();
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    remove_files();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
