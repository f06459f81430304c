"""How fast a drive reads the way the store reads it: directly, several large requests at once.

The page cache would answer with the memory's speed. Where the file system refuses direct reads, the file is dropped
from the cache before each read, which measures the same drive with one copy more.
"""

import contextlib
import mmap
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload.resident import page_memory
from quant.errors import K2Error
from quant.files.direct_file import DirectFile

REQUEST_BYTES = 4 << 20
QUEUE_DEPTH = 8
_SCRATCH_BYTES = 1 << 30
_LEAST_BYTES = 16 * REQUEST_BYTES  # fewer say more about the first request than about the drive
_BLOCK_BYTES = 8 << 20


class ProbeError(K2Error):
    """Something of this machine cannot be measured."""


@dataclass(frozen=True)
class DriveSpeed:
    """`direct` is False where the file system has no direct reads. `file_system` is its type, as in "ext4"."""

    bytes_per_s: float
    direct: bool
    read_bytes: int
    file_system: str


def probe_drive(place: Path, seconds: float = 1.0) -> DriveSpeed:
    """Read at random places for about `seconds`: of the file `place`, or of one that is made in the folder `place`.

    Making one takes about as long again. Raises ProbeError when there is no room or nothing can be read.
    """
    try:
        if place.is_dir():
            with _scratch_file(place, seconds) as path:
                return _measured(path, seconds)
        return _measured(place, seconds)
    except OSError as error:
        raise ProbeError(
            f"the drive of {place} cannot be measured ({error.strerror}): say how fast it is (--drive 3G/s)"
        ) from error


@contextmanager
def _scratch_file(folder: Path, seconds: float) -> Iterator[Path]:
    """A file of noise, as large as can be written in `seconds`: drives and hosts are quick with zeros."""
    descriptor, name = tempfile.mkstemp(prefix="k2lite-probe-", dir=folder)
    path = Path(name)
    try:
        writer = DirectFile(descriptor)
        try:
            noise, written = np.random.default_rng(0).integers(0, 256, _BLOCK_BYTES, dtype=np.uint8), 0
            end = time.perf_counter() + seconds
            while written < _SCRATCH_BYTES and (time.perf_counter() < end or written < _LEAST_BYTES):
                noise[:: mmap.PAGESIZE] += 1  # no two blocks alike
                writer.append(noise)
                written += _BLOCK_BYTES
            writer.finish()
        finally:
            writer.close()
        yield path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _measured(path: Path, seconds: float) -> DriveSpeed:
    size = path.stat().st_size
    if size < _LEAST_BYTES:
        raise ProbeError(
            f"{path} has {size} bytes, and a drive is measured with {_LEAST_BYTES} or more: say how fast it is "
            "(--drive 3G/s)"
        )
    direct = _takes_direct(path)
    descriptor = os.open(path, os.O_RDONLY | (getattr(os, "O_DIRECT", 0) if direct else 0))
    try:
        reading = _Reading(descriptor, size, direct)
        elapsed_s = reading.run(seconds)
    finally:
        os.close(descriptor)
    return DriveSpeed(reading.read_bytes / elapsed_s, direct, reading.read_bytes, file_system_of(path))


def _takes_direct(path: Path) -> bool:
    """Whether a direct read of the file's first page works; some file systems take the flag and refuse the read."""
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | flag)
    except OSError:
        return False
    try:
        with contextlib.closing(mmap.mmap(-1, mmap.PAGESIZE)) as page:
            return os.preadv(descriptor, [page], 0) > 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


class _Reading:
    """Threads that read blocks of a file in random order, each block once before any comes again."""

    def __init__(self, descriptor: int, size: int, direct: bool) -> None:
        self.read_bytes = 0
        self._descriptor, self._direct = descriptor, direct
        self._offsets = list(range(0, size - REQUEST_BYTES + 1, REQUEST_BYTES))
        random.Random(size).shuffle(self._offsets)
        self._next, self._turn = 0, threading.Lock()
        # Large pages, as experts' slots have: a drive that gathers 4 MiB from single pages is half as fast.
        self._memory = memoryview(page_memory(QUEUE_DEPTH * REQUEST_BYTES))
        self._failure: OSError | None = None

    def run(self, seconds: float) -> float:
        """Read until the time is over and return how long it took. Raises OSError."""
        started = time.perf_counter()
        threads = [
            threading.Thread(target=self._serve, args=(started + seconds, number), name=f"probe-{number}")
            for number in range(QUEUE_DEPTH)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return time.perf_counter() - started

    def _serve(self, end: float, number: int) -> None:
        buffer = self._memory[number * REQUEST_BYTES : (number + 1) * REQUEST_BYTES]
        while time.perf_counter() < end and self._failure is None:
            with self._turn:
                offset = self._offsets[self._next % len(self._offsets)]
                self._next += 1
            try:
                count = self._read(buffer, offset)
            except OSError as failure:
                self._failure = failure
                return
            with self._turn:
                self.read_bytes += count

    def _read(self, buffer: memoryview, offset: int) -> int:
        if not self._direct:
            os.posix_fadvise(self._descriptor, offset, REQUEST_BYTES, os.POSIX_FADV_DONTNEED)
        return os.preadv(self._descriptor, [buffer], offset)


def file_system_of(path: Path) -> str:
    """The type of the file system that `path` lies on, as in "ext4"; "unknown" where the system does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
        place = str(path.resolve())
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    for line in lines:
        _, folder, found, *_ = line.split(" ")
        inside = place == folder or place.startswith(folder.rstrip("/") + "/")
        if inside and len(folder) >= len(best):
            best, kind = folder, found
    return kind
