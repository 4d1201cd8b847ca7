"""The feature steps with py-amqp (the module amqp), on which kombu and Celery stand."""
import calendar
import time

import amqp
from amqp.exceptions import ChannelError, ConnectionError as AMQPConnectionError

from feature import equal, name, run, wait_for_restart, wait_until

STEPS = """hello work-queue publish-subscribe routing topics rpc direct-reply-to confirms
mandatory-return get requeue dead-letter ttl priority headers transaction recover exclusive
missing-queue redeclare cancel-notify large-body close recovery""".split()


def connect(host, port):
    connection = amqp.Connection(f"{host}:{port}", connect_timeout=15)
    connection.connect()
    return connection


class Context:
    """What a step gets: a connection with one channel, and the means to open another."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.connection = connect(host, port)
        self.channel = self.connection.channel()

    def queue(self, **arguments):
        """A server-named exclusive queue."""
        return self.channel.queue_declare("", exclusive=True, auto_delete=False,
                                          arguments=arguments).queue

    def publish(self, queue, body, **properties):
        self.channel.basic_publish(amqp.Message(body, **properties), routing_key=queue)

    def until(self, is_true, what):
        """Reads the connection until is_true()."""
        def read():
            try:
                self.connection.drain_events(timeout=0.1)
            except TimeoutError:
                pass  # Nothing came: wait_until looks at the clock.
        wait_until(is_true, read, what)

    def take(self, queue, count):
        """Consumes count messages."""
        taken = []
        tag = self.channel.basic_consume(queue, no_ack=True, callback=taken.append)
        self.until(lambda: len(taken) >= count, f"{count} messages")
        self.channel.basic_cancel(tag)
        return taken

    def bodies(self, queue, count):
        return [message.body for message in self.take(queue, count)]

    def count(self, queue):
        return self.channel.queue_declare(queue, passive=True).message_count

    def refused(self, code, call):
        """Demands that the broker closes the channel with this code."""
        try:
            call()
        except ChannelError as closed:
            equal(closed.reply_code, code, "reply code")
            return closed.reply_text
        raise AssertionError(f"not refused with {code}")


def tag_of(message):
    return message.delivery_info["delivery_tag"]


def redelivered(message):
    return message.delivery_info["redelivered"]


def hello(c):
    queue = c.queue()
    c.publish(queue, "Hello World!")
    equal(c.bodies(queue, 1), ["Hello World!"], "bodies")


def work_queue(c):
    queue = c.queue()
    shares = {}
    for worker in (c.channel, c.connection.channel()):
        worker.basic_qos(0, 1, False)
        shares[worker] = []
        worker.basic_consume(queue, callback=shares[worker].append)
    for number in range(4):
        c.publish(queue, b"%d" % number, delivery_mode=2)
    c.until(lambda: all(shares.values()), "one message each")
    wait_until(lambda: c.count(queue) == 2, lambda: None, "two messages that stay in the queue")
    equal([len(share) for share in shares.values()], [1, 1], "unacknowledged deliveries")
    mine = shares[c.channel]
    while sum(map(len, shares.values())) < 4:
        c.channel.basic_ack(tag_of(mine[-1]))
        seen = len(mine)
        c.until(lambda: len(mine) > seen, "the next message")
    equal([len(share) for share in shares.values()], [3, 1], "shares")


def publish_subscribe(c):
    exchange = name("logs")
    c.channel.exchange_declare(exchange, "fanout")
    queues = [c.queue() for _ in range(3)]
    for queue in queues:
        assert queue.startswith("amq.gen-"), queue
        c.channel.queue_bind(queue, exchange)
    c.channel.basic_publish(amqp.Message("to all"), exchange, "ignored")
    for queue in queues:
        equal(c.bodies(queue, 1), ["to all"], "bodies")


def route(c, kind, bindings, keys):
    """Binds one queue and publishes each key as its own body; returns what arrived."""
    exchange, queue = name(kind), c.queue()
    c.channel.exchange_declare(exchange, kind)
    for binding in bindings:
        c.channel.queue_bind(queue, exchange, binding)
    for key in keys:
        c.channel.basic_publish(amqp.Message(key), exchange, key)
    arrived = []
    while (message := c.channel.basic_get(queue, no_ack=True)) is not None:
        arrived.append(message.body)
    return arrived


def routing(c):
    keys = ["info", "error", "warning", "debug"]
    equal(route(c, "direct", ["error", "warning"], keys), ["error", "warning"], "keys")


def topics(c):
    keys = ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy",
            "lazy.pink.rabbit.x", "orange", "quick.orange.male.rabbit"]
    equal(route(c, "topic", ["*.*.rabbit", "lazy.#"], keys),
          ["quick.orange.rabbit", "lazy.orange.elephant", "lazy", "lazy.pink.rabbit.x"], "keys")


def call(c, reply_to, requests):
    """Serves requests on a channel of their own; returns (correlation id, body) of the answer."""
    server = c.connection.channel()
    answers = []

    def serve(request):
        answer = amqp.Message(str(int(request.body) * 2), correlation_id=request.correlation_id)
        server.basic_publish(answer, routing_key=request.reply_to)
        server.basic_ack(tag_of(request))

    server.basic_consume(requests, callback=serve)
    c.channel.basic_consume(reply_to, no_ack=True, callback=answers.append)
    c.publish(requests, "21", reply_to=reply_to, correlation_id="call-7")
    c.until(lambda: answers, "the answer")
    return answers[0].correlation_id, answers[0].body


def rpc(c):
    equal(call(c, c.queue(), c.queue()), ("call-7", "42"), "answer")


def direct_reply_to(c):
    equal(call(c, "amq.rabbitmq.reply-to", c.queue()), ("call-7", "42"), "answer")


def confirms(c):
    queue = c.queue()
    # basic_publish_confirm waits for each confirm; the loop after it does not.
    c.channel.basic_publish_confirm(amqp.Message("single", delivery_mode=2), routing_key=queue)
    confirmed = set()

    def note(last, multiple):
        confirmed.update(range(1, last + 1) if multiple else [last])

    channel = c.connection.channel()
    channel.confirm_select()
    channel.events["basic_ack"].add(note)
    for number in range(1000):
        channel.basic_publish(amqp.Message(str(number)), routing_key=queue)
    c.until(lambda: len(confirmed) == 1000, "1000 confirms")
    equal(c.count(queue), 1001, "messages")


def mandatory_return(c):
    returned = []
    c.channel.events["basic_return"].add(lambda *what: returned.append(what))
    c.channel.basic_publish_confirm(amqp.Message("back to me"), routing_key=name("nowhere"),
                                    mandatory=True)
    (error, exchange, key, message), = returned
    equal((error.reply_code, error.reply_text, exchange, key, message.body),
          (312, "NO_ROUTE", "", name("nowhere"), "back to me"), "return")


def get(c):
    queue = c.queue()
    equal(c.channel.basic_get(queue), None, "get of an empty queue")
    c.publish(queue, "one")
    c.publish(queue, "two")
    message = c.channel.basic_get(queue, no_ack=True)
    equal((message.body, message.delivery_info["message_count"], redelivered(message)),
          ("one", 1, False), "get")


def requeue(c):
    queue = c.queue()
    c.publish(queue, "again")
    # py-amqp has no basic.nack; basic.reject requeues too.
    c.channel.basic_reject(tag_of(c.channel.basic_get(queue)), requeue=True)
    message = c.channel.basic_get(queue)
    equal((message.body, redelivered(message)), ("again", True), "second delivery")
    c.channel.basic_reject(tag_of(message), requeue=False)
    equal(c.channel.basic_get(queue), None, "get after reject")


def dead_letter(c):
    graveyard = c.queue()
    queue = c.queue(**{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard})
    c.publish(queue, "dead", application_headers={"mine": 1})
    c.channel.basic_reject(tag_of(c.channel.basic_get(queue)), requeue=False)
    message, = c.take(graveyard, 1)
    headers_found = message.application_headers
    equal((message.body, headers_found["mine"]), ("dead", 1), "message")
    death, = headers_found["x-death"]
    time_of_death = calendar.timegm(death.pop("time").timetuple())
    assert abs(time_of_death - time.time()) < 60, time_of_death
    equal(death, {"queue": queue, "reason": "rejected", "exchange": "", "count": 1,
                  "routing-keys": [queue]}, "x-death")
    equal(headers_found["x-first-death-reason"], "rejected", "x-first-death-reason")


def ttl(c):
    graveyard = c.queue()
    dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard}
    by_queue = c.queue(**{"x-message-ttl": 50}, **dead_letters)
    by_message = c.queue(**dead_letters)
    for queue, properties in ((by_queue, {}), (by_message, {"expiration": "60"})):
        c.publish(queue, queue, **properties)
        message, = c.take(graveyard, 1)
        death, = message.application_headers["x-death"]
        equal((message.body, death["queue"], death["reason"]), (queue, queue, "expired"), "death")
        equal(message.properties.get("expiration"), None, "expiration after death")


def priority(c):
    queue = c.queue(**{"x-max-priority": 9})
    for level in (1, 5, 0, 9, 5):
        c.publish(queue, str(level), priority=level)
    equal(c.bodies(queue, 5), ["9", "5", "5", "1", "0"], "order")


def headers(c):
    exchange, both, either = name("headers"), c.queue(), c.queue()
    c.channel.exchange_declare(exchange, "headers")
    for queue, match in ((both, "all"), (either, "any")):
        c.channel.queue_bind(queue, exchange, "",
                             arguments={"x-match": match, "format": "pdf", "pages": 3})
    for number, fields in enumerate([{"format": "pdf", "pages": 3}, {"format": "pdf"}, {"pages": 4}]):
        c.channel.basic_publish(amqp.Message(str(number), application_headers=fields), exchange)
    equal(c.bodies(either, 2), ["0", "1"], "any")
    equal(c.bodies(both, 1), ["0"], "all")
    equal(c.channel.basic_get(both), None, "get after all")


def transaction(c):
    queue = c.queue()
    c.channel.tx_select()
    c.publish(queue, "undone")
    c.channel.tx_rollback()
    c.publish(queue, "done")
    equal(c.count(queue), 0, "messages before commit")
    c.channel.tx_commit()
    message = c.channel.basic_get(queue)
    equal(message.body, "done", "body")
    c.channel.basic_ack(tag_of(message))
    c.channel.tx_rollback()
    c.channel.basic_recover(requeue=True)
    equal(redelivered(c.channel.basic_get(queue)), True, "redelivered after rollback of an ack")


def recover(c):
    queue = c.queue()
    c.publish(queue, "one")
    c.publish(queue, "two")
    equal([c.channel.basic_get(queue).body for _ in range(2)], ["one", "two"], "first time")
    c.channel.basic_recover(requeue=True)
    again = [c.channel.basic_get(queue) for _ in range(2)]
    equal([(redelivered(m), m.body) for m in again], [(True, "one"), (True, "two")], "again")


def exclusive(c):
    queue = c.queue()
    second = connect(c.host, c.port)
    text = c.refused(405, lambda: second.channel().queue_declare(queue, passive=True))
    assert text.startswith("RESOURCE_LOCKED"), text
    second.close()


def missing_queue(c):
    queue = c.queue()
    c.publish(queue, "unsettled")
    c.channel.basic_get(queue)
    text = c.refused(404, lambda: c.count(name("missing")))
    assert text.startswith("NOT_FOUND - no queue '"), text
    # py-amqp opens the channel anew at once: it must be a channel that holds nothing, and works.
    assert c.channel.is_open and c.connection.connected
    equal(redelivered(c.channel.basic_get(queue)), True, "redelivered after the channel's end")


def redeclare(c):
    queue = name("redeclared")
    c.channel.queue_declare(queue, exclusive=True)
    text = c.refused(406, lambda: c.channel.queue_declare(
        queue, exclusive=True, arguments={"x-max-length": 5}))
    assert text.startswith("PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), text


def cancel_notify(c):
    queue = c.queue()
    cancelled = []
    tag = c.channel.basic_consume(queue, callback=lambda _: None, on_cancel=cancelled.append)
    c.connection.channel().queue_delete(queue)
    c.until(lambda: cancelled, "the cancel")
    equal(cancelled, [tag], "cancelled consumers")


def large_body(c):
    body = bytes(range(256)) * 4096
    queue = c.queue()
    c.publish(queue, body, delivery_mode=2)
    received, = c.bodies(queue, 1)
    assert received == body, f"{len(received)} bytes, not the same"


def close(c):
    queue = c.queue()
    c.connection.close()
    assert not c.connection.connected
    second = connect(c.host, c.port)
    c.refused(404, lambda: second.channel().queue_declare(queue, passive=True))
    second.close()


def recovery(c):
    hello(c)
    wait_for_restart()
    try:
        hello(c)
    except (AMQPConnectionError, OSError):
        c.connection.collect()
    else:
        raise AssertionError("the lost connection was not noticed")
    c.connection = connect(c.host, c.port)
    c.channel = c.connection.channel()
    hello(c)
    publish_subscribe(c)


def prepare(host, port, step):
    context = Context(host, port)
    try:
        step(context)
    finally:
        if context.connection.connected:
            context.connection.close()


if __name__ == "__main__":
    run(globals(), prepare)
