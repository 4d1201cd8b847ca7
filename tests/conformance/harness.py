"""Collects scenarios, runs them side by side, and says what came of each.

A scenario is a function that takes a Broker: it makes its own connections and names through it, and
fails by raising. All it opened is closed and all names it made are deleted when it ends.
"""
import fnmatch
import itertools
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
import traceback

import amqp_wire as wire
from client import TIMED_OUT, ChannelClosed, Connection, Failure

TIME_LIMIT = 60.0  # seconds a scenario may take; most need less than one
SIDE_BY_SIDE = 8  # scenarios at a time
LOOPBACK = "127.0.0.1:0"
SILENCE = 16  # scenarios in a row that wait in vain: the broker has stopped answering
SCENARIOS = []


class Skip(Exception):
    """Raised by a scenario that cannot be tried on this machine, and says why."""


class Scenario:
    def __init__(self, name, run, not_rabbitmq, restarts, config, prepare=None, listen=LOOPBACK):
        self.name, self.run, self.not_rabbitmq = name, run, not_rabbitmq
        self.has_own_broker, self.config = restarts or config is not None, config
        self.prepare, self.listen = prepare, listen


def scenario(function=None, *, not_rabbitmq=None, restarts=False, config=None, prepare=None,
             listen=LOOPBACK):
    """Marks a scenario. not_rabbitmq says why RabbitMQ 3.10 does otherwise on purpose; with
    restarts it has a broker of its own, which it may end and start again; with config too, and
    that is the text of its configuration file. prepare does to RabbitMQ what the file does to us, and
    says whether it could."""
    def register(function):
        add(function.__name__, function, not_rabbitmq, restarts, config, prepare, listen)
        return function
    return register if function is None else register(function)


def add(name, run, not_rabbitmq=None, restarts=False, config=None, prepare=None, listen=LOOPBACK):
    """A scenario made from a row of a table."""
    if any(known.name == name for known in SCENARIOS):
        raise ValueError(f"two scenarios are called {name}")
    SCENARIOS.append(Scenario(name, run, not_rabbitmq, restarts, config, prepare, listen))


class Broker:
    """What a scenario sees of the broker."""

    _numbers = itertools.count(1)

    def __init__(self, address):
        self.address, self.deadline = address, time.monotonic() + TIME_LIMIT
        self.prefix = f"conformance-{os.getpid()}-{next(self._numbers)}"
        self.connections, self.queues, self.exchanges = [], [], []

    def socket(self, source=None):
        """A connection on which nothing was said yet."""
        connection = Connection(self.address, self.deadline, source)
        self.connections.append(connection)
        return connection

    def connect(self, **handshake):
        return self.socket().handshake(**handshake)

    def channel(self, **handshake):
        """A channel on a connection of its own."""
        return self.connect(**handshake).channel()

    def queue_name(self, word="q"):
        self.queues.append(f"{self.prefix}-{word}{len(self.queues) or ''}")
        return self.queues[-1]

    def exchange_name(self, word="x"):
        self.exchanges.append(f"{self.prefix}-{word}{len(self.exchanges) or ''}")
        return self.exchanges[-1]

    def queue(self, channel, **fields):
        """A declared queue with a name of its own."""
        return channel.declare(self.queue_name(), **fields).queue

    def exchange(self, channel, type="direct", **fields):
        """A declared exchange with a name of its own."""
        name = self.exchange_name()
        channel.declare_exchange(name, type, **fields)
        return name

    def clean_up(self, seconds):
        for connection in self.connections:
            connection.drop()
        if self.queues or self.exchanges:
            connection = Connection(self.address, time.monotonic() + seconds)
            try:
                channel = connection.handshake().channel()
                for name in self.exchanges:
                    channel.call("exchange.delete", exchange=name)
                for name in self.queues:
                    try:
                        channel.call("queue.delete", queue=name)
                    except ChannelClosed as end:  # still locked by a connection that is going down
                        if end.method.reply_code != 405:
                            raise
                        channel = connection.channel()
                connection.close()
            finally:
                connection.drop()


class OwnBroker(Broker):
    """A broker that only this scenario uses, and may end and start again on the same data."""

    def __init__(self, whippetd):
        self.whippetd = whippetd
        super().__init__(whippetd.start())

    def restart(self, kill=False):
        """In order, or as if it had crashed."""
        if kill:
            self.whippetd.kill()
        else:
            self.stop()
        for connection in self.connections:
            connection.drop()
        self.connections.clear()
        self.address = self.whippetd.start()

    def stop(self):
        problem = self.whippetd.stop()
        if problem:
            raise Failure(problem)

    def clean_up(self, seconds):
        try:
            super().clean_up(seconds)
            self.stop()
        finally:
            self.whippetd.end()


def run_one(scenario, address, whippetd=None):
    """whippetd makes brokers, of a configuration, for scenarios that have their own.

    Returns None, or in words what went wrong, or a Skip.
    """
    reason = None
    try:
        broker = (OwnBroker(whippetd(scenario.config, scenario.listen))
                  if scenario.has_own_broker and whippetd else Broker(address))
    except (Failure, OSError) as error:
        return f"starting: {error}"
    try:
        scenario.run(broker)
    except Skip as skip:
        reason = skip
    except Failure as failure:
        reason = f"{failure}{place(failure)}"
    except wire.WireError as error:
        reason = f"not AMQP: {error}{place(error)}"
    except OSError as error:
        reason = f"cannot talk to the broker: {error}"
    except Exception as error:  # a mistake in the scenario: show where, and go on with the next
        reason = f"{type(error).__name__}: {error}{place(error)}"
    try:
        broker.clean_up(2 if reason else TIME_LIMIT)
    except (Failure, OSError, wire.WireError) as error:
        reason = reason or f"cleaning up: {error}"
    return reason


def place(error):
    """Where in the scenario it happened: the innermost line outside client.py and harness.py."""
    for entry in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.basename(entry.filename) not in ("client.py", "harness.py", "amqp_wire.py"):
            return f"  [{os.path.basename(entry.filename)}:{entry.lineno}: {entry.line}]"
    return ""


class Whippetd:
    """A broker of our own on a free port, with an empty data directory."""

    def __init__(self, path, threads, config=None, listen=LOOPBACK):
        self.folder = tempfile.TemporaryDirectory(prefix="whippet-conformance-")
        self.command = [path, "--data-dir", self.data_dir(),
                        "--listen", listen, "--threads", str(threads)]
        if config is not None:
            name = os.path.join(self.folder.name, "whippet.yaml")
            with open(name, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(config)
            self.command += ["--config", name]
        self.process, self.is_asked_to_end, self.log_file = None, False, None

    def keep_log(self):
        """From the next start on the log goes to a file. -> its name"""
        name = os.path.join(self.folder.name, "log")
        self.log_file = open(name, "a", encoding="utf-8")
        return name

    def data_dir(self):
        return os.path.join(self.folder.name, "data")

    def start(self):
        """-> its address"""
        self.is_asked_to_end = False
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log_file,
            text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines),
                         daemon=True).start()
        return self._address()

    @staticmethod
    def _read(stream, lines):
        with stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    def _address(self):
        """Waits for the line that names the port."""
        end = time.monotonic() + TIME_LIMIT
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Failure("the broker did not say its port") from None
            if line is None:
                raise Failure(f"the broker {ending(self.process.wait())} before it said its port")
            found = re.search(r"(?:127\.0\.0\.1|0\.0\.0\.0|\[::\]):(\d+)", line)
            if found:
                return "127.0.0.1", int(found.group(1))

    def ask_to_end(self):
        if not self.is_asked_to_end:
            self.process.terminate()
            self.is_asked_to_end = True

    def stop(self):
        """-> None, or in words why its end was not an orderly one."""
        if self.process.poll() is not None and not self.is_asked_to_end:
            return f"the broker {ending(self.process.returncode)} by itself"
        self.ask_to_end()
        try:
            status = self.process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"the broker did not end within {TIME_LIMIT:.0f} s of SIGTERM"
        return f"after SIGTERM the broker {ending(status)}" if status else None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self):
        """Nothing is left of it, neither process nor files."""
        self.kill()
        if self.log_file:
            self.log_file.close()
        self.folder.cleanup()


def ending(status):
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


class Results:
    """Counts and prints; a scenario is reported once, also if it ends after it was given up."""

    def __init__(self):
        self.lock, self.named = threading.Lock(), set()
        self.passed, self.failed, self.skipped = 0, 0, 0
        self.in_vain = 0  # scenarios in a row that ran into the time limit

    def report(self, name, reason=None, skip=None):
        with self.lock:
            if name in self.named:
                return
            self.named.add(name)
            self.in_vain = self.in_vain + 1 if reason and TIMED_OUT in reason else 0
            if skip:
                self.skipped += 1
                print(f"skip {name}: {skip}", flush=True)
            elif reason:
                self.failed += 1
                print(f"not ok {name}: {reason}", flush=True)
            else:
                self.passed += 1
                print(f"ok {name}", flush=True)


def run_all(scenarios, address, results, peer=None, whippetd=None):
    work, running = queue.Queue(), {}
    for entry in scenarios:
        if peer == "rabbitmq" and entry.not_rabbitmq:
            results.report(entry.name, skip=entry.not_rabbitmq)
        elif entry.has_own_broker and not whippetd and not (
                peer == "rabbitmq" and entry.prepare and entry.prepare()):
            results.report(entry.name, skip="it needs a broker of its own: --whippetd is needed")
        else:
            work.put(entry)

    def worker(number):
        while True:
            try:
                entry = work.get_nowait()
            except queue.Empty:
                running.pop(number, None)
                return
            if results.in_vain >= SILENCE:
                results.report(entry.name, f"not tried: the broker does not answer ({TIMED_OUT})")
                continue
            running[number] = entry.name, time.monotonic()
            reason = run_one(entry, address, whippetd)
            if isinstance(reason, Skip):
                results.report(entry.name, skip=str(reason))
            else:
                results.report(entry.name, reason)

    workers = [threading.Thread(target=worker, args=(n,), daemon=True) for n in range(SIDE_BY_SIDE)]
    for thread in workers:
        thread.start()
    while any(thread.is_alive() for thread in workers):
        for thread in workers:
            thread.join(0.2)
        late = [(n, name) for n, (name, since) in list(running.items())
                if time.monotonic() - since > 3 * TIME_LIMIT]
        for number, name in late:  # all sockets have deadlines: a loop in the scenario itself
            results.report(name, "it does not end")
            running.pop(number, None)
            workers = [thread for n, thread in enumerate(workers) if n != number]


def select(pattern):
    if not pattern:
        return SCENARIOS
    if re.fullmatch(r"[\w*?\[\]]*[*?][\w*?\[\]]*", pattern):
        return [entry for entry in SCENARIOS if fnmatch.fnmatch(entry.name, pattern)]
    return [entry for entry in SCENARIOS if re.search(pattern, entry.name)]
