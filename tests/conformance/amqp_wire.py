"""The AMQP 0-9-1 wire in small: methods, content properties, field tables and frames, both ways.

Written from the specification and apart from the broker's own amqp/ folder on purpose: an error in
the one is not repeated in the other. It encodes wrong things as willingly as right ones, for that
is what many scenarios need.
"""
import struct

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

# One method a line: name, class id, method id, then its fields in the order of the wire; an
# indented line goes on with the method above it.
# o octet, s short, l long, L longlong, b bit, S shortstr, X longstr, T table
_METHODS = """
connection.start       10 10  o:version_major o:version_minor T:server_properties X:mechanisms
                              X:locales
connection.start-ok    10 11  T:client_properties S:mechanism X:response S:locale
connection.secure      10 20  X:challenge
connection.secure-ok   10 21  X:response
connection.tune        10 30  s:channel_max l:frame_max s:heartbeat
connection.tune-ok     10 31  s:channel_max l:frame_max s:heartbeat
connection.open        10 40  S:virtual_host S:reserved_1 b:reserved_2
connection.open-ok     10 41  S:reserved_1
connection.close       10 50  s:reply_code S:reply_text s:class_id s:method_id
connection.close-ok    10 51
connection.blocked     10 60  S:reason
connection.unblocked   10 61
connection.update-secret    10 70  X:new_secret S:reason
connection.update-secret-ok 10 71
channel.open           20 10  S:reserved_1
channel.open-ok        20 11  X:reserved_1
channel.flow           20 20  b:active
channel.flow-ok        20 21  b:active
channel.close          20 40  s:reply_code S:reply_text s:class_id s:method_id
channel.close-ok       20 41
access.request         30 10  S:realm b:exclusive b:passive b:active b:write b:read
access.request-ok      30 11  s:ticket
exchange.declare       40 10  s:ticket S:exchange S:type b:passive b:durable b:auto_delete
                              b:internal b:no_wait T:arguments
exchange.declare-ok    40 11
exchange.delete        40 20  s:ticket S:exchange b:if_unused b:no_wait
exchange.delete-ok     40 21
exchange.bind          40 30  s:ticket S:destination S:source S:routing_key b:no_wait T:arguments
exchange.bind-ok       40 31
exchange.unbind        40 40  s:ticket S:destination S:source S:routing_key b:no_wait T:arguments
exchange.unbind-ok     40 51
queue.declare          50 10  s:ticket S:queue b:passive b:durable b:exclusive b:auto_delete
                              b:no_wait T:arguments
queue.declare-ok       50 11  S:queue l:message_count l:consumer_count
queue.bind             50 20  s:ticket S:queue S:exchange S:routing_key b:no_wait T:arguments
queue.bind-ok          50 21
queue.purge            50 30  s:ticket S:queue b:no_wait
queue.purge-ok         50 31  l:message_count
queue.delete           50 40  s:ticket S:queue b:if_unused b:if_empty b:no_wait
queue.delete-ok        50 41  l:message_count
queue.unbind           50 50  s:ticket S:queue S:exchange S:routing_key T:arguments
queue.unbind-ok        50 51
basic.qos              60 10  l:prefetch_size s:prefetch_count b:global_
basic.qos-ok           60 11
basic.consume          60 20  s:ticket S:queue S:consumer_tag b:no_local b:no_ack b:exclusive
                              b:no_wait T:arguments
basic.consume-ok       60 21  S:consumer_tag
basic.cancel           60 30  S:consumer_tag b:no_wait
basic.cancel-ok        60 31  S:consumer_tag
basic.publish          60 40  s:ticket S:exchange S:routing_key b:mandatory b:immediate
basic.return           60 50  s:reply_code S:reply_text S:exchange S:routing_key
basic.deliver          60 60  S:consumer_tag L:delivery_tag b:redelivered S:exchange S:routing_key
basic.get              60 70  s:ticket S:queue b:no_ack
basic.get-ok           60 71  L:delivery_tag b:redelivered S:exchange S:routing_key l:message_count
basic.get-empty        60 72  S:cluster_id
basic.ack              60 80  L:delivery_tag b:multiple
basic.reject           60 90  L:delivery_tag b:requeue
basic.recover-async    60 100 b:requeue
basic.recover          60 110 b:requeue
basic.recover-ok       60 111
basic.nack             60 120 L:delivery_tag b:multiple b:requeue
confirm.select         85 10  b:no_wait
confirm.select-ok      85 11
tx.select              90 10
tx.select-ok           90 11
tx.commit              90 20
tx.commit-ok           90 21
tx.rollback            90 30
tx.rollback-ok         90 31
"""

METHODS = {}  # name -> (class id, method id, [(kind, field name)])
METHOD_NAMES = {}  # (class id, method id) -> name
for _line in _METHODS.strip().replace("\n  ", " ").splitlines():
    _name, _class, _method, *_fields = _line.split()
    METHODS[_name] = (int(_class), int(_method), [tuple(f.split(":")) for f in _fields])
    METHOD_NAMES[int(_class), int(_method)] = _name

WITH_CONTENT = {"basic.publish", "basic.return", "basic.deliver", "basic.get-ok"}

# The flag bits of a content header from 15 downwards; t is a timestamp.
PROPERTIES = [("S", "content_type"), ("S", "content_encoding"), ("T", "headers"),
              ("o", "delivery_mode"), ("o", "priority"), ("S", "correlation_id"), ("S", "reply_to"),
              ("S", "expiration"), ("S", "message_id"), ("t", "timestamp"), ("S", "type"),
              ("S", "user_id"), ("S", "app_id"), ("S", "cluster_id")]

REPLY_NAMES = {311: "CONTENT_TOO_LARGE", 312: "NO_ROUTE", 313: "NO_CONSUMERS",
               320: "CONNECTION_FORCED", 402: "INVALID_PATH", 403: "ACCESS_REFUSED",
               404: "NOT_FOUND", 405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED",
               501: "FRAME_ERROR", 502: "SYNTAX_ERROR", 503: "COMMAND_INVALID",
               504: "CHANNEL_ERROR", 505: "UNEXPECTED_FRAME", 506: "RESOURCE_ERROR",
               530: "NOT_ALLOWED", 540: "NOT_IMPLEMENTED", 541: "INTERNAL_ERROR"}


class Typed:
    """A field-table value with the tag it goes out with: Typed("s", 7) is a 16-bit seven."""

    def __init__(self, tag, value):
        self.tag, self.value = tag, value

    def __eq__(self, other):
        return isinstance(other, Typed) and (self.tag, self.value) == (other.tag, other.value)

    def __repr__(self):
        return f"{self.tag}:{self.value!r}"


class WireError(Exception):
    """The broker sent bytes that are not AMQP."""


_FIXED = {"o": ">B", "s": ">H", "l": ">I", "L": ">Q", "t": ">Q"}
_TABLE_FIXED = {"b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q",
                "f": ">f", "d": ">d", "T": ">Q"}


def to_bytes(text):
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def to_text(data):
    return data.decode("utf-8", "surrogateescape")


def short_string(text):
    data = to_bytes(text)
    return bytes([len(data)]) + data


def long_string(text):
    data = to_bytes(text)
    return struct.pack(">I", len(data)) + data


def natural_tag(value):
    """The tag a plain Python value gets, as most clients choose it."""
    if isinstance(value, bool):
        return "t"
    if isinstance(value, int):
        return "I" if -(1 << 31) <= value < 1 << 31 else "l"
    for kind, tag in ((float, "d"), (str, "S"), (bytes, "S"), (dict, "F"), (list, "A")):
        if isinstance(value, kind):
            return tag
    if value is None:
        return "V"
    raise TypeError(f"no field-table type for {value!r}")


def encode_value(value):
    if isinstance(value, Typed):
        tag, value = value.tag, value.value
    else:
        tag = natural_tag(value)
    if tag in _TABLE_FIXED:
        data = struct.pack(_TABLE_FIXED[tag], value)
    elif tag == "t":
        data = bytes([value])
    elif tag in "Sx":
        data = long_string(value)
    elif tag == "F":
        data = encode_table(value)
    elif tag == "A":
        items = b"".join(encode_value(item) for item in value)
        data = struct.pack(">I", len(items)) + items
    elif tag == "D":
        data = struct.pack(">Bi", *value)
    elif tag == "V":
        data = b""
    else:  # an unknown tag, sent as it is
        data = value
    return tag.encode() + data


def encode_table(table):
    """A dict, or bytes that are already what follows the length."""
    if isinstance(table, bytes):
        body = table
    else:
        body = b"".join(short_string(key) + encode_value(value) for key, value in table.items())
    return struct.pack(">I", len(body)) + body


class Reader:
    """Reads values off the front of a buffer; every read is checked against its end."""

    def __init__(self, data, typed=False):
        self.data, self.at, self.typed = data, 0, typed

    def take(self, count):
        if self.at + count > len(self.data):
            raise WireError(f"{count} octets wanted at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count:self.at]

    def fixed(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def left(self):
        return len(self.data) - self.at

    def short_string(self):
        return to_text(self.take(self.fixed(">B")))

    def long_string(self):
        return to_text(self.take(self.fixed(">I")))

    def table(self):
        inner = Reader(self.take(self.fixed(">I")), self.typed)
        result = {}
        while inner.left():
            key = inner.short_string()
            result[key] = inner.value()
        return result

    def value(self):
        tag = to_text(self.take(1))
        if tag in _TABLE_FIXED:
            value = self.fixed(_TABLE_FIXED[tag])
        elif tag == "t":
            value = self.fixed(">B") != 0
        elif tag == "S":
            value = self.long_string()
        elif tag == "x":
            value = self.take(self.fixed(">I"))
        elif tag == "F":
            value = self.table()
        elif tag == "A":
            inner, value = Reader(self.take(self.fixed(">I")), self.typed), []
            while inner.left():
                value.append(inner.value())
        elif tag == "D":
            value = struct.unpack(">Bi", self.take(5))
        elif tag == "V":
            value = None
        else:
            raise WireError(f"unknown field-table tag {tag!r}")
        return Typed(tag, value) if self.typed else value

    def field(self, kind):
        if kind in _FIXED:
            return self.fixed(_FIXED[kind])
        return {"S": self.short_string, "X": self.long_string, "T": self.table}[kind]()


def encode_field(kind, value):
    if kind in _FIXED:
        return struct.pack(_FIXED[kind], value)
    return {"S": short_string, "X": long_string, "T": encode_table}[kind](value)


_DEFAULTS = {"o": 0, "s": 0, "l": 0, "L": 0, "t": 0, "b": False, "S": "", "X": "", "T": {}}


def encode_method(name, arguments):
    """The payload of a method frame. Fields that are not given are zero, false or empty."""
    class_id, method_id, fields = METHODS[name]
    unknown = set(arguments) - {field for _, field in fields}
    if unknown:
        raise TypeError(f"{name} has no field {', '.join(sorted(unknown))}")
    out, bits = [struct.pack(">HH", class_id, method_id)], []
    for kind, field in fields:
        value = arguments.get(field, _DEFAULTS[kind])
        if kind == "b":
            bits.append(bool(value))
            continue
        if bits:
            out.append(_pack_bits(bits))
            bits = []
        out.append(encode_field(kind, value))
    if bits:
        out.append(_pack_bits(bits))
    return b"".join(out)


def _pack_bits(bits):
    return bytes([sum(1 << n for n, bit in enumerate(bits) if bit)])


def decode_method(payload):
    """-> (name, {field: value}); what is left over after the last field is an error."""
    reader = Reader(payload)
    ids = reader.fixed(">H"), reader.fixed(">H")
    if ids not in METHOD_NAMES:
        raise WireError(f"method {ids} is not known")
    name, values, bit = METHOD_NAMES[ids], {}, 0
    for kind, field in METHODS[name][2]:
        if kind == "b":
            if bit == 0:
                octet = reader.fixed(">B")
            values[field] = bool(octet & 1 << bit)
            bit += 1
        else:
            values[field], bit = reader.field(kind), 0
    if reader.left():
        raise WireError(f"{reader.left()} octets too many in {name}")
    return name, values


def encode_properties(properties):
    """Flags and values, as they follow the body size in a content header."""
    flags, out = 0, []
    for bit, (kind, name) in enumerate(PROPERTIES):
        if properties.get(name) is not None:
            flags |= 1 << (15 - bit)
            out.append(encode_field(kind, properties[name]))
    unknown = set(properties) - {name for _, name in PROPERTIES}
    if unknown:
        raise TypeError(f"no property {', '.join(sorted(unknown))}")
    return struct.pack(">H", flags) + b"".join(out)


def decode_properties(data, typed=False):
    reader = Reader(data, typed)
    flags, values = reader.fixed(">H"), {}
    for bit, (kind, name) in enumerate(PROPERTIES):
        if flags & 1 << (15 - bit):
            values[name] = reader.field(kind)
    if flags & 3 or reader.left():
        raise WireError(f"content header flags {flags:#x}, {reader.left()} octets left")
    return values


def frame(kind, channel, payload, end=FRAME_END):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def method_frame(channel, name, **arguments):
    return frame(FRAME_METHOD, channel, encode_method(name, arguments))


def header_frame(channel, body_size, properties=None, class_id=60, weight=0):
    """properties is a dict, or the bytes of flags and values."""
    if not isinstance(properties, bytes):
        properties = encode_properties(properties or {})
    return frame(FRAME_HEADER, channel, struct.pack(">HHQ", class_id, weight, body_size)
                 + properties)


def body_frame(channel, payload):
    return frame(FRAME_BODY, channel, payload)


def content_frames(channel, body, properties=None, frame_max=131072):
    """Header and body frames of a message; an empty body has no body frame."""
    most = frame_max - 8
    parts = [header_frame(channel, len(body), properties)]
    parts += [body_frame(channel, body[at:at + most]) for at in range(0, len(body), most)]
    return b"".join(parts)


def publish_frames(channel, exchange, routing_key, body=b"", properties=None, frame_max=131072,
                   **flags):
    return method_frame(channel, "basic.publish", exchange=exchange, routing_key=routing_key,
                        **flags) \
        + content_frames(channel, to_bytes(body), properties, frame_max)


HEARTBEAT = frame(FRAME_HEARTBEAT, 0, b"")
