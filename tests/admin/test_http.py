"""Every route does what it says, what is wrong is refused with its reason, and hostile input is harmless."""
import os
import socket
import stat
import subprocess
import sys
import time

from admin import Api, q, read_all
from process import TIME_LIMIT, Skip, check, check_equal, is_sanitized, needs_root, test

SHA256 = "m0FZiGOC7RTn92YBIgLfwb2Wdtj7NfMclpBI9GKkFBvNxnJH"
ALL = {"configure": ".*", "write": ".*", "read": ".*"}


@test
def users_are_made_shown_changed_and_deleted(world):
    world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/users/bob", {"password": "secret", "tags": "monitoring, policymaker"})
    bob = api.get("/api/users/bob")
    check_equal("tags", bob["tags"], ["monitoring", "policymaker"])
    check_equal("algorithm", bob["hashing_algorithm"], "scrypt")
    check(bob["password_hash"].startswith("$scrypt$"), "the password is not hashed with scrypt")
    check_equal("names", [user["name"] for user in api.get("/api/users")], ["bob", "guest"])
    api.does(204, "PUT", "/api/users/bob",
             {"password_hash": SHA256, "hashing_algorithm": "rabbit_password_hashing_sha256",
              "tags": ["administrator"]})
    bob = api.get("/api/users/bob")
    check_equal("hash", bob["password_hash"], SHA256)
    check_equal("tags", bob["tags"], ["administrator"])
    api.does(204, "PUT", "/api/users/bob", {"tags": ""})
    check_equal("hash without a password", api.get("/api/users/bob")["password_hash"], "")
    api.does(204, "DELETE", "/api/users/bob")
    api.refuses(404, "no user 'bob'", "GET", "/api/users/bob")
    api.refuses(404, "no user 'bob'", "DELETE", "/api/users/bob")


@test
def a_patch_changes_what_it_names_only(world):
    world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/users/bob", {"password_hash": SHA256, "tags": "monitoring"})
    api.does(204, "PATCH", "/api/users/bob", {"tags": ["management"]})
    check_equal("hash", api.get("/api/users/bob")["password_hash"], SHA256)
    api.does(204, "PATCH", "/api/users/bob", {"password": "new"})
    check_equal("tags", api.get("/api/users/bob")["tags"], ["management"])
    check_equal("who it is", api.does(200, "POST", "/api/users/bob/authenticate", {"password": "new"}),
                {"name": "bob", "tags": ["management"]})
    api.refuses(404, "no user 'eve'", "PATCH", "/api/users/eve", {"tags": ""})


@test
def a_password_is_right_or_not_and_nobody_learns_more(world):
    world.start()
    api = Api(world)
    api.make_user("bob", "secret")
    api.does(200, "POST", "/api/users/bob/authenticate", {"password": "secret"})
    answers = [api.does(401, "POST", f"/api/users/{name}/authenticate", {"password": "wrong"})
               for name in ("bob", "eve")]
    check_equal("the answer for who is not there", answers[1], answers[0])


@test
def what_is_wrong_with_a_user_is_told(world):
    world.start()
    api, user = Api(world), "/api/users/bob"
    api.refuses(400, "'tags' is missing", "PUT", user, {"password": "x"})
    api.refuses(400, "neither a text nor a list", "PUT", user, {"password": "x", "tags": 1})
    api.refuses(400, "without a comma", "PUT", user, {"password": "x", "tags": ["a,b"]})
    api.refuses(400, "too long", "PUT", user, {"password": "x", "tags": "t" * 1025})
    api.refuses(400, "'password' is not a text", "PUT", user, {"password": 1, "tags": ""})
    api.refuses(400, "password is empty", "PUT", user, {"password": "", "tags": ""})
    api.refuses(400, "longer than 1024", "PUT", user, {"password": "p" * 1025, "tags": ""})
    api.refuses(400, "both", "PUT", user, {"password": "x", "password_hash": "", "tags": ""})
    api.refuses(400, "no known form", "PUT", user, {"password_hash": "abc", "tags": ""})
    api.refuses(400, "none of rabbit_password_hashing_sha512", "PUT", user,
                {"password_hash": SHA256, "hashing_algorithm": "rabbit_password_hashing_sha512",
                 "tags": ""})
    api.refuses(400, "not supported", "PUT", user,
                {"password_hash": SHA256, "hashing_algorithm": "rabbit_password_hashing_md5",
                 "tags": ""})
    api.refuses(400, "1 to 255 bytes", "PUT", "/api/users/" + "n" * 256, {"password": "x", "tags": ""})
    check_equal("users", [one["name"] for one in api.get("/api/users")], ["guest"])


@test
def vhosts_are_made_shown_and_deleted(world):
    world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/vhosts/a%2Fb")
    api.does(204, "PUT", "/api/vhosts/a%2Fb", {"description": "again"})
    check_equal("names", [vhost["name"] for vhost in api.get("/api/vhosts")], ["/", "a/b"])
    check_equal("name", api.get("/api/vhosts/a%2fb")["name"], "a/b")
    api.does(204, "DELETE", "/api/vhosts/a%2Fb")
    for method in ("GET", "DELETE"):
        api.refuses(404, "no vhost 'a/b'", method, "/api/vhosts/a%2Fb")
    api.refuses(400, "1 to 255 bytes", "PUT", "/api/vhosts/" + "v" * 256)


@test
def who_wants_only_new_things_changes_none(world):
    world.start()
    api = Api(world)
    for path, body in (("/api/users/guest", {"password": "x", "tags": ""}), ("/api/vhosts/%2F", None)):
        status, _ = api.ask("PUT", path, body, {"If-None-Match": "*"})
        check_equal("status", status, 412)
    api.does(200, "POST", "/api/users/guest/authenticate", {"password": "guest"})


@test
def permissions_are_set_shown_and_cleared(world):
    world.start()
    api = Api(world)
    api.does(201, "PUT", "/api/users/bob", {"password": "x", "tags": ""})
    api.does(201, "PUT", "/api/permissions/%2F/bob", ALL)
    api.does(204, "PUT", "/api/permissions/%2F/bob", {"configure": "^c", "write": "", "read": "r$"})
    bobs = {"user": "bob", "vhost": "/", "configure": "^c", "write": "", "read": "r$"}
    check_equal("his", api.get("/api/permissions/%2F/bob"), bobs)
    check_equal("his in all vhosts", api.get("/api/users/bob/permissions"), [bobs])
    everybody = [bobs, {"user": "guest", "vhost": "/", **ALL}]
    check_equal("all", api.get("/api/permissions"), everybody)
    check_equal("of the vhost", api.get("/api/vhosts/%2F/permissions"), everybody)
    api.does(204, "DELETE", "/api/permissions/%2F/bob")
    for method in ("GET", "DELETE"):
        api.refuses(404, "no such permissions", method, "/api/permissions/%2F/bob")


@test
def topic_permissions_are_set_shown_and_cleared(world):
    world.start()
    api, path = Api(world), "/api/topic-permissions/%2F/guest"
    api.does(201, "PUT", path, {"exchange": "amq.topic", "write": "^a", "read": ""})
    api.does(204, "PUT", path, {"exchange": "amq.topic", "write": "^b", "read": ""})
    api.does(201, "PUT", path, {"exchange": "other", "write": "", "read": "x"})
    one = {"user": "guest", "vhost": "/", "exchange": "amq.topic", "write": "^b", "read": ""}
    two = {"user": "guest", "vhost": "/", "exchange": "other", "write": "", "read": "x"}
    for listing in (path, "/api/topic-permissions", "/api/vhosts/%2F/topic-permissions",
                    "/api/users/guest/topic-permissions"):
        check_equal(listing, api.get(listing), [one, two])
    api.does(204, "DELETE", path + "/amq.topic")
    api.refuses(404, "no such permissions", "DELETE", path + "/amq.topic")
    check_equal("what is left", api.get(path), [two])
    api.does(204, "DELETE", path)
    check_equal("nothing is left", api.get(path), [])


@test
def what_is_wrong_with_permissions_is_told(world):
    world.start()
    api = Api(world)
    for kind, body in (("permissions", ALL), ("topic-permissions", {"exchange": "e", **ALL})):
        api.refuses(404, "no vhost 'none'", "PUT", f"/api/{kind}/none/guest", body)
        api.refuses(404, "no user 'none'", "PUT", f"/api/{kind}/%2F/none", body)
        api.refuses(404, "no vhost 'none'", "GET", f"/api/vhosts/none/{kind}")
        api.refuses(404, "no user 'none'", "GET", f"/api/users/none/{kind}")
        api.refuses(400, "'write' is missing", "PUT", f"/api/{kind}/%2F/guest",
                    {key: value for key, value in body.items() if key != "write"})
        api.refuses(400, "missing closing parenthesis", "PUT", f"/api/{kind}/%2F/guest",
                    {**body, "read": "("})
    api.refuses(400, "'exchange' is missing", "PUT", "/api/topic-permissions/%2F/guest", ALL)
    check_equal("unchanged", api.get("/api/permissions/%2F/guest"),
                {"user": "guest", "vhost": "/", **ALL})


@test
def what_the_configuration_file_declares_is_changed_there(world):
    world.start(f"vhosts: [/orders]\nusers:\n  - name: shop\n    password_hash: {SHA256}\n    permissions:\n"
                "      - {vhost: /orders, configure: '.*', write: '.*', read: '.*'}\n")
    api, told = Api(world), "declared by the configuration file"
    shop = api.get("/api/users/shop")
    check_equal("is_from_file", shop["is_from_file"], True)
    for method, path, body in (
            ("PUT", "/api/users/shop", {"password": "y", "tags": ""}),
            ("PATCH", "/api/users/shop", {"tags": "administrator"}),
            ("DELETE", "/api/users/shop", None),
            ("PUT", "/api/permissions/%2Forders/shop", ALL),
            ("DELETE", "/api/permissions/%2Forders/shop", None),
            ("PUT", "/api/topic-permissions/%2Forders/shop", {"exchange": "e", **ALL}),
            ("DELETE", "/api/vhosts/%2Forders", None)):
        api.refuses(409, told, method, path, body)
    check_equal("the user", api.get("/api/users/shop"), shop)
    check_equal("vhost", api.get("/api/vhosts/%2Forders")["name"], "/orders")


@test
def a_vhost_that_the_file_no_longer_names_can_be_deleted_after_a_reload(world):
    broker = world.start("vhosts: [/orders]\n")
    world.configure("")
    broker.reload()
    Api(world).does(204, "DELETE", "/api/vhosts/%2Forders")


@test
def the_list_of_routes_is_true(world):
    """Each route is there for its method, and no other method is."""
    world.start()
    api = Api(world)
    routes = api.get("/api")
    check(len(routes) > 20, "there are routes missing")
    for route in routes:
        check(route["summary"], "a route has no summary")
        path = (route["path"].replace("{user}", "nobody").replace("{vhost}", "nowhere")
                .replace("{exchange}", "nothing"))
        status, answer = api.ask(route["method"], path, "{}" if route["method"] != "GET" else None)
        check(status != 405 and "no such path" not in str(answer),
              f"{route['method']} {path} is not there: {status}")
    for path in {route["path"] for route in routes}:
        status, _ = api.ask("BREW", path.replace("{", "").replace("}", ""))
        check_equal(f"status of another method for {path}", status, 405)
    check_equal("who asks", api.get("/api/whoami")["name"], f"uid:{os.geteuid()}")
    for path in ("/", "/api/", "/apix", "/api/users/", "/api/users/guest/", "/api/users//permissions",
                 "/api/nodes", "//api/users"):
        api.refuses(404, "no such path", "GET", path)


@test
def a_head_request_is_answered_without_content(world):
    world.start()
    answer = Api(world).raw(b"HEAD /api/users HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    check(answer.startswith(b"HTTP/1.1 200 "), f"got {answer!r}")
    check(answer.endswith(b"\r\n\r\n"), f"there is content: {answer!r}")


# --- Hostile input --------------------------------------------------------------------------------


@test
def any_name_that_is_text_comes_back_as_it_was(world):
    world.start()
    api = Api(world)
    names = ["..", ".", "../../etc/passwd", "a b+c", "100%", "Jürgen ☃", "a\nb\t\x1b[31m\x7f", "'\"\\",
             "%2F", "a?b#c", "n" * 255]
    for name in names:
        api.does(201, "PUT", f"/api/users/{q(name)}", {"tags": ""})
        check_equal("name", api.get(f"/api/users/{q(name).replace('.', '%2e')}")["name"], name)
    check_equal("names", sorted(user["name"] for user in api.get("/api/users")),
                sorted(names + ["guest"]))
    check(all("\x1b" not in line for line in world.brokers[0].log.all()),
          "a name has sent the log's terminal an order")


@test
def paths_that_are_none_are_refused(world):
    world.start()
    api = Api(world)
    for bad in ("%", "%2", "%zz", "%00", "a%00b", "%ff", "%c0%af", "%ed%a0%80"):
        api.refuses(400, "not well-formed", "GET", f"/api/users/{bad}")
    api.refuses(414, "too long", "GET", "/api/users/" + "a" * 5000)
    api.refuses(414, "too long", "GET", "/a" * 20)
    check_equal("guest", api.get("/api/users/%67uest")["name"], "guest")


@test
def bodies_that_are_none_are_refused(world):
    world.start()
    api = Api(world)
    for body, reason in (("{", "not JSON"), ("[]", "not an object"), ("1", "not JSON"),
                         ('{"tags":"","tags":"x"}', "duplicate"), ("[" * 30000, "depth"),
                         ('{"a":' * 10000, "depth"), ('{"tags":"\\u0000"}', "not JSON"),
                         (b'{"tags":"\xff"}', "not JSON"), ('{"tags":""} x', "not JSON")):
        api.refuses(400, reason, "PUT", "/api/users/bob", body)
    check_equal("users", [user["name"] for user in api.get("/api/users")], ["guest"])


@test
def a_body_that_is_too_large_is_refused_however_it_comes(world):
    world.start()
    api = Api(world)
    check(b" 413 " in api.raw(b"PUT /api/users/bob HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                              b"Content-Length: 1000000000000\r\n\r\n"), "it was not refused")
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = api.raw(b"PUT /api/users/bob HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n" + piece * 3 + b"0\r\n\r\n")
    check(b" 413 " in answer, f"got {answer!r}")
    body = b'{"tags":"' + b" " * (65536 - 11) + b'"}'
    check_equal("size", len(body), 65536)
    api.does(201, "PUT", "/api/users/bob", body)


@test
def requests_that_are_none_end_their_connection_only(world):
    broker = world.start()
    api = Api(world)
    for data in (b"\x00" * 1000, b"AMQP\x00\x00\x09\x01", b"GET\r\n\r\n", b"GET /api HTTP/9.9\r\n\r\n",
                 b"A" * 100000, b"GET /api HTTP/1.1\r\n" + b"X: " + b"y" * 100000 + b"\r\n\r\n",
                 b"PUT /api/users/b HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                 b"PUT /api/users/b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
        answer = api.raw(data)
        check(b" 200 " not in answer and b" 201 " not in answer, f"{data[:40]!r}: {answer!r}")
    check_equal("users", [user["name"] for user in api.get("/api/users")], ["guest"])
    broker.check_serves()


def feed_until_closed(connection):
    """Sends a space now and then until the broker closes; Failure if it does not."""
    end = time.monotonic() + 2 * TIME_LIMIT
    connection.settimeout(1.0)
    try:
        while time.monotonic() < end:
            connection.sendall(b" ")
            try:
                if connection.recv(1000) == b"":
                    return
            except socket.timeout:
                continue
    except (BrokenPipeError, ConnectionResetError):
        return
    check(False, "a request may take for ever")


@test
def who_sends_nothing_or_slowly_does_not_keep_others_waiting_and_is_closed(world):
    world.start()
    api = Api(world)
    silent, slow = api.socket(), api.socket()
    slow.sendall(b"PUT /api/users/bob HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    check_equal("users", [user["name"] for user in api.get("/api/users")], ["guest"])
    feed_until_closed(slow)
    check_equal("what the silent one gets", read_all(silent), b"")


# --- Who may ask ----------------------------------------------------------------------------------


@test
def the_socket_is_for_its_user_alone_and_goes_with_the_broker(world):
    broker = world.start()
    path = Api(world).path
    check_equal("mode", stat.S_IMODE(os.stat(path).st_mode), 0o600)
    broker.stop()
    check(not os.path.exists(path), "the socket is still there")


@test
def a_socket_of_a_broker_that_died_is_replaced(world):
    world.start().kill()
    check(os.path.exists(Api(world).path), "a broker that was killed has left nothing")
    world.start()
    check_equal("users", len(Api(world).get("/api/users")), 1)


@test
def the_place_of_another_is_not_taken(world):
    path = os.path.join(world.folder, "s")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(1)
        world.configure(f"admin: {{socket: {path}}}\n")
        broker = world.launch()
        broker.log.wait("another process listens there")
        check_equal("exit status", broker.wait_end(), 1)
    os.unlink(path)
    with open(path, "w", encoding="ascii") as file:
        file.write("precious")
    broker = world.launch()
    broker.log.wait("there is something else at this place")
    check_equal("exit status", broker.wait_end(), 1)
    with open(path, encoding="ascii") as file:
        check_equal("content", file.read(), "precious")


@test
def a_path_that_is_too_long_for_a_socket_is_told(world):
    world.configure(f"admin: {{socket: /tmp/{'x' * 200}}}\n")
    broker = world.launch()
    broker.log.wait("admin.socket: the path has 205 bytes, and the system takes 107")
    check_equal("exit status", broker.wait_end(), 1)


@test
def without_a_name_there_is_no_socket(world):
    broker = world.start('admin: {socket: ""}\n')
    broker.check_serves()
    check(not os.path.exists(Api(world).path), "there is a socket")


def ask_as(uid, path):
    """-> what the broker answers to a process of that user."""
    code = ("import os, socket, sys\n"
            f"os.setgid({uid}); os.setuid({uid})\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "try:\n    s.connect(sys.argv[1])\nexcept PermissionError:\n    sys.exit('no permission')\n"
            "s.sendall(b'GET /api/users HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n"
            "data = b''\n"
            "while True:\n    piece = s.recv(65536)\n    data += piece\n    if not piece: break\n"
            "sys.stdout.write(data.decode())\n")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True,
                          timeout=TIME_LIMIT, check=False)
    return done.stdout + done.stderr


@test
def a_process_of_another_user_is_refused_by_the_file_and_by_its_credentials(world):
    needs_root()
    world.start("user: '12345'\ngroup: '12345'\n")
    path = Api(world).path
    check("no permission" in ask_as(54321, path), "the files let a stranger connect")
    os.chmod(world.data_dir, 0o755)
    os.chmod(path, 0o666)
    answer = ask_as(54321, path)
    check(" 403 " in answer and "guest" not in answer, f"a stranger gets {answer!r}")
    check(" 200 " in ask_as(12345, path), "the broker's own user is refused")
    check(" 200 " in ask_as(0, path), "root is refused")


@test
def the_thread_of_the_api_works_under_the_filter_of_system_calls(world):
    if is_sanitized(world.path):
        raise Skip("a build with sanitizers has no filter")
    broker = world.start("seccomp: true\n")
    if broker.log.has("system calls are not filtered"):
        raise Skip("this system or build has no filter for system calls")
    api = Api(world)
    connections = [api.socket() for _ in range(8)]
    api.make_user("bob")
    api.does(201, "PUT", "/api/vhosts/v")
    api.does(204, "DELETE", "/api/vhosts/v")
    check_equal("mode of the filter (2: filter)", set(broker.thread_status("Seccomp")), {"2"})
    for connection in connections:
        connection.close()


@test
def changes_are_logged_with_who_made_them_and_without_secrets(world):
    broker = world.start()
    Api(world).make_user("bob", "hunter2")
    line = broker.log.wait(r"administration .*path=/api/users/bob.*").group(0)
    check("method=PUT" in line and "status=201" in line and f"uid={os.geteuid()}" in line,
          f"got {line!r}")
    check(not broker.log.has("hunter2"), "a password is in the log")
