"""Every header that tells of a death, and what becomes of the other properties."""
import time

from client import Failure, check_equal
from dead_letters import await_message, deaths, kill, pair, source
from harness import add, scenario


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
