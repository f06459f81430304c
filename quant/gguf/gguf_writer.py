"""Writing one GGUF file: the header is laid out at once, then tensor bytes follow in the order of the list.

Files get the usual alignment of 32 bytes and no gaps, so that every tool that knows the format can work on
them.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from quant.errors import OutputError
from quant.files.part_file import PartFile
from quant.gguf.gguf_format import (
    ALIGNMENT_KEY,
    ARRAY_ID,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    SCALAR_BY_NAME,
    STRING_ID,
    VERSION,
    align_up,
)
from quant.types import BlockType


@dataclass(frozen=True)
class MetadataEntry:
    """A key with its value. `type` is the specification's name: "uint32", "string", "array[string]" ..."""

    key: str
    type: str
    value: Any


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written. `shape` is in numpy order, slowest dimension first."""

    name: str
    type: BlockType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor without padding. Raises UnsupportedError when the type's blocks do not fit."""
        return self.type.nbytes(self.shape)

    @property
    def padded_bytes(self) -> int:
        """Bytes up to where the next tensor begins."""
        return align_up(self.nbytes, DEFAULT_ALIGNMENT)


class GgufWriter:
    """Writes a file whose every size is known beforehand. A context manager, owned by one thread.

    Nothing touches the disk before the context is entered. Leaving it without `finish` removes what was
    written.
    """

    def __init__(self, path: Path, metadata: Sequence[MetadataEntry], tensors: Sequence[TensorSpec]) -> None:
        """Lay the file out. Raises OutputError for what the format cannot hold."""
        self._path = path
        self._tensors = tuple(tensors)
        self._header = gguf_header(metadata, self._tensors)
        self.total_bytes = len(self._header) + sum(tensor.padded_bytes for tensor in self._tensors)
        self._index = 0
        self._written_of_current = 0
        self._file: PartFile | None = None

    @property
    def written_bytes(self) -> int:
        """Bytes written so far, the header included."""
        return 0 if self._file is None else self._file.written_bytes

    def write(self, name: str, chunk: bytes | memoryview | np.ndarray) -> None:
        """Append `chunk` to the tensor `name`, which must be the first that is not complete.

        Raises OutputError when the disk fails, ValueError when the caller breaks order or size.
        """
        file = self._opened()
        data = (chunk.data if isinstance(chunk, np.ndarray) else memoryview(chunk)).cast("B")
        current = self._tensors[self._index] if self._index < len(self._tensors) else None
        if current is None or current.name != name:
            raise ValueError(f"{name} was written where {current.name if current else 'nothing'} is due")
        written = self._written_of_current + len(data)
        if written > current.nbytes:
            raise ValueError(f"{name} takes {current.nbytes} bytes, but {written} were written")
        file.write(data)
        self._written_of_current = written
        if written == current.nbytes:
            file.write(bytes(current.padded_bytes - written))
            self._index += 1
            self._written_of_current = 0

    def finish(self) -> None:
        """Complete the file and name it. Raises OutputError, or ValueError while a tensor is missing."""
        file = self._opened()
        if self._index != len(self._tensors):
            raise ValueError(f"{self._tensors[self._index].name} is not complete")
        file.commit()
        self._file = None

    def _opened(self) -> PartFile:
        if self._file is None:
            raise ValueError(f"{self._path} is not open for writing")
        return self._file

    def __enter__(self) -> Self:
        """Create the file. Raises OutputError when it exists or the disk has too little room for it."""
        self._file = PartFile(self._path, self.total_bytes)
        try:
            self._file.write(self._header)
        except BaseException:
            self._file.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None


def gguf_header(metadata: Sequence[MetadataEntry], tensors: Sequence[TensorSpec]) -> bytes:
    """All bytes before the data, padding included. Raises OutputError for what the format cannot hold."""
    _refuse_duplicates([entry.key for entry in metadata])
    _refuse_duplicates([tensor.name for tensor in tensors])
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    parts += [_entry(entry) for entry in metadata]
    offset = 0
    for tensor in tensors:
        parts.append(_tensor_entry(tensor, offset))
        offset += tensor.padded_bytes
    header = b"".join(parts)
    return header.ljust(align_up(len(header), DEFAULT_ALIGNMENT), b"\0")


def _refuse_duplicates(names: list[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise OutputError(f"{name!r} would be in the file twice")
        seen.add(name)


def _tensor_entry(tensor: TensorSpec, offset: int) -> bytes:
    if len(tensor.name.encode()) > MAX_NAME_BYTES:
        raise OutputError(f"the tensor name {tensor.name!r} is longer than {MAX_NAME_BYTES} bytes")
    rank = len(tensor.shape)
    if not 1 <= rank <= MAX_DIMENSIONS or min(tensor.shape) < 1:
        raise OutputError(f"tensor {tensor.name!r} cannot have the shape {tensor.shape}")
    numbers = struct.pack(f"<I{rank}QIQ", rank, *tensor.shape[::-1], tensor.type.ggml_id, offset)
    return _string(tensor.name) + numbers


def _entry(entry: MetadataEntry) -> bytes:
    if entry.key == ALIGNMENT_KEY:
        raise OutputError(f"{ALIGNMENT_KEY} cannot be set: files are aligned to {DEFAULT_ALIGNMENT} bytes")
    try:
        return _string(entry.key) + _value(entry.type, entry.value)
    except (struct.error, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise OutputError(f"the key {entry.key!r} cannot hold this {entry.type}: {error}") from error


def _value(kind: str, value: Any) -> bytes:
    """The type number and the bytes of a metadata value."""
    if kind == "string":
        return struct.pack("<I", STRING_ID) + _string(value)
    if not (kind.startswith("array[") and kind.endswith("]")):
        return struct.pack("<I", _scalar_id(kind)) + _numbers(kind, [value])
    element = kind.removeprefix("array[").removesuffix("]")
    if element == "string":
        return struct.pack("<IIQ", ARRAY_ID, STRING_ID, len(value)) + b"".join(map(_string, value))
    return struct.pack("<IIQ", ARRAY_ID, _scalar_id(element), len(value)) + _numbers(element, value)


def _scalar_id(name: str) -> int:
    if name not in SCALAR_BY_NAME:
        raise TypeError(f"unknown type {name!r}, known are string, {', '.join(SCALAR_BY_NAME)} and array[...]")
    return SCALAR_BY_NAME[name].id


def _numbers(name: str, values: Sequence[Any]) -> bytes:
    # struct takes anything for a bool, and a text "false" would become true.
    if name == "bool" and not all(isinstance(value, bool) for value in values):
        raise TypeError("a bool must be True or False")
    return struct.pack(f"<{len(values)}{SCALAR_BY_NAME[name].code}", *values)


def _string(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not a text")
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
