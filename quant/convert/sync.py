"""The thread that brings written bytes to the drive and then says so in the journal."""

import contextlib
import os
import queue
import threading
from dataclasses import dataclass

from quant.convert.job_types import Stretch
from quant.convert.journal import Journal
from quant.errors import K2Error, OutputError


@dataclass(frozen=True)
class Written:
    """A stretch that the system has taken but the drive may not have, None where only the descriptor is handed over.

    `last`: close the descriptor afterwards.
    """

    descriptor: int
    stretch: Stretch | None
    last: bool

    @property
    def nbytes(self) -> int:
        """Bytes that wait for the drive."""
        return 0 if self.stretch is None else self.stretch.nbytes


# Less than this is brought to any drive in a fraction of a second.
_LEAST_WAITING_BYTES = 32 * 1024 * 1024


class Syncer:
    """Works beside the one that writes, who need not wait for the drive.

    While one round of `fdatasync` runs others gather and share the next. All methods are for the writing thread.
    """

    def __init__(self, journal: Journal, stretch_bytes: int, *, drop_cache: bool = False) -> None:
        """Start the thread. With `drop_cache` what is on the drive does not stay in the system's memory as well.

        Two stretches of `stretch_bytes` may wait for a drive that is slower than the writer: a crash must not cost
        more, and a stop not take longer.
        """
        self._most_waiting_bytes = max(2 * stretch_bytes, _LEAST_WAITING_BYTES)
        self._waiting_bytes = 0
        self._room = threading.Condition()
        self._journal = journal
        self._drop_cache = drop_cache
        self._written: queue.SimpleQueue[Written | None] = queue.SimpleQueue()
        self._recorded: list[Stretch] = []
        self._error: K2Error | None = None
        self._thread = threading.Thread(target=self._work, name="convert-sync", daemon=True)
        self._thread.start()

    def put(self, written: Written) -> None:
        """Hand over what was written; its descriptor must stay open unless it is the last of its file."""
        with self._room:
            self._room.wait_for(lambda: self._waiting_bytes <= self._most_waiting_bytes)
            self._waiting_bytes += written.nbytes
        self._written.put(written)

    def check(self) -> None:
        """Raise OutputError when the thread could not do its work."""
        if self._error is not None:
            raise self._error

    def close(self) -> list[Stretch]:
        """Wait until everything is recorded and end the thread. Returns what was recorded; `check` says what failed."""
        self._written.put(None)
        self._thread.join()
        return self._recorded

    def _work(self) -> None:
        while True:
            batch, ended = self._gathered()
            if self._error is None and batch:
                self._record(batch)
            for written in batch:
                if written.last:
                    os.close(written.descriptor)
            with self._room:
                self._waiting_bytes -= sum(written.nbytes for written in batch)
                self._room.notify()
            if ended:
                return

    def _gathered(self) -> tuple[list[Written], bool]:
        """Everything that waits, at least one entry, and whether the end was among it."""
        batch: list[Written] = []
        entry = self._written.get()
        while entry is not None:
            batch.append(entry)
            try:
                entry = self._written.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _record(self, batch: list[Written]) -> None:
        try:
            for descriptor in dict.fromkeys(written.descriptor for written in batch):
                os.fdatasync(descriptor)
            stretches = [written.stretch for written in batch if written.stretch is not None]
            self._journal.append(stretches)
            self._recorded += stretches
        except OSError as error:
            self._error = OutputError(f"the drive did not take what was written: {error.strerror}")
        except K2Error as error:
            self._error = error
        if self._drop_cache:
            self._forget(batch)

    def _forget(self, batch: list[Written]) -> None:
        for written in batch:
            stretch = written.stretch
            if stretch is not None:
                with contextlib.suppress(OSError):
                    os.posix_fadvise(written.descriptor, stretch.start, stretch.nbytes, os.POSIX_FADV_DONTNEED)
