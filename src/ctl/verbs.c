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
    const struct client_question question = {
        .method = method, .parts = path, .body = body, .only_new = only_new};
    json_t *answer;
    int status = client_ask(call->client, &question, &answer);
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

/* wanted: as struct client_question's columns. */
static int
list_some(const struct verb_call *call, const char *const *path, const char *wanted,
          const struct text_column *columns)
{
    const struct client_question question = {.method = "GET", .parts = path, .columns = wanted};
    json_t *answer;
    int status = client_ask(call->client, &question, &answer);
    if (status != 0)
        return status;
    if (call->wants_json)
        status = text_json(answer, columns, stdout);
    else
        text_table(answer, columns, stdout);
    json_decref(answer);
    return status;
}

static int
list(const struct verb_call *call, const char *const *path, const struct text_column *columns)
{
    return list_some(call, path, NULL, columns);
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

/* --- Policies --------------------------------------------------------------------------------- */

static int
set(const struct verb_call *call, const char *set_name)
{
    const char *const *a = call->arguments;
    json_error_t error;
    json_t *definition = json_loads(a[2], JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(definition)) {
        fprintf(stderr, "whippetctl: the definition is not a JSON object%s%s\n",
                definition == NULL ? ": " : "", definition == NULL ? error.text : "");
        json_decref(definition);
        return -1;
    }
    return change_to(call, "PUT", PATH(set_name, call->vhost, a[0]),
                     json_pack("{s:s, s:o, s:i, s:s*}", "pattern", a[1], "definition", definition,
                               "priority", call->priority, "apply-to", call->apply_to));
}

static int
clear(const struct verb_call *call, const char *set_name)
{
    return change(call, "DELETE", PATH(set_name, call->vhost, call->arguments[0]), NULL, false);
}

static int
list_set(const struct verb_call *call, const char *set_name)
{
    static const struct text_column columns[] = {{"vhost", "vhost"},
                                                 {"name", "name"},
                                                 {"pattern", "pattern"},
                                                 {"apply-to", "apply-to"},
                                                 {"definition", "definition"},
                                                 {"priority", "priority"},
                                                 {NULL, NULL}};
    return list(call, PATH(set_name, call->vhost), columns);
}

static int
set_policy(const struct verb_call *call)
{
    return set(call, "policies");
}

static int
clear_policy(const struct verb_call *call)
{
    return clear(call, "policies");
}

static int
list_policies(const struct verb_call *call)
{
    return list_set(call, "policies");
}

static int
set_operator_policy(const struct verb_call *call)
{
    return set(call, "operator-policies");
}

static int
clear_operator_policy(const struct verb_call *call)
{
    return clear(call, "operator-policies");
}

static int
list_operator_policies(const struct verb_call *call)
{
    return list_set(call, "operator-policies");
}

/* --- Queues and exchanges --------------------------------------------------------------------- */

enum { COLUMNS_MAX = VERB_ARGUMENTS_ANY, COLUMNS_SIZE = 2048 };

/* Lists those columns that are among the known ones (up to a NULL), or the first two. */
static int
list_columns(const struct verb_call *call, const char *kind, const char *const *known)
{
    const char *const *chosen = call->count > 0 ? call->arguments : known;
    const int count = call->count > 0 ? call->count : 2;
    struct text_column columns[COLUMNS_MAX + 1] = {{NULL, NULL}};
    char wanted[COLUMNS_SIZE];
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        const char *const *column = known;
        while (*column != NULL && strcmp(*column, chosen[i]) != 0)
            column++;
        if (*column == NULL) {
            fputs("whippetctl: no such column: ", stderr);
            text_print(slice_from(chosen[i]), stderr);
            fprintf(stderr, "; there are");
            for (column = known; *column != NULL; column++)
                fprintf(stderr, " %s", *column);
            fputc('\n', stderr);
            return -1;
        }
        columns[i] = (struct text_column){*column, *column};
        size += (size_t)snprintf(wanted + size, sizeof(wanted) - size, "%s%s", i > 0 ? "," : "",
                                 *column);
        if (size >= sizeof(wanted)) {
            fputs("whippetctl: the columns are too many\n", stderr);
            return -1;
        }
    }
    return list_some(call, PATH(kind, call->vhost), wanted, columns);
}

static int
list_queues(const struct verb_call *call)
{
    static const char *const columns[] = {"name",
                                          "messages",
                                          "messages_ready",
                                          "messages_unacknowledged",
                                          "consumers",
                                          "message_bytes",
                                          "message_bytes_ready",
                                          "message_bytes_unacknowledged",
                                          "memory",
                                          "type",
                                          "state",
                                          "durable",
                                          "auto_delete",
                                          "exclusive",
                                          "arguments",
                                          "policy",
                                          "operator_policy",
                                          "effective_policy_definition",
                                          "vhost",
                                          NULL};
    return list_columns(call, "queues", columns);
}

static int
list_exchanges(const struct verb_call *call)
{
    static const char *const columns[] = {
        "name", "type", "durable", "auto_delete", "internal", "arguments", "policy", "vhost", NULL};
    return list_columns(call, "exchanges", columns);
}

/* --- The table -------------------------------------------------------------------------------- */

static const struct verb verbs[] = {
    {"list_users", "", "list all users and their tags", 0, 0, VERB_PLAIN, list_users},
    {"add_user", "USER", "make a user; the password is read from standard input", 1, 1, VERB_PLAIN,
     add_user},
    {"delete_user", "USER", "delete a user, and close his connections", 1, 1, VERB_PLAIN,
     delete_user},
    {"change_password", "USER", "give a user another password, read from standard input", 1, 1,
     VERB_PLAIN, change_password},
    {"clear_password", "USER", "forbid a user to log in by password", 1, 1, VERB_PLAIN,
     clear_password},
    {"set_user_tags", "USER [TAG...]", "give a user these tags, and no others", 1,
     VERB_ARGUMENTS_ANY, VERB_PLAIN, set_user_tags},
    {"authenticate_user", "USER",
     "tell whether a password, read from standard input, is the user's", 1, 1, VERB_PLAIN,
     authenticate_user},
    {"list_vhosts", "", "list all vhosts", 0, 0, VERB_PLAIN, list_vhosts},
    {"add_vhost", "VHOST", "make a vhost", 1, 1, VERB_PLAIN, add_vhost},
    {"delete_vhost", "VHOST", "delete a vhost with all that is in it", 1, 1, VERB_PLAIN,
     delete_vhost},
    {"set_permissions", "USER CONFIGURE WRITE READ", "set a user's permissions in a vhost", 4, 4,
     VERB_VHOST, set_permissions},
    {"clear_permissions", "USER", "take a user's permissions in a vhost away", 1, 1, VERB_VHOST,
     clear_permissions},
    {"list_permissions", "", "list the permissions in a vhost", 0, 0, VERB_VHOST, list_permissions},
    {"list_user_permissions", "USER", "list a user's permissions in all vhosts", 1, 1, VERB_PLAIN,
     list_user_permissions},
    {"set_topic_permissions", "USER EXCHANGE WRITE READ",
     "set a user's permissions on the routing keys of an exchange", 4, 4, VERB_VHOST,
     set_topic_permissions},
    {"clear_topic_permissions", "USER [EXCHANGE]", "take them away, of one exchange or of all", 1,
     2, VERB_VHOST, clear_topic_permissions},
    {"list_topic_permissions", "", "list the topic permissions in a vhost", 0, 0, VERB_VHOST,
     list_topic_permissions},
    {"list_user_topic_permissions", "USER", "list a user's topic permissions in all vhosts", 1, 1,
     VERB_PLAIN, list_user_topic_permissions},
    {"set_policy", "[--priority INTEGER] [--apply-to TARGET] NAME PATTERN DEFINITION",
     "make or replace a policy; the definition is JSON", 3, 3, VERB_POLICY, set_policy},
    {"clear_policy", "NAME", "take a policy away", 1, 1, VERB_VHOST, clear_policy},
    {"list_policies", "", "list the policies of a vhost", 0, 0, VERB_VHOST, list_policies},
    {"set_operator_policy", "[--priority INTEGER] [--apply-to TARGET] NAME PATTERN DEFINITION",
     "make or replace an operator policy", 3, 3, VERB_POLICY, set_operator_policy},
    {"clear_operator_policy", "NAME", "take an operator policy away", 1, 1, VERB_VHOST,
     clear_operator_policy},
    {"list_operator_policies", "", "list the operator policies of a vhost", 0, 0, VERB_VHOST,
     list_operator_policies},
    {"list_queues", "[COLUMN...]", "list the queues of a vhost; name and messages, unless told", 0,
     VERB_ARGUMENTS_ANY, VERB_VHOST, list_queues},
    {"list_exchanges", "[COLUMN...]", "list the exchanges of a vhost; name and type, unless told",
     0, VERB_ARGUMENTS_ANY, VERB_VHOST, list_exchanges},
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
