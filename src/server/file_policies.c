/* The policies of the configuration file: see the header. */
#include "server/file_policies.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "broker/policy.h"

static struct slice
text_or(const char *text, struct slice otherwise)
{
    return text != NULL ? slice_from(text) : otherwise;
}

static struct slice
vhost_of(const struct config_policy *policy)
{
    return text_or(policy->vhost, SLICE("/"));
}

/* --- From the file's structs to declarations -------------------------------------------------- */

static const struct config_list *
list_of(const struct settings *settings, bool is_operator)
{
    return is_operator ? &settings->operator_policies : &settings->policies;
}

/* The definition is the builder's. -EINVAL with the text; -ENOMEM. */
static int
declare(const struct config_policy *policy, bool is_operator, struct amqp_table_builder *builder,
        struct policy_declaration *declaration, char error[POLICY_ERROR_MAX])
{
    const struct config_entry *entries = policy->definition.items;
    for (size_t i = 0; i < policy->definition.count; i++) {
        struct slice name = slice_from(entries[i].name);
        if (entries[i].text != NULL)
            amqp_table_builder_put_string(builder, name, slice_from(entries[i].text));
        else
            amqp_table_builder_put_int64(builder, name, entries[i].number);
    }
    *declaration = (struct policy_declaration){
        .is_operator = is_operator,
        .is_from_file = true,
        .name = slice_from(policy->name),
        .pattern = slice_from(policy->pattern),
        .priority = (int32_t)policy->priority,
        .definition = amqp_table_builder_finish(builder),
    };
    if (amqp_table_builder_failed(builder))
        return -ENOMEM;
    if (policy_target_find(text_or(policy->apply_to, SLICE("all")), &declaration->target))
        return 0;
    snprintf(error, POLICY_ERROR_MAX,
             "apply_to: expected all, exchanges, queues, classic_queues or quorum_queues");
    return -EINVAL;
}

/* --- Checking --------------------------------------------------------------------------------- */

static bool
is_twice(const struct config_policy *policies, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (strcmp(policies[i].name, policies[index].name) == 0
            && slice_equal(vhost_of(&policies[i]), vhost_of(&policies[index])))
            return true;
    return false;
}

static void
check_list(const struct settings *settings, bool is_operator, struct config_errors *errors)
{
    const struct config_policy *policies = list_of(settings, is_operator)->items;
    const char *setting = is_operator ? "operator_policies" : "policies";
    for (size_t i = 0; i < list_of(settings, is_operator)->count; i++) {
        char error[POLICY_ERROR_MAX], name[CONFIG_QUOTE_MAX];
        struct amqp_table_builder builder;
        struct policy_declaration declaration;
        amqp_table_builder_init(&builder);
        int status = declare(&policies[i], is_operator, &builder, &declaration, error);
        if (status == 0)
            status = policy_check(&declaration, error);
        if (status == -ENOMEM)
            snprintf(error, sizeof(error), "out of memory");
        if (status == 0 && is_twice(policies, i)) {
            snprintf(error, sizeof(error), "the vhost has two policies of this name");
            status = -EINVAL;
        }
        if (status != 0)
            config_errors_add(errors, policies[i].line, policies[i].column, "%s: policy \"%s\": %s",
                              setting, config_escape(slice_from(policies[i].name), name), error);
        amqp_table_builder_free(&builder);
    }
}

int
file_policies_check(const struct settings *settings, struct config_errors *errors)
{
    size_t before = errors->total;
    check_list(settings, false, errors);
    check_list(settings, true, errors);
    return errors->total == before ? 0 : -1;
}

/* --- Applying --------------------------------------------------------------------------------- */

/* What is done for one vhost. The queues that are concerned are told when all is done, so that none
 * goes by a state in between, which neither the old file nor the new one meant. */
struct application {
    struct server *server;
    const struct settings *settings;
    struct vhost *vhost;
    struct policy_change *changes;
    size_t count, capacity;
};

/* Room for the next change; NULL: out of memory. */
static struct policy_change *
next_change(struct application *application)
{
    if (application->count == application->capacity) {
        size_t capacity = application->capacity == 0 ? 16 : 2 * application->capacity;
        struct policy_change *grown =
            realloc(application->changes, capacity * sizeof(struct policy_change));
        if (grown == NULL)
            return NULL;
        application->changes = grown;
        application->capacity = capacity;
    }
    return &application->changes[application->count];
}

/* After the call for which next_change made room. */
static int
note_change(struct application *application, int status)
{
    if (status == 0)
        application->count++;
    return status;
}

static int
set(struct application *application, const struct config_policy *policy, bool is_operator,
    char error[POLICY_ERROR_MAX])
{
    struct amqp_table_builder builder;
    struct policy_declaration declaration;
    struct policy_change *change = next_change(application);
    amqp_table_builder_init(&builder);
    int status =
        change == NULL ? -ENOMEM : declare(policy, is_operator, &builder, &declaration, error);
    if (status == 0)
        status =
            note_change(application, policy_set(application->server->broker->catalogue,
                                                application->vhost, &declaration, change, error));
    amqp_table_builder_free(&builder);
    return status;
}

static int
set_all(struct application *application, bool is_operator, char error[POLICY_ERROR_MAX])
{
    const struct config_list *list = list_of(application->settings, is_operator);
    const struct config_policy *policies = list->items;
    int status = 0;
    for (size_t i = 0; i < list->count && status == 0; i++)
        if (slice_equal(vhost_of(&policies[i]), vhost_name(application->vhost)))
            status = set(application, &policies[i], is_operator, error);
    return status;
}

static bool
is_declared(const struct application *application, bool is_operator, struct slice name)
{
    const struct config_list *list = list_of(application->settings, is_operator);
    const struct config_policy *policies = list->items;
    for (size_t i = 0; i < list->count; i++)
        if (slice_is(name, policies[i].name)
            && slice_equal(vhost_of(&policies[i]), vhost_name(application->vhost)))
            return true;
    return false;
}

/* Looks for a policy of the file that the file no longer declares. */
struct search {
    const struct application *application;
    char found[UINT8_MAX + 1]; /* "": none */
};

static void
search(void *context, const struct policy_declaration *policy)
{
    struct search *search = context;
    if (search->found[0] == 0 && policy->is_from_file
        && !is_declared(search->application, policy->is_operator, policy->name))
        snprintf(search->found, sizeof(search->found), "%.*s", SLICE_ARGS(policy->name));
}

static int
clear_others(struct application *application, bool is_operator, char error[POLICY_ERROR_MAX])
{
    struct catalogue *catalogue = application->server->broker->catalogue;
    for (;;) {
        struct search context = {.application = application};
        policy_list(catalogue, application->vhost, is_operator, search, &context);
        if (context.found[0] == 0)
            return 0;
        struct policy_change *change = next_change(application);
        int status =
            change == NULL
                ? -ENOMEM
                : note_change(application,
                              policy_clear(catalogue, application->vhost, is_operator,
                                           slice_from(context.found), true, change, error));
        if (status != 0)
            return status;
    }
}

static int
apply_in(struct server *server, const struct settings *settings, struct vhost *vhost,
         char error[POLICY_ERROR_MAX])
{
    struct application application = {.server = server, .settings = settings, .vhost = vhost};
    int status = 0;
    for (int is_operator = 0; is_operator < 2 && status == 0; is_operator++) {
        status = set_all(&application, is_operator, error);
        if (status == 0)
            status = clear_others(&application, is_operator, error);
    }
    for (size_t i = 0; i < application.count; i++)
        policy_tell(server->workers[0].shard, &application.changes[i]);
    free(application.changes);
    return status;
}

/* Likely a slip; the vhost may also be made later. */
static void
note_unknown_vhosts(struct catalogue *catalogue, const struct config_list *list)
{
    const struct config_policy *policies = list->items;
    for (size_t i = 0; i < list->count; i++) {
        struct vhost *vhost = catalogue_vhost_find(catalogue, vhost_of(&policies[i]));
        if (vhost != NULL)
            vhost_unref(vhost);
        else
            log_warn("a policy is for a vhost that is not there",
                     LOG_STR("policy", policies[i].name),
                     LOG_SLICE("vhost", vhost_of(&policies[i])));
    }
}

int
file_policies_apply(struct server *server, const struct settings *settings,
                    char error[FILE_POLICIES_ERROR_MAX])
{
    struct catalogue *catalogue = server->broker->catalogue;
    char reason[POLICY_ERROR_MAX] = "";
    struct vhost **vhosts;
    size_t count;
    int status = catalogue_vhost_list(catalogue, &vhosts, &count);
    if (status == 0) {
        for (size_t i = 0; i < count; i++) {
            if (status == 0)
                status = apply_in(server, settings, vhosts[i], reason);
            vhost_unref(vhosts[i]);
        }
        free(vhosts);
    }
    snprintf(error, FILE_POLICIES_ERROR_MAX, "policies: %s",
             reason[0] != 0 ? reason : strerror(-status));
    note_unknown_vhosts(catalogue, &settings->policies);
    note_unknown_vhosts(catalogue, &settings->operator_policies);
    return status == 0 ? 0 : -1;
}

int
file_policies_begin(struct server *server, const struct settings *settings,
                    char error[FILE_POLICIES_ERROR_MAX])
{
    int status = file_policies_apply(server, settings, error);
    policy_tell_rest(server->workers[0].shard);
    return status;
}
