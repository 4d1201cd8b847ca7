"""Frames: input that comes while the broker cannot go on with it, in the smallest and largest
pieces, and with lengths that lie."""
import amqp_wire as wire
from attack import attack
from client import Failure


@attack
def input_that_waits_for_answers_and_for_the_definitions_is_bounded(s):
    """Durable declarations hold the output; questions to queues of other threads hold the input.
    What is read meanwhile must not grow beyond the room for it."""
    others = [s.channel() for _ in range(6)]
    asked = [other.declare("").queue for other in others] * 1000
    attackers = [s.channel() for _ in range(6)]
    questions = b"".join(wire.method_frame(1, "queue.declare", queue=queue, passive=True)
                         for queue in asked)
    for round in range(2):
        for n, channel in enumerate(attackers):
            channel.rest = memoryview(wire.method_frame(
                1, "queue.declare", queue=f"d{n}-{round}", durable=True) + questions)
        for channel in attackers:
            send_reading(channel.connection, channel.rest)
        for channel in attackers:
            for _ in range(1 + len(asked)):
                channel.answer("queue.declare-ok")


def send_reading(connection, data):
    """As a client with a thread for reading would: what comes meanwhile is taken."""
    while data:
        connection.socket.setblocking(False)
        try:
            data = data[connection.socket.send(data):]
        except BlockingIOError:
            if not connection.read_bytes():
                raise Failure("the broker closed the socket") from None
