"""Bringing a mapped file into memory behind the user's back: in the pauses between answers, never during one.

A page that nobody has asked for yet is read when it is used, a few at a time, and that is slow. What a layer needs is
asked for in one go instead, just before it is used; all else comes when nothing else is to be done.
"""

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterable, Sequence

import numpy as np

_STEP_BYTES = 16 << 20
_MADV_WILLNEED, _MADV_POPULATE_READ = 3, 22  # of Linux; the latter since 5.14


def advise_needed(arrays: Iterable[np.ndarray]) -> None:
    """Have the system begin to read mapped memory that is about to be used. Returns at once."""
    for array in arrays:
        _advise(array, _MADV_WILLNEED)


def page_in(array: np.ndarray) -> bool:
    """Read mapped memory and enter it into the page tables. False where the system cannot, or the file ended."""
    return _advise(array, _MADV_POPULATE_READ)


class WarmUp:
    """A thread that pages arrays in, in order, while it is not paused. It begins with the first `pause(False)`."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = arrays
        self._condition = threading.Condition()
        self._paused, self._closed = True, False
        self._thread = threading.Thread(target=self._run, name="k2lite-warm-up", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to bring."""
        return not self._thread.is_alive()

    def pause(self, paused: bool) -> None:
        """Keep still, or go on. What is under way is at most 16 MiB."""
        with self._condition:
            self._paused = paused
            self._condition.notify_all()

    def wait(self) -> None:
        """Wait until all is there. Not while it is paused."""
        self._thread.join()

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _run(self) -> None:
        for array in self._arrays:
            for start in range(0, array.size, _STEP_BYTES):
                with self._condition:
                    self._condition.wait_for(lambda: not self._paused or self._closed)
                    if self._closed:
                        return
                _advise(array[start : start + 2 * _STEP_BYTES], _MADV_WILLNEED)
                if not page_in(array[start : start + _STEP_BYTES]):
                    return


def _advise(array: np.ndarray, advice: int) -> bool:
    """Give advice about the pages around an array. False when it was not taken."""
    if not sys.platform.startswith("linux") or not array.size:
        return False
    begin = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = array.ctypes.data + array.size - begin
    # Through ctypes, and not mmap.madvise, so that other threads of Python go on meanwhile.
    return _madvise()(begin, length, advice) == 0


def _madvise() -> "ctypes._NamedFuncPointer":
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
