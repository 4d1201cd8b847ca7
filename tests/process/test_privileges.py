"""Root binds the ports, and then nobody is root any more; what is on disk is the user's alone."""
import os
import pwd
import resource
import shutil
import stat

from process import (CONFIG, FAILURE, Skip, check, check_equal, is_sanitized, needs_root, status_of,
                     test)

NOBODY = pwd.getpwnam("nobody")
BECOME_NOBODY = "user: nobody\n"
LOW_PORT = ("127.13.37.1", 799)  # an address that nobody else uses


def capabilities(broker):
    return {name: set(broker.thread_status(name))
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def program_for_everybody(world):
    """A copy of the program where other users can run it, which the source folder may not let."""
    copy = os.path.join(world.folder, "whippetd")
    shutil.copy(world.path, copy)
    os.chmod(copy, 0o755)
    world.path = copy


def as_nobody(world):
    """Arguments for a start that is nobody's from the beginning, with a data directory."""
    needs_root()
    program_for_everybody(world)
    os.mkdir(world.data_dir, 0o700)
    os.chown(world.data_dir, NOBODY.pw_uid, NOBODY.pw_gid)
    return {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}


def refused(world, config, pattern, status=CONFIG, **options):
    """The start fails with one line, which is of this pattern."""
    world.configure(config)
    broker = world.launch(**options)
    broker.log.wait(f"whippetd: .*{pattern}")
    check_equal("exit status", broker.wait_end(), status)


@test
def root_binds_a_low_port_and_then_becomes_the_user(world):
    needs_root()
    broker = world.start(f"listen: {LOW_PORT[0]}:{LOW_PORT[1]}\n" + BECOME_NOBODY, listen=False)
    check_equal("address", broker.address, LOW_PORT)
    broker.check_serves()
    uids = "\t".join([str(NOBODY.pw_uid)] * 4)
    gids = "\t".join([str(NOBODY.pw_gid)] * 4)
    check_equal("user of the threads", set(broker.thread_status("Uid")), {uids})
    check_equal("group of the threads", set(broker.thread_status("Gid")), {gids})
    check_equal("further groups", set(broker.thread_status("Groups")), {str(NOBODY.pw_gid)})


@test
def no_capability_is_left_in_any_thread(world):
    needs_root()
    broker = world.start(BECOME_NOBODY)
    for name, values in capabilities(broker).items():
        check_equal(name, values, {"0" * 16})
    check_equal("NoNewPrivs", set(broker.thread_status("NoNewPrivs")), {"1"})


@test
def a_group_may_be_another_than_the_user_s(world):
    needs_root()
    broker = world.start('user: nobody\ngroup: "54321"\n')
    check_equal("group", broker.status("Gid").split()[0], "54321")


@test
def a_user_may_be_a_number_that_the_system_does_not_know(world):
    needs_root()
    broker = world.start('user: "54320"\ngroup: "54321"\n')
    check_equal("user", broker.status("Uid").split(), ["54320"] * 4)
    check_equal("further groups", broker.status("Groups"), "54321")
    broker.check_serves()


@test
def a_user_that_nobody_knows_is_refused(world):
    refused(world, "user: no-such-user-here\n", "user: there is no user 'no-such-user-here'")
    refused(world, "group: daemon\n", "group: it needs user to be set")
    refused(world, "user: root\ngroup: no-such-group\n", "group: there is no group 'no-such-group'")
    refused(world, 'user: "4294967295"\n', "user: there is no user '4294967295'")


@test
def root_without_a_user_is_warned_about(world):
    needs_root()
    broker = world.start()
    broker.log.wait("warn running as root")
    check_equal("NoNewPrivs", broker.status("NoNewPrivs"), "1")


@test
def only_root_can_become_another_user(world):
    options = as_nobody(world)
    refused(world, "user: daemon\n", "only root can become user 'daemon'", **options)


@test
def who_is_the_user_already_needs_no_root(world):
    broker = world.start(BECOME_NOBODY, **as_nobody(world))
    check(not broker.log.has("running as root"), "it takes itself for root")
    broker.check_serves()


@test
def capabilities_that_a_supervisor_gave_are_given_up(world):
    as_nobody(world)
    if shutil.which("setpriv") is None:
        raise Skip("setpriv of util-linux is not here")
    give = ("setpriv", "--reuid", "nobody", "--regid", str(NOBODY.pw_gid), "--clear-groups",
            "--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service")
    broker = world.start(f"listen: {LOW_PORT[0]}:{LOW_PORT[1] + 1}\n", listen=False, prefix=give)
    broker.check_serves()
    left = capabilities(broker)
    del left["CapBnd"]  # it takes a capability to give that up, which was not given
    for name, values in left.items():
        check_equal(name, values, {"0" * 16})


@test
def files_are_the_user_s_alone_whatever_the_umask(world):
    before = os.umask(0)
    try:
        broker = world.start(BECOME_NOBODY if os.geteuid() == 0 else "")
    finally:
        os.umask(before)
    channel = broker.connect().channel()
    channel.call("queue.declare", queue="q", durable=True)
    channel.select()
    for number in range(20):
        channel.publish_confirmed("q", f"{number}" * 1000, delivery_mode=2)
    uid = NOBODY.pw_uid if os.geteuid() == 0 else os.geteuid()
    count = 0
    for folder, _, names in os.walk(world.data_dir):
        status = os.stat(folder)
        check_equal(f"mode of {folder}", stat.S_IMODE(status.st_mode), 0o700)
        check_equal(f"owner of {folder}", status.st_uid, uid)
        for name in names:
            status = os.stat(os.path.join(folder, name))
            check_equal(f"mode of {name}", stat.S_IMODE(status.st_mode), 0o600)
            check_equal(f"owner of {name}", status.st_uid, uid)
            count += 1
    check(count > 2, "there are next to no files")


@test
def a_data_directory_that_is_not_the_user_s_is_refused(world):
    needs_root()
    os.mkdir(world.data_dir, 0o700)
    refused(world, BECOME_NOBODY, "cannot write in the data directory .*: Permission denied",
            FAILURE)


def core_limit(broker):
    with open(f"/proc/{broker.pid}/limits", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("Max core file size"))
    return line.split()[4:6]


def is_dumpable(broker):
    """The files of a process whose memory is nobody's business are root's."""
    return os.stat(f"/proc/{broker.pid}/maps").st_uid != 0


@test
def a_crash_leaves_no_core_file(world):
    needs_root()
    if is_sanitized(world.path):
        raise Skip("sanitizers look into the process and need what this forbids")
    broker = world.start(BECOME_NOBODY, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
    check_equal("core limit", core_limit(broker)[0], "0")
    check(not is_dumpable(broker), "other processes of the user may look into its memory")


@test
def core_dumps_can_be_allowed(world):
    needs_root()
    broker = world.start("core_dumps: true\n" + BECOME_NOBODY)
    soft, hard = core_limit(broker)
    check_equal("core limit", soft, hard)
    check(is_dumpable(broker), "there would be no core file")


@test
def the_limit_of_open_files_is_raised_and_told(world):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 2000))
    broker = world.start(preexec_fn=limit)
    found = broker.log.wait(r"limit of open files files=(\d+) connections=(\d+)")
    check_equal("files and connections", found.groups(), ("2000", "1744"))
    soft, _ = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    check_equal("soft limit", soft, 2000)


@test
def system_calls_are_filtered_in_every_thread(world):
    if is_sanitized(world.path):
        raise Skip("a build with sanitizers has no filter")
    broker = world.start("seccomp: true\n")
    if broker.log.has("system calls are not filtered"):
        raise Skip("this system or build has no filter for system calls")
    broker.check_serves()
    check_equal("mode of the filter (2: filter)", set(broker.thread_status("Seccomp")), {"2"})


@test
def the_filter_of_system_calls_can_be_switched_off(world):
    before = status_of("/proc/self", "Seccomp")
    broker = world.start("seccomp: false\n")
    check_equal("mode of the filter", set(broker.thread_status("Seccomp")), {before})
