"""Policies for scenarios: set over the HTTP API, which is the same for a broker of ours, on its Unix
socket, and for RabbitMQ, where RABBITMQ_API says it is: http://guest:guest@127.0.0.1:15672."""
import base64
import functools
import http.client
import json
import os
import socket
import urllib.parse

from client import Failure
from harness import add

SECONDS = 10


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=SECONDS)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Policies:
    """Those of one scenario. They are for its own queues and exchanges, unless it says."""

    def __init__(self, s):
        self.s, self.there = s, []

    def _connect(self):
        """-> a connection and the headers it needs"""
        if hasattr(self.s, "whippetd"):
            return _UnixConnection(os.path.join(self.s.whippetd.data_dir(), "control.sock")), {}
        where = urllib.parse.urlsplit(os.environ["RABBITMQ_API"])
        login = base64.b64encode(f"{where.username}:{where.password}".encode()).decode()
        return (http.client.HTTPConnection(where.hostname, where.port, timeout=SECONDS),
                {"Authorization": f"Basic {login}", "Content-Type": "application/json"})

    def _ask(self, method, kind, name, body=None):
        connection, headers = self._connect()
        try:
            connection.request(method, f"/api/{kind}/%2F/{urllib.parse.quote(name, safe='')}",
                               None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status not in (201, 204):
            raise Failure(f"{method} {kind} {name}: status {answer.status} {text.decode()}")

    def set(self, name, definition, pattern=None, operator=False, **fields):
        """Makes or replaces it. priority and apply_to may be among the fields."""
        kind, name = "operator-policies" if operator else "policies", f"{self.s.prefix}-{name}"
        body = {"pattern": pattern or f"^{self.s.prefix}-", "definition": definition}
        body.update((key.replace("_", "-"), value) for key, value in fields.items())
        self._ask("PUT", kind, name, body)
        if (kind, name) not in self.there:
            self.there.append((kind, name))

    def clear(self, name, operator=False):
        kind, name = "operator-policies" if operator else "policies", f"{self.s.prefix}-{name}"
        self._ask("DELETE", kind, name)
        self.there.remove((kind, name))

    def clear_all(self):
        while self.there:
            self._ask("DELETE", *self.there.pop())


def rabbitmq_has_api():
    return "RABBITMQ_API" in os.environ


def with_policies(function=None, *, not_rabbitmq=None, restarts=False):
    """Marks a scenario that takes a Broker and its Policies."""
    def register(function):
        @functools.wraps(function)
        def run(s):
            policies = Policies(s)
            try:
                function(s, policies)
            finally:
                policies.clear_all()
        add(function.__name__, run, not_rabbitmq, restarts, "", None if restarts else rabbitmq_has_api)
        return function
    return register if function is None else register(function)
