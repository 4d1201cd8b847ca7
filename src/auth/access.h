/* Who may do what: the users, and their permissions in vhosts, in memory.
 *
 * Everybody reads and few write. What is known of a user is one *snapshot*, which never changes:
 * readers hold a reference to it and match names without a lock. A change makes a new snapshot, and
 * a new *generation* of the whole: who kept an answer, or a snapshot, compares the generation he
 * got it in with the present one, which is one load.
 *
 * Users come from two places. Those that the configuration file declares are what the file says
 * for as long as it says so: they are kept nowhere else, and nobody else may change them. All
 * others are changed at run time, and each change is told to an observer that keeps it.
 *
 * Rules, texts of expressions and their meaning are RabbitMQ's: a user may enter the vhosts in
 * which he has permissions; each of the three expressions of a vhost decides about names of queues
 * and exchanges; a topic permission decides about routing keys of one topic exchange, and without
 * one all keys are permitted. */
#ifndef AUTH_ACCESS_H
#define AUTH_ACCESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "auth/password.h"
#include "base/compiler.h"

enum {
    ACCESS_NAME_MAX = 255,  /* bytes of the name of a user */
    ACCESS_TAGS_MAX = 1024, /* bytes of a user's tags, with their commas */
    ACCESS_ERROR_MAX = 1024,
};

enum access_permission {
    ACCESS_CONFIGURE,
    ACCESS_WRITE,
    ACCESS_READ,
    ACCESS_PERMISSIONS, /* their number */
};

struct access;
struct access_user;

/* --- What is asked ---------------------------------------------------------------------------- */

/* NULL: out of memory. There is no user yet; "guest" may only come from this machine. */
struct access *access_new(void);

/* No snapshot is held any more. */
void access_free(struct access *access);

/* The number of the present state. Any thread; cheap. */
uint64_t access_generation(const struct access *access);

/* Where that number is, for who compares it with every message. */
const _Atomic uint64_t *access_generation_place(const struct access *access);

/* How many users have ever been deleted: when it has changed, somebody may still be connected who
 * is no user any more. Any thread; cheap. */
uint64_t access_deletions(const struct access *access);

/* A reference to what is known of the user, to be given back; NULL: there is no such user. */
struct access_user *access_user_find(struct access *access, struct slice name);
struct access_user *access_user_ref(struct access_user *user);
void access_user_unref(struct access_user *user);

struct slice access_user_name(const struct access_user *user);
struct slice access_user_tags(const struct access_user *user); /* with commas between */
bool access_user_has_tag(const struct access_user *user, const char *tag);

/* Never reused while the broker runs: tells a user from a later one with the same name. */
uint64_t access_user_id(const struct access_user *user);

/* Whether the user has permissions in the vhost, if only empty ones. */
bool access_may_enter(const struct access_user *user, struct slice vhost);

/* Whether the user has the permission on a queue or an exchange. The default exchange is called
 * "amq.default" here, see access_exchange_name. */
bool access_permits(const struct access_user *user, struct slice vhost,
                    enum access_permission permission, struct slice name);

/* The name by which permissions call an exchange. */
static inline struct slice
access_exchange_name(struct slice name)
{
    return name.size == 0 ? SLICE("amq.default") : name;
}

/* Whether there is a topic permission for the exchange; what it says about a key (true, if there is
 * none). ACCESS_WRITE and ACCESS_READ. */
bool access_has_topic_permission(const struct access_user *user, struct slice vhost,
                                 struct slice exchange);
bool access_permits_topic(const struct access_user *user, struct slice vhost, struct slice exchange,
                          enum access_permission permission, struct slice routing_key);

/* Whether users of this name may come from this machine only. */
bool access_is_loopback_only(struct access *access, struct slice name);

/* --- Passwords -------------------------------------------------------------------------------- */

/* Whether the password is known to be right, because it was found to be. Cheap (microseconds). */
bool access_knows_password(const struct access_user *user, struct slice password);

/* Whether it is right: takes as long for a password that is not as for no user (NULL): as the
 * dearest hash that there is, and at least as scrypt. Not for a thread that others wait for. */
bool access_verify_password(struct access *access, struct access_user *user, struct slice password);

/* --- Changing --------------------------------------------------------------------------------- */

struct access_expressions {
    struct slice vhost;
    struct slice exchange;                  /* of a topic permission */
    struct slice texts[ACCESS_PERMISSIONS]; /* ACCESS_CONFIGURE is not for topic permissions */
};

enum access_change_type {
    ACCESS_USER_SET,
    ACCESS_USER_DELETED,
    ACCESS_PERMISSIONS_SET,
    ACCESS_PERMISSIONS_CLEARED,
    ACCESS_TOPIC_SET,
    ACCESS_TOPIC_CLEARED,
};

/* A change that is to be kept. Borrowed for the call. Deleting a user clears his permissions, each
 * of which is told. */
struct access_change {
    enum access_change_type type;
    struct slice user, password_hash, tags;
    struct access_expressions expressions;
};

struct access_observer {
    void (*changed)(void *context, const struct access_change *change);
    void *context;
};

/* Told of every change from here on, in order, under the lock. Before the threads start. */
void access_observe(struct access *access, struct access_observer observer);

/* All of them: 0; -ENOENT: no such user; -EPERM: the configuration file declares the user; -EINVAL:
 * a name, hash, tag or expression that is none; -ENOMEM. With a text for people in error, and
 * nothing has changed. */

/* Makes the user, or gives him another hash and other tags. */
MUST_CHECK int access_user_set(struct access *access, struct slice name, struct slice password_hash,
                               struct slice tags, char error[ACCESS_ERROR_MAX]);
MUST_CHECK int access_user_delete(struct access *access, struct slice name,
                                  char error[ACCESS_ERROR_MAX]);
MUST_CHECK int access_permissions_set(struct access *access, struct slice user,
                                      const struct access_expressions *expressions,
                                      char error[ACCESS_ERROR_MAX]);
/* Clearing what is not there is no error. */
MUST_CHECK int access_permissions_clear(struct access *access, struct slice user,
                                        struct slice vhost, char error[ACCESS_ERROR_MAX]);
MUST_CHECK int access_topic_set(struct access *access, struct slice user,
                                const struct access_expressions *expressions,
                                char error[ACCESS_ERROR_MAX]);
/* Of one exchange, or all of the vhost (has_exchange false). */
MUST_CHECK int access_topic_clear(struct access *access, struct slice user, struct slice vhost,
                                  bool has_exchange, struct slice exchange,
                                  char error[ACCESS_ERROR_MAX]);

/* Called after users were deleted, on the thread that did it: to wake who has to look at
 * access_deletions. Before the threads start. */
void access_on_deletion(struct access *access, void (*deleted)(void *context), void *context);

/* The vhost has gone, and with it all permissions in it, also those from the file. -ENOMEM. */
MUST_CHECK int access_vhost_deleted(struct access *access, struct slice vhost);

/* A user of the configuration file. */
struct access_declaration {
    struct slice name;
    struct slice password;      /* in clear; has_password */
    struct slice password_hash; /* else */
    bool has_password;
    const struct slice *tags;
    size_t tag_count;
    const struct access_expressions *permissions;
    size_t permission_count;
    const struct access_expressions *topics;
    size_t topic_count;
};

/* These are the users of the file, from now on: users that an earlier call declared and this one
 * does not are deleted, and a user who was made at run time becomes the file's (and goes with it).
 * 0, or nothing has changed and the text says which user was refused for what. */
MUST_CHECK int access_apply(struct access *access, const struct access_declaration *users,
                            size_t count, char error[ACCESS_ERROR_MAX]);

/* The users who may come from this machine only. -ENOMEM. */
MUST_CHECK int access_set_loopback_users(struct access *access, const struct slice *names,
                                         size_t count);

/* --- Looking at all of them ------------------------------------------------------------------- */

/* References to all snapshots, each to be given back, in an array to be freed; -ENOMEM. */
MUST_CHECK int access_list(struct access *access, struct access_user ***users, size_t *count);

/* One after the other, from index 0 up; false: there are no more. Lent with the snapshot. */
bool access_user_permissions(const struct access_user *user, size_t index,
                             struct access_expressions *expressions);
bool access_user_topics(const struct access_user *user, size_t index,
                        struct access_expressions *expressions);
struct slice access_user_hash(const struct access_user *user);
bool access_user_is_from_file(const struct access_user *user);

#endif
