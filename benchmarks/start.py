"""How soon one can write, and how soon an answer comes: `python -m benchmarks.start [COMMAND ...]`.

Starts the chat (COMMAND, without one `k2lite chat` of this Python) in a pseudo-terminal with the demo model, whose
quantized file is made once before. Measured from the process's start on are: the prompt takes a letter (it is typed
as soon as the prompt is drawn, and waited for on the screen), the model is loaded, and the first text of the answer to
a question that was sent at once. Prints one JSON line: median, least and most of the runs.
"""

import argparse
import json
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

from k2lite.environment import child_environment

_PATIENCE_S = 120.0
_QUESTION = "What is an expert?"
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?<>=$]*[ -/]*[@-~]|[P\]_^].*?(?:\x1b\\|\x07)|.)", re.DOTALL)
_PROMPT = "Ask"  # what the empty box says
_FIRST_TOKEN = re.compile(r"first after \d")  # the status line, in the same drawing as the answer's first text


class Terminal:
    """A program in a pseudo-terminal of 80 x 24. `text` is what it has written, without colours and cursor moves."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        variables = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "K2LITE_HOME": str(home)}
        environment = child_environment() | variables
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._written = b""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    @property
    def text(self) -> str:
        return _ESCAPE_SEQUENCE.sub("", self._written.decode(errors="replace"))

    def seconds_until(self, pattern: str | re.Pattern[str]) -> float:
        """When `pattern` is first written from now on, in seconds after the start."""
        self._written = b""
        while not re.search(pattern, self.text):
            left = self.started + _PATIENCE_S - time.perf_counter()
            if left <= 0 or not select.select([self._ours], [], [], left)[0]:
                raise TimeoutError(f"{pattern!r} is not on the screen: {self.text[-2000:]}")
            self._written += os.read(self._ours, 65536)
        return time.perf_counter() - self.started

    def quit(self) -> None:
        """Leave with Ctrl-Q, and wait for the end."""
        self.type("\x11")
        while self._process.poll() is None:
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    os.read(self._ours, 65536)
                except OSError:  # the other side is closed
                    break
        self._process.wait(_PATIENCE_S)
        os.close(self._ours)


def start_once(command: Sequence[str], home: Path) -> dict[str, float]:
    """One start, from the process to the first text of an answer; seconds."""
    terminal = Terminal(command, home)
    times = {"prompt_drawn_s": terminal.seconds_until(_PROMPT)}
    terminal.type("W")
    times["prompt_takes_keys_s"] = terminal.seconds_until("W")
    terminal.type(_QUESTION[1:] + "\r")
    times["first_token_s"] = terminal.seconds_until(_FIRST_TOKEN)
    terminal.quit()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what starts the chat; before it, -- and options")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    command = [word for word in options.command if word != "--"]
    command = command or [sys.executable, "-P", "-m", "k2lite.cli.main", "chat"]
    with tempfile.TemporaryDirectory() as name:
        start_once(command, Path(name))  # quantizes the demo model, and warms the page cache
        runs = [start_once(command, Path(name)) for _ in range(options.runs)]
    figures = {"command": " ".join(command), "runs": len(runs)}
    for key in runs[0]:
        values = [run[key] for run in runs]
        figures[key] = {
            "median": round(statistics.median(values), 2),
            "least": round(min(values), 2),
            "most": round(max(values), 2),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
