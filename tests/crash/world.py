"""A round: the clients at work, the end of the broker at a moment that nobody foresees, its restart,
and the comparison of what is there with the model.

The moment is a number of things heard from the broker (confirms, deliveries, answers). The signal
is sent from within the handling of the last of them; what the broker had sent before it died is
still read, for that counts, too.
"""
import random
import selectors
import time

import amqp_wire as wire
import definitions
import link
from actors import PROPERTIES, Consumer, Publisher, Reader, Transactor, key_of
from client import Connection, Failure
from model import Model, Queue

SILENCE_S = 60.0  # for so long the broker may owe an answer
ORDERLY_S = 30.0  # for so long it may take to end: 5 s for clients, and the time of a stalled disk
BLOCK = 1 << 20
COPIES_MAX, BYTES_MAX = 1200, 8 << 20  # in one queue


def is_one_of_ours(properties, priority):
    """Are these a publisher's? A quorum queue adds how often it was delivered."""
    ours = PROPERTIES[1, priority], PROPERTIES[2, priority]
    if properties in ours:
        return True
    decoded = wire.decode_properties(properties)
    headers = decoded.pop("headers", {})
    return set(headers) == {"x-delivery-count"} and wire.encode_properties(decoded) in ours


class Target:
    """Where one publishes to, and the queues in which the message arrives."""

    def __init__(self, exchange, routing_key, queues):
        self.queues, self.prefix = queues, link.publish_prefix(exchange, routing_key)


class World:
    def __init__(self, process, seed, rules):
        self.process, self.seed, self.rules = process, seed, rules
        self.block = random.Random(seed).randbytes(BLOCK)
        self.model = Model(rules, self.block)
        self.definitions = definitions.Definitions(rules)
        self.address, self.publishers, self.random = None, 0, None
        self.dead = Queue("dead", {})
        # Every round gives all that is left back: a limit of deliveries would take it in the end.
        unlimited = {"x-queue-type": "quorum", "x-delivery-limit": -1}
        self.queues = [Queue("classic", {}), Queue("quorum", unlimited),
                       Queue("priority", {"x-max-priority": 9}, priorities=True),
                       Queue("work", {"x-dead-letter-exchange": "",
                                      "x-dead-letter-routing-key": "dead"},
                             dead_letters_to=self.dead), self.dead]
        for queue in self.queues:
            self.model.add_queue(queue)
        classic, quorum, priority, work = self.queues[:4]
        self.targets = [Target("", queue.name, [queue]) for queue in (classic, quorum, priority,
                                                                      work)]
        self.targets += [Target("all", "", [classic, quorum, priority, work]),
                         Target("some", "a.b", [classic, quorum]),
                         Target("some", "a.c.d", [classic, work])]
        self.events, self.limit, self.is_orderly, self.is_over = 0, 0, False, True
        self.heavy_bytes = self.round_bytes = 0

    def set_up(self):
        self.address = self.process.start()
        connection = Connection(self.address, time.monotonic() + SILENCE_S).handshake()
        channel = connection.channel()
        for queue in self.queues:
            channel.declare(queue.name, durable=True, arguments=queue.arguments)
        channel.declare_exchange("all", "fanout", durable=True)
        channel.declare_exchange("some", "topic", durable=True)
        for queue in self.queues[:4]:
            channel.bind(queue.name, "all")
        for queue, key in (("classic", "a.#"), ("quorum", "*.b"), ("work", "#.d")):
            channel.bind(queue, "some", key)
        connection.close()

    # what actors ask

    def new_publisher(self):
        self.publishers += 1
        return self.publishers

    def size(self):
        chance, size = self.random.random(), self.random.randrange(200)
        if chance > 0.97:
            size = self.random.randrange(20000)
        if self.heavy_bytes > self.round_bytes and chance < 0.3:
            size = self.random.randrange(20000, 400000)
        self.round_bytes += size
        return size

    def has_room(self, target):
        queues = [target] if isinstance(target, Queue) else target.queues
        return all(len(queue.copies) < COPIES_MAX for queue in queues)

    def happened(self, times=1):
        self.events += times
        if not self.is_over and self.events >= self.limit:
            self.is_over = True
            self.stop_or_kill()

    def check_content(self, queue, properties, body):
        """-> (key, priority) of the message"""
        key, priority, size = key_of(body)
        wanted = self.model.body(key >> 32, key & 0xffffffff, priority, size)
        self.rules.look("whole")
        if body != wanted:
            self.rules.breach("whole", f"a message of {queue.name} has another body")
        if not queue.is_dead and not is_one_of_ours(properties, priority):
            self.rules.breach("whole", f"a message of {queue.name} has other properties")
        if queue.is_dead and b"x-first-death-queue" not in properties:
            self.rules.breach("whole", f"a message of {queue.name} does not say how it died")
        return key, priority

    # the loop

    def until(self, is_done, actors, acts=False):
        """Serves the clients until is_done. With acts they do what they do."""
        with selectors.DefaultSelector() as selector:
            for actor in actors:
                if acts:
                    actor.act()
                actor.link.flush()
                selector.register(actor.link.socket, selectors.EVENT_READ, actor)
            heard = time.monotonic()
            while not is_done():
                self.watch_output(selector, actors)
                ready = selector.select(0.25)
                if not ready:
                    owed = [actor.awaits() for actor in actors if actor.awaits()]
                    if acts and not owed:
                        return  # all have done what they do
                    if time.monotonic() - heard > SILENCE_S:
                        raise Failure(f"the broker owes {owed[0] if owed else 'its end'} and is "
                                      "silent")
                    continue
                heard = time.monotonic()
                for entry, mask in ready:
                    self.serve(entry.data, mask, acts)
                    if entry.data.link.is_closed:
                        selector.unregister(entry.data.link.socket)
                        entry.data.link.drop()  # as clients do: the broker waits for it
                        if not self.is_over and acts:
                            raise Failure(f"the broker closed a connection: {entry.data.was_told}")
                    if self.is_over and acts:
                        return

    @staticmethod
    def watch_output(selector, actors):
        for actor in actors:
            if not actor.link.is_closed:
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if actor.link.output else 0)
                selector.modify(actor.link.socket, wanted, actor)

    def serve(self, actor, mask, acts):
        if mask & selectors.EVENT_READ:
            actor.link.read()
        if acts and not self.is_over and not actor.link.is_closed and not actor.was_told:
            actor.act()
        actor.link.flush()

    # a round

    def stop_or_kill(self):
        self.model.is_ending = self.is_orderly
        (self.process.signal_stop if self.is_orderly else self.process.signal_kill)()

    def crew(self):
        chance = self.random
        actors = [Publisher(self) for _ in range(chance.randint(1, 4))]
        actors += [definitions.Definer(self) for _ in range(chance.randint(0, 1))]
        for queue in self.queues:
            is_full = not self.has_room(queue)
            actors += [Consumer(self, queue) for _ in range(chance.randint(is_full, 2))]
        actors += [Transactor(self, chance.choice(self.queues[:4]))
                   for _ in range(chance.randint(0, 2))]
        return actors

    def play(self, number):
        self.random = random.Random(self.seed * 1000003 + number)
        self.rules.round = number
        self.is_orderly = self.random.random() < 0.15
        self.heavy_bytes = 60 << 20 if self.random.random() < 0.2 else 0
        self.round_bytes = 0
        self.limit = int(10 ** self.random.uniform(1.3, 3.9))
        self.model.is_ending = False
        actors = self.crew()
        self.events, self.is_over = 0, False
        self.rules.look("answers")
        self.until(lambda: self.is_over, actors, acts=True)
        if not self.is_over:  # all had done what they do before the limit came
            self.is_over = True
            self.stop_or_kill()
        self.hear_the_last(actors)
        for actor in actors:
            self.model.groups += actor.open_groups()
            actor.link.drop()
        self.come_back()

    def hear_the_last(self, actors):
        """What the broker had sent before its end, and how it ended."""
        began = time.monotonic()
        self.until(lambda: all(actor.link.is_closed for actor in actors), actors)
        status = self.process.ended()
        if not self.is_orderly:
            return
        self.rules.look("orderly")
        self.rules.look("told", len(actors))
        if status != 0 or time.monotonic() - began > ORDERLY_S:
            self.rules.breach("orderly", f"SIGTERM: status {status} after "
                                         f"{time.monotonic() - began:.1f} s")
        for actor in actors:
            if actor.was_told is None or actor.was_told["reply_code"] != 320:
                self.rules.breach("told", f"a client heard {actor.was_told} before the end")

    def come_back(self):
        """Starts the broker, sometimes more than once, and looks at what is there."""
        while self.random.random() < 0.15:
            self.process.start_and_kill(self.random.random() * 1.2)
        self.address = self.process.start()
        self.rules.look("starts")
        self.model.drop_transient()
        self.model.check(self.read_all())
        self.definitions.check(self.address, time.monotonic() + SILENCE_S)
        if self.random.random() < 0.15:  # what was found once has to be there again
            self.process.kill()
            self.process.ended()
            self.address = self.process.start()
            self.model.check(self.read_all())
            self.definitions.check(self.address, time.monotonic() + SILENCE_S)

    def read_all(self):
        reader = Reader(self)
        found = {queue.name: list(reader.read_all(queue)) for queue in self.queues}
        reader.link.drop()
        return found
