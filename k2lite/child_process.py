"""A child process that speaks JSON lines, and what is known about it when it dies."""

import contextlib
import json
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO, Any

from k2lite import wire
from k2lite.environment import child_environment
from k2lite.safe_text import one_line
from quant.errors import EngineError, K2Error

_EXIT_PATIENCE_S = 3.0
_STDERR_LINES = 200
_QUOTED_CHARACTERS = 200


class ChildProcess:
    """A running child process and the threads that empty its pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            # A session of its own: Ctrl-C in the terminal is for the parent, which decides what it means.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=child_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(f"the engine process could not be started: {error}") from error
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._complaints: deque[str] = deque(maxlen=_STDERR_LINES)
        self._readers = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._read_answers, "k2lite-answers"), (self._read_complaints, "k2lite-stderr"))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def send(self, command: dict[str, Any]) -> None:
        """Raises EngineError when the child is gone."""
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(wire.dump_line(command))
            stdin.flush()
        except (OSError, ValueError) as error:  # ValueError: closed by `end`
            raise self._death() from error

    def receive(self, timeout_s: float | None = None) -> wire.Answer:
        """The next answer. Raises it when it is an error, EngineError when the child is gone, queue.Empty."""
        line = self._lines.get(timeout=timeout_s)
        if line is None:
            self._lines.put(None)  # whoever asks next shall learn it too
            raise self._death()
        answer = wire.decode(json.loads(line))
        if isinstance(answer, K2Error):
            raise answer
        return answer

    def end(self) -> None:
        """Close the child's stdin, which it takes as the order to exit; kill it when it does not."""
        with contextlib.suppress(OSError):  # it is gone already, with something still in the pipe
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(_EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(_EXIT_PATIENCE_S)

    def _read_answers(self) -> None:
        for line in _pipe(self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def _read_complaints(self) -> None:
        self._complaints.extend(_pipe(self._process.stderr))

    def _death(self) -> EngineError:
        """Why the child is gone. All it wrote to stderr goes along as a note, for whoever wants the traceback."""
        try:
            status = self._process.wait(_EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return EngineError("the engine process closed its pipe but runs on: the next message starts a new one")
        self._readers[-1].join(_EXIT_PATIENCE_S)
        error = EngineError(f"{describe_exit(status, list(self._complaints))}: the next message starts it again")
        error.add_note("".join(self._complaints))
        return error


def describe_exit(status: int, complaints: Sequence[str]) -> str:
    """One line on how the engine process ended. A negative status is the signal that ended it."""
    if status == -signal.SIGKILL:
        return "the engine process was killed, most often because memory ran out (a smaller --ctx takes less)"
    if status < 0:
        return f"the engine process was ended by {signal.Signals(-status).name}"
    words = next((one_line(line) for line in reversed(complaints) if line.strip()), "without a word")
    return f"the engine process ended with status {status} ({words[:_QUOTED_CHARACTERS]})"


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "Popen was asked for this pipe"
    return pipe
