"""The x-arguments of queue.declare: what is checked, and what is compared at a redeclaration.

Where RabbitMQ's text goes on in Erlang terms ({value_negative,-1}), only what stands before them is
compared.
"""
import re

from amqp_wire import Typed
from client import check_equal
from harness import add, scenario

def accepted(arguments):
    def run(s):
        s.queue(s.channel(), arguments=arguments)
    return run


def refused(argument, arguments, text=None):
    """text is the word that follows the names of argument and queue, where it is one word."""
    def run(s):
        channel, name = s.channel(), s.queue_name()
        start = (f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '/': "
                 + (text or ""))
        wanted = re.compile(re.escape(start) + ("" if text else "."))
        channel.refuses("queue.declare", 406, wanted, queue=name, durable=True, arguments=arguments)
    return run


INTEGERS = ["x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority"]


def integer_of_every_width(argument):
    """Clients choose the width freely."""
    def run(s):
        channel = s.channel()
        for tag in "bBsuIil":
            s.queue(channel, arguments={argument: Typed(tag, 100)})
    return run


for argument in INTEGERS:
    word = argument[2:].replace("-", "_")
    add(f"{word}_may_be_an_integer_of_any_width", integer_of_every_width(argument))
    add(f"{word}_must_not_be_negative", refused(argument, {argument: -1}))
    for value in ("5", True, 1.5, None):
        kind = {str: "text", bool: "bool", float: "double", type(None): "void"}[type(value)]
        add(f"{word}_must_not_be_{kind}", refused(argument, {argument: value}))

ROWS = [
    ("message_ttl_may_be_zero", {"x-message-ttl": 0}),
    ("message_ttl_may_be_ten_years", {"x-message-ttl": 315360000000}),
    ("max_length_may_be_zero", {"x-max-length": 0}),
    ("max_length_may_be_huge", {"x-max-length": 1 << 62}),
    ("max_priority_may_be_zero", {"x-max-priority": 0}),
    ("max_priority_may_be_255", {"x-max-priority": 255}),
    ("overflow_may_be_drop_head", {"x-overflow": "drop-head"}),
    ("overflow_may_be_reject_publish", {"x-overflow": "reject-publish"}),
    ("overflow_may_be_reject_publish_dlx", {"x-overflow": "reject-publish-dlx"}),
    ("queue_mode_may_be_lazy_or_default", {"x-queue-mode": "lazy"}),
    ("queue_version_may_be_2", {"x-queue-version": 2}),
    ("queue_type_may_be_classic", {"x-queue-type": "classic"}),
    ("a_dead_letter_exchange_need_not_exist", {"x-dead-letter-exchange": "amq.not.there"}),
    ("the_default_exchange_may_be_the_dead_letter_exchange", {"x-dead-letter-exchange": ""}),
    ("unknown_arguments_are_ignored", {"x-unknown": 1, "color": "blue", "x-table": {"a": [1]}}),
]
for name, arguments in ROWS:
    add(name, accepted(arguments))

ROWS = [
    ("message_ttl_above_ten_years_is_refused", "x-message-ttl", {"x-message-ttl": 315360000001},
     None),
    ("expires_above_ten_years_is_refused", "x-expires", {"x-expires": 315360000001}, None),
    ("expires_must_not_be_zero", "x-expires", {"x-expires": 0}, None),
    ("max_priority_above_255_is_refused", "x-max-priority", {"x-max-priority": 256}, None),
    ("an_unknown_overflow_is_refused", "x-overflow", {"x-overflow": "wrong"}, "invalid_overflow"),
    ("overflow_must_be_text", "x-overflow", {"x-overflow": 1}, None),
    ("single_active_consumer_must_be_bool", "x-single-active-consumer",
     {"x-single-active-consumer": 1}, None),
    ("single_active_consumer_must_not_be_text", "x-single-active-consumer",
     {"x-single-active-consumer": "true"}, None),
    ("an_unknown_queue_type_is_refused", "x-queue-type", {"x-queue-type": "wrong"}, None),
    ("queue_type_must_be_text", "x-queue-type", {"x-queue-type": 5}, None),
    ("a_dead_letter_routing_key_needs_an_exchange", "x-dead-letter-routing-key",
     {"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"),
    ("a_dead_letter_routing_key_must_be_text", "x-dead-letter-routing-key",
     {"x-dead-letter-exchange": "x", "x-dead-letter-routing-key": 1}, None),
    ("queue_version_must_be_known", "x-queue-version", {"x-queue-version": 3}, None),
]
for name, argument, arguments, text in ROWS:
    add(name, refused(argument, arguments, text))


def wrong_exchange_type(value, kind):
    def run(s):
        channel, name = s.channel(), s.queue_name()
        channel.refuses("queue.declare", 406,
                        f"invalid type '{kind}' for arg 'x-dead-letter-exchange' in queue "
                        f"'{name}' in vhost '/'", queue=name,
                        arguments={"x-dead-letter-exchange": value})
    return run


for value, kind in [(1, "signedint"), (True, "bool"), (None, "void"), (Typed("l", 5), "long"),
                    ([], "array"), ({}, "table"), (1.5, "double"), (Typed("T", 5), "timestamp")]:
    add(f"a_dead_letter_exchange_must_not_be_{kind}", wrong_exchange_type(value, kind))


# redeclaration

def inequivalent(argument, first, second, text, common=None):
    """Declared with one value and then with another; None stands for "not given"."""
    def run(s):
        channel, name = s.channel(), s.queue_name()
        one, two = ({**(common or {}), **({argument: value} if value is not None else {})}
                    for value in (first, second))
        channel.declare(name, durable=True, arguments=one)
        channel.refuses("queue.declare", 406,
                        f"inequivalent arg '{argument}' for queue '{name}' in vhost '/': {text}",
                        queue=name, durable=True, arguments=two)
    return run


def show(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


ROWS = [("x-message-ttl", 60000, 70000, "signedint"), ("x-expires", 60000, 70000, "signedint"),
        ("x-max-length", 1, 2, "signedint"), ("x-max-length-bytes", 1, 2, "signedint"),
        ("x-max-priority", 1, 2, "signedint"), ("x-queue-mode", "default", "lazy", "longstr"),
        ("x-overflow", "drop-head", "reject-publish", "longstr"),
        ("x-dead-letter-exchange", "a", "b", "longstr"),
        ("x-single-active-consumer", True, False, "bool"),
        ("x-queue-version", 1, 2, "signedint"),
        ("x-queue-master-locator", "client-local", "min-masters", "longstr")]
for argument, first, second, kind in ROWS:
    word = argument[2:].replace("-", "_")
    add(f"another_{word}_is_inequivalent",
        inequivalent(argument, first, second,
                     f"received '{show(second)}' but current is '{show(first)}'"))
    add(f"{word}_cannot_be_added_later",
        inequivalent(argument, None, first,
                     f"received the value '{show(first)}' of type '{kind}' but current is none"))
    add(f"{word}_cannot_be_left_out_later",
        inequivalent(argument, first, None,
                     f"received none but current is the value '{show(first)}' of type '{kind}'"))

add("another_dead_letter_routing_key_is_inequivalent",
    inequivalent("x-dead-letter-routing-key", "a", "b", "received 'b' but current is 'a'",
                 {"x-dead-letter-exchange": "x"}))
add("another_queue_type_is_inequivalent",
    inequivalent("x-queue-type", None, "quorum",
                 "received the value 'quorum' of type 'longstr' but current is none"))
add("a_missing_argument_names_the_integers_width",
    inequivalent("x-max-length", None, Typed("l", 5),
                 "received the value '5' of type 'long' but current is none"))


@scenario
def a_void_argument_later_counts_as_none_in_the_text(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-max-length": 5})
    channel.refuses("queue.declare", 406,
                    f"inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': received "
                    "none but current is '5'", queue=queue, arguments={"x-max-length": None})


for argument, value in [("x-max-in-memory-length", 5), ("x-max-in-memory-bytes", 5),
                        ("x-quorum-initial-group-size", 3), ("x-max-age", "1h"),
                        ("x-stream-max-segment-size-bytes", 1000000),
                        ("x-initial-cluster-size", 3)]:
    def not_for_classic(s, argument=argument, value=value):
        name = s.queue_name()
        text = (f"invalid arg '{argument}' for queue '{name}' in vhost '/' of queue type "
                "rabbit_classic_queue")
        for given in (value, None):  # the value is not looked at
            s.channel().refuses("queue.declare", 406, text, queue=name,
                                arguments={argument: given})
    word = argument[2:].replace("-", "_")
    add(f"a_classic_queue_takes_no_{word}", not_for_classic)

    def not_compared(s, argument=argument, value=value):
        channel = s.channel()
        queue = s.queue(channel)
        channel.declare(queue, arguments={argument: value})
    add(f"{word}_is_not_compared_on_a_classic_queue", not_compared)


TTL = {"x-message-ttl": -1}
for name, first, rest in [
        ("an_unknown_queue_type_is_told", {"x-queue-type": "wrong"}, TTL),
        ("a_wrong_value_is_told", {"x-overflow": "wrong"}, {"x-max-age": 5})]:
    def told_first(s, first=first, rest=rest):
        queue = s.queue_name()
        (argument,) = first
        s.channel().refuses("queue.declare", 406,
                            re.compile(f"invalid arg '{argument}' for queue '{queue}'"),
                            queue=queue, arguments={**rest, **first})
    add(f"of_several_mistakes_{name}_first", told_first)


@scenario
def of_several_mistakes_a_dead_letter_exchange_that_is_no_text_is_told_first(s):
    name = s.queue_name()
    s.channel().refuses("queue.declare", 406,
                        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue "
                        f"'{name}' in vhost '/'", queue=name,
                        arguments={"x-queue-type": "wrong", "x-dead-letter-exchange": 1, **TTL})


@scenario
def values_are_not_checked_when_the_queue_is_there_only_compared(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("queue.declare", 406,
                    f"inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/': received "
                    "the value '-1' of type 'signedint' but current is none", queue=queue,
                    arguments=TTL)


@scenario(not_rabbitmq="3.10 takes any value, later versions and this broker a number")
def a_queues_consumer_timeout_must_be_a_number(s):
    name = s.queue_name()
    s.channel().refuses("queue.declare", 406,
                        re.compile(f"invalid arg 'x-consumer-timeout' for queue '{name}'"),
                        queue=name, arguments={"x-consumer-timeout": "soon"})


@scenario
def integers_of_every_width_are_equivalent(s):
    channel, name = s.channel(), s.queue_name()
    for tag in "bBsuIil":
        channel.declare(name, arguments={"x-max-length": Typed(tag, 10),
                                         "x-message-ttl": Typed(tag, 100)})


@scenario
def unknown_arguments_are_not_compared(s):
    channel, name = s.channel(), s.queue_name()
    channel.declare(name, arguments={"x-unknown": 1})
    channel.declare(name, arguments={"x-unknown": 2})
    channel.declare(name)


@scenario
def queue_type_classic_is_equivalent_to_none(s):
    channel, name = s.channel(), s.queue_name()
    channel.declare(name, arguments={"x-queue-type": "classic"})
    channel.declare(name)


def other_property(property, first, second, text):
    def run(s):
        channel, name = s.channel(), s.queue_name()
        channel.declare(name, **{property: first})
        channel.refuses("queue.declare", 406,
                        f"inequivalent arg '{property}' for queue '{name}' in vhost '/': {text}",
                        queue=name, **{property: second})
    return run


for property in ("durable", "auto_delete"):
    add(f"a_queue_cannot_become_{property}",
        other_property(property, False, True, "received 'true' but current is 'false'"))
    add(f"a_queue_cannot_cease_to_be_{property}",
        other_property(property, True, False, "received 'false' but current is 'true'"))


@scenario
def durable_is_compared_before_auto_delete_and_arguments(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("queue.declare", 406,
                    f"inequivalent arg 'durable' for queue '{queue}' in vhost '/': received "
                    "'true' but current is 'false'", queue=queue, durable=True, auto_delete=True,
                    arguments={"x-max-length": 5})


@scenario
def a_passive_declare_does_not_look_at_arguments(s):
    channel = s.channel()
    queue = s.queue(channel)
    check_equal("name", channel.declare(queue, passive=True, arguments={"x-expires": -1}).queue,
                queue)
