"""Bytes of an output in strict order into its part files, cut into stretches for the journal."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import numpy as np

from quant.convert.job_types import ConvertLimits, Stretch
from quant.convert.output_layout import OutputFile, OutputLayout
from quant.convert.resume import Place, new_digest
from quant.convert.sync import Syncer, Written
from quant.errors import OutputError
from quant.files.part_file import sync_folder


class OutputWriter:
    """Owned by one thread. Headers and padding are its own business, tensor bytes come through `write`."""

    def __init__(self, layout: OutputLayout, place: Place, syncer: Syncer, limits: ConvertLimits) -> None:
        """Go on at `place`; what is behind it is cut off. Raises OutputError."""
        self._layout = layout
        self._syncer = syncer
        self._limits = limits
        self._number = place.file
        self._descriptor: int | None = None
        self._offset = self._stretch_start = place.offset
        self._digest = new_digest()
        self._marked_s = time.monotonic()
        self._before_bytes = sum(file.nbytes for file in layout.files[: place.file])
        self._open_until_tensor()

    @property
    def written_bytes(self) -> int:
        """Bytes in all files together."""
        return self._before_bytes + self._offset

    def write(self, data: np.ndarray, padding: int) -> None:
        """Append `data` and then `padding` zero bytes, both or neither. Raises OutputError."""
        pieces = [data.data, memoryview(bytes(padding))]
        self._append(pieces)
        self._open_until_tensor()
        self.mark_if_due()

    def mark_if_due(self) -> None:
        """End the stretch that is long or old enough. To be called now and then, also when nothing is written."""
        old = time.monotonic() - self._marked_s >= self._limits.stretch_s
        if old or self._offset - self._stretch_start >= self._limits.stretch_bytes:
            self._mark(last=False)

    def close(self) -> None:
        """Hand over the last stretch and the descriptor. Nothing can be written afterwards."""
        if self._descriptor is not None:
            self._mark(last=True)

    def _open_until_tensor(self) -> None:
        """Close the file that is full and open the next, until there is one that waits for tensor bytes."""
        while self._number < len(self._layout.files):
            file = self._layout.files[self._number]
            if self._descriptor is None:
                self._descriptor = self._opened(file)
                if self._offset == 0:
                    self._append([memoryview(file.header)])
            if self._offset < file.nbytes:
                return
            self._mark(last=True)
            self._before_bytes += file.nbytes
            self._number += 1
            self._offset = self._stretch_start = 0

    def _opened(self, file: OutputFile) -> int:
        path = self._layout.part_path(file)
        try:
            if self._layout.is_folder:
                path.parent.mkdir(exist_ok=True)
                sync_folder(path.parent.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                os.ftruncate(descriptor, self._offset)
                sync_folder(path.parent)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise OutputError(f"cannot create {path}: {error.strerror}") from error
        return descriptor

    def _append(self, pieces: list[memoryview]) -> None:
        """Write all pieces behind each other, or nothing."""
        assert self._descriptor is not None
        position = self._offset
        try:
            for piece in pieces:
                position = _write_all(self._descriptor, piece, position)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._offset)
            raise OutputError(self._cannot_write(error)) from error
        for piece in pieces:
            self._digest.update(piece)
        self._offset = position

    def _cannot_write(self, error: OSError) -> str:
        path = self._layout.part_path(self._layout.files[self._number])
        missing, free = self._layout.total_bytes - self.written_bytes, free_bytes(path.parent)
        return (
            f"cannot write {path} beyond {self._offset:,} of {self._layout.files[self._number].nbytes:,} bytes: "
            f"{error.strerror} ({missing:,} bytes are still to be written, {free:,} are free)"
        )

    def _mark(self, *, last: bool) -> None:
        """End the stretch here and hand it over; with `last` the descriptor as well."""
        assert self._descriptor is not None
        self._marked_s = time.monotonic()
        stretch = None
        if self._offset > self._stretch_start:
            stretch = Stretch(self._number, self._stretch_start, self._offset, self._digest.hexdigest())
            self._digest, self._stretch_start = new_digest(), self._offset
        if stretch is not None or last:
            self._syncer.put(Written(self._descriptor, stretch, last))
        if last:
            self._descriptor = None


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write there, 0 where that cannot be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _write_all(descriptor: int, data: memoryview, position: int) -> int:
    """Write everything at `position`; returns where it ends. Raises OSError."""
    while data:
        count = os.pwrite(descriptor, data, position)
        position += count
        data = data[count:]
    return position
