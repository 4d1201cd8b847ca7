"""What is changed is in force at once, for who is connected too, and is on disk when it is answered."""
import re

from admin import Api, q
from client import ChannelClosed, ConnectionClosed
from process import check, check_equal, test


def connect(broker, user, vhost="/", password="secret"):
    connection = broker.connect(user=user, password=password, vhost=vhost)
    return connection, connection.channel()


def is_refused(broker, **login):
    """Whether a client does not get in."""
    try:
        broker.connect(**login)
    except ConnectionClosed:
        return True
    return False


@test
def a_permission_is_in_force_at_once_on_an_open_connection(world):
    broker = world.start()
    api = Api(world)
    api.make_user("bob")
    connection, channel = connect(broker, "bob")
    channel.declare("q")
    channel.publish("q", "one")
    channel.got("q", "one")
    path = "/api/permissions/%2F/bob"
    api.does(204, "PUT", path, {"configure": ".*", "write": ".*", "read": "^$"})
    channel.refuses("basic.get", 403, re.compile("access to queue 'q'"), queue="q")
    api.does(204, "PUT", path, {"configure": ".*", "write": ".*", "read": ".*"})
    channel = connection.channel()
    channel.publish("q", "two")
    channel.got("q", "two")
    api.does(204, "DELETE", path)
    channel.refuses("queue.declare", 403, re.compile("access to"), queue="another")
    check(is_refused(broker, user="bob", password="secret"), "he gets in without permissions")


@test
def a_topic_permission_is_in_force_at_once(world):
    broker = world.start()
    channel = broker.connect().channel()
    channel.select()
    channel.publish_confirmed("b.1", exchange="amq.topic")
    Api(world).does(201, "PUT", "/api/topic-permissions/%2F/guest",
                    {"exchange": "amq.topic", "write": "^a", "read": ""})
    channel.publish_confirmed("a.1", exchange="amq.topic")
    channel.publish("b.2", exchange="amq.topic")
    channel.refused(403, re.compile("access to topic 'b.2'"))


@test
def a_new_password_is_in_force_at_once(world):
    broker = world.start()
    api = Api(world)
    api.make_user("bob", "old")
    connect(broker, "bob", password="old")
    api.does(204, "PATCH", "/api/users/bob", {"password": "new"})
    check(is_refused(broker, user="bob", password="old"), "the old password is still right")
    connect(broker, "bob", password="new")
    api.does(204, "PATCH", "/api/users/bob", {"password_hash": ""})
    check(is_refused(broker, user="bob", password="new"), "he needs no password")


@test
def a_user_who_is_deleted_loses_his_connections_and_nobody_else_does(world):
    broker = world.start()
    api = Api(world)
    api.make_user("bob")
    his = [connect(broker, "bob")[0] for _ in range(3)]
    bystander = broker.connect()
    api.does(204, "DELETE", "/api/users/bob")
    for connection in his:
        connection.refused(320, re.compile("is deleted"))
    bystander.channel().declare("", exclusive=True)
    check(is_refused(broker, user="bob", password="secret"), "he gets in again")


@test
def a_vhost_that_is_deleted_takes_queues_permissions_and_connections_along(world):
    broker = world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/vhosts/v")
    api.make_user("bob", vhost="v")
    connections = [connect(broker, "bob", "v") for _ in range(3)]
    for number, (_, channel) in enumerate(connections):
        channel.declare(f"q{number}", durable=True)
        channel.publish(f"q{number}", "x")
    bystander = broker.connect().channel()
    api.does(204, "DELETE", "/api/vhosts/v")
    for connection, _ in connections:
        connection.refused(320, re.compile("is deleted"))
    bystander.declare("", exclusive=True)
    check_equal("his permissions", api.get("/api/users/bob/permissions"), [])
    api.does(201, "PUT", "/api/vhosts/v")
    api.does(201, "PUT", "/api/permissions/v/bob", {"configure": "", "write": "", "read": ".*"})
    _, channel = connect(broker, "bob", "v")
    channel.refuses("queue.declare", 404, re.compile("no queue 'q0'"), queue="q0", passive=True)


def everything(api):
    return {path: sorted(api.get(path), key=str)
            for path in ("/api/users", "/api/vhosts", "/api/permissions", "/api/topic-permissions")}


@test
def what_was_answered_survives_kill_dash_nine(world):
    """The broker is killed right after the answer, once for every kind of change."""
    changes = (
        ("PUT", "/api/users/bob", {"password_hash": "", "tags": "monitoring"}),
        ("PUT", "/api/vhosts/v", None),
        ("PUT", "/api/permissions/v/bob", {"configure": "c", "write": "w", "read": "r"}),
        ("PUT", "/api/topic-permissions/v/bob", {"exchange": "e", "write": "w", "read": "r"}),
        ("PATCH", "/api/users/bob", {"tags": "management"}),
        ("PUT", f"/api/vhosts/{q('w/ö')}", None),
        ("DELETE", "/api/topic-permissions/v/bob", None),
        ("DELETE", "/api/permissions/v/bob", None),
        ("DELETE", "/api/vhosts/v", None),
        ("DELETE", "/api/users/bob", None),
    )
    api = Api(world)
    broker = world.start()
    for method, path, body in changes:
        before = everything(api)
        status, _ = api.ask(method, path, body)
        check(status in (201, 204), f"{method} {path}: status {status}")
        broker.process.kill()
        broker.wait_end()
        broker = world.start()
        check(everything(api) != before, f"{method} {path} is lost")
    names = sorted(vhost["name"] for vhost in api.get("/api/vhosts"))
    check_equal("vhosts in the end", names, ["/", "w/ö"])


@test
def changes_go_on_while_clients_come_and_go_and_the_broker_stops(world):
    broker = world.start()
    api = Api(world)
    for round_ in range(20):
        api.does(201, "PUT", "/api/vhosts/v")
        api.make_user("bob", vhost="v")
        connection, channel = connect(broker, "bob", "v")
        channel.declare(f"q{round_}", durable=True)
        api.does(204, "DELETE", "/api/users/bob" if round_ % 2 else "/api/vhosts/v")
        connection.refused(320, re.compile("is deleted"))
        api.does(204, "DELETE", "/api/vhosts/v" if round_ % 2 else "/api/users/bob")
    waiting = api.socket()  # a connection that asks nothing keeps nobody from stopping
    broker.stop()
    waiting.close()
