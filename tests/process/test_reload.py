"""SIGHUP: the configuration is read again, whole or not at all, and nobody loses a connection."""
import os
import signal

from client import ChannelClosed
from process import check, check_equal, fields_of, test


def told(lines, event):
    """The fields of the log lines of this event, by key."""
    return {fields_of(line)["key"]: fields_of(line) for line in lines if event in line}


@test
def each_changed_setting_is_told_with_both_values(world):
    broker = world.start("log: {level: info}\n")
    world.configure("log: {level: debug}\nlimits: {message_size: 1MiB}\nheartbeat: 60s\n")
    changed = told(broker.reload(), "setting changed")
    check_equal("changed keys", set(changed), {"log.level", "limits.message_size"})
    check_equal("from", changed["log.level"]["from"], "info")
    check_equal("to", changed["log.level"]["to"], "debug")
    check_equal("from", changed["limits.message_size"]["from"], "16MiB")
    check_equal("to", changed["limits.message_size"]["to"], "1MiB")


@test
def a_setting_of_the_start_is_told_to_need_a_restart_as_long_as_it_is_another(world):
    broker = world.start(f"data_dir: {world.data_dir}\n", data_dir=False)
    world.configure("data_dir: /elsewhere\n")
    for _ in range(2):
        lines = broker.reload()
        check_equal("changed", told(lines, "setting changed"), {})
        check_equal("to", told(lines, "setting needs a restart")["data_dir"]["to"], "/elsewhere")
    world.configure(f"data_dir: {world.data_dir}\n")
    check_equal("restart", told(broker.reload(), "setting needs a restart"), {})


@test
def options_of_the_command_line_go_before_the_file_as_at_the_start(world):
    broker = world.start("data_dir: /nowhere\nlisten: 127.0.0.1:1\n")
    world.configure("data_dir: /elsewhere\nlisten: [127.0.0.1:2, 127.0.0.1:3]\nthreads: 60\n")
    check("changes=0 failures=0" in broker.reload()[-1], "something has changed")


@test
def a_file_with_errors_changes_nothing_and_all_of_them_are_told(world):
    broker = world.start("log: {level: info}\n")
    world.configure("log: {level: debug}\nlimits: {message_size: 99GiB}\nheartbeets: 3s\n")
    lines = broker.reload()
    errors = [line for line in lines if "configuration error" in line]
    check_equal("errors", len(errors), 2)
    check("whippet.yaml:2:24: limits.message_size: expected" in errors[0], errors[0])
    check("whippet.yaml:3:1: unknown key" in errors[1], errors[1])
    check("errors=2" in lines[-1], lines[-1])
    world.configure("log: {level: debug}\n")
    check_equal("changed", told(broker.reload(), "setting changed")["log.level"]["from"], "info")


@test
def a_file_that_has_gone_changes_nothing(world):
    broker = world.start("limits: {message_size: 1KiB}\n")
    os.unlink(world.config_path)
    check("cannot open: No such file" in broker.reload()[-2], "the missing file is not told")
    broker.check_serves()


@test
def a_new_message_size_holds_for_connections_that_are_open(world):
    broker = world.start()
    connections = [broker.connect() for _ in range(6)]  # on every worker
    world.configure("limits: {message_size: 100}\n")
    broker.reload()
    for connection in connections:
        channel = connection.channel()
        queue = channel.call("queue.declare", exclusive=True).queue
        channel.publish(queue, "x" * 100)
        channel.got(queue, "x" * 100)
        channel.publish(queue, "x" * 101)
        try:
            channel.sync()
        except ChannelClosed as closed:
            check_equal("reply code", closed.method.reply_code, 406)
        else:
            check(False, "a message above the new limit was taken")


@test
def greater_frames_are_negotiated_after_a_reload(world):
    broker = world.start("limits: {frame_max: 4KiB, channel_max: 3}\n")
    before = [broker.connect(frame_max=4096) for _ in range(4)]
    check_equal("frame_max", before[0].tune.frame_max, 4096)
    world.configure("limits: {frame_max: 1MiB, channel_max: 9}\nheartbeat: 7s\n")
    broker.reload()
    for _ in range(4):
        connection = broker.connect(frame_max=1024 * 1024)
        check_equal("frame_max", connection.tune.frame_max, 1024 * 1024)
        check_equal("channel_max", connection.tune.channel_max, 9)
        check_equal("heartbeat", connection.tune.heartbeat, 7)
        channel = connection.channel()
        queue = channel.call("queue.declare", exclusive=True).queue
        channel.publish(queue, "x" * 1_000_000)
        channel.got(queue, "x" * 1_000_000)
    for connection in before:
        connection.channel()


@test
def a_new_handshake_timeout_holds_for_clients_that_come(world):
    broker = world.start("limits: {handshake_timeout: 1h}\n")
    world.configure("limits: {handshake_timeout: 200ms}\n")
    broker.reload()
    broker.socket().expect_end()


@test
def a_new_memory_limit_blocks_publishers_and_a_greater_one_lets_them_go_on(world):
    broker = world.start()
    connection = broker.connect()
    channel = connection.channel()
    queue = channel.call("queue.declare", queue="q").queue
    channel.publish_all(queue, ["x" * 100_000] * 40)
    channel.sync()
    world.configure("limits: {memory: 1MiB}\n")
    broker.reload()
    connection.expect("connection.blocked", reason="low on memory")
    world.configure("")
    broker.reload()
    connection.expect("connection.unblocked")
    channel.sync()


@test
def the_log_changes_its_format_and_level(world):
    broker = world.start("log: {level: info}\n")
    world.configure("log: {level: info, format: json}\n")
    last = broker.reload()[-1]
    check_equal("event", fields_of(last).get("event"), "configuration read again")
    world.configure("log: {level: error, format: text}\n")
    since = broker.log.count()
    broker.signal(signal.SIGHUP)
    broker.log.wait("key.*log.level", since)
    broker.check_serves()
    check(not broker.log.has("connection opened", since), "info is still logged")


@test
def a_hail_of_reloads_disturbs_nobody(world):
    broker = world.start()
    connection = broker.connect()
    channel = connection.channel()
    queue = channel.call("queue.declare", exclusive=True).queue
    for number in range(50):
        world.configure(f"limits: {{channel_max: {number + 10}}}\n")
        broker.signal(signal.SIGHUP)
        channel.publish(queue, str(number))
        channel.got(queue, str(number))
    broker.reload()


@test
def without_a_file_there_is_nothing_to_read_again(world):
    broker = world.launch(config=False).wait_ready()
    check(broker.reload()[-1].endswith("changes=0 failures=0"), "something has changed")
    broker.check_serves()


@test
def the_broker_outlives_the_reader_of_its_log(world):
    reader, writer = os.pipe()
    os.close(reader)
    broker = world.start(stderr=writer)
    os.close(writer)
    broker.check_serves()
