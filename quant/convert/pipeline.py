"""Reading, encoding and handing over at once: pieces go in, their encoded bytes come out in the same order.

Memory is counted in bytes: a piece takes its share from before it is read until its last byte was taken over, and no
more are begun than fit, whatever the number of threads.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from quant.convert.codec import Codec
from quant.convert.daemon_pool import DaemonPool
from quant.convert.job_types import ConvertJob, ConvertLimits, PlannedTensor
from quant.convert.pieces import Piece
from quant.errors import EncodeError, K2Error

# How long the consumer waits at most before it is asked again whether it wants to go on.
TICK_S = 0.1

# Of a type whose speed is not known yet: a fraction of a second for the slowest encoders there are.
FIRST_CHUNK_WEIGHTS = 1 << 15

# Reading holds decoded values and what they are decoded from: more readers would cost memory and bring nothing, as
# decoding is many times cheaper than encoding.
_MAX_READERS = 4
_ENCODERS_PER_READER = 4

# What a stop waits for encoders that are at work.
_PATIENCE_S = 0.6


@dataclass(frozen=True)
class EncodedChunk:
    """Some rows of a tensor as bytes, and the zero bytes behind them."""

    piece: Piece
    rows: range
    data: np.ndarray

    @property
    def weights(self) -> int:
        """Number of values."""
        return len(self.rows) * self.piece.tensor.source.cols

    @property
    def padding(self) -> int:
        """Zero bytes that follow."""
        return self.piece.padding_after(self.rows.stop)


@dataclass(frozen=True)
class _Reading:
    """A piece, and its values or bytes in the making."""

    piece: Piece
    values: Future[Tensor | np.ndarray]


@dataclass(frozen=True)
class _Pending:
    """A chunk in the making. `released_bytes` are free again when it was taken over: those of its piece, if it is the
    last."""

    chunk: Future[EncodedChunk]
    released_bytes: int


def encoded_chunks(
    job: ConvertJob, pieces: Iterator[Piece], threads: int, limits: ConvertLimits
) -> Generator[EncodedChunk | None, None, None]:
    """All rows of `pieces`, in order, encoded by `threads` threads; None now and then while there is nothing.

    Raises what reading raises, and EncodeError that names the tensor, but only after everything before the failure
    was handed over. Closing the generator drops what has not begun and waits for the rest, for encoders a moment only.
    """
    with one_torch_thread(), _readers(threads) as readers, _encoders(threads) as encoders:
        pipeline = _Pipeline(job, pieces, readers, encoders, _ChunkSizes(limits, threads))
        try:
            while pipeline.advance():
                yield pipeline.next_chunk()
        finally:
            pipeline.cancelled.set()


class _Pipeline:
    """Two queues, both in the order of the output. Owned by the consumer's thread."""

    def __init__(
        self,
        job: ConvertJob,
        pieces: Iterator[Piece],
        readers: ThreadPoolExecutor,
        encoders: DaemonPool,
        sizes: "_ChunkSizes",
    ) -> None:
        self.cancelled = threading.Event()
        self._importance = _ImportanceCache(job)
        self._pieces = pieces
        self._next_piece = next(pieces, None)
        self._readers = readers
        self._encoders = encoders
        self._sizes = sizes
        self._reading: deque[_Reading] = deque()
        self._pending: deque[_Pending] = deque()
        self._memory_bytes = 0

    def advance(self) -> bool:
        """Begin whatever can begin. False when everything was handed over."""
        while self._next_piece is not None and self._fits(self._next_piece):
            self._memory_bytes += self._next_piece.memory_bytes
            values = self._readers.submit(self._next_piece.read, self.cancelled)
            self._reading.append(_Reading(self._next_piece, values))
            self._next_piece = next(self._pieces, None)
        while self._reading and self._reading[0].values.done():
            self._pending.extend(self._cut(self._reading.popleft()))
        return bool(self._reading or self._pending)

    def next_chunk(self) -> EncodedChunk | None:
        """The next chunk if it is ready within a tick. Something must be under way."""
        if not (self._pending and self._pending[0].chunk.done()):
            futures: list[Future] = [pending.chunk for pending in list(self._pending)[:1]]
            futures += [reading.values for reading in list(self._reading)[:1]]
            wait(futures, TICK_S, FIRST_COMPLETED)
            if not (self._pending and self._pending[0].chunk.done()):
                return None
        pending = self._pending.popleft()
        self._memory_bytes -= pending.released_bytes
        return pending.chunk.result()

    def _fits(self, piece: Piece) -> bool:
        # One piece that is larger than all memory allowed must be possible, alone.
        return not self._memory_bytes or self._memory_bytes + piece.memory_bytes <= self._sizes.memory_bytes

    def _cut(self, reading: _Reading) -> Iterator[_Pending]:
        """Chunks of a piece that was read, their encoding begun."""
        piece, failure = reading.piece, reading.values.exception()
        if failure is not None:
            yield _Pending(_failed(failure), 0)
            return
        values = reading.values.result()
        if isinstance(values, np.ndarray):
            chunk = EncodedChunk(piece, piece.rows, values.reshape(-1))
            yield _Pending(_finished(chunk), piece.memory_bytes)
            return
        try:
            importance = self._importance.of(piece.tensor)
        except K2Error as error:
            yield _Pending(_failed(error), 0)
            return
        for rows in self._chunk_rows(piece, importance is not None):
            slab = rows.start * piece.tensor.source.slabs // piece.tensor.source.rows
            columns = None if importance is None else importance[slab]
            chunk_values = values[rows.start - piece.rows.start : rows.stop - piece.rows.start]
            call = partial(encode_chunk, piece, rows, chunk_values, columns, self._sizes)
            future: Future[EncodedChunk] = self._encoders.submit(call)
            yield _Pending(future, piece.memory_bytes if rows.stop == piece.rows.stop else 0)

    def _chunk_rows(self, piece: Piece, within_slabs: bool) -> Iterator[range]:
        """Where a piece is cut: nowhere when its codec takes it whole, else at slabs if asked for."""
        source, codec = piece.tensor.source, piece.tensor.codec
        start = piece.rows.start
        while start < piece.rows.stop:
            stop = piece.rows.stop
            if codec.splits_rows:
                stop = min(stop, start + max(1, self._sizes.chunk_weights(codec) // source.cols))
                slab_rows = source.rows // source.slabs
                stop = min(stop, (start // slab_rows + 1) * slab_rows) if within_slabs else stop
            yield range(start, stop)
            start = stop


class _ChunkSizes:
    """How many weights make a chunk, from how fast each type was until now. Never decides a byte of the output."""

    def __init__(self, limits: ConvertLimits, threads: int) -> None:
        # Few threads need less ahead of them.
        self.memory_bytes = min(limits.memory_bytes, (192 + 32 * threads) * 1024 * 1024)
        # All threads must find work within the memory allowed, with as much again waiting for them.
        share = self.memory_bytes // 4 // (2 * threads)
        self._most = min(limits.chunk_weights, max(share, FIRST_CHUNK_WEIGHTS))
        self._chunk_s = limits.chunk_s
        self._seconds_per_weight: dict[str, float] = {}

    def chunk_weights(self, codec: Codec) -> int:
        """Weights of the next chunk."""
        seconds = self._seconds_per_weight.get(codec.name)
        return min(self._most, FIRST_CHUNK_WEIGHTS if seconds is None else int(self._chunk_s / seconds))

    def learn(self, codec: Codec, weights: int, seconds: float) -> None:
        """Remember how long a chunk took. Called by the threads that encode."""
        self._seconds_per_weight[codec.name] = max(seconds, 1e-9) / weights


class _ImportanceCache:
    """The importance of the tensor at hand, asked for once."""

    def __init__(self, job: ConvertJob) -> None:
        self._of = job.importance
        self._tensor: PlannedTensor | None = None
        self._importance: Tensor | None = None

    def of(self, tensor: PlannedTensor) -> Tensor | None:
        """float32 [slabs, cols], or None. Raises ValueError for one of another shape."""
        if self._of is None:
            return None
        if tensor is not self._tensor:
            source = tensor.source
            self._tensor, self._importance = tensor, self._of(source.name, source.shape)
            expected = (source.slabs, source.cols)
            if self._importance is not None and tuple(self._importance.shape) != expected:
                raise ValueError(f"importance of {source.name}: {tuple(self._importance.shape)}, not {expected}")
        return self._importance


def encode_chunk(
    piece: Piece, rows: range, values: Tensor, importance: Tensor | None, sizes: _ChunkSizes
) -> EncodedChunk:
    """Encode rows of a piece; runs in a thread of its own."""
    codec, started = piece.tensor.codec, time.monotonic()
    try:
        data = codec.encode(values, importance)
    except EncodeError as error:
        source = piece.tensor.source
        place = f" (part {piece.part} of {source.parts})" if source.parts > 1 and piece.part is not None else ""
        raise EncodeError(f"{source.name}{place}: {error}") from error
    expected = piece.tensor.nbytes * len(rows) // piece.tensor.source.rows
    if data.dtype != np.uint8 or data.ndim != 1 or data.size != expected:
        raise ValueError(f"{codec.name} made {data.nbytes} bytes of {values.numel()} weights instead of {expected}")
    sizes.learn(codec, values.numel(), time.monotonic() - started)
    return EncodedChunk(piece, rows, data)


def _finished(chunk: EncodedChunk) -> Future[EncodedChunk]:
    future: Future[EncodedChunk] = Future()
    future.set_result(chunk)
    return future


def _failed(failure: BaseException) -> Future[EncodedChunk]:
    future: Future[EncodedChunk] = Future()
    future.set_exception(failure)
    return future


@contextmanager
def _readers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read; when the block is left they are waited for, because the source may be closed then."""
    pool = ThreadPoolExecutor(min(_MAX_READERS, 1 + threads // _ENCODERS_PER_READER))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _encoders(threads: int) -> Iterator[DaemonPool]:
    """Threads that encode; when the block is left early, those that take long are left alone."""
    pool = DaemonPool(threads)
    try:
        yield pool
    finally:
        pool.close(_PATIENCE_S)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch from starting threads of its own inside each of ours; threads born in the block inherit this."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
