"""Runs the steps of a Python client program and prints their results.

A step is a function whose name is the step's, with underscores, and whose arguments the caller
gives. An alarm ends a step that hangs, so that the others still get their turn.
"""
import os
import signal
import sys
import time
import traceback

STEP_LIMIT_S = 30
RECOVERY_LIMIT_S = 90


def name(what):
    """A name for a queue or exchange that no other run uses."""
    return f"clients.{os.path.basename(sys.argv[0])}.{os.getpid()}.{what}"


def equal(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def wait_until(is_true, step, what, limit_s=20):
    """Calls step() until is_true(); step() is what lets the library read its socket."""
    deadline = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_s} s for {what}")
        step()


def wait_for_restart():
    """Tells the harness that the broker may die now; returns when it is back."""
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "restarted":
        raise AssertionError("the harness did not say that the broker is back")


def _alarm(*_):
    raise TimeoutError("the step took too long")


def run_step(step_name, function):
    """Runs one step and prints its line; returns whether it passed."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(RECOVERY_LIMIT_S if step_name == "recovery" else STEP_LIMIT_S)
    try:
        function()
    except Exception as error:
        program = os.path.abspath(sys.argv[0])
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if os.path.abspath(frame.filename) == program]
        text = f"{type(error).__name__}: {error} (line {lines[-1]})".replace("\n", " ")
        print(f"not ok {step_name}: {text}", flush=True)
        return False
    finally:
        signal.alarm(0)
    print(f"ok {step_name}", flush=True)
    return True


def run(module, prepare):
    """Runs the steps named on the command line, or all but recovery, in the order of the module.

    prepare(host, port, function) runs one step's function with what that library's steps want.
    """
    host, port, *wanted = sys.argv[1:]
    for step_name in wanted or [step for step in module["STEPS"] if step != "recovery"]:
        function = module[step_name.replace("-", "_")]
        run_step(step_name, lambda: prepare(host, int(port), function))
