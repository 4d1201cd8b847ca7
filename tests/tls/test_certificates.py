"""Certificates: the broker's own, those of clients, and logging in by them."""
import os
import shutil
import ssl
import time

from client import ConnectionClosed
from process import CONFIG, check, check_equal, fields_of, test
from secure import Bystander, SecureConnection

BAD = {
    "expired": "certificate has expired",
    "foreign": "unable to get local issuer certificate",
    "revoked": "certificate revoked",
    "self-signed": "self-signed certificate",
}


def is_let_in(world, broker, version, identity):
    """With TLS 1.3 a client learns only after its handshake that it was refused."""
    try:
        world.client(broker, version, identity).handshake().close()
    except (ssl.SSLError, ConnectionError, ConnectionClosed):
        return False
    return True


@test
def clients_with_bad_certificates_are_refused(world):
    for mode in ("request", "require"):
        broker = world.start_secure(world.trusting(mode))
        bystander = Bystander(world, broker) if mode == "request" else None
        for version in ("1.2", "1.3"):
            for identity, words in BAD.items():
                since = broker.log.count()
                check(not is_let_in(world, broker, version, identity), f"{identity} is let in")
                broker.log.wait(f"certificate verify failed: {words}", since)
            check(is_let_in(world, broker, version, "guest"), "a good one is not let in")
            since = broker.log.count()
            check_equal("without a certificate, let in", is_let_in(world, broker, version, None),
                        mode == "request")
            if mode == "require":
                broker.log.wait("the client sent no certificate", since)
            else:
                bystander.go_on()
        broker.stop()


@test
def nobody_is_asked_for_a_certificate_by_default(world):
    broker = world.start_secure()
    for identity in (None, "guest", "foreign"):
        connection = world.client(broker, identity=identity)
        start = connection.handshake(until="header").start
        check_equal("mechanisms", start.mechanisms, "PLAIN AMQPLAIN")
        connection.drop()


@test
def a_certificate_can_be_the_login(world):
    for kind, name, identity in (("cn", "guest", "guest"), ("san_dns", "guest", "guest"),
                                 ("san_dns", "guest", "stranger")):
        broker = world.start_secure(world.trusting("request") + f"  peer_name: {kind}\n")
        connection = world.client(broker, identity=identity)
        connection.handshake(mechanism="EXTERNAL", response="")
        line = broker.log.wait("connection opened.*").group(0)
        check_equal("user", fields_of(line)["user"], name)
        connection.close()
        for response in (name, "\0*\0*"):  # the latter is amqp091-go's
            world.client(broker, identity=identity).handshake(
                mechanism="EXTERNAL", response=response).close()
        world.client(broker, identity=identity).handshake().close()  # or with a password
        broker.stop()


@test
def logins_of_unknown_names_are_refused(world):
    for kind, name, identity in (
            ("cn", "nobody-here", "stranger"), ("dn", "CN=guest,O=Whippet", "guest"),
            ("san_email", "mail@guest.example", "guest"), ("san_uri", "urn:guest", "guest")):
        broker = world.start_secure(world.trusting("request") + f"  peer_name: {kind}\n")
        connection = world.client(broker, identity=identity)
        connection.handshake(mechanism="EXTERNAL", response="", until="start")
        connection.refused(403, "Login was refused using authentication mechanism EXTERNAL. For "
                                "details see the broker logfile.")
        line = broker.log.wait("login refused.*").group(0)
        check_equal("user", fields_of(line)["user"], name)
        broker.stop()


@test
def who_asks_to_be_another_user_is_refused(world):
    broker = world.start_secure(world.trusting("request"))
    connection = world.client(broker, identity="guest")
    connection.handshake(mechanism="EXTERNAL", response="admin", until="start")
    connection.refused(403, "Login was refused using authentication mechanism EXTERNAL. For "
                            "details see the broker logfile.")
    broker.log.wait("the client asks to be another user")


@test
def without_a_certificate_there_is_no_login_by_it(world):
    broker = world.start_secure(world.trusting("request"))
    for connection in (world.client(broker), broker.socket()):
        connection.handshake(mechanism="EXTERNAL", response="guest", until="start")
        check_equal("mechanisms", connection.start.mechanisms, "PLAIN AMQPLAIN")
        connection.expect_end()
    check(not broker.log.has("connection opened"), "somebody got in")


def resumes_until(world, broker, version, identity, end, words):
    """Comes in again and again, each time with the last session, until it is refused: not before
    that time, not long after it, and with these words in the log."""
    context, session, resumed = world.context(version, identity), None, 0
    while True:
        is_late = time.time() > end + 1
        since = broker.log.count()
        try:
            connection = SecureConnection(broker, context, session=session)
            resumed += connection.socket.session_reused
            connection.handshake(mechanism="EXTERNAL", response="")
        except (ssl.SSLError, ConnectionError, ConnectionClosed):
            check(time.time() > end - 1, "refused too early")
            broker.log.wait(f"certificate verify failed: {words}", since)
            break
        check(not is_late, f"TLS {version}: a session was resumed that should have ended")
        session = connection.socket.session
        connection.close()
        time.sleep(0.2)  # there is only the clock to wait for
    check(resumed > 0, f"TLS {version}: no session was resumed")


@test
def a_session_does_not_outlive_its_clients_certificate(world):
    """A client that resumes is not asked for it, and is given the means to resume once more."""
    broker = world.start_secure(world.trusting("require"))
    for version in ("1.2", "1.3"):
        world.authority.issue("brief", "/CN=guest", days=(-1, 6 / 86400))
        end = world.authority.end_of("x509", "-enddate", "brief.pem")
        resumes_until(world, broker, version, "brief", end, "certificate has expired")


@test
def a_session_does_not_outlive_the_list_of_revoked_certificates(world):
    for version in ("1.2", "1.3"):
        brief = world.authority.list_revoked("brief-crl", seconds=6)
        end = world.authority.end_of("crl", "-nextupdate", "brief-crl.pem")
        broker = world.start_secure(f"  verify: require\n  crl_file: {brief}\n"
                                    f"  ca_file: {world.authority.path('ca.pem')}\n")
        resumes_until(world, broker, version, "guest", end, "CRL has expired")
        broker.stop()


@test
def a_client_is_shown_the_certificate_of_the_host_it_names(world):
    files = [world.authority.path(name) for name in ("server", "shop", "wild", "rsa")]
    world.use("server")
    more = ("  certificate: [" + ", ".join(f"{file}.pem" for file in files) + "]\n  key: ["
            + ", ".join(f"{file}.key" for file in files) + "]\n")
    broker = world.start("tls:\n  listen: 127.0.0.1:0\n" + more)
    found = broker.output.wait(r"(\S+):(\d+) \(TLS\)")
    broker.secure_address = found.group(1), int(found.group(2))
    for host, shown in (("localhost", "server"), ("shop.example", "shop"),
                        ("a.wild.example", "wild")):
        connection = world.client(broker, host=host)
        check_equal(f"shown for {host}", connection.shown(), shown)
        connection.handshake().close()
    connection = world.client(broker, version="1.2", host="localhost")
    check_equal("kind", connection.socket.cipher()[0][:11], "ECDHE-ECDSA")
    context = world.context("1.2")
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    check_equal("shown to a client that knows RSA only",
                SecureConnection(broker, context).shown(), "rsa")


# --- Exchanging them while the broker runs -------------------------------------------------------


@test
def new_certificates_are_for_new_connections_and_no_connection_is_dropped(world):
    broker = world.start_secure()
    old = Bystander(world, broker)
    check_equal("shown", world.client(broker).shown(), "server")
    world.use("second")
    lines = broker.reload()
    check("failures=0" in lines[-1], lines[-1])
    check_equal("shown", world.client(broker).shown(), "second")
    old.go_on()
    for name in ("server", "second") * 5:
        world.use(name)
        broker.reload()
        old.go_on()
        connection = world.client(broker)
        check_equal("shown", connection.shown(), name)
        connection.handshake().close()


@test
def a_bad_new_certificate_is_refused_and_the_old_goes_on(world):
    broker = world.start_secure()
    bystander = Bystander(world, broker)
    spoilt = {
        "no certificate in PEM form": lambda: write(world.certificate, "rubbish"),
        "No such file": lambda: os.remove(world.certificate),
        "does not match": lambda: shutil.copy(world.authority.path("second.pem"),
                                              world.certificate),
        "no private key in PEM form": lambda: write(world.key, ""),
    }
    for words, spoil in spoilt.items():
        world.use("server")
        spoil()
        lines = broker.reload()
        found = [line for line in lines if "the old stay in force" in line]
        check_equal("refusals", len(found), 1)
        check(words in found[0] and world.folder in found[0], found[0])
        bystander.go_on()
        connection = world.client(broker)
        check_equal("shown", connection.shown(), "server")
        connection.handshake().close()
    world.use("second")
    broker.reload()
    check_equal("shown", world.client(broker).shown(), "second")


def told(lines, event):
    """The fields of the log lines of this event, by key."""
    return {fields_of(line)["key"]: fields_of(line) for line in lines if event in line}


@test
def settings_that_were_refused_are_not_told_as_changed_before_they_are(world):
    broker = world.start_secure()
    path = world.authority.path
    foreign_key = (f"heartbeat: 7s\ntls:\n  listen: 127.0.0.1:0\n  minimum_version: 1.3\n"
                   f"  certificate: {path('second.pem')}\n  key: {world.key}\n")
    world.configure(foreign_key)
    for changed in ({"heartbeat"}, set()):  # the other parts of the file are taken
        lines = broker.reload()
        check_equal("changed", set(told(lines, "setting changed")), changed)
        refused = told(lines, "setting stays as it was")
        check_equal("refused", set(refused), {"tls.certificate", "tls.minimum_version"})
        check_equal("certificate", (refused["tls.certificate"]["in_force"],
                                    refused["tls.certificate"]["refused"]),
                    (world.certificate, path("second.pem")))
        check(lines[-1].endswith(f"changes={len(changed)} failures=1"), lines[-1])
        connection = world.client(broker, version="1.2")
        check_equal("shown", connection.shown(), "server")
        check_equal("heartbeat", connection.handshake().tune.heartbeat, 7)
        connection.close()
    world.configure(foreign_key.replace(world.key, path("second.key")))
    lines = broker.reload()
    changed = told(lines, "setting changed")
    check_equal("changed", set(changed), {"tls.certificate", "tls.key", "tls.minimum_version"})
    for key, before, after in (("tls.certificate", world.certificate, path("second.pem")),
                               ("tls.key", world.key, path("second.key")),
                               ("tls.minimum_version", "1.2", "1.3")):
        check_equal(key, (changed[key]["from"], changed[key]["to"]), (before, after))
    check(lines[-1].endswith("changes=3 failures=0"), lines[-1])
    check_equal("shown", world.client(broker).shown(), "second")
    check(not is_let_in(world, broker, "1.2", None), "TLS 1.2 is still spoken")
    check(broker.reload()[-1].endswith("changes=0 failures=0"), "something has changed again")


@test
def a_file_that_goes_back_on_what_was_refused_changes_nothing(world):
    broker = world.start_secure()
    world.configure(world.settings("  ciphers: NONSENSE\n"))
    check("changes=0 failures=1" in broker.reload()[-1], "it is not refused")
    world.configure(world.settings())
    check("changes=0 failures=0" in broker.reload()[-1], "something has changed")


@test
def without_a_tls_section_tls_goes_on_until_a_restart_and_that_is_told(world):
    broker = world.start_secure()
    world.configure("")
    for _ in range(2):
        lines = broker.reload()
        check_equal("changed", told(lines, "setting changed"), {})
        check_equal("restart", set(told(lines, "setting needs a restart")),
                    {"tls.listen", "tls.certificate", "tls.key"})
        connection = world.client(broker)
        check_equal("shown", connection.shown(), "server")
        connection.handshake().close()
    world.configure(world.settings())
    check(broker.reload()[-1].endswith("changes=0 failures=0"), "something has changed")


@test
def a_revocation_takes_effect_with_the_next_reload(world):
    crl = os.path.join(world.folder, "crl.pem")
    shutil.copy(world.authority.path("crl.pem"), crl)
    broker = world.start_secure(f"  verify: require\n  crl_file: {crl}\n"
                                f"  ca_file: {world.authority.path('ca.pem')}\n")
    world.authority.issue("to-go", "/CN=guest")
    check(is_let_in(world, broker, "1.3", "to-go"), "it is not let in")
    world.authority.revoke("to-go")
    shutil.copy(world.authority.path("crl.pem"), crl)
    broker.reload()
    check(not is_let_in(world, broker, "1.3", "to-go"), "it is let in")
    check(is_let_in(world, broker, "1.3", "guest"), "another is not let in")


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


@test
def bad_files_are_told_in_one_line_at_the_start_and_by_check_config(world):
    good = f"listen: 127.0.0.1:0, certificate: {world.certificate}, key: {world.key}"
    missing = os.path.join(world.folder, "missing.pem")
    for settings, words in (
            (f"listen: 127.0.0.1:0, certificate: {missing}", f"cannot open {missing}: No such file"),
            ("listen: 127.0.0.1:0", "listen needs a certificate"),
            (good + f", ca_file: {missing}", missing),
            (good + ", verify: require", "verify needs a ca_file"),
            (good + ", ciphers: NONSENSE", "NONSENSE"),
            (f"certificate: {world.certificate}, key: [a, b]", "1 certificates and 2 keys")):
        world.use("server")
        world.configure(f"tls: {{{settings}}}\n")
        for arguments in ((), ("--check-config",)):
            broker = world.launch(*arguments)
            check_equal("status", broker.wait_end(), CONFIG)
            broker.log.wait("whippetd: tls: ")
            said = [line for line in broker.log.all() if " info " not in line]
            said = [line for line in said if "running as root" not in line]
            check_equal("lines", len(said), 1)
            check(words in said[0], said[0])
    world.configure(f"tls: {{{good}}}\n")
    check_equal("status", world.launch("--check-config").wait_end(), 0)


@test
def an_expired_certificate_of_the_brokers_own_is_a_warning(world):
    broker = world.start_secure(certificate="expired")
    broker.log.wait("warn certificate has expired file=")
