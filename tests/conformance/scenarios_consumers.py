"""Who gets a message: consumer priorities, single active consumer, consumer arguments."""
import re

from amqp_wire import Typed
from client import check_equal
from harness import add, scenario

SINGLE = {"x-single-active-consumer": True}


def priority(value):
    return {"x-priority": value}


def tags(channel, count):
    return [channel.expect("basic.deliver").consumer_tag for _ in range(count)]


@scenario
def the_consumer_of_higher_priority_is_served_first(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, "low", no_ack=True, arguments=priority(1))
    channel.consume(queue, "high", no_ack=True, arguments=priority(5))
    channel.consume(queue, "none", no_ack=True)
    channel.publish_all(queue, "abcdef")
    check_equal("consumers", tags(channel, 6), ["high"] * 6)


@scenario
def a_lower_priority_is_served_when_the_higher_is_busy(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("basic.qos", prefetch_count=2)
    channel.consume(queue, "low", arguments=priority(-1))
    channel.consume(queue, "high", arguments=priority(1))
    channel.publish_all(queue, "abcd")
    check_equal("consumers", sorted(tags(channel, 4)), ["high", "high", "low", "low"])
    channel.publish(queue, "e")
    channel.holds(queue, 1)


@scenario
def consumers_of_equal_priority_take_turns(s):
    channel = s.channel()
    queue = s.queue(channel)
    for tag in "abc":
        channel.consume(queue, tag, no_ack=True, arguments=priority(3))
    channel.publish_all(queue, [f"{n}" for n in range(9)])
    check_equal("consumers", sorted(tags(channel, 9)), ["a"] * 3 + ["b"] * 3 + ["c"] * 3)


@scenario
def no_priority_is_priority_0(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, "negative", no_ack=True, arguments=priority(-5))
    channel.consume(queue, "none", no_ack=True)
    channel.publish_all(queue, "abc")
    check_equal("consumers", tags(channel, 3), ["none"] * 3)


@scenario
def a_consumer_priority_may_be_an_integer_of_any_width(s):
    channel = s.channel()
    queue = s.queue(channel)
    for tag in "bBsuIil":
        channel.consume(queue, tag, arguments=priority(Typed(tag, 5)))


for value in ("5", True, None, 1.5):
    def bad_priority(s, value=value):
        channel = s.channel()
        queue = s.queue(channel)
        channel.refuses("basic.consume", 406,
                        re.compile("PRECONDITION_FAILED - invalid arg 'x-priority' for queue "
                        f"'{queue}' in vhost '/': ."), queue=queue, arguments=priority(value))
    add(f"a_consumer_priority_must_not_be_{type(value).__name__.lower()}", bad_priority)


@scenario
def unknown_consumer_arguments_are_ignored(s):
    channel = s.channel()
    channel.consume(s.queue(channel), arguments={"x-unknown": 1, "color": {"a": "blue"}})


for argument, value in [("x-stream-offset", "first"), ("x-stream-offset", 5),
                        ("x-stream-filter", "a"), ("x-stream-match-unfiltered", True)]:
    def for_streams_only(s, argument=argument, value=value):
        channel = s.channel()
        queue = s.queue(channel)
        channel.refuses("basic.consume", 406,
                        f"invalid arg '{argument}' for queue '{queue}' in vhost '/' of queue type "
                        "rabbit_classic_queue", queue=queue, arguments={argument: value})
    word = f"{argument[2:].replace('-', '_')}_{type(value).__name__}"
    add(f"a_classic_queue_has_no_{word}", for_streams_only,
        None if argument == "x-stream-offset" else "stream filters came with 3.13")


@scenario
def cancel_on_ha_failover_is_a_bool_without_effect(s):
    channel = s.channel()
    queue = s.queue(channel)
    for value in (True, False):
        channel.consume(queue, arguments={"x-cancel-on-ha-failover": value})
    channel.refuses("basic.consume", 406,
                    re.compile(f"invalid arg 'x-cancel-on-ha-failover' for queue '{queue}' in vhost "
                               "'/': ."), queue=queue, arguments={"x-cancel-on-ha-failover": 1})


@scenario
def of_two_wrong_arguments_the_priority_is_named(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("basic.consume", 406,
                    re.compile(f"invalid arg 'x-priority' for queue '{queue}' in vhost '/': ."),
                    queue=queue, arguments={"x-cancel-on-ha-failover": 1, "x-priority": "high"})


# single active consumer

@scenario
def only_the_first_consumer_is_served(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    for tag in ("first", "second"):
        channel.consume(queue, tag, no_ack=True)
    channel.publish_all(queue, "abcd")
    check_equal("consumers", tags(channel, 4), ["first"] * 4)


@scenario
def the_second_takes_over_when_the_first_is_cancelled(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    for tag in ("first", "second", "third"):
        channel.consume(queue, tag, no_ack=True)
    channel.publish(queue, "a")
    channel.delivered("a", consumer_tag="first")
    channel.call("basic.cancel", consumer_tag="first")
    channel.publish(queue, "b")
    channel.delivered("b", consumer_tag="second")


@scenario
def the_second_takes_over_when_the_firsts_connection_is_lost(s):
    first, second = s.channel(), s.channel()
    queue = s.queue(first, arguments=SINGLE)
    first.consume(queue)
    second.consume(queue)
    second.publish_all(queue, "ab")
    first.delivered("a", "b")
    first.connection.drop()
    second.delivered("a", "b", redelivered=True)


@scenario
def a_busy_active_consumer_is_not_helped_out(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue, "first")
    channel.consume(queue, "second")
    channel.publish_all(queue, "abc")
    channel.delivered("a", consumer_tag="first")
    channel.silent(queue)
    channel.ack(1)
    channel.delivered("b", consumer_tag="first")


@scenario
def cancelling_a_waiting_consumer_changes_nothing(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    for tag in ("first", "second", "third"):
        channel.consume(queue, tag, no_ack=True)
    channel.call("basic.cancel", consumer_tag="second")
    channel.publish(queue, "a")
    channel.delivered("a", consumer_tag="first")
    channel.call("basic.cancel", consumer_tag="first")
    channel.publish(queue, "b")
    channel.delivered("b", consumer_tag="third")


@scenario
def waiting_consumers_are_counted(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.consume(queue)
    channel.consume(queue)
    channel.holds(queue, 0, consumers=2)


@scenario
def a_requeued_message_returns_to_the_active_consumer(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.consume(queue, "first")
    channel.consume(queue, "second")
    channel.publish(queue, "a")
    channel.delivered("a", consumer_tag="first")
    channel.reject(1)
    channel.delivered("a", consumer_tag="first", redelivered=True)


@scenario
def an_exclusive_consumer_is_refused_where_one_is_active_anyway(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.refuses("basic.consume", 403, f"queue '{queue}' in vhost '/' in exclusive use",
                    queue=queue, exclusive=True)


@scenario
def unacked_messages_of_a_cancelled_active_consumer_stay_with_its_channel(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.consume(queue, "first")
    channel.consume(queue, "second")
    channel.publish(queue, "a")
    channel.delivered("a", consumer_tag="first")
    channel.call("basic.cancel", consumer_tag="first")
    channel.publish(queue, "b")
    channel.delivered("b", consumer_tag="second")
    channel.reject(1)
    channel.delivered("a", consumer_tag="second", redelivered=True)


@scenario(not_rabbitmq="3.10 lets basic.get pass by the active consumer; refused since 4.0")
def basic_get_is_refused_where_a_single_consumer_is_active(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.refuses("basic.get", 405,
                    f"cannot obtain access to locked queue '{queue}' in vhost '/'. basic.get "
                    "operations are not supported by classic queues with single active consumer",
                    queue=queue)


@scenario
def a_higher_priority_does_not_take_over_from_the_active_consumer(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.consume(queue, "low", no_ack=True, arguments=priority(1))
    channel.consume(queue, "high", no_ack=True, arguments=priority(5))
    channel.publish(queue, "a")
    channel.delivered("a", consumer_tag="low")


@scenario
def a_queue_with_waiting_consumers_is_in_use(s):
    channel = s.channel()
    queue = s.queue(channel, arguments=SINGLE)
    channel.consume(queue)
    channel.refuses("queue.delete", 406, f"queue '{queue}' in vhost '/' in use", queue=queue,
                    if_unused=True)


@scenario
def an_exclusive_consumer_keeps_out_its_own_channel_too(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue, exclusive=True)
    channel.refuses("basic.consume", 403, f"queue '{queue}' in vhost '/' in exclusive use",
                    queue=queue)


@scenario
def get_and_purge_are_not_kept_out_by_an_exclusive_consumer(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel)
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue, exclusive=True)
    channel.publish_all(queue, "abc")
    channel.delivered("a")
    other.holds(queue, 2)
    other.got(queue, "b")
    check_equal("purged", other.call("queue.purge", queue=queue).message_count, 1)
