"""Memory that gets less while a model runs: another program takes it, or somebody lowers a control group's limit.

What is short is given back out of slots for experts, and taken again when it is free again.
"""

import ctypes
import sys
import time
from collections.abc import Callable

from offload.free_memory import FreeMemory, memory_left
from quant.errors import StoreError

_INTERVAL_S = 1.0  # a look takes a fifth of a millisecond
# Taken again only when so much is free beyond what has to be: else a slot would come and go.
_HYSTERESIS_BYTES = 64 << 20


class MemoryWatch:
    """Says how many bytes of slots have to be given up. `look` measures."""

    def __init__(
        self, look: Callable[[], FreeMemory] = memory_left, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._look, self._clock = look, clock
        self._next_s = clock() + _INTERVAL_S
        self._short_with: int | None = None  # bytes that were given up already when memory was last short

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self._clock() >= self._next_s

    def bytes_to_give_up(self, given_up: int, promised: int) -> int:
        """Bytes of slots that have to stay empty from now on, of which `given_up` are already.

        `promised` bytes of the other slots have not been taken from the system yet. Raises StoreError when memory is
        about to run out and nothing more could be given up since the last look.
        """
        self._next_s = self._clock() + _INTERVAL_S
        memory = self._look()
        spare = memory.free_bytes - memory.least_bytes - promised
        if spare >= 0:
            self._short_with = None
            return max(0, given_up - max(0, spare - _HYSTERESIS_BYTES))
        if self._short_with == given_up and 2 * memory.free_bytes < memory.least_bytes:
            self._short_with = None
            raise StoreError(
                f"memory runs out: {max(0, memory.free_bytes) >> 20} MB are free, and experts have given up theirs: "
                "close other programs or raise the limit, or load the model again with a smaller --ram-budget"
            )
        self._short_with = given_up
        return given_up - spare


def give_back_heap() -> None:
    """Have the C library give unused memory back to the system. Otherwise it keeps a part of what a prompt needed."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)
