/* whippetctl's verbs: see the header. They have the names and arguments of rabbitmqctl's. */
#include "ctl/verbs.h"

#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "ctl/text.h"

#define PATH(...)                                                                                  \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/* --- Asking ----------------------------------------------------------------------------------- */

/* A change, of whose answer only the status matters. */
static int
change(const struct verb_call *call, const char *method, const char *const *path, json_t *body,
       bool only_new)
{
    json_t *answer;
    int status = client_ask(call->client, method, path, body, only_new, &answer);
    if (status == 0)
        json_decref(answer);
    return status;
}

/* The same with a body, which could not be made if an argument is not UTF-8. */
static int
change_to(const struct verb_call *call, const char *method, const char *const *path, json_t *body)
{
    if (body == NULL) {
        fputs("whippetctl: an argument is not UTF-8\n", stderr);
        return -1;
    }
    return change(call, method, path, body, false);
}

static int
list(const struct verb_call *call, const char *const *path, const struct text_column *columns)
{
    json_t *answer;
    int status = client_ask(call->client, "GET", path, NULL, false, &answer);
    if (status != 0)
        return status;
    if (call->wants_json)
        status = text_json(answer, columns, stdout);
    else
        text_table(answer, columns, stdout);
    json_decref(answer);
    return status;
}

/* A body with the password of standard input, and with tags if there are to be some. */
static json_t *
password_body(bool is_new, json_t *tags)
{
    char password[TEXT_PASSWORD_MAX];
    json_t *body = NULL;
    if (text_read_password(password, is_new) == 0) {
        body = json_pack("{s:s, s:o*}", "password", password, "tags", tags);
        if (body == NULL)
            fputs("whippetctl: the password is not UTF-8\n", stderr);
    } else {
        json_decref(tags);
    }
    explicit_bzero(password, sizeof(password));
    return body;
}

/* --- Users ------------------------------------------------------------------------------------ */

static int
list_users(const struct verb_call *call)
{
    static const struct text_column columns[] = {{"name", "user"}, {"tags", "tags"}, {NULL, NULL}};
    return list(call, PATH("users"), columns);
}

static int
add_user(const struct verb_call *call)
{
    json_t *body = password_body(true, json_array());
    return body == NULL ? -1 : change(call, "PUT", PATH("users", call->arguments[0]), body, true);
}

static int
delete_user(const struct verb_call *call)
{
    return change(call, "DELETE", PATH("users", call->arguments[0]), NULL, false);
}

static int
change_password(const struct verb_call *call)
{
    json_t *body = password_body(true, NULL);
    return body == NULL ? -1
                        : change(call, "PATCH", PATH("users", call->arguments[0]), body, false);
}

static int
clear_password(const struct verb_call *call)
{
    return change_to(call, "PATCH", PATH("users", call->arguments[0]),
                     json_pack("{s:s}", "password_hash", ""));
}

static int
set_user_tags(const struct verb_call *call)
{
    json_t *tags = json_array();
    int status = 0;
    for (int i = 1; i < call->count && status == 0; i++)
        status = json_array_append_new(tags, json_string(call->arguments[i]));
    json_t *body = status == 0 ? json_pack("{s:O}", "tags", tags) : NULL;
    json_decref(tags);
    return change_to(call, "PATCH", PATH("users", call->arguments[0]), body);
}

static int
authenticate_user(const struct verb_call *call)
{
    json_t *body = password_body(false, NULL);
    if (body == NULL
        || change(call, "POST", PATH("users", call->arguments[0], "authenticate"), body, false)
               != 0)
        return -1;
    puts(call->wants_json ? "true" : "Success");
    return 0;
}

/* --- Vhosts ----------------------------------------------------------------------------------- */

static int
list_vhosts(const struct verb_call *call)
{
    static const struct text_column columns[] = {{"name", "name"}, {NULL, NULL}};
    return list(call, PATH("vhosts"), columns);
}

static int
add_vhost(const struct verb_call *call)
{
    return change(call, "PUT", PATH("vhosts", call->arguments[0]), NULL, true);
}

static int
delete_vhost(const struct verb_call *call)
{
    return change(call, "DELETE", PATH("vhosts", call->arguments[0]), NULL, false);
}

/* --- Permissions ------------------------------------------------------------------------------ */

static int
set_permissions(const struct verb_call *call)
{
    const char *const *a = call->arguments;
    return change_to(call, "PUT", PATH("permissions", call->vhost, a[0]),
                     json_pack("{s:s, s:s, s:s}", "configure", a[1], "write", a[2], "read", a[3]));
}

static int
clear_permissions(const struct verb_call *call)
{
    return change(call, "DELETE", PATH("permissions", call->vhost, call->arguments[0]), NULL,
                  false);
}

static int
list_permissions(const struct verb_call *call)
{
    static const struct text_column columns[] = {{"user", "user"},
                                                 {"configure", "configure"},
                                                 {"write", "write"},
                                                 {"read", "read"},
                                                 {NULL, NULL}};
    return list(call, PATH("vhosts", call->vhost, "permissions"), columns);
}

static int
list_user_permissions(const struct verb_call *call)
{
    static const struct text_column columns[] = {{"vhost", "vhost"},
                                                 {"configure", "configure"},
                                                 {"write", "write"},
                                                 {"read", "read"},
                                                 {NULL, NULL}};
    return list(call, PATH("users", call->arguments[0], "permissions"), columns);
}

static int
set_topic_permissions(const struct verb_call *call)
{
    const char *const *a = call->arguments;
    return change_to(call, "PUT", PATH("topic-permissions", call->vhost, a[0]),
                     json_pack("{s:s, s:s, s:s}", "exchange", a[1], "write", a[2], "read", a[3]));
}

/* Without an exchange the path ends earlier. */
static int
clear_topic_permissions(const struct verb_call *call)
{
    const char *const *a = call->arguments;
    return change(call, "DELETE", PATH("topic-permissions", call->vhost, a[0], a[1]), NULL, false);
}

static int
list_topic_permissions(const struct verb_call *call)
{
    static const struct text_column columns[] = {{"user", "user"},
                                                 {"exchange", "exchange"},
                                                 {"write", "write"},
                                                 {"read", "read"},
                                                 {NULL, NULL}};
    return list(call, PATH("vhosts", call->vhost, "topic-permissions"), columns);
}

static int
list_user_topic_permissions(const struct verb_call *call)
{
    static const struct text_column columns[] = {{"vhost", "vhost"},
                                                 {"exchange", "exchange"},
                                                 {"write", "write"},
                                                 {"read", "read"},
                                                 {NULL, NULL}};
    return list(call, PATH("users", call->arguments[0], "topic-permissions"), columns);
}

/* --- The table -------------------------------------------------------------------------------- */

static const struct verb verbs[] = {
    {"list_users", "", "list all users and their tags", 0, 0, false, list_users},
    {"add_user", "USER", "make a user; the password is read from standard input", 1, 1, false,
     add_user},
    {"delete_user", "USER", "delete a user, and close his connections", 1, 1, false, delete_user},
    {"change_password", "USER", "give a user another password, read from standard input", 1, 1,
     false, change_password},
    {"clear_password", "USER", "forbid a user to log in by password", 1, 1, false, clear_password},
    {"set_user_tags", "USER [TAG...]", "give a user these tags, and no others", 1,
     VERB_ARGUMENTS_ANY, false, set_user_tags},
    {"authenticate_user", "USER",
     "tell whether a password, read from standard input, is the user's", 1, 1, false,
     authenticate_user},
    {"list_vhosts", "", "list all vhosts", 0, 0, false, list_vhosts},
    {"add_vhost", "VHOST", "make a vhost", 1, 1, false, add_vhost},
    {"delete_vhost", "VHOST", "delete a vhost with all that is in it", 1, 1, false, delete_vhost},
    {"set_permissions", "USER CONFIGURE WRITE READ", "set a user's permissions in a vhost", 4, 4,
     true, set_permissions},
    {"clear_permissions", "USER", "take a user's permissions in a vhost away", 1, 1, true,
     clear_permissions},
    {"list_permissions", "", "list the permissions in a vhost", 0, 0, true, list_permissions},
    {"list_user_permissions", "USER", "list a user's permissions in all vhosts", 1, 1, false,
     list_user_permissions},
    {"set_topic_permissions", "USER EXCHANGE WRITE READ",
     "set a user's permissions on the routing keys of an exchange", 4, 4, true,
     set_topic_permissions},
    {"clear_topic_permissions", "USER [EXCHANGE]", "take them away, of one exchange or of all", 1,
     2, true, clear_topic_permissions},
    {"list_topic_permissions", "", "list the topic permissions in a vhost", 0, 0, true,
     list_topic_permissions},
    {"list_user_topic_permissions", "USER", "list a user's topic permissions in all vhosts", 1, 1,
     false, list_user_topic_permissions},
};

const struct verb *
verb_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

const struct verb *
verb_at(int index)
{
    return index >= 0 && (size_t)index < ARRAY_SIZE(verbs) ? &verbs[index] : NULL;
}
