/* What the files of access share: a user's snapshot, and the set of expressions in one vhost. */
#ifndef AUTH_ACCESS_INTERNAL_H
#define AUTH_ACCESS_INTERNAL_H

#include <pthread.h>

#include "auth/access.h"
#include "auth/pattern.h"
#include "base/map.h"

/* The expressions of a user for a vhost, or for a topic exchange in it. Never changed; shared by
 * the snapshots that have it. */
struct rights {
    _Atomic uint32_t references;
    struct access_expressions texts; /* into bytes */
    struct pattern *patterns[ACCESS_PERMISSIONS];
    char bytes[];
};

/* Some rights, sorted by vhost and exchange. */
struct rights_list {
    struct rights **items;
    size_t count;
};

struct access_user {
    _Atomic uint32_t references;
    uint64_t id;
    bool is_from_file;
    uint64_t applied;                       /* the number of the access_apply that declared it */
    struct slice name, password_hash, tags; /* into bytes */
    struct rights_list permissions, topics;
    /* The digest of the password, once it was found to be right: written under the lock before the
     * flag, and never again. */
    atomic_bool is_verified;
    unsigned char verified[SECRET_DIGEST_SIZE];
    char bytes[];
};

/* Under its name; the snapshot is exchanged in place. */
struct access_entry {
    struct access_user *user;
    struct slice name;
    char bytes[];
};

struct access {
    pthread_mutex_t mutex;
    _Atomic uint64_t generation, deletions;
    uint64_t next_id, applied;
    struct map users; /* of struct access_entry */
    struct access_observer observer;
    void (*deleted)(void *context);
    void *deleted_context;
    struct slice *loopback_users; /* owned, as their bytes */
    size_t loopback_count;
};

/* --- Rights (access_rights.c) ----------------------------------------------------------------- */

/* Compiles. For a topic permission, {username} and {vhost} in the expressions become the names,
 * which then stand for themselves. NULL with the text. */
struct rights *rights_new(const struct access_expressions *expressions, struct slice user,
                          bool is_topic, char error[ACCESS_ERROR_MAX]);
void rights_unref(struct rights *rights);

/* NULL: none. */
const struct rights *rights_find(const struct rights_list *list, struct slice vhost,
                                 struct slice exchange);

/* The copy shares what is in the list. -ENOMEM. */
MUST_CHECK int rights_list_copy(struct rights_list *to, const struct rights_list *from);

/* Takes the reference over, in place of those for the same vhost and exchange. -ENOMEM: the
 * reference is still the caller's. */
MUST_CHECK int rights_list_set(struct rights_list *list, struct rights *rights);

/* Takes one out, if it is there; returns whether it was. */
bool rights_list_remove(struct rights_list *list, struct slice vhost, struct slice exchange);

void rights_list_fini(struct rights_list *list);

#endif
