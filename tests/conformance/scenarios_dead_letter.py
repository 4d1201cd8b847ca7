"""Dead-lettering: what is a dead letter, where it goes, and when a cycle of queues ends."""
from client import check_equal
from dead_letters import await_message, deaths, kill, pair, source
from harness import scenario


@scenario
def reject_publish_dlx_dead_letters_what_does_not_fit(s):
    channel = s.channel()
    queue, target = pair(s, channel, x_max_length=1, x_overflow="reject-publish-dlx")
    channel.select()
    channel.publish_confirmed(queue, b"a")
    channel.publish(queue, b"b")
    channel.expect("basic.nack", delivery_tag=2)
    message = await_message(channel, target)
    check_equal("death", (message.body, deaths(message)), (b"b", [(queue, "maxlen", 1)]))
    channel.got(queue, b"a")


@scenario
def reject_publish_does_not_dead_letter(s):
    channel = s.channel()
    queue, target = pair(s, channel, x_max_length=1, x_overflow="reject-publish")
    channel.select()
    channel.publish_confirmed(queue, b"a")
    channel.publish(queue, b"b")
    channel.expect("basic.nack", delivery_tag=2)
    channel.silent(queue, target)
    channel.holds(target, 0)


@scenario
def without_a_dead_letter_key_the_messages_own_keys_are_used(s):
    channel = s.channel()
    exchange, target = s.exchange(channel), s.queue(channel)
    queue = source(s, channel, exchange)
    channel.bind(target, exchange, queue)
    kill(channel, queue)
    channel.holds(target, 1)
    channel.got(target, b"m", exchange=exchange, routing_key=queue)


@scenario
def with_a_dead_letter_key_that_key_is_used(s):
    channel = s.channel()
    exchange, target = s.exchange(channel), s.queue(channel)
    queue = source(s, channel, exchange, "dead")
    channel.bind(target, exchange, "dead")
    kill(channel, queue)
    message = await_message(channel, target)
    check_equal("key", (message.exchange, message.routing_key), (exchange, "dead"))
    check_equal("keys before", message.headers["x-death"][0]["routing-keys"], [queue])


@scenario
def a_missing_dead_letter_exchange_loses_the_message(s):
    channel = s.channel()
    queue = source(s, channel, "amq.not.there")
    kill(channel, queue)
    channel.silent(queue)
    channel.holds(queue, 0)


@scenario
def a_dead_letter_exchange_that_comes_later_is_used(s):
    channel, name = s.channel(), s.exchange_name()
    queue, target = source(s, channel, name, "k"), s.queue(channel)
    channel.declare_exchange(name)
    channel.bind(target, name, "k")
    kill(channel, queue)
    channel.holds(target, 1)


@scenario
def what_no_queue_takes_is_lost_or_goes_to_the_alternate_exchange(s):
    channel = s.channel()
    alternate, target = s.exchange(channel, "fanout"), s.queue(channel)
    exchange = s.exchange(channel, arguments={"alternate-exchange": alternate})
    channel.bind(target, alternate)
    kill(channel, source(s, channel, exchange))
    channel.holds(target, 1)


@scenario
def an_internal_exchange_may_be_a_dead_letter_exchange(s):
    channel = s.channel()
    exchange, target = s.exchange(channel, "fanout", internal=True), s.queue(channel)
    channel.bind(target, exchange)
    kill(channel, source(s, channel, exchange))
    channel.holds(target, 1)


@scenario
def a_dead_letter_reaches_every_bound_queue(s):
    channel = s.channel()
    exchange, targets = s.exchange(channel, "fanout"), [s.queue(channel) for _ in range(3)]
    for target in targets:
        channel.bind(target, exchange)
    kill(channel, source(s, channel, exchange))
    for target in targets:
        check_equal("reason", await_message(channel, target).headers["x-first-death-reason"],
                    "rejected")


def stays_empty(channel, *queues):
    """A message that went round in these queues every millisecond would be seen in one of them."""
    for queue in queues:
        channel.holds(queue, 0)
    for _ in range(30):
        check_equal("messages", sum(channel.counts(queue)[0] for queue in queues), 0)


@scenario
def a_cycle_of_expiry_alone_ends(s):
    channel, name = s.channel(), s.queue_name()
    channel.declare(name, arguments={"x-dead-letter-exchange": "",
                                     "x-dead-letter-routing-key": name, "x-message-ttl": 20})
    channel.select()
    channel.publish_confirmed(name, b"m")
    stays_empty(channel, name)


@scenario
def a_cycle_of_two_queues_by_expiry_alone_ends(s):
    channel, one, two = s.channel(), s.queue_name(), s.queue_name()
    for name, other in ((one, two), (two, one)):
        channel.declare(name, arguments={"x-dead-letter-exchange": "", "x-message-ttl": 20,
                                         "x-dead-letter-routing-key": other})
    channel.select()
    channel.publish_confirmed(one, b"m")
    stays_empty(channel, one, two)


@scenario
def a_cycle_with_a_reject_goes_on(s):
    channel, name = s.channel(), s.queue_name()
    channel.declare(name, arguments={"x-dead-letter-exchange": "",
                                     "x-dead-letter-routing-key": name})
    channel.consume(name)
    channel.publish(name, b"m")
    for count in range(4):
        message = channel.expect("basic.deliver", body=b"m")
        check_equal("deaths", deaths(message) if count else [],
                    [(name, "rejected", count)] if count else [])
        channel.reject(message.delivery_tag, requeue=False)


@scenario
def a_cycle_skips_only_the_queue_that_closes_it(s):
    channel, name = s.channel(), s.queue_name()
    exchange, other = s.exchange(channel, "fanout"), s.queue(channel)
    channel.declare(name, arguments={"x-dead-letter-exchange": exchange, "x-message-ttl": 1})
    channel.bind(name, exchange)
    channel.bind(other, exchange)
    channel.publish(name, b"m")
    channel.holds(other, 1)
    channel.holds(name, 0)
    channel.silent(name, other)
    channel.holds(other, 1)


@scenario
def purged_and_deleted_messages_are_not_dead_lettered(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 2)
    channel.call("queue.purge", queue=queue)
    channel.publish(queue, "c")
    channel.holds(queue, 1)
    channel.call("queue.delete", queue=queue)
    channel.silent(target)
    channel.holds(target, 0)


@scenario
def acked_and_requeued_messages_are_not_dead_lettered(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 2)
    channel.got(queue, "a", no_ack=False)
    channel.got(queue, "b", no_ack=False)
    channel.ack(1)
    channel.reject(2, requeue=True)
    channel.holds(queue, 1)
    channel.silent(target)
    channel.holds(target, 0)


@scenario
def dead_letters_come_in_order(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    channel.consume(target, no_ack=True)
    for n in range(100):
        channel.publish(queue, f"{n}")
    channel.holds(queue, 100)
    channel.consume(queue, "killer")
    for n in range(100):
        channel.delivered(f"{n}", consumer_tag="killer")
    channel.nack(0, multiple=True, requeue=False)
    channel.delivered(*[f"{n}" for n in range(100)])


@scenario
def dead_lettered_messages_fill_a_limited_queue_like_others(s):
    channel = s.channel()
    target = s.queue(channel, arguments={"x-max-length": 2})
    queue = source(s, channel, "", target)
    for text in "abc":
        kill(channel, queue, text)
    channel.silent(target)
    channel.holds(target, 2)
    channel.got(target, "b")


@scenario
def a_transacted_reject_dead_letters_with_commit(s):
    channel, other = s.channel(), s.channel()
    queue, target = pair(s, channel)
    channel.publish(queue, "a")
    channel.holds(queue, 1)
    channel.call("tx.select")
    channel.got(queue, "a", no_ack=False)
    channel.reject(1, requeue=False)
    channel.sync()
    other.silent(queue, target)
    other.holds(target, 0)
    channel.call("tx.commit")
    other.holds(target, 1)
