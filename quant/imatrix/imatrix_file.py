"""Files with statistics of what a model's weights are multiplied with: the GGUF form and the older .dat form.

For every weight they hold the sums of squared inputs by column, and how many inputs there were. The bytes are treated
as hostile, and only one weight's statistics are in memory at a time: a model of 384 experts has 1.5 GB of them.
"""

import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from quant.errors import GgufError, ImatrixError, OutputError
from quant.gguf.gguf_file import GgufFile, TensorInfo
from quant.gguf.gguf_format import MAGIC
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.types import block_type

SUMS_SUFFIX, COUNTS_SUFFIX = ".in_sum2", ".counts"
TYPE_KEY, FILE_TYPE = "general.type", "imatrix"
DATASETS_KEY, CHUNK_COUNT_KEY, CHUNK_SIZE_KEY = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"

_WORD = struct.Struct("<i")
_SMALLEST_ENTRY_BYTES = 4 * _WORD.size
_MAX_DATASET_BYTES = 1 << 20
# A weight of Kimi K2 has 2.75 million numbers at most (384 experts of 7168 columns).
MAX_NUMBERS = 1 << 26


@dataclass(frozen=True)
class ImatrixHeader:
    """What the statistics were collected from: texts by name, in `chunk_count` chunks of `chunk_size` tokens.

    `chunk_size` is 0 where the file does not say it.
    """

    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of one weight: `sums` float32 [groups, cols], squared inputs added up, and `counts` float32 [groups].

    A group is an expert. The matrices of all heads are one group, whose columns lie head after head.
    """

    sums: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        if self.sums.ndim != 2 or self.counts.shape != self.sums.shape[:1]:
            raise ValueError(f"sums {self.sums.shape} and counts {self.counts.shape} do not belong together")


class StatisticsFile(Protocol):
    """An open file. `names` are those of the weights. Every thread may read."""

    path: Path
    header: ImatrixHeader
    names: tuple[str, ...]

    def shape(self, name: str) -> tuple[int, int]:
        """(groups, cols) of one weight."""

    def read(self, name: str) -> Statistics:
        """The statistics of one weight, as they are in the file. Raises ImatrixError when it is cut off."""

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""


def open_statistics(path: Path) -> StatisticsFile:
    """Open a file of either form. Raises ImatrixError, GgufError or UnsupportedError."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC)) if path.is_file() else b""
    except OSError as error:
        raise ImatrixError(f"cannot open {path}: {error.strerror}: check the path and who may read it") from error
    return GgufStatistics(path) if start == MAGIC else LegacyStatistics(path)


class _Bytes:
    """A file that is read piece by piece with pread, so that its pages are never part of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size

    def floats(self, offset: int, count: int) -> np.ndarray:
        """`count` float32 numbers from byte `offset` on. Raises ImatrixError when they are not there."""
        return np.frombuffer(self.take(offset, 4 * count, "its statistics"), "<f4")

    def word(self, offset: int, what: str) -> int:
        number: int = _WORD.unpack(self.take(offset, _WORD.size, what))[0]
        return number

    def take(self, offset: int, count: int, what: str) -> bytes:
        """Raises ImatrixError before it asks for memory that the file cannot fill."""
        if not 0 <= count <= min(self.size - offset, 4 * MAX_NUMBERS):
            raise self._cut_off(what, offset, count)
        pieces, position = [], offset
        while position < offset + count:
            piece = os.pread(self._file, offset + count - position, position)
            if not piece:
                raise self._cut_off(what, offset, count)
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _cut_off(self, what: str, offset: int, count: int) -> ImatrixError:
        return ImatrixError(
            f"{self.path} is cut off or damaged: {what} takes {count} bytes from byte {offset} on, "
            f"but the file has {self.size}: copy it again, or collect it again"
        )


class GgufStatistics:
    """The GGUF form: two F32 tensors for every weight. See StatisticsFile."""

    def __init__(self, path: Path) -> None:
        with GgufFile.open(path) as file:
            self.metadata: Mapping[str, object] = file.metadata
            tensors = dict(file.tensors)
        self.path = path
        self.header = _header_of(path, self.metadata)
        self._pairs = _pairs_of(path, tensors)
        self.names = tuple(self._pairs)
        self._bytes = _Bytes(path)

    def shape(self, name: str) -> tuple[int, int]:
        sums, counts = (math.prod(info.shape) for info in self._pairs[name])
        return counts, sums // counts

    def read(self, name: str) -> Statistics:
        groups, cols = self.shape(name)
        sums, counts = self._pairs[name]
        values = self._bytes.floats(sums.offset_bytes, groups * cols).reshape(groups, cols)
        return Statistics(values, self._bytes.floats(counts.offset_bytes, groups))

    def close(self) -> None:
        self._bytes.close()


def _header_of(path: Path, metadata: Mapping[str, object]) -> ImatrixHeader:
    kind = metadata.get(TYPE_KEY, FILE_TYPE)
    if kind != FILE_TYPE or "general.architecture" in metadata:
        raise ImatrixError(f"{path} is a {kind}, not an importance matrix: k2lite imatrix makes one")
    datasets = metadata.get(DATASETS_KEY)
    numbers = [metadata.get(key) for key in (CHUNK_COUNT_KEY, CHUNK_SIZE_KEY)]
    if not isinstance(datasets, list) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        keys = ", ".join((DATASETS_KEY, CHUNK_COUNT_KEY, CHUNK_SIZE_KEY))
        raise ImatrixError(f"{path} is not an importance matrix: one of its keys {keys} is missing or wrong")
    return ImatrixHeader(tuple(map(str, datasets)), *numbers)  # type: ignore[arg-type]  # both are int by now


def _pairs_of(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Sums and counts by the name of their weight. Raises GgufError where one has no other."""
    pairs: dict[str, tuple[TensorInfo, TensorInfo]] = {}
    for name, info in tensors.items():
        weight = name.removesuffix(SUMS_SUFFIX).removesuffix(COUNTS_SUFFIX)
        sums, counts = tensors.get(weight + SUMS_SUFFIX), tensors.get(weight + COUNTS_SUFFIX)
        if weight == name or sums is None or counts is None:
            raise GgufError(f"{path} is damaged: {name!r} is not one of two tensors {SUMS_SUFFIX} and {COUNTS_SUFFIX}")
        numbers = math.prod(sums.shape)
        if info.type.name != "F32" or numbers % math.prod(counts.shape) or numbers > MAX_NUMBERS:
            raise GgufError(f"{path} is damaged: {name!r} is {info.type} {info.shape}: expected fitting F32")
        pairs[weight] = sums, counts
    if not pairs:
        raise ImatrixError(f"{path} holds no statistics: collect them again")
    return pairs


class LegacyStatistics:
    """The .dat form: one list of numbers for every weight, and how often to divide them. See StatisticsFile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = _Bytes(path)
        except OSError as error:
            raise ImatrixError(f"cannot open {path}: {error.strerror}") from error
        try:
            self._places, end = self._parse()
            self.header = self._trailer(end)
        except BaseException:
            self._bytes.close()
            raise
        self.names = tuple(self._places)

    def shape(self, name: str) -> tuple[int, int]:
        return 1, self._places[name][1]

    def read(self, name: str) -> Statistics:
        offset, count, calls = self._places[name]
        return Statistics(self._bytes.floats(offset, count)[None], np.array([max(calls, 1)], np.float32))

    def close(self) -> None:
        self._bytes.close()

    def _parse(self) -> tuple[dict[str, tuple[int, int, int]], int]:
        """Byte offset, numbers and divisor of every weight, and where the list of weights ends."""
        count = self._bytes.word(0, "the number of weights") if self._bytes.size else 0
        if not 1 <= count <= self._bytes.size // _SMALLEST_ENTRY_BYTES:
            raise ImatrixError(f"{self.path} is neither a GGUF file nor an older importance matrix (.dat)")
        places: dict[str, tuple[int, int, int]] = {}
        position = _WORD.size
        for _ in range(count):
            length = self._bytes.word(position, "the length of a name")
            try:
                name = self._bytes.take(position + 4, length, "a name").decode()
            except UnicodeDecodeError as error:
                raise ImatrixError(f"{self.path} is damaged: a name at byte {position + 4} is not UTF-8") from error
            position += 4 + length
            calls, values = (self._bytes.word(position + at, f"the size of {name!r}") for at in (0, 4))
            position += 8
            if values < 1 or 4 * values > self._bytes.size - position or not name or name in places:
                raise ImatrixError(f"{self.path} is cut off or damaged at {name!r}, which claims {values} numbers")
            places[name] = position, values, calls
            position += 4 * values
        return places, position

    def _trailer(self, position: int) -> ImatrixHeader:
        """Newer files end with the number of chunks and the name of the text."""
        if position == self._bytes.size:
            return ImatrixHeader((), 0, 0)
        chunks = self._bytes.word(position, "the number of chunks")
        length = self._bytes.word(position + 4, "the length of the text's name")
        if length > _MAX_DATASET_BYTES:
            raise ImatrixError(f"{self.path} is damaged: the name of its text takes {length} bytes")
        name = self._bytes.take(position + 8, length, "the text's name").rstrip(b"\0").decode(errors="replace")
        return ImatrixHeader((name,) if name else (), max(chunks, 0), 0)


def write_statistics(
    path: Path,
    header: ImatrixHeader,
    shapes: Mapping[str, tuple[int, int]],
    statistics: Iterable[tuple[str, Statistics]],
    extra: Sequence[MetadataEntry] = (),
) -> None:
    """Write the GGUF form, in place of what is at `path` if there is something.

    `shapes` are (groups, cols) by weight; `statistics` come in the same order. The file appears under its name when
    it is complete. Raises OutputError.
    """
    f32 = block_type("F32")
    specs = []
    for name, (groups, cols) in shapes.items():
        specs.append(TensorSpec(name + SUMS_SUFFIX, f32, (groups, cols) if groups > 1 else (cols,)))
        specs.append(TensorSpec(name + COUNTS_SUFFIX, f32, (groups, 1) if groups > 1 else (1,)))
    metadata = [
        MetadataEntry(TYPE_KEY, "string", FILE_TYPE),
        MetadataEntry(DATASETS_KEY, "array[string]", list(header.datasets)),
        MetadataEntry(CHUNK_COUNT_KEY, "uint32", header.chunk_count),
        MetadataEntry(CHUNK_SIZE_KEY, "uint32", header.chunk_size),
        *extra,
    ]
    # The writer gives its file a name that nothing has yet; this one then takes the place of the old one.
    complete = path.with_name(path.name + ".new")
    try:
        complete.unlink(missing_ok=True)
        with GgufWriter(complete, metadata, specs) as writer:
            for name, entry in statistics:
                writer.write(name + SUMS_SUFFIX, np.ascontiguousarray(entry.sums, "<f4"))
                writer.write(name + COUNTS_SUFFIX, np.ascontiguousarray(entry.counts, "<f4"))
            writer.finish()
        complete.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
