/* TLS: what a context takes from its files and what it says of bad ones; bytes through a stream, in
 * order and once, however they are cut; whom it lets in, and what it says of the others. */
#include <signal.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/random.h"
#include "net/output.h"
#include "test_net_tls_support.h"

static struct tls_options options;
static char error[TLS_ERROR_MAX];
static struct random random_state;

/* --- Contexts --------------------------------------------------------------------------------- */

/* server.pem, trusting ca.pem, asking nobody. */
static void
set_up(void)
{
    options = (struct tls_options){
        .certificates = {{.certificate = path_of("server.pem"), .key = path_of("server.key")}},
        .certificate_count = 1,
    };
    random_init(&random_state);
}

static struct tls_context *
make_context(void)
{
    struct tls_context *context;

    if (tls_context_new(&context, &options, error) != 0)
        ck_abort_msg("%s", error);
    return context;
}

/* Options with one thing changed are refused with a text that has these words in it. */
static void
assert_refused(const char *file, const char *words)
{
    struct tls_context *context;

    ck_assert_int_eq(tls_context_new(&context, &options, error), -1);
    ck_assert_msg(strstr(error, file) != NULL, "\"%s\" does not name %s", error, file);
    ck_assert_msg(strstr(error, words) != NULL, "\"%s\" does not say \"%s\"", error, words);
    ck_assert_ptr_null(strchr(error, '\n'));
}

START_TEST(a_bad_certificate_or_key_is_told_with_its_file)
{
    struct tls_certificate_files *files = &options.certificates[0];
    const struct tls_certificate_files good = *files;

    files->certificate = path_of("none.pem");
    assert_refused("none.pem", "No such file");
    files->certificate = path_of("rubbish");
    assert_refused("rubbish", "no certificate");
    files->certificate = path_of("half-chain.pem");
    assert_refused("half-chain.pem", "not readable");
    files->certificate = good.certificate;
    files->key = path_of("none.key");
    assert_refused("none.key", "No such file");
    files->key = path_of("server.pem");
    assert_refused("server.pem", "no private key");
    files->key = path_of("client.key");
    assert_refused("client.key", "does not match");
    files->key = path_of("encrypted.key");
    assert_refused("encrypted.key", "encrypted");
    files->key = NULL;
    assert_refused("server.pem", "no private key");
    options.certificate_count = 0;
    assert_refused("", "certificates are needed");
}
END_TEST

START_TEST(bad_authorities_revocations_and_ciphers_are_told)
{
    options.verify = TLS_VERIFY_REQUIRE;
    assert_refused("", "authorities");
    options.ca_file = path_of("rubbish");
    assert_refused("rubbish", "authorities");
    options.ca_file = path_of("ca.pem");
    options.crl_file = path_of("ca.pem");
    assert_refused("ca.pem", "revocation");
    options.crl_file = NULL;
    options.ciphers = "NO-SUCH-CIPHER";
    assert_refused("NO-SUCH-CIPHER", "no cipher match");
    options.ciphers = NULL;
    options.ciphersuites = "TLS_NO_SUCH_SUITE";
    assert_refused("TLS_NO_SUCH_SUITE", "no cipher match");
}
END_TEST

START_TEST(certificate_and_key_may_be_in_one_file)
{
    options.certificates[0].certificate = path_of("both.pem");
    options.certificates[0].key = NULL;
    tls_context_unref(make_context());
}
END_TEST

START_TEST(an_expired_certificate_is_no_error)
{
    options.certificates[0].certificate = path_of("expired.pem");
    options.certificates[0].key = path_of("expired.key");
    tls_context_unref(make_context());
}
END_TEST

/* --- Bytes ------------------------------------------------------------------------------------ */

static uint8_t
pattern(size_t position)
{
    return (uint8_t)(position ^ position >> 8 ^ position >> 16);
}

static struct pair
connected_pair(struct tls_context *context)
{
    struct pair pair = make_pair(context);

    if (handshake(&pair) != 0)
        ck_abort_msg("%s", stream_error_text(&pair.stream));
    return pair;
}

/* Sends `size` bytes of the pattern as the client, as far as they fit. Returns how many. */
static size_t
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

START_TEST(one_read_takes_all_that_is_there)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    static uint8_t bytes[128 * 1024];
    size_t sent = client_sends(&pair, 0, 100 * 1000);

    ck_assert_uint_ge(sent, 50 * 1000);
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), (ssize_t)sent);
    for (size_t i = 0; i < sent; i++)
        ck_assert_uint_eq(bytes[i], pattern(i));
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), STREAM_AGAIN);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

/* The thread's buffer between socket and OpenSSL holds nothing from one call to the next: else one
 * connection's bytes would be lost to another's. */
START_TEST(connections_that_take_turns_get_their_own_bytes)
{
    struct tls_context *context = make_context();
    struct pair pairs[2] = {connected_pair(context), connected_pair(context)};
    size_t sent[2] = {0}, got[2] = {0};
    static uint8_t bytes[200 * 1000];

    for (int round = 0; round < 2000; round++) {
        unsigned i = (unsigned)random_below(&random_state, 2);
        static const size_t sizes[] = {1, 100, 16384, 16385, 40000, 200 * 1000};
        size_t size = 1 + random_below(&random_state, sizes[random_below(&random_state, 6)]);
        size_t most = 1 + random_below(&random_state, sizes[random_below(&random_state, 6)]);
        struct iovec pieces[3] = {{bytes, size / 3}, {bytes + size / 3, 0}, {bytes + size / 3, 0}};
        ssize_t count;

        pieces[2].iov_len = size - size / 3;
        sent[i] += client_sends(&pairs[i], sent[i], most);
        count = stream_readv(&pairs[i].stream, pieces, 3);
        if (count == STREAM_AGAIN)
            continue;
        if (count <= 0)
            ck_abort_msg("%s", stream_error_text(&pairs[i].stream));
        for (ssize_t j = 0; j < count; j++)
            if (bytes[j] != pattern(got[i] + (size_t)j))
                ck_abort_msg("byte %zu of connection %u is wrong", got[i] + (size_t)j, i);
        got[i] += (size_t)count;
    }
    for (unsigned i = 0; i < 2; i++) {
        ssize_t count;

        do {
            while ((count = stream_read(&pairs[i].stream, bytes, sizeof(bytes))) > 0)
                got[i] += (size_t)count;
            if (pairs[i].promised > 0)
                sent[i] += client_sends(&pairs[i], sent[i], 1);
        } while (got[i] != sent[i] && count == STREAM_AGAIN);
        ck_assert_uint_eq(got[i], sent[i]);
        ck_assert_uint_gt(got[i], 1000 * 1000);
        free_pair(&pairs[i]);
    }
    tls_context_unref(context);
}
END_TEST

START_TEST(a_record_that_does_not_fit_the_reader_is_known_to_be_there)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    uint8_t bytes[60];

    ck_assert_uint_eq(client_sends(&pair, 0, 100), 100);
    ck_assert_int_eq(stream_read(&pair.stream, bytes, 60), 60);
    ck_assert(stream_has_buffered(&pair.stream));
    ck_assert_int_eq(stream_read(&pair.stream, bytes, 60), 40);
    ck_assert_uint_eq(bytes[39], pattern(99));
    ck_assert(!stream_has_buffered(&pair.stream));
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

START_TEST(a_handshake_in_single_bytes_succeeds)
{
    struct tls_context *context = make_context();
    struct pair pair = make_pair(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    uint8_t byte;

    SSL_set_bio(pair.client, in, out);
    while (pair.stream.is_handshaking || !SSL_is_init_finished(pair.client)) {
        char octet;
        uint8_t bytes[4096];
        ssize_t got;

        ERR_clear_error();
        (void)SSL_do_handshake(pair.client);
        while (BIO_read(out, &octet, 1) == 1) {
            ck_assert_int_eq(write(pair.fd, &octet, 1), 1);
            ck_assert_int_eq(stream_read(&pair.stream, &byte, 1), STREAM_AGAIN);
        }
        while ((got = read(pair.fd, bytes, sizeof(bytes))) > 0)
            ck_assert_int_eq(BIO_write(in, bytes, (int)got), (int)got);
    }
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

START_TEST(small_pieces_go_out_as_one_record)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    static uint8_t bytes[64 * 1024];
    struct iovec pieces[200];
    size_t records = 0;
    ssize_t got, at;

    while (read(pair.fd, bytes, sizeof(bytes)) > 0)
        continue; /* session tickets */
    for (unsigned i = 0; i < 200; i++)
        pieces[i] = (struct iovec){bytes, 50};
    ck_assert_int_eq(stream_writev(&pair.stream, pieces, 200), 200 * 50);
    got = read(pair.fd, bytes, sizeof(bytes));
    for (at = 0; at < got; at += 5 + bytes[at + 3] * 256 + bytes[at + 4])
        records++;
    ck_assert_int_eq(at, got);
    ck_assert_uint_eq(records, 1);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

static void
release_nothing(void *owner)
{
    (void)owner;
}

/* Frames and bodies by reference, through a socket that takes little at a time. */
START_TEST(output_arrives_in_order_through_a_slow_socket)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    static uint8_t body[300 * 1000], bytes[20000];
    struct block_pool pool;
    struct output output;
    size_t queued = 0, arrived = 0;
    enum output_result result = OUTPUT_DRAINED;
    int size = 4096;

    ck_assert_int_eq(setsockopt(pair.stream.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    for (size_t i = 0; i < sizeof(body); i++)
        body[i] = pattern(i);
    block_pool_init(&pool, 256 * 1024);
    output_init(&output, &pool);
    while (arrived < sizeof(body)) {
        size_t part = 1 + random_below(&random_state, 30000), got;

        if (queued + part > sizeof(body))
            part = sizeof(body) - queued;
        if (part > 4096)
            ck_assert_int_eq(
                output_append_reference(&output, body + queued, part, release_nothing, NULL), 0);
        else
            ck_assert_int_eq(output_append(&output, body + queued, part), 0);
        queued += part;
        result = output_flush(&output, &pair.stream);
        ck_assert_int_ne(result, OUTPUT_ERROR);
        if (SSL_read_ex(pair.client, bytes, 1 + random_below(&random_state, sizeof(bytes)), &got)
            != 1)
            continue;
        ck_assert_mem_eq(bytes, body + arrived, got);
        arrived += got;
    }
    ck_assert_int_eq(result, OUTPUT_DRAINED);
    block_pool_fini(&pool);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

/* --- Ending ----------------------------------------------------------------------------------- */

START_TEST(the_end_is_said_by_close_notify)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    uint8_t byte;
    size_t got;

    ck_assert_int_eq(stream_shutdown_write(&pair.stream), 0);
    ck_assert_int_eq(stream_shutdown_write(&pair.stream), 0);
    ck_assert_int_eq(SSL_read_ex(pair.client, &byte, 1, &got), 0);
    ck_assert_int_eq(SSL_get_error(pair.client, 0), SSL_ERROR_ZERO_RETURN);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

/* The socket itself stays open and silent after it, so epoll would never tell. */
START_TEST(a_close_notify_behind_data_is_not_missed)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    static uint8_t bytes[128 * 1024];

    ck_assert_uint_eq(client_sends(&pair, 0, 100), 100);
    ck_assert_int_eq(SSL_shutdown(pair.client), 0);
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), 100);
    ck_assert(stream_has_buffered(&pair.stream));
    ck_assert_int_eq(stream_read(&pair.stream, bytes, sizeof(bytes)), 0);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

START_TEST(a_stream_that_just_ends_has_ended)
{
    struct tls_context *context = make_context();
    struct pair pair = connected_pair(context);
    uint8_t byte;

    (void)SSL_read(pair.client, &byte, 1); /* closed with anything unread, it would be a reset */
    close(pair.fd);
    pair.fd = -1;
    ck_assert_int_eq(stream_read(&pair.stream, &byte, 1), 0);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

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

/* --- Files ------------------------------------------------------------------------------------ */

static void
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

static void
free_identity(struct identity *identity)
{
    X509_free(identity->certificate);
    EVP_PKEY_free(identity->key);
}

/* Makes all the files that the tests use. */
static void
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

static void
add_streams(Suite *suite)
{
    TCase *tests = tcase_create("streams");

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, one_read_takes_all_that_is_there);
    tcase_add_test(tests, connections_that_take_turns_get_their_own_bytes);
    tcase_add_test(tests, a_record_that_does_not_fit_the_reader_is_known_to_be_there);
    tcase_add_test(tests, a_handshake_in_single_bytes_succeeds);
    tcase_add_test(tests, small_pieces_go_out_as_one_record);
    tcase_add_test(tests, output_arrives_in_order_through_a_slow_socket);
    tcase_add_test(tests, the_end_is_said_by_close_notify);
    tcase_add_test(tests, a_close_notify_behind_data_is_not_missed);
    tcase_add_test(tests, a_stream_that_just_ends_has_ended);
    suite_add_tcase(suite, tests);
}

static void
add_handshakes(Suite *suite)
{
    TCase *tests = tcase_create("handshakes");

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, who_speaks_no_tls_is_named);
    tcase_add_test(tests, old_versions_and_weak_ciphers_are_refused);
    tcase_add_test(tests, the_minimum_version_can_be_raised);
    tcase_add_test(tests, a_client_that_does_not_trust_us_is_understood);
    tcase_add_test(tests, a_flood_of_key_updates_ends_the_connection);
    tcase_add_test(tests, input_waits_behind_key_updates_whose_answers_nobody_reads);
    tcase_add_test(tests, renegotiation_is_refused);
    tcase_add_test(tests, bad_certificates_of_clients_are_refused);
    tcase_add_test(tests, the_users_name_comes_from_the_certificate);
    tcase_add_test(tests, a_name_that_could_be_taken_for_another_is_none);
    tcase_add_test(tests, resumption_keeps_the_client_and_ends_with_the_context);
    tcase_add_test(tests, the_client_is_shown_the_certificate_of_the_host_it_names);
    suite_add_tcase(suite, tests);
}

static void
remove_files(void)
{
    char command[64];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    if (system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", folder);
}

int
main(void)
{
    Suite *suite = suite_create("net/tls");
    TCase *contexts = tcase_create("contexts");
    SRunner *runner;
    int failed;

    signal(SIGPIPE, SIG_IGN);
    if (mkdtemp(folder) == NULL) {
        perror(folder);
        return EXIT_FAILURE;
    }
    make_files();
    tcase_add_checked_fixture(contexts, set_up, NULL);
    tcase_add_test(contexts, a_bad_certificate_or_key_is_told_with_its_file);
    tcase_add_test(contexts, bad_authorities_revocations_and_ciphers_are_told);
    tcase_add_test(contexts, certificate_and_key_may_be_in_one_file);
    tcase_add_test(contexts, an_expired_certificate_is_no_error);
    suite_add_tcase(suite, contexts);
    add_streams(suite);
    add_handshakes(suite);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    remove_files();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
