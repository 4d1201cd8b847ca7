"""Runs one client program under a time limit and turns what it prints into results.

A program is called with HOST PORT STEP..., prints `ok STEP` or `not ok STEP: reason` for each step,
and exits 0. In the step `recovery` it prints `ready` when it has used the broker once, and reads a
line from its standard input that says the broker has been killed and started again.

Each program leads a session of its own, which is killed as a whole at the end: no worker process of
a client outlives its test.
"""
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time

from steps import RECOVERY

TIME_LIMIT_S = 300
BUILD_LIMIT_S = 600
STDERR_LINES = 15


class BuildError(Exception):
    """A client's program could not be built; the text is what the compiler said."""


class Unreachable(Exception):
    """What a program wants is fetched from a place that does not answer."""


def build(command, directory=None, environment=None):
    """Runs a compiler or package manager; raises BuildError with its output if it fails."""
    try:
        done = subprocess.run(command, cwd=directory, env={**os.environ, **(environment or {})},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=BUILD_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took more than {BUILD_LIMIT_S} s") from None
    if done.returncode != 0:
        text = done.stdout.decode(errors="replace").strip()
        raise BuildError(f"{command[0]} failed with {done.returncode}\n{text}")


class Program:
    """A running client program; use as a context, which ends it and all its children."""

    def __init__(self, command, address, steps):
        self.deadline = time.monotonic() + TIME_LIMIT_S
        self.stderr = tempfile.TemporaryFile()
        host, port = address
        self.process = subprocess.Popen([*command, host, str(port), *steps],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.stderr, start_new_session=True)
        self.output = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output.put(line.decode(errors="replace").rstrip("\n"))
        self.output.put(None)

    def line(self):
        """The next line of output; None at its end; raises TimeoutError past the time limit."""
        try:
            return self.output.get(timeout=max(0, self.deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"took more than {TIME_LIMIT_S} s") from None

    def tell(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def end(self):
        """Waits for the program's own end; returns why that was wrong, or None."""
        try:
            status = self.process.wait(max(1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return f"did not end within {TIME_LIMIT_S} s"
        if status < 0:
            return f"died of {signal.Signals(-status).name}"
        return f"exit status {status}" if status > 0 else None

    def complaints(self):
        """The last lines the program wrote to its standard error."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-STDERR_LINES:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.reader.join(timeout=5)
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.stderr.close()


def record(client, line, awaited, report):
    """Counts one line of a program's output; returns why the line is wrong, or None."""
    verdict, _, rest = line.partition("ok ")
    step, _, reason = rest.partition(": ")
    if verdict not in ("", "not ") or step not in awaited:
        return f"unexpected output: {line}"
    awaited.remove(step)
    if verdict:
        report.failed(client, step, reason)
    else:
        report.passed(client, step)
    return None


def run_features(client, command, address, steps, name_steps, report):
    """Runs the steps and demands one result for each: a step that goes missing has failed."""
    awaited = list(steps)
    problem = None
    with Program(command, address, steps if name_steps else []) as running:
        try:
            while (line := running.line()) is not None:
                problem = record(client, line, awaited, report) or problem
            problem = running.end() or problem
        except TimeoutError as error:
            problem = str(error)
        if not awaited and problem is None:
            return
        complaints = running.complaints()
    for step in awaited:
        report.failed(client, step, "no result: " + (problem or "the program ended without it"))
    if problem or complaints:
        report.failed(client, "program", f"{problem or 'standard error'}\n{complaints}")


def run_recovery(client, command, server, report):
    """Runs the step in which the broker is killed and started again under the client."""
    awaited = [RECOVERY]
    with Program(command, server.restartable_address(), [RECOVERY]) as running:
        try:
            line = running.line()
            if line == "ready":
                server.kill_and_restart()
                running.tell("restarted")
                line = running.line()
            problem = None if line is None else record(client, line, awaited, report)
            problem = problem or running.end()
        except (TimeoutError, BrokenPipeError) as error:
            problem = str(error)
        if awaited or problem:
            report.failed(client, RECOVERY, f"{problem or 'no result'}\n{running.complaints()}")
