/* Reading the configuration again: see the header. */
#include "server/reload.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "server/file_policies.h"
#include "server/supervisor.h"
#include "server/tls_settings.h"
#include "server/users.h"
#include "store/log.h"

/* --- The parts of the broker that are given new settings -------------------------------------- */

struct session_limits
reload_limits(const struct settings *settings)
{
    return (struct session_limits){
        .frame_max = settings->limits.frame_max,
        .channel_max = settings->limits.channel_max,
        .heartbeat_s = settings->heartbeat_s,
        .handshake_ms = settings->limits.handshake_timeout_ms,
        .message_size_max = settings->limits.message_size,
        .header_size_max = settings->limits.header_size,
        .header_depth_max = settings->limits.header_depth,
        .consumer_timeout_ms = settings->limits.consumer_timeout_ms,
        .consumers_per_channel = settings->limits.consumers_per_channel,
        .consumers_per_connection = settings->limits.consumers_per_connection,
        .unsettled_per_channel = settings->limits.unsettled_per_channel,
        .admission = {.connections = settings->limits.connections,
                      .per_user = settings->limits.connections_per_user,
                      .per_vhost = settings->limits.connections_per_vhost,
                      .per_address = settings->limits.connections_per_address,
                      .handshakes = settings->limits.handshakes},
    };
}

/* What became of the new settings of a part. */
enum outcome { REFUSED = -1, IN_FORCE = 0, NEEDS_RESTART = TLS_SETTINGS_NEED_RESTART };

static int
apply_limits(struct server *server, const struct settings *settings, char error[RELOAD_ERROR_MAX])
{
    (void)error;
    const struct session_limits limits = reload_limits(settings);
    server_set_limits(server, &limits);
    return 0;
}

static int
apply_proxies(struct server *server, const struct settings *settings, char error[RELOAD_ERROR_MAX])
{
    (void)error;
    server_trust_proxies(server, &settings->proxy_protocol.trusted);
    return 0;
}

static int
apply_watermarks(struct server *server, const struct settings *settings,
                 char error[RELOAD_ERROR_MAX])
{
    (void)error;
    pressure_set_memory(&server->pressure, settings->limits.memory);
    if (server->pressure.log != NULL)
        log_set_disk_free_low(server->pressure.log, settings->limits.disk_free);
    return 0;
}

_Static_assert((int)RELOAD_ERROR_MAX >= (int)TLS_ERROR_MAX, "the text of TLS fits");

static int
apply_tls(struct server *server, const struct settings *settings, char error[RELOAD_ERROR_MAX])
{
    return tls_settings_apply(settings, server, error);
}

static int
apply_users(struct server *server, const struct settings *settings, char error[RELOAD_ERROR_MAX])
{
    char text[USERS_ERROR_MAX];
    if (users_apply(server, settings, text) == 0)
        return 0;
    snprintf(error, RELOAD_ERROR_MAX, "%.*s", RELOAD_ERROR_MAX - 1, text);
    return -1;
}

/* After the users, who bring the vhosts. */
static int
apply_policies(struct server *server, const struct settings *settings, char error[RELOAD_ERROR_MAX])
{
    char text[FILE_POLICIES_ERROR_MAX];
    if (file_policies_apply(server, settings, text) == 0)
        return 0;
    snprintf(error, RELOAD_ERROR_MAX, "%.*s", RELOAD_ERROR_MAX - 1, text);
    return -1;
}

/* Each is called at every reload, changed or not, since files that a setting only names may have
 * changed; the log's are no part, as it is still needed. An enum outcome, REFUSED with one line why
 * the old are kept. What can have another outcome than IN_FORCE names its settings: keys, and
 * sections with all their keys. */
static const struct part {
    const char *name;
    int (*apply)(struct server *server, const struct settings *settings,
                 char error[RELOAD_ERROR_MAX]);
    const char *settings[4];
} parts[] = {
    {"limits", apply_limits, {NULL}},
    {"proxies", apply_proxies, {NULL}},
    {"watermarks", apply_watermarks, {NULL}},
    {"tls", apply_tls, {"tls"}},
    {"users", apply_users, {"vhosts", "users", "loopback_users"}},
    {"policies", apply_policies, {"policies", "operator_policies"}},
};

/* What became of all of them. */
struct outcomes {
    enum outcome of_part[ARRAY_SIZE(parts)];
    uint32_t failures;
};

static void
apply_parts(struct server *server, const struct settings *wanted, struct outcomes *outcomes)
{
    outcomes->failures = 0;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        char error[RELOAD_ERROR_MAX] = "";
        outcomes->of_part[i] = (enum outcome)parts[i].apply(server, wanted, error);
        if (outcomes->of_part[i] != REFUSED)
            continue;
        outcomes->failures++;
        log_error("new settings cannot be used, the old stay in force",
                  LOG_STR("part", parts[i].name), LOG_STR("reason", error));
    }
}

static bool
is_of_part(const struct part *part, const char *path)
{
    for (size_t i = 0; i < ARRAY_SIZE(part->settings) && part->settings[i] != NULL; i++) {
        size_t size = strlen(part->settings[i]);
        if (strncmp(path, part->settings[i], size) == 0 && (path[size] == 0 || path[size] == '.'))
            return true;
    }
    return false;
}

static enum outcome
outcome_of(const struct outcomes *outcomes, const char *path)
{
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (is_of_part(&parts[i], path))
            return outcomes->of_part[i];
    return IN_FORCE;
}

/* --- Reading and telling ---------------------------------------------------------------------- */

static void
tell_errors(const struct config_errors *errors)
{
    char line[CONFIG_PATH_MAX + CONFIG_ERROR_TEXT_MAX + 64];
    for (size_t i = 0; i < errors->count; i++) {
        config_error_format(errors, i, line, sizeof(line));
        log_error("configuration error", LOG_STR("error", line));
    }
    log_error("the configuration is not changed", LOG_UINT("errors", errors->total));
}

/* How many there are that are in force or will be after a restart. */
static uint32_t
tell_changes(const struct settings *before, const struct settings *after,
             const struct outcomes *outcomes)
{
    struct config_change change;
    uint32_t count = 0;
    for (size_t at = 0; settings_next_change(before, after, &at, &change);) {
        enum outcome outcome = change.is_live ? outcome_of(outcomes, change.path) : NEEDS_RESTART;
        count += outcome != REFUSED;
        if (outcome == IN_FORCE)
            log_info("setting changed", LOG_STR("key", change.path), LOG_STR("from", change.from),
                     LOG_STR("to", change.to));
        else if (outcome == NEEDS_RESTART)
            log_warn("setting needs a restart", LOG_STR("key", change.path),
                     LOG_STR("from", change.from), LOG_STR("to", change.to));
        else
            log_warn("setting stays as it was", LOG_STR("key", change.path),
                     LOG_STR("in_force", change.from), LOG_STR("refused", change.to));
    }
    return count;
}

static bool
is_in_force(void *outcomes, const char *path)
{
    return outcome_of(outcomes, path) == IN_FORCE;
}

static void
apply(struct reload *reload, struct settings *wanted)
{
    struct outcomes outcomes;
    /* When the log becomes less talkative, these lines are still wanted; when it becomes more so,
     * they are already. */
    if (wanted->log.level > reload->running.log.level)
        log_set_level(wanted->log.level);
    apply_parts(reload->server, wanted, &outcomes);
    uint32_t changes = tell_changes(&reload->running, wanted, &outcomes);
    log_set_format(wanted->log.format);
    log_set_level(wanted->log.level);
    settings_take_live(&reload->running, wanted, is_in_force, &outcomes);
    log_info("configuration read again", LOG_UINT("changes", changes),
             LOG_UINT("failures", outcomes.failures));
}

void
reload_now(void *context)
{
    struct reload *reload = context;
    static struct settings wanted; /* too large for a stack; the first worker's */
    static struct config_errors errors;
    log_info("reading the configuration again");
    supervisor_tell_reloading();
    if (reload->read(reload->context, &wanted, &errors) == 0)
        apply(reload, &wanted);
    else
        tell_errors(&errors);
    settings_fini(&wanted);
    supervisor_tell("READY=1"); /* with the old or the new, it serves */
}
