"""Reading a model's files past the page cache: whole blocks, into memory that begins at a page.

The system reads at the speed of the drive then, keeps no second copy, and takes nothing from what others have cached.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.closing import Closing
from quant.errors import StoreError

# A multiple of every drive's sector, and of where memory pages begin.
BLOCK_BYTES = 4096


def block_floor(offset: int) -> int:
    """The last place at or before `offset` where a direct read may begin."""
    return offset // BLOCK_BYTES * BLOCK_BYTES


def block_ceil(offset: int) -> int:
    """The first place at or behind `offset` where a direct read may end."""
    return -(-offset // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True)
class _OpenFile:
    path: Path
    descriptor: int
    direct: bool
    size: int
    modified_ns: int


class Drive(Closing):
    """The files of a model on one drive, by number, opened for direct reads where their file system has those.

    Safe from threads. `notes` says what a user should know: where reads go through the page cache after all.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises StoreError when a file cannot be opened."""
        self.paths = tuple(paths)
        self._files: list[_OpenFile] = []
        try:
            for path in paths:
                self._files.append(_open(path))
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each file that cannot be read directly."""
        return tuple(
            f"{file.path} is read through the page cache, which is slower: its file system has no direct reads"
            for file in self._files
            if not file.direct
        )

    def size(self, file: int) -> int:
        """Bytes of a file when it was opened."""
        return self._files[file].size

    def read(self, file: int, offset: int, target: memoryview, needed: int) -> None:
        """Fill `target` from byte `offset` of a file on. Offset, length and address are whole blocks.

        Only the first `needed` bytes must be there: the last block of a file may end early. Raises StoreError.
        """
        done = 0
        while done < needed:
            count = self._read_once(file, offset + done, target[done:])
            if done + count < needed:
                count = block_floor(count)  # the next read begins at a block again
                if count == 0:
                    self.check(file)
                    raise StoreError(
                        f"{self._files[file].path} ends in the middle of an expert, at byte {offset + done}: "
                        "it was cut off, fetch it again"
                    )
            done += count

    def check(self, file: int) -> None:
        """Raises StoreError when a file is no longer what it was when it was opened."""
        opened = self._files[file]
        try:
            now = os.fstat(opened.descriptor)
        except OSError as failure:
            raise _unreadable(opened.path, failure) from failure
        if now.st_size != opened.size or now.st_mtime_ns != opened.modified_ns:
            raise StoreError(
                f"{opened.path} was changed while it was in use ({opened.size} bytes before, {now.st_size} now): "
                "load the model again"
            )

    def close(self) -> None:
        for file in self._files:
            os.close(file.descriptor)
        self._files = []

    def _read_once(self, file: int, offset: int, target: memoryview) -> int:
        opened = self._files[file]
        try:
            return os.preadv(opened.descriptor, [target], offset)
        except OSError as failure:
            raise _unreadable(opened.path, failure) from failure


def _open(path: Path) -> _OpenFile:
    """Opened directly if a trial read says that this works: some file systems take the flag and refuse the read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path} is not a regular file: give the model file itself")
        descriptor, direct = _open_direct(path), True
        if descriptor is None:
            descriptor, direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
        status = os.fstat(descriptor)
    except OSError as failure:
        raise _unreadable(path, failure) from failure
    return _OpenFile(path, descriptor, direct, status.st_size, status.st_mtime_ns)


def _open_direct(path: Path) -> int | None:
    import mmap

    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
    except OSError:
        return None
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as block:
            os.preadv(descriptor, [block], 0)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unreadable(path: Path, failure: OSError) -> StoreError:
    return StoreError(f"cannot read {path}: {failure.strerror}: check the drive, then load the model again")
