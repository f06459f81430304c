"""One safetensors file, read a tensor at a time without ever mapping or holding the whole of it.

Layout: u64 length of the header (little endian), the header as a JSON object of name -> {dtype, shape,
data_offsets}, then the data, to whose start the offsets refer. Everything in the header is checked against the size of
the file before a tensor is read, and the length of the header before it is.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant.errors import CheckpointError, UnsupportedError
from quant.files.bounded_json import parse_json_object
from quant.files.file_identity import file_identity
from quant.files.paths import is_file
from quant.files.positioned_read import expect_long_runs, read_into
from quant.row_shape import RowShaped

# The limit of the format's own library.
MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 8
_LENGTH_BYTES = 8

_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}


@dataclass(frozen=True, slots=True)
class StoredTensor(RowShaped):
    """A tensor as its file describes it. `offset` counts bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """An open safetensors file. `read` may be called from several threads at once; `close` ends them all.

    `identity` changes when the file does: its length, the time it was written and a digest of its header.
    Raises CheckpointError for a file that is truncated or contradicts itself, UnsupportedError for a dtype that
    is not in the table.
    """

    def __init__(self, path: Path) -> None:
        if not is_file(path):
            raise CheckpointError(f"{path} is missing or not a file: download the checkpoint again")
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(
                f"cannot open {path}: {error.strerror}: check the path and who may read it"
            ) from error
        expect_long_runs(self._descriptor)
        try:
            self.tensors, self.identity = self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, stored: StoredTensor) -> Tensor:
        """The values of `stored` in its own dtype and shape, in memory of their own."""
        return self.read_rows(stored, 0, stored.rows).view(stored.shape)

    def read_rows(self, stored: StoredTensor, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        """Rows `start` to `stop` of `stored` in its own dtype, [rows, cols]; no other byte is read.

        They lie at the start of `buffer` (contiguous uint8) when there is one, else in memory of their own.
        """
        if not 0 <= start <= stop <= stored.rows:
            raise IndexError(f"rows {start}:{stop} of {stored.name}, which has {stored.rows}")
        row_bytes = stored.cols * _DTYPES[stored.dtype].itemsize
        nbytes = (stop - start) * row_bytes
        raw = torch.empty(nbytes, dtype=torch.uint8) if buffer is None else buffer[:nbytes]
        self._read_into(raw.numpy().data, stored.offset + start * row_bytes, f"tensor {stored.name}")
        return raw.view(_DTYPES[stored.dtype]).view(stop - start, stored.cols)

    def _read_into(self, target: memoryview, offset: int, what: str) -> None:
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        read_into(self._descriptor, target, offset, path=self.path, what=what, error=CheckpointError)

    def _read_header(self) -> tuple[dict[str, StoredTensor], str]:
        status = os.fstat(self._descriptor)
        size = status.st_size
        prefix = bytearray(_LENGTH_BYTES)
        self._read_into(memoryview(prefix), 0, "the header length")
        length = int.from_bytes(prefix, "little")
        if prefix == b"version ":
            raise CheckpointError(f"{self.path} is a Git LFS pointer, not the weights: run `git lfs pull`")
        if length > min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise CheckpointError(
                f"{self.path} declares a header of {length} bytes, but the file has {size} bytes and the limit is "
                f"{MAX_HEADER_BYTES}: it is damaged or not a safetensors file"
            )
        raw = bytearray(length)
        self._read_into(memoryview(raw), _LENGTH_BYTES, "the header")
        header = parse_json_object(bytes(raw), f"the header of {self.path}")
        header.pop("__metadata__", None)
        start = _LENGTH_BYTES + length
        entries = [_checked_entry(name, fields, start, size, self.path) for name, fields in header.items()]
        entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
        for first, second in pairwise(entries):
            if first.offset + first.nbytes > second.offset:
                raise CheckpointError(f"{self.path}: tensors {first.name} and {second.name} share bytes")
        return {entry.name: entry for entry in entries}, file_identity(status, hashlib.sha256(raw).hexdigest())


def _checked_entry(name: str, fields: Any, start: int, size: int, path: Path) -> StoredTensor:
    """The header's `fields` of one tensor, checked on their own and against the data that lies behind `start`."""
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: the header entry of {name} is not a dtype, shape and offsets") from error
    if not isinstance(shape, list) or not all(_is_size(number) for number in [*shape, begin, end]):
        raise CheckpointError(f"{path}: shape and offsets of {name} are not numbers of 0 or more")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UnsupportedError(f"{path}: {name} has dtype {dtype!r}; known are {', '.join(_DTYPES)}")
    if len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: {name} has {len(shape)} dimensions, more than {_MAX_DIMENSIONS}")
    nbytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - begin != nbytes:
        raise CheckpointError(
            f"{path}: {name} takes {nbytes} bytes as {dtype} {shape}, but the header gives it {end - begin}"
        )
    if start + end > size:
        raise CheckpointError(
            f"{path} has {size} bytes, but {name} ends at {start + end}: the file is truncated, download it again"
        )
    return StoredTensor(name, dtype, tuple(shape), start + begin, nbytes)


def _is_size(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
