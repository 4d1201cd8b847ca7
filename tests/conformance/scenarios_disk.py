"""The disk under the broker: slow, failing, full, not to be written to, from another time."""
import errno
import glob
import os
import select
import sqlite3
import struct
import subprocess

import preload
from client import ConnectionClosed, Failure, check_equal
from harness import Skip, TIME_LIMIT, scenario

# In which an answer that does not wait for the disk would have come.
LONG_ENOUGH_S = 0.5

IN_OWN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def start_with(s, *prefix):
    """Starts the scenario's broker again, through other programs; what it says goes to a file."""
    s.whippetd.kill()
    drop_all(s)
    said = os.path.join(s.whippetd.folder.name, "said")
    s.whippetd.command[:0] = [*prefix, "sh", "-c", 'exec "$@" 2>"$0"', said]
    s.address = s.whippetd.start()
    return said


def start_as_before(s, length):
    """Once more without the first so many words."""
    s.whippetd.kill()
    drop_all(s)
    del s.whippetd.command[:length]
    s.address = s.whippetd.start()


def drop_all(s):
    for connection in s.connections:
        connection.drop()
    s.connections.clear()


def contents(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def refused(s, *parts, prefix=()):
    """The broker does not start, and says why in one line that has these parts."""
    command = [*prefix, *s.whippetd.command]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=TIME_LIMIT)
    check_equal("exit status", done.returncode, 1)
    said = [line for line in done.stderr.splitlines() if line.startswith("whippetd: ")]
    check_equal("lines besides its log", len(said), 1)
    for part in parts:
        if part not in said[0]:
            raise Failure(f"the broker said {said[0]!r}, without {part!r}")


# slow and failing

class SlowDisk:
    """slow_disk.c under the scenario's broker. hold_of: what the names of the files have whose syncs
    it holds; else all."""

    def __init__(self, s, hold_of=None):
        folder = s.whippetd.folder.name
        self.hold_file, self.fail_file = (os.path.join(folder, name) for name in ("hold", "fail"))
        only = {} if hold_of is None else {"DISK_HOLD_OF": hold_of}
        variables = preload.environment(folder, preload.SLOW_DISK, DISK_HOLD=self.hold_file,
                                        DISK_FAIL=self.fail_file, **only)
        self.prefix = ["env", *(f"{name}={value}" for name, value in variables.items())]
        self.said = start_with(s, *self.prefix)
        self.length = len(self.prefix) + 4

    def hold(self):
        open(self.hold_file, "w", encoding="utf-8").close()

    def let_go(self):
        os.remove(self.hold_file)

    def fail(self):
        open(self.fail_file, "w", encoding="utf-8").close()


@scenario(restarts=True)
def deliveries_go_on_while_a_sync_takes_its_time_and_confirms_wait(s):
    disk = SlowDisk(s)
    channel, consumer = s.channel(), s.channel()
    queue = s.queue(channel, durable=True)
    consumer.consume(queue)  # and acknowledges nothing: what is settled need not be written
    channel.select()
    channel.publish_confirmed(queue, "before", delivery_mode=2)
    consumer.delivered("before")
    disk.hold()
    for n in range(200):
        channel.publish(queue, str(n), delivery_mode=2)
        consumer.delivered(str(n))  # each before the next is published
    channel.sync()
    if any(method.name == "basic.ack" for method in channel.connection.inbox(channel.number)):
        raise Failure("a message was confirmed that was not on disk")
    disk.let_go()
    while channel.answer("basic.ack").delivery_tag < 201:
        pass


def commit_while_nothing_is_synced(s, method, **queue_fields):
    """Two messages in a queue (of another thread, where there are several); a transaction that only
    settles the first -> the queue, after commit-ok and a kill."""
    disk = SlowDisk(s)
    other, channel = s.channel(), s.channel()
    queue = s.queue(other, durable=True, **queue_fields)
    other.select()
    for body in "first", "second":
        other.publish_confirmed(queue, body, delivery_mode=2)
    channel.call("tx.select")
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue)
    tag = channel.delivered("first").delivery_tag
    disk.hold()
    channel.say(method, delivery_tag=tag)
    channel.say("tx.commit")
    channel.delivered("second")  # the queue knows that the first is settled
    other.sync()
    if channel.connection.inbox(channel.number):
        raise Failure(f"got {channel.next()} before the settlement was on disk")
    disk.let_go()
    channel.expect("tx.commit-ok")
    start_as_before(s, disk.length)
    return queue


@scenario(restarts=True)
def a_commit_of_acks_is_answered_when_they_are_on_disk(s):
    queue = commit_while_nothing_is_synced(s, "basic.ack")
    channel = s.channel()
    channel.got(queue, "second")
    check_equal("left", channel.declare(queue, passive=True).message_count, 0)


@scenario(restarts=True)
def a_commit_of_rejects_is_answered_when_the_dead_letters_are_on_disk(s):
    dead = s.queue(s.channel(), durable=True)
    queue = commit_while_nothing_is_synced(
        s, "basic.reject", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    channel = s.channel()
    channel.got(queue, "second")
    channel.got(dead, "first")
    for name in queue, dead:
        check_equal("left", channel.declare(name, passive=True).message_count, 0)


@scenario(restarts=True)
def a_commit_of_a_reject_is_answered_when_the_dead_letter_is_on_disk_though_its_queue_is_not(s):
    disk = SlowDisk(s)
    other, channel = s.channel(), s.channel()
    dead = s.queue(other, durable=True)
    queue = s.queue(other, arguments={"x-dead-letter-exchange": "",
                                      "x-dead-letter-routing-key": dead})
    other.select()
    other.publish_confirmed(queue, "m", delivery_mode=2)
    channel.call("tx.select")
    channel.consume(queue)
    tag = channel.delivered("m").delivery_tag
    disk.hold()
    channel.say("basic.reject", delivery_tag=tag)
    channel.say("tx.commit")
    if select.select([channel.connection.socket], [], [], LONG_ENOUGH_S)[0]:
        raise Failure(f"got {channel.next()} before the dead letter was on disk")
    disk.let_go()
    channel.expect("tx.commit-ok")
    start_as_before(s, disk.length)
    s.channel().got(dead, "m")


@scenario(restarts=True)
def a_queue_is_not_emptied_by_a_deletion_that_is_not_on_disk(s):
    disk = SlowDisk(s, hold_of="definitions.sqlite")
    channel, other = s.channel(), s.channel()
    queue, busy = s.queue(channel, durable=True), s.queue_name()
    channel.select()
    channel.publish_confirmed(queue, "kept", delivery_mode=2)
    disk.hold()
    other.say("queue.declare", queue=busy, durable=True)  # the definitions wait for this one's sync
    while not is_there(s, busy):
        pass
    select.select([other.connection.socket], [], [], LONG_ENOUGH_S)
    channel.say("queue.delete", queue=queue)
    while is_there(s, queue):
        pass
    if select.select([channel.connection.socket], [], [], LONG_ENOUGH_S)[0]:
        raise Failure(f"got {channel.next()} before the deletion was on disk")
    start_as_before(s, disk.length)
    channel = s.channel()
    check_equal("messages", channel.declare(queue, passive=True).message_count, 1)


@scenario(restarts=True, config="limits: {memory: 16MiB}")
def a_transaction_is_whole_or_not_there_though_its_messages_leave_memory(s):
    disk = SlowDisk(s)
    filler, channel = s.channel(), s.channel()
    # Such a queue has its messages in memory in any case: there is not much left for others.
    full = s.queue(filler, arguments={"x-message-deduplication": True})
    one = s.queue(channel, durable=True, arguments={"x-max-length": 1})
    rest = s.queue(channel, durable=True)
    body, count = "m" * 100_000, 20_000
    filler.publish_all(full, [body] * 135)
    filler.select()
    filler.publish_confirmed(rest, body, delivery_mode=2)
    channel.call("tx.select")
    # The second pushes the first out, which for that is read again.
    channel.publish_all(one, ["pushed out", "stays"], delivery_mode=2)
    channel.publish_all(rest, ["rest"] * count, delivery_mode=2)
    channel.sync()
    disk.hold()
    channel.say("tx.commit")
    while filler.counts(rest)[0] < 1 + count:
        pass
    select.select([channel.connection.socket], [], [], LONG_ENOUGH_S)  # what can be written, is
    start_as_before(s, disk.length)
    channel = s.channel()
    there = [channel.counts(name)[0] for name in (one, rest)]
    if there not in ([0, 1], [1, 1 + count]):
        raise Failure(f"of a transaction of 1 and {count} messages there are {there}, with one "
                      "that was there before")


def publish_twice_while_nothing_is_synced(s, mode):
    """The same to a deduplicating exchange on two channels, the second in that mode -> the disk that
    nothing has reached, the second channel, the queue."""
    disk = SlowDisk(s)
    first, second = s.channel(), s.channel()
    queue = s.queue(first, durable=True)
    exchange = s.exchange(first, "x-message-deduplication", durable=True,
                          arguments={"x-cache-size": 10})
    first.bind(queue, exchange, "k")
    second.call(mode)
    disk.hold()
    for channel in first, second:
        channel.publish("k", "once", exchange=exchange, delivery_mode=2,
                        headers={"x-deduplication-header": "one"})
        channel.sync()
    return disk, second, queue


@scenario(restarts=True)
def a_duplicate_is_confirmed_when_the_message_is_on_disk(s):
    disk, second, queue = publish_twice_while_nothing_is_synced(s, "confirm.select")
    second.sync()  # the answer to the first may overtake a confirm
    if second.connection.inbox(second.number):
        raise Failure(f"got {second.next()} before the message was on disk")
    disk.let_go()
    second.expect("basic.ack")
    start_as_before(s, disk.length)
    s.channel().got(queue, "once")


@scenario(restarts=True)
def a_commit_of_a_duplicate_is_answered_when_the_message_is_on_disk(s):
    disk, second, queue = publish_twice_while_nothing_is_synced(s, "tx.select")
    second.say("tx.commit")
    if select.select([second.connection.socket], [], [], LONG_ENOUGH_S)[0]:
        raise Failure(f"got {second.next()} before the message was on disk")
    disk.let_go()
    second.expect("tx.commit-ok")
    start_as_before(s, disk.length)
    s.channel().got(queue, "once")


@scenario(restarts=True)
def no_durable_declaration_is_answered_before_it_is_on_disk(s):
    disk = SlowDisk(s)
    channel, name = s.channel(), s.queue_name()
    disk.hold()
    channel.say("queue.declare", queue=name, durable=True)
    while not is_there(s, name):
        pass
    s.whippetd.kill()
    disk.let_go()
    try:
        raise Failure(f"got {channel.next()} before the definition was on disk")
    except ConnectionClosed:
        pass
    start_as_before(s, disk.length)
    s.channel().declare(name, durable=True)  # whether it was there or not


def is_there(s, queue):
    """A message is routed to it."""
    channel = s.channel()
    channel.publish(queue, "there?", mandatory=True)
    channel.say("channel.flow", active=True)
    first = channel.answer("basic.return", "channel.flow-ok")
    channel.connection.drop()
    return first.name == "channel.flow-ok"


@scenario(restarts=True)
def a_failed_sync_ends_the_broker_which_says_so_and_nothing_confirmed_is_lost(s):
    disk = SlowDisk(s)
    channel = s.channel()
    queue = s.queue(channel, durable=True)
    channel.select()
    channel.publish_confirmed(queue, "on disk", delivery_mode=2)
    disk.fail()
    channel.publish(queue, "perhaps", delivery_mode=2)
    try:
        raise Failure(f"got {channel.next()} for a message whose sync failed")
    except ConnectionClosed:
        pass
    check_equal("exit status", s.whippetd.process.wait(TIME_LIMIT), 1)
    for part in "the message log cannot be written", ".segment: Input/output error":
        if part not in contents(disk.said):
            raise Failure(f"the broker said {contents(disk.said)!r}, without {part!r}")
    start_as_before(s, disk.length)
    s.channel().got(queue, "on disk")


# full

BODY = "f" * 65536
SMALL_DISK = "260m"  # the open segment and two spares of 64 MiB, and a third


def publish_until_blocked(channel, queue):
    """-> how many messages were published; those that were read are confirmed."""
    count, confirmed = 0, 0
    connection = channel.connection
    while not connection.inbox(0):
        for _ in range(16):  # 1 MiB, which the sockets hold when the broker reads no more
            channel.publish(queue, f"{count}:{BODY}", delivery_mode=2)
            count += 1
        while confirmed < count and not connection.inbox(0):
            connection.pump()
            inbox = connection.inbox(channel.number)
            while inbox:
                method = inbox.popleft()
                check_equal("answer", method.name, "basic.ack")
                confirmed = max(confirmed, method.delivery_tag)
        if count > 100_000:
            raise Failure("6 GB fit on a disk of 260 MB")
    check_equal("told", connection.next(0).reason, "low on disk")
    return count


def on_small_disk(s):
    """The scenario's broker again, on a small disk of its own -> the file of what it says."""
    data = s.whippetd.data_dir()
    mount = f'mount -t tmpfs -o size={SMALL_DISK},mode=700 tmpfs {data}'
    if subprocess.run([*IN_OWN_NAMESPACE, mount], stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip("nothing can be mounted here")
    return start_with(s, *IN_OWN_NAMESPACE, f'{mount} && exec "$@"', "sh")


@scenario(config="limits: {disk_free: 1MiB}")
def on_a_full_disk_publishers_wait_and_go_on_when_consumers_have_made_room(s):
    on_small_disk(s)
    s.deadline += TIME_LIMIT  # it has 100 MB to go through
    publisher, consumer = s.channel(), s.channel()
    queue = s.queue(publisher, durable=True)
    publisher.select()
    count = publish_until_blocked(publisher, queue)
    consumer.call("basic.qos", prefetch_count=100)
    consumer.consume(queue)
    for n in range(count):
        message = consumer.expect("basic.deliver")
        check_equal("message", message.body.split(b":")[0], str(n).encode())
        if n % 50 == 49 or n == count - 1:
            consumer.ack(message.delivery_tag, multiple=True)
    publisher.connection.expect("connection.unblocked")
    publisher.publish(queue, "room again", delivery_mode=2)
    while publisher.answer("basic.ack").delivery_tag < count + 1:
        pass
    consumer.delivered("room again")


def fill(name):
    """Takes all the room that its disk has."""
    with open(name, "ab", buffering=0) as file:
        try:
            while file.write(b"f" * 4096):
                pass
        except OSError as error:
            check_equal("error", error.errno, errno.ENOSPC)


@scenario(config="limits: {disk_free: 1MiB}")
def when_others_have_filled_the_disk_declarations_and_publishers_wait_for_room(s):
    said = on_small_disk(s)
    channel, publisher, consumer = s.channel(), s.channel(), s.channel()
    queue = s.queue(consumer, durable=True)
    consumer.consume(queue)
    publisher.publish(queue, "before", delivery_mode=2)
    consumer.delivered("before")
    # The disk as the broker sees it.
    filling = f"/proc/{s.whippetd.process.pid}/root{s.whippetd.data_dir()}/filling"
    fill(filling)
    publisher.publish(queue, "during", delivery_mode=2)
    publisher.connection.expect("connection.blocked", reason="low on disk")
    names = []
    while "the disk is full" not in contents(said):
        fill(filling)  # also what the log has given back meanwhile
        for _ in range(100):
            names.append(s.queue_name())
            channel.say("queue.declare", queue=names[-1], durable=True, arguments={
                "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k" * 200})
        consumer.sync()  # it goes on
    os.remove(filling)
    for name in names:
        channel.expect("queue.declare-ok", queue=name)
    publisher.connection.expect("connection.unblocked")
    consumer.delivered("during")


# not to be written to

@scenario(restarts=True)
def a_read_only_file_system_is_refused(s):
    s.whippetd.kill()
    data = s.whippetd.data_dir()
    mount = f'mount --bind {data} {data} && mount -o remount,bind,ro {data}'
    if subprocess.run([*IN_OWN_NAMESPACE, mount], stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip("nothing can be mounted here")
    refused(s, data, "Read-only file system",
            prefix=[*IN_OWN_NAMESPACE, f'{mount} && exec "$@"', "sh"])
    s.address = s.whippetd.start()


@scenario(restarts=True)
def a_directory_without_write_permission_is_refused(s):
    s.whippetd.kill()
    data = s.whippetd.data_dir()
    prefix = []
    if os.geteuid() == 0:  # who may do all must become somebody else
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chmod(s.whippetd.folder.name, 0o755)
        if subprocess.run([*prefix, s.whippetd.command[0], "--version"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
            raise Skip("nobody else can run the broker from where it is")
    os.chmod(data, 0o555)
    refused(s, data, "Permission denied", prefix=prefix)
    os.chmod(data, 0o700)
    s.address = s.whippetd.start()


# from another time

@scenario(restarts=True)
def a_log_of_a_newer_format_is_refused_and_left_alone(s):
    s.stop()
    drop_all(s)
    name = glob.glob(os.path.join(s.whippetd.data_dir(), "log", "checkpoint"))[0]
    with open(name, "r+b") as file:
        data = file.read()
        file.seek(8)  # behind the magic
        file.write(struct.pack("<I", struct.unpack_from("<I", data, 8)[0] + 1))
    refused(s, name, "newer version")
    with open(name, "r+b") as file:
        check_equal("the rest of the file", file.read()[12:], data[12:])
        file.seek(0)
        file.write(data)
    s.address = s.whippetd.start()


@scenario(restarts=True)
def definitions_of_a_newer_format_are_refused(s):
    s.stop()
    drop_all(s)
    name = os.path.join(s.whippetd.data_dir(), "definitions.sqlite")
    versions = []
    for change in 1, -1:
        database = sqlite3.connect(name)
        version = database.execute("PRAGMA user_version").fetchone()[0] + change
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
        database.close()
        versions.append(version)
        if change == 1:
            refused(s, name, "newer version", f"format {version}")
    s.address = s.whippetd.start()
