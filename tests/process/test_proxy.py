"""The PROXY protocol: who is trusted says who its client is, and nobody else can."""
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time

import amqp_wire as wire
from process import Skip, check, check_equal, fields_of, test

TRUSTED = "proxy_protocol: {trusted: 127.0.0.0/8}\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REFUSED = ("Login was refused using authentication mechanism PLAIN. For details see the broker "
           "logfile.")
LOCAL = "127.9.8.7"  # a client on the proxy's own machine


def text(source, port=56324):
    return f"PROXY TCP4 {source} 198.51.100.1 {port} 5672\r\n".encode()


def binary(source, port=56324, command=1, fields=b""):
    rest = (socket.inet_aton(source) + socket.inet_aton("198.51.100.1")
            + struct.pack(">HH", port, 5672) + fields)
    return SIGNATURE + bytes([0x20 | command, 0x11]) + struct.pack(">H", len(rest)) + rest


def opened(broker, peer):
    """The log says that a connection was opened from there."""
    line = broker.log.wait(rf".*connection opened.* peer={peer}.*").group(0)
    check_equal("user", fields_of(line)["user"], "guest")


@test
def the_client_s_address_is_the_one_in_the_header(world):
    broker = world.start(TRUSTED)
    for port, header in enumerate((text(LOCAL, 40001), binary(LOCAL, 40002),
                                   binary(LOCAL, 40003, fields=b"\x01\0\x02h2" + bytes(3))), 40001):
        connection = broker.socket()
        connection.send(header)
        connection.handshake().channel()
        opened(broker, f"{LOCAL}:{port}")
        connection.close()


@test
def a_header_may_come_byte_by_byte_and_with_what_follows(world):
    broker = world.start(TRUSTED)
    for header in (text(LOCAL, 40001), binary(LOCAL, 40002)):
        connection = broker.socket()
        for at in range(len(header)):
            connection.send(header[at:at + 1])
        connection.handshake()
        connection.close()
    connection = broker.socket()
    connection.send(text(LOCAL, 40003) + wire.PROTOCOL_HEADER)
    connection.expect("connection.start")
    connection.drop()


@test
def a_client_of_another_machine_is_no_local_one(world):
    broker = world.start(TRUSTED)
    connection = broker.socket()
    connection.send(text("192.0.2.7"))
    connection.handshake(until="start")
    connection.refused(403, REFUSED)
    broker.log.wait("login refused.* peer=192.0.2.7:56324 .*localhost")


def own_address():
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but chooses an address
        except OSError:
            raise Skip("this machine has no address but the loopback ones") from None
        return probe.getsockname()[0]


@test
def what_is_local_to_a_proxy_of_another_machine_is_not_local(world):
    address = own_address()
    broker = world.start(f"listen: {address}:0\nproxy_protocol: {{trusted: {address}}}\n",
                         listen=False)
    unix = b"/run/client.sock".ljust(108, b"\0") * 2
    for header, peer in ((text("127.0.0.1"), "127.0.0.1:56324"), (binary("127.0.0.1"), "127.0.0.1"),
                         (SIGNATURE + b"\x21\x31\0\xd8" + unix, "unix:/run/client.sock")):
        since = broker.log.count()
        connection = broker.socket()
        connection.send(header)
        connection.handshake(until="start")
        connection.refused(403, REFUSED)
        broker.log.wait(f"login refused.* peer={peer}.*localhost", since)


@test
def a_connection_of_the_proxy_itself_is_its_own(world):
    broker = world.start(TRUSTED)
    connection = broker.socket()
    port = connection.socket.getsockname()[1]
    connection.send(binary("192.0.2.7", command=0))
    connection.handshake()
    opened(broker, f"127.0.0.1:{port}")
    connection.close()


@test
def a_client_of_whom_the_proxy_says_nothing_is_no_local_one(world):
    """It comes in under the proxy's address, and may be anywhere."""
    broker = world.start(TRUSTED)
    for header in (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x21\0\0\0"):
        since = broker.log.count()
        connection = broker.socket()
        port = connection.socket.getsockname()[1]
        connection.send(header)
        connection.handshake(until="start")
        connection.refused(403, REFUSED)
        broker.log.wait(f"login refused.* peer=127.0.0.1:{port} .*localhost", since)


@test
def a_trusted_address_must_send_a_header(world):
    broker = world.start(TRUSTED)
    for data, reason in ((wire.PROTOCOL_HEADER, "no PROXY header"),
                         (b"PROXY TCP4 nonsense\r\n", "wrong addresses"),
                         (SIGNATURE + b"\x31\x11\0\0", "unknown version"),
                         (SIGNATURE + b"\x21\x11\xff\xff", "longer than 4096")):
        connection = broker.socket()
        connection.send(data)
        connection.expect_end()
        broker.log.wait(f"no good PROXY header.* peer=127.0.0.1:.*{reason}")


@test
def a_header_must_come_in_time(world):
    broker = world.start(TRUSTED + "limits: {handshake_timeout: 300ms}\n")
    for part in (b"", b"PROXY TCP4 ", SIGNATURE):
        connection = broker.socket()
        connection.send(part)
        connection.expect_end()
    broker.log.wait("no good PROXY header.*it did not come in time")


@test
def a_header_from_others_is_a_wrong_protocol(world):
    broker = world.start("proxy_protocol: {trusted: 127.0.0.2}\n")
    for header in (text(LOCAL), binary(LOCAL)):
        connection = broker.socket()
        connection.send(header)
        check_equal("answer", connection.read_exactly(8), wire.PROTOCOL_HEADER)
        connection.socket.shutdown(socket.SHUT_WR)
        connection.expect_end()
        broker.log.wait("bad protocol header.*a PROXY header from an address that is not trusted")
    broker.check_serves()


@test
def who_is_trusted_can_change_while_the_broker_runs(world):
    broker = world.start()
    broker.check_serves()
    world.configure(TRUSTED)
    check("setting changed" in "\n".join(broker.reload()), "the change is not told")
    connection = broker.socket()
    connection.send(text(LOCAL))
    connection.handshake()
    world.configure("")
    broker.reload()
    connection.channel()
    broker.check_serves()


@test
def half_headers_hold_up_neither_others_nor_the_end(world):
    broker = world.start(TRUSTED)
    waiting = [broker.socket() for _ in range(50)]
    for connection in waiting:
        connection.send(b"PROXY TCP4 192.")
    served = broker.socket()
    served.send(text(LOCAL))
    served.handshake().channel()
    served.close()
    before = time.monotonic()
    broker.stop()
    check(time.monotonic() - before < 30, "it waited for those that had not come in yet")


@test
def tls_begins_after_the_header(world):
    if shutil.which("openssl") is None:
        raise Skip("openssl is not here")
    certificate = os.path.join(world.folder, "certificate.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost", "-days", "2",
                    "-keyout", certificate + ".key", "-out", certificate],
                   check=True, capture_output=True)
    with open(certificate, "a", encoding="ascii") as file, open(
            certificate + ".key", encoding="ascii") as key:
        file.write(key.read())
    os.chmod(certificate, 0o644)
    broker = world.start(TRUSTED + f"tls: {{listen: 127.0.0.1:0, certificate: {certificate}}}\n")
    port = broker.output.wait(r"127\.0\.0\.1:(\d+) \(TLS\)").group(1)
    broker.address = "127.0.0.1", int(port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = broker.socket()
    connection.socket.sendall(text(LOCAL, 40001))
    connection.socket = context.wrap_socket(connection.socket)
    connection.handshake().channel()
    opened(broker, f"{LOCAL}:40001")
    connection.close()
