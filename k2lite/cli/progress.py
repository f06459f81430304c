"""Progress in bytes or tokens on stderr: a bar for each stage, or a line every few seconds in a log."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from k2lite.cli.display import LINES_EVERY_S, Bar, Lines, shown
from k2lite.sizes import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

# Told what is being done, and how much of how much is done.
Show = Callable[[str, int, int], None]
# Writes a count with its unit.
Amount = Callable[[float], str]


def shown_progress(amount: Amount = format_bytes) -> AbstractContextManager[Show]:
    """Shows progress until the block ends."""
    return shown(lambda progress: StageBars(progress, amount), lambda: PlainLines(amount), time_left=True)


class StageBars:
    """A bar for each label, one under the other."""

    def __init__(self, progress: "Progress", amount: Amount) -> None:
        self._progress = progress
        self._amount = amount
        self._bars: dict[str, Bar] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        amount = self._amount
        if label not in self._bars:
            self._bars[label] = Bar(self._progress, label)
        bar = self._bars[label]
        elapsed_s = bar.age_s
        speed = f", {amount(done / elapsed_s)}/s" if elapsed_s else ""
        bar.update(label, done, total, f"{amount(done)} of {amount(total)}{speed}")


class PlainLines:
    """A line every few seconds: nothing at all for work that is done sooner."""

    def __init__(self, amount: Amount, every_s: float = LINES_EVERY_S) -> None:
        self._amount = amount
        self._every_s = every_s
        self._lines = Lines()

    def __call__(self, label: str, done: int, total: int) -> None:
        if not done or not self._lines.due(self._every_s):
            return
        rate = done / self._lines.age_s
        self._lines.write(
            f"{label}: {100 * done / total:.0f} % of {self._amount(total)}, "
            f"{self._amount(rate)}/s, {format_duration((total - done) / rate)} left"
        )
