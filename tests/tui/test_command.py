"""`k2lite chat` as a whole: a real terminal, a real child process, a tiny model."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from k2lite.cli.main import main
from tests.k2lite.fakes import write_chat_checkpoint

PATIENCE_S = 100  # starting takes a few seconds, on a busy machine a multiple of that
MARK = "CHAT_UNDER_TEST"  # a variable by which the processes of one chat are known


class TerminalSession:
    """A chat in a pseudo-terminal; `shown` is all that was drawn so far."""

    def __init__(self, model: Path) -> None:
        self.keyboard, theirs = pty.openpty()
        self.mark = f"{os.getpid()} {time.monotonic_ns()}"
        command = [sys.executable, "-m", "k2lite.cli.main", "chat", str(model), "--ctx", "256", "--seed", "1"]
        terminal = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        environment = os.environ | terminal | {MARK: self.mark, "K2LITE_HOME": str(model.parent / "home")}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.shown = b""

    def until(self, text: bytes) -> None:
        self._read_until(lambda: text in self.shown)

    def type(self, keys: str) -> None:
        os.write(self.keyboard, keys.encode())

    def end(self) -> int:
        """The exit status. Reads on meanwhile: a full terminal would keep the program from ending."""
        self._read_until(lambda: self.process.poll() is not None)
        return self.process.wait()

    def engines(self) -> list[int]:
        """Process ids of the engines that this chat has started, whoever is their parent now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it has ended meanwhile, or is somebody else's
                if "k2lite.engine_child" in process.cmdline() and process.environ().get(MARK) == self.mark:
                    found.append(process.pid)
        return found

    def until_all_engines_end(self) -> None:
        """One that was being started when the chat ended learns it from its closed stdin."""
        self._read_until(lambda: not self.engines())

    def _read_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.shown[-2000:]
            self._read(0.05)

    def _read(self, timeout_s: float) -> None:
        if select.select([self.keyboard], [], [], timeout_s)[0]:
            try:
                self.shown += os.read(self.keyboard, 65536)
            except OSError:  # Linux's way of saying that the other side is closed
                time.sleep(timeout_s)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chat_checkpoint(tmp_path_factory.mktemp("chat") / "tiny")
    assert main(["quantize", str(folder), str(folder.parent / "tiny.gguf"), "--type", "Q8_0"]) == 0
    return folder.parent / "tiny.gguf"


@pytest.fixture
def session(model: Path) -> Iterator[TerminalSession]:
    session = TerminalSession(model)
    yield session
    session.process.kill()
    session.process.wait()
    os.close(session.keyboard)


@pytest.mark.parametrize("key", ["\x03", "\x11"], ids=["ctrl-c", "ctrl-q"])
def test_a_question_is_answered_and_leaving_ends_the_child(session: TerminalSession, key: str) -> None:
    session.until(b"ready")
    (child,) = session.engines()
    session.type("hello there\r")
    session.until(b"tok/s")
    session.type(key)
    assert session.end() == 0
    assert not Path(f"/proc/{child}").exists()


def test_leaving_while_the_engine_starts_is_possible(session: TerminalSession) -> None:
    session.until(b"starting the engine")
    session.type("\x11")
    assert session.end() == 0
    session.until_all_engines_end()
