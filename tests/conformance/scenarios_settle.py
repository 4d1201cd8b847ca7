"""Acknowledging: ack, nack, reject, recover, and what prefetch lets through."""

import amqp_wire as wire
from client import check_equal
from harness import add, scenario


def waiting(s, *texts, **fields):
    """-> a channel and a queue with these messages."""
    channel = s.channel()
    queue = s.queue(channel, **fields)
    channel.publish_all(queue, texts)
    channel.holds(queue, len(texts))
    return channel, queue


def taken(s, *texts):
    """-> a channel that was delivered these messages and has not settled them, and the queue."""
    channel, queue = waiting(s, *texts)
    channel.consume(queue, "taker")
    channel.delivered(*texts)
    channel.call("basic.cancel", consumer_tag="taker")
    return channel, queue


def left(channel, queue, *texts):
    """Closing the channel brings back exactly these messages, in this order."""
    channel.close()
    other = channel.connection.channel()
    other.holds(queue, len(texts))
    for text in texts:
        other.got(queue, text)


@scenario
def an_acked_message_does_not_come_back(s):
    channel, queue = taken(s, "a", "b", "c")
    channel.ack(2)
    left(channel, queue, "a", "c")


@scenario
def ack_multiple_takes_all_up_to_the_tag(s):
    channel, queue = taken(s, "a", "b", "c", "d")
    channel.ack(3, multiple=True)
    left(channel, queue, "d")


@scenario
def ack_multiple_of_tag_0_takes_all(s):
    channel, queue = taken(s, "a", "b", "c")
    channel.ack(0, multiple=True)
    left(channel, queue)


@scenario
def ack_multiple_skips_what_was_settled_before(s):
    channel, queue = taken(s, "a", "b", "c", "d")
    channel.ack(2)
    channel.ack(3, multiple=True)
    left(channel, queue, "d")


@scenario
def acks_may_come_in_any_order(s):
    channel, queue = taken(s, *"abcdef")
    for tag in (6, 1, 4, 3):
        channel.ack(tag)
    left(channel, queue, "b", "e")


@scenario
def nack_multiple_of_tag_0_requeues_all(s):
    channel, queue = taken(s, "a", "b", "c")
    channel.nack(0, multiple=True)
    channel.holds(queue, 3)
    left(channel, queue, "a", "b", "c")


@scenario
def nack_without_requeue_drops(s):
    channel, queue = taken(s, "a", "b", "c")
    channel.nack(2, multiple=True, requeue=False)
    left(channel, queue, "c")


@scenario
def reject_without_requeue_drops(s):
    channel, queue = taken(s, "a", "b")
    channel.reject(1, requeue=False)
    left(channel, queue, "b")


@scenario
def a_requeued_message_returns_to_its_place(s):
    channel, queue = waiting(s, *"abcd")
    for text in "abc":
        channel.got(queue, text, no_ack=False)
    channel.reject(2)
    channel.nack(1)
    channel.holds(queue, 3)
    for text, redelivered in (("a", True), ("b", True), ("d", False)):
        channel.got(queue, text, redelivered=redelivered)


@scenario
def a_requeued_message_is_redelivered_to_the_same_consumer(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    channel.publish(queue, b"m")
    channel.delivered(b"m", delivery_tag=1, redelivered=False)
    channel.reject(1)
    channel.delivered(b"m", delivery_tag=2, redelivered=True)
    channel.nack(2)
    channel.delivered(b"m", delivery_tag=3, redelivered=True)


@scenario
def a_requeued_message_may_go_to_another_consumer(s):
    first, second = s.channel(), s.channel()
    queue = s.queue(first)
    first.consume(queue, "first")
    first.publish(queue, b"m")
    first.delivered(b"m")
    first.call("basic.cancel", consumer_tag="first")
    second.consume(queue)
    first.reject(1)
    second.delivered(b"m", redelivered=True)


for method, word in [("basic.ack", "acking"), ("basic.nack", "nacking"),
                     ("basic.reject", "rejecting")]:
    def unknown(s, method=method):
        s.channel().refuses(method, 406, "unknown delivery tag 5", delivery_tag=5)

    def twice(s, method=method):
        channel, _ = taken(s, "a")
        channel.ack(1)
        channel.refuses(method, 406, "unknown delivery tag 1", delivery_tag=1)

    def tag_0(s, method=method):
        channel, _ = taken(s, "a")
        channel.refuses(method, 406, "unknown delivery tag 0", delivery_tag=0)

    def without_ack_mode(s, method=method):
        channel, queue = waiting(s, "a")
        channel.got(queue, "a", no_ack=True)
        channel.refuses(method, 406, "unknown delivery tag 1", delivery_tag=1)

    def elsewhere(s, method=method):
        channel, _ = taken(s, "a")
        channel.connection.channel().refuses(method, 406, "unknown delivery tag 1", delivery_tag=1)

    add(f"{word}_an_unknown_tag_is_refused", unknown)
    add(f"{word}_a_settled_tag_is_refused", twice)
    add(f"{word}_tag_0_alone_is_refused", tag_0)
    add(f"{word}_what_needs_no_ack_is_refused", without_ack_mode)
    add(f"{word}_another_channels_tag_is_refused", elsewhere)

for method, word in [("basic.ack", "acking"), ("basic.nack", "nacking")]:
    def beyond(s, method=method):
        channel, _ = taken(s, "a", "b")
        channel.refuses(method, 406, "unknown delivery tag 7", delivery_tag=7, multiple=True)

    def all_of_none(s, method=method):
        channel = s.channel()
        channel.say(method, delivery_tag=0, multiple=True)
        channel.sync()

    add(f"{word}_multiple_up_to_an_unknown_tag_is_refused", beyond)
    add(f"{word}_all_of_nothing_is_no_error", all_of_none)


@scenario
def an_unknown_tag_settles_nothing(s):
    channel, queue = taken(s, "a", "b")
    channel.refuses("basic.ack", 406, "unknown delivery tag 9", delivery_tag=9, multiple=True)
    other = channel.connection.channel()
    other.holds(queue, 2)


@scenario
def recover_requeues_everything_unacked(s):
    channel, queue = taken(s, "a", "b", "c")
    channel.ack(2)
    channel.call("basic.recover", requeue=True)
    channel.holds(queue, 2)
    channel.got(queue, "a", redelivered=True)
    channel.got(queue, "c", redelivered=True)


@scenario
def recover_async_is_not_answered(s):
    channel, queue = taken(s, "a", "b")
    channel.say("basic.recover-async", requeue=True)
    channel.holds(queue, 2)
    channel.silent()


@scenario
def recover_with_nothing_to_recover_is_answered(s):
    s.channel().call("basic.recover", requeue=True)


@scenario
def recovered_tags_are_unknown_afterwards(s):
    channel, _ = taken(s, "a")
    channel.call("basic.recover", requeue=True)
    channel.refuses("basic.ack", 406, "unknown delivery tag 1", delivery_tag=1)


@scenario
def recovered_messages_go_to_the_consumer_again(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    channel.publish_all(queue, "ab")
    channel.delivered("a", "b")
    channel.say("basic.recover", requeue=True)
    channel.answer("basic.recover-ok")
    channel.delivered("a", "b", redelivered=True)


for method in ("basic.recover", "basic.recover-async"):
    def no_requeue(s, method=method):
        channel = s.channel()
        channel.say(method, requeue=False)
        channel.connection.refused(540, "requeue=false", by=method)
    add(f"{method[6:].replace('-', '_')}_without_requeue_is_not_implemented", no_requeue)


# prefetch

@scenario
def a_prefetch_size_is_not_implemented(s):
    channel = s.channel()
    channel.say("basic.qos", prefetch_size=7)
    channel.connection.refused(540, "prefetch_size!=0 (7)", by="basic.qos")


@scenario
def prefetch_holds_back_what_is_beyond(s):
    channel, queue = waiting(s, *"abcde")
    channel.call("basic.qos", prefetch_count=2)
    channel.consume(queue)
    channel.delivered("a", "b")
    channel.silent(queue)
    channel.ack(1)
    channel.delivered("c")
    channel.silent(queue)
    channel.ack(3, multiple=True)
    channel.delivered("d", "e")


@scenario
def prefetch_opens_on_reject_and_nack_too(s):
    channel, queue = waiting(s, *"abc")
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue)
    channel.delivered("a")
    channel.reject(1, requeue=False)
    channel.delivered("b")
    channel.nack(2, requeue=False)
    channel.delivered("c")


@scenario
def prefetch_does_not_hold_back_consumers_without_ack(s):
    channel, queue = waiting(s, *"abcde")
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue, no_ack=True)
    channel.delivered(*"abcde")


@scenario
def prefetch_is_each_consumers_own(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.publish_all(one, "abc")
    channel.publish_all(two, "xyz")
    channel.holds(one, 3)
    channel.holds(two, 3)
    channel.call("basic.qos", prefetch_count=2)
    channel.consume(one, "one")
    channel.consume(two, "two")
    got = sorted(channel.expect("basic.deliver").body for _ in range(4))
    check_equal("deliveries", got, [b"a", b"b", b"x", b"y"])
    channel.silent(one, two)


@scenario
def prefetch_counts_for_consumers_that_come_later(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.consume(one, "unlimited")
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(two, "limited")
    channel.publish_all(one, "abc")
    channel.delivered("a", "b", "c")
    channel.publish_all(two, "xyz")
    channel.delivered("x")
    channel.silent(two)


@scenario
def global_prefetch_is_shared_by_the_channel(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.call("basic.qos", prefetch_count=3, global_=True)
    channel.consume(one)
    channel.consume(two)
    channel.publish_all(one, "abcd")
    channel.delivered("a", "b", "c")
    channel.publish_all(two, "xyz")
    channel.silent(one, two)
    channel.ack(1)
    channel.next()
    channel.silent(one, two)


@scenario
def global_and_own_prefetch_both_hold_back(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.call("basic.qos", prefetch_count=2)
    channel.call("basic.qos", prefetch_count=3, global_=True)
    channel.consume(one)
    channel.consume(two)
    channel.publish_all(one, "abcd")
    channel.delivered("a", "b")
    channel.silent(one)
    channel.publish_all(two, "xyz")
    channel.delivered("x")
    channel.silent(one, two)


@scenario
def global_prefetch_does_not_hold_back_consumers_without_ack(s):
    channel, queue = waiting(s, *"abcde")
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.consume(queue, no_ack=True)
    channel.delivered(*"abcde")


@scenario
def raising_the_global_prefetch_lets_more_through(s):
    channel, queue = waiting(s, *"abcde")
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.consume(queue)
    channel.delivered("a")
    channel.silent(queue)
    channel.call("basic.qos", prefetch_count=3, global_=True)
    channel.delivered("b", "c")
    channel.silent(queue)


@scenario
def lifting_the_global_prefetch_lets_all_through(s):
    channel, queue = waiting(s, *"abcde")
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.consume(queue)
    channel.delivered("a")
    channel.call("basic.qos", prefetch_count=0, global_=True)
    channel.delivered(*"bcde")


@scenario
def lowering_the_global_prefetch_waits_until_enough_is_settled(s):
    channel, queue = waiting(s, *"abcdef")
    channel.call("basic.qos", prefetch_count=4, global_=True)
    channel.consume(queue)
    channel.delivered(*"abcd")
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.ack(3, multiple=True)
    channel.silent(queue)
    channel.ack(4)
    channel.delivered("e")
    channel.silent(queue)


@scenario
def what_was_got_does_not_count_for_the_global_prefetch(s):
    channel, queue = waiting(s, *"abc")
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.got(queue, "a", no_ack=False)
    channel.consume(queue)
    channel.delivered("b")
    channel.silent(queue)


@scenario
def what_a_cancelled_consumer_left_unacked_counts_for_the_global_prefetch(s):
    channel, queue = waiting(s, *"abcd")
    channel.call("basic.qos", prefetch_count=2, global_=True)
    channel.consume(queue, "first")
    channel.delivered("a", "b")
    channel.call("basic.cancel", consumer_tag="first")
    channel.consume(queue, "second")
    channel.silent(queue)
    channel.ack(1)
    channel.delivered("c", consumer_tag="second")
    channel.silent(queue)


@scenario
def the_highest_tag_of_all_is_as_unknown_as_others(s):
    top = (1 << 64) - 1
    s.channel().refuses("basic.ack", 406, f"unknown delivery tag {top}", delivery_tag=top)
    s.channel().refuses("basic.ack", 406, f"unknown delivery tag {top}", delivery_tag=top,
                        multiple=True)


@scenario
def a_busy_consumer_leaves_messages_to_an_idle_one(s):
    busy, idle = s.channel(), s.channel()
    queue = s.queue(busy)
    busy.call("basic.qos", prefetch_count=1)
    busy.consume(queue)
    busy.publish(queue, "a")
    busy.delivered("a")
    idle.consume(queue)
    busy.publish_all(queue, "bcd")
    idle.delivered("b", "c", "d")
    busy.silent(queue)


@scenario
def a_prefetch_of_65535_is_fine(s):
    channel, queue = waiting(s, *"ab")
    channel.call("basic.qos", prefetch_count=65535)
    channel.consume(queue)
    channel.delivered("a", "b")


@scenario
def thousands_of_acks_of_every_kind_settle_what_they_name(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, [f"{n}" for n in range(3000)])
    channel.consume(queue, "taker")
    for n in range(3000):
        channel.delivered(f"{n}")
    channel.call("basic.cancel", consumer_tag="taker")
    for tag in range(1, 3001, 3):
        channel.ack(tag)
    for tag in range(2, 3001, 3):
        channel.reject(tag, requeue=False)
    channel.ack(2100, multiple=True)
    channel.nack(0, multiple=True)
    channel.holds(queue, 300)
    channel.got(queue, "2102", redelivered=True)


@scenario
def a_cancelled_consumer_leaves_its_share_of_the_global_prefetch_to_others(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.publish_all(queue, "ab")
    channel.consume(queue, "first")
    tag = channel.expect("basic.deliver", body="a").delivery_tag
    # At once: the room that the first makes is promised to a consumer that is about to go.
    channel.connection.send(
        wire.method_frame(channel.number, "basic.ack", delivery_tag=tag)
        + wire.method_frame(channel.number, "basic.cancel", consumer_tag="first"))
    channel.answer("basic.cancel-ok")
    channel.say("basic.recover", requeue=True)  # if it was still given one
    channel.answer("basic.recover-ok")
    channel.connection.inbox(channel.number).clear()
    channel.consume(queue, "second")
    channel.expect("basic.deliver", body="b", consumer_tag="second")
