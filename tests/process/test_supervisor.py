"""What the broker and systemd tell each other, with the test in systemd's place."""
import ctypes
import os
import queue
import re
import signal
import socket
import shutil
import subprocess
import threading
import time

from process import FAILURE, TIME_LIMIT, USAGE, Failure, Skip, check, check_equal, needs_root, test

ETC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "etc")
# systemd names the process that it means, which only the process itself knows beforehand.
NAME_PROCESS = ("sh", "-c", 'export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$@"', "sh")
PTRACE_ATTACH, PTRACE_DETACH, WAIT_ALL = 16, 17, 0x40000000


class Supervisor:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, world, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = os.path.join(world.folder, "notify")
        self.socket.bind("\0" + name if abstract else name)
        self.environment = {"NOTIFY_SOCKET": "@" + name if abstract else name}
        self.told = queue.Queue()

    def read(self):
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self):
        while True:
            self.told.put(self.socket.recv(4096).decode())

    def fill(self):
        """Until there is no room for another message."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            try:
                while True:
                    other.sendto(b"other", self.socket.getsockname())
            except BlockingIOError:
                pass

    def next(self, seconds=TIME_LIMIT):
        """The next message; None when none comes in time."""
        try:
            return self.told.get(timeout=seconds)
        except queue.Empty:
            return None

    def expect(self, wanted):
        """The next message that is no sign of life."""
        told = self.next()
        while told == "WATCHDOG=1":
            told = self.next()
        check_equal("message", told, wanted)

    def falls_silent(self, seconds):
        """Whatever was on its way, there comes a time of so long without a message."""
        end = time.monotonic() + TIME_LIMIT
        while self.next(seconds) is not None:
            check(time.monotonic() < end, "the signs of life go on")

    def pings_in(self, seconds):
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            count += self.next(max(0.0, end - time.monotonic())) == "WATCHDOG=1"
        return count


@test
def it_says_when_it_is_ready_and_when_it_stops(world):
    supervisor = Supervisor(world).read()
    broker = world.start(environment=supervisor.environment)
    supervisor.expect("READY=1")
    broker.check_serves()
    broker.stop()
    supervisor.expect("STOPPING=1")


@test
def an_abstract_socket_will_do(world):
    supervisor = Supervisor(world, abstract=True).read()
    world.start(environment=supervisor.environment)
    supervisor.expect("READY=1")


@test
def a_socket_that_is_not_there_is_told_and_no_reason_to_end(world):
    broker = world.start(environment={"NOTIFY_SOCKET": world.folder + "/nobody"})
    broker.log.wait("the supervisor cannot be told anything .*No such file")
    broker.check_serves()


@test
def a_reload_is_told_with_its_beginning_and_end(world):
    supervisor = Supervisor(world).read()
    broker = world.start(environment=supervisor.environment)
    supervisor.expect("READY=1")
    for text in ("log: {level: debug}\n", "nonsense: 1\n"):
        world.configure(text)
        before = time.monotonic()
        broker.signal(signal.SIGHUP)
        told = supervisor.next().split("\n")
        check_equal("state", told[0], "RELOADING=1")
        moment = int(told[1].removeprefix("MONOTONIC_USEC=")) / 1e6
        check(before <= moment <= time.monotonic(), f"{told[1]} is not between {before} and now")
        supervisor.expect("READY=1")


@test
def it_gives_signs_of_life_also_when_nobody_is_there(world):
    supervisor = Supervisor(world).read()
    world.start(environment={**supervisor.environment, "WATCHDOG_USEC": "400000"})
    supervisor.expect("READY=1")
    for _ in range(5):
        check_equal("message", supervisor.next(), "WATCHDOG=1")


@test
def a_supervisor_that_stands_still_holds_nobody_up(world):
    """What it does not read fills its socket: signs of life are left out, and others wait a moment."""
    supervisor = Supervisor(world)
    broker = world.start(environment={**supervisor.environment, "WATCHDOG_USEC": "40000"})
    check_equal("message", supervisor.socket.recv(4096), b"READY=1")
    since = broker.log.count()
    supervisor.fill()
    for _ in range(3):
        broker.check_serves()
    broker.reload()
    broker.check_serves()
    check(not broker.log.has("WATCHDOG", since), "the log tells of every sign of life")
    supervisor.read()
    for _ in range(30):  # more than lay there
        told = supervisor.next()
        check(told in ("WATCHDOG=1", "other"), f"the supervisor was told {told}")


@test
def a_watchdog_of_another_process_is_not_its_own(world):
    supervisor = Supervisor(world).read()
    world.start(environment={**supervisor.environment, "WATCHDOG_USEC": "400000",
                             "WATCHDOG_PID": "1"})
    supervisor.expect("READY=1")
    check_equal("signs of life", supervisor.pings_in(1), 0)


def thread_named(broker, name):
    tasks = f"/proc/{broker.pid}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/comm", encoding="ascii") as file:
            if file.read().strip() == name:
                return int(task)
    raise Failure(f"no thread is called {name}")


@test
def a_worker_that_stands_still_ends_the_signs_of_life(world):
    needs_root()
    world.threads = 3
    supervisor = Supervisor(world).read()
    broker = world.start(environment={**supervisor.environment, "WATCHDOG_USEC": "400000"})
    supervisor.expect("READY=1")
    libc = ctypes.CDLL(None, use_errno=True)
    check_equal("sign of life", supervisor.next(), "WATCHDOG=1")
    thread = thread_named(broker, "worker-2")
    if libc.ptrace(PTRACE_ATTACH, thread, None, None) != 0:
        raise Skip("this system does not let one thread be stopped: "
                   + os.strerror(ctypes.get_errno()))
    os.waitpid(thread, WAIT_ALL)
    try:
        supervisor.falls_silent(1.5)
    finally:
        libc.ptrace(PTRACE_DETACH, thread, None, None)
    check_equal("message", supervisor.next(), "WATCHDOG=1")


@test
def sockets_that_are_handed_over_take_the_place_of_the_configured_ones(world):
    def hand_over():  # between fork and exec: they are descriptors 3 and 4 there
        os.dup2(handed[0], 3)
        os.dup2(handed[1], 4)

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    high = [os.dup2(each.fileno(), 100 + number) for number, each in enumerate(sockets)]
    handed = high
    broker = world.start("listen: 127.0.0.1:1\n", listen=False, prefix=NAME_PROCESS,
                         environment={"LISTEN_FDS": "2"}, pass_fds=(3, 4, *high),
                         preexec_fn=hand_over)
    addresses = [each.getsockname() for each in sockets]
    for each in sockets:
        each.close()
    for number in high:
        os.close(number)
    check_equal("first address", broker.address, addresses[0])
    for broker.address in addresses:
        broker.check_serves()


@test
def what_is_handed_over_must_listen(world):
    with open(os.devnull, "rb") as null:
        def hand_over():
            os.dup2(null.fileno(), 3)
        broker = world.launch(listen=False, prefix=NAME_PROCESS, environment={"LISTEN_FDS": "1"},
                              pass_fds=(3, null.fileno()), preexec_fn=hand_over)
        broker.log.wait("whippetd: file descriptor 3 is not a listening socket")
        check_equal("exit status", broker.wait_end(), 1)


@test
def sockets_of_another_process_are_not_its_own(world):
    broker = world.start(environment={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    broker.check_serves()


def not_tried_again():
    """The exit statuses after which systemd does not start the broker again."""
    with open(os.path.join(ETC, "whippet.service"), encoding="utf-8") as file:
        found = re.search(r"^RestartPreventExitStatus=(.*)$", file.read(), re.MULTILINE)
    return [int(status) for status in found.group(1).split()]


@test
def a_start_that_can_only_fail_again_is_not_tried_again(world):
    bad = [("nonsense: 1\n", ()), ("tls: {listen: 127.0.0.1:0}\n", ()),
           ("user: no-such-user\n", ()), ("", ("--threads", "many")), ("", ("--nonsense",)),
           ("", ("argument",)), ("", ("--listen", "nowhere"))]
    for config, arguments in bad:
        world.configure(config)
        status = world.launch(*arguments).wait_end()
        check(status in not_tried_again(), f"{config} {arguments}: status {status}")
        check_equal(f"{arguments} is wrong", status == USAGE, bool(arguments))
    os.unlink(world.config_path)
    check(world.launch().wait_end() in not_tried_again(), "it is tried again without a file")


@test
def a_start_that_may_succeed_later_is_tried_again(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker = world.launch("--listen", "127.0.0.1:%d" % taken.getsockname()[1])
        status = broker.wait_end()
        check_equal("status", status, FAILURE)
        check(status not in not_tried_again(), "it is not")


@test
def the_unit_is_hardened(world):
    del world
    if shutil.which("systemd-analyze") is None:
        raise Skip("systemd-analyze is not here")
    result = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=15",
                             "--no-pager", os.path.join(ETC, "whippet.service")],
                            capture_output=True, text=True)
    if "Unknown" in result.stderr or "unrecognized" in result.stderr:
        raise Skip("this systemd-analyze is too old to look at a file")
    check_equal("status and complaint", (result.returncode, result.stderr), (0, ""))
