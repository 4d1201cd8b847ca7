/* The users that the configuration file declares: see access_apply. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/access_internal.h"

/* The tags with commas between. False: too long. */
static bool
join_tags(const struct access_declaration *declaration, char tags[ACCESS_TAGS_MAX + 1],
          struct slice *joined)
{
    size_t size = 0;
    for (size_t i = 0; i < declaration->tag_count; i++) {
        struct slice tag = declaration->tags[i];
        if (size + tag.size + 1 > ACCESS_TAGS_MAX)
            return false;
        if (i > 0)
            tags[size++] = ',';
        memcpy(tags + size, tag.data, tag.size);
        size += tag.size;
    }
    *joined = (struct slice){tags, size};
    return true;
}

/* A hash of the declared password: the one that there was, if it is of this password. It is kept in
 * memory only, and the password stands in a file beside it: so the fast method will do, and the
 * broker is up at once however many users there are. */
static int
declared_hash(const struct access_declaration *declaration, const struct access_user *old,
              char text[PASSWORD_HASH_MAX], struct slice *hash)
{
    int status = 0;
    *hash = declaration->password_hash;
    if (!declaration->has_password)
        return 0;
    if (old != NULL && old->is_from_file && password_hash_work(old->password_hash) == 0
        && password_is_right(declaration->password, old->password_hash)) {
        *hash = old->password_hash;
        return 0;
    }
    status = password_hash(PASSWORD_SHA256, declaration->password, text);
    *hash = slice_from(status == 0 ? text : "");
    return status;
}

static int
declare_rights(struct rights_list *list, const struct access_expressions *expressions, size_t count,
               struct slice user, bool is_topic, char error[ACCESS_ERROR_MAX])
{
    for (size_t i = 0; i < count; i++) {
        struct rights *rights;
        int status = rights_new(&rights, &expressions[i], user, is_topic, error);
        if (status != 0)
            return status;
        if (rights_list_set(list, rights) != 0) {
            rights_unref(rights);
            return access_no_memory(error);
        }
    }
    return 0;
}

/* Under the lock: the snapshot of a declared user. NULL with *status and the text. */
static struct access_user *
declared_user(struct access *access, const struct access_declaration *declaration, int *status,
              char error[ACCESS_ERROR_MAX])
{
    const struct access_entry *entry = map_find(&access->users, declaration->name);
    const struct access_user *old = entry != NULL ? entry->user : NULL;
    struct access_user_parts parts = {.name = declaration->name, .is_from_file = true};
    char tags[ACCESS_TAGS_MAX + 1], hash[PASSWORD_HASH_MAX];
    snprintf(error, ACCESS_ERROR_MAX, "the tags of user '%.*s' are too long",
             SLICE_ARGS(declaration->name));
    *status = -EINVAL;
    if (!join_tags(declaration, tags, &parts.tags))
        return NULL;
    *status = declared_hash(declaration, old, hash, &parts.password_hash);
    if (*status != 0) {
        snprintf(error, ACCESS_ERROR_MAX, "the password of user '%.*s' cannot be taken: %s",
                 SLICE_ARGS(declaration->name), strerror(-*status));
        return NULL;
    }
    *status = access_check_user(parts.name, parts.password_hash, parts.tags, error);
    if (*status != 0)
        return NULL;
    access_note_work(access, parts.password_hash);
    parts.id = old != NULL ? old->id : access->next_id++;
    struct access_user *user = access_user_new(&parts);
    secret_wipe(hash, sizeof(hash));
    if (user == NULL) {
        *status = access_no_memory(error);
        return NULL;
    }
    *status = declare_rights(&user->permissions, declaration->permissions,
                             declaration->permission_count, user->name, false, error);
    if (*status == 0)
        *status = declare_rights(&user->topics, declaration->topics, declaration->topic_count,
                                 user->name, true, error);
    if (*status != 0) {
        access_user_unref(user);
        return NULL;
    }
    user->applied = access->applied;
    if (old != NULL)
        access_user_inherit(user, old);
    return user;
}

/* Puts those in that are new: all, or none. */
static int
insert_new(struct access *access, struct access_user *const *users, size_t count)
{
    int status = 0;
    size_t done = 0;
    for (; done < count && status == 0; done++) {
        if (map_find(&access->users, users[done]->name) == NULL)
            status = access_insert(access, access_user_ref(users[done])); /* beside the array's */
        if (status == -ENOMEM)
            access_user_unref(users[done]);
    }
    for (size_t i = 0; i < done && status != 0; i++) {
        struct access_entry *entry = map_find(&access->users, users[i]->name);
        if (entry == NULL || entry->user != users[i])
            continue;
        map_remove(&access->users, entry->name);
        access_user_unref(entry->user);
        free(entry);
    }
    return status;
}

/* Those of the file that are not there any more. */
static void
delete_others(struct access *access)
{
    void *value;
    for (size_t cursor = 0; (value = map_next(&access->users, &cursor)) != NULL;) {
        struct access_entry *entry = value;
        if (entry->user->is_from_file && entry->user->applied != access->applied)
            access_delete_entry(access, entry);
    }
}

int
access_apply(struct access *access, const struct access_declaration *declarations, size_t count,
             char error[ACCESS_ERROR_MAX])
{
    struct access_user **users = calloc(count + 1, sizeof(struct access_user *));
    if (users == NULL)
        return access_no_memory(error);
    size_t made = 0;
    int status = 0;
    pthread_mutex_lock(&access->mutex);
    access->applied++;
    for (; made < count; made++) {
        users[made] = declared_user(access, &declarations[made], &status, error);
        if (users[made] == NULL)
            break;
    }
    if (status == 0 && insert_new(access, users, count) != 0)
        status = access_no_memory(error);
    for (size_t i = 0; status == 0 && i < count; i++) {
        struct access_entry *entry = map_find(&access->users, users[i]->name);
        if (!entry->user->is_from_file)
            access_tell_deleted(access, entry->user); /* it is the file's now, and kept there */
        access_replace(entry, access_user_ref(users[i]));
    }
    if (status == 0)
        delete_others(access);
    access_changed(access);
    pthread_mutex_unlock(&access->mutex);
    for (size_t i = 0; i < made; i++)
        access_user_unref(users[i]);
    free(users);
    return status;
}
