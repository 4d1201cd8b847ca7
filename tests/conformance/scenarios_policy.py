"""What policies and operator policies do to queues and exchanges: each key, what wins over what, and
changes while messages are there."""
from client import ChannelClosed, Failure, check_equal
from dead_letters import await_message, deaths, kill
from policies import with_policies

QUORUM = {"x-queue-type": "quorum"}


def content(channel, queue):
    found = []
    while (message := channel.get(queue)) is not None:
        found.append(message.body.decode())
    return "".join(found)


def refuses(channel, queue, tag):
    """The queue is full: the publish is nacked."""
    channel.publish(queue, "too much")
    channel.expect("basic.nack", delivery_tag=tag)


def gone(s, queue):
    """Waits until a message finds the queue no more, which does not use it."""
    watcher = s.channel()
    exchange = s.exchange(watcher)
    watcher.bind(queue, exchange, "k")
    while True:
        watcher.publish("k", b"", exchange=exchange, mandatory=True)
        watcher.sync()
        if watcher.connection.inbox(watcher.number):
            watcher.expect("basic.return", reply_code=312)
            watcher.refuses("queue.declare", 404, f"no queue '{queue}' in vhost '/'", queue=queue,
                            passive=True)
            return
        watcher.try_again(f"queue {queue} is still there")


# --- Each key -----------------------------------------------------------------------------------


@with_policies
def a_policy_with_max_length_drops_the_oldest(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    queue = s.queue(channel)
    channel.select()
    for text in "abcd":
        channel.publish_confirmed(queue, text)
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "cd")


@with_policies
def a_policy_with_max_length_bytes_drops_the_oldest(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length-bytes": 10})
    queue = s.queue(channel)
    channel.select()
    for text in ("aaaa", "bbbb", "cccc"):
        channel.publish_confirmed(queue, text)
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "bbbbcccc")


@with_policies
def a_policy_with_overflow_has_publishes_refused(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2, "overflow": "reject-publish"})
    queue = s.queue(channel)
    channel.select()
    channel.publish_confirmed(queue, "a")
    channel.publish_confirmed(queue, "b")
    refuses(channel, queue, 3)
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "ab")


@with_policies
def a_policy_with_reject_publish_dlx_sends_on_what_is_refused(s, policies):
    channel = s.channel()
    target, queue = s.queue(channel), s.queue(channel)
    policies.set("p", {"max-length": 1, "overflow": "reject-publish-dlx", "dead-letter-exchange": "",
                       "dead-letter-routing-key": target}, pattern=f"^{queue}$")
    channel.select()
    channel.publish_confirmed(queue, "a")
    channel.publish(queue, "b")
    channel.expect("basic.nack", delivery_tag=2)
    message = await_message(channel, target)
    check_equal("body", message.body, b"b")
    check_equal("deaths", deaths(message), [(queue, "maxlen", 1)])


@with_policies
def a_policy_with_message_ttl_expires_messages(s, policies):
    channel = s.channel()
    target = s.queue(channel)
    policies.set("p", {"message-ttl": 50, "dead-letter-exchange": "", "dead-letter-routing-key": target},
                 pattern=f"^{s.prefix}-q1$")
    queue = s.queue(channel)
    channel.publish(queue, "m")
    message = await_message(channel, target)
    check_equal("deaths", deaths(message), [(queue, "expired", 1)])
    channel.holds(queue, 0)


@with_policies
def a_policy_with_a_message_ttl_of_0_lets_ready_consumers_have_messages(s, policies):
    channel = s.channel()
    policies.set("p", {"message-ttl": 0})
    queue = s.queue(channel)
    channel.select()
    channel.publish_confirmed(queue, "lost")
    channel.holds(queue, 0)
    consumer = s.channel()
    consumer.consume(queue)
    channel.publish_confirmed(queue, "taken")
    consumer.delivered("taken")


@with_policies
def a_policy_with_expires_takes_queues_that_nobody_uses(s, policies):
    channel = s.channel()
    policies.set("p", {"expires": 50})
    gone(s, s.queue(channel))


@with_policies
def a_policy_gives_queues_a_dead_letter_exchange_and_key(s, policies):
    channel = s.channel()
    exchange, target, queue = s.exchange(channel), s.queue(channel), s.queue(channel)
    channel.bind(target, exchange, "dead")
    policies.set("p", {"dead-letter-exchange": exchange, "dead-letter-routing-key": "dead"},
                 pattern=f"^{queue}$")
    kill(channel, queue)
    message = await_message(channel, target)
    check_equal("key", message.routing_key, "dead")
    check_equal("deaths", deaths(message), [(queue, "rejected", 1)])


@with_policies
def a_policy_without_a_dead_letter_key_keeps_the_keys_of_messages(s, policies):
    channel = s.channel()
    exchange, target, queue = s.exchange(channel, "fanout"), s.queue(channel), s.queue(channel)
    channel.bind(target, exchange)
    policies.set("p", {"dead-letter-exchange": exchange}, pattern=f"^{queue}$")
    kill(channel, queue)
    check_equal("key", await_message(channel, target).routing_key, queue)


@with_policies
def a_policy_gives_an_exchange_an_alternate(s, policies):
    channel = s.channel()
    exchange, alternate, queue = s.exchange(channel), s.exchange(channel, "fanout"), s.queue(channel)
    channel.bind(queue, alternate)
    policies.set("p", {"alternate-exchange": alternate}, pattern=f"^{exchange}$")
    channel.publish("nowhere", "m", exchange=exchange, mandatory=True)
    channel.holds(queue, 1)
    channel.silent(queue)
    policies.clear("p")
    channel.publish("nowhere", "n", exchange=exchange, mandatory=True)
    channel.expect("basic.return")
    channel.holds(queue, 1)


@with_policies
def a_policy_limits_how_often_a_quorum_queue_delivers(s, policies):
    channel = s.channel()
    policies.set("p", {"delivery-limit": 1})
    queue = s.queue(channel, durable=True, arguments=QUORUM)
    channel.publish(queue, "m")
    channel.holds(queue, 1)
    for _ in range(2):
        channel.reject(channel.got(queue, "m", no_ack=False).delivery_tag)
        channel.sync()
    channel.holds(queue, 0)


@with_policies(not_rabbitmq="classic queues of RabbitMQ have no delivery limit")
def a_policy_limits_how_often_a_classic_queue_delivers(s, policies):
    channel = s.channel()
    policies.set("p", {"delivery-limit": 1})
    queue = s.queue(channel)
    channel.publish(queue, "m")
    channel.holds(queue, 1)
    for _ in range(2):
        channel.reject(channel.got(queue, "m", no_ack=False).delivery_tag)
        channel.sync()
    channel.holds(queue, 0)


@with_policies(not_rabbitmq="RabbitMQ has it since 3.12: consumer-timeout")
def a_policy_with_consumer_timeout_closes_channels_of_slow_consumers(s, policies):
    channel = s.channel()
    policies.set("p", {"consumer-timeout": 100})
    queue = s.queue(channel)
    channel.consume(queue, no_ack=False)
    channel.publish(queue, "m")
    channel.delivered("m")
    try:
        channel.next()
    except ChannelClosed as end:
        check_equal("reply code", end.method.reply_code, 406)
    else:
        raise Failure("the channel is open")


@with_policies
def keys_that_mean_nothing_on_one_node_are_taken(s, policies):
    channel = s.channel()
    policies.set("p", {"ha-mode": "exactly", "ha-params": 2, "ha-sync-mode": "automatic",
                       "queue-mode": "lazy", "queue-master-locator": "min-masters", "max-length": 1})
    queue = s.queue(channel)
    channel.publish_all(queue, "ab")
    channel.holds(queue, 1)
    check_equal("content", content(channel, queue), "b")


# --- What wins ----------------------------------------------------------------------------------


@with_policies
def of_argument_and_policy_the_smaller_length_holds(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    small = s.queue(channel, arguments={"x-max-length": 1})
    great = s.queue(channel, arguments={"x-max-length": 3})
    for queue, length in ((small, 1), (great, 2)):
        channel.publish_all(queue, "abcd")
        channel.holds(queue, length)


@with_policies
def of_argument_and_policy_the_smaller_time_to_live_holds(s, policies):
    channel = s.channel()
    policies.set("p", {"message-ttl": 50})
    great = s.queue(channel, arguments={"x-message-ttl": 10**7})
    channel.publish(great, "m")
    channel.holds(great, 0)
    policies.set("p", {"message-ttl": 10**7})
    small = s.queue(channel, arguments={"x-message-ttl": 50})
    channel.publish(small, "m")
    channel.holds(small, 0)


@with_policies
def of_argument_and_policy_the_smaller_expiry_holds(s, policies):
    channel = s.channel()
    policies.set("p", {"expires": 50})
    gone(s, s.queue(channel, arguments={"x-expires": 10**7}))


@with_policies
def an_argument_wins_over_the_overflow_of_a_policy(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 1, "overflow": "reject-publish"})
    queue = s.queue(channel, arguments={"x-overflow": "drop-head"})
    channel.select()
    channel.publish_confirmed(queue, "a")
    channel.publish_confirmed(queue, "b")
    channel.holds(queue, 1)
    check_equal("content", content(channel, queue), "b")


@with_policies
def an_argument_wins_over_the_dead_letter_exchange_of_a_policy(s, policies):
    channel = s.channel()
    exchange, wrong, right = s.exchange(channel, "fanout"), s.queue(channel), s.queue(channel)
    channel.bind(wrong, exchange)
    queue = s.queue(channel, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": right})
    policies.set("p", {"dead-letter-exchange": exchange, "dead-letter-routing-key": wrong},
                 pattern=f"^{queue}$")
    kill(channel, queue)
    channel.holds(right, 1)
    channel.holds(wrong, 0)


@with_policies
def a_key_of_a_policy_goes_with_the_exchange_of_an_argument(s, policies):
    channel = s.channel()
    target = s.queue(channel)
    queue = s.queue(channel, arguments={"x-dead-letter-exchange": ""})
    policies.set("p", {"dead-letter-routing-key": target}, pattern=f"^{queue}$")
    kill(channel, queue)
    channel.holds(target, 1)


@with_policies(not_rabbitmq="RabbitMQ knows dead-lettering by queue and policy only")
def a_policy_wins_over_the_dead_letter_exchange_of_an_exchange(s, policies):
    channel = s.channel()
    wrong, right, queue = s.queue(channel), s.queue(channel), s.queue(channel)
    exchange = s.exchange(channel, "fanout", arguments={"x-dead-letter-exchange": "",
                                                        "x-dead-letter-routing-key": wrong})
    channel.bind(queue, exchange)
    policies.set("p", {"dead-letter-exchange": "", "dead-letter-routing-key": right},
                 pattern=f"^{queue}$")
    kill(channel, queue)
    channel.holds(right, 1)
    policies.clear("p")
    channel.publish("", b"m", exchange=exchange)
    channel.holds(queue, 1)
    channel.reject(channel.got(queue, "m", no_ack=False).delivery_tag, requeue=False)
    channel.holds(wrong, 1)
    channel.holds(right, 1)


@with_policies
def an_argument_wins_over_the_alternate_exchange_of_a_policy(s, policies):
    channel = s.channel()
    wrong, right = s.exchange(channel, "fanout"), s.exchange(channel, "fanout")
    queues = [s.queue(channel), s.queue(channel)]
    channel.bind(queues[0], wrong)
    channel.bind(queues[1], right)
    exchange = s.exchange(channel, arguments={"alternate-exchange": right})
    policies.set("p", {"alternate-exchange": wrong}, pattern=f"^{exchange}$")
    channel.publish("nowhere", "m", exchange=exchange)
    channel.holds(queues[1], 1)
    channel.holds(queues[0], 0)


@with_policies
def the_policy_of_the_highest_priority_applies_and_no_other(s, policies):
    channel = s.channel()
    policies.set("low", {"max-length": 1, "message-ttl": 50}, priority=1)
    policies.set("high", {"max-length": 2}, priority=2)
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 2)
    policies.set("high", {"max-length": 2}, priority=0)
    channel.holds(queue, 1)


@with_policies
def a_priority_may_be_negative(s, policies):
    channel = s.channel()
    policies.set("low", {"max-length": 1}, priority=-2)
    policies.set("high", {"max-length": 2}, priority=-1)
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 2)


@with_policies
def an_operator_policy_lowers_what_others_say(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 3})
    policies.set("o", {"max-length": 2}, operator=True)
    for arguments in ({}, {"x-max-length": 5}):
        queue = s.queue(channel, arguments=arguments)
        channel.publish_all(queue, "abcd")
        channel.holds(queue, 2)
    queue = s.queue(channel, arguments={"x-max-length": 1})
    channel.publish_all(queue, "abcd")
    channel.holds(queue, 1)


@with_policies
def an_operator_policy_raises_nothing(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    policies.set("o", {"max-length": 3, "message-ttl": 10**7}, operator=True)
    queue = s.queue(channel)
    channel.publish_all(queue, "abcd")
    channel.holds(queue, 2)


@with_policies
def an_operator_policy_holds_without_another(s, policies):
    channel = s.channel()
    policies.set("o", {"max-length": 2}, operator=True)
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 2)
    policies.clear("o", operator=True)
    channel.publish(queue, "d")
    channel.holds(queue, 3)


# --- For what a policy is -----------------------------------------------------------------------


@with_policies
def a_pattern_matches_anywhere_in_a_name_unless_it_is_anchored(s, policies):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    policies.set("middle", {"max-length": 1}, pattern=f"{s.prefix[3:]}-q1")
    for queue, length in ((one, 2), (two, 1)):
        channel.publish_all(queue, "ab")
        channel.holds(queue, length)


@with_policies
def a_policy_for_exchanges_is_for_no_queue_and_the_other_way_round(s, policies):
    channel = s.channel()
    exchange, alternate, target = s.exchange(channel), s.exchange(channel, "fanout"), s.queue(channel)
    channel.bind(target, alternate)
    policies.set("p", {"max-length": 1, "alternate-exchange": alternate}, apply_to="exchanges")
    channel.publish_all("nowhere", "ab", exchange=exchange)
    channel.holds(target, 2)
    policies.set("p", {"max-length": 1, "alternate-exchange": alternate}, apply_to="queues")
    channel.holds(target, 1)
    channel.publish("nowhere", "c", exchange=exchange)
    channel.silent(target)
    check_equal("content", content(channel, target), "b")


@with_policies(not_rabbitmq="RabbitMQ has it since 3.12: types of queues told apart")
def a_policy_may_be_for_queues_of_one_type(s, policies):
    channel = s.channel()
    classic, quorum = s.queue(channel), s.queue(channel, durable=True, arguments=QUORUM)
    for apply_to, lengths in (("classic_queues", (1, 3)), ("quorum_queues", (4, 1))):
        policies.set("p", {"max-length": 1}, apply_to=apply_to)
        for queue, length in zip((classic, quorum), lengths):
            channel.publish_all(queue, "abc")
            channel.holds(queue, length)


@with_policies
def a_policy_is_for_quorum_queues_too(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    queue = s.queue(channel, durable=True, arguments=QUORUM)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 2)


@with_policies
def a_policy_is_for_exclusive_and_auto_delete_queues_too(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    for fields in ({"exclusive": True}, {"auto_delete": True}):
        queue = s.queue(channel, **fields)
        channel.publish_all(queue, "abc")
        channel.holds(queue, 2)


@with_policies
def a_policy_plays_no_part_when_a_queue_is_declared_again(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2, "expires": 10**7})
    queue = s.queue(channel)
    channel.declare(queue)
    channel.refuses("queue.declare", 406,
                    f"inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': received the value "
                    "'2' of type 'signedint' but current is none",
                    queue=queue, arguments={"x-max-length": 2})


# --- Changes ------------------------------------------------------------------------------------


@with_policies
def a_policy_that_comes_shortens_a_queue_at_once(s, policies):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abcde")
    channel.holds(queue, 5)
    policies.set("p", {"max-length": 2})
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "de")


@with_policies
def what_a_new_length_drops_is_dead_lettered(s, policies):
    channel = s.channel()
    target, queue = s.queue(channel), s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    policies.set("p", {"max-length": 1, "dead-letter-exchange": "", "dead-letter-routing-key": target},
                 pattern=f"^{queue}$")
    channel.holds(target, 2)
    channel.got(target, "a")
    check_equal("deaths", deaths(channel.got(target, "b")), [(queue, "maxlen", 1)])
    channel.got(queue, "c")


@with_policies
def unacked_messages_do_not_count_for_a_length_that_comes(s, policies):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abcd")
    channel.holds(queue, 4)
    channel.got(queue, "a", no_ack=False)
    tag = channel.got(queue, "b", no_ack=False).delivery_tag
    policies.set("p", {"max-length": 1})
    channel.holds(queue, 1)
    channel.ack(tag, multiple=True)
    channel.silent(queue)
    channel.got(queue, "d")


@with_policies
def a_policy_that_goes_leaves_what_the_arguments_say(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 1, "overflow": "reject-publish"})
    queue = s.queue(channel, arguments={"x-max-length": 3})
    channel.select()
    channel.publish_confirmed(queue, "a")
    refuses(channel, queue, 2)
    policies.clear("p")
    while True:  # until it is heard of
        channel.publish(queue, "x")
        if channel.next().name == "basic.ack":
            break
        channel.try_again("publishes are still refused")
    channel.publish_all(queue, "bcd")
    channel.holds(queue, 3)
    check_equal("content", content(channel, queue), "bcd")


@with_policies
def a_policy_that_is_replaced_is_in_force_with_its_new_pattern(s, policies):
    channel = s.channel()
    one, two = s.queue(channel), s.queue(channel)
    policies.set("p", {"max-length": 1}, pattern=f"^{one}$")
    channel.publish_all(one, "ab")
    channel.holds(one, 1)
    policies.set("p", {"max-length": 1}, pattern=f"^{two}$")
    channel.publish_all(one, "cd")
    channel.publish_all(two, "ab")
    channel.holds(one, 3)
    channel.holds(two, 1)


@with_policies
def an_expiry_that_comes_takes_a_queue_that_nobody_uses(s, policies):
    queue = s.queue(s.channel())
    policies.set("p", {"expires": 50})
    gone(s, queue)


@with_policies
def an_expiry_that_comes_spares_a_queue_with_a_consumer(s, policies):
    channel = s.channel()
    queue, other = s.queue(channel), s.queue(channel)
    channel.consume(queue, "tag")
    policies.set("p", {"expires": 50})
    gone(s, other)
    channel.publish(queue, "m")
    channel.delivered("m")
    channel.call("basic.cancel", consumer_tag="tag")
    gone(s, queue)


@with_policies(not_rabbitmq="a time to live that comes is for messages that come later")
def a_time_to_live_that_comes_is_for_messages_that_are_there_too(s, policies):
    channel = s.channel()
    queue = s.queue(channel)
    channel.publish_all(queue, "abc")
    channel.holds(queue, 3)
    policies.set("p", {"message-ttl": 1})
    channel.holds(queue, 0)


@with_policies
def a_time_to_live_that_comes_is_for_messages_to_come(s, policies):
    channel = s.channel()
    queue = s.queue(channel)
    policies.set("p", {"message-ttl": 50})
    channel.publish_all(queue, "abc")
    channel.holds(queue, 0)


@with_policies
def a_dead_letter_exchange_that_comes_is_for_messages_that_are_there(s, policies):
    channel = s.channel()
    target, queue = s.queue(channel), s.queue(channel)
    channel.publish(queue, "m")
    tag = channel.got(queue, "m", no_ack=False).delivery_tag
    policies.set("p", {"dead-letter-exchange": "", "dead-letter-routing-key": target},
                 pattern=f"^{queue}$")
    channel.reject(tag, requeue=False)
    channel.holds(target, 1)
    policies.clear("p")
    kill(channel, queue)
    channel.silent(queue)
    channel.holds(target, 1)


@with_policies
def a_refusal_that_comes_is_for_the_publishes_that_follow(s, policies):
    """Whatever was routed before is taken or refused as its confirm says."""
    channel, publisher = s.channel(), s.channel()
    queue = s.queue(channel)
    publisher.select()
    for number in range(200):
        publisher.publish(queue, "m")
        if number == 100:
            policies.set("p", {"max-length": 10**6, "overflow": "reject-publish"})
    publisher.all_confirmed(200)
    channel.holds(queue, 200)


@with_policies(restarts=True)
def policies_are_in_force_after_a_restart(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    policies.set("o", {"max-length-bytes": 1}, operator=True, pattern="bytes$")
    queue = s.queue(channel, durable=True)
    bounded = channel.declare(f"{s.prefix}-bytes", durable=True).queue
    for kill_it in (False, True):
        s.restart(kill=kill_it)
        channel = s.channel()
        channel.call("queue.purge", queue=queue)
        channel.publish_all(queue, "abc")
        channel.holds(queue, 2)
        channel.publish_all(bounded, "abc")
        channel.holds(bounded, 1)


@with_policies(restarts=True)
def messages_over_the_length_of_a_policy_do_not_come_back(s, policies):
    channel = s.channel()
    policies.set("p", {"max-length": 2})
    queue = s.queue(channel, durable=True)
    channel.select()
    for text in "abc":
        channel.publish_confirmed(queue, text, delivery_mode=2)
    channel.holds(queue, 2)
    s.restart()
    channel = s.channel()
    channel.holds(queue, 2)
    check_equal("content", content(channel, queue), "bc")
