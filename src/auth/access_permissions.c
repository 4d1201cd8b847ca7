/* The permissions of users, and how they change at run time. */
#include <errno.h>

#include "auth/access_internal.h"

static struct rights_list *
list_of(struct access_user *user, bool is_topic)
{
    return is_topic ? &user->topics : &user->permissions;
}

static int
set_rights(struct access *access, struct slice name, const struct access_expressions *expressions,
           bool is_topic, char error[ACCESS_ERROR_MAX])
{
    struct access_expressions wanted = *expressions;
    int status;
    if (!is_topic)
        wanted.exchange = SLICE("");
    pthread_mutex_lock(&access->mutex);
    struct access_entry *entry = access_find_changeable(access, name, &status, error);
    struct access_user *user = NULL;
    struct rights *rights = NULL;
    if (entry == NULL)
        goto out;
    status = rights_new(&rights, &wanted, name, is_topic, error);
    if (status != 0)
        goto out;
    status = -ENOMEM;
    user = access_user_copy(entry->user, entry->user->password_hash, entry->user->tags);
    if (user == NULL || rights_list_set(list_of(user, is_topic), rights) != 0) {
        access_user_unref(user);
        rights_unref(rights);
        (void)access_no_memory(error);
        goto out;
    }
    status = 0;
    access_replace(entry, user);
    access_changed(access);
    access_tell_rights(access, is_topic ? ACCESS_TOPIC_SET : ACCESS_PERMISSIONS_SET, user,
                       &rights->texts);
out:
    pthread_mutex_unlock(&access->mutex);
    return status;
}

int
access_permissions_set(struct access *access, struct slice user,
                       const struct access_expressions *expressions, char error[ACCESS_ERROR_MAX])
{
    return set_rights(access, user, expressions, false, error);
}

int
access_topic_set(struct access *access, struct slice user,
                 const struct access_expressions *expressions, char error[ACCESS_ERROR_MAX])
{
    return set_rights(access, user, expressions, true, error);
}

/* Which rights are to go: of a vhost, all or those of one exchange. */
struct clearing {
    struct slice vhost, exchange;
    bool is_topic, all_exchanges;
};

static bool
is_cleared(const struct rights *rights, const struct clearing *clearing)
{
    return slice_equal(rights->texts.vhost, clearing->vhost)
           && (clearing->all_exchanges || slice_equal(rights->texts.exchange, clearing->exchange));
}

/* Under the lock. */
static int
clear_rights(struct access *access, struct access_entry *entry, const struct clearing *clearing)
{
    const struct rights_list *old = list_of(entry->user, clearing->is_topic);
    struct access_user *user =
        access_user_copy(entry->user, entry->user->password_hash, entry->user->tags);
    if (user == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < old->count; i++) {
        const struct access_expressions *texts = &old->items[i]->texts;
        if (is_cleared(old->items[i], clearing)
            && rights_list_remove(list_of(user, clearing->is_topic), texts->vhost, texts->exchange)
            && !user->is_from_file)
            access_tell_rights(
                access, clearing->is_topic ? ACCESS_TOPIC_CLEARED : ACCESS_PERMISSIONS_CLEARED,
                user, texts);
    }
    access_replace(entry, user);
    access_changed(access);
    return 0;
}

static int
clear(struct access *access, struct slice name, const struct clearing *clearing,
      char error[ACCESS_ERROR_MAX])
{
    int status;
    pthread_mutex_lock(&access->mutex);
    struct access_entry *entry = access_find_changeable(access, name, &status, error);
    if (entry != NULL && clear_rights(access, entry, clearing) != 0)
        status = access_no_memory(error);
    pthread_mutex_unlock(&access->mutex);
    return status;
}

int
access_permissions_clear(struct access *access, struct slice user, struct slice vhost,
                         char error[ACCESS_ERROR_MAX])
{
    const struct clearing clearing = {.vhost = vhost, .all_exchanges = true};
    return clear(access, user, &clearing, error);
}

int
access_topic_clear(struct access *access, struct slice user, struct slice vhost, bool has_exchange,
                   struct slice exchange, char error[ACCESS_ERROR_MAX])
{
    const struct clearing clearing = {
        .vhost = vhost, .exchange = exchange, .is_topic = true, .all_exchanges = !has_exchange};
    return clear(access, user, &clearing, error);
}

int
access_vhost_deleted(struct access *access, struct slice vhost)
{
    int status = 0;
    void *value;
    pthread_mutex_lock(&access->mutex);
    for (size_t cursor = 0; status == 0 && (value = map_next(&access->users, &cursor)) != NULL;) {
        for (int is_topic = 0; is_topic < 2 && status == 0; is_topic++) {
            const struct clearing clearing = {
                .vhost = vhost, .is_topic = is_topic != 0, .all_exchanges = true};
            status = clear_rights(access, value, &clearing);
        }
    }
    pthread_mutex_unlock(&access->mutex);
    return status;
}
