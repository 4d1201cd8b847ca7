"""Floods: connections that send as fast as they are read. Nobody else waits for more than their
slices of a turn (tests/unit/test_session_fairness.c holds the broker to these)."""
import select
import time

from attack import attack, told
from client import Failure
from flood import KINDS

FLOODS = 20  # connections
SECONDS = 2.0  # of each kind
# What the broker may work while a bystander makes a round of a few turns: seconds of a processor, so
# that a busy machine changes nothing. It is 0.02 to 0.05; without slices of a turn, seconds.
WORK_MAX = 0.2
# Of a bystander's rounds, 99 of 100 are shorter, also on a busy machine.
P99_MAX = 2.0


@attack(bystander=None)
def floods_of_every_kind_hold_nobody_up(s):
    beside(s, "nothing")
    beside_floods(s, KINDS[0].__name__, 1)
    for kind in KINDS:
        beside_floods(s, kind.__name__, FLOODS)


def beside_floods(s, kind, count):
    flood = s.helper("flood", kind, count)
    flood.expect("flooding")
    beside(s, f"{count} x {kind}")
    flood.end()


def beside(s, what):
    """Has a bystander make its rounds, and looks how long they take."""
    bystander = s.bystander()
    used, began = s.processor_seconds(), time.monotonic()
    select.select([], [], [], SECONDS)
    result = bystander.end()
    used, seconds = s.processor_seconds() - used, time.monotonic() - began
    work = used / result.rounds
    told(f"beside {what}", result)
    s.say(f"{used / seconds:.0%} of a processor, {work * 1000:.1f} ms for each round")
    if work > WORK_MAX:
        raise Failure(f"beside {what} a bystander's round waits for {work * 1000:.0f} ms of work")
    if result.p99 > P99_MAX:
        raise Failure(f"beside {what} a bystander's rounds take up to {result.p99:.1f} s")
