/* Permissions and topic permissions over HTTP. Both are the same list of expressions of a user; one
 * has an exchange and no configure, and a user may have several in a vhost. */
#include <errno.h>

#include "admin/routes.h"
#include "auth/access.h"

/* --- Showing ---------------------------------------------------------------------------------- */

static json_t *
expressions_json(struct slice user, const struct access_expressions *expressions, bool is_topic)
{
    json_t *json =
        json_pack("{s:o, s:o}", "user", admin_text(user), "vhost", admin_text(expressions->vhost));
    if (is_topic)
        json_object_set_new(json, "exchange", admin_text(expressions->exchange));
    else
        json_object_set_new(json, "configure", admin_text(expressions->texts[ACCESS_CONFIGURE]));
    json_object_set_new(json, "write", admin_text(expressions->texts[ACCESS_WRITE]));
    json_object_set_new(json, "read", admin_text(expressions->texts[ACCESS_READ]));
    return json;
}

/* What is gathered: everything, or what is in the vhost. */
struct gathering {
    json_t *list;
    const struct slice *vhost; /* NULL: any */
    bool is_topic;
};

static void
gather(void *context, const struct access_user *user)
{
    const struct gathering *gathering = context;
    bool is_topic = gathering->is_topic;
    struct access_expressions expressions;
    for (size_t i = 0; is_topic ? access_user_topics(user, i, &expressions)
                                : access_user_permissions(user, i, &expressions);
         i++)
        if (gathering->vhost == NULL || slice_equal(expressions.vhost, *gathering->vhost))
            json_array_append_new(gathering->list,
                                  expressions_json(access_user_name(user), &expressions, is_topic));
}

static void
list_all(const struct admin_request *request, const struct slice *vhost, bool is_topic,
         struct admin_reply *reply)
{
    struct gathering gathering = {json_array(), vhost, is_topic};
    if (admin_each_user(request, gather, &gathering) != 0) {
        json_decref(gathering.list);
        gathering.list = NULL;
    }
    admin_show(reply, gathering.list);
}

/* Those of one user, whom it gives back. */
static json_t *
list_of(struct access_user *user, const struct slice *vhost, bool is_topic)
{
    struct gathering gathering = {json_array(), vhost, is_topic};
    gather(&gathering, user);
    access_user_unref(user);
    return gathering.list;
}

static void
list_of_user(const struct admin_request *request, bool is_topic, struct admin_reply *reply)
{
    struct access_user *user = admin_user(request, request->names[0], reply);
    if (user == NULL)
        return;
    admin_show(reply, list_of(user, NULL, is_topic));
}

void
permissions_list(const struct admin_request *request, struct admin_reply *reply)
{
    list_all(request, NULL, false, reply);
}

void
topics_list(const struct admin_request *request, struct admin_reply *reply)
{
    list_all(request, NULL, true, reply);
}

void
permissions_of_user(const struct admin_request *request, struct admin_reply *reply)
{
    list_of_user(request, false, reply);
}

void
topics_of_user(const struct admin_request *request, struct admin_reply *reply)
{
    list_of_user(request, true, reply);
}

void
permissions_of_vhost(const struct admin_request *request, struct admin_reply *reply)
{
    if (admin_has_vhost(request, request->names[0], reply))
        list_all(request, &request->names[0], false, reply);
}

void
topics_of_vhost(const struct admin_request *request, struct admin_reply *reply)
{
    if (admin_has_vhost(request, request->names[0], reply))
        list_all(request, &request->names[0], true, reply);
}

/* The list of the user's expressions in the vhost, names[1] and names[0]. NULL, with the answer:
 * one of them is not there. */
static json_t *
list_in_vhost(const struct admin_request *request, bool is_topic, struct admin_reply *reply)
{
    if (!admin_has_vhost(request, request->names[0], reply))
        return NULL;
    struct access_user *user = admin_user(request, request->names[1], reply);
    if (user == NULL)
        return NULL;
    return list_of(user, &request->names[0], is_topic);
}

static void
refuse_none(const struct admin_request *request, struct admin_reply *reply)
{
    admin_refuse(reply, HTTP_NOT_FOUND, "user '%.*s' has no such permissions in vhost '%.*s'",
                 SLICE_ARGS(request->names[1]), SLICE_ARGS(request->names[0]));
}

void
permission_show(const struct admin_request *request, struct admin_reply *reply)
{
    json_t *list = list_in_vhost(request, false, reply);
    if (list == NULL)
        return;
    if (json_array_size(list) == 0)
        refuse_none(request, reply);
    else
        admin_show(reply, json_incref(json_array_get(list, 0)));
    json_decref(list);
}

void
topic_show(const struct admin_request *request, struct admin_reply *reply)
{
    json_t *list = list_in_vhost(request, true, reply);
    if (list != NULL)
        admin_show(reply, list);
}

/* --- Changing --------------------------------------------------------------------------------- */

/* Whether the user has any expressions in the vhost, and (if named) for the exchange. */
static bool
has_any(const struct access_user *user, struct slice vhost, const struct slice *exchange,
        bool is_topic)
{
    struct access_expressions expressions;
    for (size_t i = 0; is_topic ? access_user_topics(user, i, &expressions)
                                : access_user_permissions(user, i, &expressions);
         i++)
        if (slice_equal(expressions.vhost, vhost)
            && (exchange == NULL || slice_equal(expressions.exchange, *exchange)))
            return true;
    return false;
}

static int
read_expressions(const struct admin_request *request, bool is_topic,
                 struct access_expressions *expressions, struct admin_reply *reply)
{
    struct slice *texts = expressions->texts;
    *expressions = (struct access_expressions){
        .vhost = request->names[0], .exchange = SLICE(""), .texts = {SLICE("")}};
    if (is_topic
        && admin_field(request, "exchange", true, &expressions->exchange, NULL, reply) != 0)
        return -1;
    if (!is_topic
        && admin_field(request, "configure", true, &texts[ACCESS_CONFIGURE], NULL, reply) != 0)
        return -1;
    if (admin_field(request, "write", true, &texts[ACCESS_WRITE], NULL, reply) != 0
        || admin_field(request, "read", true, &texts[ACCESS_READ], NULL, reply) != 0)
        return -1;
    return 0;
}

static void
put(const struct admin_request *request, bool is_topic, struct admin_reply *reply)
{
    struct access *access = request->subject->server->access;
    struct access_expressions expressions;
    char error[ACCESS_ERROR_MAX] = "";
    if (!admin_has_vhost(request, request->names[0], reply))
        return;
    struct access_user *user = admin_user(request, request->names[1], reply);
    if (user == NULL)
        return;
    if (read_expressions(request, is_topic, &expressions, reply) == 0) {
        bool is_there =
            has_any(user, request->names[0], is_topic ? &expressions.exchange : NULL, is_topic);
        int status = is_topic
                         ? access_topic_set(access, request->names[1], &expressions, error)
                         : access_permissions_set(access, request->names[1], &expressions, error);
        admin_answer(reply, status, is_there ? HTTP_NO_CONTENT : HTTP_CREATED, error);
    }
    access_user_unref(user);
}

/* exchange NULL: of all exchanges. */
static void
clear(const struct admin_request *request, bool is_topic, const struct slice *exchange,
      struct admin_reply *reply)
{
    struct access *access = request->subject->server->access;
    struct slice vhost = request->names[0], name = request->names[1];
    char error[ACCESS_ERROR_MAX] = "";
    if (!admin_has_vhost(request, vhost, reply))
        return;
    struct access_user *user = admin_user(request, name, reply);
    if (user == NULL)
        return;
    if (!has_any(user, vhost, exchange, is_topic)) {
        refuse_none(request, reply);
    } else {
        int status = is_topic ? access_topic_clear(access, name, vhost, exchange != NULL,
                                                   exchange != NULL ? *exchange : SLICE(""), error)
                              : access_permissions_clear(access, name, vhost, error);
        admin_answer(reply, status, HTTP_NO_CONTENT, error);
    }
    access_user_unref(user);
}

void
permission_put(const struct admin_request *request, struct admin_reply *reply)
{
    put(request, false, reply);
}

void
permission_delete(const struct admin_request *request, struct admin_reply *reply)
{
    clear(request, false, NULL, reply);
}

void
topic_put(const struct admin_request *request, struct admin_reply *reply)
{
    put(request, true, reply);
}

void
topics_delete(const struct admin_request *request, struct admin_reply *reply)
{
    clear(request, true, NULL, reply);
}

void
topic_delete(const struct admin_request *request, struct admin_reply *reply)
{
    clear(request, true, &request->names[2], reply);
}
