"""The broker's process: started on the same directory again and again, and ended at will."""
import os
import re
import selectors
import subprocess
import time

from client import Failure

START_S, STOP_S = 60.0, 60.0


class Process:
    def __init__(self, path, threads, folder):
        self.data, self.messages = os.path.join(folder, "data"), os.path.join(folder, "messages")
        self.command = [path, "--data-dir", self.data, "--listen", "127.0.0.1:0", "--threads",
                        str(threads)]
        self.process, self.start_s = None, 0.05

    def spawn(self):
        with open(self.messages, "a", encoding="utf-8") as messages:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=messages)

    def start(self):
        """-> its address"""
        began = time.monotonic()
        self.spawn()
        text, selector = b"", selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        while b"\n" not in text:
            if not selector.select(began + START_S - time.monotonic()):
                raise Failure(f"the broker said no port within {START_S:.0f} s")
            data = os.read(self.process.stdout.fileno(), 4096)
            if not data:
                raise Failure(f"the broker ended with status {self.process.wait()} before it said "
                              f"its port: {self.last_words()}")
            text += data
        selector.close()
        found = re.search(rb"127\.0\.0\.1:(\d+)", text)
        if not found:
            raise Failure(f"the broker named no port: {text!r}")
        self.start_s = time.monotonic() - began
        return "127.0.0.1", int(found.group(1))

    def last_words(self):
        with open(self.messages, encoding="utf-8", errors="replace") as messages:
            return " / ".join(line.strip() for line in messages.readlines()[-3:])

    def start_and_kill(self, share):
        """Killed after this share of the time that the last start took."""
        self.spawn()
        try:
            self.process.wait(share * self.start_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            raise Failure(f"the broker ended with status {self.process.returncode} as it started: "
                          f"{self.last_words()}")
        self.process.stdout.close()

    def signal_kill(self):
        self.process.kill()

    def signal_stop(self):
        self.process.terminate()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def ended(self, limit=STOP_S):
        """Waits for the end -> its status, or None: there was none in time, so it was killed."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            status = None
        self.process.stdout.close()
        return status
