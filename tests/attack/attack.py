"""What an attack is, and how it is run.

An attack is a function that takes an Attack: a broker of its own (conformance's OwnBroker), whose
memory and log it can look at. While it runs, a bystander (bystander.py) publishes and consumes; that
nothing of its is lost, and none of its rounds takes longer than the limit, is part of every attack.
"""
import functools
import json
import os
import queue
import re
import resource
import struct
import subprocess
import sys
import threading
import time
import types

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "conformance"))

import harness  # noqa: E402  (found through the line above)
from client import Failure  # noqa: E402
from harness import Skip  # noqa: E402

TIME_LIMIT = 90.0  # seconds of an attack, on a slow and busy machine
ATTACKS = []


class Entry:
    def __init__(self, run, config, bystander, descriptors, environment, seconds):
        self.name, self.run, self.config, self.bystander = run.__name__, run, config, bystander
        self.descriptors, self.environment = descriptors, environment
        self.is_long, self.seconds = seconds > TIME_LIMIT, seconds


def attack(function=None, *, config="", bystander="publish", descriptors=None, environment=None,
           seconds=TIME_LIMIT):
    """Marks an attack. config is the broker's; bystander is its mode, or None where the attack is
    on the bystander's own ground or starts its own; descriptors: so many are the broker's limit, if
    the machine lets it have them; environment says what variables it is started with, given a folder
    for files. One of more seconds than usual mostly waits, and is made beside the others."""
    def register(function):
        ATTACKS.append(Entry(function, config, bystander, descriptors, environment, seconds))
        return function
    return register if function is None else register(function)


@functools.cache
def is_sanitized(path):
    with open(path, "rb") as file:
        program = file.read()
    return b"__asan_init" in program or b"__tsan_init" in program


class Whippetd(harness.Whippetd):
    """The same broker with its log in a file, and perhaps few descriptors and a machine of its own."""

    def __init__(self, path, threads, config, descriptors, environment):
        super().__init__(path, threads, config)
        self.threads, self.descriptors = threads, descriptors
        self.is_sanitized = is_sanitized(path)
        self.log_name = os.path.join(self.folder.name, "log")
        self.environment = os.environ | (environment(self.folder.name) if environment else {})

    def limit(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = self.descriptors or hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except ValueError:  # only some can raise it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def start(self):
        self.spawn()
        return self._address()

    def spawn(self):
        self.is_asked_to_end = False
        with open(self.log_name, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=log,
                                            stdout=subprocess.PIPE, text=True,
                                            env=self.environment, preexec_fn=self.limit)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines),
                         daemon=True).start()

    def log(self):
        with open(self.log_name, encoding="utf-8", errors="replace") as file:
            return file.read()


class Helper:
    """A program of this folder that says in lines how it goes, and ends when its input does."""

    def __init__(self, program, address, *arguments):
        self.name = program
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, f"{program}.py"), *map(str, (*address, *arguments))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def expect(self, wanted=None):
        line = self.process.stdout.readline().strip()
        if not line or line.startswith(self.name + ":") or wanted not in (None, line):
            raise Failure(line or f"the {self.name} ended without a word")
        return line

    def end(self):
        """-> what it says at its end"""
        self.process.stdin.close()
        try:
            return self.expect()
        finally:
            self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Bystander(Helper):
    def __init__(self, address, mode):
        super().__init__("bystander", address, mode)
        self.expect("ready")

    def end(self):
        """-> rounds, and seconds: longest, p50, p99"""
        return types.SimpleNamespace(**json.loads(super().end()))


class Attack(harness.OwnBroker):
    def __init__(self, whippetd, seconds):
        super().__init__(whippetd)
        self.helpers = []
        self.deadline = time.monotonic() + seconds

    @property
    def pid(self):
        return self.whippetd.process.pid

    def rss(self):
        """Bytes of memory that the broker really has; 0 under a sanitizer, whose own would hide it."""
        if self.whippetd.is_sanitized:
            return 0
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) * 1024

    def processor_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self):
        return self.whippetd.log()

    def helper(self, program, *arguments):
        self.helpers.append(Helper(program, self.address, *arguments))
        return self.helpers[-1]

    def bystander(self, mode="publish"):
        """One more, from now until its end()."""
        self.helpers.append(Bystander(self.address, mode))
        return self.helpers[-1]

    def until(self, what, holds, seconds=60.0):
        """Looks again until it holds: for what shows outside the protocol only."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise Failure(f"waited in vain: {what}")
            time.sleep(0.02)

    def say(self, text):
        print(f"  {text}", flush=True)

    def flood(self, connection, data, seconds=None, times=None):
        """Sends the same bytes again and again, for a time or so often, or until the broker does
        not take any for half a second. -> how many bytes went out."""
        connection.socket.settimeout(0.5)
        sent, end = 0, time.monotonic() + (seconds or TIME_LIMIT)
        view = memoryview(data)
        while time.monotonic() < end and (times is None or sent < times * len(data)):
            try:
                sent += connection.socket.send(view[sent % len(data):])
            except TimeoutError:
                break
        return sent


def descriptors_for(connections):
    """Lets this process have so many connections; Skip: the machine does not."""
    needed = connections + 500
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except ValueError:
            raise Skip(f"needs {needed} file descriptors, the limit is {hard}") from None
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def vanish(connection):
    """The connection is cut off with a reset."""
    connection.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
    connection.socket.close()


def told(name, result):
    print(f"  {name}: bystander made {result.rounds} rounds in p50 {result.p50 * 1000:.1f}, "
          f"p99 {result.p99 * 1000:.1f}, at most {result.longest * 1000:.1f} ms", flush=True)


def run_one(entry, path, threads, longest_wait):
    """-> None, or in words what went wrong. Skip is passed on."""
    broker = reason = None
    whippetd = Whippetd(path, threads, entry.config or None, entry.descriptors, entry.environment)
    try:
        broker = Attack(whippetd, entry.seconds)
        bystander = broker.bystander(entry.bystander) if entry.bystander else None
        entry.run(broker)
        if bystander:
            result = bystander.end()
            told(entry.name, result)
            if result.longest > longest_wait:
                reason = (f"the bystander waited {result.longest:.1f} s, the limit is "
                          f"{longest_wait:.1f} s")
    except Failure as failure:
        reason = f"{failure}{harness.place(failure)}"
    except (OSError, harness.wire.WireError) as error:
        reason = f"{type(error).__name__}: {error}{harness.place(error)}"
    finally:
        try:
            if broker:
                reason = close(broker, reason)
        finally:
            whippetd.end()
    return reason


def close(broker, reason):
    """Ends what the attack began. -> the reason of its failure, the broker's last words with it"""
    for helper in broker.helpers:
        helper.kill()
    for connection in broker.connections:
        connection.drop()
    reason = reason or broker.whippetd.stop()
    if reason:
        reason += "\n" + "\n".join(broker.log().splitlines()[-20:])
    return reason
