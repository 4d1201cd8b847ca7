"""Versions, ciphers, who speaks no TLS, and floods and stalls before and in the handshake."""
import socket
import ssl
import subprocess

import amqp_wire as wire
from process import TIME_LIMIT, check, check_equal, fields_of, test
from secure import Bystander, Hand, client_hello, read_answer

HANDSHAKE, ALERT = 22, 21
GOOD = [0xC02B, 0xC02F]  # ECDHE-ECDSA and ECDHE-RSA with AES128-GCM-SHA256

WEAK = {
    "NULL": [0x0001, 0x0002, 0x003B, 0xC006, 0xC010],
    "anonymous": [0x0018, 0x001B, 0x0034, 0x003A, 0x00A6, 0xC018, 0xC019],
    "export": [0x0003, 0x0006, 0x0008, 0x0014],
    "RC4": [0x0004, 0x0005, 0xC007, 0xC011],
    "DES": [0x0009, 0x0015, 0x000A, 0x0016, 0xC008, 0xC012],
    "IDEA, SEED, Camellia CBC": [0x0007, 0x0096, 0x0041, 0x0084],
    "RSA key exchange": [0x002F, 0x0035, 0x003C, 0x003D, 0x009C, 0x009D, 0xC09C],
    "CBC": [0xC009, 0xC00A, 0xC013, 0xC014, 0xC023, 0xC024, 0xC027, 0xC028],
    "finite field Diffie-Hellman": [0x0033, 0x0039, 0x009E, 0x009F, 0xCCAA],
}


def answer(broker, data):
    with socket.create_connection(broker.secure_address, TIME_LIMIT) as sock:
        sock.sendall(data)
        return read_answer(sock)


def is_refused(found):
    """An alert, or just the end: no ServerHello."""
    return found is None or found[0] == ALERT


@test
def versions_before_1_2_are_refused_and_later_ones_spoken(world):
    broker = world.start_secure()
    check_equal("answer to TLS 1.2", answer(broker, client_hello(0x0303, GOOD))[0], HANDSHAKE)
    for version in (0x0300, 0x0301, 0x0302):
        ciphers = GOOD + [0x002F, 0x000A, 0xC009, 0xC013]
        found = answer(broker, client_hello(version, ciphers, min(version, 0x0301)))
        check(is_refused(found), f"the answer to version {version:#x} is {found}")
    ssl2 = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0"
                         "000102030405060708090a0b0c0d0e0f")
    check(is_refused(answer(broker, ssl2)), "SSL 2 is answered")
    broker.log.wait("unsupported protocol")
    for version in ("1.2", "1.3"):
        connection = world.client(broker, version).handshake()
        check_equal("version", connection.socket.version(), f"TLSv{version}")
        connection.close()


@test
def the_oldest_version_can_be_1_3(world):
    broker = world.start_secure("  minimum_version: 1.3\n")
    check(is_refused(answer(broker, client_hello(0x0303, GOOD))), "TLS 1.2 is answered")
    world.client(broker, "1.3").handshake().close()


@test
def weak_ciphers_are_refused(world):
    for certificate in ("server", "rsa"):
        broker = world.start_secure(certificate=certificate)
        check_equal("answer", answer(broker, client_hello(0x0303, GOOD))[0], HANDSHAKE)
        for name, ciphers in WEAK.items():
            for cipher in ciphers:
                found = answer(broker, client_hello(0x0303, [cipher]))
                check(is_refused(found), f"{name}, {cipher:#06x}: {found}")
        broker.log.wait("no shared cipher")
        broker.stop()


@test
def ciphers_can_be_chosen(world):
    broker = world.start_secure("  ciphers: ECDHE-ECDSA-AES256-GCM-SHA384\n"
                                "  ciphersuites: TLS_CHACHA20_POLY1305_SHA256\n")
    for version, cipher in (("1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
                            ("1.3", "TLS_CHACHA20_POLY1305_SHA256")):
        check_equal("cipher", world.client(broker, version).socket.cipher()[0], cipher)


@test
def openssl_s_client_finds_what_is_recommended(world):
    broker = world.start_secure()
    address = "{}:{}".format(*broker.secure_address)
    for option, protocol in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
        done = subprocess.run(["openssl", "s_client", option, "-connect", address, "-CAfile",
                               world.authority.path("ca.pem"), "-verify_return_error"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TIME_LIMIT, check=False)
        for words in (protocol, "Verify return code: 0 (ok)", "Compression: NONE",
                      "Temp Key: X25519"):
            check(words in done.stdout, f"{option}: no \"{words}\" in {done.stdout}")
    for option in ("-tls1", "-tls1_1"):
        done = subprocess.run(["openssl", "s_client", option, "-cipher", "ALL:@SECLEVEL=0",
                               "-connect", address], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        check(done.returncode != 0, f"{option} connects")


@test
def who_speaks_the_wrong_protocol_is_named_in_the_log(world):
    broker = world.start_secure()
    check(is_refused(answer(broker, wire.PROTOCOL_HEADER)), "plain AMQP is answered")
    broker.log.wait("a plain AMQP client on a TLS port")
    check(is_refused(answer(broker, b"GET / HTTP/1.1\r\n\r\n")), "plain HTTP is answered")
    broker.log.wait("an HTTP client on a TLS port")
    with socket.create_connection(broker.address, TIME_LIMIT) as sock:
        sock.sendall(client_hello(0x0303, GOOD))
        check_equal("answer", sock.recv(8), wire.PROTOCOL_HEADER)
    broker.log.wait("a TLS client on a plain port")
    try:
        ssl.create_default_context().wrap_socket(
            socket.create_connection(broker.secure_address, TIME_LIMIT),
            server_hostname="localhost")
    except ssl.SSLError:
        broker.log.wait(r"the client does not trust our certificate \(alert")


@test
def a_handshake_that_stalls_anywhere_is_ended_in_time(world):
    broker = world.start_secure(top="limits: {handshake_timeout: 6s}")
    bystander = Bystander(world, broker)
    hands = {}  # the protocol in which each stalls, by its port

    def begin(version, protocol):
        client = Hand(broker, world.context(version))
        hands[client.socket.getsockname()[1]] = client, protocol
        return client

    def hand(version, steps):
        """A client that stops after so many steps; half steps stop in the middle of a flight."""
        client = begin(version, "tls")
        for step in range(int(steps + 0.5)):
            data = client.flight()
            if step + 0.5 == steps:
                data = data[:len(data) // 2]
            client.socket.sendall(data)
            if step + 1 <= steps:
                client.receive()

    since = broker.log.count()
    for version in ("1.2", "1.3"):
        for steps in (0, 0.5, 1, 1.5):
            hand(version, steps)
        for words in (b"", wire.PROTOCOL_HEADER[:3], wire.PROTOCOL_HEADER):
            client = begin(version, "amqp")
            client.handshake_in_steps(client.socket.sendall)
            if words:
                client.socket.sendall(client.encrypt(words))
    for client, _ in hands.values():
        bystander.go_on()
        client.closed_by_broker()
    bystander.go_on()
    lines = [fields_of(line) for line in broker.log.all(since) if "handshake timed out" in line]
    check_equal("protocols", {line["protocol"] for line in lines}, {"tls", "amqp"})
    for line in lines:  # not all: what strangers can cause is told in sums
        port = int(line["peer"].rpartition(":")[2])
        check_equal("protocol", line["protocol"], hands[port][1])


@test
def a_handshake_of_endless_bytes_is_ended(world):
    """OpenSSL would keep 128 KiB of a message that has not come whole."""
    hello = b"\x01\x01\xff\x00\x03\x03" + bytes(120_000)
    for mode, most in ((None, 50_000), ("require", 90_000)):
        broker = world.start_secure(world.trusting(mode) if mode else "")
        for record in (16384, 100):
            sock = socket.create_connection(broker.secure_address, TIME_LIMIT)
            since = broker.log.count()
            for begin in range(0, most, record):
                part = hello[begin:begin + record]
                try:
                    sock.sendall(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
                except ConnectionError:
                    break
            broker.log.wait("TLS handshake failed: the client sent too much in it", since)
            sock.close()
        world.client(broker, identity="guest").handshake().close()
        broker.stop()


@test
def a_flood_of_handshakes_does_not_stop_others(world):
    broker = world.start_secure(certificate="rsa")
    bystander = Bystander(world, broker)
    for _ in range(10):
        hands = [Hand(broker, world.context("1.3")) for _ in range(20)]
        for client in hands:
            client.socket.sendall(client.flight())
        bystander.go_on()
        for client in hands:
            client.socket.close()
    bystander.go_on()


@test
def a_client_that_sends_single_bytes_is_served(world):
    broker = world.start_secure()
    for version in ("1.2", "1.3"):
        client = Hand(broker, world.context(version))

        def send(data, client=client):
            for position in range(len(data)):
                client.socket.sendall(data[position:position + 1])

        client.handshake_in_steps(send)
        send(client.encrypt(wire.PROTOCOL_HEADER))
        data = b""
        while len(data) < 7:
            client.receive()
            try:
                data += client.tls.read(65536)
            except ssl.SSLWantReadError:
                continue
        check_equal("frame type", data[0], wire.FRAME_METHOD)
        client.socket.close()
