"""What the scenarios about dead letters share: queues that have them, ways to die, what was told."""


def source(s, channel, exchange, routing_key=None, **arguments):
    """A queue that dead-letters to this exchange."""
    arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
    arguments["x-dead-letter-exchange"] = exchange
    if routing_key is not None:
        arguments["x-dead-letter-routing-key"] = routing_key
    return s.queue(channel, arguments=arguments)


def pair(s, channel, **arguments):
    """-> a queue and the queue its dead letters go to by the default exchange."""
    target = s.queue(channel)
    return source(s, channel, "", target, **arguments), target


def kill(channel, queue, body=b"m", **publish):
    """Publish and reject."""
    channel.publish(queue, body, **publish)
    channel.holds(queue, 1)
    channel.reject(channel.got(queue, body, no_ack=False).delivery_tag, requeue=False)


def await_message(channel, queue):
    channel.holds(queue, 1)
    return channel.get(queue)


def deaths(message):
    """[(queue, reason, count)] with the newest first."""
    return [(death["queue"], death["reason"],
             death["count"]) for death in message.headers["x-death"]]
