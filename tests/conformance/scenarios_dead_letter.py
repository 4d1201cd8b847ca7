"""Dead-lettering: why, where to, and every header that tells of it."""
import time

from client import Failure, check_equal
from harness import add, scenario


def source(s, channel, exchange, routing_key=None, **arguments):
    """A queue that dead-letters to this exchange."""
    arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
    arguments["x-dead-letter-exchange"] = exchange
    if routing_key is not None:
        arguments["x-dead-letter-routing-key"] = routing_key
    return s.queue(channel, arguments=arguments)


def pair(s, channel, **arguments):
    """-> a queue and the queue its dead letters go to by the default exchange."""
    target = s.queue(channel)
    return source(s, channel, "", target, **arguments), target


def kill(channel, queue, body=b"m", **publish):
    """Publish and reject."""
    channel.publish(queue, body, **publish)
    channel.holds(queue, 1)
    channel.reject(channel.got(queue, body, no_ack=False).delivery_tag, requeue=False)


def await_message(channel, queue):
    channel.holds(queue, 1)
    return channel.get(queue)


def deaths(message):
    """[(queue, reason, count)] with the newest first."""
    return [(death["queue"], death["reason"],
             death["count"]) for death in message.headers["x-death"]]


def by_reject(channel, queue, _):
    kill(channel, queue)


def by_nack(channel, queue, _):
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    channel.nack(channel.got(queue, b"m", no_ack=False).delivery_tag, requeue=False)


def by_time(channel, queue, _):
    channel.publish(queue, b"m", expiration="1")


def by_length(channel, queue, _):
    channel.publish_all(queue, ["m", "n"])


for name, reason, die, arguments in [("reject", "rejected", by_reject, {}),
                                     ("nack", "rejected", by_nack, {}),
                                     ("expiry", "expired", by_time, {}),
                                     ("overflow", "maxlen", by_length, {"x_max_length": 1})]:
    def dies(s, reason=reason, die=die, arguments=arguments):
        channel = s.channel()
        queue, target = pair(s, channel, **arguments)
        before = int(time.time())
        die(channel, queue, target)
        message = await_message(channel, target)
        check_equal("body", message.body, b"m")
        check_equal("exchange and key", (message.exchange, message.routing_key), ("", target))
        check_equal("redelivered", message.redelivered, False)
        headers = message.headers
        check_equal("first death", {k: v for k, v in headers.items() if k.startswith("x-first")},
                    {"x-first-death-exchange": "", "x-first-death-queue": queue,
                     "x-first-death-reason": reason})
        (death,) = headers["x-death"]
        when = death.pop("time")
        death.pop("original-expiration", None)
        check_equal("death", death, {"count": 1, "exchange": "", "queue": queue, "reason": reason,
                                     "routing-keys": [queue]})
        if not before - 1 <= when <= time.time() + 1:
            raise Failure(f"time of death is {when}, it is {before}")
    add(f"a_death_by_{name}_is_told_in_full", dies)


@scenario
def the_fields_of_a_death_have_rabbitmqs_types(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    channel.publish(queue, b"m", expiration="1")
    channel.holds(target, 1)
    death = channel.get(target).typed_properties["headers"]["x-death"].value[0].value
    check_equal("types", {name: value.tag for name, value in death.items()},
                {"count": "l", "reason": "S", "queue": "S", "time": "T", "exchange": "S",
                 "routing-keys": "A", "original-expiration": "S"})


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
def the_expiration_is_taken_off_and_remembered(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    channel.publish(queue, b"m", expiration="1", message_id="7")
    message = await_message(channel, target)
    if "expiration" in message.properties:
        raise Failure("the dead letter still expires")
    check_equal("message id", message.properties["message_id"], "7")
    check_equal("original expiration", message.headers["x-death"][0]["original-expiration"], "1")


@scenario
def an_expiration_is_taken_off_by_a_reject_too(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    kill(channel, queue, expiration="60000")
    message = await_message(channel, target)
    check_equal("expiration", message.properties.get("expiration"), None)
    check_equal("original expiration", message.headers["x-death"][0]["original-expiration"],
                "60000")


@scenario
def body_and_properties_survive_death(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    properties = {"content_type": "text/plain", "delivery_mode": 2, "priority": 3,
                  "correlation_id": "c", "reply_to": "r", "message_id": "m", "timestamp": 5,
                  "type": "t", "app_id": "a"}
    kill(channel, queue, b"x" * 200000, headers={"mine": [1, {"a": None}]}, **properties)
    message = await_message(channel, target)
    check_equal("body length", len(message.body), 200000)
    got = message.properties
    check_equal("my header", got.pop("headers")["mine"], [1, {"a": None}])
    check_equal("properties", got, properties)


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
def the_death_names_the_exchange_the_message_was_published_to(s):
    channel = s.channel()
    exchange = s.exchange(channel, "topic")
    queue, target = pair(s, channel)
    channel.bind(queue, exchange, "a.*")
    kill_by = s.channel()
    kill_by.publish("a.b", b"m", exchange=exchange)
    channel.holds(queue, 1)
    channel.reject(channel.got(queue, b"m", no_ack=False).delivery_tag, requeue=False)
    message = await_message(channel, target)
    check_equal("exchange", message.headers["x-death"][0]["exchange"], exchange)
    check_equal("keys", message.headers["x-death"][0]["routing-keys"], ["a.b"])
    check_equal("first exchange", message.headers["x-first-death-exchange"], exchange)


@scenario
def cc_keys_are_used_again_and_told(s):
    channel = s.channel()
    exchange, target = s.exchange(channel), s.queue(channel)
    queue = source(s, channel, exchange)
    channel.bind(target, exchange, "copy")
    kill(channel, queue, headers={"CC": ["copy"]})
    message = await_message(channel, target)
    check_equal("keys", message.headers["x-death"][0]["routing-keys"], [queue, "copy"])
    check_equal("CC", message.headers["CC"], ["copy"])


@scenario
def a_dead_letter_key_takes_the_cc_header_off(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    copy = s.queue(channel)
    kill(channel, queue, headers={"CC": [copy]})
    message = await_message(channel, target)
    if "CC" in message.headers:
        raise Failure("the dead letter has a CC header")
    check_equal("keys", message.headers["x-death"][0]["routing-keys"], [queue, copy])
    channel.holds(copy, 1)


@scenario
def bcc_keys_are_not_told(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    hidden = s.queue(channel)
    kill(channel, queue, headers={"BCC": [hidden]})
    message = await_message(channel, target)
    check_equal("keys", message.headers["x-death"][0]["routing-keys"], [queue])
    channel.holds(hidden, 1)


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


@scenario
def a_second_death_elsewhere_stands_before_the_first(s):
    channel = s.channel()
    second, target = pair(s, channel)
    first = source(s, channel, "", second)
    kill(channel, first)
    channel.holds(second, 1)
    channel.reject(channel.got(second, b"m", no_ack=False).delivery_tag, requeue=False)
    message = await_message(channel, target)
    check_equal("deaths", deaths(message), [(second, "rejected", 1), (first, "rejected", 1)])
    check_equal("first queue", message.headers["x-first-death-queue"], first)
    check_equal("exchange and keys of the second",
                (message.headers["x-death"][0]["exchange"],
                 message.headers["x-death"][0]["routing-keys"]),
                ("", [second]))


@scenario
def the_same_death_again_is_counted(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    kill(channel, queue)
    for _ in range(3):
        message = await_message(channel, target)
        channel.publish(queue, b"m", headers=message.typed_properties["headers"])
        channel.holds(queue, 1)
        channel.reject(channel.got(queue, b"m", no_ack=False).delivery_tag, requeue=False)
    message = await_message(channel, target)
    check_equal("deaths", deaths(message), [(queue, "rejected", 4)])


@scenario
def the_same_death_again_is_counted_in_a_retry_loop(s):
    channel, work, wait = s.channel(), s.queue_name("work"), s.queue_name("wait")
    channel.declare(work, arguments={"x-dead-letter-exchange": "",
                                     "x-dead-letter-routing-key": wait})
    channel.declare(wait, arguments={"x-dead-letter-exchange": "",
                                     "x-dead-letter-routing-key": work, "x-message-ttl": 1})
    channel.consume(work)
    channel.publish(work, b"m")
    tag = channel.delivered(b"m").delivery_tag
    for count in (1, 2, 3):
        channel.reject(tag, requeue=False)
        message = channel.delivered(b"m")
        check_equal("deaths", deaths(message),
                    [(wait, "expired", count), (work, "rejected", count)])
        check_equal("first death", (message.headers["x-first-death-queue"],
                                    message.headers["x-first-death-reason"]),
                    (work, "rejected"))
        tag = message.delivery_tag


@scenario
def another_reason_in_the_same_queue_is_another_death(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    kill(channel, queue)
    message = await_message(channel, target)
    channel.publish(queue, b"m", headers=message.typed_properties["headers"], expiration="1")
    check_equal("deaths", deaths(await_message(channel, target)),
                [(queue, "expired", 1), (queue, "rejected", 1)])


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


@scenario(not_rabbitmq="3.10 crashes on it and loses the message")
def an_x_death_header_that_is_none_does_no_harm(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    for rubbish in ("text", 5, None, {"a": 1}, [1, "x"], [{}],
                    [{"queue": 5, "reason": None, "count": "many"}]):
        kill(channel, queue, b"m", headers={"x-death": rubbish, "other": 1})
        channel.holds(target, 1)
        check_equal("other header", channel.got(target, b"m").headers["other"], 1)


@scenario
def the_first_death_is_the_brokers_to_tell_and_not_the_publishers(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    kill(channel, queue, headers={"x-first-death-queue": "mine", "x-first-death-reason": "mine",
                                  "x-first-death-exchange": "mine"})
    message = await_message(channel, target)
    check_equal("first death", {name: value for name, value in message.headers.items()
                                if name.startswith("x-first")},
                {"x-first-death-exchange": "", "x-first-death-queue": queue,
                 "x-first-death-reason": "rejected"})


@scenario
def no_header_of_a_dead_letter_comes_twice(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    kill(channel, queue, headers={"x-first-death-queue": "mine", "x-last-death-queue": "mine"})
    octets = await_message(channel, target).raw_properties
    for name in (b"x-death", b"x-first-death-queue"):
        check_equal(f"times {name}", octets.count(bytes([len(name)]) + name), 1)


@scenario(not_rabbitmq="x-last-death-* came with 3.13")
def the_last_death_is_told_anew_each_time(s):
    channel = s.channel()
    second, target = pair(s, channel)
    first = source(s, channel, "", second, x_message_ttl=1)
    channel.publish(first, b"m")
    channel.holds(second, 1)
    message = channel.got(second, b"m", no_ack=False)
    for reason, queue in (("expired", first), ("rejected", second)):
        check_equal("last death", {name[13:]: value for name, value in message.headers.items()
                                   if name.startswith("x-last-death-")},
                    {"exchange": "", "queue": queue, "reason": reason})
        check_equal("first queue", message.headers["x-first-death-queue"], first)
        if reason == "expired":
            channel.reject(message.delivery_tag, requeue=False)
            message = await_message(channel, target)


@scenario
def a_dead_letter_can_be_routed_by_the_headers_of_its_death(s):
    channel = s.channel()
    exchange, right, wrong = s.exchange(channel, "headers"), s.queue(channel), s.queue(channel)
    for queue, reason in ((right, "rejected"), (wrong, "expired")):
        channel.bind(queue, exchange, arguments={"x-match": "all-with-x",
                                                 "x-first-death-reason": reason})
    kill(channel, source(s, channel, exchange))
    channel.holds(right, 1)
    channel.holds(wrong, 0)


@scenario
def bcc_keys_are_used_again_and_not_told(s):
    channel = s.channel()
    exchange, target = s.exchange(channel), s.queue(channel)
    queue = source(s, channel, exchange)
    channel.bind(target, exchange, "hidden")
    kill(channel, queue, headers={"BCC": ["hidden"]})
    message = await_message(channel, target)
    check_equal("keys", message.headers["x-death"][0]["routing-keys"], [queue])
    check_equal("BCC", message.headers.get("BCC"), None)


@scenario
def a_dead_letter_is_no_redelivery_even_if_its_message_was(s):
    channel = s.channel()
    queue, target = pair(s, channel)
    channel.publish(queue, b"m")
    channel.holds(queue, 1)
    channel.nack(channel.got(queue, b"m", no_ack=False).delivery_tag)
    channel.holds(queue, 1)
    channel.nack(channel.got(queue, b"m", no_ack=False, redelivered=True).delivery_tag,
                 requeue=False)
    channel.holds(target, 1)
    channel.got(target, b"m", redelivered=False)


@scenario
def what_is_dropped_for_its_octets_is_dead_lettered_as_maxlen(s):
    channel = s.channel()
    queue, target = pair(s, channel, x_max_length_bytes=1)
    channel.publish(queue, b"mm")
    check_equal("deaths", deaths(await_message(channel, target)), [(queue, "maxlen", 1)])


# --- Dead letters that nobody takes --------------------------------------------------------------------


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


@scenario(not_rabbitmq=DROPS)
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


@scenario(not_rabbitmq=DROPS)
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
