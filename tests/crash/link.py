"""One connection with one channel, made for throughput: it reads and writes what is there and never
waits. What rarely comes is decoded by the conformance suite's wire module; deliveries, confirms and
publishes, of which there are a hundred thousand, are taken apart here.
"""
import struct
import time

import amqp_wire as wire
from client import Connection

FRAME, LONG, TAG, CONTENT = (struct.Struct(form) for form in (">BHI", ">I", ">QB", ">HHQ"))


def ids(name):
    class_id, method_id, _ = wire.METHODS[name]
    return class_id << 16 | method_id


DELIVER, ACK, NACK = ids("basic.deliver"), ids("basic.ack"), ids("basic.nack")
ACK_FRAME = struct.Struct(">BHIIQBB")
HANDSHAKE_S = 60.0


def settle_frame(method, tag, bits):
    return ACK_FRAME.pack(1, 1, 13, method, tag, bits, wire.FRAME_END)


def publish_prefix(exchange, routing_key):
    return wire.method_frame(1, "basic.publish", exchange=exchange, routing_key=routing_key)


class Link:
    """Calls its owner: delivered, confirmed, answered, was_closed."""

    def __init__(self, address, owner):
        connection = Connection(address, time.monotonic() + HANDSHAKE_S)
        connection.handshake().channel(1)
        self.socket, self.buffer, self.owner = connection.socket, connection.buffer, owner
        self.socket.setblocking(False)
        self.output, self.is_closed, self.partial, self.parts = bytearray(), False, None, []

    def say(self, method, **fields):
        self.output += wire.method_frame(1, method, **fields)

    def publish(self, prefix, properties, body):
        """properties: flags and values as they are on the wire."""
        self.output += prefix
        self.output += wire.content_frames(1, body, properties)

    def flush(self):
        if self.is_closed or not self.output:
            return
        try:
            sent = self.socket.send(self.output)
            del self.output[:sent]
        except BlockingIOError:
            pass
        except OSError:  # it was killed; what it said before is still to be read
            self.output.clear()

    def read(self):
        """False: there is nothing now."""
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        self.buffer += data
        self.parse()
        return True

    def drop(self):
        self.socket.close()
        self.is_closed = True

    def parse(self):
        buffer, at, owner = self.buffer, 0, self.owner
        while len(buffer) - at >= 8:
            kind, channel, size = FRAME.unpack_from(buffer, at)
            start, end = at + 7, at + 7 + size
            if end >= len(buffer):
                break
            if buffer[end] != wire.FRAME_END:
                raise wire.WireError(f"a frame ends in {buffer[end]:#x}")
            at = end + 1
            if kind == wire.FRAME_METHOD:
                method = LONG.unpack_from(buffer, start)[0]
                if method == DELIVER:
                    self.partial = TAG.unpack_from(buffer, start + 5 + buffer[start + 4])
                elif method in (ACK, NACK):
                    tag, bits = TAG.unpack_from(buffer, start + 4)
                    owner.confirmed(tag, bool(bits & 1), method == ACK)
                else:
                    self.answer(channel, *wire.decode_method(bytes(buffer[start:end])))
            elif kind == wire.FRAME_HEADER:
                self.left = CONTENT.unpack_from(buffer, start)[2]
                self.properties, self.parts = bytes(buffer[start + 12:end]), []
                if self.left == 0:
                    self.whole()
            elif kind == wire.FRAME_BODY:
                self.parts.append(bytes(buffer[start:end]))
                self.left -= size
                if self.left <= 0:
                    self.whole()
        del buffer[:at]

    def whole(self):
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        tag, redelivered = self.partial
        self.parts = []
        self.owner.delivered(tag, bool(redelivered), self.properties, body)

    def answer(self, channel, name, fields):
        if name == "connection.close":
            self.output += wire.method_frame(0, "connection.close-ok")
            self.flush()
            self.output.clear()
        self.owner.answered(name, fields)
