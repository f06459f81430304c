"""The memory's read bandwidth, which is the roof of decoding: every token reads all its weights once."""

import ctypes
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from quant.native_library import NativeLibrary, built_native

ROOF_BYTES = 1 << 30  # many times what any cache holds
_PASSES = 3
_PARTS_PER_THREAD = 16

Reader = Callable[[], object]


def roof_memory(nbytes: int = ROOF_BYTES) -> np.ndarray:
    """Memory to read, uint64 [nbytes / 8], filled with what no other page holds.

    Pages that were never written are all the same one, and a machine's host may merge those of equal content: they
    would then be read from a cache, at nearly twice the memory's speed.
    """
    return np.random.default_rng().integers(0, 1 << 64, nbytes // 8, dtype=np.uint64)


def ram_read_bandwidth(threads: int, values: np.ndarray, passes: int = _PASSES, seconds: float = float("inf")) -> float:
    """Bytes per second that `threads` threads together read from `values`, the best of several passes.

    Ends after `passes`, or with the first pass that is over `seconds` after the beginning.
    """
    library, words = built_native(), values.view(np.uint64)
    best_s, began = float("inf"), time.perf_counter()
    with _numpy_reader(threads, words) if library is None else _native_reader(library, threads, words) as read:
        for _ in range(passes):
            started = time.perf_counter()
            read()
            ended = time.perf_counter()
            best_s = min(best_s, ended - started)
            if ended - began >= seconds:
                break
    return values.nbytes / best_s


@contextmanager
def _native_reader(library: NativeLibrary, threads: int, words: np.ndarray) -> Iterator[Reader]:
    """Our own vector code: a tenth faster on two cores than the next best."""
    pool, total = ctypes.c_void_p(), ctypes.c_uint64()
    library.call("k2quant_pool_open", threads, 0, 0, ctypes.addressof(pool))
    try:
        yield lambda: library.call(
            "k2quant_read_roof", pool, words.ctypes.data, words.nbytes, ctypes.addressof(total)
        )
    finally:
        library.call("k2quant_pool_close", pool)


@contextmanager
def _numpy_reader(threads: int, words: np.ndarray) -> Iterator[Reader]:
    """Adding up 8-byte integers is the fastest reader that numpy and torch have; it releases the interpreter's lock."""
    parts = np.array_split(words, threads * _PARTS_PER_THREAD)
    with ThreadPoolExecutor(threads) as pool:
        yield lambda: list(pool.map(np.sum, parts))
