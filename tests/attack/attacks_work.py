"""Much work: many of everything, all at once, and again and again."""
import os
import re
import select
import time
from random import Random

import amqp_wire as wire
from attack import attack, descriptors_for, vanish
from client import ChannelClosed, Failure, check_equal

MILLION = 1_000_000


def filled(s, channel, count, **queue):
    """A queue with that many messages of one octet."""
    name = s.queue(channel, **queue)
    channel.connection.socket.settimeout(60)
    chunk = wire.publish_frames(1, "", name, b"m") * 10_000
    for _ in range(count // 10_000):
        channel.connection.socket.sendall(chunk)
    channel.holds(name, count)
    return name


@attack
def a_million_messages_are_purged(s):
    channel = s.channel()
    queue = filled(s, channel, MILLION)
    began = time.monotonic()
    check_equal("purged", channel.call("queue.purge", queue=queue).message_count, MILLION)
    s.say(f"purge-ok after {(time.monotonic() - began) * 1000:.1f} ms")
    check_equal("messages", channel.counts(queue)[0], 0)
    channel.publish(queue, "after")
    channel.got(queue, "after")


@attack
def a_million_messages_are_deleted_with_their_queue(s):
    channel = s.channel()
    queue = filled(s, channel, MILLION)
    check_equal("deleted", channel.call("queue.delete", queue=queue).message_count, MILLION)
    s.queue(channel)


HALF_A_MILLION = 500_000


def numbered(queue, numbers, milliseconds):
    """Frames that publish a message for each number, with that time to live."""
    before, after = wire.publish_frames(1, "", queue, b"%06d" % 0,
                                        {"expiration": str(milliseconds)}).split(b"%06d" % 0)
    return b"".join(before + b"%06d" % number + after for number in numbers)


@attack
def half_a_million_messages_expire_at_once(s):
    """Each is given the time that is left until the same moment: as many in a queue with a dead-letter
    route, where each arrives once, as in one without."""
    channel = s.channel()
    routed, dead, plain = s.queue_name(), s.queue(channel), s.queue(channel)
    channel.declare(routed, arguments={"x-dead-letter-exchange": "", "x-max-priority": 2,
                                       "x-dead-letter-routing-key": dead})
    channel.connection.socket.settimeout(60)
    end = time.monotonic() + 6
    for first in range(0, HALF_A_MILLION, 10_000):
        left = max(1, int((end - time.monotonic()) * 1000))
        for queue in (routed, plain):
            channel.connection.socket.sendall(
                numbered(queue, range(first, first + 10_000), left))
    channel.sync()
    s.say(f"all are in {end - time.monotonic():.1f} s before their end")
    channel.holds(dead, HALF_A_MILLION)
    for queue in (routed, plain):
        channel.holds(queue, 0)
    check_each_once(s, dead)


def check_each_once(s, queue):
    """The bodies, each the only frame of its message, are all numbers."""
    channel, seen = s.channel(), bytearray(HALF_A_MILLION)
    connection, bodies = channel.connection, re.compile(rb"\x03\0\x01\0\0\0\x06(\d{6})\xce")
    channel.consume(queue, no_ack=True)
    count = sum(mark(seen, method.body) for method in connection.inbox(1))
    connection.inbox(1).clear()
    while count < HALF_A_MILLION and connection.read_bytes():
        found = [(body.group(1), body.end()) for body in bodies.finditer(connection.buffer)]
        count += sum(mark(seen, number) for number, _ in found)
        if found:
            del connection.buffer[:found[-1][1]]
    check_equal("different messages", sum(seen), HALF_A_MILLION)


def mark(seen, number):
    if seen[int(number)]:
        raise Failure(f"message {int(number)} came twice")
    seen[int(number)] = 1
    return 1


@attack
def ten_thousand_channels(s):
    before = s.rss()
    for _ in range(5):
        connection = s.connect()
        connection.send(b"".join(wire.method_frame(n, "channel.open") for n in range(1, 2001)))
        for n in range(1, 2001):
            connection.expect("channel.open-ok", n)
    s.say(f"{(s.rss() - before) / 10_000:.0f} bytes each")
    last = s.connections[-1]
    last.send(wire.method_frame(2048, "channel.open"))
    last.refused(530, "number of channels opened (2000) has reached the negotiated channel_max "
                      "(2047)", by="")
    for connection in s.connections:
        vanish(connection)
    s.connections.clear()
    s.channel().sync()


CONNECTIONS, CHANNELS_MAX = 1000, 2047
CHANNEL_BYTES = 600  # what the broker may need for one
SANITIZER_SHARE = 4  # times the memory that a sanitizer takes


def memory_available():
    with open("/proc/meminfo", encoding="ascii") as file:
        return int(re.search(r"MemAvailable:\s+(\d+) kB", file.read()).group(1)) * 1024


def open_channels(s, count):
    """As many channels on each of the connections."""
    opening = b"".join(wire.method_frame(n, "channel.open") for n in range(1, count + 1))
    opened = wire.method_frame(count, "channel.open-ok")
    connections = [s.connect() for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.send(opening)
    for connection in connections:
        while not connection.buffer.endswith(opened):
            if not connection.read_bytes():
                raise Failure("the broker closed the socket")
        connection.buffer.clear()
    return connections


@attack
def a_thousand_connections_with_two_thousand_channels_each(s):
    """Or what a quarter of the machine's memory holds. Half of them go in order, half are cut off, and
    all that they had is there for the next thousand."""
    descriptors_for(CONNECTIONS)
    room = memory_available() // 4 // (SANITIZER_SHARE if s.whippetd.is_sanitized else 1)
    count = min(CHANNELS_MAX, room // CONNECTIONS // CHANNEL_BYTES)
    before, files, held = s.rss(), descriptors_of(s), []
    for _ in range(2):
        connections = open_channels(s, count)
        held.append(s.rss() - before)
        for n, connection in enumerate(connections):
            connection.close() if n % 2 else vanish(connection)
        s.connections.clear()
        s.until("their descriptors are free", lambda: descriptors_of(s) <= files)
    total = CONNECTIONS * count
    s.say(f"{total} channels on {CONNECTIONS} connections, {held[0] / total:.0f} bytes each")
    if held[0] > total * CHANNEL_BYTES + CONNECTIONS * 16384:
        raise Failure(f"the broker takes {held[0] / total:.0f} bytes for a channel")
    if held[1] > held[0] * 1.1 + (16 << 20):
        raise Failure(f"the second time they take {held[1] >> 20} MiB, the first {held[0] >> 20}")
    s.channel().sync()


def descriptors_of(s):
    return len(os.listdir(f"/proc/{s.pid}/fd"))


@attack
def a_hundred_thousand_queues_come_and_go(s):
    connection = s.connect()
    channel = connection.channel()
    count = 100_000
    connection.send(b"".join(wire.method_frame(1, "queue.declare", queue=f"many-{n}", no_wait=True)
                             for n in range(count)))
    channel.declare(f"many-{count - 1}")
    connection.send(b"".join(wire.method_frame(1, "queue.delete", queue=f"many-{n}", no_wait=True)
                             for n in range(count)))
    channel.sync()
    s.channel().refuses("queue.declare", 404, "no queue 'many-0' in vhost '/'", queue="many-0",
                        passive=True)


@attack
def a_million_bindings_go_with_their_queue(s):
    channel = s.channel()
    queue = s.queue(channel)
    count = MILLION
    channel.connection.socket.settimeout(60)
    for begin in range(0, count, 10_000):
        channel.connection.socket.sendall(b"".join(
            wire.method_frame(1, "queue.bind", queue=queue, exchange="amq.topic",
                              routing_key=f"a.{n}.*.#", no_wait=True)
            for n in range(begin, begin + 10_000)))
    channel.sync()
    channel.publish("a.7.b.c.d", "m", exchange="amq.topic")
    channel.got(queue, "m")
    channel.call("queue.delete", queue=queue)


@attack
def a_binding_of_many_hashes_meets_a_key_of_many_words(s):
    """What backtracks needs longer than the universe for it."""
    channel = s.channel()
    queue = s.queue(channel)
    key = ".".join("a" * 120)
    for words in ("#." * 60 + "b", "#." * 127 + "#", "*.#." * 50 + "#.c", "#." * 100 + "a"):
        channel.bind(queue, "amq.topic", words)
    for n in range(300):
        channel.publish(f"{key[:-2]}.{n}", "m", exchange="amq.topic")
        channel.publish(key, "m", exchange="amq.topic")
    channel.sync()
    channel.holds(queue, 600)


@attack
def a_message_for_a_thousand_queues_a_thousand_times(s):
    channel = s.channel()
    for n in range(1000):
        queue = f"fan-{n}"
        channel.say("queue.declare", queue=queue, exclusive=True, no_wait=True,
                    arguments={"x-max-length": 10})
        channel.say("queue.bind", queue=queue, exchange="amq.fanout", no_wait=True)
    channel.select()
    channel.publish_all("", ["m"] * 1000, exchange="amq.fanout")
    channel.all_confirmed(1000)
    check_equal("messages", channel.counts("fan-999")[0], 10)


@attack
def the_same_queue_is_declared_and_deleted_by_a_hundred_connections(s):
    """Whatever each is answered: nobody is stuck, and in the end the name is free."""
    racers = [s.channel() for _ in range(100)]
    name = "raced"
    turn = b"".join([
        wire.method_frame(1, "queue.declare", queue=name, durable=True),
        wire.method_frame(1, "queue.bind", queue=name, exchange="amq.fanout", no_wait=True),
        wire.publish_frames(1, "", name, b"m"),
        wire.method_frame(1, "basic.consume", queue=name, no_wait=True, no_ack=True),
        wire.method_frame(1, "queue.delete", queue=name)])
    for _ in range(20):
        for channel in racers:
            channel.connection.send(turn)
    for channel in racers:
        channel.say("channel.close")  # answered whether or not an error has closed it
        while True:
            try:
                if channel.next().name == "channel.close-ok":
                    break
            except ChannelClosed:
                continue
    other = s.channel()
    other.call("queue.delete", queue=name)
    other.declare(name, durable=False)


@attack
def a_queue_is_deleted_while_confirms_are_owed(s):
    """Every message is confirmed, or returned and confirmed."""
    for _ in range(20):
        channel, other = s.channel(), s.channel()
        queue = s.queue(channel)
        channel.select()
        channel.connection.send(wire.publish_frames(1, "", queue, b"m", {"delivery_mode": 2},
                                                    mandatory=True) * 2000)
        other.call("queue.delete", queue=queue)
        channel.all_confirmed(2000)


@attack
def a_queue_is_purged_while_it_is_published_to_and_consumed(s):
    """Each message is confirmed, and then consumed or purged, and not both."""
    publisher, consumer, purger = s.channel(), s.channel(), s.channel()
    queue, count, consumed, purged = s.queue(publisher, durable=True), 20_000, 0, 0
    publisher.select()
    consumer.call("basic.qos", prefetch_count=10)
    consumer.consume(queue)
    for begin in range(0, count, 1000):
        publisher.connection.send(b"".join(
            wire.publish_frames(1, "", queue, str(n), {"delivery_mode": 2})
            for n in range(begin, begin + 1000)))
        purged += purger.call("queue.purge", queue=queue).message_count
        consumed += consume_what_has_come(consumer)
    publisher.all_confirmed(count)
    consumed += consume_what_has_come(consumer)
    consumer.call("channel.close")  # what it has not acknowledged comes back
    while consumed + purged < count:
        purged += purger.call("queue.purge", queue=queue).message_count
    check_equal("consumed and purged", consumed + purged, count)
    s.say(f"{consumed} consumed, {purged} purged")


def consume_what_has_come(channel):
    connection, count = channel.connection, 0
    while select.select([connection.socket], [], [], 0)[0] and connection.read_bytes():
        while connection.has_frame():
            connection.pump()
        while connection.inbox(1):
            channel.ack(connection.inbox(1).popleft().delivery_tag)
            count += 1
    return count


@attack
def a_priority_queue_is_flooded_with_one_priority(s):
    """What is more urgent comes first all the while, and what is less when all else is gone."""
    publisher, consumer = s.channel(), s.channel()
    queue, count = s.queue(publisher, arguments={"x-max-priority": 255}), 100_000
    publisher.publish(queue, "last", priority=1)
    publisher.connection.send(wire.publish_frames(1, "", queue, b"m", {"priority": 7}) * count)
    publisher.publish(queue, "first", priority=255)
    publisher.holds(queue, count + 2)
    consumer.consume(queue, no_ack=True)
    check_equal("first", consumer.expect("basic.deliver").body, b"first")
    for _ in range(count):
        consumer.expect("basic.deliver", body=b"m")
    check_equal("last", consumer.expect("basic.deliver").body, b"last")


@attack
def a_thousand_consumers_of_a_queue_die_at_once(s):
    """Each holds messages; another one gets all of them, in their order."""
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, map(str, range(5000)))
    consumers = [s.channel() for _ in range(1000)]
    for consumer in consumers:
        consumer.call("basic.qos", prefetch_count=5)
        consumer.consume(queue)
    for consumer in consumers:
        for _ in range(5):
            consumer.expect("basic.deliver")
    channel.holds(queue, 0, 1000)
    for consumer in consumers:
        vanish(consumer.connection)
        s.connections.remove(consumer.connection)
    channel.holds(queue, 5000, 0)
    channel.consume(queue, no_ack=True)
    for n in range(5000):
        check_equal("body", channel.expect("basic.deliver").body, b"%d" % n)


@attack
def nack_and_requeue_in_a_tight_loop(s):
    """Another consumer of the same queue goes on."""
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, ["m"] * 200)
    channel.sync()
    channel.call("basic.qos", prefetch_count=50)
    channel.consume(queue)
    connection, turns = channel.connection, 0
    other.call("basic.qos", prefetch_count=1)
    other.consume(queue)
    taken, end = 0, s.deadline - 10
    while taken < 200:
        while connection.inbox(1):
            channel.nack(connection.inbox(1).popleft().delivery_tag)
            turns += 1
        while other.connection.inbox(1):
            other.ack(other.connection.inbox(1).popleft().delivery_tag)
            taken += 1
        if time.monotonic() > end:
            raise Failure(f"the other consumer got {taken} of 200 messages")
        both = connection, other.connection
        ready = [one for one in both if one.buffer]
        if taken < 200 and not ready:
            sockets = select.select([one.socket for one in both], [], [], 1)[0]
            ready = [one for one in both if one.socket in sockets]
        for one in ready:
            one.pump()
    s.say(f"{turns} times given back meanwhile")


@attack
def a_hundred_thousand_unsettled_messages_of_a_client_that_dies(s):
    channel = s.channel()
    queue = filled(s, channel, 100_000)
    consumer = s.channel()
    consumer.consume(queue)
    while consumer.connection.inbox(1) is not None:
        if consumer.next().delivery_tag == 100_000:
            break
    vanish(consumer.connection)
    s.connections.remove(consumer.connection)
    channel.holds(queue, 100_000, 0)
    check_equal("redelivered", channel.get(queue).redelivered, True)


@attack
def messages_that_go_round_in_a_circle_of_dead_letters(s):
    """Rejected by a client they go round; expired by themselves they stop at the first turn."""
    channel = s.channel()
    names = [s.queue_name() for _ in range(3)]
    for n, name in enumerate(names):
        channel.declare(name, arguments={"x-message-ttl": 1, "x-dead-letter-exchange": "",
                                         "x-dead-letter-routing-key": names[(n + 1) % 3]})
    channel.publish_all(names[0], ["m"] * 10_000)
    for name in names:
        channel.holds(name, 0)


@attack
def exchanges_bound_in_circles(s):
    channel = s.channel()
    names = [s.exchange(channel, "fanout") for _ in range(50)]
    for source in names:
        for destination in names:
            channel.say("exchange.bind", source=source, destination=destination, no_wait=True)
    queue = s.queue(channel)
    channel.bind(queue, names[-1])
    channel.publish_all("", ["m"] * 500, exchange=names[0])
    channel.holds(queue, 500)


@attack
def a_flood_of_changes_to_what_there_is(s):
    """Ten connections bind and unbind as fast as they can."""
    channels = [s.channel() for _ in range(10)]
    ends = []
    for n, channel in enumerate(channels):
        queue = s.queue(channel)
        change = wire.method_frame(1, "queue.bind", queue=queue, exchange="amq.topic",
                                   routing_key=f"{n}.#", no_wait=True)
        change += wire.method_frame(1, "queue.unbind", queue=queue, exchange="amq.topic",
                                    routing_key=f"{n}.#")
        ends.append((channel, change * 1000))
    for _ in range(3):
        for channel, data in ends:
            channel.connection.send(data)
        for channel, _data in ends:
            for _n in range(1000):
                channel.answer("queue.unbind-ok")


def very_many(prefix, count=18_000):
    """A table that just fits a frame."""
    return {f"{prefix}{n:x}": None for n in range(count)}


@attack
def headers_exchanges_with_very_many_headers(s):
    """Each binding looks for its arguments among the headers: in time that is no product of both."""
    channel = s.channel()
    exchange, queue = s.exchange(channel, "headers"), s.queue(channel)

    def publish(headers, count=3):
        began = time.monotonic()
        for _ in range(count):
            channel.publish("", exchange=exchange, headers=headers)
        channel.sync()
        s.say(f"{(time.monotonic() - began) * 1000 / count:.1f} ms a message")

    for number in range(4):
        channel.bind(queue, exchange, str(number), arguments={"x-match": "any", **very_many("b")})
    publish(very_many("a"))
    for number in range(5000):
        channel.bind(queue, exchange, arguments={f"c{number}": 1})
    publish(very_many("a"))
    for number in range(5000):
        channel.bind(queue, exchange, str(number), arguments={"t": {"k": number}})
    publish({"t": very_many("a", 17_000)})
    check_equal("messages", channel.counts(queue)[0], 0)
    channel.publish("", "found", exchange=exchange, headers={**very_many("a", 17_000), "c1": 1})
    channel.got(queue, "found")


@attack
def topic_bindings_of_which_every_word_may_match(s):
    """Behind a '#' all places in all binding keys are alive at each word of the routing key."""
    channel, random = s.channel(), Random(1)
    exchange, queue, other = s.exchange(channel, "topic"), s.queue(channel), s.queue(channel)
    for _ in range(5000):
        key = "#." + ".".join(random.choice("*aa") for _ in range(125))
        channel.say("queue.bind", queue=queue, exchange=exchange, routing_key=key, no_wait=True)
    channel.bind(other, exchange, "*.a.#.z")
    began = time.monotonic()
    keys = ["a." * 120 + f"{number}.z" for number in range(20)]
    for key in keys:
        channel.publish(key, key, exchange=exchange)
    channel.sync()
    s.say(f"{(time.monotonic() - began) * 1000 / len(keys):.1f} ms a message")
    for key in keys:
        channel.got(other, key)
    check_equal("messages", channel.counts(queue)[0], 0)
