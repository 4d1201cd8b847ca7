/* Until when a client's session may be resumed.
 *
 * A client that resumes a session is not asked for its certificate again: OpenSSL believes the
 * ticket that it made when it saw the certificate, and with TLS 1.3 gives out another one at each
 * resumption. So what the certificate was trusted for must go with the ticket: the moment at which
 * the first certificate of its chain expires. After that, or when the lists of revoked ones are out
 * of date, the ticket counts for nothing, and a whole handshake says what is wrong. */
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "net/tls_internal.h"

/* Seconds since 1970; INT64_MIN: not readable, so long ago. */
static int64_t
seconds_of(const ASN1_TIME *time)
{
    struct tm parts;
    int64_t seconds = INT64_MIN;

    if (ASN1_TIME_to_tm(time, &parts) == 1)
        seconds = (int64_t)timegm(&parts);
    ERR_clear_error();
    return seconds;
}

static int64_t
earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Until when all certificates hold by which the client was verified, and the lists. */
static int64_t
chain_end(const SSL *ssl, const struct tls_context *context)
{
    const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    int64_t end = context->crl_end;

    for (int i = 0; i < sk_X509_num(chain); i++)
        end = earlier(end, seconds_of(X509_get0_notAfter(sk_X509_value(chain, i))));
    return end;
}

/* A ticket is being made. One that follows on a resumption inherits what the first has. */
static int
note_end(SSL *ssl, void *context)
{
    int64_t end;

    if (SSL_session_reused(ssl) != 0)
        return 1;
    end = chain_end(ssl, context);
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &end, sizeof(end));
}

static bool
has_ended(SSL_SESSION *session)
{
    void *data;
    size_t size;
    int64_t end;

    if (SSL_SESSION_get0_ticket_appdata(session, &data, &size) != 1 || size != sizeof(end))
        return true;
    memcpy(&end, data, sizeof(end));
    return (int64_t)time(NULL) >= end;
}

/* A ticket has come: is the session resumed? */
static SSL_TICKET_RETURN
judge(SSL *ssl, SSL_SESSION *session, const unsigned char *key_name, size_t key_name_size,
      SSL_TICKET_STATUS status, void *context)
{
    (void)ssl;
    (void)key_name;
    (void)key_name_size;
    (void)context;
    if ((status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) || has_ended(session))
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

/* When the first of the lists is out of date. */
static int64_t
crl_end(X509_STORE *store)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    int64_t end = INT64_MAX;

    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        const X509_CRL *crl = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));

        if (crl != NULL && X509_CRL_get0_nextUpdate(crl) != NULL)
            end = earlier(end, seconds_of(X509_CRL_get0_nextUpdate(crl)));
    }
    return end;
}

int
tls_bound_resumption(struct tls_context *context)
{
    context->crl_end = crl_end(SSL_CTX_get_cert_store(context->ssl));
    return SSL_CTX_set_session_ticket_cb(context->ssl, note_end, judge, context) == 1 ? 0 : -1;
}
