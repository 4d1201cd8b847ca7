"""A blocking AMQP client for scenarios: it says what it is told and shows what came back.

Everything that waits, waits on the socket and no longer than the scenario's deadline. `expect`
takes the very next thing on a channel; `call` sends a method and waits for its answer, leaving
deliveries that come in between for a later `expect`.
"""
import re
import socket
import time
from collections import deque

import amqp_wire as wire


TIMED_OUT = "waited in vain until the time limit"


class Failure(Exception):
    """The broker did something else than the rule says; the text is shown to the reader."""


class ConnectionClosed(Failure):
    """connection.close came, or (method is None) the socket was closed."""

    def __init__(self, method=None, why="the broker closed the socket"):
        super().__init__(f"the broker sent {method}" if method else why)
        self.method = method


class ChannelClosed(Failure):
    def __init__(self, method):
        super().__init__(f"the broker sent {method}")
        self.method = method


class Method:
    """A method from the broker, with properties, headers and body where it carries content."""

    def __init__(self, name, fields):
        self.name, self.fields = name, fields
        self.body, self.raw_properties, self.body_size, self.parts = b"", None, 0, []

    def __getattr__(self, field):
        try:
            return self.__dict__["fields"][field]
        except KeyError:
            raise AttributeError(f"{self.name} has no field {field}") from None

    def __repr__(self):
        told = {name: value for name, value in self.fields.items() if value not in ("", {}, 0)}
        fields = ", ".join(f"{name}={value!r}" for name, value in told.items())
        return f"{self.name}({fields})" + (f" with body {self.body[:60]!r}" if self.parts else "")

    @property
    def properties(self):
        return wire.decode_properties(self.raw_properties)

    @property
    def typed_properties(self):
        return wire.decode_properties(self.raw_properties, typed=True)

    @property
    def headers(self):
        return self.properties.get("headers", {})


def check_equal(what, got, wanted):
    """Also takes a compiled pattern or a predicate as the wanted value."""
    if isinstance(wanted, re.Pattern):
        same = isinstance(got, str) and wanted.search(got)
        wanted = f"/{wanted.pattern}/"
    elif callable(wanted):
        same = wanted(got)
        wanted = getattr(wanted, "__name__", "a fitting value")
    else:
        same = got == wanted and isinstance(got, bool) == isinstance(wanted, bool)
    if not same:
        raise Failure(f"{what}: got {got!r}, wanted {wanted!r}")


def reply_text(code, text):
    """The whole reply text made from a code and an explanation; patterns stay patterns."""
    if isinstance(text, re.Pattern):
        return text
    text = f"{wire.REPLY_NAMES[code]} - {text}"
    return text if len(text) <= 255 else text[:252] + "..."


class Connection:
    CLIENT_CAPABILITIES = {"consumer_cancel_notify": True, "connection.blocked": True,
                           "basic.nack": True, "publisher_confirms": True,
                           "authentication_failure_close": True}

    def __init__(self, address, deadline, source=None):
        """source: the address of this machine from which it comes, if that matters."""
        self.deadline, self.buffer, self.inboxes, self.partial = deadline, bytearray(), {}, {}
        self.heartbeats, self.frames, self.closed, self.next_channel = 0, [], None, 1
        self.frame_max, self.start, self.tune = 131072, None, None
        self.socket = socket.create_connection(address, self.time_left(),
                                               source and (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # bytes

    def time_left(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Failure(TIMED_OUT)
        return left

    def send(self, data):
        try:
            self.socket.settimeout(self.time_left())
            self.socket.sendall(data)
        except socket.timeout:
            raise Failure("the broker does not read") from None
        except OSError:
            pass  # what the broker said before it closed is still to be read, and tells more

    def drop(self):
        """End without a word, as a crashed client does."""
        self.socket.close()

    def read_bytes(self):
        """More bytes into the buffer; returns False at the end of the stream."""
        try:
            self.socket.settimeout(self.time_left())
            data = self.socket.recv(262144)
        except socket.timeout:
            raise Failure(TIMED_OUT) from None
        except OSError:
            data = b""
        self.buffer += data
        return bool(data)

    def read_exactly(self, count):
        while len(self.buffer) < count:
            if not self.read_bytes():
                raise ConnectionClosed()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def expect_end(self):
        """The broker closes the socket, and sends nothing more before it."""
        while self.read_bytes():
            pass
        if self.buffer:
            raise Failure(f"got {bytes(self.buffer[:80])!r} where the socket should be closed")

    # frames

    def read_frame(self):
        kind, channel, size = wire.struct.unpack(">BHI", self.read_exactly(7))
        payload, end = self.read_exactly(size), self.read_exactly(1)[0]
        if end != wire.FRAME_END:
            raise Failure(f"frame of type {kind} ends in {end:#x}")
        if size + 8 > self.frame_max:
            raise Failure(f"frame of {size + 8} octets, the limit is {self.frame_max}")
        self.frames.append((kind, channel, size))
        return kind, channel, payload

    def has_frame(self):
        """Whether one has been read whole, so that pump() waits for nothing."""
        size = 7 + int.from_bytes(self.buffer[3:7], "big") + 1
        return len(self.buffer) >= 8 and len(self.buffer) >= size

    def pump(self):
        """Read one frame and put what it completes into its channel's inbox."""
        kind, channel, payload = self.read_frame()
        if kind == wire.FRAME_HEARTBEAT:
            self.heartbeats += 1
        elif kind == wire.FRAME_METHOD:
            method = Method(*wire.decode_method(payload))
            if method.name == "connection.close":
                self.closed = method
                self.say("connection.close-ok")
                raise ConnectionClosed(method)
            if channel in self.partial:
                raise Failure(f"{method} in the middle of content")
            if method.name in wire.WITH_CONTENT:
                self.partial[channel] = method
            else:
                self.inbox(channel).append(method)
        else:
            self.add_content(kind, channel, payload)

    def add_content(self, kind, channel, payload):
        method = self.partial.get(channel)
        if method is None:
            raise Failure(f"frame of type {kind} without a method before it on channel {channel}")
        if kind == wire.FRAME_HEADER:
            class_id, weight, method.body_size = wire.struct.unpack(">HHQ", payload[:12])
            check_equal("content header's class and weight", (class_id, weight), (60, 0))
            method.raw_properties = payload[12:]
            method.parts.append(b"")
        else:
            method.parts.append(payload)
            method.body += payload
        if len(method.body) > method.body_size:
            raise Failure(f"body of {len(method.body)} octets, {method.body_size} announced")
        if len(method.body) == method.body_size:
            self.inbox(channel).append(self.partial.pop(channel))

    def inbox(self, channel):
        return self.inboxes.setdefault(channel, deque())

    # methods

    def say(self, name, channel=0, **fields):
        self.send(wire.method_frame(channel, name, **fields))

    def next(self, channel=0):
        """The next method on this channel; a close of channel or connection is raised."""
        while not self.inbox(channel):
            if self.closed:
                raise ConnectionClosed(self.closed)
            self.pump()
        method = self.inbox(channel).popleft()
        if method.name == "channel.close":
            self.say("channel.close-ok", channel)
            raise ChannelClosed(method)
        return method

    def expect(self, name, channel=0, **fields):
        method = self.next(channel)
        if method.name != name:
            raise Failure(f"got {method}, wanted {name}")
        check_fields(method, fields)
        return method

    # handshake

    def handshake(self, user="guest", password="guest", vhost="/", mechanism="PLAIN", response=None,
                  properties=None, capabilities=None, channel_max=0, frame_max=131072, heartbeat=0,
                  until="open"):
        """Open the connection, or stop after the step named by until: header, start, tune."""
        self.send(wire.PROTOCOL_HEADER)
        self.start = self.expect("connection.start")
        if until == "header":
            return self
        if response is None:
            response = f"\0{user}\0{password}"
        if properties is None:
            properties = {"product": "conformance", "capabilities":
                          self.CLIENT_CAPABILITIES if capabilities is None else capabilities}
        self.say("connection.start-ok", client_properties=properties, mechanism=mechanism,
                 response=response, locale="en_US")
        if until == "start":
            return self
        self.tune = self.expect("connection.tune")
        if until == "tune":
            return self
        self.frame_max = frame_max
        self.say("connection.tune-ok", channel_max=channel_max or self.tune.channel_max,
                 frame_max=frame_max, heartbeat=heartbeat)
        self.say("connection.open", virtual_host=vhost)
        self.expect("connection.open-ok")
        return self

    def channel(self, number=None):
        if number is None:
            number, self.next_channel = self.next_channel, self.next_channel + 1
        channel = Channel(self, number)
        channel.call("channel.open")
        return channel

    def close(self):
        """An orderly end: close, close-ok, end of the stream."""
        self.say("connection.close", reply_code=200, reply_text="bye")
        while True:
            self.pump()
            if self.inbox(0) and self.inbox(0)[0].name == "connection.close-ok":
                self.inbox(0).clear()
                break
        self.socket.close()

    def refused(self, code, text, by=None, or_dropped=False):
        """The connection is closed with exactly this code, text and offending method ('' for none).

        or_dropped: RabbitMQ just closes the socket here, after three seconds; both will do.
        """
        try:
            while True:
                self.pump()
        except ConnectionClosed as end:
            method = end.method or self.closed
        if method is None and or_dropped:
            return None
        if method is None:
            raise Failure(f"the socket was closed, wanted connection.close {code} {text}")
        check_refusal(method, code, text, by)
        self.expect_end()
        return method


def check_fields(method, fields):
    for field, wanted in fields.items():
        if field in ("body", "properties", "headers"):
            got = getattr(method, field)
            wanted = wire.to_bytes(wanted) if isinstance(wanted, str) else wanted
        else:
            got = method.fields[field]
        check_equal(f"{method.name} {field}", got, wanted)


def check_refusal(method, code, text, by):
    """code may be a tuple of codes where the specification is open; text is a pattern then."""
    if not isinstance(code, tuple):
        check_equal("reply code", method.reply_code, code)
    elif method.reply_code not in code:
        raise Failure(f"reply code: got {method.reply_code}, wanted one of {code}")
    check_equal("reply text", method.reply_text, reply_text(code, text))
    if by is not None:
        wanted = wire.METHODS[by][:2] if by else (0, 0)
        got = method.class_id, method.method_id
        if got != wanted:
            got = wire.METHOD_NAMES.get(got, got)
            raise Failure(f"offending method: got {got}, wanted {by or '0/0'}")


class Channel:
    def __init__(self, connection, number):
        self.connection, self.number = connection, number

    def say(self, name, **fields):
        self.connection.say(name, self.number, **fields)

    def next(self):
        return self.connection.next(self.number)

    def expect(self, name, **fields):
        return self.connection.expect(name, self.number, **fields)

    def answer(self, *names):
        """The next method of these names; what else has come stays for later, a close is raised."""
        inbox, seen = self.connection.inbox(self.number), 0
        while True:
            while seen < len(inbox):
                if inbox[seen].name in names:
                    method = inbox[seen]
                    del inbox[seen]
                    return method
                if inbox[seen].name == "channel.close":
                    method = inbox[seen]
                    self.say("channel.close-ok")
                    raise ChannelClosed(method)
                seen += 1
            if self.connection.closed:
                raise ConnectionClosed(self.connection.closed)
            self.connection.pump()

    def call(self, name, **fields):
        self.say(name, **fields)
        return self.answer(name + "-ok")

    def refused(self, code, text, by=None):
        """The channel is closed with exactly this code, text and offending method."""
        try:
            method = self.next()
        except ChannelClosed as end:
            check_refusal(end.method, code, text, by)
            return end.method
        raise Failure(f"got {method}, wanted channel.close {code} {text}")

    def refuses(self, name, code, text, **fields):
        """Sending this method closes the channel so."""
        self.say(name, **fields)
        return self.refused(code, text, by=name)

    # what most scenarios need

    def declare(self, queue, **fields):
        return self.call("queue.declare", queue=queue, **fields)

    def declare_exchange(self, exchange, type="direct", **fields):
        return self.call("exchange.declare", exchange=exchange, type=type, **fields)

    def bind(self, queue, exchange, routing_key="", **fields):
        return self.call("queue.bind", queue=queue, exchange=exchange, routing_key=routing_key,
                         **fields)

    def publish(self, routing_key, body="", exchange="", mandatory=False, immediate=False,
                **properties):
        self.connection.send(wire.publish_frames(
            self.number, exchange, routing_key, body, properties, self.connection.frame_max,
            mandatory=mandatory, immediate=immediate))

    def publish_all(self, routing_key, bodies, **more):
        for body in bodies:
            self.publish(routing_key, body, **more)

    def select(self):
        return self.call("confirm.select")

    def publish_confirmed(self, routing_key, body="", **more):
        """Publish on a channel in confirm mode and wait for its ack."""
        self.publish(routing_key, body, **more)
        return self.answer("basic.ack")

    def all_confirmed(self, up_to):
        """Every tag up to this one is acked, alone or by multiple, in whatever order, and once."""
        done = set()
        while len(done) < up_to:
            method = self.answer("basic.ack", "basic.nack")
            if method.name == "basic.nack":
                raise Failure(f"got {method}, wanted an ack")
            tag = method.delivery_tag
            new = set(range(1, tag + 1)) - done if method.multiple else {tag}
            if not new or new & done:
                raise Failure(f"tag {tag} was confirmed twice")
            done |= new
        check_equal("highest confirmed tag", max(done), up_to)

    def consume(self, queue, tag="", **fields):
        """-> the consumer tag"""
        return self.call("basic.consume", queue=queue, consumer_tag=tag, **fields).consumer_tag

    def get(self, queue, no_ack=True):
        """-> basic.get-ok, or None when the queue is empty."""
        self.say("basic.get", queue=queue, no_ack=no_ack)
        method = self.answer("basic.get-ok", "basic.get-empty")
        return method if method.name == "basic.get-ok" else None

    def got(self, queue, body, no_ack=True, **fields):
        """basic.get finds this message."""
        method = self.get(queue, no_ack)
        if method is None:
            raise Failure(f"queue {queue} is empty, wanted message {body!r}")
        check_fields(method, {"body": body, **fields})
        return method

    def ack(self, tag, multiple=False):
        self.say("basic.ack", delivery_tag=tag, multiple=multiple)

    def nack(self, tag, multiple=False, requeue=True):
        self.say("basic.nack", delivery_tag=tag, multiple=multiple, requeue=requeue)

    def reject(self, tag, requeue=True):
        self.say("basic.reject", delivery_tag=tag, requeue=requeue)

    def delivered(self, *bodies, **fields):
        """These messages come next, in this order -> the last of them."""
        method = None
        for body in bodies:
            method = self.expect("basic.deliver", body=body, **fields)
        return method

    def sync(self):
        """Everything sent on this channel so far has been read by the broker."""
        self.call("channel.flow", active=True)

    def counts(self, queue):
        """-> (ready messages, consumers) after all the channel has sent before."""
        answer = self.declare(queue, passive=True)
        return answer.message_count, answer.consumer_count

    def holds(self, queue, messages, consumers=None):
        """The queue comes to hold that many ready messages: asked again until it does."""
        while True:
            counts = self.counts(queue)
            if counts[0] == messages and consumers in (None, counts[1]):
                return
            wanted = messages if consumers is None else f"{messages} for {consumers}"
            self.try_again(f"queue {queue} holds {counts[0]} messages for {counts[1]} consumers, "
                           f"wanted {wanted}")

    def try_again(self, text):
        if self.connection.deadline - time.monotonic() < 4:
            raise Failure(text)
        time.sleep(0.005)  # another connection's work reaches the queue on its own way: ask again

    def silent(self, *queues):
        """Nothing is on its way to this channel: asked after a round trip through these queues."""
        for queue in queues:
            self.counts(queue)
        self.sync()
        self.sync()
        inbox = self.connection.inbox(self.number)
        if inbox:
            raise Failure(f"got {inbox[0]} where nothing should come")

    def close(self):
        self.call("channel.close", reply_code=200, reply_text="bye")
