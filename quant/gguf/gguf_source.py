"""A GGUF file as a source: rows of its tensors as float32 or as they are, read and not mapped.

A mapped file counts as resident memory of whoever touches it. Here n weights take 4 n bytes as float32, or the stored
bytes that were asked for, and for one piece of about a million weights some 5 MB; types other than F32, F16, BF16 and
Q8_0 take 20 MB for it.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from quant.encode.decode import dequantize
from quant.encode.finite import all_finite
from quant.errors import GgufError
from quant.files.file_identity import file_identity
from quant.files.positioned_read import expect_long_runs, read_into
from quant.gguf.gguf_file import GgufFile, TensorInfo
from quant.gguf.gguf_format import MAGIC
from quant.gguf.gguf_writer import MetadataEntry
from quant.large_memory import empty_tensor
from quant.tensor import QuantizedTensor

_PIECE_WEIGHTS = 1 << 20
_Q8_0_SCALE_BYTES = 2
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufSource:
    """An open file, or the shards of one. Reading is safe from several threads.

    `tensors` are in the order of the file. `metadata` has all keys with their stored types. `identities` says for each
    file name what changes when the file does: its length, the time it was written and a digest of its header.
    """

    def __init__(
        self,
        tensors: dict[str, TensorInfo],
        values: dict[str, Any],
        metadata: list[MetadataEntry],
        descriptors: dict[Path, int],
        files: ExitStack,
    ) -> None:
        self.tensors = tensors
        self.values = values
        self.metadata = metadata
        self._descriptors = descriptors
        self._files = files
        self.identities = {path.name: _identity(path, number, tensors) for path, number in descriptors.items()}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a single file or the first shard; the others are found by name. Raises as `GgufFile.open`."""
        with ExitStack() as stack, GgufFile.open(path) as file:
            descriptors = {shard: _open(shard, stack) for shard in file.paths}
            metadata = [MetadataEntry(key, file.value_type(key), value) for key, value in file.metadata.items()]
            source = cls(dict(file.tensors), file.metadata, metadata, descriptors, stack)
            source._files = stack.pop_all()
            return source

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` (all dimensions but the last are rows) as contiguous float32 [rows, cols].

        Raises GgufError when the tensor is missing, the file cannot be read or they hold NaN or infinity.
        """
        info = self._info(name, start, stop)
        values = empty_tensor((stop - start, info.shape[-1]), torch.float32)
        finite = True
        for first, last in _pieces(info, start, stop):
            piece = values[first - start : last - start]
            raw = torch.empty(len(piece) * info.row_bytes, dtype=torch.uint8)
            self._fill(info, first, raw)
            _decode(info, raw, piece)
            finite = finite and all_finite(piece)
        if not finite:
            raise _not_finite(info, start, values)
        return values

    def read_stored(self, name: str, start: int, stop: int) -> np.ndarray:
        """The bytes of the same rows in the tensor's own type, one-dimensional. Raises as `read_rows` does."""
        info = self._info(name, start, stop)
        data = empty_tensor(((stop - start) * info.row_bytes,), torch.uint8)
        for first, last in _pieces(info, start, stop):
            piece = data[(first - start) * info.row_bytes : (last - start) * info.row_bytes]
            self._fill(info, first, piece)
            if not _is_finite(info, piece):
                raise _not_finite(info, first, _floats(info, piece))
        return data.numpy()

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._descriptors.clear()
        self._files.close()

    def _info(self, name: str, start: int, stop: int) -> TensorInfo:
        if name not in self.tensors:
            raise GgufError(f"there is no tensor {name!r} among the {len(self.tensors)} of the file")
        info = self.tensors[name]
        if not 0 <= start <= stop <= info.rows:
            raise IndexError(f"rows {start}:{stop} of {name}, which has {info.rows}")
        return info

    def _fill(self, info: TensorInfo, first_row: int, target: Tensor) -> None:
        if info.path not in self._descriptors:
            raise ValueError(f"{info.path} is closed")
        offset = info.offset_bytes + first_row * info.row_bytes
        what = f"tensor {info.name}"
        number = self._descriptors[info.path]
        read_into(number, target.numpy().data, offset, path=info.path, what=what, error=GgufError)


def looks_like_gguf(path: Path) -> bool:
    """Whether the file begins as GGUF files do. True also where that cannot be read: opening it says why."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return True


def _open(path: Path, stack: ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise GgufError(f"cannot open {path}: {error.strerror}: check the path and who may read it") from error
    stack.callback(os.close, descriptor)
    expect_long_runs(descriptor)
    return descriptor


def _identity(path: Path, descriptor: int, tensors: dict[str, TensorInfo]) -> str:
    """See `file_identity`; the header is all that stands before the first tensor."""
    status = os.fstat(descriptor)
    header = bytearray(min((info.offset_bytes for info in tensors.values() if info.path == path), default=0))
    read_into(descriptor, memoryview(header), 0, path=path, what="the header", error=GgufError)
    return file_identity(status, hashlib.sha256(header).hexdigest())


def _pieces(info: TensorInfo, start: int, stop: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _PIECE_WEIGHTS // info.shape[-1])
    for first in range(start, stop, rows):
        yield first, min(first + rows, stop)


def _decode(info: TensorInfo, raw: Tensor, values: Tensor) -> None:
    """Fill `values`, float32 [rows, cols], from the bytes of as many rows."""
    if info.type.name in _PLAIN:
        values.copy_(raw.view(_PLAIN[info.type.name]).view(values.shape))
    elif info.type.name == "Q8_0":  # eight times faster than the general way
        blocks = values.view(-1, info.type.block_weights)
        blocks.copy_(raw.view(-1, info.type.block_bytes)[:, _Q8_0_SCALE_BYTES:].view(torch.int8))
        blocks.mul_(_q8_0_scales(info, raw).float())
    else:
        values.copy_(dequantize(QuantizedTensor(info.type, tuple(values.shape), raw.numpy())))


def _floats(info: TensorInfo, raw: Tensor) -> Tensor:
    values = torch.empty(len(raw) // info.row_bytes, info.shape[-1])
    _decode(info, raw, values)
    return values


def _is_finite(info: TensorInfo, raw: Tensor) -> bool:
    """Whether the rows in `raw` hold neither NaN nor infinity, without decoding them where that can be seen."""
    if info.type.name in _PLAIN:
        return all_finite(raw.view(_PLAIN[info.type.name]))
    return all_finite(_q8_0_scales(info, raw) if info.type.name == "Q8_0" else _floats(info, raw))


def _q8_0_scales(info: TensorInfo, raw: Tensor) -> Tensor:
    return raw.view(-1, info.type.block_bytes)[:, :_Q8_0_SCALE_BYTES].contiguous().view(torch.float16)


def _not_finite(info: TensorInfo, start: int, values: Tensor) -> GgufError:
    bad = ~torch.isfinite(values)
    row, col = torch.nonzero(bad)[0].tolist()
    place = [int(index) for index in np.unravel_index((start + row) * info.shape[-1] + col, info.shape)]
    return GgufError(
        f"tensor {info.name} of {info.path} holds {int(bad.sum())} weights that are NaN or infinite, the first at "
        f"{place}: download the file again"
    )
