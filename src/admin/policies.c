/* Policies and operator policies over HTTP: the same, in two sets. They are set and cleared on the
 * first worker's thread, from which the queues are told, and which has the configuration's. */
#include <errno.h>
#include <stdio.h>

#include "admin/json_table.h"
#include "admin/routes.h"
#include "broker/policy.h"

/* --- Showing ---------------------------------------------------------------------------------- */

struct gathering {
    struct catalogue *catalogue;
    bool is_operator;
    const struct slice *name; /* NULL: all */
    struct vhost *vhost;
    json_t *list;
    bool is_out_of_memory;
};

/* With the catalogue's mutex held: policies are few. */
static void
gather(void *context, const struct policy_declaration *policy)
{
    struct gathering *gathering = context;
    if (gathering->name != NULL && !slice_equal(policy->name, *gathering->name))
        return;
    json_t *json = json_pack("{s:o, s:o, s:o, s:s, s:o, s:i}", "vhost",
                             admin_text(vhost_name(gathering->vhost)), "name",
                             admin_text(policy->name), "pattern", admin_text(policy->pattern),
                             "apply-to", policy_target_name(policy->target), "definition",
                             json_of_table(policy->definition), "priority", (int)policy->priority);
    gathering->is_out_of_memory |= json_array_append_new(gathering->list, json) != 0;
}

static void
gather_vhost(void *context, struct vhost *vhost)
{
    struct gathering *gathering = context;
    gathering->vhost = vhost;
    policy_list(gathering->catalogue, vhost, gathering->is_operator, gather, gathering);
}

static struct gathering
begin(const struct admin_request *request, bool is_operator, const struct slice *name)
{
    return (struct gathering){.catalogue = request->subject->server->broker->catalogue,
                              .is_operator = is_operator,
                              .list = json_array(),
                              .name = name};
}

/* The list; NULL if something is missing from it. */
static json_t *
finish(struct gathering *gathering)
{
    if (!gathering->is_out_of_memory)
        return gathering->list;
    json_decref(gathering->list);
    return NULL;
}

static void
list_all(const struct admin_request *request, bool is_operator, struct admin_reply *reply)
{
    struct gathering gathering = begin(request, is_operator, NULL);
    gathering.is_out_of_memory |= admin_each_vhost(request, gather_vhost, &gathering) != 0;
    admin_show(reply, finish(&gathering));
}

/* Those of the vhost names[0] (name: of that name). NULL, with the answer. */
static json_t *
list_in_vhost(const struct admin_request *request, bool is_operator, const struct slice *name,
              struct admin_reply *reply)
{
    struct vhost *vhost = admin_vhost(request, request->names[0], reply);
    if (vhost == NULL)
        return NULL;
    struct gathering gathering = begin(request, is_operator, name);
    gather_vhost(&gathering, vhost);
    vhost_unref(vhost);
    json_t *list = finish(&gathering);
    if (list == NULL)
        admin_refuse(reply, HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    return list;
}

static void
list_of_vhost(const struct admin_request *request, bool is_operator, struct admin_reply *reply)
{
    json_t *list = list_in_vhost(request, is_operator, NULL, reply);
    if (list != NULL)
        admin_show(reply, list);
}

static void
refuse_none(const struct admin_request *request, bool is_operator, struct admin_reply *reply)
{
    admin_refuse(reply, HTTP_NOT_FOUND, "no %spolicy '%.*s' in vhost '%.*s'",
                 is_operator ? "operator " : "", SLICE_ARGS(request->names[1]),
                 SLICE_ARGS(request->names[0]));
}

static void
show(const struct admin_request *request, bool is_operator, struct admin_reply *reply)
{
    json_t *list = list_in_vhost(request, is_operator, &request->names[1], reply);
    if (list == NULL)
        return;
    if (json_array_size(list) == 0)
        refuse_none(request, is_operator, reply);
    else
        admin_show(reply, json_incref(json_array_get(list, 0)));
    json_decref(list);
}

/* --- Changing --------------------------------------------------------------------------------- */

struct policy_job {
    struct server *server;
    struct vhost *vhost;
    struct policy_declaration declaration; /* to be cleared: set and name */
    bool only_new;
    bool is_there; /* it was */
    struct policy_change change;
    int status;
    char reason[POLICY_ERROR_MAX];
};

static void
look(void *context, const struct policy_declaration *policy)
{
    struct policy_job *job = context;
    job->is_there |= slice_equal(policy->name, job->declaration.name);
}

static void
set(struct policy_job *job)
{
    struct catalogue *catalogue = job->server->broker->catalogue;
    policy_list(catalogue, job->vhost, job->declaration.is_operator, look, job);
    if (job->is_there && job->only_new)
        return;
    job->status = policy_set(catalogue, job->vhost, &job->declaration, &job->change, job->reason);
}

static void
clear(struct policy_job *job)
{
    job->status =
        policy_clear(job->server->broker->catalogue, job->vhost, job->declaration.is_operator,
                     job->declaration.name, false, &job->change, job->reason);
}

/* On the first worker's thread. */
static void
tell_some(void *context)
{
    struct policy_job *job = context;
    (void)policy_tell_some(job->server->workers[0].shard, &job->change);
}

/* Finding the queues that a change concerns takes as long as there are many of them: this thread
 * has the time. And it waits until all are told, so that changes come no faster than queues can
 * hear of them. */
static void
do_job(struct policy_job *job, void (*run)(struct policy_job *job))
{
    run(job);
    while (job->change.queues != NULL && server_call(job->server, tell_some, job) == 0)
        continue;
    free(job->change.queues); /* the broker stops */
    job->change = (struct policy_change){0};
    if (job->status == -ENOENT)
        snprintf(job->reason, sizeof(job->reason), "vhost '%.*s' has been removed",
                 SLICE_ARGS(vhost_name(job->vhost)));
    else if (job->status == -ENOMEM)
        snprintf(job->reason, sizeof(job->reason), "out of memory");
}

/* --- What is asked for ------------------------------------------------------------------------ */

static int
read_priority(const struct admin_request *request, int32_t *priority, struct admin_reply *reply)
{
    const json_t *value = json_object_get(request->body, "priority");
    *priority = 0;
    if (value == NULL)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < INT32_MIN
        || json_integer_value(value) > INT32_MAX) {
        admin_refuse(reply, HTTP_BAD_REQUEST, "priority should be an integer of 32 bits");
        return -1;
    }
    *priority = (int32_t)json_integer_value(value);
    return 0;
}

static int
read_target(const struct admin_request *request, enum policy_target *target,
            struct admin_reply *reply)
{
    struct slice text;
    bool is_there;
    if (admin_field(request, "apply-to", false, &text, &is_there, reply) != 0)
        return -1;
    *target = POLICY_ALL;
    if (!is_there || policy_target_find(text, target))
        return 0;
    admin_refuse(reply, HTTP_BAD_REQUEST,
                 "apply-to '%.*s' unrecognised; should be 'queues', 'exchanges', "
                 "'classic_queues', 'quorum_queues' or 'all'",
                 SLICE_ARGS(text));
    return -1;
}

/* The definition is the builder's. */
static int
read_definition(const struct admin_request *request, struct amqp_table_builder *builder,
                struct slice *definition, struct admin_reply *reply)
{
    const json_t *value = json_object_get(request->body, "definition");
    if (value == NULL || !json_is_object(value)) {
        admin_refuse(reply, HTTP_BAD_REQUEST,
                     value == NULL ? "key 'definition' is missing"
                                   : "'definition' is not an object");
        return -1;
    }
    int status = json_to_table(value, builder);
    *definition = amqp_table_builder_finish(builder);
    if (status == 0 && !amqp_table_builder_failed(builder))
        return 0;
    if (status == -EINVAL)
        admin_refuse(reply, HTTP_BAD_REQUEST,
                     "'definition' has a name of more than 255 bytes, or nests too deep");
    else
        admin_refuse(reply, HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    return -1;
}

/* The body as a declaration. -1 with the answer. */
static int
read_declaration(const struct admin_request *request, struct amqp_table_builder *builder,
                 struct policy_declaration *declaration, struct admin_reply *reply)
{
    return admin_field(request, "pattern", true, &declaration->pattern, NULL, reply) == 0
                   && read_definition(request, builder, &declaration->definition, reply) == 0
                   && read_target(request, &declaration->target, reply) == 0
                   && read_priority(request, &declaration->priority, reply) == 0
               ? 0
               : -1;
}

static void
put(const struct admin_request *request, bool is_operator, struct admin_reply *reply)
{
    struct amqp_table_builder builder;
    struct policy_job job = {
        .server = request->subject->server,
        .declaration = {.is_operator = is_operator, .name = request->names[1]},
        .only_new = request->only_new,
    };
    job.vhost = admin_vhost(request, request->names[0], reply);
    if (job.vhost == NULL)
        return;
    amqp_table_builder_init(&builder);
    if (read_declaration(request, &builder, &job.declaration, reply) == 0) {
        do_job(&job, set);
        if (job.status == 0 && job.is_there && job.only_new)
            admin_refuse(reply, HTTP_PRECONDITION_FAILED, "policy '%.*s' exists",
                         SLICE_ARGS(request->names[1]));
        else
            admin_answer(reply, job.status, job.is_there ? HTTP_NO_CONTENT : HTTP_CREATED,
                         job.reason);
    }
    amqp_table_builder_free(&builder);
    vhost_unref(job.vhost);
}

static void
remove_policy(const struct admin_request *request, bool is_operator, struct admin_reply *reply)
{
    struct policy_job job = {
        .server = request->subject->server,
        .declaration = {.is_operator = is_operator, .name = request->names[1]},
    };
    job.vhost = admin_vhost(request, request->names[0], reply);
    if (job.vhost == NULL)
        return;
    do_job(&job, clear);
    if (job.status == -ENOENT)
        refuse_none(request, is_operator, reply);
    else
        admin_answer(reply, job.status, HTTP_NO_CONTENT, job.reason);
    vhost_unref(job.vhost);
}

/* --- The handlers ----------------------------------------------------------------------------- */

void
policies_list(const struct admin_request *request, struct admin_reply *reply)
{
    list_all(request, false, reply);
}

void
operator_policies_list(const struct admin_request *request, struct admin_reply *reply)
{
    list_all(request, true, reply);
}

void
policies_of_vhost(const struct admin_request *request, struct admin_reply *reply)
{
    list_of_vhost(request, false, reply);
}

void
operator_policies_of_vhost(const struct admin_request *request, struct admin_reply *reply)
{
    list_of_vhost(request, true, reply);
}

void
policy_show(const struct admin_request *request, struct admin_reply *reply)
{
    show(request, false, reply);
}

void
operator_policy_show(const struct admin_request *request, struct admin_reply *reply)
{
    show(request, true, reply);
}

void
policy_put(const struct admin_request *request, struct admin_reply *reply)
{
    put(request, false, reply);
}

void
operator_policy_put(const struct admin_request *request, struct admin_reply *reply)
{
    put(request, true, reply);
}

void
policy_delete(const struct admin_request *request, struct admin_reply *reply)
{
    remove_policy(request, false, reply);
}

void
operator_policy_delete(const struct admin_request *request, struct admin_reply *reply)
{
    remove_policy(request, true, reply);
}
