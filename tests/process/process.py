"""A broker as a process of its own, with its log and its files, for the tests beside this file."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from client import Connection

TIME_LIMIT = 60.0  # seconds until what must happen counts as not happening, on a busy machine
FAILURE, USAGE, CONFIG = 1, 64, 78  # exit statuses
TESTS = []


class Skip(Exception):
    """The test cannot be run here; the text says why."""


class Failure(Exception):
    """The broker did something else than the rule says."""


def test(function):
    """Marks a test: a function that is given a World, and fails by raising."""
    TESTS.append(function)
    return function


def needs_root():
    if os.geteuid() != 0:
        raise Skip("only root can do that")


class Lines:
    """The lines that a pipe brings, which one can wait for."""

    def __init__(self, pipe):
        self.lines, self.is_ended, self.changed = [], False, threading.Condition()
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe):
        with pipe:
            for line in pipe:
                with self.changed:
                    self.lines.append(line.rstrip("\n"))
                    self.changed.notify_all()
        with self.changed:
            self.is_ended = True
            self.changed.notify_all()

    def wait(self, pattern, since=0, seconds=TIME_LIMIT):
        """-> the match of the first line, from that number on, in which the pattern is found."""
        end, position = time.monotonic() + seconds, since
        with self.changed:
            while True:
                for line in self.lines[position:]:
                    found = re.search(pattern, line)
                    if found:
                        return found
                position = max(position, len(self.lines))
                if self.is_ended:
                    raise Failure(f"the broker ended before it said /{pattern}/")
                if not self.changed.wait(max(0.0, end - time.monotonic())):
                    raise Failure(f"the broker did not say /{pattern}/ in {seconds:.0f} s")

    def wait_whole(self, seconds=TIME_LIMIT):
        """All is there that was said."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.is_ended, seconds):
                raise Failure("the broker has ended and its output has not")

    def count(self):
        with self.changed:
            return len(self.lines)

    def all(self, since=0):
        with self.changed:
            return list(self.lines[since:])

    def has(self, pattern, since=0):
        return any(re.search(pattern, line) for line in self.all(since))


class Whippetd:
    """One run of the broker."""

    def __init__(self, world, arguments=(), listen=True, data_dir=True, config=True,
                 environment=None, prefix=(), stderr=None, **popen):
        command = [*prefix, world.path, "--threads", str(world.threads), *arguments]
        if listen:
            command += ["--listen", "127.0.0.1:0"]
        if data_dir:
            command += ["--data-dir", world.data_dir]
        if config:
            command += ["--config", world.config_path]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stderr is None else stderr, text=True,
            errors="surrogateescape", env={**os.environ, **(environment or {})}, **popen)
        self.output = Lines(self.process.stdout)
        self.log = Lines(self.process.stderr) if stderr is None else None
        self.pid = self.process.pid

    def wait_ready(self):
        """-> itself, when it has said where it listens."""
        found = self.output.wait(r"AMQP on (\S+):(\d+)")
        self.address = found.group(1).strip("[]"), int(found.group(2))
        return self

    def connect(self, **handshake):
        return self.socket().handshake(**handshake)

    def socket(self):
        """A connection on which nothing was said yet."""
        return Connection(self.address, time.monotonic() + TIME_LIMIT)

    def check_serves(self):
        """A client comes in, declares, publishes and gets."""
        connection = self.connect()
        channel = connection.channel()
        queue = channel.call("queue.declare", exclusive=True).queue
        channel.publish(queue, "still here")
        channel.got(queue, "still here")
        connection.close()

    def signal(self, number):
        os.kill(self.pid, number)

    def reload(self):
        """-> the log lines of a reload, up to the one that ends it."""
        since = self.log.count()
        self.signal(signal.SIGHUP)
        end = r"configuration read again|the configuration is not changed"
        self.log.wait(end, since)
        lines = self.log.all(since)
        while not re.search(end, lines[-1]):
            lines.pop()  # what other threads have said meanwhile
        return lines

    def status(self, field):
        """A field of /proc/PID/status of the whole process, as a text."""
        return status_of(f"/proc/{self.pid}", field)

    def thread_status(self, field):
        """The same of each thread."""
        tasks = f"/proc/{self.pid}/task"
        return [status_of(f"{tasks}/{task}", field) for task in os.listdir(tasks)]

    def wait_end(self, seconds=TIME_LIMIT):
        """-> the exit status; all that it said is there"""
        status = self.process.wait(seconds)
        for lines in self.output, self.log:
            if lines is not None:
                lines.wait_whole(seconds)
        return status

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        status = self.wait_end()
        if status != 0:
            raise Failure(f"the broker ended with status {status}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def status_of(directory, field):
    with open(f"{directory}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    raise Failure(f"{directory}/status has no {field}")


class World:
    """What a test has: a folder, a configuration, and the brokers it starts."""

    def __init__(self, path, threads):
        self.path, self.threads, self.brokers = path, threads, []
        self.folder = tempfile.mkdtemp(prefix="whippet-process-")
        os.chmod(self.folder, 0o755)
        self.data_dir = os.path.join(self.folder, "data")
        self.config_path = os.path.join(self.folder, "whippet.yaml")
        self.configure("")

    def configure(self, text):
        with open(self.config_path, "w", encoding="utf-8") as file:
            file.write(text)

    def launch(self, *arguments, **options):
        """A broker that may not even get so far as to serve."""
        self.brokers.append(Whippetd(self, arguments, **options))
        return self.brokers[-1]

    def start(self, config="", *arguments, **options):
        self.configure(config)
        return self.launch(*arguments, **options).wait_ready()

    def end_in_order(self):
        for broker in self.brokers:
            if broker.process.poll() is None:
                broker.stop()

    def last_words(self):
        return self.brokers[-1].log.all()[-20:] if self.brokers and self.brokers[-1].log else []

    def end(self):
        for broker in self.brokers:
            broker.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def is_sanitized(path):
    """Was this program built with a sanitizer?"""
    with open(path, "rb") as file:
        content = file.read()
    return b"__asan_init" in content or b"__tsan_init" in content


def fields_of(line):
    """The fields of a log line: of a JSON object, or of key=value with quotes where needed."""
    if line.startswith("{"):
        return json.loads(line)
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line)
    return {key: value.strip('"') for key, value in found}


def check(is_so, what):
    if not is_so:
        raise Failure(what)


def check_equal(what, got, wanted):
    check(got == wanted, f"{what}: got {got!r}, wanted {wanted!r}")
