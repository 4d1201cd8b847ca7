/* The configuration's `tls` section: see the header. */
#include "server/tls_settings.h"

#include <stdio.h>

static const char *
text_or_null(const char *text)
{
    return text[0] != '\0' ? text : NULL;
}

/* 1: the options are filled, borrowing from the settings; 0: TLS is not wanted; -1 with a text:
 * what the settings say does not go together. */
MUST_CHECK static int
read_options(const struct settings *settings, struct tls_options *options,
             char error[TLS_ERROR_MAX])
{
    const struct config_texts *certificate = &settings->tls.certificate, *key = &settings->tls.key;

    if (settings->tls.listen.count == 0 && certificate->count == 0)
        return 0;
    if (certificate->count == 0) {
        snprintf(error, TLS_ERROR_MAX, "listen needs a certificate");
        return -1;
    }
    if (key->count != 0 && key->count != certificate->count) {
        snprintf(error, TLS_ERROR_MAX, "%zu certificates and %zu keys: one key for each, or none",
                 certificate->count, key->count);
        return -1;
    }
    if (settings->tls.verify != TLS_VERIFY_NONE && settings->tls.ca_file[0] == '\0') {
        snprintf(error, TLS_ERROR_MAX, "verify needs a ca_file");
        return -1;
    }
    *options = (struct tls_options){
        .certificate_count = certificate->count,
        .ca_file = text_or_null(settings->tls.ca_file),
        .crl_file = text_or_null(settings->tls.crl_file),
        .verify = settings->tls.verify,
        .minimum_version = settings->tls.minimum_version,
        .ciphers = text_or_null(settings->tls.ciphers),
        .ciphersuites = text_or_null(settings->tls.ciphersuites),
        .peer_name = settings->tls.peer_name,
    };
    for (size_t i = 0; i < certificate->count; i++) {
        options->certificates[i].certificate = certificate->items[i];
        options->certificates[i].key = key->count > 0 ? key->items[i] : NULL;
    }
    return 1;
}

int
tls_settings_apply(const struct settings *settings, struct server *server,
                   char error[TLS_ERROR_MAX])
{
    struct tls_options options;
    int status = read_options(settings, &options, error);

    if (status == 0 && server->tls != NULL)
        return TLS_SETTINGS_NEED_RESTART;
    return status == 1 ? server_tls_reload(server, &options, error) : status;
}

int
tls_settings_check(const struct settings *settings, char error[TLS_ERROR_MAX])
{
    struct tls_options options;
    struct tls_context *context;
    int status = read_options(settings, &options, error);

    if (status != 1)
        return status;
    if (tls_context_new(&context, &options, error) != 0)
        return -1;
    tls_context_unref(context);
    return 0;
}
