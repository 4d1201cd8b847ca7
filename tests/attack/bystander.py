#!/usr/bin/env python3
"""A client that has nothing to do with an attack, and must not notice it.

    bystander.py HOST PORT publish    publishes persistent messages, waits for each to be confirmed
                                      and delivered, and acknowledges it
    bystander.py HOST PORT consume    only takes and acknowledges what it published before it said
                                      that it is ready: for attacks under which publishers wait

Says "ready" when it has begun, goes on until its input ends, and then says in JSON how many rounds
it made and how long they took. It is a process of its own so that the attack's Python does
not hold it up. Anything lost, doubled or out of order ends it with a message and status 1.
"""
import json
import os
import select
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "conformance"))
sys.dont_write_bytecode = True

from client import Connection, Failure, check_equal  # noqa: E402  (found through the line above)

ROUND_LIMIT = 60.0  # seconds: what takes longer is reported as lost, not as late
PAUSE = 0.005  # seconds between rounds
ROUNDS_MIN = 5  # also when the attack is over sooner
STOCK = 20_000  # messages for one that only consumes


class Publisher:
    def __init__(self, address):
        self.connection = Connection(address, time.monotonic() + ROUND_LIMIT)
        self.channel = self.connection.handshake().channel()
        self.queue = self.channel.declare("", durable=True).queue
        self.channel.select()
        self.channel.consume(self.queue)

    def round(self, number):
        self.channel.publish(self.queue, str(number), delivery_mode=2)
        ack = self.channel.answer("basic.ack", "basic.nack")
        check_equal("confirm", (ack.name, ack.delivery_tag), ("basic.ack", number + 1))
        message = self.channel.answer("basic.deliver")
        check_equal("message", message.body, b"%d" % number)
        self.channel.ack(message.delivery_tag)

    def end(self):
        check_equal("messages left", self.channel.counts(self.queue)[0], 0)
        self.channel.call("queue.delete", queue=self.queue)


class Consumer(Publisher):
    def __init__(self, address):
        super().__init__(address)
        stock = Connection(address, time.monotonic() + ROUND_LIMIT)
        channel = stock.handshake().channel()
        channel.select()
        self.channel.call("queue.delete", queue=self.queue)
        self.queue = channel.declare("bystander", durable=True).queue
        channel.publish_all(self.queue, map(str, range(STOCK)))
        channel.all_confirmed(STOCK)
        stock.close()

    def round(self, number):
        self.channel.got(self.queue, str(number % STOCK), no_ack=False)
        self.channel.ack(number + 1)
        self.channel.sync()

    def end(self):
        pass


def main():
    host, port, mode = sys.argv[1:]
    client = {"publish": Publisher, "consume": Consumer}[mode]((host, int(port)))
    print("ready", flush=True)
    rounds, times = 0, []
    while not select.select([sys.stdin], [], [], PAUSE)[0] or rounds < ROUNDS_MIN:
        if mode == "consume" and rounds == STOCK:
            break
        began = time.monotonic()
        client.connection.deadline = began + ROUND_LIMIT
        client.round(rounds)
        times.append(time.monotonic() - began)
        rounds += 1
    client.connection.deadline = time.monotonic() + ROUND_LIMIT
    client.end()
    times.sort()
    print(json.dumps({"rounds": rounds, "longest": times[-1], "p50": times[rounds // 2],
                      "p99": times[rounds * 99 // 100]}), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError) as error:
        print(f"bystander: {error}", flush=True)
        sys.exit(1)
