"""The tasks of celery_client.py, and the worker that runs them.

As a program: celery_tasks.py BROKER RESULTS PREFIX WORKER QUEUE runs one worker of that name on one
queue, until SIGTERM.
"""
import itertools
import sys

from celery import Celery
from kombu import Queue

MAX_PRIORITY = 9
turns = itertools.count()


def make_app(broker, results, prefix):
    """An application whose queues and exchanges all begin with prefix."""
    app = Celery(prefix, broker=broker, backend=results, set_as_current=False)
    app.conf.update(
        control_exchange=f"{prefix}.control",
        event_exchange=f"{prefix}.events",
        event_queue_prefix=f"{prefix}.events",
        task_default_queue=f"{prefix}.tasks",
        task_queues=[Queue(f"{prefix}.tasks"), Queue(f"{prefix}.chords"),
                     Queue(f"{prefix}.ranked", max_priority=MAX_PRIORITY)],
        task_create_missing_queues=False,
        broker_transport_options={"confirm_publish": True},
        # One message at a time: tasks with an ETA must raise the prefetch for others to pass.
        worker_prefetch_multiplier=1,
        # Heartbeats are on, and looked at ten times a second: a worker passes on a task whose ETA
        # has come, or a new prefetch, only when it wakes for something else.
        broker_heartbeat=10,
        broker_heartbeat_checkrate=100,
    )

    @app.task(name="add")
    def add(first, second):
        return first + second

    @app.task(name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="fail")
    def fail(text):
        raise ValueError(text)

    @app.task(name="flaky", bind=True, max_retries=3)
    def flaky(self, failures):
        if self.request.retries < failures:
            raise self.retry(countdown=0.1)
        return self.request.retries

    @app.task(name="turn")
    def turn():
        """How many calls came before this one."""
        return next(turns)

    return app


def main(broker, results, prefix, worker, queue):
    make_app(broker, results, prefix).worker_main(
        ["worker", "--hostname", worker, "--queues", queue, "--concurrency", "1",
         "--task-events", "--loglevel", "WARNING"])


if __name__ == "__main__":
    main(*sys.argv[1:])
