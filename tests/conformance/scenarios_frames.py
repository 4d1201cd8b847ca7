"""Octets that the protocol does not allow, and the ways in which content may be cut into frames."""
import re
import struct

import amqp_wire as wire
from client import ConnectionClosed, Failure, check_equal
from harness import add, scenario

def method_payload(class_id, method_id, rest=b""):
    return wire.frame(wire.FRAME_METHOD, 1, struct.pack(">HH", class_id, method_id) + rest)


def breaks(code, text, *parts, by=None, or_dropped=False):
    """These octets on an open channel 1 close the connection so."""
    def run(s):
        connection = s.channel().connection
        connection.send(b"".join(parts))
        connection.refused(code, text, by, or_dropped)
    return run


def publish(*parts, routing_key="nowhere"):
    return wire.method_frame(1, "basic.publish", routing_key=routing_key) + b"".join(parts)


ROWS = [
    ("a_frame_with_a_wrong_end_octet_is_refused", 501,
     re.compile(r"FRAME_ERROR - .*invalid_frame_end_marker"),
     [wire.frame(wire.FRAME_METHOD, 1, wire.encode_method("channel.flow", {"active": True}),
                 end=0xCD)], ""),
    ("a_frame_larger_than_negotiated_is_refused", 501,
     re.compile(r"FRAME_ERROR - .*frame_too_large"),
     [struct.pack(">BHI", wire.FRAME_BODY, 1, 131073)], ""),
    ("a_frame_of_4_gib_is_refused", 501, re.compile(r"FRAME_ERROR - .*frame_too_large"),
     [struct.pack(">BHI", wire.FRAME_METHOD, 1, 0xFFFFFFFF)], ""),
    ("an_unknown_frame_type_is_refused", 501, re.compile(r"FRAME_ERROR - .*"),
     [wire.frame(5, 1, b"what")], ""),
    ("a_method_that_ends_too_early_is_refused", 501, re.compile(r"FRAME_ERROR - .*"),
     [method_payload(50, 10, b"\0\0\5abc")], None),
    ("an_empty_method_frame_is_refused", 501, re.compile(r"FRAME_ERROR - .*"),
     [wire.frame(wire.FRAME_METHOD, 1, b"")], ""),
    ("a_field_table_longer_than_its_frame_is_refused", 501, re.compile(r"FRAME_ERROR - .*"),
     [method_payload(50, 10, b"\0\0\1q\0\0\0\xff\xff")], None),
    ("a_heartbeat_on_another_channel_than_0_is_refused", (501, 505), re.compile(r"."),
     [wire.frame(wire.FRAME_HEARTBEAT, 1, b"")], ""),
    ("a_heartbeat_with_content_is_refused", (501, 505), re.compile(r"."),
     [wire.frame(wire.FRAME_HEARTBEAT, 0, b"x")], ""),
    ("a_content_header_without_a_method_is_refused", 505,
     "expected method frame, got non method frame instead", [wire.header_frame(1, 3)], ""),
    ("a_content_body_without_a_method_is_refused", 505,
     "expected method frame, got non method frame instead", [wire.body_frame(1, b"abc")], ""),
    ("a_method_where_a_content_header_is_due_is_refused", 505,
     "expected content header for class 60, got non content header frame instead",
     [publish(), wire.method_frame(1, "channel.flow", active=True)], "basic.publish"),
    ("a_body_where_a_content_header_is_due_is_refused", 505,
     "expected content header for class 60, got non content header frame instead",
     [publish(), wire.body_frame(1, b"abc")], "basic.publish"),
    ("a_content_header_of_another_class_is_refused", 505,
     "expected content header for class 60, got one for class 50 instead",
     [publish(), wire.header_frame(1, 3, class_id=50)], "basic.publish"),
    ("a_method_where_a_body_is_due_is_refused", 505,
     "expected content body, got non content body frame instead",
     [publish(), wire.header_frame(1, 3), wire.method_frame(1, "channel.flow", active=True)],
     "basic.publish"),
    ("a_second_content_header_is_refused", 505,
     "expected content body, got non content body frame instead",
     [publish(), wire.header_frame(1, 3), wire.header_frame(1, 3)], "basic.publish"),
    ("octets_after_a_methods_last_field_are_refused", 501, re.compile(r"FRAME_ERROR - ."),
     [wire.frame(wire.FRAME_METHOD, 1, wire.encode_method("channel.flow", {"active": True})
                 + b"xx")], None),
    ("a_content_header_on_a_channel_that_is_not_open_is_refused", (504, 505),
     re.compile("expected"), [wire.header_frame(7, 3)], None),
    ("a_publish_on_a_channel_that_is_not_open_is_refused", 504, "expected 'channel.open'",
     [wire.publish_frames(7, "", "q", b"m")], "basic.publish"),
    ("a_content_frame_on_channel_0_is_refused", 505, re.compile(r"UNEXPECTED_FRAME"),
     [wire.frame(wire.FRAME_HEADER, 0, struct.pack(">HHQH", 60, 0, 3, 0))], ""),
]
for name, code, text, parts, by in ROWS:
    add(name, breaks(code, text, *parts, by=by))

# RabbitMQ's decoder crashes on these: it drops the socket or says 541, as the case may be.
ROWS = [
    ("an_unknown_class_is_refused", [method_payload(200, 10)]),
    ("an_unknown_method_is_refused", [method_payload(50, 99)]),
    ("octets_after_the_last_property_are_refused",
     [publish(), wire.header_frame(1, 0, b"\x80\x00\x03abcXX")]),
    ("properties_that_end_too_early_are_refused",
     [publish(), wire.header_frame(1, 0, b"\x80\x00\x20abc")]),
    ("a_header_table_with_an_unknown_type_is_refused",
     [publish(),
      wire.header_frame(1, 0, b"\x20\x00" + wire.encode_table({"k": wire.Typed("?", b"x")}))]),
    ("a_queue_argument_of_an_unknown_type_is_refused",
     [method_payload(50, 10, b"\0\0\1q\0" + wire.encode_table({"k": wire.Typed("?", b"x")}))]),
    ("a_header_table_that_ends_within_a_value_is_refused",
     [publish(), wire.header_frame(1, 0, b"\x20\x00" + wire.encode_table(b"\1kS\0\0\0\x09abc"))]),
    ("an_array_longer_than_its_table_is_refused",
     [publish(), wire.header_frame(1, 0, b"\x20\x00" + wire.encode_table(b"\1kA\0\0\1\0t\1"))]),
]
for name, parts in ROWS:
    add(name, breaks((501, 502, 503, 540, 541), re.compile("."), *parts, or_dropped=True))

add("a_body_longer_than_announced_is_refused",
    breaks(501, "content body frame exceeds remaining content size",
           publish(), wire.header_frame(1, 3), wire.body_frame(1, b"abcd")),
    "3.10 waits for a body that can never be complete")
add("a_body_above_the_limit_is_refused_before_it_comes",
    breaks((311, 406, 501), re.compile(r"(content body|message) size 1099511627776"),
           publish(), wire.header_frame(1, 1 << 40)),
    "3.10 takes any size until the body is there")


def arrives(cut):
    """A message whose octets come in the pieces that cut makes of them is published unharmed."""
    def run(s):
        channel = s.channel()
        queue = s.queue(channel)
        octets = wire.publish_frames(channel.number, "", queue, b"hello",
                                     {"content_type": "text/plain"})
        for piece in cut(octets):
            channel.connection.send(piece)
        channel.holds(queue, 1)
        channel.got(queue, b"hello", properties={"content_type": "text/plain"})
    return run


add("a_publish_may_come_octet_by_octet",
    arrives(lambda data: [data[n:n + 1] for n in range(len(data))]))


@scenario
def a_publish_may_be_cut_in_two_at_any_octet(s):
    channel = s.channel()
    queue = s.queue(channel)
    octets = wire.publish_frames(channel.number, "", queue, b"hello",
                                 {"content_type": "text/plain"})
    for at in range(1, len(octets)):
        channel.connection.send(octets[:at])
        channel.connection.send(octets[at:])
    channel.holds(queue, len(octets) - 1)
    channel.consume(queue, no_ack=True)
    channel.delivered(*[b"hello"] * (len(octets) - 1))


@scenario
def a_body_may_be_split_at_every_octet(s):
    channel = s.channel()
    queue, body = s.queue(channel), bytes(range(100))
    frames = wire.method_frame(channel.number, "basic.publish", routing_key=queue)
    frames += wire.header_frame(channel.number, len(body))
    for octet in body:
        frames += wire.body_frame(channel.number, bytes([octet]))
    channel.connection.send(frames)
    channel.holds(queue, 1)
    channel.got(queue, body)


@scenario
def empty_body_frames_are_allowed_between_others(s):
    channel = s.channel()
    queue = s.queue(channel)
    frames = wire.method_frame(channel.number, "basic.publish", routing_key=queue)
    frames += wire.header_frame(channel.number, 4)
    for part in (b"", b"ab", b"", b"cd"):
        frames += wire.body_frame(channel.number, part)
    channel.connection.send(frames)
    channel.holds(queue, 1)
    channel.got(queue, b"abcd")


@scenario
def an_empty_message_has_no_body_frame(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    channel.publish(queue, b"")
    channel.publish(queue, b"next")
    channel.delivered(b"", b"next")
    kinds = [kind for kind, number, _ in channel.connection.frames if number == channel.number][-5:]
    check_equal("frames", kinds, [1, 2, 1, 2, 3])


def large(size):
    def run(s):
        channel = s.channel()
        queue, body = s.queue(channel), (b"0123456789abcde\n" * (size // 16 + 1))[:size]
        channel.publish(queue, body)
        channel.consume(queue)
        message = channel.expect("basic.deliver")
        if message.body != body:
            check_equal("length", len(message.body), size)
            check_equal("same octets", False, True)
        sizes = [length for kind, _, length in channel.connection.frames if kind == wire.FRAME_BODY]
        wanted = [131064] * (size // 131064) + [size % 131064]
        check_equal("body frames", sizes, [length for length in wanted if length])
    return run


for size, name in [(131064, "exactly_one_frame"), (131065, "one_octet_more_than_a_frame"),
                   (3 * 131064, "exactly_three_frames"), (5_000_000, "five_megabytes")]:
    add(f"a_body_of_{name}_comes_back_in_full_frames", large(size))


@scenario
def a_large_body_in_small_frames_comes_back_in_large_ones(s):
    publisher, consumer = s.channel(frame_max=4096), s.channel()
    queue, body = s.queue(publisher), bytes(range(256)) * 400
    consumer.consume(queue)
    publisher.publish(queue, body)
    consumer.delivered(body)
    sizes = [size for kind, _, size in consumer.connection.frames if kind == wire.FRAME_BODY]
    check_equal("body frames", sum(sizes), len(body))


@scenario
def a_message_crosses_to_a_connection_with_smaller_frames(s):
    publisher, consumer = s.channel(), s.channel(frame_max=4096)
    queue, body = s.queue(publisher), bytes(range(256)) * 400
    consumer.consume(queue)
    publisher.publish(queue, body)
    consumer.delivered(body)


@scenario
def many_methods_in_one_write_are_answered_in_order(s):
    channel = s.channel()
    queue = s.queue_name()
    channel.connection.send(b"".join(
        wire.method_frame(channel.number, name, **fields) for name, fields in
        [("queue.declare", {"queue": queue}), ("basic.qos", {"prefetch_count": 1}),
         ("basic.get", {"queue": queue}), ("queue.purge", {"queue": queue}), ("confirm.select", {}),
         ("channel.flow", {"active": True})]))
    for name in ("queue.declare-ok", "basic.qos-ok", "basic.get-empty", "queue.purge-ok",
                 "confirm.select-ok", "channel.flow-ok"):
        channel.expect(name)


@scenario
def a_method_cut_in_two_between_connections_is_kept_apart(s):
    first, second = s.channel(), s.channel()
    octets = wire.method_frame(1, "channel.flow", active=True)
    first.connection.send(octets[:6])
    second.connection.send(octets[:9])
    first.connection.send(octets[6:])
    second.connection.send(octets[9:])
    first.expect("channel.flow-ok")
    second.expect("channel.flow-ok")


def unharmed(headers):
    """The octets of the properties come back as they were sent."""
    def run(s):
        channel = s.channel()
        octets = wire.encode_properties({"headers": headers, "message_id": "1"})
        queue = s.queue(channel)
        channel.connection.send(
            wire.method_frame(channel.number, "basic.publish", routing_key=queue)
            + wire.header_frame(channel.number, 1, octets) + wire.body_frame(channel.number, b"m"))
        channel.holds(queue, 1)
        if channel.got(queue, b"m").raw_properties != octets:
            raise Failure("other octets came back")
    return run


nested = {}
for _ in range(10):
    nested = {"in": [nested, "beside"]}
for name, headers in [
        ("of_100_kilobytes", {"long": "x" * 100000}),
        ("of_a_thousand_entries", {f"k{n}": n for n in range(1000)}), ("nested_20_deep", nested),
        ("with_names_of_128_octets", {"k" * 128: 1}), ("with_the_largest_and_smallest_values", {
            "l": wire.Typed("l", -1 << 63), "m": wire.Typed("l", (1 << 63) - 1),
            "T": wire.Typed("T", (1 << 64) - 1), "b": wire.Typed("b", -128),
            "B": wire.Typed("B", 255), "s": wire.Typed("s", -32768),
            "D": wire.Typed("D", (255, -5)), "d": wire.Typed("d", 5e-324),
            "f": wire.Typed("f", -0.0)})]:
    add(f"a_header_table_{name}_comes_back_octet_for_octet", unharmed(headers))


@scenario
def a_text_that_is_not_utf_8_does_not_harm_the_connection(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", correlation_id=b"\xff\xfe", headers={"k": b"\xc3\x28"})
    message = channel.consume(queue) and channel.expect("basic.deliver", body=b"m")
    check_equal("correlation id", wire.to_bytes(message.properties["correlation_id"]), b"\xff\xfe")


@scenario(not_rabbitmq="3.10 looks at a frame when all of it is there, and takes a body longer "
                       "than announced for one that is not complete")
def the_rest_of_a_frame_that_was_wrong_is_skipped(s):
    """What comes after it is understood: the answer to connection.close."""
    connection = s.channel().connection
    frame = wire.body_frame(1, b"x" * 100000)
    connection.send(wire.method_frame(1, "basic.publish", routing_key="nowhere")
                    + wire.header_frame(1, 10) + frame[:50000])
    try:
        while True:
            _, number, payload = connection.read_frame()
            if (number, wire.decode_method(payload)[0]) == (0, "connection.close"):
                break
    except ConnectionClosed:
        raise Failure("the connection was not closed in order") from None
    connection.send(frame[50000:] + wire.method_frame(0, "connection.close-ok"))
    connection.expect_end()
