/* A user's snapshot, and what it answers. */
#include <string.h>

#include "auth/access_internal.h"

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
