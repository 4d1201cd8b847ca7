"""Before anybody has come in: slow, many, and idle connections."""
import os
import re
import select
import socket
import time

import amqp_wire as wire
from attack import attack, descriptors_for, vanish
from client import ChannelClosed, Connection, Failure, check_equal
from harness import Skip

HALF_OPEN = 5000
IDLE = 20_000
IDLE_AT_LEAST = 5000  # else it is no test of them
CROWD = 2500  # of one process: what every machine lets it have
IDLE_BYTES_MAX = 4096  # of the broker's memory for an idle connection
BATCH = 250  # connections at a time, fewer than wait in a listening socket

HANDSHAKE = wire.PROTOCOL_HEADER + b"".join([
    wire.method_frame(0, "connection.start-ok", mechanism="PLAIN", response="\0guest\0guest",
                      locale="en_US"),
    wire.method_frame(0, "connection.tune-ok", channel_max=2047, frame_max=131072),
    wire.method_frame(0, "connection.open", virtual_host="/")])


def begin_many(address, count, data):
    """-> that many sockets on which this was sent."""
    sockets = []
    while len(sockets) < count:
        batch = []
        for _ in range(min(BATCH, count - len(sockets))):
            end = socket.socket()
            end.settimeout(60)
            end.connect(address)
            batch.append(end)
        for end in batch:
            end.sendall(data)
        sockets += batch
    return sockets


def ended(sockets):
    """How many of them the broker has closed."""
    poll = select.poll()
    for end in sockets:
        poll.register(end, select.POLLIN)
    by_number = {end.fileno(): end for end in sockets}
    count = 0
    for number, _ in poll.poll(0):
        try:
            count += by_number[number].recv(65536) == b""
        except OSError:
            count += 1
    return count


@attack(config="limits: {handshake_timeout: 8s}")
def five_thousand_handshakes_that_never_end(s):
    """Others still get in at once, and those are gone when their time is up."""
    descriptors_for(HALF_OPEN)
    began = time.monotonic()
    slow = begin_many(s.address, HALF_OPEN, wire.PROTOCOL_HEADER[:4])
    s.say(f"{HALF_OPEN} sockets in {time.monotonic() - began:.1f} s")
    longest = 0.0
    for _ in range(50):
        began = time.monotonic()
        s.connect().close()
        longest = max(longest, time.monotonic() - began)
    s.say(f"meanwhile another connects within {longest * 1000:.0f} ms")
    if longest > 5:
        raise Failure(f"another client took {longest:.1f} s to connect")
    closed = [0]

    def all_ended():
        closed[0] = sum(end.fileno() < 0 for end in slow)
        poll = select.poll()
        for end in slow:
            if end.fileno() >= 0:
                poll.register(end, select.POLLIN)
        ready = {number for number, _ in poll.poll(0)}
        for end in slow:
            if end.fileno() in ready:
                end.close()
        return all(end.fileno() < 0 for end in slow)

    s.until("all of them are closed", all_ended)


@attack(config="limits: {handshakes: 200, handshake_timeout: 1h}")
def more_handshakes_than_the_limit_keep_nobody_out(s):
    slow = begin_many(s.address, 2000, wire.PROTOCOL_HEADER[:4])
    for _ in range(20):
        s.connect().close()
    s.until("most of the slow ones have given way", lambda: ended(slow) > 0)
    if "too many handshakes" not in s.log():
        raise Failure("the log does not say why")
    for end in slow:
        end.close()


@attack(config="limits: {handshakes: 200, handshake_timeout: 1h}")
def who_is_refused_and_stays_counts_as_a_handshake(s):
    """Else one could hold any number of descriptors without ever logging in."""
    begin = wire.PROTOCOL_HEADER + wire.method_frame(
        0, "connection.start-ok", mechanism="NO-SUCH", response="", locale="en_US")
    refused = begin_many(s.address, 2000, begin)
    s.until("most of them have given way",
            lambda: len(os.listdir(f"/proc/{s.pid}/fd")) < 400, seconds=15)  # half of their time
    s.connect().close()
    for end in refused:
        end.close()


def room_for(s, wanted):
    """How many more connections the broker's limit of open files lets it have, if not as many."""
    found = re.search("limit of open files files=[0-9]+ connections=([0-9]+)", s.log())
    if not found:
        raise Failure("the broker does not say its limit of open files")
    room = int(found.group(1)) - 20  # the bystander's, and what the attack itself needs
    if room < wanted:
        s.say(f"{wanted} connections wanted: the limit of open files here lets the broker have {room}")
    return min(room, wanted)


@attack(descriptors=IDLE + 500)
def twenty_thousand_idle_connections(s):
    first = s.helper("crowd", 100)  # what all of them share is there now
    first.expect("open")
    count = room_for(s, IDLE) - 100
    if count < IDLE_AT_LEAST:
        raise Skip(f"the limit of open files leaves {count} connections")
    before = s.rss()
    crowds = [first]
    for done in range(0, count, CROWD):
        crowds.append(s.helper("crowd", min(CROWD, count - done)))
        crowds[-1].expect("open")  # one after the other: together they would fill the listening queue
    each = (s.rss() - before) / count
    s.say(f"{count + 100} idle connections, {each:.0f} bytes each")
    if each > IDLE_BYTES_MAX:
        raise Failure(f"an idle connection takes {each:.0f} bytes, {IDLE_BYTES_MAX} are meant")
    s.connect().close()
    for crowd in crowds:
        check_equal("the crowd", crowd.end(), "left")
    s.until("they are gone", lambda: len(os.listdir(f"/proc/{s.pid}/fd")) < 200)


def wait_open(sockets):
    """connection.open-ok has come on all of them."""
    wanted = wire.method_frame(0, "connection.open-ok")
    for end in sockets:
        data = b""
        while not data.endswith(wanted):
            more = end.recv(4096)
            if not more:
                raise Failure("the broker closed a connection")
            data += more


@attack
def a_storm_of_connections(s):
    """They come, log in and are gone without a word, 3,000 times."""
    for _ in range(12):
        batch = begin_many(s.address, 250, HANDSHAKE)
        for end in batch:
            end.close()
    s.connect().close()


@attack
def one_octet_at_a_time(s):
    connection = s.socket()
    queue = s.queue_name()

    def say(data):
        for octet in data:
            connection.socket.sendall(bytes([octet]))

    say(HANDSHAKE)
    for answer in ("start", "tune", "open-ok"):
        connection.expect(f"connection.{answer}")
    say(wire.method_frame(1, "channel.open"))
    connection.expect("channel.open-ok", 1)
    say(wire.method_frame(1, "queue.declare", queue=queue))
    connection.expect("queue.declare-ok", 1)
    say(wire.publish_frames(1, "", queue, b"slow" * 100, {"headers": {"a": 1, "b": [1, {}]}}))
    say(wire.HEARTBEAT)
    say(wire.method_frame(1, "basic.get", queue=queue, no_ack=True))
    connection.expect("basic.get-ok", 1, body=b"slow" * 100)
    say(wire.method_frame(0, "connection.close"))
    connection.expect("connection.close-ok")


@attack
def answers_read_one_octet_at_a_time(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "m" * 2000)
    connection = channel.connection

    def read_bytes():
        connection.socket.settimeout(connection.time_left())
        data = connection.socket.recv(1)
        connection.buffer += data
        return bool(data)

    connection.read_bytes = read_bytes
    channel.got(queue, "m" * 2000)


@attack(bystander="publish")
def clients_that_vanish_in_the_middle_of_everything(s):
    """A connection is reset after every number of octets of an ordinary conversation."""
    data = HANDSHAKE + b"".join([
        wire.method_frame(1, "channel.open"),
        wire.method_frame(1, "confirm.select"),
        wire.method_frame(1, "queue.declare", queue="vanishing", exclusive=True),
        wire.method_frame(1, "basic.consume", queue="vanishing"),
        wire.publish_frames(1, "", "vanishing", b"m" * 100, {"delivery_mode": 2}),
        wire.method_frame(1, "tx.select")])
    for size in range(1, len(data), 2):
        connection = Connection(s.address, s.deadline)
        connection.send(data[:size])
        vanish(connection)
    s.until("the last one's queue has gone with it", lambda: can_declare(s, "vanishing"))


def can_declare(s, name):
    channel = s.channel()
    try:
        check_equal("messages", channel.declare(name, exclusive=True).message_count, 0)
        return True
    except ChannelClosed as end:
        check_equal("reply code", end.method.reply_code, 405)
        return False
