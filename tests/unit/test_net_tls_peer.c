/* TLS: whom it lets in, what it shows them, and what it says of the others. */
#include "test_net_tls_suite.h"

/* --- Strangers -------------------------------------------------------------------------------- */

static void
assert_error_says(struct pair *pair, const char *words)
{
    const char *text = stream_error_text(&pair->stream);

    ck_assert_msg(strstr(text, words) != NULL, "\"%s\" does not say \"%s\"", text, words);
}

START_TEST(who_speaks_no_tls_is_named)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *words;
    } strangers[] = {
        {"AMQP\0\0\x09\x01", 8, "plain AMQP client on a TLS port"},
        {"GET / HTTP/1.1\r\n\r\n", 18, "HTTP client on a TLS port"},
        {"SSH-2.0-OpenSSH\r\n", 17, "does not speak TLS"},
        {"", 0, "closed by the client"},
    };
    struct tls_context *context = make_context();

    for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
        struct pair pair = make_pair(context);
        uint8_t byte;

        ck_assert_int_eq(write(pair.fd, strangers[i].bytes, strangers[i].size),
                         (ssize_t)strangers[i].size);
        shutdown(pair.fd, SHUT_WR);
        ck_assert_int_eq(stream_read(&pair.stream, &byte, 1), STREAM_ERROR);
        assert_error_says(&pair, strangers[i].words);
        ck_assert_int_eq(stream_read(&pair.stream, &byte, 1), STREAM_ERROR);
        free_pair(&pair);
    }
    tls_context_unref(context);
}
END_TEST

START_TEST(old_versions_and_weak_ciphers_are_refused)
{
    static const int old[] = {TLS1_VERSION, TLS1_1_VERSION};
    static const char *const weak[] = {
        "AES128-SHA",         "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA",
        "DHE-RSA-AES128-SHA", "AECDH-AES128-SHA",  "NULL-SHA256"};
    struct tls_context *context = make_context();

    for (size_t i = 0; i < ARRAY_SIZE(old); i++) {
        struct pair pair = make_pair(context);

        SSL_set_max_proto_version(pair.client, old[i]);
        ck_assert_int_eq(handshake(&pair), STREAM_ERROR);
        assert_error_says(&pair, "unsupported protocol");
        free_pair(&pair);
    }
    for (size_t i = 0; i < ARRAY_SIZE(weak); i++) {
        struct pair pair = make_pair(context);

        SSL_set_max_proto_version(pair.client, TLS1_2_VERSION);
        ck_assert_int_eq(SSL_set_cipher_list(pair.client, weak[i]), 1);
        ck_assert_int_eq(handshake(&pair), STREAM_ERROR);
        assert_error_says(&pair, "no shared cipher");
        free_pair(&pair);
    }
    tls_context_unref(context);
}
END_TEST

START_TEST(the_minimum_version_can_be_raised)
{
    struct tls_context *context;
    struct pair pair;

    options.minimum_version = TLS_VERSION_1_3;
    context = make_context();
    pair = make_pair(context);
    SSL_set_max_proto_version(pair.client, TLS1_2_VERSION);
    ck_assert_int_eq(handshake(&pair), STREAM_ERROR);
    free_pair(&pair);
    pair = connected_pair(context);
    ck_assert_str_eq(stream_tls_version(&pair.stream), "TLSv1.3");
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

START_TEST(a_client_that_does_not_trust_us_is_understood)
{
    struct tls_context *context = make_context();
    struct pair pair = make_pair(context);

    SSL_set_verify(pair.client, SSL_VERIFY_PEER, NULL); /* and it knows no authority */
    ck_assert_int_eq(handshake(&pair), STREAM_ERROR);
    assert_error_says(&pair, "the client does not trust our certificate");
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

START_TEST(a_flood_of_key_updates_ends_the_connection)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    static uint8_t bytes[128 * 1024];

    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(SSL_key_update(pair.client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        ck_assert_uint_eq(client_sends(&pair, 0, 10), 10);
    }
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), 50);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(SSL_key_update(pair.client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        ck_assert_int_eq(SSL_do_handshake(pair.client), 1);
    }
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), STREAM_ERROR);
    assert_error_says(&pair, "too many TLS key updates");
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

/* Each key update asks for one of ours. A client that does not read fills its socket with them,
 * until OpenSSL cannot go on, in the middle of what was read ahead. */
START_TEST(input_waits_behind_key_updates_whose_answers_nobody_reads)
{
    enum { AT_A_TIME = 4, ROUNDS_MAX = 2000 };
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    int size = 1; /* the least there is */
    static uint8_t bytes[128 * 1024];
    size_t sent = 0, received = 0, unread = 0;
    ssize_t got = 0;

    ck_assert_int_eq(setsockopt(pair.stream.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    for (int round = 0; round < ROUNDS_MAX && !stream_wants_write(&pair.stream); round++) {
        for (int i = 0; i < AT_A_TIME; i++, sent += 10) {
            ck_assert_int_eq(SSL_key_update(pair.client, SSL_KEY_UPDATE_REQUESTED), 1);
            ck_assert_uint_eq(client_sends(&pair, sent, 10), 10);
        }
        got = stream_read(&pair.stream, bytes, sizeof(bytes));
        ck_assert_int_ne(got, STREAM_ERROR);
        received += got > 0 ? (size_t)got : 0;
    }
    ck_assert_msg(stream_wants_write(&pair.stream), "the socket is never full");
    ck_assert_uint_lt(received, sent);
    ck_assert(!stream_has_buffered(&pair.stream)); /* it cannot be read now */
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), STREAM_AGAIN);

    for (int round = 0; round < ROUNDS_MAX && received < sent; round++) {
        ck_assert_int_ne(SSL_read_ex(pair.client, bytes, 1, &unread), 1); /* takes the answers */
        got = stream_read(&pair.stream, bytes, sizeof(bytes));
        ck_assert_int_ne(got, STREAM_ERROR);
        for (ssize_t i = 0; i < got; i++)
            ck_assert_uint_eq(bytes[i], pattern(received + (size_t)i));
        received += got > 0 ? (size_t)got : 0;
    }
    ck_assert_uint_eq(received, sent);
    ck_assert(!stream_wants_write(&pair.stream));
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

START_TEST(renegotiation_is_refused)
{
    struct tls_context *context = make_context();
    struct pair pair = make_pair(context);
    uint8_t byte;

    SSL_set_max_proto_version(pair.client, TLS1_2_VERSION);
    ck_assert_int_eq(handshake(&pair), 0);
    ck_assert_int_eq(SSL_renegotiate(pair.client), 1);
    (void)SSL_do_handshake(pair.client);
    (void)!stream_read(&pair.stream, &byte, 1);
    ERR_clear_error();
    ck_assert_int_ne(SSL_do_handshake(pair.client), 1);
    ck_assert_int_eq(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

/* --- Clients with certificates ---------------------------------------------------------------- */

/* Makes a handshake with this certificate, NULL: with none. */
static ssize_t
try_client(struct tls_context *context, struct pair *pair, const char *name)
{
    char certificate[64], key[64];

    *pair = make_pair(context);
    if (name != NULL) {
        snprintf(certificate, sizeof(certificate), "%s.pem", name);
        snprintf(key, sizeof(key), "%s.key", name);
        client_has_certificate(pair, certificate, key);
    }
    return handshake(pair);
}

START_TEST(bad_certificates_of_clients_are_refused)
{
    static const struct {
        const char *name, *words;
    } bad[] = {
        {"client-expired", "certificate has expired"},
        {"client-early", "certificate is not yet valid"},
        {"client-stranger", "certificate verify failed"},
        {"client-self", "certificate verify failed: self-signed"},
        {"client-revoked", "certificate revoked"},
    };
    static const enum tls_verify modes[] = {TLS_VERIFY_REQUEST, TLS_VERIFY_REQUIRE};

    options.ca_file = path_of("ca.pem");
    options.crl_file = path_of("crl.pem");
    for (size_t mode = 0; mode < ARRAY_SIZE(modes); mode++) {
        struct tls_context *context;
        struct pair pair;

        options.verify = modes[mode];
        context = make_context();
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
            ck_assert_int_eq(try_client(context, &pair, bad[i].name), STREAM_ERROR);
            assert_error_says(&pair, bad[i].words);
            ck_assert(!stream_has_peer_certificate(&pair.stream));
            free_pair(&pair);
        }
        ck_assert_int_eq(try_client(context, &pair, "client"), 0);
        ck_assert(stream_has_peer_certificate(&pair.stream));
        free_pair(&pair);
        ck_assert_int_eq(try_client(context, &pair, NULL),
                         modes[mode] == TLS_VERIFY_REQUIRE ? STREAM_ERROR : 0);
        if (modes[mode] == TLS_VERIFY_REQUIRE)
            assert_error_says(&pair, "the client sent no certificate");
        ck_assert(!stream_has_peer_certificate(&pair.stream));
        free_pair(&pair);
        tls_context_unref(context);
    }
}
END_TEST

/* The name that is taken from a client's certificate, or why none is. */
static const char *
name_of(const char *client, enum tls_peer_name kind)
{
    static char name[TLS_NAME_MAX];
    struct tls_context *context;
    struct pair pair;
    const char *reason;
    int result;

    options.ca_file = path_of("ca.pem");
    options.verify = TLS_VERIFY_REQUIRE;
    options.peer_name = kind;
    context = make_context();
    if (try_client(context, &pair, client) != 0)
        ck_abort_msg("%s", stream_error_text(&pair.stream));
    result = stream_peer_name(&pair.stream, name, &reason);
    free_pair(&pair);
    tls_context_unref(context);
    return result == 0 ? name : reason;
}

START_TEST(the_users_name_comes_from_the_certificate)
{
    ck_assert_str_eq(name_of("client", TLS_PEER_NAME_CN), "guest");
    ck_assert_str_eq(name_of("client", TLS_PEER_NAME_DN), "CN=guest,O=Whippet");
    ck_assert_str_eq(name_of("client", TLS_PEER_NAME_SAN_DNS), "shop.example");
    ck_assert_str_eq(name_of("client", TLS_PEER_NAME_SAN_EMAIL), "shop@example.com");
    ck_assert_str_eq(name_of("client", TLS_PEER_NAME_SAN_URI), "urn:shop");
    ck_assert_str_eq(name_of("client-utf8", TLS_PEER_NAME_CN), "J\xc3\xbcrgen, der \"Erste\"");
    ck_assert_str_eq(name_of("client-utf8", TLS_PEER_NAME_DN),
                     "CN=J\xc3\xbcrgen\\, der \\\"Erste\\\",O=Whippet");
}
END_TEST

START_TEST(a_name_that_could_be_taken_for_another_is_none)
{
    ck_assert_str_eq(name_of("client-nul", TLS_PEER_NAME_CN),
                     "the name in the certificate has a 0 byte");
    ck_assert_str_eq(name_of("client-two", TLS_PEER_NAME_CN),
                     "the certificate has several common names");
    ck_assert_str_eq(name_of("client-nameless", TLS_PEER_NAME_CN),
                     "the certificate has no common name");
    ck_assert_str_eq(name_of("client-two", TLS_PEER_NAME_SAN_URI),
                     "the certificate has no alternative name of the kind that is asked for");
}
END_TEST

START_TEST(resumption_keeps_the_client_and_ends_with_the_context)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

    options.ca_file = path_of("ca.pem");
    options.verify = TLS_VERIFY_REQUIRE;
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        struct tls_context *context = make_context(), *other = make_context();
        struct pair pair = make_pair(context);
        char name[TLS_NAME_MAX];
        const char *reason;
        SSL_SESSION *session;
        uint8_t byte;

        SSL_set_max_proto_version(pair.client, versions[i]);
        client_has_certificate(&pair, "client.pem", "client.key");
        ck_assert_int_eq(handshake(&pair), 0);
        (void)SSL_read(pair.client, &byte, 1); /* takes the ticket in */
        session = SSL_get1_session(pair.client);
        ck_assert_int_eq(SSL_SESSION_is_resumable(session), 1);
        SSL_shutdown(pair.client); /* else OpenSSL takes the session for a broken one */
        free_pair(&pair);

        pair = make_pair(context);
        SSL_set_max_proto_version(pair.client, versions[i]);
        ck_assert_int_eq(SSL_set_session(pair.client, session), 1);
        if (handshake(&pair) != 0)
            ck_abort_msg("%s", stream_error_text(&pair.stream));
        ck_assert_int_eq(SSL_session_reused(pair.client), 1);
        ck_assert_int_eq(stream_peer_name(&pair.stream, name, &reason), 0);
        ck_assert_str_eq(name, "guest");
        SSL_shutdown(pair.client);
        free_pair(&pair);

        pair = make_pair(other);
        SSL_set_max_proto_version(pair.client, versions[i]);
        client_has_certificate(&pair, "client.pem", "client.key");
        ck_assert_int_eq(SSL_set_session(pair.client, session), 1);
        if (handshake(&pair) != 0)
            ck_abort_msg("%s", stream_error_text(&pair.stream));
        ck_assert_int_eq(SSL_session_reused(pair.client), 0);
        free_pair(&pair);
        SSL_SESSION_free(session);
        tls_context_unref(context);
        tls_context_unref(other);
    }
}
END_TEST

/* --- Several certificates --------------------------------------------------------------------- */

/* The common name of the certificate that a client is shown who names this host and takes only
 * signatures of these kinds (NULL: all). */
static const char *
shown_to(struct tls_context *context, const char *host, const char *signatures)
{
    static char name[64];
    struct pair pair = make_pair(context);
    X509 *certificate;

    if (host != NULL)
        ck_assert_int_eq(SSL_set_tlsext_host_name(pair.client, host), 1);
    if (signatures != NULL)
        ck_assert_int_eq(SSL_set1_sigalgs_list(pair.client, signatures), 1);
    if (handshake(&pair) != 0)
        ck_abort_msg("%s", stream_error_text(&pair.stream));
    certificate = SSL_get0_peer_certificate(pair.client);
    ck_assert_int_gt(X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName,
                                               name, sizeof(name)),
                     0);
    free_pair(&pair);
    return name;
}

START_TEST(the_client_is_shown_the_certificate_of_the_host_it_names)
{
    static const char *const names[] = {"server", "server-rsa", "one", "wild"};
    struct tls_context *context;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char file[64];

        snprintf(file, sizeof(file), "%s.pem", names[i]);
        options.certificates[i].certificate = path_of(file);
        snprintf(file, sizeof(file), "%s.key", names[i]);
        options.certificates[i].key = path_of(file);
    }
    options.certificate_count = ARRAY_SIZE(names);
    context = make_context();
    ck_assert_str_eq(shown_to(context, "one.example", NULL), "one");
    ck_assert_str_eq(shown_to(context, "ONE.example", NULL), "one");
    ck_assert_str_eq(shown_to(context, "any.wild.example", NULL), "wild");
    ck_assert_str_eq(shown_to(context, "a.b.wild.example", NULL), "server");
    ck_assert_str_eq(shown_to(context, "unknown.example", NULL), "server");
    ck_assert_str_eq(shown_to(context, NULL, NULL), "server");
    ck_assert_str_eq(shown_to(context, "localhost", "rsa_pss_rsae_sha256"), "server-rsa");
    ck_assert_str_eq(shown_to(context, NULL, "rsa_pss_rsae_sha256"), "server-rsa");
    tls_context_unref(context);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/tls_peer");
    TCase *handshakes = tcase_create("handshakes");

    tcase_add_checked_fixture(handshakes, set_up, NULL);
    tcase_set_timeout(handshakes, 60);
    tcase_add_test(handshakes, who_speaks_no_tls_is_named);
    tcase_add_test(handshakes, old_versions_and_weak_ciphers_are_refused);
    tcase_add_test(handshakes, the_minimum_version_can_be_raised);
    tcase_add_test(handshakes, a_client_that_does_not_trust_us_is_understood);
    tcase_add_test(handshakes, a_flood_of_key_updates_ends_the_connection);
    tcase_add_test(handshakes, input_waits_behind_key_updates_whose_answers_nobody_reads);
    tcase_add_test(handshakes, renegotiation_is_refused);
    tcase_add_test(handshakes, bad_certificates_of_clients_are_refused);
    tcase_add_test(handshakes, the_users_name_comes_from_the_certificate);
    tcase_add_test(handshakes, a_name_that_could_be_taken_for_another_is_none);
    tcase_add_test(handshakes, resumption_keeps_the_client_and_ends_with_the_context);
    tcase_add_test(handshakes, the_client_is_shown_the_certificate_of_the_host_it_names);
    suite_add_tcase(suite, handshakes);
    return run_tls_suite(suite);
}
