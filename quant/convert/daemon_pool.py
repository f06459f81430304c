"""A pool of threads for calls into C that may be left alone when nobody wants their results any more.

The standard library's pool joins its threads even when the interpreter ends, and some encoders build their tables for
ten seconds at their first call: too long for somebody who pressed Ctrl-C. The calls must depend on nothing that the
caller closes.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class DaemonPool:
    """Runs calls in `threads` threads, in the order in which they come. Owned by one thread."""

    def __init__(self, threads: int) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run `call` when a thread is free."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def close(self, patience_s: float) -> None:
        """Drop what has not begun, and wait for what has, but no longer than `patience_s`."""
        with contextlib.suppress(queue.Empty):
            while (entry := self._calls.get_nowait()) is not None:
                entry[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            entry = self._calls.get()
            if entry is None:
                return
            future, call = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            # What the call holds must not stay in memory until there is another one.
            del entry, future, call
