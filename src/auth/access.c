/* The users, and how they change: see the header. */
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

/* --- Snapshots -------------------------------------------------------------------------------- */

/* What a new snapshot begins with; rights are put in before anybody else sees it. */
struct user_parts {
    struct slice name, password_hash, tags;
    uint64_t id;
    bool is_from_file;
};

static struct slice
keep(char **at, struct slice from)
{
    struct slice kept = {*at, from.size};
    if (from.size > 0)
        memcpy(*at, from.data, from.size);
    *at += from.size;
    return kept;
}

static struct access_user *
user_new(const struct user_parts *parts)
{
    struct access_user *user =
        calloc(1, sizeof(*user) + parts->name.size + parts->password_hash.size + parts->tags.size);
    if (user == NULL)
        return NULL;
    char *at = user->bytes;
    user->references = 1;
    user->id = parts->id;
    user->is_from_file = parts->is_from_file;
    user->name = keep(&at, parts->name);
    user->password_hash = keep(&at, parts->password_hash);
    user->tags = keep(&at, parts->tags);
    return user;
}

struct access_user *
access_user_ref(struct access_user *user)
{
    atomic_fetch_add_explicit(&user->references, 1, memory_order_relaxed);
    return user;
}

void
access_user_unref(struct access_user *user)
{
    if (user == NULL || atomic_fetch_sub_explicit(&user->references, 1, memory_order_acq_rel) > 1)
        return;
    rights_list_fini(&user->permissions);
    rights_list_fini(&user->topics);
    secret_wipe(user->bytes, user->name.size + user->password_hash.size + user->tags.size);
    secret_wipe(user->verified, sizeof(user->verified));
    free(user);
}

/* Under the lock: what is known of the password is known of the new snapshot too. */
static void
inherit_verification(struct access_user *to, const struct access_user *from)
{
    if (!slice_equal(to->password_hash, from->password_hash) || !atomic_load(&from->is_verified))
        return;
    memcpy(to->verified, from->verified, sizeof(to->verified));
    atomic_store(&to->is_verified, true);
}

/* Under the lock: the same user with this hash and these tags. NULL: out of memory. */
static struct access_user *
user_copy(const struct access_user *from, struct slice password_hash, struct slice tags)
{
    const struct user_parts parts = {
        .name = from->name,
        .password_hash = password_hash,
        .tags = tags,
        .id = from->id,
        .is_from_file = from->is_from_file,
    };
    struct access_user *user = user_new(&parts);
    if (user == NULL)
        return NULL;
    if (rights_list_copy(&user->permissions, &from->permissions) != 0
        || rights_list_copy(&user->topics, &from->topics) != 0) {
        access_user_unref(user);
        return NULL;
    }
    inherit_verification(user, from);
    return user;
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
        copies[i] = keep(&copy, names[i]);
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
        if (!password_hash_is_slow(hash))
            password_spend_time(password);
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

static void
changed(struct access *access)
{
    atomic_fetch_add_explicit(&access->generation, 1, memory_order_release);
}

static void
tell(struct access *access, const struct access_change *change)
{
    if (access->observer.changed != NULL)
        access->observer.changed(access->observer.context, change);
}

static void
tell_expressions(struct access *access, enum access_change_type type,
                 const struct access_user *user, const struct access_expressions *expressions)
{
    const struct access_change change = {
        .type = type, .user = user->name, .expressions = *expressions};
    tell(access, &change);
}

/* The user is there from now on, under a name that is new. -ENOMEM. */
static int
insert(struct access *access, struct access_user *user)
{
    struct access_entry *entry = malloc(sizeof(*entry) + user->name.size);
    if (entry == NULL)
        return -ENOMEM;
    char *at = entry->bytes;
    entry->name = keep(&at, user->name);
    entry->user = user;
    int status = map_insert(&access->users, entry);
    if (status != 0)
        free(entry);
    return status;
}

static void
replace(struct access_entry *entry, struct access_user *user)
{
    access_user_unref(entry->user);
    entry->user = user;
}

static void
tell_deleted(struct access *access, const struct access_user *user)
{
    for (size_t i = 0; i < user->permissions.count; i++)
        tell_expressions(access, ACCESS_PERMISSIONS_CLEARED, user,
                         &user->permissions.items[i]->texts);
    for (size_t i = 0; i < user->topics.count; i++)
        tell_expressions(access, ACCESS_TOPIC_CLEARED, user, &user->topics.items[i]->texts);
    const struct access_change change = {.type = ACCESS_USER_DELETED, .user = user->name};
    tell(access, &change);
}

static void
delete_entry(struct access *access, struct access_entry *entry)
{
    if (!entry->user->is_from_file)
        tell_deleted(access, entry->user);
    map_remove(&access->users, entry->name);
    access_user_unref(entry->user);
    free(entry);
    /* In this order: who sees the deletion asks for the user anew. */
    changed(access);
    atomic_fetch_add_explicit(&access->deletions, 1, memory_order_release);
    if (access->deleted != NULL)
        access->deleted(access->deleted_context);
}

/* The entry, if it may be changed at run time; NULL with *status and the text. */
static struct access_entry *
find_changeable(struct access *access, struct slice name, int *status, char error[ACCESS_ERROR_MAX])
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

static int
no_memory(char error[ACCESS_ERROR_MAX])
{
    snprintf(error, ACCESS_ERROR_MAX, "out of memory");
    return -ENOMEM;
}

/* --- Users ------------------------------------------------------------------------------------ */

static int
check_user(struct slice name, struct slice password_hash, struct slice tags,
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

int
access_user_set(struct access *access, struct slice name, struct slice password_hash,
                struct slice tags, char error[ACCESS_ERROR_MAX])
{
    int status = check_user(name, password_hash, tags, error);
    if (status != 0)
        return status;
    pthread_mutex_lock(&access->mutex);
    struct access_entry *entry = find_changeable(access, name, &status, error);
    if (entry != NULL) {
        struct access_user *user = user_copy(entry->user, password_hash, tags);
        if (user != NULL)
            replace(entry, user);
        else
            status = no_memory(error);
    } else if (status == -ENOENT) {
        const struct user_parts parts = {
            .name = name, .password_hash = password_hash, .tags = tags, .id = access->next_id++};
        struct access_user *user = user_new(&parts);
        status = user == NULL ? -ENOMEM : insert(access, user);
        if (status != 0) {
            access_user_unref(user);
            status = no_memory(error);
        }
    }
    if (status == 0) {
        const struct access_change change = {
            .type = ACCESS_USER_SET, .user = name, .password_hash = password_hash, .tags = tags};
        changed(access);
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
    struct access_entry *entry = find_changeable(access, name, &status, error);
    if (entry != NULL)
        delete_entry(access, entry);
    pthread_mutex_unlock(&access->mutex);
    return status;
}

/* --- Permissions ------------------------------------------------------------------------------ */

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
    struct access_entry *entry = find_changeable(access, name, &status, error);
    struct access_user *user = NULL;
    struct rights *rights = NULL;
    if (entry == NULL)
        goto out;
    status = -EINVAL;
    rights = rights_new(&wanted, name, is_topic, error);
    if (rights == NULL)
        goto out;
    status = -ENOMEM;
    user = user_copy(entry->user, entry->user->password_hash, entry->user->tags);
    if (user == NULL || rights_list_set(list_of(user, is_topic), rights) != 0) {
        access_user_unref(user);
        rights_unref(rights);
        (void)no_memory(error);
        goto out;
    }
    status = 0;
    replace(entry, user);
    changed(access);
    tell_expressions(access, is_topic ? ACCESS_TOPIC_SET : ACCESS_PERMISSIONS_SET, user,
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
        user_copy(entry->user, entry->user->password_hash, entry->user->tags);
    if (user == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < old->count; i++) {
        const struct access_expressions *texts = &old->items[i]->texts;
        if (is_cleared(old->items[i], clearing)
            && rights_list_remove(list_of(user, clearing->is_topic), texts->vhost, texts->exchange)
            && !user->is_from_file)
            tell_expressions(access,
                             clearing->is_topic ? ACCESS_TOPIC_CLEARED : ACCESS_PERMISSIONS_CLEARED,
                             user, texts);
    }
    replace(entry, user);
    changed(access);
    return 0;
}

static int
clear(struct access *access, struct slice name, const struct clearing *clearing,
      char error[ACCESS_ERROR_MAX])
{
    int status;
    pthread_mutex_lock(&access->mutex);
    struct access_entry *entry = find_changeable(access, name, &status, error);
    if (entry != NULL && clear_rights(access, entry, clearing) != 0)
        status = no_memory(error);
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

/* --- The users of the file -------------------------------------------------------------------- */

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
    if (old != NULL && old->is_from_file && !password_hash_is_slow(old->password_hash)
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
        struct rights *rights = rights_new(&expressions[i], user, is_topic, error);
        if (rights == NULL)
            return -EINVAL;
        if (rights_list_set(list, rights) != 0) {
            rights_unref(rights);
            return no_memory(error);
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
    struct user_parts parts = {.name = declaration->name, .is_from_file = true};
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
    *status = check_user(parts.name, parts.password_hash, parts.tags, error);
    if (*status != 0)
        return NULL;
    parts.id = old != NULL ? old->id : access->next_id++;
    struct access_user *user = user_new(&parts);
    secret_wipe(hash, sizeof(hash));
    if (user == NULL) {
        *status = no_memory(error);
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
        inherit_verification(user, old);
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
            status = insert(access, access_user_ref(users[done])); /* beside the array's */
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
            delete_entry(access, entry);
    }
}

int
access_apply(struct access *access, const struct access_declaration *declarations, size_t count,
             char error[ACCESS_ERROR_MAX])
{
    struct access_user **users = calloc(count + 1, sizeof(struct access_user *));
    if (users == NULL)
        return no_memory(error);
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
        status = no_memory(error);
    for (size_t i = 0; status == 0 && i < count; i++) {
        struct access_entry *entry = map_find(&access->users, users[i]->name);
        if (!entry->user->is_from_file)
            tell_deleted(access, entry->user); /* it is the file's now, and kept there */
        replace(entry, access_user_ref(users[i]));
    }
    if (status == 0)
        delete_others(access);
    changed(access);
    pthread_mutex_unlock(&access->mutex);
    for (size_t i = 0; i < made; i++)
        access_user_unref(users[i]);
    free(users);
    return status;
}
