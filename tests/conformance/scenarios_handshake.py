"""From the first octet to connection.open-ok, and the orderly end."""
import re
import time

import amqp_wire as wire
from client import ConnectionClosed, Failure, check_equal
from harness import add, scenario

CAPABILITIES = ["publisher_confirms", "exchange_exchange_bindings", "basic.nack",
                "consumer_cancel_notify", "connection.blocked", "consumer_priorities",
                "authentication_failure_close", "per_consumer_qos", "direct_reply_to"]
LOGIN_REFUSED = ("Login was refused using authentication mechanism {}. For details see the broker "
                 "logfile.")
TOO_HIGH = "negotiated {} = {} is higher than the maximum allowed value ({})"


@scenario
def the_broker_greets_with_version_0_9(s):
    start = s.socket().handshake(until="header").start
    check_equal("version", (start.version_major, start.version_minor), (0, 9))


@scenario
def plain_and_amqplain_are_offered(s):
    mechanisms = s.socket().handshake(until="header").start.mechanisms.split(" ")
    for name in ("PLAIN", "AMQPLAIN"):
        if name not in mechanisms:
            raise Failure(f"mechanisms are {mechanisms}")


@scenario
def the_locale_is_en_us(s):
    check_equal("locales", s.socket().handshake(until="header").start.locales, "en_US")


@scenario
def server_properties_name_product_and_version(s):
    properties = s.socket().handshake(until="header").start.server_properties
    for name in ("product", "version", "platform", "copyright", "information", "cluster_name"):
        if not isinstance(properties.get(name), str) or not properties[name]:
            raise Failure(f"server property {name} is {properties.get(name)!r}")


@scenario
def the_version_is_one_that_kombu_takes_for_per_consumer_qos(s):
    version = s.socket().handshake(until="header").start.server_properties["version"]
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if not found or tuple(map(int, found.groups())) < (3, 3, 0):
        raise Failure(f"version is {version!r}")


def announces(name):
    def run(s):
        properties = s.socket().handshake(until="header").start.server_properties
        check_equal(f"capability {name}", properties["capabilities"].get(name), True)
    return run


for capability in CAPABILITIES:
    add(f"capability_{capability.replace('.', '_')}_is_announced", announces(capability))


@scenario
def tune_offers_2047_channels_128_kib_frames_and_a_minute_of_heartbeat(s):
    tune = s.connect().tune
    check_equal("tune", (tune.channel_max, tune.frame_max, tune.heartbeat), (2047, 131072, 60))


def wrong_header(octets):
    def run(s):
        connection = s.socket()
        connection.send(octets)
        check_equal("answer", connection.read_exactly(8), wire.PROTOCOL_HEADER)
        connection.expect_end()
    return run


for what, octets in [("amqp_0_8", b"AMQP\x00\x00\x08\x00"), ("amqp_0_10", b"AMQP\x01\x01\x00\x0a"),
                     ("amqp_1_0", b"AMQP\x07\x01\x00\x00"),
                     ("http", b"GET / HTTP/1.1\r\n\r\n"),
                     ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
                     ("other_octets", b"rubbish!")]:
    add(f"an_opening_in_{what}_is_answered_with_our_header_and_closed", wrong_header(octets))


@scenario
def the_protocol_header_may_come_octet_by_octet(s):
    connection = s.socket()
    for octet in wire.PROTOCOL_HEADER:
        connection.send(bytes([octet]))
    connection.expect("connection.start")


@scenario
def plain_logs_in(s):
    s.connect(mechanism="PLAIN", response="\0guest\0guest").close()


@scenario
def amqplain_logs_in(s):
    table = wire.encode_table({"LOGIN": "guest", "PASSWORD": "guest"})[4:]
    s.connect(mechanism="AMQPLAIN", response=table).close()


@scenario
def a_wrong_password_is_refused_with_403(s):
    connection = s.connect(password="wrong", until="start")
    connection.refused(403, LOGIN_REFUSED.format("PLAIN"), by="")


@scenario
def an_unknown_user_is_refused_as_a_wrong_password_is(s):
    connection = s.connect(user="nobody", until="start")
    connection.refused(403, LOGIN_REFUSED.format("PLAIN"), by="")


@scenario
def a_wrong_amqplain_password_is_refused_by_that_name(s):
    table = wire.encode_table({"LOGIN": "guest", "PASSWORD": "wrong"})[4:]
    connection = s.connect(mechanism="AMQPLAIN", response=table, until="start")
    connection.refused(403, LOGIN_REFUSED.format("AMQPLAIN"), by="")


@scenario
def a_client_without_authentication_failure_close_just_loses_its_socket(s):
    connection = s.connect(password="wrong", capabilities={}, until="start")
    connection.expect_end()


@scenario
def an_unknown_mechanism_is_refused(s):
    connection = s.connect(mechanism="MAGIC", until="start")
    connection.refused(503, "unknown authentication mechanism 'MAGIC'", or_dropped=True)


@scenario
def a_plain_response_without_its_zeros_is_refused(s):
    s.connect(response="guest",
              until="start").refused(502, re.compile(r"SYNTAX_ERROR - response .*invalid"),
                                     or_dropped=True)


@scenario
def an_amqplain_response_without_password_is_refused(s):
    table = wire.encode_table({"LOGIN": "guest"})[4:]
    s.connect(mechanism="AMQPLAIN", response=table, until="start").refused(
        502, re.compile(r"SYNTAX_ERROR - AMQPLAIN auth info .*missing LOGIN or PASSWORD field"),
        or_dropped=True)


@scenario
def an_unknown_vhost_is_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=2047, frame_max=131072)
    connection.say("connection.open", virtual_host="nowhere")
    connection.refused(530, "vhost nowhere not found", by="connection.open")


@scenario
def a_vhost_without_a_name_is_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=2047, frame_max=131072)
    connection.say("connection.open", virtual_host="")
    connection.refused(530, "vhost  not found", by="connection.open")


@scenario
def any_locale_is_accepted(s):
    connection = s.connect(until="header")
    connection.say("connection.start-ok", mechanism="PLAIN", response="\0guest\0guest",
                   locale="de_DE")
    connection.expect("connection.tune")


@scenario
def a_client_need_not_tell_of_itself(s):
    s.connect(properties={}).channel().sync()


@scenario
def odd_client_properties_do_no_harm(s):
    s.connect(properties={"capabilities": 5, "product": [1], "connection_name": {}, "": None}
              ).channel().sync()


@scenario
def a_client_may_choose_a_longer_heartbeat_and_fewer_channels(s):
    s.connect(heartbeat=600, channel_max=1).channel(1).sync()


for method in ("connection.start-ok", "connection.tune-ok", "connection.open",
               "connection.close-ok"):
    def out_of_place(s, method=method):
        connection = s.connect()
        connection.say(method)
        connection.refused(504, "unexpected method in connection state running", by=method)
    add(f"a_{method.replace('.', '_').replace('-', '_')}_on_an_open_connection_is_refused",
        out_of_place)


@scenario
def more_channels_than_offered_are_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=2048, frame_max=131072)
    connection.refused(530, TOO_HIGH.format("channel_max", "2048", 2047),
                       by="connection.tune-ok", or_dropped=True)


@scenario
def no_limit_of_channels_is_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=0, frame_max=131072)
    connection.refused(530, TOO_HIGH.format("channel_max", "0 (no limit)", 2047),
                       by="connection.tune-ok", or_dropped=True)


@scenario
def a_larger_frame_than_offered_is_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=10, frame_max=131073)
    connection.refused(530, TOO_HIGH.format("frame_max", "131073", 131072),
                       by="connection.tune-ok", or_dropped=True)


@scenario
def no_limit_of_frame_size_is_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=10, frame_max=0)
    connection.refused(530, TOO_HIGH.format("frame_max", "0 (no limit)", 131072),
                       by="connection.tune-ok", or_dropped=True)


@scenario
def frames_below_4096_are_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=10, frame_max=4095)
    connection.refused(530, "negotiated frame_max = 4095 is lower than the minimum allowed value "
                       "(4096)",
                       by="connection.tune-ok", or_dropped=True)


@scenario
def frames_of_4096_are_accepted_and_kept(s):
    channel = s.channel(frame_max=4096)
    queue = s.queue(channel)
    channel.publish(queue, b"b" * 10000)
    channel.got(queue, b"b" * 10000)
    sizes = [size for kind, _, size in channel.connection.frames if kind == wire.FRAME_BODY]
    check_equal("body frames", sizes, [4088, 4088, 1824])


@scenario
def more_channels_than_negotiated_are_refused(s):
    connection = s.connect(channel_max=3)
    for number in (1, 2, 3):
        connection.channel(number)
    connection.say("channel.open", 4)
    connection.refused(530, re.compile(r"NOT_ALLOWED - number of channels opened \(\d\) has "
                                       r"reached the negotiated channel_max \(3\)"))


@scenario
def channel_numbers_may_have_gaps(s):
    connection = s.connect()
    for number in (2047, 5, 1000):
        connection.channel(number).sync()


@scenario
def open_before_tune_ok_is_refused(s):
    connection = s.connect(until="tune")
    connection.say("connection.open", virtual_host="/")
    connection.refused(503, re.compile("COMMAND_INVALID"), or_dropped=True)


@scenario
def a_queue_method_before_login_ends_the_connection(s):
    connection = s.connect(until="header")
    connection.say("queue.declare", queue="x")
    connection.refused(503, re.compile("."), or_dropped=True)


def channel_before_open(until):
    """Without a user and a vhost there is nothing that a channel could work with."""
    def run(s):
        connection = s.connect(until=until)
        connection.send(wire.method_frame(1, "channel.open")
                        + wire.method_frame(1, "queue.declare", queue=s.queue_name()))
        connection.refused(505, re.compile("UNEXPECTED_FRAME"), or_dropped=True)
        s.channel().sync()
    return run


for phase, until in ("login", "header"), ("tuning", "tune"):
    add(f"a_channel_opened_before_{phase}_ends_the_connection", channel_before_open(until))


@scenario
def a_channel_opened_before_the_vhost_ends_the_connection(s):
    connection = s.connect(until="tune")
    connection.say("connection.tune-ok", channel_max=10, frame_max=131072)
    connection.send(wire.method_frame(1, "channel.open")
                    + wire.method_frame(1, "queue.declare", queue=s.queue_name()))
    connection.refused(505, re.compile("UNEXPECTED_FRAME"), or_dropped=True)
    s.channel().sync()


@scenario
def close_is_answered_with_close_ok(s):
    connection = s.connect()
    connection.say("connection.close", reply_code=200, reply_text="bye")
    connection.expect("connection.close-ok")


@scenario
def what_comes_after_close_is_not_executed(s):
    connection = s.connect()
    channel = connection.channel()
    queue = s.queue_name()
    connection.send(wire.method_frame(0, "connection.close", reply_code=200)
                    + wire.method_frame(channel.number, "queue.declare", queue=queue))
    connection.expect("connection.close-ok")
    s.channel().refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                        passive=True)


@scenario
def update_secret_is_answered(s):
    connection = s.connect()
    connection.say("connection.update-secret", new_secret="guest", reason="it is time")
    connection.expect("connection.update-secret-ok")
    connection.channel().sync()


@scenario
def the_broker_sends_heartbeats_as_negotiated(s):
    connection = s.connect(heartbeat=1)
    while connection.heartbeats < 2:
        connection.pump()


KEPT = 3  # seconds of a heartbeat that is kept up, since the client may be held up by other work


@scenario
def no_heartbeat_is_sent_when_the_client_wants_none(s):
    connection = s.connect(heartbeat=0)
    other = s.connect(heartbeat=1)
    while other.heartbeats < 2:
        other.pump()
    connection.channel().sync()
    check_equal("heartbeats", connection.heartbeats, 0)


@scenario
def a_client_that_misses_its_heartbeats_loses_its_socket(s):
    connection = s.connect(heartbeat=1)
    since = time.monotonic()
    try:
        while True:
            connection.pump()
    except ConnectionClosed:
        pass
    if time.monotonic() - since < 1:
        raise Failure("closed before two heartbeats were missed")


@scenario
def a_client_that_sends_heartbeats_keeps_its_connection(s):
    connection, other = s.connect(heartbeat=KEPT), s.connect(heartbeat=KEPT)
    while other.heartbeats < 6:  # three intervals; two without a sign of life are too many
        other.pump()
        other.send(wire.HEARTBEAT)
        connection.send(wire.HEARTBEAT)
    connection.channel().sync()


@scenario
def any_method_counts_as_a_heartbeat(s):
    connection, clock = s.connect(heartbeat=KEPT), s.connect(heartbeat=KEPT)
    channel = connection.channel()
    while clock.heartbeats < 6:
        clock.pump()
        clock.send(wire.HEARTBEAT)
        channel.sync()


@scenario
def a_heartbeat_of_the_client_is_never_answered_with_an_error(s):
    connection = s.connect(heartbeat=0)
    connection.send(wire.HEARTBEAT * 3)
    connection.channel().sync()


@scenario
def a_protocol_header_of_0_9_is_taken_too(s):
    connection = s.socket()
    connection.send(b"AMQP\x01\x01\x00\x09")
    start = connection.expect("connection.start")
    check_equal("version", (start.version_major, start.version_minor), (0, 9))


@scenario
def a_smaller_frame_size_than_offered_holds_for_both_sides(s):
    channel = s.channel(frame_max=8192)
    octets = wire.frame(wire.FRAME_BODY, channel.number, b"x" * 8200)
    channel.connection.send(wire.method_frame(channel.number, "basic.publish", routing_key="k")
                            + wire.header_frame(channel.number, 8200) + octets)
    channel.connection.refused(501, re.compile(r"FRAME_ERROR - .*frame_too_large"))


@scenario
def a_longer_table_of_arguments_than_a_frame_before_tuning_is_refused(s):
    connection = s.connect(until="header")
    connection.say("connection.start-ok", client_properties={"long": "x" * 200000},
                   mechanism="PLAIN", response="\0guest\0guest", locale="en_US")
    connection.refused(501, re.compile(r"FRAME_ERROR - .*frame_too_large"), or_dropped=True)


@scenario
def a_new_secret_of_a_user_with_a_password_is_taken_whatever_it_is(s):
    connection = s.connect()
    connection.say("connection.update-secret", new_secret="wrong", reason="it is time")
    connection.expect("connection.update-secret-ok")
    connection.channel().sync()


# --- Channels before the connection is open -------------------------------------------------------

def make_early(step, name, fields):
    def early(s):
        """Nobody gets anything before he has logged in and may enter the vhost."""
        connection = s.socket().handshake(until=step)
        connection.send(wire.method_frame(1, "channel.open") + wire.method_frame(1, name, **fields))
        connection.refused(505, re.compile("UNEXPECTED_FRAME"), or_dropped=True)
        s.channel().sync()
    add(f"{name.replace('.', '_')}_before_the_connection_is_open_after_{step}", early)


for early_step in ("header", "start", "tune"):
    for early_name, early_fields in [
            ("queue.declare", {"queue": "early"}), ("exchange.declare", {"exchange": "early",
                                                                         "type": "fanout"}),
            ("basic.consume", {"queue": "amq.rabbitmq.reply-to", "no_ack": True}),
            ("tx.select", {})]:
        make_early(early_step, early_name, early_fields)
