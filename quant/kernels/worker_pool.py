"""A few threads that share a list of tasks and wait without burning a core between two lists."""

import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

State = TypeVar("State")
Task = Callable[[State], None]


class _Job(Generic[State]):
    """One list of tasks. Whoever is free takes the next; `next` on a count is atomic under the interpreter lock."""

    def __init__(self, tasks: Sequence[Task[State]]) -> None:
        self._tasks = tasks
        self._numbers = itertools.count()
        self.reports: SimpleQueue[Exception | None] = SimpleQueue()

    def take(self) -> Task[State] | None:
        """The next task, None when all are taken."""
        number = next(self._numbers)
        return self._tasks[number] if number < len(self._tasks) else None


class WorkerPool(Generic[State]):
    """`threads` threads in all: the calling one works too. Each owns one state, made by `make_state`.

    One list runs at a time; a second caller waits. The threads end at `close`, or when the pool is dropped.
    """

    def __init__(self, threads: int, make_state: Callable[[], State], name: str) -> None:
        self._jobs: SimpleQueue[_Job[State] | None] = SimpleQueue()
        self._turn = threading.Lock()
        self._callers_state = make_state()
        self.threads = tuple(
            threading.Thread(target=_serve, args=(self._jobs, make_state()), name=f"{name}-{number}", daemon=True)
            for number in range(1, threads)
        )
        for thread in self.threads:
            thread.start()
        self._end = weakref.finalize(self, _end, self._jobs, self.threads)

    def run(self, tasks: Sequence[Task[State]], extra_threads: int) -> None:
        """Call every task once with the state of the thread that runs it; return when all have ended.

        At most `extra_threads` threads are woken beside the calling one. An error in a task is raised here, after the
        others have ended. When the calling thread itself is interrupted, tasks that run go on to their end: they
        must hold what they use.
        """
        self.check_open()
        if not tasks:
            return
        with self._turn:
            job = _Job(tasks)
            for _ in range(min(extra_threads, len(self.threads), len(tasks) - 1)):
                self._jobs.put(job)
            reports: list[Exception | None] = []
            while (task := job.take()) is not None:
                reports.append(_attempt(task, self._callers_state))
            while len(reports) < len(tasks):
                reports.append(job.reports.get())
        for error in reports:
            if error is not None:
                raise error

    def check_open(self) -> None:
        """Raise RuntimeError after `close`."""
        if not self._end.alive:
            raise RuntimeError("these kernels are closed")

    def close(self) -> None:
        """End the threads and wait for them. Safe to call twice."""
        self._end()


def _serve(jobs: "SimpleQueue[_Job[State] | None]", state: State) -> None:
    """A thread's life: not a method, so that the thread does not keep the pool alive."""
    while (job := jobs.get()) is not None:
        while (task := job.take()) is not None:
            job.reports.put(_attempt(task, state))
        del job, task


def _attempt(task: Task[State], state: State) -> Exception | None:
    """Run a task; its error is returned, for the caller's thread. Interruptions go through."""
    try:
        task(state)
    except Exception as error:
        return error
    return None


def _end(jobs: "SimpleQueue[_Job[State] | None]", threads: Sequence[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # the collector may drop the pool inside a worker
            thread.join()
