"""Dead letters that nobody takes: refused by a full queue, they wait where they were."""
from client import check_equal
from harness import scenario


DROPS = "3.10 drops a dead letter that a full queue refuses"


def full(s, channel, overflow="reject-publish", **fields):
    """A queue with room for one message, which it has."""
    queue = s.queue(channel, arguments={"x-max-length": 1, "x-overflow": overflow}, **fields)
    channel.publish(queue, "first")
    return queue


@scenario(not_rabbitmq=DROPS)
def a_refused_dead_letter_waits_until_there_is_room(s):
    channel = s.channel()
    target = full(s, channel)
    source = s.queue(channel, arguments={"x-dead-letter-exchange": "",
                                         "x-dead-letter-routing-key": target})
    channel.publish(source, "dead")
    channel.reject(channel.got(source, "dead", no_ack=False).delivery_tag, requeue=False)
    channel.silent(source, target)
    channel.got(target, "first")
    channel.consume(target, no_ack=True)
    channel.delivered("dead")


@scenario(not_rabbitmq=DROPS)
def expired_messages_wait_until_there_is_room(s):
    channel = s.channel()
    target = full(s, channel)
    source = s.queue(channel, arguments={"x-dead-letter-exchange": "", "x-message-ttl": 50,
                                         "x-dead-letter-routing-key": target})
    channel.publish_all(source, ["a", "b"])
    channel.holds(source, 0)
    channel.consume(target)
    channel.ack(channel.delivered("first").delivery_tag)
    arrived = set()
    for _ in range(2):
        message = channel.expect("basic.deliver")
        arrived.add(message.body.decode())
        channel.ack(message.delivery_tag)
    check_equal("messages", arrived, {"a", "b"})
    channel.silent(source, target)


@scenario
def a_dead_letter_that_one_of_its_queues_takes_does_not_come_again(s):
    channel = s.channel()
    exchange, refusing, taking = s.exchange(channel, "fanout"), full(s, channel), s.queue(channel)
    channel.bind(refusing, exchange)
    channel.bind(taking, exchange)
    source = s.queue(channel, arguments={"x-dead-letter-exchange": exchange})
    channel.publish(source, "dead")
    channel.reject(channel.got(source, "dead", no_ack=False).delivery_tag, requeue=False)
    channel.consume(taking, no_ack=True)
    channel.delivered("dead")
    channel.got(refusing, "first")
    channel.silent(taking, refusing)


@scenario
def a_dead_letter_that_is_refused_and_dead_lettered_again_has_gone_on(s):
    channel = s.channel()
    last = s.queue(channel)
    target = s.queue(channel, arguments={
        "x-max-length": 1, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": last})
    channel.publish(target, "first")
    source = s.queue(channel, arguments={"x-dead-letter-exchange": "",
                                         "x-dead-letter-routing-key": target})
    channel.publish(source, "dead")
    channel.reject(channel.got(source, "dead", no_ack=False).delivery_tag, requeue=False)
    channel.consume(last, no_ack=True)
    channel.delivered("dead")
    channel.got(target, "first")
    channel.silent(source, target, last)


@scenario(not_rabbitmq=DROPS)
def a_dead_letter_that_is_refused_and_has_nowhere_else_to_go_waits(s):
    channel = s.channel()
    target = full(s, channel, overflow="reject-publish-dlx")
    source = s.queue(channel, arguments={"x-dead-letter-exchange": "",
                                         "x-dead-letter-routing-key": target})
    channel.publish(source, "dead")
    channel.reject(channel.got(source, "dead", no_ack=False).delivery_tag, requeue=False)
    channel.silent(source, target)
    channel.got(target, "first")
    channel.consume(target, no_ack=True)
    channel.delivered("dead")


@scenario(restarts=True)
def a_refused_dead_letter_is_its_old_queues_again_after_a_crash(s):
    channel = s.channel()
    channel.select()
    target = s.queue(channel, durable=True, arguments={"x-max-length": 1,
                                                       "x-overflow": "reject-publish"})
    source = s.queue(channel, durable=True, arguments={"x-dead-letter-exchange": "",
                                                       "x-dead-letter-routing-key": target})
    channel.publish_confirmed(target, "first", delivery_mode=2)
    channel.publish_confirmed(source, "dead", delivery_mode=2)
    channel.reject(channel.got(source, "dead", no_ack=False).delivery_tag, requeue=False)
    channel.silent(source, target)
    channel.publish_confirmed(source, "after", delivery_mode=2)
    s.restart(kill=True)
    channel = s.channel()
    channel.got(source, "dead")
    channel.got(source, "after")
    channel.got(target, "first")
