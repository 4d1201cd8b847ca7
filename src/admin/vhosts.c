/* Vhosts over HTTP. They are made and removed on the first worker's thread: removing queues begins
 * there, and it has the configuration, whose vhosts are not for others to remove. */
#include <errno.h>
#include <stdio.h>

#include "admin/routes.h"
#include "server/file_policies.h"

enum { VHOST_NAME_MAX = 255 }; /* of connection.open: a short string */

struct vhost_change {
    const struct admin_subject *subject;
    struct slice name;
    bool is_there; /* it was */
    int status;
    char reason[ADMIN_REASON_MAX];
};

/* --- Showing ---------------------------------------------------------------------------------- */

static json_t *
vhost_json(struct slice name)
{
    return json_pack("{s:o, s:b}", "name", admin_text(name), "tracing", 0);
}

static void
gather(void *list, struct vhost *vhost)
{
    json_array_append_new(list, vhost_json(vhost_name(vhost)));
}

void
vhosts_list(const struct admin_request *request, struct admin_reply *reply)
{
    json_t *list = json_array();
    if (admin_each_vhost(request, gather, list) != 0) {
        json_decref(list);
        list = NULL;
    }
    admin_show(reply, list);
}

void
vhost_show(const struct admin_request *request, struct admin_reply *reply)
{
    if (admin_has_vhost(request, request->names[0], reply))
        admin_show(reply, vhost_json(request->names[0]));
}

/* --- Changing, on the first worker's thread --------------------------------------------------- */

static void
add(void *context)
{
    struct vhost_change *change = context;
    change->status = catalogue_vhost_add(change->subject->server->broker->catalogue, change->name);
    change->is_there = change->status == -EEXIST;
    /* The configuration file may have policies for it. */
    if (change->status == 0
        && file_policies_apply(change->subject->server, change->subject->settings, change->reason)
               != 0)
        change->status = -ENOMEM;
}

static bool
is_from_file(const struct settings *settings, struct slice name)
{
    const struct config_vhost *vhosts = settings->vhosts.items;
    for (size_t i = 0; i < settings->vhosts.count; i++)
        if (slice_is(name, vhosts[i].name))
            return true;
    return false;
}

static void
remove_vhost(void *context)
{
    struct vhost_change *change = context;
    if (is_from_file(change->subject->settings, change->name)) {
        snprintf(change->reason, sizeof(change->reason),
                 "vhost '%.*s' is declared by the configuration file, and would be made again",
                 SLICE_ARGS(change->name));
        change->status = -EPERM;
        return;
    }
    change->status = server_remove_vhost(change->subject->server, change->name);
    snprintf(change->reason, sizeof(change->reason),
             change->status == -ENOENT ? "no vhost '%.*s'" : "vhost '%.*s' cannot be removed",
             SLICE_ARGS(change->name));
}

/* Has it done; the status is then the change's own. */
static void
do_change(struct vhost_change *change, void (*run)(void *context))
{
    int status = server_call(change->subject->server, run, change);
    if (status == 0)
        return;
    change->status = status;
    snprintf(change->reason, sizeof(change->reason), "the broker stops");
}

/* --- Changing --------------------------------------------------------------------------------- */

void
vhost_put(const struct admin_request *request, struct admin_reply *reply)
{
    struct vhost_change change = {.subject = request->subject, .name = request->names[0]};
    if (change.name.size > VHOST_NAME_MAX) {
        admin_refuse(reply, HTTP_BAD_REQUEST, "a vhost's name has 1 to %d bytes", VHOST_NAME_MAX);
        return;
    }
    snprintf(change.reason, sizeof(change.reason), "out of memory");
    do_change(&change, add);
    if (!change.is_there)
        admin_answer(reply, change.status, HTTP_CREATED, change.reason);
    else if (request->only_new)
        admin_refuse(reply, HTTP_PRECONDITION_FAILED, "vhost '%.*s' exists",
                     SLICE_ARGS(change.name));
    else
        reply->status = HTTP_NO_CONTENT;
}

void
vhost_delete(const struct admin_request *request, struct admin_reply *reply)
{
    struct vhost_change change = {.subject = request->subject, .name = request->names[0]};
    do_change(&change, remove_vhost);
    admin_answer(reply, change.status, HTTP_NO_CONTENT, change.reason);
}
