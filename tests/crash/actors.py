"""The clients that work while the broker dies: publishers, consumers, transactions.

Each has one connection with one channel. `act` does what can be done now; it is called after
whatever came from the broker, until the broker is killed.

How a consumer knows that a settlement is on disk: it asks for the queue's counts, so the queue has
heard of it, and then publishes on the same connection: what is confirmed then was written later.
"""
import amqp_wire as wire
import link
from model import ACKED, COMMITTED, HEAD, REJECTED, Group

PROPERTIES = {(mode, priority): wire.encode_properties(
    {"delivery_mode": mode, "priority": priority, "type": "crash"})
    for mode in (1, 2) for priority in range(10)}
AT_ONCE = 64  # publishes in one go, so that all take turns


class Actor:
    def __init__(self, world):
        self.world, self.model, self.random = world, world.model, world.random
        self.rules, self.link = world.rules, link.Link(world.address, self)
        self.was_told = None  # what connection.close said
        self.publisher, self.number = world.new_publisher(), 0
        self.tag, self.open = 0, {}  # confirms: publish number -> copies
        self.asked = []  # methods whose answer is awaited, in order

    # what comes

    def confirmed(self, tag, multiple, is_ack):
        tags = [t for t in self.open if t <= tag] if multiple else [tag]
        if not tags or any(t not in self.open for t in tags):
            self.rules.breach("answers", f"publish {tag} was confirmed twice, or never made")
            return
        for t in tags:
            copies = self.open.pop(t)
            if is_ack:
                self.model.safe(copies)
            else:
                self.rules.breach("answers", f"a publish to {copies[0].queue.name} was refused")
            self.was_confirmed(t)
        self.world.happened(len(tags))

    def was_confirmed(self, tag):
        pass

    def answered(self, name, fields):
        if name == "connection.close":
            self.was_told = fields
        elif not self.asked or name != self.asked[0]:
            self.rules.breach("answers", f"{name} {fields} came unasked")
        else:
            self.asked.pop(0)
            self.world.happened()
            self.did(name, fields)

    def did(self, name, fields):
        pass

    def ask(self, method, **fields):
        self.link.say(method, **fields)
        self.asked.append(method + "-ok")

    # what is done

    def awaits(self):
        """What the broker owes an answer for, or None."""
        if self.open:
            return "a confirm"
        return self.asked[0] if self.asked else None

    def act(self):
        pass

    def open_groups(self):
        return [Group(copies) for copies in self.open.values()]

    def message(self, target, is_persistent=False):
        """Publishes the next message -> its copies."""
        world, self.number = self.world, self.number + 1
        mode = 1 if self.random.random() < 0.04 and not is_persistent else 2
        priority = self.random.randrange(10)
        body = self.model.body(self.publisher, self.number, priority, world.size())
        copies = self.model.publish(self.publisher << 32 | self.number, target.queues, mode == 1)
        self.link.publish(target.prefix, PROPERTIES[mode, priority], body)
        return copies

    def publish_confirmed(self, target, is_persistent=False):
        self.tag += 1
        self.open[self.tag] = self.message(target, is_persistent)


class Publisher(Actor):
    def __init__(self, world):
        super().__init__(world)
        self.ask("confirm.select")
        self.window = self.random.choice((1, 5, 30, 200, 1000))
        self.targets = self.random.sample(world.targets, self.random.randint(1, 4))

    def act(self):
        for _ in range(min(AT_ONCE, self.window - len(self.open))):
            target = self.random.choice(self.targets)
            if self.world.has_room(target):
                self.publish_confirmed(target)


class Taker(Actor):
    """What consumers have in common: deliveries that they hold, in the order of tags."""

    def __init__(self, world, queue):
        super().__init__(world)
        self.queue, self.held, self.last = queue, {}, {}

    def consume(self, prefetch):
        self.ask("basic.qos", prefetch_count=prefetch)
        self.ask("basic.consume", queue=self.queue.name, consumer_tag="c")
        self.prefetch = prefetch

    def delivered(self, tag, redelivered, properties, body):
        self.world.happened()
        key, priority = self.world.check_content(self.queue, properties, body)
        copy = self.model.delivered(self.queue, key, redelivered)
        if copy is None:
            self.link.output += link.settle_frame(link.ACK, tag, 0)
            return
        self.held[tag] = copy
        if not redelivered and not self.queue.is_dead:
            sequence = key >> 32, priority if self.queue.has_priorities else 0
            self.rules.look("order")
            if self.last.get(sequence, -1) > key:
                self.rules.breach("order", f"{self.queue.name} delivered {key & 0xffffffff} of "
                                           f"{key >> 32} behind {self.last[sequence] & 0xffffffff}")
            self.last[sequence] = key

    def some_tags(self):
        """-> (tags, multiple): the oldest so many, or some here and there."""
        tags, some = list(self.held), self.random.randint(1, len(self.held))
        if self.random.random() < 0.5:
            return tags[:some], True
        return self.random.sample(tags, min(some, 20)), False

    def send_settlement(self, tags, multiple, method, bits):
        for tag in [max(tags)] if multiple else tags:
            self.link.output += link.settle_frame(method, tag, bits | multiple)


class Consumer(Taker):
    """Acks, gives back, rejects; and makes sure now and then that it was heard."""

    def __init__(self, world, queue):
        super().__init__(world, queue)
        self.ask("confirm.select")
        self.consume(self.random.choice((1, 10, 50, 300)))
        self.unsure = []  # settled since the last time that it made sure
        self.fence, self.fenced, self.fence_tag = None, [], 0
        self.fence_rate = self.random.choice((0.0, 0.1, 1.0))

    def act(self):
        if self.held and (len(self.held) * 2 > self.prefetch or self.random.random() < 0.5):
            self.settle()
        if self.fence is None and self.unsure and self.random.random() < self.fence_rate:
            self.fence, self.fenced, self.unsure = "asked", self.unsure, []
            self.ask("queue.declare", queue=self.queue.name, passive=True)

    def settle(self):
        tags, multiple = self.some_tags()
        chance = self.random.random()
        if chance < 0.08:
            self.send_settlement(tags, multiple, link.NACK, 2)
            for tag in tags:
                self.model.requeued(self.held.pop(tag))
            return
        how = ACKED
        if self.queue.dead_letters_to and chance < 0.7 and self.world.has_room(self.world.dead):
            how = REJECTED
        self.send_settlement(tags, multiple, link.ACK if how == ACKED else link.NACK, 0)
        for tag in tags:
            copy = self.held.pop(tag)
            self.model.settle(copy, how)
            self.unsure.append(copy)

    def did(self, name, fields):
        if name == "queue.declare-ok":
            # Persistent: the confirm of a transient message says nothing of the disk.
            self.publish_confirmed(self.random.choice(self.world.targets), is_persistent=True)
            self.fence, self.fence_tag = "published", self.tag

    def was_confirmed(self, tag):
        if self.fence == "published" and tag == self.fence_tag:
            self.model.settled_for_good(self.fenced)
            self.fence, self.fenced = None, []


class Transactor(Taker):
    """Takes messages of a queue, publishes others, and commits both."""

    def __init__(self, world, queue):
        super().__init__(world, queue)
        self.ask("tx.select")
        self.consume(self.random.choice((5, 40)))
        self.groups, self.is_busy = [], False
        self.targets = self.random.sample(world.targets, self.random.randint(1, 3))
        self.settled = []  # by the transaction that is being committed

    def act(self):
        if self.is_busy or self.asked:
            return
        copies, tags, multiple = [], [], False
        for _ in range(self.random.randint(0, 8)):
            target = self.random.choice(self.targets)
            if self.world.has_room(target):
                copies += self.message(target)
        if self.held and self.random.random() < 0.8:
            tags, multiple = self.some_tags()
        if not copies and not tags:
            return
        how = ACKED
        if self.queue.dead_letters_to and self.random.random() < 0.5 \
                and self.world.has_room(self.world.dead):
            how = REJECTED
        if tags:
            self.send_settlement(tags, multiple, link.ACK if how == ACKED else link.NACK, 0)
        self.is_busy = True
        if self.random.random() < 0.1:
            self.ask("tx.rollback")
            self.model.never(copies)
            return
        self.settled = [self.held.pop(tag) for tag in tags]
        for copy in self.settled:
            self.model.settle(copy, how)
        # A dead letter leaves its queue a moment later.
        acks = self.settled if how == ACKED else ()
        self.groups.append(Group(copies, acks, is_transaction=True))
        self.ask("tx.commit")

    def did(self, name, fields):
        if name in ("tx.commit-ok", "tx.rollback-ok"):
            self.is_busy = False
        if name == "tx.commit-ok":
            self.model.safe(self.groups[-1].copies, committed=True)
            self.model.settled_for_good(self.settled, COMMITTED)

    def open_groups(self):
        return self.groups[-3:]


class Reader(Actor):
    """Reads all that is in a queue after a restart, and gives it back by going away."""

    def __init__(self, world):
        super().__init__(world)
        self.found, self.counts, self.queue = [], None, None

    def did(self, name, fields):
        if name == "queue.declare-ok":
            self.counts = fields["message_count"]

    def delivered(self, tag, redelivered, properties, body):
        key, priority = self.world.check_content(self.queue, properties, body)
        self.found.append((key, redelivered, priority))

    def awaits(self):
        return self.asked[0] if self.asked else \
            "a delivery" if self.counts is not None and len(self.found) < self.counts else None

    def read_all(self, queue):
        self.queue, self.found, self.counts = queue, [], None
        self.ask("queue.declare", queue=queue.name, passive=True)
        self.world.until(lambda: self.counts is not None, [self])
        count = self.counts
        self.ask("basic.consume", queue=queue.name, consumer_tag=queue.name)
        self.world.until(lambda: len(self.found) >= count and not self.asked, [self])
        self.counts = None
        self.ask("queue.declare", queue=queue.name, passive=True)
        self.world.until(lambda: self.counts is not None, [self])
        if len(self.found) != count or self.counts != 0:
            self.rules.breach("whole", f"{queue.name} said it held {count} messages, delivered "
                                       f"{len(self.found)}, and has {self.counts} left")
        self.ask("basic.cancel", consumer_tag=queue.name)
        self.world.until(lambda: not self.asked, [self])
        return self.found


def key_of(body):
    publisher, number, priority, size = HEAD.unpack_from(body)
    return publisher << 32 | number, priority, size
