"""The machine and the network: descriptors run out, the clock jumps, the other end falls silent."""
import os
import select
import signal
import socket
import struct
import threading
import time

import amqp_wire as wire
import preload
from attack import attack
from client import Connection, Failure, check_equal

FEW = 120  # descriptors of the broker


@attack(descriptors=FEW)
def file_descriptors_run_out(s):
    """New connections are refused with a line in the log and no spinning; then it goes on."""
    ends = []
    for _ in range(2 * FEW):
        end = socket.socket()
        end.connect(s.address)
        ends.append(end)
    s.until("the log says it", lambda: "connections cannot be accepted" in s.log())
    used, began = s.processor_seconds(), time.monotonic()
    select.select([], [], [], 1.5)
    share = (s.processor_seconds() - used) / (time.monotonic() - began)
    s.say(f"{share * 100:.0f} % of a processor while descriptors are short")
    if share > 0.5:
        raise Failure(f"the broker takes {share * 100:.0f} % of a processor for nothing")
    for end in ends:
        end.close()
    s.until("others get in again", lambda: can_connect(s))


def can_connect(s):
    try:
        Connection(s.address, time.monotonic() + 5).handshake().close()
        return True
    except (Failure, OSError):
        return False


CLOCK_FILE = "clock"
HERE = os.path.dirname(os.path.abspath(__file__))


def moving_clock(folder):
    name = os.path.join(folder, CLOCK_FILE)
    set_clock(name, 0)
    return preload.environment(folder, os.path.join(HERE, "moving_clock.c"), CLOCK_OFFSET=name)


def set_clock(name, seconds):
    """The wall clock of the broker that has this file is wrong by so much from now on."""
    with open(name, "r+b" if os.path.exists(name) else "wb") as file:
        file.write(struct.pack("=q", seconds))


@attack(environment=moving_clock)
def the_wall_clock_is_set_by_hours_to_and_fro(s):
    """Times to live and heartbeats are of the other clock; the log has the new time."""
    name = os.path.join(s.whippetd.folder.name, CLOCK_FILE)
    lasting, brief = s.channel(heartbeat=10), s.channel(heartbeat=10)
    long_queue = s.queue(lasting, durable=True, arguments={"x-message-ttl": 600_000})
    short_queue = s.queue(brief, arguments={"x-message-ttl": 500})
    lasting.select()
    for hour in (6, -6, 1000, 0):
        lasting.publish_confirmed(long_queue, str(hour), delivery_mode=2)
        brief.publish(short_queue, "m")
        set_clock(name, hour * 3600)
        s.connect().close()
        brief.holds(short_queue, 0)
        for channel in (lasting, brief):
            channel.sync()
    lasting.got(long_queue, "6")
    lasting.holds(long_queue, 3)
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 1000 * 3600))
    if day not in s.log():
        raise Failure(f"the broker's log has no line of {day}: its clock was not set")


def reconfigure(s, config):
    """The configuration says this from now on, and has been read."""
    with open(os.path.join(s.whippetd.folder.name, "whippet.yaml"), "w", encoding="utf-8") as file:
        file.write(config)
    reads = s.log().count("configuration read again")
    os.kill(s.pid, signal.SIGHUP)
    s.until("the configuration is read", lambda: s.log().count("configuration read again") > reads)


TIME_TO_LIVE = "policies: [{name: p, pattern: '', definition: {message-ttl: %d}}]"


@attack(environment=moving_clock, config="policies: []", bystander=None)
def a_policy_gives_messages_their_time_whatever_the_wall_clock_did_meanwhile(s):
    """Of those that are on disk only, the log says when they came by the wall clock of then."""
    name = os.path.join(s.whippetd.folder.name, CLOCK_FILE)
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for n in range(3):
        channel.publish_confirmed(queue, str(n), delivery_mode=2)
    s.restart()
    channel = s.channel()
    for hour in (6, -6, 1000):
        set_clock(name, hour * 3600)
        reconfigure(s, TIME_TO_LIVE % (600_010 + hour))
        channel.holds(queue, 3)
    reconfigure(s, TIME_TO_LIVE % 1)
    channel.holds(queue, 0)


class Relay:
    """Passes everything on between a client and the broker, until it swallows everything."""

    def __init__(self, address):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address, self.target = self.listener.getsockname(), address
        self.is_swallowing = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        client, _ = self.listener.accept()
        broker = socket.create_connection(self.target)
        other = {client: broker, broker: client}
        while True:
            for end in select.select(list(other), [], [])[0]:
                data = end.recv(65536)
                if not data:
                    if end is broker:
                        return
                    del other[end]
                elif not self.is_swallowing:
                    other[end].sendall(data)


def gets_them_after_silence(s, queue, count):
    """A second client is given what the first has not settled, within a few heartbeats."""
    other = s.channel()
    other.consume(queue)
    began = time.monotonic()
    for _ in range(count):
        check_equal("redelivered", other.expect("basic.deliver").redelivered, True)
    waited = time.monotonic() - began
    s.say(f"the messages went to another client after {waited:.1f} s")
    if waited > 60:
        raise Failure(f"the silence was noticed after {waited:.1f} s")


@attack
def the_network_swallows_everything(s):
    """At heartbeats of one second, both directions fall silent without a word."""
    relay = Relay(s.address)
    connection = Connection(relay.address, s.deadline)
    s.connections.append(connection)
    channel = connection.handshake(heartbeat=1).channel()
    queue = s.queue(channel)
    channel.publish_all(queue, ["m"] * 5)
    channel.consume(queue)
    channel.delivered(*["m"] * 5)
    relay.is_swallowing = True
    gets_them_after_silence(s, queue, 5)


@attack
def a_client_falls_silent_while_its_window_is_full(s):
    """It reads nothing and says nothing; output waits for it, and it is noticed all the same."""
    publisher = s.channel()
    queue = s.queue(publisher)
    publisher.select()
    publisher.publish_all(queue, [bytes(100_000)] * 100)
    publisher.all_confirmed(100)
    silent = s.channel(heartbeat=1)
    silent.call("basic.qos", prefetch_count=100)
    for n in range(20):
        silent.say("basic.consume", queue=queue, consumer_tag=str(n), no_wait=True)
    s.until("the log says that it is gone", lambda: "missed heartbeats" in s.log())
    publisher.holds(queue, 100, 0)


@attack
def a_client_reads_nothing_but_lives(s):
    """As long as its heartbeats come, a full window is no reason to end it."""
    publisher = s.channel()
    queue = s.queue(publisher)
    publisher.select()
    publisher.publish_all(queue, [bytes(100_000)] * 100)
    publisher.all_confirmed(100)
    slow = s.channel(heartbeat=3)
    for n in range(20):
        slow.say("basic.consume", queue=queue, consumer_tag=str(n), no_wait=True, no_ack=True)
    for _ in range(27):  # more than two intervals
        slow.connection.send(wire.HEARTBEAT)
        select.select([], [], [], 0.3)
    for _ in range(100):
        slow.expect("basic.deliver")
    slow.connection.send(wire.HEARTBEAT)
    slow.sync()
