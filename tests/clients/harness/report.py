"""Prints one line for every result and counts them."""
import sys


class Report:
    def __init__(self):
        self.passes = 0
        self.failures = 0

    def passed(self, client, step):
        self.passes += 1
        print(f"ok {client}: {step}", flush=True)

    def failed(self, client, step, reason):
        self.failures += 1
        first, *rest = reason.strip().splitlines() or ["no reason given"]
        print(f"not ok {client}: {step}: {first}", flush=True)
        for line in rest:
            print(f"    {line}", flush=True)

    def skipped(self, client, missing):
        print(f"skip {client}: {missing}", flush=True)

    def finish(self):
        """Prints the totals; returns the exit status. A run without a single result has failed."""
        if self.passes + self.failures == 0:
            print("not one step was run", file=sys.stderr)
        print(f"{self.passes} passed, {self.failures} failed", flush=True)
        return 0 if self.failures == 0 and self.passes > 0 else 1
