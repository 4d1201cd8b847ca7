"""Memory runs out: each allocation of the broker fails once, wherever a client, an operator or the start
asks for it. The client that asked may lose its connection; nothing that was promised is lost, nobody waits
for ever, and what failed is given back. (tests/unit/test_broker_memory.c does so with the core alone.)"""
import base64
import ctypes
import hashlib
import http.client
import json
import mmap
import os
import random
import signal
import socket
import subprocess
import time

from attack import attack
from client import ChannelClosed, Connection, ConnectionClosed, Failure, check_equal
from harness import Skip

CONTROL = "memory"
PROGRAM = os.path.join("tests", "attack", "whippetd-short-of-memory")
PATIENCE = 20.0  # seconds for which an answer may be owed
ALLOCATIONS_MAX = 20_000  # of one scene: more is a scene without an end
LOOK_EVERY = 25  # failures
TRIES = 3  # before it is a leak
LEFT_MAX = 15  # allocations that may be left of so many: pools and tables that have grown


# What cannot go on without memory ends the broker, which says so, with that status: the definitions or the
# log cannot be written, or mail between threads would be lost.
ENDINGS = {'action="the broker ends"': 1,
           "out of memory for the post between threads; ending": -signal.SIGABRT}


class Memory(ctypes.Structure):
    """What short_of_memory.c has in the file."""

    _fields_ = [(name, ctypes.c_int64) for name in ("succeed", "fail", "failures", "live", "spares", "where")]

    def fail_after(self, succeed, fail=1):
        """So many allocations succeed, and then so many do not."""
        self.failures, self.fail = 0, fail
        self.succeed = succeed

    def rest(self):
        """No more of them fail. -> whether any has"""
        self.succeed = -1
        return self.failures > 0


def short_of_memory(folder):
    name = os.path.join(folder, CONTROL)
    with open(name, "wb") as file:
        file.write(bytes(Memory(succeed=-1)))
    return {"MEMORY_CONTROL": name}


def other_program(s):
    """The same broker, that can be short of memory, instead of the one that is under attack."""
    path = os.path.join(os.path.dirname(os.path.abspath(s.whippetd.command[0])), PROGRAM)
    if not os.access(path, os.X_OK):
        raise Skip(f"there is no {path}: `make check` builds it")
    s.whippetd.stop()
    s.whippetd.command[0] = path
    with open(os.path.join(s.whippetd.folder.name, CONTROL), "r+b") as file:
        memory = Memory.from_buffer(mmap.mmap(file.fileno(), 0))
    s.address = s.whippetd.start()
    return memory


def where(s, memory):
    """The line of the code whose allocation has failed, if there is somebody who can tell."""
    path = s.whippetd.command[0]
    try:
        names = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        main = next(int(line.split()[0], 16) for line in names.splitlines()
                    if line.endswith(" T main"))
        return subprocess.run(["addr2line", "-fse", path, hex(main + memory.where - 1)],
                              capture_output=True, text=True, check=True).stdout.replace("\n", " ")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Scene:
    """What is done with each allocation failing in turn. Clients note what they were promised."""

    def __init__(self, s, memory):
        self.s, self.memory, self.number = s, memory, 0
        self.confirmed, self.endings, self.live = [], 0, None
        self.given_away = self.plays = 0

    SPARES = 1  # SQLite: each of its failures ends the broker, which takes time
    PLAYS_TO_GROW = 150  # after so many, pools and tables hardly grow

    def sweep(self, play, clean):
        """Plays it until no allocation is left that could fail. What nothing failed in has left behind
        is no leak: pools and tables grow."""
        for _ in range(self.PLAYS_TO_GROW):
            self.number += 1
            play()
            clean()
        self.plays = self.PLAYS_TO_GROW
        self.begin_to_look()
        self.memory.spares = self.SPARES
        for count in range(ALLOCATIONS_MAX):
            has_failed = self.play_without(count, play, clean)
            if (count + 1) % LOOK_EVERY == 0 or not has_failed:
                self.look(count, play, clean)
            if not has_failed:
                self.s.say(f"{count} allocations failed; at {self.endings} of them the broker ended, "
                           "and said so")
                return
        raise Failure(f"more than {ALLOCATIONS_MAX} allocations: there is no end")

    def play_without(self, count, play, clean):
        """Plays it with that allocation failing. -> whether there was one"""
        self.number, self.plays = self.number + 1, self.plays + 1
        self.memory.fail_after(count)
        try:
            play()
        except (ConnectionClosed, ChannelClosed, Refused, OSError, http.client.HTTPException):
            pass
        except Failure as failure:
            raise Failure(f"{failure}; allocation {count} had failed: "
                          f"{where(self.s, self.memory)}") from failure
        has_failed = self.memory.rest()
        self.look_after(count)
        try:
            clean()
        except (ConnectionClosed, OSError, http.client.HTTPException):
            self.look_after(count, is_ending=True)
            clean()
        return has_failed

    def begin_to_look(self):
        self.take_kept()
        self.s.until("all is given back", self.is_quiet)

    def held(self):
        """Allocations that the broker holds: what it gave to a library, that one frees."""
        return self.memory.live - self.given_away

    def is_quiet(self):
        before, self.live = self.live, self.held()
        return self.live == before

    def look(self, count, play, clean):
        """At what is left of all that has failed since the last look. Several threads have pools of
        their own, which grow at any time: what they leak, only a sanitizer sees."""
        if self.plays < self.PLAYS_TO_GROW or self.s.whippetd.threads > 1:
            return
        if self.live is None:
            self.begin_to_look()
            return
        for _ in range(TRIES):
            if (left := self.left()) <= LEFT_MAX:
                return
            for again in range(max(0, count - LOOK_EVERY + 1), count + 1):
                self.play_without(again, play, clean)  # a pool grows once, a leak every time
            if self.live is None:
                return
        raise Failure(f"{left} allocations are left of the last {LOOK_EVERY} before {count}")

    def left(self):
        self.take_kept()
        try:  # clients have just gone
            self.s.until("", lambda: self.held() - self.live <= LEFT_MAX, seconds=2)
        except Failure:
            pass
        left, self.live = self.held() - self.live, self.held()
        return left

    def take_kept(self):
        """What is kept is there and is taken, so that it counts for nothing."""

    def said(self):
        """How often the log tells that the broker ends."""
        return sum(self.s.log().count(words) for words in ENDINGS)

    def look_after(self, count, is_ending=False):
        """What cannot be written down ends the broker, which says so: then it starts again."""
        process = self.s.whippetd.process
        if not is_ending and process.poll() is None and self.said() == self.endings:
            return
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        if self.said() != self.endings + 1 or status not in ENDINGS.values():
            raise Failure(f"the broker ended with status {status}: allocation {count} had failed: "
                          f"{where(self.s, self.memory)}")
        self.endings += 1
        self.drop()
        self.memory.live, self.given_away, self.live, self.plays = 0, 0, None, 0
        self.s.address = self.s.whippetd.start()

    def connect(self):
        connection = Connection(self.s.address, time.monotonic() + PATIENCE)
        self.s.connections.append(connection)
        return connection.handshake()

    def drop(self):
        for connection in self.s.connections:
            connection.drop()
        self.s.connections.clear()


class Session(Scene):
    """A connection that does a little of everything."""

    def play(self):
        connection = self.connect()
        channel, other = connection.channel(), connection.channel()
        name, exchange = f"q-{self.number}", f"x-{self.number}"
        channel.declare(name, durable=True, arguments={
            "x-max-priority": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "kept"})
        channel.declare_exchange(exchange, "topic", durable=True)
        channel.bind(name, exchange, "a.*.#")
        self.publishes(channel, name, exchange)
        self.consumes(other, name)
        self.transacts(other, name)
        channel.call("queue.unbind", queue=name, exchange=exchange, routing_key="a.*.#")
        channel.call("queue.purge", queue=name)
        channel.call("channel.close")
        connection.close()

    def publishes(self, channel, name, exchange):
        channel.select()
        body = f"message {self.number}"
        channel.publish("kept", body, delivery_mode=2)
        channel.publish("a.b.c", "m" * 200_000, exchange=exchange, delivery_mode=2,
                        headers={"a": "b" * 500})
        channel.publish("a.b.c", "", exchange=exchange)
        channel.publish("nowhere", "m", mandatory=True)
        channel.publish_all(name, ["m"] * 10, priority=1)
        owed = set(range(1, 15))
        while owed:
            answer = channel.answer("basic.ack", "basic.nack")
            tags = [tag for tag in owed if answer.multiple and tag <= answer.delivery_tag
                    or tag == answer.delivery_tag]
            owed.difference_update(tags)
            if answer.name == "basic.ack" and 1 in tags:
                self.confirmed.append(body.encode())

    def consumes(self, channel, name):
        channel.call("basic.qos", prefetch_count=4)
        tag = channel.consume(name)
        last = [channel.answer("basic.deliver") for _ in range(4)][-1]
        channel.ack(last.delivery_tag, multiple=True)
        last = [channel.answer("basic.deliver") for _ in range(4)][-1]
        channel.call("basic.cancel", consumer_tag=tag)
        channel.nack(last.delivery_tag, requeue=True)
        channel.call("basic.recover", requeue=True)
        got = channel.get(name, no_ack=False)
        if got is not None:
            channel.ack(got.delivery_tag)
        channel.sync()

    def transacts(self, channel, name):
        channel.call("tx.select")
        body = f"transaction {self.number}"
        channel.publish("kept", body, delivery_mode=2)
        got = channel.get(name, no_ack=False)
        if got is not None:
            channel.ack(got.delivery_tag)
        channel.call("tx.commit")
        self.confirmed.append(body.encode())
        channel.publish("kept", "rolled back", delivery_mode=2)
        channel.call("tx.rollback")

    def clean(self):
        """Its queue and exchange may be there or not; nobody uses them any more."""
        self.drop()
        channel = self.connect().channel()
        channel.call("queue.delete", queue=f"q-{self.number}")
        channel.call("exchange.delete", exchange=f"x-{self.number}")
        channel.connection.close()
        self.drop()

    def take_kept(self):
        """All that was confirmed is there, and nothing that was rolled back."""
        channel = self.connect().channel()
        count = channel.declare("kept", passive=True).message_count
        found = [channel.get("kept").body for _ in range(count)]
        missing = [body for body in self.confirmed if body not in found]
        if missing:
            raise Failure(f"{len(missing)} confirmed messages are lost: {missing[:5]}")
        if b"rolled back" in found:
            raise Failure("what was rolled back is there")
        self.confirmed.clear()
        self.drop()


@attack(bystander=None, environment=short_of_memory)
def each_allocation_of_a_session_fails(s):
    scene = Session(s, other_program(s))
    scene.connect().channel().declare("kept", durable=True)
    scene.sweep(scene.play, scene.clean)
    scene.play()
    s.restart(kill=True)
    scene.take_kept()


class Definitions(Scene):
    """What is declared is written down, or is not answered."""

    SPARES, PLAYS_TO_GROW = 0, 30

    def play(self):
        self.is_declared = self.is_bound = False
        channel, name = self.connect().channel(), f"q-{self.number}"
        channel.declare(name, durable=True)
        self.is_declared = True
        channel.bind(name, "amq.topic", name)
        self.is_bound = True

    def clean(self):
        self.drop()
        channel, name = self.connect().channel(), f"q-{self.number}"
        if self.is_declared:
            channel.declare(name, passive=True)
        if self.is_bound:
            channel.publish(name, "m", exchange="amq.topic")
            channel.got(name, "m")
        channel.call("queue.delete", queue=name)
        self.drop()


@attack(bystander=None, environment=short_of_memory)
def each_allocation_of_a_declaration_fails(s):
    scene = Definitions(s, other_program(s))
    scene.sweep(scene.play, scene.clean)


class Refused(Exception):
    """The operator was told that it could not be done."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Operator(Scene):
    """One who makes, looks at and deletes a little of everything, over HTTP."""

    PLAYS_TO_GROW = 30

    def ask(self, method, path, body=None, fitting=(200, 201, 204)):
        """-> the JSON of what was done. Refused: it says that it could not be"""
        connection = UnixConnection(os.path.join(self.s.whippetd.data_dir(), "control.sock"))
        try:
            connection.request(method, "/api/" + path, body and json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            self.given_away += len(text) > 0
        except TimeoutError:
            raise Failure(f"{method} {path} is not answered") from None
        finally:
            connection.close()
        if answer.status in (500, 503):
            raise Refused
        if answer.status not in fitting:
            raise Failure(f"{method} {path}: status {answer.status}, {text!r}")
        try:
            return json.loads(text) if text or answer.status == 200 else None
        except ValueError:
            raise Failure(f"{method} {path}: {text!r} is no JSON") from None

    def things(self):
        """-> what is made: where, with what, and in which list it then is, under which name"""
        n = self.number
        return (
            (f"vhosts/v-{n}", {}, "vhosts", f"v-{n}"),
            (f"users/u-{n}", {"password_hash": HASH, "tags": "one,two"}, "users", f"u-{n}"),
            (f"permissions/v-{n}/u-{n}", {"configure": "a.*", "write": "[b]+", "read": "^(c|d)$"},
             "permissions", f"u-{n}"),
            (f"topic-permissions/v-{n}/u-{n}",
             {"exchange": "amq.topic", "write": "e.*", "read": "f"}, "topic-permissions", f"u-{n}"),
            (f"policies/v-{n}/p-{n}", {"pattern": "^many", "definition": {"max-length": 7},
                                       "apply-to": "queues", "priority": 1}, "policies", f"p-{n}"))

    def play(self):
        self.made = []
        for path, body, _, _ in self.things():
            self.ask("PUT", path, body)
            self.made.append(path)
        self.looks()
        for what in ("queues", "exchanges"):
            names = {one["name"] for one in self.ask("GET", what)}
            if not self.names[what] <= names:
                raise Failure(f"the list of {what} is not whole")
        self.deletes()

    def looks(self):
        for path, _, list_path, name in self.things():
            if path in self.made:
                names = {one.get("name", one.get("user")) for one in self.ask("GET", list_path)}
                if name not in names:
                    raise Failure(f"{path} was made, and is not in {list_path}")

    def deletes(self):
        for path, _, _, _ in reversed(self.things()):
            if path in self.made:
                self.made.remove(path)  # from here on nobody knows
                self.ask("DELETE", path)

    def clean(self):
        """What was made is there; what may be there goes."""
        self.looks()
        self.made.clear()
        for path, _, _, _ in self.things()[:2]:
            self.ask("DELETE", path, fitting=(204, 404))


HASH = "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH"


@attack(bystander=None, environment=short_of_memory)
def each_allocation_of_the_administration_fails(s):
    scene = Operator(s, other_program(s))
    channel = scene.connect().channel()
    scene.names = {"queues": {f"many-{n}" for n in range(5)}, "exchanges": {"amq.topic"}}
    for name in scene.names["queues"]:
        channel.declare(name, durable=True)
    scene.drop()
    scene.sweep(scene.play, scene.clean)
    scene.number += 1
    scene.play()
    for path, body, _, _ in scene.things():
        scene.ask("PUT", path, body)
        scene.made.append(path)
    s.restart(kill=True)
    scene.looks()


# With a salt of its own, the hash of a password would be another one at each start.
GUEST = base64.b64encode(b"salt" + hashlib.sha256(b"saltguest").digest()).decode()
SETTINGS = f"""
users:
  - name: guest
    password_hash: {GUEST}
    permissions: [{{vhost: /, configure: ".*", write: ".*", read: ".*"}}]
    topic_permissions: [{{vhost: /, exchange: amq.topic, write: ".*", read: ".*"}}]
  - {{name: other, password_hash: {HASH}, tags: [monitoring]}}
vhosts: [{{name: other}}]
policies:
  - {{name: p, vhost: /, pattern: ^many, apply_to: queues, definition: {{max-length: 100}}}}
"""
ENDLESS = 1 << 40
OF_ALL = 40  # failures of all allocations that there are, beside those of the broker's own code


class Start(Operator):
    """A start with an allocation that fails: it says so and ends, or all is there."""

    def set_up(self):
        channel = self.connect().channel()
        channel.select()
        for n in range(5):
            channel.declare(f"many-{n}", durable=True, arguments={"x-max-priority": n + 1})
            channel.bind(f"many-{n}", "amq.topic", f"{n}.#", arguments={"a": "b"})
            channel.publish_all(f"many-{n}", [f"message {number}" for number in range(20)],
                                delivery_mode=2)
        channel.publish("0.1.2", "m" * 100_000, exchange="amq.topic", delivery_mode=2)
        channel.declare_exchange("x", "topic", durable=True)
        channel.call("exchange.bind", source="amq.topic", destination="x", routing_key="#")
        channel.all_confirmed(101)
        self.drop()
        for path, body in (("vhosts/v", {}), ("users/u", {"password_hash": HASH, "tags": "a"}),
                           ("permissions/v/u", {"configure": "a", "write": "b", "read": "c"}),
                           ("policies/v/q", {"pattern": "a", "definition": {"max-length": 7}})):
            self.ask("PUT", path, body)
        self.s.restart(kill=True)
        self.wanted = self.snapshot()

    def snapshot(self):
        return {what: self.ask("GET", what) for what in (
            "vhosts", "users", "permissions", "topic-permissions", "policies", "queues", "exchanges")}

    def bodies(self):
        channel = self.connect().channel()
        found = [channel.get(f"many-{n}").body for n in range(5) for _ in range(20)]
        check_equal("message", channel.get("many-0").body, b"m" * 100_000)
        channel.publish("4.a", "bound", exchange="amq.topic")
        channel.got("many-4", "bound")
        return found

    def starts(self, succeed, spares):
        """-> whether an allocation failed"""
        self.s.whippetd.kill()
        self.memory.spares = spares
        self.memory.fail_after(succeed)
        said = len(self.s.log())
        self.s.whippetd.spawn()
        try:
            self.s.address = self.s.whippetd._address()
            has_failed = self.memory.rest()
            found_now = self.snapshot()
        except (Failure, ConnectionError):  # at once, or what failed shows when it is asked
            status = self.s.whippetd.process.wait(PATIENCE)
            words = self.s.log()[said:]
            # Reading the configuration, what is short of memory counts as what is wrong with it.
            if status not in (*ENDINGS.values(), os.EX_CONFIG) or "memory" not in words:
                raise Failure(f"the start ended with status {status} and the words {words!r}: allocation "
                              f"{succeed} had failed: {where(self.s, self.memory)}") from None
            self.refused += 1
            return True
        for what, found in found_now.items():
            if found != self.wanted[what]:
                raise Failure(f"{what} are {found}, not {self.wanted[what]}: allocation {succeed} had "
                              f"failed: {where(self.s, self.memory)}")
        return has_failed


@attack(bystander=None, environment=short_of_memory, config=SETTINGS)
def each_allocation_of_a_start_fails(s):
    scene = Start(s, other_program(s))
    scene.set_up()
    scene.refused, own = 0, 0
    while scene.starts(own, spares=2):
        own += 1
    scene.memory.spares, scene.memory.succeed = 0, ENDLESS
    s.restart(kill=True)
    count = ENDLESS - scene.memory.succeed
    for number in random.sample(range(count), OF_ALL):
        scene.starts(number, spares=0)
    s.say(f"{own} allocations failed, and {OF_ALL} of {count} with those of libraries: "
          f"{scene.refused} starts said so and ended")
    scene.memory.rest()
    s.restart(kill=True)
    check_equal("all that there was", scene.snapshot(), scene.wanted)
    check_equal("messages", scene.bodies(), [b"message %d" % n for _ in range(5) for n in range(20)])
