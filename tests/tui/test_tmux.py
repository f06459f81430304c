"""The whole chat in a real terminal, by hand as it were: tmux types and reads the screen. Needs tmux."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE_S = 240
ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """A tmux server of its own with one window of 80 x 24."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._socket = home / "tmux"

    def start(self, *arguments: str) -> None:
        """Start the chat with the demo model."""
        variables = {"K2LITE_HOME": str(self._home), "PYTHONPATH": str(ROOT), "TERM": "screen-256color"}
        chat = [sys.executable, "-m", "k2lite.cli.main", "chat", *arguments]
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), *chat]
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-c", str(self._home), *command)
        self._tmux("set-option", "remain-on-exit", "on")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def ask(self, text: str) -> None:
        self.type(text)
        self.press("Enter")

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def until(self, condition: Callable[[str], bool]) -> str:
        """Wait for what the screen shall show; returns it."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(shown := self.screen()):
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)
        return shown

    def shows(self, *texts: str) -> str:
        return self.until(lambda shown: all(text in shown for text in texts))

    def until_it_ends(self) -> None:
        # Asked of tmux itself: what it writes into a dead pane depends on what the program left there.
        self.until(lambda shown: self._tmux("list-panes", "-F", "#{pane_dead}").strip() == "1")
        self._tmux("kill-server")

    def end(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True)

    def _tmux(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed (apt install tmux)")
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.end()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_first_evening_with_the_demo_model(terminal: Terminal, tmp_path: Path) -> None:
    # The plain kernels are slow enough for a hand to stop an answer.
    terminal.start("--tools", "list_folder", "--temperature", "0", "--kernels", "reference")
    terminal.shows("Ask something")  # at once, while the model is made and loaded behind it
    terminal.shows("ready", "k2lite demo")

    terminal.ask("How do I quantize Kimi K2?")
    terminal.shows("How do I quantize Kimi K2?", "tok/s", "first after", "ctx ")
    terminal.shows("k2lite quantize SRC DST", "no intermediate copy.")

    terminal.ask("Tell me all about yourself")
    terminal.shows("Tell me all about yourself", "I am the k2lite")
    terminal.press("Escape")
    terminal.shows("stopped: the next message continues from here")

    terminal.ask("/edit 1")
    terminal.shows("editing an earlier question")
    for _ in range(30):
        terminal.press("BSpace")
    terminal.ask("What is an expert?")
    terminal.shows("‹ 2 of 2 ›", "What is an expert?")
    terminal.shows("An expert is a small feed-forward network", "the token best.")
    time.sleep(1)

    terminal.ask("/search quantize")
    terminal.shows("message(s)")
    terminal.press("Escape")
    terminal.until(lambda shown: "message(s)" not in shown)

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.txt").touch()
    terminal.ask("/new")
    terminal.until(lambda shown: "What is an expert?" not in shown)
    terminal.ask("List the folder docs")
    terminal.shows("tool list_folder", "path: docs", "Run once (y)")
    time.sleep(0.5)
    terminal.press("y")
    terminal.shows("→ notes.txt")
    terminal.until(lambda shown: "notes.txt" in shown.split("→ notes.txt")[-1])

    terminal.press("C-q")
    terminal.until_it_ends()

    terminal.start("--continue")
    terminal.shows("List the folder docs", "→ notes.txt", "ready")
    terminal.press("C-o")
    terminal.shows("How do I quantize Kimi K2?", "2 chat(s)")
    terminal.press("Escape")
    terminal.press("C-c")
    terminal.until_it_ends()
