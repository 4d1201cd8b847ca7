"""Publishers wait while memory or disk is short, and are told so; everybody else goes on."""
import amqp_wire as wire
from client import check_equal
from harness import scenario

LITTLE_MEMORY = "limits: {memory: 2MiB}"
NO_DISK = "limits: {disk_free: 1000000GiB}"
BODY = "m" * 100_000
ENOUGH = 40  # messages, to go beyond the limit
IN_MEMORY = {"x-message-deduplication": True}  # such a queue has its messages there in any case


def until_blocked(s, **handshake):
    """-> a channel whose connection was told to wait, and the queue it filled."""
    channel = s.channel(**handshake)
    queue = s.queue(channel, arguments=IN_MEMORY)
    channel.publish_all(queue, [f"{n}:{BODY}" for n in range(ENOUGH)])
    channel.connection.expect("connection.blocked", reason="low on memory")
    return channel, queue


def drained(channel, queue, count):
    """All of these are there, in order."""
    channel.consume(queue, no_ack=True)
    for n in range(count):
        check_equal("message", channel.expect("basic.deliver").body.decode().split(":")[0], str(n))


@scenario(config=LITTLE_MEMORY)
def a_publisher_is_told_that_memory_is_short_and_that_it_no_longer_is(s):
    channel, queue = until_blocked(s)
    drained(s.channel(), queue, ENOUGH)
    channel.connection.expect("connection.unblocked")
    channel.sync()


@scenario(config=LITTLE_MEMORY)
def what_a_publisher_sends_while_it_is_blocked_arrives_later(s):
    channel, queue = until_blocked(s)
    channel.publish_all(queue, [f"{ENOUGH + n}:late" for n in range(10)])
    drained(s.channel(), queue, ENOUGH + 10)
    channel.connection.expect("connection.unblocked")


@scenario(config=LITTLE_MEMORY)
def a_blocked_publisher_publishes_nothing(s):
    channel, queue = until_blocked(s)
    other = s.channel()
    small = s.queue(other)
    channel.publish(small, "late")
    check_equal("messages", other.counts(small)[0], 0)
    other.consume(small, no_ack=True)
    drained(s.channel(), queue, ENOUGH)
    other.delivered("late")


@scenario(config=LITTLE_MEMORY)
def who_does_not_publish_goes_on_while_memory_is_short(s):
    _, queue = until_blocked(s)
    other = s.channel()
    mine = s.queue(other)
    other.bind(mine, "amq.fanout")
    check_equal("first message", other.get(queue).body[:2], b"0:")
    other.silent(mine)


@scenario(config=LITTLE_MEMORY)
def a_new_publisher_is_told_at_its_first_message(s):
    _, queue = until_blocked(s)
    channel = s.channel()
    mine = s.queue(channel)
    channel.publish(mine, "late")
    channel.connection.expect("connection.blocked", reason="low on memory")
    drained(s.channel(), queue, ENOUGH)
    channel.connection.expect("connection.unblocked")
    channel.got(mine, "late")


@scenario(config=LITTLE_MEMORY)
def a_publisher_that_does_not_want_to_be_told_waits_as_well(s):
    channel = s.channel(capabilities={"publisher_confirms": True})
    queue = s.queue(channel, arguments=IN_MEMORY)
    channel.publish_all(queue, [f"{n}:{BODY}" for n in range(ENOUGH)])
    told = s.channel()
    told.publish("nowhere", "m")
    told.connection.expect("connection.blocked")
    drained(s.channel(), queue, ENOUGH)
    told.connection.expect("connection.unblocked")
    channel.sync()
    check_equal("methods to the connection", list(channel.connection.inbox(0)), [])


@scenario(config=LITTLE_MEMORY)
def a_blocked_client_is_not_taken_for_dead(s):
    channel, queue = until_blocked(s, heartbeat=1)
    while channel.connection.heartbeats < 7:
        channel.connection.pump()
    drained(s.channel(), queue, ENOUGH)
    channel.connection.expect("connection.unblocked")
    channel.sync()


@scenario(config="limits: {memory: 16MiB}")
def a_queue_that_is_longer_than_the_memory_is_on_disk_and_makes_nobody_wait(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    channel.publish_all(queue, [f"{n}:{BODY}" for n in range(10 * ENOUGH)], delivery_mode=2)
    channel.all_confirmed(10 * ENOUGH)
    check_equal("told to wait", len(channel.connection.inbox(0)), 0)
    drained(s.channel(), queue, 10 * ENOUGH)


@scenario(config="limits: {memory: 16MiB}")
def so_are_many_queues_that_are_longer_than_the_memory_together(s):
    channel = s.channel()
    queues = [s.queue(channel, durable=n % 2 == 0) for n in range(ENOUGH)]
    channel.select()
    for n in range(10):
        for queue in queues:
            channel.publish(queue, f"{n}:{BODY}", delivery_mode=2)
    channel.all_confirmed(10 * ENOUGH)
    check_equal("told to wait", len(channel.connection.inbox(0)), 0)
    for queue in queues:
        drained(s.channel(), queue, 10)


@scenario(config=NO_DISK)
def a_publisher_is_told_that_the_disk_is_nearly_full(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.publish(queue, "m", delivery_mode=2)
    channel.connection.expect("connection.blocked", reason="low on disk")
    other = s.channel()
    check_equal("messages", other.counts(queue)[0], 0)


@scenario(config=LITTLE_MEMORY)
def the_answer_to_a_close_is_read_while_memory_is_short(s):
    channel = s.channel()
    channel.publish("nowhere", "it is a publisher")
    channel.publish("nowhere", "and makes a mistake", immediate=True)
    _, number, payload = channel.connection.read_frame()
    check_equal("channel and method", (number, wire.decode_method(payload)[0]),
                (0, "connection.close"))
    until_blocked(s)
    channel.connection.say("connection.close-ok")
    channel.connection.expect_end()
