"""The libraries that programs use, over TLS. What is not installed is skipped."""
import os
import shutil
import subprocess

from process import TIME_LIMIT, Skip, check, test

HERE = os.path.dirname(os.path.abspath(__file__))
DEBIAN_PYTHON, GO_PATH = "/usr/bin/python3", "/usr/share/gocode"


def converse(world, command):
    """Both conversations of a client: by password and by certificate."""
    broker = world.start_secure(world.trusting("request"))
    path = world.authority.path
    done = subprocess.run([*command, str(broker.secure_address[1]), path("ca.pem"),
                           path("guest.pem"), path("guest.key")], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    check(done.stdout == "done\n", done.stdout + done.stderr)


@test
def pika_works(world):
    found = subprocess.run([DEBIAN_PYTHON, "-c", "import pika"], capture_output=True, check=False)
    if found.returncode != 0:
        raise Skip("the Python module pika is not there")
    converse(world, [DEBIAN_PYTHON, "-B", os.path.join(HERE, "pika_client.py")])


@test
def amqp091_go_works(world):
    if not shutil.which("go"):
        raise Skip("the program go is not there")
    if not os.path.isdir(os.path.join(GO_PATH, "src/github.com/rabbitmq/amqp091-go")):
        raise Skip("the Go package amqp091-go is not there")
    binary = os.path.join(world.folder, "client")
    subprocess.run(["go", "build", "-o", binary, os.path.join(HERE, "go", "client.go")],
                   check=True, env={**os.environ, "GO111MODULE": "off", "GOPATH": GO_PATH,
                                    "GOFLAGS": "", "GOCACHE": os.path.join(world.folder, "cache")})
    converse(world, [binary])
