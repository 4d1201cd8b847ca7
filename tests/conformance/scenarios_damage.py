"""A data directory that something has damaged: it is said what and where, and it can be repaired."""
import functools
import glob
import json
import os
import shutil
import subprocess

from client import TIMED_OUT, ChannelClosed, ConnectionClosed, Failure, check_equal
from harness import TIME_LIMIT, add, scenario


def run(s, *options):
    """Whippetd with the scenario's data directory -> (status, stdout, stderr)"""
    path, *_ = s.whippetd.command
    done = subprocess.run([path, "--data-dir", s.whippetd.data_dir(), "--listen", "127.0.0.1:0",
                           *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=TIME_LIMIT)
    return done.returncode, done.stdout, done.stderr


def filled(s):
    """A queue with three messages, and the broker killed: it must read all of its log again."""
    channel = s.channel()
    channel.select()
    queue = s.queue(channel, durable=True)
    for body in "first", "second", "third":
        channel.publish_confirmed(queue, body * 100, delivery_mode=2)
    s.whippetd.kill()
    return queue


def damage(s, text):
    """Changes a byte of the message with this body."""
    for name in glob.glob(os.path.join(s.whippetd.data_dir(), "log", "*.segment")):
        with open(name, "r+b") as file:
            at = file.read().find(text.encode() * 100)
            if at >= 0:
                file.seek(at + 150)
                file.write(b"?")
                return name, at
    raise Failure(f"the message {text} is not in the log")


def complaints(said):
    """What it gave up with; the log is on standard error as well."""
    return [line for line in said.splitlines() if line.startswith("whippetd: ")]


def started_again(s):
    for connection in s.connections:
        connection.drop()
    s.connections.clear()
    s.address = s.whippetd.start()


@scenario(restarts=True)
def a_damaged_message_stops_the_start_with_its_place_and_queue(s):
    queue = filled(s)
    name, at = damage(s, "second")
    status, _, said = run(s)
    check_equal("exit status", status, 1)
    for part in os.path.basename(name), "offset ", "damaged", f"'{queue}' in vhost '/'":
        if part not in said:
            raise Failure(f"the broker said {said!r}, without {part!r}")
    check_equal("complaints", len(complaints(said)), 1)
    run(s, "--repair")
    started_again(s)


@scenario(restarts=True)
def repair_leaves_out_what_is_damaged_and_keeps_it_aside(s):
    queue = filled(s)
    damage(s, "second")
    status, said, complaint = run(s, "--repair")
    check_equal("exit status and complaint", (status, complaint), (0, ""))
    if f"'{queue}'" not in said:
        raise Failure(f"repair said {said!r}, without the queue")
    aside = glob.glob(os.path.join(s.whippetd.data_dir(), "log", "lost+found", "*"))
    with open(aside[0], "rb") as file:
        if b"second" * 20 not in file.read():
            raise Failure("what was damaged is not in lost+found")
    started_again(s)
    channel = s.channel()
    channel.got(queue, "first" * 100)
    channel.got(queue, "third" * 100)
    check_equal("messages left", channel.counts(queue)[0], 0)


@scenario(restarts=True)
def repair_of_what_is_whole_changes_nothing(s):
    queue = filled(s)
    status, said, _ = run(s, "--repair")
    check_equal("exit status", status, 0)
    check_equal("lines", len(said.strip().splitlines()), 1)
    started_again(s)
    check_equal("messages", s.channel().counts(queue)[0], 3)


@scenario(restarts=True)
def nobody_repairs_or_starts_under_a_running_broker(s):
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    for options in (), ("--repair",):
        status, _, complaint = run(s, *options)
        check_equal("exit status", status, 1)
        if "another process" not in complaint:
            raise Failure(f"it said {complaint!r}")
    channel.publish(queue, "still well", delivery_mode=2)
    channel.got(queue, "still well")


@scenario(restarts=True)
def inspection_counts_what_is_alive(s):
    queue = filled(s)
    status, said, _ = run(s, "--inspect-log", "json")
    check_equal("exit status", status, 0)
    found = json.loads(said)
    check_equal("live messages", found["live_messages"], 3)
    check_equal("their sum", sum(part["live_messages"] for part in found["segments"]), 3)
    check_equal("queues", [(part["name"], part["messages"]) for part in found["queues"]],
                [(f"'{queue}' in vhost '/'", 3)])
    status, said, _ = run(s, "--inspect-log", "text")
    if " 3 live messages" not in said or f"queue '{queue}' in vhost '/': 3 messages" not in said:
        raise Failure(f"inspection said {said!r}")
    started_again(s)


@scenario(restarts=True)
def inspection_tells_of_damage_and_goes_on(s):
    queue = filled(s)
    name, _ = damage(s, "second")
    status, said, _ = run(s, "--inspect-log", "json")
    check_equal("exit status", status, 0)
    found = json.loads(said)
    if not any(os.path.basename(name) in note and queue in note for note in found["notes"]):
        raise Failure(f"the notes are {found['notes']!r}")
    check_equal("messages that can be read", found["live_messages"], 2)
    run(s, "--repair")
    started_again(s)


@scenario(restarts=True)
def inspection_of_a_running_broker_harms_nobody(s):
    channel = s.channel()
    channel.select()
    queue = s.queue(channel, durable=True)
    channel.publish_confirmed(queue, "there", delivery_mode=2)
    status, said, _ = run(s, "--inspect-log", "json")
    check_equal("exit status", status, 0)
    check_equal("live messages", json.loads(said)["live_messages"], 1)
    channel.publish_confirmed(queue, "still well", delivery_mode=2)
    channel.got(queue, "there")


@scenario(restarts=True)
def messages_are_not_dropped_because_the_definitions_are_missing(s):
    queue = filled(s)
    names = glob.glob(os.path.join(s.whippetd.data_dir(), "definitions.sqlite*"))
    for name in names:
        os.rename(name, name + ".away")
    for _ in range(2):  # the refused start has made a database
        status, _, said = run(s)
        check_equal("exit status", status, 1)
        if "holds messages" not in said or "definitions.sqlite" not in said:
            raise Failure(f"the broker said {said!r}")
    for name in glob.glob(os.path.join(s.whippetd.data_dir(), "definitions.sqlite*")):
        if not name.endswith(".away"):
            os.remove(name)
    for name in names:
        os.rename(name + ".away", name)
    started_again(s)
    check_equal("messages", s.channel().counts(queue)[0], 3)


@scenario(restarts=True)
def messages_do_not_come_to_queues_of_other_definitions(s):
    filled(s)
    log, away = (os.path.join(s.whippetd.data_dir(), name) for name in ("log", "log.away"))
    os.rename(log, away)
    names = glob.glob(os.path.join(s.whippetd.data_dir(), "definitions.sqlite*"))
    for name in names:
        os.remove(name)
    started_again(s)
    other = s.queue(s.channel(), durable=True)  # of the same number as that with the messages
    s.whippetd.kill()
    own = log + ".own"
    os.rename(log, own)
    os.rename(away, log)
    status, _, said = run(s)
    check_equal("exit status", status, 1)
    if "is not the log" not in said:
        raise Failure(f"the broker said {said!r}")
    shutil.rmtree(log)
    os.rename(own, log)
    started_again(s)
    check_equal("messages", s.channel().counts(other)[0], 0)


@scenario(restarts=True)
def it_is_said_that_the_messages_are_not_there(s):
    queue = filled(s)
    shutil.rmtree(os.path.join(s.whippetd.data_dir(), "log"))
    name = s.whippetd.keep_log()
    started_again(s)
    check_equal("messages", s.channel().counts(queue)[0], 0)
    s.whippetd.kill()
    with open(name, encoding="utf-8") as file:
        said = file.read()
    if "the message log is a new one" not in said:
        raise Failure(f"the broker said {said!r}")
    started_again(s)


def ends_without(s, channel, answer):
    """The broker ends, and the client has not had that answer."""
    try:
        channel.expect(answer)
    except (ChannelClosed, ConnectionClosed, Failure) as end:
        if TIMED_OUT in str(end):
            raise
    else:
        raise Failure(f"{answer} has come")
    check_equal("exit status", s.whippetd.process.wait(TIME_LIMIT), 1)


@scenario(restarts=True)
def nothing_is_confirmed_once_somebody_has_removed_the_files(s):
    channel = s.channel()
    channel.select()
    queue = s.queue(channel, durable=True)
    channel.publish_confirmed(queue, "before", delivery_mode=2)
    shutil.rmtree(s.whippetd.data_dir())
    channel.publish(queue, "after", delivery_mode=2)
    ends_without(s, channel, "basic.ack")
    start_anew(s)


def no_declaration_without(s, pattern):
    """Also not when only some of the files of the definitions have gone."""
    channel = s.channel()
    channel.declare(s.queue_name(), durable=True)
    names = glob.glob(os.path.join(s.whippetd.data_dir(), pattern))
    check_equal("whether there is any", bool(names), True)
    for name in names:
        os.remove(name)
    channel.say("queue.declare", queue=s.queue_name(), durable=True)
    ends_without(s, channel, "queue.declare-ok")
    shutil.rmtree(s.whippetd.data_dir())
    start_anew(s)


for word, pattern in (("the_definitions", "definitions.sqlite*"),
                      ("the_database_of_the_definitions", "definitions.sqlite"),
                      ("the_latest_definitions", "definitions.sqlite-wal")):
    add(f"no_declaration_is_answered_once_somebody_has_removed_{word}",
        functools.partial(no_declaration_without, pattern=pattern), restarts=True)


def start_anew(s):
    """For the end of the scenario, with nothing of before."""
    s.queues.clear()
    started_again(s)
