"""Overload: clients that take nothing, begin what they do not finish, or send more than memory holds."""
import select
import threading
import time

import amqp_wire as wire
import preload
from attack import attack, told, vanish
from client import ChannelClosed, Failure, check_equal
from harness import Skip

MIB = 1024 * 1024
UNREAD_MAX = 48 * MIB  # growth that one client which reads nothing may cause: 4 MiB are meant
SIXTEEN = 16 * MIB
LOG_BACKLOG = 64  # MiB that may be on their way to the disk, beside the limit
DISK_RATE = 20_000_000  # bytes a second that a slow disk takes
SLOW_DISK_WAIT = 5.0  # seconds for which it may make others wait
MINUTE = 60.0
SLACK = 192  # MiB: what malloc keeps of messages that have gone


def held_while(s, connection, data, what, seconds=15):
    """Floods without reading anything; the broker must stop taking it before it holds much."""
    before = s.rss()
    sent = s.flood(connection, data, seconds)
    grown = s.rss() - before
    s.say(f"{what}: {sent / MIB:.0f} MiB sent unread, {grown / MIB:.1f} MiB grown")
    if grown > UNREAD_MAX:
        raise Failure(f"{what}: the broker grew by {grown / MIB:.0f} MiB for answers nobody reads")
    vanish(connection)


@attack
def questions_whose_answers_nobody_reads(s):
    channel = s.channel()
    queue = s.queue(channel)
    ask = wire.method_frame(1, "queue.declare", queue=queue, passive=True)
    held_while(s, channel.connection, ask * 1000, "queue.declare")


@attack
def basic_get_of_an_empty_queue_whose_answers_nobody_reads(s):
    channel = s.channel()
    queue = s.queue(channel)
    held_while(s, channel.connection, wire.method_frame(1, "basic.get", queue=queue) * 1000,
               "basic.get-empty")


@attack
def basic_get_of_large_messages_that_nobody_reads(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.select()
    channel.publish_all(queue, [b"m" * 100_000] * 1000)
    channel.all_confirmed(1000)
    held_while(s, channel.connection, wire.method_frame(1, "basic.get", queue=queue) * 1000,
               "basic.get-ok")


@attack
def returned_messages_that_nobody_reads(s):
    channel = s.channel()
    lost = wire.publish_frames(1, "", "nowhere", b"m" * 10_000, mandatory=True)
    held_while(s, channel.connection, lost * 20, "basic.return")


@attack
def confirms_that_nobody_reads(s):
    channel = s.channel()
    channel.select()
    held_while(s, channel.connection, wire.publish_frames(1, "amq.fanout", "", b"m") * 1000,
               "basic.ack", seconds=4)


@attack
def a_client_that_reads_late_gets_every_answer(s):
    """Input that was stopped for unread output goes on when the output is read."""
    channel = s.channel()
    queue = s.queue(channel)
    data = wire.method_frame(1, "basic.get", queue=queue) * 1000
    sent = s.flood(channel.connection, data, seconds=15)
    whole, size = sent // len(data) * 1000, len(data) // 1000
    rest = (size - sent % size) % size
    finish = threading.Thread(target=channel.connection.socket.sendall,
                              args=(data[:size][size - rest:] if rest else b"",))
    channel.connection.socket.settimeout(60)
    finish.start()
    for _ in range(whole + (sent % len(data) + rest) // size):
        channel.expect("basic.get-empty")
    finish.join()
    channel.sync()


@attack(config="limits: {memory: 64MiB}", bystander="consume")
def a_consumer_that_never_reads_while_its_queue_fills(s):
    consumer = s.channel()
    queue = s.queue(consumer)
    consumer.consume(queue)
    publisher = s.channel()
    publisher.connection.socket.settimeout(0.5)
    before, data = s.rss(), wire.publish_frames(1, "", queue, b"m" * 20_000) * 10
    sent = s.flood(publisher.connection, data, seconds=15, times=2500)
    grown = s.rss() - before
    s.say(f"{sent / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown, at a limit of 64 MiB")
    if grown > (64 + LOG_BACKLOG + SLACK) * MIB:
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB at a limit of 64 MiB")


@attack(config="limits: {memory: 32MiB}", seconds=300)
def dead_letters_that_nobody_takes(s):
    """What a full queue refuses waits, and is not lost, but not in memory."""
    messages, kept, at_once = 10_000, 10, 100
    channel = s.channel()
    exchange = s.exchange(channel, "fanout", durable=True)
    channel.bind(s.queue(channel, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}),
                 exchange)
    queue = s.queue(channel, durable=True,
                    arguments={"x-max-length": kept, "x-dead-letter-exchange": exchange})
    before = s.rss()
    data = wire.publish_frames(1, "", queue, b"m" * 50_000, {"delivery_mode": 2}) * at_once
    for _ in range(messages // at_once):
        channel.connection.send(data)
        channel.sync()
    grown = s.rss() - before
    s.say(f"{messages * 50_000 / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown, at a limit of 32 MiB")
    if grown > (32 + LOG_BACKLOG + SLACK) * MIB:
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB at a limit of 32 MiB")
    other = s.channel()
    taker = s.queue(other, durable=True)
    other.bind(taker, exchange)
    s.until("all dead letters have gone on",
            lambda: other.declare(taker, passive=True).message_count == messages - kept, 120)


@attack
def many_consumers_on_one_connection_that_reads_nothing(s):
    """What is under way to one connection is bounded, however many consumers share it."""
    consumer = s.channel()
    queue = s.queue(consumer, arguments={"x-max-length": 100})
    for n in range(400):
        consumer.say("basic.consume", queue=queue, consumer_tag=str(n), no_ack=True, no_wait=True)
    consumer.sync()
    publisher = s.channel()
    before, data = s.rss(), wire.publish_frames(1, "", queue, b"m" * 20_000) * 10
    sent = s.flood(publisher.connection, data, seconds=15, times=1000)
    publisher.sync()
    grown = s.rss() - before
    s.say(f"{sent / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown")
    if grown > 100 * MIB:
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB for what one client does not read")


def begin_content(channel, queue, size, part):
    """A publish of which only the first part of the body is sent."""
    frames = wire.method_frame(channel.number, "basic.publish", routing_key=queue)
    frames += wire.header_frame(channel.number, size)
    return frames + body_frames(channel, part)


def body_frames(channel, part):
    most = 131072 - 8
    return b"".join(wire.body_frame(channel.number, part[at:at + most])
                    for at in range(0, len(part), most))


@attack(config="limits: {memory: 20MiB}", bystander="consume")
def contents_that_are_under_way_when_memory_gets_short_are_finished(s):
    """Else they would hold the memory for which they wait."""
    publishers = [s.channel() for _ in range(3)]
    queue = s.queue(publishers[0])
    body = bytes(SIXTEEN)
    for publisher in publishers:
        publisher.select()
        publisher.connection.send(begin_content(publisher, queue, SIXTEEN, body[:SIXTEEN // 2]))
    publishers[0].connection.expect("connection.blocked", reason="low on memory")
    for publisher in publishers:
        publisher.connection.send(body_frames(publisher, body[SIXTEEN // 2:]))
    for publisher in publishers:
        publisher.all_confirmed(1)
    other = s.channel()
    for _ in publishers:
        check_equal("size", len(other.get(queue).body), SIXTEEN)
    publishers[0].connection.expect("connection.unblocked")


@attack(config="limits: {memory: 64MiB}")
def contents_that_are_announced_and_never_come(s):
    """600 times 16 MiB are promised on one connection: what has not come holds nobody up."""
    connection = s.connect()
    before = s.rss()
    for _ in range(600):
        channel = connection.channel()
        connection.send(begin_content(channel, "nowhere", SIXTEEN, b""))
    connection.channel().sync()
    grown = s.rss() - before
    s.say(f"9600 MiB announced, {grown / MIB:.1f} MiB grown")
    if grown > UNREAD_MAX:
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB for bodies that never came")
    other = s.channel()
    queue = s.queue(other)
    other.select()
    other.publish_confirmed(queue, "m")
    vanish(connection)


@attack(config="limits: {memory: 32MiB}", bystander="consume")
def a_flood_behind_a_content_that_never_ends(s):
    """What lets a content be finished while memory is short is no way around the limit."""
    connection = s.connect()
    open_one, flooding = connection.channel(), connection.channel()
    # One that deduplicates has its messages in memory; those of others would be on disk.
    queue = s.queue(flooding, arguments={"x-message-deduplication": True})
    connection.send(begin_content(open_one, queue, SIXTEEN, bytes(MIB)))
    before = s.rss()
    sent = s.flood(connection, wire.publish_frames(flooding.number, "", queue, b"m" * 50_000) * 10,
                   seconds=10)
    grown = s.rss() - before
    s.say(f"{sent / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown, at a limit of 32 MiB")
    if sent > 200 * MIB:
        raise Failure(f"{sent / MIB:.0f} MiB were taken at a limit of 32 MiB")


@attack
def empty_body_frames_without_end(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.select()
    before = s.rss()
    channel.connection.send(begin_content(channel, queue, 4, b""))
    s.flood(channel.connection, wire.body_frame(1, b"") * 10_000, times=100)
    channel.connection.send(wire.body_frame(1, b"mm") + wire.body_frame(1, b"mm"))
    channel.all_confirmed(1)
    channel.got(queue, b"mmmm")
    if s.rss() - before > UNREAD_MAX:
        raise Failure("empty frames cost memory")


class Publisher:
    """Publishes numbered persistent messages of 100 kB as fast as they are taken."""

    SIZE = 100_000

    def __init__(self, s, queue):
        self.s, self.queue, self.channel = s, queue, s.channel()
        self.connection = self.channel.connection
        self.channel.select()
        self.published = self.confirmed = self.sent = self.highest = 0
        self.waited, self.unsent = 0.0, b""

    def run(self, seconds):
        socket, end = self.connection.socket, time.monotonic() + seconds
        look = 0.0
        while (began := time.monotonic()) < end:
            if began > look:
                self.highest, look = max(self.highest, self.s.rss()), began + 0.05
            readable, writable, _ = select.select([socket], [socket], [], 0.05)
            self.waited += time.monotonic() - began
            if readable:
                self.take_confirms()
            if writable:
                self.unsent = self.unsent or self.next()
                count = socket.send(self.unsent)
                self.sent, self.unsent = self.sent + count, self.unsent[count:]

    def next(self):
        self.published += 1
        return memoryview(wire.publish_frames(1, "", self.queue, body_of(self.published - 1),
                                              {"delivery_mode": 2}))

    def take_confirms(self):
        if not self.connection.read_bytes():
            raise Failure("the broker closed the socket")
        while self.connection.has_frame():
            self.connection.pump()
        inbox = self.connection.inbox(1)
        while inbox:
            method = inbox.popleft()
            if method.name != "basic.ack" or method.delivery_tag <= self.confirmed:
                raise Failure(f"got {method} where {self.confirmed} are confirmed")
            self.confirmed = method.delivery_tag


def slow_disk(folder):
    return preload.environment(folder, preload.SLOW_DISK, DISK_RATE=DISK_RATE)


def body_of(number):
    return b"%020d" % number + bytes(Publisher.SIZE - 20)


@attack(config="limits: {memory: 128MiB}", bystander=None, environment=slow_disk, seconds=300)
def a_publisher_that_is_ten_times_faster_than_the_disk_for_a_minute(s):
    """Memory stays near its limit all the while, others' messages come through, also to that disk,
    and after a crash all that was confirmed is there, in its order."""
    consumer, other = s.bystander("consume"), s.bystander("publish")
    first = s.channel()
    queue = s.queue(first, durable=True)
    publisher, before = Publisher(s, queue), s.rss()
    publisher.run(MINUTE)
    grown = publisher.highest - before
    rate, own = publisher.sent / MINUTE, publisher.sent / (MINUTE - publisher.waited)
    s.say(f"{publisher.sent / MIB:.0f} MiB taken, {rate / MIB:.0f} MiB/s of {own / MIB:.0f} MiB/s "
          f"that it could send; {publisher.confirmed} messages confirmed; "
          f"{grown / MIB:.0f} MiB grown, limit 128 MiB")
    for bystander in (consumer, other):
        result = bystander.end()
        told("a bystander", result)
        if result.longest > SLOW_DISK_WAIT:
            raise Failure(f"a bystander waited {result.longest:.1f} s for a slow disk")
    if own < 10 * DISK_RATE:
        raise Skip(f"this machine sends {own / MIB:.0f} MiB/s only")
    if publisher.sent > 1.1 * DISK_RATE * MINUTE + 128 * MIB + LOG_BACKLOG * MIB:
        raise Failure("more was taken than the disk and the memory hold")
    if grown > (128 + LOG_BACKLOG + SLACK) * MIB:
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB at a limit of 128 MiB")
    if publisher.confirmed < DISK_RATE * MINUTE / Publisher.SIZE / 4:
        raise Failure(f"only {publisher.confirmed} messages were confirmed")
    vanish(publisher.connection)
    s.restart(kill=True)
    check_in_order(s, queue, publisher)


def check_in_order(s, queue, publisher):
    """All that was confirmed, and perhaps some that were sent after it."""
    channel = s.channel()
    count = channel.declare(queue, passive=True).message_count
    check_equal("messages", count, lambda n: publisher.confirmed <= n <= publisher.published)
    channel.consume(queue, no_ack=True)
    for number in range(count):
        if channel.expect("basic.deliver").body != body_of(number):
            raise Failure(f"message {number} is another one")


def very_slow_disk(folder):
    return preload.environment(folder, preload.SLOW_DISK, DISK_RATE=DISK_RATE // 2)


@attack(bystander=None, environment=very_slow_disk, seconds=300)
def dead_letters_that_come_faster_than_the_disk_takes_them(s):
    """Ten seconds' worth for the disk die at once; others need not wait for all that to be written."""
    other = s.bystander("publish")
    channel = s.channel()
    dead = s.queue(channel, durable=True)
    queue = s.queue(channel, arguments={"x-dead-letter-exchange": "",
                                        "x-dead-letter-routing-key": dead})
    count, size = 500, DISK_RATE * 5 // 500
    publish = wire.publish_frames(1, "", queue, bytes(size), {"delivery_mode": 2})
    channel.connection.send(publish * count)
    channel.holds(queue, count)
    consumer = s.channel()
    consumer.consume(queue)
    tag = [consumer.expect("basic.deliver").delivery_tag for _ in range(count)][-1]
    consumer.say("basic.nack", delivery_tag=tag, multiple=True, requeue=False)
    s.until("all have gone on",
            lambda: channel.declare(dead, passive=True).message_count == count, 120)
    channel.select()
    channel.publish_confirmed(dead, "m", delivery_mode=2)  # and have been written
    result = other.end()
    told("a bystander", result)
    if result.longest > SLOW_DISK_WAIT:
        raise Failure(f"a bystander waited {result.longest:.1f} s for dead letters")


@attack
def a_transaction_of_100_000_messages(s):
    """Rolled back, given up by a disconnect, and committed."""
    before = s.rss()
    for end in ("tx.rollback", None, "tx.commit"):
        channel = s.channel()
        queue = s.queue(channel)
        channel.call("tx.select")
        publish = wire.publish_frames(1, "", queue, b"m" * 100)
        s.flood(channel.connection, publish * 1000, times=100)
        if end is None:
            channel.sync()
            vanish(channel.connection)
            continue
        channel.call(end)
        channel.holds(queue, 100_000 if end == "tx.commit" else 0)
        channel.call("queue.delete", queue=queue)
    s.say(f"{(s.rss() - before) / MIB:.0f} MiB kept at the end")


@attack
def direct_replies_that_nobody_takes(s):
    """They come without being asked for: a client that lets them lie is given up in the end."""
    asker = s.channel()
    asker.consume("amq.rabbitmq.reply-to", no_ack=True)
    worker = s.channel()
    queue = s.queue(worker)
    asker.publish(queue, "question", reply_to="amq.rabbitmq.reply-to")
    name = None
    while name is None:
        found = worker.get(queue)
        name = found and found.properties["reply_to"]
    before = s.rss()
    sent = s.flood(worker.connection, wire.publish_frames(1, "", name, b"m" * 50_000) * 10,
                   seconds=20, times=1000)
    grown = s.rss() - before
    s.say(f"{sent / MIB:.0f} MiB of replies, {grown / MIB:.0f} MiB grown")
    if grown > 200 * MIB:
        raise Failure(f"the broker grew by {grown / MIB:.0f} MiB for replies that nobody takes")
    s.until("the asker is given up", lambda: "does not take its direct replies" in s.log())
