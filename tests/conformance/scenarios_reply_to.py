"""Direct reply-to: answers that go to a channel without a queue."""
import re

from client import Failure, check_equal
from harness import add, scenario

REPLY_TO = "amq.rabbitmq.reply-to"


def asker(s):
    """-> a channel that listens for replies."""
    channel = s.channel()
    channel.consume(REPLY_TO, "replies", no_ack=True)
    return channel


def request(s, channel, server):
    """The server takes a request of this channel -> the address the reply goes to."""
    queue = s.queue(server)
    server.consume(queue, no_ack=True)
    channel.publish(queue, b"question", reply_to=REPLY_TO, correlation_id="7")
    message = server.expect("basic.deliver", body=b"question")
    check_equal("correlation id", message.properties["correlation_id"], "7")
    return message.properties["reply_to"]


@scenario
def a_reply_reaches_the_channel_that_asked(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    server.publish(address, b"answer", correlation_id="7")
    message = channel.expect("basic.deliver", consumer_tag="replies", delivery_tag=1,
                             redelivered=False, exchange="", routing_key=address, body=b"answer")
    check_equal("properties", message.properties, {"correlation_id": "7"})


@scenario
def a_reply_address_begins_with_the_pseudo_queues_name(s):
    check_equal("address", request(s, asker(s), s.channel()),
                re.compile(r"^amq\.rabbitmq\.reply-to\.\S+$"))


@scenario
def each_channel_has_an_address_of_its_own(s):
    server, connection = s.channel(), s.connect()
    channels = [connection.channel() for _ in range(2)]
    addresses = []
    for channel in channels:
        channel.consume(REPLY_TO, no_ack=True)
        addresses.append(request(s, channel, server))
    for n in (1, 0):
        server.publish(addresses[n], f"{n}")
    for n in (0, 1):
        channels[n].delivered(f"{n}")


@scenario
def many_replies_arrive_in_order(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    server.publish_all(address, [f"{n}" for n in range(200)])
    channel.delivered(*[f"{n}" for n in range(200)])


@scenario
def a_reply_address_can_be_asked_for(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    for passive in (True, False):
        answer = server.declare(address, passive=passive)
        check_equal("answer", (answer.queue, answer.message_count, answer.consumer_count),
                    (address, 0, 1))


@scenario
def the_address_of_a_closed_channel_is_not_found(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    channel.close()
    server.refuses("queue.declare", 404, f"no queue '{address}' in vhost '/'", queue=address,
                   passive=True)


@scenario
def a_reply_to_a_closed_channel_is_dropped(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    channel.connection.close()
    server.publish(address, b"answer")
    server.silent()


@scenario
def a_mandatory_reply_to_nobody_comes_back(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    channel.close()
    server.publish(address, b"answer", mandatory=True)
    server.expect("basic.return", reply_code=312, reply_text="NO_ROUTE", routing_key=address)


@scenario(not_rabbitmq="3.10 returns a mandatory reply although it arrives; 4.x does not")
def a_mandatory_reply_that_arrives_is_not_returned(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    server.publish(address, b"answer", mandatory=True)
    channel.delivered(b"answer")
    server.silent()


@scenario
def a_reply_is_confirmed(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    server.select()
    server.publish(address, b"answer")
    server.expect("basic.ack", delivery_tag=1)
    channel.delivered(b"answer")


@scenario
def cancelling_the_reply_consumer_ends_the_replies(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    channel.call("basic.cancel", consumer_tag="replies")
    server.publish(address, b"answer", mandatory=True)
    server.expect("basic.return", reply_code=312)
    channel.silent()


@scenario
def after_cancel_a_new_reply_consumer_may_come(s):
    channel, server = asker(s), s.channel()
    channel.call("basic.cancel", consumer_tag="replies")
    channel.consume(REPLY_TO, no_ack=True)
    server.publish(request(s, channel, server), b"answer")
    channel.delivered(b"answer")


@scenario
def a_reply_consumer_must_not_ack(s):
    s.channel().refuses("basic.consume", 406, "reply consumer cannot acknowledge", queue=REPLY_TO)


@scenario
def a_channel_has_one_reply_consumer(s):
    asker(s).refuses("basic.consume", 406, "reply consumer already set", queue=REPLY_TO,
                     no_ack=True)


@scenario
def asking_without_a_reply_consumer_is_refused(s):
    channel = s.channel()
    channel.publish("nowhere", b"question", reply_to=REPLY_TO)
    channel.refused(406, "fast reply consumer does not exist", by="basic.publish")


@scenario
def another_reply_to_is_left_alone(s):
    channel = asker(s)
    queue = s.queue(channel)
    channel.publish(queue, b"m", reply_to="my.own.queue")
    channel.holds(queue, 1)
    channel.got(queue, b"m", properties={"reply_to": "my.own.queue"})


@scenario
def the_pseudo_queue_can_be_declared(s):
    for passive in (True, False):
        answer = s.channel().declare(REPLY_TO, passive=passive)
        check_equal("answer", (answer.queue, answer.message_count, answer.consumer_count),
                    (REPLY_TO, 0, 1))


@scenario
def a_reply_through_another_exchange_is_not_delivered(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    server.publish(address, b"answer", exchange="amq.direct", mandatory=True)
    server.expect("basic.return", reply_code=312)
    channel.silent()


@scenario
def replies_may_go_by_cc(s):
    channel, server = asker(s), s.channel()
    address = request(s, channel, server)
    server.publish("nowhere", b"answer", headers={"CC": [address]})
    channel.delivered(b"answer")


for suffix in ("bogus", "AAAA", "g1h2AAtyYWJiaXRAaG9zdAAAAlkAAAAAX.x==", "." * 100, "x" * 230):
    def made_up(s, suffix=suffix):
        channel, name = s.channel(), f"{REPLY_TO}.{suffix}"
        channel.publish(name, b"m", mandatory=True)
        channel.expect("basic.return", reply_code=312)
        channel.refuses("queue.declare", 404, f"no queue '{name}' in vhost '/'", queue=name,
                        passive=True)
    add(f"a_made_up_reply_address_of_{len(suffix)}_characters_is_not_found", made_up,
        "3.10 crashes on it" if "=" in suffix else None)


for method, fields in [("queue.purge", {}), ("basic.get", {}),
                       ("queue.bind", {"exchange": "amq.direct"})]:
    def not_a_queue(s, method=method, fields=fields):
        channel = s.channel()
        channel.say(method, queue=REPLY_TO, **fields)
        channel.refused((403, 404), re.compile("no queue|cannot .* volatile"), by=method)
    add(f"the_pseudo_queue_takes_no_{method.replace('.', '_')}", not_a_queue)


@scenario(not_rabbitmq="3.10 finds no such queue to bind, and unbinds it; refused so since 4.x")
def the_pseudo_queue_can_neither_be_bound_nor_unbound(s):
    for method in ("queue.bind", "queue.unbind"):
        s.channel().refuses(method, 403,
                            "cannot bind or unbind to a volatile (direct reply-to) queue",
                            queue=REPLY_TO, exchange="amq.direct", routing_key="k")


@scenario
def the_pseudo_queue_is_not_there_to_be_deleted(s):
    s.channel().call("queue.delete", queue=REPLY_TO)


@scenario
def a_declared_pseudo_queue_is_the_channels_last_declared(s):
    channel = s.channel()
    channel.declare(REPLY_TO)
    channel.refuses("basic.get", 404, f"no queue '{REPLY_TO}' in vhost '/'", queue="")


@scenario
def a_message_for_the_pseudo_queue_itself_comes_back(s):
    channel = asker(s)
    channel.publish(REPLY_TO, b"m", mandatory=True)
    channel.expect("basic.return", reply_code=312, routing_key=REPLY_TO)


@scenario
def a_reply_consumers_tag_is_a_tag_like_others(s):
    channel = s.channel()
    channel.consume(s.queue(channel), "mine")
    channel.say("basic.consume", queue=REPLY_TO, consumer_tag="mine", no_ack=True)
    channel.connection.refused(530, "attempt to reuse consumer tag 'mine'", by="basic.consume")


@scenario
def a_reply_consumer_without_a_tag_is_given_one(s):
    check_equal("tag", s.channel().consume(REPLY_TO, no_ack=True), re.compile(r"^amq\.ctag-"))


@scenario
def asking_in_a_transaction_without_a_reply_consumer_is_refused(s):
    channel = s.channel()
    channel.call("tx.select")
    channel.publish("nowhere", b"question", reply_to=REPLY_TO)
    channel.refused(406, "fast reply consumer does not exist", by="basic.publish")


@scenario
def large_replies_are_delivered_whole(s):
    channel, server = asker(s), s.channel()
    body = b"0123456789" * 40000
    server.publish(request(s, channel, server), body)
    if channel.expect("basic.deliver").body != body:
        raise Failure("another body came")
