"""Frames: input that comes while the broker cannot go on with it, in the smallest and largest
pieces, and with lengths that lie."""
import random
import struct

import amqp_wire as wire
from attack import attack, vanish
from client import Connection, ConnectionClosed, Failure, check_equal

EXTREMES = (0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff)
MIB = 1024 * 1024
FUZZED = 400  # conversations with errors


@attack
def input_that_waits_for_answers_and_for_the_definitions_is_bounded(s):
    """Durable declarations hold the output; questions to queues of other threads hold the input.
    What is read meanwhile must not grow beyond the room for it."""
    others = [s.channel() for _ in range(6)]
    asked = [other.declare("").queue for other in others] * 1000
    attackers = [s.channel() for _ in range(6)]
    questions = b"".join(wire.method_frame(1, "queue.declare", queue=queue, passive=True)
                         for queue in asked)
    for round in range(2):
        for n, channel in enumerate(attackers):
            channel.rest = memoryview(wire.method_frame(
                1, "queue.declare", queue=f"d{n}-{round}", durable=True) + questions)
        for channel in attackers:
            send_reading(channel.connection, channel.rest)
        for channel in attackers:
            for _ in range(1 + len(asked)):
                channel.answer("queue.declare-ok")


def send_reading(connection, data):
    """As a client with a thread for reading would: what comes meanwhile is taken."""
    while data:
        connection.socket.setblocking(False)
        try:
            data = data[connection.socket.send(data):]
        except BlockingIOError:
            if not connection.read_bytes():
                raise Failure("the broker closed the socket") from None


def fields_with_lengths():
    """Every field of every method of a client that has a length: (method, fields before it)."""
    for name, (_class, _method, fields) in wire.METHODS.items():
        for number, (kind, _field) in enumerate(fields):
            if kind in "SXT":
                yield name, number


def with_length(name, number, length):
    """The method's payload up to this field, which announces that length, and a few octets."""
    class_id, method_id, fields = wire.METHODS[name]
    payload, bits = struct.pack(">HH", class_id, method_id), []
    for kind, _field in fields[:number]:
        if kind == "b":
            bits.append(True)
            continue
        if bits:
            payload, bits = payload + b"\xff", []
        payload += wire.encode_field(kind, wire._DEFAULTS[kind])
    if bits:
        payload += b"\xff"
    size = struct.pack(">B", length & 0xff) if fields[number][0] == "S" \
        else struct.pack(">I", length)
    return payload + size + b"abcdefgh"


@attack
def every_length_of_every_method_at_its_extremes(s):
    """On a channel and on channel 0: an error closes the connection, and nothing else happens."""
    before, count = s.rss(), 0
    for name, number in fields_with_lengths():
        for length in EXTREMES:
            connection = Connection(s.address, s.deadline)
            connection.send(HANDSHAKE + wire.method_frame(1, "channel.open")
                            + wire.frame(wire.FRAME_METHOD, 0 if name.startswith("connection") else 1,
                                         with_length(name, number, length))
                            + wire.method_frame(0, "connection.close"))
            until_closed(connection)
            count += 1
    s.say(f"{count} conversations")
    if s.rss() - before > 16 * MIB:
        raise Failure(f"the broker grew by {(s.rss() - before) / MIB:.0f} MiB")


HANDSHAKE = wire.PROTOCOL_HEADER + b"".join([
    wire.method_frame(0, "connection.start-ok", mechanism="PLAIN", response="\0guest\0guest",
                      locale="en_US"),
    wire.method_frame(0, "connection.tune-ok", channel_max=2047, frame_max=131072),
    wire.method_frame(0, "connection.open", virtual_host="/")])


def until_closed(connection):
    """Whatever it says, the broker comes to an end: close-ok, close, or the socket's."""
    try:
        while True:
            connection.pump()
            if any(method.name == "connection.close-ok" for method in connection.inbox(0)):
                break
    except ConnectionClosed:
        pass
    connection.drop()


@attack
def sizes_that_nothing_can_have(s):
    """Frames of 4 GiB and bodies of 2^63 are refused where they are announced."""
    before = s.rss()
    for size in (131_073, 0x7fffffff, 0xffffffff):
        for kind in (wire.FRAME_METHOD, wire.FRAME_HEADER, wire.FRAME_BODY, wire.FRAME_HEARTBEAT):
            early = s.socket()
            early.send(wire.PROTOCOL_HEADER + struct.pack(">BHI", kind, 0, size))
            until_closed(early)
            late = s.channel()
            late.connection.send(struct.pack(">BHI", kind, 1, size) + b"m" * 100)
            until_closed(late.connection)
    for size in (512 * MIB + 1, 1 << 32, 1 << 63, (1 << 64) - 1):
        channel = s.channel()
        channel.connection.send(wire.method_frame(1, "basic.publish")
                                + wire.header_frame(1, size))
        channel.connection.refused(501, f"content body size {size} exceeds maximum allowed size "
                                        f"{512 * MIB}")
    for depth in (10_000, 20_000):
        channel = s.channel()
        channel.say("queue.declare", queue="deep", arguments=nested(depth))
        until_closed(channel.connection)
        channel = s.channel()
        channel.connection.send(wire.method_frame(1, "basic.publish") + wire.header_frame(
            1, 0, struct.pack(">H", 1 << 13) + wire.encode_table(nested(depth))))
        until_closed(channel.connection)
    if s.rss() - before > 16 * MIB:
        raise Failure(f"the broker grew by {(s.rss() - before) / MIB:.0f} MiB")


def nested(depth):
    """The inside of a table of tables of tables."""
    table = b""
    for _ in range(depth):
        table = b"\0F" + struct.pack(">I", len(table)) + table
    return table


@attack
def a_megabyte_of_the_smallest_frames(s):
    channel = s.channel()
    channel.connection.send(wire.HEARTBEAT * (10 * MIB // len(wire.HEARTBEAT)))
    channel.sync()
    flow = wire.method_frame(1, "channel.flow", active=True)
    channel.connection.send(flow * 20_000)
    for _ in range(20_000):
        channel.expect("channel.flow-ok")


@attack
def whatever_comes_after_a_close_is_not_looked_at(s):
    """Neither what a client says behind its own close, nor behind a mistake for which it is closed."""
    rubbish = (wire.publish_frames(1, "", "after", b"m") + wire.method_frame(1, "queue.declare",
                                                                              queue="after")
               + b"\xff" * 1000 + wire.HEARTBEAT)
    mistake = wire.method_frame(1, "basic.publish", exchange="", immediate=True) \
        + wire.header_frame(1, 0)
    for end in (wire.method_frame(0, "connection.close"), mistake):
        for _ in range(50):
            channel = s.channel()
            channel.connection.send(end + rubbish)
            until_closed(channel.connection)
    s.channel().refuses("queue.declare", 404, "no queue 'after' in vhost '/'", queue="after",
                        passive=True)


@attack
def conversations_with_errors_in_them(s):
    """Octets changed, lost and doubled anywhere in the frames of an ordinary client."""
    chance = random.Random(5672)
    ordinary = HANDSHAKE + wire.method_frame(1, "channel.open") + b"".join([
        wire.method_frame(1, "queue.declare", queue="fuzzed", arguments={"x-max-length": 10}),
        wire.method_frame(1, "queue.bind", queue="fuzzed", exchange="amq.topic", routing_key="a.#"),
        wire.method_frame(1, "basic.consume", queue="fuzzed"),
        wire.publish_frames(1, "amq.topic", "a.b", b"m" * 50, {"headers": {"a": [1, {"b": 2.5}]}}),
        wire.method_frame(1, "tx.select"),
        wire.publish_frames(1, "", "fuzzed", b"m", {"expiration": "100", "priority": 3}),
        wire.method_frame(1, "tx.commit"),
        wire.method_frame(1, "basic.ack", delivery_tag=1, multiple=True),
        wire.method_frame(1, "queue.purge", queue="fuzzed"),
        wire.method_frame(1, "channel.close")])
    for _ in range(FUZZED):
        data = bytearray(ordinary)
        for _ in range(chance.randint(1, 4)):
            at, how = chance.randrange(8, len(data)), chance.random()
            if how < 0.6:
                data[at] = chance.choice((0, 1, 0x7f, 0x80, 0xce, 0xff, data[at] ^ 1 << chance.randrange(8)))
            elif how < 0.8:
                del data[at:at + chance.randint(1, 8)]
            else:
                data[at:at] = data[at:at + chance.randint(1, 8)]
        connection = Connection(s.address, s.deadline)
        connection.send(bytes(data))
        vanish(connection)
    check_equal("its answer", s.channel().call("channel.flow", active=True).active, True)
