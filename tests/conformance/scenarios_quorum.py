"""Queues declared with x-queue-type quorum, and delivery limits."""
import re

from client import Failure, check_equal
from harness import add, scenario


def declare(s, channel, **arguments):
    return s.queue(channel, durable=True,
                   arguments={"x-queue-type": "quorum",
                              **{k.replace("_", "-"): v for k, v in arguments.items()}})


for property, fields in [("non-durable", {"durable": False}),
                         ("auto-delete", {"auto_delete": True}),
                         ("exclusive-owner", {"exclusive": True})]:
    def wrong_property(s, property=property, fields=fields):
        name = s.queue_name()
        s.channel().refuses("queue.declare", 406,
                            f"invalid property '{property}' for queue '{name}' in vhost '/'",
                            queue=name, arguments={"x-queue-type": "quorum"},
                            **{"durable": True, **fields})
    add(f"a_quorum_queue_must_not_be_{property.replace('-', '_')}", wrong_property)


@scenario
def a_quorum_queue_needs_a_name(s):
    s.channel().refuses("queue.declare", 406,
                        "Cannot declare a server-named queue for type rabbit_quorum_queue",
                        queue="", durable=True, arguments={"x-queue-type": "quorum"})


for argument, value in [("x-max-priority", 5), ("x-queue-mode", "lazy"), ("x-queue-version", 1),
                        ("x-max-age", "1h"), ("x-stream-max-segment-size-bytes", 1000000)]:
    def not_for_quorum(s, argument=argument, value=value):
        name = s.queue_name()
        s.channel().refuses("queue.declare", 406,
                            f"invalid arg '{argument}' for queue '{name}' in vhost '/' of queue "
                            "type rabbit_quorum_queue", queue=name, durable=True,
                            arguments={"x-queue-type": "quorum", argument: value})
    add(f"a_quorum_queue_takes_no_{argument[2:].replace('-', '_')}", not_for_quorum)


@scenario
def a_quorum_queue_takes_the_arguments_meant_for_it(s):
    channel = s.channel()
    queue = declare(s, channel, x_message_ttl=60000, x_expires=60000, x_max_length=10,
                    x_max_length_bytes=1000, x_overflow="reject-publish", x_delivery_limit=5,
                    x_dead_letter_exchange="", x_dead_letter_routing_key="k",
                    x_dead_letter_strategy="at-least-once", x_single_active_consumer=True,
                    x_quorum_initial_group_size=3, x_max_in_memory_length=5,
                    x_queue_leader_locator="client-local")
    channel.counts(queue)


for argument, value, text in [("x-overflow", "wrong", "invalid_overflow"),
                              ("x-dead-letter-strategy", "wrong", "invalid_dlx_strategy"),
                              ("x-queue-leader-locator", "wrong", "invalid_queue_locator_arg")]:
    def wrong_word(s, argument=argument, value=value, text=text):
        name = s.queue_name()
        start = (f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '/': "
                 + text)
        s.channel().refuses("queue.declare", 406, re.compile(re.escape(start)), queue=name,
                            durable=True, arguments={"x-queue-type": "quorum", argument: value})
    add(f"an_unknown_{argument[2:].replace('-', '_')}_of_a_quorum_queue_is_refused", wrong_word)


@scenario
def a_quorum_group_of_0_is_refused(s):
    name = s.queue_name()
    s.channel().refuses("queue.declare", 406,
                        re.compile("invalid arg 'x-quorum-initial-group-size' for queue .*: ."),
                        queue=name, durable=True,
                        arguments={"x-queue-type": "quorum", "x-quorum-initial-group-size": 0})


@scenario
def a_quorum_queue_is_not_a_classic_one(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.refuses("queue.declare", 406,
                    f"inequivalent arg 'x-queue-type' for queue '{queue}' in vhost '/': received "
                    "none but current is the value 'quorum' of type 'longstr'", queue=queue,
                    durable=True)


for argument, first, second, kind in [
        ("x-message-ttl", 60000, 70000, "signedint"), ("x-delivery-limit", 5, 6, "signedint"),
        ("x-max-in-memory-length", 1, 2, "signedint"), ("x-max-length", 1, 2, "signedint"),
        ("x-max-in-memory-bytes", 1, 2, "signedint"), ("x-expires", 60000, 70000, "signedint"),
        ("x-quorum-initial-group-size", 1, 3, "signedint"),
        ("x-dead-letter-exchange", "a", "b", "longstr"),
        ("x-overflow", "drop-head", "reject-publish", "longstr"),
        ("x-queue-leader-locator", "client-local", "balanced", "longstr"),
        ("x-dead-letter-strategy", "at-most-once", "at-least-once", "longstr")]:
    def differs(s, argument=argument, first=first, second=second, kind=kind):
        name, quorum = s.queue_name(), {"x-queue-type": "quorum"}
        start = f"inequivalent arg '{argument}' for queue '{name}' in vhost '/': "
        channel = s.channel()
        channel.declare(name, durable=True, arguments={**quorum, argument: first})
        channel.refuses("queue.declare", 406,
                        f"{start}received '{second}' but current is '{first}'",
                        queue=name, durable=True, arguments={**quorum, argument: second})
        s.channel().refuses("queue.declare", 406,
                            f"{start}received none but current is the value '{first}' of type "
                            f"'{kind}'", queue=name, durable=True, arguments=quorum)
    add(f"another_{argument[2:].replace('-', '_')}_of_a_quorum_queue_is_inequivalent", differs)


@scenario
def a_quorum_queue_compares_nothing_that_it_does_not_take(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.declare(queue, durable=True, arguments={"x-queue-type": "quorum", "x-max-priority": 5,
                                                    "x-queue-mode": "lazy"})


@scenario
def a_quorum_queue_gives_back_what_its_lost_consumer_had(s):
    channel = s.channel()
    queue = declare(s, channel)
    other = channel.connection.channel()
    other.consume(queue)
    channel.publish(queue, b"m")
    other.delivered(b"m")
    other.close()
    channel.consume(queue)
    channel.delivered(b"m", redelivered=True, properties={"headers": {"x-delivery-count": 1}})


@scenario
def recover_counts_a_delivery_of_a_quorum_queue(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.consume(queue)
    channel.publish(queue, b"m")
    channel.delivered(b"m")
    channel.say("basic.recover", requeue=True)
    channel.answer("basic.recover-ok")
    channel.delivered(b"m", redelivered=True, properties={"headers": {"x-delivery-count": 1}})


@scenario
def a_quorum_queues_messages_expire_and_are_dead_lettered(s):
    channel = s.channel()
    target = s.queue(channel)
    queue = declare(s, channel, x_message_ttl=1, x_dead_letter_exchange="",
                    x_dead_letter_routing_key=target)
    channel.publish(queue, b"m")
    channel.holds(target, 1)
    check_equal("reason", channel.got(target, b"m").headers["x-death"][0]["reason"], "expired")


@scenario(not_rabbitmq="3.10 says x-delivery-count 0 to basic.get; 4.x does not")
def a_message_that_was_got_for_the_first_time_has_no_delivery_count(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    check_equal("properties", channel.got(queue, b"m", redelivered=False).properties, {})


@scenario
def a_quorum_queue_delivers_acks_and_requeues(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.select()
    for text in "ab":
        channel.publish_confirmed(queue, text, delivery_mode=2)
    channel.consume(queue)
    channel.delivered("a", "b", redelivered=False)
    channel.ack(1)
    channel.nack(2)
    channel.delivered("b", redelivered=True)
    channel.ack(3)
    channel.holds(queue, 0)


@scenario
def a_quorum_queue_can_be_purged_and_deleted(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.select()
    for text in "abc":
        channel.publish_confirmed(queue, text)
    check_equal("purged", channel.call("queue.purge", queue=queue).message_count, 3)
    channel.call("queue.delete", queue=queue)
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


@scenario
def a_returned_quorum_message_counts_its_deliveries(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.consume(queue)
    channel.publish(queue, b"m")
    message = channel.delivered(b"m")
    check_equal("first", message.properties.get("headers", {}).get("x-delivery-count"), None)
    for count in (1, 2):
        channel.reject(message.delivery_tag)
        message = channel.delivered(b"m", redelivered=True)
        check_equal("deliveries before", message.headers.get("x-delivery-count"), count)


def limit_reached(s, arguments):
    channel = s.channel()
    target = s.queue(channel)
    queue = s.queue(channel, durable=True, arguments={
        **arguments, "x-delivery-limit": 2, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": target})
    channel.consume(queue, "worker")
    channel.publish(queue, b"m")
    for _ in range(3):
        channel.reject(channel.delivered(b"m", consumer_tag="worker").delivery_tag)
    channel.holds(target, 1)
    message = channel.got(target, b"m")
    (death,) = message.headers["x-death"]
    check_equal("death", (death["queue"], death["reason"], death["count"]),
                (queue, "delivery_limit", 1))
    check_equal("first reason", message.headers["x-first-death-reason"], "delivery_limit")
    channel.holds(queue, 0)


@scenario
def a_quorum_message_returned_too_often_is_dead_lettered(s):
    limit_reached(s, {"x-queue-type": "quorum"})


@scenario(not_rabbitmq="classic queues of RabbitMQ take no x-delivery-limit")
def a_classic_queue_may_have_a_delivery_limit_too(s):
    limit_reached(s, {})


@scenario
def without_a_dead_letter_exchange_a_message_returned_too_often_is_dropped(s):
    channel = s.channel()
    queue = declare(s, channel, x_delivery_limit=0)
    channel.consume(queue)
    channel.publish_all(queue, "ab")
    channel.delivered("a", "b")
    channel.reject(1)
    channel.holds(queue, 0)
    channel.silent(queue)


@scenario(not_rabbitmq="3.10 has no limit unless one is given; it is 20 since 4.0")
def a_quorum_queues_limit_is_20_unless_given(s):
    channel = s.channel()
    target = s.queue(channel)
    queue = declare(s, channel, x_dead_letter_exchange="", x_dead_letter_routing_key=target)
    channel.consume(queue)
    channel.publish(queue, b"m")
    for _ in range(21):
        channel.reject(channel.delivered(b"m").delivery_tag)
    channel.holds(target, 1)
    channel.silent(queue)


@scenario
def a_quorum_queue_rejects_what_does_not_fit(s):
    channel = s.channel()
    queue = declare(s, channel, x_max_length=3, x_overflow="reject-publish")
    channel.select()
    answers = []
    for _ in range(40):  # RabbitMQ lets a few more in before it notices
        channel.publish(queue, b"m")
        answers.append(channel.answer("basic.ack", "basic.nack").name)
    if answers[:3] != ["basic.ack"] * 3 or answers[-1] != "basic.nack":
        raise Failure(f"the answers were {answers}")


@scenario(not_rabbitmq="RabbitMQ has streams")
def a_stream_is_refused_rather_than_promised(s):
    name = s.queue_name()
    s.channel().refuses("queue.declare", 406,
                        re.compile(f"invalid arg 'x-queue-type' for queue '{name}' .*stream"),
                        queue=name, durable=True, arguments={"x-queue-type": "stream"})


@scenario(not_rabbitmq="3.10 refuses these with 540, as all versions do: they are no danger here")
def a_quorum_queue_may_be_deleted_if_unused_and_empty_and_read_with_global_prefetch(s):
    channel = s.channel()
    queue = declare(s, channel)
    channel.call("basic.qos", prefetch_count=1, global_=True)
    channel.consume(queue, "t")
    channel.publish_all(queue, "ab")
    channel.delivered("a")
    channel.silent(queue)
    channel.refuses("queue.delete", 406, f"queue '{queue}' in vhost '/' in use", queue=queue,
                    if_unused=True)
    channel = channel.connection.channel()
    channel.holds(queue, 2)
    channel.call("queue.purge", queue=queue)
    channel.call("queue.delete", queue=queue, if_unused=True, if_empty=True)


@scenario(not_rabbitmq="classic queues of RabbitMQ take no x-delivery-limit")
def a_classic_queue_counts_deliveries_if_it_has_a_limit_and_only_then(s):
    channel = s.channel()
    for arguments, wanted in (({}, None), ({"x-delivery-limit": 5}, 1)):
        queue = s.queue(channel, arguments=arguments)
        channel.publish(queue, b"m")
        channel.holds(queue, 1)
        channel.reject(channel.got(queue, b"m", no_ack=False).delivery_tag)
        channel.holds(queue, 1)
        check_equal("count", channel.got(queue, b"m").headers.get("x-delivery-count"), wanted)
