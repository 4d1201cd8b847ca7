/* The system call filter: see the header. The list is what strace shows of the test suites, with
 * the calls by which other architectures and C libraries do the same. Names that an architecture
 * does not have are passed over. */
#include "server/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#if HAVE_SECCOMP && !UNDER_SANITIZER

#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

static const char *const allowed[] = {
    /* descriptors */
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev",
    "pwritev2", "lseek", "_llseek", "close", "close_range", "dup", "dup2", "dup3", "fcntl",
    "fcntl64", "pipe", "pipe2", "eventfd2", "epoll_create1", "epoll_ctl", "epoll_wait",
    "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "ppoll_time64", "select", "_newselect",
    "pselect6", "pselect6_time64",
    /* sockets that are there; none is made, and none connects */
    "accept", "accept4", "recv", "recvfrom", "recvmsg", "recvmmsg", "send", "sendto", "sendmsg",
    "sendmmsg", "sendfile", "sendfile64", "shutdown", "getsockopt", "setsockopt", "getsockname",
    "getpeername",
    /* files: segments, the database, and what a reload reads */
    "open", "openat", "creat", "stat", "stat64", "fstat", "fstat64", "lstat", "lstat64",
    "newfstatat", "fstatat64", "statx", "statfs", "statfs64", "fstatfs", "fstatfs64", "access",
    "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd",
    "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir",
    "truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate", "fsync", "fdatasync",
    "sync_file_range", "fadvise64", "fadvise64_64", "flock", "fchmod", "fchown", "fchown32",
    "umask", "utimensat", "copy_file_range",
    /* memory */
    "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock",
    "mlock2", "munlock",
    /* threads and signals of this process */
    "futex", "futex_time64", "futex_waitv", "set_robust_list", "get_robust_list", "set_tid_address",
    "rseq", "membarrier", "sched_yield", "sched_getaffinity", "exit", "exit_group",
    "restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending",
    "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack", "sigreturn",
    /* the time, and who one is */
    "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64", "clock_nanosleep",
    "clock_nanosleep_time64", "nanosleep", "gettimeofday", "time", "times", "getrusage", "getpid",
    "gettid", "getppid", "getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32",
    "getegid", "getegid32", "getresuid", "getresgid", "getgroups", "getrlimit", "ugetrlimit",
    "getrandom", "uname", "sysinfo", "arch_prctl", "getcpu", "capget"};

static const char *const deadly[] = {
    /* programs, other processes, the machine, and becoming somebody else */
    "execve",
    "execveat",
    "fork",
    "vfork",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "unshare",
    "setns",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "reboot",
    "swapon",
    "swapoff",
    "setuid",
    "setgid",
    "setresuid",
    "setresgid",
    "setreuid",
    "setregid",
    "setgroups",
    "capset",
    "personality",
    "iopl",
    "ioperm"};

/* 0, also for a call that this architecture does not have; else what libseccomp says, a -errno. */
static int
add(scmp_filter_ctx filter, uint32_t action, const char *name)
{
    int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR)
        return 0;
    int status = seccomp_rule_add(filter, action, number, 0);
    return status == -EDOM ? 0 : status;
}

static int
add_names(scmp_filter_ctx filter, uint32_t action, const char *const *names, size_t count)
{
    int status = 0;
    for (size_t i = 0; i < count && status == 0; i++)
        status = add(filter, action, names[i]);
    return status;
}

/* What is allowed with some arguments only. */
static int
add_with_arguments(scmp_filter_ctx filter)
{
    const scmp_datum_t thread = CLONE_VM | CLONE_THREAD;
    const scmp_datum_t namespaces = CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
                                    | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    static const unsigned long ioctls[] = {TCGETS, FIONREAD, FIONBIO};
    static const int prctls[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE};
#if defined(__s390x__)
    const unsigned flags_argument = 1; /* the only one where the stack comes first */
#else
    const unsigned flags_argument = 0;
#endif
    int status =
        seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                         SCMP_CMP(flags_argument, SCMP_CMP_MASKED_EQ, thread | namespaces, thread));
    for (size_t i = 0; i < ARRAY_SIZE(ioctls) && status == 0; i++)
        status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                  SCMP_A1(SCMP_CMP_EQ, ioctls[i], 0));
    for (size_t i = 0; i < ARRAY_SIZE(prctls) && status == 0; i++)
        status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                                  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)prctls[i], 0));
    if (status == 0) /* signals to itself, as of abort(3), and not to the user's other processes */
        status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    if (status == 0) /* limits may be read and not set */
        status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1,
                                  SCMP_A2(SCMP_CMP_EQ, 0, 0));
    return status;
}

static int
load(scmp_filter_ctx filter)
{
    int status = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (status == 0)
        status = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    /* For the look-up of a call: a tree instead of a list, where libseccomp can. So is the log. */
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
    if (status == 0)
        status = add_names(filter, SCMP_ACT_KILL_PROCESS, deadly, ARRAY_SIZE(deadly));
    if (status == 0)
        status = add_names(filter, SCMP_ACT_ALLOW, allowed, ARRAY_SIZE(allowed));
    if (status == 0)
        status = add_with_arguments(filter);
    if (status == 0) /* to be refused by the quiet filter, which is there already */
        status = add(filter, SCMP_ACT_ALLOW, "clone3");
    if (status == 0)
        status = seccomp_load(filter);
    return status;
}

/* clone3 has its arguments in memory, where a filter does not see them. Told that there is no such
 * call, the C library uses clone, for every thread anew. So it has a filter of its own, which does
 * not log: what is in the audit log is not to be there at every start. */
static int
load_quiet(scmp_filter_ctx filter)
{
    int status = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (status == 0)
        status = add(filter, SCMP_ACT_ERRNO(ENOSYS), "clone3");
    if (status == 0)
        status = seccomp_load(filter);
    return status;
}

/* A filter whose answer is `usual` where what `load_rules` adds says nothing else. */
static int
enter(uint32_t usual, int (*load_rules)(scmp_filter_ctx))
{
    scmp_filter_ctx filter = seccomp_init(usual);
    int status = filter == NULL ? -ENOMEM : load_rules(filter);
    if (filter != NULL)
        seccomp_release(filter);
    return status;
}

int
sandbox_enter(char error[SANDBOX_ERROR_MAX])
{
    int status = enter(SCMP_ACT_ALLOW, load_quiet);
    if (status == 0)
        status = enter(SCMP_ACT_ERRNO(ENOSYS), load);
    if (status == 0)
        return 0;
    snprintf(error, SANDBOX_ERROR_MAX, "the kernel takes no system call filter: %s",
             strerror(-status));
    return -1;
}

#else

int
sandbox_enter(char error[SANDBOX_ERROR_MAX])
{
    snprintf(error, SANDBOX_ERROR_MAX, "%s",
             UNDER_SANITIZER ? "built with a sanitizer, which needs more than a filter allows"
                             : "built without libseccomp");
    return -1;
}

#endif
