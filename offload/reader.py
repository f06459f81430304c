"""Threads that keep a drive busy: reads wait in one queue, the most urgent first, and are cut into pieces.

Why threads and not io_uring: a thread lets go of the interpreter while it reads, and eight of them reach what the drive
gives (docs/offloading.md); nothing has to be built or installed.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from offload.drive import BLOCK_BYTES, Drive, block_ceil
from offload.fastest import FastestWindow
from offload.slots import ExpertKey
from quant.closing import Closing
from quant.errors import StoreError

PIECE_BYTES = 4 << 20
THREADS_PER_DRIVE = 8
# Long enough that what was under way before it began does not count: a sixteenth, with eight threads.
_WINDOW_PIECES = 128


class Urgency(IntEnum):
    """Why an expert is read. Smaller goes first."""

    DEMAND = 0  # a token waits for it
    LOOK_AHEAD = 1  # it will probably be wanted soon
    WARM_UP = 2  # nobody waits


@dataclass(frozen=True)
class Piece:
    """A run of whole blocks of a file, to be read to `target`; the first `needed` bytes must be there."""

    file: int
    offset: int
    target: memoryview
    needed: int


@dataclass(eq=False)
class Read:
    """An expert on its way. Fields belong to the reader until it is handed out by `collect`.

    `finish` is called in a thread of the reader when all bytes are there, before anybody may use them.
    """

    key: ExpertKey
    urgency: Urgency
    nbytes: int
    error: StoreError | None = None
    cancelled: bool = False
    waiting: list[Piece] = field(default_factory=list)  # not begun, last one first
    running: int = 0
    finish: Callable[[], None] | None = None

    @property
    def is_complete(self) -> bool:
        """All bytes are there."""
        return self.error is None and not self.cancelled


@dataclass(frozen=True)
class ReaderState:
    """What was read since the start. `mean_depth` is how many pieces were under way, on average of `busy_s`.

    `fastest_bytes_per_s` is the highest rate of some hundred pieces in a row, None before there were as many.
    """

    reads: int
    nbytes: int
    busy_s: float
    mean_depth: float
    waiting_reads: int
    fastest_bytes_per_s: float | None = None


class DriveReader(Closing):
    """Reads experts from one drive, or from several that hold the same files: whichever is free takes the next piece.

    `submit`, `hurry`, `cancel` and `collect` belong to one thread. Nothing is written to a read's memory once
    `collect` has handed it out.
    """

    def __init__(self, drives: Sequence[Drive], threads_per_drive: int = THREADS_PER_DRIVE) -> None:
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._ready = threading.Condition(self._lock)
        self._queue: list[tuple[int, int, Read]] = []
        self._number = 0
        self._finished: list[Read] = []
        self._open_reads = 0
        self._closed = False
        self._running = 0
        self._reads = self._nbytes = 0
        self._busy_s = self._depth_s = 0.0
        self._since = 0.0
        self._fastest, self._busy_before_s = FastestWindow(_WINDOW_PIECES), 0.0
        self._threads = [
            threading.Thread(target=self._serve, args=(drive,), name=f"k2lite-drive-{number}", daemon=True)
            for drive in drives
            for number in range(threads_per_drive)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, key: ExpertKey, pieces: Sequence[Piece], urgency: Urgency, finish: Callable[[], None] | None = None
    ) -> Read:
        """Begin to read an expert, pieces in the order given. `finish`, see Read, may raise StoreError."""
        nbytes = sum(piece.needed for piece in pieces)
        read = Read(key, urgency, nbytes, waiting=list(reversed(pieces)), finish=finish)
        with self._lock:
            self._open_reads += 1
            self._push(read)
            self._work.notify(len(pieces))
        return read

    def hurry(self, read: Read, urgency: Urgency) -> None:
        """Make a read more urgent: somebody waits for what was begun on a guess."""
        if urgency >= read.urgency:
            return
        with self._lock:
            read.urgency = urgency
            if read.waiting:
                self._push(read)

    def cancel(self, read: Read) -> None:
        """Begin no further piece of a read. `collect` hands it out when those under way have ended."""
        with self._lock:
            read.cancelled = True
            self._drop_rest(read)

    def collect(self, timeout_s: float | None = 0.0) -> list[Read]:
        """Reads that have ended since the last call. Waits for at least one, as long as `timeout_s` (None: any time).

        Returns at once when none is under way.
        """
        with self._lock:
            if not self._finished and self._open_reads and timeout_s != 0.0:
                self._ready.wait_for(lambda: self._finished or self._closed, timeout_s)
            finished, self._finished = self._finished, []
            return finished

    @property
    def open_reads(self) -> int:
        """Reads that were submitted and have not ended."""
        return self._open_reads

    def state(self) -> ReaderState:
        """Counters as of now."""
        with self._lock:
            self._account()
            depth = self._depth_s / self._busy_s if self._busy_s else 0.0
            fastest = self._fastest.bytes_per_s
            return ReaderState(self._reads, self._nbytes, self._busy_s, depth, self._open_reads, fastest)

    def close(self) -> None:
        """End the threads. What is under way is waited for, what is not is forgotten. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._work.notify_all()
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _push(self, read: Read) -> None:
        self._number += 1
        heapq.heappush(self._queue, (read.urgency, self._number, read))

    def _serve(self, drive: Drive) -> None:
        """A thread: one piece after the other."""
        while (taken := self._take()) is not None:
            read, piece = taken
            error = None
            try:
                drive.read(piece.file, piece.offset, piece.target, piece.needed)
                drive.check(piece.file)
            except StoreError as failure:
                error = failure
            self._done(read, piece, error)

    def _take(self) -> tuple[Read, Piece] | None:
        """The next piece, None when the reader closes. A read stays first in the queue while it has pieces left."""
        with self._lock:
            while True:
                while not self._queue and not self._closed:
                    self._work.wait()
                if self._closed:
                    return None
                urgency, _, read = self._queue[0]
                if not read.waiting or urgency != read.urgency:  # all begun, or in the queue once more further ahead
                    heapq.heappop(self._queue)
                    continue
                self._account()
                self._running += 1
                read.running += 1
                return read, read.waiting.pop()

    def _done(self, read: Read, piece: Piece, error: StoreError | None) -> None:
        with self._lock:
            self._account()
            self._running -= 1
            if error is None:
                self._nbytes += piece.needed
                self._fastest.add(piece.needed, self._busy_s - self._busy_before_s)
                self._busy_before_s = self._busy_s
            else:
                read.error = read.error or error
            if read.cancelled or read.error is not None:
                read.waiting.clear()
            is_last = read.running == 1 and not read.waiting and read.is_complete
        if is_last and read.finish is not None:
            try:
                read.finish()
            except StoreError as failure:
                read.error = failure
        with self._lock:
            read.running -= 1
            self._finish_if_ended(read)

    def _drop_rest(self, read: Read) -> None:
        if read.waiting:
            read.waiting.clear()
            self._finish_if_ended(read)

    def _finish_if_ended(self, read: Read) -> None:
        if read.running or read.waiting:
            return
        self._open_reads -= 1
        self._reads += 1
        self._finished.append(read)
        self._ready.notify()

    def _account(self) -> None:
        """Add the time since the last change to the counters. The lock is held."""
        now = time.perf_counter()
        if self._running:
            self._busy_s += now - self._since
            self._depth_s += self._running * (now - self._since)
        self._since = now


def cut(file: int, offset: int, target: memoryview, needed: int, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """A run of whole blocks as pieces of about equal size, none larger than `piece_bytes`."""
    count = max(1, -(-len(target) // piece_bytes))
    step = max(BLOCK_BYTES, block_ceil(-(-len(target) // count)))
    pieces = []
    for start in range(0, len(target), step):
        part = target[start : start + step]
        pieces.append(Piece(file, offset + start, part, min(len(part), needed - start)))
    return [piece for piece in pieces if piece.needed > 0]
