"""The process is stopped for a time, and goes on: as when a virtual machine is moved."""
import contextlib
import os
import select
import signal
import socket
import threading
import time

import amqp_wire as wire
from attack import attack, vanish
from attacks_machine import CLOCK_FILE, moving_clock, set_clock
from client import ConnectionClosed, Failure, check_equal

MINUTE, HOUR = 60, 3600  # seconds
HEARTBEAT = 5  # seconds: many of them pass meanwhile
SOON_MS = 20_000


@attack(bystander=None)
def messages_whose_time_ran_out_while_the_process_was_stopped_are_gone(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-message-ttl": 1000})
    channel.publish_all(queue, ["m"] * 100_000)
    check_equal("messages", channel.counts(queue)[0], lambda n: n > 0)
    os.kill(s.pid, signal.SIGSTOP)
    select.select([], [], [], 1.5)
    os.kill(s.pid, signal.SIGCONT)
    check_equal("message", channel.get(queue), None)
    channel.holds(queue, 0)


SUPERVISORS = {}  # by the broker's folder: they are there before it


def supervised(folder):
    """With a wall clock that can be set, and a supervisor that wants to hear that it is alive."""
    SUPERVISORS[folder] = Supervisor(os.path.join(folder, "supervisor"))
    return moving_clock(folder) | {"NOTIFY_SOCKET": SUPERVISORS[folder].name,
                                   "WATCHDOG_USEC": "4000000"}


class Supervisor:
    def __init__(self, name):
        self.name, self.socket = name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name)

    def forget(self):
        """What was told up to now."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(4096)

    def expect(self, word):
        self.socket.settimeout(30)
        if not (said := self.socket.recv(4096)).startswith(word):
            raise Failure(f"the supervisor was told {said!r}")


class Client:
    """Holds ten messages of a queue of its own, and has ten more that it did not ask for."""

    def __init__(self, s, publisher, heartbeat):
        self.queue = s.queue(publisher, durable=True)
        self.channel = s.channel(heartbeat=heartbeat)
        self.connection = self.channel.connection
        publisher.publish_all(self.queue, map(str, range(20)), delivery_mode=2)
        self.channel.call("basic.qos", prefetch_count=10)
        self.channel.consume(self.queue)
        self.deliveries = [self.channel.answer("basic.deliver") for _ in range(10)]

    def goes_on(self):
        """Its messages are still its own: it takes these, and is given the others."""
        for delivery in self.deliveries:
            self.channel.ack(delivery.delivery_tag)
        for number in range(10, 20):
            delivery = self.channel.answer("basic.deliver")
            check_equal("message", (delivery.body, delivery.redelivered), (b"%d" % number, False))
            self.channel.ack(delivery.delivery_tag)
        self.channel.holds(self.queue, 0)

    def is_given_up(self):
        """It is taken for dead, without a word."""
        try:
            while True:
                self.connection.pump()
        except ConnectionClosed as end:
            check_equal("word of farewell", end.method, None)

    def has_left_all_to(self, other):
        """Another client gets what it held, and the rest, in its order."""
        other.consume(self.queue)
        for number in range(20):
            delivery = other.answer("basic.deliver")
            check_equal("message", (delivery.body, delivery.redelivered),
                        (b"%d" % number, number < 10))
            other.ack(delivery.delivery_tag)
        other.holds(self.queue, 0)


@contextlib.contextmanager
def beating(*clients):
    """They keep to their heartbeats meanwhile."""
    over = threading.Event()

    def beat():
        while not over.wait(0.3):
            for client in clients:
                client.connection.socket.sendall(wire.HEARTBEAT)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def make_timed(s, publisher):
    """A hundred messages that expire within the minute, and as many that come late.
    -> the queues: of the former, of what becomes of them, of the latter, and one that goes itself"""
    dead, late = s.queue(publisher, durable=True), s.queue(publisher, durable=True)
    brief = s.queue(publisher, durable=True, arguments={
        "x-message-ttl": SOON_MS, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    unused = s.queue(publisher, durable=True, arguments={"x-expires": SOON_MS})
    delaying = s.exchange_name()
    publisher.declare_exchange(delaying, "x-delayed-message", durable=True,
                               arguments={"x-delayed-type": "fanout"})
    publisher.bind(late, delaying)
    publisher.publish_all(brief, ["m"] * 100, delivery_mode=2)
    publisher.publish_all("", ["m"] * 100, exchange=delaying, delivery_mode=2,
                          headers={"x-delay": SOON_MS})
    return brief, dead, late, unused


def check_timed(s, brief, dead, late, unused):
    channel = s.channel()
    for queue, count in ((brief, 0), (dead, 100), (late, 100)):
        channel.holds(queue, count)
    channel.refuses("queue.declare", 404, f"no queue '{unused}' in vhost '/'", queue=unused,
                    passive=True)


@attack(bystander=None, environment=supervised, seconds=300)
def the_process_is_stopped_for_a_minute_and_goes_on(s):
    """As RabbitMQ does: who kept to his heartbeats, or had none, goes on, and so does who was stopped
    with it; who stays silent is given up, and others get what it held. What was sent meanwhile is
    taken, what became due is done, and nothing is lost."""
    supervisor = SUPERVISORS.pop(s.whippetd.folder.name)
    publisher, other = s.channel(), s.channel()
    publisher.select()
    other.select()
    steady, without = Client(s, publisher, HEARTBEAT), Client(s, publisher, 0)
    silent, stopped_too = (Client(s, publisher, HEARTBEAT) for _ in range(2))
    gone = Client(s, publisher, 0)
    queue = s.queue(publisher, durable=True)
    timed = make_timed(s, publisher)
    publisher.publish_all(queue, ["m"] * 100, delivery_mode=2)
    publisher.all_confirmed(400)

    with beating(steady):
        os.kill(s.pid, signal.SIGSTOP)
        try:
            other.publish_all(queue, ["m"] * 100, delivery_mode=2)
            vanish(gone.connection)
            comer = s.socket()  # waits to be accepted
            comer.send(wire.PROTOCOL_HEADER)
            select.select([], [], [], MINUTE)
            set_clock(os.path.join(s.whippetd.folder.name, CLOCK_FILE), HOUR)
            supervisor.forget()
        finally:
            os.kill(s.pid, signal.SIGCONT)
        resumed = time.monotonic()
        with beating(stopped_too):
            supervisor.expect(b"WATCHDOG=1")
            comer.expect("connection.start")
            other.all_confirmed(100)
            silent.is_given_up()
            waited = time.monotonic() - resumed
            for client in (steady, without, stopped_too):
                client.goes_on()
            for client in (silent, gone):
                client.has_left_all_to(s.channel())
    s.say(f"{waited:.1f} s until the silent one was given up, at heartbeats of {HEARTBEAT} s")
    if s.log().count("missed heartbeats") != 1:
        raise Failure("the log does not tell of one client that was given up")
    check_timed(s, *timed)
    s.restart(kill=True)
    check_timed(s, *timed)
    check_equal("messages", s.channel().counts(queue)[0], 200)
