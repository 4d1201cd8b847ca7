/* Login: from the name and the password that a client says to connection.tune, or to a refusal that
 * takes its time. */
#ifndef SESSION_LOGIN_H
#define SESSION_LOGIN_H

#include "session/connection.h"

/* Looks whether the password is the user's: at once when that is known, else on the login thread,
 * while the connection waits. Nothing is kept of the password. */
void login_with_password(struct connection *connection, struct slice mechanism, struct slice user,
                         struct slice password);

/* The user is who he says, which something else than a password has shown: he comes in, if there is
 * such a user who may come from where he is. */
void login_known(struct connection *connection, struct slice mechanism, struct slice user);

/* Nobody comes in: logged, counted for the address, and answered after a pause. */
void login_refuse(struct connection *connection, struct slice mechanism, struct slice user,
                  const char *reason);

/* The connection ends: if it waits for its password to be verified, nobody needs to know any more.
 */
void login_forget(struct connection *connection);

/* The pause is over. */
void login_refused(struct connection *connection);

#endif
