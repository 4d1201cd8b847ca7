#!/usr/bin/env python3
"""Clients that flood the broker: a process of their own, so that Python does not slow the attack's.

    flood.py HOST PORT KIND COUNT    so many connections, all with floods of that kind

Says "flooding" when all are under way, goes on until its input ends, and then says how many MiB it
sent. What the broker answers is read and thrown away.
"""
import os
import select
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "conformance"))
sys.dont_write_bytecode = True

import amqp_wire as wire  # noqa: E402  (found through the line above)
from client import Connection, Failure  # noqa: E402

FAN_OUT = 500  # queues
BLOCK = 256 * 1024  # bytes: what is sent again and again
TIME_LIMIT = 120.0


def publishes(channel, queue):
    return [wire.publish_frames(1, "", queue, b"m" * 100)]


def gets(channel, queue):
    return [wire.method_frame(1, "basic.get", queue=queue, no_ack=True)]


def questions(channel, queue):
    return [wire.method_frame(1, "queue.declare", queue=queue, passive=True)]


def changes(channel, queue):
    """Bindings that come and go: each makes all cached routes void."""
    return [wire.method_frame(1, f"queue.{what}", queue=queue, exchange="amq.topic",
                              routing_key=f"{queue}.{n}.*.#", **more)
            for n in range(50) for what, more in (("bind", {"no_wait": True}), ("unbind", {}))]


def declarations(channel, queue):
    return [wire.method_frame(1, f"queue.{what}", queue=f"{queue}-{n}", no_wait=True)
            for n in range(50) for what in ("declare", "delete")]


def fan_outs(channel, queue):
    """To many queues, which keep no more than one message each."""
    exchange = f"{queue}-fan"
    channel.declare_exchange(exchange, "fanout")
    for n in range(FAN_OUT):
        channel.say("queue.declare", queue=f"{queue}-{n}", exclusive=True, no_wait=True,
                    arguments={"x-max-length": 1})
        channel.say("queue.bind", queue=f"{queue}-{n}", exchange=exchange, no_wait=True)
    channel.declare(f"{queue}-0", exclusive=True, arguments={"x-max-length": 1})  # all are there
    return [wire.publish_frames(1, exchange, "", b"")]


def new_keys(channel, queue):
    """Routing keys that no cache knows, through bindings with wildcards."""
    for n in range(20):
        channel.bind(queue, "amq.topic", f"*.{n}.#")
    return [wire.publish_frames(1, "amq.topic", f"{queue}.{n}.a.b", b"") for n in range(5000)]


def returns(channel, queue):
    """Deliveries that are given back and come again, all at once."""
    channel.publish_all(queue, ["m"] * 200)
    channel.consume(queue)
    return [wire.method_frame(1, "basic.recover", requeue=True)]


KINDS = (publishes, gets, questions, changes, declarations, fan_outs, new_keys, returns)


class Flood:
    def __init__(self, address, kind, number):
        self.connection = Connection(address, time.monotonic() + TIME_LIMIT)
        channel = self.connection.handshake().channel()
        queue = channel.declare(f"flood-{kind}-{number}", exclusive=True,
                                arguments={"x-max-length": 1000}).queue
        frames = {function.__name__: function for function in KINDS}[kind](channel, queue)
        block = b"".join(frames)
        self.block = memoryview(block * max(1, BLOCK // len(block)))
        self.at = self.sent = 0
        self.socket = self.connection.socket
        self.socket.setblocking(False)

    def fileno(self):
        return self.socket.fileno()

    def send(self):
        try:
            count = self.socket.send(self.block[self.at:])
        except BlockingIOError:
            return
        self.sent += count
        self.at = (self.at + count) % len(self.block)

    def read(self):
        try:
            if not self.socket.recv(1 << 20):
                raise Failure("the broker closed a connection")
        except BlockingIOError:
            pass


def main():
    host, port, kind, count = sys.argv[1:]
    floods = [Flood((host, int(port)), kind, number) for number in range(int(count))]
    waiting = set(floods)
    is_told = False
    while True:
        readable, writable, _ = select.select([sys.stdin, *floods], floods, [], 1)
        if sys.stdin in readable:
            break
        for flood in readable:
            flood.read()
        for flood in writable:
            flood.send()
        waiting.difference_update(writable)
        if not waiting and not is_told:
            is_told = True
            print("flooding", flush=True)
    print(f"{sum(flood.sent for flood in floods) / (1 << 20):.1f}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError) as error:
        print(f"flood: {error}", flush=True)
        sys.exit(1)
