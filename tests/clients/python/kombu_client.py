"""The feature steps with kombu, the messaging library below Celery, plus its simple queue."""
import calendar
import threading
import time

from amqp.exceptions import ConsumerCancelled
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.mixins import ConsumerMixin

from feature import equal, name, run, wait_for_restart, wait_until

STEPS = """hello work-queue publish-subscribe routing topics rpc direct-reply-to confirms
mandatory-return get requeue dead-letter ttl priority headers recover exclusive
missing-queue redeclare cancel-notify large-body simple-queue close recovery""".split()


def connect(host, port, **options):
    return Connection(f"amqp://guest:guest@{host}:{port}//", connect_timeout=15,
                      transport_options=options)


class Context:
    """What a step gets: a connection with one channel, and the means to open another."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.connection = connect(host, port)
        self.channel = self.connection.channel()

    def queue(self, **options):
        """A server-named exclusive queue, which kombu declares as auto-delete."""
        queue = Queue(exclusive=True, durable=False, channel=self.channel, **options)
        queue.declare()
        return queue

    def exchange(self, kind):
        return Exchange(name(kind), kind, durable=False, auto_delete=True)

    def publish(self, queue, body, **properties):
        Producer(self.channel).publish(body, routing_key=queue.name, serializer="json",
                                       **properties)

    def consumer(self, queue, on_message, channel=None, **options):
        """A consumer of a queue that is declared already."""
        consumer = Consumer(channel or self.channel, queue, auto_declare=False,
                            on_message=on_message, accept=["json"], **options)
        consumer.consume()
        return consumer

    def until(self, is_true, what):
        """Reads the connection until is_true()."""
        def read():
            try:
                self.connection.drain_events(timeout=0.1)
            except TimeoutError:
                pass  # Nothing came: wait_until looks at the clock.
        wait_until(is_true, read, what)

    def take(self, queue, count):
        """Consumes count messages; the queue is gone then."""
        taken = []
        consumer = self.consumer(queue, taken.append, no_ack=True)
        self.until(lambda: len(taken) >= count, f"{count} messages")
        consumer.cancel()
        return taken

    def bodies(self, queue, count):
        return [message.payload for message in self.take(queue, count)]

    def count(self, queue):
        return queue.queue_declare(passive=True).message_count

    def refused(self, code, call):
        """Demands that the broker closes the channel with this code."""
        try:
            call()
        except self.connection.channel_errors as closed:
            equal(closed.reply_code, code, "reply code")
            return closed.reply_text
        raise AssertionError(f"not refused with {code}")


def redelivered(message):
    return message.delivery_info["redelivered"]


def hello(c):
    queue = c.queue()
    c.publish(queue, {"hello": "World!"})
    message, = c.take(queue, 1)
    equal((message.content_type, message.payload), ("application/json", {"hello": "World!"}),
          "message")


def work_queue(c):
    queue = c.queue()
    shares = []
    for channel in (c.channel, c.connection.channel()):
        share = []
        c.consumer(queue, share.append, channel, prefetch_count=1)
        shares.append(share)
    for number in range(4):
        c.publish(queue, number)
    c.until(lambda: all(shares), "one message each")
    wait_until(lambda: c.count(queue) == 2, lambda: None, "two messages that stay in the queue")
    equal([len(share) for share in shares], [1, 1], "unacknowledged deliveries")
    mine = shares[0]
    while sum(map(len, shares)) < 4:
        mine[-1].ack()
        seen = len(mine)
        c.until(lambda: len(mine) > seen, "the next message")
    equal([len(share) for share in shares], [3, 1], "shares")


def publish_subscribe(c):
    exchange = c.exchange("fanout")
    queues = [c.queue(exchange=exchange) for _ in range(3)]
    for queue in queues:
        assert queue.name.startswith("amq.gen-"), queue.name
    Producer(c.channel, exchange, "ignored").publish("to all", serializer="json")
    for queue in queues:
        equal(c.bodies(queue, 1), ["to all"], "bodies")


def route(c, kind, bindings, keys):
    """Binds one queue and publishes each key as its own body; returns what arrived."""
    exchange = c.exchange(kind)
    queue = c.queue(bindings=[exchange.binding(key) for key in bindings])
    producer = Producer(c.channel, exchange, serializer="json")
    for key in keys:
        producer.publish(key, routing_key=key)
    arrived = []
    while (message := queue.get(no_ack=True, accept=["json"])) is not None:
        arrived.append(message.payload)
    return arrived


def routing(c):
    keys = ["info", "error", "warning", "debug"]
    equal(route(c, "direct", ["error", "warning"], keys), ["error", "warning"], "keys")


def topics(c):
    keys = ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy",
            "lazy.pink.rabbit.x", "orange", "quick.orange.male.rabbit"]
    equal(route(c, "topic", ["*.*.rabbit", "lazy.#"], keys),
          ["quick.orange.rabbit", "lazy.orange.elephant", "lazy", "lazy.pink.rabbit.x"], "keys")


def call(c, replies, requests):
    """Serves requests on a channel of their own; returns (correlation id, body) of the answer."""
    server = c.connection.channel()
    answers = []

    def serve(request):
        Producer(server).publish(request.payload * 2, routing_key=request.properties["reply_to"],
                                 correlation_id=request.properties["correlation_id"])
        request.ack()

    c.consumer(requests, serve, server)
    c.consumer(replies, answers.append, no_ack=True)
    c.publish(requests, 21, reply_to=replies.name, correlation_id="call-7")
    c.until(lambda: answers, "the answer")
    return answers[0].properties["correlation_id"], answers[0].payload


def rpc(c):
    equal(call(c, c.queue(), c.queue()), ("call-7", 42), "answer")


def direct_reply_to(c):
    replies = Queue("amq.rabbitmq.reply-to", channel=c.channel, no_declare=True)
    equal(call(c, replies, c.queue()), ("call-7", 42), "answer")


def confirms(c):
    queue = c.queue()
    with connect(c.host, c.port, confirm_publish=True) as confirming:
        producer = Producer(confirming)
        for number in range(500):
            producer.publish(number, routing_key=queue.name, delivery_mode=number % 2 + 1)
        # Confirmed means that it is there, whoever looks.
        equal(c.count(queue), 500, "messages")


def mandatory_return(c):
    returned = []
    producer = Producer(c.channel, on_return=lambda *what: returned.append(what))
    producer.publish("back to me", routing_key=name("nowhere"), mandatory=True)
    c.until(lambda: returned, "the return")
    (error, exchange, key, message), = returned
    equal((error.reply_code, error.reply_text, exchange, key, message.body),
          (312, "NO_ROUTE", "", name("nowhere"), "back to me"), "return")


def get(c):
    queue = c.queue()
    equal(queue.get(), None, "get of an empty queue")
    c.publish(queue, "one")
    c.publish(queue, "two")
    message = queue.get(no_ack=True)
    equal((message.payload, message.delivery_info["message_count"], redelivered(message)),
          ("one", 1, False), "get")


def requeue(c):
    queue = c.queue()
    c.publish(queue, "again")
    queue.get().requeue()
    message = queue.get()
    equal((message.payload, redelivered(message)), ("again", True), "second delivery")
    message.reject()
    equal(queue.get(), None, "get after reject")


def dead_letters_to(graveyard):
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard.name}


def dead_letter(c):
    graveyard = c.queue()
    queue = c.queue(queue_arguments=dead_letters_to(graveyard))
    c.publish(queue, "dead", headers={"mine": 1})
    queue.get().reject()
    message, = c.take(graveyard, 1)
    equal((message.payload, message.headers["mine"]), ("dead", 1), "message")
    death, = message.headers["x-death"]
    time_of_death = calendar.timegm(death.pop("time").timetuple())
    assert abs(time_of_death - time.time()) < 60, time_of_death
    equal(death, {"queue": queue.name, "reason": "rejected", "exchange": "", "count": 1,
                  "routing-keys": [queue.name]}, "x-death")
    equal(message.headers["x-first-death-reason"], "rejected", "x-first-death-reason")


def ttl(c):
    for options, properties in (({"message_ttl": 0.05}, {}), ({}, {"expiration": 0.06})):
        graveyard = c.queue()
        queue = c.queue(queue_arguments=dead_letters_to(graveyard), **options)
        c.publish(queue, queue.name, **properties)
        message, = c.take(graveyard, 1)
        death, = message.headers["x-death"]
        equal((message.payload, death["queue"], death["reason"]),
              (queue.name, queue.name, "expired"), "death")
        equal(message.properties.get("expiration"), None, "expiration after death")


def priority(c):
    queue = c.queue(max_priority=9)
    for level in (1, 5, 0, 9, 5):
        c.publish(queue, level, priority=level)
    equal(c.bodies(queue, 5), [9, 5, 5, 1, 0], "order")


def headers(c):
    exchange = c.exchange("headers")
    both, either = [
        c.queue(exchange=exchange,
                binding_arguments={"x-match": match, "format": "pdf", "pages": 3})
        for match in ("all", "any")]
    producer = Producer(c.channel, exchange)
    for number, fields in enumerate([{"format": "pdf", "pages": 3}, {"format": "pdf"}, {"pages": 4}]):
        producer.publish(number, headers=fields)
    equal([either.get(no_ack=True).payload for _ in range(2)], [0, 1], "any")
    equal(both.get(no_ack=True).payload, 0, "all")
    equal([queue.get() for queue in (both, either)], [None, None], "get after all")


def recover(c):
    queue = c.queue()
    deliveries = []
    consumer = c.consumer(queue, deliveries.append)
    c.publish(queue, "one")
    c.publish(queue, "two")
    c.until(lambda: len(deliveries) == 2, "the messages")
    consumer.recover(requeue=True)
    c.until(lambda: len(deliveries) == 4, "the messages again")
    equal([(redelivered(m), m.payload) for m in deliveries],
          [(False, "one"), (False, "two"), (True, "one"), (True, "two")], "deliveries")


def exclusive(c):
    queue = c.queue()
    with connect(c.host, c.port) as second:
        text = c.refused(405, lambda: queue(second.channel()).queue_declare(passive=True))
        assert text.startswith("RESOURCE_LOCKED"), text


def missing_queue(c):
    text = c.refused(404, lambda: c.count(Queue(name("missing"), channel=c.channel)))
    assert text.startswith("NOT_FOUND - no queue '"), text
    hello(c)


def redeclare(c):
    queue = Queue(name("redeclared"), exclusive=True, durable=False, channel=c.channel)
    queue.declare()
    longer = Queue(queue.name, exclusive=True, durable=False, channel=c.channel, max_length=5)
    text = c.refused(406, longer.declare)
    assert text.startswith("PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), text


def cancel_notify(c):
    queue = c.queue()
    c.consumer(queue, lambda _: None)
    channel = c.connection.channel()
    # To kombu it is like a lost connection: an error that makes its consumers start again.
    try:
        queue(channel).delete()
        c.until(lambda: False, "the cancel")
    except ConsumerCancelled as error:
        assert isinstance(error, c.connection.recoverable_connection_errors)


def large_body(c):
    body = bytes(range(256)) * 4096
    queue = c.queue()
    Producer(c.channel).publish(body, routing_key=queue.name, delivery_mode=2)
    received, = c.bodies(queue, 1)
    assert received == body, f"{len(received)} bytes, not the same"


def simple_queue(c):
    """A durable queue with an exchange of its own, used like Python's queue.Queue."""
    with c.connection.SimpleQueue(name("simple"), serializer="json") as simple:
        try:
            simple.put({"number": 1})
            simple.put({"number": 2}, compression="zlib")
            wait_until(lambda: simple.qsize() == 2, lambda: None, "a size of 2")
            for number in (1, 2):
                message = simple.get(timeout=20)
                equal(message.payload, {"number": number}, "payload")
                message.ack()
            try:
                simple.get(timeout=0.05)
            except simple.Empty:
                pass
            else:
                raise AssertionError("a third message")
            simple.close()
            simple.put({"number": 3})
            equal(simple.clear(), 1, "cleared messages")
        finally:
            simple.queue.delete()
            simple.queue.exchange.delete()


def close(c):
    queue = c.queue()
    c.connection.release()
    assert not c.connection.connected
    with connect(c.host, c.port) as second:
        c.refused(404, lambda: queue(second.channel()).queue_declare(passive=True))


class Worker(ConsumerMixin):
    """kombu's own loop of consuming, which connects anew and declares its queue anew."""

    def __init__(self, connection, queue):
        self.connection, self.queue = connection, queue
        self.ready = threading.Event()
        self.bodies = []

    def get_consumers(self, new_consumer, channel):
        return [new_consumer(self.queue, on_message=self.on_message, accept=["json"])]

    def on_consume_ready(self, connection, channel, consumers, **_):
        self.ready.set()

    def on_connection_error(self, error, interval):
        """Silent, in place of a line on standard error."""

    def on_message(self, message):
        self.bodies.append(message.payload)
        message.ack()


def recovery(c):
    """Publishing is ensured, and the consumer runs in the mixin's loop."""
    queue = Queue(name("recovery"), durable=True)
    worker = Worker(c.connection.clone(), queue)
    loop = threading.Thread(target=worker.run, daemon=True)
    loop.start()
    assert worker.ready.wait(10), "the consumer did not start"
    errors = []
    producer = Producer(connect(c.host, c.port, confirm_publish=True), serializer="json")
    publish = producer.connection.ensure(
        producer, producer.publish, errback=lambda error, _: errors.append(error),
        max_retries=50, interval_start=0.2, interval_step=0)
    publish("before", routing_key=queue.name)
    wait_until(lambda: worker.bodies == ["before"], lambda: time.sleep(0.01), "the first message")

    wait_for_restart()
    publish("after", routing_key=queue.name)
    assert errors, "the lost connection was not noticed"
    wait_until(lambda: len(worker.bodies) > 1, lambda: time.sleep(0.01), "the second message", 20)
    equal(worker.bodies, ["before", "after"], "bodies")
    worker.should_stop = True
    loop.join(10)

    c.connection.collect()
    c.channel = c.connection.channel()
    queue(c.channel).delete()
    hello(c)
    publish_subscribe(c)


def prepare(host, port, step):
    context = Context(host, port)
    try:
        step(context)
    finally:
        context.connection.release()


if __name__ == "__main__":
    run(globals(), prepare)
