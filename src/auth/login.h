/* Verifying passwords, on a thread of its own: a hash that is slow on purpose must not hold up
 * those who have come in.
 *
 * Whoever asks hands a job over and goes on; the answer is a call on the login thread. Jobs wait in
 * lanes, one for each place they come from, and the lanes take turns: so one who asks without end
 * waits behind himself, and the others do not. How many wait is bounded by who may ask: handshakes
 * are counted, and have their time. */
#ifndef AUTH_LOGIN_H
#define AUTH_LOGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "auth/access.h"
#include "auth/failures.h"
#include "base/list.h"

struct login_job {
    struct list link;         /* in its lane; nobody's business but the service's */
    uint64_t source;          /* stands for the address that it comes from: any number */
    struct access_user *user; /* owned reference; NULL: there is no such user */
    struct slice password;    /* owned by the job's owner, who wipes it */
    bool is_right;            /* the answer */
    /* Called on the login thread, or on the one that stops the service (is_right is false then):
     * the job, with all it holds, is the owner's again. */
    void (*done)(struct login_job *job);
};

struct login_service;

/* The access is lent. NULL: out of memory. */
struct login_service *login_service_new(struct access *access);

/* Starts the thread, before the process gives up what that needs; else the first job does. -errno.
 */
MUST_CHECK int login_service_start(struct login_service *service);

/* Ends the thread; what was not verified is done with. */
void login_service_free(struct login_service *service);

/* Takes a job back, whose answer nobody awaits any more. False: it is being verified, or has been;
 * its owner is called. Any thread. */
MUST_CHECK bool login_cancel(struct login_service *service, struct login_job *job);

/* Hands a job over. False: there is no memory or no thread to be had; the job is still the
 * caller's, who is not called. Any thread. */
MUST_CHECK bool login_submit(struct login_service *service, struct login_job *job);

/* Who failed to log in, by address. */
struct failures *login_failures(struct login_service *service);

#endif
