"""A drive that can be pulled out: a file system in a file behind a loop device. Needs root, and Linux."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_SPARE_BYTES = 16 << 20


class LoopDrive:
    """The drive's file is emptied, and every read of it is an error of the device; then its content is put back."""

    def __init__(self, backing: Path, folder: Path) -> None:
        self.folder = folder
        self._backing, self._content = backing, backing.read_bytes()

    def fail(self) -> None:
        """Pull the drive out."""
        with self._backing.open("r+b") as file:
            file.truncate(0)

    def come_back(self) -> None:
        """Put it in again."""
        with self._backing.open("r+b") as file:
            file.write(self._content)


@contextmanager
def loop_drive(content: Path, work: Path) -> Iterator[LoopDrive]:
    """A read-only drive with the file `content` on it. Skips the test where that is not allowed."""
    source, folder, backing = work / "source", work / "mounted", work / "drive"
    source.mkdir()
    folder.mkdir()
    shutil.copy(content, source)
    with backing.open("wb") as file:
        file.truncate(content.stat().st_size + _SPARE_BYTES)
    with ExitStack() as stack:
        _run_or_skip("mkfs.ext4", "-q", "-d", source, backing)
        device = _run_or_skip("losetup", "-f", "--show", "-r", backing)
        stack.callback(_run, "losetup", "-d", device)
        _run_or_skip("mount", "-o", "ro,noload", device, folder)
        stack.callback(_run, "umount", "-l", folder)
        drive = LoopDrive(backing, folder)
        stack.callback(drive.come_back)
        yield drive


def _run_or_skip(*command: object) -> str:
    try:
        return _run(*command)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no drive of our own can be made here: {command[0]}: {error}")


def _run(*command: object) -> str:
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()
