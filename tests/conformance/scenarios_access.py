"""Who may do what: vhosts, permissions and topic permissions.

The table of permissions was found on RabbitMQ 3.10.8. To make its users there, RABBITMQCTL says how
to call rabbitmqctl; a broker of ours gets them through its configuration file.
"""
import os
import shlex
import signal
import subprocess
import time

import amqp_wire as wire
from client import ChannelClosed, ConnectionClosed, Failure, check_equal
from harness import TIME_LIMIT, add, scenario
from scenarios_login import LOGIN_REFUSED

PASSWORD = "p"
OTHER_VHOST = "conformance-other"
ALL = (".*", ".*", ".*")

# name: tags, (configure, write, read) in "/", {exchange: (write, read)} for topics.
# The permissions of "limited" are in the names of things: a capital C, W or R.
USERS = {
    "limited": ("", ("C", "W", "R"), {}),
    "anchored": ("", (r"^amq\.gen", "^$", ""), {}),
    "everything": ("", ALL, {}),
    "nowhere": ("", None, {}),
    "topical": ("", ALL, {"amq.topic": (r"^{username}\.a", "^b"), "amq.direct": ("^$", "^$")}),
    "impersonator": ("impersonator", ALL, {}),
}


def config():
    lines = [f"vhosts: [{OTHER_VHOST}]", "users:",
             "  - {name: guest, password: guest, permissions: [{vhost: /, configure: .*, write: .*, "
             f"read: .*}}, {{vhost: {OTHER_VHOST}, configure: .*, write: .*, read: .*}}]}}"]
    for name, (tags, permissions, topics) in USERS.items():
        lines += [f"  - name: {name}", f"    password: {PASSWORD}",
                  f"    tags: [{tags}]"]
        if permissions:
            c, w, r = (f"'{text}'" for text in permissions)
            lines += ["    permissions:",
                      f"      - {{vhost: /, configure: {c}, write: {w}, read: {r}}}"]
        lines += ["    topic_permissions:"] if topics else []
        lines += [f"      - {{vhost: /, exchange: {exchange}, write: '{write}', read: '{read}'}}"
                  for exchange, (write, read) in topics.items()]
    return "\n".join(lines) + "\n"


def make_users_in_rabbitmq(done=[]):
    if "RABBITMQCTL" not in os.environ:
        return False
    if done:
        return True

    def ctl(*arguments, may_fail=False):
        result = subprocess.run(shlex.split(os.environ["RABBITMQCTL"]) + ["-q", *arguments],
                                capture_output=True, text=True)
        if result.returncode and not may_fail:
            raise RuntimeError(f"rabbitmqctl {arguments}: {result.stderr}")

    ctl("add_vhost", OTHER_VHOST, may_fail=True)
    ctl("set_permissions", "-p", OTHER_VHOST, "guest", *ALL)
    for name, (tags, permissions, topics) in USERS.items():
        ctl("delete_user", name, may_fail=True)
        ctl("add_user", name, PASSWORD)
        if tags:
            ctl("set_user_tags", name, tags)
        if permissions:
            ctl("set_permissions", name, *permissions)
        for exchange, topic in topics.items():
            ctl("set_topic_permissions", name, exchange, *topic)
    done.append(True)
    return True


def with_users(function=None, **more):
    return scenario(function, config=config(), prepare=make_users_in_rabbitmq, **more)


def channel_of(s, user):
    return s.channel(user=user, password=PASSWORD)


def refused(kind, name, user):
    return f"access to {kind} '{name}' in vhost '/' refused for user '{user}'"


# --- The table ------------------------------------------------------------------------------------

# What there is: for each set of letters a queue and a direct exchange; "new" ones do not exist.
# A row: method, its fields, and who refuses: (queue or exchange, field or name), None for nobody,
# or another error. Field values are ("q", letters) queues, ("x", letters) exchanges, ("nq", letters)
# and ("nx", letters) what does not exist.
LETTERS = ["", "C", "W", "R", "CW", "CR", "WR", "CWR"]
Q, X, NQ, NX = ({letters: (kind, letters) for letters in LETTERS} for kind in ("q", "x", "nq", "nx"))
DLX, AE = "x-dead-letter-exchange", "alternate-exchange"
KINDS = {"q": "queue", "nq": "queue", "x": "exchange", "nx": "exchange"}
DEFAULT_EXCHANGE = (403, "operation not permitted on the default exchange")

ROWS = [
    # Declaring a queue needs configure, also one that is there; looking at one needs nothing.
    ("queue.declare", {"queue": NQ["WR"]}, NQ["WR"]),
    ("queue.declare", {"queue": NQ["C"]}, None),
    ("queue.declare", {"queue": Q["WR"]}, Q["WR"]),
    ("queue.declare", {"queue": Q["C"]}, None),
    ("queue.declare", {"queue": Q[""], "passive": True}, None),
    ("queue.declare", {"queue": NQ[""], "passive": True}, (404, "no queue '{queue}' in vhost '/'")),
    # With dead letters: read on the queue, and write on the exchange.
    ("queue.declare", {"queue": NQ["CW"], "arguments": {DLX: X["W"]}}, NQ["CW"]),
    ("queue.declare", {"queue": NQ["CR"], "arguments": {DLX: X["CR"]}}, X["CR"]),
    ("queue.declare", {"queue": NQ["CR"], "arguments": {DLX: NX[""]}}, NX[""]),
    ("queue.declare", {"queue": NQ["CR"], "arguments": {DLX: ""}}, ("exchange", "amq.default")),
    ("queue.declare", {"queue": NQ["CR"], "arguments": {DLX: X["W"]}}, None),
    ("queue.declare", {"queue": NQ["CR"], "arguments": {DLX: NX["W"]}}, None),
    ("queue.declare", {"queue": NQ["WR"], "arguments": {DLX: X[""]}}, NQ["WR"]),
    # The name comes before the permission.
    ("queue.declare", {"queue": "amq.mine"},
     (403, "queue name 'amq.mine' contains reserved prefix 'amq.*'")),
    # Deleting and purging.
    ("queue.delete", {"queue": Q["WR"]}, Q["WR"]),
    ("queue.delete", {"queue": Q["C"]}, None),
    ("queue.delete", {"queue": NQ["WR"]}, NQ["WR"]),
    ("queue.delete", {"queue": NQ["C"]}, None),
    ("queue.purge", {"queue": Q["CW"]}, Q["CW"]),
    ("queue.purge", {"queue": Q["R"]}, None),
    ("queue.purge", {"queue": NQ["CW"]}, NQ["CW"]),
    ("queue.purge", {"queue": NQ["R"]}, (404, "no queue '{queue}' in vhost '/'")),
    # Exchanges.
    ("exchange.declare", {"exchange": NX["WR"]}, NX["WR"]),
    ("exchange.declare", {"exchange": NX["C"]}, None),
    ("exchange.declare", {"exchange": X["WR"]}, X["WR"]),
    ("exchange.declare", {"exchange": X["C"]}, None),
    ("exchange.declare", {"exchange": X["C"], "arguments": {AE: X[""]}},
     (406, "inequivalent arg 'alternate-exchange' for exchange '{exchange}' in vhost '/': received "
           "the value '{arguments}' of type 'longstr' but current is none")),
    ("exchange.declare", {"exchange": X[""], "passive": True}, None),
    ("exchange.declare", {"exchange": NX[""], "passive": True},
     (404, "no exchange '{exchange}' in vhost '/'")),
    ("exchange.declare", {"exchange": NX["CW"], "arguments": {AE: X["W"]}}, NX["CW"]),
    ("exchange.declare", {"exchange": NX["CR"], "arguments": {AE: X["CR"]}}, X["CR"]),
    ("exchange.declare", {"exchange": NX["CR"], "arguments": {AE: NX["CR"]}}, NX["CR"]),
    ("exchange.declare", {"exchange": NX["CR"], "arguments": {AE: X["W"]}}, None),
    ("exchange.declare", {"exchange": NX["WR"], "arguments": {AE: X[""]}}, NX["WR"]),
    ("exchange.declare", {"exchange": "amq.mine"}, ("exchange", "amq.mine")),
    ("exchange.declare", {"exchange": "amq.direct", "durable": True}, ("exchange", "amq.direct")),
    ("exchange.delete", {"exchange": X["WR"]}, X["WR"]),
    ("exchange.delete", {"exchange": X["C"]}, None),
    ("exchange.delete", {"exchange": NX["WR"]}, NX["WR"]),
    ("exchange.delete", {"exchange": NX["C"]}, None),
    # Binding: write on what is bound, read on what it is bound to; unbinding the same.
    ("queue.bind", {"queue": Q["CR"], "exchange": X["R"]}, Q["CR"]),
    ("queue.bind", {"queue": Q["W"], "exchange": X["CW"]}, X["CW"]),
    ("queue.bind", {"queue": Q["W"], "exchange": X["R"]}, None),
    ("queue.bind", {"queue": Q["CR"], "exchange": X["CW"]}, Q["CR"]),
    ("queue.bind", {"queue": NQ["CR"], "exchange": X["R"]}, NQ["CR"]),
    ("queue.bind", {"queue": NQ["W"], "exchange": X["CW"]}, X["CW"]),
    ("queue.bind", {"queue": NQ["W"], "exchange": X["R"]}, (404, "no queue '{queue}' in vhost '/'")),
    ("queue.bind", {"queue": Q["W"], "exchange": NX["CW"]}, NX["CW"]),
    ("queue.bind", {"queue": Q["W"], "exchange": NX["R"]},
     (404, "no exchange '{exchange}' in vhost '/'")),
    ("queue.bind", {"queue": Q["W"], "exchange": ""}, DEFAULT_EXCHANGE),
    ("queue.bind", {"queue": Q["CR"], "exchange": ""}, Q["CR"]),
    ("queue.unbind", {"queue": Q["CR"], "exchange": X["R"]}, Q["CR"]),
    ("queue.unbind", {"queue": Q["W"], "exchange": X["CW"]}, X["CW"]),
    ("queue.unbind", {"queue": Q["W"], "exchange": X["R"]}, None),
    ("exchange.bind", {"destination": X["CR"], "source": X["R"]}, X["CR"]),
    ("exchange.bind", {"destination": X["W"], "source": X["CW"]}, X["CW"]),
    ("exchange.bind", {"destination": X["W"], "source": X["R"]}, None),
    ("exchange.bind", {"destination": "", "source": X["R"]}, ("exchange", "amq.default")),
    ("exchange.bind", {"destination": X["W"], "source": ""}, DEFAULT_EXCHANGE),
    ("exchange.unbind", {"destination": X["CR"], "source": X["R"]}, X["CR"]),
    ("exchange.unbind", {"destination": X["W"], "source": X["CW"]}, X["CW"]),
    ("exchange.unbind", {"destination": X["W"], "source": X["R"]}, None),
    # Publishing needs write, before anything else is looked at.
    ("basic.publish", {"exchange": X["CR"]}, X["CR"]),
    ("basic.publish", {"exchange": X["W"]}, None),
    ("basic.publish", {"exchange": ""}, ("exchange", "amq.default")),
    ("basic.publish", {"exchange": NX["CR"]}, NX["CR"]),
    ("basic.publish", {"exchange": NX["W"]}, (404, "no exchange '{exchange}' in vhost '/'")),
    ("basic.publish", {"exchange": X["CR"], "expiration": "x"}, X["CR"]),
    # Getting and consuming need read.
    ("basic.get", {"queue": Q["CW"]}, Q["CW"]),
    ("basic.get", {"queue": Q["R"]}, None),
    ("basic.get", {"queue": NQ["CW"]}, NQ["CW"]),
    ("basic.consume", {"queue": Q["CW"]}, Q["CW"]),
    ("basic.consume", {"queue": Q["R"]}, None),
    ("basic.consume", {"queue": NQ["CW"]}, NQ["CW"]),
    # Replies come to who asked, whatever he may do.
    ("basic.consume", {"queue": "amq.rabbitmq.reply-to", "no_ack": True}, None),
]


def describe(value):
    if isinstance(value, dict):
        return "_".join(f"{key}_{describe(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return f"{value[0]}_{value[1] or 'none'}"
    return str(value) or "default"


def is_place(value):
    return isinstance(value, tuple) and value[0] in KINDS


class Things:
    """Names of the queues and exchanges that a row speaks of; those that are there are declared."""

    def __init__(self, s):
        self.s, self.admin, self.names = s, s.channel(), {}

    def name(self, value):
        if isinstance(value, dict):
            return {key: self.name(item) for key, item in value.items()}
        if not is_place(value):
            return value
        if value not in self.names:
            kind, letters = value
            make = self.s.queue_name if kind in ("q", "nq") else self.s.exchange_name
            self.names[value] = make(f"{kind}-{letters}-")
            if kind == "q":
                self.admin.declare(self.names[value])
            elif kind == "x":
                self.admin.declare_exchange(self.names[value])
        return self.names[value]


def act(channel, method, fields):
    """Does it, and waits until the broker has."""
    if method == "basic.publish":
        channel.publish("key", **fields)
        channel.sync()
    elif method == "basic.get":
        channel.get(**fields)
    else:
        more = {"type": "direct"} if method == "exchange.declare" else {}
        channel.call(method, **{**more, **fields})


def row(method, fields, refusal):
    def run(s):
        things, channel = Things(s), channel_of(s, "limited")
        actual = {name: things.name(value) for name, value in fields.items()}
        if refusal is None:
            act(channel, method, actual)
            return
        code = 403
        if is_place(refusal):
            text = refused(KINDS[refusal[0]], things.name(refusal), "limited")
        elif refusal[0] in KINDS.values():
            text = refused(*refusal, "limited")
        else:
            code, text = refusal
            shown = {key: next(iter(value.values())) if isinstance(value, dict) else value
                     for key, value in actual.items()}
            text = text.format(**shown)
        try:
            act(channel, method, actual)
        except ChannelClosed as end:
            check_equal("code", end.method.reply_code, code)
            check_equal("text", end.method.reply_text.split(" - ", 1)[1], text)
            check_equal("method", (end.method.class_id, end.method.method_id), ids_of(method))
            return
        raise Failure(f"it is permitted, wanted {code} {text}")
    return run


def ids_of(method):
    return wire.METHODS[method][:2]


for entry in ROWS:
    name = f"{entry[0].replace('.', '_')}_with_{describe(entry[1])}_is_" + (
        "permitted" if entry[2] is None else "refused")
    add("access_" + "".join(c if c.isalnum() else "_" for c in name).lower(), row(*entry),
        config=config(), prepare=make_users_in_rabbitmq)


# --- Beside the table -----------------------------------------------------------------------------

@with_users
def a_name_made_by_the_broker_needs_configure(s):
    name = channel_of(s, "anchored").declare("", exclusive=True).queue
    if not name.startswith("amq.gen-"):
        raise Failure(f"the queue is called {name}")
    channel = channel_of(s, "topical")  # may do everything
    channel.declare("", exclusive=True)


@with_users
def a_name_made_by_the_broker_may_be_refused(s):
    channel = channel_of(s, "limited")  # needs a C, which a random name may have
    for _ in range(20):
        try:
            channel.declare("", exclusive=True)
        except ChannelClosed as end:
            text = end.method.reply_text
            if not text.startswith("ACCESS_REFUSED - access to queue 'amq.gen-"):
                raise Failure(text) from None
            if "C" in text.split("'")[1]:
                raise Failure(f"the name has a C: {text}") from None
            return
    raise Failure("20 names had a C each")


@with_users
def the_empty_expression_is_the_empty_name(s):
    channel = channel_of(s, "anchored")
    name = channel.declare("", exclusive=True).queue
    channel.refuses("basic.get", 403, refused("queue", name, "anchored"), queue=name)


@with_users
def a_refusal_while_a_transaction_is_open_comes_at_the_publish(s):
    things, channel = Things(s), channel_of(s, "limited")
    name = things.name(X["CR"])
    channel.call("tx.select")
    channel.publish("key", exchange=name)
    channel.refused(403, refused("exchange", name, "limited"), by="basic.publish")


@with_users
def replies_need_write_on_the_default_exchange(s):
    asker, answerer = channel_of(s, "everything"), channel_of(s, "limited")
    asker.consume("amq.rabbitmq.reply-to", no_ack=True)
    queue = s.queue(asker)
    asker.publish(queue, "question", reply_to="amq.rabbitmq.reply-to")
    reply_to = asker.got(queue, "question").properties["reply_to"]
    if isinstance(reply_to, bytes):
        reply_to = reply_to.decode()
    answerer.publish(reply_to, "answer")
    answerer.refused(403, refused("exchange", "amq.default", "limited"), by="basic.publish")


@with_users
def a_dead_letter_needs_no_permission_when_it_dies(s):
    things, channel = Things(s), channel_of(s, "limited")
    exchange = things.name(X["W"])
    dead = s.queue(things.admin)
    things.admin.bind(dead, exchange, "key")
    queue = things.name(NQ["CR"])
    channel.declare(queue, arguments={DLX: exchange, "x-dead-letter-routing-key": "key"})
    things.admin.publish(queue, "dies")
    things.admin.sync()
    channel.say("basic.get", queue=queue, no_ack=False)
    channel.reject(channel.expect("basic.get-ok").delivery_tag, requeue=False)
    while things.admin.get(dead) is None:
        things.admin.try_again("the dead letter did not come")


def topic_refused(key, exchange="amq.topic"):
    return (f"access to topic '{key}' in exchange '{exchange}' in vhost '/' refused for user "
            "'topical'")


@with_users
def a_topic_permission_decides_about_keys_that_are_published(s):
    channel = channel_of(s, "topical")
    for _ in range(2):  # the second time from what is remembered
        channel.publish("topical.a.x", exchange="amq.topic")
        channel.sync()
    channel.publish("topicalxa", exchange="amq.topic")
    channel.refused(403, topic_refused("topicalxa"), by="basic.publish")


@with_users
def a_queue_that_is_deleted_meanwhile_is_not_declared_with_less_permissions(s):
    """What a new queue needs was asked only if there was none before; here it comes and goes."""
    name, owner = s.queue_name("CR"), s.channel()
    connection = s.connect(user="limited", password=PASSWORD)
    end = time.monotonic() + TIME_LIMIT / 6  # RabbitMQ takes a minute for all
    for _ in range(500):
        if time.monotonic() > end:
            break
        for _ in range(20):
            owner.say("queue.declare", queue=name, no_wait=True)
            owner.say("queue.delete", queue=name, no_wait=True)
        channel = connection.channel()
        try:
            channel.call("queue.declare", queue=name, arguments={DLX: "amq.fanout"})
        except ChannelClosed as refusal:
            if refusal.method.reply_code not in (403, 406):
                raise
        else:
            raise Failure("it has dead letters to where its user may not write")
    owner.sync()


@with_users(not_rabbitmq="3.10 looks at the routing key only; at those of CC and BCC since 3.13")
def a_topic_permission_decides_about_all_keys_of_a_message(s):
    for header in ("CC", "BCC"):
        channel = channel_of(s, "topical")
        queue = s.queue(channel)
        channel.bind(queue, "amq.topic", "b.#")
        channel.publish("topical.a.x", exchange="amq.topic", headers={header: ["topical.a.y"]})
        channel.publish("topical.a.x", exchange="amq.topic",
                        headers={header: ["topical.a.y", "b.secret"]})
        channel.refused(403, topic_refused("b.secret"), by="basic.publish")


@with_users
def a_topic_permission_decides_about_keys_that_are_bound(s):
    channel = channel_of(s, "topical")
    queue = s.queue(channel)
    channel.bind(queue, "amq.topic", "b.#")
    channel.refuses("queue.bind", 403, topic_refused("#"), queue=queue, exchange="amq.topic",
                    routing_key="#")
    channel = channel_of(s, "topical")
    channel.refuses("queue.unbind", 403, topic_refused("c"), queue=queue, exchange="amq.topic",
                    routing_key="c")
    channel = channel_of(s, "topical")
    channel.refuses("exchange.bind", 403, topic_refused("c"), destination="amq.fanout",
                    source="amq.topic", routing_key="c")


@with_users
def a_topic_permission_is_for_topic_exchanges_only(s):
    channel = channel_of(s, "topical")
    queue = s.queue(channel)
    channel.bind(queue, "amq.direct", "any")
    channel.publish("any", "here", exchange="amq.direct")
    channel.sync()
    channel.got(queue, "here")


@with_users
def a_topic_exchange_without_a_topic_permission_takes_all_keys(s):
    channel = channel_of(s, "topical")
    exchange = s.exchange(channel, "topic")
    channel.publish("any.key", exchange=exchange)
    channel.sync()


@with_users
def an_impersonator_may_set_the_user_id_of_others(s):
    channel = channel_of(s, "impersonator")
    queue = s.queue(channel)
    channel.publish(queue, "x", user_id="somebody")
    channel.sync()
    other = channel_of(s, "everything")
    other.publish(queue, "x", user_id="somebody")
    other.refused(406, "user_id property set to 'somebody' but authenticated user was 'everything'",
                  by="basic.publish")


# --- Vhosts ---------------------------------------------------------------------------------------

@with_users
def a_vhost_without_permissions_cannot_be_entered(s):
    for vhost, user in [(OTHER_VHOST, "limited"), ("/", "nowhere")]:
        connection = s.socket().handshake(user=user, password=PASSWORD, until="tune")
        connection.say("connection.tune-ok", channel_max=10, frame_max=131072,
                       heartbeat=0)
        connection.say("connection.open", virtual_host=vhost)
        connection.refused(530, f"access to vhost '{vhost}' refused for user '{user}'",
                           by="connection.open")


@with_users
def what_is_in_one_vhost_is_not_in_another(s):
    here = s.channel()
    queue = s.queue(here, durable=True)
    there = s.channel(vhost=OTHER_VHOST)
    there.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '{OTHER_VHOST}'", queue=queue,
                  passive=True)
    there = s.channel(vhost=OTHER_VHOST)
    there.declare(queue, durable=True)
    there.publish(queue, "there")
    there.sync()
    check_equal("messages", here.counts(queue)[0], 0)
    there.got(queue, "there")
    there.call("queue.delete", queue=queue)


# --- Users and the data directory -----------------------------------------------------------------

@scenario(restarts=True)
def guest_and_the_vhosts_are_there_after_a_restart(s):
    s.channel().sync()
    for kill in (False, True):
        s.restart(kill)
        s.channel().sync()


@scenario(config="users: [{name: u, password: p, permissions: [{vhost: /, configure: .*, write: .*, "
                 "read: .*}]}]\nvhosts: [/v]\n")
def users_of_the_file_leave_nothing_behind(s):
    connection = s.socket().handshake(until="start")
    connection.refused(403, LOGIN_REFUSED, by="")  # no guest, since there is another
    s.channel(user="u", password="p").sync()
    s.stop()
    s.whippetd.command = s.whippetd.command[:s.whippetd.command.index("--config")]
    s.address = s.whippetd.start()
    connection = s.socket().handshake(user="u", password="p", until="start")
    connection.refused(403, LOGIN_REFUSED, by="")
    s.channel().sync()  # now it is the first start with nobody else
    connection = s.socket().handshake(until="tune")
    connection.say("connection.tune-ok", channel_max=10, frame_max=131072, heartbeat=0)
    connection.say("connection.open", virtual_host="/v")  # is still there, and guest is not let in
    connection.refused(530, "access to vhost '/v' refused for user 'guest'", by="connection.open")


# --- Reading the file again -----------------------------------------------------------------------

ONE = ("users: [{{name: u, password: p, permissions: [{{vhost: /, configure: .*, write: {write}, "
       "read: .*}}]}}{more}]\n")


def read_again(s, config):
    """The broker is told to read this as its configuration, which it finds whole at any time."""
    path = s.whippetd.command[s.whippetd.command.index("--config") + 1]
    with open(path + ".new", "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(config)
    os.replace(path + ".new", path)
    s.whippetd.process.send_signal(signal.SIGHUP)


def until(condition, what):
    end = time.monotonic() + TIME_LIMIT / 2
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"in vain waited for: {what}")
        time.sleep(0.01)


def may_log_in(s, user, password="p"):
    connection = s.socket().handshake(user=user, password=password, until="start")
    try:
        connection.expect("connection.tune")
        return True
    except (Failure, ConnectionClosed):
        return False
    finally:
        connection.drop()


@scenario(config=ONE.format(write=".*", more=""))
def permissions_change_under_open_channels(s):
    channel = s.channel(user="u", password="p")
    queue = s.queue(channel)
    channel.publish(queue, "one")
    channel.got(queue, "one")
    read_again(s, ONE.format(write="^$", more=""))

    def is_refused():
        other = s.channel(user="u", password="p")
        try:
            other.publish(queue, "two")
            other.sync()
            return False
        except ChannelClosed:
            return True
    until(is_refused, "the permission to go")
    channel.publish(queue, "three")  # what the channel remembers is of no use any more
    channel.refused(403, refused("exchange", "amq.default", "u"), by="basic.publish")
    s.queues.clear()


@scenario(config=ONE.format(write=".*", more=", {name: v, password: p}"))
def who_is_taken_from_the_file_is_disconnected(s):
    gone = s.connect(user="u", password="p")
    read_again(s, ONE.format(write=".*", more="").replace("name: u", "name: w"))
    gone.refused(320, "user 'u' is deleted", by="")
    s.channel(user="w", password="p").sync()
    if may_log_in(s, "v"):
        raise Failure("v may still log in")


@scenario(config=ONE.format(write=".*", more=""))
def a_file_with_an_error_changes_no_user(s):
    connection = s.connect(user="u", password="p")
    read_again(s, "users: [{name: x}]\n")
    read_again(s, "users: nonsense\n")
    until(lambda: may_log_in(s, "u"), "u to log in")
    connection.channel().sync()
    if may_log_in(s, "x"):
        raise Failure("x may log in")


@scenario(config=ONE.format(write=".*", more=""))
def a_password_changes_for_who_comes_and_not_for_who_is_there(s):
    connection = s.connect(user="u", password="p")
    read_again(s, ONE.format(write=".*", more="").replace("password: p", "password: new"))
    until(lambda: may_log_in(s, "u", "new"), "the new password")
    if may_log_in(s, "u", "p"):
        raise Failure("the old password is still good")
    connection.channel().sync()


@scenario(config=ONE.format(write=".*", more="") + "vhosts: [a]\n")
def a_vhost_is_made_when_the_file_names_it(s):
    def both(vhosts):
        return ("users: [{name: u, password: p, permissions: [{vhost: b, configure: .*, write: .*, "
                f"read: .*}}, {{vhost: /, configure: .*, write: .*, read: .*}}]}}]\nvhosts: {vhosts}\n")
    read_again(s, both("[a, b]"))

    def is_there():
        try:
            s.connect(user="u", password="p", vhost="b").close()
            return True
        except (Failure, ConnectionClosed):
            return False
    until(is_there, "the vhost")
    read_again(s, both("[]"))
    until(lambda: may_log_in(s, "u"), "u")
    if not is_there():
        raise Failure("the vhost has gone with the file's line")
