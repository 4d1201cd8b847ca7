/* What a handler of a request is given, and how it answers. Everything here runs on the admin's
 * own thread, which may wait: for the first worker (server_call) and for the disk. */
#ifndef ADMIN_REQUEST_H
#define ADMIN_REQUEST_H

#include <jansson.h>

#include "admin/path.h"
#include "base/buffer.h"
#include "base/compiler.h"
#include "config/config.h"
#include "server/storage.h"
#include "server/worker.h"

/* Status codes of HTTP, RFC 9110. */
enum {
    HTTP_OK = 200,
    HTTP_CREATED = 201,
    HTTP_NO_CONTENT = 204,
    HTTP_BAD_REQUEST = 400,
    HTTP_UNAUTHORIZED = 401,
    HTTP_FORBIDDEN = 403,
    HTTP_NOT_FOUND = 404,
    HTTP_METHOD_NOT_ALLOWED = 405,
    HTTP_CONFLICT = 409,
    HTTP_PRECONDITION_FAILED = 412,
    HTTP_CONTENT_TOO_LARGE = 413,
    HTTP_URI_TOO_LONG = 414,
    HTTP_INTERNAL_SERVER_ERROR = 500,
    HTTP_SERVICE_UNAVAILABLE = 503,
};

enum { ADMIN_REASON_MAX = 1024 };

/* The parts of the broker that are administered. Lent. */
struct admin_subject {
    struct server *server;
    struct storage *storage;
    const struct settings
        *settings; /* read on the first worker's thread only: a reload changes it */
};

struct admin_request {
    const struct admin_subject *subject;
    struct slice names[ADMIN_PATH_PARTS]; /* what stands for the {names} of the route, in order */
    const json_t *body;                   /* an object; NULL: there is none */
    struct slice columns;                 /* of lists, with commas between; "": all */
    uid_t uid;                            /* of the process that asks */
    bool only_new;                        /* If-None-Match: * -- what is there is not changed */
};

struct admin_reply {
    unsigned status;
    json_t *json;       /* owned; NULL: the text, or nothing but the status */
    struct buffer text; /* JSON too; owned */
    const char *allow;  /* with HTTP_METHOD_NOT_ALLOWED: what is */
};

/* A name, or another text that clients or operators choose, as JSON; NULL if memory is short. One
 * that is not UTF-8 cannot be shown, but not be taken for another one either: json_of_bytes. */
json_t *admin_text(struct slice text);

/* Answers with RabbitMQ's {"error": ..., "reason": ...}. */
void admin_refuse(struct admin_reply *reply, unsigned status, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* What a function of auth/access.h, or of the catalogue, has returned: 0 answers with done, else
 * with what is fitting, for the reason that it gave. */
void admin_answer(struct admin_reply *reply, int status, unsigned done, const char *reason);

/* Answers with the JSON, which it takes; NULL is taken as short memory. */
void admin_show(struct admin_reply *reply, json_t *json);

/* A text of the body, lent. -1, with the answer: it is no text, or (is_needed) it is not there.
 * Else *is_there, where that is not NULL, tells. */
MUST_CHECK int admin_field(const struct admin_request *request, const char *name, bool is_needed,
                           struct slice *value, bool *is_there, struct admin_reply *reply);

/* A reference to the vhost; NULL, with the answer: there is none. */
struct vhost *admin_vhost(const struct admin_request *request, struct slice name,
                          struct admin_reply *reply);

/* Whether there is such a vhost; if not, that is the answer. */
bool admin_has_vhost(const struct admin_request *request, struct slice name,
                     struct admin_reply *reply);

/* Called with each user, in the order of their names, which is lent. -ENOMEM. */
MUST_CHECK int admin_each_user(const struct admin_request *request,
                               void (*visit)(void *context, const struct access_user *user),
                               void *context);

/* Called with each vhost, in the order of their names, which is lent. -ENOMEM. */
MUST_CHECK int admin_each_vhost(const struct admin_request *request,
                                void (*visit)(void *context, struct vhost *vhost), void *context);

/* How to order names: as bytes. */
int admin_compare(struct slice a, struct slice b);

/* A reference to the user; NULL, with the answer: there is none. */
struct access_user *admin_user(const struct admin_request *request, struct slice name,
                               struct admin_reply *reply);

#endif
