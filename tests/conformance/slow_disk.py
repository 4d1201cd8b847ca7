"""A disk that is slow or fails, for a broker under test: slow_disk.c, loaded before its libraries."""
import os
import shutil
import subprocess

from harness import Skip

HERE = os.path.dirname(os.path.abspath(__file__))


def environment(folder, **variables):
    """Builds it into the folder. -> what it needs of a broker's environment, with these variables;
    Skip: there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Skip("there is no C compiler")
    library = os.path.join(folder, "slow_disk.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-pthread", "-o", library,
                    os.path.join(HERE, "slow_disk.c")], check=True)
    # The sanitizers want to be loaded first, and do well without.
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "verify_asan_link_order=0",
            **{name: str(value) for name, value in variables.items()}}
