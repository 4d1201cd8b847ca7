"""On the way in: what is said before and with a login, and makes no sense."""
import struct

import amqp_wire as wire
from attack import attack
from attacks_frames import nested, until_closed
from attacks_handshake import HANDSHAKE
from client import Connection, ConnectionClosed, Failure, check_equal

MIB = 1024 * 1024
GROWN_MAX = 16 * MIB
START_OK = wire.METHODS["connection.start-ok"][:2]


def start_ok(properties, response=b"\0guest\0guest"):
    """The frame, with a table of properties as these bytes."""
    payload = struct.pack(">HHI", *START_OK, len(properties)) + properties
    payload += wire.short_string("PLAIN") + struct.pack(">I", len(response)) + response
    return wire.frame(wire.FRAME_METHOD, 0, payload + wire.short_string("en_US"))


def entry(name, value):
    return bytes([len(name)]) + name + value


def field(text):
    return b"S" + struct.pack(">I", len(text)) + text


def table(*entries):
    return b"F" + struct.pack(">I", len(b"".join(entries))) + b"".join(entries)


TROUBLE = {
    "nested as deep as a frame is long": nested(1000),
    "nested 10,000 deep": nested(10_000),
    "a megabyte": entry(b"product", field(b"m" * MIB)),
    "an unknown type": entry(b"product", b"?1234"),
    "a table that is longer than the rest": entry(b"capabilities", b"F\xff\xff\xff\xff"),
    "a text that is longer than the rest": entry(b"product", b"S\x7f\xff\xff\xff"),
    "a name without a value": b"\x04name",
    "an array of arrays": entry(b"a", b"A\0\0\0\x05A\xff\xff\xff\xff"),
}
NO_TROUBLE = {
    "the same name twice": entry(b"product", field(b"one")) + entry(b"product", field(b"two")),
    "capabilities that are no table": entry(b"capabilities", field(b"all of them")),
    "capabilities that are no bools": entry(
        b"capabilities", table(entry(b"connection.blocked", b"I\0\0\0\x01"), entry(b"a", b"V"))),
    "octets that are no text": entry(b"\xff\xfe", field(b"\xc3\x28\0\x80")),
    "6 KiB of names": b"".join(entry(b"%03d" % n, b"V") for n in range(1200)),
}


@attack
def client_properties_of_every_kind_of_trouble(s):
    """What cannot be decoded ends the connection; what makes no sense is ignored."""
    before = s.rss()
    for _ in range(50):
        for properties in TROUBLE.values():
            connection = Connection(s.address, s.deadline)
            connection.send(wire.PROTOCOL_HEADER + start_ok(properties))
            until_closed(connection)
    for what, properties in NO_TROUBLE.items():
        connection = s.socket()
        connection.send(wire.PROTOCOL_HEADER)
        connection.expect("connection.start")
        connection.send(start_ok(properties))
        try:
            connection.expect("connection.tune")
        except ConnectionClosed as end:
            raise Failure(f"{what}: {end}") from None
    if s.rss() - before > GROWN_MAX:
        raise Failure(f"the broker grew by {(s.rss() - before) / MIB:.0f} MiB")


WRONG = [b"\0\0", b"\0guest\0", b"\0\0guest", b"\0" + b"g" * 4000 + b"\0guest",
         b"\0guest\0" + b"g" * 4000, b"\0\xff\xfe\0\xff", b"\0guest\0\xc3\x28",
         b"\0" + b"\xf0\x9f\x90\x95" * 60 + b"\0p", b"other\0guest\0wrong", b"\0nobody\0guest",
         b"\0guest\n\0guest", b"\0GUEST\0guest", b"\0guest\0swordfish", b"\0nobody\0swordfish"]
NOT_EVEN_THAT = [b"", b"\0", b"\0\0\0", b"guest", b"guest\0guest", b"\0guest", b"\0guest\0guest\0",
                 b"\0" * 4000, b"\0guest\0guest" + b"\0" * 100, b"\0guest\0" + b"g" * 65536]
TELL_ME = entry(b"capabilities", table(entry(b"authentication_failure_close", b"t\x01")))


@attack
def logins_that_are_none(s):
    """Each is refused, one like the other, and says nothing about who there is; who knows the
    password comes in meanwhile. Each has an address of its own, since who fails again must wait."""
    wrong = [trying(s, response, n) for n, response in enumerate(WRONG)]
    no_responses = [trying(s, response, n + 100) for n, response in enumerate(NOT_EVEN_THAT)]
    for _ in range(20):
        s.connect().close()
    for connection in wrong:
        connection.refused(403, "Login was refused using authentication mechanism PLAIN. For details "
                                "see the broker logfile.", by="")
    for connection in no_responses:
        try:
            connection.expect("connection.tune")
        except ConnectionClosed:
            continue
        raise Failure("a response that is none was taken for a login")
    if "swordfish" in s.log():
        raise Failure("the log has what was sent as a password")


def trying(s, response, number):
    connection = s.socket(f"127.0.1.{number + 1}")
    connection.send(wire.PROTOCOL_HEADER)
    connection.expect("connection.start")
    connection.send(start_ok(TELL_ME, response))
    return connection


GUESSES = 12  # of each name: so many slow hashes are many ticks of the processor's clock
SCRYPT = "$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0"
USERS = f"""
users:
  - name: guest
    password: guest
    permissions: [{{vhost: /, configure: ".*", write: ".*", read: ".*"}}]
  - {{name: salted, password_hash: m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH}}
  - {{name: cheap, password_hash: "{SCRYPT}"}}
  - {{name: locked, password_hash: ""}}
"""


@attack(bystander=None, config=USERS)
def the_work_of_a_refusal_does_not_tell_who_there_is(s):
    """In seconds of a processor: the same for a name that is known as for one that is not."""
    s.connect().close()  # guest's password is known again from here on
    names = ("nobody", "guest", "salted", "cheap", "locked", "nobody-else")
    work = dict.fromkeys(names, 0.0)
    for n in range(GUESSES):  # in turns, so that what else the machine does changes nothing
        for place, name in enumerate(names):
            used = s.processor_seconds()
            connection = trying(s, b"\0%s\0wrong-%d" % (name.encode(), n), 20 * place + n)
            connection.refused(403, "Login was refused using authentication mechanism PLAIN. For "
                                    "details see the broker logfile.", by="")
            work[name] += s.processor_seconds() - used
    s.say(", ".join(f"{name} {work[name] / GUESSES * 1000:.0f} ms" for name in work))
    if max(work.values()) > 1.6 * min(work.values()):
        raise Failure("who guesses can tell the names that there are from those that there are not")


@attack
def a_handshake_whose_parts_come_twice_or_in_another_order(s):
    """Whatever the order: it ends the connection, or the client is in."""
    header, parts = wire.PROTOCOL_HEADER, [
        wire.method_frame(0, "connection.start-ok", mechanism="PLAIN", response="\0guest\0guest",
                          locale="en_US"),
        wire.method_frame(0, "connection.tune-ok", channel_max=2047, frame_max=131072),
        wire.method_frame(0, "connection.open", virtual_host="/")]
    wrong = [header + parts[0] + parts[0], header + parts[1], header + parts[2],
             header + parts[0] + parts[2], header + parts[0] + parts[1] + parts[1],
             header + parts[0] + parts[1] + parts[0], HANDSHAKE + parts[0], HANDSHAKE + parts[1],
             HANDSHAKE + parts[2], header + header, HANDSHAKE + header,
             header + wire.method_frame(0, "connection.close-ok"),
             header + wire.method_frame(0, "connection.start-ok", mechanism="", response="",
                                        locale="")]
    for _ in range(20):
        for number, data in enumerate(wrong):
            connection = Connection(s.address, s.deadline)
            connection.send(data)
            try:
                while True:
                    connection.pump()
            except ConnectionClosed as end:
                if end.method is not None:
                    check_equal(f"reply code of {number}", end.method.reply_code,
                                lambda code: code in (403, 501, 503, 504, 505, 530))
            connection.drop()


@attack
def vhosts_that_are_none(s):
    for vhost in ("", "missing", "v" * 255, "\n", "/ ", "//", "\0", "\U0001f415" * 63):
        connection = s.socket()
        connection.handshake(until="tune")
        connection.say("connection.tune-ok", channel_max=2047, frame_max=131072)
        connection.say("connection.open", virtual_host=vhost)
        try:
            connection.expect("connection.open-ok")
        except ConnectionClosed as end:
            check_equal("reply code", end.method and end.method.reply_code, 530)
        else:
            raise Failure(f"{vhost!r} is a vhost")


@attack
def many_who_wait_for_their_login_and_send_on(s):
    """Each password takes its time; meanwhile thousands wait, whose input is kept for later."""
    heartbeats, count = wire.frame(wire.FRAME_HEARTBEAT, 0, b"") * 20_000, 1000
    before, waiting = s.rss(), []
    for _ in range(count):
        connection = Connection(s.address, s.deadline)
        connection.send(wire.PROTOCOL_HEADER + wire.method_frame(
            0, "connection.start-ok", client_properties={}, mechanism="PLAIN", locale="en_US",
            response="\0guest\0wrong"))
        connection.socket.setblocking(False)
        try:
            connection.socket.send(heartbeats)
        except BlockingIOError:
            pass  # it is more than is read
        waiting.append(connection)
    s.connect().close()  # so all that came before was read
    grown = s.rss() - before
    s.say(f"{grown / count / 1024:.0f} KiB each")
    for connection in waiting:
        connection.drop()
    if grown > 40 * MIB:  # of which scrypt has 16 for whoever's turn it is
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB")
