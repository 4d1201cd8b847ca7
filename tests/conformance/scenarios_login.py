"""Who gets in: passwords and their hashes, what a failed login costs, and where guest may come from."""
import re
import socket
import time

from client import ConnectionClosed, Failure
from harness import Skip, add, scenario

LOGIN_REFUSED = ("Login was refused using authentication mechanism PLAIN. For details see the broker "
                 "logfile.")
SECRET = "correct-horse-battery"
SCRYPT = "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0"
SLOW = "$scrypt$ln=16,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$nsM3ZndIutMwX+ymEFtmzzt3HCdhe+tBvJUhmMNb0vU"
HASHES = {  # of "correct horse": RabbitMQ's two, and ours
    "sha256": "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH",
    "sha512": "6K0XJ4E71hyCI02AxSmJ38KuxD5JcO+3MzswDN3QgNFL0MCAD3XLzqO3i6Di1+/VzwBLbptUGWerrdXj9cs8"
              "jeUYGlI=",
    "scrypt": SCRYPT,
    "none": "",
}


def users_with(hashes):
    return "users:\n" + "".join(
        f"  - {{name: {name}, password_hash: \"{text}\", permissions: [{{vhost: /, configure: .*, "
        "write: .*, read: .*}]}\n" for name, text in hashes.items())


HASHED = users_with(HASHES)


def keep_log(s):
    """From here on the broker's log is in a file. -> its name"""
    s.stop()
    name = s.whippetd.keep_log()
    s.address = s.whippetd.start()
    return name


def verified(log):
    """How many passwords of one address the broker has found to be wrong."""
    with open(log, encoding="utf-8") as file:
        return max((int(count) for count in re.findall(r"failures=(\d+)", file.read())), default=0)


def hashed(name):
    def run(s):
        connection = s.socket().handshake(user=name, password="wrong horse", until="start")
        connection.refused(403, LOGIN_REFUSED, by="")
        for _ in range(2):  # the second time from what is remembered
            s.channel(user=name, password="correct horse")
        connection = s.socket().handshake(user=name, password="wrong horse", until="start")
        connection.refused(403, LOGIN_REFUSED, by="")
    return run


for kind in ("sha256", "sha512", "scrypt"):
    add(f"a_password_hash_of_kind_{kind}_is_understood", hashed(kind), config=HASHED)


@scenario(config=HASHED)
def a_user_without_a_password_cannot_log_in_with_one(s):
    for password in ("", "x", "correct horse"):
        connection = s.socket().handshake(user="none", password=password, until="start")
        connection.refused(403, LOGIN_REFUSED, by="")


@scenario(config=HASHED)
def many_log_in_at_the_same_time(s):
    connections = [s.socket().handshake(user="scrypt", password="correct horse", until="start")
                   for _ in range(50)]
    for connection in connections:
        connection.expect("connection.tune")


@scenario(config="limits: {handshake_timeout: 2s}\n" + users_with({f"u{n}": SLOW for n in range(20)}))
def who_waits_for_his_password_to_be_verified_is_not_timed_out(s):
    """It takes longer than a handshake may until all are: they all come from one address."""
    connections = [s.socket().handshake(user=f"u{n}", password="correct horse", until="start")
                   for n in range(20)]
    for connection in connections:
        connection.expect("connection.tune")


@scenario(config=HASHED)
def no_time_is_spent_on_the_passwords_of_who_has_gone(s):
    name = keep_log(s)
    for n in range(300):
        s.socket().handshake(user="sha256", password=f"wrong {n}", until="start").drop()
    s.channel(user="scrypt", password="correct horse").sync()
    if verified(name) > 250:
        raise Failure(f"{verified(name)} of 300 passwords were verified after their clients had gone")


@scenario(config=HASHED)
def a_client_may_go_while_its_password_is_looked_at(s):
    for _ in range(10):
        s.socket().handshake(user="scrypt", password="wrong", until="start").drop()
    s.channel(user="scrypt", password="correct horse").sync()


@scenario(config=HASHED)
def what_a_client_sends_while_its_password_is_looked_at_is_not_lost(s):
    connection = s.socket().handshake(user="scrypt", password="correct horse", until="start")
    connection.say("connection.tune-ok", channel_max=10, frame_max=131072, heartbeat=0)
    connection.say("connection.open", virtual_host="/")
    connection.expect("connection.tune")
    connection.expect("connection.open-ok")


@scenario(config=f"users: [{{name: u, password: {SECRET}}}]\nlog: {{level: debug}}\n")
def the_log_says_who_failed_from_where_and_not_with_what(s):
    name = keep_log(s)
    wrong = "wrong-" + SECRET
    for mechanism, user, password in [("PLAIN", "u", wrong), ("PLAIN", "nobody-here", wrong),
                                      ("PLAIN", "u", SECRET)]:
        connection = s.socket().handshake(user=user, password=password, mechanism=mechanism,
                                          until="start")
        if password == SECRET:
            connection.expect("connection.tune")
        else:
            connection.refused(403, LOGIN_REFUSED, by="")
    with open(name, encoding="utf-8") as file:
        log = file.read()
    if SECRET in log:
        raise Failure("the secret is in the log")
    for text in ("user=u reason=\"invalid credentials\"", "user=nobody-here", "peer=127.0.0.1:"):
        if text not in log:
            raise Failure(f"the log has no {text}: {log}")


@scenario(config=HASHED)
def who_keeps_failing_waits_longer_and_others_do_not(s):
    def fail():
        began = time.monotonic()
        connection = s.socket().handshake(user="sha256", password="wrong", until="start")
        connection.refused(403, LOGIN_REFUSED, by="")
        return time.monotonic() - began
    for _ in range(10):
        fail()
    seconds = fail()
    if seconds < 0.9:
        raise Failure(f"the 11th failure was answered after {seconds:.3f} s")
    connection = s.socket().handshake(user="sha256", password="wrong", until="start")
    s.channel(user="sha256", password="correct horse").sync()
    connection.drop()


@scenario(config=HASHED)
def a_thousand_guesses_from_one_address_do_not_hold_up_the_logins_of_others(s):
    """Verifying each takes as long as for a slow hash."""
    name = keep_log(s)
    guesses = [s.socket().handshake(user="sha256", password=f"wrong {i}", until="start")
               for i in range(1100)]
    other = s.socket(source="127.0.0.2").handshake(user="scrypt", password="correct horse")
    other.channel().sync()
    if verified(name) > 1000:
        raise Failure(f"{verified(name)} of 1100 guesses were verified before the login of another")
    for connection in guesses:
        connection.drop()


@scenario(config=HASHED)
def who_is_known_comes_in_at_once_while_others_of_the_address_guess(s):
    s.channel(user="sha256", password="correct horse").sync()
    for i in range(200):
        s.socket().handshake(user="sha256", password=f"wrong {i}", until="start")
    s.channel(user="sha256", password="correct horse").sync()


@scenario(config=HASHED)
def a_client_that_cannot_be_told_is_held_before_it_is_dropped(s):
    connection = s.socket().handshake(user="sha256", password="wrong", capabilities={},
                                      until="start")
    began = time.monotonic()
    try:
        connection.expect_end()
    except ConnectionClosed:
        pass
    if time.monotonic() - began < 2.5:
        raise Failure("the socket was closed at once")


def own_address():
    """An address of this machine that is not of the loopback."""
    for family, somewhere in [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((somewhere, 9))
                return probe.getsockname()[0]  # nothing was sent
            except OSError:
                pass
    raise Skip("this machine has no address but those of the loopback")


@scenario(config="log: {level: info}\n", listen="*:0")
def guest_comes_from_this_machine_only(s):
    s.channel().sync()
    s.address = own_address(), s.address[1]
    connection = s.socket().handshake(until="start")
    connection.refused(403, LOGIN_REFUSED, by="")
    s.address = "127.0.0.1", s.address[1]


@scenario(config="loopback_users: []\n", listen="*:0")
def guest_comes_from_anywhere_when_the_file_says_so(s):
    port = s.address[1]
    s.address = own_address(), port
    s.channel().sync()
    s.address = "127.0.0.1", port
