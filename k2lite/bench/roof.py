"""The memory's read bandwidth, which is the roof of decoding: every token reads all its weights once."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

ROOF_BYTES = 1 << 30  # many times what any cache holds
_PASSES = 3
_PARTS_PER_THREAD = 16


def roof_memory(nbytes: int = ROOF_BYTES) -> np.ndarray:
    """Memory to read, uint64 [nbytes / 8], filled with what no other page holds.

    Pages that were never written are all the same one, and a machine's host may merge those of equal content: they
    would then be read from a cache, at nearly twice the memory's speed.
    """
    return np.random.default_rng().integers(0, 1 << 64, nbytes // 8, dtype=np.uint64)


def ram_read_bandwidth(threads: int, values: np.ndarray, passes: int = _PASSES) -> float:
    """Bytes per second that `threads` threads together read from `values`, the best of several passes."""
    # Adding up 8-byte integers is the fastest reader that numpy and torch have; it releases the interpreter's lock.
    parts = np.array_split(values.view(np.uint64), threads * _PARTS_PER_THREAD)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best_s = min(best_s, time.perf_counter() - started)
    return values.nbytes / best_s


class RoofSide:
    """Reads memory when it is told to. See child.Side."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.uint64)

    def load(self, nbytes: int = ROOF_BYTES) -> dict[str, Any]:
        """Take the memory."""
        self._values = roof_memory(nbytes)
        return {}

    def roof(self, threads: int) -> dict[str, Any]:
        """One measurement."""
        return {"bytes_per_s": ram_read_bandwidth(threads, self._values)}
