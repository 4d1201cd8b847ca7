"""queue.declare, bind, unbind, purge and delete; exclusive, auto-delete and server-named queues."""
import re

from client import check_equal
from harness import add, scenario

LOCKED = ("cannot obtain exclusive access to locked queue '{}' in vhost '/'. It could be "
          "originally declared on another connection or the exclusive property value does not "
          "match that of the original declaration.")


@scenario
def declaring_a_queue_answers_its_name_and_no_messages(s):
    channel, name = s.channel(), s.queue_name()
    answer = channel.declare(name)
    check_equal("answer", (answer.queue, answer.message_count, answer.consumer_count), (name, 0, 0))


@scenario
def declaring_twice_the_same_is_no_error(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True, arguments={"x-max-length": 10})
    channel.declare(queue, durable=True, arguments={"x-max-length": 10})


@scenario
def declare_ok_counts_ready_messages_and_consumers(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    channel.got(queue, b"a", no_ack=False)
    answer = channel.declare(queue)
    check_equal("answer", (answer.message_count, answer.consumer_count), (2, 0))
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue)
    channel.delivered(b"b")
    answer = channel.declare(queue)
    check_equal("answer", (answer.message_count, answer.consumer_count), (1, 1))


@scenario
def a_passive_declare_looks_only_at_the_name(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.declare(queue, passive=True, durable=False, auto_delete=True,
                    arguments={"x-max-length": 3})


@scenario
def a_passive_declare_without_a_name_is_404(s):
    channel = s.channel()
    s.queue(channel)
    channel.refuses("queue.declare", 404, "no queue '' in vhost '/'", queue="", passive=True)


@scenario
def a_passive_declare_of_a_missing_queue_is_404(s):
    channel, name = s.channel(), s.queue_name()
    channel.refuses("queue.declare", 404, f"no queue '{name}' in vhost '/'", queue=name,
                    passive=True)


@scenario
def a_queue_without_a_name_is_given_one(s):
    name = s.channel().declare("", exclusive=True).queue
    check_equal("name", name, re.compile(r"^amq\.gen-[A-Za-z0-9_-]{22}$"))


@scenario
def errors_name_the_queue_that_would_have_been_made(s):
    s.channel().refuses(
        "queue.declare", 406,
        re.compile("^PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue "
                   r"'amq\.gen-[A-Za-z0-9_-]{22}' in vhost '/': "),
        queue="", arguments={"x-dead-letter-routing-key": "a"})


@scenario
def server_given_names_differ(s):
    channel = s.channel()
    names = {channel.declare("", exclusive=True).queue for _ in range(20)}
    check_equal("different names", len(names), 20)


@scenario
def an_empty_queue_name_means_the_channels_last_declared_queue(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.call("queue.bind", queue="", exchange=exchange, routing_key="k")
    channel.publish("k", b"one", exchange=exchange)
    channel.got("", b"one")
    channel.consume("")
    channel.publish(queue, b"two")
    channel.delivered(b"two")
    channel.call("queue.purge", queue="")
    channel.call("queue.unbind", queue="", exchange=exchange, routing_key="k")
    channel.call("queue.delete", queue="")
    channel.expect("basic.cancel")
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


@scenario
def an_empty_binding_key_with_an_empty_queue_name_is_the_queues_name(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.call("queue.bind", queue="", exchange=exchange, routing_key="")
    channel.publish(queue, b"m", exchange=exchange)
    channel.holds(queue, 1)


def no_last_queue(method, **fields):
    def run(s):
        s.channel().refuses(method, 404, "no previously declared queue", **fields)
    run.__name__ = method.replace(".", "_") + "_without_a_queue_needs_one_declared_before"
    return run


for method, fields in [("queue.bind", {"exchange": "amq.direct", "routing_key": "k"}),
                       ("queue.purge", {}), ("queue.delete", {}), ("basic.consume", {}),
                       ("basic.get", {}), ("queue.unbind", {"exchange": "amq.direct"})]:
    scenario(no_last_queue(method, **fields))


@scenario
def the_last_declared_queue_is_each_channels_own(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    s.queue(first)
    second.refuses("queue.purge", 404, "no previously declared queue")


@scenario
def a_reserved_queue_name_is_refused(s):
    s.channel().refuses("queue.declare", 403,
                        "queue name 'amq.mine' contains reserved prefix 'amq.*'", queue="amq.mine")


@scenario
def a_passive_declare_of_a_reserved_name_is_just_not_found(s):
    s.channel().refuses("queue.declare", 404, "no queue 'amq.mine' in vhost '/'", queue="amq.mine",
                        passive=True)


@scenario
def line_breaks_are_taken_out_of_a_queues_name(s):
    channel, name = s.channel(), s.queue_name()
    check_equal("name", channel.declare(name[:5] + "\r\n" + name[5:]).queue, name)
    channel.counts(name)


def broken(name):
    return name[:5] + "\r" + name[5:] + "\n"


# Where line breaks are taken out of names, and where not: as RabbitMQ does.
@scenario
def line_breaks_are_taken_out_where_a_queue_is_bound_and_unbound(s):
    channel = s.channel()
    queue, exchange = s.queue(channel), s.exchange(channel, "fanout")
    channel.bind(broken(queue), broken(exchange))
    channel.publish("", b"bound", exchange=exchange)
    channel.got(queue, b"bound")
    channel.call("queue.unbind", queue=broken(queue), exchange=broken(exchange))
    channel.publish("", b"not bound", exchange=exchange)
    channel.holds(queue, 0)


@scenario
def line_breaks_are_taken_out_where_a_queue_is_deleted(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("queue.delete", queue=broken(queue))
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


def stays_as_it_is(method):
    def run(s):
        channel = s.channel()
        name = broken(s.queue(channel))
        channel.refuses(method, 404, f"no queue '{name}' in vhost '/'", queue=name)
    return run


for _method in ("queue.purge", "basic.consume", "basic.get"):
    add(f"{_method.replace('.', '_')}_takes_a_name_with_its_line_breaks", stays_as_it_is(_method))


@scenario
def a_queue_name_may_be_255_octets_of_utf_8(s):
    channel = s.channel()
    name = s.queue_name() + "ä" * 50
    name += "x" * (255 - len(name.encode()))
    s.queues.append(name)
    channel.declare(name)
    channel.publish(name, b"m")
    channel.got(name, b"m", routing_key=name)


@scenario
def purge_removes_ready_messages_and_says_how_many(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abcd")
    channel.holds(queue, 4)
    channel.got(queue, b"a", no_ack=False)
    check_equal("purged", channel.call("queue.purge", queue=queue).message_count, 3)
    channel.holds(queue, 0)
    channel.reject(1)
    channel.holds(queue, 1)


@scenario
def purging_a_missing_queue_is_404(s):
    name = s.queue_name()
    s.channel().refuses("queue.purge", 404, f"no queue '{name}' in vhost '/'", queue=name)


@scenario
def delete_says_how_many_messages_went_with_the_queue(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    check_equal("deleted", channel.call("queue.delete", queue=queue).message_count, 3)


@scenario
def unacked_messages_do_not_count_in_the_answer_to_delete(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    channel.got(queue, b"a", no_ack=False)
    check_equal("deleted", channel.call("queue.delete", queue=queue).message_count, 2)


@scenario
def deleting_a_missing_queue_is_no_error(s):
    check_equal("deleted", s.channel().call("queue.delete", queue=s.queue_name()).message_count, 0)


@scenario
def a_deleted_queue_is_gone_with_its_bindings(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "k")
    channel.call("queue.delete", queue=queue)
    channel.declare(queue)
    channel.select()
    channel.publish_confirmed("k", b"m", exchange=exchange)
    channel.holds(queue, 0)


@scenario
def if_unused_keeps_a_queue_with_a_consumer(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.consume(queue)
    channel.refuses("queue.delete", 406, f"queue '{queue}' in vhost '/' in use", queue=queue,
                    if_unused=True)


@scenario
def if_empty_keeps_a_queue_with_messages(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "m")
    channel.holds(queue, 1)
    channel.refuses("queue.delete", 406, f"queue '{queue}' in vhost '/' not empty", queue=queue,
                    if_empty=True)


@scenario
def if_unused_and_if_empty_delete_an_idle_queue(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("queue.delete", queue=queue, if_unused=True, if_empty=True)
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


@scenario
def binding_a_missing_queue_is_404(s):
    name = s.queue_name()
    s.channel().refuses("queue.bind", 404, f"no queue '{name}' in vhost '/'", queue=name,
                        exchange="amq.direct")


@scenario
def binding_to_a_missing_exchange_is_404(s):
    channel, name = s.channel(), s.exchange_name()
    queue = s.queue(channel)
    channel.refuses("queue.bind", 404, f"no exchange '{name}' in vhost '/'", queue=queue,
                    exchange=name)


@scenario
def binding_to_the_default_exchange_is_refused(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("queue.bind", 403, "operation not permitted on the default exchange",
                    queue=queue, exchange="", routing_key="k")


@scenario
def unbinding_from_the_default_exchange_is_refused(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("queue.unbind", 403, "operation not permitted on the default exchange",
                    queue=queue, exchange="", routing_key=queue)


@scenario
def binding_twice_delivers_once_and_unbinds_once(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "k")
    channel.bind(queue, exchange, "k")
    channel.select()
    channel.publish_confirmed("k", b"m", exchange=exchange)
    channel.holds(queue, 1)
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="k")
    channel.publish_confirmed("k", b"m", exchange=exchange)
    channel.holds(queue, 1)


@scenario
def arguments_are_part_of_a_bindings_identity(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.bind(queue, exchange, "k", arguments={"one": 1})
    channel.bind(queue, exchange, "k", arguments={"two": 2})
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="k",
                 arguments={"one": 1})
    channel.publish("k", b"m", exchange=exchange)
    channel.holds(queue, 1)


@scenario
def unbinding_what_is_not_bound_is_no_error(s):
    channel = s.channel()
    exchange, queue = s.exchange(channel), s.queue(channel)
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="never")


@scenario
def unbinding_a_missing_queue_is_no_error(s):
    s.channel().call("queue.unbind", queue=s.queue_name(), exchange="amq.direct", routing_key="k")


@scenario
def unbinding_from_a_missing_exchange_is_no_error(s):
    channel = s.channel()
    channel.call("queue.unbind", queue=s.queue(channel), exchange=s.exchange_name(),
                 routing_key="k")


@scenario
def an_exclusive_queue_is_usable_on_every_channel_of_its_connection(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first, exclusive=True)
    second.declare(queue, exclusive=True)
    second.publish(queue, b"m")
    second.got(queue, b"m")


def locked(method, **fields):
    def run(s):
        queue = s.queue(s.channel(), exclusive=True)
        s.channel().refuses(method, 405, LOCKED.format(queue), queue=queue, **fields)
    run.__name__ = "_".join(["an_exclusive_queue_is_locked_for_others", method.replace(".", "_"),
                             *fields])
    return run


for method, fields in [("queue.declare", {}), ("queue.declare", {"passive": True}),
                       ("queue.declare", {"exclusive": True}),
                       ("queue.bind", {"exchange": "amq.direct"}), ("queue.purge", {}),
                       ("queue.delete", {}), ("basic.consume", {}), ("basic.get", {})]:
    scenario(locked(method, **fields))


@scenario
def others_cannot_unbind_an_exclusive_queue(s):
    owner = s.channel()
    queue = s.queue(owner, exclusive=True)
    owner.bind(queue, "amq.direct", queue)
    s.channel().refuses("queue.unbind", 405, LOCKED.format(queue), queue=queue,
                        exchange="amq.direct", routing_key=queue)


@scenario
def others_may_publish_to_an_exclusive_queue(s):
    owner = s.channel()
    queue = s.queue(owner, exclusive=True)
    owner.consume(queue)
    s.channel().publish(queue, b"hello")
    owner.delivered(b"hello")


@scenario
def an_exclusive_queue_cannot_be_redeclared_as_shared_by_its_owner(s):
    channel = s.channel()
    queue = s.queue(channel, exclusive=True)
    channel.refuses("queue.declare", 405, LOCKED.format(queue), queue=queue)


@scenario
def a_shared_queue_cannot_be_redeclared_as_exclusive(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("queue.declare", 405, LOCKED.format(queue), queue=queue, exclusive=True)


@scenario
def durable_means_nothing_for_an_exclusive_queue(s):
    channel = s.channel()
    queue = s.queue(channel, exclusive=True, durable=True)
    channel.declare(queue, exclusive=True, durable=False)
    channel.declare(queue, exclusive=True, durable=True)


@scenario
def an_exclusive_queue_is_gone_when_close_ok_arrives(s):
    owner, other = s.channel(), s.channel()
    queue = s.queue(owner, exclusive=True)
    owner.connection.close()
    other.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                  passive=True)


@scenario
def a_client_that_comes_back_can_declare_its_exclusive_queue_again(s):
    name = s.queue_name()
    for _ in range(10):
        connection = s.connect()
        connection.channel().declare(name, exclusive=True, auto_delete=True)
        connection.close()


@scenario
def an_exclusive_queue_outlives_the_channel_that_declared_it(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first, exclusive=True)
    first.close()
    second.counts(queue)


@scenario
def an_exclusive_queue_of_a_lost_connection_is_deleted(s):
    owner, watcher = s.channel(), s.channel()
    queue = s.queue(owner, exclusive=True)
    exchange = s.exchange(watcher, "fanout")
    owner.bind(queue, exchange)
    owner.connection.drop()
    # the mandatory message comes back once the queue is gone
    while True:
        watcher.publish("", b"m", exchange=exchange, mandatory=True)
        watcher.sync()
        if watcher.connection.inbox(watcher.number):
            watcher.expect("basic.return", reply_code=312)
            return


@scenario
def an_auto_delete_queue_goes_with_its_last_consumer(s):
    channel = s.channel()
    queue = s.queue(channel, auto_delete=True)
    first, second = channel.consume(queue), channel.consume(queue)
    channel.call("basic.cancel", consumer_tag=first)
    channel.counts(queue)
    channel.call("basic.cancel", consumer_tag=second)
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


@scenario
def an_auto_delete_queue_goes_with_its_last_consumers_channel(s):
    connection = s.connect()
    channel, consumer = connection.channel(), connection.channel()
    queue = s.queue(channel, auto_delete=True)
    consumer.consume(queue)
    consumer.close()
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


@scenario
def an_auto_delete_queue_that_never_had_a_consumer_stays(s):
    channel = s.channel()
    queue = s.queue(channel, auto_delete=True)
    channel.get(queue)
    channel.close()
    s.channel().counts(queue)


@scenario
def no_wait_declare_bind_purge_unbind_delete_are_not_answered(s):
    channel, queue, exchange = s.channel(), s.queue_name(), s.exchange_name()
    channel.say("exchange.declare", exchange=exchange, type="direct", no_wait=True)
    channel.say("queue.declare", queue=queue, no_wait=True)
    channel.say("queue.bind", queue=queue, exchange=exchange, routing_key="k", no_wait=True)
    channel.publish("k", b"m", exchange=exchange)
    channel.holds(queue, 1)
    channel.say("queue.purge", queue=queue, no_wait=True)
    channel.holds(queue, 0)
    channel.say("queue.delete", queue=queue, no_wait=True)
    channel.say("exchange.delete", exchange=exchange, no_wait=True)
    channel.silent()
    channel.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                    passive=True)


@scenario
def an_error_of_a_no_wait_declare_still_closes_the_channel(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.refuses("queue.declare", 406,
                    f"inequivalent arg 'durable' for queue '{queue}' in vhost '/': "
                    "received 'true' but current is 'false'", queue=queue, durable=True,
                    no_wait=True)


@scenario
def a_passive_declare_makes_the_queue_the_channels_last_declared(s):
    connection = s.connect()
    first, second = connection.channel(), connection.channel()
    queue = s.queue(first)
    second.counts(queue)
    second.call("queue.purge", queue="")


@scenario
def a_deleted_queue_stays_the_channels_last_declared(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("queue.delete", queue=queue)
    channel.refuses("queue.purge", 404, f"no queue '{queue}' in vhost '/'", queue="")


@scenario
def a_queue_in_use_and_not_empty_is_not_empty_first(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue)
    channel.publish_all(queue, "abc")
    channel.delivered("a")
    channel.holds(queue, 2)
    channel.refuses("queue.delete", 406, f"queue '{queue}' in vhost '/' not empty", queue=queue,
                    if_unused=True, if_empty=True)


@scenario
def a_queue_with_nothing_but_unacked_messages_is_empty(s):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish(queue, "m")
    channel.holds(queue, 1)
    channel.got(queue, "m", no_ack=False)
    check_equal("deleted", channel.call("queue.delete", queue=queue, if_empty=True).message_count,
                0)


@scenario
def a_transient_shared_queue_can_be_declared(s):
    channel = s.channel()
    s.queue(channel, durable=False, exclusive=False)
