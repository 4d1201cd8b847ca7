"""The feature steps with pika's blocking connection."""
import calendar
import time

import pika
from pika.exceptions import ChannelClosedByBroker, StreamLostError, UnroutableError
from pika.exceptions import AMQPConnectionError

from feature import equal, name, run, wait_for_restart, wait_until

STEPS = """hello work-queue publish-subscribe routing topics rpc direct-reply-to confirms
mandatory-return get requeue dead-letter ttl priority headers transaction recover exclusive
missing-queue redeclare cancel-notify large-body close recovery""".split()


def connect(host, port):
    return pika.BlockingConnection(pika.ConnectionParameters(host, port, socket_timeout=15))


class Context:
    """What a step gets: a connection with one channel, and the means to open another."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.connection = connect(host, port)
        self.channel = self.connection.channel()

    def queue(self, **arguments):
        """A server-named exclusive queue."""
        return self.channel.queue_declare("", exclusive=True, arguments=arguments).method.queue

    def publish(self, queue, body, **properties):
        self.channel.basic_publish("", queue, body, pika.BasicProperties(**properties))

    def take(self, queue, count, auto_ack=True):
        """Consumes count messages: a list of (method, properties, body)."""
        taken = []
        tag = self.channel.basic_consume(queue, lambda _, *message: taken.append(message), auto_ack)
        wait_until(lambda: len(taken) >= count,
                   lambda: self.connection.process_data_events(0.1), f"{count} messages")
        self.channel.basic_cancel(tag)
        return taken

    def bodies(self, queue, count):
        return [body for _, _, body in self.take(queue, count)]

    def refused(self, code, call):
        """Demands that the broker closes the channel with this code."""
        try:
            call()
        except ChannelClosedByBroker as closed:
            equal(closed.reply_code, code, "reply code")
            return closed.reply_text
        raise AssertionError(f"not refused with {code}")


def hello(c):
    queue = c.queue()
    c.publish(queue, b"Hello World!")
    equal(c.bodies(queue, 1), [b"Hello World!"], "bodies")


def work_queue(c):
    queue = c.queue()
    other = c.connection.channel()
    shares = {}
    for worker in (c.channel, other):
        worker.basic_qos(prefetch_count=1)
        shares[worker] = []
        worker.basic_consume(queue, lambda ch, m, p, b: shares[ch].append((m.delivery_tag, b)))
    for number in range(4):
        c.publish(queue, b"%d" % number, delivery_mode=2)
    wait_until(lambda: all(shares.values()),
               lambda: c.connection.process_data_events(0.1), "one message each")
    c.connection.process_data_events(0.1)
    equal([len(share) for share in shares.values()], [1, 1], "unacknowledged deliveries")
    while sum(map(len, shares.values())) < 4:
        tag, _ = shares[c.channel][-1]
        c.channel.basic_ack(tag)
        seen = len(shares[c.channel])
        wait_until(lambda: len(shares[c.channel]) > seen,
                   lambda: c.connection.process_data_events(0.1), "the next message")
    equal([len(share) for share in shares.values()], [3, 1], "shares")


def publish_subscribe(c):
    exchange = name("logs")
    c.channel.exchange_declare(exchange, "fanout", auto_delete=True)
    queues = [c.queue() for _ in range(3)]
    for queue in queues:
        assert queue.startswith("amq.gen-"), queue
        c.channel.queue_bind(queue, exchange)
    c.channel.basic_publish(exchange, "ignored", b"to all")
    for queue in queues:
        equal(c.bodies(queue, 1), [b"to all"], "bodies")


def route(c, kind, bindings, keys):
    """Binds one queue and publishes each key as its own body; returns what arrived."""
    exchange, queue = name(kind), c.queue()
    c.channel.exchange_declare(exchange, kind, auto_delete=True)
    for binding in bindings:
        c.channel.queue_bind(queue, exchange, binding)
    for key in keys:
        c.channel.basic_publish(exchange, key, key.encode())
    arrived = []
    while (body := c.channel.basic_get(queue, auto_ack=True)[2]) is not None:
        arrived.append(body.decode())
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

    def serve(channel, method, properties, body):
        channel.basic_publish("", properties.reply_to, b"%d" % (int(body) * 2),
                              pika.BasicProperties(correlation_id=properties.correlation_id))
        channel.basic_ack(method.delivery_tag)

    server.basic_consume(requests, serve)
    c.channel.basic_consume(reply_to, lambda _, m, p, b: answers.append((p.correlation_id, b)),
                            auto_ack=True)
    c.publish(requests, b"21", reply_to=reply_to, correlation_id="call-7")
    wait_until(lambda: answers, lambda: c.connection.process_data_events(0.1), "the answer")
    return answers[0]


def rpc(c):
    equal(call(c, c.queue(), c.queue()), ("call-7", b"42"), "answer")


def direct_reply_to(c):
    equal(call(c, "amq.rabbitmq.reply-to", c.queue()), ("call-7", b"42"), "answer")


def confirms(c):
    queue = c.queue()
    c.channel.confirm_delivery()
    c.publish(queue, b"single", delivery_mode=2)
    # The blocking adapter waits for each confirm; its channel underneath does not.
    confirmed = set()

    def note(frame):
        last = frame.method.delivery_tag
        confirmed.update(range(1, last + 1) if frame.method.multiple else [last])

    inner = c.connection.channel()._impl
    inner.confirm_delivery(note, lambda _: None)
    for number in range(1000):
        inner.basic_publish("", queue, b"%d" % number)
    wait_until(lambda: len(confirmed) == 1000,
               lambda: c.connection.process_data_events(0.1), "1000 confirms")
    equal(c.channel.queue_declare(queue, passive=True).method.message_count, 1001, "messages")


def mandatory_return(c):
    c.channel.confirm_delivery()
    try:
        c.channel.basic_publish("", name("nowhere"), b"back to me", mandatory=True)
    except UnroutableError as error:
        returned, = error.messages
        equal((returned.method.reply_code, returned.method.reply_text, returned.body),
              (312, "NO_ROUTE", b"back to me"), "return")
    else:
        raise AssertionError("not returned")


def get(c):
    queue = c.queue()
    equal(c.channel.basic_get(queue), (None, None, None), "get of an empty queue")
    c.publish(queue, b"one")
    c.publish(queue, b"two")
    method, _, body = c.channel.basic_get(queue, auto_ack=True)
    equal((body, method.message_count, method.redelivered), (b"one", 1, False), "get")


def requeue(c):
    queue = c.queue()
    c.publish(queue, b"again")
    method, _, _ = c.channel.basic_get(queue)
    c.channel.basic_nack(method.delivery_tag, requeue=True)
    method, _, body = c.channel.basic_get(queue)
    equal((body, method.redelivered), (b"again", True), "second delivery")
    c.channel.basic_reject(method.delivery_tag, requeue=False)
    equal(c.channel.basic_get(queue)[0], None, "get after reject")


def dead_letter(c):
    graveyard = c.queue()
    queue = c.queue(**{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard})
    c.publish(queue, b"dead", headers={"mine": 1})
    method, _, _ = c.channel.basic_get(queue)
    c.channel.basic_nack(method.delivery_tag, requeue=False)
    (_, properties, body), = c.take(graveyard, 1)
    equal((body, properties.headers["mine"]), (b"dead", 1), "message")
    death, = properties.headers["x-death"]
    time_of_death = calendar.timegm(death.pop("time").timetuple())
    assert abs(time_of_death - time.time()) < 60, time_of_death
    equal(death, {"queue": queue, "reason": "rejected", "exchange": "", "count": 1,
                  "routing-keys": [queue]}, "x-death")
    equal(properties.headers["x-first-death-reason"], "rejected", "x-first-death-reason")


def ttl(c):
    graveyard = c.queue()
    dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard}
    by_queue = c.queue(**{"x-message-ttl": 50}, **dead_letters)
    by_message = c.queue(**dead_letters)
    for queue, properties in ((by_queue, {}), (by_message, {"expiration": "60"})):
        c.publish(queue, queue.encode(), **properties)
        (_, properties, body), = c.take(graveyard, 1)
        death, = properties.headers["x-death"]
        equal((body.decode(), death["queue"], death["reason"]), (queue, queue, "expired"), "death")
        equal(properties.expiration, None, "expiration after death")


def priority(c):
    queue = c.queue(**{"x-max-priority": 9})
    for level in (1, 5, 0, 9, 5):
        c.publish(queue, b"%d" % level, priority=level)
    equal(c.bodies(queue, 5), [b"9", b"5", b"5", b"1", b"0"], "order")


def headers(c):
    exchange, both, either = name("headers"), c.queue(), c.queue()
    c.channel.exchange_declare(exchange, "headers", auto_delete=True)
    for queue, match in ((both, "all"), (either, "any")):
        c.channel.queue_bind(queue, exchange, "", {"x-match": match, "format": "pdf", "pages": 3})
    for number, fields in enumerate([{"format": "pdf", "pages": 3}, {"format": "pdf"}, {"pages": 4}]):
        c.channel.basic_publish(exchange, "", b"%d" % number, pika.BasicProperties(headers=fields))
    equal(c.bodies(either, 2), [b"0", b"1"], "any")
    equal(c.bodies(both, 1), [b"0"], "all")
    equal(c.channel.basic_get(both)[0], None, "get after all")


def transaction(c):
    queue = c.queue()
    c.channel.tx_select()
    c.publish(queue, b"undone")
    c.channel.tx_rollback()
    c.publish(queue, b"done")
    equal(c.channel.queue_declare(queue, passive=True).method.message_count, 0, "before commit")
    c.channel.tx_commit()
    method, _, body = c.channel.basic_get(queue)
    equal(body, b"done", "body")
    c.channel.basic_ack(method.delivery_tag)
    c.channel.tx_rollback()
    c.channel.basic_recover(requeue=True)
    equal(c.channel.basic_get(queue)[0].redelivered, True, "redelivered after rollback of an ack")


def recover(c):
    queue = c.queue()
    c.publish(queue, b"one")
    c.publish(queue, b"two")
    equal([c.channel.basic_get(queue)[2] for _ in range(2)], [b"one", b"two"], "first time")
    c.channel.basic_recover(requeue=True)
    again = [c.channel.basic_get(queue) for _ in range(2)]
    equal([(m.redelivered, b) for m, _, b in again], [(True, b"one"), (True, b"two")], "again")


def exclusive(c):
    queue = c.queue()
    second = connect(c.host, c.port)
    text = c.refused(405, lambda: second.channel().queue_declare(queue, passive=True))
    assert text.startswith("RESOURCE_LOCKED"), text
    second.close()


def missing_queue(c):
    text = c.refused(404, lambda: c.channel.queue_declare(name("missing"), passive=True))
    assert text.startswith("NOT_FOUND - no queue '"), text
    assert c.channel.is_closed and c.connection.is_open


def redeclare(c):
    queue = name("redeclared")
    c.channel.queue_declare(queue, exclusive=True)
    text = c.refused(406, lambda: c.channel.queue_declare(
        queue, exclusive=True, arguments={"x-max-length": 5}))
    assert text.startswith("PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), text


def cancel_notify(c):
    queue = c.queue()
    cancelled = []
    c.channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = c.channel.basic_consume(queue, lambda *_: None)
    c.connection.channel().queue_delete(queue)
    wait_until(lambda: cancelled, lambda: c.connection.process_data_events(0.1), "the cancel")
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
    assert c.connection.is_closed
    second = connect(c.host, c.port)
    c.refused(404, lambda: second.channel().queue_declare(queue, passive=True))
    second.close()


def recovery(c):
    hello(c)
    wait_for_restart()
    try:
        hello(c)
    except (StreamLostError, AMQPConnectionError):
        pass
    else:
        raise AssertionError("the lost connection was not noticed")
    parameters = pika.ConnectionParameters(c.host, c.port, connection_attempts=20, retry_delay=0.5)
    c.connection = pika.BlockingConnection(parameters)
    c.channel = c.connection.channel()
    hello(c)
    publish_subscribe(c)


def prepare(host, port, step):
    context = Context(host, port)
    try:
        step(context)
    finally:
        if context.connection.is_open:
            context.connection.close()


if __name__ == "__main__":
    run(globals(), prepare)
