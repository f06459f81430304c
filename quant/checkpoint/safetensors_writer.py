"""The layout of a safetensors file that is to be written: its header comes first, so all sizes are known beforehand.

The bytes of the tensors are written by whoever writes files (`quant.files.fresh_output` streams them).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.convert.output_layout import OutputFile, OutputTensor
from quant.errors import OutputError

_LENGTH_BYTES = 8
# Readers refuse longer headers.
_MAX_HEADER_BYTES = 100_000_000
_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}


@dataclass(frozen=True)
class SafetensorsSpec:
    """A tensor to be written. `dtype` is the format's name for it, as "BF16" or "F8_E4M3"."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor. Raises ValueError for a dtype that the format does not have."""
        return math.prod(self.shape) * self.item_bytes

    @property
    def item_bytes(self) -> int:
        """Bytes of one value. Raises ValueError for a dtype that the format does not have."""
        if self.dtype not in _ITEM_BYTES:
            raise ValueError(f"{self.name} has dtype {self.dtype!r}; known are {', '.join(_ITEM_BYTES)}")
        return _ITEM_BYTES[self.dtype]


def safetensors_layout(
    path: Path, tensors: Sequence[SafetensorsSpec], metadata: Mapping[str, str] | None = None
) -> OutputFile:
    """Where every byte of the file `path` lies. Tensors follow each other without gaps.

    Those with the largest values come first, otherwise in the order given, so that each one is aligned to its own
    values. `metadata` are texts for the file as a whole. Raises OutputError for a name that comes twice or a header
    that no reader takes.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor.item_bytes)
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in ordered:
        if tensor.name in entries or tensor.name == "__metadata__":
            raise OutputError(f"{tensor.name!r} would be in {path} twice")
        end = offset + tensor.nbytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    # Spaces behind the text bring the data to a multiple of 8, as the format asks.
    text += b" " * (-len(text) % _LENGTH_BYTES)
    if len(text) > _MAX_HEADER_BYTES:
        raise OutputError(
            f"{path} would have a header of {len(text):,} bytes for {len(ordered):,} tensors, but readers take at most "
            f"{_MAX_HEADER_BYTES:,}: write more and smaller files"
        )
    header = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return OutputFile(path, header, tuple(OutputTensor(tensor.name, tensor.nbytes) for tensor in ordered))
