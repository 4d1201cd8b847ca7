"""The log: one line for an event, whoever writes it and however many there are, and no secrets."""
import json
import os
import re
import socket
import time

from client import ChannelClosed
from process import Lines, check, check_equal, fields_of, test

NASTY = "\x1b[2Jx\n2026-01-01T00:00:00.000Z error the broker is on fire\r\t\x00\u202e\"\\ end"
SECRET = "correct horse battery staple"


@test
def a_connection_s_life_is_in_the_log(world):
    broker = world.start("log: {level: debug}\n")
    connection = broker.connect()
    peer = "127.0.0.1:%d" % connection.socket.getsockname()[1]
    channel = connection.channel()
    queue = channel.call("queue.declare", exclusive=True).queue
    channel.publish(queue, "x" * 10_000)
    channel.got(queue, "x" * 10_000)
    connection.close()
    broker.log.wait(f"debug connection accepted peer={peer} ")
    opened = fields_of(broker.log.wait(f".*connection opened peer={peer} .*").group(0))
    check_equal("user and vhost", (opened["user"], opened["vhost"]), ("guest", "/"))
    closed = fields_of(broker.log.wait(f".*connection closed peer={peer} .*").group(0))
    check_equal("user and vhost", (closed["user"], closed["vhost"]), ("guest", "/"))
    check(0 <= int(closed["duration_ms"]) < 120_000, f"duration: {closed['duration_ms']} ms")
    for way in ("received_bytes", "sent_bytes"):
        check(10_000 < int(closed[way]) < 20_000, f"{way}: {closed[way]}")


@test
def a_lost_connection_is_told_with_its_reason(world):
    broker = world.start("log: {format: json}\n")
    connection = broker.connect()
    peer = "127.0.0.1:%d" % connection.socket.getsockname()[1]
    connection.drop()
    lost = json.loads(broker.log.wait(r'.*"connection lost".*').group(0))
    check_equal("peer, user and vhost", (lost["peer"], lost["user"], lost["vhost"]),
                (peer, "guest", "/"))
    check_equal("reason", lost["reason"], "closed by the client without a close method")
    check(lost["received_bytes"] > 0 and lost["sent_bytes"] > 0, f"bytes: {lost}")


@test
def errors_are_told_with_peer_user_and_vhost(world):
    broker = world.start("log: {format: json}\n")
    connection = broker.connect()
    channel = connection.channel()
    try:
        channel.call("queue.declare", queue="no such", passive=True)
    except ChannelClosed:
        pass
    line = json.loads(broker.log.wait('.*"closing channel".*').group(0))
    check_equal("user, vhost and channel", (line["user"], line["vhost"], line["channel"]),
                ("guest", "/", 1))
    connection.say("basic.ack", channel=77, delivery_tag=1)
    connection.refused(504, "expected 'channel.open'")
    line = json.loads(broker.log.wait('.*"closing connection".*').group(0))
    check_equal("user and vhost", (line["user"], line["vhost"]), ("guest", "/"))


def provoke(broker):
    """Puts a nasty name wherever the log shows one of a client's; waits until it has."""
    since = broker.log.count()
    connection = broker.socket()
    connection.handshake(response=b"\0" + NASTY.replace("\0", "").encode() + b"\xff\xfe\0wrong",
                         until="start")
    broker.log.wait("login refused", since)
    connection.drop()
    connection = broker.socket().handshake(until="tune")
    connection.say("connection.tune-ok", channel_max=10, frame_max=131072, heartbeat=0)
    connection.say("connection.open", virtual_host=NASTY)
    broker.log.wait("not found", since)
    connection.drop()
    connection = broker.connect()
    connection.channel().say("queue.declare", queue=NASTY, passive=True)
    broker.log.wait("no queue", since)
    connection.drop()
    return broker.log.all(since)


@test
def names_of_clients_are_escaped_in_text(world):
    broker = world.start("log: {level: debug}\n")
    lines = provoke(broker)
    for line in lines:
        check(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info|warn|error) [a-z]", line)
              and not line.startswith("2026-01-01"), f"a line that is not the broker's: {line!r}")
        check(not re.search("[\x00-\x1f\x7f-\x9f\u202e\udc80-\udcff]", line),
              f"raw characters: {line!r}")
    check(any(r"\xff\xfe" in line for line in lines), "bytes that are not UTF-8 are not shown")


@test
def names_of_clients_are_escaped_in_json(world):
    broker = world.start("log: {level: debug, format: json}\n")
    for line in provoke(broker):
        check(not re.search("[\x00-\x1f\x7f-\x9f\u202e\udc80-\udcff]", line),
              f"raw characters: {line!r}")
        check_equal("kind of line", type(json.loads(line)), dict)


@test
def neither_secrets_nor_messages_are_in_the_log(world):
    broker = world.start("log: {level: debug}\n")
    connection = broker.socket()
    connection.handshake(user="guest", password=SECRET, until="start")
    broker.log.wait("login refused")
    connection.drop()
    connection = broker.socket()
    connection.handshake(mechanism="AMQPLAIN", until="start",
                         response=b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0"
                                  + bytes([len(SECRET)]) + SECRET.encode())
    connection.drop()
    connection = broker.connect()
    connection.say("connection.update-secret", new_secret=SECRET, reason="it was old")
    connection.expect("connection.update-secret-ok")
    channel = connection.channel()
    queue = channel.call("queue.declare", exclusive=True).queue
    channel.publish(queue, SECRET, headers={"authorization": SECRET})
    channel.got(queue, SECRET)
    channel.publish("", SECRET, exchange="no such exchange")
    broker.log.wait("closing channel")
    broker.stop()
    check(not broker.log.has(SECRET), "it is in the log")


def start_into_journal(world, config, is_journal=True):
    """-> a broker whose standard error is what JOURNAL_STREAM says, and the lines there."""
    reader, writer = os.pipe()
    status = os.fstat(writer)
    stream = f"{status.st_dev}:{status.st_ino + (0 if is_journal else 1)}"
    world.configure(config)
    broker = world.launch(stderr=writer, environment={"JOURNAL_STREAM": stream})
    os.close(writer)
    broker.log = Lines(os.fdopen(reader, encoding="utf-8", errors="surrogateescape"))
    return broker


@test
def the_journal_is_told_the_priority_of_each_line(world):
    for form, rest in (("text", r"\d{4}-\S+ "), ("json", r'{"time":"\S+,"level":"')):
        broker = start_into_journal(world, f"log: {{level: debug, format: {form}}}\n")
        broker.wait_ready().check_serves()
        connection = broker.connect()
        connection.send(b"no frame at all")
        for priority, level in ((7, "debug"), (6, "info"), (4, "warn")):
            broker.log.wait(f"^<{priority}>{rest}{level}")
        broker.stop()
        for line in broker.log.all():
            check(re.match(f"<[467]>{rest}", line), f"another line: {line}")


@test
def the_journal_is_told_that_it_is_an_error_when_the_broker_does_not_start(world):
    for config in "nonsense: 1\n", "listen: 127.0.0.1:0\nuser: no-such-user\n":
        broker = start_into_journal(world, config)
        check(broker.wait_end() != 0, "it has started")
        lines = broker.log.all()
        check(lines and lines[-1].startswith("<3>"), f"lines: {lines}")


@test
def nobody_but_the_journal_is_told_priorities(world):
    broker = start_into_journal(world, "log: {level: debug}\n", is_journal=False)
    broker.wait_ready().check_serves()
    broker.stop()
    for line in broker.log.all():
        check(re.match(r"\d{4}-", line), f"another line: {line}")
    broker = start_into_journal(world, "nonsense: 1\n", is_journal=False)
    broker.wait_end()
    check(broker.log.all()[0].startswith(world.config_path), f"lines: {broker.log.all()}")


class Flood:
    """Many of one event: all are told, one by one or in sums, and no more lines than a worker may
    write in the time that it took."""

    def __init__(self, world, broker, event, kind, burst):
        self.world, self.broker, self.burst, self.kind = world, broker, burst, kind
        self.since, self.began = broker.log.count(), time.monotonic()
        self.pattern = re.compile(rf' {event} |kind="{kind}" suppressed=(\d+)')

    def check_told(self, count):
        total = lines = position = 0
        while total < count:
            self.broker.log.wait(self.pattern, self.since + position)
            for text in self.broker.log.all(self.since + position):
                position += 1
                found = self.pattern.search(text)
                if found:
                    lines += 1
                    total += int(found.group(1) or 1)
        check_equal(f"events of kind {self.kind}", total, count)
        seconds = time.monotonic() - self.began + 2
        most = seconds * (self.burst + 1) * self.world.threads
        check(lines <= most, f"{lines} lines in {seconds:.0f} s, {most:.0f} are the most")


@test
def a_flood_of_bad_headers_is_told_in_sums(world):
    broker = world.start()
    flood = Flood(world, broker, "bad protocol header", "bad protocol header", 10)
    for _ in range(2000):
        connection = broker.socket()
        connection.send(b"GET / HTTP/1.1\r\n\r\n")
        connection.read_exactly(8)
        connection.drop()
    flood.check_told(2000)
    broker.check_serves()


@test
def a_flood_of_refused_logins_is_told_in_sums(world):
    broker = world.start()
    flood = Flood(world, broker, "login refused", "login refused", 10)
    waiting = []
    for _ in range(500):
        connection = broker.socket()
        # Longer than any password may be: refused at once, and told late to who fails so often.
        connection.handshake(password="wrong" * 300, until="start")
        waiting.append(connection)
    flood.check_told(500)
    for connection in waiting:
        connection.drop()
    broker.check_serves()


@test
def a_flood_of_wrong_logins_takes_no_lines_from_those_who_came_in(world):
    broker = world.start()
    flood = Flood(world, broker, "closing connection", "connection ended before it was opened", 10)
    for _ in range(500):
        connection = broker.socket()
        connection.handshake(mechanism="NO-SUCH", until="start")
        connection.expect_end()
        connection.drop()
    flood.check_told(500)
    connection = broker.connect()
    connection.send(b"no frame at all")
    broker.log.wait("closing connection .*user=guest.*frame")


@test
def a_flood_of_silent_clients_is_told_in_sums(world):
    broker = world.start("limits: {handshake_timeout: 500ms}\n")
    flood = Flood(world, broker, "handshake timed out", "handshake timed out", 10)
    silent = [socket.create_connection(broker.address) for _ in range(500)]
    flood.check_told(500)
    for each in silent:
        each.close()
    broker.check_serves()


@test
def a_flood_of_errors_is_told_in_sums(world):
    broker = world.start()
    channel = broker.connect().channel()
    flood = Flood(world, broker, "closing channel", "channel error", 50)
    for _ in range(2000):
        channel.say("queue.declare", queue="no such", passive=True)
        channel.say("channel.close-ok")
        channel.say("channel.open")
    flood.check_told(2000)


@test
def a_flood_of_channels_with_too_much_unsettled_is_told_in_sums(world):
    broker = world.start("limits: {unsettled_per_channel: 1}\n")
    channel = broker.connect().channel()
    queue = channel.call("queue.declare", exclusive=True).queue
    channel.publish(queue, "m")
    flood = Flood(world, broker, "channel gets no more messages before it settles some",
                  "channel with too much unsettled", 10)
    for _ in range(1000):
        channel.got(queue, "m", no_ack=False)
        channel.refuses("basic.get", 406, "limit of unsettled messages (1) is reached",
                        queue=queue, no_ack=False)
        channel.call("channel.open")
    flood.check_told(1000)
