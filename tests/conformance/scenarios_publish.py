"""basic.publish: mandatory and return, CC and BCC, user-id, expiration and what else is checked."""
import re

from amqp_wire import Typed
from client import Failure, check_equal
from harness import add, scenario


@scenario
def publishing_to_a_missing_exchange_is_404(s):
    channel, name = s.channel(), s.exchange_name()
    channel.publish("k", b"m", exchange=name)
    channel.refused(404, f"no exchange '{name}' in vhost '/'", by="basic.publish")


@scenario
def the_error_of_a_publish_comes_before_its_body_was_awaited_or_after(s):
    channel = s.channel()
    channel.publish("k", b"m" * 300000, exchange="amq.none")
    channel.refused(404, "no exchange 'amq.none' in vhost '/'", by="basic.publish")
    channel.connection.channel().sync()


@scenario
def an_unroutable_message_is_dropped_in_silence(s):
    channel = s.channel()
    channel.publish("nowhere", b"m", exchange="amq.direct")
    channel.publish(s.queue_name(), b"m")
    channel.silent()


@scenario
def an_unroutable_mandatory_message_comes_back(s):
    channel = s.channel()
    properties = {"content_type": "text/plain", "headers": {"a": 1}, "message_id": "7"}
    channel.publish("nowhere", b"hello", exchange="amq.direct", mandatory=True, **properties)
    channel.expect("basic.return", reply_code=312, reply_text="NO_ROUTE", exchange="amq.direct",
                   routing_key="nowhere", body=b"hello", properties=properties)


@scenario
def a_mandatory_message_to_no_queue_comes_back_from_the_default_exchange(s):
    channel, name = s.channel(), s.queue_name()
    channel.publish(name, b"hello", mandatory=True)
    channel.expect("basic.return", reply_code=312, exchange="", routing_key=name, body=b"hello")


@scenario
def a_large_mandatory_message_comes_back_whole(s):
    channel, body = s.channel(), b"0123456789" * 50000
    channel.publish("nowhere", body, exchange="amq.direct", mandatory=True)
    if channel.expect("basic.return").body != body:
        raise Failure("another body came back")


@scenario
def a_routed_mandatory_message_does_not_come_back(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", mandatory=True)
    channel.holds(queue, 1)
    channel.silent()


@scenario
def a_returned_message_keeps_its_cc_header_and_loses_nothing(s):
    channel = s.channel()
    channel.publish("nowhere", b"m", mandatory=True, headers={"CC": ["nowhere.2"], "x": "y"})
    channel.expect("basic.return", headers={"CC": ["nowhere.2"], "x": "y"})


@scenario
def immediate_is_not_implemented(s):
    channel = s.channel()
    channel.publish("k", b"m", immediate=True)
    channel.connection.refused(540, "immediate=true", by="basic.publish")


# CC and BCC

@scenario
def cc_adds_routing_keys(s):
    channel = s.channel()
    one, two, three = s.queue(channel), s.queue(channel), s.queue(channel)
    channel.publish(one, b"m", headers={"CC": [two, three]})
    for queue in (one, two, three):
        channel.holds(queue, 1)
        channel.got(queue, b"m", routing_key=one, headers={"CC": [two, three]})


@scenario
def bcc_adds_routing_keys_that_nobody_sees(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.publish(one, b"m", headers={"BCC": [two], "other": 1})
    for queue in (one, two):
        channel.holds(queue, 1)
        channel.got(queue, b"m", routing_key=one, headers={"other": 1})


@scenario
def cc_and_bcc_work_on_a_direct_and_on_a_topic_exchange(s):
    channel = s.channel()
    for type in ("direct", "topic"):
        exchange, one, two = s.exchange(channel, type), s.queue(channel), s.queue(channel)
        channel.bind(one, exchange, "a")
        channel.bind(two, exchange, "b")
        channel.publish("none", b"m", exchange=exchange, headers={"CC": ["a"], "BCC": ["b"]})
        channel.holds(one, 1)
        channel.holds(two, 1)


@scenario
def a_queue_that_several_keys_reach_gets_one_copy(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "a")
    channel.bind(queue, exchange, "b")
    channel.select()
    channel.publish_confirmed("a", b"m", exchange=exchange,
                              headers={"CC": ["a", "b"], "BCC": ["b"]})
    channel.holds(queue, 1)


@scenario
def elements_of_cc_that_are_not_text_are_skipped(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.publish(one, b"m", headers={"CC": [5, two, None]})
    channel.holds(one, 1)
    channel.holds(two, 1)


@scenario
def an_empty_cc_changes_nothing(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", headers={"CC": [], "BCC": []})
    channel.holds(queue, 1)


for header in ("CC", "BCC"):
    for value in ("text", 1, True, None, {}):
        def not_an_array(s, header=header, value=value):
            channel = s.channel()
            channel.publish("k", b"m", headers={header: value})
            channel.refused(406, re.compile(f"PRECONDITION_FAILED - .*{header}"),
                            by="basic.publish")
        add(f"{header.lower()}_must_be_an_array_and_not_{type(value).__name__.lower()}",
            not_an_array)


# user-id

@scenario
def a_user_id_must_be_the_login_name(s):
    channel = s.channel()
    channel.publish("k", b"m", user_id="bob")
    channel.refused(406, "user_id property set to 'bob' but authenticated user was 'guest'",
                    by="basic.publish")


@scenario
def an_empty_user_id_is_not_the_login_name(s):
    channel = s.channel()
    channel.publish("k", b"m", user_id="")
    channel.refused(406, "user_id property set to '' but authenticated user was 'guest'",
                    by="basic.publish")


@scenario
def the_right_user_id_is_delivered(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", user_id="guest")
    channel.holds(queue, 1)
    channel.got(queue, b"m", properties={"user_id": "guest"})


# expiration

for value, words in [("abc", "no_integer"), ("", "no_integer"), (" 5", "no_integer"), ("-1", None),
                     ("1x", None), ("1.5", None), ("5 ", None), ("1e3", None),
                     ("315360000001", None)]:
    def bad_expiration(s, value=value, words=words):
        channel = s.channel()
        channel.publish("k", b"m", expiration=value)
        start = f"PRECONDITION_FAILED - invalid expiration '{value}': {words or ''}"
        channel.refused(406, re.compile(re.escape(start) + ("$" if words else ".")),
                        by="basic.publish")
    word = {"": "empty", " 5": "with_leading_space", "5 ": "with_trailing_space", "-1": "negative",
            "1.5": "fraction", "1e3": "exponent",
            "315360000001": "above_ten_years"}.get(value, value)
    add(f"an_expiration_that_is_{word}_is_refused", bad_expiration)


@scenario
def an_expiration_is_checked_even_when_nobody_gets_the_message(s):
    channel = s.channel()
    channel.publish("nowhere", b"m", exchange="amq.fanout", expiration="soon")
    channel.refused(406, "invalid expiration 'soon': no_integer", by="basic.publish")


@scenario
def an_expiration_of_ten_years_is_fine_and_delivered(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", expiration="315360000000")
    channel.holds(queue, 1)
    channel.got(queue, b"m", properties={"expiration": "315360000000"})


# properties on their way

@scenario
def the_broker_does_not_change_what_it_does_not_know(s):
    channel = s.channel()
    queue = s.queue(channel)
    headers = {"x-delay": 5, "x-anything": [1, {"a": None}], "": "empty name", "ü": "ü"}
    channel.publish(queue, b"\0\xff", headers=headers, type="", content_type="äö", priority=255)
    channel.holds(queue, 1)
    channel.got(queue, b"\0\xff", properties={"headers": headers, "type": "", "content_type": "äö",
                                              "priority": 255})


@scenario
def a_message_in_many_queues_has_its_properties_in_each(s):
    channel = s.channel()
    exchange, queues = s.exchange(channel, "fanout"), [s.queue(channel) for _ in range(20)]
    for queue in queues:
        channel.bind(queue, exchange)
    channel.publish("k", b"m", exchange=exchange, headers={"n": Typed("l", 5)}, message_id="1")
    for queue in queues:
        channel.holds(queue, 1)
        message = channel.got(queue, b"m", exchange=exchange, routing_key="k")
        check_equal("properties", message.typed_properties,
                    {"headers": {"n": Typed("l", 5)}, "message_id": "1"})


@scenario
def publishes_of_one_channel_stay_in_order_through_different_exchanges(s):
    channel = s.channel()
    queue = s.queue(channel)
    topic, direct = s.exchange(channel, "topic"), s.exchange(channel)
    channel.bind(queue, topic, "#")
    channel.bind(queue, direct, "k")
    for n in range(60):
        channel.publish(("k", "a.b", queue)[n % 3], f"{n}", exchange=(direct, topic, "")[n % 3])
    channel.consume(queue, no_ack=True)
    bodies = [channel.expect("basic.deliver").body for _ in range(60)]
    check_equal("order", [int(body) for body in bodies], list(range(60)))


@scenario(config="limits: {message_size: 1KiB}")
def a_message_above_the_limit_closes_its_channel_and_one_at_the_limit_is_taken(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m" * 1024)
    channel.holds(queue, 1)
    channel.publish(queue, b"m" * 1025)
    channel.refused(406, "message size 1025 is larger than configured max size 1024",
                    by="basic.publish")
    other = channel.connection.channel()
    other.got(queue, b"m" * 1024)


@scenario(not_rabbitmq="3.10 refuses another delivery mode than 1 and 2 with an Erlang term")
def a_delivery_mode_other_than_2_is_transient(s):
    channel = s.channel()
    queue = s.queue(channel)
    for mode in (0, 1, 3):
        channel.publish(queue, b"m", delivery_mode=mode)
        channel.holds(queue, 1)
        channel.got(queue, b"m", properties={"delivery_mode": mode})
