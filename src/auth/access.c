/* All users: finding one, and making, changing and deleting one at run time. See the header. */
#include "auth/access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/access_internal.h"

static struct slice
name_of_entry(const void *value)
{
    return ((const struct access_entry *)value)->name;
}

/* --- Life ------------------------------------------------------------------------------------- */

struct access *
access_new(void)
{
    struct access *access = calloc(1, sizeof(*access));
    if (access == NULL)
        return NULL;
    pthread_mutex_init(&access->mutex, NULL);
    map_init(&access->users, name_of_entry);
    atomic_init(&access->generation, 1);
    atomic_init(&access->most_work, PASSWORD_WORK);
    access->next_id = 1;
    const struct slice guest = SLICE("guest");
    if (access_set_loopback_users(access, &guest, 1) != 0) {
        access_free(access);
        return NULL;
    }
    return access;
}

static void
free_names(struct slice *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free((char *)names[i].data);
    free(names);
}

void
access_free(struct access *access)
{
    void *value;
    for (size_t cursor = 0; (value = map_next(&access->users, &cursor)) != NULL;) {
        struct access_entry *entry = value;
        map_remove(&access->users, entry->name);
        access_user_unref(entry->user);
        free(entry);
    }
    map_fini(&access->users);
    free_names(access->loopback_users, access->loopback_count);
    pthread_mutex_destroy(&access->mutex);
    free(access);
}

void
access_observe(struct access *access, struct access_observer observer)
{
    access->observer = observer;
}

void
access_on_deletion(struct access *access, void (*deleted)(void *context), void *context)
{
    access->deleted = deleted;
    access->deleted_context = context;
}

uint64_t
access_generation(const struct access *access)
{
    return atomic_load_explicit(&access->generation, memory_order_acquire);
}

const _Atomic uint64_t *
access_generation_place(const struct access *access)
{
    return &access->generation;
}

uint64_t
access_deletions(const struct access *access)
{
    return atomic_load_explicit(&access->deletions, memory_order_acquire);
}

int
access_set_loopback_users(struct access *access, const struct slice *names, size_t count)
{
    struct slice *copies = calloc(count + 1, sizeof(*copies));
    if (copies == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        char *copy = malloc(names[i].size + 1);
        if (copy == NULL) {
            free_names(copies, i);
            return -ENOMEM;
        }
        copies[i] = slice_keep(&copy, names[i]);
    }
    pthread_mutex_lock(&access->mutex);
    struct slice *old = access->loopback_users;
    size_t old_count = access->loopback_count;
    access->loopback_users = copies;
    access->loopback_count = count;
    pthread_mutex_unlock(&access->mutex);
    free_names(old, old_count);
    return 0;
}

bool
access_is_loopback_only(struct access *access, struct slice name)
{
    bool is_listed = false;
    pthread_mutex_lock(&access->mutex);
    for (size_t i = 0; i < access->loopback_count && !is_listed; i++)
        is_listed = slice_equal(access->loopback_users[i], name);
    pthread_mutex_unlock(&access->mutex);
    return is_listed;
}

/* --- Finding ---------------------------------------------------------------------------------- */

struct access_user *
access_user_find(struct access *access, struct slice name)
{
    pthread_mutex_lock(&access->mutex);
    struct access_entry *entry = map_find(&access->users, name);
    struct access_user *user = entry == NULL ? NULL : access_user_ref(entry->user);
    pthread_mutex_unlock(&access->mutex);
    return user;
}

int
access_list(struct access *access, struct access_user ***users, size_t *count)
{
    int status = 0;
    void *value;
    *count = 0;
    pthread_mutex_lock(&access->mutex);
    *users = calloc(map_count(&access->users) + 1, sizeof(struct access_user *));
    if (*users == NULL)
        status = -ENOMEM;
    for (size_t cursor = 0; status == 0 && (value = map_next(&access->users, &cursor)) != NULL;)
        (*users)[(*count)++] = access_user_ref(((struct access_entry *)value)->user);
    pthread_mutex_unlock(&access->mutex);
    return status;
}

bool
access_verify_password(struct access *access, struct access_user *user, struct slice password)
{
    struct slice hash = user != NULL ? user->password_hash : SLICE("");
    bool is_right = password_is_right(password, hash);
    if (!is_right) {
        /* Who guesses does not learn from the time whether there is the user. */
        uint64_t spent = password_hash_work(hash), most = atomic_load(&access->most_work);
        password_spend_work(password, most > spent ? most - spent : 0);
        return false;
    }
    unsigned char digest[SECRET_DIGEST_SIZE];
    if (!secret_digest(password, digest))
        return true; /* it will have to be verified again */
    pthread_mutex_lock(&access->mutex);
    if (!atomic_load_explicit(&user->is_verified, memory_order_relaxed)) {
        memcpy(user->verified, digest, sizeof(digest));
        atomic_store_explicit(&user->is_verified, true, memory_order_release);
    }
    pthread_mutex_unlock(&access->mutex);
    secret_wipe(digest, sizeof(digest));
    return true;
}

/* --- Changing, under the lock ----------------------------------------------------------------- */

void
access_changed(struct access *access)
{
    atomic_fetch_add_explicit(&access->generation, 1, memory_order_release);
}

static void
tell(struct access *access, const struct access_change *change)
{
    if (access->observer.changed != NULL)
        access->observer.changed(access->observer.context, change);
}

void
access_tell_rights(struct access *access, enum access_change_type type,
                   const struct access_user *user, const struct access_expressions *expressions)
{
    const struct access_change change = {
        .type = type, .user = user->name, .expressions = *expressions};
    tell(access, &change);
}

int
access_insert(struct access *access, struct access_user *user)
{
    struct access_entry *entry = malloc(sizeof(*entry) + user->name.size);
    if (entry == NULL)
        return -ENOMEM;
    char *at = entry->bytes;
    entry->name = slice_keep(&at, user->name);
    entry->user = user;
    int status = map_insert(&access->users, entry);
    if (status != 0)
        free(entry);
    return status;
}

void
access_replace(struct access_entry *entry, struct access_user *user)
{
    access_user_unref(entry->user);
    entry->user = user;
}

void
access_tell_deleted(struct access *access, const struct access_user *user)
{
    for (size_t i = 0; i < user->permissions.count; i++)
        access_tell_rights(access, ACCESS_PERMISSIONS_CLEARED, user,
                           &user->permissions.items[i]->texts);
    for (size_t i = 0; i < user->topics.count; i++)
        access_tell_rights(access, ACCESS_TOPIC_CLEARED, user, &user->topics.items[i]->texts);
    const struct access_change change = {.type = ACCESS_USER_DELETED, .user = user->name};
    tell(access, &change);
}

void
access_delete_entry(struct access *access, struct access_entry *entry)
{
    if (!entry->user->is_from_file)
        access_tell_deleted(access, entry->user);
    map_remove(&access->users, entry->name);
    access_user_unref(entry->user);
    free(entry);
    /* In this order: who sees the deletion asks for the user anew. */
    access_changed(access);
    atomic_fetch_add_explicit(&access->deletions, 1, memory_order_release);
    if (access->deleted != NULL)
        access->deleted(access->deleted_context);
}

struct access_entry *
access_find_changeable(struct access *access, struct slice name, int *status,
                       char error[ACCESS_ERROR_MAX])
{
    struct access_entry *entry = map_find(&access->users, name);
    *status = 0;
    if (entry == NULL) {
        snprintf(error, ACCESS_ERROR_MAX, "no user '%.*s'", SLICE_ARGS(name));
        *status = -ENOENT;
        return NULL;
    }
    if (entry->user->is_from_file) {
        snprintf(error, ACCESS_ERROR_MAX,
                 "user '%.*s' is declared by the configuration file and is changed there",
                 SLICE_ARGS(name));
        *status = -EPERM;
        return NULL;
    }
    return entry;
}

int
access_no_memory(char error[ACCESS_ERROR_MAX])
{
    snprintf(error, ACCESS_ERROR_MAX, "out of memory");
    return -ENOMEM;
}

/* --- Users ------------------------------------------------------------------------------------ */

int
access_check_user(struct slice name, struct slice password_hash, struct slice tags,
                  char error[ACCESS_ERROR_MAX])
{
    if (name.size == 0 || name.size > ACCESS_NAME_MAX || memchr(name.data, 0, name.size) != NULL)
        snprintf(error, ACCESS_ERROR_MAX, "a user's name has 1 to %d bytes", (int)ACCESS_NAME_MAX);
    else if (!password_hash_is_valid(password_hash))
        snprintf(error, ACCESS_ERROR_MAX,
                 "the password hash of user '%.*s' is of no known form (base64 of a salt with "
                 "SHA-256 or SHA-512, or $scrypt$)",
                 SLICE_ARGS(name));
    else if (tags.size > ACCESS_TAGS_MAX)
        snprintf(error, ACCESS_ERROR_MAX, "the tags of user '%.*s' are longer than %d bytes",
                 SLICE_ARGS(name), (int)ACCESS_TAGS_MAX);
    else
        return 0;
    return -EINVAL;
}

void
access_note_work(struct access *access, struct slice password_hash)
{
    uint64_t work = password_hash_work(password_hash);
    if (work > atomic_load(&access->most_work))
        atomic_store(&access->most_work, work);
}

int
access_user_set(struct access *access, struct slice name, struct slice password_hash,
                struct slice tags, char error[ACCESS_ERROR_MAX])
{
    int status = access_check_user(name, password_hash, tags, error);
    if (status != 0)
        return status;
    pthread_mutex_lock(&access->mutex);
    access_note_work(access, password_hash);
    struct access_entry *entry = access_find_changeable(access, name, &status, error);
    if (entry != NULL) {
        struct access_user *user = access_user_copy(entry->user, password_hash, tags);
        if (user != NULL)
            access_replace(entry, user);
        else
            status = access_no_memory(error);
    } else if (status == -ENOENT) {
        const struct access_user_parts parts = {
            .name = name, .password_hash = password_hash, .tags = tags, .id = access->next_id++};
        struct access_user *user = access_user_new(&parts);
        status = user == NULL ? -ENOMEM : access_insert(access, user);
        if (status != 0) {
            access_user_unref(user);
            status = access_no_memory(error);
        }
    }
    if (status == 0) {
        const struct access_change change = {
            .type = ACCESS_USER_SET, .user = name, .password_hash = password_hash, .tags = tags};
        access_changed(access);
        tell(access, &change);
    }
    pthread_mutex_unlock(&access->mutex);
    return status;
}

int
access_user_delete(struct access *access, struct slice name, char error[ACCESS_ERROR_MAX])
{
    int status;
    pthread_mutex_lock(&access->mutex);
    struct access_entry *entry = access_find_changeable(access, name, &status, error);
    if (entry != NULL)
        access_delete_entry(access, entry);
    pthread_mutex_unlock(&access->mutex);
    return status;
}
