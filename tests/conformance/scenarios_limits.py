"""Limits: how many of everything there may be, and what who comes too late is told."""
import re
import selectors

import amqp_wire as wire
from client import ConnectionClosed, check_equal
from harness import scenario


def refused_open(s, text):
    """connection.open is refused with 530 and this text."""
    connection = s.socket()
    connection.send(wire.PROTOCOL_HEADER)
    connection.expect("connection.start")
    connection.say("connection.start-ok", client_properties={
        "capabilities": connection.CLIENT_CAPABILITIES}, mechanism="PLAIN",
        response="\0guest\0guest", locale="en_US")
    connection.expect("connection.tune")
    connection.say("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    connection.say("connection.open", virtual_host="/")
    connection.refused(530, text)


def gives_room(s, limit, text):
    """The limit holds, a connection that ends makes room for one, and one that crashes too."""
    open_ones = [s.connect() for _ in range(limit)]
    refused_open(s, text)
    open_ones.pop().close()
    open_ones.append(s.connect())
    refused_open(s, text)
    open_ones.pop().drop()
    while True:  # the broker learns of it by itself
        try:
            s.connect()
            break
        except ConnectionClosed:
            continue
    refused_open(s, text)


@scenario(config="limits: {connections: 3}")
def connections_in_all_are_limited(s):
    gives_room(s, 3, "connection refused: node connection limit (3) is reached")


@scenario(config="limits: {connections_per_user: 2}")
def connections_of_a_user_are_limited(s):
    gives_room(s, 2, "connection refused for user 'guest': user connection limit (2) is reached")


@scenario(config="limits: {connections_per_vhost: 2}")
def connections_to_a_vhost_are_limited(s):
    gives_room(s, 2, "access to vhost '/' refused for user 'guest': connection limit (2) is "
                     "reached")


@scenario(config="limits: {connections_per_address: 2}")
def connections_from_an_address_are_limited(s):
    gives_room(s, 2, "connection refused from address '127.0.0.1': address connection limit (2) "
                     "is reached")


@scenario(config="limits: {connections: 2, connections_per_user: 2}")
def a_refused_connection_counts_for_nothing(s):
    first = s.connect()
    s.connect()
    for _ in range(5):
        refused_open(s, "connection refused: node connection limit (2) is reached")
    first.close()
    s.connect()


@scenario(config="limits: {handshakes: 4}")
def the_oldest_handshakes_give_way(s):
    """Each thread has its own order, and lets one more in than the limit says rather than none."""
    slow = [s.socket() for _ in range(12)]
    s.connect()
    ended = 0
    with selectors.DefaultSelector() as selector:  # select(2) knows no descriptor above 1023
        for connection in slow:
            selector.register(connection.socket, selectors.EVENT_READ)
        while ended < 12 - 4 - 3:
            for key, _ in selector.select(slow[0].time_left()):
                check_equal("octets", key.fileobj.recv(1), b"")
                selector.unregister(key.fileobj)
                ended += 1
    last = s.socket()
    last.handshake()


@scenario(config="limits: {queues_per_vhost: 2}")
def queues_of_a_vhost_are_limited(s):
    channel = s.channel()
    first = s.queue(channel)
    second = s.queue(channel, durable=True)
    channel.declare(first)
    s.channel().refuses("queue.declare", 406, "cannot declare queue 'third': queue limit in vhost "
                        "'/' (2) is reached", queue="third")
    channel.call("queue.delete", queue=second)
    s.queue(channel)


def restart_with(s, config):
    """With another configuration."""
    s.stop()
    command = s.whippetd.command
    with open(command[command.index("--config") + 1], "w", encoding="utf-8") as file:
        file.write(config)
    s.address = s.whippetd.start()


@scenario(config="limits: {}", restarts=True)
def what_was_there_comes_back_whatever_the_limits(s):
    channel = s.channel()
    queues = [s.queue(channel, durable=True) for _ in range(2)]
    exchanges = [s.exchange(channel, durable=True) for _ in range(2)]
    for queue in queues:
        for exchange in exchanges:
            channel.bind(queue, exchange, "k")
    restart_with(s, "limits: {queues_per_vhost: 1, exchanges_per_vhost: 1, bindings_per_vhost: 1}")
    channel = s.channel()
    for exchange in exchanges:
        channel.publish("k", "m", exchange=exchange)
    for queue in queues:
        channel.holds(queue, 2)
    for name, fields in (("queue.declare", {"queue": "more", "durable": True}),
                         ("exchange.declare", {"exchange": "more", "type": "direct"}),
                         ("queue.bind", {"queue": queues[0], "exchange": exchanges[0],
                                         "routing_key": "more"})):
        s.channel().refuses(name, 406, re.compile("limit"), **fields)


@scenario(config="limits: {exchanges_per_vhost: 7}")
def exchanges_of_a_vhost_are_limited(s):
    channel = s.channel()
    first = s.exchange(channel)
    channel.declare_exchange(first)
    s.channel().refuses("exchange.declare", 406, "cannot declare exchange 'second' in vhost '/': "
                        "exchange limit of 7 is reached", exchange="second", type="direct")
    channel.call("exchange.delete", exchange=first)
    s.exchange(channel)


@scenario(config="limits: {bindings_per_vhost: 2}")
def bindings_of_a_vhost_are_limited(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.bind(queue, "amq.direct", "a")
    channel.bind(queue, "amq.topic", "b")
    channel.bind(queue, "amq.topic", "b")
    s.channel().refuses("queue.bind", 406, "cannot bind to exchange 'amq.direct': binding limit in "
                        "vhost '/' (2) is reached", queue=queue, exchange="amq.direct",
                        routing_key="c")
    channel.call("queue.unbind", queue=queue, exchange="amq.topic", routing_key="b")
    channel.bind(queue, "amq.direct", "c")


@scenario(config="limits: {consumers_per_vhost: 2}")
def consumers_of_a_vhost_are_limited(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    tag = other.consume(queue)
    s.channel().refuses("basic.consume", 406, f"cannot consume from queue '{queue}': consumer limit "
                        "in vhost '/' (2) is reached", queue=queue)
    other.call("basic.cancel", consumer_tag=tag)
    other.consume(queue)


@scenario(config="limits: {consumers_per_connection: 2}")
def consumers_of_a_connection_are_limited(s):
    connection = s.connect()
    channel, other = connection.channel(), connection.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    other.consume(queue)
    other.refuses("basic.consume", 406, f"cannot consume from queue '{queue}': consumer limit of the "
                  "connection (2) is reached", queue=queue)
    channel.consume(queue)  # the one of the closed channel counts no more
    s.channel().consume(queue)


@scenario(config="limits: {consumers_per_channel: 2}")
def consumers_of_a_channel_are_limited(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    channel.consume(queue)
    channel.say("basic.consume", queue=queue)
    channel.connection.refused(530, "reached maximum (2) of consumers per channel",
                               by="basic.consume")


@scenario(config="limits: {unsettled_per_channel: 50}")
def a_channel_with_too_much_unsettled_gets_no_more_before_it_settles(s):
    publisher, channel = s.channel(), s.channel()
    queue = s.queue(publisher)
    publisher.select()
    publisher.publish_all(queue, [bytes(100_000)] * 100)
    publisher.all_confirmed(100)
    channel.consume(queue)
    for _ in range(50):
        last = channel.expect("basic.deliver")
    left = publisher.counts(queue)[0]
    check_equal("messages that stay in the queue", left, lambda n: n >= 30)
    while last.delivery_tag < 100:
        channel.ack(last.delivery_tag, multiple=True)
        last = channel.expect("basic.deliver")


@scenario(config="limits: {unsettled_per_channel: 2}")
def a_channel_with_too_much_unsettled_gets_nothing_by_basic_get(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abcd")
    channel.got(queue, "a", no_ack=False)
    tag = channel.got(queue, "b", no_ack=False).delivery_tag
    channel.got(queue, "c")
    channel.ack(tag)
    channel.got(queue, "d", no_ack=False)
    channel.refuses("basic.get", 406, "limit of unsettled messages (2) is reached", queue=queue)


@scenario(config="limits: {header_size: 1KiB}")
def the_headers_of_a_message_are_limited(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "m", headers={"h": "x" * 900})
    check_equal("header", len(channel.got(queue, "m").headers["h"]), 900)
    channel.publish(queue, "m", headers={"h": "x" * 1024})
    channel.refused(406, "message header size 1037 is larger than configured max size 1024",
                    by="basic.publish")


@scenario(config="limits: {header_depth: 2}")
def the_depth_of_the_headers_of_a_message_is_limited(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "m", headers={"outer": {"inner": 1}})
    check_equal("headers", channel.got(queue, "m").headers, {"outer": {"inner": 1}})
    channel.publish(queue, "m", headers={"outer": {"inner": {"innermost": 1}}})
    channel.refused(406, "message headers are nested deeper than configured max depth 2",
                    by="basic.publish")


DEFAULT_LENGTH = ("operator_policies:\n"
                  "  - {name: length, pattern: '', apply_to: queues, definition: {max-length-bytes: 10}}\n")


@scenario(config=DEFAULT_LENGTH)
def a_queue_without_a_limit_of_its_own_has_the_default_one(s):
    channel = s.channel()
    plain = s.queue(channel)
    channel.publish_all(plain, ["12345", "67890", "abcde"])
    channel.got(plain, "67890")
    channel.got(plain, "abcde")
    small = s.queue(channel, arguments={"x-max-length-bytes": 5})
    channel.publish_all(small, ["12345", "67890"])
    channel.got(small, "67890")
    great = s.queue(channel, arguments={"x-max-length-bytes": 15})
    channel.publish_all(great, ["12345", "67890", "abcde"])
    channel.got(great, "67890")
    channel.declare(plain)  # what the client asked for is unchanged


@scenario(config=DEFAULT_LENGTH, restarts=True)
def the_default_limit_of_queues_holds_after_a_restart(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    s.restart()
    channel = s.channel()
    channel.publish_all(queue, ["12345", "67890", "abcde"])
    channel.got(queue, "67890")
