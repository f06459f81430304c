"""The engine in a child process: the screen stays quick, and survives whatever happens to the model."""

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from k2lite import wire
from k2lite.child_process import ChildProcess
from k2lite.engine_options import EngineOptions
from k2lite.events import AnswerEvent, EngineInfo, Finished, LoadProgress, Request
from quant.errors import K2Error

# -P keeps the folder the user happens to be in off the child's module path.
CHILD_COMMAND = (sys.executable, "-P", "-m", "k2lite.engine_child")

_STOP_LOOK_S = 0.05


class ProcessEngine:
    """Implements events.Engine over a child's pipes; K2Errors arrive as what they were.

    `load` and `generate` may be iterated in any one thread; `close` may be called from another one, and then ends
    them with EngineError. After the child has died `load` starts a new one. This module imports no torch.
    """

    def __init__(
        self, path: Path | None, options: EngineOptions | None = None, command: Sequence[str] = CHILD_COMMAND
    ) -> None:
        self._path = path
        self._options = options or EngineOptions()
        self._command = command
        self._child: ChildProcess | None = None
        self._info: EngineInfo | None = None
        self._number = 0

    def load(self) -> Iterator[LoadProgress]:
        """Start the child and load the model in it. Does nothing when a loaded child is alive."""
        if self._info is not None and self._child is not None and self._child.alive:
            return
        self.close()
        child = self._child = ChildProcess(self._command)
        path = None if self._path is None else str(self._path.absolute())
        try:
            child.send({"command": "load", "path": path, "options": asdict(self._options)})
            while not isinstance(answer := child.receive(), EngineInfo):
                assert isinstance(answer, LoadProgress), f"load was answered with {answer}"
                yield answer
        except BaseException:
            self.close()
            raise
        self._info = answer

    def info(self) -> EngineInfo:
        """Facts about the loaded model. Only after `load` has ended."""
        if self._info is None:
            raise RuntimeError("the engine is used before load() has ended, or after close()")
        return self._info

    def generate(self, request: Request, stop: threading.Event) -> Iterator[AnswerEvent]:
        """Answer `request`. When the iterator is left early, the child is stopped and waited for."""
        if self._child is None:
            raise RuntimeError("the engine is used before load() has ended, or after close()")
        self._number += 1
        answer = _RemoteAnswer(self._child, self._number, request)
        try:
            yield from answer.events(stop)
        finally:
            answer.abandon()

    def close(self) -> None:
        """End the child. Safe to call twice, and from another thread than the one that iterates."""
        if self._child is not None:
            self._child.end()
        self._child = self._info = None


class _RemoteAnswer:
    """One answer on its way through the pipe."""

    def __init__(self, child: ChildProcess, number: int, request: Request) -> None:
        self._child, self._number = child, number
        self._stop_sent = False
        self._ended = False
        child.send({"command": "generate", "number": number, "request": wire.encode_request(request)})

    def events(self, stop: threading.Event) -> Iterator[AnswerEvent]:
        """The events up to and with Finished. Raises K2Error."""
        while not self._ended:
            event = self._next(stop)
            if event is not None:
                yield event

    def abandon(self) -> None:
        """Nobody reads on: stop the child and take the rest out of the pipe, so that the next answer starts clean."""
        if self._ended:
            return
        stop = threading.Event()
        stop.set()
        try:
            while not self._ended:
                self._next(stop)
        except K2Error:
            self._ended = True  # the error would have belonged to the answer that nobody wants

    def _next(self, stop: threading.Event) -> AnswerEvent | None:
        """The next event, None when there was none for a moment; passes `stop` on."""
        if stop.is_set() and not self._stop_sent:
            self._child.send({"command": "stop", "number": self._number})
            self._stop_sent = True
        try:
            answer = self._child.receive(None if self._stop_sent else _STOP_LOOK_S)
        except queue.Empty:
            return None
        except K2Error:
            self._ended = True
            raise
        assert isinstance(answer, AnswerEvent), f"generate was answered with {answer}"
        self._ended = isinstance(answer, Finished)
        return answer
