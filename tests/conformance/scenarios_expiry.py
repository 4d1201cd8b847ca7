"""Time to live of messages and of queues. What must not expire in a scenario lives a minute."""
import time

import amqp_wire as wire
from client import Failure, check_equal
from harness import scenario


def dead_letters(s, channel, **arguments):
    """-> a queue whose expired messages can be watched, and the queue they arrive in."""
    target = s.queue(channel)
    source = s.queue(channel, arguments={"x-dead-letter-exchange": "",
                                         "x-dead-letter-routing-key": target,
                                         **{k.replace("_", "-"): v for k, v in arguments.items()}})
    return source, target


def waits_at_least(since, milliseconds):
    """Half the time will do: the broker counts from the beginning of its turn, and on a busy
    machine that may be a good while before it comes to the message."""
    if time.monotonic() - since < milliseconds / 2000:
        raise Failure(f"expired after {(time.monotonic() - since) * 1000:.0f} ms of {milliseconds}")


def taken_before_it_expires(channel, queue, target, texts):
    """The first of these is with a consumer that was waiting for it, so it had no time to expire,
    and the others have expired -> its delivery tag"""
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue, "holder")
    channel.publish_all(queue, texts)
    tag = channel.delivered(texts[0], consumer_tag="holder").delivery_tag
    channel.holds(target, len(texts) - 1)
    channel.call("basic.cancel", consumer_tag="holder")
    return tag


@scenario
def a_message_expires_after_its_queues_ttl(s):
    channel = s.channel()
    source, target = dead_letters(s, channel, x_message_ttl=300)
    channel.consume(target)
    since = time.monotonic()
    channel.publish(source, b"m")
    channel.delivered(b"m")
    waits_at_least(since, 300)


@scenario
def a_message_expires_after_its_own_expiration(s):
    channel = s.channel()
    source, target = dead_letters(s, channel)
    channel.consume(target)
    since = time.monotonic()
    channel.publish(source, b"m", expiration="300")
    channel.delivered(b"m")
    waits_at_least(since, 300)


@scenario
def the_shorter_of_queue_ttl_and_expiration_counts(s):
    channel = s.channel()
    long, target = dead_letters(s, channel, x_message_ttl=60000)
    short, _ = dead_letters(s, channel, x_message_ttl=200)
    channel.consume(target)
    channel.publish(long, b"its own", expiration="200")
    channel.delivered(b"its own")
    channel.publish(short, b"not its own", expiration="60000")
    channel.holds(short, 0)


@scenario
def a_living_message_is_delivered(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-message-ttl": 60000})
    channel.publish(queue, b"m", expiration="50000")
    channel.holds(queue, 1)
    channel.got(queue, b"m", properties={"expiration": "50000"})


@scenario
def a_ttl_of_0_delivers_to_a_ready_consumer(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-message-ttl": 0})
    channel.consume(queue)
    channel.publish_all(queue, "abc")
    channel.delivered("a", "b", "c")


@scenario
def an_expiration_of_0_delivers_to_a_ready_consumer(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    for text in "abc":
        channel.publish(queue, text, expiration="0")
    channel.delivered("a", "b", "c")


@scenario
def a_ttl_of_0_expires_without_a_ready_consumer(s):
    channel = s.channel()
    source, target = dead_letters(s, channel, x_message_ttl=0)
    channel.publish(source, b"m")
    channel.holds(target, 1)
    channel.holds(source, 0)


@scenario
def an_expiration_of_0_expires_without_a_ready_consumer(s):
    channel = s.channel()
    source, target = dead_letters(s, channel)
    channel.publish(source, b"m", expiration="0")
    channel.holds(target, 1)


@scenario
def an_unacked_message_does_not_expire(s):
    channel = s.channel()
    source, target = dead_letters(s, channel, x_message_ttl=300)
    tag = taken_before_it_expires(channel, source, target, "ab")
    channel.got(target, "b")
    channel.ack(tag)
    channel.silent(source, target)
    channel.holds(target, 0)


@scenario
def requeueing_does_not_start_the_ttl_again(s):
    channel = s.channel()
    source, target = dead_letters(s, channel, x_message_ttl=700)
    clock = s.queue(channel, arguments={"x-dead-letter-exchange": "", "x-message-ttl": 200,
                                        "x-dead-letter-routing-key": target})
    tag = taken_before_it_expires(channel, source, target, "ab")
    channel.got(target, "b")  # it has expired: so has the time of the other
    channel.connection.send(wire.publish_frames(channel.number, "", clock, b"a short life", {})
                            + wire.method_frame(channel.number, "basic.reject", delivery_tag=tag,
                                                requeue=True))
    channel.consume(target, no_ack=True)
    channel.delivered("a", "a short life")


@scenario(not_rabbitmq="RabbitMQ looks for expired messages only at the head of the queue")
def an_expired_message_behind_the_head_goes_at_its_own_time(s):
    channel = s.channel()
    source, target = dead_letters(s, channel)
    channel.publish(source, b"long", expiration="60000")
    channel.publish(source, b"short", expiration="100")
    channel.consume(target)
    channel.delivered(b"short")
    channel.holds(source, 1)


@scenario
def messages_expire_in_the_order_of_the_queue(s):
    channel = s.channel()
    source, target = dead_letters(s, channel, x_message_ttl=150)
    channel.publish_all(source, [f"{n}" for n in range(100)])
    channel.consume(target)
    channel.delivered(*[f"{n}" for n in range(100)])


@scenario
def an_expired_message_is_not_given_to_a_later_consumer(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.select()
    channel.publish_confirmed(queue, b"old", expiration="1")
    channel.holds(queue, 0)
    channel.publish(queue, b"new")
    channel.consume(queue)
    channel.answer("basic.ack")
    channel.delivered(b"new")


# queues

def gone(s, queue, since, milliseconds):
    """The queue goes, but not before its time."""
    watcher = s.channel()
    while True:
        watcher.publish(queue, b"", mandatory=True)
        watcher.sync()
        if watcher.connection.inbox(watcher.number):
            waits_at_least(since, milliseconds)
            watcher.expect("basic.return", reply_code=312)
            watcher.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                            passive=True)
            return
        watcher.try_again("the queue does not expire")


@scenario
def an_unused_queue_expires(s):
    channel = s.channel()
    since = time.monotonic()
    queue = s.queue(channel, arguments={"x-expires": 600})
    gone(s, queue, since, 600)


@scenario
def messages_do_not_keep_a_queue_from_expiring(s):
    channel = s.channel()
    since = time.monotonic()
    queue = s.queue(channel, arguments={"x-expires": 600})
    channel.publish_all(queue, "abc")
    gone(s, queue, since, 600)


@scenario
def a_queue_with_a_consumer_does_not_expire(s):
    channel = s.channel()
    queue, control = s.queue_name(), s.queue_name()
    # In one go: the queue must not expire before its consumer comes.
    channel.connection.send(
        wire.method_frame(channel.number, "queue.declare", queue=queue,
                          arguments={"x-expires": 600})
        + wire.method_frame(channel.number, "basic.consume", queue=queue, consumer_tag="c")
        + wire.method_frame(channel.number, "queue.declare", queue=control,
                            arguments={"x-expires": 900}))
    channel.answer("basic.consume-ok")
    gone(s, control, time.monotonic(), 0)
    channel.counts(queue)
    since = time.monotonic()
    channel.call("basic.cancel", consumer_tag="c")
    gone(s, queue, since, 600)


KEPT = 3000  # milliseconds, since whoever touches the queue may be held up by other work


def kept_alive(touch):
    def run(s):
        channel = s.channel()
        queue = s.queue(channel, arguments={"x-expires": KEPT})
        begin = time.monotonic()
        while time.monotonic() - begin < 1.2 * KEPT / 1000:
            touch(channel, queue)
            time.sleep(0.02)
        since = time.monotonic()
        channel.get(queue)
        gone(s, queue, since, KEPT)
    return run


@scenario
def basic_get_keeps_a_queue_from_expiring(s):
    kept_alive(lambda channel, queue: channel.get(queue))(s)


@scenario
def declaring_again_keeps_a_queue_from_expiring(s):
    kept_alive(lambda channel, queue: channel.declare(queue, arguments={"x-expires": KEPT}))(s)


@scenario
def messages_of_an_expired_queue_are_not_dead_lettered(s):
    channel = s.channel()
    since = time.monotonic()
    source, target = dead_letters(s, channel, x_expires=600)
    channel.publish_all(source, "abc")
    gone(s, source, since, 600)
    channel.silent(target)
    channel.holds(target, 0)


@scenario
def a_consumer_count_of_an_expired_queue_is_not_left_behind(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-expires": 100})
    gone(s, queue, time.monotonic(), 0)
    check_equal("counts", channel.declare(queue).consumer_count, 0)


# --- Deliveries that nobody settles --------------------------------------------------------------------


NOT_3_10 = "3.10 has one timeout for the whole broker, of half an hour"


def times_out(channel, milliseconds=None):
    """The channel is closed because a delivery was not settled in time."""
    value = "" if milliseconds is None else f" Timeout value used: {milliseconds} ms."
    channel.refused(406, f"delivery acknowledgement on channel {channel.number}"
                         f" timed out.{value} This timeout value can be configured,"
                         " see consumers doc guide to learn more")


@scenario(not_rabbitmq=NOT_3_10)
def a_consumer_that_does_not_settle_in_its_queues_time_loses_its_channel(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel, arguments={"x-consumer-timeout": 500})
    channel.consume(queue)
    channel.publish(queue, b"m")
    channel.delivered(b"m")
    times_out(channel, 500)
    other.consume(queue)
    other.delivered(b"m", redelivered=True)


@scenario(not_rabbitmq=NOT_3_10)
def a_consumers_own_timeout_goes_before_its_queues(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-consumer-timeout": 60000})
    channel.consume(queue, arguments={"x-consumer-timeout": 400})
    channel.publish(queue, b"m")
    channel.delivered(b"m")
    times_out(channel, 400)


@scenario
def a_consumer_that_settles_in_time_keeps_its_channel(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-consumer-timeout": 3000})
    slow = s.queue(channel, arguments={"x-message-ttl": 5000, "x-dead-letter-exchange": "",
                                       "x-dead-letter-routing-key": queue})
    channel.consume(queue)
    channel.publish(queue, b"first")
    channel.ack(channel.delivered(b"first").delivery_tag)
    channel.publish(slow, b"five seconds later")
    channel.ack(channel.delivered(b"five seconds later").delivery_tag)
    channel.holds(queue, 0)


@scenario(not_rabbitmq=NOT_3_10)
def a_message_that_was_got_and_not_settled_times_out_too(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-consumer-timeout": 300})
    channel.publish(queue, b"m")
    channel.got(queue, b"m", no_ack=False)
    times_out(channel)


@scenario(not_rabbitmq=NOT_3_10)
def a_consumers_timeout_must_be_a_number(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("basic.consume", 406,
                    f"invalid arg 'x-consumer-timeout' for queue '{queue}'"
                    " in vhost '/': \"expected integer, got longstr\"",
                    queue=queue, arguments={"x-consumer-timeout": "soon"})
