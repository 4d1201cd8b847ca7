"""The feature steps with aio-pika, the asyncio library; recovery is its robust connection's."""
import asyncio
import time

import aio_pika
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed
from aio_pika.exceptions import PublishError
from aiormq.exceptions import ChannelLockedResource

from feature import equal, name, run, wait_for_restart

STEPS = """hello work-queue publish-subscribe routing topics rpc direct-reply-to confirms
mandatory-return get requeue dead-letter ttl priority headers transaction recover exclusive
missing-queue redeclare cancel-notify large-body close recovery""".split()

WAIT_S = 20
REFUSALS = {404: ChannelNotFoundEntity, 405: ChannelLockedResource, 406: ChannelPreconditionFailed}


def connect(host, port):
    return aio_pika.connect(host=host, port=port, timeout=15)


class Context:
    """What a step gets: a connection with one channel, and the means to open another."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.connection = self.channel = None

    async def open(self):
        self.connection = await connect(self.host, self.port)
        self.channel = await self.connection.channel()

    def queue(self, **arguments):
        """A server-named exclusive queue."""
        return self.channel.declare_queue(exclusive=True, arguments=arguments)

    async def exchange(self, kind):
        return await self.channel.declare_exchange(name(kind), kind, auto_delete=True)

    async def publish(self, queue, body, **properties):
        """Publishes and waits for the confirm, which is what aio-pika does by itself."""
        await self.channel.default_exchange.publish(aio_pika.Message(body, **properties),
                                                    queue.name)

    async def take(self, queue, count):
        """Consumes count messages."""
        arrived = asyncio.Queue()
        tag = await queue.consume(arrived.put, no_ack=True)
        taken = [await asyncio.wait_for(arrived.get(), WAIT_S) for _ in range(count)]
        await queue.cancel(tag)
        return taken

    async def bodies(self, queue, count):
        return [message.body for message in await self.take(queue, count)]

    async def count(self, queue):
        found = await self.channel.declare_queue(queue.name, passive=True)
        return found.declaration_result.message_count

    async def refused(self, code, call):
        """Demands that the broker closes the channel with this code."""
        try:
            await call
        except ChannelClosed as closed:
            assert isinstance(closed, REFUSALS[code]), f"refused with {closed!r}, not {code}"
            return closed.args[0]
        raise AssertionError(f"not refused with {code}")


async def hello(c):
    queue = await c.queue()
    await c.publish(queue, b"Hello World!")
    equal(await c.bodies(queue, 1), [b"Hello World!"], "bodies")


async def work_queue(c):
    queue = await c.queue()
    shares = []
    for worker in (c.channel, await c.connection.channel()):
        await worker.set_qos(prefetch_count=1)
        arrived = asyncio.Queue()
        await (await worker.get_queue(queue.name)).consume(arrived.put)
        shares.append(arrived)
    for number in range(4):
        await c.publish(queue, b"%d" % number, delivery_mode=2)
    mine, others = [await asyncio.wait_for(share.get(), WAIT_S) for share in shares]
    # All four are confirmed, so they are either delivered or counted.
    equal(await c.count(queue), 2, "messages that wait")
    equal([share.empty() for share in shares], [True, True], "prefetch is kept")
    bodies = [mine.body]
    for _ in range(2):
        await mine.ack()
        mine = await asyncio.wait_for(shares[0].get(), WAIT_S)
        bodies.append(mine.body)
    equal(sorted([*bodies, others.body]), [b"0", b"1", b"2", b"3"], "all messages")
    assert shares[1].empty(), "the worker that acknowledged nothing got a second message"


async def publish_subscribe(c):
    exchange = await c.exchange("fanout")
    queues = [await c.queue() for _ in range(3)]
    for queue in queues:
        await queue.bind(exchange)
    await exchange.publish(aio_pika.Message(b"to all"), "ignored")
    for queue in queues:
        equal(await c.bodies(queue, 1), [b"to all"], "bodies")


async def route(c, kind, bindings, keys):
    """Binds one queue and publishes each key as its own body; returns what arrived."""
    exchange, queue = await c.exchange(kind), await c.queue()
    assert queue.name.startswith("amq.gen-"), queue.name
    for binding in bindings:
        await queue.bind(exchange, binding)
    for key in keys:
        await exchange.publish(aio_pika.Message(key.encode()), key, mandatory=False)
    arrived = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        arrived.append(message.body.decode())
    return arrived


async def routing(c):
    keys = ["info", "error", "warning", "debug"]
    equal(await route(c, "direct", ["error", "warning"], keys), ["error", "warning"], "keys")


async def topics(c):
    keys = ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy",
            "lazy.pink.rabbit.x", "orange", "quick.orange.male.rabbit"]
    equal(await route(c, "topic", ["*.*.rabbit", "lazy.#"], keys),
          ["quick.orange.rabbit", "lazy.orange.elephant", "lazy", "lazy.pink.rabbit.x"], "keys")


async def call(c, replies, requests):
    """Serves requests on a channel of their own; returns (correlation id, body) of the answer."""
    server = await c.connection.channel()
    answers = asyncio.Queue()

    async def serve(request):
        async with request.process():
            answer = aio_pika.Message(b"%d" % (int(request.body) * 2),
                                      correlation_id=request.correlation_id)
            await server.default_exchange.publish(answer, request.reply_to)

    await (await server.get_queue(requests.name)).consume(serve)
    await replies.consume(answers.put, no_ack=True)
    await c.publish(requests, b"21", reply_to=replies.name, correlation_id="call-7")
    answer = await asyncio.wait_for(answers.get(), WAIT_S)
    return answer.correlation_id, answer.body


async def rpc(c):
    equal(await call(c, await c.queue(), await c.queue()), ("call-7", b"42"), "answer")


async def direct_reply_to(c):
    # get_queue declares passively, which must find this queue that is none.
    replies = await c.channel.get_queue("amq.rabbitmq.reply-to")
    equal(await call(c, replies, await c.queue()), ("call-7", b"42"), "answer")


async def confirms(c):
    queue = await c.queue()
    await c.publish(queue, b"single", delivery_mode=2)
    # All are published before the first confirm is looked at.
    await asyncio.gather(*[c.publish(queue, b"%d" % number) for number in range(1000)])
    equal(await c.count(queue), 1001, "messages")


async def mandatory_return(c):
    channel = await c.connection.channel(on_return_raises=True)
    message = aio_pika.Message(b"back to me", message_id="returned")
    try:
        await channel.default_exchange.publish(message, name("nowhere"))
    except PublishError as error:
        returned = error.message
        equal((returned.delivery.reply_code, returned.delivery.reply_text,
               returned.delivery.routing_key, returned.body),
              (312, "NO_ROUTE", name("nowhere"), b"back to me"), "return")
    else:
        raise AssertionError("not returned")


async def get(c):
    queue = await c.queue()
    equal(await queue.get(fail=False), None, "get of an empty queue")
    await c.publish(queue, b"one")
    await c.publish(queue, b"two")
    message = await queue.get(no_ack=True)
    equal((message.body, message.message_count, message.redelivered), (b"one", 1, False), "get")


async def requeue(c):
    queue = await c.queue()
    await c.publish(queue, b"again")
    await (await queue.get()).nack(requeue=True)
    message = await queue.get()
    equal((message.body, message.redelivered), (b"again", True), "second delivery")
    await message.reject(requeue=False)
    equal(await queue.get(fail=False), None, "get after reject")


async def dead_letter(c):
    graveyard = await c.queue()
    queue = await c.queue(**{"x-dead-letter-exchange": "",
                             "x-dead-letter-routing-key": graveyard.name})
    await c.publish(queue, b"dead", headers={"mine": 1})
    await (await queue.get()).nack(requeue=False)
    message, = await c.take(graveyard, 1)
    equal((message.body, message.headers["mine"]), (b"dead", 1), "message")
    death, = message.headers["x-death"]
    time_of_death = death.pop("time").timestamp()
    assert abs(time_of_death - time.time()) < 60, time_of_death
    equal(death, {"queue": queue.name, "reason": "rejected", "exchange": "", "count": 1,
                  "routing-keys": [queue.name]}, "x-death")
    equal(message.headers["x-first-death-reason"], "rejected", "x-first-death-reason")


async def ttl(c):
    graveyard = await c.queue()
    dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard.name}
    by_queue = await c.queue(**{"x-message-ttl": 50}, **dead_letters)
    by_message = await c.queue(**dead_letters)
    for queue, properties in ((by_queue, {}), (by_message, {"expiration": 0.06})):
        await c.publish(queue, queue.name.encode(), **properties)
        message, = await c.take(graveyard, 1)
        death, = message.headers["x-death"]
        equal((message.body.decode(), death["queue"], death["reason"]),
              (queue.name, queue.name, "expired"), "death")
        equal(message.expiration, None, "expiration after death")


async def priority(c):
    queue = await c.queue(**{"x-max-priority": 9})
    for level in (1, 5, 0, 9, 5):
        await c.publish(queue, b"%d" % level, priority=level)
    equal(await c.bodies(queue, 5), [b"9", b"5", b"5", b"1", b"0"], "order")


async def headers(c):
    exchange, both, either = await c.exchange("headers"), await c.queue(), await c.queue()
    for queue, match in ((both, "all"), (either, "any")):
        await queue.bind(exchange, "", arguments={"x-match": match, "format": "pdf", "pages": 3})
    for number, fields in enumerate([{"format": "pdf", "pages": 3}, {"format": "pdf"}, {"pages": 4}]):
        await exchange.publish(aio_pika.Message(b"%d" % number, headers=fields), "",
                               mandatory=False)
    equal(await c.bodies(either, 2), [b"0", b"1"], "any")
    equal(await c.bodies(both, 1), [b"0"], "all")
    equal([await queue.get(fail=False) for queue in (both, either)], [None, None], "get after all")


async def transaction(c):
    queue = await c.queue()
    c.channel = await c.connection.channel(publisher_confirms=False)
    transactional = c.channel.transaction()
    await transactional.select()
    await c.publish(queue, b"undone")
    await transactional.rollback()
    await c.publish(queue, b"done")
    equal(await c.count(queue), 0, "messages before commit")
    await transactional.commit()
    queue = await c.channel.get_queue(queue.name)
    message = await queue.get()
    equal(message.body, b"done", "body")
    await message.ack()
    await transactional.rollback()
    await c.channel.channel.basic_recover(requeue=True)
    equal((await queue.get()).redelivered, True, "redelivered after rollback of an ack")


async def recover(c):
    queue = await c.queue()
    await c.publish(queue, b"one")
    await c.publish(queue, b"two")
    equal([(await queue.get()).body for _ in range(2)], [b"one", b"two"], "first time")
    # aio-pika has no call for it; aiormq, the library below it, does.
    await c.channel.channel.basic_recover(requeue=True)
    again = [await queue.get() for _ in range(2)]
    equal([(m.redelivered, m.body) for m in again], [(True, b"one"), (True, b"two")], "again")


async def exclusive(c):
    queue = await c.queue()
    second = await connect(c.host, c.port)
    channel = await second.channel()
    text = await c.refused(405, channel.declare_queue(queue.name, passive=True))
    assert text.startswith("RESOURCE_LOCKED"), text
    await second.close()


async def missing_queue(c):
    text = await c.refused(404, c.channel.declare_queue(name("missing"), passive=True))
    assert text.startswith("NOT_FOUND - no queue '"), text
    assert c.channel.is_closed and not c.connection.is_closed
    c.channel = await c.connection.channel()
    await hello(c)


async def redeclare(c):
    queue = name("redeclared")
    await c.channel.declare_queue(queue, exclusive=True)
    text = await c.refused(406, c.channel.declare_queue(queue, exclusive=True,
                                                        arguments={"x-max-length": 5}))
    assert text.startswith("PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), text


async def cancel_notify(c):
    queue = await c.queue()
    tag = await queue.consume(lambda _: None)
    other = await c.connection.channel()
    # aio-pika has no callback for it: aiormq forgets the consumer that was cancelled.
    consumers = c.channel.channel.consumers
    equal(list(consumers), [tag], "consumers")
    await other.queue_delete(queue.name)
    deadline = time.monotonic() + WAIT_S
    while consumers and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    equal(list(consumers), [], "consumers after the queue's end")


async def large_body(c):
    body = bytes(range(256)) * 4096
    queue = await c.queue()
    await c.publish(queue, body, delivery_mode=2)
    received, = await c.bodies(queue, 1)
    assert received == body, f"{len(received)} bytes, not the same"


async def close(c):
    queue = await c.queue()
    await c.connection.close()
    assert c.connection.is_closed
    second = await connect(c.host, c.port)
    channel = await second.channel()
    await c.refused(404, channel.declare_queue(queue.name, passive=True))
    await second.close()


async def recovery(c):
    """The robust connection restores the channel, the queue, its binding and its consumer."""
    await c.connection.close()
    c.connection = await aio_pika.connect_robust(host=c.host, port=c.port, timeout=15,
                                                 reconnect_interval=0.2)
    c.channel = await c.connection.channel()
    reconnected = asyncio.Event()
    c.connection.reconnect_callbacks.add(lambda *_: reconnected.set())
    exchange, queue = await c.exchange("direct"), await c.queue()
    await queue.bind(exchange, "restored")
    arrived = asyncio.Queue()
    await queue.consume(arrived.put, no_ack=True)
    await exchange.publish(aio_pika.Message(b"before"), "restored")
    equal((await asyncio.wait_for(arrived.get(), WAIT_S)).body, b"before", "body")

    await asyncio.get_running_loop().run_in_executor(None, wait_for_restart)
    await asyncio.wait_for(reconnected.wait(), 2 * WAIT_S)
    await exchange.publish(aio_pika.Message(b"after"), "restored")
    equal((await asyncio.wait_for(arrived.get(), WAIT_S)).body, b"after", "body")
    await hello(c)
    await publish_subscribe(c)


async def perform(host, port, step):
    context = Context(host, port)
    await context.open()
    try:
        await step(context)
    finally:
        await context.connection.close()


def prepare(host, port, step):
    asyncio.run(perform(host, port, step))


if __name__ == "__main__":
    run(globals(), prepare)
