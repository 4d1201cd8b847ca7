"""The broker's end when it is asked for: in order, in seconds, whatever clients do."""
import socket
import time

from client import ConnectionClosed, Failure, check_equal
from harness import TIME_LIMIT, scenario

COUNT, BODY = 300, "b" * 100_000  # more than sockets hold


def backlog(s):
    """-> a queue with persistent messages, all confirmed"""
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    for n in range(COUNT):
        channel.publish(queue, f"{n}:{BODY}", delivery_mode=2)
    channel.all_confirmed(COUNT)
    channel.connection.close()
    return queue


def has_ended(s):
    problem = s.whippetd.stop()
    if problem:
        raise Failure(problem)
    for connection in s.connections:
        connection.drop()
    s.connections.clear()


def all_there(s, queue, first_is_redelivered=False):
    s.deadline = time.monotonic() + TIME_LIMIT
    s.address = s.whippetd.start()
    channel = s.channel()
    channel.consume(queue, no_ack=True)
    for n in range(COUNT):
        message = channel.expect("basic.deliver")
        check_equal("message", message.body.split(b":")[0], b"%d" % n)
        if n == 0:
            check_equal("redelivered", message.redelivered, first_is_redelivered)


@scenario(restarts=True)
def it_ends_though_a_client_does_not_read(s):
    queue = backlog(s)
    reader = s.channel()
    reader.say("basic.consume", queue=queue)
    other = s.channel()
    while other.counts(queue)[0] == COUNT:  # until some are on their way
        pass
    s.whippetd.ask_to_end()
    has_ended(s)
    all_there(s, queue, first_is_redelivered=True)


@scenario(restarts=True)
def a_second_signal_changes_nothing(s):
    queue = backlog(s)
    connection = s.connect()
    s.whippetd.ask_to_end()
    connection.refused(320, "broker forced connection closure with reason 'shutdown'", by="")
    s.whippetd.process.terminate()
    has_ended(s)
    all_there(s, queue)


@scenario(restarts=True)
def nobody_gets_in_while_it_ends(s):
    silent = s.connect()
    s.whippetd.ask_to_end()
    while True:  # until it has heard; the silent client holds it up
        try:
            socket.create_connection(s.address, TIME_LIMIT).close()
        except ConnectionRefusedError:
            break
        except ConnectionResetError:  # it was waiting to be accepted when the socket was closed
            pass
        if time.monotonic() > s.deadline:
            raise Failure("the broker takes connections after SIGTERM")
    check_equal("has ended already", s.whippetd.process.poll(), None)
    try:
        raise Failure(f"got {silent.next()}, wanted connection.close")
    except ConnectionClosed as end:
        check_equal("reply code", end.method.reply_code, 320)
    has_ended(s)
    s.address = s.whippetd.start()
