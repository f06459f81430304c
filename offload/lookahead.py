"""Reading what the next layer will ask for, before it does: its router, asked with the stream as it is now.

A layer changes the stream by little, so the guess is mostly right for the experts at the top. It goes from the drive to
RAM only, behind everything that somebody waits for, and a wrong guess costs a read that another would have needed: it
switches itself off when less than 60 % of what it reads is used, or when the drive has no time left for it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from offload.reader import Urgency
from offload.residency import DRIVE
from offload.slots import ExpertKey

if TYPE_CHECKING:
    from offload.tiers import Tiers

# The experts that a layer's router would choose for one token, best first: stream [1, hidden] -> ids [k].
RouterGuess = Callable[[Tensor], Sequence[int]]

WIDTH = 6
LEAST_PRECISION = 0.6
_JUDGED_READS = 64  # the latest, by which precision is measured
_FEWEST_READS = 16
_PAUSE_LAYERS = 2000  # after which it may show that it has become better
_SATURATED = 0.95
_LAYERS_OF_A_LOOK = 64  # between two looks at how busy the drive is


class LookAhead:
    """Guesses, counts how good they were, and keeps still when they were not."""

    def __init__(self, tiers: "Tiers", routers: Mapping[int, RouterGuess], width: int = WIDTH) -> None:
        """`routers` by layer; without any there is no look-ahead."""
        self._tiers, self._routers, self._width = tiers, routers, width
        layers = sorted(tiers.layers)
        self._first = layers[0]
        self._next = {self._first - 1: self._first} | dict(pairwise(layers))
        self._stream: tuple[int, Tensor] | None = None
        self._guessed: dict[int, set[ExpertKey]] = {}
        self._outcomes: deque[bool] = deque(maxlen=_JUDGED_READS)
        self._paused = 0
        self._layers = 0
        self._busy_before = (0.0, 0.0)
        self.reads = self.used = 0

    def announce(self, layer: int, stream: Tensor) -> None:
        """The stream [1, hidden] in front of a layer's experts. Where it has none, but the next one does, guess now."""
        self._stream = (layer, stream)
        if layer + 1 == self._first:
            self.guess(layer)

    def asked(self, layer: int, ids: Sequence[int]) -> None:
        """A layer's router has spoken: see what was guessed right."""
        guessed = self._guessed.pop(layer, None)
        if not guessed:
            return
        right = {(layer, expert) for expert in ids}
        for key in guessed:
            self._outcomes.append(key in right)
            self.used += key in right
        if len(self._outcomes) >= _FEWEST_READS and self.precision < LEAST_PRECISION:
            self._pause()

    def guess(self, layer: int) -> None:
        """Begin to read what the layer after `layer` will probably ask for and is not in RAM."""
        router = self._routers.get(self._next.get(layer, -1))
        if router is None or self._stream is None or self._stream[0] != layer or self._keeps_still():
            return
        following, residency = self._next[layer], self._tiers.residency
        keys = [(following, expert) for expert in router(self._stream[1])[: self._width]]
        here = [key for key in keys if residency.place(key) != DRIVE]
        for key in here:  # no guess makes room by sending away what another guess needs
            self._tiers.hold(key)
        begun = self._guessed.setdefault(following, set())
        for key in keys:
            missing = residency.place(key) == DRIVE and not residency.is_arriving(key)
            if missing and self._tiers.ram.request(key, Urgency.LOOK_AHEAD):
                begun.add(key)
                self.reads += 1
        self._tiers.release(here)

    @property
    def precision(self) -> float:
        """Share of the latest guesses that were right."""
        return sum(self._outcomes) / len(self._outcomes) if self._outcomes else 1.0

    @property
    def width(self) -> int:
        """How many of a layer's experts it guesses; 0 while it keeps still."""
        return self._width if self._routers and not self._paused else 0

    def rest(self) -> None:
        """A layer has passed for which nothing had to be guessed."""
        self._paused = max(0, self._paused - 1)

    @property
    def is_off(self) -> bool:
        """Whether it has switched itself off for a while."""
        return self._paused > 0

    def _keeps_still(self) -> bool:
        if self._paused:
            self._paused -= 1
            return True
        self._layers += 1
        if self._layers % _LAYERS_OF_A_LOOK == 0 and self._drive_is_saturated():
            self._pause()
            return True
        return False

    def _pause(self) -> None:
        self._paused = _PAUSE_LAYERS
        self._outcomes.clear()

    def _drive_is_saturated(self) -> bool:
        """Whether the drive has worked nearly all of the time since the last look, and wrong guesses cost."""
        state = self._tiers.ram.reader_state()
        if state is None:
            return False
        now = self._tiers.clock()
        before, self._busy_before = self._busy_before, (now, state.busy_s)
        passed = now - before[0]
        return passed > 0 and (state.busy_s - before[1]) / passed > _SATURATED and self.precision < 0.9
