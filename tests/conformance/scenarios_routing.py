"""Which queues a message reaches: direct, fanout, topic and headers exchanges."""
import re

from amqp_wire import Typed
from client import check_equal
from harness import add, scenario


def bodies(channel, queue):
    """All that waits in the queue, as text."""
    found = []
    while True:
        message = channel.get(queue)
        if message is None:
            return found
        found.append(message.body.decode())


def publish_all(channel, exchange, keys):
    """Publish the keys as bodies, and wait until every one is in its queues."""
    channel.select()
    for key in keys:
        channel.publish_confirmed(key, key, exchange=exchange)


@scenario
def a_direct_exchange_compares_the_whole_key(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "a.b")
    publish_all(channel, exchange, ["a.b", "a", "a.*", "a.b.c", "A.B", "", "a.b "])
    check_equal("messages", bodies(channel, queue), ["a.b"])


@scenario
def a_direct_exchange_reaches_every_queue_of_a_key(s):
    channel = s.channel()
    exchange, one, two = s.exchange(channel), s.queue(channel), s.queue(channel)
    channel.bind(one, exchange, "k")
    channel.bind(two, exchange, "k")
    publish_all(channel, exchange, ["k"])
    check_equal("messages", bodies(channel, one) + bodies(channel, two), ["k", "k"])


@scenario
def an_empty_key_is_a_key(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "")
    publish_all(channel, exchange, ["", "x"])
    check_equal("messages", bodies(channel, queue), [""])


@scenario
def a_fanout_exchange_ignores_keys(s):
    channel = s.channel()
    exchange, one, two = s.exchange(channel, "fanout"), s.queue(channel), s.queue(channel)
    channel.bind(one, exchange, "a")
    channel.bind(two, exchange, "b")
    publish_all(channel, exchange, ["a", "c", ""])
    for queue in (one, two):
        check_equal("messages", bodies(channel, queue), ["a", "c", ""])


@scenario
def a_queue_bound_twice_to_a_fanout_gets_one_copy(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "fanout"), s.queue(channel)
    channel.bind(queue, exchange, "a")
    channel.bind(queue, exchange, "b")
    publish_all(channel, exchange, ["m"])
    check_equal("messages", bodies(channel, queue), ["m"])


@scenario
def the_default_exchange_reaches_the_queue_of_that_name(s):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    channel.publish(one, b"1")
    channel.publish(two, b"2")
    channel.holds(one, 1)
    channel.holds(two, 1)
    channel.got(one, b"1", exchange="", routing_key=one)
    channel.got(two, b"2")


# topic: binding key, keys that match, keys that do not. An empty key has no words.
TOPICS = [
    ("a.b", ["a.b"], ["a", "a.b.c", "b.a", "a.", ".a.b", ""]),
    ("*", ["a", "abc", "#"], ["a.b", ".", ""]),
    ("*.b", ["a.b", "x.b", ".b"], ["b", "a.x.b", "a.b.c"]),
    ("a.*", ["a.b", "a."], ["a", "a.b.c"]),
    ("*.*", ["a.b", ".", "a."], ["a", "a.b.c", ""]),
    ("#", ["", "a", "a.b", ".", "..."], []),
    ("a.#", ["a", "a.b", "a.b.c", "a."], ["b", "b.a", "", "ab"]),
    ("#.a", ["a", "b.a", "c.b.a", ".a"], ["a.b", "", "ba"]),
    ("a.#.b", ["a.b", "a.x.b", "a.x.y.b", "a.b.b"], ["a", "b", "a.b.c", "x.a.b"]),
    ("#.a.#", ["a", "a.b", "b.a", "x.a.y", "x.y.a"], ["b", "", "x.y"]),
    ("*.#", ["a", "a.b", "a.b.c"], [""]),
    ("#.*", ["a", "a.b", "a.b.c"], [""]),
    ("a.*.#", ["a.b", "a.b.c"], ["a", "b.a"]),
    ("#.#", ["", "a", "a.b"], []),
    ("*.a.#", ["x.a", "x.a.y", "x.a.y.z"], ["a", "a.x", "x.y.a"]),
    ("a*", ["a*"], ["ab", "a", "a.b"]),
    ("a#b", ["a#b"], ["a.x.b", "ab"]),
    ("a..b", ["a..b"], ["a.b", "a.x.b"]),
    ("", [""], ["a"]),
]


def topic(binding_key, matching, other):
    def run(s):
        channel = s.channel()
        exchange, queue = s.exchange(channel, "topic"), s.queue(channel)
        channel.bind(queue, exchange, binding_key)
        publish_all(channel, exchange, matching + other)
        check_equal(f"keys that match {binding_key!r}", bodies(channel, queue), matching)
    return run


def spelled(key):
    words = {"*": "star", "#": "hash", "": "nothing", "a*": "a_star_within_a_word",
             "a#b": "a_hash_within_a_word"}
    return "_dot_".join(words.get(word, word) for word in key.split("."))


for row in TOPICS:
    add(f"topic_{spelled(row[0])}_matches_as_specified", topic(*row))


@scenario
def a_queue_with_several_matching_topics_gets_one_copy(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "topic"), s.queue(channel)
    for key in ("a.*", "*.b", "#", "a.b"):
        channel.bind(queue, exchange, key)
    publish_all(channel, exchange, ["a.b"])
    check_equal("messages", bodies(channel, queue), ["a.b"])


@scenario
def unbinding_one_topic_leaves_those_that_overlap(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "topic"), s.queue(channel)
    channel.bind(queue, exchange, "a.#")
    channel.bind(queue, exchange, "a.*.c")
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="a.#")
    publish_all(channel, exchange, ["a.b", "a.b.c"])
    check_equal("messages", bodies(channel, queue), ["a.b.c"])


@scenario
def topic_keys_of_many_words_match(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "topic"), s.queue(channel)
    channel.bind(queue, exchange, "#." + ".".join("*" * 50) + ".z")
    key = ".".join("w" * 80) + ".z"
    publish_all(channel, exchange, [key, ".".join("w" * 20) + ".z"])
    check_equal("messages", bodies(channel, queue), [key])


# headers: binding arguments, headers that match, headers that do not
AB = {"a": 1, "b": "two"}
HEADERS = {
    "all_is_the_default": (AB, [AB, {**AB, "c": 3}], [{"a": 1}, {"a": 1, "b": "x"}, {}, None]),
    "all_wants_every_header": ({"x-match": "all", **AB}, [AB, {**AB, "c": 3}], [{"b": "two"}, {}]),
    "any_wants_one_header": ({"x-match": "any", **AB}, [AB, {"a": 1}, {"b": "two", "c": 1}],
                             [{"a": 2, "b": "x"}, {}, None, {"c": 1}]),
    "all_of_nothing_matches_everything": ({"x-match": "all"}, [{}, {"a": 1}, None], []),
    "any_of_nothing_matches_nothing": ({"x-match": "any"}, [], [{}, {"a": 1}, None]),
    "a_void_value_asks_only_for_presence": ({"a": None}, [{"a": 5}, {"a": "x"}, {"a": None}],
                                            [{"b": 1}, {}]),
    "x_headers_do_not_count": ({"x-match": "all", "x-a": 1, "b": 2}, [{"b": 2}, {"b": 2, "x-a": 9}],
                               [{"x-a": 1}]),
    "x_headers_do_not_count_for_any": ({"x-match": "any", "x-a": 1, "b": 2}, [{"b": 2}],
                                       [{"x-a": 1}]),
    "all_with_x_counts_them": ({"x-match": "all-with-x", "x-a": 1, "b": 2}, [{"x-a": 1, "b": 2}],
                               [{"b": 2}, {"x-a": 1}]),
    "any_with_x_counts_them": ({"x-match": "any-with-x", "x-a": 1, "b": 2}, [{"x-a": 1}, {"b": 2}],
                               [{"x-a": 2}]),
    "text_is_not_a_number": ({"a": "1"}, [{"a": "1"}], [{"a": 1}, {"a": True}]),
    "a_bool_is_not_a_number": ({"a": True}, [{"a": True}], [{"a": 1}, {"a": False}, {"a": "true"}]),
    "names_are_compared_with_case": ({"Key": 1}, [{"Key": 1}], [{"key": 1}]),
    "arrays_and_tables_are_compared_whole": ({"a": [1, "x"], "t": {"k": 1}},
                                             [{"a": [1, "x"], "t": {"k": 1}}],
                                             [{"a": [1], "t": {"k": 1}}, {"a": [1, "x"], "t": {}}]),
    "in_arrays_and_tables_order_counts": (
        {"t": {"k": 1, "l": 2}}, [{"t": {"k": 1, "l": 2}}],
        [{"t": {"l": 2, "k": 1}}, {"t": {"k": 1}}, {"t": [1, 2]}]),
    "in_arrays_and_tables_types_count": (
        {"a": [Typed("I", 1)]}, [{"a": [Typed("I", 1)]}], [{"a": [Typed("l", 1)]}, {"a": {}}]),
    "doubles_are_compared": ({"a": 1.5}, [{"a": 1.5}], [{"a": 2.5}]),
    "times_are_compared": ({"a": Typed("T", 5)}, [{"a": Typed("T", 5)}], [{"a": Typed("T", 6)}]),
    "an_empty_text_is_a_value": ({"a": ""}, [{"a": ""}], [{"a": "x"}, {}]),
    "the_routing_key_does_not_count": ({"a": 1}, [{"a": 1}], [{"b": 1}]),
}


def headers(arguments, matching, other):
    def run(s):
        channel = s.channel()
        exchange, queue = s.exchange(channel, "headers"), s.queue(channel)
        channel.bind(queue, exchange, "some.key", arguments=arguments)
        channel.select()
        for number, table in enumerate(matching + other):
            properties = {} if table is None else {"headers": table}
            channel.publish_confirmed("other.key", f"{number}", exchange=exchange, **properties)
        check_equal("matching headers",
                    [(matching + other)[int(n)] for n in bodies(channel, queue)], matching)
    return run


for name, row in HEADERS.items():
    add(f"headers_{name}", headers(*row))


@scenario
def headers_integers_of_every_width_are_equal(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "headers"), s.queue(channel)
    channel.bind(queue, exchange, arguments={"a": Typed("l", 5)})
    channel.select()
    for tag in "bBsuIil":
        channel.publish_confirmed("", tag, exchange=exchange, headers={"a": Typed(tag, 5)})
    check_equal("widths", bodies(channel, queue), list("bBsuIil"))


@scenario
def headers_bindings_with_other_arguments_are_different_bindings(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "headers"), s.queue(channel)
    channel.bind(queue, exchange, arguments={"a": 1})
    channel.bind(queue, exchange, arguments={"a": 2})
    channel.call("queue.unbind", queue=queue, exchange=exchange, arguments={"a": 1})
    channel.select()
    for value in (1, 2):
        channel.publish_confirmed("", f"{value}", exchange=exchange, headers={"a": value})
    check_equal("messages", bodies(channel, queue), ["2"])


@scenario
def headers_of_a_queue_bound_twice_deliver_once(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, "headers"), s.queue(channel)
    channel.bind(queue, exchange, arguments={"a": 1})
    channel.bind(queue, exchange, arguments={"b": 1})
    channel.select()
    channel.publish_confirmed("", "m", exchange=exchange, headers={"a": 1, "b": 1})
    check_equal("messages", bodies(channel, queue), ["m"])


for value, text in [("ALL", "value"), ("", "value"), (1, "type signedint"), (None, "type void"),
                    (True, "type bool")]:
    def bad_match(s, value=value, text=text):
        channel = s.channel()
        wanted = re.compile(f"PRECONDITION_FAILED - Invalid x-match field {text}.*; expected")
        channel.refuses("queue.bind", 406, wanted, queue=s.queue(channel), exchange="amq.headers",
                        arguments={"x-match": value})
    word = {"": "empty", "ALL": "in_capitals"}.get(value, type(value).__name__.lower())
    add(f"x_match_must_not_be_{word}", bad_match)
