"""exchange.declare, delete, bind and unbind; alternate, internal and auto-delete exchanges."""
import re

from harness import add, scenario

DEFAULT = "operation not permitted on the default exchange"


def arrives(channel, exchange, routing_key, *queues):
    """A message published there is in all these queues, and in each once."""
    channel.publish(routing_key, b"m", exchange=exchange)
    for queue in queues:
        channel.holds(queue, 1)


for name, type in [("amq.direct", "direct"), ("amq.fanout", "fanout"), ("amq.topic", "topic"),
                   ("amq.headers", "headers"), ("amq.match", "headers"),
                   ("amq.rabbitmq.trace", "topic")]:
    def exists(s, name=name, type=type):
        s.channel().declare_exchange(name, type, durable=True,
                                     internal=name == "amq.rabbitmq.trace")
    add(f"{name.replace('.', '_')}_is_there_as_a_durable_{type}_exchange", exists)


for type in ("direct", "fanout", "topic", "headers"):
    def declares(s, type=type):
        channel = s.channel()
        name = s.exchange(channel, type, durable=True)
        channel.declare_exchange(name, type, durable=True)
        channel.declare_exchange(name, "", passive=True)
    add(f"a_{type}_exchange_can_be_declared_again_and_looked_for", declares)


def differs(argument, first, second, text):
    def run(s):
        channel, name = s.channel(), s.exchange_name()
        channel.call("exchange.declare", exchange=name, **{"type": "direct", **first})
        channel.refuses("exchange.declare", 406,
                        f"inequivalent arg '{argument}' for exchange '{name}' in vhost '/': {text}",
                        exchange=name, **{"type": "direct", **second})
    return run


NOW_TRUE = "received 'true' but current is 'false'"
AE = "alternate-exchange"
for name, row in {
    "another_exchange_type_is_inequivalent":
        ("type", {}, {"type": "topic"}, "received 'topic' but current is 'direct'"),
    "an_exchange_cannot_become_durable": ("durable", {}, {"durable": True}, NOW_TRUE),
    "an_exchange_cannot_become_auto_delete": ("auto_delete", {}, {"auto_delete": True}, NOW_TRUE),
    "an_exchange_cannot_become_internal": ("internal", {}, {"internal": True}, NOW_TRUE),
    "an_exchange_cannot_cease_to_be_durable":
        ("durable", {"durable": True}, {}, "received 'false' but current is 'true'"),
    "another_alternate_exchange_is_inequivalent":
        (AE, {"arguments": {AE: "a"}}, {"arguments": {AE: "b"}}, "received 'b' but current is 'a'"),
    "an_alternate_exchange_cannot_be_added_later":
        (AE, {}, {"arguments": {AE: "a"}},
         "received the value 'a' of type 'longstr' but current is none"),
    "an_alternate_exchange_cannot_be_left_out_later":
        (AE, {"arguments": {AE: "a"}}, {},
         "received none but current is the value 'a' of type 'longstr'"),
}.items():
    add(name, differs(*row))


@scenario
def other_exchange_arguments_are_not_compared(s):
    channel, name = s.channel(), s.exchange_name()
    channel.declare_exchange(name, arguments={"color": "blue"})
    channel.declare_exchange(name, arguments={"color": "red"})


@scenario
def a_passive_declare_of_a_missing_exchange_is_404(s):
    name = s.exchange_name()
    s.channel().refuses("exchange.declare", 404, f"no exchange '{name}' in vhost '/'",
                        exchange=name, type="direct", passive=True)


@scenario
def a_passive_declare_does_not_look_at_the_exchange_type(s):
    s.channel().call("exchange.declare", exchange="amq.direct", type="nonsense", passive=True)


@scenario
def an_unknown_exchange_type_is_refused(s):
    channel = s.channel()
    channel.say("exchange.declare", exchange=s.exchange_name(), type="x-nonsense")
    channel.connection.refused(503, "unknown exchange type 'x-nonsense'", by="exchange.declare")


@scenario
def an_exchange_needs_a_type(s):
    channel = s.channel()
    channel.say("exchange.declare", exchange=s.exchange_name(), type="")
    channel.connection.refused(503, re.compile("(invalid|unknown) exchange type ''"),
                               by="exchange.declare")


@scenario
def a_reserved_exchange_name_is_refused(s):
    s.channel().refuses("exchange.declare", 403,
                        "exchange name 'amq.mine' contains reserved prefix 'amq.*'",
                        exchange="amq.mine", type="direct")


@scenario
def a_system_exchange_may_be_declared_as_it_is(s):
    s.channel().declare_exchange("amq.direct", "direct", durable=True)


@scenario
def a_system_exchange_declared_otherwise_is_inequivalent(s):
    s.channel().refuses("exchange.declare", 406,
                        "inequivalent arg 'durable' for exchange 'amq.direct' in vhost "
                        "'/': received 'false' but current is 'true'", exchange="amq.direct",
                        type="direct")


@scenario
def an_alternate_exchange_must_be_text(s):
    name = s.exchange_name()
    s.channel().refuses("exchange.declare", 406,
                        "invalid type 'signedint' for arg 'alternate-exchange' in exchange "
                        f"'{name}' in vhost '/'", exchange=name, type="direct",
                        arguments={"alternate-exchange": 1})


for method, fields in [("exchange.declare", {"exchange": "", "type": "direct"}),
                       ("exchange.delete", {"exchange": ""}),
                       ("exchange.bind", {"destination": "", "source": "amq.direct"}),
                       ("exchange.bind", {"destination": "amq.direct", "source": ""}),
                       ("exchange.unbind", {"destination": "", "source": "amq.direct"}),
                       ("exchange.unbind", {"destination": "amq.direct", "source": ""})]:
    def untouchable(s, method=method, fields=fields):
        s.channel().refuses(method, 403, DEFAULT, **fields)
    side = "_as_" + next(k for k, v in fields.items() if v == "") if "source" in fields else ""
    add(f"the_default_exchange_takes_no_{method.split('.')[1]}{side}", untouchable)


@scenario
def a_passive_declare_of_the_default_exchange_is_refused_too(s):
    s.channel().refuses("exchange.declare", 403, DEFAULT, exchange="", type="direct", passive=True)


@scenario
def a_system_exchange_cannot_be_deleted(s):
    s.channel().refuses("exchange.delete", 403,
                        "deletion of system exchange 'amq.direct' in vhost '/' not allowed",
                        exchange="amq.direct")


@scenario
def deleting_a_missing_exchange_is_no_error(s):
    s.channel().call("exchange.delete", exchange=s.exchange_name())


@scenario
def a_deleted_exchange_is_gone(s):
    channel = s.channel()
    name = s.exchange(channel)
    channel.call("exchange.delete", exchange=name)
    channel.publish("k", b"m", exchange=name)
    channel.refused(404, f"no exchange '{name}' in vhost '/'", by="basic.publish")


@scenario
def if_unused_keeps_an_exchange_with_bindings(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "k")
    channel.refuses("exchange.delete", 406, f"exchange '{exchange}' in vhost '/' in use",
                    exchange=exchange, if_unused=True)


@scenario
def if_unused_deletes_an_exchange_without_bindings(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "k")
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="k")
    channel.call("exchange.delete", exchange=exchange, if_unused=True)
    channel.refuses("exchange.declare", 404, f"no exchange '{exchange}' in vhost '/'",
                    exchange=exchange, passive=True)


@scenario
def being_a_destination_does_not_make_an_exchange_used(s):
    channel = s.channel()
    source, destination = s.exchange(channel), s.exchange(channel)
    channel.call("exchange.bind", destination=destination, source=source, routing_key="k")
    channel.call("exchange.delete", exchange=destination, if_unused=True)


@scenario
def line_breaks_are_taken_out_of_an_exchanges_name(s):
    channel, name = s.channel(), s.exchange_name()
    channel.declare_exchange(name[:4] + "\n" + name[4:])
    channel.declare_exchange(name, passive=True)


@scenario
def line_breaks_are_taken_out_where_exchanges_are_bound_and_unbound(s):
    def broken(name):
        return "\n" + name[:4] + "\r" + name[4:]

    channel = s.channel()
    source, destination = s.exchange(channel, "fanout"), s.exchange(channel, "fanout")
    queue = s.queue(channel)
    channel.bind(queue, destination)
    channel.call("exchange.bind", destination=broken(destination), source=broken(source))
    arrives(channel, source, "", queue)
    channel.got(queue, b"m")
    channel.call("exchange.unbind", destination=broken(destination), source=broken(source))
    channel.publish("", b"m", exchange=source)
    channel.holds(queue, 0)


@scenario
def a_type_that_is_not_known_comes_before_the_default_exchange(s):
    connection = s.connect()
    connection.channel().say("exchange.declare", exchange="", type="conformance-none")
    connection.refused(503, "unknown exchange type 'conformance-none'", by="exchange.declare")


def is_another_alternate(given, received, current="'a'"):
    def run(s):
        channel, name = s.channel(), s.exchange_name()
        channel.declare_exchange(name, arguments={"alternate-exchange": "a"} if current else {})
        channel.refuses("exchange.declare", 406,
                        f"inequivalent arg 'alternate-exchange' for exchange '{name}' in vhost "
                        f"'/': received {received} but current is {current or 'none'}",
                        exchange=name, type="direct", arguments={"alternate-exchange": given})
    return run


add("another_alternate_exchange_is_told_with_both", is_another_alternate("b", "'b'"))
add("an_alternate_exchange_that_is_a_number_is_told", is_another_alternate(5, "'5'"))
add("an_alternate_exchange_that_is_a_bool_is_told", is_another_alternate(True, "'true'"))
add("a_void_alternate_exchange_is_none", is_another_alternate(None, "none"))
add("a_void_alternate_exchange_where_there_is_none_is_told",
    is_another_alternate(None, "the value 'undefined' of type 'void'", None))


@scenario
def an_exchange_may_be_bound_to_another(s):
    channel = s.channel()
    source, destination = s.exchange(channel), s.exchange(channel, "fanout")
    queue = s.queue(channel)
    channel.bind(queue, destination)
    channel.call("exchange.bind", destination=destination, source=source, routing_key="k")
    channel.publish("other", b"m", exchange=source)
    arrives(channel, source, "k", queue)


@scenario
def the_key_stays_through_exchange_bindings(s):
    channel = s.channel()
    source, destination = s.exchange(channel, "topic"), s.exchange(channel, "topic")
    queue = s.queue(channel)
    channel.bind(queue, destination, "a.*.c")
    channel.call("exchange.bind", destination=destination, source=source, routing_key="a.#")
    channel.publish("a.x.d", b"no", exchange=source)
    channel.publish("a.b.c", b"yes", exchange=source)
    channel.holds(queue, 1)
    channel.got(queue, b"yes", exchange=source, routing_key="a.b.c")


@scenario
def a_cycle_of_exchange_bindings_delivers_once(s):
    channel = s.channel()
    one, two = s.exchange(channel, "fanout"), s.exchange(channel, "fanout")
    queue = s.queue(channel)
    channel.bind(queue, one)
    channel.bind(queue, two)
    channel.call("exchange.bind", destination=two, source=one)
    channel.call("exchange.bind", destination=one, source=two)
    channel.call("exchange.bind", destination=one, source=one)
    channel.select()
    channel.publish_confirmed("", b"m", exchange=one)
    channel.holds(queue, 1)


@scenario
def an_exchange_binding_can_be_taken_away(s):
    channel = s.channel()
    source, destination = s.exchange(channel), s.exchange(channel, "fanout")
    queue = s.queue(channel)
    channel.bind(queue, destination)
    channel.call("exchange.bind", destination=destination, source=source, routing_key="k")
    channel.call("exchange.unbind", destination=destination, source=source, routing_key="k")
    channel.select()
    channel.publish_confirmed("k", b"m", exchange=source)
    channel.holds(queue, 0)


@scenario
def a_deleted_destination_is_unbound(s):
    channel = s.channel()
    source, destination = s.exchange(channel), s.exchange(channel)
    channel.call("exchange.bind", destination=destination, source=source, routing_key="k")
    channel.call("exchange.delete", exchange=destination)
    channel.publish("k", b"m", exchange=source, mandatory=True)
    channel.expect("basic.return", reply_code=312)
    channel.call("exchange.delete", exchange=source, if_unused=True)


@scenario
def the_same_exchange_binding_twice_is_one(s):
    channel = s.channel()
    source, destination = s.exchange(channel), s.exchange(channel, "fanout")
    queue = s.queue(channel)
    channel.bind(queue, destination)
    for _ in range(2):
        channel.call("exchange.bind", destination=destination, source=source, routing_key="k")
    channel.call("exchange.unbind", destination=destination, source=source, routing_key="k")
    channel.publish("k", b"m", exchange=source, mandatory=True)
    channel.expect("basic.return", reply_code=312)


@scenario
def headers_route_from_exchange_to_exchange(s):
    channel = s.channel()
    source, destination = s.exchange(channel, "headers"), s.exchange(channel, "fanout")
    queue = s.queue(channel)
    channel.bind(queue, destination)
    channel.call("exchange.bind", destination=destination, source=source, arguments={"a": 1})
    channel.publish("", b"no", exchange=source, headers={"a": 2})
    channel.publish("", b"yes", exchange=source, headers={"a": 1})
    channel.holds(queue, 1)
    channel.got(queue, b"yes")


@scenario
def unbinding_exchanges_that_are_not_bound_is_no_error(s):
    s.channel().call("exchange.unbind", destination="amq.direct", source="amq.fanout",
                     routing_key="never")


@scenario
def unbinding_missing_exchanges_is_no_error(s):
    s.channel().call("exchange.unbind", destination=s.exchange_name(), source="amq.fanout")


for side in ("destination", "source"):
    def missing(s, side=side):
        name = s.exchange_name()
        fields = {"destination": "amq.direct", "source": "amq.direct", side: name}
        s.channel().refuses("exchange.bind", 404, f"no exchange '{name}' in vhost '/'", **fields)
    add(f"binding_with_a_missing_{side}_is_404", missing)


@scenario
def of_two_missing_ends_the_source_is_named(s):
    source, destination = s.exchange_name(), s.exchange_name()
    text = f"no exchange '{source}' in vhost '/'"
    s.channel().refuses("exchange.bind", 404, text, source=source, destination=destination)
    s.channel().refuses("queue.bind", 404, text, exchange=source, queue=s.queue_name())


@scenario
def errors_of_no_wait_methods_close_the_channel_all_the_same(s):
    for method, code, text, fields in [
            ("exchange.declare", 403, "exchange name 'amq.q' contains reserved prefix 'amq.*'",
             {"exchange": "amq.q", "type": "direct"}),
            ("exchange.delete", 403,
             "deletion of system exchange 'amq.direct' in vhost '/' not allowed",
             {"exchange": "amq.direct"}),
            ("exchange.bind", 404, "no exchange 'amq.none' in vhost '/'",
             {"destination": "amq.direct", "source": "amq.none"}),
            ("exchange.unbind", 403, DEFAULT, {"destination": "", "source": "amq.direct"}),
            ("queue.bind", 404, "no queue 'amq.none' in vhost '/'",
             {"queue": "amq.none", "exchange": "amq.direct"}),
            ("queue.purge", 404, "no queue 'amq.none' in vhost '/'", {"queue": "amq.none"}),
            ("queue.delete", 404, "no previously declared queue", {"queue": ""}),
            ("basic.consume", 404, "no queue 'amq.none' in vhost '/'", {"queue": "amq.none"})]:
        s.channel().refuses(method, code, text, no_wait=True, **fields)


@scenario
def an_exchange_that_exists_with_another_unknown_type_is_a_matter_of_the_type(s):
    channel = s.channel()
    name = s.exchange(channel)
    channel.say("exchange.declare", exchange=name, type="x-nonsense")
    channel.connection.refused(503, "unknown exchange type 'x-nonsense'", by="exchange.declare")


@scenario
def no_wait_exchange_methods_are_not_answered(s):
    channel, one, two = s.channel(), s.exchange_name(), s.exchange_name()
    for name in (one, two):
        channel.say("exchange.declare", exchange=name, type="fanout", no_wait=True)
    channel.say("exchange.bind", destination=two, source=one, no_wait=True)
    queue = s.queue(channel)
    channel.bind(queue, two)
    arrives(channel, one, "", queue)
    channel.say("exchange.unbind", destination=two, source=one, no_wait=True)
    channel.say("exchange.delete", exchange=two, no_wait=True)
    channel.silent()
    channel.refuses("exchange.declare", 404, f"no exchange '{two}' in vhost '/'", exchange=two,
                    passive=True)


@scenario
def publishing_to_an_internal_exchange_is_refused(s):
    channel = s.channel()
    name = s.exchange(channel, internal=True)
    channel.publish("k", b"m", exchange=name)
    channel.refused(403, f"cannot publish to internal exchange '{name}' in vhost '/'",
                    by="basic.publish")


@scenario
def an_internal_exchange_passes_on_what_others_send_it(s):
    channel = s.channel()
    outer, inner = s.exchange(channel), s.exchange(channel, "fanout", internal=True)
    queue = s.queue(channel)
    channel.call("exchange.bind", destination=inner, source=outer, routing_key="k")
    channel.bind(queue, inner)
    arrives(channel, outer, "k", queue)


@scenario
def an_auto_delete_exchange_goes_with_its_last_binding(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, auto_delete=True), s.queue(channel)
    channel.bind(queue, exchange, "a")
    channel.bind(queue, exchange, "b")
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="a")
    channel.declare_exchange(exchange, passive=True)
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="b")
    channel.refuses("exchange.declare", 404, f"no exchange '{exchange}' in vhost '/'",
                    exchange=exchange, passive=True)


@scenario
def an_auto_delete_exchange_goes_with_its_last_queue(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel, auto_delete=True), s.queue(channel)
    channel.bind(queue, exchange, "a")
    channel.call("queue.delete", queue=queue)
    channel.refuses("exchange.declare", 404, f"no exchange '{exchange}' in vhost '/'",
                    exchange=exchange, passive=True)


@scenario
def an_auto_delete_exchange_that_was_never_bound_stays(s):
    channel = s.channel()
    exchange = s.exchange(channel, auto_delete=True)
    channel.close()
    s.channel().declare_exchange(exchange, passive=True)


@scenario
def a_chain_of_auto_delete_exchanges_goes_together(s):
    channel = s.channel()
    first, second = s.exchange(channel, auto_delete=True), s.exchange(channel, auto_delete=True)
    queue = s.queue(channel)
    channel.call("exchange.bind", destination=second, source=first, routing_key="k")
    channel.bind(queue, second, "k")
    channel.call("queue.delete", queue=queue)
    channel.refuses("exchange.declare", 404, f"no exchange '{first}' in vhost '/'", exchange=first,
                    passive=True)


@scenario
def an_alternate_exchange_takes_what_is_not_routed(s):
    channel = s.channel()
    alternate, queue = s.exchange(channel, "fanout"), s.queue(channel)
    exchange = s.exchange(channel, arguments={"alternate-exchange": alternate})
    channel.bind(queue, alternate)
    channel.publish("lost", b"m", exchange=exchange)
    channel.holds(queue, 1)
    channel.got(queue, b"m", exchange=exchange, routing_key="lost")


@scenario
def an_alternate_exchange_gets_nothing_that_is_routed(s):
    channel = s.channel()
    alternate, queue, other = s.exchange(channel, "fanout"), s.queue(channel), s.queue(channel)
    exchange = s.exchange(channel, arguments={"alternate-exchange": alternate})
    channel.bind(other, alternate)
    channel.bind(queue, exchange, "k")
    arrives(channel, exchange, "k", queue)
    channel.holds(other, 0)


@scenario
def alternate_exchanges_form_a_chain(s):
    channel = s.channel()
    last, queue = s.exchange(channel, "fanout"), s.queue(channel)
    middle = s.exchange(channel, arguments={"alternate-exchange": last})
    first = s.exchange(channel, arguments={"alternate-exchange": middle})
    channel.bind(queue, last)
    arrives(channel, first, "k", queue)


@scenario
def a_cycle_of_alternate_exchanges_ends(s):
    channel, one, two = s.channel(), s.exchange_name(), s.exchange_name()
    channel.declare_exchange(one, arguments={"alternate-exchange": two})
    channel.declare_exchange(two, arguments={"alternate-exchange": one})
    channel.publish("k", b"m", exchange=one, mandatory=True)
    channel.expect("basic.return", reply_code=312, reply_text="NO_ROUTE")


@scenario
def what_the_alternate_exchange_routes_is_not_returned(s):
    channel = s.channel()
    alternate, queue = s.exchange(channel, "fanout"), s.queue(channel)
    exchange = s.exchange(channel, arguments={"alternate-exchange": alternate})
    channel.bind(queue, alternate)
    channel.publish("lost", b"m", exchange=exchange, mandatory=True)
    channel.holds(queue, 1)
    channel.silent()


@scenario
def a_missing_alternate_exchange_loses_the_message(s):
    channel = s.channel()
    exchange = s.exchange(channel, arguments={"alternate-exchange": "amq.not.there"})
    channel.publish("lost", b"m", exchange=exchange, mandatory=True)
    channel.expect("basic.return", reply_code=312)
