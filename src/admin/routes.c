/* The routes: see the header. Paths and bodies are those of RabbitMQ's management API; what it does
 * not have is said so. */
#include "admin/routes.h"

#include <stdio.h>

static admin_handler routes_list;

static const struct route_entry {
    const char *method, *path;
    admin_handler *handle;
    const char *summary;
} routes[] = {
    {"GET", "/api", routes_list, "what can be asked here"},
    {"GET", "/api/whoami", whoami, "the process that asks"},
    {"GET", "/api/users", users_list, "all users"},
    {"GET", "/api/users/{user}", user_show, "a user"},
    {"PUT", "/api/users/{user}", user_put,
     "make or replace a user: password, or password_hash and hashing_algorithm; tags"},
    {"PATCH", "/api/users/{user}", user_patch,
     "change a user's password, password_hash or tags only (not RabbitMQ's)"},
    {"DELETE", "/api/users/{user}", user_delete, "delete a user, and close his connections"},
    {"POST", "/api/users/{user}/authenticate", user_authenticate,
     "whether a password is the user's (not RabbitMQ's)"},
    {"GET", "/api/users/{user}/permissions", permissions_of_user, "a user's permissions"},
    {"GET", "/api/users/{user}/topic-permissions", topics_of_user, "a user's topic permissions"},
    {"GET", "/api/vhosts", vhosts_list, "all vhosts"},
    {"GET", "/api/vhosts/{vhost}", vhost_show, "a vhost"},
    {"PUT", "/api/vhosts/{vhost}", vhost_put, "make a vhost"},
    {"DELETE", "/api/vhosts/{vhost}", vhost_delete,
     "delete a vhost with all that is in it, and close its connections"},
    {"GET", "/api/vhosts/{vhost}/permissions", permissions_of_vhost, "the permissions in a vhost"},
    {"GET", "/api/vhosts/{vhost}/topic-permissions", topics_of_vhost,
     "the topic permissions in a vhost"},
    {"GET", "/api/permissions", permissions_list, "all permissions"},
    {"GET", "/api/permissions/{vhost}/{user}", permission_show, "a user's permissions in a vhost"},
    {"PUT", "/api/permissions/{vhost}/{user}", permission_put,
     "set a user's permissions in a vhost: configure, write, read"},
    {"DELETE", "/api/permissions/{vhost}/{user}", permission_delete,
     "take a user's permissions in a vhost away"},
    {"GET", "/api/topic-permissions", topics_list, "all topic permissions"},
    {"GET", "/api/topic-permissions/{vhost}/{user}", topic_show,
     "a user's topic permissions in a vhost"},
    {"PUT", "/api/topic-permissions/{vhost}/{user}", topic_put,
     "set a user's topic permission on an exchange: exchange, write, read"},
    {"DELETE", "/api/topic-permissions/{vhost}/{user}", topics_delete,
     "take a user's topic permissions in a vhost away"},
    {"DELETE", "/api/topic-permissions/{vhost}/{user}/{exchange}", topic_delete,
     "take a user's topic permission on one exchange away (not RabbitMQ's)"},
    {"GET", "/api/policies", policies_list, "all policies"},
    {"GET", "/api/policies/{vhost}", policies_of_vhost, "the policies of a vhost"},
    {"GET", "/api/policies/{vhost}/{policy}", policy_show, "a policy"},
    {"PUT", "/api/policies/{vhost}/{policy}", policy_put,
     "make or replace a policy: pattern, definition; apply-to, priority"},
    {"DELETE", "/api/policies/{vhost}/{policy}", policy_delete, "clear a policy"},
    {"GET", "/api/operator-policies", operator_policies_list, "all operator policies"},
    {"GET", "/api/operator-policies/{vhost}", operator_policies_of_vhost,
     "the operator policies of a vhost"},
    {"GET", "/api/operator-policies/{vhost}/{policy}", operator_policy_show, "an operator policy"},
    {"PUT", "/api/operator-policies/{vhost}/{policy}", operator_policy_put,
     "make or replace an operator policy: pattern, definition; apply-to, priority"},
    {"DELETE", "/api/operator-policies/{vhost}/{policy}", operator_policy_delete,
     "clear an operator policy"},
    {"GET", "/api/queues", queues_list, "all queues; ?columns=name,... is less of each"},
    {"GET", "/api/queues/{vhost}", queues_of_vhost, "the queues of a vhost"},
    {"GET", "/api/queues/{vhost}/{queue}", queue_show, "a queue"},
    {"GET", "/api/exchanges", exchanges_list, "all exchanges; ?columns=name,... is less of each"},
    {"GET", "/api/exchanges/{vhost}", exchanges_of_vhost, "the exchanges of a vhost"},
    {"GET", "/api/exchanges/{vhost}/{exchange}", exchange_show,
     "an exchange; the default one is amq.default"},
};

static void
routes_list(const struct admin_request *request, struct admin_reply *reply)
{
    (void)request;
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "method", routes[i].method, "path",
                                              routes[i].path, "summary", routes[i].summary));
    admin_show(reply, list);
}

/* Whether the path is of this form; *names are what stands in the braces' place. */
static bool
matches(const char *form, const struct admin_path *path, struct slice names[ADMIN_PATH_PARTS])
{
    size_t name_count = 0;
    for (size_t i = 0; i < path->count; i++) {
        if (*form != '/')
            return false;
        form++;
        const struct slice part = {form, strcspn(form, "/")};
        if (part.data[0] == '{' && path->parts[i].size > 0)
            names[name_count++] = path->parts[i];
        else if (!slice_equal(part, path->parts[i]))
            return false;
        form += part.size;
    }
    return *form == 0;
}

/* One of the methods that the path has, and all of them in a header's form. */
static const struct route_entry *
find(const char *method, const struct admin_path *path, struct admin_request *request,
     char allow[64])
{
    size_t size = 0;
    allow[0] = 0;
    if (strcmp(method, "HEAD") == 0) /* what HTTP asks for; the answer's content is not sent */
        method = "GET";
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
        if (!matches(routes[i].path, path, request->names))
            continue;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        size += (size_t)snprintf(allow + size, 64 - size, "%s%s", size > 0 ? ", " : "",
                                 routes[i].method);
    }
    return NULL;
}

void
routes_handle(const char *method, const struct admin_path *path, struct admin_request *request,
              struct admin_reply *reply)
{
    static char allow[64]; /* of the admin's one thread */
    const struct route_entry *route = find(method, path, request, allow);
    if (route != NULL) {
        route->handle(request, reply);
    } else if (allow[0] != 0) {
        admin_refuse(reply, HTTP_METHOD_NOT_ALLOWED, "this path has %s only", allow);
        reply->allow = allow;
    } else {
        admin_refuse(reply, HTTP_NOT_FOUND, "no such path; GET /api lists those that there are");
    }
}
