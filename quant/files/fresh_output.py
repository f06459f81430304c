"""An output that is made in one go, as fast as the drive takes it: whole at the end, or not there at all.

Unlike a conversion it cannot be resumed, so it needs no journal, and what a killed run left is simply replaced.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quant.convert.commit import refuse_existing
from quant.convert.output_layout import OutputFile, OutputLayout, OutputTensor
from quant.errors import K2Error, OutputError
from quant.files.direct_file import DirectFile
from quant.files.part_file import is_still_named, sync_folder, take_lock
from quant.files.paths import is_folder

# The bytes of a tensor of the layout, in pieces of any length.
Content = Callable[[OutputTensor], Iterable[np.ndarray]]


class OutputStopped(K2Error):
    """The output was stopped from outside. Nothing is left of it."""


@dataclass(frozen=True)
class FreshProgress:
    """How far an output is."""

    written_bytes: int
    total_bytes: int
    elapsed_s: float


def write_fresh(
    layout: OutputLayout,
    content: Content,
    *,
    progress: Callable[[FreshProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> float:
    """Write all files of `layout` and give them their names; returns the seconds until all was on the drive.

    Raises OutputError (the output exists, no room, another process at work, a full disk), OutputStopped soon after
    `stop` was set, and what `content` raises. Nothing is left behind then.
    """
    started = time.monotonic()
    refuse_fresh(layout)
    with _part(layout):
        done = 0
        for file in layout.files:
            for count in _written(layout.part_path(file), file, content):
                done += count
                if stop is not None and stop.is_set():
                    raise OutputStopped(f"stopped: {layout.destination} was not written")
                if progress is not None:
                    progress(FreshProgress(done, layout.total_bytes, time.monotonic() - started))
        _name(layout)
    return time.monotonic() - started


def refuse_fresh(layout: OutputLayout) -> None:
    """Raise OutputError when the output exists, is half made by a resumable job, or does not fit on the disk."""
    destination, folder = layout.destination, layout.destination.parent
    refuse_existing(layout)
    if os.path.lexists(layout.journal_path):
        raise OutputError(
            f"{layout.journal_path} belongs to an unfinished conversion: finish that one, or delete the file"
        )
    if not is_folder(folder):
        raise OutputError(f"the folder {folder} does not exist: create it first")
    free = shutil.disk_usage(folder).free + _left_behind(layout)
    if free < layout.total_bytes:
        raise OutputError(
            f"{destination} takes {layout.total_bytes:,} bytes, but {folder} has {free:,} free: "
            f"free {layout.total_bytes - free:,} bytes or choose another disk"
        )


def _left_behind(layout: OutputLayout) -> int:
    """Bytes that a killed run left and this one takes over."""
    total = 0
    for file in layout.files:
        with suppress(OSError):
            total += layout.part_path(file).stat().st_blocks * 512
    return total


@contextmanager
def _part(layout: OutputLayout) -> Iterator[None]:
    """The place of the unfinished output, locked. An error removes whatever is in it."""
    place = layout.part_folder if layout.is_folder else layout.part_path(layout.files[0])
    try:
        lock = _opened_place(place, layout.is_folder)
    except OSError as error:
        raise OutputError(f"cannot create {place}: {error.strerror}") from error
    try:
        if not take_lock(lock) or not is_still_named(lock, place):
            raise OutputError(f"another process is writing {place}: wait for it or choose another name")
        if layout.is_folder:
            _empty_folder(layout)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # a broken drive has been reported
                _remove(layout)
            raise
    finally:
        os.close(lock)


def _opened_place(place: Path, folder: bool) -> int:
    if not folder:
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    place.mkdir(exist_ok=True)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _empty_folder(layout: OutputLayout) -> None:
    """Remove what a killed run left. Raises OutputError when other things lie there too: they are somebody's."""
    _remove_files(layout)
    strangers = sorted(entry.name for entry in os.scandir(layout.part_folder))
    if strangers:
        raise OutputError(f"{layout.part_folder} holds {strangers[0]}: move it away or choose another name")


def _remove(layout: OutputLayout) -> None:
    _remove_files(layout)
    if layout.is_folder:
        layout.part_folder.rmdir()


def _remove_files(layout: OutputLayout) -> None:
    for file in layout.files:
        layout.part_path(file).unlink(missing_ok=True)


def _written(path: Path, file: OutputFile, content: Content) -> Iterator[int]:
    """Write one file; yields the bytes of every step."""
    try:
        with ExitStack() as stack:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, descriptor)
            os.ftruncate(descriptor, 0)
            target = DirectFile(descriptor)
            stack.callback(target.close)
            for data in _bytes_of(file, content):
                target.append(data)
                yield len(data)
            target.finish()
    except OSError as error:
        raise OutputError(f"cannot write {path} ({file.nbytes:,} bytes): {error.strerror}") from error


def _bytes_of(file: OutputFile, content: Content) -> Iterator[np.ndarray | bytes]:
    yield file.header
    for tensor in file.tensors:
        left = tensor.nbytes
        for data in content(tensor):
            left -= data.nbytes
            if left < 0:
                break
            yield data
        if left:
            raise ValueError(f"{tensor.name} takes {tensor.nbytes} bytes, but {tensor.nbytes - left} came")
        yield bytes(tensor.padding)


def _name(layout: OutputLayout) -> None:
    """Give the complete files their names."""
    try:
        if layout.is_folder:
            sync_folder(layout.part_folder)
            layout.part_folder.rename(layout.destination)
        else:
            for file in layout.files:
                layout.part_path(file).rename(file.path)
        sync_folder(layout.destination.parent)
    except OSError as error:
        raise OutputError(f"cannot finish {layout.destination}: {error.strerror}") from error
