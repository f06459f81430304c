"""Running a program on a terminal of its own, a pseudo-terminal that somebody empties, and getting its figures."""

import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from fcntl import ioctl

from k2lite.environment import child_environment

Figures = dict[str, float | str | bool]


def run_in_terminal(module: str, arguments: Sequence[str], columns: int, rows: int) -> Figures:
    """`python -m module arguments --child FD`: the child hands its figures to `report` with that number."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    read, write = os.pipe()
    command = [sys.executable, "-m", module, *arguments, "--child", str(write)]
    environment = child_environment() | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, pass_fds=[write])
    os.close(theirs)
    os.close(write)
    emptying = threading.Thread(target=_empty, args=(ours,), daemon=True)
    emptying.start()
    with os.fdopen(read) as pipe:
        figures: Figures = json.loads(pipe.read())
    child.wait()
    return figures


def report(descriptor: int, figures: Mapping[str, float | str | bool]) -> None:
    """The child's side."""
    with os.fdopen(descriptor, "w") as pipe:
        json.dump(figures, pipe)


def _empty(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # the other side is closed
        pass
