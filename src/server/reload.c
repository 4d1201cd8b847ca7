/* Reading the configuration again: see the header. */
#include "server/reload.h"

#include <stdio.h>

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

static int
apply_log(struct server *server, const struct settings *settings, char error[RELOAD_ERROR_MAX])
{
    (void)server;
    (void)error;
    log_set_format(settings->log.format);
    log_set_level(settings->log.level);
    return 0;
}

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
 * changed. 0, or -1 with one line why the old is kept. The log comes last: what is done before is
 * told as loudly as before. */
static const struct {
    const char *name;
    int (*apply)(struct server *server, const struct settings *settings,
                 char error[RELOAD_ERROR_MAX]);
} parts[] = {
    {"limits", apply_limits}, {"proxies", apply_proxies}, {"watermarks", apply_watermarks},
    {"tls", apply_tls},       {"users", apply_users},     {"policies", apply_policies},
    {"log", apply_log},
};

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

static uint32_t
tell_changes(const struct settings *before, const struct settings *after)
{
    struct config_change change;
    uint32_t count = 0;
    for (size_t at = 0; settings_next_change(before, after, &at, &change); count++) {
        if (change.is_live)
            log_info("setting changed", LOG_STR("key", change.path), LOG_STR("from", change.from),
                     LOG_STR("to", change.to));
        else
            log_warn("setting needs a restart", LOG_STR("key", change.path),
                     LOG_STR("from", change.from), LOG_STR("to", change.to));
    }
    return count;
}

static void
apply(struct reload *reload, struct settings *wanted)
{
    /* When the log becomes less talkative, these lines are still wanted; when it becomes more so,
     * they are already. */
    if (wanted->log.level > reload->running.log.level)
        log_set_level(wanted->log.level);
    uint32_t changes = tell_changes(&reload->running, wanted);
    uint32_t failures = 0;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        char error[RELOAD_ERROR_MAX] = "";
        if (parts[i].apply(reload->server, wanted, error) == 0)
            continue;
        failures++;
        log_error("new settings cannot be used, the old stay in force",
                  LOG_STR("part", parts[i].name), LOG_STR("reason", error));
    }
    settings_take_live(&reload->running, wanted);
    log_info("configuration read again", LOG_UINT("changes", changes),
             LOG_UINT("failures", failures));
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
