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

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "conformance"))

import harness  # noqa: E402  (found through the line above)
from client import Failure  # noqa: E402

TIME_LIMIT = 90.0  # seconds of an attack, on a slow and busy machine
ATTACKS = []


class Skip(Exception):
    """This machine does not let the attack be made; the text says why."""


class Entry:
    def __init__(self, run, config, bystander, descriptors):
        self.name, self.run, self.config = run.__name__, run, config
        self.bystander, self.descriptors = bystander, descriptors


def attack(function=None, *, config="", bystander="publish", descriptors=None):
    """Marks an attack. config is the broker's; bystander is its mode, or None where the attack is
    on the bystander's own ground; descriptors limits those of the broker."""
    def register(function):
        ATTACKS.append(Entry(function, config, bystander, descriptors))
        return function
    return register if function is None else register(function)


@functools.cache
def is_sanitized(path):
    with open(path, "rb") as file:
        program = file.read()
    return b"__asan_init" in program or b"__tsan_init" in program


class Whippetd(harness.Whippetd):
    """The same broker with its log in a file, and perhaps few descriptors."""

    def __init__(self, path, threads, config, descriptors):
        super().__init__(path, threads, config)
        self.descriptors, self.is_sanitized = descriptors, is_sanitized(path)
        self.log_name = os.path.join(self.folder.name, "log")

    def limit(self):
        most = self.descriptors or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def start(self):
        self.is_asked_to_end = False
        with open(self.log_name, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=log,
                                            stdout=subprocess.PIPE, text=True,
                                            preexec_fn=self.limit)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines),
                         daemon=True).start()
        return self._address()

    def log(self):
        with open(self.log_name, encoding="utf-8", errors="replace") as file:
            return file.read()


class Bystander:
    def __init__(self, address, mode):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "bystander.py"), *map(str, address), mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("ready")

    def expect(self, wanted=None):
        line = self.process.stdout.readline().strip()
        if not line or line.startswith("bystander:") or wanted not in (None, line):
            raise Failure(line or "the bystander ended without a word")
        return line

    def end(self):
        """-> (rounds, seconds of the longest)"""
        self.process.stdin.close()
        try:
            result = json.loads(self.expect())
        finally:
            self.process.wait()
        return result["rounds"], result["longest"]

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Attack(harness.OwnBroker):
    def __init__(self, whippetd):
        super().__init__(whippetd)
        self.deadline = time.monotonic() + TIME_LIMIT

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


def descriptors_for(connections, at_least):
    """How many connections this process and the broker can have, of so many wanted; or Skip."""
    spare = 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < connections + spare:
        try:
            hard = connections + spare
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < at_least + spare:
        raise Skip(f"needs {at_least + spare} file descriptors, the limit is {hard}")
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(connections, hard - spare)


def vanish(connection):
    """The connection is cut off with a reset."""
    connection.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
    connection.socket.close()


def run_one(entry, path, threads, longest_wait):
    """-> None, or in words what went wrong. Skip is passed on."""
    broker = bystander = reason = None
    try:
        broker = Attack(Whippetd(path, threads, entry.config or None, entry.descriptors))
        if entry.bystander:
            bystander = Bystander(broker.address, entry.bystander)
        entry.run(broker)
        if bystander:
            rounds, longest = bystander.end()
            print(f"  {entry.name}: bystander made {rounds} rounds, the longest took "
                  f"{longest * 1000:.0f} ms", flush=True)
            if longest > longest_wait:
                reason = f"the bystander waited {longest:.1f} s, the limit is {longest_wait:.1f} s"
    except Failure as failure:
        reason = f"{failure}{harness.place(failure)}"
    except (OSError, harness.wire.WireError) as error:
        reason = f"{type(error).__name__}: {error}{harness.place(error)}"
    finally:
        if bystander:
            bystander.kill()
        if broker:
            for connection in broker.connections:
                connection.drop()
            try:
                reason = reason or broker.whippetd.stop()
                if reason:
                    reason += "\n" + "\n".join(broker.log().splitlines()[-20:])
            finally:
                broker.whippetd.end()
    return reason
