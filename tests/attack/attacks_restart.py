"""Restarts: the broker is killed at work, and then again and again while it starts."""
import os
import random
import signal
import subprocess
import time

import preload
from attack import attack, vanish
from client import Failure, check_equal

HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = 3  # of work, each with a crash and the killed starts after it
MOMENTS = 8  # at which a start is killed in a round, in random order
CHANGES_MAX = 1000  # of files, that a start is thought to make
BODY_MAX = 20_000


class Promises:
    """What clients were told, and what the broker has to keep therefore."""

    def __init__(self, s, seed):
        self.s, self.random = s, random.Random(seed)
        self.owed = {}  # by queue: numbers of messages that were confirmed, in their order
        self.may_be_there = {}  # settled, or never confirmed
        self.number = self.definitions = 0
        s.say(f"seed {seed}")

    def declare(self, channel, name, **arguments):
        channel.declare(name, durable=True, arguments=arguments)
        self.owed[name], self.may_be_there[name] = {}, set()

    def set_up(self):
        channel = self.s.channel()
        self.declare(channel, "plain")
        self.declare(channel, "urgent", **{"x-max-priority": 3})
        self.declare(channel, "quorum", **{"x-queue-type": "quorum", "x-delivery-limit": -1})
        channel.declare_exchange("many", durable=True)

    def bodies(self, count):
        """-> numbers, and bodies that begin with them"""
        numbers = list(range(self.number, self.number + count))
        self.number += count
        return numbers, [b"%09d" % number + self.random.randbytes(
            self.random.choice((10, 300, BODY_MAX))) for number in numbers]

    def work(self, count):
        """Publishes, settles, declares and binds; then leaves something half done."""
        for name, owed in self.owed.items():
            publisher, consumer = self.s.channel(), self.s.channel()
            publisher.select()
            numbers, bodies = self.bodies(count)
            publisher.publish_all(name, bodies, delivery_mode=2)
            publisher.all_confirmed(count)
            owed.update(dict.fromkeys(numbers))
            for _ in range(count // 2):
                owed.pop(number := self.number_of(consumer.get(name, no_ack=False)), None)
                self.may_be_there[name].add(number)
            consumer.ack(0, multiple=True)
            consumer.sync()
        channel = self.s.channel()
        for self.definitions in range(self.definitions + 1, self.definitions + 51):
            name = f"many-{self.definitions}"
            channel.declare(name, durable=True)
            channel.bind(name, "many", name)
        for name in self.owed:
            numbers, bodies = self.bodies(count // 2)
            self.may_be_there[name].update(numbers)
            self.s.channel().publish_all(name, bodies, delivery_mode=2)

    @staticmethod
    def number_of(message):
        return int(message.body[:9])

    def check(self):
        """All is there, each message once and in its order, and only what may be there besides."""
        for name, owed in self.owed.items():
            channel = self.s.channel()
            count = channel.declare(name, passive=True).message_count
            channel.consume(name)
            found = [self.number_of(channel.answer("basic.deliver")) for _ in range(count)]
            vanish(channel.connection)
            self.s.connections.remove(channel.connection)
            besides = set(found) - set(owed)
            if besides - self.may_be_there[name]:
                raise Failure(f"{name} has {sorted(besides - self.may_be_there[name])[:5]}")
            check_equal(f"messages of {name} that were promised",
                        [number for number in found if number not in besides], list(owed))
            check_equal(f"messages of {name}", len(found), len(set(found)))
            self.s.channel().holds(name, count, 0)
        channel = self.s.channel()
        channel.select()
        names = [f"many-{number}" for number in range(1, self.definitions + 1)]
        for name in names:
            channel.publish(name, "m", exchange="many", mandatory=True)
        channel.all_confirmed(len(names))  # with none returned
        for name in names:
            check_equal(f"messages purged of {name}",
                        channel.call("queue.purge", queue=name).message_count, 1)


def die_as_it_starts(s, seconds):
    """-> whether it had not said its port by then"""
    s.whippetd.spawn()
    try:
        status = s.whippetd.process.wait(seconds)
    except subprocess.TimeoutExpired:
        s.whippetd.kill()
    else:
        raise Failure(f"the broker ended by itself as it started, with status {status}")
    return s.whippetd.lines.get(timeout=60) is None


@attack(bystander=None)
def killed_again_and_again_while_it_starts(s):
    """At moments spread over the time that a start takes, in random order."""
    promises, early = Promises(s, random.randrange(1 << 31)), 0
    promises.set_up()
    for _ in range(ROUNDS):
        promises.work(1000)
        began = time.monotonic()
        s.restart(kill=True)
        whole = time.monotonic() - began
        promises.work(200)
        s.whippetd.kill()
        moments = [(n + promises.random.random()) / MOMENTS * whole for n in range(MOMENTS)]
        promises.random.shuffle(moments)
        early += sum(die_as_it_starts(s, moment) for moment in moments)
        s.restart(kill=True)
        promises.check()
    s.say(f"{early} of {ROUNDS * MOMENTS} starts of {whole * 1000:.0f} ms were not over when killed")
    if early < ROUNDS:
        raise Failure("hardly a start was killed before it was over")


def killed_at(folder):
    return preload.environment(folder, os.path.join(HERE, "killed_at.c"), KILL_AT=0)


def survives(s, change):
    """Starts and is killed at that change of a file. -> whether it got through without"""
    s.whippetd.environment["KILL_AT"] = str(change)
    s.whippetd.spawn()
    if s.whippetd.lines.get(timeout=60) is None:
        check_equal("status", s.whippetd.process.wait(), -signal.SIGKILL)
        return False
    s.whippetd.kill()  # before its clients, if it has any
    return True


@attack(bystander=None, environment=killed_at)
def killed_at_each_change_of_a_file_that_a_start_makes(s):
    """One after the other: each start finds what the one before it had left."""
    promises, count = Promises(s, random.randrange(1 << 31)), 0
    promises.set_up()
    for _ in range(ROUNDS):
        promises.work(50)
        s.whippetd.kill()
        change = 1
        while not survives(s, change):
            change, count = change + 1, count + 1
            if change > CHANGES_MAX:
                raise Failure("it never starts")
        s.whippetd.environment["KILL_AT"] = "0"
        s.restart(kill=True)
        promises.check()
    s.say(f"killed at {count} changes")
    if count < ROUNDS:
        raise Failure("hardly a start was killed")
