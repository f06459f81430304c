"""Progress of a conversion on stderr: a bar with rates and the tensor at hand, or a line now and then in a log."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2lite.cli.display import LINES_EVERY_S, Bar, Lines, shown
from k2lite.sizes import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

    from quant.convert.job_types import ConvertProgress

# A log gets its first lines soon, and later few enough to be read after a night.
_FIRST_LINES_UNTIL_S = 60.0
_LATER_LINES_EVERY_S = 60.0

_LABELS = {"writing": "quantizing", "verifying": "verifying"}

ShowConversion = Callable[["ConvertProgress"], None]


@dataclass(frozen=True)
class Rates:
    """Speeds of this run, without what earlier runs had done. `left_s` is None before anything is known."""

    weights_per_s: float
    bytes_per_s: float
    left_s: float | None

    @classmethod
    def of(cls, state: "ConvertProgress", phase_s: float) -> "Rates":
        """Rates after `phase_s` seconds of the phase that `state` is in."""
        resumed_bytes = state.resumed_bytes if state.phase == "writing" else 0
        resumed_weights = state.resumed_weights if state.phase == "writing" else state.done_weights
        seconds = max(phase_s, 1e-9)
        weights_per_s = (state.done_weights - resumed_weights) / seconds
        bytes_per_s = (state.written_bytes - resumed_bytes) / seconds
        if weights_per_s > 0:  # types differ in bytes, but a weight costs about the same time in all
            return cls(weights_per_s, bytes_per_s, (state.total_weights - state.done_weights) / weights_per_s)
        left_s = (state.total_bytes - state.written_bytes) / bytes_per_s if bytes_per_s > 0 else None
        return cls(weights_per_s, bytes_per_s, left_s)

    def __str__(self) -> str:
        weights = f"{self.weights_per_s / 1e6:,.0f} M weights/s, " if self.weights_per_s > 0 else ""
        left = f", {format_duration(self.left_s)} left" if self.left_s is not None else ""
        return f"{weights}{self.bytes_per_s / 1e9:.2f} GB/s{left}"


class PhaseClock:
    """Seconds since the phase at hand began."""

    def __init__(self) -> None:
        self._phase = ""
        self._began_s = 0.0

    def seconds(self, state: "ConvertProgress") -> float:
        """Time in the phase of `state`."""
        if state.phase != self._phase:
            self._phase, self._began_s = state.phase, state.elapsed_s if self._phase else 0.0
        return state.elapsed_s - self._began_s


def shown_conversion() -> AbstractContextManager[ShowConversion]:
    """Shows the progress of one conversion until the block ends."""
    beside_bar = "{task.percentage:>3.0f} %  {task.fields[text]}"
    return shown(ConversionBar, ConversionLines, beside_bar=beside_bar, full_width=True)


class ConversionBar:
    """One bar as wide as the terminal, with the tensor at hand."""

    def __init__(self, progress: "Progress") -> None:
        self._bar = Bar(progress, _LABELS["writing"])
        self._clock = PhaseClock()

    def __call__(self, state: "ConvertProgress") -> None:
        """Show `state`."""
        label = f"{_LABELS[state.phase]} {state.tensor_name}"
        rates = Rates.of(state, self._clock.seconds(state))
        text = f"of {format_bytes(state.total_bytes)}, {rates}"
        self._bar.update(label, state.written_bytes, state.total_bytes, text)


class ConversionLines:
    """A line now and then: nothing at all for work that is done sooner."""

    def __init__(self, first_every_s: float = LINES_EVERY_S) -> None:
        self._first_every_s = first_every_s
        self._lines = Lines()
        self._clock = PhaseClock()

    def __call__(self, state: "ConvertProgress") -> None:
        """Write a line when the last one was long enough ago."""
        early = self._lines.age_s < _FIRST_LINES_UNTIL_S
        phase_s = self._clock.seconds(state)
        if not self._lines.due(self._first_every_s if early else _LATER_LINES_EVERY_S):
            return
        share = 100 * state.written_bytes / max(state.total_bytes, 1)
        self._lines.write(
            f"{_LABELS[state.phase]}: {share:.0f} % of {format_bytes(state.total_bytes)}, "
            f"{Rates.of(state, phase_s)}, at {state.tensor_name}"
        )
