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
    queue = declare(s, channel)
    channel.consume(queue)
    channel.publish(queue, b"m")
    for _ in range(21):
        channel.reject(channel.delivered(b"m").delivery_tag)
    channel.holds(queue, 0)
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
