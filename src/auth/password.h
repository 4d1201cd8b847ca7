/* Passwords: how they are kept, and whether one is right.
 *
 * Two forms of hash, each one line of text:
 *
 *   base64(salt[4] + SHA-256(salt + password)), or the same with SHA-512: RabbitMQ's, so that its
 *   users can be taken over. The length tells which of the two it is.
 *
 *   $scrypt$ln=14,r=8,p=1$SALT$HASH: memory-hard (RFC 7914), for passwords that are set here. SALT
 *   and HASH are base64 without padding; 2^ln is scrypt's N.
 *
 * The empty hash is that of a user who has no password and cannot log in with one. */
#ifndef AUTH_PASSWORD_H
#define AUTH_PASSWORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"

enum {
    PASSWORD_HASH_MAX = 160, /* a hash as text, with its 0 */
    PASSWORD_MAX = 1024,     /* bytes of a password */
};

/* What there is to hash a password with. */
enum password_method {
    PASSWORD_SHA256, /* fast: for what is known to everybody, or lies in a file anyway */
    PASSWORD_SCRYPT, /* some 50 ms and 16 MiB */
};

/* A hash of the password under a new salt. -EINVAL: longer than PASSWORD_MAX; -ENOMEM. */
MUST_CHECK int password_hash(enum password_method method, struct slice password,
                             char hash[PASSWORD_HASH_MAX]);

/* Whether the text is a hash of a form that is known here; the empty one is. */
bool password_hash_is_valid(struct slice hash);

/* What PASSWORD_SCRYPT costs, in scrypt's own unit: N r p. */
#define PASSWORD_WORK (UINT64_C(1) << 17)

/* What verifying against the hash costs in this unit; 0 for one that is not scrypt's. */
uint64_t password_hash_work(struct slice hash);

/* Whether it is the password; takes as long for a wrong as for the right one. No password is right
 * for an empty or an invalid hash. */
bool password_is_right(struct slice password, struct slice hash);

/* Works as much more as verifying against a hash of that cost would, for who is not there. */
void password_spend_work(struct slice password, uint64_t work);

/* Overwrites a secret so that the compiler does not leave it out. */
void secret_wipe(void *secret, size_t size);

/* Whether the bytes are equal, in a time that does not depend on where they differ. */
bool secret_equal(const void *a, const void *b, size_t size);

enum { SECRET_DIGEST_SIZE = 32 };

/* A digest of the secret under a random key of this process (HMAC-SHA-256): for knowing a secret
 * again without keeping it. False: it could not be made. */
MUST_CHECK bool secret_digest(struct slice secret, unsigned char digest[SECRET_DIGEST_SIZE]);

#endif
