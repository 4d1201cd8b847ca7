"""The clients: what each needs, how it is built, and which steps it has no call for.

A client that leaves out a step says why; one with steps of its own (Celery is not a library of AMQP
calls) lists them. A step that a program should report and does not is a failure.
"""
import glob
import os
import shutil
import subprocess

import program
from steps import FEATURES

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEBIAN_PYTHON = "/usr/bin/python3"
GO_PATH = "/usr/share/gocode"
JAVA_JARS = [f"/usr/share/java/{name}.jar" for name in ("amqp-client", "slf4j-api", "slf4j-nop")]


class Client:
    """One client: override missing() and prepare()."""
    leaves_out = {}
    own_steps = None
    recovers = True

    def __init__(self, name):
        self.name = name

    def missing(self):
        """What must be installed first, or None."""
        raise NotImplementedError

    def prepare(self, directory):
        """Builds the program inside directory if it wants building; returns its command."""
        raise NotImplementedError

    def steps(self):
        if self.own_steps is not None:
            return list(self.own_steps)
        return [step for step in FEATURES if step not in self.leaves_out]


def source(*parts):
    return os.path.join(HERE, *parts)


def answers(*command):
    """Whether a short command succeeds."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def missing_program(*programs):
    for name in programs:
        if not shutil.which(name):
            return f"the program {name}"
    return None


class PythonClient(Client):
    def __init__(self, name, module, script, leaves_out=None, own_steps=None, recovers=True):
        super().__init__(name)
        self.module, self.script = module, script
        self.leaves_out = leaves_out or {}
        self.own_steps = own_steps
        self.recovers = recovers

    def missing(self):
        if not os.access(DEBIAN_PYTHON, os.X_OK):
            return DEBIAN_PYTHON
        if not answers(DEBIAN_PYTHON, "-c", f"import {self.module}"):
            return f"the Python module {self.module}"
        return None

    def prepare(self, directory):
        return [DEBIAN_PYTHON, "-B", source("python", self.script)]


class CClient(Client):
    def missing(self):
        compiler = os.environ.get("CC", "cc")
        if absent := missing_program(compiler, "pkg-config"):
            return absent
        return None if answers("pkg-config", "librabbitmq") else "the C library librabbitmq"

    def prepare(self, directory):
        flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "librabbitmq"],
                                        text=True).split()
        binary = os.path.join(directory, "librabbitmq-client")
        sources = sorted(glob.glob(source("c", "*.c")))
        program.build([os.environ.get("CC", "cc"), "-std=gnu17", "-O1", "-g", "-Wall", "-Wextra",
                       "-Werror", "-o", binary, *sources, *flags])
        return [binary]


class GoClient(Client):
    environment = {"GO111MODULE": "off", "GOPATH": GO_PATH, "GOFLAGS": ""}

    def missing(self):
        if absent := missing_program("go"):
            return absent
        library = os.path.join(GO_PATH, "src/github.com/rabbitmq/amqp091-go")
        return None if os.path.isdir(library) else "the Go package amqp091-go"

    def prepare(self, directory):
        binary = os.path.join(directory, "go-client")
        program.build(["go", "build", "-o", binary, source("go", "client.go")], environment={
            **self.environment, "GOCACHE": os.path.join(directory, "go-cache")})
        return [binary]


# What npm says when its registry cannot be reached, be it the name, the way or the host.
NO_REGISTRY = ("EAI_AGAIN", "ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH",
               "ENETUNREACH", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT")


class NodeClient(Client):
    """Fetches the library from npm's registry, in the version and with the hash of the lock file."""
    leaves_out = {"transaction": "amqplib has no call for transactions"}

    def missing(self):
        return missing_program("node", "npm")

    def prepare(self, directory):
        # A copy, so that node_modules appears beside it and not in the sources.
        copy = os.path.join(directory, "node")
        shutil.copytree(source("node"), copy, ignore=shutil.ignore_patterns("node_modules"))
        try:
            program.build(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund",
                           "--fetch-timeout=60000"], directory=copy)
        except program.BuildError as error:
            if any(f"code {code}" in str(error) for code in NO_REGISTRY):
                raise program.Unreachable("npm's registry does not answer") from None
            raise
        return ["node", os.path.join(copy, "amqplib_client.js")]


class JavaClient(Client):
    def missing(self):
        if absent := missing_program("javac", "java"):
            return absent
        lacking = [jar for jar in JAVA_JARS if not os.path.exists(jar)]
        return f"the Java library {lacking[0]}" if lacking else None

    def prepare(self, directory):
        classes = os.path.join(directory, "java")
        sources = [source("java", name) for name in ("Feature.java", "JavaClient.java")]
        program.build(["javac", "-Xlint:all,-processing", "-Werror", "-d", classes,
                       "-cp", ":".join(JAVA_JARS), *sources])
        # Small heaps and the first compiler only: the program is short.
        return ["java", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-Xshare:auto",
                "-cp", ":".join([classes, *JAVA_JARS]), "JavaClient"]


class PhpClient(Client):
    leaves_out = {"cancel-notify": "php-amqp does not tell the broker that it understands the "
                                   "broker's basic.cancel, so no broker sends it one"}

    def missing(self):
        if absent := missing_program("php"):
            return absent
        return None if answers("php", "-r", "exit(extension_loaded('amqp') ? 0 : 1);") \
            else "the PHP extension amqp"

    def prepare(self, directory):
        return ["php", source("php", "amqp_client.php")]


class RubyClient(Client):
    def missing(self):
        if absent := missing_program("ruby"):
            return absent
        return None if answers("ruby", "-e", "require 'bunny'") else "the Ruby library bunny"

    def prepare(self, directory):
        return ["ruby", "-w", source("ruby", "bunny_client.rb")]


CLIENTS = {client.name: client for client in [
    PythonClient("pika", "pika", "pika_client.py"),
    PythonClient("pyamqp", "amqp", "pyamqp_client.py"),
    PythonClient("aio-pika", "aio_pika", "aio_pika_client.py"),
    PythonClient("kombu", "kombu", "kombu_client.py",
                 leaves_out={"transaction": "kombu has no call for transactions"},
                 own_steps=[s for s in FEATURES if s != "transaction"] + ["simple-queue"]),
    PythonClient("celery", "celery", "celery_client.py",
                 own_steps=["inspect", "task", "task-error", "retry", "eta", "group", "chain",
                            "chord", "revoke", "priority", "events"]),
    CClient("librabbitmq"),
    GoClient("amqp091-go"),
    NodeClient("amqplib"),
    JavaClient("java"),
    PhpClient("php-amqp"),
    RubyClient("bunny"),
]}


def own_steps():
    return sorted({step for client in CLIENTS.values() for step in client.own_steps or []})
