"""The programs' --help and their manual pages name the same options."""
import os
import re
import subprocess

from process import TIME_LIMIT, check_equal, test

MAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "man")


def options_of_help(program):
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=TIME_LIMIT)
    check_equal("exit status", done.returncode, 0)
    return set(re.findall(r"^ +(?:-\w, )?--([a-z-]+)", done.stdout, re.MULTILINE))


def options_of_page(name):
    """Those that have a paragraph of their own."""
    with open(os.path.join(MAN, name), encoding="utf-8") as file:
        return set(re.findall(r"^\.It (?:Fl \w , )?Fl -([a-z-]+)", file.read(), re.MULTILINE))


@test
def every_option_is_in_the_manual_and_in_the_help(world):
    for program, page in [(world.path, "whippetd.8"),
                          (os.path.join(os.path.dirname(world.path), "whippet-perf"),
                           "whippet-perf.1")]:
        check_equal(f"options in {page}", sorted(options_of_page(page)),
                    sorted(options_of_help(program)))
