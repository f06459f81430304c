"""A side's process as its parent sees it: asleep unless it is asked something."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any

from k2lite import wire
from k2lite.child_process import describe_exit
from k2lite.environment import child_environment
from quant.errors import EngineError, K2Error

_COMPLAINT_BYTES = 1 << 16
_THREAD_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


class Worker:
    """The process of one side (child.SIDES). A context manager: the process is killed when the block ends."""

    def __init__(self, side: str) -> None:
        environment = child_environment()
        if side == "llama.cpp":
            # Ours are set for OpenMP's threads to sleep at once, which would slow it down where nothing else runs.
            environment = {name: value for name, value in environment.items() if name not in _THREAD_VARIABLES}
        self._side = side
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `kill`
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "k2lite.bench.child", side, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then kills
            text=True,
        )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Wake the process, have it do `command`, stop it again. Raises its K2Error, EngineError when it is gone."""
        self._process.send_signal(signal.SIGCONT)
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            stdin.flush()
        except OSError as error:
            raise self._death() from error
        result = self._result()
        self._stop()
        return result

    def kill(self) -> None:
        """End the process, whatever it does. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # something is still in it
                _pipe(pipe).close()
        self._stderr.close()

    def _result(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            error = wire.decode(answer["error"])
            assert isinstance(error, K2Error)
            raise error
        result: dict[str, Any] = answer["result"]
        return result

    def _stop(self) -> None:
        """Stop the process, and wait until it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _death(self) -> EngineError:
        status = self._process.wait()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _COMPLAINT_BYTES))
        complaints = self._stderr.read().decode(errors="replace")
        if status == -signal.SIGKILL:
            error = EngineError(f"the process that measures {self._side} was killed, most often because memory ran out")
        else:
            error = EngineError(f"measuring {self._side}: {describe_exit(status, complaints.splitlines())}")
        error.add_note(complaints)
        return error


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "Popen was asked for this pipe"
    return pipe
