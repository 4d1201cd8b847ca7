/* Becoming another user, and limits of the process: see the header. */
#include "server/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "store/file.h"

PRINTF_LIKE(2, 3)
static int
fail(char error[PRIVILEGES_ERROR_MAX], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, PRIVILEGES_ERROR_MAX, format, arguments);
    va_end(arguments);
    return -1;
}

/* --- Whom to become --------------------------------------------------------------------------- */

/* An id in digits. The greatest number means "leave it" to the system calls, so it is none. */
static bool
parse_id(const char *text, uint32_t *id)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    *id = (uint32_t)value;
    return errno == 0 && *end == 0 && value < UINT32_MAX;
}

static int
find_group(struct identity *identity, const char *group, char error[PRIVILEGES_ERROR_MAX])
{
    errno = 0;
    const struct group *entry = getgrnam(group);
    if (entry != NULL) {
        identity->gid = entry->gr_gid;
        return 0;
    }
    if (parse_id(group, &identity->gid))
        return 0;
    return fail(error, "group: there is no group '%s'%s%s", group, errno != 0 ? ": " : "",
                errno != 0 ? strerror(errno) : "");
}

static int
find_user(struct identity *identity, const char *user, bool has_group,
          char error[PRIVILEGES_ERROR_MAX])
{
    errno = 0;
    const struct passwd *entry = getpwnam(user);
    if (entry != NULL) {
        identity->has_name = true;
        identity->uid = entry->pw_uid;
        identity->gid = entry->pw_gid;
        return 0;
    }
    if (!parse_id(user, &identity->uid))
        return fail(error, "user: there is no user '%s'%s%s", user, errno != 0 ? ": " : "",
                    errno != 0 ? strerror(errno) : "");
    if (!has_group)
        return fail(error, "user: the system does not know user %s, so group must be set", user);
    return 0;
}

int
identity_find(struct identity *identity, const char *user, const char *group,
              char error[PRIVILEGES_ERROR_MAX])
{
    *identity = (struct identity){.user = user, .uid = geteuid(), .gid = getegid()};
    if (user[0] == 0 && group[0] != 0)
        return fail(error, "group: it needs user to be set as well");
    if (user[0] == 0)
        return 0;
    if (find_user(identity, user, group[0] != 0, error) != 0
        || (group[0] != 0 && find_group(identity, group, error) != 0))
        return -1;
    if (geteuid() != 0 && (identity->uid != geteuid() || identity->gid != getegid()))
        return fail(error, "user: only root can become user '%s' and group %u", user,
                    (unsigned)identity->gid);
    return 0;
}

int
privileges_make_directory(const struct identity *identity, const char *path,
                          char error[PRIVILEGES_ERROR_MAX])
{
    if (mkdir(path, 0700) != 0) {
        if (errno == EEXIST)
            return 0;
        return fail(error, "cannot make the data directory %s: %s", path, strerror(errno));
    }
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int status = directory < 0 ? -1 : 0;
    if (status == 0 && geteuid() == 0)
        status = fchown(directory, identity->uid, identity->gid);
    if (status != 0)
        fail(error, "cannot give the data directory %s to its user: %s", path, strerror(errno));
    if (directory >= 0)
        close(directory);
    if (status != 0)
        return status;
    int synced = file_make_directory(file_posix_ops(), path); /* it is there: into the one above */
    if (synced != 0)
        return fail(error, "cannot sync the directory above %s: %s", path, strerror(-synced));
    return 0;
}

/* --- Becoming it ------------------------------------------------------------------------------ */

static int
call_capabilities(struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3], long number)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    return (int)syscall(number, &header, data);
}

/* The bounding set is that from which programs that are executed could get capabilities. What the
 * kernel does not let it take out of that one (it asks for CAP_SETPCAP) is out of reach anyway
 * after PR_SET_NO_NEW_PRIVS. */
static int
drop_bounding_set(void)
{
    for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0;
         capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EPERM)
            return -1;
    return 0;
}

/* -1: unknown. */
static int
has_capabilities(void)
{
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (call_capabilities(data, SYS_capget) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(data); i++)
        if ((data[i].effective | data[i].permitted | data[i].inheritable) != 0)
            return 1;
    return 0;
}

/* Who has none asks for nothing: a supervisor's filter of system calls may not let it. */
static int
drop_capabilities(void)
{
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (has_capabilities() == 0)
        return 0;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0
        || call_capabilities(none, SYS_capset) != 0)
        return -1;
    errno = EPERM;
    return has_capabilities() == 0 ? 0 : -1;
}

static int
become(const struct identity *identity)
{
    int status = identity->has_name ? initgroups(identity->user, identity->gid)
                                    : setgroups(1, &identity->gid);
    if (status != 0 || setresgid(identity->gid, identity->gid, identity->gid) != 0
        || setresuid(identity->uid, identity->uid, identity->uid) != 0)
        return -1;
    return 0;
}

/* Is there a way back to another user or group? There is when a call of the above has lied. */
static bool
can_come_back(const struct identity *identity)
{
    uid_t uids[3];
    gid_t gids[3];
    if (getresuid(&uids[0], &uids[1], &uids[2]) != 0
        || getresgid(&gids[0], &gids[1], &gids[2]) != 0)
        return true;
    for (size_t i = 0; i < ARRAY_SIZE(uids); i++)
        if (uids[i] != identity->uid || gids[i] != identity->gid)
            return true;
    return setresuid((uid_t)-1, 0, (uid_t)-1) == 0 || setresgid((gid_t)-1, 0, (gid_t)-1) == 0;
}

int
privileges_drop(const struct identity *identity, char error[PRIVILEGES_ERROR_MAX])
{
    bool is_root = geteuid() == 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail(error, "cannot give up gaining privileges: %s", strerror(errno));
    if (is_root && identity->uid == 0) {
        log_warn("running as root: set user in the configuration");
        return 0;
    }
    if (is_root && (drop_bounding_set() != 0 || become(identity) != 0))
        return fail(error, "cannot become user '%s': %s", identity->user, strerror(errno));
    if (drop_capabilities() != 0)
        return fail(error, "cannot give up the capabilities: %s", strerror(errno));
    if (is_root && can_come_back(identity))
        return fail(error, "user '%s' could become root again", identity->user);
    return 0;
}

/* --- Limits ----------------------------------------------------------------------------------- */

/* Does a debugger run it? One who may not look into memory could not work. */
static bool
is_traced(void)
{
    char line[128];
    int tracer = 0;
    FILE *status = fopen("/proc/self/status", "re");
    if (status == NULL)
        return false;
    while (tracer == 0 && fgets(line, sizeof(line), status) != NULL)
        if (sscanf(line, "TracerPid: %d", &tracer) == 1)
            break;
    fclose(status);
    return tracer != 0;
}

void
privileges_allow_core(bool is_allowed)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_CORE, &limit) != 0)
        limit.rlim_max = 0;
    limit.rlim_cur = is_allowed ? limit.rlim_max : 0;
    bool is_dumpable = is_allowed || UNDER_SANITIZER || is_traced();
    if (setrlimit(RLIMIT_CORE, &limit) != 0
        || prctl(PR_SET_DUMPABLE, is_dumpable ? 1 : 0, 0, 0, 0) != 0)
        log_warn("the limit of core files cannot be set", LOG_ERRNO("reason", errno));
}

void
privileges_raise_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        log_warn("the limit of open files is unknown", LOG_ERRNO("reason", errno));
        return;
    }
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        log_warn("the limit of open files cannot be raised", LOG_ERRNO("reason", errno));
        limit.rlim_cur = before;
    }
    uint64_t files = limit.rlim_cur;
    log_info("limit of open files", LOG_UINT("files", files),
             LOG_UINT("connections",
                      files > PRIVILEGES_FILES_RESERVED ? files - PRIVILEGES_FILES_RESERVED : 0));
}
