/* The HTTP side of the administration: libmicrohttpd reads and writes, here bodies are gathered
 * within their bounds, and the routes answer. */
#include "admin/admin.h"

#include <errno.h>
#include <malloc.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "admin/routes.h"
#include "admin/socket.h"
#include "auth/password.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "base/log.h"

enum { COLUMNS_MAX = 1024 }; /* bytes: more than all names of all columns */

struct admin {
    struct admin_subject subject;
    struct MHD_Daemon *daemon;
    struct sockaddr_un address;
};

/* How often there was no memory for JSON. */
static _Atomic unsigned json_failures;

/* A request that is coming in. */
struct incoming {
    struct buffer body;
    bool is_too_large;
    int64_t began_ms;
    uid_t uid;
};

/* --- Answering -------------------------------------------------------------------------------- */

/* NULL: there was no memory for all of it, which the library does not always notice. */
static char *
print_json(const json_t *json)
{
    const unsigned failures = json_failures;
    char *text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
    if (json_failures == failures)
        return text;
    free(text);
    return NULL;
}

static enum MHD_Result
send_reply(struct MHD_Connection *connection, struct admin_reply *reply)
{
    char *text = (char *)reply->text.data;
    size_t size = reply->text.size;
    if (reply->json != NULL) {
        text = print_json(reply->json);
        size = text != NULL ? strlen(text) : 0;
        json_decref(reply->json);
        if (text == NULL && reply->status == HTTP_OK)
            reply->status = HTTP_INTERNAL_SERVER_ERROR;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        free(text);
        return MHD_NO;
    }
    if (text != NULL)
        MHD_add_response_header(response, "Content-Type", "application/json");
    if (reply->allow != NULL)
        MHD_add_response_header(response, "Allow", reply->allow);
    enum MHD_Result result = MHD_queue_response(connection, reply->status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result
send_refusal(struct MHD_Connection *connection, unsigned status, const char *reason)
{
    struct admin_reply reply = {0};
    admin_refuse(&reply, status, "%s", reason);
    return send_reply(connection, &reply);
}

/* --- What was asked --------------------------------------------------------------------------- */

static bool
is_change(const char *method)
{
    return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
}

/* What is answered as done is on disk. */
static void
settle(const struct admin *admin, struct admin_reply *reply)
{
    if (reply->status < 300
        && storage_wait_definitions(admin->subject.storage, ADMIN_DURABLE_MS) != 0)
        admin_refuse(reply, HTTP_SERVICE_UNAVAILABLE,
                     "it is done, but not on disk yet: it may be lost if the broker dies");
}

static void
tell(const char *method, const char *url, uid_t uid, unsigned status)
{
    log_info("administration", LOG_STR("method", method), LOG_STR("path", url),
             LOG_UINT("status", status), LOG_UINT("uid", uid));
}

/* The body as JSON; NULL if there is none. False, with the answer: it is no object. */
static bool
read_body(const struct buffer *body, json_t **json, struct admin_reply *reply)
{
    json_error_t error;
    *json = NULL;
    if (body->size == 0)
        return true;
    *json = json_loadb((const char *)body->data, body->size, JSON_REJECT_DUPLICATES, &error);
    if (*json == NULL)
        admin_refuse(reply, HTTP_BAD_REQUEST, "the body is not JSON: %s (line %d, column %d)",
                     error.text, error.line, error.column);
    else if (!json_is_object(*json))
        admin_refuse(reply, HTTP_BAD_REQUEST, "the body is not an object");
    else
        return true;
    json_decref(*json);
    return false;
}

/* What is asked beside the path. */
struct asked {
    bool only_new;
    struct slice columns;
    char text[COLUMNS_MAX]; /* of them */
};

/* -EINVAL: the columns are too many, or no text. */
static int
read_asked(struct MHD_Connection *connection, struct asked *asked)
{
    const char *none_match =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "If-None-Match");
    const char *columns = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "columns");
    asked->only_new = none_match != NULL && strcmp(none_match, "*") == 0;
    asked->columns = SLICE("");
    if (columns == NULL)
        return 0;
    if (strlen(columns) > sizeof(asked->text))
        return -EINVAL;
    return admin_path_decode(slice_from(columns), asked->text, &asked->columns);
}

static void
answer(const struct admin *admin, const struct incoming *incoming, const char *method,
       const struct admin_path *path, const struct asked *asked, struct admin_reply *reply)
{
    json_t *body;
    if (!read_body(&incoming->body, &body, reply))
        return;
    struct admin_request request = {.subject = &admin->subject,
                                    .body = body,
                                    .columns = asked->columns,
                                    .uid = incoming->uid,
                                    .only_new = asked->only_new};
    routes_handle(method, path, &request, reply);
    json_decref(body);
}

/* The request is there as a whole. */
static enum MHD_Result
respond(const struct admin *admin, struct MHD_Connection *connection,
        const struct incoming *incoming, const char *url, const char *method)
{
    struct admin_path path;
    struct admin_reply reply = {.status = HTTP_INTERNAL_SERVER_ERROR};
    struct asked asked;
    const unsigned failures = json_failures;
    int status = admin_path_parse(&path, slice_from(url));
    if (incoming->is_too_large)
        admin_refuse(&reply, HTTP_CONTENT_TOO_LARGE, "the body is larger than %d bytes",
                     (int)ADMIN_BODY_MAX);
    else if (status == -E2BIG)
        admin_refuse(&reply, HTTP_URI_TOO_LONG, "the path is too long");
    else if (status != 0)
        admin_refuse(&reply, HTTP_BAD_REQUEST, "the path is not well-formed UTF-8 and %%XX");
    else if (read_asked(connection, &asked) != 0)
        admin_refuse(&reply, HTTP_BAD_REQUEST,
                     "columns: expected names with commas between, at most %d bytes",
                     (int)COLUMNS_MAX);
    else
        answer(admin, incoming, method, &path, &asked, &reply);
    /* A body that seems to be no JSON, a list in which some are missing, a text that was cut:
     * without memory, JSON is made and read wrongly in many places. */
    if (json_failures != failures)
        admin_refuse(&reply, HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    if (is_change(method)) {
        settle(admin, &reply);
        tell(method, url, incoming->uid, reply.status);
    }
    return send_reply(connection, &reply);
}

/* --- Coming in -------------------------------------------------------------------------------- */

/* The headers are there. */
static enum MHD_Result
begin(struct MHD_Connection *connection, void **state)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    uid_t uid;
    if (info == NULL || !socket_is_trusted(info->connect_fd, &uid))
        return send_refusal(connection, HTTP_FORBIDDEN,
                            "only root and the broker's own user may administer it");
    const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
    if (length != NULL && strtoull(length, NULL, 10) > ADMIN_BODY_MAX)
        return send_refusal(connection, HTTP_CONTENT_TOO_LARGE, "the body is too large");
    struct incoming *incoming = calloc(1, sizeof(*incoming));
    if (incoming == NULL)
        return MHD_NO;
    incoming->began_ms = clock_monotonic_ms();
    incoming->uid = uid;
    *state = incoming;
    return MHD_YES;
}

/* A piece of the body, which may have a password in it and is wiped where the library has it. */
static enum MHD_Result
gather(struct incoming *incoming, const char *data, size_t size)
{
    int status = 0;
    if (clock_monotonic_ms() - incoming->began_ms > ADMIN_REQUEST_MS)
        return MHD_NO;
    incoming->is_too_large |= size > ADMIN_BODY_MAX - incoming->body.size;
    if (!incoming->is_too_large) {
        /* Once and for all, so that no copy stays behind where it was. */
        status = buffer_reserve(&incoming->body, ADMIN_BODY_MAX - incoming->body.size);
        if (status == 0)
            status = buffer_append(&incoming->body, data, size);
    }
    secret_wipe((void *)data, size);
    return status == 0 ? MHD_YES : MHD_NO;
}

static enum MHD_Result
on_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
           const char *version, const char *data, size_t *size, void **state)
{
    struct incoming *incoming = *state;
    (void)version;
    if (incoming == NULL)
        return begin(connection, state);
    if (*size == 0)
        return respond(context, connection, incoming, url, method);
    size_t taken = *size;
    *size = 0;
    return gather(incoming, data, taken);
}

static void
on_completed(void *context, struct MHD_Connection *connection, void **state,
             enum MHD_RequestTerminationCode code)
{
    struct incoming *incoming = *state;
    (void)context;
    (void)connection;
    (void)code;
    if (incoming == NULL)
        return;
    if (incoming->body.data != NULL)
        secret_wipe(incoming->body.data, incoming->body.capacity);
    buffer_free(&incoming->body);
    free(incoming);
    *state = NULL;
}

/* Paths are cut before they are decoded, so that a name may have a slash. */
static size_t
leave_escaped(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context;
    (void)connection;
    return strlen(text);
}

static void *
json_malloc(size_t size)
{
    void *memory = malloc(size);
    json_failures += memory == NULL;
    return memory;
}

/* JSON has passwords in it. */
static void
free_wiped(void *memory)
{
    if (memory != NULL)
        secret_wipe(memory, malloc_usable_size(memory));
    free(memory);
}

/* --- Opening and closing ---------------------------------------------------------------------- */

static int
start(struct admin *admin, int fd, char error[ADMIN_ERROR_MAX])
{
    admin->daemon = MHD_start_daemon(
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, admin,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)ADMIN_CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)ADMIN_IDLE_S, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, admin, MHD_OPTION_UNESCAPE_CALLBACK, leave_escaped, NULL, MHD_OPTION_END);
    if (admin->daemon != NULL)
        return 0;
    snprintf(error, ADMIN_ERROR_MAX, "admin.socket: cannot start the HTTP server: %s",
             strerror(errno));
    close(fd);
    unlink(admin->address.sun_path);
    return -1;
}

int
admin_open(struct admin **out, const struct admin_subject *subject, char error[ADMIN_ERROR_MAX])
{
    const struct settings *settings = subject->settings;
    *out = NULL;
    if (settings->admin.socket[0] == 0)
        return 0;
    struct admin *admin = calloc(1, sizeof(*admin));
    snprintf(error, ADMIN_ERROR_MAX, "out of memory");
    if (admin == NULL)
        return -1;
    admin->subject = *subject;
    json_set_alloc_funcs(json_malloc, free_wiped);
    int fd = -1;
    if (socket_path(&admin->address, settings->data_dir, settings->admin.socket, error,
                    ADMIN_ERROR_MAX)
        == 0)
        fd = socket_listen(&admin->address, error, ADMIN_ERROR_MAX);
    if (fd < 0 || start(admin, fd, error) != 0) {
        free(admin);
        return -1;
    }
    *out = admin;
    return 0;
}

void
admin_close(struct admin *admin)
{
    if (admin == NULL)
        return;
    MHD_stop_daemon(admin->daemon); /* closes the socket */
    unlink(admin->address.sun_path);
    free(admin);
}
