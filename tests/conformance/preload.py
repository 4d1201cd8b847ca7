"""Libraries that stand between a broker under test and its C library: a slow disk, another clock."""
import os
import shutil
import subprocess

from harness import Skip


def environment(folder, source, **variables):
    """Builds that C file into the folder. -> what the library needs of a broker's environment, with
    these variables; Skip: there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Skip("there is no C compiler")
    library = os.path.join(folder, os.path.basename(source)[:-2] + ".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-pthread", "-o", library, source,
                    "-ldl"], check=True)
    # The sanitizers want to be loaded first, and do well without.
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "verify_asan_link_order=0",
            **{name: str(value) for name, value in variables.items()}}


SLOW_DISK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow_disk.c")
