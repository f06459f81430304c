"""Running a program on a terminal of its own, a pseudo-terminal that somebody empties, and getting its figures."""

import asyncio
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fcntl import ioctl
from typing import TYPE_CHECKING

from k2lite.environment import child_environment

if TYPE_CHECKING:
    from textual.app import App

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
        told = pipe.read()
    if status := child.wait():
        raise RuntimeError(f"{module} ended with status {status} and without figures: run it in a terminal to see why")
    figures: Figures = json.loads(told)
    return figures


async def play_beside(app: "App[None]", play: Callable[[], Awaitable[None]]) -> None:
    """Run `app` on this process's terminal until `play` has ended, also by an error, which is raised."""

    async def played() -> None:
        try:
            await play()
        finally:
            app.exit()

    playing = asyncio.ensure_future(played())
    await app.run_async()
    await playing


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
