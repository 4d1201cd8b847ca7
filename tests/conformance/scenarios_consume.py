"""basic.consume, deliver, cancel and get."""
import re

import amqp_wire as wire
from client import Failure, check_equal
from harness import scenario


@scenario
def a_published_message_is_delivered(s):
    channel = s.channel()
    queue = s.queue(channel)
    tag = channel.consume(queue, no_ack=True)
    channel.publish(queue, b"hello")
    channel.expect("basic.deliver", consumer_tag=tag, delivery_tag=1, redelivered=False,
                   exchange="", routing_key=queue, body=b"hello")


@scenario
def messages_that_wait_are_delivered_in_the_order_of_publishing(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, [f"{n}" for n in range(500)])
    channel.consume(queue, no_ack=True)
    channel.delivered(*[f"{n}" for n in range(500)])


@scenario
def consume_ok_comes_before_the_first_delivery(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    channel.say("basic.consume", queue=queue)
    channel.expect("basic.consume-ok")
    channel.delivered(b"m")


@scenario
def a_consumer_without_a_tag_is_given_one(s):
    channel = s.channel()
    queue = s.queue(channel)
    check_equal("tag", channel.consume(queue), re.compile(r"^amq\.ctag-[A-Za-z0-9_-]{22}$"))


@scenario
def a_consumer_keeps_the_tag_it_names(s):
    channel = s.channel()
    queue = s.queue(channel)
    check_equal("tag", channel.consume(queue, "mine"), "mine")


@scenario
def a_consumer_tag_may_be_255_octets_of_utf_8(s):
    channel, tag = s.channel(), "ü" * 127 + "!"
    queue = s.queue(channel)
    check_equal("tag", channel.consume(queue, tag), tag)
    channel.publish(queue, b"m")
    channel.delivered(b"m", consumer_tag=tag)
    check_equal("tag", channel.call("basic.cancel", consumer_tag=tag).consumer_tag, tag)


@scenario
def the_same_tag_may_be_used_on_another_channel(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first)
    first.consume(queue, "mine")
    second.consume(queue, "mine")


@scenario
def the_same_tag_twice_on_a_channel_is_refused(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, "mine")
    channel.say("basic.consume", queue=queue, consumer_tag="mine")
    channel.connection.refused(530, "attempt to reuse consumer tag 'mine'", by="basic.consume")


@scenario
def a_tag_is_free_again_after_cancel(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, "mine")
    channel.call("basic.cancel", consumer_tag="mine")
    channel.consume(queue, "mine")


@scenario
def consuming_from_a_missing_queue_is_404(s):
    name = s.queue_name()
    s.channel().refuses("basic.consume", 404, f"no queue '{name}' in vhost '/'", queue=name)


@scenario
def consumers_of_a_queue_take_turns(s):
    channel = s.channel()
    queue = s.queue(channel)
    for tag in ("a", "b", "c"):
        channel.consume(queue, tag, no_ack=True)
    channel.publish_all(queue, [f"{n}" for n in range(9)])
    tags = [channel.expect("basic.deliver").consumer_tag for _ in range(9)]
    check_equal("deliveries", sorted(tags), ["a"] * 3 + ["b"] * 3 + ["c"] * 3)
    check_equal("turns", tags[:3], tags[3:6])


@scenario
def delivery_tags_count_per_channel(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first)
    first.consume(queue, "one", no_ack=True)
    first.publish_all(queue, "ab")
    check_equal("tags", [first.expect("basic.deliver").delivery_tag for _ in range(2)], [1, 2])
    first.call("basic.cancel", consumer_tag="one")
    second.consume(queue)
    second.publish(queue, "c")
    second.delivered(b"c", delivery_tag=1)


@scenario
def cancel_is_answered_with_the_tag(s):
    channel = s.channel()
    tag = channel.consume(s.queue(channel))
    check_equal("tag", channel.call("basic.cancel", consumer_tag=tag).consumer_tag, tag)


@scenario
def cancelling_an_unknown_tag_is_no_error(s):
    channel = s.channel()
    check_equal("tag", channel.call("basic.cancel", consumer_tag="nobody").consumer_tag, "nobody")


@scenario
def a_cancelled_consumer_gets_nothing_more(s):
    channel = s.channel()
    queue = s.queue(channel)
    tag = channel.consume(queue)
    channel.call("basic.cancel", consumer_tag=tag)
    channel.publish(queue, b"m")
    channel.holds(queue, 1, consumers=0)
    channel.silent(queue)


@scenario
def deliveries_of_a_cancelled_consumer_can_still_be_acked(s):
    channel = s.channel()
    queue = s.queue(channel)
    tag = channel.consume(queue)
    channel.publish_all(queue, "ab")
    channel.delivered(b"a", b"b")
    channel.call("basic.cancel", consumer_tag=tag)
    channel.holds(queue, 0)
    channel.ack(1)
    channel.reject(2)
    channel.holds(queue, 1)


@scenario
def no_wait_consume_and_cancel_are_not_answered(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.say("basic.consume", queue=queue, consumer_tag="mine", no_ack=True, no_wait=True)
    channel.publish(queue, b"m")
    channel.delivered(b"m", consumer_tag="mine")
    channel.say("basic.cancel", consumer_tag="mine", no_wait=True)
    channel.publish(queue, b"m")
    channel.holds(queue, 1, consumers=0)
    channel.silent(queue)


@scenario
def no_local_is_ignored(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, no_local=True)
    channel.publish(queue, b"mine")
    channel.delivered(b"mine")


@scenario
def a_consumer_is_told_when_its_queue_is_deleted(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, "mine")
    s.channel().call("queue.delete", queue=queue)
    channel.expect("basic.cancel", consumer_tag="mine", no_wait=True)


@scenario
def a_client_without_the_capability_is_not_told(s):
    channel = s.connect(capabilities={}).channel()
    queue = s.queue(channel)
    channel.consume(queue, "mine")
    channel.call("queue.delete", queue=queue)
    channel.silent()


@scenario
def an_exclusive_consumer_keeps_others_out(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, exclusive=True)
    s.channel().refuses("basic.consume", 403, f"queue '{queue}' in vhost '/' in exclusive use",
                        queue=queue)


@scenario
def an_exclusive_consumer_must_be_the_first(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    s.channel().refuses("basic.consume", 403, f"queue '{queue}' in vhost '/' in exclusive use",
                        queue=queue, exclusive=True)


@scenario
def after_an_exclusive_consumer_others_may_come(s):
    channel = s.channel()
    queue = s.queue(channel)
    tag = channel.consume(queue, exclusive=True)
    channel.call("basic.cancel", consumer_tag=tag)
    s.channel().consume(queue)


@scenario
def get_answers_message_and_what_is_left(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    channel.got(queue, b"a", delivery_tag=1, redelivered=False, exchange="", routing_key=queue,
                message_count=2)
    channel.got(queue, b"b", delivery_tag=2, message_count=1)


@scenario
def get_on_an_empty_queue_is_get_empty(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.say("basic.get", queue=queue)
    channel.expect("basic.get-empty")


@scenario
def get_on_a_missing_queue_is_404(s):
    name = s.queue_name()
    s.channel().refuses("basic.get", 404, f"no queue '{name}' in vhost '/'", queue=name)


@scenario
def get_with_ack_keeps_the_message_until_acked(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    channel.got(queue, b"m", no_ack=False)
    check_equal("second get", other.get(queue), None)
    channel.close()
    other.holds(queue, 1)
    other.got(queue, b"m", redelivered=True)


@scenario
def get_is_not_held_back_by_prefetch(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("basic.qos", prefetch_count=1)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    for body in (b"a", b"b", b"c"):
        channel.got(queue, body, no_ack=False)


@scenario
def a_message_without_properties_comes_without(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m")
    check_equal("properties", channel.got(queue, b"m").raw_properties, b"\0\0")


@scenario
def all_properties_come_back_as_they_were(s):
    properties = {"content_type": "text/plain", "content_encoding": "utf-8", "headers": {"a": 1},
                  "delivery_mode": 2, "priority": 7, "correlation_id": "c-1", "reply_to": "nowhere",
                  "expiration": "60000", "message_id": "m-1", "timestamp": 1700000000, "type": "t",
                  "user_id": "guest", "app_id": "app", "cluster_id": "cluster"}
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", **properties)
    check_equal("properties", channel.got(queue, b"m").properties, properties)


@scenario
def headers_of_every_type_come_back_as_they_were(s):
    headers = {"bool": True, "i8": wire.Typed("b", -8), "u8": wire.Typed("B", 200),
               "i16": wire.Typed("s", -300), "u16": wire.Typed("u", 60000),
               "i32": wire.Typed("I", -5), "u32": wire.Typed("i", 4000000000),
               "i64": wire.Typed("l", -1 << 40), "float": wire.Typed("f", 1.5), "double": 2.25,
               "decimal": wire.Typed("D", (2, 314)), "text": "hällo",
               "bytes": wire.Typed("x", b"\0\xff"), "time": wire.Typed("T", 1700000000),
               "void": None, "array": [1, "two", [None]], "table": {"inner": {"deep": True}},
               "empty": {}, "none": []}
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", headers=headers)
    message = channel.got(queue, b"m")
    sent = wire.decode_properties(wire.encode_properties({"headers": headers}), typed=True)
    check_equal("headers", message.typed_properties, sent)


@scenario
def an_empty_header_table_stays_a_table(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m", headers={})
    check_equal("properties", channel.got(queue, b"m").properties, {"headers": {}})


@scenario
def a_consumer_on_a_lost_connection_is_forgotten(s):
    owner, other = s.channel(), s.channel()
    queue = s.queue(owner)
    owner.consume(queue)
    other.holds(queue, 0, consumers=1)
    owner.connection.drop()
    other.holds(queue, 0, consumers=0)


@scenario
def unacked_messages_of_a_lost_connection_return_in_order(s):
    owner, other = s.channel(), s.channel()
    queue = s.queue(owner)
    other.publish_all(queue, "abcd")
    other.holds(queue, 4)
    owner.consume(queue)
    owner.delivered(b"a", b"b", b"c", b"d")
    owner.ack(2)
    owner.counts(queue)
    owner.connection.drop()
    other.holds(queue, 3)
    for body in (b"a", b"c", b"d"):
        other.got(queue, body, redelivered=True)


@scenario
def no_ack_messages_are_gone_once_delivered(s):
    owner, other = s.channel(), s.channel()
    queue = s.queue(owner)
    owner.consume(queue, no_ack=True)
    other.publish_all(queue, "ab")
    owner.delivered(b"a", b"b")
    owner.connection.close()
    other.holds(queue, 0, consumers=0)


@scenario
def a_deleted_queue_can_be_declared_again_empty(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    channel.call("queue.delete", queue=queue)
    channel.declare(queue)
    if channel.get(queue):
        raise Failure("the new queue has the old one's message")
