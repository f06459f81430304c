"""How often the screen may be changed, and how fast tokens come."""

from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TypeVar

from k2lite.events import Token

Item = TypeVar("Item")

SHORTEST_PAUSE_S = 0.05
# A flush may take a fifth of the time, whatever it costs: the keyboard stays quick.
_PAUSE_PER_COST = 4

_RATE_WINDOW_S = 5.0


class Pacer:
    """Decides when the next flush is due, from how long the last one took."""

    def __init__(self, clock: Callable[[], float] = monotonic, pause_per_cost: float = _PAUSE_PER_COST) -> None:
        self._clock = clock
        self._pause_per_cost = pause_per_cost
        self._not_before = clock()

    def due(self) -> bool:
        """Whether the next flush may begin."""
        return self._clock() >= self._not_before

    def flushed(self, started: float) -> None:
        """A flush that began at `started` has just ended."""
        now = self._clock()
        self._not_before = now + max(SHORTEST_PAUSE_S, self._pause_per_cost * (now - started))

    def now(self) -> float:
        """The clock that `flushed` wants its beginning in, seconds."""
        return self._clock()


class RateMeter:
    """Tokens per second over the last seconds.

    Ticks come from the engine's thread, where tokens arrive evenly; the screen reads between two flushes.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque()
        self.count = 0

    def tick(self) -> None:
        """One token has come."""
        now = self._clock()
        self.count += 1
        self._times.append(now)
        # Two stay in any case: between tokens that are further apart than the window there is a rate too.
        while len(self._times) > 2 and now - self._times[0] > _RATE_WINDOW_S:
            self._times.popleft()

    @property
    def per_second(self) -> float:
        """0 before the second token."""
        span = self._times[-1] - self._times[0] if self._times else 0.0
        return (len(self._times) - 1) / span if span > 0 else 0.0


def metered(events: Iterator[Item], meter: RateMeter) -> Iterator[Item]:
    """The same events, every token counted as it comes."""
    for event in events:
        if isinstance(event, Token) and event.id is not None:
            meter.tick()
        yield event
