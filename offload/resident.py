"""Weights that every token needs, read once into memory of their own, past the page cache.

That has the drive's full speed. A mapped file's pages come and go as the system likes; these stay, and a file that is
cut off later cannot take them away.
"""

import contextlib
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload.drive import BLOCK_BYTES, Drive, block_ceil, block_floor
from offload.reader import DriveReader, Urgency, cut

_HUGE_PAGE_BYTES = 2 << 20


@dataclass(frozen=True)
class FileRange:
    """`nbytes` bytes of a file from `offset` on."""

    path: Path
    offset: int
    nbytes: int


def read_ranges(ranges: Mapping[str, FileRange], progress: Callable[[int], None]) -> dict[str, np.ndarray]:
    """The bytes of each range, uint8. `progress` is told how many bytes are there. Raises StoreError."""
    paths = list(dict.fromkeys(found.path for found in ranges.values()))
    memory: dict[str, np.ndarray] = {}
    with Drive(paths) as drive, DriveReader([drive]) as reader:
        for number, (name, found) in enumerate(ranges.items()):
            begin, end = block_floor(found.offset), found.offset + found.nbytes
            pages = page_memory(block_ceil(end) - begin)
            pieces = cut(paths.index(found.path), begin, memoryview(pages), end - begin)
            reader.submit((number, 0), pieces, Urgency.DEMAND)
            first = found.offset - begin
            memory[name] = np.frombuffer(pages, np.uint8)[first : first + found.nbytes]
        done = 0
        while reader.open_reads:
            for read in reader.collect(None):
                if read.error is not None:
                    raise read.error
                done += read.nbytes
                progress(done)
    return memory


def page_memory(nbytes: int) -> mmap.mmap:
    """Anonymous memory that begins at a page, in large pages where that helps. It is zero."""
    memory = mmap.mmap(-1, max(nbytes, BLOCK_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and nbytes >= _HUGE_PAGE_BYTES:
        with contextlib.suppress(OSError):  # a kernel without large pages: slower, and nothing else
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
