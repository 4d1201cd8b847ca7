/* The users and vhosts of the configuration file: see the header. */
#include "server/users.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* --- From the file's structs to declarations ---------------------------------------------------
 */

/* The declarations of all users, and what they point to: one array for all tags, and one for all
 * expressions. */
struct declarations {
    struct access_declaration *users;
    struct slice *tags;
    struct access_expressions *expressions;
    size_t tag_count, expression_count;
};

static void
declarations_free(struct declarations *declarations)
{
    free(declarations->users);
    free(declarations->tags);
    free(declarations->expressions);
}

static int
declarations_alloc(struct declarations *declarations, const struct config_list *list)
{
    const struct config_user *users = list->items;
    size_t tags = 0, expressions = 0;
    for (size_t i = 0; i < list->count; i++) {
        tags += users[i].tags.count;
        expressions += users[i].permissions.count + users[i].topic_permissions.count;
    }
    *declarations = (struct declarations){
        .users = calloc(list->count + 1, sizeof(struct access_declaration)),
        .tags = calloc(tags + 1, sizeof(struct slice)),
        .expressions = calloc(expressions + 1, sizeof(struct access_expressions)),
    };
    return declarations->users == NULL || declarations->tags == NULL
                   || declarations->expressions == NULL
               ? -ENOMEM
               : 0;
}

static void
declare_user(struct declarations *declarations, struct access_declaration *declaration,
             const struct config_user *user)
{
    *declaration = (struct access_declaration){
        .name = slice_from(user->name),
        .password = slice_from(user->password != NULL ? user->password : ""),
        .password_hash = slice_from(user->password_hash != NULL ? user->password_hash : ""),
        .has_password = user->password != NULL,
        .tags = declarations->tags + declarations->tag_count,
        .tag_count = user->tags.count,
        .permissions = declarations->expressions + declarations->expression_count,
        .permission_count = user->permissions.count,
        .topics =
            declarations->expressions + declarations->expression_count + user->permissions.count,
        .topic_count = user->topic_permissions.count,
    };
    char *const *tags = user->tags.items;
    for (size_t i = 0; i < user->tags.count; i++)
        declarations->tags[declarations->tag_count++] = slice_from(tags[i]);
    const struct config_permission *permissions = user->permissions.items;
    for (size_t i = 0; i < user->permissions.count; i++)
        declarations->expressions[declarations->expression_count++] = (struct access_expressions){
            .vhost = slice_from(permissions[i].vhost),
            .exchange = SLICE(""),
            .texts = {slice_from(permissions[i].configure), slice_from(permissions[i].write),
                      slice_from(permissions[i].read)},
        };
    const struct config_topic_permission *topics = user->topic_permissions.items;
    for (size_t i = 0; i < user->topic_permissions.count; i++)
        declarations->expressions[declarations->expression_count++] = (struct access_expressions){
            .vhost = slice_from(topics[i].vhost),
            .exchange = slice_from(topics[i].exchange),
            .texts = {SLICE(""), slice_from(topics[i].write), slice_from(topics[i].read)},
        };
}

/* --- Applying --------------------------------------------------------------------------------- */

static int
add_vhosts(struct catalogue *catalogue, const struct config_list *list)
{
    const struct config_vhost *vhosts = list->items;
    for (size_t i = 0; i < list->count; i++) {
        struct slice name = slice_from(vhosts[i].name);
        struct vhost *vhost = catalogue_vhost_find(catalogue, name);
        if (vhost != NULL) {
            vhost_unref(vhost);
            continue;
        }
        int status = catalogue_vhost_add(catalogue, name);
        if (status != 0)
            return status;
        log_info("vhost made", LOG_SLICE("vhost", name));
    }
    return 0;
}

/* A permission for a vhost that is not there is likely a slip; the vhost may also be made later. */
static void
note_unknown_vhosts(struct catalogue *catalogue, const struct config_list *list)
{
    const struct config_user *users = list->items;
    for (size_t i = 0; i < list->count; i++) {
        const struct config_permission *permissions = users[i].permissions.items;
        for (size_t j = 0; j < users[i].permissions.count; j++) {
            struct vhost *vhost = catalogue_vhost_find(catalogue, slice_from(permissions[j].vhost));
            if (vhost != NULL)
                vhost_unref(vhost);
            else
                log_warn("a user has permissions in a vhost that is not there",
                         LOG_STR("user", users[i].name), LOG_STR("vhost", permissions[j].vhost));
        }
    }
}

static int
apply_loopback_users(struct access *access, const struct config_list *list)
{
    const struct slice guest = SLICE("guest");
    char *const *names = list->items;
    if (names == NULL) /* the file does not name any; an empty list is one */
        return access_set_loopback_users(access, &guest, 1);
    struct slice *slices = calloc(list->count + 1, sizeof(*slices));
    if (slices == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < list->count; i++)
        slices[i] = slice_from(names[i]);
    int status = access_set_loopback_users(access, slices, list->count);
    free(slices);
    return status;
}

int
users_apply(struct server *server, const struct settings *settings, char error[USERS_ERROR_MAX])
{
    struct catalogue *catalogue = server->broker->catalogue;
    const struct config_user *users = settings->users.items;
    struct declarations declarations;
    int status = add_vhosts(catalogue, &settings->vhosts);
    if (status == 0)
        status = apply_loopback_users(server->access, &settings->loopback_users);
    snprintf(error, USERS_ERROR_MAX, "vhosts and users: %s", strerror(-status));
    if (status != 0)
        return -1;
    snprintf(error, USERS_ERROR_MAX, "out of memory");
    status = declarations_alloc(&declarations, &settings->users);
    for (size_t i = 0; status == 0 && i < settings->users.count; i++)
        declare_user(&declarations, &declarations.users[i], &users[i]);
    if (status == 0)
        status = access_apply(server->access, declarations.users, settings->users.count, error);
    declarations_free(&declarations);
    if (status == 0)
        note_unknown_vhosts(catalogue, &settings->users);
    return status == 0 ? 0 : -1;
}

int
users_begin(struct server *server, const struct storage *storage, const struct settings *settings,
            char error[USERS_ERROR_MAX])
{
    const struct access_expressions everything = {
        .vhost = SLICE("/"),
        .exchange = SLICE(""),
        .texts = {SLICE(".*"), SLICE(".*"), SLICE(".*")},
    };
    const struct slice guest = SLICE("guest");
    char hash[PASSWORD_HASH_MAX];
    if (storage_has_had_users(storage) || settings->users.count > 0)
        return 0;
    /* Of a password that everybody knows no slow hash makes a secret. */
    int status = password_hash(PASSWORD_SHA256, guest, hash);
    snprintf(error, USERS_ERROR_MAX, "the user guest cannot be made: %s", strerror(-status));
    if (status == 0)
        status =
            access_user_set(server->access, guest, slice_from(hash), SLICE("administrator"), error);
    if (status == 0)
        status = access_permissions_set(server->access, guest, &everything, error);
    return status == 0 ? 0 : -1;
}
