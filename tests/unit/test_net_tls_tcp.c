/* TLS over TCP, where the kernel may have a part in it, which it has in no other socket: what waits
 * in a full socket, and new keys. It cannot go wrong there where the kernel has no module tls. */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>

#include "test_net_tls_suite.h"

enum {
    WAIT_MS = 60 * 1000, /* until what must happen counts as not happening */
    SOCKET_SIZE = 64 * 1024,
    PIECES = 3,
    PIECE = 3000, /* all of them are gathered into one record */
    EACH = 1000 * 1000,
};

/* Two connected sockets of small buffers. */
static void
connect_tcp(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);
    int listening = socket(AF_INET, SOCK_STREAM, 0), size = SOCKET_SIZE;

    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_ge(fds[1], 0);
    ck_assert_int_eq(setsockopt(listening, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    ck_assert_int_eq(setsockopt(fds[1], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
    ck_assert_int_eq(bind(listening, (struct sockaddr *)&address, length), 0);
    ck_assert_int_eq(listen(listening, 1), 0);
    ck_assert_int_eq(getsockname(listening, (struct sockaddr *)&address, &length), 0);
    ck_assert_int_eq(connect(fds[1], (struct sockaddr *)&address, length), 0);
    fds[0] = accept(listening, NULL, NULL);
    ck_assert_int_ge(fds[0], 0);
    close(listening);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(fcntl(fds[i], F_SETFL, O_NONBLOCK), 0);
}

static void
wait_for_input(int fd)
{
    struct pollfd what = {.fd = fd, .events = POLLIN};

    ck_assert_msg(poll(&what, 1, WAIT_MS) == 1, "nothing happens on the socket");
}

/* Until there is something to read on one side. */
static void
wait_for_either(const struct pair *pair)
{
    struct pollfd both[] = {{.fd = pair->fd, .events = POLLIN},
                            {.fd = pair->stream.fd, .events = POLLIN}};

    ck_assert_msg(poll(both, 2, WAIT_MS) > 0, "nothing happens on the sockets");
}

static struct pair
tcp_pair(struct tls_context *context, int version)
{
    uint8_t byte;
    struct pair pair;
    int fds[2];

    connect_tcp(fds);
    pair = make_pair_over(context, fds);
    SSL_set_max_proto_version(pair.client, version);
    for (;;) {
        ERR_clear_error();
        if (SSL_do_handshake(pair.client) != 1)
            ck_assert_int_eq(SSL_get_error(pair.client, -1), SSL_ERROR_WANT_READ);
        if (stream_read(&pair.stream, &byte, 1) != STREAM_AGAIN)
            ck_abort_msg("%s", stream_error_text(&pair.stream));
        if (!pair.stream.is_handshaking && SSL_is_init_finished(pair.client))
            break;
        wait_for_either(&pair);
    }
    ck_assert_str_eq(stream_tls_version(&pair.stream),
                     version == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3");
    return pair;
}

/* What is sent is the pattern, of each connection another. */
static uint8_t
pattern_of(unsigned connection, size_t position)
{
    return (uint8_t)(pattern(position) ^ connection);
}

/* Sends the next bytes, in pieces and as a whole by turns. They never lie where they did the last
 * time, and what lies there now is something else: stream_writev asks for the same bytes only. */
static size_t
server_sends(struct pair *pair, unsigned connection, size_t position)
{
    static uint8_t places[2][PIECES * PIECE];
    static unsigned calls;
    uint8_t *bytes = places[calls++ % 2];
    struct iovec pieces[PIECES] = {{bytes, PIECES * PIECE}};
    int count = calls % 4 < 2 ? 1 : PIECES;
    ssize_t sent;

    for (size_t i = 0; i < PIECES * PIECE; i++)
        bytes[i] = pattern_of(connection, position + i);
    for (int i = 0; i < count && count > 1; i++)
        pieces[i] = (struct iovec){bytes + i * PIECE, PIECE};
    sent = stream_writev(&pair->stream, pieces, count);
    if (sent == STREAM_ERROR)
        ck_abort_msg("%s", stream_error_text(&pair->stream));
    memset(places[calls % 2], 0, sizeof(places[0]));
    return sent > 0 ? (size_t)sent : 0;
}

/* Reads what there is, which must be what was sent. */
static size_t
client_receives(struct pair *pair, unsigned connection, size_t position)
{
    static uint8_t bytes[16384];
    size_t got = 0;

    ERR_clear_error();
    if (SSL_read_ex(pair->client, bytes, sizeof(bytes), &got) != 1) {
        int reason = SSL_get_error(pair->client, 0);

        ck_assert_msg(reason == SSL_ERROR_WANT_READ, "the client cannot read what was sent: %s",
                      ERR_reason_error_string(ERR_peek_error()));
        return 0;
    }
    for (size_t i = 0; i < got; i++)
        if (bytes[i] != pattern_of(connection, position + i))
            ck_abort_msg("byte %zu of connection %u is wrong", position + i, connection);
    return got;
}

static void
check_waiting_output(int version)
{
    struct tls_context *context = make_context();
    struct pair pairs[2] = {tcp_pair(context, version), tcp_pair(context, version)};
    size_t sent[2] = {0}, got[2] = {0};

    while (got[0] < EACH || got[1] < EACH) {
        size_t before = sent[0] + sent[1] + got[0] + got[1];
        unsigned behind = got[1] < got[0];

        for (unsigned i = 0; i < 2; i++)
            sent[i] += server_sends(&pairs[i], i, sent[i]);
        if (sent[0] + sent[1] + got[0] + got[1] != before)
            continue; /* until both wait */
        wait_for_input(pairs[behind].fd);
        got[behind] += client_receives(&pairs[behind], behind, got[behind]);
    }
    for (unsigned i = 0; i < 2; i++)
        free_pair(&pairs[i]);
    tls_context_unref(context);
}

/* The thread's buffer of what is being sent is the next connection's, though the record that was
 * gathered in it is not in the socket yet. */
START_TEST(output_that_waits_stays_its_own_connections)
{
    check_waiting_output(TLS1_2_VERSION);
    check_waiting_output(TLS1_3_VERSION);
}
END_TEST

START_TEST(a_client_may_ask_for_new_keys)
{
    struct tls_context *context = make_context();
    struct pair pair = tcp_pair(context, TLS1_3_VERSION);
    uint8_t bytes[64];
    size_t sent = 0, got = 0;

    for (int round = 0; round < 5; round++) {
        ck_assert_int_eq(SSL_key_update(pair.client, SSL_KEY_UPDATE_REQUESTED), 1);
        ck_assert_uint_eq(client_sends(&pair, 0, 10), 10);
        for (ssize_t read = 0; read != 10; read = stream_read(&pair.stream, bytes, sizeof(bytes))) {
            ck_assert_msg(read == 0 || read == STREAM_AGAIN, "%zd", read);
            wait_for_input(pair.stream.fd);
        }
        sent += server_sends(&pair, 0, sent);
        while (got < sent) {
            if (!SSL_has_pending(pair.client))
                wait_for_input(pair.fd);
            got += client_receives(&pair, 0, got);
        }
    }
    ck_assert_uint_gt(got, 0);
    free_pair(&pair);
    tls_context_unref(context);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/tls over TCP");
    TCase *streams = tcase_create("streams");

    tcase_add_checked_fixture(streams, set_up, NULL);
    tcase_set_timeout(streams, 120);
    tcase_add_test(streams, output_that_waits_stays_its_own_connections);
    tcase_add_test(streams, a_client_may_ask_for_new_keys);
    suite_add_tcase(suite, streams);
    return run_tls_suite(suite);
}
