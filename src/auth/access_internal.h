/* What the files of access share: a user's snapshot, and the set of expressions in one vhost. */
#ifndef AUTH_ACCESS_INTERNAL_H
#define AUTH_ACCESS_INTERNAL_H

#include <pthread.h>

#include "auth/access.h"
#include "base/pattern.h"
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
    _Atomic uint64_t most_work; /* what the dearest hash costs of all that there have been */
    uint64_t next_id, applied;
    struct map users; /* of struct access_entry */
    struct access_observer observer;
    void (*deleted)(void *context);
    void *deleted_context;
    struct slice *loopback_users; /* owned, as their bytes */
    size_t loopback_count;
};

/* --- Snapshots (access_user.c) ---------------------------------------------------------------- */

/* What a new snapshot begins with; rights are put in before anybody else sees it. */
struct access_user_parts {
    struct slice name, password_hash, tags;
    uint64_t id;
    bool is_from_file;
};

/* A snapshot with one reference, the caller's. NULL: out of memory. */
struct access_user *access_user_new(const struct access_user_parts *parts);

/* Under the lock: the same user with this hash and these tags. NULL: out of memory. */
struct access_user *access_user_copy(const struct access_user *from, struct slice password_hash,
                                     struct slice tags);

/* Under the lock: what is known of the password is known of the new snapshot too, if the hash is
 * the same. */
void access_user_inherit(struct access_user *to, const struct access_user *from);

/* --- Changing (access.c): all of them under the lock ------------------------------------------ */

/* -ENOMEM, and the text that says so. */
int access_no_memory(char error[ACCESS_ERROR_MAX]);

/* Whether there may be a user with this name, hash and tags: 0, or -EINVAL with the text. */
MUST_CHECK int access_check_user(struct slice name, struct slice password_hash, struct slice tags,
                                 char error[ACCESS_ERROR_MAX]);

/* There will be a user with this hash. From now on every refusal costs at least as much as his. */
void access_note_work(struct access *access, struct slice password_hash);

/* The entry, if it may be changed at run time; NULL with *status and the text. */
struct access_entry *access_find_changeable(struct access *access, struct slice name, int *status,
                                            char error[ACCESS_ERROR_MAX]);

/* The user is there from now on, under a name that is new; takes the reference over. -ENOMEM: it is
 * still the caller's. */
MUST_CHECK int access_insert(struct access *access, struct access_user *user);

/* The new snapshot in place of the old one; takes the reference over. */
void access_replace(struct access_entry *entry, struct access_user *user);

/* Frees the entry; who is told of what depends on where the user came from. */
void access_delete_entry(struct access *access, struct access_entry *entry);

/* The next generation: snapshots and answers of before are old. */
void access_changed(struct access *access);

/* Tell the observer: of rights that were set or cleared, and that a user with all his rights is no
 * longer kept. */
void access_tell_rights(struct access *access, enum access_change_type type,
                        const struct access_user *user,
                        const struct access_expressions *expressions);
void access_tell_deleted(struct access *access, const struct access_user *user);

/* --- Rights (access_rights.c) ----------------------------------------------------------------- */

/* Compiles. For a topic permission, {username} and {vhost} in the expressions become the names,
 * which then stand for themselves. *out is the caller's. With the text: -EINVAL, one is no
 * expression; -ENOMEM. */
MUST_CHECK int rights_new(struct rights **out, const struct access_expressions *expressions,
                          struct slice user, bool is_topic, char error[ACCESS_ERROR_MAX]);
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
