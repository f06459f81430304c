"""The highest rate that something has kept up for a while: its roof, as far as anybody has seen."""


class FastestWindow:
    """Looks at windows of so many parts of work each: a shorter one says more about chance than about speed."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._done, self._nbytes, self._seconds = 0, 0, 0.0
        self.bytes_per_s: float | None = None  # None before the first window is full

    def add(self, nbytes: int, seconds: float) -> None:
        """One part of work: `nbytes` more, `seconds` of work later."""
        self._done += 1
        self._nbytes += nbytes
        self._seconds += seconds
        if self._done == self._parts:
            if self._seconds > 0:
                self.bytes_per_s = max(self.bytes_per_s or 0.0, self._nbytes / self._seconds)
            self._done, self._nbytes, self._seconds = 0, 0, 0.0
