"""whippetctl: every verb, its errors, and what it does with names and passwords."""
import json
import os
import pty
import re
import subprocess

from admin import Api, Ctl
from process import TIME_LIMIT, check, check_equal, test

MANUAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "man", "whippetctl.8")


@test
def users_are_managed(world):
    world.start()
    ctl = Ctl(world)
    ctl.does("add_user", "bob", stdin="secret\n")
    ctl.does("authenticate_user", "bob", stdin="secret")
    ctl.refuses(1, "no such user, or the password", "authenticate_user", "bob", stdin="wrong\n")
    ctl.refuses(1, "user 'bob' exists", "add_user", "bob", stdin="other\n")
    ctl.does("authenticate_user", "bob", stdin="secret")
    ctl.does("set_user_tags", "bob", "monitoring", "management")
    check_equal("list", ctl.does("list_users"),
                "user\ttags\nbob\t[monitoring, management]\nguest\t[administrator]\n")
    ctl.does("change_password", "bob", stdin="new\n")
    ctl.does("authenticate_user", "bob", stdin="new\n")
    check_equal("tags", json.loads(ctl.does("list_users", "--format", "json"))[0],
                {"user": "bob", "tags": ["monitoring", "management"]})
    ctl.does("set_user_tags", "bob")
    check("bob\t[]\n" in ctl.does("list_users"), "he has tags")
    ctl.does("clear_password", "bob")
    ctl.refuses(1, "no such user, or the password", "authenticate_user", "bob", stdin="new\n")
    ctl.does("delete_user", "bob")
    ctl.refuses(1, "no user 'bob'", "delete_user", "bob")
    ctl.refuses(1, "no user 'bob'", "change_password", "bob", stdin="x\n")


@test
def vhosts_are_managed(world):
    world.start()
    ctl = Ctl(world)
    ctl.does("add_vhost", "/orders")
    ctl.refuses(1, "vhost '/orders' exists", "add_vhost", "/orders")
    check_equal("list", ctl.does("list_vhosts"), "name\n/\n/orders\n")
    ctl.does("delete_vhost", "/orders")
    ctl.refuses(1, "no vhost '/orders'", "delete_vhost", "/orders")


@test
def permissions_are_managed(world):
    world.start()
    ctl = Ctl(world)
    ctl.does("add_vhost", "v")
    ctl.does("add_user", "bob", stdin="x\n")
    ctl.does("set_permissions", "-p", "v", "bob", "^c", "", ".*")
    ctl.does("-p", "v", "set_permissions", "--", "guest", "-", "-", "-")
    check_equal("of the vhost", ctl.does("list_permissions", "--vhost", "v"),
                "user\tconfigure\twrite\tread\nbob\t^c\t\t.*\nguest\t-\t-\t-\n")
    check_equal("of the user", ctl.does("list_user_permissions", "bob"),
                "vhost\tconfigure\twrite\tread\nv\t^c\t\t.*\n")
    check_equal("of the default vhost", ctl.does("list_permissions"),
                "user\tconfigure\twrite\tread\nguest\t.*\t.*\t.*\n")
    ctl.does("clear_permissions", "-p", "v", "bob")
    ctl.refuses(1, "no such permissions", "clear_permissions", "-p", "v", "bob")
    ctl.refuses(1, "parenthesis", "set_permissions", "bob", "(", "", "")
    ctl.refuses(1, "no vhost 'none'", "list_permissions", "-p", "none")


@test
def topic_permissions_are_managed(world):
    world.start()
    ctl = Ctl(world)
    ctl.does("set_topic_permissions", "guest", "amq.topic", "^a", "b$")
    ctl.does("set_topic_permissions", "guest", "other", "", "")
    check_equal("of the vhost", ctl.does("list_topic_permissions"),
                "user\texchange\twrite\tread\nguest\tamq.topic\t^a\tb$\nguest\tother\t\t\n")
    ctl.does("clear_topic_permissions", "guest", "other")
    check_equal("of the user", ctl.does("list_user_topic_permissions", "guest"),
                "vhost\texchange\twrite\tread\n/\tamq.topic\t^a\tb$\n")
    ctl.does("clear_topic_permissions", "guest")
    ctl.refuses(1, "no such permissions", "clear_topic_permissions", "guest")


@test
def the_command_line_is_checked(world):
    ctl = Ctl(world)
    ctl.refuses(2, "no such verb: lst_users", "lst_users")
    ctl.refuses(2, "usage: add_user USER", "add_user")
    ctl.refuses(2, "usage: delete_user USER", "delete_user", "a", "b")
    ctl.refuses(2, "list_users has no vhost", "list_users", "-p", "v")
    ctl.refuses(2, "expected text or json, not 'xml'", "list_users", "--format", "xml")
    check_equal("status without a verb", ctl.run().returncode, 2)
    check_equal("status of a bad option", ctl.run("--bad").returncode, 2)
    check(ctl.does("--version").startswith("whippetctl "), "no version")


@test
def options_may_stand_anywhere(world):
    world.start()
    ctl = Ctl(world)
    ctl.does("add_vhost", "v")
    words = ["set_policy", "bounded", "^q", '{"max-length": 5}']
    options = ["-p", "v", "--priority", "-7", "--apply-to", "queues"]
    orders = [words[:number] + options + words[number:] for number in range(len(words) + 1)]
    orders.append([options[0] + options[1], words[0], words[1], "--priority=-7", words[2],
                   "--apply-to=queues", words[3]])
    orders.append([*words[:2], *options, "--", *words[2:]])
    for environment in {}, {"POSIXLY_CORRECT": "1"}:
        for order in orders:
            done = ctl.run(*order, env={**os.environ, **environment})
            check_equal(f"{order}", (done.returncode, done.stderr), (0, ""))
            (policy,) = json.loads(ctl.does("list_policies", "--format", "json", "-p", "v"))
            check_equal(f"{order}", [policy[key] for key in ("name", "pattern", "priority", "apply-to",
                                                             "definition")],
                        ["bounded", "^q", -7, "queues", {"max-length": 5}])
            ctl.does("clear_policy", "bounded", "-p", "v")
    check_equal("of the default vhost", json.loads(ctl.does("list_policies", "--format", "json")), [])


@test
def two_hyphens_end_the_options(world):
    world.start()
    ctl = Ctl(world)
    for order in (["add_vhost", "--", "--vhost"], ["--", "add_vhost", "-p"],
                  ["add_vhost", "--", "--"]):
        ctl.does(*order)
    check_equal("vhosts", ctl.does("list_vhosts"), "name\n--\n--vhost\n-p\n/\n")
    ctl.refuses(2, "usage: add_vhost VHOST", "add_vhost", "a", "--", "--vhost")
    ctl.refuses(2, "--nonsense", "add_vhost", "a", "--nonsense")
    ctl.refuses(2, "add_vhost has no vhost", "add_vhost", "a", "-p", "b")
    ctl.does("delete_vhost", "--", "--")


@test
def that_no_broker_answers_is_told_in_one_line(world):
    ctl = Ctl(world)
    ctl.refuses(1, f"no broker answers at {world.data_dir}/control.sock: No such file", "list_users")
    world.start().kill()
    ctl.refuses(1, "Connection refused", "list_users")
    ctl.refuses(1, "no broker answers at /nowhere", "--socket", "/nowhere", "list_users", where=False)


@test
def another_socket_can_be_named(world):
    path = os.path.join(world.folder, "other.sock")
    world.start(f"admin: {{socket: {path}}}\n")
    done = Ctl(world).run("--socket", path, "list_vhosts", where=False)
    check_equal("list", done.stdout, "name\n/\n")


@test
def the_environment_does_not_lead_it_elsewhere(world):
    world.start()
    done = Ctl(world).run("list_vhosts", env={**os.environ, "http_proxy": "http://127.0.0.1:1",
                                              "ALL_PROXY": "http://127.0.0.1:1"})
    check_equal("list", done.stdout, "name\n/\n")


@test
def names_do_not_give_orders_to_the_terminal(world):
    world.start()
    ctl = Ctl(world)
    name = "a\tb\nc\x1b[2J\x7f\\\u009bx ü"
    ctl.does("add_vhost", name)
    check("a\\tb\\nc\\x1b[2J\\x7f\\\\\\xc2\\x9bx ü\n" in ctl.does("list_vhosts"), "it is not escaped")
    check(name in [one["name"] for one in json.loads(ctl.does("list_vhosts", "--format", "json"))],
          "JSON has another name")
    ctl.refuses(1, "\\x1b", "add_vhost", name)
    ctl.does("delete_vhost", name)
    for odd in ("..", "%2e", "a/../b", "?x", "-"):
        ctl.does("add_vhost", "--", odd)
        ctl.does("delete_vhost", "--", odd)
    check_equal("vhosts", ctl.does("list_vhosts"), "name\n/\n")


@test
def names_that_clients_choose_do_not_keep_the_operator_from_looking(world):
    """They may have any bytes, zeros too, as the texts of arguments may."""
    broker = world.start()
    ctl = Ctl(world)
    channel = broker.connect().channel()
    for name in ("a", "a\0b", "a\udcff", "a\u202eb", "a\U00010000"):
        channel.declare(name, arguments={"x\0y": "\0", "x-queue-mode": "lazy"})
    lines = ctl.does("list_queues", "name", "arguments").splitlines()
    check_equal("names", [line.split("\t")[0] for line in lines[1:]],
                ["a", "a\\x00b", "a\\xe2\\x80\\xaeb", "a\U00010000", "a\ufffd"])
    check_equal("names as JSON", [queue["name"] for queue in json.loads(
        ctl.does("list_queues", "--format", "json", "name"))],
        ["a", "a\0b", "a\u202eb", "a\U00010000", "a\ufffd"])


@test
def arguments_that_are_no_text_change_nothing(world):
    world.start()
    ctl = Ctl(world)
    bad = os.fsdecode(b"\xff")
    ctl.refuses(1, "not UTF-8", "set_user_tags", "guest", "good", bad)
    ctl.refuses(1, "not UTF-8", "set_permissions", "guest", bad, "", "")
    ctl.refuses(1, "not well-formed", "add_vhost", bad)
    check("guest\t[administrator]" in ctl.does("list_users"), "the tags have changed")


@test
def passwords_that_are_none_are_refused_before_the_broker_is_asked(world):
    ctl = Ctl(world)
    for stdin in ("", "\n"):
        ctl.refuses(1, "the password is empty", "add_user", "bob", stdin=stdin)
    ctl.refuses(1, "longer than 1024 bytes", "add_user", "bob", stdin="x" * 1025)
    ctl.refuses(1, "zero byte", "add_user", "bob", stdin="x\0y\n")


def type_passwords(ctl, *passwords):
    """Makes a user from a terminal. -> exit status and all that the terminal showed"""
    master, terminal = pty.openpty()
    process = subprocess.Popen([ctl.program, "--data-dir", ctl.data_dir, "add_user", "bob"],
                               stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    for prompt, password in zip((b"Password: ", b"Again: "), passwords):
        while not shown.endswith(prompt):
            shown += os.read(master, 1000)
        os.write(master, password.encode() + b"\n")
    while True:
        try:
            piece = os.read(master, 1000)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return process.wait(TIME_LIMIT), shown.decode()


@test
def a_terminal_is_asked_twice_and_shows_nothing(world):
    world.start()
    ctl = Ctl(world)
    status, shown = type_passwords(ctl, "hunter2", "hunter3")
    check_equal("status", status, 1)
    check("the two passwords differ" in shown, f"shown: {shown!r}")
    status, shown = type_passwords(ctl, "hunter2", "hunter2")
    check_equal("status", status, 0)
    check("hunter" not in shown, f"the terminal shows {shown!r}")
    Api(world).does(200, "POST", "/api/users/bob/authenticate", {"password": "hunter2"})


@test
def the_manual_has_every_verb_of_the_help_with_its_arguments(world):
    with open(MANUAL, encoding="utf-8") as file:
        manual = dict(re.findall(r"^\.It Cm (\w+)(.*)$", file.read(), re.MULTILINE))
    usage = re.findall(r"^  ([a-z_]+)((?: \S+)*)$", Ctl(world).does("--help"), re.MULTILINE)
    check(len(usage) > 15, "the help has no verbs")
    check_equal("verbs", set(manual), {verb for verb, _ in usage})
    for verb, arguments in usage:
        words = [word.lower() for word in re.findall(r"[A-Za-z]+", arguments)]
        told = [word for word in re.findall(r"\b[a-z]+\b", manual[verb])]
        check_equal(f"arguments of {verb}", told, words)
