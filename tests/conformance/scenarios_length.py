"""x-max-length and x-max-length-bytes with each overflow; priorities within a queue."""
from client import Failure, check_equal
from harness import add, scenario


def limited(s, channel, **arguments):
    return s.queue(channel, arguments={name.replace("_", "-"): value for name,
                                       value in arguments.items()})


def content(channel, queue):
    found = []
    while True:
        message = channel.get(queue)
        if message is None:
            return "".join(found)
        found.append(message.body.decode())


@scenario
def the_oldest_messages_go_when_the_queue_is_too_long(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=3)
    channel.select()
    for text in "abcde":
        channel.publish_confirmed(queue, text)
    channel.holds(queue, 3)
    check_equal("content", content(channel, queue), "cde")


@scenario
def drop_head_is_the_default(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=1, x_overflow="drop-head")
    channel.select()
    for text in "ab":
        channel.publish_confirmed(queue, text)
    channel.holds(queue, 1)
    check_equal("content", content(channel, queue), "b")


@scenario
def a_length_of_0_keeps_nothing(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=0)
    channel.select()
    channel.publish_confirmed(queue, "a")
    channel.holds(queue, 0)


@scenario
def a_queue_of_length_0_still_serves_a_ready_consumer(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=0)
    channel.consume(queue)
    channel.publish_all(queue, "abc")
    channel.delivered("a", "b", "c")


@scenario
def unacked_messages_do_not_count_for_the_length(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=2)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 2)
    channel.got(queue, "a", no_ack=False)
    channel.got(queue, "b", no_ack=False)
    channel.publish_all(queue, "cd")
    channel.holds(queue, 2)
    channel.got(queue, "c")
    channel.got(queue, "d")


@scenario
def requeued_messages_count_for_the_length_again(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=2)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 2)
    channel.got(queue, "a", no_ack=False)
    channel.publish(queue, "c")
    channel.holds(queue, 2)
    channel.reject(1)
    channel.silent(queue)
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "bc")


@scenario
def body_octets_are_limited(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length_bytes=10)
    channel.select()
    for text in ("aaaa", "bbbb", "cccc"):
        channel.publish_confirmed(queue, text, headers={"long": "x" * 100})
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "bbbbcccc")


@scenario
def a_message_larger_than_the_limit_does_not_stay(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length_bytes=10)
    channel.select()
    channel.publish_confirmed(queue, "small")
    channel.publish_confirmed(queue, "x" * 11)
    channel.holds(queue, 0)


@scenario
def exactly_the_limit_of_octets_stays(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length_bytes=10)
    channel.select()
    channel.publish_confirmed(queue, "12345")
    channel.publish_confirmed(queue, "67890")
    channel.holds(queue, 2)


@scenario
def both_limits_hold(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=2, x_max_length_bytes=5)
    channel.select()
    for text in ("a", "b", "c"):
        channel.publish_confirmed(queue, text)
    channel.holds(queue, 2)
    channel.publish_confirmed(queue, "dddd")
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "cdddd")


# reject-publish

for overflow in ("reject-publish", "reject-publish-dlx"):
    def rejects(s, overflow=overflow):
        channel = s.channel()
        queue = limited(s, channel, x_max_length=1, x_overflow=overflow)
        channel.select()
        channel.publish_confirmed(queue, "a")
        channel.publish(queue, "b")
        channel.expect("basic.nack", delivery_tag=2)
        channel.holds(queue, 1)
        check_equal("content", content(channel, queue), "a")
    add(f"{overflow.replace('-', '_')}_nacks_what_does_not_fit", rejects)


@scenario
def reject_publish_takes_messages_again_when_there_is_room(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=1, x_overflow="reject-publish")
    channel.select()
    channel.publish_confirmed(queue, "a")
    channel.publish(queue, "b")
    channel.expect("basic.nack", delivery_tag=2)
    channel.got(queue, "a")
    channel.publish(queue, "c")
    channel.expect("basic.ack", delivery_tag=3)


@scenario
def reject_publish_drops_in_silence_without_confirms(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=1, x_overflow="reject-publish")
    channel.publish_all(queue, "abc")
    channel.holds(queue, 1)
    channel.silent(queue)
    check_equal("content", content(channel, queue), "a")


@scenario
def one_full_queue_of_several_means_nack_and_the_others_keep_the_message(s):
    channel = s.channel()
    exchange, roomy = s.exchange(channel, "fanout"), s.queue(channel)
    full = limited(s, channel, x_max_length=0, x_overflow="reject-publish")
    channel.bind(roomy, exchange)
    channel.bind(full, exchange)
    channel.select()
    channel.publish("", "m", exchange=exchange)
    channel.expect("basic.nack", delivery_tag=1)
    channel.holds(roomy, 1)
    channel.holds(full, 0)


@scenario
def reject_publish_by_octets_nacks(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length_bytes=5, x_overflow="reject-publish")
    channel.select()
    channel.publish_confirmed(queue, "12345")
    channel.publish(queue, "6")
    channel.expect("basic.nack", delivery_tag=2)


@scenario
def a_rejected_mandatory_message_is_nacked_and_not_returned(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_length=0, x_overflow="reject-publish")
    channel.select()
    channel.publish(queue, "m", mandatory=True)
    channel.expect("basic.nack", delivery_tag=1)
    channel.silent(queue)


# priorities

@scenario
def higher_priorities_are_delivered_first(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=10)
    for priority in (1, 5, 3, 10, 0, 5):
        channel.publish(queue, f"{priority} ", priority=priority)
    channel.holds(queue, 6)
    check_equal("order", content(channel, queue), "10 5 5 3 1 0 ")


@scenario
def within_a_priority_the_order_is_kept(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5)
    for n in range(60):
        channel.publish(queue, f"{n % 3}:{n},", priority=n % 3)
    channel.holds(queue, 60)
    got = content(channel, queue)
    check_equal("order", got,
                "".join(f"{p}:{n}," for p in (2, 1, 0) for n in range(60) if n % 3 == p))


@scenario
def a_message_without_priority_has_the_lowest(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5)
    channel.publish(queue, "a")
    channel.publish(queue, "b", priority=1)
    channel.publish(queue, "c", priority=0)
    channel.holds(queue, 3)
    check_equal("order", content(channel, queue), "bac")


@scenario
def a_priority_above_the_maximum_counts_as_the_maximum(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5)
    channel.publish(queue, "a", priority=5)
    channel.publish(queue, "b", priority=200)
    channel.publish(queue, "c", priority=4)
    channel.holds(queue, 3)
    message = channel.got(queue, "a")
    message = channel.got(queue, "b")
    check_equal("priority", message.properties["priority"], 200)


@scenario
def a_queue_without_priorities_ignores_them(s):
    channel = s.channel()
    queue = s.queue(channel)
    for priority in (1, 9, 5):
        channel.publish(queue, f"{priority}", priority=priority)
    channel.holds(queue, 3)
    check_equal("order", content(channel, queue), "195")


@scenario
def a_requeued_message_returns_to_its_place_within_its_priority(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5)
    for text, priority in (("a", 1), ("b", 1), ("c", 2)):
        channel.publish(queue, text, priority=priority)
    channel.holds(queue, 3)
    channel.got(queue, "c", no_ack=False)
    channel.got(queue, "a", no_ack=False)
    channel.nack(0, multiple=True)
    channel.holds(queue, 3)
    check_equal("order", content(channel, queue), "cab")


@scenario
def a_full_priority_queue_drops_its_head_which_is_the_highest(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5, x_max_length=2)
    channel.select()
    for text, priority in (("a", 5), ("b", 1), ("c", 3)):
        channel.publish_confirmed(queue, text, priority=priority)
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "cb")


@scenario
def purge_empties_every_priority(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=255)
    for priority in (0, 1, 128, 255):
        channel.publish(queue, "m", priority=priority)
    channel.holds(queue, 4)
    check_equal("purged", channel.call("queue.purge", queue=queue).message_count, 4)


@scenario
def a_late_high_priority_overtakes_what_waits_for_a_busy_consumer(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5)
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue)
    channel.publish(queue, "first", priority=0)
    channel.delivered("first")
    channel.publish(queue, "low", priority=0)
    channel.publish(queue, "high", priority=5)
    channel.holds(queue, 2)
    channel.ack(1)
    channel.delivered("high")
    channel.ack(2)
    channel.delivered("low")


@scenario(not_rabbitmq="RabbitMQ looks for expired messages only at the head of the queue")
def a_message_of_any_priority_expires(s):
    channel = s.channel()
    queue = limited(s, channel, x_max_priority=5)
    channel.publish(queue, "high", priority=5)
    channel.publish(queue, "low", priority=0, expiration="1")
    channel.holds(queue, 1)
    if content(channel, queue) != "high":
        raise Failure("the wrong message expired")


def requeued_at_once(s, **arguments):
    """The consumers get all of it again, though the limit is lower."""
    channel = s.channel()
    queues = [limited(s, channel, **arguments) for _ in range(2)]
    for queue in queues:
        channel.consume(queue, queue)
    for n in range(8):
        for queue in queues:
            channel.publish(queue, f"{n}")
            channel.delivered(f"{n}")
    channel.nack(0, multiple=True)
    for _ in range(2):
        again = [channel.expect("basic.deliver", redelivered=True) for _ in range(16)]
        check_equal("messages", sorted((m.consumer_tag, m.body) for m in again),
                    sorted((q, f"{n}".encode()) for q in queues for n in range(8)))
        channel.call("basic.recover", requeue=True)


@scenario
def all_that_is_requeued_at_once_may_be_delivered_at_once(s):
    requeued_at_once(s, x_max_length=3, x_overflow="reject-publish")


@scenario(not_rabbitmq="RabbitMQ drops what is above the limit before it delivers")
def a_full_queue_delivers_what_is_requeued_before_it_drops(s):
    """While the rest is still being requeued."""
    requeued_at_once(s, x_max_length=0)
