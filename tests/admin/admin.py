"""What the tests of the administration ask with: HTTP over the Unix socket, raw or not, and whippetctl."""
import http.client
import json
import os
import socket
import subprocess
import urllib.parse

from process import TIME_LIMIT, check, check_equal


def q(name):
    """A name as a part of a path."""
    return urllib.parse.quote(name, safe="")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=TIME_LIMIT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Api:
    """The API of a world's broker."""

    def __init__(self, world):
        self.path = os.path.join(world.data_dir, "control.sock")

    def ask(self, method, path, body=None, headers=None):
        """-> status and JSON (None: there is none). The body may be text that is no JSON."""
        connection = _UnixConnection(self.path)
        try:
            if body is not None and not isinstance(body, (str, bytes)):
                body = json.dumps(body)
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def get(self, path):
        status, answer = self.ask("GET", path)
        check_equal(f"status of GET {path}", status, 200)
        return answer

    def does(self, status, method, path, body=None):
        """Asks, and requires this status. -> the JSON"""
        got, answer = self.ask(method, path, body)
        check(got == status, f"{method} {path}: status {got}, wanted {status}; {answer}")
        return answer

    def refuses(self, status, reason, method, path, body=None):
        """Asks for what is refused with this status and, somewhere in the text, for this reason."""
        answer = self.does(status, method, path, body)
        check_equal("keys of the refusal", set(answer), {"error", "reason"})
        check(reason in answer["reason"], f"reason {answer['reason']!r}, wanted {reason!r}")

    def socket(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIME_LIMIT)
        connection.connect(self.path)
        return connection

    def raw(self, data):
        """-> all that comes back for these bytes, until the broker closes."""
        with self.socket() as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, OSError):
                pass  # it has answered, and reads no more
            return read_all(connection)

    def make_user(self, name, password="secret", vhost="/"):
        """A user who may do everything in the vhost."""
        self.does(201, "PUT", f"/api/users/{q(name)}", {"password": password, "tags": ""})
        self.does(201, "PUT", f"/api/permissions/{q(vhost)}/{q(name)}",
                  {"configure": ".*", "write": ".*", "read": ".*"})


def read_all(connection):
    data = b""
    try:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return data
            data += piece
    except ConnectionResetError:
        return data


class Ctl:
    """whippetctl with a world's broker."""

    def __init__(self, world):
        self.program = os.path.join(os.path.dirname(world.path), "whippetctl")
        self.data_dir = world.data_dir

    def run(self, *arguments, stdin="", where=True, **options):
        """-> the finished process"""
        place = ["--data-dir", self.data_dir] if where else []
        return subprocess.run([self.program, *place, *arguments], input=stdin, text=True,
                              capture_output=True, timeout=TIME_LIMIT, check=False, **options)

    def does(self, *arguments, stdin=""):
        """-> what it prints"""
        done = self.run(*arguments, stdin=stdin)
        check(done.returncode == 0, f"{arguments}: status {done.returncode}: {done.stderr}")
        check_equal("standard error", done.stderr, "")
        return done.stdout

    def refuses(self, status, reason, *arguments, stdin="", **options):
        """It ends with this status, and with one line that has the reason in it."""
        done = self.run(*arguments, stdin=stdin, **options)
        check(done.returncode == status,
              f"{arguments}: status {done.returncode}, wanted {status}: {done.stderr}")
        check(reason in done.stderr, f"{arguments}: said {done.stderr!r}, wanted {reason!r}")
        check_equal("lines of standard error", done.stderr.count("\n"), 1)
        check_equal("standard output", done.stdout, "")
