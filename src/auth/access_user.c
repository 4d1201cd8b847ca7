/* A user's snapshot: making one, and what it answers. */
#include <stdlib.h>
#include <string.h>

#include "auth/access_internal.h"

/* --- Making ---------------------------------------------------------------------------------- */

struct access_user *
access_user_new(const struct access_user_parts *parts)
{
    struct access_user *user =
        calloc(1, sizeof(*user) + parts->name.size + parts->password_hash.size + parts->tags.size);
    if (user == NULL)
        return NULL;
    char *at = user->bytes;
    user->references = 1;
    user->id = parts->id;
    user->is_from_file = parts->is_from_file;
    user->name = slice_keep(&at, parts->name);
    user->password_hash = slice_keep(&at, parts->password_hash);
    user->tags = slice_keep(&at, parts->tags);
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

void
access_user_inherit(struct access_user *to, const struct access_user *from)
{
    if (!slice_equal(to->password_hash, from->password_hash) || !atomic_load(&from->is_verified))
        return;
    memcpy(to->verified, from->verified, sizeof(to->verified));
    atomic_store(&to->is_verified, true);
}

struct access_user *
access_user_copy(const struct access_user *from, struct slice password_hash, struct slice tags)
{
    const struct access_user_parts parts = {
        .name = from->name,
        .password_hash = password_hash,
        .tags = tags,
        .id = from->id,
        .is_from_file = from->is_from_file,
    };
    struct access_user *user = access_user_new(&parts);
    if (user == NULL)
        return NULL;
    if (rights_list_copy(&user->permissions, &from->permissions) != 0
        || rights_list_copy(&user->topics, &from->topics) != 0) {
        access_user_unref(user);
        return NULL;
    }
    access_user_inherit(user, from);
    return user;
}

/* --- What it answers ------------------------------------------------------------------------- */

struct slice
access_user_name(const struct access_user *user)
{
    return user->name;
}

struct slice
access_user_tags(const struct access_user *user)
{
    return user->tags;
}

struct slice
access_user_hash(const struct access_user *user)
{
    return user->password_hash;
}

bool
access_user_is_from_file(const struct access_user *user)
{
    return user->is_from_file;
}

uint64_t
access_user_id(const struct access_user *user)
{
    return user->id;
}

bool
access_user_has_tag(const struct access_user *user, const char *tag)
{
    struct slice rest = user->tags;
    while (rest.size > 0) {
        const char *comma = memchr(rest.data, ',', rest.size);
        size_t size = comma != NULL ? (size_t)(comma - rest.data) : rest.size;
        if (slice_is((struct slice){rest.data, size}, tag))
            return true;
        size_t passed = comma != NULL ? size + 1 : size;
        rest = (struct slice){rest.data + passed, rest.size - passed};
    }
    return false;
}

bool
access_may_enter(const struct access_user *user, struct slice vhost)
{
    return rights_find(&user->permissions, vhost, SLICE("")) != NULL;
}

bool
access_permits(const struct access_user *user, struct slice vhost,
               enum access_permission permission, struct slice name)
{
    const struct rights *rights = rights_find(&user->permissions, vhost, SLICE(""));
    return rights != NULL && pattern_matches(rights->patterns[permission], name);
}

bool
access_has_topic_permission(const struct access_user *user, struct slice vhost,
                            struct slice exchange)
{
    return user->topics.count > 0 && rights_find(&user->topics, vhost, exchange) != NULL;
}

bool
access_permits_topic(const struct access_user *user, struct slice vhost, struct slice exchange,
                     enum access_permission permission, struct slice routing_key)
{
    const struct rights *rights = rights_find(&user->topics, vhost, exchange);
    return rights == NULL || pattern_matches(rights->patterns[permission], routing_key);
}

static bool
item(const struct rights_list *list, size_t index, struct access_expressions *expressions)
{
    if (index >= list->count)
        return false;
    *expressions = list->items[index]->texts;
    return true;
}

bool
access_user_permissions(const struct access_user *user, size_t index,
                        struct access_expressions *expressions)
{
    return item(&user->permissions, index, expressions);
}

bool
access_user_topics(const struct access_user *user, size_t index,
                   struct access_expressions *expressions)
{
    return item(&user->topics, index, expressions);
}

bool
access_knows_password(const struct access_user *user, struct slice password)
{
    unsigned char digest[SECRET_DIGEST_SIZE];
    if (!atomic_load_explicit(&user->is_verified, memory_order_acquire)
        || password.size > PASSWORD_MAX || !secret_digest(password, digest))
        return false;
    bool is_known = secret_equal(digest, user->verified, sizeof(digest));
    secret_wipe(digest, sizeof(digest));
    return is_known;
}
