/* whippetctl's HTTP: see the header. */
#include "ctl/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "ctl/text.h"

enum {
    TIMEOUT_S = 60,                 /* longer than the broker waits for its disk */
    ANSWER_MAX = 256 * 1024 * 1024, /* bytes: some 500,000 queues */
    URL_MAX = 8192,                 /* four names of 255 bytes, escaped */
};

struct client {
    CURL *curl;
    const char *socket;
};

struct client *
client_new(const char *socket)
{
    struct client *client = calloc(1, sizeof(*client));
    if (client == NULL)
        return NULL;
    client->socket = socket;
    client->curl = curl_easy_init();
    if (client->curl == NULL) {
        free(client);
        return NULL;
    }
    return client;
}

void
client_free(struct client *client)
{
    curl_easy_cleanup(client->curl);
    free(client);
}

static size_t
receive(char *data, size_t size, size_t count, void *context)
{
    struct buffer *answer = context;
    size_t bytes = size * count;
    if (bytes > ANSWER_MAX - answer->size || buffer_append(answer, data, bytes) != 0)
        return CURL_WRITEFUNC_ERROR;
    return bytes;
}

/* -1: it is too long. */
static int
make_url(struct client *client, const struct client_question *question, char url[URL_MAX])
{
    const char *const *parts = question->parts;
    size_t size = (size_t)snprintf(url, URL_MAX, "http://localhost/api");
    for (; *parts != NULL; parts++) {
        char *escaped = curl_easy_escape(client->curl, *parts, 0);
        if (escaped == NULL)
            return -1;
        size += (size_t)snprintf(url + size, URL_MAX - size, "/%s", escaped);
        curl_free(escaped);
        if (size >= URL_MAX)
            return -1;
    }
    if (question->columns != NULL)
        size += (size_t)snprintf(url + size, URL_MAX - size, "?columns=%s", question->columns);
    return size < URL_MAX ? 0 : -1;
}

static CURLcode
perform(struct client *client, const char *method, const char *url, const char *body, bool only_new,
        struct buffer *answer)
{
    CURL *curl = client->curl;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (headers != NULL && only_new) {
        struct curl_slist *more = curl_slist_append(headers, "If-None-Match: *");
        if (more == NULL)
            curl_slist_free_all(headers);
        headers = more;
    }
    if (headers == NULL)
        return CURLE_OUT_OF_MEMORY;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, client->socket);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L); /* ".." is a name as any other */
    curl_easy_setopt(curl, CURLOPT_PROXY, "");      /* whatever the environment says */
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    if (body != NULL)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    return code;
}

/* One line about what did not work. */
static void
tell_failure(const struct client *client, CURLcode code)
{
    long number = 0;
    curl_easy_getinfo(client->curl, CURLINFO_OS_ERRNO, &number);
    fprintf(stderr, "whippetctl: no broker answers at %s: %s\n", client->socket,
            code == CURLE_COULDNT_CONNECT && number != 0 ? strerror((int)number)
                                                         : curl_easy_strerror(code));
}

/* The broker's reason, in one line. */
static void
tell_refusal(long status, const json_t *answer)
{
    const json_t *reason = json_object_get(answer, "reason");
    fputs("whippetctl: ", stderr);
    if (json_is_string(reason))
        text_print((struct slice){json_string_value(reason), json_string_length(reason)}, stderr);
    else
        fprintf(stderr, "the broker answers with status %ld", status);
    fputc('\n', stderr);
}

static int
judge(struct client *client, const struct buffer *received, json_t **answer)
{
    long status = 0;
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    json_t *json = received->size == 0 ? NULL
                                       : json_loadb((const char *)received->data, received->size,
                                                    JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (status < 200 || status > 299) {
        tell_refusal(status, json);
    } else if (json == NULL && received->size > 0) {
        fputs("whippetctl: the answer is not JSON\n", stderr);
    } else {
        *answer = json;
        return 0;
    }
    json_decref(json);
    return -1;
}

int
client_ask(struct client *client, const struct client_question *question, json_t **answer)
{
    json_t *body = question->body;
    char url[URL_MAX];
    struct buffer received;
    int status = -1;
    buffer_init(&received);
    *answer = NULL;
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    if (body != NULL && text == NULL) {
        fputs("whippetctl: out of memory\n", stderr);
    } else if (make_url(client, question, url) != 0) {
        fputs("whippetctl: the names are too long\n", stderr);
    } else {
        CURLcode code = perform(client, question->method, url, text, question->only_new, &received);
        if (code == CURLE_OK)
            status = judge(client, &received, answer);
        else
            tell_failure(client, code);
    }
    buffer_free(&received);
    if (text != NULL)
        explicit_bzero(text, strlen(text));
    free(text);
    json_decref(body);
    return status;
}
