"""Progress of `k2lite imatrix` on stderr: one bar for all stages, or lines in a log."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from k2lite.cli.display import LINES_EVERY_S, Bar, Lines, shown
from k2lite.cli.engines import show_loading
from k2lite.cli.progress import PlainLines
from k2lite.events import LoadProgress
from k2lite.sizes import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

    from k2lite.imatrix import ImatrixProgress


class ShowCollection(ABC):
    """Told how far loading and collecting are."""

    def loading(self, state: LoadProgress) -> None:
        show_loading(self._bytes, state)

    def loaded_bytes(self, done: int, total: int) -> None:
        self.loading(LoadProgress(done, total))

    @abstractmethod
    def collecting(self, state: "ImatrixProgress") -> None: ...

    @abstractmethod
    def _bytes(self, label: str, done: int, total: int) -> None: ...


def shown_collection() -> AbstractContextManager[ShowCollection]:
    """Shows progress until the block ends."""
    return shown(CollectionBar, CollectionLines)


class CollectionBar(ShowCollection):
    """One bar, with the tokens, their rate and the time left beside it."""

    def __init__(self, progress: "Progress") -> None:
        self._bar = Bar(progress, "loading")

    def collecting(self, state: "ImatrixProgress") -> None:
        self._bar.update("collecting", state.done_tokens, state.total_tokens, speed(state))

    def _bytes(self, label: str, done: int, total: int) -> None:
        self._bar.update(label, done, total, f"{format_bytes(done)} of {format_bytes(total)}")


class CollectionLines(ShowCollection):
    """A line when collecting begins, then one now and then."""

    def __init__(self, every_s: float = LINES_EVERY_S) -> None:
        self._every_s = every_s
        self._load_lines = PlainLines(format_bytes, every_s)
        self._lines: Lines | None = None

    def collecting(self, state: "ImatrixProgress") -> None:
        if self._lines is None:
            self._lines = Lines()
            resumed = f" ({state.resumed_tokens:,} of them earlier)" if state.resumed_tokens else ""
            memory = format_bytes(state.memory_bytes)
            text = f"{state.total_tokens:,} tokens{resumed}, statistics take {memory} of memory"
        elif self._lines.due(self._every_s):
            text = f"{100 * state.done_tokens / state.total_tokens:.0f} %, {speed(state)}"
        else:
            return
        self._lines.write(f"collecting: {text}")

    def _bytes(self, label: str, done: int, total: int) -> None:
        self._load_lines(label, done, total)


def speed(state: "ImatrixProgress") -> str:
    """How far a run is, how fast it goes without what earlier ones had done, and the time left."""
    amount = f"{state.done_tokens:,} of {state.total_tokens:,} tokens"
    rate = (state.done_tokens - state.resumed_tokens) / max(state.elapsed_s, 1e-9)
    if rate <= 0:
        return amount
    return f"{amount}, {rate:,.1f} tokens/s, {format_duration((state.total_tokens - state.done_tokens) / rate)} left"
