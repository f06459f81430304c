"""Python's collector of unreachable objects: it looks at everything when nobody is waiting, not while text streams.

A full collection of a chat's widgets takes 50 to 100 ms, in which no key is taken and nothing is drawn.
"""

import gc
from collections.abc import Callable
from time import monotonic

# Small collections stay as frequent as they are useful, of at most a few milliseconds; a full one by itself becomes an
# exception.
_THRESHOLDS = (1000, 5, 2000)

REST_S = 5.0


class IdleCollector:
    """Between `begin` and `end` full collections happen in `look`, once for every rest, and hardly ever otherwise."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._before: tuple[int, int, int] | None = None
        self._last_active: float | None = None

    def begin(self) -> None:
        """What has been loaded by now stays for good, and is not looked at any more."""
        if self._before is None:
            self._before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(*_THRESHOLDS)
            self.active()

    def active(self) -> None:
        """The user or the model has just done something: not now."""
        self._last_active = self._clock()

    def look(self) -> None:
        """Collect if nothing has been done for a while, and nothing was collected since."""
        if self._before is not None and self._last_active is not None and self._clock() - self._last_active >= REST_S:
            gc.collect()
            self._last_active = None

    def end(self) -> None:
        """As it was before."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            gc.unfreeze()
            self._before = None
