"""How progress is displayed on stderr: bars on a terminal, lines now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

LINES_EVERY_S = 5.0

Display = TypeVar("Display")


@contextmanager
def shown(
    on_terminal: Callable[["Progress"], Display],
    in_log: Callable[[], Display],
    *,
    beside_bar: str = "{task.fields[text]}",
    time_left: bool = False,
    full_width: bool = False,
) -> Iterator[Display]:
    """The display that suits stderr, until the block ends in whatever way; bars leave no trace.

    A bar has its label on the left and on the right `beside_bar`, a format of rich's, and with `time_left` an estimate.
    """
    if not sys.stderr.isatty():
        yield in_log()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None) if full_width else BarColumn(),
        TextColumn(beside_bar, markup=False),
        *([TimeRemainingColumn()] if time_left else []),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=full_width) as progress:
        yield on_terminal(progress)


class Bar:
    """One bar on a terminal, there from the beginning."""

    def __init__(self, progress: "Progress", label: str) -> None:
        self._progress = progress
        self._began_s = time.monotonic()
        self._task = progress.add_task(label, text="")

    @property
    def age_s(self) -> float:
        """Seconds since the bar appeared."""
        return time.monotonic() - self._began_s

    def update(self, label: str, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` is done, with `text` beside it."""
        self._progress.update(self._task, description=label, completed=done, total=total, text=text)


class Lines:
    """Lines in a log, with a pause between them. The first one waits as well: short work says nothing."""

    def __init__(self) -> None:
        self._began_s = self._last_s = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the display began."""
        return time.monotonic() - self._began_s

    def due(self, every_s: float) -> bool:
        """Whether the last line is `every_s` seconds ago."""
        return time.monotonic() - self._last_s >= every_s

    def write(self, line: str) -> None:
        """Print a line; the next pause begins."""
        self._last_s = time.monotonic()
        print(line, file=sys.stderr, flush=True)
