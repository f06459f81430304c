"""Appending to a file as fast as the drive takes it: past the page cache where the system allows it.

Data that was just written is in nobody's way in memory then, and writing costs the processor one copy.
"""

import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

_BUFFER_BYTES = 8 << 20


class DirectFile:
    """Appends to an empty open file. Owned by one thread; a second one of its own talks to the drive.

    Two buffers: one is filled while the other is written. Raises OSError. `close` leaves the descriptor open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(-1, 2 * _BUFFER_BYTES)  # begins at a page, as direct writes need
        memory = np.frombuffer(self._memory, dtype=np.uint8)
        self._buffers = (memory[:_BUFFER_BYTES], memory[_BUFFER_BYTES:])
        self._pending: Future[None] | None = None
        self._current = 0
        self._filled = 0
        self._position = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="direct-file")
        self._is_direct = _set_direct(descriptor, True)

    def append(self, data: bytes | memoryview | np.ndarray) -> None:
        """Append `data`. It may be changed afterwards; part of it may not be on the drive yet."""
        rest = np.frombuffer(data, dtype=np.uint8) if len(data) else np.empty(0, dtype=np.uint8)
        while rest.size:
            count = min(_BUFFER_BYTES - self._filled, rest.size)
            # numpy lets other threads run while it copies, a memoryview does not
            np.copyto(self._buffers[self._current][self._filled : self._filled + count], rest[:count])
            self._filled += count
            rest = rest[count:]
            if self._filled == _BUFFER_BYTES:
                self._hand_over()

    def finish(self) -> None:
        """Bring everything to the drive."""
        self._wait()
        if self._is_direct:  # the last bytes are no whole number of sectors
            _set_direct(self._descriptor, False)
        _write_all(self._descriptor, self._buffers[self._current][: self._filled].data, self._position)
        self._filled = 0
        os.fsync(self._descriptor)

    def close(self) -> None:
        """End the thread. Safe to call twice; what was not finished may be lost."""
        self._writer.shutdown()

    def _hand_over(self) -> None:
        self._wait()
        buffer = self._buffers[self._current].data
        self._pending = self._writer.submit(self._write, buffer, self._position)
        self._position += self._filled
        self._current, self._filled = 1 - self._current, 0

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, data: memoryview, offset: int) -> None:
        """In the writer's thread: one whole buffer."""
        try:
            _write_all(self._descriptor, data, offset)
        except OSError:
            if not self._is_direct:
                raise
            # Some file systems take the flag and then refuse the write; a real error comes again.
            self._is_direct = False
            _set_direct(self._descriptor, False)
            _write_all(self._descriptor, data, offset)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Whether the file now bypasses the page cache as asked."""
    flag = getattr(os, "O_DIRECT", 0)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | flag if direct else flags & ~flag)
    except OSError:
        return False
    return direct and bool(flag)
