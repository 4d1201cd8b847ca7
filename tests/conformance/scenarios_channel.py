"""channel.open, close and flow, and what a closed channel still takes."""
import re

import amqp_wire as wire
from client import Failure, check_equal, check_refusal
from harness import add, scenario


@scenario
def channel_open_is_answered(s):
    connection = s.connect()
    connection.say("channel.open", 7)
    connection.expect("channel.open-ok", 7)


@scenario
def a_channel_cannot_be_opened_twice(s):
    channel = s.channel()
    channel.say("channel.open")
    channel.connection.refused(504, "second 'channel.open' seen", by="channel.open")


@scenario
def a_method_on_a_channel_that_is_not_open_is_refused(s):
    connection = s.connect()
    connection.say("queue.declare", 3, queue="q", exclusive=True)
    connection.refused(504, "expected 'channel.open'", by="queue.declare")


@scenario
def a_channel_number_can_be_used_again_after_close(s):
    connection = s.connect()
    connection.channel(1).close()
    connection.channel(1).sync()


@scenario
def a_channel_number_can_be_used_again_after_an_error(s):
    connection = s.connect()
    connection.channel(1).refuses("queue.declare", 404, "no queue 'amq.none' in vhost '/'",
                                  queue="amq.none", passive=True)
    connection.channel(1).sync()


@scenario
def closing_a_channel_leaves_the_others_open(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    first.close()
    second.sync()


@scenario
def an_error_on_a_channel_leaves_the_others_open(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    first.refuses("queue.declare", 404, "no queue 'amq.none' in vhost '/'", queue="amq.none",
                  passive=True)
    second.sync()


@scenario
def what_comes_after_channel_close_and_before_close_ok_is_ignored(s):
    channel = s.channel()
    queue = s.queue_name()
    channel.connection.send(
        wire.method_frame(channel.number, "queue.declare", queue="amq.none", passive=True)
        + wire.method_frame(channel.number, "queue.declare", queue=queue)
        + wire.publish_frames(channel.number, "", queue, b"m"))
    channel.refused(404, "no queue 'amq.none' in vhost '/'", by="queue.declare")
    s.channel().refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                        passive=True)


@scenario
def a_client_may_close_a_channel_that_the_broker_is_closing(s):
    channel = s.channel()
    channel.connection.send(
        wire.method_frame(channel.number, "queue.declare", queue="amq.none", passive=True)
        + wire.method_frame(channel.number, "channel.close", reply_code=200))
    method = channel.connection
    while not method.inbox(channel.number):
        method.pump()
    check_refusal(method.inbox(channel.number).popleft(), 404, "no queue 'amq.none' in vhost '/'",
                  "queue.declare")
    channel.expect("channel.close-ok")
    channel.say("channel.close-ok")
    method.channel(channel.number).sync()


@scenario
def closing_a_channel_that_is_not_open_is_answered_or_refused(s):
    connection = s.connect()
    connection.say("channel.close", 3, reply_code=200)
    connection.refused(504, "expected 'channel.open'", by="channel.close")


@scenario
def flow_with_active_is_answered(s):
    channel = s.channel()
    check_equal("active", channel.call("channel.flow", active=True).active, True)


@scenario
def flow_without_active_is_not_implemented(s):
    channel = s.channel()
    channel.say("channel.flow", active=False)
    channel.connection.refused(540, "active=false", by="channel.flow")


@scenario
def access_request_is_answered_with_ticket_1(s):
    answer = s.channel().call("access.request", realm="/data", active=True, read=True, write=True)
    check_equal("ticket", answer.ticket, 1)


@scenario
def closing_a_channel_returns_its_unacked_messages(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first)
    first.consume(queue)
    first.publish_all(queue, "ab")
    first.delivered(b"a", b"b")
    first.close()
    second.holds(queue, 2, consumers=0)
    second.got(queue, b"a", redelivered=True)
    second.got(queue, b"b", redelivered=True)


@scenario
def what_was_published_before_close_is_not_lost(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first)
    first.publish_all(queue, "abc")
    first.close()
    second.holds(queue, 3)


@scenario
def what_was_published_before_connection_close_is_not_lost(s):
    first, second = s.channel(), s.channel()
    queue = s.queue(second)
    first.publish_all(queue, "abc")
    first.connection.close()
    second.holds(queue, 3)


@scenario
def many_channels_work_side_by_side(s):
    connection = s.connect()
    channels = [connection.channel() for _ in range(200)]
    queue = s.queue(channels[0])
    for channel in channels:
        channel.publish(queue, b"m")
    channels[0].holds(queue, 200)
    for channel in channels:
        channel.close()


@scenario
def methods_of_several_channels_may_be_interleaved_within_content(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first)
    one = wire.method_frame(first.number, "basic.publish", routing_key=queue)
    two = wire.method_frame(second.number, "basic.publish", routing_key=queue)
    connection.send(one + two + wire.header_frame(first.number, 6)
                    + wire.header_frame(second.number, 4)
                    + wire.body_frame(first.number, b"one") + wire.body_frame(second.number, b"two")
                    + wire.body_frame(second.number, b"2") + wire.body_frame(first.number, b"111"))
    first.holds(queue, 2)
    bodies = sorted(first.get(queue).body for _ in range(2))
    check_equal("bodies", bodies, [b"one111", b"two2"])


def unimplemented(method):
    def run(s):
        channel = s.channel()
        channel.say(method)
        channel.connection.refused(503, "unimplemented method", by=method)
    return run


for method in ["queue.declare-ok", "basic.qos-ok", "basic.get-empty", "tx.select-ok",
               "confirm.select-ok", "exchange.unbind-ok"]:
    add(f"a_client_must_not_send_{method.replace('.', '_').replace('-', '_')}",
        unimplemented(method))


@scenario
def a_connection_method_on_a_channel_is_refused(s):
    channel = s.channel()
    channel.say("connection.open", virtual_host="/")
    channel.connection.refused(503, "unimplemented method", by="connection.open")


@scenario
def a_channel_method_on_channel_0_is_refused(s):
    connection = s.connect()
    connection.say("queue.declare", queue="q")
    connection.refused(504, re.compile("CHANNEL_ERROR"), by="queue.declare")


@scenario
def channel_open_on_channel_0_is_refused(s):
    connection = s.connect()
    connection.say("channel.open")
    connection.refused(504, re.compile("CHANNEL_ERROR"), by="channel.open")


@scenario
def errors_name_the_method_that_caused_them(s):
    connection = s.connect()
    for method, fields in [("queue.purge", {"queue": "amq.none"}),
                           ("basic.get", {"queue": "amq.none"}),
                           ("queue.bind", {"queue": "amq.none", "exchange": "amq.direct"})]:
        connection.channel().refuses(method, 404, "no queue 'amq.none' in vhost '/'", **fields)


for what, name in [("ascii", "x" * 255), ("two_octet", "ä" * 127), ("four_octet", "\N{DOG}" * 63)]:
    def long_text(s, name=name):
        channel = s.channel()
        channel.say("queue.purge", queue=name)
        text = channel.refused(404, re.compile(r"^NOT_FOUND - no queue '.*\.\.\.$"),
                               by="queue.purge").reply_text
        octets = wire.to_bytes(text)
        octets.decode("utf-8")  # raises where a character was cut in two
        if not 250 <= len(octets) <= 255:
            raise Failure(f"the text has {len(octets)} octets")
    add(f"a_long_reply_text_of_{what}_characters_is_cut_and_ends_in_dots", long_text,
        "3.10 may cut within a character" if what == "four_octet" else None)


@scenario
def a_broker_without_alarm_does_not_block(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    if channel.connection.inbox(0):
        raise Failure(f"got {channel.connection.inbox(0)[0]}")


@scenario(not_rabbitmq="3.10 counts channels and does not look at their numbers")
def a_channel_number_above_the_negotiated_maximum_is_refused(s):
    connection = s.connect(channel_max=5)
    connection.say("channel.open", 6)
    connection.refused(530, re.compile(r"NOT_ALLOWED - number of channels opened \(0\) has reached "
                                       r"the negotiated channel_max \(5\)"))


@scenario(not_rabbitmq="3.10 closes the connection; some clients answer everything")
def answers_that_nobody_asked_for_are_ignored(s):
    channel = s.channel()
    channel.say("channel.flow-ok", active=True)
    channel.say("basic.cancel-ok", consumer_tag="none")
    channel.sync()
