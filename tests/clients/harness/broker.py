"""The broker that the clients talk to: one that runs already, or a whippetd started here.

All have the same face: address(), can_restart, restartable_address(), kill_and_restart(),
revive(report) before a client and stop(report) at the end.
"""
import os
import queue
import re
import signal
import subprocess
import sys
import threading

START_LIMIT_S = 60
STOP_LIMIT_S = 60
LISTENING = re.compile(r"127\.0\.0\.1:(\d+)")


class Server:
    """A process that prints where it listens and ends with status 0 at SIGTERM."""

    def __init__(self, command, stderr_path):
        self.command = command
        self.stderr_path = stderr_path
        self.port = 0
        self.process = None
        self.start()

    def start(self):
        """Starts the process, on its earlier port if it had one, and waits until it listens."""
        with open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen(
                [*self.command, "--listen", f"127.0.0.1:{self.port}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
        ports = queue.Queue()
        threading.Thread(target=read_ports, args=(self.process.stdout, ports), daemon=True).start()
        try:
            port = ports.get(timeout=START_LIMIT_S)
        except queue.Empty:
            port = None
        if port is None:
            self.process.kill()
            self.process.wait()
            raise SystemExit(f"{self.command[0]} did not say where it listens\n{self.log_end()}")
        self.port = port

    def kill_and_restart(self):
        self.process.kill()
        self.process.wait()
        self.start()

    def log_end(self):
        with open(self.stderr_path, "rb") as log:
            return "\n".join(log.read().decode(errors="replace").splitlines()[-30:])

    def revive(self, name, report):
        """Reports a process that has died by itself, and starts it for those who come after."""
        status = self.process.poll()
        if status is not None:
            report.failed(name, "stays alive", f"ended with status {status}\n{self.log_end()}")
            self.start()

    def stop(self, name, report):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = f"none {STOP_LIMIT_S} s after SIGTERM"
        if status == 0:
            report.passed(name, "stop")
        else:
            report.failed(name, "stop", f"exit status {status}\n{self.log_end()}")


def read_ports(stdout, ports):
    """Passes on the first port that is printed, and goes on reading so the pipe never fills."""
    said = False
    for line in stdout:
        match = LISTENING.search(line.decode(errors="replace"))
        if match and not said:
            ports.put(int(match.group(1)))
            said = True
    ports.put(None)
    stdout.close()


class StartedBroker:
    can_restart = True

    def __init__(self, path, threads, directory):
        data = os.path.join(directory, "data")
        os.mkdir(data)
        self.server = Server([path, "--data-dir", data, "--threads", str(threads)],
                             os.path.join(directory, "whippetd.stderr"))

    def address(self):
        return "127.0.0.1", self.server.port

    restartable_address = address

    def kill_and_restart(self):
        self.server.kill_and_restart()

    def revive(self, report):
        self.server.revive("whippetd", report)

    def stop(self, report):
        self.server.stop("whippetd", report)


class RunningBroker:
    """A broker that is not ours to restart."""
    can_restart = False

    def __init__(self, host, port):
        self.host, self.port = host, port

    def address(self):
        return self.host, self.port

    def revive(self, report):
        """Nothing to do: if it has died, every step will say so."""

    def stop(self, report):
        """Nothing to do: it was here before us."""


class RelayedBroker(RunningBroker):
    """A running broker behind a relay: killing the relay is what a broker's death looks like.

    It proves the clients' recovery programs on a broker that must stay up for others.
    """
    can_restart = True

    def __init__(self, host, port, directory):
        super().__init__(host, port)
        relay = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")
        self.server = Server([sys.executable, relay, "--to", f"{host}:{port}"],
                             os.path.join(directory, "relay.stderr"))

    def restartable_address(self):
        return "127.0.0.1", self.server.port

    def kill_and_restart(self):
        self.server.kill_and_restart()

    def stop(self, report):
        self.server.stop("relay", report)


def start(chosen, directory):
    if chosen.whippetd:
        return StartedBroker(os.path.abspath(chosen.whippetd), chosen.threads, directory)
    if chosen.peer:
        return RelayedBroker(chosen.host, chosen.port, directory)
    return RunningBroker(chosen.host, chosen.port)
