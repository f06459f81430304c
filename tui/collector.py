"""Python's collector of unreachable objects: it looks at everything when nobody is waiting, not while text streams.

A full collection of a chat's widgets takes 50 to 100 ms, in which no key is taken and nothing is drawn.
"""

import gc

# (Small collections stay as frequent as they are useful; a full one by itself becomes an exception.)
_THRESHOLDS = (1000, 20, 500)


class IdleCollector:
    """Between `begin` and `end` full collections happen in `collect`, and hardly ever otherwise."""

    def __init__(self) -> None:
        self._before: tuple[int, int, int] | None = None

    def begin(self) -> None:
        """What has been loaded by now stays for good, and is not looked at any more."""
        if self._before is None:
            self._before = gc.get_threshold()
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_THRESHOLDS)

    def collect(self) -> None:
        """Nobody waits just now."""
        if self._before is not None:
            gc.collect()

    def end(self) -> None:
        """As it was before."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            gc.unfreeze()
            self._before = None
