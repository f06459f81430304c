"""Filling memory from a place in an open file: all of it, or an error that says what is missing."""

import contextlib
import os
from pathlib import Path

from quant.errors import K2Error

# A single read call of Linux moves less than 2 GiB.
_MAX_READ_BYTES = 1 << 30


def expect_long_runs(descriptor: int) -> None:
    """Tell the system that the file is read in runs of megabytes: from a drive that is two to three times faster."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # a file system that takes no advice
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def read_into(
    descriptor: int, target: memoryview, offset: int, *, path: Path, what: str, error: type[K2Error]
) -> None:
    """Fill `target` with the bytes from `offset` on, without moving the file's position.

    Raises `error`, which names `path` and `what`, when the file ends before or the drive fails. Safe from threads.
    """
    done = 0
    while done < len(target):
        part = target[done : done + _MAX_READ_BYTES]
        try:
            count = os.preadv(descriptor, [part], offset + done)
        except OSError as failure:
            raise error(f"cannot read {what} of {path}: {failure.strerror}") from failure
        if count == 0:
            raise error(f"{path} ends after {offset + done} bytes, in the middle of {what}: download it again")
        done += count
