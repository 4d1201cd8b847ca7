#!/usr/bin/env python3
"""Many idle connections, as a process has descriptors for only so many.

    crowd.py HOST PORT COUNT

Says "open" when all have logged in, and "left" when its input ends, without a word to the broker.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "conformance"))
sys.dont_write_bytecode = True

from attack import descriptors_for  # noqa: E402  (found through the line above)
from attacks_handshake import HANDSHAKE, begin_many, wait_open  # noqa: E402
from client import Failure  # noqa: E402
from harness import Skip  # noqa: E402


def main():
    host, port, count = sys.argv[1:]
    descriptors_for(int(count))
    sockets = begin_many((host, int(port)), int(count), HANDSHAKE)
    wait_open(sockets)
    print("open", flush=True)
    sys.stdin.read()
    print("left", flush=True)
    for end in sockets:
        end.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, Skip, OSError) as error:
        print(f"crowd: {error}", flush=True)
        sys.exit(1)
