"""What is still there when the broker comes back, after an orderly end and after a kill.

Each scenario has a broker of its own. What is acked or purged is followed by a confirmed message:
only what was on disk before the kill can be asked for after it.
"""
import re

from client import Failure, check_equal
from harness import add, scenario


def filled(channel, queue, texts, **properties):
    """Publish these and wait until the broker has confirmed them all."""
    channel.select()
    for text in texts:
        channel.publish(queue, text, delivery_mode=2, **properties)
    channel.all_confirmed(len(texts))


def content(channel, queue):
    found = []
    while True:
        message = channel.get(queue)
        if message is None:
            return found
        found.append(message.body.decode())


def survive_confirmed(s, kill):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    texts = [f"{n}" for n in range(300)]
    filled(channel, queue, texts)
    s.restart(kill)
    check_equal("messages", content(s.channel(), queue), texts)


def survive_settled(s, kill):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    filled(channel, queue, [f"{n}" for n in range(100)])
    for n in range(50):
        channel.got(queue, f"{n}", no_ack=False)
    for tag in range(1, 51, 2):
        channel.ack(tag)
    # what is confirmed now was logged after the acks
    channel.publish_confirmed(queue, "last", delivery_mode=2)
    s.restart(kill)
    wanted = [f"{n}" for n in range(1, 50, 2)] + [f"{n}" for n in range(50, 100)] + ["last"]
    check_equal("messages", content(s.channel(), queue), wanted)


def survive_definitions(s, kill):
    channel, exchange, other = s.channel(), s.exchange_name(), s.exchange_name()
    channel.declare_exchange(exchange, "topic", durable=True,
                             arguments={"alternate-exchange": other})
    channel.declare_exchange(other, "fanout", durable=True, internal=True)
    arguments = {"x-max-length": 5, "x-message-ttl": 600000, "x-queue-type": "classic"}
    queue = s.queue(channel, durable=True, arguments=arguments)
    channel.bind(queue, exchange, "a.#")
    channel.call("exchange.bind", destination=other, source=exchange, routing_key="b")
    lost = s.queue(channel, durable=True)
    channel.bind(lost, other)
    s.restart(kill)
    channel = s.channel()
    channel.declare(queue, durable=True, arguments=arguments)
    channel.declare_exchange(exchange, "topic", durable=True,
                             arguments={"alternate-exchange": other})
    channel.declare_exchange(other, "fanout", durable=True, internal=True)
    for key in ("a.b", "b", "unknown"):
        channel.publish(key, key, exchange=exchange)
    channel.holds(queue, 1)
    channel.holds(lost, 2)
    check_equal("messages", content(channel, lost), ["b", "unknown"])


def survive_transaction(s, kill):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.call("tx.select")
    channel.publish_all(queue, ["a", "b"], delivery_mode=2)
    channel.call("tx.commit")
    channel.publish(queue, "c", delivery_mode=2)
    s.restart(kill)
    check_equal("messages", content(s.channel(), queue), ["a", "b"])


for kill, how in ((False, "an_orderly_end"), (True, "a_kill")):
    for run, what in ((survive_confirmed, "confirmed_messages_survive"),
                      (survive_settled, "acked_messages_do_not_come_back_after"),
                      (survive_definitions, "durable_queues_exchanges_and_bindings_survive"),
                      (survive_transaction, "committed_transactions_and_nothing_else_survive")):
        add(f"{what}_{how}", lambda s, run=run, kill=kill: run(s, kill), restarts=True)


@scenario(restarts=True)
def transient_things_do_not_survive(s):
    channel, exchange = s.channel(), s.exchange_name()
    channel.declare_exchange(exchange)
    transient, durable = s.queue(channel), s.queue(channel, durable=True)
    channel.bind(durable, exchange, "k")
    channel.select()
    channel.publish_confirmed(durable, "transient message", delivery_mode=1)
    channel.publish_confirmed(transient, "message in a transient queue", delivery_mode=2)
    s.restart()
    channel = s.channel()
    channel.holds(durable, 0)
    for method, text, fields in [
            ("queue.declare", f"no queue '{transient}' in vhost '/'", {"queue": transient}),
            ("exchange.declare", f"no exchange '{exchange}' in vhost '/'", {"exchange": exchange})]:
        channel.refuses(method, 404, text, passive=True, **fields)
        channel = channel.connection.channel()


@scenario(restarts=True)
def an_exclusive_queue_does_not_survive_even_if_declared_durable(s):
    channel = s.channel()
    queue = s.queue(channel, exclusive=True, durable=True)
    filled(channel, queue, ["m"])
    s.restart(kill=True)
    s.channel().refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                        passive=True)


@scenario(restarts=True)
def deleted_things_do_not_come_back(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, durable=True), s.queue(channel, durable=True)
    filled(channel, queue, ["a", "b"])
    channel.call("queue.delete", queue=queue)
    channel.call("exchange.delete", exchange=exchange)
    channel.declare(queue, durable=True)
    s.restart(kill=True)
    channel = s.channel()
    channel.holds(queue, 0)
    channel.refuses("exchange.declare", 404, f"no exchange '{exchange}' in vhost '/'",
                    exchange=exchange, passive=True)


@scenario(restarts=True)
def purged_messages_do_not_come_back(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    filled(channel, queue, ["a", "b"])
    channel.call("queue.purge", queue=queue)
    channel.publish_confirmed(queue, "c", delivery_mode=2)
    s.restart(kill=True)
    check_equal("messages", content(s.channel(), queue), ["c"])


@scenario(restarts=True)
def unacked_messages_come_back_flagged_as_redelivered(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    filled(channel, queue, ["a", "b"])
    channel.got(queue, "a", no_ack=False)
    s.restart()
    channel = s.channel()
    channel.got(queue, "a", redelivered=True)
    channel.got(queue, "b")


@scenario(restarts=True)
def properties_and_large_bodies_survive(s):
    channel = s.channel()
    queue, body = s.queue(channel, durable=True), bytes(range(256)) * 4000
    properties = {"headers": {"a": [1, {"b": None}]}, "message_id": "7", "priority": 3,
                  "timestamp": 5, "delivery_mode": 2}
    channel.select()
    channel.publish_confirmed(queue, body, **properties)
    s.restart(kill=True)
    message = s.channel().get(queue)
    check_equal("properties", message.properties, properties)
    check_equal("exchange and key", (message.exchange, message.routing_key), ("", queue))
    if message.body != body:
        raise Failure("another body came back")


@scenario(restarts=True)
def a_message_in_several_queues_survives_in_those_that_have_not_settled_it(s):
    channel = s.channel()
    exchange = s.exchange(channel, "fanout", durable=True)
    queues = [s.queue(channel, durable=True) for _ in range(3)]
    for queue in queues:
        channel.bind(queue, exchange)
    channel.select()
    channel.publish_confirmed("", "m", exchange=exchange, delivery_mode=2)
    channel.got(queues[1], "m")
    channel.publish_confirmed("", "later", exchange=exchange, delivery_mode=2)
    s.restart(kill=True)
    channel = s.channel()
    check_equal("messages", [content(channel, queue) for queue in queues],
                [["m", "later"], ["later"], ["m", "later"]])


@scenario(restarts=True)
def dead_letters_survive_and_are_not_in_two_places(s):
    channel = s.channel()
    target = s.queue(channel, durable=True)
    queue = s.queue(channel, durable=True, arguments={"x-dead-letter-exchange": "",
                                                      "x-dead-letter-routing-key": target})
    filled(channel, queue, ["m"])
    channel.got(queue, "m", no_ack=False)
    channel.reject(1, requeue=False)
    channel.holds(target, 1)
    channel.publish_confirmed(target, "later", delivery_mode=2)
    s.restart()
    channel = s.channel()
    check_equal("dead letter", channel.get(target).headers["x-first-death-queue"], queue)
    channel.holds(queue, 0)


@scenario(restarts=True)
def an_expiration_goes_on_while_the_broker_is_down(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    channel.publish_confirmed(queue, "short", delivery_mode=2, expiration="300")
    channel.publish_confirmed(queue, "long", delivery_mode=2, expiration="600000")
    s.restart(kill=True)
    channel = s.channel()
    channel.holds(queue, 1)
    channel.got(queue, "long")


@scenario(restarts=True)
def priorities_are_kept(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True, arguments={"x-max-priority": 5})
    channel.select()
    for priority in (1, 5, 0, 3):
        channel.publish_confirmed(queue, f"{priority}", delivery_mode=2, priority=priority)
    s.restart()
    check_equal("order", content(s.channel(), queue), ["5", "3", "1", "0"])


def survive_delay(s, kill):
    channel, exchange = s.channel(), s.exchange_name()
    channel.declare_exchange(exchange, "x-delayed-message", durable=True,
                             arguments={"x-delayed-type": "direct"})
    queue = s.queue(channel, durable=True)
    channel.bind(queue, exchange, "k")
    channel.select()
    for delay in (700, 400, 600000):  # at once: a slow disk must not change who is first
        channel.publish("k", f"{delay}", exchange=exchange, delivery_mode=2,
                        headers={"x-delay": delay})
    channel.all_confirmed(3)
    s.restart(kill)
    channel = s.channel()
    channel.consume(queue)
    channel.delivered("400", "700")
    channel.silent(queue)


def survive_history(s, kill):
    channel = s.channel()
    target = s.queue(channel, durable=True)
    queue = s.queue(channel, durable=True, arguments={"x-dead-letter-exchange": "",
                                                      "x-dead-letter-routing-key": target})
    filled(channel, queue, ["m"])
    channel.nack(channel.got(queue, "m", no_ack=False).delivery_tag, requeue=False)
    channel.holds(target, 1)
    message = channel.get(target, no_ack=False)
    before = message.typed_properties
    channel.nack(message.delivery_tag)
    channel.publish_confirmed(target, "later", delivery_mode=2)
    s.restart(kill)
    message = s.channel().got(target, "m", exchange="", routing_key=target)
    check_equal("properties", message.typed_properties, before)


def survive_exchange_route(s, kill):
    channel, exchange = s.channel(), s.exchange_name()
    target, queue = s.queue(channel, durable=True), s.queue(channel, durable=True)
    channel.declare_exchange(exchange, "fanout", durable=True,
                             arguments={"x-dead-letter-exchange": "",
                                        "x-dead-letter-routing-key": target})
    channel.bind(queue, exchange)
    channel.select()
    channel.publish_confirmed("", "m", exchange=exchange, delivery_mode=2)
    s.restart(kill)
    channel = s.channel()
    channel.nack(channel.got(queue, "m", no_ack=False).delivery_tag, requeue=False)
    channel.holds(target, 1)
    check_equal("death", channel.got(target, "m").headers["x-first-death-queue"], queue)


for kill, how in ((False, "an_orderly_end"), (True, "a_kill")):
    for run, what in ((survive_delay, "delayed_messages_come_in_time_after"),
                      (survive_history, "the_deaths_of_a_message_are_remembered_after"),
                      (survive_exchange_route, "an_exchanges_dead_letter_route_survives")):
        add(f"{what}_{how}", lambda s, run=run, kill=kill: run(s, kill), restarts=True)


@scenario(restarts=True)
def an_unused_queue_expires_after_a_restart_too(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True, arguments={"x-expires": 700})
    s.restart(kill=True)
    watcher = s.channel()
    while True:
        watcher.publish(queue, b"m", mandatory=True)
        watcher.sync()
        if watcher.connection.inbox(watcher.number):
            watcher.expect("basic.return", reply_code=312)
            return
        watcher.try_again("the queue does not expire")


@scenario(restarts=True)
def every_kind_of_exchange_and_queue_is_there_as_it_was_declared(s):
    channel = s.channel()
    exchanges = [(s.exchange_name(), type, arguments) for type, arguments in [
        ("headers", {}), ("x-consistent-hash", {"hash-header": "h"}), ("x-random", {}),
        ("x-modulus-hash", {}), ("x-recent-history", {"x-recent-history-length": 3}),
        ("x-delayed-message", {"x-delayed-type": "topic"}),
        ("x-message-deduplication", {"x-cache-size": 10})]]
    queues = [(s.queue_name(), arguments) for arguments in [
        {"x-queue-type": "quorum", "x-delivery-limit": 3}, {"x-max-priority": 9},
        {"x-single-active-consumer": True}, {"x-message-deduplication": True},
        {"x-max-length": 2, "x-overflow": "reject-publish", "x-message-ttl": 60000}]]

    def declare(channel):
        for name, type, arguments in exchanges:
            channel.declare_exchange(name, type, durable=True, arguments=arguments)
        for name, arguments in queues:
            channel.declare(name, durable=True, arguments=arguments)
    declare(channel)
    channel.bind(queues[0][0], exchanges[1][0], "5")
    s.restart(kill=True)
    channel = s.channel()
    declare(channel)
    channel.publish("k", b"m", exchange=exchanges[1][0])
    channel.holds(queues[0][0], 1)
    for (name, arguments) in queues:
        s.channel().refuses("queue.declare", 406, re.compile("inequivalent arg 'x-expires'"),
                            queue=name, durable=True, arguments={**arguments, "x-expires": 60000})


def a_deduplicating_queue_knows_its_messages_after_a_restart(s, kill):
    channel = s.channel()
    queue = s.queue(channel, durable=True, arguments={"x-message-deduplication": True})
    channel.select()
    for body in "first", "second":
        channel.publish_confirmed(queue, body, delivery_mode=2,
                                  headers={"x-deduplication-header": body})
    channel.publish_confirmed(queue, "without", delivery_mode=2)
    s.restart(kill=kill)
    channel = s.channel()
    channel.select()
    channel.publish_confirmed(queue, "duplicate", delivery_mode=2,
                              headers={"x-deduplication-header": "first"})
    for body in "first", "second", "without":
        channel.got(queue, body)
    check_equal("left", channel.counts(queue)[0], 0)
    channel.publish_confirmed(queue, "anew", delivery_mode=2,
                              headers={"x-deduplication-header": "first"})
    channel.got(queue, "anew")


for kill in True, False:
    add(f"a_deduplicating_queue_knows_its_messages_after_{'a_kill' if kill else 'an_orderly_end'}",
        lambda s, kill=kill: a_deduplicating_queue_knows_its_messages_after_a_restart(s, kill),
        restarts=True)


@scenario(restarts=True)
def a_quorum_queue_keeps_transient_messages_too(s):
    channel, exchange = s.channel(), s.exchange_name()
    channel.declare_exchange(exchange, "fanout", durable=True)
    quorum = s.queue(channel, durable=True, arguments={"x-queue-type": "quorum"})
    classic = s.queue(channel, durable=True)
    for queue in (quorum, classic):
        channel.bind(queue, exchange)
    channel.select()
    channel.publish_confirmed(quorum, "transient", delivery_mode=1)
    channel.publish_confirmed(quorum, "without a mode")
    channel.publish_confirmed("", "in both", exchange=exchange)
    s.restart(kill=True)
    channel = s.channel()
    check_equal("quorum queue", content(channel, quorum),
                ["transient", "without a mode", "in both"])
    check_equal("classic queue", content(channel, classic), [])


@scenario(restarts=True)
def a_quorum_queue_keeps_the_history_that_it_is_given(s):
    channel, exchange = s.channel(), s.exchange_name()
    channel.declare_exchange(exchange, "x-recent-history", durable=True)
    channel.publish("", "transient", exchange=exchange)
    queue = s.queue(channel, durable=True, arguments={"x-queue-type": "quorum"})
    channel.bind(queue, exchange)
    channel.select()
    channel.publish_confirmed(queue, "later")
    s.restart(kill=True)
    check_equal("messages", content(s.channel(), queue), ["transient", "later"])


@scenario(restarts=True)
def delivery_counts_are_kept(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True, arguments={"x-queue-type": "quorum"})
    filled(channel, queue, ["m"])
    for _ in range(5):
        channel.reject(channel.get(queue, no_ack=False).delivery_tag)
        channel.holds(queue, 1)
    channel.publish_confirmed(queue, "later", delivery_mode=2)
    s.restart(kill=True)
    s.channel().got(queue, "m", headers={"x-delivery-count": 5})


@scenario(restarts=True)
def it_may_be_killed_again_and_again(s):
    channel = s.channel()
    queue, texts = s.queue(channel, durable=True), []
    for turn in range(4):
        channel = s.channel()
        filled(channel, queue, [f"{turn} {n}" for n in range(50)])
        texts += [f"{turn} {n}" for n in range(50)]
        s.restart(kill=True)
        channel = s.channel()
        channel.holds(queue, len(texts))
        channel.got(queue, texts.pop(0))
    check_equal("messages", content(channel, queue), texts)


@scenario(restarts=True)
def clients_are_told_that_the_broker_ends(s):
    connection = s.connect()
    s.whippetd.ask_to_end()
    connection.refused(320, "broker forced connection closure with reason 'shutdown'", by="")
    s.restart()


@scenario(restarts=True)
def what_may_have_been_seen_before_a_crash_stays_flagged_over_orderly_restarts(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for text in "seen", "perhaps":
        channel.publish_confirmed(queue, text, delivery_mode=2)
    channel.got(queue, "seen", no_ack=False, redelivered=False)
    s.restart(kill=True)
    s.restart()
    s.restart()
    channel = s.channel()
    channel.got(queue, "seen", redelivered=True)


@scenario(restarts=True)
def a_long_queue_that_was_purged_just_before_the_end_is_empty_after_it(s):
    """Its messages are dropped little by little; the end waits for that."""
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    channel.publish_all(queue, ["m"] * 20_000, delivery_mode=2)
    channel.all_confirmed(20_000)
    check_equal("purged", channel.call("queue.purge", queue=queue).message_count, 20_000)
    channel.publish_confirmed(queue, "after", delivery_mode=2)
    s.restart()
    channel = s.channel()
    channel.got(queue, "after")
    check_equal("counts", channel.counts(queue)[0], 0)
