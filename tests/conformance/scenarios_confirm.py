"""Publisher confirms and transactions."""
import itertools

import amqp_wire as wire
from client import Failure
from harness import scenario


@scenario
def confirm_select_is_answered(s):
    s.channel().call("confirm.select")


@scenario
def confirm_select_twice_is_fine_and_tags_go_on(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.select()
    channel.publish(queue, b"m")
    channel.select()
    channel.publish(queue, b"m")
    channel.all_confirmed(2)


@scenario
def confirm_select_with_no_wait_is_not_answered(s):
    channel = s.channel()
    channel.say("confirm.select", no_wait=True)
    channel.publish("nowhere", b"m", exchange="amq.direct")
    channel.expect("basic.ack", delivery_tag=1)


@scenario
def confirms_count_from_1(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"before")
    channel.select()
    channel.publish(queue, b"after")
    channel.expect("basic.ack", delivery_tag=1, multiple=False)


@scenario
def confirms_count_per_channel(s):
    connection = s.connect()
    for _ in range(2):
        channel = connection.channel()
        channel.select()
        channel.publish("nowhere", b"m", exchange="amq.direct")
        channel.expect("basic.ack", delivery_tag=1)


@scenario
def without_confirm_select_nothing_is_confirmed(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    channel.silent()


@scenario
def every_message_is_confirmed_once(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for n in range(1000):
        channel.publish(queue, b"m", delivery_mode=1 + n % 2)
    channel.all_confirmed(1000)
    channel.silent(queue)
    channel.holds(queue, 1000)


@scenario
def an_unroutable_message_is_confirmed(s):
    channel = s.channel()
    channel.select()
    channel.publish("nowhere", b"m", exchange="amq.direct")
    channel.expect("basic.ack", delivery_tag=1)


@scenario
def a_returned_message_is_confirmed_after_its_return(s):
    channel = s.channel()
    channel.select()
    channel.publish("nowhere", b"m", exchange="amq.direct", mandatory=True)
    channel.expect("basic.return", body=b"m")
    channel.expect("basic.ack", delivery_tag=1)


@scenario
def a_confirmed_message_is_in_its_queue(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    channel.publish_confirmed(queue, b"m", delivery_mode=2)
    other.got(queue, b"m")


@scenario
def a_message_for_several_queues_is_confirmed_once(s):
    channel = s.channel()
    exchange = s.exchange(channel, "fanout")
    queues = [s.queue(channel, durable=n % 2 == 0) for n in range(6)]
    for queue in queues:
        channel.bind(queue, exchange)
    channel.select()
    channel.publish("", b"m", exchange=exchange, delivery_mode=2)
    channel.all_confirmed(1)
    channel.silent(*queues)


@scenario
def a_message_taken_by_a_consumer_without_ack_is_confirmed(s):
    channel, consumer = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    consumer.consume(queue, no_ack=True)
    channel.select()
    channel.publish(queue, b"m", delivery_mode=2)
    channel.all_confirmed(1)
    consumer.delivered(b"m")


@scenario
def a_message_acked_before_it_is_on_disk_is_confirmed(s):
    channel, consumer = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    consumer.consume(queue)
    channel.select()
    channel.publish(queue, b"m", delivery_mode=2)
    consumer.delivered(b"m")
    consumer.ack(1)
    channel.all_confirmed(1)


@scenario
def messages_to_a_queue_that_is_deleted_are_confirmed(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for _ in range(200):
        channel.publish(queue, b"m", delivery_mode=2)
    other.call("queue.delete", queue=queue)
    channel.all_confirmed(200)


@scenario
def messages_to_a_queue_that_is_purged_are_confirmed(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for _ in range(200):
        channel.publish(queue, b"m", delivery_mode=2)
    other.call("queue.purge", queue=queue)
    channel.all_confirmed(200)


@scenario
def an_expired_message_is_confirmed(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True, arguments={"x-message-ttl": 0})
    channel.select()
    channel.publish(queue, b"m", delivery_mode=2)
    channel.all_confirmed(1)


@scenario
def large_persistent_messages_are_confirmed(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for n in range(5):
        channel.publish(queue, bytes([n]) * 1_000_000, delivery_mode=2)
    channel.all_confirmed(5)
    for n in range(5):
        if channel.get(queue).body != bytes([n]) * 1_000_000:
            raise Failure(f"message {n} has another body")


# transactions

@scenario
def what_is_published_in_a_transaction_arrives_with_commit(s):
    channel, other = s.channel(), s.channel()
    queue = s.queue(channel)
    channel.call("tx.select")
    channel.publish_all(queue, "ab")
    channel.sync()
    other.silent(queue)
    other.holds(queue, 0)
    channel.call("tx.commit")
    other.holds(queue, 2)
    other.got(queue, "a")
    other.got(queue, "b")


@scenario
def rollback_forgets_what_was_published(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("tx.select")
    channel.publish(queue, "a")
    channel.call("tx.rollback")
    channel.publish(queue, "b")
    channel.call("tx.commit")
    channel.holds(queue, 1)
    channel.got(queue, "b")


@scenario
def closing_the_channel_forgets_an_open_transaction(s):
    connection = s.connect()
    channel, other = connection.channel(), connection.channel()
    queue = s.queue(channel)
    channel.call("tx.select")
    channel.publish(queue, "a")
    channel.close()
    other.publish(queue, "b")
    other.holds(queue, 1)
    other.got(queue, "b")


@scenario
def acks_in_a_transaction_count_with_commit(s):
    connection = s.connect()
    channel, other = connection.channel(), connection.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 2)
    channel.call("tx.select")
    channel.got(queue, "a", no_ack=False)
    channel.got(queue, "b", no_ack=False)
    channel.ack(1)
    channel.call("tx.commit")
    channel.ack(2)
    channel.close()
    other.holds(queue, 1)
    other.got(queue, "b")


@scenario
def rollback_takes_acks_back(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "a")
    channel.holds(queue, 1)
    channel.call("tx.select")
    channel.got(queue, "a", no_ack=False)
    channel.ack(1)
    channel.call("tx.rollback")
    channel.holds(queue, 0)
    channel.ack(1)
    channel.call("tx.commit")


@scenario
def rejects_in_a_transaction_count_with_commit(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "a")
    channel.holds(queue, 1)
    channel.call("tx.select")
    channel.got(queue, "a", no_ack=False)
    channel.reject(1)
    channel.holds(queue, 0)
    channel.call("tx.commit")
    channel.holds(queue, 1)


@scenario
def an_unroutable_mandatory_message_comes_back_with_commit(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.publish("nowhere", b"m", exchange="amq.direct", mandatory=True)
    channel.call("tx.commit")
    channel.expect("basic.return", reply_code=312)


@scenario
def an_empty_transaction_can_be_committed_and_rolled_back(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.call("tx.commit")
    channel.call("tx.rollback")
    channel.call("tx.select")


@scenario
def publishing_to_a_missing_exchange_in_a_transaction_is_404_at_once(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.publish("k", b"m", exchange="amq.none")
    channel.refused(404, "no exchange 'amq.none' in vhost '/'", by="basic.publish")


@scenario
def a_transaction_to_several_queues_arrives_in_each(s):
    channel = s.channel()
    one, two = s.queue(channel, durable=True), s.queue(channel)
    channel.call("tx.select")
    for n in range(10):
        channel.publish(one, f"{n}", delivery_mode=2)
        channel.publish(two, f"{n}")
    channel.call("tx.commit")
    for queue in (one, two):
        channel.holds(queue, 10)
        channel.got(queue, "0")


@scenario
def a_commit_that_a_queue_rejects_in_part_is_refused(s):
    channel = s.channel()
    full = s.queue(channel, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    roomy = s.queue(channel)
    channel.call("tx.select")
    channel.publish(full, "a")
    channel.publish(roomy, "b")
    channel.refuses("tx.commit", 406, "partial tx completion")
    other = channel.connection.channel()
    other.holds(roomy, 1)


@scenario
def selecting_a_transaction_twice_is_no_error(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.call("tx.select")


@scenario
def an_unknown_tag_in_a_transaction_is_refused_at_once(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.refuses("basic.ack", 406, "unknown delivery tag 5", delivery_tag=5)


@scenario
def acking_twice_in_a_transaction_is_refused(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "a")
    channel.holds(queue, 1)
    channel.call("tx.select")
    channel.got(queue, "a", no_ack=False)
    channel.ack(1)
    channel.refuses("basic.ack", 406, "unknown delivery tag 1", delivery_tag=1)


@scenario
def recover_is_not_part_of_a_transaction(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 2)
    channel.call("tx.select")
    channel.got(queue, "a", no_ack=False)
    channel.got(queue, "b", no_ack=False)
    channel.ack(1)
    channel.call("basic.recover", requeue=True)
    channel.holds(queue, 1)
    channel.call("tx.commit")
    channel.holds(queue, 1)
    channel.got(queue, "b", redelivered=True)


@scenario
def a_transactions_target_may_be_deleted_before_commit(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("tx.select")
    channel.publish(queue, "a")
    channel.call("queue.delete", queue=queue)
    channel.call("tx.commit")


@scenario
def returns_of_a_transaction_come_before_commit_ok(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.publish("nowhere", "a", exchange="amq.direct", mandatory=True)
    channel.publish("nowhere", "b", exchange="amq.direct", mandatory=True)
    channel.say("tx.commit")
    channel.expect("basic.return", body=b"a")
    channel.expect("basic.return", body=b"b")
    channel.expect("tx.commit-ok")


@scenario
def recover_does_not_disturb_confirms(s):
    channel = s.channel()
    channel.select()
    channel.publish("nowhere", "m", exchange="amq.direct")
    channel.call("basic.recover", requeue=True)
    channel.all_confirmed(1)


@scenario
def commit_without_select_is_refused(s):
    s.channel().refuses("tx.commit", 406, "channel is not transactional")


@scenario
def rollback_without_select_is_refused(s):
    s.channel().refuses("tx.rollback", 406, "channel is not transactional")


@scenario
def a_transactional_channel_cannot_confirm(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.refuses("confirm.select", 406, "cannot switch from tx to confirm mode")


@scenario
def a_confirming_channel_cannot_be_transactional(s):
    channel = s.channel()
    channel.select()
    channel.refuses("tx.select", 406, "cannot switch from confirm to tx mode")


@scenario
def what_was_published_before_a_transaction_has_no_part_in_it(s):
    """A queue of another thread refuses it while the commit is under way."""
    for owner, channel in itertools.permutations([s.channel() for _ in range(3)], 2):
        channel = channel.connection.channel()
        full = s.queue(owner, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
        roomy = s.queue(owner, arguments={"x-max-length": 9, "x-overflow": "reject-publish"})
        channel.connection.send(
            wire.publish_frames(channel.number, "", full, b"refused")
            + wire.method_frame(channel.number, "tx.select")
            + wire.publish_frames(channel.number, "", roomy, b"committed")
            + wire.method_frame(channel.number, "tx.commit"))
        channel.expect("tx.select-ok")
        channel.expect("tx.commit-ok")
        channel.got(roomy, "committed")
