"""Output that appears whole or not at all: bytes go to DESTINATION.part, which is renamed at the end.

The part file is locked while it is written, so what a killed run left behind can be told from the work of a
running one: it is taken over, and its space with it.
"""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from quant.errors import OutputError
from quant.files.paths import is_folder


class PartFile:
    """A file under construction, owned by one thread. Either `commit` or `discard` ends it."""

    def __init__(self, destination: Path, total_bytes: int) -> None:
        """Open the part file for `total_bytes` bytes.

        Raises OutputError when the destination exists, its folder does not, the disk has too little room or
        another process writes the same file.
        """
        self.destination = destination
        self._refuse_existing()  # before its name is used: the root folder, for one, has none
        self.path = destination.with_name(destination.name + ".part")
        self.total_bytes = total_bytes
        self.written_bytes = 0
        if not is_folder(destination.parent):
            raise OutputError(f"the folder {destination.parent} does not exist: create it first")
        self._file = self._open_locked()
        free = shutil.disk_usage(destination.parent).free
        if free < total_bytes:
            self.discard()
            raise OutputError(
                f"{destination} takes {total_bytes:,} bytes, but {destination.parent} has {free:,} free: "
                f"free {total_bytes - free:,} bytes or choose another disk"
            )

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, all of it. Raises OutputError, as for a full disk."""
        rest = memoryview(data).cast("B")
        try:
            while rest:
                count = os.write(self._file, rest)
                self.written_bytes += count
                rest = rest[count:]
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path} beyond {self.written_bytes:,} of {self.total_bytes:,} bytes: "
                f"{error.strerror}"
            ) from error

    def commit(self) -> None:
        """Bring everything to the drive, then give the file its name. Raises OutputError."""
        self._refuse_existing()
        try:
            os.fsync(self._file)
            self.path.rename(self.destination)
            sync_folder(self.destination.parent)
        except OSError as error:
            raise OutputError(f"cannot finish {self.destination}: {error.strerror}") from error
        os.close(self._file)

    def discard(self) -> None:
        """Remove the part file."""
        # The name goes before the lock does, or another process could take the file over in between.
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.destination):
            raise OutputError(f"{self.destination} exists already: delete it or choose another name")

    def _open_locked(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"cannot create {self.path}: {error.strerror}") from error
        if not take_lock(file) or not is_still_named(file, self.path):
            os.close(file)
            raise OutputError(f"another process is writing {self.path}: wait for it or choose another name")
        os.ftruncate(file, 0)
        return file


def take_lock(file: int) -> bool:
    """Take the lock of a file or folder, False if somebody has it. It ends with the process, however that dies."""
    # Some network file systems have no locks at all. There the user keeps two runs from one destination.
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_still_named(file: int, path: Path) -> bool:
    """Whether `path` is still this open file: its owner may have renamed it before letting go of the lock."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the drive. Raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
