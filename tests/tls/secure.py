"""A broker with TLS, and clients for it."""
import shutil
import socket
import ssl
import time

import process
from client import Connection, Failure

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class World(process.World):
    """As for the process's tests, with a certificate in a file that can be exchanged."""

    def __init__(self, path, threads, authority):
        super().__init__(path, threads)
        self.authority = authority
        self.certificate, self.key = f"{self.folder}/certificate.pem", f"{self.folder}/key.pem"

    def use(self, name):
        """From now on the broker's files are these."""
        shutil.copy(self.authority.path(f"{name}.pem"), self.certificate)
        shutil.copy(self.authority.path(f"{name}.key"), self.key)

    def settings(self, more="", top=""):
        return (f"{top}\ntls:\n  listen: 127.0.0.1:0\n  certificate: {self.certificate}\n"
                f"  key: {self.key}\n{more}")

    def start_secure(self, more="", top="", certificate="server"):
        """A broker with these lines more in its tls section, and at the top."""
        self.use(certificate)
        broker = self.start(self.settings(more, top))
        found = broker.output.wait(r"(\S+):(\d+) \(TLS\)")
        broker.secure_address = found.group(1), int(found.group(2))
        return broker

    def trusting(self, mode):
        """The lines of the tls section that ask clients for certificates."""
        return (f"  verify: {mode}\n  ca_file: {self.authority.path('ca.pem')}\n"
                f"  crl_file: {self.authority.path('crl.pem')}\n")

    def context(self, version=None, identity=None):
        """A client's, that trusts our authority and has this certificate."""
        context = ssl.create_default_context(cafile=self.authority.path("ca.pem"))
        if version:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        if identity:
            context.load_cert_chain(self.authority.path(f"{identity}.pem"),
                                    self.authority.path(f"{identity}.key"))
        return context

    def client(self, broker, version=None, identity=None, **more):
        return SecureConnection(broker, self.context(version, identity), **more)


class SecureConnection(Connection):
    """An AMQP client over TLS."""

    def __init__(self, broker, context, host="localhost", session=None):
        super().__init__(broker.secure_address, time.monotonic() + process.TIME_LIMIT)
        self.socket = context.wrap_socket(self.socket, server_hostname=host, session=session)

    def shown(self):
        """The common name of the certificate that the broker shows."""
        for part in self.socket.getpeercert()["subject"]:
            if part[0][0] == "commonName":
                return part[0][1]
        return None


class Hand:
    """A TLS client that takes each step only when it is told to, over a plain socket."""

    def __init__(self, broker, context):
        self.socket = socket.create_connection(broker.secure_address, process.TIME_LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def flight(self):
        """What the client has to say next in its handshake."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def receive(self):
        """Something from the broker. False: it has closed."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.incoming.write(data)
        return bool(data)

    def handshake_in_steps(self, send):
        """The whole handshake; `send` is given the bytes of each flight."""
        for _ in range(20):
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            send(self.outgoing.read())
            if done:
                return
            if not self.receive():
                raise Failure("the broker closed in the handshake")
        raise Failure("the handshake does not end")

    def encrypt(self, data):
        self.tls.write(data)
        return self.outgoing.read()

    def closed_by_broker(self):
        """Waits until it is."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        self.socket.close()


class Bystander:
    """A client that publishes and consumes all the while, and loses nothing."""

    def __init__(self, world, broker):
        self.connection = world.client(broker).handshake()
        self.channel = self.connection.channel()
        self.channel.select()
        self.queue = self.channel.call("queue.declare", exclusive=True).queue
        self.channel.consume(self.queue, no_ack=True)
        self.count = 0

    def go_on(self):
        self.count += 1
        body = f"message {self.count}"
        self.channel.publish(self.queue, body)
        seen = {self.channel.next().name, self.channel.next().name}
        process.check_equal("bystander got", seen, {"basic.ack", "basic.deliver"})


def read_answer(sock):
    """The first record that the broker sends: (type, body), or None when it just closes."""
    data = b""
    try:
        while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
            more = sock.recv(4096)
            if not more:
                return None
            data += more
    except ConnectionError:
        return None
    return data[0], data[5:]


def client_hello(version, ciphers, record_version=0x0301):
    """The bytes of a ClientHello of TLS up to 1.2 (or SSL 3), as a client of that time sends it."""
    def block(size, data):
        return len(data).to_bytes(size, "big") + data

    extensions = b""
    if version > 0x0300:
        groups = block(2, b"\x00\x1d\x00\x17\x00\x18")
        signatures = block(2, bytes.fromhex("0403050306030804080508060401050106010203"))
        for kind, data in ((10, groups), (11, block(1, b"\0")), (13, signatures)):
            extensions += kind.to_bytes(2, "big") + block(2, data)
        extensions = block(2, extensions)
    suites = b"".join(cipher.to_bytes(2, "big") for cipher in ciphers)
    body = (version.to_bytes(2, "big") + bytes(range(32)) + block(1, b"") + block(2, suites)
            + block(1, b"\0") + extensions)
    message = b"\x01" + block(3, body)
    return b"\x16" + record_version.to_bytes(2, "big") + block(2, message)
