/* Login: see the header.
 *
 * Who is refused learns one thing, whatever was wrong: that he is. The log says what it was, with
 * the peer's address and never with the secret. A user who does not exist is looked for as long as
 * one whose password is wrong. */
#include "session/login.h"

#include <stdlib.h>
#include <string.h>

#include "auth/login.h"
#include "base/log.h"
#include "session/channel.h"

/* A password on its way to the login thread, and the answer on its way back. The connection may go
 * meanwhile: it is addressed by reference. */
struct session_login {
    struct login_job job; /* the first: the thread knows no more of it */
    struct session_login *next;
    struct session_host *host;
    struct ref connection;
    struct slice user; /* into bytes, as the job's password is */
    const char *mechanism;
    char bytes[];
};

/* --- Coming in -------------------------------------------------------------------------------- */

static void
welcome(struct connection *connection, const struct access_user *user)
{
    struct session_host *host = connection->host;
    struct slice name = access_user_name(user);
    connection->user = strndup(name.data, name.size);
    connection->user_id = access_user_id(user);
    if (connection->user == NULL) {
        connection_break(connection, "out of memory");
        return;
    }
    CONNECTION_SEND(connection, 0, connection_tune, 64,
                    {.channel_max = host->limits.channel_max,
                     .frame_max = host->limits.frame_max,
                     .heartbeat = host->limits.heartbeat_s});
    connection->state = CONNECTION_AWAITS_TUNE_OK;
}

/* He is who he says; may he come from there? */
static void
come_in(struct connection *connection, struct slice mechanism, const struct access_user *user)
{
    struct slice name = access_user_name(user);
    if (!connection->is_loopback && access_is_loopback_only(connection->host->access, name))
        login_refuse(connection, mechanism, name, "user can only connect via localhost");
    else
        welcome(connection, user);
}

void
login_known(struct connection *connection, struct slice mechanism, struct slice name)
{
    struct access_user *user = access_user_find(connection->host->access, name);
    if (user == NULL)
        login_refuse(connection, mechanism, name, "no such user");
    else
        come_in(connection, mechanism, user);
    access_user_unref(user);
}

/* --- Being refused ---------------------------------------------------------------------------- */

/* After `count` failures from his address. */
static void
refuse(struct connection *connection, struct slice mechanism, struct slice user, const char *reason,
       uint32_t count, uint32_t delay_ms)
{
    struct session_host *host = connection->host;
    EVENT_LOG(host, EVENT_LOGIN_REFUSED, LOG_LEVEL_WARN, "login refused",
              LOG_STR("peer", connection->peer), LOG_SLICE("mechanism", mechanism),
              LOG_SLICE("user", user), LOG_STR("reason", reason), LOG_UINT("failures", count));
    bool is_told = (connection->capabilities & CLIENT_AUTHENTICATION_FAILURE_CLOSE) != 0;
    connection->refused_mechanism = !is_told                          ? NULL
                                    : slice_is(mechanism, "PLAIN")    ? "PLAIN"
                                    : slice_is(mechanism, "AMQPLAIN") ? "AMQPLAIN"
                                                                      : "EXTERNAL";
    if (!is_told && delay_ms < SESSION_LOGIN_PENALTY_MS)
        delay_ms = SESSION_LOGIN_PENALTY_MS;
    connection->state = CONNECTION_REFUSED;
    if (delay_ms == 0) {
        login_refused(connection);
        return;
    }
    wheel_set(&host->shard->wheel, &connection->timer, host->shard->now_ms + delay_ms);
    connection_dirty(connection);
}

void
login_refuse(struct connection *connection, struct slice mechanism, struct slice user,
             const char *reason)
{
    struct session_host *host = connection->host;
    uint32_t count;
    uint32_t delay_ms = failures_add(login_failures(host->logins), connection->address_key,
                                     host->shard->now_ms, &count);
    refuse(connection, mechanism, user, reason, count, delay_ms);
}

void
login_refused(struct connection *connection)
{
    struct shard *shard = connection->host->shard;
    if (connection->refused_mechanism == NULL) {
        connection_end(connection);
        return;
    }
    struct amqp_error error;
    amqp_error_set(&error, AMQP_REPLY_ACCESS_REFUSED,
                   "Login was refused using authentication mechanism %s. For details see the "
                   "broker logfile.",
                   connection->refused_mechanism);
    CONNECTION_SEND(connection, 0, connection_close, 512,
                    {.reply_code = error.code, .reply_text = slice_from(error.text)});
    connection->state = CONNECTION_CLOSING;
    wheel_set(&shard->wheel, &connection->timer, shard->now_ms + SESSION_LOGIN_PENALTY_MS);
}

/* --- Passwords -------------------------------------------------------------------------------- */

/* On the login thread. */
static void
verified(struct login_job *job)
{
    struct session_login *login = (struct session_login *)job;
    struct session_host *host = login->host;
    login->next = atomic_load_explicit(&host->logged_in, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&host->logged_in, &login->next, login,
                                                  memory_order_release, memory_order_relaxed))
        continue;
    loop_wake(host->loop);
}

static void
login_free(struct session_login *login)
{
    secret_wipe((char *)login->job.password.data, login->job.password.size);
    access_user_unref(login->job.user);
    free(login);
}

/* Takes the user over. NULL: out of memory. */
static struct session_login *
login_new(struct connection *connection, const char *mechanism, struct slice name,
          struct access_user *user, struct slice password)
{
    struct session_login *login = malloc(sizeof(*login) + name.size + password.size);
    if (login == NULL) {
        access_user_unref(user);
        return NULL;
    }
    char *secret = login->bytes + name.size;
    *login = (struct session_login){
        .job = {.source = connection->address_key,
                .user = user,
                .password = {secret, password.size},
                .done = verified},
        .host = connection->host,
        .connection = connection->ref,
        .user = {login->bytes, name.size},
        .mechanism = mechanism,
    };
    memcpy(login->bytes, name.data, name.size);
    memcpy(secret, password.data, password.size);
    return login;
}

/* Hands the password over to the login thread. */
static void
ask(struct connection *connection, const char *mechanism, struct slice name,
    struct access_user *user, struct slice password)
{
    struct session_host *host = connection->host;
    if (ref_is_none(connection->ref))
        connection->ref = ref_table_add(&host->shard->clients, connection);
    struct session_login *login = login_new(connection, mechanism, name, user, password);
    if (login == NULL || ref_is_none(connection->ref)) {
        connection_break(connection, "out of memory");
        if (login != NULL)
            login_free(login);
        return;
    }
    connection->is_waiting = true;
    connection->login = login;
    if (login_submit(host->logins, &login->job)) {
        connection_dirty(connection); /* to be watched for nothing but its end */
        return;
    }
    connection->is_waiting = false;
    connection->login = NULL;
    login_free(login);
    connection_break(connection, "no memory or no thread to verify the password");
}

void
login_with_password(struct connection *connection, struct slice mechanism, struct slice name,
                    struct slice password)
{
    struct access_user *user = access_user_find(connection->host->access, name);
    if (user == NULL || !access_knows_password(user, password)) {
        ask(connection, slice_is(mechanism, "PLAIN") ? "PLAIN" : "AMQPLAIN", name, user, password);
        return;
    }
    come_in(connection, mechanism, user);
    access_user_unref(user);
}

void
login_forget(struct connection *connection)
{
    struct session_login *login = connection->login;
    connection->login = NULL;
    /* One that is being verified is freed when its answer comes. */
    if (login != NULL && login_cancel(connection->host->logins, &login->job))
        login_free(login);
}

/* --- Answers ---------------------------------------------------------------------------------- */

static void
answer(struct connection *connection, const struct session_login *login)
{
    struct slice mechanism = slice_from(login->mechanism);
    connection->is_waiting = false;
    connection_dirty(connection); /* to go on with what it has sent since */
    if (!login->job.is_right) {
        login_refuse(connection, mechanism, login->user, "invalid credentials");
        return;
    }
    /* Whoever he is by now: meanwhile he may have been deleted, or made anew by somebody else. */
    struct access_user *now = access_user_find(connection->host->access, login->user);
    if (now == NULL || access_user_id(now) != access_user_id(login->job.user)
        || !slice_equal(access_user_hash(now), access_user_hash(login->job.user)))
        login_refuse(connection, mechanism, login->user, "the user has changed meanwhile");
    else
        come_in(connection, mechanism, now);
    access_user_unref(now);
}

bool
session_host_has_logins(const struct session_host *host)
{
    return atomic_load_explicit(&host->logged_in, memory_order_acquire) != NULL;
}

void
session_host_login(struct session_host *host)
{
    if (atomic_load_explicit(&host->logged_in, memory_order_relaxed) == NULL)
        return;
    struct session_login *login =
        atomic_exchange_explicit(&host->logged_in, NULL, memory_order_acquire);
    while (login != NULL) {
        struct session_login *next = login->next;
        struct connection *connection = ref_table_find(&host->shard->clients, login->connection);
        if (connection != NULL) {
            connection->login = NULL;
            if (connection->state == CONNECTION_AWAITS_START_OK && !connection->is_broken)
                answer(connection, login);
        }
        login_free(login);
        login = next;
    }
}
