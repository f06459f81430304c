"""Parsing the header of one GGUF file: keys and tensor entries, with every length checked before it is used.

The bytes are treated as hostile. Nothing is allocated before the file is known to hold it, so memory stays a
small multiple of the header, and whatever is wrong becomes a GgufError or UnsupportedError.
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quant.errors import GgufError, UnsupportedError
from quant.gguf.gguf_format import (
    ALIGNMENT_KEY,
    ARRAY_ID,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    SCALAR_BY_ID,
    STRING_ID,
    ScalarType,
)
from quant.gguf.number_array import NumberArray
from quant.types import BlockType, block_type_by_id

READABLE_VERSIONS = (2, 3)

# A header with a vocabulary of 160,000 tokens takes 7 MB. The limit keeps a damaged count in a file of
# hundreds of gigabytes from being taken for that many array elements.
MAX_HEADER_BYTES = 256 << 20

_SMALLEST_KEY_BYTES = 8 + 4 + 1
_SMALLEST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor as the header lists it. `shape` is in numpy order, `offset` in bytes from the data's start."""

    name: str
    type: BlockType
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor without padding."""
        return self.type.nbytes(self.shape)


@dataclass(frozen=True)
class Header:
    """All that stands before the data. `end` is the first byte behind the last entry, before any padding."""

    metadata: dict[str, Any]
    value_types: dict[str, str]
    entries: tuple[TensorEntry, ...]
    end: int

    @property
    def own_alignment(self) -> int | None:
        """The alignment that this header states, or None."""
        return self.metadata.get(ALIGNMENT_KEY)


def parse_header(buffer: bytes | mmap.mmap, path: Path) -> Header:
    """Parse the header at the start of `buffer`, the whole file; `path` is for messages.

    Raises GgufError for damage and UnsupportedError for what is valid elsewhere but not readable here.
    """
    return _HeaderParser(buffer, path).parse()


class _HeaderParser:
    """Walks over a header once. `_position` never passes the end of the buffer."""

    def __init__(self, buffer: bytes | mmap.mmap, path: Path) -> None:
        self._buffer = buffer
        self._path = path
        self._size = len(buffer)
        self._limit = min(self._size, MAX_HEADER_BYTES)
        self._position = 0

    def parse(self) -> Header:
        self._check_start()
        tensor_count = self._number(_LENGTH, "the tensor count")
        key_count = self._number(_LENGTH, "the key count")
        self._check_count(key_count, _SMALLEST_KEY_BYTES, "keys")
        metadata: dict[str, Any] = {}
        value_types: dict[str, str] = {}
        for _ in range(key_count):
            key = self._string("a key")
            if key in metadata:
                raise self._damaged(f"the key {key!r} is there twice")
            value_types[key], metadata[key] = self._value(key)
        self._check_alignment(metadata, value_types)
        self._check_count(tensor_count, _SMALLEST_TENSOR_BYTES, "tensors")
        entries = tuple(self._entry() for _ in range(tensor_count))
        if len({entry.name for entry in entries}) != tensor_count:
            raise self._damaged("a tensor name is there twice")
        return Header(metadata, value_types, entries, self._position)

    def _check_start(self) -> None:
        start = self._take(len(MAGIC), "the magic")
        if self._buffer[start : self._position] != MAGIC:
            raise GgufError(f"{self._path} does not begin with GGUF: it is not a GGUF file")
        version = self._number(_WORD, "the version")
        if version in READABLE_VERSIONS:
            return
        if version & 0xFFFF == 0:
            raise UnsupportedError(f"{self._path} is big-endian: convert it with gguf-convert-endian first")
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise UnsupportedError(f"{self._path} is GGUF version {version}, but only {known} can be read")

    def _check_alignment(self, metadata: dict[str, Any], value_types: dict[str, str]) -> None:
        if ALIGNMENT_KEY not in metadata:
            return
        alignment = metadata[ALIGNMENT_KEY]
        if value_types[ALIGNMENT_KEY] != "uint32":
            raise self._damaged(f"{ALIGNMENT_KEY} is of type {value_types[ALIGNMENT_KEY]} instead of uint32")
        if alignment < 8 or alignment & (alignment - 1):
            raise self._damaged(f"{ALIGNMENT_KEY} is {alignment}, but must be a power of two and at least 8")

    def _value(self, key: str) -> tuple[str, Any]:
        type_id = self._number(_WORD, f"the type of {key!r}")
        if type_id == STRING_ID:
            return "string", self._string(f"the value of {key!r}")
        if type_id == ARRAY_ID:
            return self._array(key)
        scalar = self._scalar_type(type_id, key)
        start = self._take(scalar.size_bytes, f"the value of {key!r}")
        return scalar.name, self._numbers(scalar, 1, start).item()

    def _array(self, key: str) -> tuple[str, Sequence[Any]]:
        type_id = self._number(_WORD, f"the element type of {key!r}")
        count = self._number(_LENGTH, f"the length of {key!r}")
        if type_id == STRING_ID:
            return "array[string]", self._strings(count, key)
        if type_id == ARRAY_ID:
            raise UnsupportedError(f"{self._path}: the key {key!r} is an array of arrays: remove the key")
        scalar = self._scalar_type(type_id, key)
        start = self._take(count * scalar.size_bytes, f"the value of {key!r}")
        # A copy, so that the metadata does not keep the file mapped.
        return f"array[{scalar.name}]", NumberArray(self._numbers(scalar, count, start).copy())

    def _scalar_type(self, type_id: int, key: str) -> ScalarType:
        if type_id not in SCALAR_BY_ID:
            raise self._damaged(f"the key {key!r} has the unknown value type {type_id}")
        return SCALAR_BY_ID[type_id]

    def _numbers(self, scalar: ScalarType, count: int, start: int) -> np.ndarray:
        return np.frombuffer(self._buffer, f"<{scalar.code}", count, start)

    def _strings(self, count: int, key: str) -> list[str]:
        """An array of strings. A vocabulary has 330,000 of them, so this loop calls nothing of ours."""
        self._check_count(count, _LENGTH.size, f"strings of {key!r}")
        buffer, position, limit, unpack = self._buffer, self._position, self._limit, _LENGTH.unpack_from
        values = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(buffer, position)[0]
                if position > limit:
                    raise self._cut_off(f"a string of {key!r}", start, position - start)
                values.append(str(buffer[start:position], "utf-8"))
        except struct.error as error:
            raise self._cut_off(f"a string of {key!r}", position, _LENGTH.size) from error
        except UnicodeDecodeError as error:
            raise self._damaged(f"a string of {key!r} is not UTF-8 at byte {start + error.start}") from error
        self._position = position
        return values

    def _entry(self) -> TensorEntry:
        name = self._string("a tensor name")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise self._damaged(f"the tensor name {name[:80]!r} is longer than {MAX_NAME_BYTES} bytes")
        rank = self._number(_WORD, f"the dimensions of {name!r}")
        if not 1 <= rank <= MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {rank} dimensions instead of 1 to {MAX_DIMENSIONS}")
        # The file lists the contiguous dimension first, numpy lists it last.
        shape = tuple(self._number(_LENGTH, f"the shape of {name!r}") for _ in range(rank))[::-1]
        type_id = self._number(_WORD, f"the type of {name!r}")
        offset = self._number(_LENGTH, f"the offset of {name!r}")
        if 0 in shape:
            raise self._damaged(f"tensor {name!r} of shape {shape} is empty")
        try:
            kind = block_type_by_id(type_id)
        except UnsupportedError as error:
            raise UnsupportedError(f"{self._path}: tensor {name!r}: {error}") from error
        if not kind.fits(shape[-1]):
            raise self._damaged(f"rows of {shape[-1]} weights of {name!r} are not whole blocks of {kind}")
        return TensorEntry(name, kind, shape, offset)

    def _string(self, what: str) -> str:
        length = self._number(_LENGTH, what)
        start = self._take(length, what)
        try:
            return str(self._buffer[start : self._position], "utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"{what} is not UTF-8 at byte {start + error.start}") from error

    def _number(self, form: struct.Struct, what: str) -> int:
        start = self._take(form.size, what)
        number: int = form.unpack_from(self._buffer, start)[0]
        return number

    def _take(self, count: int, what: str) -> int:
        """Move over `count` bytes and return where they begin. Raises GgufError when they are not there."""
        start = self._position
        if count > self._limit - start:
            raise self._cut_off(what, start, count)
        self._position = start + count
        return start

    def _check_count(self, count: int, smallest_bytes: int, what: str) -> None:
        room = (self._limit - self._position) // smallest_bytes
        if count > room:
            raise self._damaged(f"it claims {count} {what}, but its {self._size} bytes have room for {room}")

    def _cut_off(self, what: str, start: int, count: int) -> GgufError:
        if start + count <= self._size:
            return self._damaged(f"its header is longer than {MAX_HEADER_BYTES} bytes (at {what})")
        return GgufError(
            f"{self._path} is cut off or damaged: {what} takes {count} bytes from byte {start} on, "
            f"but the file has {self._size}: copy or download it again"
        )

    def _damaged(self, problem: str) -> GgufError:
        return GgufError(f"{self._path} is damaged: {problem}: copy or download it again")
