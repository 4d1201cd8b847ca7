/* TLS: what a context takes from its files and what it says of bad ones; bytes through a stream, in
 * order and once, however they are cut. */
#include "base/random.h"
#include "net/output.h"
#include "test_net_tls_suite.h"

static struct random random_state;

/* --- Contexts --------------------------------------------------------------------------------- */

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

int
main(void)
{
    Suite *suite = suite_create("net/tls");
    TCase *contexts = tcase_create("contexts");
    TCase *streams = tcase_create("streams");

    random_init(&random_state);
    tcase_add_checked_fixture(contexts, set_up, NULL);
    tcase_set_timeout(contexts, 60);
    tcase_add_test(contexts, a_bad_certificate_or_key_is_told_with_its_file);
    tcase_add_test(contexts, bad_authorities_revocations_and_ciphers_are_told);
    tcase_add_test(contexts, certificate_and_key_may_be_in_one_file);
    tcase_add_test(contexts, an_expired_certificate_is_no_error);
    suite_add_tcase(suite, contexts);
    tcase_add_checked_fixture(streams, set_up, NULL);
    tcase_set_timeout(streams, 60);
    tcase_add_test(streams, one_read_takes_all_that_is_there);
    tcase_add_test(streams, connections_that_take_turns_get_their_own_bytes);
    tcase_add_test(streams, a_record_that_does_not_fit_the_reader_is_known_to_be_there);
    tcase_add_test(streams, a_handshake_in_single_bytes_succeeds);
    tcase_add_test(streams, small_pieces_go_out_as_one_record);
    tcase_add_test(streams, output_arrives_in_order_through_a_slow_socket);
    tcase_add_test(streams, the_end_is_said_by_close_notify);
    tcase_add_test(streams, a_close_notify_behind_data_is_not_missed);
    tcase_add_test(streams, a_stream_that_just_ends_has_ended);
    suite_add_tcase(suite, streams);
    return run_tls_suite(suite);
}
