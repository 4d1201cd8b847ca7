"""Policies, and the queues and exchanges that they are for: over HTTP, by whippetctl, from the file."""
import json
import re
import threading

from admin import Api, Ctl, q
from process import CONFIG, Failure, check, check_equal, test

LIMIT = {"pattern": "^q", "definition": {"max-length": 2}}


def effect(api, queue, vhost="/"):
    """-> names of the policy and of the operator policy, and what they say together"""
    found = api.get(f"/api/queues/{q(vhost)}/{q(queue)}")
    return found["policy"], found["operator_policy"], found["effective_policy_definition"]


def declared(broker, *names, **fields):
    """A channel on which these queues are declared."""
    channel = broker.connect().channel()
    for name in names:
        channel.declare(name, **fields)
    return channel


# --- HTTP ---------------------------------------------------------------------------------------


@test
def policies_are_set_shown_replaced_and_cleared(world):
    world.start()
    api = Api(world)
    for kind in ("policies", "operator-policies"):
        path = f"/api/{kind}/%2F"
        check_equal("at first", api.get(f"/api/{kind}"), [])
        api.does(201, "PUT", f"{path}/b", LIMIT)
        api.does(201, "PUT", f"{path}/a%2F", {**LIMIT, "priority": -5, "apply-to": "queues"})
        b = {"vhost": "/", "name": "b", "pattern": "^q", "apply-to": "all",
             "definition": {"max-length": 2}, "priority": 0}
        a = {**b, "name": "a/", "priority": -5, "apply-to": "queues"}
        check_equal("one", api.get(f"{path}/b"), b)
        check_equal("all", api.get(f"/api/{kind}"), [a, b])
        check_equal("of the vhost", api.get(path), [a, b])
        api.does(204, "PUT", f"{path}/b",
                 {"pattern": "", "definition": {"expires": 10**6, "overflow": "drop-head"},
                  "apply-to": "classic_queues", "priority": 2**31 - 1})
        check_equal("replaced", api.get(f"{path}/b"),
                    {"vhost": "/", "name": "b", "pattern": "", "apply-to": "classic_queues",
                     "definition": {"expires": 10**6, "overflow": "drop-head"}, "priority": 2**31 - 1})
        status, answer = api.ask("PUT", f"{path}/b", LIMIT, {"If-None-Match": "*"})
        check(status == 412 and "exists" in answer["reason"], f"{status} {answer}")
        api.does(204, "DELETE", f"{path}/b")
        api.refuses(404, "policy 'b' in vhost '/'", "DELETE", f"{path}/b")
        api.refuses(404, "policy 'b' in vhost '/'", "GET", f"{path}/b")
        api.does(204, "DELETE", f"{path}/a%2F")
        check_equal("at last", api.get(path), [])


@test
def the_two_sets_are_apart_and_so_are_vhosts(world):
    world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/vhosts/v")
    api.does(201, "PUT", "/api/policies/v/p", LIMIT)
    api.refuses(404, "no policy 'p'", "GET", "/api/policies/%2F/p")
    api.refuses(404, "no operator policy 'p'", "GET", "/api/operator-policies/v/p")
    api.does(201, "PUT", "/api/operator-policies/v/p", {**LIMIT, "priority": 3})
    check_equal("priority", api.get("/api/policies/v/p")["priority"], 0)
    check_equal("vhosts", [one["vhost"] for one in api.get("/api/policies")], ["v"])
    api.does(204, "DELETE", "/api/vhosts/v")
    check_equal("policies of a vhost that went", api.get("/api/policies"), [])
    for method in ("GET", "DELETE"):
        api.refuses(404, "no vhost 'v'", method, "/api/policies/v/p")
    api.refuses(404, "no vhost 'v'", "PUT", "/api/policies/v/p", LIMIT)
    api.refuses(404, "no vhost 'v'", "GET", "/api/operator-policies/v")


REFUSED = [
    ({"definition": {"max-length": 1}}, "key 'pattern' is missing"),
    ({"pattern": "a"}, "key 'definition' is missing"),
    (None, "key 'pattern' is missing"),
    ({"pattern": 1, "definition": {"max-length": 1}}, "'pattern' is not a text"),
    ({"pattern": "(", "definition": {"max-length": 1}}, "pattern should be regular expression"),
    ({"pattern": "a", "definition": "max-length"}, "'definition' is not an object"),
    ({"pattern": "a", "definition": {}}, "no policy provided"),
    ({"pattern": "a", "definition": {"foo": 1}}, "'foo' is not a recognised policy setting"),
    ({"pattern": "a", "definition": {"max-length": "x"}}, "is not a valid maximum length"),
    ({"pattern": "a", "definition": {"max-length": 1.5}}, "is not a valid maximum length"),
    ({"pattern": "a", "definition": {"max-length": None}}, "is not a valid maximum length"),
    ({"pattern": "a", "definition": {"overflow": "x"}}, "is not a valid overflow value"),
    ({"pattern": "a", "definition": {"x" * 256: 1}}, "name of more than 255 bytes"),
    ({**LIMIT, "priority": "1"}, "priority should be an integer"),
    ({**LIMIT, "priority": 1.5}, "priority should be an integer"),
    ({**LIMIT, "priority": 2**31}, "priority should be an integer"),
    ({**LIMIT, "apply-to": "streams"}, "apply-to 'streams' unrecognised"),
    ({**LIMIT, "apply-to": 1}, "'apply-to' is not a text"),
]


@test
def what_is_wrong_with_a_policy_is_told_and_changes_nothing(world):
    world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/policies/%2F/p", LIMIT)
    before = api.get("/api/policies")
    for body, reason in REFUSED:
        api.refuses(400, reason, "PUT", "/api/policies/%2F/p", body)
    deep = "[" * 200 + "]" * 200
    api.refuses(400, "nests too deep", "PUT", "/api/policies/%2F/p",
                '{"pattern": "", "definition": {"ha-params": ' + deep + "}}")
    api.refuses(400, "name of a policy", "PUT", f"/api/policies/%2F/{'n' * 256}", LIMIT)
    api.refuses(400, "'dead-letter-exchange' is not a recognised operator policy setting", "PUT",
                "/api/operator-policies/%2F/p",
                {"pattern": "", "definition": {"dead-letter-exchange": "x"}})
    check_equal("policies", api.get("/api/policies"), before)
    api.refuses(405, "has GET, PUT, DELETE only", "POST", "/api/policies/%2F/p", LIMIT)


@test
def a_policy_may_say_anything_that_json_says(world):
    world.start()
    api = Api(world)
    definition = {"ha-mode": "nodes", "ha-params": ["a", "ü\t\"\\", {"b": [1, True, None, 0.5]}, []]}
    api.does(201, "PUT", "/api/policies/%2F/p", {"pattern": "ü", "definition": definition})
    check_equal("definition", api.get("/api/policies/%2F/p")["definition"], definition)


@test
def queues_tell_which_policies_apply_and_what_they_say(world):
    broker = world.start()
    api = Api(world)
    declared(broker, "q1", "x1")
    check_equal("at first", effect(api, "q1"), (None, None, {}))
    api.does(201, "PUT", "/api/policies/%2F/low", LIMIT)
    check_equal("low", effect(api, "q1"), ("low", None, {"max-length": 2}))
    api.does(201, "PUT", "/api/policies/%2F/high",
             {"pattern": "1$", "definition": {"message-ttl": 10**7}, "priority": 1})
    check_equal("high", effect(api, "q1"), ("high", None, {"message-ttl": 10**7}))
    api.does(201, "PUT", "/api/operator-policies/%2F/op",
             {"pattern": "q", "definition": {"message-ttl": 10**6, "max-length": 5}})
    check_equal("both", effect(api, "q1"), ("high", "op", {"message-ttl": 10**6, "max-length": 5}))
    check_equal("another", effect(api, "x1"), ("high", None, {"message-ttl": 10**7}))
    api.does(204, "DELETE", "/api/policies/%2F/high")
    check_equal("low again", effect(api, "q1"), ("low", "op", {"message-ttl": 10**6, "max-length": 2}))
    check_equal("no policy", effect(api, "x1"), (None, None, {}))


@test
def queues_are_shown_with_what_they_are_and_hold(world):
    broker = world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/vhosts/v")
    api.make_user("bob", vhost="v")
    channel = broker.connect().channel()
    arguments = {"x-max-length": 10, "x-dead-letter-exchange": "dead"}
    channel.declare("b/c", arguments=arguments)
    channel.declare("a", durable=True, arguments={"x-queue-type": "quorum"})
    channel.declare("c", exclusive=True, auto_delete=True)
    channel.publish_all("b/c", "xyz")
    channel.holds("b/c", 3)
    channel.got("b/c", "x", no_ack=False)
    channel.consume("a")
    other = broker.connect(user="bob", password="secret", vhost="v").channel()
    other.declare("a")
    found = api.get("/api/queues")
    check_equal("order", [(one["vhost"], one["name"]) for one in found],
                [("/", "a"), ("/", "b/c"), ("/", "c"), ("v", "a")])
    one = {"name": "b/c", "vhost": "/", "type": "classic", "state": "running", "durable": False,
           "auto_delete": False, "exclusive": False, "arguments": arguments, "policy": None,
           "operator_policy": None, "effective_policy_definition": {}, "messages": 3,
           "messages_ready": 2, "messages_unacknowledged": 1, "consumers": 0, "message_bytes": 3,
           "message_bytes_ready": 2, "message_bytes_unacknowledged": 1}
    memory = found[1].pop("memory")
    if not 3 <= memory < 3 * 1024:
        raise Failure(f"three messages of one byte hold {memory} bytes")
    check_equal("in the list", found[1], one)
    check_equal("one", api.get("/api/queues/%2F/b%2Fc"), {**one, "memory": memory})
    check_equal("type", (found[0]["type"], found[0]["durable"], found[0]["consumers"]), ("quorum", True, 1))
    check_equal("flags", (found[2]["exclusive"], found[2]["auto_delete"]), (True, True))
    check_equal("of a vhost", api.get("/api/queues/v"), [found[3]])
    check_equal("columns", api.get("/api/queues?columns=name,messages%2Carguments.x-max-length,none"),
                [{"name": queue["name"], "messages": queue["messages"], "arguments": queue["arguments"]}
                 for queue in found])
    check_equal("columns of one", api.get("/api/queues/v/a?columns=type"), {"type": "classic"})
    api.refuses(400, "columns: expected", "GET", "/api/queues?columns=" + "x" * 1025)
    api.refuses(400, "columns: expected", "GET", "/api/queues?columns=%zz")
    api.refuses(404, "no queue 'c' in vhost 'v'", "GET", "/api/queues/v/c")
    api.refuses(404, "no vhost 'w'", "GET", "/api/queues/w")
    api.refuses(404, "no vhost 'w'", "GET", "/api/queues/w/a")


@test
def arguments_of_every_type_are_shown(world):
    broker = world.start()
    arguments = {"text": "ü", "bytes": b"\xff\x00a", "number": -2**63, "yes": True, "nothing": None,
                 "real": 0.25, "list": [1, ["b"], {}], "table": {"deep": {"er": "!"}}}
    declared(broker, "q", arguments=arguments)
    shown = Api(world).get("/api/queues/%2F/q")["arguments"]
    check_equal("arguments", shown, {**arguments, "bytes": "\ufffd\0a"})


@test
def exchanges_are_shown_with_their_policy(world):
    broker = world.start()
    api = Api(world)
    channel = broker.connect().channel()
    channel.declare_exchange("e", "topic", durable=True, arguments={"alternate-exchange": "x"})
    channel.declare_exchange("f", "x-random", auto_delete=True, internal=True)
    api.does(201, "PUT", "/api/policies/%2F/p",
             {"pattern": "^e", "apply-to": "exchanges", "definition": {"alternate-exchange": "y"}})
    e = {"name": "e", "vhost": "/", "type": "topic", "durable": True, "auto_delete": False,
         "internal": False, "arguments": {"alternate-exchange": "x"}, "policy": "p"}
    f = {"name": "f", "vhost": "/", "type": "x-random", "durable": False, "auto_delete": True,
         "internal": True, "arguments": {}}
    default = {"name": "", "vhost": "/", "type": "direct", "durable": True, "auto_delete": False,
               "internal": False, "arguments": {}}
    check_equal("with a policy", api.get("/api/exchanges/%2F/e"), e)
    check_equal("without", api.get("/api/exchanges/%2F/f"), f)
    check_equal("the default one", api.get("/api/exchanges/%2F/amq.default"), default)
    found = api.get("/api/exchanges/%2F")
    check_equal("order", [one["name"] for one in found], sorted(one["name"] for one in found))
    check(found[0] == default and e in found and f in found, f"the list has {found}")
    check_equal("all", api.get("/api/exchanges"), found)
    api.refuses(404, "no exchange 'g'", "GET", "/api/exchanges/%2F/g")


@test
def a_list_is_whole_while_queues_come_and_go(world):
    broker = world.start()
    api = Api(world)
    stay = {f"stay{i}" for i in range(1000)}
    declared(broker, *stay)
    is_done = threading.Event()

    def churn():
        channel = broker.connect().channel()
        for i in range(600):
            channel.declare(f"go{i}")
        for i in range(600):
            channel.call("queue.delete", queue=f"go{i}")
        is_done.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not is_done.is_set():
        names = [one["name"] for one in api.get("/api/queues?columns=name")]
        check_equal("names that are there twice", len(names), len(set(names)))
        check(stay <= set(names), f"missing: {stay - set(names)}")
        if not thread.is_alive():
            break
    thread.join()
    check(is_done.is_set(), "the queues did not come and go")


# --- In force, and kept -------------------------------------------------------------------------


@test
def a_policy_is_in_force_at_once_and_until_it_is_cleared(world):
    broker = world.start()
    api = Api(world)
    channel = declared(broker, *[f"q{i}" for i in range(6)])  # on every worker, with others below
    others = [declared(broker, f"q{i}") for i in range(6, 12)]
    names = [f"q{i}" for i in range(12)]
    for name in names:
        channel.publish_all(name, "abc")
        channel.holds(name, 3)
    api.does(201, "PUT", "/api/policies/%2F/p", LIMIT)
    for name in names:
        channel.holds(name, 2)
    for name in names:
        channel.publish(name, "d")
        channel.holds(name, 2)
    api.does(204, "DELETE", "/api/policies/%2F/p")
    for name, publisher in zip(names, [channel] * 6 + others):
        publisher.publish(name, "e")
        publisher.holds(name, 3)


@test
def policies_survive_a_restart_and_a_crash(world):
    broker = world.start()
    api = Api(world)
    declared(broker, "q", durable=True)
    api.does(201, "PUT", "/api/policies/%2F/p", {**LIMIT, "priority": -7, "apply-to": "queues"})
    api.does(201, "PUT", "/api/policies/%2F/gone", {**LIMIT, "priority": 9})
    api.does(204, "PUT", "/api/policies/%2F/p",
             {"pattern": "q$", "definition": {"max-length": 3, "overflow": "reject-publish"},
              "priority": -8, "apply-to": "queues"})
    api.does(201, "PUT", "/api/operator-policies/%2F/p", {**LIMIT, "definition": {"max-length": 1}})
    api.does(204, "DELETE", "/api/policies/%2F/gone")
    before = api.get("/api/policies"), api.get("/api/operator-policies")
    for is_crash in (False, True):
        broker.kill() if is_crash else broker.stop()
        broker = world.start()
        check_equal("policies", (api.get("/api/policies"), api.get("/api/operator-policies")), before)
        check_equal("effect", effect(api, "q"),
                    ("p", "p", {"max-length": 1, "overflow": "reject-publish"}))
        channel = broker.connect().channel()
        channel.select()
        channel.call("queue.purge", queue="q")
        channel.publish("q", "a")
        channel.expect("basic.ack", delivery_tag=1)
        channel.publish("q", "b")
        channel.expect("basic.nack", delivery_tag=2)


# --- The configuration file ---------------------------------------------------------------------

FILE = """
policies:
  - {name: mine, pattern: ^q, priority: 5, apply_to: queues, definition: {max-length: 2}}
operator_policies:
  - {name: length, pattern: "", definition: {max-length-bytes: 1000}}
"""
KEEPING = "policies: [{name: keep, pattern: '', priority: 1, definition: {max-length: 1000}}]\n"


@test
def queues_come_back_under_the_policies_of_the_file(world):
    """What a policy in the database says, and one of the file overrules, was in force until all were told."""
    broker = world.start(KEEPING)
    api, count = Api(world), 300
    api.does(201, "PUT", "/api/policies/%2F/overruled", {"pattern": "", "definition": {"message-ttl": 1}})
    channel = declared(broker, *[f"q{i}" for i in range(count)], durable=True)
    channel.select()
    for i in range(count):
        channel.publish(f"q{i}", "x", delivery_mode=2)
    channel.all_confirmed(count)
    broker.stop()
    broker = world.start(KEEPING)
    channel = broker.connect().channel()
    for i in range(count):
        channel.holds(f"q{i}", 1)


@test
def policies_of_the_file_are_its_own(world):
    broker = world.start(FILE)
    api = Api(world)
    declared(broker, "q", durable=True)
    check_equal("effect", effect(api, "q"), ("mine", "length", {"max-length": 2, "max-length-bytes": 1000}))
    for method, body in (("PUT", LIMIT), ("DELETE", None)):
        api.refuses(409, "is declared in the configuration file", method, "/api/policies/%2F/mine", body)
        api.refuses(409, "is declared in the configuration file", method,
                    "/api/operator-policies/%2F/length", body)
    broker.stop()
    world.start("policies:\n")
    check_equal("without the file", (api.get("/api/policies"), api.get("/api/operator-policies")), ([], []))
    check_equal("effect", effect(api, "q"), (None, None, {}))


@test
def a_reload_brings_changes_and_takes_policies_of_the_file(world):
    broker = world.start(FILE)
    api = Api(world)
    api.does(201, "PUT", "/api/policies/%2F/kept", {"pattern": "", "definition": {"expires": 10**8}})
    channel = declared(broker, "q")
    channel.publish_all("q", "abc")
    channel.holds("q", 2)
    world.configure("policies: [{name: mine, pattern: ^q, priority: 1, definition: {max-length: 1}},"
                    " {name: new, pattern: x, definition: {message-ttl: 0}}]\n")
    check("failures=0" in broker.reload()[-1], "the reload has failed")
    channel.holds("q", 1)
    check_equal("names", [one["name"] for one in api.get("/api/policies")], ["kept", "mine", "new"])
    check_equal("operator policies", api.get("/api/operator-policies"), [])
    check_equal("effect", effect(api, "q"), ("mine", None, {"max-length": 1}))
    world.configure("")
    broker.reload()
    check_equal("effect", effect(api, "q"), ("kept", None, {"expires": 10**8}))
    channel.publish_all("q", "de")
    channel.holds("q", 3)
    check_equal("names", [one["name"] for one in api.get("/api/policies")], ["kept"])


@test
def a_file_whose_definition_is_refused_changes_nothing(world):
    broker = world.start(FILE)
    api = Api(world)
    before = api.get("/api/policies"), api.get("/api/operator-policies")
    world.configure("policies:\n"
                    "  - {name: good, pattern: a, definition: {max-length: 1}}\n"
                    "  - {name: bad, pattern: a, definition: {max-lenght: 1}}\n"
                    "  - {name: good, pattern: b, definition: {max-length: 1}}\n"
                    "  - {name: far, pattern: b, apply_to: streams, definition: {max-length: 1}}\n"
                    "operator_policies: [{name: o, pattern: a, definition: {max-length: x}}]\n")
    errors = [line for line in broker.reload() if "configuration error" in line]
    for line, told in zip(errors, (":3:5: policies: policy \\\\?\"bad\\\\?\": 'max-lenght' is not a recog",
                                   ":4:5: policies: policy \\\\?\"good\\\\?\": the vhost has two",
                                   ":5:5: policies: policy \\\\?\"far\\\\?\": apply_to: expected all",
                                   ":6:21: operator_policies: policy \\\\?\"o\\\\?\": .*x.* is not a valid")):
        check(re.search(told, line), f"{line!r} has no {told!r}")
    check_equal("errors", len(errors), 4)
    check_equal("policies", (api.get("/api/policies"), api.get("/api/operator-policies")), before)


@test
def the_start_and_check_config_refuse_a_definition_with_its_place(world):
    bad = "policies:\n  - {name: bad, pattern: a, definition: {expires: 0}}\n"
    for arguments in ((), ("--check-config",)):
        world.configure(bad)
        broker = world.launch(*arguments)
        check_equal("status", broker.wait_end(), CONFIG)
        check(broker.log.has(r"whippet\.yaml:2:5: policies: policy \"bad\": 0 is not a valid queue expiry"),
              f"said {broker.log.all()}")


@test
def a_policy_of_the_file_waits_for_its_vhost(world):
    broker = world.start("policies: [{name: p, vhost: v, pattern: '', definition: {max-length: 2}}]\n")
    check(broker.log.has("a policy is for a vhost that is not there"), "nothing is said")
    api = Api(world)
    api.does(201, "PUT", "/api/vhosts/v")
    check_equal("names", [one["name"] for one in api.get("/api/policies/v")], ["p"])


@test
def a_policy_of_the_file_takes_the_place_of_another(world):
    broker = world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/policies/%2F/mine", {"pattern": "a", "definition": {"max-length": 9}})
    world.configure(FILE)
    broker.reload()
    check_equal("pattern", api.get("/api/policies/%2F/mine")["pattern"], "^q")
    world.configure("")
    broker.reload()
    check_equal("policies", api.get("/api/policies"), [])
    broker.stop()
    world.start()
    check_equal("policies after a restart", api.get("/api/policies"), [])


# --- whippetctl ---------------------------------------------------------------------------------

HEAD = "vhost\tname\tpattern\tapply-to\tdefinition\tpriority\n"


@test
def whippetctl_manages_policies(world):
    world.start()
    ctl = Ctl(world)
    for word in ("", "operator_"):
        plural = f"list_{word}policies"
        ctl.does(f"set_{word}policy", "p", "^q", '{"max-length": 10}')
        ctl.does("set_" + word + "policy", "--priority", "-3", "--apply-to", "queues", "a", "",
                 '{"expires": 5000, "overflow": "drop-head"}')
        check_equal("list", ctl.does(plural),
                    HEAD + '/\ta\t\tqueues\t{"expires":5000,"overflow":"drop-head"}\t-3\n'
                    + '/\tp\t^q\tall\t{"max-length":10}\t0\n')
        check_equal("JSON", json.loads(ctl.does(plural, "--format", "json"))[1],
                    {"vhost": "/", "name": "p", "pattern": "^q", "apply-to": "all",
                     "definition": {"max-length": 10}, "priority": 0})
        ctl.does(f"clear_{word}policy", "a")
        ctl.refuses(1, "policy 'a' in vhost '/'", f"clear_{word}policy", "a")
        ctl.does("add_vhost", "v")
        ctl.does(f"set_{word}policy", "-p", "v", "--priority=7", "p", "x", '{"max-length": 1}')
        check_equal("of the vhost", ctl.does(plural, "-p", "v"),
                    HEAD + 'v\tp\tx\tall\t{"max-length":1}\t7\n')
        ctl.does("delete_vhost", "v")
        ctl.refuses(1, "no vhost 'v'", plural, "-p", "v")


@test
def whippetctl_checks_what_makes_a_policy(world):
    world.start()
    ctl = Ctl(world)
    ctl.refuses(1, "the definition is not a JSON object", "set_policy", "p", "", "max-length=1")
    ctl.refuses(1, "the definition is not a JSON object", "set_policy", "p", "", "[1]")
    ctl.refuses(1, "duplicate", "set_policy", "p", "", '{"expires": 1, "expires": 2}')
    ctl.refuses(1, "is not a valid queue expiry", "set_policy", "p", "", '{"expires": 0}')
    ctl.refuses(1, "unrecognised", "set_policy", "--apply-to", "x", "p", "", '{"expires": 1}')
    ctl.refuses(2, "expected an integer, not 'x'", "set_policy", "--priority", "x", "p", "", "{}")
    ctl.refuses(2, "expected an integer, not '1e3'", "set_policy", "--priority", "1e3", "p", "", "{}")
    ctl.refuses(2, "list_users sets no policy", "list_users", "--priority", "1")
    ctl.refuses(2, "clear_policy sets no policy", "clear_policy", "--apply-to", "all", "p")
    check_equal("policies", ctl.does("list_policies"), HEAD)


@test
def whippetctl_lists_queues_and_exchanges_with_their_columns(world):
    broker = world.start()
    ctl = Ctl(world)
    channel = declared(broker, "q", arguments={"x-max-length": 5, "x-overflow": "drop-head"})
    channel.publish_all("q", "ab")
    channel.holds("q", 2)
    ctl.does("set_policy", "p", ".", '{"message-ttl": 10000000}')
    check_equal("queues", ctl.does("list_queues"), "name\tmessages\nq\t2\n")
    check_equal("columns", ctl.does("list_queues", "policy", "name", "arguments", "operator_policy", "durable",
                                    "effective_policy_definition"),
                "policy\tname\targuments\toperator_policy\tdurable\teffective_policy_definition\n"
                'p\tq\t{"x-max-length":5,"x-overflow":"drop-head"}\t\tfalse\t{"message-ttl":10000000}\n')
    check_equal("JSON", json.loads(ctl.does("list_queues", "--format", "json", "messages", "arguments")),
                [{"messages": 2, "arguments": {"x-max-length": 5, "x-overflow": "drop-head"}}])
    exchanges = ctl.does("list_exchanges")
    check(exchanges.startswith("name\ttype\n\tdirect\namq.direct\tdirect\n"), exchanges)
    check("amq.topic\ttopic\tp\n" in ctl.does("list_exchanges", "name", "type", "policy"), "no policy")
    ctl.refuses(1, "no such column: nmae; there are name messages", "list_queues", "nmae")
    ctl.refuses(1, "no such column: messages; there are name type", "list_exchanges", "messages")
    ctl.refuses(1, "no vhost 'v'", "list_queues", "-p", "v")
