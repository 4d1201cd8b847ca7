"""Several connections at once: what one does reaches the other whole and in order."""
import re

import amqp_wire as wire
from client import Failure, check_equal
from harness import scenario


@scenario
def order_is_kept_between_every_two_connections(s):
    channels = [s.channel() for _ in range(6)]
    queues = [s.queue(channel) for channel in channels]
    for channel, queue in zip(channels, queues):
        channel.consume(queue, no_ack=True)
    for number in range(40):
        for sender, channel in enumerate(channels):
            for queue in queues:
                channel.publish(queue, f"{sender} {number}")
    for channel in channels:
        seen = {}
        for _ in range(40 * len(channels)):
            sender, number = channel.expect("basic.deliver").body.split()
            check_equal(f"next from connection {sender.decode()}", int(number), seen.get(sender, 0))
            seen[sender] = int(number) + 1


@scenario
def a_message_is_given_to_one_of_the_consumers_of_a_queue(s):
    publisher, consumers = s.channel(), [s.channel() for _ in range(4)]
    queue = s.queue(publisher)
    for consumer in consumers:
        consumer.call("basic.qos", prefetch_count=10)
        consumer.consume(queue)
    publisher.publish_all(queue, [f"{n}" for n in range(40)])
    bodies = []
    for consumer in consumers:
        for _ in range(10):
            bodies.append(int(consumer.expect("basic.deliver").body))
    check_equal("messages", sorted(bodies), list(range(40)))
    for consumer in consumers:
        consumer.ack(0, multiple=True)
        consumer.sync()
    publisher.holds(queue, 0)


@scenario
def what_is_confirmed_is_there_for_everybody(s):
    publisher, owners = s.channel(), [s.channel() for _ in range(3)]
    publisher.select()
    queues = [s.queue(owner) for owner in owners]
    for owner, queue in zip(owners, queues):
        owner.publish_all(queue, ["x" * 100] * 500)  # keeps its thread busy
        owner.consume(queue, no_ack=True)
    for number in range(200):
        for owner in owners:
            queue = s.queue(owner)
            publisher.publish_confirmed(queue, f"{number}")
            owner.got(queue, f"{number}".encode())


@scenario
def what_a_lost_client_had_not_finished_sending_is_not_published(s):
    owner, lost = s.channel(), s.channel()
    queue = s.queue(owner)
    octets = wire.publish_frames(lost.number, "", queue, b"complete") + wire.publish_frames(
        lost.number, "", queue, b"incomplete")
    lost.connection.send(octets[:-3])
    owner.holds(queue, 1)
    lost.connection.drop()
    owner.holds(queue, 1)
    owner.got(queue, b"complete")


@scenario
def a_consumer_that_does_not_read_holds_nobody_else_up(s):
    stuck, other, publisher = s.channel(), s.channel(), s.channel()
    queue, free = s.queue(publisher), s.queue(publisher)
    stuck.consume(queue, no_ack=True)
    for _ in range(200):
        publisher.publish(queue, b"x" * 100000)  # 20 MB that nobody takes off the socket
    other.consume(free, no_ack=True)
    for n in range(50):
        publisher.publish(free, f"{n}")
        other.delivered(f"{n}")


@scenario
def a_consumer_that_reads_late_gets_everything(s):
    late, publisher = s.channel(), s.channel()
    queue = s.queue(publisher)
    late.consume(queue, no_ack=True)
    publisher.select()
    for n in range(100):
        publisher.publish_confirmed(queue, f"{n:04}" * 25000)
    for n in range(100):
        if late.expect("basic.deliver").body[:4] != f"{n:04}".encode():
            raise Failure(f"message {n} is not the next one")


@scenario
def a_long_backlog_drains_in_order(s):
    channel, consumer = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for n in range(10000):
        channel.publish(queue, f"{n}", delivery_mode=2)
    channel.all_confirmed(10000)
    consumer.call("basic.qos", prefetch_count=300)
    consumer.consume(queue)
    for n in range(10000):
        method = consumer.expect("basic.deliver", body=f"{n}")
        if n % 100 == 99:
            consumer.ack(method.delivery_tag, multiple=True)
    consumer.holds(queue, 0)


@scenario
def a_fanout_to_many_queues_reaches_all(s):
    channel = s.channel()
    exchange = s.exchange(channel, "fanout")
    queues = [channel.declare("", exclusive=True).queue for _ in range(150)]
    for queue in queues:
        channel.bind(queue, exchange)
    channel.select()
    for n in range(3):
        channel.publish_confirmed("", f"{n}", exchange=exchange)
    for queue in queues:
        check_equal("messages", channel.counts(queue)[0], 3)


@scenario
def connections_that_come_and_go_leave_nothing_behind(s):
    watcher = s.channel()
    queue = s.queue(watcher)
    for n in range(60):
        channel = s.channel()
        channel.consume(queue)
        if n % 3 == 0:
            channel.connection.close()
        elif n % 3 == 1:
            channel.connection.drop()
        else:
            channel.connection.send(b"\0\0\0rubbish")
    watcher.holds(queue, 0, consumers=0)


@scenario
def deleting_a_queue_that_others_use_ends_their_use_only(s):
    owner, consumer, publisher = s.channel(), s.channel(), s.channel()
    queue = s.queue(owner)
    consumer.consume(queue, "c")
    publisher.publish(queue, b"m")
    consumer.delivered(b"m")
    owner.call("queue.delete", queue=queue)
    consumer.expect("basic.cancel", consumer_tag="c")
    consumer.ack(1)
    consumer.sync()
    publisher.publish(queue, b"m", mandatory=True)
    publisher.expect("basic.return", reply_code=312)


@scenario
def two_connections_may_declare_the_same_queue_at_once(s):
    name, channels = s.queue_name(), [s.channel() for _ in range(8)]
    for channel in channels:
        channel.say("queue.declare", queue=name, durable=True)
    for channel in channels:
        channel.expect("queue.declare-ok", queue=name)


@scenario
def of_two_connections_that_claim_a_queue_at_once_one_gets_it(s):
    name, channels = s.queue_name(), [s.channel() for _ in range(8)]
    for channel in channels:
        channel.say("queue.declare", queue=name, exclusive=True)
    owners = 0
    for channel in channels:
        method = channel.connection
        while not method.inbox(channel.number):
            method.pump()
        answer = method.inbox(channel.number).popleft()
        if answer.name == "queue.declare-ok":
            owners += 1
        else:
            check_equal("answer", (answer.name, answer.reply_code), ("channel.close", 405))
    check_equal("owners", owners, 1)


@scenario
def consumers_of_one_queue_on_many_connections_share_it_in_turn(s):
    publisher, consumers = s.channel(), [s.channel() for _ in range(5)]
    queue = s.queue(publisher)
    for consumer in consumers:
        consumer.consume(queue, no_ack=True)
    publisher.holds(queue, 0, consumers=5)
    publisher.publish_all(queue, [f"{n}" for n in range(50)])
    for consumer in consumers:
        for _ in range(10):
            consumer.expect("basic.deliver")


@scenario(not_rabbitmq="3.10 has one timeout for the whole broker; and its channel ends with 541 "
                       "when a consumer is cancelled before consume-ok was sent")
def a_channel_that_ends_by_its_timer_does_not_disturb_the_requests_of_another(s):
    """The answers come from other threads; the connection must go on waiting for each."""
    owners = [s.channel() for _ in range(4)]
    queues = [s.queue(owner) for owner in owners]
    lates = [s.channel()]
    lates += [lates[0].connection.channel() for _ in range(2)]
    busy = lates[0].connection.channel()
    for seconds, late in enumerate(lates, 3):  # enough to cancel in, on a busy machine
        owners[0].publish(queues[0], "never settled")
        late.consume(queues[0], "late", arguments={"x-consumer-timeout": 1000 * seconds})
        late.expect("basic.deliver")
        late.call("basic.cancel", consumer_tag="late")
    requests = b""
    for n in range(100):
        queue = queues[1 + n % 3]
        requests += wire.method_frame(busy.number, "queue.declare", queue=queue, passive=True)
        requests += wire.method_frame(busy.number, "basic.consume", queue=queue,
                                      consumer_tag=f"{n}")
        requests += wire.method_frame(busy.number, "basic.cancel", consumer_tag=f"{n}")
    busy.connection.send(requests)
    while not all(is_closed(late) for late in lates):
        busy.connection.send(requests)  # before those before are answered: it always waits
        expect_round(busy, queues)
    expect_round(busy, queues)
    for late in lates:
        late.refused(406, re.compile("delivery acknowledgement on channel .* timed out"), by="")


def is_closed(channel):
    inbox = channel.connection.inbox(channel.number)
    return any(method.name == "channel.close" for method in inbox)


def expect_round(busy, queues):
    for n in range(100):
        busy.expect("queue.declare-ok", queue=queues[1 + n % 3])
        busy.expect("basic.consume-ok", consumer_tag=f"{n}")
        busy.expect("basic.cancel-ok", consumer_tag=f"{n}")


@scenario
def a_declaration_that_crosses_a_deletion_is_never_told_that_there_is_no_queue(s):
    """It finds the queue, or makes it: only who declares it passively may be told."""
    deleters, declarers = [s.channel() for _ in range(2)], [s.channel() for _ in range(2)]
    queue = s.queue_name()
    for _ in range(300):
        for channel in declarers:
            channel.connection.send(20 * wire.method_frame(channel.number, "queue.declare",
                                                           queue=queue))
        for channel in deleters:
            channel.connection.send(20 * wire.method_frame(channel.number, "queue.delete",
                                                           queue=queue))
        for _ in range(20):
            for channel in declarers:
                channel.expect("queue.declare-ok", queue=queue)
            for channel in deleters:
                channel.expect("queue.delete-ok")
