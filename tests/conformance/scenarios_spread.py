"""Exchange types of plugins: hashes, random, history, delay, deduplication."""
import re
import time

import amqp_wire as wire
from client import Failure, check_equal
from harness import add, scenario

NOT_THERE = "the plugin is not part of RabbitMQ 3.10"


def bound(s, channel, exchange, *keys):
    """-> queues bound with these keys."""
    queues = [s.queue(channel) for _ in keys]
    for queue, key in zip(queues, keys):
        channel.bind(queue, exchange, key)
    return queues


def empty(channel, queue):
    found = []
    while True:
        message = channel.get(queue)
        if message is None:
            return found
        found.append(message.body.decode())


def publish_confirmed(channel, exchange, messages):
    """messages: [(routing key, body, properties)]"""
    channel.select()
    for key, body, properties in messages:
        channel.publish_confirmed(key, body, exchange=exchange, **properties)


# consistent hash

@scenario
def a_hashed_message_goes_to_exactly_one_queue(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-consistent-hash")
    queues = bound(s, channel, exchange, "10", "10", "10")
    publish_confirmed(channel, exchange, [(f"key{n}", "m", {}) for n in range(300)])
    check_equal("messages", sum(channel.counts(queue)[0] for queue in queues), 300)


@scenario
def the_same_key_always_goes_to_the_same_queue(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-consistent-hash")
    queues = bound(s, channel, exchange, "1", "1", "1", "1")
    publish_confirmed(channel, exchange, [(f"key{n % 10}", f"{n % 10}", {}) for n in range(200)])
    homes = {}
    for queue in queues:
        for body in empty(channel, queue):
            homes.setdefault(body, set()).add(queue)
    check_equal("homes per key", sorted(len(home) for home in homes.values()), [1] * 10)


@scenario
def weights_share_out_the_keys(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-consistent-hash")
    light, heavy = bound(s, channel, exchange, "1", "9")
    publish_confirmed(channel, exchange, [(f"key{n}", "m", {}) for n in range(1000)])
    share = channel.counts(heavy)[0]
    if not 750 < share < 990:
        raise Failure(f"nine tenths of the weight got {share} of 1000 messages")


def hashes_by(name, arguments, properties):
    """What counts is the property, not the key."""
    def run(s):
        channel = s.channel()
        exchange = s.exchange(channel, "x-consistent-hash", arguments=arguments)
        queues = bound(s, channel, exchange, *["5"] * 5)
        publish_confirmed(channel, exchange, [(f"key{n}", "m", properties(1)) for n in range(50)])
        check_equal("queues for one value", sum(1 for queue in queues if empty(channel, queue)), 1)
        publish_confirmed(channel, exchange, [("key", "m", properties(n)) for n in range(200)])
        if sum(1 for queue in queues if empty(channel, queue)) < 3:
            raise Failure("different values went to the same queues")
    add(f"a_hash_may_be_over_{name}", run)


hashes_by("a_header", {"hash-header": "h"}, lambda n: {"headers": {"h": f"value{n}"}})
hashes_by("the_message_id", {"hash-property": "message_id"}, lambda n: {"message_id": f"value{n}"})
hashes_by("the_correlation_id", {"hash-property": "correlation_id"},
          lambda n: {"correlation_id": f"value{n}"})
hashes_by("the_timestamp", {"hash-property": "timestamp"}, lambda n: {"timestamp": n})


@scenario
def a_hash_exchange_without_bindings_routes_nowhere(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-consistent-hash")
    channel.publish("k", b"m", exchange=exchange, mandatory=True)
    channel.expect("basic.return", reply_code=312)


@scenario
def after_unbinding_the_remaining_queues_share_the_keys(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-consistent-hash")
    gone, stays = bound(s, channel, exchange, "1", "1")
    channel.call("queue.unbind", queue=gone, exchange=exchange, routing_key="1")
    publish_confirmed(channel, exchange, [(f"key{n}", "m", {}) for n in range(50)])
    check_equal("messages", (channel.counts(gone)[0], channel.counts(stays)[0]), (0, 50))


@scenario
def adding_a_queue_moves_only_a_share_of_the_keys(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-consistent-hash")
    queues = bound(s, channel, exchange, *["10"] * 4)
    keys = [(f"key{n}", f"{n}", {}) for n in range(400)]
    publish_confirmed(channel, exchange, keys)
    before = {body: queue for queue in queues for body in empty(channel, queue)}
    queues += bound(s, channel, exchange, "10")
    publish_confirmed(channel, exchange, keys)
    after = {body: queue for queue in queues for body in empty(channel, queue)}
    moved = sum(1 for body in before if before[body] != after[body])
    if not 20 < moved < 200:
        raise Failure(f"{moved} of 400 keys moved, a fifth should")


for key, text in [("0", "The binding key must be greater than 0"),
                  ("-1", "The binding key must be greater than 0"),
                  ("abc", re.compile("The binding key must be an integer: .*abc")),
                  ("", re.compile("The binding key must be an integer: ")),
                  ("1.5", re.compile("The binding key must be an integer: .*1.5"))]:
    def bad_weight(s, key=key, text=text):
        channel = s.channel()
        exchange, queue = s.exchange(channel, "x-consistent-hash"), s.queue(channel)
        channel.refuses("queue.bind", 406, text, queue=queue, exchange=exchange, routing_key=key)
    word = {"": "empty", "-1": "negative", "1.5": "a_fraction", "0": "zero", "abc": "a_word"}[key]
    add(f"a_weight_must_not_be_{word}", bad_weight)


@scenario
def a_hash_is_over_a_header_or_a_property_but_not_both(s):
    s.channel().refuses("exchange.declare", 406,
                        "hash-header and hash-property are mutually exclusive",
                        exchange=s.exchange_name(), type="x-consistent-hash",
                        arguments={"hash-header": "a", "hash-property": "message_id"})


@scenario
def a_hash_over_another_property_is_refused(s):
    s.channel().refuses("exchange.declare", 406, "Unsupported property: app_id",
                        exchange=s.exchange_name(), type="x-consistent-hash",
                        arguments={"hash-property": "app_id"})


@scenario
def what_lacks_the_header_or_property_to_hash_over_is_routed_all_the_same(s):
    channel = s.channel()
    for arguments in ({"hash-header": "h"}, {"hash-property": "message_id"}):
        exchange = s.exchange(channel, "x-consistent-hash", arguments=arguments)
        (queue,) = bound(s, channel, exchange, "1")
        publish_confirmed(channel, exchange, [("k", "m", {"mandatory": True})])
        channel.holds(queue, 1)


@scenario
def hash_arguments_are_not_compared(s):
    channel, name = s.channel(), s.exchange_name()
    for header in ("a", "b"):
        channel.declare_exchange(name, "x-consistent-hash", arguments={"hash-header": header})


# modulus hash, random

@scenario
def a_modulus_hash_sends_a_key_always_to_the_same_single_queue(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-modulus-hash")
    queues = bound(s, channel, exchange, "", "", "")
    publish_confirmed(channel, exchange, [(f"key{n % 30}", f"{n % 30}", {}) for n in range(90)])
    homes = {}
    for queue in queues:
        for body in empty(channel, queue):
            homes.setdefault(body, []).append(queue)
    check_equal("messages per key", sorted(len(home) for home in homes.values()), [3] * 30)
    check_equal("queues per key", {len(set(home)) for home in homes.values()}, {1})
    if len({home[0] for home in homes.values()}) < 2:
        raise Failure("all keys went to one queue")


@scenario
def a_random_exchange_sends_each_message_to_one_queue(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-random")
    queues = bound(s, channel, exchange, "", "", "")
    publish_confirmed(channel, exchange, [("same", "m", {})] * 150)
    counts = [channel.counts(queue)[0] for queue in queues]
    check_equal("messages", sum(counts), 150)
    if min(counts) < 15:
        raise Failure(f"the queues got {counts}")


for type in ("x-modulus-hash", "x-random", "x-recent-history"):
    def unbound(s, type=type):
        channel = s.channel()
        channel.publish("k", b"m", exchange=s.exchange(channel, type), mandatory=True)
        channel.expect("basic.return", reply_code=312)
    add(f"an_{type[2:].replace('-', '_')}_exchange_without_bindings_routes_nowhere", unbound)


# recent history

@scenario
def every_new_binding_receives_the_history_again(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-recent-history")
    publish_confirmed(channel, exchange, [("k", "m", {"headers": {"a": 1}})])
    (queue,) = bound(s, channel, exchange, "")
    channel.bind(queue, exchange, "again")
    channel.holds(queue, 2)
    for _ in range(2):
        channel.got(queue, "m", exchange=exchange, routing_key="k", headers={"a": 1})


@scenario
def only_true_keeps_a_message_out_of_the_history(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-recent-history")
    publish_confirmed(channel, exchange,
                      [("k", f"{value}", {"headers": {"x-recent-history-no-store": value}})
                       for value in (False, True)])
    (queue,) = bound(s, channel, exchange, "")
    channel.holds(queue, 1)
    channel.got(queue, "False")


@scenario
def a_new_binding_receives_the_recent_history(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-recent-history", arguments={"x-recent-history-length": 3})
    publish_confirmed(channel, exchange, [("k", f"{n}", {}) for n in range(5)])
    (queue,) = bound(s, channel, exchange, "")
    channel.holds(queue, 3)
    check_equal("history", empty(channel, queue), ["2", "3", "4"])


@scenario
def a_history_exchange_passes_on_like_a_fanout(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-recent-history")
    one, two = bound(s, channel, exchange, "", "other")
    publish_confirmed(channel, exchange, [("k", "m", {})])
    channel.holds(one, 1)
    channel.holds(two, 1)


@scenario
def a_history_is_20_messages_long(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-recent-history")
    publish_confirmed(channel, exchange, [("k", f"{n}", {}) for n in range(30)])
    (queue,) = bound(s, channel, exchange, "")
    channel.holds(queue, 20)
    check_equal("history", empty(channel, queue), [f"{n}" for n in range(10, 30)])


@scenario
def a_message_may_ask_not_to_be_remembered(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-recent-history")
    publish_confirmed(channel, exchange, [
        ("k", "yes", {}), ("k", "no", {"headers": {"x-recent-history-no-store": True}})])
    (queue,) = bound(s, channel, exchange, "")
    channel.holds(queue, 1)
    check_equal("history", empty(channel, queue), ["yes"])


for value in (0, -1, "5", None):
    def bad_length(s, value=value):
        wanted = re.compile("Invalid argument.*'x-recent-history-length' must be a positive int")
        s.channel().refuses("exchange.declare", 406, wanted,
                            exchange=s.exchange_name(), type="x-recent-history",
                            arguments={"x-recent-history-length": value})
    word = {"0": "zero", "-1": "negative", "5": "text", "None": "void"}[str(value)]
    add(f"a_history_length_must_not_be_{word}", bad_length)


# delay

def delayed(s, channel, type="direct"):
    return s.exchange(channel, "x-delayed-message", arguments={"x-delayed-type": type})


@scenario(not_rabbitmq=NOT_THERE)
def a_delayed_message_comes_when_its_delay_is_over(s):
    channel = s.channel()
    exchange = delayed(s, channel)
    (queue,) = bound(s, channel, exchange, "k")
    channel.consume(queue)
    since = time.monotonic()
    channel.publish("k", b"m", exchange=exchange, headers={"x-delay": 300})
    channel.delivered(b"m", exchange=exchange, routing_key="k")
    if time.monotonic() - since < 0.15:  # the broker counts from the beginning of its turn
        raise Failure("it came too early")


@scenario(not_rabbitmq=NOT_THERE)
def delayed_messages_come_in_the_order_of_their_times(s):
    channel = s.channel()
    exchange = delayed(s, channel, "fanout")
    (queue,) = bound(s, channel, exchange, "")
    channel.consume(queue)
    channel.connection.send(b"".join(  # in one go: they count from the same moment
        wire.publish_frames(channel.number, exchange, "", text,
                            {"headers": {"x-delay": int(text)}} if text.isdigit() else {})
        for text in ("300", "100", "200", "now")))
    channel.delivered("now", "100", "200", "300")


@scenario(not_rabbitmq=NOT_THERE)
def a_message_without_delay_is_routed_at_once(s):
    channel = s.channel()
    exchange = delayed(s, channel, "topic")
    (queue,) = bound(s, channel, exchange, "a.*")
    publish_confirmed(channel, exchange, [("a.b", "m", {}), ("x", "no", {})])
    channel.holds(queue, 1)


@scenario(not_rabbitmq=NOT_THERE)
def a_delayed_exchange_needs_to_know_how_to_route(s):
    for arguments in ({}, {"x-delayed-type": "x-nonsense"}, {"x-delayed-type": 5}):
        connection = s.connect()
        channel = connection.channel()
        channel.refuses("exchange.declare", 406, re.compile("x-delayed-type"),
                        exchange=s.exchange_name(), type="x-delayed-message", arguments=arguments)


@scenario(not_rabbitmq=NOT_THERE)
def a_delayed_message_says_that_its_delay_is_over(s):
    channel = s.channel()
    exchange = delayed(s, channel)
    (queue,) = bound(s, channel, exchange, "k")
    channel.publish("k", b"m", exchange=exchange, headers={"x-delay": 20, "a": 1}, message_id="7")
    channel.holds(queue, 1)
    channel.got(queue, b"m", properties={"headers": {"x-delay": -20, "a": 1}, "message_id": "7"})


@scenario(not_rabbitmq=NOT_THERE)
def a_delay_that_is_no_positive_number_is_none(s):
    channel = s.channel()
    exchange = delayed(s, channel)
    (queue,) = bound(s, channel, exchange, "k")
    for value in (0, -5, "500", None, True, 1.5):
        channel.publish("k", b"m", exchange=exchange, headers={"x-delay": value})
        channel.consume(queue, "t", no_ack=True)
        channel.delivered(b"m", headers={"x-delay": value})
        channel.call("basic.cancel", consumer_tag="t")


@scenario(not_rabbitmq=NOT_THERE)
def a_delayed_message_is_confirmed_while_it_waits(s):
    channel = s.channel()
    exchange = delayed(s, channel)
    (queue,) = bound(s, channel, exchange, "k")
    publish_confirmed(channel, exchange, [("k", "m", {"headers": {"x-delay": 60000}})])
    channel.holds(queue, 0)


@scenario(not_rabbitmq=NOT_THERE)
def a_delayed_message_is_routed_by_the_bindings_of_its_hour(s):
    channel = s.channel()
    exchange = delayed(s, channel)
    early, late = s.queue(channel), s.queue(channel)
    channel.bind(early, exchange, "k")
    # In one go: the bindings must have changed when the delay is over.
    channel.connection.send(
        wire.publish_frames(channel.number, exchange, "k", b"m", {"headers": {"x-delay": 400}})
        + wire.method_frame(channel.number, "queue.unbind", queue=early, exchange=exchange,
                            routing_key="k")
        + wire.method_frame(channel.number, "queue.bind", queue=late, exchange=exchange,
                            routing_key="k"))
    channel.expect("queue.unbind-ok")
    channel.expect("queue.bind-ok")
    channel.holds(late, 1)
    channel.holds(early, 0)


@scenario(not_rabbitmq=NOT_THERE)
def a_deleted_exchange_takes_its_delayed_messages_with_it(s):
    channel = s.channel()
    exchange = delayed(s, channel)
    (queue,) = bound(s, channel, exchange, "k")
    # In one go: it must not be routed before the exchange is deleted.
    channel.connection.send(
        wire.publish_frames(channel.number, exchange, "k", b"m", {"headers": {"x-delay": 100}})
        + wire.method_frame(channel.number, "exchange.delete", exchange=exchange))
    channel.expect("exchange.delete-ok")
    channel.declare_exchange(exchange, "x-delayed-message", arguments={"x-delayed-type": "direct"})
    channel.bind(queue, exchange, "k")
    publish_confirmed(channel, exchange, [("k", "later", {"headers": {"x-delay": 300}})])
    channel.consume(queue)
    channel.delivered("later")


@scenario(not_rabbitmq=NOT_THERE)
def the_type_behind_the_delay_is_compared(s):
    channel, name = s.channel(), s.exchange_name()
    channel.declare_exchange(name, "x-delayed-message", arguments={"x-delayed-type": "direct"})
    channel.refuses("exchange.declare", 406,
                    f"inequivalent arg 'x-delayed-type' for exchange '{name}' in vhost '/': "
                    "received 'topic' but current is 'direct'", exchange=name,
                    type="x-delayed-message", arguments={"x-delayed-type": "topic"})


# deduplication

def duplicates(texts, **headers):
    return [("", text, {"headers": {"x-deduplication-header": text, **headers}}) for text in texts]


@scenario(not_rabbitmq=NOT_THERE)
def a_deduplicating_exchange_forgets_after_its_cache_ttl(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-message-deduplication",
                          arguments={"x-cache-size": 10, "x-cache-ttl": 60000})
    (queue,) = bound(s, channel, exchange, "")
    publish_confirmed(channel, exchange, duplicates("a", **{"x-cache-ttl": 1}) + duplicates("bb"))
    channel.holds(queue, 2)
    while channel.counts(queue)[0] == 2:  # until the message's own time is over
        publish_confirmed(channel, exchange, duplicates("a"))
    publish_confirmed(channel, exchange, duplicates("ab"))
    channel.holds(queue, 3)


@scenario(not_rabbitmq=NOT_THERE)
def a_duplicate_is_confirmed_and_not_returned(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-message-deduplication", arguments={"x-cache-size": 10})
    (queue,) = bound(s, channel, exchange, "")
    channel.select()
    for tag in (1, 2):
        channel.publish("", b"m", exchange=exchange, mandatory=True,
                        headers={"x-deduplication-header": "a"})
        channel.expect("basic.ack", delivery_tag=tag)
    channel.holds(queue, 1)


for value in (0, -1, "5", None):
    def bad_cache(s, value=value):
        for arguments in ({"x-cache-size": value}, {"x-cache-size": 10, "x-cache-ttl": value}):
            wanted = re.compile("x-cache-size" if len(arguments) == 1 else "x-cache-ttl")
            s.channel().refuses("exchange.declare", 406, wanted, exchange=s.exchange_name(),
                                type="x-message-deduplication", arguments=arguments)
    word = {"0": "zero", "-1": "negative", "5": "text", "None": "void"}[str(value)]
    add(f"a_deduplication_cache_must_not_be_{word}", bad_cache, NOT_THERE)


@scenario(not_rabbitmq=NOT_THERE)
def message_deduplication_of_a_queue_must_be_a_bool(s):
    name = s.queue_name()
    s.channel().refuses("queue.declare", 406,
                        re.compile(f"invalid arg 'x-message-deduplication' for queue '{name}'"),
                        queue=name, arguments={"x-message-deduplication": "yes"})


@scenario(not_rabbitmq=NOT_THERE)
def a_deduplicating_exchange_passes_a_message_once(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-message-deduplication", arguments={"x-cache-size": 10})
    (queue,) = bound(s, channel, exchange, "")
    publish_confirmed(channel, exchange, [
        ("", body, {"headers": {"x-deduplication-header": body}}) for body in "aababca"]
                      + [("", "-", {})] * 2)
    channel.holds(queue, 5)
    check_equal("messages", "".join(empty(channel, queue)), "abc--")


@scenario(not_rabbitmq=NOT_THERE)
def what_was_refused_is_no_duplicate_when_it_comes_again(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    exchange = s.exchange(channel, "x-message-deduplication", arguments={"x-cache-size": 10})
    channel.bind(queue, exchange, "k")
    channel.select()
    channel.publish("k", "first", exchange=exchange)
    channel.expect("basic.ack")
    again = {"exchange": exchange, "headers": {"x-deduplication-header": "one"}}
    channel.publish("k", "second", **again)
    channel.expect("basic.nack")
    channel.got(queue, "first")
    channel.publish("k", "second", **again)
    channel.expect("basic.ack")
    channel.got(queue, "second")


@scenario(not_rabbitmq=NOT_THERE)
def a_deduplicating_exchange_forgets_the_oldest(s):
    channel = s.channel()
    exchange = s.exchange(channel, "x-message-deduplication", arguments={"x-cache-size": 2})
    (queue,) = bound(s, channel, exchange, "")
    publish_confirmed(channel, exchange, [
        ("", body, {"headers": {"x-deduplication-header": body}}) for body in "abca"])
    channel.holds(queue, 4)


@scenario(not_rabbitmq=NOT_THERE)
def a_deduplicating_queue_holds_a_message_once(s):
    channel = s.channel()
    queue = s.queue(channel, arguments={"x-message-deduplication": True})
    publish_confirmed(channel, "", [(queue, body, {"headers": {"x-deduplication-header": body}})
                                    for body in "aab"])
    channel.holds(queue, 2)
    channel.got(queue, "a")
    publish_confirmed(channel, "", [(queue, "a", {"headers": {"x-deduplication-header": "a"}})])
    channel.holds(queue, 2)


@scenario(not_rabbitmq=NOT_THERE)
def a_deduplicating_exchange_needs_a_cache_size(s):
    s.channel().refuses("exchange.declare", 406, re.compile("x-cache-size"),
                        exchange=s.exchange_name(), type="x-message-deduplication")


# a dead-letter route by exchange

@scenario(not_rabbitmq="RabbitMQ knows dead-lettering by queue and policy only")
def an_exchange_may_give_its_queues_a_dead_letter_route(s):
    channel = s.channel()
    target, own = s.queue(channel), s.queue(channel)
    exchange = s.exchange(channel, "fanout", arguments={"x-dead-letter-exchange": "",
                                                        "x-dead-letter-routing-key": target})
    plain = s.queue(channel)
    with_own = s.queue(channel, arguments={"x-dead-letter-exchange": "",
                                           "x-dead-letter-routing-key": own})
    for queue in (plain, with_own):
        channel.bind(queue, exchange)
    channel.publish("", b"m", exchange=exchange)
    for queue in (plain, with_own):
        channel.holds(queue, 1)
        channel.reject(channel.got(queue, b"m", no_ack=False).delivery_tag, requeue=False)
    channel.holds(target, 1)
    channel.holds(own, 1)
    check_equal("death", channel.get(target).headers["x-first-death-queue"], plain)


BY_QUEUE_ONLY = "RabbitMQ knows dead-lettering by queue and policy only"


@scenario(not_rabbitmq=BY_QUEUE_ONLY)
def an_exchanges_dead_letter_route_keeps_the_key_unless_it_names_one(s):
    channel = s.channel()
    target, last = s.exchange(channel), s.queue(channel)
    exchange = s.exchange(channel, arguments={"x-dead-letter-exchange": target})
    (queue,) = bound(s, channel, exchange, "k")
    channel.bind(last, target, "k")
    channel.publish("k", b"m", exchange=exchange, expiration="1")
    channel.holds(last, 1)
    message = channel.got(last, b"m", exchange=target, routing_key="k")
    (death,) = message.headers["x-death"]
    check_equal("death", (death["queue"], death["reason"], death["exchange"]),
                (queue, "expired", exchange))


@scenario(not_rabbitmq=BY_QUEUE_ONLY)
def a_message_by_another_exchange_has_no_dead_letter_route(s):
    channel = s.channel()
    target = s.queue(channel)
    exchange = s.exchange(channel, "fanout", arguments={"x-dead-letter-exchange": "",
                                                        "x-dead-letter-routing-key": target})
    (queue,) = bound(s, channel, exchange, "")
    channel.publish(queue, b"other way")
    channel.holds(queue, 1)
    channel.reject(channel.got(queue, b"other way", no_ack=False).delivery_tag, requeue=False)
    channel.publish("", b"m", exchange=exchange)
    channel.holds(queue, 1)
    channel.reject(channel.got(queue, b"m", no_ack=False).delivery_tag, requeue=False)
    channel.holds(target, 1)
    channel.got(target, b"m")


for argument, value in [("x-dead-letter-exchange", 5), ("x-dead-letter-routing-key", 5)]:
    def no_text(s, argument=argument, value=value):
        name = s.exchange_name()
        s.channel().refuses("exchange.declare", 406, re.compile(argument), exchange=name,
                            type="direct", arguments={"x-dead-letter-exchange": "", argument: value})
    add(f"an_exchanges_{argument[2:].replace('-', '_')}_must_be_text", no_text, BY_QUEUE_ONLY)

    def too_long(s, argument=argument):
        s.channel().refuses("exchange.declare", 406, re.compile(f"'{argument}'.* at most 255 bytes"),
                            exchange=s.exchange_name(), type="direct",
                            arguments={"x-dead-letter-exchange": "", argument: "x" * 256})
    add(f"an_exchanges_{argument[2:].replace('-', '_')}_is_255_octets_at_most", too_long,
        BY_QUEUE_ONLY)


@scenario(not_rabbitmq=BY_QUEUE_ONLY)
def another_dead_letter_route_of_an_exchange_is_inequivalent(s):
    channel, name = s.channel(), s.exchange_name()
    channel.declare_exchange(name, arguments={"x-dead-letter-exchange": "a"})
    channel.refuses("exchange.declare", 406,
                    f"inequivalent arg 'x-dead-letter-exchange' for exchange '{name}' in vhost "
                    "'/': received 'b' but current is 'a'", exchange=name, type="direct",
                    arguments={"x-dead-letter-exchange": "b"})
