"""A client that declares and deletes, and what must be there of it after a restart.

Each thing has a state: whether it is there, or (None) open, because the answer had not come.
Every queue that is made anew may get messages, so that those of an earlier one of the same name
would be seen.
"""
import amqp_wire as wire
import link
from actors import Actor
from client import ChannelClosed, Connection

QUEUES, EXCHANGES, FILLING = 8, 6, 3
PERSISTENT = wire.encode_properties({"delivery_mode": 2})
# No quorum queue: it would keep the transient messages that show where bindings lead.
ARGUMENTS = [{}, {"x-queue-type": "classic"}, {"x-max-priority": 5}, {"x-max-length": 1000},
             {"x-message-ttl": 3600000, "x-dead-letter-exchange": "dead"}]


class Thing:
    """A queue or an exchange."""

    def __init__(self, kind, number):
        self.kind, self.number, self.name = kind, number, f"defined-{kind}-{number}"
        self.is_there, self.messages = False, (0,)  # how many there may be
        if kind == "queue":
            self.fields = {"durable": True, "arguments": ARGUMENTS[number % len(ARGUMENTS)]}
        else:
            self.fields = {"durable": True, "type": ("direct", "topic")[number % 2]}


class Definitions:
    def __init__(self, rules):
        self.rules = rules
        self.queues = [Thing("queue", n) for n in range(QUEUES)]
        self.exchanges = [Thing("exchange", n) for n in range(EXCHANGES)]
        self.bindings = {}  # (exchange, queue) -> there, or None: open

    def state(self, exchange, queue):
        return self.bindings.get((exchange, queue), False)

    def of(self, thing):
        return [pair for pair in self.bindings if thing in pair]

    # after a restart

    def check(self, address, deadline):
        connection = Connection(address, deadline).handshake()
        channel = connection.channel()
        for thing in self.queues + self.exchanges:
            is_there, count = True, 0
            try:
                answer = channel.call(thing.kind + ".declare", passive=True,
                                      **{thing.kind: thing.name}, **self.kind_of(thing))
                if thing.kind == "queue":
                    count = answer.message_count
                channel.call(thing.kind + ".declare", **{thing.kind: thing.name}, **thing.fields)
            except ChannelClosed as closed:
                if closed.method.reply_code != 404:
                    self.rules.breach("declared", f"{thing.name}: {closed.method.reply_text}")
                is_there, channel = False, connection.channel()
            self.compare(thing, thing.is_there, is_there)
            thing.is_there = is_there
            if is_there and thing.kind == "queue" and count not in thing.messages:
                self.rules.breach("deleted" if count > min(thing.messages) else "lost",
                                  f"{thing.name} holds {count} messages, wanted "
                                  f"{' or '.join(map(str, thing.messages))}")
            thing.messages = (count,)
        self.check_bindings(channel)
        connection.close()

    @staticmethod
    def kind_of(thing):
        return {"type": thing.fields["type"]} if thing.kind == "exchange" else {}

    def compare(self, thing, wanted, found):
        name = thing if isinstance(thing, str) else thing.name
        if wanted is not None:
            self.rules.look("declared" if wanted else "deleted")
        if wanted and not found:
            self.rules.breach("declared", f"{name} is gone")
        if wanted is False and found:
            self.rules.breach("deleted", f"{name} is there again")

    def check_bindings(self, channel):
        """A message that comes back as not routed shows that there is no binding."""
        channel.select()
        for exchange in self.exchanges:
            for queue in self.queues if exchange.is_there else []:
                channel.publish(queue.name, exchange=exchange.name, mandatory=True, delivery_mode=1)
                is_there = channel.answer("basic.ack", "basic.return").name == "basic.ack"
                if not is_there:
                    channel.answer("basic.ack")
                wanted = self.state(exchange, queue)
                self.compare(f"binding of {queue.name} to {exchange.name}", wanted, is_there)
                self.bindings[exchange, queue] = is_there
        for pair in list(self.bindings):
            if not pair[0].is_there or not pair[1].is_there or not self.bindings[pair]:
                del self.bindings[pair]


class Definer(Actor):
    """Some changes at a time, each of other things, and then the next when all are answered."""

    def __init__(self, world):
        super().__init__(world)
        self.definitions, self.changes = world.definitions, []
        self.ask("confirm.select")

    def act(self):
        if self.asked or self.open:
            return
        busy = set()
        for _ in range(self.random.randint(1, 8)):
            queue = self.random.choice(self.definitions.queues)
            exchange = self.random.choice(self.definitions.exchanges)
            what = self.random.choice(("bind", "bind", "queue", "exchange", "fill"))
            things = {"bind": {queue, exchange}, "exchange": {exchange}}.get(what, {queue})
            if busy & things:
                continue
            busy |= things
            getattr(self, "change_" + what)(queue, exchange)

    def change(self, method, then, **fields):
        self.ask(method, **fields)
        self.changes.append(then)

    def change_bind(self, queue, exchange):
        if not (queue.is_there and exchange.is_there):
            return
        bindings, there = self.definitions.bindings, self.definitions.state(exchange, queue)
        bindings[exchange, queue] = None
        self.change("queue.unbind" if there else "queue.bind",
                    lambda: bindings.update({(exchange, queue): not there}),
                    queue=queue.name, exchange=exchange.name, routing_key=queue.name)

    def change_queue(self, queue, _):
        self.declare_or_delete(queue)

    def change_exchange(self, _, exchange):
        self.declare_or_delete(exchange)

    def declare_or_delete(self, thing):
        if not thing.is_there:
            thing.is_there = None
            self.change(thing.kind + ".declare", lambda: self.is_made(thing),
                        **{thing.kind: thing.name}, **thing.fields)
            return
        thing.is_there = None
        thing.messages = tuple(range(max(thing.messages) + 1))  # they may have gone before it
        for pair in self.definitions.of(thing):
            if self.definitions.bindings[pair]:
                self.definitions.bindings[pair] = None
        self.change(thing.kind + ".delete", lambda: self.is_deleted(thing),
                    **{thing.kind: thing.name})

    @staticmethod
    def is_made(thing):
        thing.is_there, thing.messages = True, (0,)

    def is_deleted(self, thing):
        thing.is_there, thing.messages = False, (0,)
        for pair in self.definitions.of(thing):
            del self.definitions.bindings[pair]

    def change_fill(self, queue, _):
        if not queue.is_there or queue.messages != (0,):
            return
        queue.messages = tuple(range(FILLING + 1))
        for _ in range(FILLING):
            self.tag += 1
            self.open[self.tag] = queue
            self.link.publish(link.publish_prefix("", queue.name), PERSISTENT, b"filling")

    def confirmed(self, tag, multiple, is_ack):
        for number in [n for n in self.open if n <= tag] if multiple else [tag]:
            queue = self.open.pop(number)
            if queue not in self.open.values():
                queue.messages = (FILLING,)
        self.world.happened()

    def did(self, name, fields):
        if name != "confirm.select-ok":
            self.changes.pop(0)()

    def open_groups(self):
        return []
