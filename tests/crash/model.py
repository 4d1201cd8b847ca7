"""What must be in the queues, what may be, and what must not: the rules of the harness.

Of every copy of a message in a queue the model knows how far its publisher and its consumers were
told. While the broker runs, deliveries are held against it; after every restart all that is in the
queues is. What was open then is settled by what was found: a message that was there has to stay,
and one that was not has to stay away for ever.
"""
import struct
from collections import defaultdict

ACKED, REJECTED = 1, 2
COMMITTED = "settled by a committed transaction"

# The first octets of every body: publisher, number among its messages, priority, size.
HEAD = struct.Struct(">IIII")

RULES = {
    "starts": "the_broker_starts_again_after_every_end",
    "answers": "the_broker_answers_until_it_ends",
    "lost": "no_confirmed_message_is_lost",
    "twice": "no_message_is_there_twice",
    "unknown": "no_message_is_there_that_nobody_published",
    "whole": "messages_come_back_as_they_were_published",
    "order": "messages_keep_the_order_of_their_publisher",
    "back": "settled_messages_do_not_come_back",
    "flag": "messages_that_were_delivered_come_back_flagged",
    "dead": "a_dead_letter_is_in_the_one_queue_or_in_the_other",
    "transient": "transient_messages_do_not_survive",
    "fan": "a_message_is_in_all_of_its_queues_or_in_none",
    "committed": "committed_transactions_are_there",
    "together": "the_publishes_of_a_transaction_are_there_together",
    "in_force": "what_a_committed_transaction_settled_does_not_come_back",
    "first": "a_transaction_settles_nothing_without_its_publishes",
    "as_one": "a_transaction_publishes_nothing_without_its_settlements",
    "declared": "declared_things_are_there_after_a_kill",
    "deleted": "deleted_things_do_not_come_back",
    "orderly": "the_broker_ends_in_order_when_asked_to",
    "told": "clients_are_told_that_the_broker_ends",
}


class Rules:
    """Counts how often each rule was held against something, and keeps the first breach."""

    def __init__(self):
        self.looks, self.breaches, self.first = defaultdict(int), defaultdict(int), {}
        self.round = 0

    def look(self, rule, times=1):
        self.looks[rule] += times

    def breach(self, rule, text):
        self.breaches[rule] += 1
        self.first.setdefault(rule, f"round {self.round}: {text}")


class Copy:
    """A message in one queue."""

    __slots__ = ("key", "queue", "is_safe", "settled", "is_out", "was_delivered", "is_transient",
                 "committed", "twin", "origin", "is_first_unheard")

    def __init__(self, key, queue, is_transient=False):
        self.key, self.queue, self.is_transient = key, queue, is_transient
        self.is_safe = False  # the broker has answered for it
        self.settled = None  # ACKED or REJECTED: sent, and perhaps not heard
        self.is_out = False  # delivered, and not settled, in this life of the broker
        self.was_delivered = False  # ever: comes flagged from then on
        self.is_first_unheard = False  # what was heard of first came flagged, so it was not the first
        self.committed = False  # by tx.commit-ok, and not by a confirm
        self.twin = None  # the dead letter made of this copy
        self.origin = None  # of a dead letter: the copy that died


class Queue:
    def __init__(self, name, arguments, priorities=False, dead_letters_to=None):
        self.name, self.arguments = name, arguments
        self.has_priorities, self.dead_letters_to = priorities, dead_letters_to
        self.keeps_all = arguments.get("x-queue-type") == "quorum"  # transient messages, too
        self.is_dead = False  # holds dead letters, in the order of their deaths
        self.copies = {}  # key -> Copy
        self.gone = {}  # keys of copies that must not come again -> why


class Group:
    """What takes effect as a whole: a publish with the queues it goes to, or a transaction."""

    __slots__ = ("copies", "acks", "is_transaction")

    def __init__(self, copies, acks=(), is_transaction=False):
        self.copies, self.acks, self.is_transaction = copies, acks, is_transaction


def name_of(key):
    return f"message {key & 0xffffffff} of publisher {key >> 32}"


class Model:
    def __init__(self, rules, block):
        self.rules, self.block = rules, block
        self.queues, self.groups, self.published = {}, [], 0
        self.is_ending = False  # in order: connections close one after the other

    def add_queue(self, queue):
        self.queues[queue.name] = queue
        if queue.dead_letters_to:
            queue.dead_letters_to.is_dead = True

    # publishing

    def body(self, publisher, number, priority, size):
        """Bodies are pieces of one block of random octets, each from another place."""
        at = (publisher * 7919 + number * 31) & 0xffff
        return HEAD.pack(publisher, number, priority, size) + self.block[at:at + size]

    def publish(self, key, queues, is_transient):
        copies = [Copy(key, queue, is_transient and not queue.keeps_all) for queue in queues]
        for copy in copies:
            copy.queue.copies[key] = copy
        self.published += 1
        return copies

    def safe(self, copies, committed=False):
        for copy in copies:
            copy.is_safe, copy.committed = True, committed

    def never(self, copies):
        """Rolled back."""
        for copy in copies:
            self.gone(copy, "rolled back")

    # delivering and settling

    def delivered(self, queue, key, redelivered):
        """-> the copy, or None when there should be none."""
        rules, copy = self.rules, queue.copies.get(key)
        rules.look("twice")
        rules.look("unknown")
        if copy is None:
            self.unwanted(queue, key, "was delivered")
            return None
        # What a closed connection held goes to those that are still open, flagged.
        if copy.is_out and not self.is_ending:
            rules.breach("twice", f"{name_of(key)} was delivered from {queue.name} while it was "
                                  "with a consumer")
        elif copy.settled:
            rules.breach("back", f"{name_of(key)} was delivered again from {queue.name} after its "
                                 "consumer settled it")
        if copy.was_delivered:
            rules.look("flag")
            # Sockets are not read in the order in which the broker wrote to them.
            if not redelivered and not (self.is_ending and copy.is_first_unheard):
                rules.breach("flag", f"{name_of(key)} came again from {queue.name} without the flag")
            copy.is_first_unheard = copy.is_first_unheard and redelivered
        else:
            copy.is_first_unheard = redelivered
        copy.is_out = copy.was_delivered = True
        return copy

    def unwanted(self, queue, key, how):
        if key in queue.gone:
            rule = "in_force" if queue.gone[key] == COMMITTED else "back"
            self.rules.breach(rule, f"{name_of(key)} {how} from {queue.name}, where it was "
                                    f"{queue.gone[key]} before")
        else:
            self.rules.breach("unknown", f"{name_of(key)} {how} from {queue.name}")

    def requeued(self, copy):
        copy.is_out = False

    def settle(self, copy, how):
        """The consumer said so. A rejected copy may be a dead letter from now on."""
        copy.settled, copy.is_out = how, False
        target = copy.queue.dead_letters_to
        if how == REJECTED and target is not None:
            copy.twin = Copy(copy.key, target, copy.is_transient)
            copy.twin.origin = copy
            target.copies[copy.key] = copy.twin
            target.gone.pop(copy.key, None)

    def settled_for_good(self, copies, why="settled and synced"):
        """The broker has answered to something that it wrote later, or has committed it."""
        for copy in copies:
            if copy.queue.copies.get(copy.key) is not copy:
                continue
            self.rules.look("in_force" if why == COMMITTED else "back")
            if copy.twin is not None:
                copy.twin.is_safe = True
            if copy.origin is not None:  # what settled it was written before its dead letter left
                self.gone(copy.origin, "settled and synced")
            self.gone(copy, why)

    def gone(self, copy, why):
        if copy.queue.copies.get(copy.key) is copy:
            del copy.queue.copies[copy.key]
        copy.queue.gone[copy.key] = why

    # after a restart

    def drop_transient(self):
        """These are not there after a restart, whatever was known of them."""
        for queue in self.queues.values():
            for copy in [copy for copy in queue.copies.values() if copy.is_transient]:
                self.gone(copy, "transient")
        self.rules.look("transient")

    def check(self, found):
        """found: queue name -> [(key, redelivered)], in the order of delivery."""
        keys = {}
        for queue in self.queues.values():
            keys[queue.name] = self.check_list(queue, found[queue.name])
        self.check_dead_letters(keys)
        for queue in self.queues.values():
            self.check_copies(queue, keys[queue.name])
        for group in self.groups:
            self.check_group(group, keys)
        self.groups = []
        self.learn(keys)

    def check_list(self, queue, found):
        """The queue by itself -> the keys that are in it."""
        rules, keys, last = self.rules, set(), {}
        rules.look("twice", len(found))
        rules.look("unknown", len(found))
        lowest = None
        for key, redelivered, priority in found:
            if key in keys:
                rules.breach("twice", f"{name_of(key)} is in {queue.name} twice")
                continue
            keys.add(key)
            copy = queue.copies.get(key)
            if copy is None:
                self.unwanted(queue, key, "came back")
            elif copy.was_delivered:
                rules.look("flag")
                if not redelivered:
                    rules.breach("flag", f"{name_of(key)} came back to {queue.name} without the "
                                         "flag, though it was delivered")
            if queue.is_dead:
                continue
            lane = priority if queue.has_priorities else 0
            if lowest is not None and lane > lowest:
                rules.breach("order", f"{name_of(key)} of priority {lane} in {queue.name} is "
                                      f"behind one of {lowest}")
            lowest = lane
            sequence = key >> 32, lane
            rules.look("order")
            if last.get(sequence, -1) > key:
                rules.breach("order", f"{name_of(key)} in {queue.name} is behind "
                                      f"{name_of(last[sequence])}")
            last[sequence] = key
        return keys

    def check_dead_letters(self, keys):
        for queue in self.queues.values():
            target = queue.dead_letters_to
            if target is None:
                continue
            here, there = keys[queue.name], keys[target.name]
            for copy in list(queue.copies.values()):
                if copy.settled != REJECTED:
                    continue
                self.rules.look("dead")
                is_here, is_there = copy.key in here, copy.key in there
                twin = copy.twin
                if is_here and is_there:
                    self.rules.breach("dead", f"{name_of(copy.key)} is in {queue.name} and, dead, "
                                              f"in {target.name}")
                elif not (is_here or is_there or twin.settled) and copy.is_safe:
                    self.rules.breach("dead", f"{name_of(copy.key)} was rejected from {queue.name}"
                                              f" and is neither there nor in {target.name}")
                if is_here and not is_there and target.copies.get(copy.key) is twin:
                    del target.copies[copy.key]  # it has not died yet, and may again

    def check_copies(self, queue, keys):
        for copy in queue.copies.values():
            if not copy.is_safe or copy.settled:
                continue
            rule = "committed" if copy.committed else "lost"
            self.rules.look(rule)
            if copy.key not in keys:
                what = "committed" if copy.committed else "confirmed or found before"
                self.rules.breach(rule, f"{name_of(copy.key)} was {what} and is no longer in "
                                        f"{queue.name}")

    def check_group(self, group, keys):
        """Of what nobody has settled, all is there or nothing."""
        there, missing = [], []
        for copy in group.copies:
            if not (copy.settled or copy.is_transient):
                (there if copy.key in keys[copy.queue.name] else missing).append(copy)
        rule = "together" if group.is_transaction else "fan"
        if len(there) + len(missing) > 1:
            self.rules.look(rule)
            if there and missing:
                self.rules.breach(rule, f"{name_of(there[0].key)} is in {there[0].queue.name}, but "
                                        f"{name_of(missing[0].key)} not in {missing[0].queue.name}")
        if not there and not missing:
            return
        for copy in group.acks:
            if copy.is_transient or not copy.is_safe:
                continue
            self.rules.look("as_one")
            self.rules.look("first")
            is_back = copy.key in keys[copy.queue.name]
            if is_back and there:
                self.rules.breach("as_one", f"{name_of(there[0].key)} is in {there[0].queue.name}, "
                                  f"and {name_of(copy.key)}, which the same transaction settled, "
                                  f"is still in {copy.queue.name}")
            if not is_back and not there:
                self.rules.breach("first", f"{name_of(copy.key)} is no longer in "
                                  f"{copy.queue.name}, but of the transaction that settled it "
                                  f"{name_of(missing[0].key)} is not in {missing[0].queue.name}")

    def learn(self, keys):
        """From here on what was found is safe, and what was not is gone."""
        for queue in self.queues.values():
            there = keys[queue.name]
            for copy in list(queue.copies.values()):
                if copy.key not in there:
                    self.gone(copy, "missing after a restart")
                    continue
                copy.is_safe, copy.was_delivered, copy.committed = True, True, False
                copy.is_out, copy.settled, copy.twin = False, None, None
            for key in there:
                if key not in queue.copies:  # a breach; known from now on, to be told once
                    copy = queue.copies[key] = Copy(key, queue)
                    copy.is_safe = copy.was_delivered = True
                queue.gone.pop(key, None)
