"""Celery: an application, its workers, their remote control, events and results over AMQP.

The worker of most steps keeps its results in rpc:// (a queue of the caller). rpc:// has no chords,
so a second worker, with its results in files, runs these; its broker is the same.
"""
import os
import signal
import subprocess
import sys
import tempfile
import time

from celery import chain, chord, group, uuid
from celery.exceptions import TaskRevokedError
from celery.result import ResultSet

from celery_tasks import MAX_PRIORITY, make_app
from feature import equal, name, run, wait_for_restart, wait_until

STEPS = """inspect task task-error retry eta group chain chord revoke priority events
recovery""".split()

WAIT_S = 20
START_LIMIT_S = 60


class Worker:
    """A worker process, and the application through which it is used."""

    def __init__(self, broker, results, queue):
        self.broker, self.results = broker, results
        self.queue = f"{name('celery')}.{queue}"
        self.name = f"{queue}@{os.getpid()}"
        self.app = self.make_app()
        tasks = os.path.join(os.path.dirname(os.path.abspath(__file__)), "celery_tasks.py")
        self.process = subprocess.Popen([sys.executable, "-B", tasks, broker, results,
                                         name("celery"), self.name, self.queue],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def make_app(self):
        return make_app(self.broker, self.results, name("celery"))

    def inspect(self, timeout=WAIT_S):
        return self.app.control.inspect(destination=[self.name], timeout=timeout)

    def send(self, task, *arguments, **options):
        return self.app.tasks[task].apply_async(arguments, **{"queue": self.queue, **options})

    def call(self, task, *arguments, **options):
        return self.send(task, *arguments, **options).get(timeout=WAIT_S)

    def signature(self, task, *arguments):
        return self.app.tasks[task].s(*arguments).set(queue=self.queue)

    def wait_for_start(self):
        def alive():
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with status {self.process.returncode}")
        wait_until(lambda: self.inspect(timeout=0.5).ping(), alive, "the worker", START_LIMIT_S)

    def wait_for_end(self, wanted_status):
        equal(self.process.wait(WAIT_S), wanted_status, f"exit status of {self.name}")

    def clean_up(self):
        """Deletes what Celery leaves behind on purpose: durable queues and their exchanges."""
        conf = self.app.conf
        with self.make_app().connection_for_write() as connection:
            channel = connection.default_channel
            for queue in conf.task_queues:
                channel.queue_delete(queue.name)
                channel.exchange_delete(queue.name)
            for exchange in (f"{conf.control_exchange}.pidbox", f"reply.{conf.control_exchange}.pidbox",
                             conf.event_exchange):
                channel.exchange_delete(exchange)


class Workers:
    """What a step gets: the worker of most steps, and that of chords."""

    def __init__(self, host, port, directory):
        broker = f"amqp://guest:guest@{host}:{port}//"
        self.main = Worker(broker, "rpc://", "tasks")
        self.chords = Worker(broker, f"file://{directory}", "chords")
        self.all = [self.main, self.chords]
        self.lost_a_connection = False

    def __enter__(self):
        for worker in self.all:
            worker.wait_for_start()
        return self

    def __exit__(self, *_):
        # Celery's orderly end may wait for ever once a connection was lost, with RabbitMQ as well: its
        # pool polls its processes for results that do not come (celery.concurrency.asynpool).
        end = signal.SIGKILL if self.lost_a_connection else signal.SIGTERM
        for worker in self.all:
            worker.process.send_signal(end)
        for worker in self.all:
            worker.wait_for_end(-end if end == signal.SIGKILL else 0)
        self.main.clean_up()


def inspect(workers):
    """Remote control: a broadcast to the workers, and their answers."""
    main = workers.main
    equal(main.inspect().ping(), {main.name: {"ok": "pong"}}, "answer")
    queues = main.inspect().active_queues()[main.name]
    equal([queue["name"] for queue in queues], [main.queue], "queues")
    everyone = main.app.control.ping(timeout=WAIT_S, limit=2)
    equal(sorted(each for answer in everyone for each in answer),
          sorted(worker.name for worker in workers.all), "workers that answer a broadcast")


def task(workers):
    result = workers.main.send("add", 2, 3)
    equal((result.get(timeout=WAIT_S), result.state), (5, "SUCCESS"), "result")


def task_error(workers):
    result = workers.main.send("fail", "as it should")
    try:
        result.get(timeout=WAIT_S)
    except ValueError as error:
        equal((str(error), result.state), ("as it should", "FAILURE"), "error")
    else:
        raise AssertionError("no error came back")


def retry(workers):
    """The worker publishes the task again, with an ETA, as often as it fails."""
    equal(workers.main.call("flaky", 2), 2, "retries")


def eta(workers):
    """The worker holds a task unacknowledged until its time, and raises its prefetch by one."""
    workers.main.send("add", 1, 1, countdown=600)
    equal([workers.main.call("add", number, 0) for number in range(3)], [0, 1, 2],
          "tasks that pass the one that waits")
    start = time.monotonic()
    equal(workers.main.call("add", 2, 2, countdown=1), 4, "result")
    waited = time.monotonic() - start
    assert waited >= 0.99, f"ran {waited} s after it was sent"


def group_(workers):
    parts = group(workers.main.signature("add", number, number) for number in range(20))
    equal(parts.apply_async().get(timeout=WAIT_S), list(range(0, 40, 2)), "results")


def chain_(workers):
    parts = chain(workers.main.signature("add", 1, 2), workers.main.signature("add", 10),
                  workers.main.signature("add", 100))
    equal(parts.apply_async().get(timeout=WAIT_S), 113, "result")


def chord_(workers):
    """The results come from files, but what joins them is a task that is sent again and again."""
    app = workers.chords.app
    app.tasks["celery.chord_unlock"].queue = workers.chords.queue
    parts = chord([workers.chords.signature("add", number, number) for number in range(10)],
                  workers.chords.signature("total"), app=app)
    equal(parts.apply_async().get(timeout=WAIT_S), 90, "result")


def revoke(workers):
    """Remote control reaches the worker before the task does."""
    main, identity = workers.main, uuid()
    answer = main.app.control.revoke(identity, reply=True, destination=[main.name],
                                     timeout=WAIT_S)
    assert list(answer[0]) == [main.name] and "ok" in answer[0][main.name], answer
    result = main.send("add", 1, 1, task_id=identity)
    try:
        result.get(timeout=WAIT_S)
    except TaskRevokedError:
        equal(result.state, "REVOKED", "state")
    else:
        raise AssertionError("the revoked task was run")


def priority(workers):
    """Tasks that wait in a queue with priorities before a worker is told to consume from it."""
    main = workers.main
    ranked = f"{name('celery')}.ranked"
    levels = [3, 0, MAX_PRIORITY, 5, 3]
    results = [main.send("turn", queue=ranked, priority=level) for level in levels]
    answer = main.app.control.add_consumer(ranked, destination=[main.name], reply=True,
                                           timeout=WAIT_S)
    assert "ok" in answer[0][main.name], answer
    # Each result is the turn of its task: the lower, the earlier.
    turns = ResultSet(results, app=main.app).get(timeout=WAIT_S)
    equal([turn - min(turns) for turn in turns], [2, 4, 0, 1, 3], "turns")
    main.app.control.cancel_consumer(ranked, destination=[main.name], reply=True, timeout=WAIT_S)
    queues = main.inspect().active_queues()[main.name]
    equal([queue["name"] for queue in queues], [main.queue], "queues after the cancel")


def events(workers):
    """What monitors like Flower see: a topic exchange, and a queue with a time to live."""
    main = workers.main
    seen = []
    with main.app.connection_for_read() as connection:
        receiver = main.app.events.Receiver(connection, handlers={"*": seen.append})
        with receiver.consumer_context(wakeup=False) as (connected, _, _):
            result = main.send("add", 4, 4)

            def types():
                return [event["type"] for event in seen if event.get("uuid") == result.id]
            wait_until(lambda: "task-succeeded" in types(),
                       lambda: connected.drain_events(timeout=WAIT_S), "the task's events")
    equal(result.get(timeout=WAIT_S), 8, "result")
    equal(types(), ["task-received", "task-started", "task-succeeded"], "events")


def recovery(workers):
    """The workers live on, and run what was sent while they were not connected."""
    main = workers.main
    equal(main.call("add", 1, 2), 3, "result before")
    wait_for_restart()
    workers.lost_a_connection = True
    main.app = main.make_app()
    equal(main.send("add", 3, 4).get(timeout=3 * WAIT_S), 7, "result after")
    wait_until(lambda: main.inspect(timeout=1).ping(), lambda: None, "remote control", 2 * WAIT_S)
    equal(main.call("flaky", 1), 1, "retries after")
    equal([worker.process.poll() for worker in workers.all], [None, None], "status of the workers")


# These would hide what is imported from celery.
STEP_FUNCTIONS = {**globals(), "group": group_, "chain": chain_, "chord": chord_}


def main():
    host, port = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="whippet-celery.") as directory:
        with Workers(host, int(port), directory) as workers:
            run(STEP_FUNCTIONS, lambda host, port, step: step(workers))


if __name__ == "__main__":
    main()
