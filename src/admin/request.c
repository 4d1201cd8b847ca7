/* What handlers share: see the header. */
#include "admin/request.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "admin/json_table.h"

json_t *
admin_text(struct slice text)
{
    return json_of_bytes(text);
}

/* A reason, which may have been cut. */
static json_t *
reason_text(struct slice text)
{
    /* A cut takes at most three bytes of a character along. */
    for (int i = 0; i < 4; i++) {
        json_t *json = json_stringn(text.data, text.size);
        if (json != NULL || text.size == 0)
            return json;
        text.size--;
    }
    return json_string("(not UTF-8)");
}

/* The word for it, as RabbitMQ has it. */
static const char *
error_word(unsigned status)
{
    static const struct {
        unsigned status;
        const char *word;
    } words[] = {
        {HTTP_BAD_REQUEST, "bad_request"},
        {HTTP_UNAUTHORIZED, "not_authorised"},
        {HTTP_FORBIDDEN, "not_authorised"},
        {HTTP_NOT_FOUND, "Object Not Found"},
        {HTTP_METHOD_NOT_ALLOWED, "Method Not Allowed"},
        {HTTP_CONFLICT, "conflict"},
        {HTTP_PRECONDITION_FAILED, "precondition_failed"},
        {HTTP_CONTENT_TOO_LARGE, "payload_too_large"},
        {HTTP_URI_TOO_LONG, "uri_too_long"},
        {HTTP_SERVICE_UNAVAILABLE, "unavailable"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (words[i].status == status)
            return words[i].word;
    return "internal_error";
}

void
admin_refuse(struct admin_reply *reply, unsigned status, const char *format, ...)
{
    char reason[ADMIN_REASON_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof(reason), format, arguments);
    va_end(arguments);
    json_decref(reply->json);
    buffer_free(&reply->text);
    reply->status = status;
    reply->json = json_pack("{s:s, s:o}", "error", error_word(status), "reason",
                            reason_text(slice_from(reason)));
}

void
admin_answer(struct admin_reply *reply, int status, unsigned done, const char *reason)
{
    static const struct {
        int status;
        unsigned http;
    } meanings[] = {
        {-ENOENT, HTTP_NOT_FOUND},
        {-EPERM, HTTP_CONFLICT},
        {-EINVAL, HTTP_BAD_REQUEST},
        {-ECANCELED, HTTP_SERVICE_UNAVAILABLE},
    };
    unsigned http = HTTP_INTERNAL_SERVER_ERROR;
    for (size_t i = 0; i < ARRAY_SIZE(meanings); i++)
        if (meanings[i].status == status)
            http = meanings[i].http;
    if (status == 0)
        reply->status = done;
    else
        admin_refuse(reply, http, "%s", reason);
}

void
admin_show(struct admin_reply *reply, json_t *json)
{
    reply->status = HTTP_OK;
    reply->json = json;
    if (json == NULL)
        admin_refuse(reply, HTTP_INTERNAL_SERVER_ERROR, "out of memory");
}

int
admin_field(const struct admin_request *request, const char *name, bool is_needed,
            struct slice *value, bool *is_there, struct admin_reply *reply)
{
    const json_t *field = json_object_get(request->body, name);
    bool has_text = json_is_string(field);
    if (is_there != NULL)
        *is_there = has_text;
    *value = SLICE("");
    if (has_text) {
        *value = (struct slice){json_string_value(field), json_string_length(field)};
        return 0;
    }
    if (field == NULL && !is_needed)
        return 0;
    if (field == NULL)
        admin_refuse(reply, HTTP_BAD_REQUEST, "key '%s' is missing", name);
    else
        admin_refuse(reply, HTTP_BAD_REQUEST, "'%s' is not a text", name);
    return -1;
}

struct vhost *
admin_vhost(const struct admin_request *request, struct slice name, struct admin_reply *reply)
{
    struct vhost *vhost = catalogue_vhost_find(request->subject->server->broker->catalogue, name);
    if (vhost == NULL)
        admin_refuse(reply, HTTP_NOT_FOUND, "no vhost '%.*s'", SLICE_ARGS(name));
    return vhost;
}

bool
admin_has_vhost(const struct admin_request *request, struct slice name, struct admin_reply *reply)
{
    struct vhost *vhost = admin_vhost(request, name, reply);
    if (vhost == NULL)
        return false;
    vhost_unref(vhost);
    return true;
}

int
admin_compare(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int
compare_users(const void *a, const void *b)
{
    struct access_user *const *first = a, *const *second = b;
    return admin_compare(access_user_name(*first), access_user_name(*second));
}

int
admin_each_user(const struct admin_request *request,
                void (*visit)(void *context, const struct access_user *user), void *context)
{
    struct access_user **users;
    size_t count;
    int status = access_list(request->subject->server->access, &users, &count);
    if (status != 0)
        return status;
    if (count > 1)
        qsort(users, count, sizeof(users[0]), compare_users);
    for (size_t i = 0; i < count; i++) {
        visit(context, users[i]);
        access_user_unref(users[i]);
    }
    free(users);
    return 0;
}

static int
compare_vhosts(const void *a, const void *b)
{
    struct vhost *const *first = a, *const *second = b;
    return admin_compare(vhost_name(*first), vhost_name(*second));
}

int
admin_each_vhost(const struct admin_request *request,
                 void (*visit)(void *context, struct vhost *vhost), void *context)
{
    struct vhost **vhosts;
    size_t count;
    int status = catalogue_vhost_list(request->subject->server->broker->catalogue, &vhosts, &count);
    if (status != 0)
        return status;
    if (count > 1)
        qsort(vhosts, count, sizeof(struct vhost *), compare_vhosts);
    for (size_t i = 0; i < count; i++) {
        visit(context, vhosts[i]);
        vhost_unref(vhosts[i]);
    }
    free(vhosts);
    return 0;
}

struct access_user *
admin_user(const struct admin_request *request, struct slice name, struct admin_reply *reply)
{
    struct access_user *user = access_user_find(request->subject->server->access, name);
    if (user == NULL)
        admin_refuse(reply, HTTP_NOT_FOUND, "no user '%.*s'", SLICE_ARGS(name));
    return user;
}
